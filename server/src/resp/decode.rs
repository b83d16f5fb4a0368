//! Requests: arrays of bulk strings, or inline commands.
//!
//! [`parse`] takes one request from the bytes that are there and gives out slices of them: no
//! allocation an argument. Where a request has not arrived whole and is large, [`Resume`] goes on
//! from where it stopped instead of reading it again from the start with every packet. Nothing is
//! ever allocated for a length that a header merely claims.

use memchr::memchr;
use std::borrow::Cow;

/// Longest inline request and longest line of a header, bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most arguments of a request. What is kept of one that has not arrived whole grows with what has
/// arrived, which `client-query-buffer-limit` bounds.
pub const ARGS_MAX: i64 = i32::MAX as i64;
/// Most arguments of a request before authentication.
pub const ARGS_MAX_UNAUTHENTICATED: i64 = 10;
/// Longest argument before authentication, bytes.
pub const BULK_MAX_UNAUTHENTICATED: i64 = 16_384;

/// What a connection may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether the client has authenticated, or need not.
    pub authenticated: bool,
    /// `proto-max-bulk-len`
    pub bulk_bytes_max: i64,
}

/// The bytes are no request; the connection is closed after this error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub Cow<'static, str>);

impl ProtocolError {
    const fn new(text: &'static str) -> ProtocolError {
        ProtocolError(Cow::Borrowed(text))
    }
}

type Result<T> = std::result::Result<T, ProtocolError>;

/// What was found at the start of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request of arguments that were appended, and the offset behind it. An empty line and an
    /// empty array have none.
    Request(usize),
    /// An inline request with quotes; its arguments are unquoted by [`split_inline`]. (start, end
    /// of line, offset behind it)
    Inline(usize, usize, usize),
    /// The request has not arrived whole.
    Incomplete,
}

/// Parses the request at offset `at` of `buf`; its arguments are appended to `args`. Where the
/// result is not a request, `args` is as long as before.
#[inline]
pub fn parse<'a>(
    buf: &'a [u8],
    at: usize,
    limits: Limits,
    args: &mut Vec<&'a [u8]>,
) -> Result<Parsed> {
    let before = args.len();
    if let Some(end) = parse_small(buf, at, limits, args) {
        return Ok(Parsed::Request(end));
    }
    args.truncate(before);
    match buf.get(at) {
        None => return Ok(Parsed::Incomplete),
        Some(b'*') => {}
        Some(_) => return inline(buf, at, args),
    }
    let Some((count, mut at)) = array_header(buf, at, limits)? else {
        return Ok(Parsed::Incomplete);
    };
    for _ in 0..count {
        match bulk(buf, at, limits) {
            Ok(Some((start, end))) => {
                args.push(&buf[start..end]);
                at = end + 2;
            }
            Ok(None) => {
                args.truncate(before);
                return Ok(Parsed::Incomplete);
            }
            Err(error) => {
                args.truncate(before);
                return Err(error);
            }
        }
    }
    Ok(Parsed::Request(at))
}

/// Parses a request of fewer than a hundred arguments shorter than a hundred bytes, which most are,
/// if it is whole and correct. Otherwise `None`, and `args` may have been appended to.
#[inline]
fn parse_small<'a>(
    buf: &'a [u8],
    at: usize,
    limits: Limits,
    args: &mut Vec<&'a [u8]>,
) -> Option<usize> {
    if !limits.authenticated || limits.bulk_bytes_max < 99 {
        return None;
    }
    let (count, mut at) = small_header(buf, at, b'*')?;
    for _ in 0..count {
        let (len, start) = small_header(buf, at, b'$')?;
        let end = start + len;
        if buf.len() < end + 2 {
            return None;
        }
        args.push(&buf[start..end]);
        at = end + 2;
    }
    Some(at)
}

/// A header with one or two digits: the number, and the offset behind it.
#[inline(always)]
fn small_header(buf: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let &[first, tens, ones, end] = buf.get(at..)?.first_chunk::<4>()?;
    if first != mark {
        return None;
    }
    let high = usize::from(tens.wrapping_sub(b'0'));
    if ones == b'\r' && high < 10 {
        return Some((high, at + 4));
    }
    let low = usize::from(ones.wrapping_sub(b'0'));
    if end == b'\r' && (1..10).contains(&high) && low < 10 && buf.len() > at + 4 {
        return Some((high * 10 + low, at + 5));
    }
    None
}

/// The number of arguments of the array that starts at `at`, and the offset behind its header.
#[inline]
fn array_header(buf: &[u8], at: usize, limits: Limits) -> Result<Option<(i64, usize)>> {
    const TOO_BIG: ProtocolError =
        ProtocolError::new("ERR Protocol error: too big mbulk count string");
    const INVALID: ProtocolError =
        ProtocolError::new("ERR Protocol error: invalid multibulk length");
    let Some((line, next)) = line(buf, at + 1, TOO_BIG)? else { return Ok(None) };
    let count = length(line).ok_or(INVALID)?;
    if count > ARGS_MAX {
        return Err(INVALID);
    }
    if !limits.authenticated && count > ARGS_MAX_UNAUTHENTICATED {
        return Err(ProtocolError::new("ERR Protocol error: unauthenticated multibulk length"));
    }
    Ok(Some((count.max(0), next)))
}

/// Start and end of the bulk string at `at`, if it and its line break are there.
#[inline]
fn bulk(buf: &[u8], at: usize, limits: Limits) -> Result<Option<(usize, usize)>> {
    let Some((start, len)) = bulk_header(buf, at, limits)? else { return Ok(None) };
    let end = start + len;
    Ok((buf.len() >= end + 2).then_some((start, end)))
}

/// Where the bytes of the bulk string at `at` start, and how many its header claims.
#[inline]
fn bulk_header(buf: &[u8], at: usize, limits: Limits) -> Result<Option<(usize, usize)>> {
    const TOO_BIG: ProtocolError =
        ProtocolError::new("ERR Protocol error: too big bulk count string");
    const INVALID: ProtocolError = ProtocolError::new("ERR Protocol error: invalid bulk length");
    match buf.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(&other) => {
            let shown = if other.is_ascii() { other as char } else { '?' };
            let text = format!("ERR Protocol error: expected '$', got '{shown}'");
            return Err(ProtocolError(text.into()));
        }
    }
    let Some((line, next)) = line(buf, at + 1, TOO_BIG)? else { return Ok(None) };
    let len = length(line).ok_or(INVALID)?;
    if len < 0 || len > limits.bulk_bytes_max {
        return Err(INVALID);
    }
    if !limits.authenticated && len > BULK_MAX_UNAUTHENTICATED {
        return Err(ProtocolError::new("ERR Protocol error: unauthenticated bulk length"));
    }
    Ok(Some((next, len as usize)))
}

/// The line at `at` without its `\r\n`, and the offset behind it.
#[inline]
fn line(buf: &[u8], at: usize, too_long: ProtocolError) -> Result<Option<(&[u8], usize)>> {
    // Headers are a few digits: a plain loop beats a call of memchr.
    let rest = buf.get(at..).unwrap_or(&[]);
    let near = rest.iter().take(24).position(|byte| *byte == b'\r');
    match near.or_else(|| memchr(b'\r', &rest[..rest.len().min(LINE_BYTES_MAX)])) {
        Some(end) if at + end + 2 <= buf.len() => Ok(Some((&rest[..end], at + end + 2))),
        Some(_) => Ok(None),
        None if rest.len() >= LINE_BYTES_MAX => Err(too_long),
        None => Ok(None),
    }
}

/// A length as a header gives it: a canonical decimal number.
#[inline]
fn length(digits: &[u8]) -> Option<i64> {
    match *digits {
        [a @ b'0'..=b'9'] => Some(i64::from(a - b'0')),
        [a @ b'1'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => ashlar_engine::number::parse_i64(digits),
    }
}

fn inline<'a>(buf: &'a [u8], at: usize, args: &mut Vec<&'a [u8]>) -> Result<Parsed> {
    let rest = &buf[at..];
    let Some(end) = memchr(b'\n', &rest[..rest.len().min(LINE_BYTES_MAX)]) else {
        if rest.len() >= LINE_BYTES_MAX {
            return Err(ProtocolError::new("ERR Protocol error: too big inline request"));
        }
        return Ok(Parsed::Incomplete);
    };
    let text = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    if memchr::memchr3(b'"', b'\'', 0, text).is_some() {
        return Ok(Parsed::Inline(at, at + text.len(), at + end + 1));
    }
    args.extend(text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()));
    Ok(Parsed::Request(at + end + 1))
}

/// The arguments of an inline request, with the quoting that redis-cli uses.
///
/// # Errors
/// Where quotes are not balanced.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>> {
    const UNBALANCED: ProtocolError =
        ProtocolError::new("ERR Protocol error: unbalanced quotes in request");
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0);
        let Some(start) = start else { return Ok(words) };
        let (word, next) = inline_word(&rest[start..]).ok_or(UNBALANCED)?;
        words.push(word);
        rest = &rest[start + next..];
    }
}

/// The word at the start of `text` and the offset behind it.
fn inline_word(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut word = Vec::new();
    let mut at = 0;
    let mut quote = None;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match (quote, byte) {
            (Some(open), close) if open == close => {
                // A closing quote ends its word.
                return match text.get(at) {
                    Some(next) if !next.is_ascii_whitespace() => None,
                    _ => Some((word, at)),
                };
            }
            (Some(b'"'), b'\\') => {
                let (byte, used) = escape(&text[at..])?;
                word.push(byte);
                at += used;
            }
            (Some(b'\''), b'\\') if text.get(at) == Some(&b'\'') => {
                word.push(b'\'');
                at += 1;
            }
            (Some(_), byte) => word.push(byte),
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, byte) if byte.is_ascii_whitespace() || byte == 0 => return Some((word, at)),
            (None, byte) => word.push(byte),
        }
    }
    quote.is_none().then_some((word, at))
}

/// The byte that an escape stands for, and how many bytes follow the backslash.
fn escape(text: &[u8]) -> Option<(u8, usize)> {
    let hex = |at: usize| text.get(at).and_then(|digit| (*digit as char).to_digit(16));
    if let (Some(b'x'), Some(high), Some(low)) = (text.first(), hex(1), hex(2)) {
        return Some(((high * 16 + low) as u8, 3));
    }
    let byte = match *text.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    Some((byte, 1))
}

/// A large request that arrives in pieces.
#[derive(Debug, Default)]
pub struct Resume {
    spans: Vec<(usize, usize)>,
    left: i64,
    at: usize,
}

impl Resume {
    /// Goes on with the request that starts at the front of `buf`, which only ever grows. `true`
    /// once it is whole: then its arguments are at [`Resume::spans`] and it ends at
    /// [`Resume::end`].
    ///
    /// # Errors
    /// Where the bytes are no request.
    pub fn advance(&mut self, buf: &[u8], limits: Limits) -> Result<bool> {
        if self.at == 0 {
            let Some((count, next)) = array_header(buf, 0, limits)? else { return Ok(false) };
            (self.left, self.at) = (count, next);
        }
        while self.left > 0 {
            let Some((start, end)) = bulk(buf, self.at, limits)? else { return Ok(false) };
            self.spans.push((start, end));
            self.at = end + 2;
            self.left -= 1;
        }
        Ok(true)
    }

    /// Start and end of each argument.
    pub fn spans(&self) -> &[(usize, usize)] {
        &self.spans
    }

    /// The offset behind the request.
    pub fn end(&self) -> usize {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Limits = Limits { authenticated: true, bulk_bytes_max: 512 << 20 };
    const CLOSED: Limits = Limits { authenticated: false, bulk_bytes_max: 512 << 20 };

    fn error(bytes: &[u8], limits: Limits) -> String {
        parse(bytes, 0, limits, &mut Vec::new()).unwrap_err().0.into_owned()
    }

    #[test]
    fn a_request_is_slices_of_the_buffer() {
        let buf = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n";
        let mut args = Vec::new();
        assert_eq!(parse(buf, 0, OPEN, &mut args), Ok(Parsed::Request(20)));
        assert_eq!(args, [b"GET".as_slice(), b"k"]);
        assert_eq!(parse(buf, 20, OPEN, &mut args), Ok(Parsed::Request(buf.len())));
        assert_eq!(args.len(), 3);
    }

    #[test]
    fn every_prefix_is_incomplete_and_resumes() {
        let buf = b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\nhello\r\nworld\r\n";
        let mut resume = Resume::default();
        for end in 0..buf.len() {
            let mut args = Vec::new();
            assert_eq!(parse(&buf[..end], 0, OPEN, &mut args), Ok(Parsed::Incomplete), "{end}");
            assert!(args.is_empty());
            assert!(!resume.advance(&buf[..end], OPEN).unwrap());
        }
        assert!(resume.advance(buf, OPEN).unwrap());
        assert_eq!(resume.end(), buf.len());
        let (start, end) = resume.spans()[2];
        assert_eq!(&buf[start..end], b"hello\r\nworld");
    }

    #[test]
    fn bad_headers_get_redis_texts() {
        assert_eq!(error(b"*x\r\n", OPEN), "ERR Protocol error: invalid multibulk length");
        assert_eq!(error(b"*2147483648\r\n", OPEN), "ERR Protocol error: invalid multibulk length");
        assert_eq!(error(b"*1\r\nfoo", OPEN), "ERR Protocol error: expected '$', got 'f'");
        assert_eq!(error(b"*1\r\n$-1\r\n", OPEN), "ERR Protocol error: invalid bulk length");
        assert_eq!(error(b"*1\r\n$abc\r\n", OPEN), "ERR Protocol error: invalid bulk length");
        let long = [b"*".as_slice(), &[b'1'; LINE_BYTES_MAX + 1]].concat();
        assert_eq!(error(&long, OPEN), "ERR Protocol error: too big mbulk count string");
        let long = vec![b'a'; LINE_BYTES_MAX + 1];
        assert_eq!(error(&long, OPEN), "ERR Protocol error: too big inline request");
        let many = "ERR Protocol error: unauthenticated multibulk length";
        assert_eq!(error(b"*11\r\n", CLOSED), many);
        let large = "ERR Protocol error: unauthenticated bulk length";
        assert_eq!(error(b"*1\r\n$16385\r\n", CLOSED), large);
        let many = b"*2147483647\r\n$1\r\na\r\n";
        assert_eq!(parse(many, 0, OPEN, &mut Vec::new()), Ok(Parsed::Incomplete));
        assert_eq!(parse(b"*-1\r\n", 0, OPEN, &mut Vec::new()), Ok(Parsed::Request(5)));
    }

    #[test]
    fn inline_words_are_unquoted() {
        let words = split_inline(b" set  k \"a\\x41\\n b\" 'c\\'d' ").unwrap();
        let expected: [&[u8]; 4] = [b"set", b"k", b"aA\n b", b"c'd"];
        assert_eq!(words, expected);
        assert_eq!(split_inline(b"").unwrap().len(), 0);
        assert!(split_inline(b"set \"k").is_err());
        assert!(split_inline(b"set \"k\"x").is_err());
        let mut args = Vec::new();
        assert_eq!(parse(b"SET  k v\r\n", 0, OPEN, &mut args), Ok(Parsed::Request(10)));
        assert_eq!(args, [b"SET".as_slice(), b"k", b"v"]);
        assert_eq!(parse(b"ECHO \"\"\n", 0, OPEN, &mut args), Ok(Parsed::Inline(0, 7, 8)));
    }
}
