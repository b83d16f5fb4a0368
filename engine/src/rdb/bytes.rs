//! Reads the lengths, numbers and strings of a dump from bytes that are all there.

use super::{Malformed, STRING_BYTES_MAX, lzf};
use std::borrow::Cow;

const TRUNCATED: Malformed = Malformed::new("it ends too early");
/// Tags of strings that are not stored as they are.
const INT8: u64 = 0;
const INT16: u64 = 1;
const INT32: u64 = 2;
const LZF: u64 = 3;

/// The two forms of the number in front of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// That many bytes, or elements, follow.
    Plain(u64),
    /// A string in this special form follows.
    Special(u64),
}

/// How a string's bytes are stored, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// As they are.
    Plain(usize),
    /// As an integer.
    Int(usize),
    /// Compressed, from this many bytes.
    Lzf(usize, usize),
}

/// What bytes come from: a slice, or a stream.
pub(super) trait Input {
    /// Why there are no more of them.
    type Error: From<Malformed>;

    /// The next byte.
    fn byte(&mut self) -> Result<u8, Self::Error>;

    /// The next bytes.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Self::Error> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    /// The number in front of a string or a collection.
    fn length(&mut self) -> Result<Length, Self::Error> {
        let first = self.byte()?;
        let low = u64::from(first & 0x3F);
        Ok(match first >> 6 {
            0 => Length::Plain(low),
            1 => Length::Plain(low << 8 | u64::from(self.byte()?)),
            3 => Length::Special(low),
            _ => match first {
                0x80 => Length::Plain(u32::from_be_bytes(self.array()?).into()),
                0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
                _ => return Err(Malformed::new("a length of an unknown form").into()),
            },
        })
    }

    /// A number of elements, or any other integer.
    fn number(&mut self) -> Result<u64, Self::Error> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Special(_) => Err(Malformed::new("a string instead of a number").into()),
        }
    }

    /// How the string that follows is stored.
    fn stored(&mut self) -> Result<Stored, Self::Error> {
        let size = |len: u64| match usize::try_from(len) {
            Ok(len) if len <= STRING_BYTES_MAX => Ok(len),
            _ => Err(Malformed::new("a string is too long")),
        };
        match self.length()? {
            Length::Plain(len) => Ok(Stored::Plain(size(len)?)),
            Length::Special(INT8) => Ok(Stored::Int(1)),
            Length::Special(INT16) => Ok(Stored::Int(2)),
            Length::Special(INT32) => Ok(Stored::Int(4)),
            Length::Special(LZF) => {
                let compressed = size(self.number()?)?;
                Ok(Stored::Lzf(compressed, size(self.number()?)?))
            }
            Length::Special(_) => Err(Malformed::new("a string of an unknown form").into()),
        }
    }
}

/// A walk over bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
}

impl Input for Bytes<'_> {
    type Error = Malformed;

    #[inline]
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(byte)
    }
}

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Bytes { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The string that follows.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        match self.stored()? {
            Stored::Plain(len) => Ok(Cow::Borrowed(self.take(len)?)),
            Stored::Int(width) => {
                let bytes = self.take(width)?;
                let int = bytes.iter().rev().fold(0i64, |int, byte| int << 8 | i64::from(*byte));
                let unused = 64 - 8 * width;
                let int = int << unused >> unused;
                Ok(Cow::Owned(itoa::Buffer::new().format(int).as_bytes().to_vec()))
            }
            Stored::Lzf(compressed, len) => {
                let bytes = lzf::decompress(self.take(compressed)?, len);
                bytes.map(Cow::Owned).ok_or(Malformed::new("a compressed string is damaged"))
            }
        }
    }

    pub(super) fn f64(&mut self) -> Result<f64, Malformed> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    pub(super) fn millis(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }
}
