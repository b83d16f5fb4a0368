//! The library `cjson`, as lua-cjson 2.1 in Redis behaves.
//!
//! What a script sets (depths, precision, sparse arrays) holds for that script: the next one starts
//! from the defaults, whatever worker runs it.

mod decode;
mod encode;

use super::lua::{Body, Kind, Raise, Stack};
use std::ffi::{CStr, c_int};

/// Deepest nesting of tables and of JSON that a script can ask for, and the default.
pub const DEPTH_MAX: u32 = 1_000;

/// The library's functions.
pub const FUNCTIONS: [(&CStr, Body); 10] = [
    (c"encode", encode::encode),
    (c"decode", decode::decode),
    (c"encode_sparse_array", encode_sparse_array),
    (c"encode_max_depth", encode_max_depth),
    (c"decode_max_depth", decode_max_depth),
    (c"encode_number_precision", encode_number_precision),
    (c"encode_keep_buffer", encode_keep_buffer),
    (c"encode_invalid_numbers", encode_invalid_numbers),
    (c"decode_invalid_numbers", decode_invalid_numbers),
    (c"new", new),
];

/// What becomes of NaN and infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalid {
    Refused,
    Kept,
    Null,
}

/// What a script has set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    sparse_convert: bool,
    sparse_ratio: u32,
    sparse_safe: u32,
    encode_depth: u32,
    decode_depth: u32,
    precision: u32,
    keep_buffer: bool,
    encode_invalid: Invalid,
    decode_invalid: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth: DEPTH_MAX,
            decode_depth: DEPTH_MAX,
            precision: 14,
            keep_buffer: true,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
        }
    }
}

/// Adds what is not a function to the table on top of the stack.
pub fn describe(stack: &mut Stack<'_>) {
    stack.push_null();
    stack.set_field(-2, c"null");
    stack.push_bytes(b"cjson");
    stack.set_field(-2, c"_NAME");
    stack.push_bytes(b"2.1.0");
    stack.set_field(-2, c"_VERSION");
}

fn settings(stack: &Stack<'_>) -> Settings {
    stack.extra().run.json.get()
}

fn is_given(stack: &Stack<'_>, arg: c_int) -> bool {
    !matches!(stack.kind(arg), Kind::None | Kind::Nil)
}

/// An integer argument between two bounds, if it is given.
fn integer(stack: &mut Stack<'_>, arg: c_int, min: u32, max: u32) -> Result<Option<u32>, Raise> {
    if !is_given(stack, arg) {
        return Ok(None);
    }
    let number = stack.arg_number(arg)?.trunc();
    if !(f64::from(min)..=f64::from(max)).contains(&number) {
        let text = format!("expected integer between {min} and {max}");
        return Err(stack.arg_error(arg, &text));
    }
    Ok(Some(number as u32))
}

/// A truth value as argument, or the name of one.
fn switch(stack: &mut Stack<'_>, arg: c_int) -> Result<Option<bool>, Raise> {
    match stack.kind(arg) {
        Kind::None | Kind::Nil => Ok(None),
        Kind::Boolean => Ok(Some(stack.is_true(arg))),
        _ => match stack.arg_bytes(arg)? {
            b"on" => Ok(Some(true)),
            b"off" => Ok(Some(false)),
            other => {
                let text = format!("invalid option '{}'", String::from_utf8_lossy(other));
                Err(stack.arg_error(arg, &text))
            }
        },
    }
}

fn at_most(stack: &mut Stack<'_>, args: c_int) -> Result<(), Raise> {
    if stack.top() > args {
        return Err(stack.arg_error(args + 1, "found too many arguments"));
    }
    Ok(())
}

fn keep(stack: &Stack<'_>, settings: Settings) {
    stack.extra().run.json.set(settings);
}

fn encode_sparse_array(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    at_most(stack, 3)?;
    let mut settings = settings(stack);
    settings.sparse_convert = switch(stack, 1)?.unwrap_or(settings.sparse_convert);
    let int_max = i32::MAX as u32;
    settings.sparse_ratio = integer(stack, 2, 0, int_max)?.unwrap_or(settings.sparse_ratio);
    settings.sparse_safe = integer(stack, 3, 0, int_max)?.unwrap_or(settings.sparse_safe);
    keep(stack, settings);
    stack.push_bool(settings.sparse_convert);
    stack.push_number(f64::from(settings.sparse_ratio));
    stack.push_number(f64::from(settings.sparse_safe));
    Ok(3)
}

/// A depth: more than [`DEPTH_MAX`] is taken as that.
fn depth(stack: &mut Stack<'_>, get: fn(&mut Settings) -> &mut u32) -> Result<c_int, Raise> {
    at_most(stack, 1)?;
    let mut settings = settings(stack);
    let wanted = integer(stack, 1, 1, i32::MAX as u32)?;
    let depth = get(&mut settings);
    *depth = wanted.unwrap_or(*depth).min(DEPTH_MAX);
    let depth = *depth;
    keep(stack, settings);
    stack.push_number(f64::from(depth));
    Ok(1)
}

fn encode_max_depth(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    depth(stack, |settings| &mut settings.encode_depth)
}

fn decode_max_depth(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    depth(stack, |settings| &mut settings.decode_depth)
}

fn encode_number_precision(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    at_most(stack, 1)?;
    let mut settings = settings(stack);
    settings.precision = integer(stack, 1, 1, 14)?.unwrap_or(settings.precision);
    keep(stack, settings);
    stack.push_number(f64::from(settings.precision));
    Ok(1)
}

/// The buffer is never kept; the answer is what was asked for.
fn encode_keep_buffer(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    at_most(stack, 1)?;
    let mut settings = settings(stack);
    settings.keep_buffer = switch(stack, 1)?.unwrap_or(settings.keep_buffer);
    keep(stack, settings);
    stack.push_bool(settings.keep_buffer);
    Ok(1)
}

fn encode_invalid_numbers(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    at_most(stack, 1)?;
    let mut settings = settings(stack);
    if stack.bytes(1) == Some(b"null") {
        settings.encode_invalid = Invalid::Null;
    } else if let Some(on) = switch(stack, 1)? {
        settings.encode_invalid = if on { Invalid::Kept } else { Invalid::Refused };
    }
    keep(stack, settings);
    match settings.encode_invalid {
        Invalid::Null => stack.push_bytes(b"null"),
        other => stack.push_bool(other == Invalid::Kept),
    }
    Ok(1)
}

fn decode_invalid_numbers(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    at_most(stack, 1)?;
    let mut settings = settings(stack);
    settings.decode_invalid = switch(stack, 1)?.unwrap_or(settings.decode_invalid);
    keep(stack, settings);
    stack.push_bool(settings.decode_invalid);
    Ok(1)
}

/// A table of the functions; settings are the script's, so it shares them.
fn new(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    super::sandbox::push_library(stack, &FUNCTIONS);
    describe(stack);
    Ok(1)
}
