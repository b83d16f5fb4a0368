//! The library `cmsgpack`: MessagePack, as lua-cmsgpack 0.4 in Redis behaves.

use super::agreed;
use super::base::STRING_BYTES_MAX;
use super::lua::{Body, Kind, Raise, Stack};
use std::ffi::{CStr, c_int};

/// Tables that are nested deeper are packed as nil.
const PACK_DEPTH_MAX: u32 = 16;
/// Deepest nesting that is unpacked.
pub const UNPACK_DEPTH_MAX: u32 = 1_000;

/// The library's functions.
pub const FUNCTIONS: [(&CStr, Body); 4] = [
    (c"pack", pack),
    (c"unpack", unpack),
    (c"unpack_one", unpack_one),
    (c"unpack_limit", unpack_limit),
];

/// Adds what is not a function to the table on top of the stack.
pub fn describe(stack: &mut Stack<'_>) {
    let texts: [(&CStr, &str); 4] = [
        (c"_NAME", "cmsgpack"),
        (c"_VERSION", "lua-cmsgpack 0.4.0"),
        (c"_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo"),
        (c"_DESCRIPTION", "MessagePack C implementation for Lua"),
    ];
    for (name, text) in texts {
        stack.push_bytes(text.as_bytes());
        stack.set_field(-2, name);
    }
}

fn pack(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let args = stack.top();
    if args == 0 {
        return Err(stack.arg_error(0, "MessagePack pack needs input."));
    }
    let mut out = Vec::new();
    for arg in 1..=args {
        stack.push_copy(arg);
        pack_value(stack, &mut out, 0)?;
        stack.pop(1);
    }
    stack.push_bytes(&out);
    Ok(1)
}

/// Packs the value on top of the stack and leaves it there.
fn pack_value(stack: &mut Stack<'_>, out: &mut Vec<u8>, depth: u32) -> Result<(), Raise> {
    if out.len() > STRING_BYTES_MAX {
        return Err(stack.error("the result of MessagePack pack is too large"));
    }
    match stack.kind(-1) {
        Kind::String => pack_string(stack.bytes(-1).unwrap_or_default(), out),
        Kind::Boolean => out.push(if stack.is_true(-1) { 0xC3 } else { 0xC2 }),
        Kind::Number => pack_number(stack.number(-1).unwrap_or(0.0), out),
        Kind::Table if depth < PACK_DEPTH_MAX => return pack_table(stack, out, depth + 1),
        _ => out.push(0xC0),
    }
    Ok(())
}

/// A head with its length in as many bytes as it takes: `small | len` below `small_max`, then the
/// marks of 8 (if there is one), 16 and 32 bits.
fn pack_len(len: usize, small: (u8, usize), marks: (Option<u8>, u8, u8), out: &mut Vec<u8>) {
    let bytes = (len as u32).to_be_bytes();
    if len < small.1 {
        out.push(small.0 | len as u8);
    } else if let (Some(mark), 0..=0xFF) = (marks.0, len) {
        out.extend_from_slice(&[mark, len as u8]);
    } else if len <= 0xFFFF {
        out.extend_from_slice(&[marks.1, bytes[2], bytes[3]]);
    } else {
        out.push(marks.2);
        out.extend_from_slice(&bytes);
    }
}

fn pack_string(text: &[u8], out: &mut Vec<u8>) {
    pack_len(text.len(), (0xA0, 32), (Some(0xD9), 0xDA, 0xDB), out);
    out.extend_from_slice(text);
}

fn pack_number(number: f64, out: &mut Vec<u8>) {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if number.fract() == 0.0 && (-LIMIT..LIMIT).contains(&number) {
        return pack_integer(number as i64, out);
    }
    let single = number as f32;
    if f64::from(single) == number {
        out.push(0xCA);
        out.extend_from_slice(&single.to_be_bytes());
    } else {
        out.push(0xCB);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn pack_integer(number: i64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    let (mark, len) = match number {
        -32..=127 => return out.push(number as u8),
        128..=0xFF => (0xCC, 1),
        0x100..=0xFFFF => (0xCD, 2),
        0x1_0000..=0xFFFF_FFFF => (0xCE, 4),
        0x1_0000_0000.. => (0xCF, 8),
        -0x80..-0x20 => (0xD0, 1),
        -0x8000..-0x80 => (0xD1, 2),
        -0x8000_0000..-0x8000 => (0xD2, 4),
        ..-0x8000_0000 => (0xD3, 8),
    };
    out.push(mark);
    out.extend_from_slice(&bytes[8 - len..]);
}

/// Number of entries of the table on top, and whether its keys are 1 to that number.
fn shape(stack: &mut Stack<'_>) -> (usize, bool) {
    let table = stack.top();
    let (mut count, mut max, mut is_array) = (0_usize, 0.0_f64, true);
    stack.push_nil();
    while stack.next(table) {
        let key = match stack.kind(-2) {
            Kind::Number => stack.number(-2).unwrap_or(0.0),
            _ => 0.0,
        };
        is_array &= key >= 1.0 && key.fract() == 0.0;
        max = max.max(key);
        count += 1;
        stack.pop(1);
    }
    (count, is_array && max == count as f64)
}

fn pack_table(stack: &mut Stack<'_>, out: &mut Vec<u8>, depth: u32) -> Result<(), Raise> {
    stack.ensure(4)?;
    let table = stack.top();
    let (count, is_array) = shape(stack);
    if is_array {
        pack_len(count, (0x90, 16), (None, 0xDC, 0xDD), out);
        for n in 1..=count {
            stack.get_index(table, c_int::try_from(n).unwrap_or(c_int::MAX));
            pack_value(stack, out, depth)?;
            stack.pop(1);
        }
        return Ok(());
    }
    pack_len(count, (0x80, 16), (None, 0xDE, 0xDF), out);
    stack.push_nil();
    while stack.next(table) {
        if stack.extra().is_agreed() && !agreed::has_order(stack.kind(-2)) {
            return Err(stack.error("a key that is a table or function has no order to pack it in"));
        }
        stack.push_copy(-2);
        pack_value(stack, out, depth)?;
        stack.pop(1);
        pack_value(stack, out, depth)?;
        stack.pop(1);
    }
    Ok(())
}

/// Why bytes cannot be unpacked.
enum Bad {
    Missing,
    Format,
    TooDeep,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Bad> {
        let end = self.at.checked_add(len).ok_or(Bad::Missing)?;
        let taken = self.bytes.get(self.at..end).ok_or(Bad::Missing)?;
        self.at = end;
        Ok(taken)
    }

    /// An unsigned big-endian number.
    fn number(&mut self, len: usize) -> Result<u64, Bad> {
        Ok(self.take(len)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn len(&mut self, bytes: usize) -> Result<usize, Bad> {
        usize::try_from(self.number(bytes)?).map_err(|_| Bad::Missing)
    }
}

fn unpack(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    unpack_full(stack, 0.0, 0.0)
}

fn unpack_one(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let offset = optional(stack, 2)?;
    stack.set_top(1);
    unpack_full(stack, 1.0, offset)
}

fn unpack_limit(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let limit = stack.arg_number(2)?.trunc();
    let offset = optional(stack, 3)?;
    stack.set_top(1);
    unpack_full(stack, limit, offset)
}

fn optional(stack: &mut Stack<'_>, arg: c_int) -> Result<f64, Raise> {
    match stack.kind(arg) {
        Kind::None | Kind::Nil => Ok(0.0),
        _ => Ok(stack.arg_number(arg)?.trunc()),
    }
}

fn unpack_full(stack: &mut Stack<'_>, limit: f64, offset: f64) -> Result<c_int, Raise> {
    let bytes = stack.arg_bytes(1)?;
    let all = limit == 0.0 && offset == 0.0;
    if offset < 0.0 || limit < 0.0 || offset.is_nan() || limit.is_nan() {
        let len = bytes.len();
        return Err(stack.error(&format!(
            "Invalid request to unpack with offset of {offset} and limit of {len}."
        )));
    }
    if offset > bytes.len() as f64 {
        let len = bytes.len();
        return Err(stack.error(&format!("Start offset {offset} greater than input length {len}.")));
    }
    let limit = if all { f64::from(c_int::MAX) } else { limit };
    let mut cursor = Cursor { bytes, at: offset as usize };
    let mut count = 0;
    while cursor.at < bytes.len() && f64::from(count) < limit {
        stack.ensure(4)?;
        if let Err(bad) = unpack_value(stack, &mut cursor, 0) {
            return Err(stack.error(match bad {
                Bad::Missing => "Missing bytes in input.",
                Bad::Format => "Bad data format in input.",
                Bad::TooDeep => "stack overflow (too many nested values)",
            }));
        }
        count += 1;
    }
    if all {
        return Ok(count);
    }
    // The next offset comes first; -1 where nothing is left.
    stack.push_number(if cursor.at == bytes.len() { -1.0 } else { cursor.at as f64 });
    stack.insert(2);
    Ok(count + 1)
}

/// Pushes the next value.
fn unpack_value(stack: &mut Stack<'_>, cursor: &mut Cursor<'_>, depth: u32) -> Result<(), Bad> {
    let head = cursor.take(1)?[0];
    match head {
        0x00..=0x7F => stack.push_number(f64::from(head)),
        0xE0..=0xFF => stack.push_number(f64::from(head as i8)),
        0xC0 => stack.push_nil(),
        0xC2 | 0xC3 => stack.push_bool(head == 0xC3),
        0xCA => {
            let bits = cursor.number(4)? as u32;
            stack.push_number(f64::from(f32::from_bits(bits)));
        }
        0xCB => {
            let bits = cursor.number(8)?;
            stack.push_number(f64::from_bits(bits));
        }
        0xCC..=0xCF => {
            let number = cursor.number(1 << (head - 0xCC))?;
            stack.push_number(number as f64);
        }
        0xD0..=0xD3 => {
            let len = 1 << (head - 0xD0);
            let unused = 64 - 8 * len as u32;
            let number = (cursor.number(len)? << unused) as i64 >> unused;
            stack.push_number(number as f64);
        }
        0xA0..=0xBF => push_string(stack, cursor, usize::from(head & 0x1F))?,
        0xD9..=0xDB => {
            let len = cursor.len(1 << (head - 0xD9))?;
            push_string(stack, cursor, len)?;
        }
        0x90..=0x9F => return unpack_array(stack, cursor, usize::from(head & 0x0F), depth),
        0xDC | 0xDD => {
            let len = cursor.len(2 << (head - 0xDC))?;
            return unpack_array(stack, cursor, len, depth);
        }
        0x80..=0x8F => return unpack_map(stack, cursor, usize::from(head & 0x0F), depth),
        0xDE | 0xDF => {
            let len = cursor.len(2 << (head - 0xDE))?;
            return unpack_map(stack, cursor, len, depth);
        }
        _ => return Err(Bad::Format),
    }
    Ok(())
}

fn push_string(stack: &mut Stack<'_>, cursor: &mut Cursor<'_>, len: usize) -> Result<(), Bad> {
    let text = cursor.take(len)?;
    stack.push_bytes(text);
    Ok(())
}

fn descend(stack: &mut Stack<'_>, depth: u32) -> Result<(), Bad> {
    if depth >= UNPACK_DEPTH_MAX || !stack.has_room(4) { Err(Bad::TooDeep) } else { Ok(()) }
}

fn unpack_array(
    stack: &mut Stack<'_>,
    cursor: &mut Cursor<'_>,
    len: usize,
    depth: u32,
) -> Result<(), Bad> {
    descend(stack, depth)?;
    stack.push_table(0, 0);
    let table = stack.top();
    for n in 1..=len {
        unpack_value(stack, cursor, depth + 1)?;
        stack.set_index(table, c_int::try_from(n).map_err(|_| Bad::Missing)?);
    }
    Ok(())
}

fn unpack_map(
    stack: &mut Stack<'_>,
    cursor: &mut Cursor<'_>,
    len: usize,
    depth: u32,
) -> Result<(), Bad> {
    descend(stack, depth)?;
    stack.push_table(0, 0);
    let table = stack.top();
    for _ in 0..len {
        unpack_value(stack, cursor, depth + 1)?;
        // Neither nil nor NaN can be a key.
        let is_key = match stack.kind(-1) {
            Kind::Nil => false,
            Kind::Number => !stack.number(-1).unwrap_or(0.0).is_nan(),
            _ => true,
        };
        if !is_key {
            return Err(Bad::Format);
        }
        unpack_value(stack, cursor, depth + 1)?;
        stack.set(table);
    }
    Ok(())
}
