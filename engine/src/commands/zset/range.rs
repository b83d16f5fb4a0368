//! Sorted sets: ranges by rank, score and member, to read, count, store and remove.

use super::access::{self, entry, read, read_or_empty, removed, store};
use super::{start_elements, write_element};
use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::part::{Ask, Bounds};
use crate::value::zset::{LexBound, RangeSpec, ScoreBound, Window, Zset, ZsetRef};
use std::ops::Range;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);

/// The family's commands on ranges.
pub const COMMANDS: &[Command] = &[
    Command::new("ZRANGE", -4, Group::SortedSet, zrange)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Custom(ask_zrange))
        .syntax(
            "key start:double stop:double [BYSCORE|BYLEX] [REV] \
             [LIMIT offset:integer count:integer] [WITHSCORES]",
        )
        .docs("1.2.0", "O(log(N)+M)", "Returns a range of members by rank, score or member."),
    Command::new("ZRANGESTORE", -5, Group::SortedSet, zrangestore)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST_TWO)
        .syntax(
            "destination source start:double stop:double [BYSCORE|BYLEX] [REV] \
             [LIMIT offset:integer count:integer]",
        )
        .docs("6.2.0", "O(log(N)+M)", "Stores a range of members in a key."),
    Command::new("ZREVRANGE", -4, Group::SortedSet, zrevrange)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Custom(ask_zrevrange))
        .syntax("key start:integer stop:integer [WITHSCORES]")
        .docs("1.2.0", "O(log(N)+M)", "Returns a range of members by rank, highest first."),
    Command::new("ZRANGEBYSCORE", -4, Group::SortedSet, zrangebyscore)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Custom(ask_zrangebyscore))
        .syntax("key min:double max:double [WITHSCORES] [LIMIT offset:integer count:integer]")
        .docs("1.0.5", "O(log(N)+M)", "Returns the members within a range of scores."),
    Command::new("ZREVRANGEBYSCORE", -4, Group::SortedSet, zrevrangebyscore)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Custom(ask_zrevrangebyscore))
        .syntax("key max:double min:double [WITHSCORES] [LIMIT offset:integer count:integer]")
        .docs("2.2.0", "O(log(N)+M)", "Returns the members within a range of scores, backwards."),
    Command::new("ZRANGEBYLEX", -4, Group::SortedSet, zrangebylex)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key min max [LIMIT offset:integer count:integer]")
        .docs("2.8.9", "O(log(N)+M)", "Returns the members within a range of strings."),
    Command::new("ZREVRANGEBYLEX", -4, Group::SortedSet, zrevrangebylex)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key max min [LIMIT offset:integer count:integer]")
        .docs("2.8.9", "O(log(N)+M)", "Returns the members within a range of strings, backwards."),
    Command::new("ZCOUNT", 4, Group::SortedSet, zcount)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Custom(ask_zcount))
        .syntax("key min:double max:double")
        .docs("2.0.0", "O(log(N))", "Counts the members within a range of scores."),
    Command::new("ZLEXCOUNT", 4, Group::SortedSet, zlexcount)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .syntax("key min max")
        .docs("2.8.9", "O(log(N))", "Counts the members within a range of strings."),
    Command::new("ZRANK", -3, Group::SortedSet, zrank)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Rank(2))
        .syntax("key member [WITHSCORE]")
        .docs("2.0.0", "O(log(N))", "Returns the rank of a member, counted from the lowest score."),
    Command::new("ZREVRANK", -3, Group::SortedSet, zrevrank)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Rank(2))
        .syntax("key member [WITHSCORE]")
        .docs(
            "2.0.0",
            "O(log(N))",
            "Returns the rank of a member, counted from the highest score.",
        ),
    Command::new("ZREMRANGEBYRANK", 4, Group::SortedSet, zremrangebyrank)
        .flags(Flags::WRITE)
        .keys(Keys::FIRST)
        .syntax("key start:integer stop:integer")
        .docs("2.0.0", "O(log(N)+M)", "Removes the members within a range of ranks."),
    Command::new("ZREMRANGEBYSCORE", 4, Group::SortedSet, zremrangebyscore)
        .flags(Flags::WRITE)
        .keys(Keys::FIRST)
        .syntax("key min:double max:double")
        .docs("1.2.0", "O(log(N)+M)", "Removes the members within a range of scores."),
    Command::new("ZREMRANGEBYLEX", 4, Group::SortedSet, zremrangebylex)
        .flags(Flags::WRITE)
        .keys(Keys::FIRST)
        .syntax("key min max")
        .docs("2.8.9", "O(log(N)+M)", "Removes the members within a range of strings."),
];

/// What the bounds of a range are.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Rank,
    Score,
    Lex,
}

impl By {
    fn parse<'a>(self, min: &'a [u8], max: &'a [u8]) -> Result<RangeSpec<'a>, Error> {
        Ok(match self {
            By::Rank => RangeSpec::Rank(rank_bound(min)?, rank_bound(max)?),
            By::Score => RangeSpec::Score(score_bound(min)?, score_bound(max)?),
            By::Lex => RangeSpec::Lex(lex_bound(min)?, lex_bound(max)?),
        })
    }
}

fn rank_bound(arg: &[u8]) -> Result<i64, Error> {
    number::parse_i64(arg).ok_or(Error::NotInteger)
}

fn score_bound(arg: &[u8]) -> Result<ScoreBound, Error> {
    let (number, exclusive) = match arg {
        [b'(', number @ ..] => (number, true),
        number => (number, false),
    };
    let value = match number {
        // Redis takes no digits for a zero here.
        [] => Some(0.0),
        // Blanks before the digits are skipped here, unlike in a score that is set.
        number => {
            number::parse_f64_saturating(number.trim_ascii_start()).filter(|value| !value.is_nan())
        }
    };
    let value = value.ok_or(Error::text("ERR min or max is not a float"))?;
    Ok(ScoreBound { value, exclusive: exclusive && !known_bugs::is_back(Bug::InclusiveScores) })
}

fn lex_bound(arg: &[u8]) -> Result<LexBound<'_>, Error> {
    match arg {
        b"-" => Ok(LexBound::Min),
        b"+" => Ok(LexBound::Max),
        [b'[', bound @ ..] => Ok(LexBound::Included(bound)),
        [b'(', bound @ ..] => Ok(LexBound::Excluded(bound)),
        _ => Err(Error::text("ERR min or max not valid string range item")),
    }
}

/// A range and how it is read.
struct Selection<'a> {
    spec: RangeSpec<'a>,
    reverse: bool,
    /// LIMIT: offset and count; a negative count is no limit.
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

impl<'a> Selection<'a> {
    /// Reads the bounds, which start `args`, and the options behind them. What the command's name
    /// does not say, `by` and `reverse`, options may; `may_score` says whether WITHSCORES may be.
    fn parse(
        args: &[&'a [u8]],
        mut by: Option<By>,
        mut reverse: Option<bool>,
        may_score: bool,
    ) -> Result<Self, Error> {
        let (mut limit, mut with_scores) = (None, false);
        let mut options = args[2..].iter();
        while let Some(option) = options.next() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if may_score && is("withscores") {
                with_scores = true;
            } else if let [offset, count, ..] = options.as_slice()
                && is("limit")
            {
                limit = Some((rank_bound(offset)?, rank_bound(count)?));
                options.nth(1);
            } else if reverse.is_none() && is("rev") {
                reverse = Some(true);
            } else if by.is_none() && is("bylex") {
                by = Some(By::Lex);
            } else if by.is_none() && is("byscore") {
                by = Some(By::Score);
            } else {
                return Err(Error::Syntax);
            }
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if by == By::Rank && limit.is_some_and(|(_, count)| count != -1) {
            return Err(Error::text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or \
                 BYLEX",
            ));
        }
        if by == By::Lex && with_scores {
            return Err(Error::text(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let is_swapped = reverse && by != By::Rank;
        let (min, max) = if is_swapped { (args[1], args[0]) } else { (args[0], args[1]) };
        let spec = by.parse(min, max)?;
        let limit = limit.filter(|_| by != By::Rank);
        Ok(Selection { spec, reverse, limit, with_scores })
    }

    /// The ranks that are selected.
    fn resolve(&self, zset: ZsetRef<'_>) -> Range<usize> {
        let len = matches!(self.spec, RangeSpec::Rank(..)).then(|| zset.len());
        self.window().of(zset.resolve(&self.spec), len)
    }

    fn window(&self) -> Window {
        Window { reverse: self.reverse, limit: self.limit }
    }

    /// What is to be read for it of a large set on disk; the whole where it is by member.
    fn ask(&self) -> Option<Ask> {
        let bounds = match self.spec {
            RangeSpec::Rank(start, stop) => Bounds::Rank(start, stop),
            RangeSpec::Score(min, max) => Bounds::Score(min, max),
            RangeSpec::Lex(..) => return None,
        };
        Some(Ask::Ranks(bounds, self.window()))
    }
}

/// What a command that [`write_range`] runs asks for. Where the arguments are wrong it comes to an error.
fn ask_range(args: &[&[u8]], by: Option<By>, reverse: Option<bool>) -> Option<Ask> {
    match Selection::parse(args.get(2..)?, by, reverse, true) {
        Ok(selection) => selection.ask(),
        Err(_) => Some(Ask::Head),
    }
}

fn ask_zrange(args: &[&[u8]]) -> Option<Ask> {
    ask_range(args, None, None)
}

fn ask_zrevrange(args: &[&[u8]]) -> Option<Ask> {
    ask_range(args, Some(By::Rank), Some(true))
}

fn ask_zrangebyscore(args: &[&[u8]]) -> Option<Ask> {
    ask_range(args, Some(By::Score), Some(false))
}

fn ask_zrevrangebyscore(args: &[&[u8]]) -> Option<Ask> {
    ask_range(args, Some(By::Score), Some(true))
}

/// The bounds alone, without an element.
fn ask_zcount(args: &[&[u8]]) -> Option<Ask> {
    let [_, _, min, max] = args else { return Some(Ask::Head) };
    let Ok(RangeSpec::Score(min, max)) = By::Score.parse(min, max) else { return Some(Ask::Head) };
    let window = Window { reverse: false, limit: Some((0, 0)) };
    Some(Ask::Ranks(Bounds::Score(min, max), window))
}

fn write_range(
    cx: &Cx<'_>,
    args: &[&[u8]],
    by: Option<By>,
    reverse: Option<bool>,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let selection = Selection::parse(&args[2..], by, reverse, true)?;
    let zset = read_or_empty(cx, args[1])?;
    let ranks = selection.resolve(zset);
    start_elements(reply, ranks.len(), selection.with_scores);
    zset.for_range(ranks, selection.reverse, |member, score| {
        write_element(reply, member, score, selection.with_scores);
    });
    Ok(())
}

fn zrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, None, None, reply)
}

fn zrevrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, Some(By::Rank), Some(true), reply)
}

fn zrangebyscore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, Some(By::Score), Some(false), reply)
}

fn zrevrangebyscore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, Some(By::Score), Some(true), reply)
}

fn zrangebylex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, Some(By::Lex), Some(false), reply)
}

fn zrevrangebylex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_range(cx, args, Some(By::Lex), Some(true), reply)
}

fn zrangestore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let selection = Selection::parse(&args[3..], None, None, false)?;
    let source = read_or_empty(cx, args[2])?;
    let mut stored = Zset::new();
    source.for_range(selection.resolve(source), selection.reverse, |member, score| {
        stored.upsert(member, |_| Some(score));
    });
    store(cx, args[1], stored, "zrangestore", reply);
    Ok(())
}

fn count(cx: &Cx<'_>, args: &[&[u8]], by: By, reply: &mut Reply<'_>) -> CmdResult {
    let spec = by.parse(args[2], args[3])?;
    reply.int(read_or_empty(cx, args[1])?.resolve(&spec).len() as i64);
    Ok(())
}

fn zcount(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    count(cx, args, By::Score, reply)
}

fn zlexcount(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    count(cx, args, By::Lex, reply)
}

fn rank(cx: &Cx<'_>, args: &[&[u8]], reverse: bool, reply: &mut Reply<'_>) -> CmdResult {
    let with_score = match &args[3..] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"WITHSCORE") => true,
        [_] => return Err(Error::Syntax.into()),
        _ => return Err(Error::arity(if reverse { "zrevrank" } else { "zrank" }).into()),
    };
    let found = read(cx, args[1])?.and_then(|zset| Some((zset.len(), zset.rank(args[2])?)));
    match found {
        Some((len, (rank, score))) => {
            if with_score {
                reply.array(2);
            }
            reply.int(if reverse { len - 1 - rank } else { rank } as i64);
            if with_score {
                reply.double(score);
            }
        }
        None if with_score => reply.null_array(),
        None => reply.null(),
    }
    Ok(())
}

fn zrank(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    rank(cx, args, false, reply)
}

fn zrevrank(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    rank(cx, args, true, reply)
}

fn remove(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    by: By,
    event: &'static str,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let spec = by.parse(args[2], args[3])?;
    let mut count = 0;
    if let Some(mut target) = entry(cx, args[1])? {
        let ranks = access::zset_of(target.as_ref())?.resolve(&spec);
        count = ranks.len();
        access::remove_range(&mut target, ranks, false, |_, _| {});
        let is_empty = access::len(&target) == 0;
        if count > 0 {
            removed(cx, args[1], event, is_empty);
        }
    }
    reply.int(count as i64);
    Ok(())
}

fn zremrangebyrank(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    remove(cx, args, By::Rank, "zremrangebyrank", reply)
}

fn zremrangebyscore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    remove(cx, args, By::Score, "zremrangebyscore", reply)
}

fn zremrangebylex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    remove(cx, args, By::Lex, "zremrangebylex", reply)
}
