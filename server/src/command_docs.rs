//! The commands for people: `docs/commands.md`, from the command table.

use std::fmt::Write;

use crate::commands::{self, describe};
use crate::registry::Registry;
use ashlar_engine::command::{Command, Group};

const INTRODUCTION: &str = "\
# Commands

What ashlar answers, by family. Names, arguments, replies and error texts are those of Redis, so the documentation
of Redis says more about each. In the server, `COMMAND DOCS` and `COMMAND INFO` give the same from the same table.

*Since* is the version of Redis that brought the command; ashlar has had all of them since its first version. The
flags are those of `COMMAND INFO`, among them: `write` may change data, `readonly` only reads, `denyoom` is refused
above `maxmemory` when nothing can be evicted, `fast` takes constant or logarithmic time, `blocking` may make its
client wait, `noscript` is not for scripts, `no_auth` is allowed before authentication.

In the arguments, upper case is written as it stands, `[..]` may be left out, `a|b` is one of the two, and `...`
repeats what is before it. A word may be followed by its type (`name:integer`). The `HELP` of each container of
subcommands is left out.

This file is written by `ashlar --print-command-docs`.
";

/// The families in the order in which they are shown.
const FAMILIES: [(Group, &str); 13] = [
    (Group::Generic, "Keys of any type"),
    (Group::String, "Strings"),
    (Group::Bitmap, "Bitmaps"),
    (Group::HyperLogLog, "HyperLogLog"),
    (Group::Hash, "Hashes"),
    (Group::List, "Lists"),
    (Group::Set, "Sets"),
    (Group::SortedSet, "Sorted sets"),
    (Group::Geo, "Geo"),
    (Group::Stream, "Streams"),
    (Group::PubSub, "Publish and subscribe"),
    (Group::Transactions, "Transactions"),
    (Group::Connection, "Connections"),
];

/// Families of which only the server's own is expected to have commands.
const REST: &str = "Server";

/// All commands as Markdown.
pub fn markdown() -> String {
    let registry = Registry::new(commands::FAMILIES);
    let mut all: Vec<&'static Command> = registry.commands().collect();
    all.sort_unstable_by_key(|command| command.name);
    let mut out = INTRODUCTION.to_owned();
    for (group, title) in FAMILIES {
        family(&mut out, title, &registry, all.extract_if(.., |command| command.group == group));
    }
    family(&mut out, REST, &registry, all.drain(..));
    out
}

fn family(
    out: &mut String,
    title: &str,
    registry: &Registry,
    commands: impl Iterator<Item = &'static Command>,
) {
    push(out, format_args!("\n## {title}\n\n"));
    out.push_str("| command | since | flags | complexity | what it does |\n");
    out.push_str("| --- | --- | --- | --- | --- |\n");
    for command in commands {
        let found = registry.find(command.name.as_bytes());
        if command.run.is_some() || found.is_some_and(|found| found.host.is_some()) {
            row(out, command.name, command);
        }
        let mut subs: Vec<&Command> = command.subcommands.iter().collect();
        subs.sort_unstable_by_key(|sub| sub.name);
        for sub in subs.into_iter().filter(|sub| sub.name != "HELP") {
            row(out, &format!("{} {}", command.name, sub.name), sub);
        }
    }
}

fn row(out: &mut String, name: &str, command: &Command) {
    let call = format!("{name} {}", command.syntax);
    push(
        out,
        format_args!(
            "| `{}` | {} | {} | {} | {} |\n",
            cell(call.trim_end()),
            command.since,
            describe::flag_names(command).join(" "),
            cell(command.complexity),
            cell(command.summary)
        ),
    );
}

/// A bar ends a cell, also inside of code.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_documented() {
        let markdown = markdown();
        for command in Registry::new(commands::FAMILIES).commands() {
            assert!(markdown.contains(&format!("| `{}", command.name)), "{}", command.name);
        }
        for line in markdown.lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "no summary: {line}");
        }
    }

    #[test]
    fn the_documentation_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            text == markdown(),
            "write it anew: cargo run -- --print-command-docs > docs/commands.md"
        );
    }
}
