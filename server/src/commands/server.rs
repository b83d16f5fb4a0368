//! The server's place in the world: TIME, LOLWUT, and the answers of a node that has no modules.

use crate::clock;
use crate::host::Host;
use crate::info::{ASHLAR_VERSION, REDIS_VERSION};
use crate::registry::HostCommand;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::number::parse_i64;
use ashlar_engine::reply::Reply;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT);

const fn command(name: &'static str, arity: i32, flags: Flags, summary: &'static str) -> Command {
    Command::hosted(name, arity, Group::Server).flags(flags).docs("1.0.0", "O(1)", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[
    HostCommand::new(
        command("TIME", 1, ANY_TIME.union(Flags::FAST), "Returns the time of the server."),
        time,
    ),
    HostCommand::new(
        command("LOLWUT", -1, Flags::READONLY.union(Flags::FAST), "Shows the version.")
            .syntax("[VERSION version:integer]"),
        lolwut,
    ),
    HostCommand::container(
        Command::hosted("MODULE", -2, Group::Server).docs("4.0.0", "", "Tells about modules."),
        MODULE,
    ),
];

const MODULE: &[HostCommand] = &[
    HostCommand::new(
        command("LIST", 2, ADMIN, "Lists the modules, of which there are none."),
        |_, _, reply| {
            reply.array(0);
            Ok(())
        },
    ),
    HostCommand::new(command("LOAD", -3, ADMIN, "Loads a module."), no_modules),
    HostCommand::new(command("LOADEX", -3, ADMIN, "Loads a module."), no_modules),
    HostCommand::new(command("UNLOAD", 3, ADMIN, "Removes a module."), no_modules),
    HostCommand::new(command("HELP", 2, ANY_TIME, "Lists the subcommands."), |_, _, reply| {
        super::help(reply, "MODULE", &[("LIST", "Return the modules, of which there are none.")]);
        Ok(())
    }),
];

fn no_modules(_: &mut Host<'_, '_>, _: &[&[u8]], _: &mut Reply<'_>) -> CmdResult {
    Err(Error::text("ERR this server does not load modules").into())
}

fn time(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let now_us = match host.session.in_script {
        true => host.stamp.now_ms.saturating_mul(1000),
        false => clock::now_us(),
    };
    reply.array(2);
    reply.bulk_int(now_us / 1_000_000);
    reply.bulk_int(now_us % 1_000_000);
    Ok(())
}

fn lolwut(_: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    if let [_, option, version, ..] = args
        && option.eq_ignore_ascii_case(b"version")
        && parse_i64(version).is_none()
    {
        return Err(Error::NotInteger.into());
    }
    let wall = "+----+--+---+\n+-+---+---+-+\n+----+--+---+\n";
    reply
        .verbatim("txt", &format!("{wall}\nashlar {ASHLAR_VERSION}, Redis ver. {REDIS_VERSION}\n"));
    Ok(())
}
