//! The commands, one file a family: table entries and the functions that run them.

use crate::command::Command;

pub mod list;
pub mod list_blocking;
pub mod string;
pub mod syntax;

/// All families. To add a command, add it to its family's `COMMANDS`.
pub const FAMILIES: &[&[Command]] = &[list::COMMANDS, list_blocking::COMMANDS, string::COMMANDS];
