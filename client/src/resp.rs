//! RESP3 as a client reads it.

use crate::Error;
use std::io::{self, BufRead, Read};

/// Longest string that a server may send.
const BULK_BYTES_MAX: usize = 512 << 20;
/// Most elements of a collection.
const ELEMENTS_MAX: usize = 1 << 24;
/// How deep replies may nest.
const DEPTH_MAX: usize = 32;
/// Longest line, without the bytes of strings.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A status such as `OK`.
    Simple(String),
    /// An error, as an element of a reply; a whole reply that is one becomes [`Error::Refused`].
    Error(String),
    /// A number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// Yes or no.
    Bool(bool),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Several values: an array or a set.
    Array(Vec<Value>),
    /// Pairs.
    Map(Vec<(Value, Value)>),
    /// A message that is no reply.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of a string, if it is one.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) => Some(bytes),
            Value::Simple(text) => Some(text.as_bytes()),
            _ => None,
        }
    }
}

/// Appends a command.
pub(crate) fn encode(args: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Why no value could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Nothing came for as long as the socket waits, and nothing of a value has come yet.
    Silent,
    /// The connection is of no use any more.
    Lost(Error),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> ReadError {
        ReadError::Lost(error)
    }
}

/// Reads the next value.
pub(crate) fn read(from: &mut impl BufRead) -> Result<Value, ReadError> {
    match from.fill_buf() {
        Ok([]) => {
            let text = "the server closed the connection".to_owned();
            return Err(ReadError::Lost(Error::Disconnected(text)));
        }
        Ok(_) => {}
        Err(error) if is_silence(&error) => return Err(ReadError::Silent),
        Err(error) => return Err(ReadError::Lost(error.into())),
    }
    Ok(value(from, 0)?)
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn value(from: &mut impl BufRead, depth: usize) -> Result<Value, Error> {
    if depth > DEPTH_MAX {
        return Err(Error::Protocol("a reply that nests too deep"));
    }
    let line = line(from)?;
    let (&kind, rest) = line.split_first().ok_or(Error::Protocol("an empty line"))?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    Ok(match kind {
        b'+' | b'(' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b':' => Value::Int(number(rest)?),
        b',' => Value::Double(text().parse().map_err(|_| Error::Protocol("a bad double"))?),
        b'#' => Value::Bool(rest == b"t"),
        b'_' => Value::Null,
        b'$' | b'*' if rest == b"-1" => Value::Null,
        b'$' => Value::Bulk(bulk(from, rest)?),
        b'!' => Value::Error(String::from_utf8_lossy(&bulk(from, rest)?).into_owned()),
        b'=' => Value::Bulk(bulk(from, rest)?.split_off(4.min(length(rest, BULK_BYTES_MAX)?))),
        b'*' | b'~' => Value::Array(list(from, length(rest, ELEMENTS_MAX)?, depth)?),
        b'>' => Value::Push(list(from, length(rest, ELEMENTS_MAX)?, depth)?),
        b'%' => {
            let mut pairs = Vec::new();
            for _ in 0..length(rest, ELEMENTS_MAX)? {
                pairs.push((value(from, depth + 1)?, value(from, depth + 1)?));
            }
            Value::Map(pairs)
        }
        _ => return Err(Error::Protocol("an unknown type of reply")),
    })
}

fn line(from: &mut impl BufRead) -> Result<Vec<u8>, Error> {
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text.to_vec()),
        None => Err(Error::Protocol("a line without an end")),
    }
}

fn number(text: &[u8]) -> Result<i64, Error> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or(Error::Protocol("a bad number"))
}

fn length(text: &[u8], max: usize) -> Result<usize, Error> {
    let length = usize::try_from(number(text)?).ok().filter(|length| *length <= max);
    length.ok_or(Error::Protocol("a length out of bounds"))
}

fn bulk(from: &mut impl BufRead, header: &[u8]) -> Result<Vec<u8>, Error> {
    let length = length(header, BULK_BYTES_MAX)?;
    let mut bytes = Vec::new();
    // Grows with what arrives, not with what is claimed.
    from.take(length as u64 + 2).read_to_end(&mut bytes)?;
    if bytes.len() != length + 2 || !bytes.ends_with(b"\r\n") {
        return Err(Error::Protocol("a string that is cut off"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

fn list(from: &mut impl BufRead, length: usize, depth: usize) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for _ in 0..length {
        values.push(value(from, depth + 1)?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_garbage() {
        let parse = |bytes: &[u8]| read(&mut io::BufReader::new(bytes));
        let push = Value::Push(vec![
            Value::Bulk(b"invalidate".into()),
            Value::Array(vec![Value::Bulk(b"k".into())]),
        ]);
        for (bytes, value) in [
            (&b"+OK\r\n"[..], Value::Simple("OK".into())),
            (b"$3\r\na\r\n\r\n", Value::Bulk(b"a\r\n".into())),
            (b"_\r\n", Value::Null),
            (b"=5\r\ntxt:x\r\n", Value::Bulk(b"x".into())),
            (b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", push),
            (b"%1\r\n+a\r\n:1\r\n", Value::Map(vec![(Value::Simple("a".into()), Value::Int(1))])),
        ] {
            assert_eq!(parse(bytes).expect("a value"), value);
            for cut in 0..bytes.len() {
                assert!(parse(&bytes[..cut]).is_err());
            }
        }
        for bytes in [&b"x\r\n"[..], b"$-2\r\n", b"$999999999999\r\n", b"*1\r\n:x\r\n", b"\r\n"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&b"*1\r\n".repeat(1_000)).is_err());
    }
}
