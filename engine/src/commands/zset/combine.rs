//! Sorted sets: unions, intersections and differences, of sets too (their members count 1).

use super::access::store;
use super::{start_elements, write_element};
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::EntryRef;
use crate::number;
use crate::reply::Reply;
use crate::value::dense::check_room;
use crate::value::packed::IntBuf;
use crate::value::set::SetRef;
use crate::value::view::View;
use crate::value::zset::{Zset, ZsetRef};

const READ: Flags = Flags::READONLY.union(Flags::MOVABLE_KEYS);
const STORE: Flags = Flags::WRITE.union(Flags::DENYOOM).union(Flags::MOVABLE_KEYS);
const NUMKEYS: Keys = Keys::Numkeys { at: 1, also_first: false };
const DESTINATION_NUMKEYS: Keys = Keys::Numkeys { at: 2, also_first: true };

/// The family's commands that combine several sorted sets.
pub const COMMANDS: &[Command] = &[
    Command::new("ZUNION", -3, Group::SortedSet, zunion)
        .flags(READ)
        .keys(NUMKEYS)
        .syntax(
            "numkeys:integer key... [WEIGHTS weight:double...] [AGGREGATE (SUM|MIN|MAX)] \
             [WITHSCORES]",
        )
        .docs("6.2.0", "O(N)+O(M*log(M))", "Returns the union of sorted sets."),
    Command::new("ZUNIONSTORE", -4, Group::SortedSet, zunionstore)
        .flags(STORE)
        .keys(DESTINATION_NUMKEYS)
        .syntax(
            "destination numkeys:integer key... [WEIGHTS weight:double...] \
             [AGGREGATE (SUM|MIN|MAX)]",
        )
        .docs("2.0.0", "O(N)+O(M*log(M))", "Stores the union of sorted sets in a key."),
    Command::new("ZINTER", -3, Group::SortedSet, zinter)
        .flags(READ)
        .keys(NUMKEYS)
        .syntax(
            "numkeys:integer key... [WEIGHTS weight:double...] [AGGREGATE (SUM|MIN|MAX)] \
             [WITHSCORES]",
        )
        .docs("6.2.0", "O(N*K)+O(M*log(M))", "Returns the intersection of sorted sets."),
    Command::new("ZINTERSTORE", -4, Group::SortedSet, zinterstore)
        .flags(STORE)
        .keys(DESTINATION_NUMKEYS)
        .syntax(
            "destination numkeys:integer key... [WEIGHTS weight:double...] \
             [AGGREGATE (SUM|MIN|MAX)]",
        )
        .docs("2.0.0", "O(N*K)+O(M*log(M))", "Stores the intersection of sorted sets in a key."),
    Command::new("ZINTERCARD", -3, Group::SortedSet, zintercard)
        .flags(READ)
        .keys(NUMKEYS)
        .syntax("numkeys:integer key... [LIMIT limit:integer]")
        .docs("7.0.0", "O(N*K)", "Counts the members of the intersection of sorted sets."),
    Command::new("ZDIFF", -3, Group::SortedSet, zdiff)
        .flags(READ)
        .keys(NUMKEYS)
        .syntax("numkeys:integer key... [WITHSCORES]")
        .docs("6.2.0", "O(L+(N-K)log(N))", "Returns the first sorted set without the others."),
    Command::new("ZDIFFSTORE", -4, Group::SortedSet, zdiffstore)
        .flags(STORE)
        .keys(DESTINATION_NUMKEYS)
        .syntax("destination numkeys:integer key...")
        .docs("6.2.0", "O(L+(N-K)log(N))", "Stores the first sorted set without the others."),
];

/// One of the collections that are combined.
#[derive(Clone, Copy)]
enum Source<'a> {
    Zset(ZsetRef<'a>),
    Set(SetRef<'a>),
}

impl<'a> Source<'a> {
    fn of(entry: Option<EntryRef<'a>>, now_ms: i64) -> Result<Self, Error> {
        match entry.map(|entry| View::new(&entry, now_ms)) {
            None => Ok(Source::Zset(ZsetRef::EMPTY)),
            Some(View::Zset(zset)) => Ok(Source::Zset(zset)),
            Some(View::Set(set)) => Ok(Source::Set(set)),
            Some(_) => Err(Error::WrongType),
        }
    }

    fn len(self) -> usize {
        match self {
            Source::Zset(zset) => zset.len(),
            Source::Set(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Zset(zset) => zset.score(member),
            Source::Set(set) => set.contains(member).then_some(1.0),
        }
    }

    fn for_each(self, mut each: impl FnMut(&[u8], f64)) {
        match self {
            Source::Zset(zset) => zset.for_each(each),
            Source::Set(set) => {
                let mut buf = IntBuf::new();
                set.iter().for_each(|member| each(member.as_bytes(&mut buf), 1.0));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

/// Infinities that cancel each other out count as 0.
fn not_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

impl Aggregate {
    fn parse(arg: &[u8]) -> Result<Self, Error> {
        match () {
            () if arg.eq_ignore_ascii_case(b"SUM") => Ok(Aggregate::Sum),
            () if arg.eq_ignore_ascii_case(b"MIN") => Ok(Aggregate::Min),
            () if arg.eq_ignore_ascii_case(b"MAX") => Ok(Aggregate::Max),
            () => Err(Error::Syntax),
        }
    }

    fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Aggregate::Sum => not_nan(a + b),
            Aggregate::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
            Aggregate::Max => {
                if b > a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq)]
enum Want {
    Reply,
    Store,
    Count,
}

/// The options behind the keys.
struct Options {
    weights: Option<Vec<f64>>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: u64,
}

impl Options {
    fn parse(args: &[&[u8]], keys: usize, op: Operation, want: Want) -> Result<Self, Error> {
        let mut options =
            Options { weights: None, aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
        let may_weigh = op != Operation::Difference && want != Want::Count;
        let mut rest = args;
        while let Some((option, behind)) = rest.split_first() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if may_weigh && behind.len() >= keys && is("weights") {
                let weight = |arg: &&[u8]| {
                    number::parse_f64(arg).ok_or(Error::text("ERR weight value is not a float"))
                };
                options.weights =
                    Some(behind[..keys].iter().map(weight).collect::<Result<_, _>>()?);
                rest = &behind[keys..];
            } else if let [value, behind @ ..] = behind
                && may_weigh
                && is("aggregate")
            {
                options.aggregate = Aggregate::parse(value)?;
                rest = behind;
            } else if want == Want::Reply && is("withscores") {
                options.with_scores = true;
                rest = behind;
            } else if let [value, behind @ ..] = behind
                && want == Want::Count
                && is("limit")
            {
                let limit = number::parse_i64(value).and_then(|limit| u64::try_from(limit).ok());
                options.limit = limit.ok_or(Error::text("ERR LIMIT can't be negative"))?;
                rest = behind;
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

/// Keys, and the arguments behind them.
type KeysAndRest<'a, 'b> = (&'a [&'b [u8]], &'a [&'b [u8]]);

/// The keys of a call (from the number of keys on) and what follows them.
fn split_keys<'a, 'b>(args: &'a [&'b [u8]], name: &[u8]) -> Result<KeysAndRest<'a, 'b>, Error> {
    let count = number::parse_i64(args[0]).ok_or(Error::NotInteger)?;
    if count < 1 {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        return Err(Error::owned(format!(
            "ERR at least 1 input key is needed for '{name}' command"
        )));
    }
    let count = usize::try_from(count).map_err(|_| Error::Syntax)?;
    args[1..].split_at_checked(count).ok_or(Error::Syntax)
}

/// Sources with their weights, smallest first: the order in which scores are added up.
fn sources<'c>(cx: &'c Cx<'_>, keys: &[&[u8]]) -> Result<Vec<Source<'c>>, Error> {
    keys.iter().map(|key| Source::of(cx.get(key), cx.now_ms())).collect()
}

/// # Errors
/// Where the members may be too many for one sorted set.
fn combine(sources: &[Source<'_>], op: Operation, options: &Options) -> Result<Zset, Error> {
    if op == Operation::Union && sources.len() > 1 {
        check_room(sources.iter().map(|source| source.len()).sum())?;
    }
    let weight = |at: usize| options.weights.as_ref().map_or(1.0, |weights| weights[at]);
    let mut weighted: Vec<_> =
        sources.iter().enumerate().map(|(at, source)| (*source, weight(at))).collect();
    if op != Operation::Difference {
        weighted.sort_by_key(|(source, _)| source.len());
    }
    let mut result = Zset::new();
    match op {
        Operation::Union => {
            for (source, weight) in weighted {
                source.for_each(|member, score| {
                    let score = not_nan(score * weight);
                    result.upsert(member, |old| {
                        Some(old.map_or(score, |old| options.aggregate.apply(old, score)))
                    });
                });
            }
        }
        Operation::Intersection => {
            let ((first, weight), others) = (weighted[0], &weighted[1..]);
            first.for_each(|member, score| {
                let start = not_nan(score * weight);
                let score = others.iter().try_fold(start, |sum, (other, weight)| {
                    Some(options.aggregate.apply(sum, other.score(member)? * weight))
                });
                if let Some(score) = score {
                    result.upsert(member, |_| Some(score));
                }
            });
        }
        Operation::Difference => {
            let (first, others) = (sources[0], &sources[1..]);
            first.for_each(|member, score| {
                if others.iter().all(|other| other.score(member).is_none()) {
                    result.upsert(member, |_| Some(score));
                }
            });
        }
    }
    Ok(result)
}

fn run_reply(cx: &mut Cx<'_>, args: &[&[u8]], op: Operation, reply: &mut Reply<'_>) -> CmdResult {
    let (keys, rest) = split_keys(&args[1..], args[0])?;
    let sources = sources(cx, keys)?;
    let options = Options::parse(rest, keys.len(), op, Want::Reply)?;
    let result = combine(&sources, op, &options)?;
    start_elements(reply, result.len(), options.with_scores);
    ZsetRef::Big(&result).for_each(|member, score| {
        write_element(reply, member, score, options.with_scores);
    });
    Ok(())
}

fn run_store(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    op: Operation,
    event: &'static str,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let (keys, rest) = split_keys(&args[2..], args[0])?;
    let sources = sources(cx, keys)?;
    let options = Options::parse(rest, keys.len(), op, Want::Store)?;
    let result = combine(&sources, op, &options)?;
    store(cx, args[1], result, event, reply);
    Ok(())
}

fn zunion(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_reply(cx, args, Operation::Union, reply)
}

fn zunionstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_store(cx, args, Operation::Union, "zunionstore", reply)
}

fn zinter(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_reply(cx, args, Operation::Intersection, reply)
}

fn zinterstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_store(cx, args, Operation::Intersection, "zinterstore", reply)
}

fn zdiff(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_reply(cx, args, Operation::Difference, reply)
}

fn zdiffstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    run_store(cx, args, Operation::Difference, "zdiffstore", reply)
}

fn zintercard(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (keys, rest) = split_keys(&args[1..], args[0])?;
    let mut sources = sources(cx, keys)?;
    let options = Options::parse(rest, keys.len(), Operation::Intersection, Want::Count)?;
    sources.sort_by_key(|source| source.len());
    let (first, others) = (sources[0], &sources[1..]);
    let limit = if options.limit == 0 { u64::MAX } else { options.limit };
    let mut count = 0;
    first.for_each(|member, _| {
        if count < limit && others.iter().all(|other| other.score(member).is_some()) {
            count += 1;
        }
    });
    reply.int(count as i64);
    Ok(())
}
