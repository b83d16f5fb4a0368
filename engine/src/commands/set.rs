//! Sets. Unions, intersections and differences are in [`set_algebra`](super::set_algebra).

use super::hash::write_elem;
use super::scan::parse_cursor;
use super::{sample, scan_args::ScanArgs};
use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::stamp::Rng;
use crate::value::dense::check_room;
use crate::value::packed::{Elem, IntBuf};
use crate::value::part::Part;
use crate::value::set::{self, Limits, SetMut, SetRef};
use crate::value::small::SmallBytes;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("SADD", -3, Group::Set, sadd)
        .member(2)
        .flags(WRITE_FAST.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax("key member...")
        .docs("1.0.0", "O(N) for N members", "Adds members to a set."),
    Command::new("SCARD", 2, Group::Set, scard)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the number of members of a set."),
    Command::new("SISMEMBER", 3, Group::Set, sismember)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key member")
        .docs("1.0.0", "O(1)", "Tells whether a set has a member."),
    Command::new("SMISMEMBER", -3, Group::Set, smismember)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key member...")
        .docs("6.2.0", "O(N) for N members", "Tells which of several members a set has."),
    Command::new("SMEMBERS", 2, Group::Set, smembers)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("1.0.0", "O(N) for N members", "Returns all members of a set."),
    Command::new("SMOVE", 4, Group::Set, smove)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST_TWO)
        .syntax("source destination member")
        .docs("1.0.0", "O(1)", "Moves a member from one set to another."),
    Command::new("SPOP", -2, Group::Set, spop)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("1.0.0", "O(N) for N returned members", "Removes and returns random members."),
    Command::new("SRANDMEMBER", -2, Group::Set, srandmember)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("1.0.0", "O(N) for N returned members", "Returns random members of a set."),
    Command::new("SREM", -3, Group::Set, srem)
        .member(2)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST)
        .syntax("key member...")
        .docs("1.0.0", "O(N) for N members", "Removes members from a set."),
    Command::new("SSCAN", -3, Group::Set, sscan)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key cursor:integer [MATCH pattern] [COUNT count:integer]")
        .docs("2.8.0", "O(1) a call", "Iterates over the members of a set."),
];

/// The set of `key`, without members where there is none.
#[inline]
pub(super) fn read<'c>(cx: &'c Cx<'_>, key: &[u8]) -> Result<SetRef<'c>, Error> {
    match cx.get(key) {
        Some(entry) => SetRef::of(entry),
        None => cx.part(key).map_or(Ok(SetRef::Packed(&[])), Part::set),
    }
}

/// Lets `change` work on the set of `key`, if there is one.
#[inline]
fn edit<T>(
    cx: &mut Cx<'_>,
    key: &[u8],
    change: impl FnOnce(&mut SetMut<'_>) -> T,
) -> Result<Option<T>, Error> {
    let limits = Limits::of(cx.config());
    let Some(mut entry) = cx.get_mut(key) else { return Ok(None) };
    Ok(Some(change(&mut SetMut::of(&mut entry, limits)?)))
}

/// Removes `key` where its set has no members left.
fn remove_empty(cx: &mut Cx<'_>, key: &[u8]) {
    cx.remove(key);
    cx.notify(Event::GENERIC, "del", key);
}

/// Adds members to the set of `key`, which is made where there is none. Returns how many are new.
fn add(cx: &mut Cx<'_>, key: &[u8], members: &[&[u8]]) -> Result<usize, Error> {
    let insert = |set: &mut SetMut<'_>| members.iter().filter(|member| set.insert(member)).count();
    let added = edit(cx, key, |set| {
        check_room(set.as_ref().len())?;
        set.expect(members.len());
        Ok(insert(set))
    })?;
    if let Some(added) = added {
        return added;
    }
    let limits = Limits::of(cx.config());
    let first = members.first().copied().unwrap_or_default();
    let mut draft = set::draft(first, members.len(), limits);
    let added = insert(&mut SetMut::of(&mut draft, limits)?);
    cx.insert(key, draft.value());
    Ok(added)
}

fn sadd(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let added = add(cx, key, &args[2..])?;
    if added > 0 {
        cx.changed(key, Event::SET, "sadd");
        cx.add_dirty(added as u64 - 1);
    }
    reply.int(added as i64);
    Ok(())
}

fn srem(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let result = edit(cx, key, |set| {
        let removed = args[2..].iter().filter(|member| set.remove(member)).count();
        (removed, set.is_empty())
    })?;
    let (removed, is_empty) = result.unwrap_or_default();
    if removed > 0 {
        cx.changed(key, Event::SET, "srem");
        cx.add_dirty(removed as u64 - 1);
        if is_empty {
            remove_empty(cx, key);
        }
    }
    reply.int(removed as i64);
    Ok(())
}

fn smove(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (source, destination, member) = (args[1], args[2], args[3]);
    let is_member = match cx.get(source) {
        None => false,
        Some(entry) => {
            let set = SetRef::of(entry)?;
            if let Some(other) = cx.peek(destination) {
                SetRef::of(other)?;
            }
            set.contains(member)
        }
    };
    reply.int(is_member.into());
    if !is_member || source == destination {
        return Ok(());
    }
    let removed = edit(cx, source, |set| (set.remove(member), set.is_empty()))?;
    cx.changed(source, Event::SET, "srem");
    if let Some((_, true)) = removed {
        remove_empty(cx, source);
    }
    if add(cx, destination, &[member])? > 0 {
        cx.changed(destination, Event::SET, "sadd");
    }
    Ok(())
}

fn sismember(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(read(cx, args[1])?.contains(args[2]).into());
    Ok(())
}

fn smismember(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let set = read(cx, args[1])?;
    reply.array(args.len() - 2);
    args[2..].iter().for_each(|member| reply.int(set.contains(member).into()));
    Ok(())
}

fn scard(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(read(cx, args[1])?.len() as i64);
    Ok(())
}

fn smembers(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let set = read(cx, args[1])?;
    reply.set(set.len());
    set.iter().for_each(|member| write_elem(member, reply));
    Ok(())
}

fn spop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 2 {
        return spop_count(cx, args, reply);
    }
    let key = args[1];
    let mut rng = Rng::new(cx.rng().next_u64());
    let popped = edit(cx, key, |set| {
        let position = rng.below(set.len());
        (set.remove_at(position), set.is_empty())
    })?;
    match popped {
        Some((Some(member), is_empty)) => {
            reply.bulk(member.as_bytes());
            cx.tell(&[b"SREM", key, member.as_bytes()]);
            cx.changed(key, Event::SET, "spop");
            if is_empty {
                remove_empty(cx, key);
            }
        }
        _ => reply.null(),
    }
    Ok(())
}

fn spop_count(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 3 {
        return Err(Error::Syntax.into());
    }
    let count = number::parse_i64(args[2]).and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or(Error::text("ERR value is out of range, must be positive"))?;
    let key = args[1];
    let mut rng = Rng::new(cx.rng().next_u64());
    let is_told = cx.is_told();
    let mut gone: Vec<SmallBytes> = Vec::new();
    let popped = edit(cx, key, |set| {
        let len = set.len();
        let popped = count.min(len);
        reply.set(popped);
        if popped == len {
            // The key goes as a whole, off the hot path where it is large.
            set.as_ref().iter().for_each(|member| write_elem(member, reply));
        } else {
            for left in (len - popped..len).rev() {
                let member = set.remove_at(rng.below(left + 1));
                reply.bulk(member.as_ref().map_or(&[], SmallBytes::as_bytes));
                gone.extend(member.filter(|_| is_told));
            }
        }
        (popped, popped == len)
    })?;
    match popped {
        None => reply.set(0),
        Some((0, _)) => {}
        Some((popped, is_all)) => {
            if is_all {
                cx.tell(&[b"DEL", key]);
            } else if is_told {
                let words = [&b"SREM"[..], key];
                let args = words.into_iter().chain(gone.iter().map(SmallBytes::as_bytes));
                cx.tell(&args.collect::<Vec<_>>());
            }
            cx.changed(key, Event::SET, "spop");
            cx.add_dirty(popped as u64 - 1);
            if is_all {
                remove_empty(cx, key);
            }
        }
    }
    Ok(())
}

fn srandmember(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if args.len() > 3 {
        return Err(Error::Syntax.into());
    }
    let count = args.get(2).map(|count| sample::parse_count(count)).transpose()?;
    let mut rng = Rng::new(cx.rng().next_u64());
    let set = read(cx, args[1])?;
    let len = set.len();
    let Some(count) = count else {
        match set.at(rng.below(len)) {
            Some(member) => write_elem(member, reply),
            None => reply.null(),
        }
        return Ok(());
    };
    // A packed set is walked once rather than for each member.
    let walked: Vec<Elem<'_>> = match set {
        SetRef::Packed(_) => set.iter().collect(),
        _ => Vec::new(),
    };
    let write = |position, reply: &mut Reply<'_>| {
        let member = walked.get(position).copied().or_else(|| set.at(position));
        member.into_iter().for_each(|member| write_elem(member, reply));
    };
    let wanted = count.unsigned_abs();
    if len == 0 {
        reply.array(0);
    } else if count < 0 {
        reply.array(wanted as usize);
        sample::repeated(&mut rng, len, wanted, reply, write)?;
    } else if wanted >= len as u64 {
        reply.array(len);
        (0..len).for_each(|position| write(position, reply));
    } else {
        reply.array(wanted as usize);
        let chosen = sample::distinct(&mut rng, len, wanted as usize);
        chosen.into_iter().for_each(|position| write(position, reply));
    }
    Ok(())
}

fn sscan(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let cursor = parse_cursor(args[2])?;
    let set = read(cx, args[1])?;
    reply.array(2);
    if set.is_empty() {
        reply.bulk(b"0");
        reply.array(0);
        return Ok(());
    }
    let options = ScanArgs::parse(&args[3..], false)?;
    let mut found = Vec::new();
    let mut buf = IntBuf::new();
    let mut next = 0;
    match set {
        SetRef::Big(big) => {
            next = big.scan(cursor, options.count, |member| {
                if options.wants(member) {
                    found.push(Elem::Bytes(member));
                }
            });
        }
        _ => found.extend(set.iter().filter(|member| options.wants(member.as_bytes(&mut buf)))),
    }
    reply.bulk(IntBuf::new().format(next).as_bytes());
    reply.array(found.len());
    found.into_iter().for_each(|member| write_elem(member, reply));
    Ok(())
}
