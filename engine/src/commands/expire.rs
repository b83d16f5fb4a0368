//! When keys expire.

use super::generic::is;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::packed::IntBuf;

const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("EXPIRE", -3, Group::Generic, expire)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key seconds:integer [NX|XX|GT|LT]")
        .docs("1.0.0", "O(1)", "Lets a key expire after some seconds."),
    Command::new("PEXPIRE", -3, Group::Generic, pexpire)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key milliseconds:integer [NX|XX|GT|LT]")
        .docs("2.6.0", "O(1)", "Lets a key expire after some milliseconds."),
    Command::new("EXPIREAT", -3, Group::Generic, expireat)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key unix-time-seconds:unix-time [NX|XX|GT|LT]")
        .docs("1.2.0", "O(1)", "Lets a key expire at a second of Unix time."),
    Command::new("PEXPIREAT", -3, Group::Generic, pexpireat)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key unix-time-milliseconds:unix-time [NX|XX|GT|LT]")
        .docs("2.6.0", "O(1)", "Lets a key expire at a millisecond of Unix time."),
    Command::new("TTL", 2, Group::Generic, ttl)
        .flags(READ_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the seconds until a key expires."),
    Command::new("PTTL", 2, Group::Generic, pttl)
        .flags(READ_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("2.6.0", "O(1)", "Returns the milliseconds until a key expires."),
    Command::new("EXPIRETIME", 2, Group::Generic, expiretime)
        .flags(READ_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("7.0.0", "O(1)", "Returns the second of Unix time at which a key expires."),
    Command::new("PEXPIRETIME", 2, Group::Generic, pexpiretime)
        .flags(READ_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("7.0.0", "O(1)", "Returns the millisecond of Unix time at which a key expires."),
    Command::new("PERSIST", 2, Group::Generic, persist)
        .flags(WRITE_FAST.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("2.2.0", "O(1)", "Lets a key stay for ever."),
];

/// How a time is given.
#[derive(Clone, Copy)]
struct Form {
    name: &'static str,
    unit_ms: i64,
    relative: bool,
}

fn expire(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    set(cx, args, reply, Form { name: "expire", unit_ms: 1000, relative: true })
}

fn pexpire(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    set(cx, args, reply, Form { name: "pexpire", unit_ms: 1, relative: true })
}

fn expireat(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    set(cx, args, reply, Form { name: "expireat", unit_ms: 1000, relative: false })
}

fn pexpireat(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    set(cx, args, reply, Form { name: "pexpireat", unit_ms: 1, relative: false })
}

fn set(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>, form: Form) -> CmdResult {
    let condition = Condition::parse(&args[3..])?;
    let time = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let from = if form.relative { cx.now_ms() } else { 0 };
    let at_ms = time.checked_mul(form.unit_ms).and_then(|time| time.checked_add(from));
    let at_ms = at_ms.ok_or_else(|| {
        Error::owned(format!("ERR invalid expire time in '{}' command", form.name))
    })?;
    let (key, now_ms) = (args[1], cx.expiry_now_ms());
    cx.remove_if_expired(key);
    let allowed = cx.key_expiry(key).is_some_and(|old| condition.allows(old, at_ms));
    if allowed && at_ms > now_ms {
        cx.set_expiry(key, Some(at_ms));
    }
    if allowed && at_ms > now_ms {
        cx.tell(&[b"PEXPIREAT", key, IntBuf::new().format(at_ms).as_bytes()]);
        cx.changed(key, Event::GENERIC, "expire");
    } else if allowed {
        cx.remove(key);
        cx.tell(&[b"DEL", key]);
        cx.changed(key, Event::GENERIC, "del");
    }
    reply.int(i64::from(allowed));
    Ok(())
}

/// When an expiry may replace another.
#[derive(Default)]
struct Condition {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Condition {
    fn parse(options: &[&[u8]]) -> Result<Condition, Error> {
        let mut condition = Condition::default();
        for option in options {
            let flag = match option {
                option if is(option, "NX") => &mut condition.nx,
                option if is(option, "XX") => &mut condition.xx,
                option if is(option, "GT") => &mut condition.gt,
                option if is(option, "LT") => &mut condition.lt,
                option => return Err(Error::quoting("ERR Unsupported option {}", &[option])),
            };
            *flag = true;
        }
        let Condition { nx, xx, gt, lt } = condition;
        if nx && (xx || gt || lt) {
            return Err(Error::text(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if gt && lt {
            return Err(Error::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }

    /// No expiry counts as one that is infinitely far away.
    fn allows(&self, old: Option<i64>, new: i64) -> bool {
        !(self.nx && old.is_some()
            || self.xx && old.is_none()
            || self.gt && old.is_none_or(|old| new <= old)
            || self.lt && old.is_some_and(|old| new >= old))
    }
}

fn ttl(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let now_ms = cx.now_ms();
    tell(cx, args, reply, |at_ms| (at_ms - now_ms).max(0).saturating_add(500) / 1000)
}

fn pttl(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let now_ms = cx.now_ms();
    tell(cx, args, reply, |at_ms| (at_ms - now_ms).max(0))
}

fn expiretime(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    tell(cx, args, reply, |at_ms| at_ms.saturating_add(500) / 1000)
}

fn pexpiretime(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    tell(cx, args, reply, |at_ms| at_ms)
}

/// Replies -2 without a key, -1 without an expiry, and otherwise the expiry as `show` has it.
fn tell(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    show: impl Fn(i64) -> i64,
) -> CmdResult {
    reply.int(match cx.look_expiry(args[1]) {
        Some(expiry) => expiry.map_or(-1, show),
        None => -2,
    });
    Ok(())
}

fn persist(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    cx.remove_if_expired(key);
    let persisted = cx.key_expiry(key).flatten().is_some();
    if persisted {
        cx.set_expiry(key, None);
        cx.changed(key, Event::GENERIC, "persist");
    }
    reply.int(i64::from(persisted));
    Ok(())
}
