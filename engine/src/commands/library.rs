//! Changes of the libraries of functions, see [`crate::libraries`]. The host checks what they say.

use crate::command::{Command, Flags, Group};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::libraries::LIBRARIES_BYTES_MAX;
use crate::reply::Reply;

/// Changes libraries: a list of changes that take effect as one.
pub const LIBRARY: &str = "ASHLAR.LIBRARY";

/// The family's commands.
pub const COMMANDS: &[Command] = &[Command::new(LIBRARY, -2, Group::Scripting, library)
    .flags(
        Flags::WRITE.union(Flags::INTERNAL).union(Flags::SKIP_MONITOR).union(Flags::WHOLE_KEYSPACE),
    )
    .syntax("[FLUSH] [REMOVE name]... [SET name text]...")
    .docs("7.4.0", "O(N) for N bytes of libraries", "Changes the libraries of functions.")];

fn library(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let libraries = cx.libraries;
    let fresh: usize = args.iter().map(|arg| arg.len()).sum();
    let flushes = args.get(1) == Some(&&b"FLUSH"[..]);
    let kept = if flushes { 0 } else { libraries.bytes() };
    if kept + fresh > LIBRARIES_BYTES_MAX {
        return Err(Error::text("ERR too many bytes of function libraries").into());
    }
    let mut rest = &args[1..];
    loop {
        rest = match rest {
            [] => break,
            [b"FLUSH", rest @ ..] => {
                libraries.replace_all([]);
                cx.tell(&[b"FUNCTION", b"FLUSH"]);
                rest
            }
            [b"REMOVE", name, rest @ ..] => {
                libraries.remove(name);
                cx.tell(&[b"FUNCTION", b"DELETE", name]);
                rest
            }
            [b"SET", name, text, rest @ ..] => {
                libraries.set(name, text);
                cx.tell(&[b"FUNCTION", b"LOAD", b"REPLACE", text]);
                rest
            }
            _ => return Err(Error::Syntax.into()),
        };
    }
    cx.add_dirty(1);
    reply.ok();
    Ok(())
}
