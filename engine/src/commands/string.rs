//! Strings.

use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::{EntryRef, Kind};
use crate::number;
use crate::reply::Reply;
use crate::value::packed::IntBuf;
use crate::value::{NewValue, Value};

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("GET", 2, Group::String, get)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the string value of a key."),
    Command::new("SET", -3, Group::String, set)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax(
            "key value [NX|XX] [GET] [EX seconds:integer|PX milliseconds:integer|\
             EXAT unix-time-seconds:unix-time|PXAT unix-time-milliseconds:unix-time|KEEPTTL]",
        )
        .docs("1.0.0", "O(1)", "Sets the string value of a key, whatever it held."),
    Command::new("INCR", 2, Group::String, incr)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Adds one to the integer value of a key, from 0 where it has none."),
    Command::new("MSET", -3, Group::String, mset)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::Range { first: 1, last: -1, step: 2 })
        .syntax("(key value)...")
        .docs("1.0.1", "O(N) for N keys", "Sets the string values of several keys at once."),
];

/// The string of an entry; `buf` holds it where it is stored as an integer.
pub(crate) fn string<'a>(entry: EntryRef<'a>, buf: &'a mut IntBuf) -> Result<&'a [u8], Error> {
    match entry.kind() {
        Kind::Str | Kind::StrRaw => Ok(entry.bytes()),
        Kind::Int => Ok(buf.format(entry.int().unwrap_or(0)).as_bytes()),
        Kind::Big => match entry.big() {
            Some(Value::Str(bytes)) => Ok(bytes),
            _ => Err(Error::WrongType),
        },
        _ => Err(Error::WrongType),
    }
}

fn get(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.get(args[1]) {
        Some(entry) => reply.bulk(string(entry, &mut IntBuf::new())?),
        None => reply.null(),
    }
    Ok(())
}

fn set(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 3 {
        return Err(Error::Syntax.into());
    }
    cx.insert(args[1], NewValue::Str(args[2]));
    cx.changed(args[1], Event::STRING, "set");
    reply.ok();
    Ok(())
}

fn incr(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let next = match cx.get_mut(key) {
        Some(mut entry) => {
            let old = match entry.int() {
                Some(int) => int,
                None => number::parse_i64(string(entry.as_ref(), &mut IntBuf::new())?)
                    .ok_or(Error::NotInteger)?,
            };
            let next = old
                .checked_add(1)
                .ok_or(Error::text("ERR increment or decrement would overflow"))?;
            if entry.kind() == Kind::Int {
                entry.set_int(next);
            } else {
                entry.replace(NewValue::Int(next));
            }
            next
        }
        None => {
            cx.insert(key, NewValue::Int(1));
            1
        }
    };
    cx.changed(key, Event::STRING, "incrby");
    reply.int(next);
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
