//! Why a command stopped: an error that becomes a reply, or nothing to do yet.
//!
//! These are the deterministic kind: the same on every replica, part of the state machine. Faults
//! of the machine (disk, network) never pass through here.

use std::borrow::Cow;
use std::fmt;

/// What a command's run function returns. An `Err` discards what was written to the reply.
pub type CmdResult = Result<(), Stop>;

/// Why a command did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The command is refused; the client gets the error as its reply.
    Error(Error),
    /// A blocking command found nothing to take; it may be run again when a key is ready.
    WouldBlock,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

/// A command error, with the text that Redis gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key holds another type.
    WrongType,
    /// The arguments are not of the form that the command asks for.
    Syntax,
    /// An argument is not a 64-bit integer.
    NotInteger,
    /// An argument is not a number.
    NotFloat,
    /// The key does not exist, where the command needs it.
    NoSuchKey,
    /// An index beyond the ends.
    IndexOutOfRange,
    /// The write would take the server above `maxmemory`.
    OutOfMemory,
    /// Any other text, prefix included.
    Text(Cow<'static, str>),
}

impl Error {
    /// An error with a fixed text, prefix included (`ERR ...`).
    pub const fn text(text: &'static str) -> Error {
        Error::Text(Cow::Borrowed(text))
    }

    /// An error with a text of its own, prefix included. Line breaks go at its ends and become
    /// blanks inside, so that the text cannot break out of its reply.
    pub fn owned(text: String) -> Error {
        if text.contains(['\r', '\n']) {
            let text = text.trim_matches(['\r', '\n']).replace(['\r', '\n'], " ");
            return Error::Text(Cow::Owned(text));
        }
        Error::Text(Cow::Owned(text))
    }

    /// The wrong number of arguments for a command (its full name, in lower case).
    pub fn arity(name: &str) -> Error {
        let name = name.to_ascii_lowercase();
        Error::owned(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// The text of the reply, prefix included.
    pub fn message(&self) -> &str {
        match self {
            Error::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Error::Syntax => "ERR syntax error",
            Error::NotInteger => "ERR value is not an integer or out of range",
            Error::NotFloat => "ERR value is not a valid float",
            Error::NoSuchKey => "ERR no such key",
            Error::IndexOutOfRange => "ERR index out of range",
            Error::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Error::Text(text) => text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}
