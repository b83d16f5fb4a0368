//! Elements of packed values: short byte strings and integers, one after the other.
//!
//! ```text
//! 00..=EF            a string of that many bytes follows
//! F0  len u16        a string of up to 65,535 bytes
//! F1  len u32        a longer string
//! F2  i8             an integer, little-endian, in as few bytes as it needs
//! F3  i16
//! F4  i32
//! F5  i64
//! ```
//! A string that is the canonical decimal form of an integer is kept as that integer where this
//! takes fewer bytes. So equal strings always have equal encodings.

/// Longest string whose length fits into the tag byte.
const SHORT_MAX: usize = 0xEF;
const STR16: u8 = 0xF0;
const STR32: u8 = 0xF1;
const INT8: u8 = 0xF2;
const INT16: u8 = 0xF3;
const INT32: u8 = 0xF4;
const INT64: u8 = 0xF5;

/// Room for an integer's decimal form.
pub type IntBuf = itoa::Buffer;

/// One element as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem<'a> {
    /// A string.
    Bytes(&'a [u8]),
    /// A string that reads as this integer.
    Int(i64),
}

impl<'a> Elem<'a> {
    /// The element as a string; `buf` holds it where it is stored as an integer.
    pub fn as_bytes<'b>(&self, buf: &'b mut IntBuf) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            Elem::Bytes(bytes) => bytes,
            Elem::Int(int) => buf.format(int).as_bytes(),
        }
    }

    /// The element as an owned string.
    pub fn to_vec(&self) -> Vec<u8> {
        self.as_bytes(&mut IntBuf::new()).to_vec()
    }
}

/// A string on its way into a packed value: its tag bytes, and the body where it has one.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    head: [u8; 9],
    head_len: u8,
    body: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// Encodes `bytes`, as an integer where that is shorter.
    pub fn new(bytes: &'a [u8]) -> Self {
        if let Some(int) = canonical_int(bytes) {
            let (tag, width) = match int {
                -0x80..=0x7F => (INT8, 1),
                -0x8000..=0x7FFF => (INT16, 2),
                -0x8000_0000..=0x7FFF_FFFF => (INT32, 4),
                _ => (INT64, 8),
            };
            if width < bytes.len() {
                let mut head = [0; 9];
                head[0] = tag;
                head[1..=width].copy_from_slice(&int.to_le_bytes()[..width]);
                return Encoded { head, head_len: width as u8 + 1, body: &[] };
            }
        }
        let mut head = [0; 9];
        let head_len = match bytes.len() {
            len @ 0..=SHORT_MAX => {
                head[0] = len as u8;
                1
            }
            len @ 0..=0xFFFF => {
                head[0] = STR16;
                head[1..3].copy_from_slice(&(len as u16).to_le_bytes());
                3
            }
            len => {
                head[0] = STR32;
                head[1..5].copy_from_slice(&(len as u32).to_le_bytes());
                5
            }
        };
        Encoded { head, head_len, body: bytes }
    }

    /// The tag bytes, or the whole element where it is an integer.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len as usize]
    }

    /// What follows the tag bytes.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Bytes the element takes.
    pub fn size(&self) -> usize {
        self.head_len as usize + self.body.len()
    }

    /// Whether this is the element at `at..end`. Most others are told apart by their first and
    /// last bytes: elements of a collection often begin alike.
    #[inline]
    pub fn is_at(&self, packed: &[u8], at: usize, end: usize) -> bool {
        let Some(element) = packed.get(at..end) else { return false };
        let last = self.body.last().unwrap_or(&self.head[self.head_len as usize - 1]);
        element.len() == self.size()
            && element[0] == self.head[0]
            && element.last() == Some(last)
            && self.matches(element)
    }

    /// Whether the element that starts `packed` is this one.
    pub fn matches(&self, packed: &[u8]) -> bool {
        let head = self.head();
        packed.len() >= self.size()
            && packed[..head.len()] == *head
            && packed[head.len()..self.size()] == *self.body
    }

    /// Appends the element.
    pub fn push_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head());
        out.extend_from_slice(self.body);
    }
}

/// Reads the element at offset `at`, as [`read`], where it is a string with its length in the tag:
/// most are, and this is small enough to be inlined into loops.
#[inline(always)]
pub fn read_short(packed: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let tag = usize::from(*packed.get(at)?);
    if tag > SHORT_MAX {
        return None;
    }
    Some((packed.get(at + 1..at + 1 + tag)?, at + 1 + tag))
}

/// Reads the element at offset `at` and where the next one starts; `None` at the end and where the
/// bytes are not a whole element.
pub fn read(packed: &[u8], at: usize) -> Option<(Elem<'_>, usize)> {
    let tag = *packed.get(at)?;
    let int = |width: usize| {
        let bytes = packed.get(at + 1..at + 1 + width)?;
        let mut wide = [if bytes[width - 1] & 0x80 == 0 { 0 } else { 0xFF }; 8];
        wide[..width].copy_from_slice(bytes);
        Some((Elem::Int(i64::from_le_bytes(wide)), at + 1 + width))
    };
    let string = |from: usize, len: usize| {
        let end = from.checked_add(len)?;
        Some((Elem::Bytes(packed.get(from..end)?), end))
    };
    match tag {
        0..=0xEF => string(at + 1, tag as usize),
        STR16 => {
            let len = packed.get(at + 1..at + 3)?;
            string(at + 3, u16::from_le_bytes([len[0], len[1]]) as usize)
        }
        STR32 => {
            let len = packed.get(at + 1..at + 5)?;
            string(at + 5, u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize)
        }
        INT8 => int(1),
        INT16 => int(2),
        INT32 => int(4),
        INT64 => int(8),
        _ => None,
    }
}

/// Where the element at offset `at` ends; for bytes known to be whole elements.
#[inline]
pub fn skip(packed: &[u8], at: usize) -> Option<usize> {
    Some(match *packed.get(at)? {
        tag @ 0..=0xEF => at + 1 + tag as usize,
        INT8 => at + 2,
        INT16 => at + 3,
        INT32 => at + 5,
        INT64 => at + 9,
        _ => read(packed, at)?.1,
    })
}

/// Reads the element at offset `at` and where the next one starts, like [`read`]; `None` also where
/// it is not encoded as [`Encoded`] does. For bytes from outside.
pub fn read_canonical(packed: &[u8], at: usize) -> Option<(Elem<'_>, usize)> {
    let (elem, next) = read(packed, at)?;
    let mut buf = IntBuf::new();
    let encoded = Encoded::new(elem.as_bytes(&mut buf));
    (encoded.size() == next - at && encoded.matches(packed.get(at..)?)).then_some((elem, next))
}

/// The integer of which `bytes` is the one canonical decimal form, if it is one.
pub fn canonical_int(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative {
        (magnitude <= 1 << 63).then(|| (magnitude as i64).wrapping_neg())
    } else {
        i64::try_from(magnitude).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roundtrip(bytes: &[u8]) -> usize {
        let encoded = Encoded::new(bytes);
        let mut packed = vec![0xAA];
        encoded.push_to(&mut packed);
        let (elem, next) = read(&packed, 1).unwrap();
        assert_eq!(elem.to_vec(), bytes);
        assert_eq!(next, packed.len());
        assert!(encoded.matches(&packed[1..]));
        encoded.size()
    }

    #[test]
    fn strings_and_integers_come_back() {
        assert_eq!(roundtrip(b""), 1);
        assert_eq!(roundtrip(b"7"), 2);
        assert_eq!(roundtrip(b"-128"), 2);
        assert_eq!(roundtrip(b"32767"), 3);
        assert_eq!(roundtrip(b"-2147483648"), 5);
        assert_eq!(roundtrip(b"9223372036854775807"), 9);
        assert_eq!(roundtrip(b"-9223372036854775808"), 9);
        assert_eq!(roundtrip(b"9223372036854775808"), 20);
        assert_eq!(roundtrip(b"007"), 4);
        assert_eq!(roundtrip(b"-0"), 3);
        assert_eq!(roundtrip(&[0xEE; 0xEF]), 0xF0);
        assert_eq!(roundtrip(&[0xEE; 0xF0]), 0xF3);
        assert_eq!(roundtrip(&[0xEE; 70_000]), 70_005);
    }

    #[test]
    fn torn_elements_are_refused() {
        for bad in
            [&[3u8, 1, 2][..], &[STR16, 1], &[STR32, 255, 255, 255, 255], &[INT64, 1], &[0xFF]]
        {
            assert_eq!(read(bad, 0), None);
        }
    }
}
