//! What the own load client sends: a few commands, the same for every server.

use std::io::Write as _;

use crate::catalogue::KEYSPACE;
use crate::client::Client;
use crate::protocol::{Protocol, command};

/// A command of the own load client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads a random key, which is there.
    Get,
    /// Writes a random key.
    Set,
    /// Adds a random member with a random score to one sorted set.
    Zadd,
}

/// A stream of commands over random keys; the same seed gives every server the same ones.
#[derive(Clone, Debug)]
pub struct Work {
    /// The command.
    pub op: Op,
    value: Vec<u8>,
    random: u64,
}

impl Op {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Op::Get => "GET",
            Op::Set => "SET",
            Op::Zadd => "ZADD",
        }
    }
}

impl Work {
    /// Commands `op` with values of `size` bytes.
    pub fn new(op: Op, size: usize) -> Self {
        Work { op, value: vec![b'x'; size], random: 0x9E37_79B9_7F4A_7C15 }
    }

    /// Puts in every key, where the commands read them.
    pub fn prepare(&self, client: &mut Client, protocol: Protocol) -> Result<(), String> {
        if protocol == Protocol::Resp {
            client.call(&["FLUSHALL", "SYNC"])?;
        }
        let set = Work { op: Op::Set, ..self.clone() };
        let count = if self.op == Op::Get { KEYSPACE } else { 0 };
        client.fill(count, |out, index| set.write(protocol, index, 0, out))
    }

    /// Appends the next command.
    pub fn next(&mut self, protocol: Protocol, out: &mut Vec<u8>) {
        // xorshift64 (Marsaglia, 2003): cheap, and good enough to choose keys.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.write(protocol, (self.random >> 32) % KEYSPACE, (self.random & 0xFFFF) % 10_000, out);
    }

    fn write(&self, protocol: Protocol, key: u64, score: u64, out: &mut Vec<u8>) {
        let mut name = *b"key:000000000000";
        let mut rest = key;
        for digit in name.iter_mut().rev().take(12) {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        match (protocol, self.op) {
            (Protocol::Resp, Op::Get) => command(out, &[b"GET", &name]),
            (Protocol::Resp, Op::Set) => command(out, &[b"SET", &name, &self.value]),
            (Protocol::Resp, Op::Zadd) => {
                command(out, &[b"ZADD", b"myzset", score.to_string().as_bytes(), &name]);
            }
            (Protocol::Memcached, Op::Get) => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(&name);
                out.extend_from_slice(b"\r\n");
            }
            (Protocol::Memcached, _) => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(&name);
                // Writing to a Vec does not fail.
                let _ = write!(out, " 0 0 {}\r\n", self.value.len());
                out.extend_from_slice(&self.value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_name_the_same_key() {
        let work = Work::new(Op::Set, 3);
        let mut out = Vec::new();
        work.write(Protocol::Memcached, 42, 0, &mut out);
        assert_eq!(out, b"set key:000000000042 0 0 3\r\nxxx\r\n");
        out.clear();
        work.write(Protocol::Resp, 42, 0, &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nxxx\r\n");
    }
}
