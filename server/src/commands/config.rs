//! CONFIG: the settings while the server runs.

use crate::config::{Caller, SetError};
use crate::host::Host;
use crate::registry::HostCommand;
use ashlar_engine::command::{Command, Flags, Group};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::Reply;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NOSCRIPT).union(Flags::LOADING).union(Flags::STALE);

const fn command(name: &'static str, arity: i32, syntax: &'static str) -> Command {
    Command::hosted(name, arity, Group::Server).flags(ADMIN).syntax(syntax)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand::container(
    Command::hosted("CONFIG", -2, Group::Server).docs(
        "2.0.0",
        "",
        "Reads and changes the settings.",
    ),
    &[
        HostCommand::new(
            command("GET", -3, "parameter...").docs(
                "2.0.0",
                "O(N) for N settings",
                "Returns the settings whose names match.",
            ),
            get,
        ),
        HostCommand::new(
            command("SET", -4, "(parameter value)...").docs(
                "2.0.0",
                "O(N) for N settings",
                "Changes settings, all of them or none.",
            ),
            set,
        ),
        HostCommand::new(
            command("REWRITE", 2, "").docs(
                "2.8.0",
                "O(N) for N lines",
                "Writes the settings into the configuration file.",
            ),
            |host, _, reply| {
                host.shared.settings.rewrite().map_err(Error::owned)?;
                reply.ok();
                Ok(())
            },
        ),
        HostCommand::new(
            command("RESETSTAT", 2, "").docs("2.0.0", "O(1)", "Lets statistics start from zero."),
            |host, _, reply| {
                host.shared.stats.reset();
                reply.ok();
                Ok(())
            },
        ),
        HostCommand::new(
            Command::hosted("HELP", 2, Group::Server)
                .flags(Flags::LOADING.union(Flags::STALE))
                .docs("5.0.0", "O(1)", "Lists the subcommands."),
            help,
        ),
    ],
)];

fn get(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let found = host.shared.settings.get(args.get(2..).unwrap_or_default());
    reply.map(found.len());
    for (name, value) in &found {
        reply.bulk(name);
        reply.bulk(value);
    }
    Ok(())
}

fn set(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let (pairs, rest) = args.get(2..).unwrap_or_default().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::Syntax.into());
    }
    let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|[name, value]| (*name, *value)).collect();
    let caller = if is_local(&host.session.client.peer) { Caller::Local } else { Caller::Remote };
    host.shared
        .settings
        .set(&pairs, caller)
        .map_err(|error: SetError| Error::owned(error.to_string()))?;
    reply.ok();
    Ok(())
}

/// Whether a client's address is of this machine: the loopback interface or a Unix socket.
pub fn is_local(peer: &str) -> bool {
    match peer.parse::<std::net::SocketAddr>() {
        Ok(address) => address.ip().to_canonical().is_loopback(),
        Err(_) => true,
    }
}

fn help(_: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let lines = [
        ("GET <pattern> [<pattern> ...]", "Return the settings whose names match."),
        ("SET <setting> <value> [...]", "Change the settings, all of them or none."),
        ("RESETSTAT", "Let the statistics of INFO start from zero."),
        ("REWRITE", "Write the settings into the configuration file."),
    ];
    super::help(reply, "CONFIG", &lines);
    Ok(())
}
