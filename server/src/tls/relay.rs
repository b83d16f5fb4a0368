//! The plain end of an encrypted connection, for threads whose sockets block.
//!
//! A replica and its primary each read and write their socket on two threads, and both wait there. A
//! TLS connection is one state for both directions, so it has a thread of its own: it hands what
//! comes, decrypted, to one end of a socket pair, and sends what is written there.

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustls::Connection;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net;
use std::time::Duration;

/// Bytes that are taken from the plain end at a time, and only once those before them were sent.
const TAKE_BYTES: usize = 64 << 10;
/// How long the peer may take for the last bytes once the plain end is closed.
const GOODBYE: Duration = Duration::from_secs(5);

/// Starts the thread of a connection whose handshake is done; returns the plain end. Either end closes
/// with the other.
///
/// # Errors
/// If there are no descriptors or threads left.
pub(super) fn start(
    tcp: std::net::TcpStream,
    mut tls: Connection,
    peer: String,
) -> io::Result<net::UnixStream> {
    let (ours, theirs) = net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    tls.set_buffer_limit(None);
    let mut relay = Relay {
        tcp: TcpStream::from_std(tcp),
        tls,
        plain: UnixStream::from_std(ours),
        inward: Vec::new(),
        handed: 0,
        chunk: vec![0; TAKE_BYTES],
        peer_ended: false,
        owner_ended: false,
    };
    let poll = Poll::new()?;
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut relay.tcp, Token(0), both)?;
    poll.registry().register(&mut relay.plain, Token(1), both)?;
    let work = move || {
        if let Err(error) = relay.run(poll) {
            tracing::warn!("the encrypted connection with {peer} ends: {error}");
        }
    };
    std::thread::Builder::new().name("ashlar-tls".into()).spawn(work)?;
    Ok(theirs)
}

struct Relay {
    tcp: TcpStream,
    tls: Connection,
    plain: UnixStream,
    /// Decrypted bytes, of which `handed` were taken by the plain end. No more are read from the
    /// socket while there are any, so they are what one read gives.
    inward: Vec<u8>,
    handed: usize,
    chunk: Vec<u8>,
    peer_ended: bool,
    owner_ended: bool,
}

/// Whether something was done; `false` where the socket has to be waited for.
fn done(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Relay {
    fn run(&mut self, mut poll: Poll) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        loop {
            while self.step()? {}
            let sent = self.owner_ended && !self.tls.wants_write();
            if sent || (self.peer_ended && self.handed == self.inward.len()) {
                return Ok(());
            }
            let patience = self.owner_ended.then_some(GOODBYE);
            match poll.poll(&mut events, patience) {
                Ok(()) if events.is_empty() && self.owner_ended => return Ok(()),
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what can be moved; says whether that was anything. Events come once for each change, so
    /// nobody waits for one before there is nothing left to do.
    fn step(&mut self) -> io::Result<bool> {
        let inward = self.receive()? | self.hand_in()?;
        Ok(inward | self.take_out()? | self.send()?)
    }

    /// Decrypts what has come, unless there is something that the plain end has not taken.
    fn receive(&mut self) -> io::Result<bool> {
        if self.handed < self.inward.len() || self.peer_ended || self.owner_ended {
            return Ok(false);
        }
        self.inward.clear();
        self.handed = 0;
        // What came during the handshake is here before anything is read.
        self.decrypted()?;
        if !self.inward.is_empty() || self.peer_ended {
            return Ok(true);
        }
        match done(self.tls.read_tls(&mut self.tcp)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
            Ok(None) => Ok(false),
            Ok(Some(got)) => {
                self.peer_ended |= got == 0;
                if let Err(error) = self.tls.process_new_packets() {
                    // The alert says why, if it still gets through.
                    drop(self.send());
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
                self.decrypted()?;
                Ok(true)
            }
        }
    }

    fn decrypted(&mut self) -> io::Result<()> {
        match self.tls.reader().read_to_end(&mut self.inward) {
            Ok(_) => self.peer_ended = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The peer has closed without a word, as processes do that are killed.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.peer_ended = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn hand_in(&mut self) -> io::Result<bool> {
        let waiting = &self.inward[self.handed..];
        if waiting.is_empty() || self.owner_ended {
            return Ok(false);
        }
        match done(self.plain.write(waiting)) {
            Ok(None) => Ok(false),
            Ok(Some(count)) => {
                self.handed += count;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            // Nobody reads any more.
            Err(_) => Ok(self.goodbye()),
        }
    }

    fn take_out(&mut self) -> io::Result<bool> {
        if self.owner_ended || self.tls.wants_write() {
            return Ok(false);
        }
        match done(self.plain.read(&mut self.chunk)) {
            Ok(None) => Ok(false),
            Ok(Some(0)) => Ok(self.goodbye()),
            Ok(Some(count)) => {
                self.tls.writer().write_all(&self.chunk[..count])?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Ok(self.goodbye()),
        }
    }

    fn goodbye(&mut self) -> bool {
        self.owner_ended = true;
        self.tls.send_close_notify();
        true
    }

    fn send(&mut self) -> io::Result<bool> {
        if !self.tls.wants_write() {
            return Ok(false);
        }
        match done(self.tls.write_tls(&mut self.tcp)) {
            Ok(None) => Ok(false),
            Ok(Some(0)) => Err(ErrorKind::WriteZero.into()),
            Ok(Some(_)) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}
