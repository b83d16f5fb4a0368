//! Sorted sets: adding, removing and reading single members.

pub(crate) mod access;
pub mod combine;
pub mod pop;
pub mod range;

use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::commands::sample;
use crate::commands::scan::parse_cursor;
use crate::commands::scan_args::ScanArgs;
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::dense::check_room;
use crate::value::zset::ZsetRef;
use access::{Limits, create, entry, read, read_or_empty, remove, removed, upsert};
use smallvec::SmallVec;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);
const GROW: Flags = Flags::WRITE.union(Flags::DENYOOM);
const GROW_FAST: Flags = GROW.union(Flags::FAST);
const TAKE_FAST: Flags = Flags::WRITE.union(Flags::FAST);

/// The family's commands on single members.
pub const COMMANDS: &[Command] = &[
    Command::new("ZADD", -4, Group::SortedSet, zadd)
        .member(3)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key [NX|XX] [GT|LT] [CH] [INCR] (score:double member)...")
        .docs("1.2.0", "O(log(N)) for each member", "Adds members or changes their scores."),
    Command::new("ZINCRBY", 4, Group::SortedSet, zincrby)
        .member(3)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key increment:double member")
        .docs("1.2.0", "O(log(N))", "Adds to the score of a member, from 0 where there is none."),
    Command::new("ZREM", -3, Group::SortedSet, zrem)
        .member(2)
        .flags(TAKE_FAST)
        .keys(Keys::FIRST)
        .syntax("key member...")
        .docs("1.2.0", "O(M*log(N)) for M members", "Removes members."),
    Command::new("ZCARD", 2, Group::SortedSet, zcard)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("1.2.0", "O(1)", "Returns the number of members."),
    Command::new("ZSCORE", 3, Group::SortedSet, zscore)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key member")
        .docs("1.2.0", "O(1)", "Returns the score of a member."),
    Command::new("ZMSCORE", -3, Group::SortedSet, zmscore)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key member...")
        .docs("6.2.0", "O(N) for N members", "Returns the scores of several members."),
    Command::new("ZRANDMEMBER", -2, Group::SortedSet, zrandmember)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key [count:integer [WITHSCORES]]")
        .docs("6.2.0", "O(N*log(M)) for N of M members", "Returns random members."),
    Command::new("ZSCAN", -3, Group::SortedSet, zscan)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key cursor:integer [MATCH pattern] [COUNT count:integer]")
        .docs("2.8.0", "O(1) for each call", "Iterates over the members and their scores."),
];

const NAN_RESULT: Error = Error::text("ERR resulting score is not a number (NaN)");

/// The options of ZADD.
#[derive(Clone, Copy, Default)]
pub(crate) struct AddOptions {
    /// Only change members that are there.
    pub xx: bool,
    /// Only add members that are not.
    pub nx: bool,
    /// Reply with the changed ones, not only the added ones.
    pub ch: bool,
    gt: bool,
    lt: bool,
    incr: bool,
}

/// What became of one member.
#[derive(Clone, Copy, PartialEq)]
enum Added {
    Refused,
    NotANumber,
    Same(f64),
    New(f64),
    Changed(f64),
}

impl AddOptions {
    /// Reads the options that start `args`; returns how many they are.
    fn parse(args: &[&[u8]]) -> (AddOptions, usize) {
        let mut options = AddOptions::default();
        let is = |arg: &[u8], name: &str| arg.eq_ignore_ascii_case(name.as_bytes());
        for (count, arg) in args.iter().enumerate() {
            match () {
                () if is(arg, "nx") => options.nx = true,
                () if is(arg, "xx") => options.xx = true,
                () if is(arg, "ch") => options.ch = true,
                () if is(arg, "gt") => options.gt = true,
                () if is(arg, "lt") => options.lt = true,
                () if is(arg, "incr") => options.incr = true,
                () => return (options, count),
            }
        }
        (options, args.len())
    }

    fn check(self, pairs: usize) -> Result<(), Error> {
        if self.nx && self.xx {
            Err(Error::text("ERR XX and NX options at the same time are not compatible"))
        } else if (self.nx && (self.gt || self.lt)) || (self.gt && self.lt) {
            Err(Error::text("ERR GT, LT, and/or NX options at the same time are not compatible"))
        } else if self.incr && pairs > 1 {
            Err(Error::text("ERR INCR option supports a single increment-element pair"))
        } else {
            Ok(())
        }
    }

    /// What becomes of a member with the score `old` that is given `score`.
    fn decide(self, old: Option<f64>, score: f64) -> Added {
        let Some(old) = old else {
            return if self.xx { Added::Refused } else { Added::New(score) };
        };
        if self.nx {
            return Added::Refused;
        }
        let new = if self.incr { old + score } else { score };
        if new.is_nan() {
            Added::NotANumber
        } else if (self.gt && new <= old) || (self.lt && new >= old) {
            Added::Refused
        } else if new == old {
            Added::Same(new)
        } else {
            Added::Changed(new)
        }
    }
}

/// Adds members to the sorted set at `key`; replies as ZADD does.
pub(crate) fn add(
    cx: &mut Cx<'_>,
    key: &[u8],
    options: AddOptions,
    pairs: &[(f64, &[u8])],
    reply: &mut Reply<'_>,
) -> CmdResult {
    let limits = Limits::of(cx);
    let mut target = match entry(cx, key)? {
        Some(entry) => entry,
        None if options.xx => {
            if options.incr {
                reply.null();
            } else {
                reply.int(0);
            }
            return Ok(());
        }
        None => create(cx, key),
    };
    check_room(access::len(&target))?;
    let (mut added, mut changed) = (0, 0);
    let mut last = Added::Refused;
    for &(score, member) in pairs {
        upsert(&mut target, limits, member, |old| {
            last = options.decide(old, score);
            match last {
                Added::New(score) | Added::Changed(score) => Some(score),
                _ => None,
            }
        });
        match last {
            Added::New(_) => added += 1,
            Added::Changed(_) => changed += 1,
            Added::NotANumber => return Err(NAN_RESULT.into()),
            Added::Same(_) | Added::Refused => {}
        }
    }
    if added + changed > 0 {
        cx.changed(key, Event::ZSET, if options.incr { "zincr" } else { "zadd" });
    }
    match last {
        Added::Same(score) | Added::New(score) | Added::Changed(score) if options.incr => {
            reply.double(score);
        }
        _ if options.incr => reply.null(),
        _ => reply.int(if options.ch { added + changed } else { added }),
    }
    Ok(())
}

fn zadd(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (options, count) = AddOptions::parse(&args[2..]);
    let pairs = &args[2 + count..];
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Error::Syntax.into());
    }
    options.check(pairs.len() / 2)?;
    let mut parsed: SmallVec<[(f64, &[u8]); 4]> = SmallVec::with_capacity(pairs.len() / 2);
    for pair in pairs.chunks_exact(2) {
        parsed.push((number::parse_f64(pair[0]).ok_or(Error::NotFloat)?, pair[1]));
    }
    add(cx, args[1], options, &parsed, reply)
}

fn zincrby(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    // Redis reads ZINCRBY as a form of ZADD: an option there leaves no score for the member.
    let options = [b"NX".as_slice(), b"XX", b"GT", b"LT", b"CH", b"INCR"];
    if options.iter().any(|option| args[2].eq_ignore_ascii_case(option)) {
        return Err(Error::Syntax.into());
    }
    let increment = number::parse_f64(args[2]).ok_or(Error::NotFloat)?;
    let options = AddOptions { incr: true, ..AddOptions::default() };
    add(cx, args[1], options, &[(increment, args[3])], reply)
}

fn zrem(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(mut target) = entry(cx, args[1])? else {
        reply.int(0);
        return Ok(());
    };
    let mut count = 0;
    let mut is_empty = false;
    for member in &args[2..] {
        if remove(&mut target, member) {
            count += 1;
            is_empty = access::len(&target) == 0;
        }
        if is_empty {
            break;
        }
    }
    if count > 0 {
        removed(cx, args[1], "zrem", is_empty);
    }
    reply.int(count);
    Ok(())
}

fn zcard(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(read_or_empty(cx, args[1])?.len() as i64);
    Ok(())
}

fn write_score(reply: &mut Reply<'_>, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zscore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_score(reply, read_or_empty(cx, args[1])?.score(args[2]));
    Ok(())
}

fn zmscore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let zset = read_or_empty(cx, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        write_score(reply, zset.score(member));
    }
    Ok(())
}

/// Writes an element: with its score in an array of two in RESP3, behind it in RESP2.
pub(crate) fn write_element(reply: &mut Reply<'_>, member: &[u8], score: f64, with_score: bool) {
    if with_score && reply.is_resp3() {
        reply.array(2);
    }
    reply.bulk(member);
    if with_score {
        reply.double(score);
    }
}

/// Starts an array of elements as [`write_element`] writes them.
pub(crate) fn start_elements(reply: &mut Reply<'_>, count: usize, with_scores: bool) {
    reply.array(if with_scores && !reply.is_resp3() { count * 2 } else { count });
}

fn zrandmember(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(count) = args.get(2) else {
        let rank = read_or_empty(cx, args[1])?.len();
        let rank = cx.rng().below(rank);
        match read(cx, args[1])? {
            Some(zset) => zset.for_range(rank..rank + 1, false, |member, _| reply.bulk(member)),
            None => reply.null(),
        }
        return Ok(());
    };
    let count = sample::parse_count(count)?;
    let with_scores = match &args[3..] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"WITHSCORES") => {
            if count.unsigned_abs() > i64::MAX as u64 / 2 {
                return Err(Error::text("ERR value is out of range").into());
            }
            true
        }
        _ => return Err(Error::Syntax.into()),
    };
    let mut rng = cx.rng().clone();
    let zset = read_or_empty(cx, args[1])?;
    let len = zset.len();
    if count == 0 || len == 0 {
        reply.array(0);
        return Ok(());
    }
    let write = |rank: usize, reply: &mut Reply<'_>| {
        zset.for_range(rank..rank + 1, false, |member, score| {
            write_element(reply, member, score, with_scores);
        });
    };
    let wanted = count.unsigned_abs();
    if count < 0 {
        start_elements(reply, usize::try_from(wanted).unwrap_or(usize::MAX / 2), with_scores);
        sample::repeated(&mut rng, len, wanted, reply, write)?;
    } else if wanted >= len as u64 {
        start_elements(reply, len, with_scores);
        zset.for_each(|member, score| write_element(reply, member, score, with_scores));
    } else {
        let wanted = wanted as usize;
        start_elements(reply, wanted, with_scores);
        for rank in sample::distinct(&mut rng, len, wanted) {
            write(rank, reply);
        }
    }
    Ok(())
}

fn zscan(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let cursor = parse_cursor(args[2])?;
    let Some(zset) = read(cx, args[1])? else {
        reply.array(2);
        reply.bulk(b"0");
        reply.array(0);
        return Ok(());
    };
    let options = ScanArgs::parse(&args[3..], false)?;
    let mut found: Vec<(Vec<u8>, f64)> = Vec::new();
    let visit = |member: &[u8], score| {
        if options.wants(member) {
            found.push((member.to_vec(), score));
        }
    };
    let next = match zset {
        ZsetRef::Packed(_) | ZsetRef::Part(_) => {
            zset.for_each(visit);
            0
        }
        ZsetRef::Big(zset) => zset.scan(cursor, options.count, visit),
    };
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    reply.array(found.len() * 2);
    for (member, score) in found {
        reply.bulk(&member);
        let mut buf = number::FloatBuf::new();
        reply.bulk(number::format_f64(&mut buf, score));
    }
    Ok(())
}
