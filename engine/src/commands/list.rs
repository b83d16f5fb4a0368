//! Lists.

use super::mpop;
use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error, Stop};
use crate::keyspace::{EntryMut, EntryRef, Kind};
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::blob::Blob;
use crate::value::list::codec::{self, Framed};
use crate::value::list::packed::{self, Limit};
use crate::value::list::{List, ListRef, Side};
use crate::value::packed::{Elem, IntBuf};
use crate::value::part::Part;
use crate::value::{NewValue, Value};
use smallvec::SmallVec;

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const GROW: Flags = Flags::WRITE.union(Flags::DENYOOM);

/// The family's commands that never block.
pub const COMMANDS: &[Command] = &[
    Command::new("LPUSH", -3, Group::List, lpush)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key element...")
        .docs("1.0.0", "O(1) for each element", "Adds elements at the head of a list."),
    Command::new("RPUSH", -3, Group::List, rpush)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key element...")
        .docs("1.0.0", "O(1) for each element", "Adds elements at the tail of a list."),
    Command::new("LPUSHX", -3, Group::List, lpushx)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key element...")
        .docs("2.2.0", "O(1) for each element", "Adds elements at the head of a list that exists."),
    Command::new("RPUSHX", -3, Group::List, rpushx)
        .flags(GROW.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key element...")
        .docs("2.2.0", "O(1) for each element", "Adds elements at the tail of a list that exists."),
    Command::new("LPOP", -2, Group::List, lpop)
        .flags(WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("1.0.0", "O(N) for N elements", "Takes elements from the head of a list."),
    Command::new("RPOP", -2, Group::List, rpop)
        .flags(WRITE.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key [count:integer]")
        .docs("1.0.0", "O(N) for N elements", "Takes elements from the tail of a list."),
    Command::new("LLEN", 2, Group::List, llen)
        .flags(READ.union(Flags::FAST))
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("1.0.0", "O(1)", "Returns the number of elements of a list."),
    Command::new("LINDEX", 3, Group::List, lindex)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Element(2))
        .syntax("key index:integer")
        .docs("1.0.0", "O(N/800) to find the element", "Returns the element at an index."),
    Command::new("LRANGE", 4, Group::List, lrange)
        .flags(READ)
        .keys(Keys::FIRST)
        .reads(Reads::Range(2))
        .syntax("key start:integer stop:integer")
        .docs("1.0.0", "O(N) for N elements returned", "Returns the elements of a range."),
    Command::new("LSET", 4, Group::List, lset)
        .flags(GROW)
        .keys(Keys::FIRST)
        .syntax("key index:integer element")
        .docs("1.0.0", "O(N/800) to find the element", "Replaces the element at an index."),
    Command::new("LINSERT", 5, Group::List, linsert)
        .flags(GROW)
        .keys(Keys::FIRST)
        .syntax("key (BEFORE|AFTER) pivot element")
        .docs("2.2.0", "O(N) to find the pivot", "Adds an element before or after another."),
    Command::new("LREM", 4, Group::List, lrem)
        .flags(WRITE)
        .keys(Keys::FIRST)
        .syntax("key count:integer element")
        .docs("1.0.0", "O(N)", "Removes elements that equal a value."),
    Command::new("LTRIM", 4, Group::List, ltrim)
        .flags(WRITE)
        .keys(Keys::FIRST)
        .syntax("key start:integer stop:integer")
        .docs("1.0.0", "O(N) for N elements removed", "Removes all elements outside a range."),
    Command::new("LPOS", -3, Group::List, lpos)
        .flags(READ)
        .keys(Keys::FIRST)
        .syntax("key element [RANK rank:integer] [COUNT num-matches:integer] [MAXLEN len:integer]")
        .docs("6.0.6", "O(N)", "Returns the indexes of elements that equal a value."),
    Command::new("LMOVE", 5, Group::List, lmove)
        .flags(GROW)
        .keys(Keys::FIRST_TWO)
        .syntax("source destination (LEFT|RIGHT) (LEFT|RIGHT)")
        .docs("6.2.0", "O(1)", "Moves an element from an end of a list to an end of another."),
    Command::new("RPOPLPUSH", 3, Group::List, rpoplpush)
        .flags(GROW)
        .keys(Keys::FIRST_TWO)
        .syntax("source destination")
        .docs("1.2.0", "O(1)", "Moves the last element of a list to the head of another."),
    Command::new("LMPOP", -4, Group::List, lmpop)
        .flags(WRITE.union(Flags::MOVABLE_KEYS))
        .keys(Keys::Numkeys { at: 1, also_first: false })
        .syntax("numkeys:integer key... (LEFT|RIGHT) [COUNT count:integer]")
        .docs("7.0.0", "O(N+M)", "Takes elements from the first of several lists that has any."),
    Command::new(SPLICE, -4, Group::List, splice)
        .flags(WRITE.union(Flags::INTERNAL).union(Flags::SKIP_MONITOR))
        .keys(Keys::FIRST)
        .syntax("key index:integer removed:integer [element...]")
        .docs("7.4.0", "O(N)", "Replaces elements at an index, as another site did."),
];

/// Removes one element at an index, if asked to, and inserts others there: how a merge changes a
/// list in its middle. No client can call it.
pub const SPLICE: &str = "ASHLAR.SPLICE";

const NOT_POSITIVE: Error = Error::text("ERR value is out of range, must be positive");

/// The list of an entry.
pub(super) fn list_of(entry: EntryRef<'_>) -> Result<ListRef<'_>, Error> {
    match entry.kind() {
        Kind::PackedList => Ok(ListRef::Packed(entry.bytes())),
        _ => match entry.big() {
            Some(Value::List(list)) => Ok(ListRef::Big(list)),
            _ => Err(Error::WrongType),
        },
    }
}

/// The list of `key`, if there is one.
fn read<'c>(cx: &'c Cx<'_>, key: &[u8]) -> Result<Option<ListRef<'c>>, Error> {
    match cx.get(key) {
        Some(entry) => list_of(entry).map(Some),
        None => cx.part(key).map(Part::list).transpose(),
    }
}

/// A list to change: its large form, or the entry itself with the small one.
enum ListMut<'a, 'b> {
    Packed(&'a mut EntryMut<'b>),
    Big(&'a mut List),
}

fn list_mut<'a, 'b>(entry: &'a mut EntryMut<'b>) -> Result<ListMut<'a, 'b>, Error> {
    match entry.kind() {
        Kind::PackedList => Ok(ListMut::Packed(entry)),
        _ => match entry.big_mut() {
            Some(Value::List(list)) => Ok(ListMut::Big(list)),
            _ => Err(Error::WrongType),
        },
    }
}

pub(super) fn limit_of(cx: &Cx<'_>) -> Limit {
    Limit::new(cx.config().list_max_listpack_size)
}

/// Turns a small list large where `bytes` and `count` more would not fit.
fn make_room(entry: &mut EntryMut<'_>, bytes: usize, count: usize, limit: Limit) {
    let packed = entry.bytes();
    if entry.kind() == Kind::PackedList
        && !limit.allows(packed.len().saturating_add(bytes), packed::len(packed) + count)
    {
        let list = List::from_packed(packed);
        entry.replace(NewValue::Big(Box::new(Value::List(list))));
    }
}

/// Turns a large list small where it has become so; returns its length.
fn settle(entry: &mut EntryMut<'_>, limit: Limit) -> usize {
    let Some(Value::List(list)) = entry.big() else { return packed::len(entry.bytes()) };
    let len = list.len();
    if len > 0
        && let Some(packed) = list.to_packed(limit)
    {
        entry.replace(NewValue::Packed(Kind::PackedList, &packed));
    }
    len
}

/// Adds elements at an end, one after the other; returns the new length.
fn push_to(
    entry: &mut EntryMut<'_>,
    side: Side,
    values: &[&[u8]],
    limit: Limit,
) -> Result<usize, Error> {
    if entry.kind() == Kind::PackedList {
        let bytes = values.iter().map(|value| Framed::new(value).size()).sum();
        make_room(entry, bytes, values.len(), limit);
    }
    match list_mut(entry)? {
        ListMut::Packed(entry) => {
            for value in values {
                match side {
                    Side::Left => packed::push_front(entry, &Framed::new(value)),
                    Side::Right => packed::push_back(entry, &Framed::new(value)),
                }
            }
            Ok(packed::len(Blob::bytes(entry)))
        }
        ListMut::Big(list) => {
            for value in values {
                list.push(side, value);
            }
            Ok(list.len())
        }
    }
}

/// Creates a list of elements that are added at an end, one after the other.
pub(super) fn create(cx: &mut Cx<'_>, key: &[u8], side: Side, values: &[&[u8]], limit: Limit) {
    let size: usize = values.iter().map(|value| Framed::new(value).size()).sum();
    if !limit.allows(packed::EMPTY.len() + size, values.len()) {
        let mut list = List::new();
        for value in values {
            list.push(side, value);
        }
        cx.insert(key, NewValue::Big(Box::new(Value::List(list))));
        return;
    }
    let mut bytes: SmallVec<[u8; 256]> = SmallVec::new();
    bytes.extend_from_slice(&(values.len() as u16).to_le_bytes());
    for at in 0..values.len() {
        let at = if side == Side::Left { values.len() - 1 - at } else { at };
        for part in Framed::new(values[at]).parts() {
            bytes.extend_from_slice(part);
        }
    }
    cx.insert(key, NewValue::Packed(Kind::PackedList, &bytes));
}

fn push(
    cx: &mut Cx<'_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    side: Side,
    only_existing: bool,
) -> CmdResult {
    let (key, values, limit) = (args[1], &args[2..], limit_of(cx));
    let len = match cx.get_mut(key) {
        Some(mut entry) => push_to(&mut entry, side, values, limit)?,
        None if only_existing => 0,
        None => {
            create(cx, key, side, values, limit);
            values.len()
        }
    };
    if len > 0 {
        cx.changed(key, Event::LIST, push_event(side));
    }
    reply.int(len as i64);
    Ok(())
}

fn push_event(side: Side) -> &'static str {
    match side {
        Side::Left => "lpush",
        Side::Right => "rpush",
    }
}

fn pop_event(side: Side) -> &'static str {
    match side {
        Side::Left => "lpop",
        Side::Right => "rpop",
    }
}

fn lpush(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    push(cx, args, reply, Side::Left, false)
}

fn rpush(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    push(cx, args, reply, Side::Right, false)
}

fn lpushx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    push(cx, args, reply, Side::Left, true)
}

fn rpushx(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    push(cx, args, reply, Side::Right, true)
}

/// Removes `n` elements at an end; returns how many are left. With none left the value is not fit
/// to be kept: the caller removes the key.
fn trim_end(entry: &mut EntryMut<'_>, side: Side, n: usize, limit: Limit) -> Result<usize, Error> {
    let len = list_of(entry.as_ref())?.len();
    if n >= len {
        return Ok(0);
    }
    match list_mut(entry)? {
        ListMut::Packed(entry) => {
            match side {
                Side::Left => packed::trim_front(entry, n),
                Side::Right => packed::trim_back(entry, n),
            }
            return Ok(len - n);
        }
        ListMut::Big(list) => match side {
            Side::Left => list.trim_front(n),
            Side::Right => list.trim_back(n),
        },
    }
    Ok(settle(entry, limit))
}

/// Tells of elements that were taken from a list of which `left` remain.
fn after_removal(cx: &mut Cx<'_>, key: &[u8], event: &'static str, left: usize) {
    if left == 0 {
        cx.remove(key);
    }
    cx.changed(key, Event::LIST, event);
    if left == 0 {
        cx.notify(Event::GENERIC, "del", key);
    }
}

/// What to do with the elements that are taken from a list.
#[derive(Clone, Copy)]
pub(super) enum Taken {
    /// Reply with the first one.
    One,
    /// Reply with an array.
    Array,
    /// Reply with the key and the first one.
    KeyAndOne,
    /// Reply with the key and an array.
    KeyAndArray,
}

/// Takes up to `count` elements from an end and replies with them; `false` if there is no list.
pub(super) fn take(
    cx: &mut Cx<'_>,
    key: &[u8],
    side: Side,
    count: usize,
    taken: Taken,
    reply: &mut Reply<'_>,
) -> Result<bool, Stop> {
    let limit = limit_of(cx);
    let Some(mut entry) = cx.get_mut(key) else { return Ok(false) };
    let list = list_of(entry.as_ref())?;
    let count = count.min(list.len());
    if matches!(taken, Taken::KeyAndOne | Taken::KeyAndArray) {
        reply.array(2);
        reply.bulk(key);
    }
    if matches!(taken, Taken::Array | Taken::KeyAndArray) {
        reply.array(count);
    }
    let reverse = side == Side::Right;
    let first = if reverse { list.len().saturating_sub(1) } else { 0 };
    let mut buf = IntBuf::new();
    for elem in list.iter_at(first, reverse).take(count) {
        reply.bulk(elem.as_bytes(&mut buf));
    }
    if count > 0 {
        let left = trim_end(&mut entry, side, count, limit)?;
        after_removal(cx, key, pop_event(side), left);
    }
    Ok(true)
}

fn pop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>, side: Side) -> CmdResult {
    let count = match args {
        [_, _] => None,
        [_, _, count] => {
            let count = number::parse_i64(count).ok_or(NOT_POSITIVE)?;
            Some(usize::try_from(count).map_err(|_| NOT_POSITIVE)?)
        }
        _ => return Err(Error::arity(pop_event(side)).into()),
    };
    let taken = if count.is_some() { Taken::Array } else { Taken::One };
    if !take(cx, args[1], side, count.unwrap_or(1), taken, reply)? {
        match count {
            Some(_) => reply.null_array(),
            None => reply.null(),
        }
    }
    Ok(())
}

fn lpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    pop(cx, args, reply, Side::Left)
}

fn rpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    pop(cx, args, reply, Side::Right)
}

fn llen(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let len = read(cx, args[1])?.map_or(0, |list| list.len());
    reply.int(len as i64);
    Ok(())
}

/// The index that an argument means, from the end where negative; `None` beyond the ends.
fn index_of(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add_unsigned(len as u64)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

fn lindex(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(list) = read(cx, args[1])? else {
        reply.null();
        return Ok(());
    };
    let index = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    match index_of(index, list.len()).and_then(|index| list.get(index)) {
        Some(elem) => reply.bulk(elem.as_bytes(&mut IntBuf::new())),
        None => reply.null(),
    }
    Ok(())
}

/// The elements that two arguments mean: how many are before them and how many they are.
fn range_of(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let from_end = |index: i64| if index < 0 { index.saturating_add(len as i64) } else { index };
    let start = from_end(start).max(0);
    let stop = from_end(stop).min(len as i64 - 1);
    if start > stop { (len, 0) } else { (start as usize, (stop - start) as usize + 1) }
}

fn lrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let start = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let stop = number::parse_i64(args[3]).ok_or(Error::NotInteger)?;
    let Some(list) = read(cx, args[1])? else {
        reply.array(0);
        return Ok(());
    };
    let (start, count) = range_of(start, stop, list.len());
    reply.array(count);
    let mut strings = reply.strings();
    for elem in list.iter_at(start, false).take(count) {
        match elem {
            Elem::Bytes(bytes) => strings.push(bytes),
            Elem::Int(int) => strings.push_int(int),
        }
    }
    Ok(())
}

fn lset(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, limit) = (args[1], limit_of(cx));
    let mut entry = cx.get_mut(key).ok_or(Error::NoSuchKey)?;
    let len = list_of(entry.as_ref())?.len();
    let index = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let index = index_of(index, len).ok_or(Error::IndexOutOfRange)?;
    let framed = Framed::new(args[3]);
    make_room(&mut entry, framed.size(), 0, limit);
    match list_mut(&mut entry)? {
        ListMut::Packed(entry) => packed::set(entry, index, &framed),
        ListMut::Big(list) => {
            list.set(index, args[3]);
            settle(&mut entry, limit);
        }
    }
    cx.changed(key, Event::LIST, "lset");
    reply.ok();
    Ok(())
}

fn linsert(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let after = match args[2] {
        place if place.eq_ignore_ascii_case(b"before") => false,
        place if place.eq_ignore_ascii_case(b"after") => true,
        _ => return Err(Error::Syntax.into()),
    };
    let (key, limit) = (args[1], limit_of(cx));
    let Some(mut entry) = cx.get_mut(key) else {
        reply.int(0);
        return Ok(());
    };
    let list = list_of(entry.as_ref())?;
    let (len, pivot) = (list.len(), codec::needle(args[3]));
    let Some(found) = list.iter().position(|elem| elem == pivot) else {
        reply.int(-1);
        return Ok(());
    };
    let index = found + usize::from(after);
    let framed = Framed::new(args[4]);
    make_room(&mut entry, framed.size(), 1, limit);
    match list_mut(&mut entry)? {
        ListMut::Packed(entry) => packed::insert(entry, index, &framed),
        ListMut::Big(list) => list.insert(index, args[4]),
    }
    cx.changed(key, Event::LIST, "linsert");
    reply.int(len as i64 + 1);
    Ok(())
}

fn splice(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, limit) = (args[1], limit_of(cx));
    let natural = |arg| {
        let number = number::parse_i64(arg).and_then(|number| usize::try_from(number).ok());
        number.ok_or(Error::NotInteger)
    };
    let (at, removed) = (natural(args[2])?, natural(args[3])?);
    cx.tell_nothing();
    let before = match cx.peek(key) {
        Some(entry) => list_of(entry)?.iter().map(|elem| elem.to_vec()).collect(),
        None => Vec::new(),
    };
    let (at, end) = (at.min(before.len()), at.saturating_add(removed).min(before.len()));
    let mut values: Vec<&[u8]> = before[..at].iter().map(Vec::as_slice).collect();
    values.extend_from_slice(&args[4..]);
    values.extend(before[end..].iter().map(Vec::as_slice));
    if values.is_empty() {
        cx.remove(key);
    } else {
        let expiry = cx.key_expiry(key).flatten();
        create(cx, key, Side::Right, &values, limit);
        cx.set_expiry(key, expiry);
    }
    cx.tell_value(key);
    cx.changed(key, Event::LIST, "lset");
    cx.ready(key);
    reply.int(values.len() as i64);
    Ok(())
}

fn lrem(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let count = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let most = match count {
        0 => usize::MAX,
        count => usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX),
    };
    let (key, value, limit) = (args[1], args[3], limit_of(cx));
    let from_tail = count < 0 && !known_bugs::is_back(Bug::LremFromHead);
    let Some(mut entry) = cx.get_mut(key) else {
        reply.int(0);
        return Ok(());
    };
    let removed = match list_mut(&mut entry)? {
        ListMut::Packed(entry) => packed::remove(entry, value, most, from_tail),
        ListMut::Big(list) => list.remove(value, most, from_tail),
    };
    if removed > 0 {
        let left = settle(&mut entry, limit);
        after_removal(cx, key, "lrem", left);
    }
    reply.int(removed as i64);
    Ok(())
}

fn ltrim(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let start = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let stop = number::parse_i64(args[3]).ok_or(Error::NotInteger)?;
    let (key, limit) = (args[1], limit_of(cx));
    if let Some(mut entry) = cx.get_mut(key) {
        let len = list_of(entry.as_ref())?.len();
        let (before, count) = range_of(start, stop, len);
        let behind = len - before - count;
        let mut left = count;
        if count > 0 && before > 0 {
            left = trim_end(&mut entry, Side::Left, before, limit)?;
        }
        if count > 0 && behind > 0 {
            left = trim_end(&mut entry, Side::Right, behind, limit)?;
        }
        after_removal(cx, key, "ltrim", left);
    }
    reply.ok();
    Ok(())
}

/// The options of LPOS.
struct Search {
    rank: i64,
    count: Option<usize>,
    /// Elements to look at; all if 0.
    max_len: usize,
}

fn search_options(options: &[&[u8]]) -> Result<Search, Error> {
    let mut search = Search { rank: 1, count: None, max_len: 0 };
    let natural = |arg: &[u8], error: Error| {
        number::parse_i64(arg).and_then(|value| usize::try_from(value).ok()).ok_or(error)
    };
    for option in options.chunks(2) {
        let [name, value] = option else { return Err(Error::Syntax) };
        if name.eq_ignore_ascii_case(b"rank") {
            search.rank = number::parse_i64(value).ok_or(Error::NotInteger)?;
            if search.rank == i64::MIN {
                return Err(Error::text(
                    "ERR value is out of range, value must between \
                     -9223372036854775807 and 9223372036854775807",
                ));
            }
            if search.rank == 0 {
                return Err(Error::text(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the \
                     second ... or use negative to start from the end of the list",
                ));
            }
        } else if name.eq_ignore_ascii_case(b"count") {
            let count = natural(value, Error::text("ERR COUNT can't be negative"))?;
            search.count = Some(count);
        } else if name.eq_ignore_ascii_case(b"maxlen") {
            search.max_len = natural(value, Error::text("ERR MAXLEN can't be negative"))?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok(search)
}

fn lpos(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let search = search_options(&args[3..])?;
    let Some(entry) = cx.get(args[1]) else {
        match search.count {
            Some(_) => reply.array(0),
            None => reply.null(),
        }
        return Ok(());
    };
    let list = list_of(entry)?;
    let len = list.len();
    let reverse = search.rank < 0;
    let first = if reverse { len.saturating_sub(1) } else { 0 };
    let look_at = if search.max_len == 0 { len } else { search.max_len };
    let skip = usize::try_from(search.rank.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let needle = codec::needle(args[2]);
    let hits = list
        .iter_at(first, reverse)
        .take(look_at)
        .enumerate()
        .filter(|(_, elem)| *elem == needle)
        .map(|(step, _)| if reverse { len - 1 - step } else { step })
        .skip(skip);
    let Some(count) = search.count else {
        let mut hits = hits;
        match hits.next() {
            Some(index) => reply.int(index as i64),
            None => reply.null(),
        }
        return Ok(());
    };
    let found = reply.deferred_array();
    let mut written = 0;
    for index in hits.take(if count == 0 { usize::MAX } else { count }) {
        reply.int(index as i64);
        written += 1;
    }
    reply.close(found, written);
    Ok(())
}

/// LEFT or RIGHT.
pub(super) fn parse_side(arg: &[u8]) -> Result<Side, Error> {
    if arg.eq_ignore_ascii_case(b"left") {
        Ok(Side::Left)
    } else if arg.eq_ignore_ascii_case(b"right") {
        Ok(Side::Right)
    } else {
        Err(Error::Syntax)
    }
}

fn lmove(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (from, to) = (parse_side(args[3])?, parse_side(args[4])?);
    if !move_element(cx, [args[1], args[2]], from, to, reply)? {
        reply.null();
    }
    Ok(())
}

fn rpoplpush(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if !move_element(cx, [args[1], args[2]], Side::Right, Side::Left, reply)? {
        reply.null();
    }
    Ok(())
}

/// Moves an element between the ends of two lists and replies with it; `false` if there is none.
pub(super) fn move_element(
    cx: &mut Cx<'_>,
    [source, destination]: [&[u8]; 2],
    from: Side,
    to: Side,
    reply: &mut Reply<'_>,
) -> Result<bool, Stop> {
    let limit = limit_of(cx);
    let Some(entry) = cx.get_mut(source) else { return Ok(false) };
    let list = list_of(entry.as_ref())?;
    let index = if from == Side::Left { 0 } else { list.len().saturating_sub(1) };
    let Some(elem) = list.get(index) else { return Ok(false) };
    let value: SmallVec<[u8; 128]> = SmallVec::from_slice(elem.as_bytes(&mut IntBuf::new()));
    let only = list.len() == 1;
    let values: &[&[u8]] = &[&value];
    if source == destination {
        let mut entry = entry;
        if !only {
            trim_end(&mut entry, from, 1, limit)?;
            push_to(&mut entry, to, values, limit)?;
        }
        cx.changed(source, Event::LIST, push_event(to));
        cx.changed(source, Event::LIST, pop_event(from));
        reply.bulk(&value);
        return Ok(true);
    }
    match cx.get_mut(destination) {
        Some(mut entry) => drop(push_to(&mut entry, to, values, limit)?),
        None => create(cx, destination, to, values, limit),
    }
    cx.changed(destination, Event::LIST, push_event(to));
    let left = match cx.get_mut(source) {
        Some(mut entry) => trim_end(&mut entry, from, 1, limit)?,
        None => 0,
    };
    after_removal(cx, source, pop_event(from), left);
    reply.bulk(&value);
    Ok(true)
}

fn lmpop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (keys, side, count) = mpop::parse(&args[1..], parse_side)?;
    for key in keys {
        if take(cx, key, side, count, Taken::KeyAndArray, reply)? {
            return Ok(());
        }
    }
    reply.null_array();
    Ok(())
}
