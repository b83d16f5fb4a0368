//! Parts of strings: reading and overwriting ranges, appending, measuring.

use super::string::string;
use crate::command::{Command, Flags, Group, Keys, Reads};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::Kind;
use crate::known_bugs::{self, Bug};
use crate::number;
use crate::reply::Reply;
use crate::value::blob::Blob;
use crate::value::hll::BlobMut;
use crate::value::packed::IntBuf;
use crate::value::string::RawStr;
use crate::value::{NewValue, Value};

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("APPEND", 3, Group::String, append)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key value")
        .docs("2.0.0", "O(1)", "Appends to the string value of a key."),
    Command::new("SETRANGE", 4, Group::String, setrange)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax("key offset:integer value")
        .docs("2.2.0", "O(1) for a short value", "Overwrites part of a string, from an offset on."),
    Command::new("GETRANGE", 4, Group::String, getrange)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .reads(Reads::Range(2))
        .syntax("key start:integer end:integer")
        .docs("2.4.0", "O(N) for N bytes", "Returns part of the string value of a key."),
    Command::new("SUBSTR", 4, Group::String, getrange)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .reads(Reads::Range(2))
        .syntax("key start:integer end:integer")
        .docs("1.0.0", "O(N) for N bytes", "Returns part of the string value of a key."),
    Command::new("STRLEN", 2, Group::String, strlen)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .reads(Reads::Head)
        .syntax("key")
        .docs("2.2.0", "O(1)", "Returns the length of a string in bytes."),
];

/// The string of `key`; `buf` holds it where it is stored as an integer.
pub(super) fn lookup<'a>(
    cx: &'a Cx<'_>,
    key: &[u8],
    buf: &'a mut IntBuf,
) -> Result<Option<&'a [u8]>, Error> {
    cx.get(key).map(|entry| string(entry, buf)).transpose()
}

/// Edits the raw string of `key`, created empty where there is none. `edit` says whether the bytes are others now. Where
/// they are not, a string that has become raw by it is recorded all the same: replicas have to have it so too.
pub(super) fn edit_raw<T>(
    cx: &mut Cx<'_>,
    key: &[u8],
    edit: impl FnOnce(&mut RawStr<'_>) -> (bool, T),
) -> Result<(bool, T), Error> {
    let (edited, becomes_raw) = match cx.get_mut(key) {
        Some(entry) => {
            let becomes_raw = matches!(entry.kind(), Kind::Str | Kind::Int);
            (edit(&mut RawStr::open(entry)?), becomes_raw)
        }
        None => (edit(&mut RawStr::open(cx.insert(key, NewValue::StrRaw(b"")))?), false),
    };
    if becomes_raw && !edited.0 {
        cx.reformed();
    }
    Ok(edited)
}

const TOO_LONG: Error = Error::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

fn append(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, value) = (args[1], args[2]);
    let len_max = cx.config().proto_max_bulk_len;
    let len = match cx.get_mut(key) {
        None => {
            cx.insert(key, NewValue::Str(value));
            value.len()
        }
        Some(entry) => {
            let len = string(entry.as_ref(), &mut IntBuf::new())?.len() + value.len();
            if len > len_max {
                return Err(TOO_LONG.into());
            }
            RawStr::open(entry)?.append(value);
            len
        }
    };
    cx.changed(key, Event::STRING, "append");
    reply.int(len as i64);
    Ok(())
}

fn setrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (key, value) = (args[1], args[3]);
    let offset = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let offset = usize::try_from(offset).map_err(|_| Error::text("ERR offset is out of range"))?;
    let len_max = cx.config().proto_max_bulk_len;
    let end = match known_bugs::is_back(Bug::SetrangeOverflows) {
        false => offset.checked_add(value.len()).filter(|end| *end <= len_max),
        // As a signed sum, which is negative beyond the largest.
        true => {
            let end = (offset as i64).wrapping_add(value.len() as i64);
            (end <= len_max as i64).then_some(end as usize)
        }
    };
    let Some(entry) = cx.get_mut(key) else {
        if value.is_empty() && !known_bugs::is_back(Bug::SetrangeEmpty) {
            reply.int(0);
            return Ok(());
        }
        let end = end.ok_or(TOO_LONG)?;
        insert_at(cx, key, offset, value);
        cx.changed(key, Event::STRING, "setrange");
        reply.int(end as i64);
        return Ok(());
    };
    let old_len = string(entry.as_ref(), &mut IntBuf::new())?.len();
    if value.is_empty() {
        reply.int(old_len as i64);
        return Ok(());
    }
    let end = end.ok_or(TOO_LONG)?;
    let mut text = RawStr::open(entry)?;
    text.grow(end);
    text.bytes_mut()[offset..end].copy_from_slice(value);
    let len = text.bytes().len();
    cx.changed(key, Event::STRING, "setrange");
    reply.int(len as i64);
    Ok(())
}

/// Creates a string of zeros with `value` at the end.
fn insert_at(cx: &mut Cx<'_>, key: &[u8], offset: usize, value: &[u8]) {
    let mut bytes = vec![0; offset + value.len()];
    bytes[offset..].copy_from_slice(value);
    insert_raw(cx, key, bytes);
}

/// Sets `key` to a raw string.
pub(super) fn insert_raw(cx: &mut Cx<'_>, key: &[u8], bytes: Vec<u8>) {
    if bytes.len() <= crate::keyspace::STRING_EDITED_INLINE_MAX {
        cx.insert(key, NewValue::StrRaw(&bytes));
    } else {
        cx.insert(key, NewValue::Big(Box::new(Value::Str(bytes))));
    }
}

fn getrange(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let start = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let end = number::parse_i64(args[3]).ok_or(Error::NotInteger)?;
    let mut buf = IntBuf::new();
    let text = lookup(cx, args[1], &mut buf)?;
    if let (None, Some(part)) = (text, cx.part(args[1])) {
        let range = range(start, end, part.len as i64);
        let range = range.map_or(0..0, |(first, last)| first as usize..last as usize + 1);
        reply.bulk(part.text(range)?);
        return Ok(());
    }
    let text = text.unwrap_or_default();
    let part = match range(start, end, text.len() as i64) {
        Some((first, last)) => text.get(first as usize..=last as usize),
        None => None,
    };
    reply.bulk(part.unwrap_or_default());
    Ok(())
}

/// The first and last index of a range with ends that count from the end where negative; `None` if
/// it is empty.
pub(super) fn range(start: i64, end: i64, len: i64) -> Option<(i64, i64)> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let from_end = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    let (first, last) = (from_end(start), from_end(end).min(len - 1));
    (first <= last).then_some((first, last))
}

fn strlen(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut buf = IntBuf::new();
    let len = match (lookup(cx, args[1], &mut buf)?, cx.part(args[1])) {
        (Some(text), _) => text.len(),
        (None, Some(part)) => part.text(0..0).map(|_| part.len)?,
        (None, None) => 0,
    };
    reply.int(len as i64);
    Ok(())
}
