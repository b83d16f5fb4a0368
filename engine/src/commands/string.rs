//! Strings: reading and setting whole values. Counters, edits and LCS have files of their own.

use super::set_options::{Condition, Form, SetOptions};
use crate::command::{Command, Flags, Group, KeyList, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::NewValue;
use crate::value::packed::IntBuf;
pub(crate) use crate::value::string::string;

const WRITE: Flags = Flags::WRITE.union(Flags::DENYOOM);
/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("GET", 2, Group::String, get)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the string value of a key."),
    Command::new("SET", -3, Group::String, set)
        .flags(WRITE.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax(
            "key value [NX|XX] [GET] [EX seconds:integer|PX milliseconds:integer|\
             EXAT unix-time-seconds:unix-time|PXAT unix-time-milliseconds:unix-time|KEEPTTL]",
        )
        .docs("1.0.0", "O(1)", "Sets the string value of a key, whatever it held."),
    Command::new("SETNX", 3, Group::String, setnx)
        .flags(WRITE.union(Flags::FAST).union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key value")
        .docs("1.0.0", "O(1)", "Sets the string value of a key that does not exist."),
    Command::new("SETEX", 4, Group::String, setex)
        .flags(WRITE.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key seconds:integer value")
        .docs("2.0.0", "O(1)", "Sets the string value of a key and its lifetime in seconds."),
    Command::new("PSETEX", 4, Group::String, psetex)
        .flags(WRITE.union(Flags::BLIND))
        .keys(Keys::FIRST)
        .syntax("key milliseconds:integer value")
        .docs("2.6.0", "O(1)", "Sets the string value of a key and its lifetime in milliseconds."),
    Command::new("GETSET", 3, Group::String, getset)
        .flags(WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key value")
        .docs("1.0.0", "O(1)", "Returns the string value of a key and sets a new one."),
    Command::new("GETDEL", 2, Group::String, getdel)
        .flags(Flags::WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("6.2.0", "O(1)", "Returns the string value of a key and deletes the key."),
    Command::new("GETEX", -2, Group::String, getex)
        .flags(Flags::WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax(
            "key [EX seconds:integer|PX milliseconds:integer|EXAT unix-time-seconds:unix-time|\
             PXAT unix-time-milliseconds:unix-time|PERSIST]",
        )
        .docs("6.2.0", "O(1)", "Returns the string value of a key and sets its lifetime."),
    Command::new("MGET", -2, Group::String, mget)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("1.0.0", "O(N) for N keys", "Returns the string values of several keys."),
    Command::new("MSET", -3, Group::String, mset)
        .flags(WRITE.union(Flags::BLIND))
        .keys(Keys::Range { first: 1, last: -1, step: 2 })
        .syntax("(key value)...")
        .docs("1.0.1", "O(N) for N keys", "Sets the string values of several keys at once."),
    Command::new("MSETNX", -3, Group::String, msetnx)
        .flags(WRITE.union(Flags::BLIND))
        .keys(Keys::Range { first: 1, last: -1, step: 2 })
        .syntax("(key value)...")
        .docs("1.0.1", "O(N) for N keys", "Sets several keys at once if none of them exists."),
    Command::new("MSETEX", -4, Group::String, msetex)
        .flags(WRITE.union(Flags::MOVABLE_KEYS).union(Flags::BLIND))
        .keys(Keys::Custom(msetex_keys))
        .syntax(
            "numkeys:integer (key value)... [NX|XX] [EX seconds:integer|PX milliseconds:integer|\
             EXAT unix-time-seconds:unix-time|PXAT unix-time-milliseconds:unix-time|KEEPTTL]",
        )
        .docs("8.4.0", "O(N) for N keys", "Sets several keys and their common lifetime at once."),
];

fn get(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.get(args[1]) {
        Some(entry) => reply.bulk(string(entry, &mut IntBuf::new())?),
        None => reply.null(),
    }
    Ok(())
}

fn set(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, value) = (args[1], args[2]);
    if args.len() == 3 {
        cx.insert(key, NewValue::Str(value));
        cx.changed(key, Event::STRING, "set");
        reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(&args[3..], Form::Set)?;
    let expiry = options.expiry_ms(cx.now_ms(), "set")?;
    if options.get {
        match cx.get(key) {
            Some(entry) => reply.bulk(string(entry, &mut IntBuf::new())?),
            None => reply.null(),
        }
    }
    if let Some(condition) = options.condition
        && cx.exists(key) != (condition == Condition::Exists)
    {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    store(cx, key, value, expiry, options.keep_ttl);
    if !options.get {
        reply.ok();
    }
    Ok(())
}

/// Sets a key with its expiry.
fn store(cx: &mut Cx<'_>, key: &[u8], value: &[u8], expiry: Option<i64>, keep_ttl: bool) {
    if keep_ttl || expiry.is_some() {
        let mut entry = cx.insert_keeping_expiry(key, NewValue::Str(value));
        if expiry.is_some() {
            entry.set_expiry(expiry);
        }
    } else {
        cx.insert(key, NewValue::Str(value));
    }
    cx.changed(key, Event::STRING, "set");
    if let Some(at_ms) = expiry {
        cx.tell(&[b"SET", key, value, b"PXAT", IntBuf::new().format(at_ms).as_bytes()]);
        cx.notify(Event::GENERIC, "expire", key);
    }
}

fn setnx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let absent = !cx.exists(args[1]);
    if absent {
        store(cx, args[1], args[2], None, false);
    }
    reply.int(absent.into());
    Ok(())
}

fn setex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let expiry = SetOptions::seconds(args[2]).expiry_ms(cx.now_ms(), "setex")?;
    store(cx, args[1], args[3], expiry, false);
    reply.ok();
    Ok(())
}

fn psetex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let expiry = SetOptions::milliseconds(args[2]).expiry_ms(cx.now_ms(), "psetex")?;
    store(cx, args[1], args[3], expiry, false);
    reply.ok();
    Ok(())
}

fn getset(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    get(cx, args, reply)?;
    store(cx, args[1], args[2], None, false);
    Ok(())
}

fn getdel(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    get(cx, args, reply)?;
    if cx.remove(args[1]) {
        cx.changed(args[1], Event::GENERIC, "del");
    }
    Ok(())
}

fn getex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let options = SetOptions::parse(&args[2..], Form::GetEx)?;
    let had_expiry = match cx.get(key) {
        None => {
            reply.null();
            return Ok(());
        }
        Some(entry) => {
            reply.bulk(string(entry, &mut IntBuf::new())?);
            entry.expiry().is_some()
        }
    };
    let expiry = options.expiry_ms(cx.now_ms(), "getex")?;
    if options.is_absolute() && expiry.is_some_and(|expiry| expiry <= cx.expiry_now_ms()) {
        cx.remove(key);
        cx.tell(&[b"DEL", key]);
        cx.changed(key, Event::GENERIC, "del");
    } else if let Some(at_ms) = expiry {
        cx.set_expiry(key, expiry);
        cx.tell(&[b"PEXPIREAT", key, IntBuf::new().format(at_ms).as_bytes()]);
        cx.changed(key, Event::GENERIC, "expire");
    } else if options.persist && had_expiry {
        cx.set_expiry(key, None);
        cx.tell(&[b"PERSIST", key]);
        cx.changed(key, Event::GENERIC, "persist");
    }
    Ok(())
}

fn mget(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.array(args.len() - 1);
    for key in &args[1..] {
        let mut buf = IntBuf::new();
        match cx.get(key).map(|entry| string(entry, &mut buf)) {
            Some(Ok(value)) => reply.bulk(value),
            _ => reply.null(),
        }
    }
    Ok(())
}

fn mset(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("mset").into());
    }
    for pair in args[1..].chunks_exact(2) {
        cx.insert(pair[0], NewValue::Str(pair[1]));
        cx.changed(pair[0], Event::STRING, "set");
    }
    reply.ok();
    Ok(())
}

fn msetnx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("msetnx").into());
    }
    let pairs = || args[1..].chunks_exact(2);
    let free = pairs().all(|pair| !cx.exists(pair[0]));
    if free {
        pairs().for_each(|pair| store(cx, pair[0], pair[1], None, false));
    }
    reply.int(free.into());
    Ok(())
}

fn msetex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = number::parse_i64(args[1]).and_then(|count| usize::try_from(count).ok());
    let count = count.filter(|count| (1..=i32::MAX as usize).contains(count));
    let count = count.ok_or(Error::text("ERR invalid numkeys value"))?;
    let (pairs, options) = args[2..]
        .split_at_checked(count * 2)
        .ok_or(Error::text("ERR wrong number of key-value pairs"))?;
    let options = SetOptions::parse(options, Form::MsetEx)?;
    let expiry = options.expiry_ms(cx.now_ms(), "msetex")?;
    if let Some(condition) = options.condition {
        let wanted = condition == Condition::Exists;
        if pairs.chunks_exact(2).any(|pair| cx.exists(pair[0]) != wanted) {
            reply.int(0);
            return Ok(());
        }
    }
    for pair in pairs.chunks_exact(2) {
        store(cx, pair[0], pair[1], expiry, options.keep_ttl);
    }
    reply.int(1);
    Ok(())
}

fn msetex_keys(args: &[&[u8]], keys: &mut KeyList) {
    let count = args.get(1).and_then(|count| number::parse_i64(count));
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    keys.extend((2..args.len()).step_by(2).take(count));
}
