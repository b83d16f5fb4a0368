//! A connection to another node, plain or encrypted, whose socket does not block.

use crate::tls::{Secure, TlsStream};
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// How the links between nodes are protected. It is asked at each new one, so certificates and settings
/// may change while the node runs.
pub trait Security: Send {
    /// What new links are made with; `None` where they are plain.
    fn secure(&self) -> Option<Secure>;
    /// The address of this machine that new links are made from; `None` where the system chooses it.
    fn source(&self) -> Option<IpAddr>;
    /// Somebody was refused, or has refused this node.
    fn refused(&self, peer: SocketAddr, why: &str);
}

/// A connection of either kind.
pub(super) enum Channel {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Channel {
    /// One that was accepted.
    pub fn accepted(tcp: TcpStream, secure: Option<Secure>) -> io::Result<Channel> {
        Ok(match secure {
            None => Channel::Plain(tcp),
            Some(secure) => Channel::Tls(Box::new(TlsStream::accepted(tcp, secure.accepts)?)),
        })
    }

    /// One that this node has begun.
    pub fn dialled(tcp: TcpStream, secure: Option<Secure>) -> io::Result<Channel> {
        Ok(match secure {
            None => Channel::Plain(tcp),
            Some(secure) => Channel::Tls(Box::new(TlsStream::dialled(tcp, secure.dials)?)),
        })
    }

    /// The socket.
    pub fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Channel::Plain(tcp) => tcp,
            Channel::Tls(tls) => &mut tls.tcp,
        }
    }

    /// Whether nothing more comes, which no event will tell.
    pub fn is_ended(&self) -> bool {
        matches!(self, Channel::Tls(tls) if tls.is_ended())
    }

    /// Whether it is encrypted.
    pub fn is_secure(&self) -> bool {
        matches!(self, Channel::Tls(_))
    }
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(tcp) => tcp.read(buf),
            Channel::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(tcp) => tcp.write(buf),
            Channel::Tls(tls) => tls.write(buf),
        }
    }

    /// Sends what is encrypted already.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Channel::Plain(_) => Ok(()),
            Channel::Tls(tls) => tls.flush(),
        }
    }
}
