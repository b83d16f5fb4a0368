//! What every way to call the engine has in common: a command goes in, a reply comes out.

use super::value::ReplyValue;
use crate::command::{Command, Flags};
use crate::engine::command_table;
use crate::error::Error;

/// Bytes of an unknown command's arguments that its error shows, as in Redis.
const SHOWN_MAX: usize = 128;

/// Runs commands: a [`Store`](super::Store) or a transaction.
///
/// The typed methods are in traits of their own, one a family, that everything with this trait has.
pub trait Call {
    /// Runs one command; `args[0]` is its name. Commands, arguments and errors are those of Redis.
    ///
    /// ```
    /// use ashlar_engine::prelude::*;
    ///
    /// let store = Store::in_memory();
    /// store.call(&[b"RPUSH", b"queue", b"a", b"b"])?;
    /// let reply = store.call(&[b"LRANGE", b"queue", b"0", b"-1"])?;
    /// assert_eq!(reply.into_strings()?, [b"a", b"b"]);
    /// # Ok::<(), ashlar_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// The error that Redis would reply. Commands that concern connections (SUBSCRIBE, CLIENT, ..)
    /// are unknown here, and blocking ones do not block.
    fn call(&self, args: &[&[u8]]) -> Result<ReplyValue, Error>;
}

impl<C: Call + ?Sized> Call for &C {
    fn call(&self, args: &[&[u8]]) -> Result<ReplyValue, Error> {
        (**self).call(args)
    }
}

/// The command that a call is of, where the engine has it and the number of arguments is right.
pub(super) fn resolve(args: &[&[u8]]) -> Result<&'static Command, Error> {
    let name = args.first().copied().unwrap_or_default();
    let command = match command_table().find(name) {
        Some((_, command)) if !command.flags.contains(Flags::INTERNAL) => command,
        _ => return Err(unknown(name, args)),
    };
    let Some(sub) = args.get(1).filter(|_| !command.subcommands.is_empty()) else {
        return if command.run.is_some() && command.accepts(args.len()) {
            Ok(command)
        } else {
            Err(Error::arity(command.name))
        };
    };
    match command.subcommand(sub) {
        Some(sub) if sub.run.is_none() => Err(unknown(name, args)),
        Some(sub) if sub.accepts(args.len()) => Ok(sub),
        Some(sub) => Err(Error::arity(&format!("{}|{}", command.name, sub.name))),
        None if command.run.is_some() && command.accepts(args.len()) => Ok(command),
        None => {
            let text = format!("unknown subcommand '{}'. Try {} HELP.", show(sub), command.name);
            Err(Error::owned(format!("ERR {text}")))
        }
    }
}

fn show(arg: &[u8]) -> String {
    String::from_utf8_lossy(arg.get(..SHOWN_MAX).unwrap_or(arg)).into_owned()
}

fn unknown(name: &[u8], args: &[&[u8]]) -> Error {
    let mut shown = String::new();
    for arg in args.iter().skip(1) {
        if shown.len() >= SHOWN_MAX {
            break;
        }
        shown.push_str(&format!("'{}' ", show(arg)));
    }
    let name = show(name);
    Error::owned(format!("ERR unknown command '{name}', with args beginning with: {shown}"))
}
