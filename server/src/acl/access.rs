//! How a command uses its keys: what `%R~` and `%W~` are about.
//!
//! To read is to return or copy what a key holds, to write is to change it. A command that only
//! tells whether a key is there, or how long its value is, needs neither. What follows from the
//! flags READONLY and WRITE is not listed here; the exceptions are those of Redis.

use ashlar_engine::command::{Command, Flags, KeyList};

/// What a key is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it holds is returned or copied.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

const NONE: Access = Access { read: false, write: false };
const R: Access = Access { read: true, write: false };
const W: Access = Access { read: false, write: true };
const RW: Access = Access { read: true, write: true };

/// Writers that return nothing of what was there.
const WRITE_ONLY: &[&str] = &[
    "APPEND",
    "DEL",
    "EXPIRE",
    "EXPIREAT",
    "GEOADD",
    "HDEL",
    "HEXPIRE",
    "HEXPIREAT",
    "HMSET",
    "HPERSIST",
    "HPEXPIRE",
    "HPEXPIREAT",
    "HSET",
    "HSETEX",
    "HSETNX",
    "LINSERT",
    "LPUSH",
    "LPUSHX",
    "LREM",
    "LSET",
    "LTRIM",
    "MSET",
    "MSETEX",
    "MSETNX",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PFADD",
    "PSETEX",
    "RESTORE",
    "RESTORE-ASKING",
    "RPUSH",
    "RPUSHX",
    "SADD",
    "SETEX",
    "SETNX",
    "SETRANGE",
    "SREM",
    "UNLINK",
    "XACK",
    "XACKDEL",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XDEL",
    "XDELEX",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    // Subcommands of XGROUP.
    "CREATE",
    "CREATECONSUMER",
    "DELCONSUMER",
    "DESTROY",
    "SETID",
];

/// Readers that tell about a value without returning any of it.
const NEITHER: &[&str] = &[
    "EXISTS",
    "HEXISTS",
    "HLEN",
    "HSTRLEN",
    "LLEN",
    "SCARD",
    "SISMEMBER",
    "STRLEN",
    "TOUCH",
    "TYPE",
    "WATCH",
    "XLEN",
    "ZCARD",
    // Subcommands of MEMORY and OBJECT.
    "USAGE",
    "ENCODING",
    "FREQ",
    "IDLETIME",
    "REFCOUNT",
];

/// What a call needs its keys for, in the order of their positions.
pub fn accesses(command: &Command, args: &[&[u8]], keys: &KeyList) -> AccessList {
    let (first, rest) = match command.name {
        "BITOP" | "GEOSEARCHSTORE" | "SDIFFSTORE" | "SINTERSTORE" | "SUNIONSTORE"
        | "ZDIFFSTORE" | "ZINTERSTORE" | "ZRANGESTORE" | "ZUNIONSTORE" => (W, R),
        "BLMOVE" | "BRPOPLPUSH" | "LMOVE" | "RENAME" | "RENAMENX" | "RPOPLPUSH" | "SMOVE" => {
            (RW, W)
        }
        "COPY" | "GEORADIUS" | "GEORADIUSBYMEMBER" | "SORT" => (R, W),
        "PFMERGE" => (RW, R),
        "XREADGROUP" | "PFDEBUG" => (R, R),
        // Only with GET does SET return what was there.
        "SET" if !has_option(args, 3, b"GET") => (W, W),
        "BITFIELD" if !has_option(args, 2, b"SET") && !has_option(args, 2, b"INCRBY") => (R, R),
        name if WRITE_ONLY.contains(&name) => (W, W),
        name if NEITHER.contains(&name) => (NONE, NONE),
        _ if command.flags.contains(Flags::WRITE) => (RW, RW),
        _ if command.flags.contains(Flags::READONLY) => (R, R),
        // Scripts: what they do with their keys is not known ahead.
        _ => (RW, RW),
    };
    AccessList { first, rest, count: keys.len() }
}

/// The uses of a call's keys.
#[derive(Clone, Copy, Debug)]
pub struct AccessList {
    first: Access,
    rest: Access,
    count: usize,
}

impl AccessList {
    /// Of each key.
    pub fn iter(self) -> impl Iterator<Item = Access> {
        (0..self.count).map(move |nth| if nth == 0 { self.first } else { self.rest })
    }
}

fn has_option(args: &[&[u8]], from: usize, option: &[u8]) -> bool {
    args.iter().skip(from).any(|arg| arg.eq_ignore_ascii_case(option))
}

/// The channels of a command for publish and subscribe: positions, and whether they are patterns.
pub fn channels(name: &str, count: usize) -> (std::ops::Range<usize>, bool) {
    match name {
        "SUBSCRIBE" | "SSUBSCRIBE" => (1..count, false),
        "PSUBSCRIBE" => (1..count, true),
        "PUBLISH" | "SPUBLISH" => (1..2.min(count), false),
        _ => (0..0, false),
    }
}

/// The option of SORT that reads keys which are no arguments, if there is one: `BY` with a pattern,
/// or `GET`.
pub fn sort_pattern(name: &str, args: &[&[u8]]) -> Option<&'static str> {
    if name != "SORT" && name != "SORT_RO" {
        return None;
    }
    let is = |at: usize, option: &[u8]| args[at].eq_ignore_ascii_case(option);
    let mut at = 2;
    while at < args.len() {
        if is(at, b"GET") && at + 1 < args.len() {
            return Some("GET");
        }
        if is(at, b"BY") && args.get(at + 1).is_some_and(|pattern| pattern.contains(&b'*')) {
            return Some("BY");
        }
        at += match () {
            () if is(at, b"LIMIT") => 3,
            () if is(at, b"BY") || is(at, b"STORE") => 2,
            () => 1,
        };
    }
    None
}
