//! A connection to a server of the same process, for programs that embed one without any listening
//! socket.
//!
//! It is one end of a pair of sockets whose other end a worker serves like every connection. So
//! sessions, MULTI, blocking commands, publish and subscribe, limits and CLIENT LIST are exactly what
//! clients from outside have, and there is one path of a request to test. A call costs the system
//! calls of a local socket; where only data is wanted, `Server::engine` runs calls without them.

use crate::mailbox::Message;
use crate::shared::Shared;
use ashlar_engine::embedded::ReplyValue;
use ashlar_engine::error::Error;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes that are read from the server at a time.
const READ_BYTES: usize = 64 * 1024;

/// Why a call gave no reply.
#[derive(Debug)]
pub enum CallError {
    /// The command was refused, or failed.
    Command(Error),
    /// The server has closed the connection, or stopped.
    Connection(io::Error),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> CallError {
        CallError::Connection(error)
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Command(error) => error.fmt(f),
            CallError::Connection(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

/// A client inside the process of its server, made by `Server::connect`. It speaks RESP3. Commands
/// that answer without end (MONITOR) or not at all (CLIENT REPLY OFF) are not for it.
#[derive(Debug)]
pub struct LocalClient {
    stream: UnixStream,
    input: Vec<u8>,
    /// Messages that came between replies.
    messages: VecDeque<Vec<ReplyValue>>,
}

/// Connects to the workers of `shared`, one after the other.
///
/// # Errors
/// If the system gives no descriptors, or the server refuses the connection.
pub(crate) fn connect(shared: &Shared) -> io::Result<LocalClient> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let nth = shared.adopted.fetch_add(1, Ordering::Relaxed) as usize % shared.mailboxes.len();
    shared.mailboxes[nth].post(Message::Adopt(mio::net::UnixStream::from_std(theirs)));
    let mut client = LocalClient { stream: ours, input: Vec::new(), messages: VecDeque::new() };
    match client.call(&[b"HELLO", b"3"]) {
        Ok(_) => Ok(client),
        Err(CallError::Connection(error)) => Err(error),
        // Before AUTH; the protocol is chosen by HELLO 3 AUTH then.
        Err(CallError::Command(error)) if error.bytes().starts_with(b"NOAUTH") => Ok(client),
        Err(CallError::Command(error)) => Err(io::Error::other(error)),
    }
}

impl LocalClient {
    /// Runs a command and waits for its reply. For SUBSCRIBE and its like, which are confirmed by
    /// messages, that is [`ReplyValue::Nil`]; they cannot be queued in a transaction this way.
    ///
    /// # Errors
    /// The command's error, or that of a connection that was closed.
    pub fn call(&mut self, args: &[&[u8]]) -> Result<ReplyValue, CallError> {
        let name = args.first().copied().unwrap_or_default().to_ascii_lowercase();
        if name.ends_with(b"subscribe") {
            return self.subscribe(&name, args);
        }
        let mut replies = self.pipeline(&[args])?;
        match replies.pop() {
            Some(ReplyValue::Error(error)) => Err(CallError::Command(error)),
            Some(reply) => Ok(reply),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Runs commands, sent together, and waits for all replies; errors are among them.
    ///
    /// # Errors
    /// If the connection was closed.
    pub fn pipeline(&mut self, calls: &[&[&[u8]]]) -> io::Result<Vec<ReplyValue>> {
        self.send(calls)?;
        let mut replies = Vec::with_capacity(calls.len());
        while replies.len() < calls.len() {
            match self.next_value()? {
                (true, message) => self.messages.extend(parts(message)),
                (false, reply) => replies.push(reply),
            }
        }
        Ok(replies)
    }

    /// The next message of a channel, in the parts that a push of RESP3 has: `message`, the channel
    /// and the payload. `None` where none comes in time; no timeout waits for ever.
    ///
    /// # Errors
    /// If the connection was closed, or the timeout is zero.
    pub fn message(&mut self, timeout: Option<Duration>) -> io::Result<Option<Vec<ReplyValue>>> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(Some(message));
        }
        self.stream.set_read_timeout(timeout)?;
        let value = self.next_value();
        self.stream.set_read_timeout(None)?;
        match value {
            Ok((_, message)) => Ok(parts(message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The socket, for a client library that takes one. It speaks RESP3 by now.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    fn subscribe(&mut self, name: &[u8], args: &[&[u8]]) -> Result<ReplyValue, CallError> {
        // What confirms it has no reply; that of the PING says that all of it has come.
        self.send(&[args, &[b"PING"]])?;
        loop {
            match self.next_value()? {
                (true, message) => {
                    let message = parts(message)
                        .filter(|parts| parts.first() != Some(&ReplyValue::Bytes(name.to_vec())));
                    self.messages.extend(message);
                }
                (false, ReplyValue::Error(error)) => {
                    // The PING's reply follows.
                    self.next_value()?;
                    return Err(CallError::Command(error));
                }
                (false, _) => return Ok(ReplyValue::Nil),
            }
        }
    }

    fn send(&mut self, calls: &[&[&[u8]]]) -> io::Result<()> {
        let mut out = Vec::new();
        for args in calls {
            out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
            for arg in *args {
                out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                out.extend_from_slice(arg);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.stream.write_all(&out)
    }

    /// The next reply or message, and whether it is a message.
    fn next_value(&mut self) -> io::Result<(bool, ReplyValue)> {
        let mut look_at = 1;
        loop {
            if self.input.len() >= look_at {
                if let Some((value, used)) = ReplyValue::take(&self.input) {
                    let is_message = self.input.first() == Some(&b'>');
                    self.input.drain(..used);
                    return Ok((is_message, value));
                }
                // A large reply is not read again from its start with every piece of it.
                look_at = self.input.len() + self.input.len() / 4;
            }
            let start = self.input.len();
            self.input.resize(start + READ_BYTES, 0);
            let got = self.stream.read(&mut self.input[start..]);
            self.input.truncate(start + *got.as_ref().unwrap_or(&0));
            match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Most likely the end of it.
                Ok(got) if got < READ_BYTES => look_at = 1,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn parts(message: ReplyValue) -> Option<Vec<ReplyValue>> {
    match message {
        ReplyValue::Array(parts) => Some(parts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use crate::config::{Source, load};

    fn server(flags: &[&str]) -> Server {
        let flags = flags.iter().chain(&["--save", ""]);
        let flags = flags.map(|flag| flag.as_bytes().to_vec()).collect();
        Server::start(load(&[Source::Flags(flags)]).unwrap()).unwrap()
    }

    fn bytes(text: &str) -> ReplyValue {
        ReplyValue::Bytes(text.into())
    }

    #[test]
    fn sessions_transactions_blocking_and_channels_work_without_a_listener() {
        let server = server(&["--port", "0", "--io-threads", "2"]);
        let (mut one, mut two) = (server.connect().unwrap(), server.connect().unwrap());

        one.call(&[b"SELECT", b"3"]).unwrap();
        one.call(&[b"SET", b"k", &vec![b'x'; 300_000]]).unwrap();
        assert_eq!(two.call(&[b"EXISTS", b"k"]).unwrap(), ReplyValue::Int(0));
        assert_eq!(one.call(&[b"GET", b"k"]).unwrap(), bytes(&"x".repeat(300_000)));

        one.call(&[b"MULTI"]).unwrap();
        one.call(&[b"INCR", b"n"]).unwrap();
        let done = one.call(&[b"EXEC"]).unwrap();
        assert_eq!(done, ReplyValue::Array(vec![ReplyValue::Int(1)]));
        assert!(matches!(one.call(&[b"EXEC"]), Err(CallError::Command(_))));

        let waits = std::thread::spawn(move || {
            let popped = two.call(&[b"BLPOP", b"jobs", b"0"]).unwrap();
            (two, popped)
        });
        let mut pusher = server.connect().unwrap();
        pusher.call(&[b"RPUSH", b"jobs", b"a"]).unwrap();
        let (mut two, popped) = waits.join().unwrap();
        assert_eq!(popped, ReplyValue::Array(vec![bytes("jobs"), bytes("a")]));

        two.call(&[b"SUBSCRIBE", b"news", b"more"]).unwrap();
        pusher.call(&[b"PUBLISH", b"news", b"hello"]).unwrap();
        let message = two.message(None).unwrap().unwrap();
        assert_eq!(message, [bytes("message"), bytes("news"), bytes("hello")]);
        assert_eq!(two.message(Some(Duration::from_millis(1))).unwrap(), None);
        assert!(matches!(two.call(&[b"SUBSCRIBE"]), Err(CallError::Command(_))));
        two.call(&[b"UNSUBSCRIBE"]).unwrap();
        assert_eq!(two.call(&[b"PING"]).unwrap(), ReplyValue::Simple("PONG".into()));

        server.stop();
        server.wait().unwrap();
        assert!(matches!(two.call(&[b"PING"]), Err(CallError::Connection(_))));
    }

    #[test]
    fn a_password_is_asked_for_here_too() {
        let server = server(&["--port", "0", "--requirepass", "secret"]);
        let mut client = server.connect().unwrap();
        assert!(matches!(client.call(&[b"GET", b"k"]), Err(CallError::Command(_))));
        client.call(&[b"HELLO", b"3", b"AUTH", b"default", b"secret"]).unwrap();
        assert_eq!(client.call(&[b"GET", b"k"]).unwrap(), ReplyValue::Nil);
    }
}
