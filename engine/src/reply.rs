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

/// Longest string that [`Strings`] writes in place.
const SHORT_MAX: usize = 32;
/// Room for the longest such string with its header and line breaks.
const SHORT_ROOM: usize = SHORT_MAX + 7;
/// Bytes that [`Strings`] prepares at a time.
const STRIDE: usize = 4096;

/// Writes many strings, one after the other: see [`Reply::strings`].
#[derive(Debug)]
pub struct Strings<'a> {
    out: &'a mut Vec<u8>,
    /// End of what is written; zeros follow.
    at: usize,
    /// Where the reply has become too long.
    end: usize,
    too_long: &'a mut bool,
}

impl Strings<'_> {
    /// Adds a string.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        let len = bytes.len();
        if len > SHORT_MAX || self.at > self.end {
            return self.push_long(bytes);
        }
        let room = match self.out.get_mut(self.at..).and_then(<[u8]>::first_chunk_mut) {
            Some(room) => room,
            None => self.prepare(),
        };
        let room: &mut [u8; SHORT_ROOM] = room;
        room[0] = b'$';
        let start = if len < 10 {
            (room[1], room[2], room[3]) = (b'0' + len as u8, b'\r', b'\n');
            4
        } else {
            (room[1], room[2]) = (b'0' + (len / 10) as u8, b'0' + (len % 10) as u8);
            (room[3], room[4]) = (b'\r', b'\n');
            5
        };
        copy_short(&mut room[start..], bytes);
        room[start + len..start + len + 2].copy_from_slice(b"\r\n");
        self.at += start + len + 2;
    }

    /// Adds an integer as a string.
    pub fn push_int(&mut self, int: i64) {
        self.push(itoa::Buffer::new().format(int).as_bytes());
    }

    #[cold]
    fn prepare(&mut self) -> &mut [u8; SHORT_ROOM] {
        self.out.resize(self.at + STRIDE, 0);
        let room = self.out[self.at..].first_chunk_mut();
        room.expect("the stride is longer than a short string")
    }

    #[cold]
    fn push_long(&mut self, bytes: &[u8]) {
        if self.at > self.end {
            *self.too_long = true;
            return;
        }
        self.out.truncate(self.at);
        Reply::new(self.out, Protocol::Resp2).bulk(bytes);
        self.at = self.out.len();
    }
}

impl Drop for Strings<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.at);
    }
}

/// Copies at most [`SHORT_MAX`] bytes to the start of `to`, which is longer: with two moves of a
/// fixed size that overlap, not a call of memcpy.
#[inline(always)]
fn copy_short(to: &mut [u8], bytes: &[u8]) {
    #[inline(always)]
    fn both_ends<const N: usize>(to: &mut [u8], bytes: &[u8]) -> bool {
        let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) else {
            return false;
        };
        to[..N].copy_from_slice(first);
        to[bytes.len() - N..bytes.len()].copy_from_slice(last);
        true
    }
    if bytes.len() > 16 {
        both_ends::<16>(to, bytes);
    } else if !both_ends::<8>(to, bytes) && !both_ends::<4>(to, bytes) {
        match *bytes {
            [a, b, c] => to[..3].copy_from_slice(&[a, b, c]),
            [a, b] => to[..2].copy_from_slice(&[a, b]),
            [a] => to[0] = a,
            _ => {}
        }
    }
}

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

    /// Writes many strings; the header of their array is there already. Faster for short ones than
    /// [`Reply::bulk`] for each.
    pub fn strings(&mut self) -> Strings<'_> {
        let (at, end) = (self.out.len(), self.start.saturating_add(REPLY_BYTES_MAX));
        Strings { out: self.out, at, end, too_long: &mut self.too_long }
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
        match number {
            0..10 => {
                self.out.extend_from_slice(&[mark, b'0' + number as u8, b'\r', b'\n']);
            }
            10..100 => {
                let (tens, ones) = (b'0' + (number / 10) as u8, b'0' + (number % 10) as u8);
                self.out.extend_from_slice(&[mark, tens, ones, b'\r', b'\n']);
            }
            number => {
                // The longest number with its mark and line break, written whole and cut back.
                let mut line = [0; 24];
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(number).as_bytes();
                line[0] = mark;
                copy_short(&mut line[1..], digits);
                line[1 + digits.len()..3 + digits.len()].copy_from_slice(b"\r\n");
                let end = self.out.len() + digits.len() + 3;
                self.out.extend_from_slice(&line);
                self.out.truncate(end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_strings_are_written_as_one_by_one() {
        let text: Vec<u8> = (0..200).collect();
        for count in [0, 1, 7, 400] {
            let (mut many, mut single) = (b"+before\r\n".to_vec(), b"+before\r\n".to_vec());
            let (mut reply, mut other) =
                (Reply::new(&mut many, Protocol::Resp2), Reply::new(&mut single, Protocol::Resp2));
            let mut strings = reply.strings();
            for nth in 0..count {
                strings.push(&text[..nth * 7 % 101]);
                strings.push_int(nth as i64 - 5);
                other.bulk(&text[..nth * 7 % 101]);
                other.bulk_int(nth as i64 - 5);
            }
            drop(strings);
            reply.ok();
            other.ok();
            assert!(many == single);
        }
    }

    #[test]
    fn integers_of_every_length() {
        let mut int = 1i64;
        for _ in 0..19 {
            for value in [int - 1, int, -int, int.wrapping_mul(9), i64::MIN, i64::MAX] {
                let mut out = Vec::new();
                Reply::new(&mut out, Protocol::Resp2).int(value);
                assert_eq!(out, format!(":{value}\r\n").into_bytes());
            }
            int = int.wrapping_mul(10);
        }
    }
}
