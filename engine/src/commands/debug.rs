//! DEBUG: what test suites of clients and servers use of it.

use super::object::help;
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::glob;
use crate::image;
use crate::keyspace::access;
use crate::number;
use crate::reply::Reply;
use crate::value::{form, view};

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::DANGEROUS);
const READ: Flags = ADMIN.union(Flags::READONLY);

/// The family's commands.
pub const COMMANDS: &[Command] = &[Command::container("DEBUG", Group::Server, DEBUG)
    .flags(ADMIN)
    .docs("1.0.0", "Depends on the subcommand", "Looks inside the server, for tests.")];

const DEBUG: &[Command] =
    &[
        Command::new("CHANGE-REPL-ID", -2, Group::Server, accept).flags(ADMIN).docs(
            "1.0.0",
            "O(1)",
            "Does nothing: there is no such id.",
        ),
        Command::new("DIGEST", 2, Group::Server, digest)
            .flags(READ.union(Flags::WHOLE_KEYSPACE))
            .docs("1.0.0", "O(N)", "Returns a digest of all keys of all databases."),
        Command::new("DIGEST-VALUE", -2, Group::Server, digest_value)
            .flags(READ)
            .keys(Keys::Range { first: 2, last: -1, step: 1 })
            .syntax("key...")
            .docs("1.0.0", "O(N)", "Returns a digest of the value of each key."),
        Command::new("ERROR", 3, Group::Server, error).flags(ADMIN).syntax("message").docs(
            "1.0.0",
            "O(1)",
            "Answers with this error, for tests of clients.",
        ),
        Command::new("LISTPACK", 3, Group::Server, listpack)
            .flags(READ)
            .keys(Keys::SECOND)
            .syntax("key")
            .docs("1.0.0", "O(1)", "Accepted for a small collection; there is nothing to show."),
        Command::new("OBJECT", 3, Group::Server, object)
            .flags(READ)
            .keys(Keys::SECOND)
            .syntax("key")
            .docs("1.0.0", "O(N)", "Tells how the value of a key is represented."),
        Command::new("QUICKLIST-PACKED-THRESHOLD", 3, Group::Server, accept)
            .flags(ADMIN)
            .syntax("size")
            .docs("1.0.0", "O(1)", "Does nothing: there is no such limit."),
        Command::hosted("RELOAD", -2, Group::Server)
            .flags(ADMIN)
            .syntax("[NOSAVE] [NOFLUSH] [MERGE]")
            .docs("1.0.0", "O(N)", "Saves the data and loads all of it again."),
        Command::hosted("SET-ACTIVE-EXPIRE", 3, Group::Server)
            .flags(ADMIN)
            .syntax("flag:integer")
            .docs("1.0.0", "O(1)", "Turns active expiry on or off."),
        Command::hosted("SYNC-FAULT", 3, Group::Server).flags(ADMIN).syntax("flag:integer").docs(
            "1.0.0",
            "O(1)",
            "Lets all syncs of the disk fail from now on, or no longer.",
        ),
        Command::hosted("SLEEP", 3, Group::Server).flags(ADMIN).syntax("seconds:double").docs(
            "1.0.0",
            "O(1)",
            "Does nothing for a while.",
        ),
        Command::new("STRINGMATCH-LEN", 4, Group::Server, stringmatch_len)
            .flags(ADMIN)
            .syntax("length:integer pattern:pattern")
            .docs("1.0.0", "O(N)", "Matches a pattern with a string of that many letters `a`."),
        Command::new("HELP", 2, Group::Server, debug_help)
            .flags(Flags::LOADING.union(Flags::STALE))
            .docs("1.0.0", "O(1)", "Lists the subcommands."),
    ];

/// Longest string that STRINGMATCH-LEN makes.
const MATCH_LEN_MAX: usize = 64 << 20;

fn accept(_cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.ok();
    Ok(())
}

fn error(_cx: &mut Cx<'_>, args: &[&[u8]], _reply: &mut Reply<'_>) -> CmdResult {
    Err(Error::owned(String::from_utf8_lossy(args[2]).into_owned()).into())
}

/// Prints a digest with as many digits as Redis, whose digests are SHA-1.
fn show(digest: u64) -> String {
    format!("{digest:040x}")
}

fn digest(cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if (0..cx.config().databases).any(|db| cx.in_db(db, |cx| cx.has_cold())) {
        return Err(Error::text("ERR DEBUG DIGEST does not read values that are on disk").into());
    }
    let (mut sum, mut buf) = (0u64, Vec::new());
    for db in 0..cx.config().databases {
        cx.in_db(db, |cx| {
            cx.for_each(|entry| {
                sum = sum.wrapping_add(image::entry_digest(db, &entry, &mut buf));
            });
        });
    }
    reply.simple(&show(sum));
    Ok(())
}

fn digest_value(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let mut buf = Vec::new();
    reply.array(args.len() - 2);
    for key in &args[2..] {
        let digest = cx.peek(key).map_or(0, |entry| image::value_digest(&entry, &mut buf));
        reply.simple(&show(digest));
    }
    Ok(())
}

fn object(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let entry = cx.peek(args[2]).ok_or(Error::NoSuchKey)?;
    let mut bytes = Vec::new();
    form::encode(&entry, &mut bytes);
    let idle = access::idle_ms(entry.access(), cx.now_ms()) / 1000;
    reply.simple(&format!(
        "Value at:0x{:x} refcount:1 encoding:{} serializedlength:{} lru:{} lru_seconds_idle:{idle}",
        image::value_digest(&entry, &mut Vec::new()) & 0xFFFF_FFFF_FFFF,
        view::encoding(&entry),
        bytes.len(),
        entry.access() & 0xFF_FFFF,
    ));
    Ok(())
}

fn listpack(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let entry = cx.peek(args[2]).ok_or(Error::NoSuchKey)?;
    if view::encoding(&entry) != "listpack" {
        return Err(Error::text("ERR Not a listpack encoded object.").into());
    }
    reply.ok();
    Ok(())
}

fn stringmatch_len(_cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let len = number::parse_i64(args[2]).ok_or(Error::NotInteger)?;
    let len = usize::try_from(len).ok().filter(|&len| len <= MATCH_LEN_MAX);
    let len = len.ok_or(Error::text("ERR string is longer than DEBUG allows"))?;
    reply.int(i64::from(glob::matches(args[3], &vec![b'a'; len])));
    Ok(())
}

fn debug_help(_cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    help(
        reply,
        &[
            "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "DIGEST",
            "    Return a digest of all keys of all databases.",
            "DIGEST-VALUE <key> [<key> ...]",
            "    Return a digest of the value of each key.",
            "OBJECT <key>",
            "    Tell how the value of <key> is represented.",
            "RELOAD [NOSAVE]",
            "    Save the data and load all of it again.",
            "SET-ACTIVE-EXPIRE <0|1>",
            "    Turn active expiry on or off.",
            "SLEEP <seconds>",
            "    Do nothing for a while.",
            "STRINGMATCH-LEN <length> <pattern>",
            "    Match <pattern> with a string of that many letters 'a'.",
            "SYNC-FAULT <0|1>",
            "    Let all syncs of the disk fail from now on, or no longer.",
            "HELP",
            "    Print this help.",
        ],
    );
    Ok(())
}
