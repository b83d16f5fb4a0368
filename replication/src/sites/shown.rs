//! What an element looks like to clients.

use super::element::Element;
use super::key::Kind;
use ashlar_engine::number::{self, FloatBuf};
use ashlar_engine::value::hll::{self, Registers};

/// The value of an element.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// The one that the engine holds.
    Held,
    /// This one.
    Bytes(Vec<u8>),
}

/// The value that an element of a kind shows; `None` if it is not there.
pub fn shown(kind: Kind, element: &Element) -> Option<Shown> {
    if !element.is_live() {
        return None;
    }
    if kind == Kind::Set {
        return Some(Shown::Bytes(Vec::new()));
    }
    let base = match element.winner() {
        None => None,
        Some(part) => match &part.value {
            None => return Some(Shown::Held),
            Some(value) => Some(&**value),
        },
    };
    let bytes = match (kind, element.amount()) {
        (Kind::Zset, amount) => {
            let base = base.and_then(|base| base.try_into().ok()).map_or(0.0, f64::from_le_bytes);
            let score = base + amount.map_or(0.0, |amount| amount.float);
            // Infinities of both signs may have been added.
            let score = if score.is_nan() { 0.0 } else { score };
            score.to_le_bytes().to_vec()
        }
        (_, Some(amount)) => counted(base, amount.int, amount.float),
        (Kind::String, None) => union(element).unwrap_or_else(|| base.unwrap_or(b"").to_vec()),
        (_, None) => base.unwrap_or(b"").to_vec(),
    };
    Some(Shown::Bytes(bytes))
}

/// A number with increments; text that is none stays as it is.
fn counted(base: Option<&[u8]>, int: i64, float: f64) -> Vec<u8> {
    let base = base.unwrap_or(b"0");
    if float == 0.0 {
        return match number::parse_i64(base) {
            Some(number) => number.wrapping_add(int).to_string().into_bytes(),
            None => base.to_vec(),
        };
    }
    match number::parse_f64(base) {
        Some(number) => {
            number::format_f64(&mut FloatBuf::new(), number + int as f64 + float).to_vec()
        }
        None => base.to_vec(),
    }
}

/// The union of HyperLogLogs that sites wrote without knowing each other.
fn union(element: &Element) -> Option<Vec<u8>> {
    let writes = element.writes();
    let values = writes.iter().map(|part| part.value.as_deref());
    let logs: Vec<&[u8]> =
        values.map(|value| value.filter(|value| is_hll(value))).collect::<Option<_>>()?;
    if logs.len() < 2 {
        return None;
    }
    let mut registers = Registers::default();
    for log in logs {
        registers.merge(log).ok()?;
    }
    let mut blob = hll::empty().to_vec();
    registers.merge_into(&mut blob, SPARSE_BYTES_MAX).ok()?;
    hll::invalidate(&mut blob);
    Some(blob)
}

/// Every site has to pack the union in the same way, whatever its settings are.
const SPARSE_BYTES_MAX: usize = 3_000;

fn is_hll(value: &[u8]) -> bool {
    hll::encoding(value).is_some()
}
