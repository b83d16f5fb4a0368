//! Lists: the commands that wait for an element.
//!
//! Each takes what is there. Where nothing is, it stops with [`Stop::WouldBlock`], and the host runs
//! it again once one of its keys is ready, or replies with nil when its time is over.

use super::list::{Taken, move_element, parse_side, take};
use super::mpop;
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error, Stop};
use crate::number;
use crate::reply::Reply;
use crate::value::list::Side;

const TAKE: Flags = Flags::WRITE.union(Flags::BLOCKING);
const MOVE: Flags = TAKE.union(Flags::DENYOOM);

/// The family's commands that may block.
pub const COMMANDS: &[Command] = &[
    Command::new("BLPOP", -3, Group::List, blpop)
        .flags(TAKE)
        .keys(Keys::ALL_BUT_LAST)
        .syntax("key... timeout:double")
        .docs("2.0.0", "O(N) for N keys", "Takes the first element of a list, or waits for one."),
    Command::new("BRPOP", -3, Group::List, brpop)
        .flags(TAKE)
        .keys(Keys::ALL_BUT_LAST)
        .syntax("key... timeout:double")
        .docs("2.0.0", "O(N) for N keys", "Takes the last element of a list, or waits for one."),
    Command::new("BLMOVE", 6, Group::List, blmove)
        .flags(MOVE)
        .keys(Keys::FIRST_TWO)
        .syntax("source destination (LEFT|RIGHT) (LEFT|RIGHT) timeout:double")
        .docs("6.2.0", "O(1)", "Moves an element between two lists, or waits for one."),
    Command::new("BRPOPLPUSH", 4, Group::List, brpoplpush)
        .flags(MOVE)
        .keys(Keys::FIRST_TWO)
        .syntax("source destination timeout:double")
        .docs("2.2.0", "O(1)", "Moves the last element to the head of a list, or waits for one."),
    Command::new("BLMPOP", -5, Group::List, blmpop)
        .flags(TAKE.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Numkeys { at: 2, also_first: false })
        .syntax("timeout:double numkeys:integer key... (LEFT|RIGHT) [COUNT count:integer]")
        .docs("7.0.0", "O(N+M)", "Takes elements from one of several lists, or waits for some."),
];

/// Reads a timeout in seconds; the result is in milliseconds, 0 for no end.
///
/// # Errors
/// Where it is not a number of seconds that can be waited for, with Redis's texts.
pub fn parse_timeout(arg: &[u8], now_ms: i64) -> Result<i64, Error> {
    const NO_FLOAT: Error = Error::text("ERR timeout is not a float or out of range");
    const OUT_OF_RANGE: Error = Error::text("ERR timeout is out of range");
    let ms = number::parse_f64(arg).ok_or(NO_FLOAT)? * 1000.0;
    if ms > i64::MAX as f64 {
        return Err(OUT_OF_RANGE);
    }
    let ms = ms.ceil();
    if ms < 0.0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    let ms = ms as i64;
    now_ms.checked_add(ms).map(|_| ms).ok_or(OUT_OF_RANGE)
}

/// Nothing was there: wait, or say so where waiting is not possible.
fn wait(cx: &Cx<'_>, nothing: impl FnOnce()) -> CmdResult {
    if cx.may_block() {
        return Err(Stop::WouldBlock);
    }
    nothing();
    Ok(())
}

fn blocking_pop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>, side: Side) -> CmdResult {
    let last = args.len() - 1;
    parse_timeout(args[last], cx.now_ms())?;
    for key in &args[1..last] {
        if take(cx, key, side, 1, Taken::KeyAndOne, reply)? {
            cx.tell(&[if side == Side::Left { b"LPOP" } else { b"RPOP" }, key]);
            return Ok(());
        }
    }
    wait(cx, || reply.null_array())
}

fn blpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    blocking_pop(cx, args, reply, Side::Left)
}

fn brpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    blocking_pop(cx, args, reply, Side::Right)
}

fn blmove(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (from, to) = (parse_side(args[3])?, parse_side(args[4])?);
    parse_timeout(args[5], cx.now_ms())?;
    if move_element(cx, [args[1], args[2]], from, to, reply)? {
        cx.tell(&[b"LMOVE", args[1], args[2], args[3], args[4]]);
        return Ok(());
    }
    wait(cx, || reply.null())
}

fn brpoplpush(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    parse_timeout(args[3], cx.now_ms())?;
    if move_element(cx, [args[1], args[2]], Side::Right, Side::Left, reply)? {
        cx.tell(&[b"RPOPLPUSH", args[1], args[2]]);
        return Ok(());
    }
    wait(cx, || reply.null())
}

fn blmpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (keys, side, count) = mpop::parse(&args[2..], parse_side)?;
    parse_timeout(args[1], cx.now_ms())?;
    for key in keys {
        if take(cx, key, side, count, Taken::KeyAndArray, reply)? {
            let name = if side == Side::Left { b"LPOP" } else { b"RPOP" };
            cx.tell(&[name, key, count.to_string().as_bytes()]);
            return Ok(());
        }
    }
    wait(cx, || reply.null_array())
}

/// Reads a timeout in milliseconds; 0 is for no end.
///
/// # Errors
/// Where it is not a number of milliseconds that can be waited for, with Redis's texts.
pub fn parse_timeout_ms(arg: &[u8], now_ms: i64) -> Result<i64, Error> {
    let ms = number::parse_i64(arg)
        .ok_or(Error::text("ERR timeout is not an integer or out of range"))?;
    if ms < 0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    now_ms.checked_add(ms).map(|_| ms).ok_or(Error::text("ERR timeout is out of range"))
}
