//! What a call may have meant for a key: where to look, and how to read what is found there.
//!
//! The value after the call says what it holds; only what a value cannot say is taken from the call:
//! that it was an increment, that a member was added again, at which end of a list. Commands that
//! are not named here are understood by comparing the whole value, so a new command is never
//! overlooked; naming it makes it cheaper.

use super::element::Sum;
use ashlar_engine::command::KeyList;
use ashlar_engine::executor::Call;
use ashlar_engine::number;

/// How to read what a key holds now.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent<'a> {
    /// The key was given a new value: all of it was written.
    Replace,
    /// What differs was written; values that cannot be compared are as they were.
    Compare,
    /// These fields or members were written if they are there, and removed otherwise.
    Members(Vec<&'a [u8]>),
    /// The string, or the field or member, was incremented.
    Count(Option<&'a [u8]>, Sum),
    /// Elements were added at the list's end.
    PushTail,
    /// Elements were added at the list's start.
    PushHead,
    /// Elements were taken from the list's end.
    PopTail,
    /// Elements were taken from the list's start.
    PopHead,
    /// Entries were added at the stream's end, and removed at its start.
    StreamEnds,
    /// Only the expiry may have changed.
    Expiry,
}

/// The keys that a call may have changed, with what it may have meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning<'a> {
    /// These keys.
    Keys(Vec<(&'a [u8], Intent<'a>)>),
    /// Any key of the database.
    Everything,
    /// Keys may have become ones that several sites write.
    Adopt,
}

/// Whether a call that changed nothing may still be one that other sites have to know: it makes sure
/// that a member is there.
pub fn asserts(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"SADD")
}

/// What a call may have meant.
pub fn meaning<'a>(call: &Call<'a>) -> Meaning<'a> {
    use Intent::{Compare, Expiry, Members, PopHead, PopTail, PushHead, PushTail, Replace};
    let args = call.args;
    let mut upper = [0; 24];
    let name = upper_case(args.first().copied().unwrap_or(b""), &mut upper);
    let key = args.get(1).copied().unwrap_or(b"");
    let one = |intent| Meaning::Keys(vec![(key, intent)]);
    let every = |from: usize, step: usize| {
        Members(args.get(from..).unwrap_or(&[]).iter().step_by(step).copied().collect())
    };
    match name {
        b"FLUSHALL" | b"FLUSHDB" | b"SWAPDB" => Meaning::Everything,
        b"ASHLAR.POLICY" => Meaning::Adopt,
        b"INCR" => one(count(None, 1)),
        b"DECR" => one(count(None, -1)),
        b"INCRBY" => one(int(args, 2).map_or(Replace, |by| count(None, by))),
        b"DECRBY" => one(int(args, 2).map_or(Replace, |by| count(None, by.wrapping_neg()))),
        b"HINCRBY" => one(int(args, 3).map_or(Compare, |by| count(args.get(2).copied(), by))),
        b"ZINCRBY" => one(args
            .get(2)
            .and_then(|by| number::parse_f64(by))
            .map_or(Compare, |float| Intent::Count(args.get(3).copied(), Sum { int: 0, float }))),
        b"ZADD" => one(zadd(args)),
        b"SADD" | b"SREM" | b"HDEL" | b"ZREM" | b"XDEL" => one(every(2, 1)),
        b"HSET" | b"HMSET" | b"HSETNX" => one(every(2, 2)),
        b"HINCRBYFLOAT" => one(Members(args.get(2).copied().into_iter().collect())),
        b"SMOVE" => {
            let member: Vec<&[u8]> = args.get(3).copied().into_iter().collect();
            let keys = args.get(1..3).unwrap_or(&[]).iter();
            Meaning::Keys(keys.map(|key| (*key, Members(member.clone()))).collect())
        }
        b"RPUSH" | b"RPUSHX" => one(PushTail),
        b"LPUSH" | b"LPUSHX" => one(PushHead),
        b"LPOP" => one(PopHead),
        b"RPOP" => one(PopTail),
        b"RPOPLPUSH" | b"BRPOPLPUSH" if args.get(1) != args.get(2) => {
            let to = args.get(2).copied().unwrap_or(b"");
            Meaning::Keys(vec![(key, PopTail), (to, PushHead)])
        }
        b"BLPOP" => each_key(call, &PopHead),
        b"BRPOP" => each_key(call, &PopTail),
        b"XADD" | b"XTRIM" => one(Intent::StreamEnds),
        b"EXPIRE" | b"PEXPIRE" | b"EXPIREAT" | b"PEXPIREAT" | b"PERSIST" | b"GETEX" => one(Expiry),
        b"XGROUP" | b"XREADGROUP" | b"XACK" | b"XCLAIM" | b"XAUTOCLAIM" | b"XSETID"
        | b"PFCOUNT" => Meaning::Keys(Vec::new()),
        b"BITOP" => Meaning::Keys(args.get(2).map(|key| (*key, Replace)).into_iter().collect()),
        b"COPY" => Meaning::Keys(args.get(2).map(|key| (*key, Replace)).into_iter().collect()),
        b"PFMERGE" | b"SET" | b"RESTORE" => one(Replace),
        b"HEXPIRE"
        | b"HPEXPIRE"
        | b"HEXPIREAT"
        | b"HPEXPIREAT"
        | b"HPERSIST"
        | b"HGETDEL"
        | b"HGETEX"
        | b"ASHLAR.EXPIREFIELDS"
        | b"DEL"
        | b"UNLINK"
        | b"ASHLAR.EXPIRE"
        | b"ASHLAR.EVICT" => each_key(call, &Compare),
        _ => each_key(call, &Replace),
    }
}

/// The name in upper case, as far as there is room.
fn upper_case<'b>(name: &[u8], room: &'b mut [u8; 24]) -> &'b [u8] {
    let len = name.len().min(room.len());
    room[..len].copy_from_slice(&name[..len]);
    room[..len].make_ascii_uppercase();
    &room[..len]
}

fn int(args: &[&[u8]], at: usize) -> Option<i64> {
    args.get(at).and_then(|arg| number::parse_i64(arg))
}

fn count(field: Option<&[u8]>, int: i64) -> Intent<'_> {
    Intent::Count(field, Sum { int, float: 0.0 })
}

/// The same for every key of a call.
fn each_key<'a>(call: &Call<'a>, intent: &Intent<'a>) -> Meaning<'a> {
    let mut positions = KeyList::new();
    call.command.keys.positions(call.args, &mut positions);
    let keys = positions.iter().filter_map(|at| call.args.get(*at));
    Meaning::Keys(keys.map(|key| (*key, intent.clone())).collect())
}

fn zadd<'a>(args: &[&'a [u8]]) -> Intent<'a> {
    let mut rest = args.get(2..).unwrap_or(&[]);
    let mut increments = false;
    while let Some((first, after)) = rest.split_first() {
        let words: [&[u8]; 6] = [b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"];
        match words.iter().position(|word| first.eq_ignore_ascii_case(word)) {
            Some(5) => increments = true,
            Some(_) => {}
            None => break,
        }
        rest = after;
    }
    match rest {
        [by, member] if increments => match number::parse_f64(by) {
            Some(float) => Intent::Count(Some(member), Sum { int: 0, float }),
            None => Intent::Compare,
        },
        pairs => Intent::Members(pairs.iter().skip(1).step_by(2).copied().collect()),
    }
}
