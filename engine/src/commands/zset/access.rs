//! Sorted sets in their keys: reading either form, editing either form, storing results.

use crate::config::Event;
use crate::context::Cx;
use crate::error::Error;
use crate::keyspace::{EntryMut, EntryRef, INLINE_BYTES_MAX, Kind};
use crate::reply::Reply;
use crate::value::blob::Blob;
use crate::value::part::Part;
use crate::value::zset::{Zset, ZsetRef, packed};
use crate::value::{NewValue, Value};
use std::ops::Range;

/// Up to where a sorted set stays packed.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    entries: usize,
    value: usize,
}

impl Limits {
    pub(crate) fn of(cx: &Cx<'_>) -> Limits {
        let config = cx.config();
        Limits {
            entries: config.zset_max_listpack_entries.min(packed::COUNT_MAX),
            value: config.zset_max_listpack_value.min(packed::MEMBER_LEN_MAX),
        }
    }
}

/// The sorted set of an entry.
pub(crate) fn zset_of(entry: EntryRef<'_>) -> Result<ZsetRef<'_>, Error> {
    match entry.kind() {
        Kind::PackedZset => Ok(ZsetRef::Packed(entry.bytes())),
        _ => match entry.big() {
            Some(Value::Zset(zset)) => Ok(ZsetRef::Big(zset)),
            _ => Err(Error::WrongType),
        },
    }
}

/// The sorted set at a key, if there is one.
pub(crate) fn read<'c>(cx: &'c Cx<'_>, key: &[u8]) -> Result<Option<ZsetRef<'c>>, Error> {
    match cx.get(key) {
        Some(entry) => zset_of(entry).map(Some),
        None => cx.part(key).map(Part::zset).transpose(),
    }
}

/// The sorted set at a key, empty where there is none.
pub(crate) fn read_or_empty<'c>(cx: &'c Cx<'_>, key: &[u8]) -> Result<ZsetRef<'c>, Error> {
    Ok(read(cx, key)?.unwrap_or(ZsetRef::EMPTY))
}

/// The entry of a key, if it is there, which must be a sorted set.
pub(crate) fn entry<'c>(cx: &'c mut Cx<'_>, key: &[u8]) -> Result<Option<EntryMut<'c>>, Error> {
    match cx.get_mut(key) {
        Some(entry) => {
            zset_of(entry.as_ref())?;
            Ok(Some(entry))
        }
        None => Ok(None),
    }
}

/// Creates an empty sorted set; the caller adds to it.
pub(crate) fn create<'c>(cx: &'c mut Cx<'_>, key: &[u8]) -> EntryMut<'c> {
    cx.insert(key, NewValue::Packed(Kind::PackedZset, &packed::EMPTY))
}

/// Number of elements of an entry that is a sorted set.
pub(crate) fn len(entry: &EntryMut<'_>) -> usize {
    zset_of(entry.as_ref()).map_or(0, ZsetRef::len)
}

/// Gives `member` the score that `decide` makes of its present one; `None` leaves it as it is.
pub(crate) fn upsert(
    entry: &mut EntryMut<'_>,
    limits: Limits,
    member: &[u8],
    decide: impl FnOnce(Option<f64>) -> Option<f64>,
) {
    if entry.kind() != Kind::PackedZset {
        if let Some(Value::Zset(zset)) = entry.big_mut() {
            zset.upsert(member, decide);
        }
        return;
    }
    let bytes = Blob::bytes(entry);
    let found = packed::find(bytes, member).map(|(_, item)| (item.span(), item.score));
    let old = found.as_ref().map(|(_, score)| *score);
    let Some(score) = decide(old).filter(|score| old != Some(*score)) else { return };
    let fits = bytes.len() + packed::size_max(member) <= INLINE_BYTES_MAX;
    match found {
        Some((span, _)) if fits => packed::update(entry, member, span, score),
        None if fits && member.len() <= limits.value && packed::len(bytes) < limits.entries => {
            packed::insert(entry, member, score);
        }
        _ => {
            let mut zset = Zset::from_packed(bytes);
            zset.upsert(member, |_| Some(score));
            entry.replace(NewValue::Big(Box::new(Value::Zset(Box::new(zset)))));
        }
    }
}

/// Removes a member; says whether it was there.
pub(crate) fn remove(entry: &mut EntryMut<'_>, member: &[u8]) -> bool {
    if entry.kind() == Kind::PackedZset {
        return packed::remove(entry, member).is_some();
    }
    match entry.big_mut() {
        Some(Value::Zset(zset)) => zset.remove(member).is_some(),
        _ => false,
    }
}

/// Removes the elements of these ranks and calls `each` with them, in the order asked for.
pub(crate) fn remove_range(
    entry: &mut EntryMut<'_>,
    ranks: Range<usize>,
    reverse: bool,
    each: impl FnMut(&[u8], f64),
) {
    if entry.kind() == Kind::PackedZset {
        packed::for_range(Blob::bytes(entry), ranks.clone(), reverse, each);
        packed::remove_range(entry, ranks);
    } else if let Some(Value::Zset(zset)) = entry.big_mut() {
        zset.remove_range(ranks, reverse, each);
    }
}

/// After elements were removed: the key goes with the last one.
pub(crate) fn removed(cx: &mut Cx<'_>, key: &[u8], event: &'static str, is_empty: bool) {
    if is_empty {
        cx.remove(key);
    }
    cx.changed(key, Event::ZSET, event);
    if is_empty {
        cx.notify(Event::GENERIC, "del", key);
    }
}

/// Puts a result into its key, which goes if there is no element, and replies with the length.
pub(crate) fn store(
    cx: &mut Cx<'_>,
    key: &[u8],
    zset: Zset,
    event: &'static str,
    reply: &mut Reply<'_>,
) {
    let len = zset.len();
    reply.int(len as i64);
    if len == 0 {
        if cx.remove(key) {
            cx.changed(key, Event::GENERIC, "del");
        }
        return;
    }
    let limits = Limits::of(cx);
    let packed =
        if len <= limits.entries { zset.to_packed(limits.value, INLINE_BYTES_MAX) } else { None };
    match packed {
        Some(bytes) => cx.insert(key, NewValue::Packed(Kind::PackedZset, &bytes)),
        None => cx.insert(key, NewValue::Big(Box::new(Value::Zset(Box::new(zset))))),
    };
    cx.changed(key, Event::ZSET, event);
}
