//! Functions of Lua's own libraries that are replaced or looked at first, and why.

use super::lua::{End, Failed, Kind, Raise, Stack};
use ashlar_engine::known_bugs::{self, Bug};
use std::ffi::{CString, c_int};
use std::time::Duration;

/// Longest source text of a script, a library or a chunk that a script loads, in bytes.
pub const SOURCE_BYTES_MAX: usize = 16 << 20;
/// Longest string that a script builds in one step, in bytes.
pub const STRING_BYTES_MAX: usize = 256 << 20;
/// Most parts of a pattern that may match in several ways: Lua's matcher calls itself for each.
pub const PATTERN_PARTS_MAX: usize = 1_000;
/// Most values that `unpack` returns: what Lua's stack has room for.
const UNPACK_MAX: i64 = 8_000;

/// `pcall`: as Lua's own, but an error table is its text, as in Redis.
pub fn pcall(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let args = stack.top();
    if args == 0 {
        return Err(stack.arg_error(1, "value expected"));
    }
    match stack.call(args - 1, -1, 0) {
        Ok(()) => {
            stack.ensure(1)?;
            stack.push_bool(true);
            stack.insert(1);
            Ok(stack.top())
        }
        Err(Failed) => {
            if stack.kind(-1) == Kind::Table {
                stack.get_field(-1, c"err");
                match stack.kind(-1) {
                    Kind::String | Kind::Number => stack.replace(-2),
                    _ => stack.pop(1),
                }
            }
            stack.push_bool(false);
            stack.insert(-2);
            Ok(2)
        }
    }
}

/// `xpcall(function, handler)`: as Lua's own, but the handler runs when the function has been left.
/// Lua runs it inside of the error, where no hook looks at how long it takes. To scripts, which see
/// no stack, it makes no difference.
pub fn xpcall(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() < 2 {
        return Err(stack.arg_error(2, "value expected"));
    }
    stack.set_top(2);
    stack.insert(1);
    match stack.run(0, -1, 0) {
        End::Done => {
            stack.ensure(1)?;
            stack.push_bool(true);
            stack.replace(1);
            return Ok(stack.top());
        }
        // The handler would have no memory either.
        End::NoMemory => {}
        End::Raised => {
            if stack.call(1, 1, 0).is_err() {
                stack.push_bytes(b"error in error handling");
                stack.replace(-2);
            }
        }
    }
    stack.push_bool(false);
    stack.insert(-2);
    Ok(2)
}

/// `loadstring(text [, name])`: source text only.
pub fn loadstring(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let text = stack.arg_bytes(1)?;
    let name = match stack.kind(2) {
        Kind::None | Kind::Nil => text,
        _ => stack.arg_bytes(2)?,
    };
    Ok(compile(stack, text, name))
}

/// `load(function [, name])`: source text only.
pub fn load(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.kind(1) != Kind::Function {
        return Err(stack.type_error(1, "function"));
    }
    let name: &[u8] = match stack.kind(2) {
        Kind::None | Kind::Nil => b"=(load)",
        _ => stack.arg_bytes(2)?,
    };
    let mut text = Vec::new();
    loop {
        stack.push_copy(1);
        if stack.call(0, 1, 0).is_err() {
            let raised = stack.raise();
            return Ok(no_chunk(stack, raised));
        }
        match stack.kind(-1) {
            Kind::Nil => break,
            Kind::String | Kind::Number => {
                let piece = stack.text(-1).unwrap_or_default();
                if piece.is_empty() {
                    break;
                }
                text.extend_from_slice(piece);
                if text.len() > SOURCE_BYTES_MAX {
                    break;
                }
            }
            _ => {
                let raised = stack.error("reader function must return a string");
                return Ok(no_chunk(stack, raised));
            }
        }
        stack.pop(1);
    }
    Ok(compile(stack, &text, name))
}

/// The results of a load that failed: nil and the error on top of the stack.
fn no_chunk(stack: &mut Stack<'_>, _: Raise) -> c_int {
    stack.push_nil();
    stack.insert(-2);
    2
}

/// Pushes a compiled chunk, or nil and why there is none.
fn compile(stack: &mut Stack<'_>, text: &[u8], name: &[u8]) -> c_int {
    // Longer text has counts in it that Lua's scanner does not expect (CVE-2025-46819).
    if text.len() > SOURCE_BYTES_MAX {
        stack.push_nil();
        stack.push_bytes(b"chunk has too many bytes");
        return 2;
    }
    let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
    let name = CString::new(name).unwrap_or_default();
    if stack.load(text, &name).is_ok() {
        return 1;
    }
    stack.push_nil();
    stack.insert(-2);
    2
}

/// `unpack(list [, i [, j]])`, counted without overflow (CVE-2025-46817).
pub fn unpack(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.kind(1) != Kind::Table {
        return Err(stack.type_error(1, "table"));
    }
    let optional = |stack: &mut Stack<'_>, arg, default: i64| match stack.kind(arg) {
        Kind::None | Kind::Nil => Ok(default),
        _ => stack.arg_number(arg).map(|number| i64::from(number as i32)),
    };
    let first = optional(stack, 2, 1)?;
    let len = i64::try_from(stack.len(1)).unwrap_or(i64::MAX);
    let last = optional(stack, 3, len)?;
    if first > last {
        return Ok(0);
    }
    let mut count = last - first + 1;
    if known_bugs::is_back(Bug::UnpackOverflows) && count != i64::from(count as i32) {
        // What came then was memory beyond the stack; this is enough to be seen.
        count = 0;
    }
    let last = first + count - 1;
    let room = c_int::try_from(count).ok().filter(|_| count < UNPACK_MAX);
    let Some(count) = room.filter(|count| stack.has_room(*count)) else {
        return Err(stack.error("too many results to unpack"));
    };
    for n in first..=last {
        stack.get_index(1, n as c_int);
    }
    Ok(count)
}

/// `string.rep(text, count)`, with a bound on the result and no loop where the text is empty.
pub fn rep(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let text = stack.arg_bytes(1)?;
    let count = usize::try_from(stack.arg_number(2)? as i64).unwrap_or(0);
    match text.len().checked_mul(count).filter(|len| *len <= STRING_BYTES_MAX) {
        None => Err(stack.error("resulting string too large")),
        Some(0) => {
            stack.push_bytes(b"");
            Ok(1)
        }
        Some(_) => {
            let bytes = text.repeat(count);
            stack.push_bytes(&bytes);
            Ok(1)
        }
    }
}

/// Lua's matcher calls itself for each part of a pattern that may match in several ways, without
/// a bound of its own.
pub fn check_pattern(stack: &mut Stack<'_>) -> Result<(), Raise> {
    let Some(pattern) = stack.bytes(2) else { return Ok(()) };
    if pattern.len() <= PATTERN_PARTS_MAX {
        return Ok(());
    }
    let parts = pattern.iter().filter(|byte| b"?*+-()%".contains(byte)).count();
    if parts > PATTERN_PARTS_MAX {
        return Err(stack.error("pattern too complex"));
    }
    Ok(())
}

/// `collectgarbage`: what concerns the script itself. The collector's settings are not a script's
/// to change.
pub fn collectgarbage(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let option: &[u8] = match stack.kind(1) {
        Kind::None | Kind::Nil => b"collect",
        _ => stack.arg_bytes(1)?,
    };
    match option {
        b"count" => {
            let bytes = stack.collect(false);
            stack.push_number(bytes as f64 / 1024.0);
        }
        b"collect" | b"step" => {
            stack.collect(true);
            match option {
                b"step" => stack.push_bool(true),
                _ => stack.push_number(0.0),
            }
        }
        b"stop" | b"restart" | b"setpause" | b"setstepmul" => stack.push_number(0.0),
        other => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(stack.arg_error(1, &format!("invalid option '{other}'")));
        }
    }
    Ok(1)
}

/// Functions that Lua 5.1 has only to say that they are gone.
pub fn obsolete(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    Err(stack.error("this function is obsolete"))
}

/// `os.clock()`: the processor time of this thread, in seconds.
pub fn clock(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    let time = Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos);
    stack.push_number(time.as_secs_f64());
    Ok(1)
}
