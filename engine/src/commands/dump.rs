//! DUMP and RESTORE: a key's value in Redis's own form.

use super::generic::is;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::access::{self, AccessScheme};
use crate::number;
use crate::rdb;
use crate::reply::Reply;

const RESTORE_SYNTAX: &str = "key ttl:integer serialized-value [REPLACE] [ABSTTL] \
                              [IDLETIME seconds:integer] [FREQ frequency:integer]";

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("DUMP", 2, Group::Generic, dump)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("2.6.0", "O(N) for N elements", "Returns a key's value in a form for RESTORE."),
    Command::new("RESTORE", -4, Group::Generic, restore)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::DANGEROUS))
        .keys(Keys::FIRST)
        .syntax(RESTORE_SYNTAX)
        .docs("2.6.0", "O(N) for N elements", "Creates a key from what DUMP returned."),
    Command::new("RESTORE-ASKING", -4, Group::Server, restore)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::DANGEROUS))
        .categories(&["keyspace"])
        .keys(Keys::FIRST)
        .syntax(RESTORE_SYNTAX)
        .docs("3.0.0", "O(N) for N elements", "RESTORE, for a slot that moves between nodes."),
];

fn dump(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut payload = Vec::new();
    let now_ms = cx.now_ms();
    if cx.get(args[1]).is_some_and(|entry| rdb::encode(&entry, now_ms, &mut payload)) {
        rdb::seal(&mut payload);
        reply.bulk(&payload);
    } else {
        reply.null();
    }
    Ok(())
}

/// What RESTORE was asked besides the value.
#[derive(Default)]
struct Options {
    replace: bool,
    is_absolute: bool,
    idle_seconds: Option<i64>,
    frequency: Option<u8>,
}

impl Options {
    fn parse(args: &[&[u8]]) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            match rest.as_slice().first() {
                _ if is(word, "REPLACE") => options.replace = true,
                _ if is(word, "ABSTTL") => options.is_absolute = true,
                Some(value) if is(word, "IDLETIME") && options.frequency.is_none() => {
                    let seconds = number::parse_i64(value).ok_or(Error::NotInteger)?;
                    if seconds < 0 {
                        return Err(Error::text("ERR Invalid IDLETIME value, must be >= 0"));
                    }
                    options.idle_seconds = Some(seconds);
                    rest.next();
                }
                Some(value) if is(word, "FREQ") && options.idle_seconds.is_none() => {
                    let counter = number::parse_i64(value).ok_or(Error::NotInteger)?;
                    options.frequency = Some(u8::try_from(counter).map_err(|_| {
                        Error::text("ERR Invalid FREQ value, must be >= 0 and <= 255")
                    })?);
                    rest.next();
                }
                _ => return Err(Error::Syntax),
            }
        }
        Ok(options)
    }

    /// The access data of the key, if it is of the scheme in use.
    fn access(&self, cx: &Cx<'_>) -> Option<u32> {
        match cx.config().access {
            AccessScheme::Recency => {
                let idle_ms = self.idle_seconds?.saturating_mul(1000);
                Some(access::recency(cx.now_ms().saturating_sub(idle_ms)))
            }
            AccessScheme::Frequency => Some(access::frequency_with(self.frequency?, cx.now_ms())),
        }
    }
}

fn restore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let options = Options::parse(&args[4..])?;
    let key = args[1];
    if !options.replace && cx.get_mut(key).is_some() {
        return Err(Error::text("BUSYKEY Target key name already exists.").into());
    }
    let ttl_ms = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    if ttl_ms < 0 {
        return Err(Error::text("ERR Invalid TTL value, must be >= 0").into());
    }
    let (kind, body) =
        rdb::open(args[3]).ok_or(Error::text("ERR DUMP payload version or checksum are wrong"))?;
    let decoded = rdb::decode(kind, body, cx.config());
    let mut decoded = decoded.map_err(|_| Error::text("ERR Bad data format"))?;
    let expiry = match (ttl_ms, options.is_absolute) {
        (0, _) => None,
        (at_ms, true) => Some(at_ms),
        (ttl_ms, false) => Some(cx.now_ms().saturating_add(ttl_ms)),
    };
    if expiry.is_some_and(|at_ms| at_ms <= cx.expiry_now_ms()) {
        if cx.remove(key) {
            cx.tell(&[b"DEL", key]);
            cx.changed(key, Event::GENERIC, "del");
        }
    } else {
        let access = options.access(cx);
        let mut entry = cx.insert(key, decoded.value());
        entry.set_expiry(expiry);
        if let Some(access) = access {
            entry.set_access(access);
        }
        let at_ms = expiry.unwrap_or(0).to_string();
        cx.tell(&[b"RESTORE", key, at_ms.as_bytes(), args[3], b"ABSTTL", b"REPLACE"]);
        cx.changed(key, Event::GENERIC, "restore");
    }
    reply.ok();
    Ok(())
}
