//! Runs the golden scripts of the engine's commands, and fails for a command that has none.
//!
//! `UPDATE_GOLDEN=1` writes the replies that come into the scripts; review the diff.

use ashlar_engine::command::Flags;
use ashlar_engine::engine::{EngineOptions, command_table};
use ashlar_tests::golden::run_all;
use ashlar_tests::host::InProcess;
use ashlar_tests::process::workspace;

#[test]
fn scripts_hold_and_every_command_has_one() {
    let dir = workspace().join("engine/tests/golden");
    let mut host = InProcess::new(EngineOptions::default());
    let (commands, failures) = run_all(&dir, &mut host).expect("the scripts can be read");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let mut missing = Vec::new();
    for command in command_table().all() {
        if command.flags.contains(Flags::INTERNAL) {
            continue;
        }
        let subcommands = command.subcommands.iter().filter(|sub| sub.run.is_some());
        let subcommands = subcommands.map(|sub| format!("{} {}", command.name, sub.name));
        let own = command.run.map(|_| command.name.to_owned());
        missing.extend(own.into_iter().chain(subcommands).filter(|name| !commands.contains(name)));
    }
    assert!(missing.is_empty(), "no golden script in {} has {}", dir.display(), missing.join(", "));
}
