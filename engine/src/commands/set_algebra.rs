//! Sets: unions, intersections and differences.

use super::hash::write_elem;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::dense::check_room;
use crate::value::packed::{Elem, IntBuf};
use crate::value::set::{Builder, Limits, SetRef};
use smallvec::SmallVec;

const STORE: Flags = Flags::WRITE.union(Flags::DENYOOM);

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command::new("SDIFF", -2, Group::Set, sdiff)
        .flags(Flags::READONLY)
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("1.0.0", "O(N) for N members of all sets", "Returns the difference of sets."),
    Command::new("SDIFFSTORE", -3, Group::Set, sdiffstore)
        .flags(STORE)
        .keys(Keys::ALL)
        .syntax("destination key...")
        .docs("1.0.0", "O(N) for N members of all sets", "Stores the difference of sets."),
    Command::new("SINTER", -2, Group::Set, sinter)
        .flags(Flags::READONLY)
        .keys(Keys::ALL)
        .syntax("key...")
        .docs(
            "1.0.0",
            "O(N*M) for the N members of the smallest of M sets",
            "Returns the intersection of sets.",
        ),
    Command::new("SINTERCARD", -3, Group::Set, sintercard)
        .flags(Flags::READONLY.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Numkeys { at: 1, also_first: false })
        .syntax("numkeys:integer key... [LIMIT limit:integer]")
        .docs(
            "7.0.0",
            "O(N*M) for the N members of the smallest of M sets",
            "Returns the number of members of the intersection of sets.",
        ),
    Command::new("SINTERSTORE", -3, Group::Set, sinterstore)
        .flags(STORE)
        .keys(Keys::ALL)
        .syntax("destination key...")
        .docs(
            "1.0.0",
            "O(N*M) for the N members of the smallest of M sets",
            "Stores the intersection of sets.",
        ),
    Command::new("SUNION", -2, Group::Set, sunion)
        .flags(Flags::READONLY)
        .keys(Keys::ALL)
        .syntax("key...")
        .docs("1.0.0", "O(N) for N members of all sets", "Returns the union of sets."),
    Command::new("SUNIONSTORE", -3, Group::Set, sunionstore)
        .flags(STORE)
        .keys(Keys::ALL)
        .syntax("destination key...")
        .docs("1.0.0", "O(N) for N members of all sets", "Stores the union of sets."),
];

type Sets<'a> = SmallVec<[SetRef<'a>; 4]>;

const EMPTY: SetRef<'static> = SetRef::Packed(&[]);

/// The sets of `keys`, empty ones for those that are absent.
fn gather<'c>(cx: &'c Cx<'_>, keys: &[&[u8]]) -> Result<Sets<'c>, Error> {
    keys.iter()
        .map(|key| match cx.get(key) {
            Some(entry) => SetRef::of(entry),
            None => Ok(EMPTY),
        })
        .collect()
}

/// Gives `each` the members that all sets have, until it returns false.
fn intersect(mut sets: Sets<'_>, mut each: impl FnMut(Elem<'_>) -> bool) {
    sets.sort_by_key(SetRef::len);
    let Some((smallest, others)) = sets.split_first() else { return };
    for member in smallest.iter() {
        if others.iter().all(|other| other.contains_elem(member)) && !each(member) {
            return;
        }
    }
}

/// The members of the first set that no other has.
///
/// There are two ways, as in Redis: to look up each member of the first set in the others, or to
/// remove the members of the others from a copy of the first. The cheaper one is taken; looking up
/// counts half, since the first other set that has the member ends it.
fn difference(sets: &Sets<'_>, limits: Limits) -> Builder {
    let mut result = Builder::new(limits);
    let mut buf = IntBuf::new();
    let Some((first, others)) = sets.split_first() else { return result };
    let by_lookup = first.len().saturating_mul(sets.len()) / 2;
    let by_removal: usize = sets.iter().map(SetRef::len).sum();
    if by_lookup <= by_removal {
        // The largest is the likeliest to have a member.
        let mut others: Sets<'_> = others.into();
        others.sort_by_key(|other| std::cmp::Reverse(other.len()));
        for member in first.iter() {
            if !others.iter().any(|other| other.contains_elem(member)) {
                result.insert(member.as_bytes(&mut buf));
            }
        }
        return result;
    }
    for member in first.iter() {
        result.insert(member.as_bytes(&mut buf));
    }
    for member in others.iter().flat_map(SetRef::iter) {
        result.remove(member.as_bytes(&mut buf));
        if result.as_ref().is_empty() {
            break;
        }
    }
    result
}

/// The members of any of the sets.
///
/// # Errors
/// Where they may be too many for one set.
fn union(sets: &Sets<'_>, limits: Limits) -> Result<Builder, Error> {
    if sets.len() > 1 {
        check_room(sets.iter().map(SetRef::len).sum())?;
    }
    let mut result = Builder::new(limits);
    let mut buf = IntBuf::new();
    for member in sets.iter().flat_map(SetRef::iter) {
        result.insert(member.as_bytes(&mut buf));
    }
    Ok(result)
}

fn write(set: SetRef<'_>, reply: &mut Reply<'_>) {
    reply.set(set.len());
    set.iter().for_each(|member| write_elem(member, reply));
}

/// Puts a result in the place of what `key` held and replies with its size.
fn store(
    cx: &mut Cx<'_>,
    key: &[u8],
    result: Builder,
    event: &'static str,
    reply: &mut Reply<'_>,
) -> CmdResult {
    let len = result.as_ref().len();
    if len > 0 {
        cx.insert(key, result.into_draft().value());
        cx.changed(key, Event::SET, event);
    } else if cx.remove(key) {
        cx.changed(key, Event::GENERIC, "del");
    }
    reply.int(len as i64);
    Ok(())
}

fn sinter(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let sets = gather(cx, &args[1..])?;
    let length = reply.deferred_set();
    let mut count = 0;
    intersect(sets, |member| {
        write_elem(member, reply);
        count += 1;
        true
    });
    reply.close(length, count);
    Ok(())
}

fn sinterstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut result = Builder::new(Limits::of(cx.config()));
    let mut buf = IntBuf::new();
    intersect(gather(cx, &args[2..])?, |member| {
        result.insert(member.as_bytes(&mut buf));
        true
    });
    store(cx, args[1], result, "sinterstore", reply)
}

fn sintercard(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let numkeys = number::parse_i64(args[1]).filter(|numkeys| *numkeys > 0);
    let numkeys = numkeys.ok_or(Error::text("ERR numkeys should be greater than 0"))?;
    let keys = usize::try_from(numkeys).ok().and_then(|count| args[2..].get(..count));
    let keys =
        keys.ok_or(Error::text("ERR Number of keys can't be greater than number of args"))?;
    let mut limit = 0;
    let mut options = args[2 + keys.len()..].iter();
    while let Some(option) = options.next() {
        if !option.eq_ignore_ascii_case(b"LIMIT") {
            return Err(Error::Syntax.into());
        }
        let value = options.next().ok_or(Error::Syntax)?;
        limit = number::parse_i64(value)
            .filter(|limit| *limit >= 0)
            .ok_or(Error::text("ERR LIMIT can't be negative"))?;
    }
    let mut count = 0;
    intersect(gather(cx, keys)?, |_| {
        count += 1;
        count != limit
    });
    reply.int(count);
    Ok(())
}

fn sdiff(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write(difference(&gather(cx, &args[1..])?, Limits::of(cx.config())).as_ref(), reply);
    Ok(())
}

fn sdiffstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let result = difference(&gather(cx, &args[2..])?, Limits::of(cx.config()));
    store(cx, args[1], result, "sdiffstore", reply)
}

fn sunion(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write(union(&gather(cx, &args[1..])?, Limits::of(cx.config()))?.as_ref(), reply);
    Ok(())
}

fn sunionstore(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let result = union(&gather(cx, &args[2..])?, Limits::of(cx.config()))?;
    store(cx, args[1], result, "sunionstore", reply)
}
