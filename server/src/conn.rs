//! One connection: its socket, its session, and what waits on either side.

use crate::blocking::Waiter;
use crate::replication::primary::Detach;
use crate::resp::decode::Resume;
use crate::session::Session;
use crate::strong::AgreedRead;
use crate::strong::Confirmed;
use crate::tls::TlsStream;
use ashlar_engine::tier::Brought;
use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Most bytes of output a client may leave unread where no `client-output-buffer-limit` says less.
pub const OUTPUT_BYTES_MAX: usize = 1 << 30;
/// Most bytes of output before authentication: there is nothing to read but errors.
pub const OUTPUT_BYTES_MAX_UNAUTHENTICATED: usize = 64 << 10;
/// Most bytes of input that are kept for a client that is blocked or paused.
pub const INPUT_BYTES_MAX_BLOCKED: usize = 1 << 20;

/// A socket of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP
    Tcp(TcpStream),
    /// Unix domain
    Unix(UnixStream),
    /// TCP, encrypted
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Registers, deregisters: the event source.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
            Stream::Tls(stream) => &mut stream.tcp,
        }
    }

    /// The TCP socket, if it is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Tls(stream) => Some(&stream.tcp),
            Stream::Unix(_) => None,
        }
    }

    /// Whether it is an encrypted connection whose peers have not agreed yet.
    pub fn is_handshaking(&self) -> bool {
        matches!(self, Stream::Tls(stream) if stream.is_handshaking())
    }

    /// The encrypted connection, if it is one.
    pub fn tls(&mut self) -> Option<&mut TlsStream> {
        match self {
            Stream::Tls(stream) => Some(stream),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// The file descriptor.
    pub fn fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
            Stream::Tls(stream) => stream.tcp.as_raw_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
            Stream::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
            Stream::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tls(stream) => stream.flush(),
            Stream::Tcp(_) | Stream::Unix(_) => Ok(()),
        }
    }
}

/// Output that the socket did not take yet.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
    /// Since when it has been above the soft limit, Unix milliseconds.
    pub soft_since_ms: Option<i64>,
}

impl Backlog {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the bytes that wait.
    pub fn take(&mut self) -> Vec<u8> {
        let Backlog { bytes, sent, .. } = std::mem::take(self);
        bytes[sent..].to_vec()
    }

    /// Adds bytes at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send(&mut self, stream: &mut Stream) -> io::Result<()> {
        while !self.is_empty() {
            let sent = write_some(stream, &self.bytes[self.sent..])?;
            if sent == 0 {
                break;
            }
            self.sent += sent;
        }
        if self.is_empty() {
            *self = Backlog::default();
        } else if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

/// Writes what the socket takes now; 0 where it takes nothing.
///
/// # Errors
/// If the connection is broken.
pub fn write_some(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => return Ok(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Why a connection does not run its requests at the moment.
#[derive(Debug)]
pub enum Waiting {
    /// A command blocks it; with the time that gives up.
    Blocked(Arc<Waiter>, Option<i64>),
    /// CLIENT PAUSE.
    Paused,
    /// Its commands have filled a worker's mailbox.
    Crowded,
    /// The next request needs something from disk.
    Cold,
    /// The next request needs room in memory.
    Room,
    /// A group of the cluster has to agree.
    Agreement,
}

impl Waiting {
    /// Whether it ends by itself before long, and the request that waits is to be run even though
    /// its client sends nothing more. A client that is blocked or paused and hangs up gives up.
    pub fn is_short(&self) -> bool {
        !matches!(self, Waiting::Blocked(..) | Waiting::Paused)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket.
    pub stream: Stream,
    /// The state that commands see.
    pub session: Session,
    /// Input that is no whole request yet, or that waits.
    pub input: Vec<u8>,
    /// Where the large request at the front of `input` goes on.
    pub resume: Option<Box<Resume>>,
    /// Output that the socket did not take yet.
    pub backlog: Backlog,
    /// Why no request is run at the moment.
    pub waiting: Option<Waiting>,
    /// Whether the backlog waits for the log: nothing is sent or read meanwhile.
    pub held: bool,
    /// The last record that the connection's own calls appended; 0 if there is none.
    pub own_index: u64,
    /// Whether the socket may have more to read: events come only for what is new.
    pub readable: bool,
    /// Whether the peer has said that it sends nothing more: the end is behind what is there to read.
    pub hung_up: bool,
    /// Set once it is to leave the worker and become a replica's.
    pub detach: Option<Detach>,
    /// Whether the connection is closed once the backlog is sent.
    pub closing: bool,
    /// What was read from disk for the next request.
    pub again: Again,
}

/// A request that is run again.
#[derive(Debug, Default)]
pub struct Again {
    /// Whether it is: the next request was begun before.
    pub begun: bool,
    /// What was read for it, and for those behind it.
    pub brought: Brought,
    /// Why it cannot be run.
    pub error: Option<String>,
    /// How often it has been run without having been answered.
    pub tries: u32,
    /// Reads that their group has confirmed.
    pub confirmed: Confirmed,
    /// What the read that runs stands on; looked at again after it.
    pub read: Option<AgreedRead>,
    /// Why the reads are not to be run.
    pub refused: Option<ashlar_engine::error::Error>,
}

impl Again {
    /// A request has been answered: what was confirmed holds for the reads that follow in its group,
    /// the rest was for this one.
    #[inline]
    pub fn answered(&mut self) {
        let marked = self.begun || self.tries != 0 || self.read.is_some();
        if marked || self.error.is_some() || self.refused.is_some() || !self.brought.is_empty() {
            *self = Again { confirmed: self.confirmed, ..Again::default() };
        }
    }
}

impl Conn {
    /// Whether everything is on its way that is to be sent.
    pub fn is_drained(&mut self) -> bool {
        self.backlog.is_empty() && !self.stream.tls().is_some_and(|tls| tls.has_pending())
    }

    /// A connection that was just accepted.
    pub fn new(stream: Stream, session: Session) -> Conn {
        Conn {
            stream,
            session,
            input: Vec::new(),
            resume: None,
            backlog: Backlog::default(),
            waiting: None,
            held: false,
            own_index: 0,
            readable: false,
            hung_up: false,
            detach: None,
            closing: false,
            again: Again::default(),
        }
    }
}
