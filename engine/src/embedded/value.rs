//! The reply of a call as a value, read back from the RESP3 that the command wrote.

use crate::error::Error;

/// How deep replies may nest; XINFO STREAM FULL, the deepest, has six levels.
const DEPTH_MAX: usize = 16;

/// What a call replied.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyValue {
    /// No value.
    Nil,
    /// A short text such as `OK`.
    Simple(String),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A truth value.
    Bool(bool),
    /// An array.
    Array(Vec<ReplyValue>),
    /// A set.
    Set(Vec<ReplyValue>),
    /// Pairs, in order.
    Map(Vec<(ReplyValue, ReplyValue)>),
    /// An error inside an array.
    Error(Error),
}

impl ReplyValue {
    /// Reads one whole reply in RESP3; an error reply becomes the error.
    pub(crate) fn read(bytes: &[u8]) -> Result<ReplyValue, Error> {
        let mut reader = Reader { rest: bytes };
        match reader.value(0) {
            Some(ReplyValue::Error(error)) => Err(error),
            Some(value) if reader.rest.is_empty() => Ok(value),
            _ => Err(unexpected()),
        }
    }

    /// Reads the reply or push in RESP3 at the start of the bytes, if all of it is there: with its
    /// length. A push is an array, an error reply is [`ReplyValue::Error`].
    pub fn take(bytes: &[u8]) -> Option<(ReplyValue, usize)> {
        let mut reader = Reader { rest: bytes };
        let value = reader.value(0)?;
        Some((value, bytes.len() - reader.rest.len()))
    }

    /// The integer; also of a truth value.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_int(self) -> Result<i64, Error> {
        match self {
            ReplyValue::Int(int) => Ok(int),
            ReplyValue::Bool(value) => Ok(i64::from(value)),
            _ => Err(unexpected()),
        }
    }

    /// The integer, or `None` where there is no value.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_optional_int(self) -> Result<Option<i64>, Error> {
        match self {
            ReplyValue::Nil => Ok(None),
            value => value.into_int().map(Some),
        }
    }

    /// The number, or `None` where there is no value.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_double(self) -> Result<Option<f64>, Error> {
        match self {
            ReplyValue::Nil => Ok(None),
            ReplyValue::Double(value) => Ok(Some(value)),
            ReplyValue::Int(int) => Ok(Some(int as f64)),
            ReplyValue::Bytes(bytes) => {
                crate::number::parse_f64(&bytes).map(Some).ok_or_else(unexpected)
            }
            _ => Err(unexpected()),
        }
    }

    /// The string of bytes, or `None` where there is no value.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_bytes(self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            ReplyValue::Nil => Ok(None),
            ReplyValue::Bytes(bytes) => Ok(Some(bytes)),
            ReplyValue::Simple(text) => Ok(Some(text.into_bytes())),
            _ => Err(unexpected()),
        }
    }

    /// The elements of an array or set; none where there is no value.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_elements(self) -> Result<Vec<ReplyValue>, Error> {
        match self {
            ReplyValue::Nil => Ok(Vec::new()),
            ReplyValue::Array(elements) | ReplyValue::Set(elements) => Ok(elements),
            _ => Err(unexpected()),
        }
    }

    /// The strings of an array or set; none where there is no value.
    ///
    /// # Errors
    /// For any other kind, and for elements that are no strings.
    pub fn into_strings(self) -> Result<Vec<Vec<u8>>, Error> {
        let string = |value: ReplyValue| value.into_bytes()?.ok_or_else(unexpected);
        self.into_elements()?.into_iter().map(string).collect()
    }

    /// The pairs of a map.
    ///
    /// # Errors
    /// For any other kind.
    pub fn into_pairs(self) -> Result<Vec<(ReplyValue, ReplyValue)>, Error> {
        match self {
            ReplyValue::Map(pairs) => Ok(pairs),
            _ => Err(unexpected()),
        }
    }
}

/// A reply that its command does not give.
pub(crate) fn unexpected() -> Error {
    Error::text("ERR the reply is of another kind than its command gives")
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<ReplyValue> {
        if depth > DEPTH_MAX {
            return None;
        }
        let line = self.line()?;
        let (&mark, text) = line.split_first()?;
        Some(match mark {
            b'+' => ReplyValue::Simple(String::from_utf8_lossy(text).into_owned()),
            b'-' => ReplyValue::Error(error(text)),
            b':' => ReplyValue::Int(crate::number::parse_i64(text)?),
            b',' => ReplyValue::Double(crate::number::parse_f64(text)?),
            b'#' => ReplyValue::Bool(text == b"t"),
            b'_' => ReplyValue::Nil,
            b'$' if text == b"-1" => ReplyValue::Nil,
            b'*' if text == b"-1" => ReplyValue::Nil,
            b'$' => ReplyValue::Bytes(self.blob(text)?.to_vec()),
            b'=' => ReplyValue::Bytes(self.blob(text)?.get(4..)?.to_vec()),
            b'*' | b'>' => ReplyValue::Array(self.values(text, depth)?),
            b'~' => ReplyValue::Set(self.values(text, depth)?),
            b'%' => {
                let mut pairs = Vec::new();
                for _ in 0..length(text)? {
                    pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
                }
                ReplyValue::Map(pairs)
            }
            _ => return None,
        })
    }

    fn values(&mut self, text: &[u8], depth: usize) -> Option<Vec<ReplyValue>> {
        // An element takes three bytes at the least: no more are made room for.
        let count = length(text)?;
        let mut values = Vec::with_capacity(count.min(self.rest.len() / 3));
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Some(values)
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\r', self.rest)?;
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..)?;
        Some(line)
    }

    fn blob(&mut self, text: &[u8]) -> Option<&'a [u8]> {
        let len = length(text)?;
        let blob = self.rest.get(..len)?;
        self.rest = self.rest.get(len.checked_add(2)?..)?;
        Some(blob)
    }
}

fn length(text: &[u8]) -> Option<usize> {
    usize::try_from(crate::number::parse_i64(text)?).ok()
}

/// The error of a text, as the kind that it is where that has one of its own.
fn error(text: &[u8]) -> Error {
    const KINDS: [Error; 7] = [
        Error::WrongType,
        Error::Syntax,
        Error::NotInteger,
        Error::NotFloat,
        Error::NoSuchKey,
        Error::IndexOutOfRange,
        Error::OutOfMemory,
    ];
    let kind = KINDS.iter().find(|kind| kind.bytes() == text);
    kind.cloned().unwrap_or_else(|| Error::from_bytes(text.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let text = b"*9\r\n+OK\r\n:-5\r\n$3\r\na\r\n\r\n,1.5\r\n#t\r\n_\r\n%1\r\n$1\r\nk\r\n~0\r\n=5\r\ntxt:x\r\n-ERR no\r\n";
        let ReplyValue::Array(values) = ReplyValue::read(text).unwrap() else { panic!() };
        assert_eq!(values.len(), 9);
        assert_eq!(values[2], ReplyValue::Bytes(b"a\r\n".to_vec()));
        let pair = (ReplyValue::Bytes(b"k".to_vec()), ReplyValue::Set(Vec::new()));
        assert_eq!(values[6], ReplyValue::Map(vec![pair]));
        assert_eq!(values[7], ReplyValue::Bytes(b"x".to_vec()));
        assert_eq!(ReplyValue::read(b"-ERR syntax error\r\n"), Err(Error::Syntax));
        assert_eq!(ReplyValue::read(b":1\r\n:2\r\n"), Err(unexpected()));
        assert_eq!(ReplyValue::read(b"*99999999999\r\n"), Err(unexpected()));
        assert_eq!(ReplyValue::read(b"$5\r\nab\r\n"), Err(unexpected()));
        assert_eq!(ReplyValue::read(&b"*1\r\n".repeat(100)), Err(unexpected()));
    }
}
