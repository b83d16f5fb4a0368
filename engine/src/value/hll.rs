//! HyperLogLog: how many different elements were added, within about 0.8 %, in at most 12 KiB.
//!
//! It is a string, byte for byte the one that Redis keeps, so that clients can GET it here and SET
//! it there:
//! ```text
//! "HYLL"  encoding u8 (0 dense, 1 sparse)  3 unused bytes
//! cached cardinality u64, little-endian; its top bit says that it is out of date
//! 16,384 registers of 6 bits, either
//!   dense:  one after the other, the lowest bits first (12,288 bytes), or
//!   sparse: runs   00nnnnnn            n+1 zeros
//!                  01nnnnnn nnnnnnnn   n+1 zeros
//!                  1vvvvvnn            n+1 times v+1
//! ```
//! An element's hash (MurmurHash64A) chooses a register by its low 14 bits, which becomes the
//! length of the run of zeros in the other 50 plus one, if that is more. The estimate is Otmar
//! Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", 2017), as in Redis.
//!
//! Clients can store any bytes under a key: each walk over sparse runs checks that they cover the
//! registers exactly, and says [`Corrupted`] where they do not.

use super::blob::Blob;
use crate::known_bugs::{self, Bug};

/// Number of registers.
pub const REGISTERS: usize = 1 << INDEX_BITS;
/// Length of a dense one.
pub const DENSE_LEN: usize = HEADER + REGISTERS * 6 / 8;

const INDEX_BITS: u32 = 14;
const HASH_BITS: u32 = 64 - INDEX_BITS;
const HASH_SEED: u64 = 0xadc8_3b19;
const HEADER: usize = 16;
const MAGIC: &[u8; 4] = b"HYLL";
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const ZERO_RUN_MAX: usize = 64;
const VALUE_RUN_MAX: usize = 4;
/// Larger registers need the dense encoding.
const SPARSE_VALUE_MAX: u8 = 32;
/// Runs looked at to be merged after one was changed.
const MERGE_SCAN: usize = 5;
/// Limit of the bias correction, 1 / (2 ln 2).
const ALPHA: f64 = 0.721_347_520_444_481_7;

/// The sparse runs do not cover the registers exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupted;

/// How the registers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Six bits each.
    Dense,
    /// As runs.
    Sparse,
}

/// Bytes that can also be overwritten where they are.
pub trait BlobMut: Blob {
    /// The bytes, to be changed without a change of length.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl BlobMut for Vec<u8> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// One run of the sparse encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// What the registers hold; 0 for zeros.
    pub value: u8,
    /// How many registers it covers.
    pub len: usize,
    /// Whether zeros are written in two bytes.
    pub wide: bool,
}

impl Run {
    fn read(bytes: &[u8], at: usize) -> Option<Run> {
        let byte = *bytes.get(at)?;
        if byte & 0x80 != 0 {
            let (value, len) = ((byte >> 2 & 0x1F) + 1, usize::from(byte & 3) + 1);
            return Some(Run { value, len, wide: false });
        }
        let high = usize::from(byte & 0x3F);
        if byte & 0x40 == 0 {
            return Some(Run { value: 0, len: high + 1, wide: false });
        }
        let low = usize::from(*bytes.get(at + 1)?);
        Some(Run { value: 0, len: (high << 8 | low) + 1, wide: true })
    }

    fn size(&self) -> usize {
        1 + usize::from(self.wide)
    }
}

/// New sparse runs in place of one: at most zeros, a value, zeros.
#[derive(Default)]
struct Written {
    bytes: [u8; 5],
    len: usize,
}

impl Written {
    fn push(&mut self, value: u8, len: usize) {
        let mut byte = |byte: usize| {
            self.bytes[self.len] = byte as u8;
            self.len += 1;
        };
        match (value, len) {
            (_, 0) => {}
            (0, 1..=ZERO_RUN_MAX) => byte(len - 1),
            (0, _) => {
                byte((len - 1) >> 8 | 0x40);
                byte(len - 1);
            }
            _ => byte(usize::from(value - 1) << 2 | (len - 1) | 0x80),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A new, empty one: all registers in one run of zeros.
pub fn empty() -> [u8; HEADER + 2] {
    let mut bytes = [0; HEADER + 2];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = SPARSE;
    bytes[HEADER] = 0x7F;
    bytes[HEADER + 1] = 0xFF;
    bytes
}

/// Looks at the header; `None` if this is no HyperLogLog.
pub fn encoding(bytes: &[u8]) -> Option<Encoding> {
    if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
        return None;
    }
    match bytes[4] {
        DENSE if bytes.len() == DENSE_LEN => Some(Encoding::Dense),
        SPARSE => Some(Encoding::Sparse),
        _ => None,
    }
}

/// The cardinality in the header, unless it is out of date.
pub fn cached(bytes: &[u8]) -> Option<u64> {
    let (_, rest) = bytes.split_at_checked(8)?;
    let count = u64::from_le_bytes(*rest.first_chunk()?);
    (count >> 63 == 0).then_some(count)
}

/// Writes the cardinality into the header.
pub fn set_cached(bytes: &mut [u8], count: u64) {
    if let Some(field) = bytes.get_mut(8..HEADER) {
        field.copy_from_slice(&count.to_le_bytes());
    }
}

/// Notes that the cardinality in the header is out of date.
pub fn invalidate(bytes: &mut [u8]) {
    if let Some(top) = bytes.get_mut(HEADER - 1) {
        *top |= 0x80;
    }
}

/// Adds an element; whether a register changed. The dense encoding is taken where the sparse one
/// would grow beyond `sparse_bytes_max`.
pub fn add<B: BlobMut>(
    blob: &mut B,
    element: &[u8],
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    let hash = murmur64a(element, HASH_SEED);
    let index = hash as usize % REGISTERS;
    let rest = hash >> INDEX_BITS | 1 << HASH_BITS;
    raise(blob, index, rest.trailing_zeros() as u8 + 1, sparse_bytes_max)
}

/// Sets register `index` to `value` if that is more; whether it was.
fn raise<B: BlobMut>(
    blob: &mut B,
    index: usize,
    value: u8,
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    if encoding(blob.bytes()) == Some(Encoding::Dense) {
        return Ok(raise_dense(&mut blob.bytes_mut()[HEADER..], index, value));
    }
    if value > SPARSE_VALUE_MAX {
        to_dense(blob)?;
        return Ok(raise_dense(&mut blob.bytes_mut()[HEADER..], index, value));
    }
    raise_sparse(blob, index, value, sparse_bytes_max)
}

fn raise_dense(registers: &mut [u8], index: usize, value: u8) -> bool {
    let (at, shift) = (index * 6 / 8, index * 6 % 8);
    let low = registers[at] as u16;
    let high = registers.get(at + 1).map_or(0, |byte| u16::from(*byte));
    let pair = low | high << 8;
    if (pair >> shift & 63) as u8 >= value {
        return false;
    }
    let pair = pair & !(63 << shift) | u16::from(value) << shift;
    registers[at] = pair as u8;
    if let Some(byte) = registers.get_mut(at + 1) {
        *byte = (pair >> 8) as u8;
    }
    true
}

fn raise_sparse<B: BlobMut>(
    blob: &mut B,
    index: usize,
    value: u8,
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    let bytes = blob.bytes();
    let (mut at, mut previous, mut first) = (HEADER, HEADER, 0);
    let run = loop {
        let run = Run::read(bytes, at).ok_or(Corrupted)?;
        if index < first + run.len {
            break run;
        }
        previous = at;
        at += run.size();
        first += run.len;
    };
    if run.value >= value {
        return Ok(false);
    }
    let mut written = Written::default();
    written.push(run.value, index - first);
    written.push(value, 1);
    written.push(run.value, first + run.len - index - 1);
    let grown = bytes.len() + written.len - run.size();
    if grown > bytes.len() && grown > sparse_bytes_max {
        to_dense(blob)?;
        return Ok(raise_dense(&mut blob.bytes_mut()[HEADER..], index, value));
    }
    blob.splice(at, run.size(), &[written.bytes()]);
    merge_runs(blob, previous);
    invalidate(blob.bytes_mut());
    Ok(true)
}

/// Joins runs of the same value, near offset `at`.
fn merge_runs<B: BlobMut>(blob: &mut B, mut at: usize) {
    for _ in 0..MERGE_SCAN {
        let Some(run) = Run::read(blob.bytes(), at) else { return };
        let next = Run::read(blob.bytes(), at + run.size());
        let joined = next.filter(|next| {
            run.value != 0 && next.value == run.value && run.len + next.len <= VALUE_RUN_MAX
        });
        match joined {
            Some(next) => {
                let mut written = Written::default();
                written.push(run.value, run.len + next.len);
                blob.splice(at, 2, &[written.bytes()]);
            }
            None => at += run.size(),
        }
    }
}

/// Changes to the dense encoding.
pub fn to_dense<B: BlobMut>(blob: &mut B) -> Result<(), Corrupted> {
    let bytes = blob.bytes();
    if encoding(bytes) == Some(Encoding::Dense) {
        return Ok(());
    }
    let mut dense = vec![0; DENSE_LEN];
    dense[..HEADER].copy_from_slice(bytes.get(..HEADER).ok_or(Corrupted)?);
    dense[4] = DENSE;
    let mut first = 0;
    for run in runs(bytes) {
        let run = run?;
        if run.value != 0 {
            for index in first..first + run.len {
                raise_dense(&mut dense[HEADER..], index, run.value);
            }
        }
        first += run.len;
    }
    let old_len = bytes.len();
    blob.splice(0, old_len, &[&dense]);
    Ok(())
}

/// The runs of the sparse encoding, which together cover each register once; otherwise the last
/// item is an error.
pub fn runs(bytes: &[u8]) -> impl Iterator<Item = Result<Run, Corrupted>> {
    let (mut at, mut covered, mut done) = (HEADER, 0, false);
    std::iter::from_fn(move || {
        if done || (at >= bytes.len() && covered == REGISTERS) {
            return None;
        }
        match Run::read(bytes, at) {
            Some(run)
                if covered + run.len <= REGISTERS
                    || known_bugs::is_back(Bug::HyperLogLogRunsOn) =>
            {
                at += run.size();
                covered += run.len;
                Some(Ok(run))
            }
            _ => {
                done = true;
                Some(Err(Corrupted))
            }
        }
    })
}

/// How often each register value occurs.
struct Histogram([u32; 64]);

impl Histogram {
    fn of(bytes: &[u8]) -> Result<Histogram, Corrupted> {
        let mut counts = [0; 64];
        match encoding(bytes).ok_or(Corrupted)? {
            Encoding::Dense => for_each_dense(bytes, |_, value| counts[usize::from(value)] += 1),
            Encoding::Sparse => {
                for run in runs(bytes) {
                    let run = run?;
                    counts[usize::from(run.value)] += run.len as u32;
                }
            }
        }
        Ok(Histogram(counts))
    }

    /// Ertl's improved raw estimate.
    fn estimate(&self) -> u64 {
        let m = REGISTERS as f64;
        let top = HASH_BITS as usize + 1;
        let mut z = m * tau((m - f64::from(self.0[top])) / m);
        for count in self.0[1..top].iter().rev() {
            z = (z + f64::from(*count)) * 0.5;
        }
        z += m * sigma(f64::from(self.0[0]) / m);
        (ALPHA * m * m / z).round() as u64
    }
}

/// Correction for registers at their maximum. The terms shrink until they no longer count.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// Correction for empty registers. `x` is at most `1 - 1/m`, so its squares vanish soon.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// Calls `each` with the index and value of every register of a dense one.
fn for_each_dense(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    let (groups, _) = bytes.get(HEADER..).unwrap_or_default().as_chunks::<3>();
    for (at, &[a, b, c]) in groups.iter().enumerate() {
        each(at * 4, a & 63);
        each(at * 4 + 1, a >> 6 | (b & 15) << 2);
        each(at * 4 + 2, b >> 4 | (c & 3) << 4);
        each(at * 4 + 3, c >> 2);
    }
}

/// The estimated number of different elements.
pub fn count(bytes: &[u8]) -> Result<u64, Corrupted> {
    Ok(Histogram::of(bytes)?.estimate())
}

/// Registers without packing, for unions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers(Vec<u8>);

impl Default for Registers {
    fn default() -> Self {
        Registers(vec![0; REGISTERS])
    }
}

impl Registers {
    /// Raises each register to that of `bytes`.
    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), Corrupted> {
        match encoding(bytes).ok_or(Corrupted)? {
            Encoding::Dense => {
                for_each_dense(bytes, |index, value| self.0[index] = self.0[index].max(value));
            }
            Encoding::Sparse => {
                let mut first = 0;
                for run in runs(bytes) {
                    let run = run?;
                    let registers = &mut self.0[first..first + run.len];
                    registers.iter_mut().for_each(|register| *register = run.value.max(*register));
                    first += run.len;
                }
            }
        }
        Ok(())
    }

    /// The estimated number of different elements.
    pub fn count(&self) -> u64 {
        let mut counts = [0; 64];
        self.0.iter().for_each(|&value| counts[usize::from(value & 63)] += 1);
        Histogram(counts).estimate()
    }

    /// The values.
    pub fn values(&self) -> &[u8] {
        &self.0
    }

    /// Raises the registers of `blob` to these.
    pub fn merge_into<B: BlobMut>(
        &self,
        blob: &mut B,
        sparse_bytes_max: usize,
    ) -> Result<(), Corrupted> {
        for (index, &value) in self.0.iter().enumerate() {
            if value != 0 {
                raise(blob, index, value, sparse_bytes_max)?;
            }
        }
        Ok(())
    }
}

/// Austin Appleby's MurmurHash64A, on little-endian words on every machine.
fn murmur64a(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, &byte| tail << 8 | u64::from(byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(elements: u32, sparse_bytes_max: usize) -> Vec<u8> {
        let mut hll = empty().to_vec();
        for element in 0..elements {
            add(&mut hll, element.to_string().as_bytes(), sparse_bytes_max).unwrap();
        }
        hll
    }

    #[test]
    fn estimates_are_near() {
        for elements in [0u32, 1, 2, 10, 100, 1_000, 10_000, 100_000] {
            let hll = filled(elements, 3000);
            let count = count(&hll).unwrap() as f64;
            assert!((count - f64::from(elements)).abs() <= f64::from(elements) * 0.02, "{count}");
        }
    }

    #[test]
    fn both_encodings_hold_the_same() {
        for elements in [1, 50, 500, 5_000] {
            let (sparse, dense) = (filled(elements, 1 << 20), filled(elements, 0));
            assert_eq!(encoding(&sparse), Some(Encoding::Sparse));
            assert_eq!(encoding(&dense), Some(Encoding::Dense));
            let (mut a, mut b) = (Registers::default(), Registers::default());
            a.merge(&sparse).unwrap();
            b.merge(&dense).unwrap();
            assert_eq!(a, b);
            assert_eq!(a.count(), count(&dense).unwrap());
            let mut promoted = sparse.clone();
            to_dense(&mut promoted).unwrap();
            assert_eq!(promoted[HEADER..], dense[HEADER..]);
            let mut copy = empty().to_vec();
            a.merge_into(&mut copy, 1 << 20).unwrap();
            let mut c = Registers::default();
            c.merge(&copy).unwrap();
            assert_eq!(a, c);
        }
    }

    #[test]
    fn the_cache_is_invalidated_by_a_change_alone() {
        let mut hll = empty().to_vec();
        assert_eq!(cached(&hll), Some(0));
        assert_eq!(add(&mut hll, b"a", 3000), Ok(true));
        assert_eq!(cached(&hll), None);
        set_cached(&mut hll, 1);
        assert_eq!(add(&mut hll, b"a", 3000), Ok(false));
        assert_eq!(cached(&hll), Some(1));
    }

    #[test]
    fn forged_values_are_refused() {
        let mut short = empty().to_vec();
        short.pop();
        assert_eq!(count(&short), Err(Corrupted));
        for runs in [&[][..], &[0x3F], &[0x7F, 0xFF, 0x00], &[0x7F, 0xFE, 0x83], &[0x7F, 0xFE]] {
            let mut forged = empty()[..HEADER].to_vec();
            forged.extend_from_slice(runs);
            assert_eq!(count(&forged), Err(Corrupted));
            assert_eq!(to_dense(&mut forged.clone()), Err(Corrupted));
            assert_eq!(Registers::default().merge(&forged), Err(Corrupted));
            let _ = raise(&mut forged, REGISTERS - 1, 3, 3000);
        }
        assert_eq!(encoding(b"HYLL"), None);
        assert_eq!(encoding(&[0; 20]), None);
    }

    proptest! {
        #[test]
        fn any_runs_are_safe(runs: Vec<u8>, element: Vec<u8>, cut in 0usize..40) {
            let mut forged = empty()[..HEADER].to_vec();
            forged.extend_from_slice(&runs);
            let _ = count(&forged);
            let _ = add(&mut forged, &element, 3000);
            forged.truncate(cut);
            if encoding(&forged).is_some() {
                let _ = add(&mut forged, &element, 3000);
                let _ = to_dense(&mut forged);
            }
        }

        #[test]
        fn sparse_registers_are_the_maxima(
            raised in proptest::collection::vec((0..40usize, 1u8..=32), 1..200),
        ) {
            let mut hll = empty().to_vec();
            let mut model = Registers::default();
            for (index, value) in raised {
                let index = index * 7 % 50;
                let changed = raise(&mut hll, index, value, 1 << 20).unwrap();
                prop_assert_eq!(changed, model.0[index] < value);
                model.0[index] = model.0[index].max(value);
            }
            let mut registers = Registers::default();
            registers.merge(&hll).unwrap();
            prop_assert_eq!(registers, model);
        }
    }
}
