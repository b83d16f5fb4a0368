//! The client's side of Redis's replication protocol: asks a server for a copy and the stream.

use super::NATIVE;
use super::socket::Socket;
use crate::config::Id;
use crate::shared::Shared;
use crate::tls::Arguments;
use ashlar_engine::propagate::push_request;
use rustls::ClientConfig;
use socket2::{Domain, Socket as Socket2, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Longest line of an answer.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the mark behind a copy that comes without its length.
pub const MARK_BYTES: usize = 40;

/// A connection to a server.
pub struct Link {
    stream: Socket,
    buf: Vec<u8>,
    at: usize,
}

/// What the server answers to PSYNC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A copy comes, then the stream of this name from this offset on.
    Full(Vec<u8>, i64),
    /// The stream goes on where it was asked for, under a new name if there is one.
    Continue(Option<Vec<u8>>),
}

/// How the end of a copy is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It has this many bytes.
    Bytes(u64),
    /// These bytes follow.
    Mark(Vec<u8>),
}

/// Who one is to a server that asks for a password.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The user's name; empty for the default user.
    pub user: String,
    /// The password; empty for none.
    pub password: String,
}

fn refused(answer: &[u8]) -> io::Error {
    io::Error::other(String::from_utf8_lossy(answer).into_owned())
}

/// Connects to an address, from a certain one of this machine if it can.
fn open(to: SocketAddr, from: Option<IpAddr>, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket2::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
        // As far as it goes, like Redis: the address may have left this machine.
        drop(socket.bind(&SocketAddr::new(from, 0).into()));
    }
    socket.connect_timeout(&to.into(), timeout)?;
    Ok(socket.into())
}

/// A socket of the server, whose timeouts are set.
fn reach(host: &str, port: u16, from: Option<IpAddr>, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match open(address, from, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Link {
    /// Connects as the command line says.
    ///
    /// # Errors
    /// If the server can't be reached, or has no certificate that is good.
    pub fn for_command(
        host: &str,
        port: u16,
        timeout: Duration,
        tls: &Arguments,
    ) -> io::Result<Link> {
        match tls.config().map_err(io::Error::other)? {
            Some(config) => Link::encrypted(reach(host, port, None, timeout)?, timeout, config),
            None => Ok(Link::over(Socket::Tcp(reach(host, port, None, timeout)?))),
        }
    }

    /// Connects to a server of the same data, by TLS if the setting `encrypts` says so.
    ///
    /// # Errors
    /// If the server can't be reached, or has no certificate that is good.
    pub fn to_peer(
        shared: &Shared,
        encrypts: Id,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> io::Result<Link> {
        let tcp = reach(host, port, shared.settings.source(), timeout)?;
        if !shared.settings.flag(encrypts) {
            return Ok(Link::over(Socket::Tcp(tcp)));
        }
        let config = shared.tls.client_config();
        let config = config.ok_or_else(|| io::Error::other("there is no certificate for TLS"))?;
        Link::encrypted(tcp, timeout, config)
    }

    /// Makes a connection one by TLS.
    fn encrypted(tcp: TcpStream, timeout: Duration, config: Arc<ClientConfig>) -> io::Result<Link> {
        let plain = Socket::Unix(crate::tls::encrypt(tcp, config)?);
        plain.set_read_timeout(timeout)?;
        plain.set_write_timeout(timeout)?;
        Ok(Link::over(plain))
    }

    fn over(stream: Socket) -> Link {
        Link { stream, buf: Vec::new(), at: 0 }
    }

    /// The socket.
    pub fn stream(&self) -> &Socket {
        &self.stream
    }

    /// The same, to write to.
    pub fn stream_mut(&mut self) -> &mut Socket {
        &mut self.stream
    }

    /// Sends a command.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send(&mut self, args: &[&[u8]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        push_request(args, &mut bytes);
        self.stream.write_all(&bytes)
    }

    /// Sends a command and returns its answer of one line; an error of the server is one.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn call(&mut self, args: &[&[u8]]) -> io::Result<Vec<u8>> {
        self.send(args)?;
        self.line()
    }

    /// The same, where an error of the server counts as a failure.
    ///
    /// # Errors
    /// If the connection is broken or the server refuses.
    pub fn demand(&mut self, args: &[&[u8]]) -> io::Result<Vec<u8>> {
        match self.call(args)? {
            answer if answer.starts_with(b"-") => Err(refused(&answer)),
            answer => Ok(answer),
        }
    }

    /// A line without its end. Empty lines are signs of life and passed over.
    ///
    /// # Errors
    /// If the connection is broken or no line comes.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(len) = memchr::memchr(b'\n', &self.buf[self.at..]) {
                let line = &self.buf[self.at..self.at + len];
                let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
                self.at += len + 1;
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            if self.buf.len() - self.at > LINE_BYTES_MAX {
                return Err(io::Error::other("the answer is no line"));
            }
            self.fill()?;
        }
    }

    /// Reads some more bytes into the buffer.
    ///
    /// # Errors
    /// If the connection is broken, or has nothing until its timeout.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.buf.drain(..self.at);
        self.at = 0;
        let len = self.buf.len();
        self.buf.resize(len + READ_BYTES, 0);
        let got = self.stream.read(&mut self.buf[len..]);
        self.buf.truncate(len + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            got => got,
        }
    }

    /// What was read and not used.
    pub fn buffered(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// The first `count` bytes of [`Link::buffered`] are used up.
    pub fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.buf.len());
    }

    /// Takes the buffer out, and says how much of it is used; [`Link::put_back`] is to follow. Nothing in it moves:
    /// there may be many frames behind the one that is looked at.
    pub fn take_buffered(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.buf), std::mem::take(&mut self.at))
    }

    /// The opposite, of which the first `used` bytes are used up.
    pub fn put_back(&mut self, buffered: Vec<u8>, used: usize) {
        (self.buf, self.at) = (buffered, used);
    }

    /// Puts bytes back in front.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.buf.splice(..self.at, bytes.iter().copied());
        self.at = 0;
    }

    /// Introduces itself, which has to come before [`Link::ask`]. Says whether the server is a node of
    /// ashlar that replicates as such.
    ///
    /// # Errors
    /// If the connection is broken or the server lets nobody in.
    pub fn introduce(&mut self, credentials: &Credentials, port: u16) -> io::Result<bool> {
        self.log_in(credentials)?;
        // A server that does not know one of these goes on without.
        self.call(&[b"REPLCONF", b"listening-port", port.to_string().as_bytes()])?;
        let capa: [&[u8]; 7] = [b"REPLCONF", b"capa", b"eof", b"capa", b"psync2", b"capa", NATIVE];
        let answer = self.call(&capa)?;
        Ok(answer.get(1..) == Some(super::ship::SPOKEN.as_bytes()))
    }

    /// Sees whether the server answers, and logs in where there is a password.
    ///
    /// # Errors
    /// If the connection is broken or the server lets nobody in.
    pub fn log_in(&mut self, credentials: &Credentials) -> io::Result<()> {
        let pong = self.call(&[b"PING"])?;
        if pong.starts_with(b"-") && !pong.starts_with(b"-NOAUTH") && !pong.starts_with(b"-NOPERM")
        {
            return Err(refused(&pong));
        }
        let (user, password) = (credentials.user.as_bytes(), credentials.password.as_bytes());
        if !user.is_empty() {
            self.demand(&[b"AUTH", user, password])?;
        } else if !password.is_empty() {
            self.demand(&[b"AUTH", password])?;
        }
        Ok(())
    }

    /// Asks for the stream `replid` from `offset` on, or for a copy.
    ///
    /// # Errors
    /// If the connection is broken or the server refuses.
    pub fn ask(&mut self, replid: &[u8], offset: i64) -> io::Result<Answer> {
        let answer = self.demand(&[b"PSYNC", replid, offset.to_string().as_bytes()])?;
        let words: Vec<&[u8]> = answer.split(|byte| *byte == b' ').collect();
        match words[..] {
            [b"+FULLRESYNC", replid, offset] => {
                let offset = ashlar_engine::number::parse_i64(offset);
                let offset = offset.ok_or_else(|| refused(&answer))?;
                Ok(Answer::Full(replid.to_vec(), offset))
            }
            [b"+CONTINUE", replid] => Ok(Answer::Continue(Some(replid.to_vec()))),
            [b"+CONTINUE"] => Ok(Answer::Continue(None)),
            _ => Err(refused(&answer)),
        }
    }

    /// How long the copy is that comes next.
    ///
    /// # Errors
    /// If the connection is broken or something else comes.
    pub fn extent(&mut self) -> io::Result<Extent> {
        let line = self.line()?;
        if let Some(mark) = line.strip_prefix(b"$EOF:").filter(|mark| mark.len() == MARK_BYTES) {
            return Ok(Extent::Mark(mark.to_vec()));
        }
        let len = line.strip_prefix(b"$").and_then(ashlar_engine::number::parse_i64);
        match len.and_then(|len| u64::try_from(len).ok()) {
            Some(len) => Ok(Extent::Bytes(len)),
            None => Err(refused(&line)),
        }
    }

    /// Reads the mark behind a copy.
    ///
    /// # Errors
    /// If the connection is broken or other bytes come.
    pub fn expect_mark(&mut self, mark: &[u8]) -> io::Result<()> {
        let mut found = vec![0; mark.len()];
        self.read_exact(&mut found)?;
        if found == mark { Ok(()) } else { Err(io::Error::other("no end behind the copy")) }
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let waiting = self.buffered();
        if waiting.is_empty() {
            return self.stream.read(buf);
        }
        let count = waiting.len().min(buf.len());
        buf[..count].copy_from_slice(&waiting[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Names no stream: what is asked for by somebody who has nothing yet.
pub const UNKNOWN: &[u8] = b"?";
