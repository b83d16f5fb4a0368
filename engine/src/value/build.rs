//! A large value made from its byte form ([`super::form`]) bit by bit, as the bytes come from disk: so that they are
//! never in memory beside the value.

use super::packed::{self, Elem, IntBuf};
use super::zset::Zset;
use super::{Value, form, hash, list, set, varint};

/// Bytes that are enough to tell the type and the number of elements.
const HEAD_BYTES: usize = 3 + varint::MAX;

/// Room that a string gets at once, at most, for what its length is said to be: where it grows there is twice of it for
/// a moment.
const ROOM_BYTES_MAX: usize = 8 << 20;

/// A value on its way.
#[derive(Debug, Default)]
pub struct Build {
    value: Option<Value>,
    /// Elements that are still to come.
    left: u64,
    /// Bytes that the form is said to have.
    len: usize,
}

/// Where the elements begin, a value without any, and how many there will be.
fn begin(bytes: &[u8]) -> Option<(usize, Value, u64)> {
    let [form::BIG, kind, ..] = *bytes else { return None };
    Some(match kind {
        form::BIG_STR => (2, Value::Str(Vec::new()), 0),
        form::BIG_LIST => {
            let (count, at) = varint::read(bytes, 2)?;
            (at, Value::List(list::List::new()), count)
        }
        form::BIG_HASH => {
            let (count, at) = varint::read(bytes, 3)?;
            (at, Value::Hash(hash::Hash::of_flags(bytes[2])?), count)
        }
        form::BIG_SET => {
            let (count, at) = varint::read(bytes, 2)?;
            (at, Value::Set(set::Set::new()), count)
        }
        form::BIG_ZSET => {
            let count = u32::from_le_bytes(*bytes.get(2..)?.first_chunk()?);
            (6, Value::Zset(Box::default()), u64::from(count))
        }
        _ => return None,
    })
}

impl Build {
    /// A value whose form is said to have so many bytes.
    pub fn new(len: usize) -> Build {
        Build { len, ..Build::default() }
    }

    /// Takes what comes next of the form, and returns how much of that it used: what is left has to be there again
    /// with the next call, before what follows it. `is_last` says that nothing follows. `None` where this is no form of
    /// a large value.
    pub fn feed(&mut self, bytes: &[u8], is_last: bool) -> Option<usize> {
        let mut at = 0;
        if self.value.is_none() {
            if bytes.len() < HEAD_BYTES && !is_last {
                return Some(0);
            }
            let (start, value, count) = begin(bytes)?;
            (at, self.value, self.left) = (start, Some(value), count);
        }
        let value = self.value.as_mut()?;
        if let Value::Str(text) = value {
            if text.is_empty() {
                text.reserve_exact(self.len.saturating_sub(2).min(ROOM_BYTES_MAX));
            }
            text.extend_from_slice(&bytes[at..]);
            return Some(bytes.len());
        }
        while self.left > 0 {
            let Some(end) = element(value, bytes, at)? else { break };
            self.left -= 1;
            at = end;
        }
        Some(at)
    }

    /// The value, if it is whole.
    pub fn finish(self) -> Option<Value> {
        let mut value = self.value.filter(|_| self.left == 0)?;
        if let Value::Str(text) = &mut value {
            text.shrink_to_fit();
        }
        Some(value)
    }
}

/// Adds the element at an offset and tells where it ends, if it is there to its end; `None` where it cannot be part of
/// the value.
fn element(value: &mut Value, bytes: &[u8], at: usize) -> Option<Option<usize>> {
    let (mut buf, mut second) = (IntBuf::new(), IntBuf::new());
    let added = match value {
        Value::List(list) => {
            let Some((elem, end)) = packed::read(bytes, at) else { return Some(None) };
            list.push_back(elem.as_bytes(&mut buf));
            return Some(Some(end));
        }
        Value::Hash(hash) => {
            let Some((field, content, end)) = read_pair(bytes, at) else { return Some(None) };
            hash.set(field.as_bytes(&mut buf), content.as_bytes(&mut second)).then_some(end)
        }
        Value::Set(set) => {
            let Some((member, end)) = packed::read(bytes, at) else { return Some(None) };
            set.insert(member.as_bytes(&mut buf)).then_some(end)
        }
        Value::Zset(zset) => {
            let Some((member, score, end)) = Zset::read_element(bytes, at) else {
                return Some(None);
            };
            let fresh = !score.is_nan() && zset.upsert(member, |_| Some(score)).is_none();
            fresh.then_some(end)
        }
        Value::Str(_) | Value::Stream(_) => None,
    };
    added.map(Some)
}

/// A field with its value, as a hash's form has them, and where they end.
pub fn read_pair(bytes: &[u8], at: usize) -> Option<(Elem<'_>, Elem<'_>, usize)> {
    let (field, value_at) = packed::read(bytes, at)?;
    let (value, end) = packed::read(bytes, value_at)?;
    Some((field, value, end))
}

#[cfg(test)]
mod tests {
    use super::super::steps::Steps;
    use super::super::{NewValue, hash::Hash, list::List, set::Set};
    use super::*;

    /// Large values of each type.
    fn values(count: usize) -> Vec<Value> {
        let (mut list, mut hash, mut set, mut zset) =
            (List::new(), Hash::new(), Set::new(), Zset::new());
        for nth in 0..count {
            let long = vec![b'x'; if nth % 50 == 7 { 9_000 } else { nth % 40 }];
            list.push_back(format!("{}{nth}", "e".repeat(nth % 7)).as_bytes());
            list.push_front(&long);
            hash.set(format!("field{nth}").as_bytes(), &long);
            set.insert(format!("{}", nth * 77).as_bytes());
            set.insert([b"m".as_slice(), &long, &nth.to_le_bytes()].concat().as_slice());
            zset.upsert(format!("member{nth}").as_bytes(), |_| Some((nth * 31 % 17) as f64));
        }
        hash.remove(b"field3");
        set.remove(b"77");
        zset.remove(b"member1");
        let text = (0..count * 100).map(|at| (at * 7) as u8).collect();
        let zset = Value::Zset(Box::new(zset));
        vec![Value::Str(text), Value::List(list), Value::Hash(hash), Value::Set(set), zset]
    }

    fn whole(value: &Value) -> Vec<u8> {
        let mut steps = Steps::default();
        let mut out = Vec::new();
        while steps.step(value, usize::MAX / 2, &mut out, &mut |_, _| {}) {}
        out
    }

    #[test]
    fn steps_make_the_form_and_the_form_makes_the_value() {
        for value in values(400) {
            let expected = whole(&value);
            let decoded = form::decode(&expected).expect("it is the form that is read as a whole");
            let NewValue::Big(decoded) = decoded else { panic!("a large value") };
            assert_eq!(whole(&decoded), expected);
            for size in [1, 50, 4_096] {
                let (mut steps, mut out, mut told) = (Steps::default(), Vec::new(), Vec::new());
                while steps.step(&value, size, &mut out, &mut |_, at| told.push(at)) {}
                assert!(out == expected, "in steps of {size}");
                assert!(told.is_sorted());
                let (mut build, mut left) = (Build::default(), Vec::new());
                for (nth, piece) in expected.chunks(size).enumerate() {
                    left.extend_from_slice(piece);
                    let used = build.feed(&left, (nth + 1) * size >= expected.len()).unwrap();
                    left.drain(..used);
                }
                assert!(left.is_empty());
                assert_eq!(whole(&build.finish().unwrap()), expected);
            }
        }
    }

    #[test]
    fn what_is_torn_or_no_form_makes_no_value() {
        for value in values(30) {
            let form = whole(&value);
            for end in 3..form.len() - 1 {
                let mut build = Build::default();
                let used = build.feed(&form[..end], true);
                let is_text = matches!(value, Value::Str(_));
                let whole = used == Some(end) && build.finish().is_some();
                assert!(is_text || !whole, "{end} of {}", form.len());
            }
        }
        assert_eq!(Build::default().feed(&[form::BIG, 9, 1, 1, 1], true), None);
        let twice = [form::BIG, form::BIG_SET, 2, 1, b'a', 1, b'a'];
        assert_eq!(Build::default().feed(&twice, true), None);
        assert!(Build::default().finish().is_none());
    }
}
