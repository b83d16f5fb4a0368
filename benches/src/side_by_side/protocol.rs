//! The two protocols, as far as a load client needs them: commands are written, replies are skipped.

use std::io::Write as _;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Redis's protocol, version 2.
    Resp,
    /// memcached's text protocol.
    Memcached,
}

/// What stands at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole reply of that many bytes.
    Whole(usize),
    /// A whole reply of that many bytes, and it is an error.
    Error(usize),
    /// The start of a reply, so far.
    Partial,
    /// Nothing that this protocol knows.
    Garbage,
}

/// Elements of a reply that this client believes in.
const ELEMENTS_MAX: i64 = 1 << 24;

/// Appends a RESP command.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "*{}\r\n", args.len());
    for arg in args {
        let _ = write!(out, "${}\r\n", arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

impl Protocol {
    /// Looks at the first reply in `bytes`.
    pub fn scan(self, bytes: &[u8]) -> Scan {
        match self {
            Protocol::Resp => scan_resp(bytes),
            Protocol::Memcached => scan_memcached(bytes),
        }
    }
}

fn scan_resp(bytes: &[u8]) -> Scan {
    let (mut at, mut open) = (0, 1i64);
    while open > 0 {
        let Some(line) = line(bytes, at) else { return Scan::Partial };
        let Some((&kind, rest)) = line.split_first() else { return Scan::Garbage };
        at += line.len() + 2;
        open -= 1;
        match (kind, number(rest)) {
            (b'+' | b':' | b',' | b'_' | b'#' | b'(', _) => {}
            (b'-', _) => return Scan::Error(at),
            (b'$' | b'*' | b'~' | b'%' | b'>', Some(-1)) => {}
            (b'$' | b'=', Some(len @ 0..)) => at += len as usize + 2,
            (b'*' | b'~' | b'>', Some(count @ 0..=ELEMENTS_MAX)) => open += count,
            (b'%', Some(count @ 0..=ELEMENTS_MAX)) => open += 2 * count,
            _ => return Scan::Garbage,
        }
    }
    if at <= bytes.len() { Scan::Whole(at) } else { Scan::Partial }
}

/// The reply to a `get` is a run of values, then `END`.
fn scan_memcached(bytes: &[u8]) -> Scan {
    let mut at = 0;
    loop {
        let Some(line) = line(bytes, at) else { return Scan::Partial };
        let end = at + line.len() + 2;
        if !line.starts_with(b"VALUE ") {
            let good = matches!(line, b"END" | b"STORED");
            return if good { Scan::Whole(end) } else { Scan::Error(end) };
        }
        match line.rsplit(|&byte| byte == b' ').next().and_then(number) {
            Some(len @ 0..=ELEMENTS_MAX) => at = end + len as usize + 2,
            _ => return Scan::Garbage,
        }
    }
}

/// The line that starts at `at`, without its end.
fn line(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let len = rest.iter().position(|&byte| byte == b'\r')?;
    (rest.get(len + 1) == Some(&b'\n')).then(|| &rest[..len])
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_reply_is_partial() {
        let replies: [(Protocol, &[u8]); 8] = [
            (Protocol::Resp, b"+OK\r\n"),
            (Protocol::Resp, b"$-1\r\n"),
            (Protocol::Resp, b"$5\r\na\r\nbc\r\n"),
            (Protocol::Resp, b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n"),
            (Protocol::Resp, b"%1\r\n+a\r\n_\r\n"),
            (Protocol::Memcached, b"STORED\r\n"),
            (Protocol::Memcached, b"END\r\n"),
            (Protocol::Memcached, b"VALUE k 0 5\r\na\r\nbc\r\nVALUE j 0 0\r\n\r\nEND\r\n"),
        ];
        for (protocol, reply) in replies {
            for cut in 0..reply.len() {
                assert_eq!(protocol.scan(&reply[..cut]), Scan::Partial, "{cut} of {reply:?}");
            }
            assert_eq!(protocol.scan(reply), Scan::Whole(reply.len()));
            assert_eq!(protocol.scan(&[reply, b"+"].concat()), Scan::Whole(reply.len()));
        }
    }

    #[test]
    fn errors_and_garbage_are_told_apart() {
        assert_eq!(Protocol::Resp.scan(b"-ERR no\r\n"), Scan::Error(9));
        assert_eq!(Protocol::Resp.scan(b"hello\r\n"), Scan::Garbage);
        assert_eq!(Protocol::Memcached.scan(b"ERROR\r\n"), Scan::Error(7));
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"GET", b"key"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
    }
}
