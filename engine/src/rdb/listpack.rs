//! Listpacks: Redis's runs of small strings and integers.
//!
//! ```text
//! bytes u32 | count u16 (FFFF: unknown) | element ... | FF
//! element   head | body | size of head and body, to be read from the right
//! ```

use super::Malformed;
use crate::value::packed::{Elem, canonical_int};

const HEADER: usize = 6;
const END: u8 = 0xFF;
const COUNT_UNKNOWN: usize = 0xFFFF;
const BACK_MAX: usize = 5;

const DAMAGED: Malformed = Malformed::new("a listpack is damaged");

/// The elements of a listpack, checked as they are read.
#[derive(Clone, Debug)]
pub(super) struct Listpack<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Elements that are still to come by the header, if it knows.
    left: Option<usize>,
}

impl<'a> Listpack<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<HEADER>().ok_or(DAMAGED)?;
        let total = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if total as usize != bytes.len() || bytes.len() == HEADER || bytes.last() != Some(&END) {
            return Err(DAMAGED);
        }
        let left = (count != COUNT_UNKNOWN).then_some(count);
        Ok(Listpack { bytes: &bytes[..bytes.len() - 1], at: HEADER, left })
    }

    /// The next element; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Elem<'a>>, Malformed> {
        if self.at == self.bytes.len() {
            return match self.left {
                None | Some(0) => Ok(None),
                Some(_) => Err(DAMAGED),
            };
        }
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(DAMAGED)?;
        }
        let (elem, size) = read(&self.bytes[self.at..]).ok_or(DAMAGED)?;
        let (back, width) = back_len(size);
        let end = self.at + size + width;
        if self.bytes.get(self.at + size..end) != Some(&back[..width]) {
            return Err(DAMAGED);
        }
        self.at = end;
        Ok(Some(elem))
    }

    /// The next element, which has to be there.
    pub(super) fn expect(&mut self) -> Result<Elem<'a>, Malformed> {
        self.next()?.ok_or(DAMAGED)
    }

    /// The next element, which has to be an integer.
    pub(super) fn int(&mut self) -> Result<i64, Malformed> {
        match self.expect()? {
            Elem::Int(int) => Ok(int),
            Elem::Bytes(bytes) => canonical_int(bytes).ok_or(DAMAGED),
        }
    }
}

/// The element that starts `bytes`, and its size without its length at the end.
fn read(bytes: &[u8]) -> Option<(Elem<'_>, usize)> {
    let head = *bytes.first()?;
    let string = |from: usize, len: usize| {
        let end = from.checked_add(len)?;
        Some((Elem::Bytes(bytes.get(from..end)?), end))
    };
    let int = |width: usize| {
        let raw = bytes.get(1..=width)?;
        let mut wide = [if raw[width - 1] & 0x80 == 0 { 0 } else { 0xFF }; 8];
        wide[..width].copy_from_slice(raw);
        Some((Elem::Int(i64::from_le_bytes(wide)), 1 + width))
    };
    match head {
        0..=0x7F => Some((Elem::Int(head.into()), 1)),
        0x80..=0xBF => string(1, usize::from(head & 0x3F)),
        0xC0..=0xDF => {
            let raw = i64::from(head & 0x1F) << 8 | i64::from(*bytes.get(1)?);
            Some((Elem::Int(raw << 51 >> 51), 2))
        }
        0xE0..=0xEF => string(2, usize::from(head & 0x0F) << 8 | usize::from(*bytes.get(1)?)),
        0xF0 => {
            let len = bytes.get(1..5)?.first_chunk()?;
            string(5, u32::from_le_bytes(*len) as usize)
        }
        0xF1 => int(2),
        0xF2 => int(3),
        0xF3 => int(4),
        0xF4 => int(8),
        _ => None,
    }
}

/// The size of an element as it stands behind it, and how many bytes that takes.
fn back_len(size: usize) -> ([u8; BACK_MAX], usize) {
    // As Redis has it, which takes a byte more at the upper ends.
    let width = match size {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    let mut back = [0; BACK_MAX];
    for (nth, byte) in back[..width].iter_mut().enumerate() {
        let group = (size >> (7 * (width - 1 - nth))) as u8 & 0x7F;
        *byte = if nth == 0 { group } else { group | 0x80 };
    }
    (back, width)
}

/// A listpack on its way.
pub(super) struct Builder {
    bytes: Vec<u8>,
    count: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder { bytes: vec![0; HEADER], count: 0 }
    }

    /// Adds an integer.
    pub(super) fn push_int(&mut self, int: i64) {
        let start = self.bytes.len();
        let bytes = int.to_le_bytes();
        match int {
            0..=127 => self.bytes.push(int as u8),
            -4096..=4095 => {
                let raw = (int as u16) & 0x1FFF;
                self.bytes.extend_from_slice(&[0xC0 | (raw >> 8) as u8, raw as u8]);
            }
            _ => {
                let (head, width) = match int {
                    -0x8000..=0x7FFF => (0xF1, 2),
                    -0x80_0000..=0x7F_FFFF => (0xF2, 3),
                    -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
                    _ => (0xF4, 8),
                };
                self.bytes.push(head);
                self.bytes.extend_from_slice(&bytes[..width]);
            }
        }
        self.close(start);
    }

    /// Adds a string, as an integer where it reads as one.
    pub(super) fn push(&mut self, string: &[u8]) {
        if let Some(int) = canonical_int(string) {
            return self.push_int(int);
        }
        let (start, len) = (self.bytes.len(), string.len());
        match len {
            0..=63 => self.bytes.push(0x80 | len as u8),
            64..=4095 => self.bytes.extend_from_slice(&[0xE0 | (len >> 8) as u8, len as u8]),
            _ => {
                self.bytes.push(0xF0);
                self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(string);
        self.close(start);
    }

    fn close(&mut self, start: usize) {
        let (back, width) = back_len(self.bytes.len() - start);
        self.bytes.extend_from_slice(&back[..width]);
        self.count += 1;
    }

    /// The whole listpack.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let total = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&total.to_le_bytes());
        let count = self.count.min(COUNT_UNKNOWN) as u16;
        self.bytes[4..HEADER].copy_from_slice(&count.to_le_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints() -> impl Iterator<Item = i64> {
        let powers = (0..63).map(|bit| 1i64 << bit);
        powers.flat_map(|n| [n - 1, n, -n, -n - 1, n + 12]).chain([i64::MIN, i64::MAX])
    }

    #[test]
    fn what_is_built_is_read() {
        let mut builder = Builder::new();
        ints().for_each(|int| builder.push_int(int));
        let lengths = [0, 1, 63, 64, 127, 4095, 4096, 16_380, 16_390, 70_000];
        lengths.iter().for_each(|len| builder.push(&vec![b'x'; *len]));
        let bytes = builder.finish();
        let mut listpack = Listpack::new(&bytes).unwrap();
        for int in ints() {
            assert_eq!(listpack.int().unwrap(), int);
        }
        for len in lengths {
            assert_eq!(listpack.expect().unwrap().to_vec().len(), len);
        }
        assert_eq!(listpack.next().unwrap(), None);
    }

    #[test]
    fn damaged_ones_are_refused() {
        let mut builder = Builder::new();
        builder.push(b"hello");
        builder.push_int(1000);
        let good = builder.finish();
        let all = |bytes: &[u8]| -> Result<usize, Malformed> {
            let mut listpack = Listpack::new(bytes)?;
            let mut count = 0;
            while listpack.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(all(&good), Ok(2));
        for end in 0..good.len() {
            assert!(all(&good[..end]).is_err());
        }
        // The size, the count, a length inside, a length behind an element.
        for (at, byte) in [(0, 1), (4, 1), (4, 3), (6, 0xBF), (12, 9)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(all(&bad).is_err(), "byte {at}");
        }
    }
}
