//! Strings that are edited in place: APPEND, SETRANGE, SETBIT, HyperLogLogs.
//!
//! The first edit turns a string into the raw form: still inside its entry while it is short, a
//! buffer of its own with room to grow after that.

use super::blob::Blob;
use super::hll::BlobMut;
use super::packed::IntBuf;
use super::{NewValue, Value};
use crate::error::Error;
use crate::keyspace::{EntryMut, EntryRef, Kind};
use smallvec::SmallVec;

/// Longest raw string inside its entry.
const INLINE_MAX: usize = crate::keyspace::STRING_EDITED_INLINE_MAX;
/// Most room to grow that a buffer gets beyond what it needs.
const SPARE_MAX: usize = 1 << 20;

const ZEROS: [u8; INLINE_MAX] = [0; INLINE_MAX];

/// The string of an entry; `buf` holds it where it is stored as an integer.
///
/// # Errors
/// Where the entry is not a string.
pub fn string<'a>(entry: EntryRef<'a>, buf: &'a mut IntBuf) -> Result<&'a [u8], Error> {
    match entry.kind() {
        Kind::Str | Kind::StrRaw => Ok(entry.bytes()),
        Kind::Int => Ok(buf.format(entry.int().unwrap_or(0)).as_bytes()),
        Kind::Big => match entry.big() {
            Some(Value::Str(bytes)) => Ok(bytes),
            _ => Err(Error::WrongType),
        },
        _ => Err(Error::WrongType),
    }
}

/// The bytes of a string that is not stored as an integer, to be overwritten where they are.
pub fn stored_bytes_mut<'a>(entry: &'a mut EntryMut<'_>) -> Option<&'a mut [u8]> {
    match entry.kind() {
        Kind::Str | Kind::StrRaw => Some(entry.bytes_mut()),
        Kind::Big => match entry.big_mut() {
            Some(Value::Str(bytes)) => Some(bytes),
            _ => None,
        },
        _ => None,
    }
}

/// A raw string in an entry.
pub struct RawStr<'a>(EntryMut<'a>);

impl<'a> RawStr<'a> {
    /// Makes the string of `entry` raw.
    ///
    /// # Errors
    /// Where the entry is not a string.
    pub fn open(mut entry: EntryMut<'a>) -> Result<RawStr<'a>, Error> {
        match entry.kind() {
            Kind::StrRaw => {}
            Kind::Big if matches!(entry.big(), Some(Value::Str(_))) => {}
            _ => {
                let mut buf = IntBuf::new();
                let text = SmallVec::<[u8; 128]>::from_slice(string(entry.as_ref(), &mut buf)?);
                entry.replace(NewValue::StrRaw(&text));
            }
        }
        Ok(RawStr(entry))
    }

    fn buffer(&mut self) -> Option<&mut Vec<u8>> {
        match self.0.big_mut() {
            Some(Value::Str(buffer)) => Some(buffer),
            _ => None,
        }
    }

    /// Moves a string that is to be longer than an entry holds into a buffer; it must be inline.
    fn spill(&mut self, len: usize) {
        let mut buffer = Vec::with_capacity(with_spare(len));
        buffer.extend_from_slice(self.0.bytes());
        self.0.replace(NewValue::Big(Box::new(Value::Str(buffer))));
    }

    /// Sees to it that the string is in a buffer if it is to have `len` bytes, with room for them.
    fn make_room(&mut self, len: usize) {
        match self.buffer() {
            Some(buffer) if buffer.capacity() < len => {
                buffer.reserve_exact(with_spare(len) - buffer.len());
            }
            Some(_) => {}
            None if len > INLINE_MAX => self.spill(len),
            None => {}
        }
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        let len = self.bytes().len();
        self.make_room(len + bytes.len());
        match self.buffer() {
            Some(buffer) => buffer.extend_from_slice(bytes),
            None => self.0.splice(len, 0, &[bytes]),
        }
    }

    /// Fills up with zeros to `len` bytes; whether there were fewer.
    pub fn grow(&mut self, len: usize) -> bool {
        let old_len = self.bytes().len();
        if len <= old_len {
            return false;
        }
        self.make_room(len);
        match self.buffer() {
            Some(buffer) => buffer.resize(len, 0),
            None => self.0.splice(old_len, 0, &[&ZEROS[..len - old_len]]),
        }
        true
    }
}

/// Capacity for `len` bytes: twice as much while that is little.
fn with_spare(len: usize) -> usize {
    len + len.min(SPARE_MAX)
}

impl Blob for RawStr<'_> {
    fn bytes(&self) -> &[u8] {
        match self.0.big() {
            Some(Value::Str(buffer)) => buffer,
            _ => self.0.bytes(),
        }
    }

    fn splice(&mut self, at: usize, remove: usize, insert: &[&[u8]]) {
        let added: usize = insert.iter().map(|part| part.len()).sum();
        self.make_room(self.bytes().len() + added - remove);
        match self.buffer() {
            Some(buffer) => Blob::splice(buffer, at, remove, insert),
            None => self.0.splice(at, remove, insert),
        }
    }
}

impl BlobMut for RawStr<'_> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        if self.0.kind() == Kind::Big {
            return self.buffer().map_or(&mut [], |buffer| buffer);
        }
        self.0.bytes_mut()
    }
}
