//! Sorted sets: taking the lowest or highest members, and waiting for one.

use super::access::{self, entry, removed};
use crate::command::{Command, Flags, Group, Keys};
use crate::commands::list_blocking::parse_timeout;
use crate::commands::mpop;
use crate::context::Cx;
use crate::error::{CmdResult, Error, Stop};
use crate::number;
use crate::reply::Reply;

const TAKE_FAST: Flags = Flags::WRITE.union(Flags::FAST);
const WAIT_FAST: Flags = TAKE_FAST.union(Flags::BLOCKING);

/// The family's commands that take members from an end.
pub const COMMANDS: &[Command] = &[
    Command::new("ZPOPMIN", -2, Group::SortedSet, zpopmin)
        .flags(TAKE_FAST)
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("5.0.0", "O(log(N)*M) for M members", "Takes the members with the lowest scores."),
    Command::new("ZPOPMAX", -2, Group::SortedSet, zpopmax)
        .flags(TAKE_FAST)
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("5.0.0", "O(log(N)*M) for M members", "Takes the members with the highest scores."),
    Command::new("ZMPOP", -4, Group::SortedSet, zmpop)
        .flags(Flags::WRITE.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Numkeys { at: 1, also_first: false })
        .syntax("numkeys:integer key... (MIN|MAX) [COUNT count:integer]")
        .docs("7.0.0", "O(K)+O(M*log(N))", "Takes members from the first of several that has any."),
    Command::new("BZPOPMIN", -3, Group::SortedSet, bzpopmin)
        .flags(WAIT_FAST)
        .keys(Keys::ALL_BUT_LAST)
        .syntax("key... timeout:double")
        .docs("5.0.0", "O(log(N))", "Takes the member with the lowest score, or waits for one."),
    Command::new("BZPOPMAX", -3, Group::SortedSet, bzpopmax)
        .flags(WAIT_FAST)
        .keys(Keys::ALL_BUT_LAST)
        .syntax("key... timeout:double")
        .docs("5.0.0", "O(log(N))", "Takes the member with the highest score, or waits for one."),
    Command::new("BZMPOP", -5, Group::SortedSet, bzmpop)
        .flags(Flags::WRITE.union(Flags::BLOCKING).union(Flags::MOVABLE_KEYS))
        .keys(Keys::Numkeys { at: 2, also_first: false })
        .syntax("timeout:double numkeys:integer key... (MIN|MAX) [COUNT count:integer]")
        .docs("7.0.0", "O(K)+O(M*log(N))", "Takes members from one of several, or waits for some."),
];

/// From which end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Min,
    Max,
}

impl End {
    /// The command that takes from this end.
    fn pop_name(self) -> &'static [u8] {
        if self == End::Min { b"ZPOPMIN" } else { b"ZPOPMAX" }
    }
}

/// How what was taken is replied.
#[derive(Clone, Copy)]
enum Shape {
    /// Members and scores one after the other.
    Flat,
    /// An array for each member.
    Pairs,
    /// The key, the member, the score.
    KeyAndOne,
    /// The key, and an array of an array for each member.
    KeyAndPairs,
}

/// Takes up to `count` members from the sorted set at `key`. Says whether it was there.
fn take(
    cx: &mut Cx<'_>,
    key: &[u8],
    end: End,
    count: usize,
    shape: Shape,
    reply: &mut Reply<'_>,
) -> Result<bool, Error> {
    let Some(mut target) = entry(cx, key)? else { return Ok(false) };
    let len = access::len(&target);
    let count = count.min(len);
    if count == 0 {
        reply.array(0);
        return Ok(true);
    }
    match shape {
        Shape::Flat => reply.array(count * 2),
        Shape::Pairs => reply.array(count),
        Shape::KeyAndOne => {
            reply.array(3);
            reply.bulk(key);
        }
        Shape::KeyAndPairs => {
            reply.array(2);
            reply.bulk(key);
            reply.array(count);
        }
    }
    let is_nested = matches!(shape, Shape::Pairs | Shape::KeyAndPairs);
    let ranks = if end == End::Min { 0..count } else { len - count..len };
    access::remove_range(&mut target, ranks, end == End::Max, |member, score| {
        if is_nested {
            reply.array(2);
        }
        reply.bulk(member);
        reply.double(score);
    });
    removed(cx, key, if end == End::Min { "zpopmin" } else { "zpopmax" }, count == len);
    Ok(true)
}

fn pop(cx: &mut Cx<'_>, args: &[&[u8]], end: End, reply: &mut Reply<'_>) -> CmdResult {
    let (count, shape) = match args[2..] {
        [] => (1, Shape::Flat),
        [count] => {
            let count = number::parse_i64(count).and_then(|count| usize::try_from(count).ok());
            let shape = if reply.is_resp3() { Shape::Pairs } else { Shape::Flat };
            (count.ok_or(Error::text("ERR value is out of range, must be positive"))?, shape)
        }
        _ => return Err(Error::Syntax.into()),
    };
    if !take(cx, args[1], end, count, shape, reply)? {
        reply.array(0);
    }
    Ok(())
}

fn zpopmin(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    pop(cx, args, End::Min, reply)
}

fn zpopmax(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    pop(cx, args, End::Max, reply)
}

/// Nothing was there: wait, or say so where waiting is not possible.
fn wait(cx: &Cx<'_>, reply: &mut Reply<'_>) -> CmdResult {
    if cx.may_block() {
        return Err(Stop::WouldBlock);
    }
    reply.null_array();
    Ok(())
}

fn blocking_pop(cx: &mut Cx<'_>, args: &[&[u8]], end: End, reply: &mut Reply<'_>) -> CmdResult {
    let last = args.len() - 1;
    parse_timeout(args[last], cx.now_ms())?;
    for key in &args[1..last] {
        if take(cx, key, end, 1, Shape::KeyAndOne, reply)? {
            cx.tell(&[end.pop_name(), key]);
            return Ok(());
        }
    }
    wait(cx, reply)
}

fn bzpopmin(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    blocking_pop(cx, args, End::Min, reply)
}

fn bzpopmax(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    blocking_pop(cx, args, End::Max, reply)
}

fn parse_end(arg: &[u8]) -> Result<End, Error> {
    match () {
        () if arg.eq_ignore_ascii_case(b"MIN") => Ok(End::Min),
        () if arg.eq_ignore_ascii_case(b"MAX") => Ok(End::Max),
        () => Err(Error::Syntax),
    }
}

fn take_first(
    cx: &mut Cx<'_>,
    (keys, end, count): (&[&[u8]], End, usize),
    reply: &mut Reply<'_>,
) -> Result<bool, Error> {
    for key in keys {
        if take(cx, key, end, count, Shape::KeyAndPairs, reply)? {
            cx.tell(&[end.pop_name(), key, count.to_string().as_bytes()]);
            return Ok(true);
        }
    }
    Ok(false)
}

fn zmpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if !take_first(cx, mpop::parse(&args[1..], parse_end)?, reply)? {
        reply.null_array();
    }
    Ok(())
}

fn bzmpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let wanted = mpop::parse(&args[2..], parse_end)?;
    parse_timeout(args[1], cx.now_ms())?;
    if take_first(cx, wanted, reply)? {
        return Ok(());
    }
    wait(cx, reply)
}
