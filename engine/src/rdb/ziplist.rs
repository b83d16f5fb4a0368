//! The packed forms of older versions: ziplists, zipmaps and sets of integers.

use super::Malformed;
use crate::value::packed::Elem;

const HEADER: usize = 10;
const END: u8 = 0xFF;
/// Marks a length of the element before that takes four bytes more.
const LONG: u8 = 0xFE;
const COUNT_UNKNOWN: usize = 0xFFFF;

const DAMAGED: Malformed = Malformed::new("a ziplist is damaged");
const DAMAGED_MAP: Malformed = Malformed::new("a zipmap is damaged");
const DAMAGED_INTSET: Malformed = Malformed::new("a set of integers is damaged");

/// The elements of a ziplist, checked as they are read.
///
/// ```text
/// bytes u32 | offset of the last u32 | count u16 | element ... | FF
/// element   size of the one before | head | body
/// ```
#[derive(Clone, Debug)]
pub(super) struct Ziplist<'a> {
    bytes: &'a [u8],
    at: usize,
    before: usize,
    tail: usize,
    left: Option<usize>,
}

impl<'a> Ziplist<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<HEADER>().ok_or(DAMAGED)?;
        let total = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let tail = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let count = usize::from(u16::from_le_bytes([header[8], header[9]]));
        if total != bytes.len() || total == HEADER || bytes.last() != Some(&END) {
            return Err(DAMAGED);
        }
        let left = (count != COUNT_UNKNOWN).then_some(count);
        let elements = &bytes[..bytes.len() - 1];
        Ok(Ziplist { bytes: elements, at: HEADER, before: 0, tail, left })
    }

    /// The next element; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Elem<'a>>, Malformed> {
        if self.at == self.bytes.len() {
            // The offset of the last element, which is how Redis finds it, must be right.
            let last = self.at - self.before;
            return match self.left {
                None | Some(0) if self.tail == last => Ok(None),
                _ => Err(DAMAGED),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(DAMAGED)?;
        }
        let rest = &self.bytes[self.at..];
        let (before, from) = match *rest.first().ok_or(DAMAGED)? {
            END => return Err(DAMAGED),
            LONG => {
                let len = rest.get(1..5).and_then(|len| len.first_chunk()).ok_or(DAMAGED)?;
                (u32::from_le_bytes(*len) as usize, 5)
            }
            len => (usize::from(len), 1),
        };
        let (elem, end) = read(rest, from).ok_or(DAMAGED)?;
        if before != self.before {
            return Err(DAMAGED);
        }
        self.before = end;
        self.at += end;
        Ok(Some(elem))
    }
}

/// The element whose head is at offset `at`, and where it ends.
fn read(bytes: &[u8], at: usize) -> Option<(Elem<'_>, usize)> {
    let head = *bytes.get(at)?;
    let string = |from: usize, len: usize| {
        let end = from.checked_add(len)?;
        Some((Elem::Bytes(bytes.get(from..end)?), end))
    };
    let int = |width: usize| {
        let raw = bytes.get(at + 1..=at + width)?;
        let mut wide = [if raw[width - 1] & 0x80 == 0 { 0 } else { 0xFF }; 8];
        wide[..width].copy_from_slice(raw);
        Some((Elem::Int(i64::from_le_bytes(wide)), at + 1 + width))
    };
    match head >> 6 {
        0 => string(at + 1, usize::from(head & 0x3F)),
        1 => string(at + 2, usize::from(head & 0x3F) << 8 | usize::from(*bytes.get(at + 1)?)),
        2 => {
            let len = bytes.get(at + 1..at + 5)?.first_chunk()?;
            string(at + 5, u32::from_be_bytes(*len) as usize)
        }
        _ => match head {
            0xC0 => int(2),
            0xD0 => int(4),
            0xE0 => int(8),
            0xF0 => int(3),
            0xFE => int(1),
            0xF1..=0xFD => Some((Elem::Int(i64::from(head & 0x0F) - 1), at + 1)),
            _ => None,
        },
    }
}

/// Calls `each` with the fields and values of a zipmap.
///
/// ```text
/// count u8 | length, field, length, unused u8, value, unused bytes ... | FF
/// ```
pub(super) fn each_of_zipmap<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut rest = bytes.get(1..).ok_or(DAMAGED_MAP)?;
    fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = rest.split_at_checked(count).ok_or(DAMAGED_MAP)?;
        *rest = left;
        Ok(taken)
    }
    fn length(rest: &mut &[u8]) -> Result<usize, Malformed> {
        match *take(rest, 1)?.first().ok_or(DAMAGED_MAP)? {
            LONG => {
                let len = take(rest, 4)?.first_chunk().ok_or(DAMAGED_MAP)?;
                Ok(u32::from_le_bytes(*len) as usize)
            }
            END => Err(DAMAGED_MAP),
            len => Ok(len.into()),
        }
    }
    while rest != [END] {
        let len = length(&mut rest)?;
        let field = take(&mut rest, len)?;
        let len = length(&mut rest)?;
        let unused = take(&mut rest, 1)?[0];
        let value = take(&mut rest, len)?;
        take(&mut rest, unused.into())?;
        each(field, value)?;
    }
    Ok(())
}

/// The members of a set of integers, which have to ascend.
///
/// ```text
/// width u32 | count u32 | integer ...
/// ```
pub(super) fn intset(bytes: &[u8]) -> Result<impl Iterator<Item = i64>, Malformed> {
    let header = bytes.first_chunk::<8>().ok_or(DAMAGED_INTSET)?;
    let width = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let count = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let members = &bytes[8..];
    let fits = matches!(width, 2 | 4 | 8) && count.checked_mul(width) == Some(members.len());
    if !fits {
        return Err(DAMAGED_INTSET);
    }
    let read = |raw: &[u8]| {
        let mut wide = [if raw[raw.len() - 1] & 0x80 == 0 { 0 } else { 0xFF }; 8];
        wide[..raw.len()].copy_from_slice(raw);
        i64::from_le_bytes(wide)
    };
    let ints = members.chunks_exact(width).map(read);
    if !ints.clone().is_sorted_by(|a, b| a < b) {
        return Err(DAMAGED_INTSET);
    }
    Ok(ints)
}
