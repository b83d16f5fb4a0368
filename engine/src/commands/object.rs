//! How a value is represented and used: OBJECT and MEMORY.

use super::generic::is;
use crate::command::{Command, Flags, Group, Keys};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::keyspace::access::{self, AccessScheme};
use crate::number;
use crate::reply::Reply;
use crate::value::view;

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::container("OBJECT", Group::Generic, OBJECT).docs(
        "2.2.3",
        "O(1)",
        "Tells how values are represented and used.",
    ),
    Command::container("MEMORY", Group::Server, MEMORY).docs(
        "4.0.0",
        "O(1)",
        "Tells what takes memory.",
    ),
];

const OBJECT: &[Command] = &[
    Command::new("ENCODING", 3, Group::Generic, encoding)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key")
        .docs("2.2.3", "O(1)", "Names the representation of a key's value."),
    Command::new("FREQ", 3, Group::Generic, freq)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key")
        .docs("4.0.0", "O(1)", "Returns the logarithmic counter of a key's accesses."),
    Command::new("IDLETIME", 3, Group::Generic, idletime)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key")
        .docs("2.2.3", "O(1)", "Returns the seconds since the last access to a key."),
    Command::new("REFCOUNT", 3, Group::Generic, refcount)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key")
        .docs("2.2.3", "O(1)", "Returns how many references a key's value has."),
    Command::new("TIER", 3, Group::Generic, tier)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key")
        .docs(
            "7.4.0",
            "O(1)",
            "Tells where a key's value is: hot (memory), cached (memory, read from disk) or cold (disk).",
        ),
    Command::new("HELP", 2, Group::Generic, object_help)
        .flags(Flags::LOADING.union(Flags::STALE))
        .docs("6.2.0", "O(1)", "Lists the subcommands."),
];

const MEMORY: &[Command] = &[
    Command::new("USAGE", -3, Group::Server, memory_usage)
        .flags(Flags::READONLY)
        .keys(Keys::SECOND)
        .syntax("key [SAMPLES count:integer]")
        .docs("4.0.0", "O(N) for N elements of the value", "Returns the bytes a key takes."),
    Command::hosted("DOCTOR", 2, Group::Server).docs(
        "4.0.0",
        "O(1)",
        "Says what is unusual about the use of memory.",
    ),
    Command::hosted("MALLOC-STATS", 2, Group::Server).docs(
        "4.0.0",
        "O(1)",
        "Returns what the allocator tells of itself.",
    ),
    Command::hosted("PURGE", 2, Group::Server).docs(
        "4.0.0",
        "O(1)",
        "Gives free memory back to the system.",
    ),
    Command::hosted("STATS", 2, Group::Server).docs(
        "4.0.0",
        "O(1)",
        "Returns figures about the use of memory.",
    ),
    Command::new("HELP", 2, Group::Server, memory_help)
        .flags(Flags::LOADING.union(Flags::STALE))
        .docs("4.0.0", "O(1)", "Lists the subcommands."),
];

/// Integers below this are one shared object in Redis, which says so in OBJECT REFCOUNT.
const SHARED_INTEGERS: i64 = 10_000;
const SHARED_REFCOUNT: i64 = i32::MAX as i64;

/// Replies the lines of a HELP subcommand.
pub(crate) fn help(reply: &mut Reply<'_>, lines: &[&str]) {
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.simple(line));
}

fn object_help(_cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    help(
        reply,
        &[
            "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "ENCODING <key>",
            "    Name the representation of the value of <key>.",
            "FREQ <key>",
            "    Return the counter of accesses to <key>; it grows with their logarithm.",
            "IDLETIME <key>",
            "    Return the seconds since <key> was last accessed.",
            "REFCOUNT <key>",
            "    Return how many references the value of <key> has.",
            "TIER <key>",
            "    Return where the value of <key> is: hot, cached or cold.",
            "HELP",
            "    Print this help.",
        ],
    );
    Ok(())
}

fn tier(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.tier_of(args[2]) {
        Some(tier) => reply.bulk(tier.as_bytes()),
        None => reply.null(),
    }
    Ok(())
}

fn encoding(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.peek(args[2]) {
        Some(entry) => reply.bulk(view::encoding(&entry).as_bytes()),
        None => reply.null(),
    }
    Ok(())
}

fn refcount(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    match cx.peek(args[2]) {
        Some(entry) => {
            let shared = entry.int().is_some_and(|int| (0..SHARED_INTEGERS).contains(&int));
            reply.int(if shared { SHARED_REFCOUNT } else { 1 });
        }
        None => reply.null(),
    }
    Ok(())
}

fn freq(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(entry) = cx.peek(args[2]) else {
        reply.null();
        return Ok(());
    };
    if cx.config().access != AccessScheme::Frequency {
        return Err(Error::text(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please \
             note that when switching between policies at runtime LRU and LFU data will take some \
             time to adjust.",
        )
        .into());
    }
    let counter = access::frequency(entry.access(), cx.now_ms(), cx.config().frequency);
    reply.int(i64::from(counter));
    Ok(())
}

fn idletime(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let Some(entry) = cx.peek(args[2]) else {
        reply.null();
        return Ok(());
    };
    if cx.config().access != AccessScheme::Recency {
        return Err(Error::text(
            "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that \
             when switching between policies at runtime LRU and LFU data will take some time to \
             adjust.",
        )
        .into());
    }
    reply.int((access::idle_ms(entry.access(), cx.now_ms()) / 1000) as i64);
    Ok(())
}

/// The families estimate long values by a fixed sample, so that `SAMPLES` is only checked.
fn memory_usage(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    for pair in args[3..].chunks(2) {
        match *pair {
            [option, count] if is(option, "SAMPLES") => {
                if number::parse_i64(count).ok_or(Error::NotInteger)? < 0 {
                    return Err(Error::Syntax.into());
                }
            }
            _ => return Err(Error::Syntax.into()),
        }
    }
    match cx.peek(args[2]) {
        Some(entry) => reply.int(view::memory(&entry) as i64),
        None => reply.null(),
    }
    Ok(())
}

fn memory_help(_cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    help(
        reply,
        &[
            "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "DOCTOR",
            "    Say what is unusual about the use of memory.",
            "MALLOC-STATS",
            "    Return what the allocator tells of itself.",
            "PURGE",
            "    Give free memory back to the system.",
            "STATS",
            "    Return figures about the use of memory.",
            "USAGE <key> [SAMPLES <count>]",
            "    Return the bytes that <key> and its value take.",
            "HELP",
            "    Print this help.",
        ],
    );
    Ok(())
}
