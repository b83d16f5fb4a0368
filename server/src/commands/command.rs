//! COMMAND: the command table, as clients ask for it.

use super::describe::{self, categories};
use crate::host::Host;
use crate::registry::{HostCommand, Registry};
use ashlar_engine::command::{Command, Flags, Group, KeyList, Keys};
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::glob;
use ashlar_engine::reply::Reply;

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);

const fn sub(
    name: &'static str,
    arity: i32,
    syntax: &'static str,
    summary: &'static str,
) -> Command {
    Command::hosted(name, arity, Group::Server)
        .flags(ANY_TIME)
        .categories(&["connection"])
        .syntax(syntax)
        .docs("2.8.13", "O(N) for N commands", summary)
}

/// The family's commands.
pub const COMMANDS: &[HostCommand] = &[HostCommand {
    command: Command::hosted("COMMAND", -1, Group::Server).flags(ANY_TIME).docs(
        "2.8.13",
        "O(N) for N commands",
        "Describes the commands.",
    ),
    run: Some(all),
    only_replies: false,
    subcommands: &[
        HostCommand::new(sub("COUNT", 2, "", "Counts the commands."), |host, _, reply| {
            reply.int(host.shared.registry.commands().count() as i64);
            Ok(())
        }),
        HostCommand::new(
            sub(
                "LIST",
                -2,
                "[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern:pattern)]",
                "Lists the names of the commands.",
            ),
            list,
        ),
        HostCommand::new(sub("INFO", -2, "[command-name...]", "Describes commands."), info),
        HostCommand::new(
            sub("DOCS", -2, "[command-name...]", "Returns the documentation of commands."),
            docs,
        ),
        HostCommand::new(
            sub("GETKEYS", -3, "command [arg...]", "Returns the keys of a whole command."),
            |host, args, reply| get_keys(host, args, reply, false),
        ),
        HostCommand::new(
            sub(
                "GETKEYSANDFLAGS",
                -3,
                "command [arg...]",
                "Returns the keys of a whole command, and how they are used.",
            ),
            |host, args, reply| get_keys(host, args, reply, true),
        ),
        HostCommand::new(sub("HELP", 2, "", "Lists the subcommands."), |_, _, reply| {
            help(reply);
            Ok(())
        }),
    ],
}];

fn help(reply: &mut Reply<'_>) {
    let lines = [
        ("(no subcommand)", "Return a description of every command."),
        ("COUNT", "Return the number of commands."),
        ("LIST [FILTERBY ...]", "Return the names of the commands."),
        ("INFO [<command-name> ...]", "Return a description of the commands, or of all."),
        ("DOCS [<command-name> ...]", "Return the documentation of the commands, or of all."),
        ("GETKEYS <full-command>", "Return the keys of a command."),
        ("GETKEYSANDFLAGS <full-command>", "Return the keys of a command and how it uses them."),
    ];
    super::help(reply, "COMMAND", &lines);
}

fn all(host: &mut Host<'_, '_>, _: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let registry = &host.shared.registry;
    reply.array(registry.commands().count());
    for command in registry.commands() {
        describe::info(reply, None, command);
    }
    Ok(())
}

/// A command by its name, or a subcommand by `container|name`: with its container.
fn find(registry: &Registry, name: &[u8]) -> Option<(Option<&'static Command>, &'static Command)> {
    match name.iter().position(|byte| *byte == b'|') {
        None => Some((None, registry.find(name)?.command)),
        Some(at) => {
            let container = registry.find(name.get(..at)?)?.command;
            Some((Some(container), container.subcommand(name.get(at + 1..)?)?))
        }
    }
}

fn info(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let names = args.get(2..).unwrap_or_default();
    if names.is_empty() {
        return all(host, args, reply);
    }
    reply.array(names.len());
    for name in names {
        match find(&host.shared.registry, name) {
            Some((container, command)) => describe::info(reply, container, command),
            None => reply.null_array(),
        }
    }
    Ok(())
}

fn docs(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let registry = &host.shared.registry;
    let names = args.get(2..).unwrap_or_default();
    let found: Vec<_> = match names {
        [] => registry.commands().map(|command| (None, command)).collect(),
        names => names.iter().filter_map(|name| find(registry, name)).collect(),
    };
    reply.map(found.len());
    for (container, command) in found {
        reply.bulk(describe::full_name(container, command).as_bytes());
        describe::docs(reply, command);
    }
    Ok(())
}

/// Whether COMMAND LIST shows a command, by its full name and its description.
type Filter = Box<dyn Fn(&str, &Command) -> bool>;

fn list(host: &mut Host<'_, '_>, args: &[&[u8]], reply: &mut Reply<'_>) -> CmdResult {
    let registry = &host.shared.registry;
    let filter: Filter = match args {
        [_, _] => Box::new(|_, _| true),
        [_, _, by, kind, wanted] if by.eq_ignore_ascii_case(b"filterby") => {
            let wanted = wanted.to_ascii_lowercase();
            match kind.to_ascii_lowercase().as_slice() {
                b"module" => Box::new(|_, _| false),
                b"aclcat" => Box::new(move |_, command| {
                    categories(command).iter().any(|category| category.as_bytes() == wanted)
                }),
                b"pattern" => Box::new(move |name, _| glob::matches(&wanted, name.as_bytes())),
                _ => return Err(Error::Syntax.into()),
            }
        }
        _ => return Err(Error::Syntax.into()),
    };
    let mut names = Vec::new();
    for command in registry.commands() {
        let with_subcommands = command.subcommands.iter().map(|sub| (Some(command), sub));
        for (container, command) in std::iter::once((None, command)).chain(with_subcommands) {
            // As in Redis the plain list has no subcommands, a filtered one has.
            if args.len() > 2 || container.is_none() {
                names.push((describe::full_name(container, command), command));
            }
        }
    }
    names.retain(|(name, command)| filter(name, command));
    reply.array(names.len());
    for (name, _) in names {
        reply.bulk(name.as_bytes());
    }
    Ok(())
}

fn get_keys(
    host: &mut Host<'_, '_>,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
    with_flags: bool,
) -> CmdResult {
    let call = args.get(2..).unwrap_or_default();
    let registry = &host.shared.registry;
    let Some(found) = call.first().and_then(|name| registry.find(name)) else {
        return Err(Error::text("ERR Invalid command specified").into());
    };
    let sub = call.get(1).and_then(|name| found.command.subcommand(name));
    let command = match sub {
        Some(sub) => sub,
        None if found.command.subcommands.is_empty() => found.command,
        None => return Err(Error::text("ERR Invalid command specified").into()),
    };
    if matches!(command.keys, Keys::None) {
        return Err(Error::text("ERR The command has no key arguments").into());
    }
    if !command.accepts(call.len()) {
        let text = "ERR Invalid number of arguments specified for command";
        return Err(Error::text(text).into());
    }
    let mut keys = KeyList::new();
    command.keys.positions(call, &mut keys);
    if keys.is_empty() || !command.keys.has_all_counted(call) {
        return Err(Error::text("ERR Invalid arguments specified for command").into());
    }
    reply.array(keys.len());
    for at in keys {
        let key = call.get(at).copied().unwrap_or_default();
        if with_flags {
            reply.array(2);
            reply.bulk(key);
            let flags = describe::key_flags(command);
            reply.set(flags.len());
            flags.iter().for_each(|flag| reply.simple(flag));
        } else {
            reply.bulk(key);
        }
    }
    Ok(())
}
