//! Replies, written as RESP while the command runs.
//!
//! A command says what its reply is; this turns it into bytes of the protocol that the client
//! speaks, straight into the buffer that goes to the socket. RESP2 has no maps, doubles, booleans
//! or sets: they become what Redis makes of them.

use crate::error::Error;
use crate::number;

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, the default of every connection.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// The reply of one command.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
    start: usize,
    too_long: bool,
}

/// Bytes of a reply beyond which nothing more is added to it: the same value asked for a million
/// times over must not fill the memory.
pub const REPLY_BYTES_MAX: usize = 1 << 30;
/// The error that takes the place of a reply that is too long.
pub const TOO_LONG: &str = "ERR the reply is longer than 1 GiB";

/// Where the length of a collection is to be filled in.
#[derive(Debug)]
#[must_use]
pub struct Deferred {
    at: usize,
    kind: Collection,
}

#[derive(Clone, Copy, Debug)]
enum Collection {
    Array,
    Map,
    Set,
}

impl<'a> Reply<'a> {
    /// A reply that is appended to `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Reply<'a> {
        let start = out.len();
        Reply { out, protocol, start, too_long: false }
    }

    /// The protocol the client speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether the client speaks RESP3.
    pub fn is_resp3(&self) -> bool {
        self.protocol == Protocol::Resp3
    }

    /// Changes the protocol of what follows (HELLO).
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.out.len() - self.start
    }

    /// Whether more was to be written than [`REPLY_BYTES_MAX`]: then it is not whole.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Takes back all that was written.
    pub fn discard(&mut self) {
        self.too_long = false;
        self.out.truncate(self.start);
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string: short, without line breaks.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error; everything written before is taken back.
    pub fn error(&mut self, error: &Error) {
        self.discard();
        self.error_element(error);
    }

    /// An error as an element of the reply.
    pub fn error_element(&mut self, error: &Error) {
        self.out.push(b'-');
        self.out.extend_from_slice(error.bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A string of bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        if self.written() > REPLY_BYTES_MAX {
            self.too_long = true;
            return;
        }
        self.out.reserve(bytes.len() + 16);
        self.header(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer as a string of bytes.
    pub fn bulk_int(&mut self, int: i64) {
        self.bulk(itoa::Buffer::new().format(int).as_bytes());
    }

    /// An integer.
    pub fn int(&mut self, int: i64) {
        self.header(b':', int);
    }

    /// A floating-point number: a double in RESP3, a string in RESP2.
    pub fn double(&mut self, value: f64) {
        let mut buf = number::FloatBuf::new();
        let text = number::format_f64(&mut buf, value);
        if self.is_resp3() {
            self.out.push(b',');
            self.out.extend_from_slice(text);
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// No value.
    pub fn null(&mut self) {
        self.out.extend_from_slice(if self.is_resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No value, where RESP2 has an array otherwise.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(if self.is_resp3() { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// A truth value: an integer in RESP2.
    pub fn boolean(&mut self, value: bool) {
        let text: &[u8] = match (self.is_resp3(), value) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        };
        self.out.extend_from_slice(text);
    }

    /// A text with its format (`txt`, `mkd`); a plain string in RESP2.
    pub fn verbatim(&mut self, format: &str, text: &str) {
        if !self.is_resp3() {
            return self.bulk(text.as_bytes());
        }
        self.header(b'=', text.len() as i64 + 4);
        self.out.extend_from_slice(format.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// The start of an array of `len` replies.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The start of a map of `len` pairs: an array of twice as many in RESP2.
    pub fn map(&mut self, len: usize) {
        if self.is_resp3() {
            self.header(b'%', len as i64);
        } else {
            self.header(b'*', 2 * len as i64);
        }
    }

    /// The start of a set of `len` replies: an array in RESP2.
    pub fn set(&mut self, len: usize) {
        self.header(if self.is_resp3() { b'~' } else { b'*' }, len as i64);
    }

    /// The start of an out-of-band message of `len` parts: an array in RESP2.
    pub fn push(&mut self, len: usize) {
        self.header(if self.is_resp3() { b'>' } else { b'*' }, len as i64);
    }

    /// The start of an array whose length is known later.
    pub fn deferred_array(&mut self) -> Deferred {
        Deferred { at: self.out.len(), kind: Collection::Array }
    }

    /// The start of a map whose number of pairs is known later.
    pub fn deferred_map(&mut self) -> Deferred {
        Deferred { at: self.out.len(), kind: Collection::Map }
    }

    /// The start of a set whose length is known later.
    pub fn deferred_set(&mut self) -> Deferred {
        Deferred { at: self.out.len(), kind: Collection::Set }
    }

    /// Fills in the length of a collection that was deferred.
    pub fn close(&mut self, deferred: Deferred, len: usize) {
        let end = self.out.len();
        match deferred.kind {
            Collection::Array => self.array(len),
            Collection::Map => self.map(len),
            Collection::Set => self.set(len),
        }
        let header = self.out.len() - end;
        self.out[deferred.at..].rotate_right(header);
    }

    /// Bytes that are RESP already.
    pub fn raw(&mut self, bytes: &[u8]) {
        if self.written() > REPLY_BYTES_MAX {
            self.too_long = true;
            return;
        }
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    fn header(&mut self, mark: u8, number: i64) {
        if (0..10).contains(&number) {
            self.out.extend_from_slice(&[mark, b'0' + number as u8, b'\r', b'\n']);
            return;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        self.out.push(mark);
        self.out.extend_from_slice(digits);
        self.out.extend_from_slice(b"\r\n");
    }
}
