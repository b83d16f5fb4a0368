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
    /// Values or names that it needs are on disk: nothing was changed, it is run again with them.
    Cold,
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
    /// Any other text, prefix included. Bytes, since it may quote arguments.
    Text(Cow<'static, [u8]>),
}

impl Error {
    /// An error with a fixed text, prefix included (`ERR ...`).
    pub const fn text(text: &'static str) -> Error {
        Error::Text(Cow::Borrowed(text.as_bytes()))
    }

    /// An error with a text of its own, prefix included. Line breaks go at its ends and become
    /// blanks inside, so that the text cannot break out of its reply.
    pub fn owned(text: String) -> Error {
        Error::from_bytes(text.into_bytes())
    }

    /// An error that quotes arguments: each `{}` of `form` is the next of `args`, byte for byte. As
    /// in Redis, which prints them as C strings, an argument ends at its first zero byte.
    pub fn quoting(form: &'static str, args: &[&[u8]]) -> Error {
        let mut args = args.iter();
        let mut parts = form.split("{}");
        let mut text = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let arg = args.next().copied().unwrap_or_default();
            text.extend(arg.iter().take_while(|byte| **byte != 0));
            text.extend_from_slice(part.as_bytes());
        }
        Error::from_bytes(text)
    }

    /// The same as [`Error::owned`] for a text that need not be UTF-8.
    pub fn from_bytes(mut text: Vec<u8>) -> Error {
        let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
        while text.last().is_some_and(is_break) {
            text.pop();
        }
        let start = text.iter().take_while(|byte| is_break(byte)).count();
        text.drain(..start);
        text.iter_mut().filter(|byte| is_break(byte)).for_each(|byte| *byte = b' ');
        Error::Text(Cow::Owned(text))
    }

    /// The wrong number of arguments for a command (its full name, in lower case).
    pub fn arity(name: &str) -> Error {
        let name = name.to_ascii_lowercase();
        Error::owned(format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// The text of the reply, prefix included; what of it is no UTF-8 is replaced.
    pub fn message(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }

    /// The text of the reply as it is sent, prefix included.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Error::WrongType => {
                b"WRONGTYPE Operation against a key holding the wrong kind of value"
            }
            Error::Syntax => b"ERR syntax error",
            Error::NotInteger => b"ERR value is not an integer or out of range",
            Error::NotFloat => b"ERR value is not a valid float",
            Error::NoSuchKey => b"ERR no such key",
            Error::IndexOutOfRange => b"ERR index out of range",
            Error::OutOfMemory => b"OOM command not allowed when used memory > 'maxmemory'.",
            Error::Text(text) => text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_byte_for_byte() {
        let error = Error::quoting("ERR no '{}' in '{}'", &[b"a\xff\r\nb", b"x\0y"]);
        assert_eq!(error.bytes(), b"ERR no 'a\xff  b' in 'x'");
        assert_eq!(error.message(), "ERR no 'a\u{fffd}  b' in 'x'");
        assert_eq!(Error::owned("\nERR a\r\n".into()).bytes(), b"ERR a");
    }
}
