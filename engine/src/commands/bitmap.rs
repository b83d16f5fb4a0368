//! Strings as arrays of bits. BITFIELD has a file of its own.

use super::string::string;
use super::string_edit::{edit_raw, insert_raw, lookup, range};
use crate::command::{Command, Flags, Group, Keys};
use crate::config::Event;
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;
use crate::value::bits::{self, BitRange, Combine};
use crate::value::blob::Blob;
use crate::value::hll::BlobMut;
use crate::value::packed::IntBuf;

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("SETBIT", 4, Group::Bitmap, setbit)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::FIRST)
        .syntax("key offset:integer value:integer")
        .docs("2.2.0", "O(1)", "Sets or clears a bit of a string."),
    Command::new("GETBIT", 3, Group::Bitmap, getbit)
        .flags(Flags::READONLY.union(Flags::FAST))
        .keys(Keys::FIRST)
        .syntax("key offset:integer")
        .docs("2.2.0", "O(1)", "Returns a bit of a string."),
    Command::new("BITCOUNT", -2, Group::Bitmap, bitcount)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key [start:integer end:integer [BYTE|BIT]]")
        .docs("2.6.0", "O(N) for N bytes", "Counts the ones of a string."),
    Command::new("BITPOS", -3, Group::Bitmap, bitpos)
        .flags(Flags::READONLY)
        .keys(Keys::FIRST)
        .syntax("key bit:integer [start:integer [end:integer [BYTE|BIT]]]")
        .docs("2.8.7", "O(N) for N bytes", "Finds the first zero or one of a string."),
    Command::new("BITOP", -4, Group::Bitmap, bitop)
        .flags(Flags::WRITE.union(Flags::DENYOOM))
        .keys(Keys::Range { first: 2, last: -1, step: 1 })
        .syntax("(AND|OR|XOR|NOT) destkey:key key...")
        .docs("2.6.0", "O(N) for N bytes", "Combines strings bit by bit and stores the result."),
];

const BAD_OFFSET: Error = Error::text("ERR bit offset is not an integer or out of range");

/// A bit offset: inside the longest string allowed.
pub(super) fn bit_offset(cx: &Cx<'_>, offset: Option<i64>) -> Result<u64, Error> {
    let offset = offset.and_then(|offset| u64::try_from(offset).ok()).ok_or(BAD_OFFSET)?;
    if offset / 8 >= cx.config().proto_max_bulk_len as u64 {
        return Err(BAD_OFFSET);
    }
    Ok(offset)
}

fn setbit(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let key = args[1];
    let offset = bit_offset(cx, number::parse_i64(args[2]))?;
    let bit = match number::parse_i64(args[3]) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Error::text("ERR bit is not an integer or out of range").into()),
    };
    let byte = (offset / 8) as usize;
    let (changed, old) = edit_raw(cx, key, |text| {
        let grown = text.grow(byte + 1);
        let old = bits::get(text.bytes(), offset);
        if old != bit {
            text.bytes_mut()[byte] ^= 0x80 >> (offset % 8);
        }
        (grown || old != bit, old)
    })?;
    if changed {
        cx.changed(key, Event::STRING, "setbit");
    }
    reply.int(old.into());
    Ok(())
}

fn getbit(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let offset = bit_offset(cx, number::parse_i64(args[2]))?;
    let mut buf = IntBuf::new();
    let text = lookup(cx, args[1], &mut buf)?.unwrap_or_default();
    reply.int(bits::get(text, offset).into());
    Ok(())
}

/// Whether a range is given in bits.
fn in_bits(unit: Option<&&[u8]>) -> Result<bool, Error> {
    match unit {
        None => Ok(false),
        Some(unit) if unit.eq_ignore_ascii_case(b"BIT") => Ok(true),
        Some(unit) if unit.eq_ignore_ascii_case(b"BYTE") => Ok(false),
        Some(_) => Err(Error::Syntax),
    }
}

/// The bits of a range of bytes or bits.
fn bit_range(first: i64, last: i64, in_bits: bool) -> BitRange {
    let (first, last) = (first as u64, last as u64);
    if in_bits {
        BitRange { first, last }
    } else {
        BitRange { first: first * 8, last: last * 8 + 7 }
    }
}

fn bitcount(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut buf = IntBuf::new();
    let (start, end) = match args.len() {
        2 => {
            let text = lookup(cx, args[1], &mut buf)?.unwrap_or_default();
            reply.int(bits::count(text) as i64);
            return Ok(());
        }
        4 | 5 => (
            number::parse_i64(args[2]).ok_or(Error::NotInteger)?,
            number::parse_i64(args[3]).ok_or(Error::NotInteger)?,
        ),
        _ => return Err(Error::Syntax.into()),
    };
    let in_bits = in_bits(args.get(4))?;
    let text = lookup(cx, args[1], &mut buf)?.unwrap_or_default();
    let len = text.len() as i64 * if in_bits { 8 } else { 1 };
    let count = match range(start, end, len) {
        Some((first, last)) => bits::count_range(text, bit_range(first, last, in_bits)),
        None => 0,
    };
    reply.int(count as i64);
    Ok(())
}

fn bitpos(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let bit = match number::parse_i64(args[2]).ok_or(Error::NotInteger)? {
        0 => false,
        1 => true,
        _ => return Err(Error::text("ERR The bit argument must be 1 or 0.").into()),
    };
    if args.len() > 6 {
        return Err(Error::Syntax.into());
    }
    let parse = |arg: Option<&&[u8]>| {
        arg.map(|arg| number::parse_i64(arg).ok_or(Error::NotInteger)).transpose()
    };
    let start = parse(args.get(3))?.unwrap_or(0);
    let in_bits = in_bits(args.get(5))?;
    let end = parse(args.get(4))?;
    let mut buf = IntBuf::new();
    let Some(text) = lookup(cx, args[1], &mut buf)? else {
        reply.int(if bit { -1 } else { 0 });
        return Ok(());
    };
    let len = text.len() as i64 * if in_bits { 8 } else { 1 };
    let from_end = |at: i64| if at < 0 { at.saturating_add(len).max(0) } else { at };
    let (first, last) = (from_end(start), from_end(end.unwrap_or(-1)).min(len - 1));
    let found = match first <= last {
        true => bits::position(text, bit, bit_range(first, last, in_bits)),
        false => None,
    };
    reply.int(match found {
        Some(at) => at as i64,
        // Without an end the string reads on as zeros.
        None if !bit && end.is_none() && first <= last => text.len() as i64 * 8,
        None => -1,
    });
    Ok(())
}

fn bitop(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let is = |name: &str| args[1].eq_ignore_ascii_case(name.as_bytes());
    let how = match () {
        () if is("AND") => Combine::And,
        () if is("OR") => Combine::Or,
        () if is("XOR") => Combine::Xor,
        () if is("NOT") => Combine::Not,
        () => return Err(Error::Syntax.into()),
    };
    if how == Combine::Not && args.len() != 4 {
        return Err(Error::text("ERR BITOP NOT must be called with a single source key.").into());
    }
    let mut bufs = vec![IntBuf::new(); args.len() - 3];
    let mut sources: Vec<&[u8]> = Vec::with_capacity(bufs.len());
    for (key, buf) in args[3..].iter().zip(&mut bufs) {
        let source = cx.get(key).map(|entry| string(entry, buf)).transpose()?;
        sources.push(source.unwrap_or_default());
    }
    let combined = bits::combine(how, &sources);
    let (key, len) = (args[2], combined.len());
    if len > 0 {
        insert_raw(cx, key, combined);
        cx.changed(key, Event::STRING, "set");
    } else if cx.remove(key) {
        cx.changed(key, Event::GENERIC, "del");
    }
    reply.int(len as i64);
    Ok(())
}
