//! The library `redis`, apart from `call` and `pcall`.

use super::call::{arguments, call, pcall, resolve};
use super::lua::{Body, Raise, Stack};
use crate::info::REDIS_VERSION;
use ashlar_engine::reply::Protocol;
use sha1::{Digest, Sha1};
use std::ffi::{CStr, c_int};

/// The functions for scripts and functions that run.
pub const FUNCTIONS: [(&CStr, Body); 12] = [
    (c"call", call),
    (c"pcall", pcall),
    (c"log", log),
    (c"error_reply", error_reply),
    (c"status_reply", status_reply),
    (c"sha1hex", sha1hex),
    (c"setresp", setresp),
    (c"set_repl", set_repl),
    (c"replicate_commands", replicate_commands),
    (c"breakpoint", breakpoint),
    (c"debug", debug),
    (c"acl_check_cmd", acl_check_cmd),
];

/// Those for a library that is being loaded, besides `register_function`.
pub const LIBRARY_FUNCTIONS: [(&CStr, Body); 1] = [(c"log", log)];

const LOG_LEVELS: [&CStr; 4] = [c"LOG_DEBUG", c"LOG_VERBOSE", c"LOG_NOTICE", c"LOG_WARNING"];
const REPL: [(&CStr, i32); 5] = [
    (c"REPL_NONE", 0),
    (c"REPL_AOF", 1),
    (c"REPL_SLAVE", 2),
    (c"REPL_REPLICA", 2),
    (c"REPL_ALL", 3),
];

/// Adds the constants to the table on top of the stack.
pub fn describe(stack: &mut Stack<'_>) {
    for (level, name) in LOG_LEVELS.iter().enumerate() {
        stack.push_number(level as f64);
        stack.set_field(-2, name);
    }
    for (name, value) in REPL {
        stack.push_number(f64::from(value));
        stack.set_field(-2, name);
    }
    stack.push_bytes(REDIS_VERSION.as_bytes());
    stack.set_field(-2, c"REDIS_VERSION");
    let parts = REDIS_VERSION.split('.').map(|part| part.parse().unwrap_or(0));
    let number = parts.fold(0u32, |number, part: u32| number << 8 | part);
    stack.push_number(f64::from(number));
    stack.set_field(-2, c"REDIS_VERSION_NUM");
}

/// Raises `{err = text}`, as the functions of Redis do.
fn refuse(stack: &mut Stack<'_>, text: &str) -> Raise {
    stack.push_error_table(text.as_bytes());
    stack.raise()
}

fn log(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let count = stack.top();
    if count < 2 {
        return Err(refuse(stack, "ERR redis.log() requires two arguments or more."));
    }
    let Some(level) = stack.number(1) else {
        return Err(refuse(stack, "ERR First argument must be a number (log level)."));
    };
    let level = level as i32;
    if !(0..=3).contains(&level) {
        return Err(refuse(stack, "ERR Invalid debug level."));
    }
    let mut text = String::new();
    for at in 2..=count {
        if at > 2 {
            text.push(' ');
        }
        text.push_str(&String::from_utf8_lossy(stack.text(at).unwrap_or_default()));
    }
    match level {
        0 => tracing::debug!("script: {text:?}"),
        1 | 2 => tracing::info!("script: {text:?}"),
        _ => tracing::warn!("script: {text:?}"),
    }
    Ok(0)
}

/// The one argument, which has to be a string.
fn only_string<'a>(stack: &mut Stack<'a>) -> Option<&'a [u8]> {
    if stack.top() == 1 { stack.bytes(1) } else { None }
}

fn error_reply(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let Some(text) = only_string(stack) else {
        stack.push_error_table(b"ERR wrong number or type of arguments");
        return Ok(1);
    };
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let end = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
    let text = &text[..end];
    // A text of one word has no code in front.
    let full = if text.contains(&b' ') { text.to_vec() } else { [b"ERR ", text].concat() };
    stack.push_error_table(&full);
    Ok(1)
}

fn status_reply(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let Some(text) = only_string(stack) else {
        stack.push_error_table(b"ERR wrong number or type of arguments");
        return Ok(1);
    };
    stack.push_table(0, 1);
    stack.push_bytes(text);
    stack.set_field(-2, c"ok");
    Ok(1)
}

/// The SHA1 digest of bytes in hexadecimal.
pub fn sha1_hex(bytes: &[u8]) -> [u8; 40] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 40];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(Sha1::digest(bytes)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

fn sha1hex(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() != 1 {
        return Err(refuse(stack, "ERR wrong number of arguments"));
    }
    let digest = sha1_hex(stack.text(1).unwrap_or_default());
    stack.push_bytes(&digest);
    Ok(1)
}

fn setresp(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() != 1 {
        return Err(refuse(stack, "ERR redis.setresp() requires one argument."));
    }
    let protocol = match stack.number(1) {
        Some(2.0) => Protocol::Resp2,
        Some(3.0) => Protocol::Resp3,
        _ => return Err(refuse(stack, "ERR RESP version must be 2 or 3.")),
    };
    stack.extra().run.protocol.set(protocol);
    Ok(0)
}

/// What a script did is always replicated whole: that part of a write reaches only some is not
/// offered, so a choice is checked and that is all.
fn set_repl(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.top() != 1 {
        return Err(refuse(stack, "ERR redis.set_repl() requires two arguments."));
    }
    let flags = stack.number(1).unwrap_or(0.0);
    if !(0.0..=3.0).contains(&flags) {
        let text = "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or \
                    REPL_NONE.";
        return Err(refuse(stack, text));
    }
    Ok(0)
}

fn replicate_commands(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    stack.push_bool(true);
    Ok(1)
}

/// There is no debugger.
fn breakpoint(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    stack.push_bool(false);
    Ok(1)
}

fn debug(_: &mut Stack<'_>) -> Result<c_int, Raise> {
    Ok(0)
}

/// `redis.acl_check_cmd(command, ...)`: whether the user may run it.
fn acl_check_cmd(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let mut numbers = smallvec::SmallVec::new();
    let args = match arguments(stack, &mut numbers) {
        Ok(args) => args,
        Err(text) => return Err(refuse(stack, text)),
    };
    let run = &stack.extra().run;
    let permitted = run.with_host(|host| {
        let resolved = resolve(host, &args).ok()?;
        let user = &host.session.identity.user;
        Some(user.is_unrestricted() || user.rules().check(&resolved, &args).is_ok())
    });
    let Some(permitted) = permitted.flatten() else {
        return Err(refuse(stack, "ERR Invalid command passed to redis.acl_check_cmd()"));
    };
    stack.push_bool(permitted);
    Ok(1)
}
