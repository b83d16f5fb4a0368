//! Hashes. The commands for the expiry of fields are in [`hash_ttl`](super::hash_ttl).
//!
//! A field that has expired by the call's time is absent: reads pass over it, the first write
//! removes it.

use super::hash_ttl::purge_fields;
use super::scan::parse_cursor;
use super::{sample, scan_args::ScanArgs};
use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::extended::Extended;
use crate::keyspace::Kind;
use crate::number;
use crate::reply::Reply;
use crate::stamp::Rng;
use crate::value::Value;
use crate::value::dense::check_room;
use crate::value::hash::{Hash, HashMut, HashRef, Limits};
use crate::value::holder::Draft;
use crate::value::packed::{Elem, IntBuf};
use crate::value::part::Part;

const READ: Flags = Flags::READONLY;
const READ_FAST: Flags = Flags::READONLY.union(Flags::FAST);
const WRITE_FAST: Flags = Flags::WRITE.union(Flags::FAST);
const GROW_FAST: Flags = WRITE_FAST.union(Flags::DENYOOM);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("HDEL", -3, Group::Hash, hdel)
        .member(2)
        .flags(WRITE_FAST)
        .keys(Keys::FIRST)
        .syntax("key field...")
        .docs("2.0.0", "O(N) for N fields", "Removes fields from a hash."),
    Command::new("HEXISTS", 3, Group::Hash, hexists)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key field")
        .docs("2.0.0", "O(1)", "Tells whether a hash has a field."),
    Command::new("HGET", 3, Group::Hash, hget)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key field")
        .docs("2.0.0", "O(1)", "Returns the value of a field of a hash."),
    Command::new("HGETALL", 2, Group::Hash, hgetall)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key")
        .docs("2.0.0", "O(N) for N fields", "Returns all fields and values of a hash."),
    Command::new("HINCRBY", 4, Group::Hash, hincrby)
        .member(2)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key field increment:integer")
        .docs("2.0.0", "O(1)", "Adds to the integer value of a field, from 0 where it has none."),
    Command::new("HINCRBYFLOAT", 4, Group::Hash, hincrbyfloat)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key field increment:double")
        .docs("2.6.0", "O(1)", "Adds to the number in a field, from 0 where it has none."),
    Command::new("HKEYS", 2, Group::Hash, hkeys).flags(READ).keys(Keys::FIRST).syntax("key").docs(
        "2.0.0",
        "O(N) for N fields",
        "Returns all fields of a hash.",
    ),
    Command::new("HLEN", 2, Group::Hash, hlen)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("2.0.0", "O(1)", "Returns the number of fields of a hash."),
    Command::new("HMGET", -3, Group::Hash, hmget)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key field...")
        .docs("2.0.0", "O(N) for N fields", "Returns the values of several fields of a hash."),
    Command::new("HMSET", -4, Group::Hash, hmset)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key (field value)...")
        .docs("2.0.0", "O(N) for N fields", "Sets fields of a hash; HSET does the same."),
    Command::new("HRANDFIELD", -2, Group::Hash, hrandfield)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key [count:integer [WITHVALUES]]")
        .docs("6.2.0", "O(N) for N returned fields", "Returns random fields of a hash."),
    Command::new("HSCAN", -3, Group::Hash, hscan)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key cursor:integer [MATCH pattern] [COUNT count:integer] [NOVALUES]")
        .docs("2.8.0", "O(1) a call", "Iterates over the fields and values of a hash."),
    Command::new("HSET", -4, Group::Hash, hset)
        .member(2)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key (field value)...")
        .docs("2.0.0", "O(N) for N fields", "Sets fields of a hash."),
    Command::new("HSETNX", 4, Group::Hash, hsetnx)
        .member(2)
        .flags(GROW_FAST)
        .keys(Keys::FIRST)
        .syntax("key field value")
        .docs("2.0.0", "O(1)", "Sets a field of a hash unless it exists."),
    Command::new("HSTRLEN", 3, Group::Hash, hstrlen)
        .member(2)
        .flags(READ_FAST)
        .keys(Keys::FIRST)
        .reads(Reads::Members(2))
        .syntax("key field")
        .docs("3.2.0", "O(1)", "Returns the length of a field's value."),
    Command::new("HVALS", 2, Group::Hash, hvals).flags(READ).keys(Keys::FIRST).syntax("key").docs(
        "2.0.0",
        "O(N) for N fields",
        "Returns all values of a hash.",
    ),
];

/// The hash of `key`, without fields where there is none.
#[inline]
pub(super) fn read<'c>(cx: &'c Cx<'_>, key: &[u8]) -> Result<HashRef<'c>, Error> {
    match cx.get(key) {
        Some(entry) => HashRef::of(entry, cx.now_ms()),
        None => cx.part(key).map_or(Ok(HashRef::Packed(&[])), Part::hash),
    }
}

/// Lets `change` work on the hash of `key`, if there is one, after removing expired fields.
#[inline]
pub(super) fn edit<T>(
    cx: &mut Cx<'_>,
    key: &[u8],
    change: impl FnOnce(&mut HashMut<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let (limits, now_ms) = (Limits::of(cx.config()), cx.now_ms());
    let Some(mut entry) = cx.get_mut(key) else { return Ok(None) };
    let mut hash = HashMut::of(&mut entry, limits)?;
    if !hash.big().is_some_and(|hash| hash.has_expired(now_ms)) {
        return change(&mut hash).map(Some);
    }
    purge_fields(cx, key, usize::MAX);
    let Some(mut entry) = cx.get_mut(key) else { return Ok(None) };
    change(&mut HashMut::of(&mut entry, limits)?).map(Some)
}

/// As [`edit`], but on a new hash where there is none. `change` must add a field.
#[inline]
pub(super) fn edit_or_create<T>(
    cx: &mut Cx<'_>,
    key: &[u8],
    mut change: impl FnMut(&mut HashMut<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let grow = |hash: &mut HashMut<'_>| {
        check_room(hash.big().map_or(0, Hash::len))?;
        change(hash)
    };
    if let Some(result) = edit(cx, key, grow)? {
        return Ok(result);
    }
    let mut draft = Draft::packed(Kind::PackedHash);
    let result = change(&mut HashMut::of(&mut draft, Limits::of(cx.config()))?)?;
    cx.insert(key, draft.value());
    Ok(result)
}

/// Removes `key` where its hash has no fields left.
pub(super) fn remove_empty(cx: &mut Cx<'_>, key: &[u8]) {
    cx.remove(key);
    cx.notify(Event::GENERIC, "del", key);
}

pub(super) fn write_elem(elem: Elem<'_>, reply: &mut Reply<'_>) {
    match elem {
        Elem::Bytes(bytes) => reply.bulk(bytes),
        Elem::Int(int) => reply.bulk_int(int),
    }
}

pub(super) fn write_value(value: Option<Elem<'_>>, reply: &mut Reply<'_>) {
    match value {
        Some(value) => write_elem(value, reply),
        None => reply.null(),
    }
}

fn hget(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    write_value(read(cx, args[1])?.get(args[2]), reply);
    Ok(())
}

fn hmget(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let hash = read(cx, args[1])?;
    reply.array(args.len() - 2);
    args[2..].iter().for_each(|field| write_value(hash.get(field), reply));
    Ok(())
}

fn hexists(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(read(cx, args[1])?.get(args[2]).is_some().into());
    Ok(())
}

fn hstrlen(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut buf = IntBuf::new();
    let value = read(cx, args[1])?.get(args[2]);
    reply.int(value.map_or(0, |value| value.as_bytes(&mut buf).len() as i64));
    Ok(())
}

fn hlen(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(read(cx, args[1])?.len() as i64);
    Ok(())
}

fn hgetall(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let hash = read(cx, args[1])?;
    reply.map(hash.len());
    hash.iter().for_each(|(field, value)| {
        write_elem(field, reply);
        write_elem(value, reply);
    });
    Ok(())
}

fn hkeys(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let hash = read(cx, args[1])?;
    reply.array(hash.len());
    hash.iter().for_each(|(field, _)| write_elem(field, reply));
    Ok(())
}

fn hvals(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let hash = read(cx, args[1])?;
    reply.array(hash.len());
    hash.iter().for_each(|(_, value)| write_elem(value, reply));
    Ok(())
}

fn set_pairs(cx: &mut Cx<'_>, name: &str, args: &[&[u8]]) -> Result<i64, Error> {
    let (key, pairs) = (args[1], &args[2..]);
    if !pairs.len().is_multiple_of(2) {
        return Err(Error::arity(name));
    }
    let created = edit_or_create(cx, key, |hash| {
        Ok(pairs.chunks_exact(2).map(|pair| i64::from(hash.set(pair[0], pair[1]))).sum())
    })?;
    cx.changed(key, Event::HASH, "hset");
    cx.add_dirty(pairs.len() as u64 / 2 - 1);
    Ok(created)
}

fn hset(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(set_pairs(cx, "hset", args)?);
    Ok(())
}

fn hmset(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    set_pairs(cx, "hmset", args)?;
    reply.ok();
    Ok(())
}

fn hsetnx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, field) = (args[1], args[2]);
    let is_new =
        edit_or_create(cx, key, |hash| Ok(hash.get(field).is_none() && hash.set(field, args[3])))?;
    if is_new {
        cx.changed(key, Event::HASH, "hset");
    }
    reply.int(is_new.into());
    Ok(())
}

fn hdel(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let result = edit(cx, key, |hash| {
        let removed = args[2..].iter().filter(|field| hash.remove(field)).count();
        Ok((removed, hash.is_empty()))
    })?;
    let (removed, is_empty) = result.unwrap_or_default();
    if removed > 0 {
        cx.changed(key, Event::HASH, "hdel");
        cx.add_dirty(removed as u64 - 1);
        if is_empty {
            remove_empty(cx, key);
        }
    }
    reply.int(removed as i64);
    Ok(())
}

fn hincrby(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, field) = (args[1], args[2]);
    let increment = number::parse_i64(args[3]).ok_or(Error::NotInteger)?;
    let value = edit_or_create(cx, key, |hash| {
        let old = match hash.get(field) {
            None => 0,
            Some(Elem::Int(int)) => int,
            Some(Elem::Bytes(bytes)) => {
                number::parse_i64(bytes).ok_or(Error::text("ERR hash value is not an integer"))?
            }
        };
        let value = old
            .checked_add(increment)
            .ok_or(Error::text("ERR increment or decrement would overflow"))?;
        hash.set_keeping_deadline(field, IntBuf::new().format(value).as_bytes());
        Ok(value)
    })?;
    cx.changed(key, Event::HASH, "hincrby");
    reply.int(value);
    Ok(())
}

fn hincrbyfloat(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, field) = (args[1], args[2]);
    let increment = Extended::parse(args[3]).ok_or(Error::NotFloat)?;
    if !increment.is_finite() {
        return Err(Error::text("ERR value is NaN or Infinity").into());
    }
    let mut text = Vec::new();
    edit_or_create(cx, key, |hash| {
        let mut buf = IntBuf::new();
        let old = hash.get(field).unwrap_or(Elem::Int(0));
        let value = Extended::parse(old.as_bytes(&mut buf))
            .ok_or(Error::text("ERR hash value is not a float"))?
            .checked_add(increment)
            .ok_or(Error::text("ERR increment would produce NaN or Infinity"))?;
        text.clear();
        value.format(&mut text);
        hash.set_keeping_deadline(field, &text);
        Ok(())
    })?;
    tell_field(cx, key, field, &text);
    cx.changed(key, Event::HASH, "hincrbyfloat");
    reply.bulk(&text);
    Ok(())
}

/// Tells followers what a field holds now, and when it expires, which HSET makes forget.
fn tell_field(cx: &mut Cx<'_>, key: &[u8], field: &[u8], text: &[u8]) {
    if !cx.is_told() {
        return;
    }
    let deadline = cx.peek(key).and_then(|entry| match entry.big() {
        Some(Value::Hash(hash)) => hash.deadline(field),
        _ => None,
    });
    cx.tell(&[b"HSET", key, field, text]);
    if let Some(at_ms) = deadline {
        let at_ms = at_ms.to_string();
        cx.tell(&[b"HPEXPIREAT", key, at_ms.as_bytes(), b"FIELDS", b"1", field]);
    }
}

/// A field and its value by position.
type PairAt<'a> = Box<dyn Fn(usize) -> Option<(Elem<'a>, Elem<'a>)> + 'a>;

/// Access to the live fields by position, and their number.
fn positions(hash: HashRef<'_>) -> (usize, PairAt<'_>) {
    match hash {
        HashRef::Big(big, now_ms) if !big.has_expired(now_ms) => {
            let pair = |(field, value)| (Elem::Bytes(field), Elem::Bytes(value));
            (big.len(), Box::new(move |position| big.at(position, now_ms).map(pair)))
        }
        _ => {
            let live: Vec<_> = hash.iter().collect();
            (live.len(), Box::new(move |position| live.get(position).copied()))
        }
    }
}

fn hrandfield(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = args.get(2).map(|count| sample::parse_count(count)).transpose()?;
    let with_values = match args.get(3) {
        None => false,
        Some(word) if args.len() == 4 && word.eq_ignore_ascii_case(b"WITHVALUES") => true,
        Some(_) => return Err(Error::Syntax.into()),
    };
    if with_values && count.is_some_and(|count| count.unsigned_abs() > i64::MAX as u64 / 2) {
        return Err(Error::text("ERR value is out of range").into());
    }
    let mut rng = Rng::new(cx.rng().next_u64());
    let hash = read(cx, args[1])?;
    let (len, pair_at) = positions(hash);
    let Some(count) = count else {
        write_value(pair_at(rng.below(len)).map(|(field, _)| field), reply);
        return Ok(());
    };
    let nested = with_values && reply.is_resp3();
    let width = if with_values && !nested { 2 } else { 1 };
    let write = |position, reply: &mut Reply<'_>| {
        let Some((field, value)) = pair_at(position) else { return };
        if nested {
            reply.array(2);
        }
        write_elem(field, reply);
        if with_values {
            write_elem(value, reply);
        }
    };
    let wanted = count.unsigned_abs();
    if len == 0 {
        reply.array(0);
    } else if count < 0 {
        reply.array(wanted as usize * width);
        sample::repeated(&mut rng, len, wanted, reply, write)?;
    } else if wanted >= len as u64 {
        reply.array(len * width);
        (0..len).for_each(|position| write(position, reply));
    } else {
        reply.array(wanted as usize * width);
        let chosen = sample::distinct(&mut rng, len, wanted as usize);
        chosen.into_iter().for_each(|position| write(position, reply));
    }
    Ok(())
}

fn hscan(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let cursor = parse_cursor(args[2])?;
    let hash = read(cx, args[1])?;
    reply.array(2);
    if hash.is_empty() {
        reply.bulk(b"0");
        reply.array(0);
        return Ok(());
    }
    let options = ScanArgs::parse(&args[3..], true)?;
    let mut found = Vec::new();
    let mut buf = IntBuf::new();
    let mut next = 0;
    match hash {
        HashRef::Packed(_) | HashRef::Shaped(..) | HashRef::Part(_) => {
            found.extend(hash.iter().filter(|(field, _)| options.wants(field.as_bytes(&mut buf))));
        }
        HashRef::Big(big, now_ms) => {
            next = big.scan(cursor, options.count, now_ms, |field, value| {
                if options.wants(field) {
                    found.push((Elem::Bytes(field), Elem::Bytes(value)));
                }
            });
        }
    }
    reply.bulk(IntBuf::new().format(next).as_bytes());
    reply.array(if options.no_values { found.len() } else { 2 * found.len() });
    for (field, value) in found {
        write_elem(field, reply);
        if !options.no_values {
            write_elem(value, reply);
        }
    }
    Ok(())
}
