//! Commands on whole databases.

use super::generic::is;
use crate::command::{Command, Flags, Group};
use crate::context::Cx;
use crate::error::{CmdResult, Error};
use crate::number;
use crate::reply::Reply;

const READ: Flags = Flags::READONLY.union(Flags::FAST).union(Flags::WHOLE_KEYSPACE);
const WRITE: Flags = Flags::WRITE.union(Flags::WHOLE_KEYSPACE).union(Flags::DANGEROUS);

/// The family's commands.
pub const COMMANDS: &[Command] = &[
    Command::new("DBSIZE", 1, Group::Server, dbsize).flags(READ).categories(&["keyspace"]).docs(
        "1.0.0",
        "O(1)",
        "Returns the number of keys of the database.",
    ),
    Command::new("FLUSHDB", -1, Group::Server, flushdb)
        .flags(WRITE)
        .categories(&["keyspace"])
        .syntax("[ASYNC|SYNC]")
        .docs("1.0.0", "O(N) for N keys, in the background", "Deletes all keys of the database."),
    Command::new("FLUSHALL", -1, Group::Server, flushall)
        .flags(WRITE)
        .categories(&["keyspace"])
        .syntax("[ASYNC|SYNC]")
        .docs("1.0.0", "O(N) for N keys, in the background", "Deletes all keys of all databases."),
    Command::new("SWAPDB", 3, Group::Server, swapdb)
        .flags(WRITE.union(Flags::FAST))
        .categories(&["keyspace"])
        .syntax("index1:integer index2:integer")
        .docs(
            "4.0.0",
            "O(N) for N clients that wait for keys or watch them",
            "Swaps two databases.",
        ),
];

fn dbsize(cx: &mut Cx<'_>, _args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    reply.int(cx.db_len() as i64);
    Ok(())
}

/// What is removed is always freed in the background, so that ASYNC and SYNC are the same.
fn check_flush_mode(args: &[&[u8]]) -> Result<(), Error> {
    match args {
        [_] => Ok(()),
        [_, mode] if is(mode, "ASYNC") || is(mode, "SYNC") => Ok(()),
        _ => Err(Error::Syntax),
    }
}

fn flushdb(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    check_flush_mode(args)?;
    cx.flush_db(cx.db());
    reply.ok();
    Ok(())
}

fn flushall(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    check_flush_mode(args)?;
    for db in 0..cx.config().databases {
        cx.flush_db(db);
    }
    cx.add_dirty(1);
    reply.ok();
    Ok(())
}

fn swapdb(cx: &mut Cx<'_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let index = |arg: &[u8], error| match number::parse_i64(arg).map(i32::try_from) {
        Some(Ok(index)) => Ok(index),
        _ => Err(Error::text(error)),
    };
    let first = index(args[1], "ERR invalid first DB index")?;
    let second = index(args[2], "ERR invalid second DB index")?;
    let databases = cx.config().databases;
    let known = |index: i32| u32::try_from(index).ok().filter(|&index| index < databases);
    let (Some(first), Some(second)) = (known(first), known(second)) else {
        return Err(Error::text("ERR DB index is out of range").into());
    };
    if first != second {
        cx.swap_dbs(first, second);
    }
    reply.ok();
    Ok(())
}
