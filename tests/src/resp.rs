//! RESP2 and RESP3 as a client sees them: values, their parser and a blocking, pipelining client.
//!
//! Written apart from the server's codec on purpose: a mistake made there must not be repeated here.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How deep replies may nest.
const DEPTH_MAX: usize = 64;
/// How long a reply may take before the test fails.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// One command as the list of its arguments, the name first.
pub type Argv = Vec<Vec<u8>>;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR ..`, also the RESP3 form with a length
    Error(Vec<u8>),
    /// `:1`
    Int(i64),
    /// `$3`
    Bulk(Vec<u8>),
    /// `$-1` and RESP3's `_`
    Null,
    /// `*-1`
    NullArray,
    /// `*2`
    Array(Vec<Value>),
    /// `%1`
    Map(Vec<(Value, Value)>),
    /// `~2`
    Set(Vec<Value>),
    /// `>2`
    Push(Vec<Value>),
    /// `,1.5`, as it was written
    Double(Vec<u8>),
    /// `#t`
    Bool(bool),
    /// `(123`
    BigNumber(Vec<u8>),
    /// `=8`: format and text
    Verbatim(Vec<u8>, Vec<u8>),
}

impl Value {
    /// A bulk string.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Value {
        Value::Bulk(bytes.as_ref().to_vec())
    }

    /// The bytes of any kind of string, error or number text.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(bytes) | Value::Error(bytes) | Value::Bulk(bytes) => Some(bytes),
            Value::Double(bytes) | Value::BigNumber(bytes) | Value::Verbatim(_, bytes) => {
                Some(bytes)
            }
            _ => None,
        }
    }

    /// The text of any kind of string, or nothing.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes().unwrap_or_default()).into_owned()
    }

    /// The elements of an array, set or push.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// True for an error reply.
    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error(_))
    }
}

/// The bytes are not RESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error.0)
    }
}

/// Reads one value from the front of `bytes`: the value and its length, or `None` if more bytes are
/// needed.
pub fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.value(0)?.map(|value| (value, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Leaves the enclosing function with `None` where more bytes are needed.
macro_rules! ready {
    ($value:expr) => {
        match $value {
            Some(value) => value,
            None => return Ok(None),
        }
    };
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = ready!(rest.windows(2).position(|pair| pair == b"\r\n"));
        let line = &rest[..end];
        if line.contains(&b'\n') || line.contains(&b'\r') {
            return Err(Malformed("a line with a bare CR or LF"));
        }
        self.at += end + 2;
        Ok(Some(line))
    }

    fn blob(&mut self, len: i64) -> Result<Option<Vec<u8>>, Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed("a negative length"))?;
        let blob = ready!(self.bytes.get(self.at..).and_then(|rest| rest.get(..len))).to_vec();
        match ready!(self.bytes.get(self.at + len..).and_then(|rest| rest.get(..2))) {
            b"\r\n" => self.at += len + 2,
            _ => return Err(Malformed("a string longer than it says")),
        }
        Ok(Some(blob))
    }

    fn list(&mut self, len: i64, depth: usize) -> Result<Option<Vec<Value>>, Malformed> {
        let mut items = Vec::new();
        for _ in 0..usize::try_from(len).map_err(|_| Malformed("a negative count"))? {
            items.push(ready!(self.value(depth + 1)?));
        }
        Ok(Some(items))
    }

    fn value(&mut self, depth: usize) -> Result<Option<Value>, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed("replies nest too deep"));
        }
        let line = ready!(self.line()?);
        let (&kind, rest) = line.split_first().ok_or(Malformed("an empty line"))?;
        Ok(Some(match kind {
            b'+' => Value::Simple(rest.to_vec()),
            b'-' => Value::Error(rest.to_vec()),
            b':' => Value::Int(number(rest)?),
            b',' => Value::Double(rest.to_vec()),
            b'(' => Value::BigNumber(rest.to_vec()),
            b'_' if rest.is_empty() => Value::Null,
            b'#' if rest == b"t" => Value::Bool(true),
            b'#' if rest == b"f" => Value::Bool(false),
            b'$' if rest == b"-1" => Value::Null,
            b'*' if rest == b"-1" => Value::NullArray,
            b'$' => Value::Bulk(ready!(self.blob(number(rest)?)?)),
            b'!' => Value::Error(ready!(self.blob(number(rest)?)?)),
            b'=' => verbatim(ready!(self.blob(number(rest)?)?))?,
            b'*' => Value::Array(ready!(self.list(number(rest)?, depth)?)),
            b'~' => Value::Set(ready!(self.list(number(rest)?, depth)?)),
            b'>' => Value::Push(ready!(self.list(number(rest)?, depth)?)),
            b'%' => {
                let count = number(rest)?.checked_mul(2).ok_or(Malformed("a huge map"))?;
                let mut items = ready!(self.list(count, depth)?).into_iter();
                let mut pairs = Vec::new();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Value::Map(pairs)
            }
            _ => return Err(Malformed("an unknown type byte")),
        }))
    }
}

fn number(text: &[u8]) -> Result<i64, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed("a number that is no text"))?;
    text.parse().map_err(|_| Malformed("a number that is none"))
}

fn verbatim(bytes: Vec<u8>) -> Result<Value, Malformed> {
    match bytes.get(3) {
        Some(b':') => Ok(Value::Verbatim(bytes[..3].to_vec(), bytes[4..].to_vec())),
        _ => Err(Malformed("a verbatim string without a format")),
    }
}

/// Writes a command in the form that clients use, an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Splits a line at its spaces: enough for the commands that tests write by hand.
pub fn words(line: &str) -> Argv {
    line.split_ascii_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

/// A blocking connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
    /// Out-of-band messages that came between replies.
    pub pushes: VecDeque<Value>,
}

impl Client {
    /// Connects to a server on this machine.
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Client { stream, buffer: Vec::new(), at: 0, pushes: VecDeque::new() })
    }

    /// The socket below, for tests that send what no client would.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Changes how long a reply may take.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a command without waiting for its reply.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut out = Vec::new();
        encode(args, &mut out);
        self.stream.write_all(&out)
    }

    /// Sends a command and waits for its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.reply()
    }

    /// Sends a command written as words with spaces between them.
    pub fn line(&mut self, line: &str) -> io::Result<Value> {
        self.call(&words(line))
    }

    /// Sends all commands at once and waits for all replies.
    pub fn pipeline(&mut self, commands: &[Argv]) -> io::Result<Vec<Value>> {
        let mut out = Vec::new();
        for args in commands {
            encode(args, &mut out);
        }
        self.stream.write_all(&out)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    /// The next reply; pushes that come before it are kept in `pushes`.
    pub fn reply(&mut self) -> io::Result<Value> {
        loop {
            match self.value()? {
                push @ Value::Push(_) => self.pushes.push_back(push),
                value => return Ok(value),
            }
        }
    }

    /// The next push, whether it has already come or not.
    pub fn push(&mut self) -> io::Result<Value> {
        match self.pushes.pop_front() {
            Some(push) => Ok(push),
            None => self.value(),
        }
    }

    /// The next value of any kind.
    pub fn value(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, len)) = parse(&self.buffer[self.at..])? {
                self.at += len;
                if self.at == self.buffer.len() {
                    self.buffer.clear();
                    self.at = 0;
                }
                return Ok(value);
            }
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                // With a time-out set, a process that is stopped and goes on has its read interrupted.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let map = Value::Map(vec![(Value::bulk("a"), Value::Int(-1))]);
        for (bytes, value) in [
            (&b"+OK\r\n"[..], Value::Simple(b"OK".to_vec())),
            (b"-ERR no\r\n", Value::Error(b"ERR no".to_vec())),
            (b"$0\r\n\r\n", Value::bulk("")),
            (b"$4\r\na\r\nb\r\n", Value::bulk("a\r\nb")),
            (b"$-1\r\n", Value::Null),
            (b"_\r\n", Value::Null),
            (b"*-1\r\n", Value::NullArray),
            (b"*2\r\n:1\r\n#t\r\n", Value::Array(vec![Value::Int(1), Value::Bool(true)])),
            (b"%1\r\n$1\r\na\r\n:-1\r\n", map),
            (b"~1\r\n,inf\r\n", Value::Set(vec![Value::Double(b"inf".to_vec())])),
            (b">1\r\n+x\r\n", Value::Push(vec![Value::Simple(b"x".to_vec())])),
            (b"=5\r\ntxt:x\r\n", Value::Verbatim(b"txt".to_vec(), b"x".to_vec())),
            (b"(12345678901234567890\r\n", Value::BigNumber(b"12345678901234567890".to_vec())),
        ] {
            assert_eq!(parse(bytes), Ok(Some((value, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{:?}", &bytes[..cut]);
            }
        }
    }

    #[test]
    fn refuses_what_is_not_resp() {
        for bytes in [&b"hello\r\n"[..], b":x\r\n", b"$1\r\nabc", b"*-2\r\n", b"#x\r\n", b"\r\n"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&b"*1\r\n".repeat(1_000)).is_err());
    }
}
