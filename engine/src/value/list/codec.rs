//! Elements that can be walked from both ends.
//!
//! ```text
//! element (see packed)  |  its size, readable from the right (see varint)
//! ```

use crate::value::packed::{self, Elem, Encoded};
use crate::value::varint::{self, REVERSED_MAX};

/// An element on its way into a list.
#[derive(Clone, Copy, Debug)]
pub struct Framed<'a> {
    elem: Encoded<'a>,
    back: [u8; REVERSED_MAX],
    back_len: u8,
}

impl<'a> Framed<'a> {
    /// Encodes `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        let elem = Encoded::new(bytes);
        let (back, width) = varint::reversed(elem.size());
        Framed { elem, back, back_len: width as u8 }
    }

    /// The bytes to write, one part after the other.
    pub fn parts(&self) -> [&[u8]; 3] {
        [self.elem.head(), self.elem.body(), &self.back[..self.back_len as usize]]
    }

    /// Bytes the element takes.
    pub fn size(&self) -> usize {
        self.elem.size() + self.back_len as usize
    }

    /// Writes the element to `to`, which is exactly as long as it is.
    pub(super) fn write(&self, to: &mut [u8]) {
        let mut at = 0;
        for part in self.parts() {
            to[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }
}

/// Reads the element at offset `at` and where the next one starts.
#[inline]
pub fn next(bytes: &[u8], at: usize) -> Option<(Elem<'_>, usize)> {
    if let Some((text, end)) = packed::read_short(bytes, at) {
        return Some((Elem::Bytes(text), end + varint::reversed_width(end - at)));
    }
    let (elem, end) = packed::read(bytes, at)?;
    Some((elem, end + varint::reversed_width(end - at)))
}

/// Reads the element that ends at offset `end` and where it starts.
#[inline]
pub fn prev(bytes: &[u8], end: usize) -> Option<(Elem<'_>, usize)> {
    let (size, from) = varint::read_reversed(bytes, end)?;
    let start = from.checked_sub(size)?;
    if let Some((text, _)) = packed::read_short(bytes, start) {
        return Some((Elem::Bytes(text), start));
    }
    packed::read(bytes, start).map(|(elem, _)| (elem, start))
}

/// The element that `bytes` would be stored as, to compare stored ones with.
pub fn needle(bytes: &[u8]) -> Elem<'_> {
    let encoded = Encoded::new(bytes);
    match packed::canonical_int(bytes) {
        Some(int) if encoded.body().is_empty() && !bytes.is_empty() => Elem::Int(int),
        _ => Elem::Bytes(bytes),
    }
}

/// Where the element at `index` starts, walking from the nearer end of the `count` elements; the end
/// of the bytes for `index == count`.
pub fn offset_of(bytes: &[u8], count: usize, index: usize) -> usize {
    if index <= count / 2 {
        let mut at = 0;
        for _ in 0..index {
            match next(bytes, at) {
                Some((_, after)) => at = after,
                None => break,
            }
        }
        at
    } else {
        let mut at = bytes.len();
        for _ in index..count {
            match prev(bytes, at) {
                Some((_, start)) => at = start,
                None => break,
            }
        }
        at
    }
}

/// A walk over elements from either end.
#[derive(Clone, Debug, Default)]
pub struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Walk<'a> {
    /// Walks the elements between two offsets of `bytes`.
    pub fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        Walk { bytes, at, end }
    }

    /// Offset of what [`Iterator::next`] gives.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Offset behind what [`DoubleEndedIterator::next_back`] gives.
    pub fn end(&self) -> usize {
        self.end
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Elem<'a>;

    #[inline]
    fn next(&mut self) -> Option<Elem<'a>> {
        if self.at >= self.end {
            return None;
        }
        let (elem, after) = next(self.bytes, self.at)?;
        self.at = after;
        Some(elem)
    }
}

impl DoubleEndedIterator for Walk<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let (elem, start) = prev(self.bytes, self.end)?;
        self.end = start;
        Some(elem)
    }
}

/// What remains of `bytes` without the elements equal to `needle`, at most `limit` of them, the first
/// ones or (`from_tail`) the last; and how many went. `None` if there is no such element.
pub fn without(
    bytes: &[u8],
    needle: Elem<'_>,
    limit: usize,
    from_tail: bool,
) -> Option<(Vec<u8>, usize)> {
    let mut hits = Vec::new();
    let mut walk = Walk::new(bytes, 0, bytes.len());
    while hits.len() < limit {
        let before = (walk.at(), walk.end());
        let Some(elem) = (if from_tail { walk.next_back() } else { walk.next() }) else { break };
        if elem == needle {
            hits.push(if from_tail { (walk.end(), before.1) } else { (before.0, walk.at()) });
        }
    }
    if hits.is_empty() {
        return None;
    }
    if from_tail {
        hits.reverse();
    }
    let mut kept = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for &(start, end) in &hits {
        kept.extend_from_slice(&bytes[from..start]);
        from = end;
    }
    kept.extend_from_slice(&bytes[from..]);
    Some((kept, hits.len()))
}

/// How many elements `bytes` holds; `None` unless they are whole elements in the form that
/// [`Framed`] gives.
pub fn validate(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut count = 0;
    let mut buf = packed::IntBuf::new();
    while at < bytes.len() {
        let (elem, _) = packed::read(bytes, at)?;
        let framed = Framed::new(elem.as_bytes(&mut buf));
        let end = at.checked_add(framed.size())?;
        let mut have = bytes.get(at..end)?;
        for part in framed.parts() {
            have = have.strip_prefix(part)?;
        }
        at = end;
        count += 1;
    }
    Some(count)
}
