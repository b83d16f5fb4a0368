//! The commands that concern connections and the server, one file a family.

use crate::registry::HostCommand;

pub mod acl;
pub mod admin;
pub mod client;
mod client_kill;
pub(crate) mod client_tracking;
pub mod cluster;
pub mod command;
pub mod config;
pub mod connection;
pub(crate) mod describe;
pub mod functions;
pub mod migrate;
pub mod observe;
pub mod persistence;
pub mod policy;
pub mod pubsub;
pub mod replication;
pub mod scripting;
pub mod sentinel;
pub mod server;
pub mod site;
pub mod transactions;

/// All families. To add a command, add it to its family's `COMMANDS`.
pub const FAMILIES: &[&[HostCommand]] = &[
    acl::COMMANDS,
    admin::COMMANDS,
    client::COMMANDS,
    cluster::COMMANDS,
    command::COMMANDS,
    config::COMMANDS,
    connection::COMMANDS,
    functions::COMMANDS,
    migrate::COMMANDS,
    observe::COMMANDS,
    persistence::COMMANDS,
    policy::COMMANDS,
    pubsub::COMMANDS,
    replication::COMMANDS,
    scripting::COMMANDS,
    sentinel::COMMANDS,
    server::COMMANDS,
    site::COMMANDS,
    transactions::COMMANDS,
];

pub(crate) use client_kill::line as client_line;

/// The reply of a HELP subcommand: each subcommand with what it does.
pub fn help(reply: &mut ashlar_engine::reply::Reply<'_>, container: &str, lines: &[(&str, &str)]) {
    reply.array(1 + 2 * (lines.len() + 1));
    let head = "<subcommand> [<arg> [value] [opt] ...]. Subcommands are:";
    reply.simple(&format!("{container} {head}"));
    for (form, text) in lines.iter().chain([&("HELP", "Print this help.")]) {
        reply.simple(form);
        reply.simple(&format!("    {text}"));
    }
}

/// The same, with the forms and summaries of the subcommands' own documentation.
pub fn help_of(
    reply: &mut ashlar_engine::reply::Reply<'_>,
    container: &str,
    subcommands: &[crate::registry::HostCommand],
) {
    let others = subcommands.iter().filter(|one| one.command.name != "HELP");
    let mut lines: Vec<(String, &str)> = others
        .map(|one| (format!("{} {}", one.command.name, one.command.syntax), one.command.summary))
        .collect();
    lines.iter_mut().for_each(|(form, _)| form.truncate(form.trim_end().len()));
    let lines: Vec<(&str, &str)> = lines.iter().map(|(form, text)| (&**form, *text)).collect();
    help(reply, container, &lines);
}
