//! Streams from their bodies.
//!
//! ```text
//! nodes, each an id and a listpack | length | last id
//! | first id, largest deleted id, entries ever added           from type 19 on
//! | groups: name, last id, [entries read], pending entries, consumers with the ids of theirs
//! ```
//! A listpack has a master entry, whose ids and names of fields the others refer to.

use super::bytes::{Bytes, Input};
use super::listpack::Listpack;
use super::{Malformed, kind};
use crate::config::EngineConfig;
use crate::value::packed::{Elem, IntBuf};
use crate::value::stream::{Id, NodeLimit, Pending, Stream};
use std::collections::BTreeMap;

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;
const WRONG_ID: Malformed = Malformed::new("an id of a stream is out of order");
const WRONG_NODE: Malformed = Malformed::new("a node of a stream is damaged");
const WRONG_GROUP: Malformed = Malformed::new("a consumer group is damaged");

pub(super) fn stream(
    kind: u8,
    bytes: &mut Bytes<'_>,
    config: &EngineConfig,
) -> Result<Stream, Malformed> {
    let limit =
        NodeLimit { entries: config.stream_node_max_entries, bytes: config.stream_node_max_bytes };
    let mut stream = Stream::new();
    for _ in 0..bytes.number()? {
        let first = bytes.string()?;
        let first = raw_id(&mut Bytes::new(&first))?;
        node(&mut stream, first, &bytes.string()?, limit)?;
    }
    let len = bytes.number()?;
    let last_id = id(bytes)?;
    if len != stream.len() || last_id < stream.last_id() {
        return Err(Malformed::new("the length or last id of a stream is wrong"));
    }
    stream.set_last_id(last_id);
    stream.set_entries_added(len);
    if kind != kind::STREAM {
        id(bytes)?;
        stream.set_max_deleted_id(id(bytes)?);
        stream.set_entries_added(counter(bytes)?);
    }
    for _ in 0..bytes.number()? {
        group(&mut stream, kind, bytes)?;
    }
    Ok(stream)
}

/// An id as two numbers.
fn id(bytes: &mut Bytes<'_>) -> Result<Id, Malformed> {
    Ok(Id::new(bytes.number()?, bytes.number()?))
}

/// An id as 16 bytes, the highest first.
fn raw_id(bytes: &mut Bytes<'_>) -> Result<Id, Malformed> {
    let (ms, seq) = (bytes.array()?, bytes.array()?);
    Ok(Id::new(u64::from_be_bytes(ms), u64::from_be_bytes(seq)))
}

/// A count that may grow: one near the end of its range would overflow.
fn counter(bytes: &mut Bytes<'_>) -> Result<u64, Malformed> {
    let count = bytes.number()?;
    if i64::try_from(count).is_ok() { Ok(count) } else { Err(WRONG_GROUP) }
}

/// A time, from 1970 on.
fn time(bytes: &mut Bytes<'_>) -> Result<i64, Malformed> {
    Ok(bytes.millis()?.max(0))
}

/// Adds the entries of a node.
fn node(stream: &mut Stream, first: Id, bytes: &[u8], limit: NodeLimit) -> Result<(), Malformed> {
    let count = |int: i64| usize::try_from(int).map_err(|_| WRONG_NODE);
    let mut elements = Listpack::new(bytes)?;
    let (live, deleted) = (count(elements.int()?)?, count(elements.int()?)?);
    let mut names = Vec::new();
    for _ in 0..count(elements.int()?)? {
        names.push(elements.expect()?);
    }
    if elements.int()? != 0 {
        return Err(WRONG_NODE);
    }
    let (mut seen_live, mut seen_deleted) = (0, 0);
    while let Some(flags) = elements.next()? {
        let Elem::Int(flags @ 0..=3) = flags else { return Err(WRONG_NODE) };
        let id = Id::new(
            first.ms.checked_add_signed(elements.int()?).ok_or(WRONG_ID)?,
            first.seq.checked_add_signed(elements.int()?).ok_or(WRONG_ID)?,
        );
        let mut parts = Vec::new();
        if flags & SAME_FIELDS != 0 {
            for name in &names {
                parts.push(*name);
                parts.push(elements.expect()?);
            }
        } else {
            for _ in 0..count(elements.int()?)? {
                parts.push(elements.expect()?);
                parts.push(elements.expect()?);
            }
        }
        // How many elements the entry has, to walk backwards.
        let own = if flags & SAME_FIELDS != 0 { names.len() } else { parts.len() + 1 };
        if elements.int()? != own as i64 + 3 || parts.is_empty() {
            return Err(WRONG_NODE);
        }
        if flags & DELETED != 0 {
            seen_deleted += 1;
            continue;
        }
        seen_live += 1;
        append(stream, id, &parts, limit)?;
    }
    if (seen_live, seen_deleted) != (live, deleted) {
        return Err(WRONG_NODE);
    }
    Ok(())
}

fn append(
    stream: &mut Stream,
    id: Id,
    parts: &[Elem<'_>],
    limit: NodeLimit,
) -> Result<(), Malformed> {
    if id <= stream.last_id() {
        return Err(WRONG_ID);
    }
    let mut bufs = vec![IntBuf::new(); parts.len()];
    let texts: Vec<&[u8]> =
        parts.iter().zip(&mut bufs).map(|(part, buf)| part.as_bytes(buf)).collect();
    stream.append(id, &texts, limit);
    Ok(())
}

fn group(stream: &mut Stream, kind: u8, bytes: &mut Bytes<'_>) -> Result<(), Malformed> {
    let name = bytes.string()?;
    let last_id = id(bytes)?;
    let read = match kind {
        kind::STREAM => stream.progress().entries_up_to(last_id),
        // All ones is unknown.
        _ => match bytes.number()? {
            u64::MAX => None,
            read if i64::try_from(read).is_ok() => Some(read),
            _ => return Err(WRONG_GROUP),
        },
    };
    if !stream.create_group(&name, last_id, read) {
        return Err(WRONG_GROUP);
    }
    let group = stream.group_mut(&name).ok_or(WRONG_GROUP)?;
    let mut unowned = BTreeMap::new();
    for _ in 0..bytes.number()? {
        let id = raw_id(bytes)?;
        let delivered = (time(bytes)?, counter(bytes)?);
        if unowned.insert(id, delivered).is_some() {
            return Err(WRONG_GROUP);
        }
    }
    for _ in 0..bytes.number()? {
        let name = bytes.string()?;
        if group.find_consumer(&name).is_some() {
            return Err(WRONG_GROUP);
        }
        let seen_ms = time(bytes)?;
        let active_ms = match kind {
            kind::STREAM_3 => Some(bytes.millis()?).filter(|ms| *ms >= 0),
            _ => Some(seen_ms),
        };
        let consumer = group.create_consumer(&name, seen_ms);
        if let Some(consumer) = group.consumer_mut(consumer) {
            consumer.active_ms = active_ms;
        }
        for _ in 0..bytes.number()? {
            let id = raw_id(bytes)?;
            let (delivered_ms, deliveries) = unowned.remove(&id).ok_or(WRONG_GROUP)?;
            group.assign(id, Pending { consumer, delivered_ms, deliveries });
        }
    }
    if unowned.is_empty() { Ok(()) } else { Err(WRONG_GROUP) }
}
