//! A small list: a count and its elements in one run of bytes.
//!
//! ```text
//! count u16  |  elements (see codec)
//! ```

use super::codec::{self, Framed, Walk};
use crate::value::blob::Blob;
use crate::value::packed::Elem;

/// Most bytes of a small list: what an entry holds inline.
pub const BYTES_MAX: usize = 60_000;
const HEADER: usize = 2;
/// Node sizes that `list-max-listpack-size` names by -1 to -5.
const NODE_BYTES: [usize; 5] = [4096, 8192, 16_384, 32_768, 65_536];
/// Bytes allowed where the setting counts elements.
const COUNTED_BYTES: usize = 8192;

/// The bytes of a list without elements.
pub const EMPTY: &[u8] = &[0; HEADER];

/// Up to where a list stays small, as `list-max-listpack-size` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    bytes: usize,
    count: usize,
}

impl Limit {
    /// From the setting: a number of elements, or -1 to -5 for 4 to 64 KiB.
    pub fn new(setting: i64) -> Self {
        match usize::try_from(setting) {
            Ok(count) => Limit { bytes: COUNTED_BYTES, count: count.max(1) },
            Err(_) => {
                let level = (setting.unsigned_abs().min(5) - 1) as usize;
                Limit { bytes: NODE_BYTES[level].min(BYTES_MAX), count: usize::MAX }
            }
        }
    }

    /// Whether a list of this size is small.
    pub fn allows(&self, bytes: usize, count: usize) -> bool {
        bytes <= self.bytes && count <= self.count
    }

    /// Whether a large list that has shrunk to this size becomes small again: well below the limit,
    /// so that a list at the limit does not turn back and forth.
    pub fn allows_again(&self, bytes: usize, count: usize) -> bool {
        bytes <= self.bytes / 2 && count <= self.count / 2
    }
}

fn elements(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER..).unwrap_or_default()
}

/// Number of elements.
pub fn len(bytes: &[u8]) -> usize {
    match bytes {
        [low, high, ..] => u16::from_le_bytes([*low, *high]) as usize,
        _ => 0,
    }
}

/// Whether `bytes` is a small list as this module writes it.
pub fn validate(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && bytes.len() <= BYTES_MAX
        && codec::validate(elements(bytes)) == Some(len(bytes))
}

/// The bytes of a list made of elements that are encoded already.
pub(super) fn from_elements(count: usize, parts: [&[u8]; 2]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + parts[0].len() + parts[1].len());
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
    out
}

/// All elements.
pub fn iter(bytes: &[u8]) -> Walk<'_> {
    let elements = elements(bytes);
    Walk::new(elements, 0, elements.len())
}

/// The elements from `index` on to the tail, or (`reverse`) to the head.
pub(super) fn walk_at(bytes: &[u8], index: usize, reverse: bool) -> Walk<'_> {
    let (elements, count) = (elements(bytes), len(bytes));
    if reverse {
        Walk::new(elements, 0, codec::offset_of(elements, count, (index + 1).min(count)))
    } else {
        let at = codec::offset_of(elements, count, index.min(count));
        Walk::new(elements, at, elements.len())
    }
}

/// The element at `index`.
pub fn get(bytes: &[u8], index: usize) -> Option<Elem<'_>> {
    if index >= len(bytes) {
        return None;
    }
    walk_at(bytes, index, false).next()
}

fn set_len(blob: &mut impl Blob, count: usize) {
    blob.splice(0, HEADER, &[&(count as u16).to_le_bytes()]);
}

/// Adds an element at the head. The caller has checked the [`Limit`].
pub fn push_front(blob: &mut impl Blob, framed: &Framed<'_>) {
    let count = (len(blob.bytes()) as u16 + 1).to_le_bytes();
    let [head, body, back] = framed.parts();
    blob.splice(0, HEADER, &[&count, head, body, back]);
}

/// Adds an element at the tail. The caller has checked the [`Limit`].
pub fn push_back(blob: &mut impl Blob, framed: &Framed<'_>) {
    let count = len(blob.bytes()) + 1;
    blob.splice(blob.bytes().len(), 0, &framed.parts());
    set_len(blob, count);
}

/// Adds an element in front of the one at `index`.
pub fn insert(blob: &mut impl Blob, index: usize, framed: &Framed<'_>) {
    let count = len(blob.bytes());
    let at = HEADER + codec::offset_of(elements(blob.bytes()), count, index.min(count));
    blob.splice(at, 0, &framed.parts());
    set_len(blob, count + 1);
}

/// Replaces the element at `index`, which exists.
pub fn set(blob: &mut impl Blob, index: usize, framed: &Framed<'_>) {
    let (elements, count) = (elements(blob.bytes()), len(blob.bytes()));
    let at = codec::offset_of(elements, count, index);
    if let Some((_, after)) = codec::next(elements, at) {
        blob.splice(HEADER + at, after - at, &framed.parts());
    }
}

/// Removes `n` elements from the head.
pub fn trim_front(blob: &mut impl Blob, n: usize) {
    let count = len(blob.bytes());
    let n = n.min(count);
    let at = codec::offset_of(elements(blob.bytes()), count, n);
    let left = ((count - n) as u16).to_le_bytes();
    blob.splice(0, HEADER + at, &[&left]);
}

/// Removes `n` elements from the tail.
pub fn trim_back(blob: &mut impl Blob, n: usize) {
    let count = len(blob.bytes());
    let left = count - n.min(count);
    let at = HEADER + codec::offset_of(elements(blob.bytes()), count, left);
    blob.splice(at, blob.bytes().len() - at, &[]);
    set_len(blob, left);
}

/// Removes the first `limit` elements (the last ones with `from_tail`) that equal `value`, and
/// returns how many went.
pub fn remove(blob: &mut impl Blob, value: &[u8], limit: usize, from_tail: bool) -> usize {
    let elements = elements(blob.bytes());
    let needle = codec::needle(value);
    let Some((kept, removed)) = codec::without(elements, needle, limit, from_tail) else {
        return 0;
    };
    let left = ((len(blob.bytes()) - removed) as u16).to_le_bytes();
    blob.splice(0, blob.bytes().len(), &[&left, &kept]);
    removed
}
