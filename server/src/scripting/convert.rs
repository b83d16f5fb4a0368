//! Replies as Lua values, and Lua values as replies, by Redis's rules.

use super::lua::{Kind, Name, Stack};
use ashlar_engine::error::Error;
use ashlar_engine::number::{parse_f64, parse_i64};
use ashlar_engine::reply::{Protocol, Reply};
use std::ffi::c_int;

/// Most bytes of a script's reply: tables may hold one table many times over.
pub const REPLY_BYTES_MAX: usize = 512 << 20;

/// Pushes the reply of a command, which is whole, as a Lua value; returns how many bytes it was.
pub fn push_reply(stack: &mut Stack<'_>, resp: &[u8]) -> usize {
    let Some(end) = memchr::memchr(b'\n', resp) else {
        stack.push_nil();
        return resp.len();
    };
    let line = resp.get(1..end.saturating_sub(1)).unwrap_or_default();
    let at = end + 1;
    let count = || usize::try_from(parse_i64(line).unwrap_or(-1)).ok();
    match resp[0] {
        b':' => {
            stack.push_number(parse_i64(line).unwrap_or(0) as f64);
            at
        }
        b'$' => match count() {
            None => {
                stack.push_bool(false);
                at
            }
            Some(len) => {
                stack.push_bytes(resp.get(at..at + len).unwrap_or_default());
                at + len + 2
            }
        },
        b'+' => {
            stack.push_tagged(Name::Ok, |stack| stack.push_bytes(line));
            at
        }
        b'-' => {
            push_error(stack, line);
            at
        }
        b'*' | b'>' => match count() {
            None => {
                stack.push_bool(false);
                at
            }
            Some(count) => at + push_array(stack, &resp[at..], count),
        },
        b'%' => at + push_map(stack, &resp[at..], count().unwrap_or(0), true),
        b'~' => at + push_map(stack, &resp[at..], count().unwrap_or(0), false),
        b'_' => {
            stack.push_nil();
            at
        }
        b'#' => {
            stack.push_bool(line == b"t");
            at
        }
        b',' => {
            let value = parse_f64(line).unwrap_or(f64::NAN);
            stack.push_tagged(Name::Double, |stack| stack.push_number(value));
            at
        }
        b'(' => {
            stack.push_tagged(Name::BigNumber, |stack| stack.push_bytes(line));
            at
        }
        b'=' => {
            let len = count().unwrap_or(0);
            let text = resp.get(at..at + len).unwrap_or_default();
            push_verbatim(stack, text);
            at + len + 2
        }
        _ => {
            stack.push_nil();
            resp.len()
        }
    }
}

/// Pushes the table of an error that a command replied.
fn push_error(stack: &mut Stack<'_>, text: &[u8]) {
    stack.push_error_table(text);
    stack.push_bool(true);
    stack.set_field(-2, c"ignore_error_stats_update");
}

fn push_array(stack: &mut Stack<'_>, resp: &[u8], count: usize) -> usize {
    stack.push_table(count, 0);
    let table = stack.top();
    let mut at = 0;
    if !stack.has_room(8) {
        return resp.len();
    }
    for n in 1..=count {
        at += push_reply(stack, &resp[at..]);
        stack.set_index(table, c_int::try_from(n).unwrap_or(c_int::MAX));
    }
    at
}

/// A map as `{map = {key = value, ..}}`, a set as `{set = {member = true, ..}}`.
fn push_map(stack: &mut Stack<'_>, resp: &[u8], count: usize, is_map: bool) -> usize {
    stack.push_table(0, 1);
    stack.push_table(0, count);
    let table = stack.top();
    let mut at = 0;
    if !stack.has_room(8) {
        stack.pop(1);
        return resp.len();
    }
    for _ in 0..count {
        at += push_reply(stack, &resp[at..]);
        if is_map {
            at += push_reply(stack, &resp[at..]);
        } else {
            stack.push_bool(true);
        }
        stack.set(table);
    }
    stack.set_field(-2, if is_map { c"map" } else { c"set" });
    at
}

fn push_verbatim(stack: &mut Stack<'_>, text: &[u8]) {
    let (format, string) = text.split_at_checked(4).unwrap_or((b"txt:", text));
    stack.push_table(0, 1);
    stack.push_table(0, 2);
    stack.push_bytes(&format[..3]);
    stack.set_field(-2, c"format");
    stack.push_bytes(string);
    stack.set_field(-2, c"string");
    stack.set_field(-2, c"verbatim_string");
}

/// Pops the value on top of the stack and writes it as a reply. `protocol` is the script's.
pub fn write_reply(stack: &mut Stack<'_>, reply: &mut Reply<'_>, protocol: Protocol) {
    if !stack.has_room(4) {
        reply.error_element(&Error::text("ERR reached lua stack limit"));
        return stack.pop(1);
    }
    if reply.written() > REPLY_BYTES_MAX {
        reply.null();
        return stack.pop(1);
    }
    match stack.kind(-1) {
        Kind::String => reply.bulk(stack.bytes(-1).unwrap_or_default()),
        Kind::Number => reply.int(to_integer(stack.number(-1).unwrap_or(0.0))),
        Kind::Boolean if protocol == Protocol::Resp3 => reply.boolean(stack.is_true(-1)),
        Kind::Boolean if stack.is_true(-1) => reply.int(1),
        Kind::Table => return write_table(stack, reply, protocol),
        _ => reply.null(),
    }
    stack.pop(1);
}

/// A number as an integer: what is none, or too large, becomes the smallest one.
fn to_integer(number: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&number) { number as i64 } else { i64::MIN }
}

fn write_table(stack: &mut Stack<'_>, reply: &mut Reply<'_>, protocol: Protocol) {
    let table = stack.top();
    let field = |stack: &mut Stack<'_>, name, kind| {
        stack.get_named(table, name);
        let found = stack.kind(-1) == kind;
        if !found {
            stack.pop(1);
        }
        found
    };
    if field(stack, Name::Err, Kind::String) {
        let text = stack.bytes(-1).unwrap_or_default();
        reply.error_element(&Error::from_bytes(text.to_vec()));
    } else if field(stack, Name::Ok, Kind::String) {
        let text = String::from_utf8_lossy(stack.bytes(-1).unwrap_or_default());
        reply.simple(&text.replace(['\r', '\n'], " "));
    } else if field(stack, Name::Double, Kind::Number) {
        reply.double(stack.number(-1).unwrap_or(0.0));
    } else if field(stack, Name::Map, Kind::Table) {
        write_pairs(stack, reply, protocol, true);
    } else if field(stack, Name::Set, Kind::Table) {
        write_pairs(stack, reply, protocol, false);
    } else if field(stack, Name::BigNumber, Kind::String) {
        write_big_number(stack.bytes(-1).unwrap_or_default(), reply);
    } else if !field(stack, Name::VerbatimString, Kind::Table) || !write_verbatim(stack, reply) {
        stack.set_top(table);
        write_array(stack, reply, protocol);
    }
    stack.set_top(table - 1);
}

fn write_big_number(digits: &[u8], reply: &mut Reply<'_>) {
    if !reply.is_resp3() {
        return reply.bulk(digits);
    }
    let mut line = vec![b'('];
    line.extend(digits.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    line.extend_from_slice(b"\r\n");
    reply.raw(&line);
}

/// Writes the table on top as a text with its format, if it is one.
fn write_verbatim(stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> bool {
    let table = stack.top();
    stack.get_field(table, c"format");
    stack.get_field(table, c"string");
    let (Some(format), Some(text)) = (stack.bytes(-2), stack.bytes(-1)) else { return false };
    if !reply.is_resp3() {
        reply.bulk(text);
        return true;
    }
    // A format has three letters.
    let mut three = [b' '; 3];
    three.iter_mut().zip(format).for_each(|(to, from)| *to = *from);
    let mut out = format!("={}\r\n", text.len() + 4).into_bytes();
    out.extend_from_slice(
        &three.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
    );
    out.push(b':');
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
    reply.raw(&out);
    true
}

/// Writes the table on top as a map, or its keys as a set.
fn write_pairs(stack: &mut Stack<'_>, reply: &mut Reply<'_>, protocol: Protocol, is_map: bool) {
    let table = stack.top();
    let place = if is_map { reply.deferred_map() } else { reply.deferred_set() };
    let mut count = 0;
    stack.push_nil();
    while stack.next(table) {
        stack.push_copy(-2);
        write_reply(stack, reply, protocol);
        if is_map {
            write_reply(stack, reply, protocol);
        } else {
            stack.pop(1);
        }
        count += 1;
    }
    reply.close(place, count);
}

fn write_array(stack: &mut Stack<'_>, reply: &mut Reply<'_>, protocol: Protocol) {
    let table = stack.top();
    let place = reply.deferred_array();
    let mut count = 0;
    loop {
        stack.get_index(table, count + 1);
        if stack.kind(-1) == Kind::Nil {
            stack.pop(1);
            break;
        }
        write_reply(stack, reply, protocol);
        count += 1;
    }
    reply.close(place, usize::try_from(count).unwrap_or(0));
}
