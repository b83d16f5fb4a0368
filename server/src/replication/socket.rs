//! The socket of a link to another server, whose reads and writes wait.

use crate::conn::Stream;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A socket of either kind.
#[derive(Debug)]
pub enum Socket {
    /// TCP
    Tcp(std::net::TcpStream),
    /// Unix domain; also the plain end of an encrypted connection.
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// The socket of a connection that its worker gives away.
    ///
    /// # Errors
    /// If it is encrypted and there is no thread for it.
    pub fn of(stream: Stream) -> io::Result<Socket> {
        Ok(match stream {
            Stream::Tcp(stream) => Socket::Tcp(OwnedFd::from(stream).into()),
            Stream::Unix(stream) => Socket::Unix(OwnedFd::from(stream).into()),
            Stream::Tls(stream) => Socket::Unix(crate::tls::into_plain(*stream)?),
        })
    }

    /// Lets reads and writes wait, writes for so long.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn prepare(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_nonblocking(false)?,
            Socket::Unix(stream) => stream.set_nonblocking(false)?,
        }
        self.set_write_timeout(timeout)
    }

    /// How long a write waits.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            Socket::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }

    /// How long a read waits.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Socket::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
        })
    }

    /// Ends both directions, for all who have the socket.
    pub fn shutdown(&self) {
        // It may be closed already.
        drop(match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
        });
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buf),
            Socket::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(buf),
            Socket::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
