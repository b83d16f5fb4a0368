//! All commands of the server: those of the engine, and those that concern connections.

use crate::commands::describe::categories;
use crate::commands::{admin, observe};
use crate::host::Host;
use ashlar_engine::command::{Command, CommandTable, Flags, Group, name_head};
use ashlar_engine::commands::FAMILIES;
use ashlar_engine::error::{CmdResult, Error};
use ashlar_engine::reply::Reply;

/// A command's function in the server.
pub type HostRun = fn(&mut Host<'_, '_>, &[&[u8]], &mut Reply<'_>) -> CmdResult;

/// A command that the server runs: its description and its function.
#[derive(Debug)]
pub struct HostCommand {
    /// Name, arity, flags and documentation.
    pub command: Command,
    /// The function; `None` for a container of subcommands.
    pub run: Option<HostRun>,
    /// Subcommands.
    pub subcommands: &'static [HostCommand],
    /// Whether it does nothing but reply: nothing is to be looked after when it has run.
    pub only_replies: bool,
}

impl HostCommand {
    /// A command.
    pub const fn new(command: Command, run: HostRun) -> HostCommand {
        HostCommand { command, run: Some(run), subcommands: &[], only_replies: false }
    }

    /// Says that the command does nothing but reply.
    pub const fn only_replies(mut self) -> HostCommand {
        self.only_replies = true;
        self
    }

    /// A command that has subcommands only.
    pub const fn container(command: Command, subcommands: &'static [HostCommand]) -> HostCommand {
        HostCommand { command, run: None, subcommands, only_replies: false }
    }
}

/// What the subcommands of a container have in common.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The group in the documentation.
    pub group: Group,
    /// The version of Redis that has them.
    pub since: &'static str,
    /// What one takes.
    pub complexity: &'static str,
}

impl Family {
    /// A subcommand.
    pub const fn sub(
        self,
        name: &'static str,
        arity: i32,
        flags: Flags,
        syntax: &'static str,
        summary: &'static str,
        run: HostRun,
    ) -> HostCommand {
        let command = Command::hosted(name, arity, self.group).flags(flags).syntax(syntax);
        HostCommand::new(command.docs(self.since, self.complexity, summary), run)
    }
}

/// A command or subcommand, found.
#[derive(Clone, Copy, Debug)]
pub struct Resolved {
    /// Its number, for statistics.
    pub id: usize,
    /// Its description.
    pub command: &'static Command,
    /// Its function, where the server runs it.
    pub host: Option<HostRun>,
    /// Whether that function does nothing but reply.
    pub only_replies: bool,
}

#[derive(Debug)]
struct Entry {
    resolved: Resolved,
    /// Full name in lower case, as statistics and errors show it: `client|list`.
    full_name: String,
    subs: Vec<usize>,
}

/// The command that was found last: many pipelines are runs of one.
#[derive(Debug, Default)]
pub struct LastCommand<'e> {
    head: u64,
    len: usize,
    found: Option<&'e Resolved>,
}

/// The commands by name and by number.
#[derive(Debug)]
pub struct Registry {
    table: CommandTable,
    /// Each command of the table, followed by its subcommands.
    entries: Vec<Entry>,
    /// The place among `entries` of each command of the table.
    places: Vec<usize>,
}

impl Registry {
    /// The engine's commands and `hosted`.
    ///
    /// # Panics
    /// If two commands have the same name.
    pub fn new(hosted: &[&'static [HostCommand]]) -> Registry {
        let hosted: Vec<&'static HostCommand> = hosted.iter().copied().flatten().collect();
        let specs: Vec<Command> = hosted.iter().map(|command| describe(command)).collect();
        // The table lives as long as the process; COMMAND and ACL hand out references to it.
        let specs: &'static [Command] = Vec::leak(specs);
        let families: Vec<&'static [Command]> =
            FAMILIES.iter().copied().chain(std::iter::once(specs)).collect();
        let table = CommandTable::new(&families);
        let engine_count = table.all().len() - hosted.len();
        let (mut entries, mut places) = (Vec::new(), Vec::new());
        for (nth, parent) in table.all().iter().copied().enumerate() {
            let host = nth.checked_sub(engine_count).map(|at| hosted[at]);
            let id = entries.len();
            places.push(id);
            let resolved = Resolved {
                id,
                command: parent,
                host: host.and_then(|host| host.run),
                only_replies: host.is_some_and(|host| host.only_replies),
            };
            let subs = (id + 1..=id + parent.subcommands.len()).collect();
            entries.push(Entry { resolved, full_name: parent.name.to_ascii_lowercase(), subs });
            for (nth, command) in parent.subcommands.iter().enumerate() {
                let run = host.and_then(|host| host.subcommands[nth].run);
                let run = run.or_else(|| overlay(parent.name, command.name));
                let id = entries.len();
                let resolved = Resolved { id, command, host: run, only_replies: false };
                let full_name = format!("{}|{}", parent.name, command.name).to_ascii_lowercase();
                entries.push(Entry { resolved, full_name, subs: Vec::new() });
            }
        }
        Registry { table, entries, places }
    }

    /// The table of top-level commands.
    pub fn table(&self) -> &CommandTable {
        &self.table
    }

    /// Number of commands and subcommands; their numbers are below it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never: there are commands.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Full name of a command in lower case, for example `get` or `client|list`.
    pub fn full_name(&self, id: usize) -> &str {
        &self.entries[id].full_name
    }

    /// The command or subcommand with this number.
    pub fn command(&self, id: usize) -> Option<&'static Command> {
        self.entries.get(id).map(|entry| entry.resolved.command)
    }

    /// All top-level commands that clients can call.
    pub fn commands(&self) -> impl Iterator<Item = &'static Command> {
        self.table.all().iter().copied().filter(|command| !command.flags.contains(Flags::INTERNAL))
    }

    /// The top-level command of that name.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Resolved> {
        let (id, command) = self.table.find(name)?;
        if command.flags.contains(Flags::INTERNAL) {
            return None;
        }
        Some(&self.entries[self.places[id]].resolved)
    }

    /// The number of a command (`get`) or subcommand (`config|get`) by its full name.
    pub fn find_full(&self, name: &[u8]) -> Option<usize> {
        match name.iter().position(|byte| *byte == b'|') {
            None => Some(self.find(name)?.id),
            Some(at) => {
                let parent = self.find(&name[..at])?;
                let sub = &name[at + 1..];
                self.subcommands(parent.id).find(|id| {
                    self.entries[*id].resolved.command.name.as_bytes().eq_ignore_ascii_case(sub)
                })
            }
        }
    }

    /// The numbers of a command's subcommands.
    pub fn subcommands(&self, id: usize) -> impl Iterator<Item = usize> + '_ {
        self.entries.get(id).into_iter().flat_map(|entry| entry.subs.iter().copied())
    }

    /// The numbers of the commands and subcommands of an ACL category.
    pub fn in_category<'a>(&'a self, category: &'a str) -> impl Iterator<Item = usize> + 'a {
        (0..self.entries.len()).filter(move |id| {
            let command = self.entries[*id].resolved.command;
            !command.flags.contains(Flags::INTERNAL) && categories(command).contains(&category)
        })
    }

    /// The command, or its subcommand, that `args` call, with as many arguments as it takes.
    ///
    /// # Errors
    /// Redis's texts for an unknown command, an unknown subcommand and a wrong number of arguments.
    #[inline]
    pub fn resolve(&self, args: &[&[u8]]) -> Result<&Resolved, Error> {
        let Some(found) = args.first().and_then(|name| self.find(name)) else {
            return Err(unknown(args));
        };
        if found.command.subcommands.is_empty() {
            if found.command.accepts(args.len()) {
                return Ok(found);
            }
            return Err(Error::arity(found.command.name));
        }
        self.resolve_subcommand(found, args)
    }

    /// As [`Registry::resolve`], faster where the command is that of the request before.
    #[inline]
    pub fn resolve_next<'e>(
        &'e self,
        args: &[&[u8]],
        last: &mut LastCommand<'e>,
    ) -> Option<&'e Resolved> {
        let name = args.first()?;
        let head = name_head(name);
        // A head of all of a name says which one it is, see `CommandTable::find`.
        if (head, name.len()) == (last.head, last.len)
            && let Some(found) = last.found
        {
            return found.command.accepts(args.len()).then_some(found);
        }
        let found = self.resolve(args).ok()?;
        if name.len() <= size_of::<u64>() && found.command.subcommands.is_empty() {
            // A subcommand's own entry is found by more than the first word.
            let top = self.find(name).is_some_and(|top| top.id == found.id);
            *last = LastCommand { head, len: name.len(), found: top.then_some(found) };
        }
        Some(found)
    }

    fn resolve_subcommand<'a>(
        &'a self,
        found: &'a Resolved,
        args: &[&[u8]],
    ) -> Result<&'a Resolved, Error> {
        let Some(name) = args.get(1) else {
            if found.host.is_some() || found.command.run.is_some() {
                return Ok(found);
            }
            return Err(Error::arity(found.command.name));
        };
        let subs = &self.entries[found.id].subs;
        let sub = subs
            .iter()
            .map(|id| &self.entries[*id])
            .find(|entry| entry.resolved.command.name.as_bytes().eq_ignore_ascii_case(name));
        match sub {
            Some(sub) if sub.resolved.command.accepts(args.len()) => Ok(&sub.resolved),
            Some(sub) => Err(Error::arity(&sub.full_name)),
            None => {
                let shown = &name[..name.len().min(SHOWN_MAX)];
                let text = "ERR unknown subcommand '{}'. Try {} HELP.";
                Err(Error::quoting(text, &[shown, found.command.name.as_bytes()]))
            }
        }
    }
}

/// The server's function for a subcommand that the engine describes.
fn overlay(parent: &str, name: &str) -> Option<HostRun> {
    if parent == "DEBUG" {
        return Some(admin::debug);
    }
    let overlays = admin::OVERLAYS.iter().chain(observe::OVERLAYS);
    overlays.copied().find(|one| (one.0, one.1) == (parent, name)).map(|one| one.2)
}

/// A host command's description with those of its subcommands.
fn describe(host: &HostCommand) -> Command {
    let subs: Vec<Command> = host.subcommands.iter().map(describe).collect();
    if subs.is_empty() { host.command } else { host.command.subcommands(Vec::leak(subs)) }
}

/// Bytes of a name, and of all arguments, that an error repeats.
const SHOWN_MAX: usize = 128;

/// The error for a command that does not exist, with the start of its arguments.
fn unknown(args: &[&[u8]]) -> Error {
    // Redis prints them as C strings, which end at a zero byte.
    fn shown(arg: &[u8], max: usize) -> &[u8] {
        let arg = &arg[..arg.len().min(max)];
        arg.split(|byte| *byte == 0).next().unwrap_or_default()
    }
    let name = shown(args.first().copied().unwrap_or_default(), SHOWN_MAX);
    let mut beginning = Vec::new();
    for arg in args.iter().skip(1) {
        if beginning.len() >= SHOWN_MAX {
            break;
        }
        let arg = shown(arg, SHOWN_MAX - beginning.len());
        beginning.extend_from_slice(&[b"'", arg, b"' "].concat());
    }
    let text = [b"ERR unknown command '", name, b"', with args beginning with: ", &beginning];
    Error::from_bytes(text.concat())
}
