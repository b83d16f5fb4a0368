//! HyperLogLogs: counting different elements in little memory.

use super::string_edit::edit_raw;
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::reply::Reply;
use crate::value::blob::Blob;
use crate::value::hll::{self, BlobMut, Corrupted, Encoding, Registers};
use crate::value::packed::IntBuf;
use crate::value::string::{RawStr, stored_bytes_mut, string};
use std::fmt::Write;

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("PFADD", -2, Group::HyperLogLog, pfadd)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key [element...]")
        .docs("2.8.9", "O(1) for each element", "Adds elements to a HyperLogLog."),
    Command::new("PFCOUNT", -2, Group::HyperLogLog, pfcount)
        .flags(Flags::READONLY.union(Flags::MAY_REPLICATE))
        .keys(Keys::ALL)
        .syntax("key...")
        .docs(
            "2.8.9",
            "O(N) for N keys",
            "Estimates how many elements were added to HyperLogLogs.",
        ),
    Command::new("PFMERGE", -2, Group::HyperLogLog, pfmerge)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::ALL)
        .syntax("destkey:key [sourcekey:key...]")
        .docs("2.8.9", "O(N) for N keys", "Adds all that was added to other HyperLogLogs."),
    Command::new("PFDEBUG", 3, Group::HyperLogLog, pfdebug)
        .flags(Flags::WRITE.union(Flags::DENYOOM).union(Flags::ADMIN))
        .keys(Keys::SECOND)
        .syntax("subcommand key")
        .docs("2.8.9", "O(1)", "Shows the inside of a HyperLogLog."),
    Command::new("PFSELFTEST", 1, Group::HyperLogLog, pfselftest).flags(Flags::ADMIN).docs(
        "2.8.9",
        "O(1)",
        "Checks the HyperLogLog implementation.",
    ),
];

impl From<Corrupted> for Error {
    fn from(_: Corrupted) -> Error {
        Error::text("INVALIDOBJ Corrupted HLL object detected")
    }
}

const NOT_HLL: Error = Error::text("WRONGTYPE Key is not a valid HyperLogLog string value.");

/// The HyperLogLog of `key`.
fn lookup<'a>(cx: &'a Cx<'_>, key: &[u8], buf: &'a mut IntBuf) -> Result<Option<&'a [u8]>, Error> {
    let Some(entry) = cx.get(key) else { return Ok(None) };
    let bytes = string(entry, buf)?;
    hll::encoding(bytes).ok_or(NOT_HLL)?;
    Ok(Some(bytes))
}

fn pfadd(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let sparse_bytes_max = cx.config().hll_sparse_max_bytes;
    lookup(cx, key, &mut IntBuf::new())?;
    let (changed, failed) = edit_raw(cx, key, |hll| {
        let created = hll.bytes().is_empty();
        if created {
            hll.append(&hll::empty());
        }
        let (changed, failed) = add_all(hll, &args[2..], sparse_bytes_max);
        if changed || created {
            hll::invalidate(hll.bytes_mut());
        }
        (changed || created, failed)
    })?;
    match failed {
        None if changed => cx.changed(key, Event::STRING, "pfadd"),
        Some(_) if changed => cx.modified(key),
        _ => {}
    }
    if let Some(corrupted) = failed {
        return Err(Error::from(corrupted).into());
    }
    reply.int(changed.into());
    Ok(())
}

/// Adds elements; whether a register changed, and what stopped it.
fn add_all(
    hll: &mut RawStr<'_>,
    elements: &[&[u8]],
    sparse_bytes_max: usize,
) -> (bool, Option<Corrupted>) {
    let mut changed = false;
    for element in elements {
        match hll::add(hll, element, sparse_bytes_max) {
            Ok(raised) => changed |= raised,
            Err(corrupted) => return (changed, Some(corrupted)),
        }
    }
    (changed, None)
}

fn pfcount(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if let [_, key] = args {
        return pfcount_one(cx, key, reply);
    }
    let mut union = Registers::default();
    for key in &args[1..] {
        if let Some(bytes) = lookup(cx, key, &mut IntBuf::new())? {
            union.merge(bytes).map_err(Error::from)?;
        }
    }
    reply.int(union.count() as i64);
    Ok(())
}

/// Counts one, and keeps the count in its header. As in Redis this changes the value.
fn pfcount_one(cx: &mut Cx<'_>, key: &[u8], reply: &mut Reply<'_>) -> CmdResult {
    let count = match lookup(cx, key, &mut IntBuf::new())? {
        None => Some(0),
        Some(bytes) => match hll::cached(bytes) {
            Some(count) => Some(count),
            None => {
                let count = hll::count(bytes).map_err(Error::from)?;
                reply.int(count as i64);
                if let Some(mut entry) = cx.get_mut(key)
                    && let Some(bytes) = stored_bytes_mut(&mut entry)
                {
                    hll::set_cached(bytes, count);
                }
                cx.modified(key);
                None
            }
        },
    };
    if let Some(count) = count {
        reply.int(count as i64);
    }
    Ok(())
}

fn pfmerge(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let sparse_bytes_max = cx.config().hll_sparse_max_bytes;
    let mut union = Registers::default();
    let mut dense = false;
    for key in &args[1..] {
        if let Some(bytes) = lookup(cx, key, &mut IntBuf::new())? {
            dense |= hll::encoding(bytes) == Some(Encoding::Dense);
            union.merge(bytes).map_err(Error::from)?;
        }
    }
    let (_, merged) = edit_raw(cx, key, |target| {
        let merged = merge_into(&union, target, dense, sparse_bytes_max);
        (merged.is_ok(), merged)
    })?;
    merged.map_err(Error::from)?;
    cx.changed(key, Event::STRING, "pfadd");
    reply.ok();
    Ok(())
}

/// Makes `target` the union, dense where one of those that were merged is.
fn merge_into(
    union: &Registers,
    target: &mut RawStr<'_>,
    dense: bool,
    sparse_bytes_max: usize,
) -> Result<(), Corrupted> {
    if target.bytes().is_empty() {
        target.append(&hll::empty());
    }
    if dense {
        hll::to_dense(target)?;
    }
    union.merge_into(target, sparse_bytes_max)?;
    hll::invalidate(target.bytes_mut());
    Ok(())
}

fn pfdebug(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[2];
    let mut buf = IntBuf::new();
    let bytes = lookup(cx, key, &mut buf)?;
    let bytes = bytes.ok_or(Error::text("ERR The specified key does not exist"))?;
    let encoding = hll::encoding(bytes).ok_or(NOT_HLL)?;
    let is = |name: &str| args[1].eq_ignore_ascii_case(name.as_bytes());
    if is("ENCODING") {
        reply.simple(if encoding == Encoding::Dense { "dense" } else { "sparse" });
    } else if is("DECODE") {
        if encoding == Encoding::Dense {
            return Err(Error::text("ERR HLL encoding is not sparse").into());
        }
        reply.bulk(decode(bytes)?.as_bytes());
    } else if is("GETREG") {
        let mut registers = Registers::default();
        registers.merge(bytes).map_err(Error::from)?;
        make_dense(cx, key)?;
        reply.array(registers.values().len());
        registers.values().iter().for_each(|value| reply.int(i64::from(*value)));
    } else if is("TODENSE") {
        make_dense(cx, key)?;
        reply.int((encoding == Encoding::Sparse).into());
    } else {
        return Err(Error::quoting("ERR Unknown PFDEBUG subcommand '{}'", &[args[1]]).into());
    }
    Ok(())
}

/// The sparse runs as a text: `z:len`, `Z:len` for long ones, `v:value,len`.
fn decode(bytes: &[u8]) -> Result<String, Error> {
    let mut text = String::new();
    for run in hll::runs(bytes) {
        let run = run?;
        let separator = if text.is_empty() { "" } else { " " };
        let written = match (run.value, run.wide) {
            (0, true) => write!(text, "{separator}Z:{}", run.len),
            (0, false) => write!(text, "{separator}z:{}", run.len),
            (value, _) => write!(text, "{separator}v:{value},{}", run.len),
        };
        written.expect("writing to a string does not fail");
    }
    Ok(text)
}

fn make_dense(cx: &mut Cx<'_>, key: &[u8]) -> Result<(), Error> {
    let (changed, made) = edit_raw(cx, key, |hll| {
        let sparse = hll::encoding(hll.bytes()) == Some(Encoding::Sparse);
        let made = hll::to_dense(hll);
        (sparse && made.is_ok(), made)
    })?;
    made.map_err(Error::from)?;
    if changed {
        cx.modified(key);
    }
    Ok(())
}

fn pfselftest(_: &mut Cx<'_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    /// Elements that are added, and how far off the estimate may be.
    const ELEMENTS: u32 = 1_000;
    const TOLERANCE: u64 = 50;
    let (mut sparse, mut dense) = (hll::empty().to_vec(), hll::empty().to_vec());
    for element in 0..ELEMENTS {
        hll::add(&mut sparse, &element.to_le_bytes(), hll::DENSE_LEN).map_err(Error::from)?;
        hll::add(&mut dense, &element.to_le_bytes(), 0).map_err(Error::from)?;
    }
    let count = hll::count(&sparse).map_err(Error::from)?;
    if hll::count(&dense) != Ok(count) || count.abs_diff(ELEMENTS.into()) > TOLERANCE {
        return Err(Error::text("ERR TESTFAILED the estimate is too far off").into());
    }
    reply.ok();
    Ok(())
}
