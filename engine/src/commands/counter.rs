//! Strings as numbers: the INCR family.

use super::string::string;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::extended::Extended;
use crate::keyspace::Kind;
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::NewValue;
use crate::value::packed::IntBuf;

const FLAGS: Flags = Flags::WRITE.union(Flags::DENYOOM).union(Flags::FAST);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("INCR", 2, Group::String, incr).flags(FLAGS).keys(Keys::FIRST).syntax("key").docs(
        "1.0.0",
        "O(1)",
        "Adds one to the integer value of a key, from 0 where it has none.",
    ),
    Command::new("DECR", 2, Group::String, decr).flags(FLAGS).keys(Keys::FIRST).syntax("key").docs(
        "1.0.0",
        "O(1)",
        "Takes one from the integer value of a key.",
    ),
    Command::new("INCRBY", 3, Group::String, incrby)
        .flags(FLAGS)
        .keys(Keys::FIRST)
        .syntax("key increment:integer")
        .docs("1.0.0", "O(1)", "Adds to the integer value of a key."),
    Command::new("DECRBY", 3, Group::String, decrby)
        .flags(FLAGS)
        .keys(Keys::FIRST)
        .syntax("key decrement:integer")
        .docs("1.0.0", "O(1)", "Takes from the integer value of a key."),
    Command::new("INCRBYFLOAT", 3, Group::String, incrbyfloat)
        .flags(FLAGS)
        .keys(Keys::FIRST)
        .syntax("key increment:double")
        .docs("2.6.0", "O(1)", "Adds to the floating-point value of a key."),
];

fn incr(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    add(cx, args[1], 1, reply)
}

fn decr(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    add(cx, args[1], -1, reply)
}

fn incrby(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let increment = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    add(cx, args[1], increment, reply)
}

fn decrby(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let decrement = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let increment = decrement.checked_neg().ok_or(Error::text("ERR decrement would overflow"))?;
    add(cx, args[1], increment, reply)
}

#[inline]
fn add(cx: &mut Cx<'_>, key: &[u8], increment: i64, reply: &mut Reply<'_>) -> CmdResult {
    let next = match cx.get_mut(key) {
        Some(mut entry) => {
            let old = match entry.int() {
                Some(int) => int,
                None => number::parse_i64(string(entry.as_ref(), &mut IntBuf::new())?)
                    .ok_or(Error::NotInteger)?,
            };
            let next = old
                .checked_add(increment)
                .or(known_bugs::is_back(Bug::IncrWraps).then(|| old.wrapping_add(increment)))
                .ok_or(Error::text("ERR increment or decrement would overflow"))?;
            if entry.kind() == Kind::Int {
                entry.set_int(next);
            } else {
                entry.replace(NewValue::Int(next));
            }
            next
        }
        None => {
            cx.insert(key, NewValue::Int(increment));
            increment
        }
    };
    cx.changed(key, Event::STRING, "incrby");
    reply.int(next);
    Ok(())
}

fn incrbyfloat(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let mut buf = IntBuf::new();
    let old = match cx.get_mut(key) {
        Some(entry) => {
            let old = Extended::parse(string(entry.as_ref(), &mut buf)?);
            old.ok_or(Error::NotFloat)?
        }
        None => Extended::from(0),
    };
    let sum = Extended::parse(args[2])
        .ok_or(Error::NotFloat)?
        .checked_add(old)
        .ok_or(Error::text("ERR increment would produce NaN or Infinity"))?;
    let mut text = Vec::new();
    sum.format(&mut text);
    // Redis keeps the sum as a text, even if it is an integer.
    cx.insert_keeping_expiry(key, NewValue::Packed(Kind::Str, &text));
    cx.tell(&[b"SET", key, &text, b"KEEPTTL"]);
    cx.changed(key, Event::STRING, "incrbyfloat");
    reply.bulk(&text);
    Ok(())
}
