//! An encrypted connection over a socket that does not block: a client's, or one between nodes.
//!
//! rustls keeps no socket: bytes are handed to it and taken from it, which suits loops over a poll.

use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

/// Most bytes that a peer sends until its handshake is done: certificates are a few thousand.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;
/// Most bytes that wait, encrypted, for a socket that takes no more. What is beyond waits in the
/// connection's own backlog, which has its own limits.
const PENDING_BYTES_MAX: usize = 64 << 10;

/// What links between nodes are made with. In both roles a certificate is shown, and asked for.
#[derive(Clone, Debug)]
pub struct Secure {
    /// For connections that are accepted.
    pub accepts: Arc<ServerConfig>,
    /// For connections to others.
    pub dials: Arc<ClientConfig>,
}

/// An encrypted connection.
#[derive(Debug)]
pub struct TlsStream {
    /// The socket below.
    pub tcp: TcpStream,
    tls: Connection,
    /// Bytes that came during the handshake.
    handshake_bytes: usize,
    /// Whether the peer sends nothing more.
    ended: bool,
}

/// Whether the socket has to be waited for; one that is not connected yet, too.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

impl TlsStream {
    /// A connection that was just accepted.
    ///
    /// # Errors
    /// If the configuration does not allow one.
    pub fn accepted(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsStream::over(tcp, tls.into()))
    }

    /// A connection to another server, which need not be connected yet.
    ///
    /// # Errors
    /// If the configuration does not allow one.
    pub fn dialled(tcp: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsStream> {
        // Nobody looks at the name: addresses of nodes change.
        let name = rustls::pki_types::ServerName::try_from("node").map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(TlsStream::over(tcp, tls.into()))
    }

    fn over(tcp: TcpStream, mut tls: Connection) -> TlsStream {
        tls.set_buffer_limit(Some(PENDING_BYTES_MAX));
        TlsStream { tcp, tls, handshake_bytes: 0, ended: false }
    }

    /// The socket, and the state of what is said over it.
    pub fn into_parts(self) -> (TcpStream, Connection) {
        (self.tcp, self.tls)
    }

    /// Whether the peers have not agreed yet.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the peer has shown a certificate, which then is a good one.
    pub fn has_certificate(&self) -> bool {
        self.tls.peer_certificates().is_some_and(|chain| !chain.is_empty())
    }

    /// Whether the last read gave all that there will be.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn has_pending(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends encrypted bytes, as many as the socket takes.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send_pending(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if is_early(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes, if the socket takes it.
    pub fn say_goodbye(&mut self) {
        self.tls.send_close_notify();
        // The connection is closed in any case.
        drop(self.send_pending());
    }

    /// Takes encrypted bytes from the socket; `false` where there are none for now.
    fn receive(&mut self) -> io::Result<bool> {
        let got = match self.tls.read_tls(&mut self.tcp) {
            Ok(got) => got,
            Err(error) if is_early(&error) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.ended |= got == 0;
        let handshaking = self.tls.is_handshaking();
        if let Err(error) = self.tls.process_new_packets() {
            // The alert says why, if it still gets through.
            drop(self.send_pending());
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        if handshaking {
            self.handshake_bytes += got;
            if self.handshake_bytes > HANDSHAKE_BYTES_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "an endless handshake"));
            }
        }
        self.send_pending()?;
        Ok(got != 0)
    }
}

impl Read for TlsStream {
    /// Fills the buffer as far as there is anything, so that less than a full buffer means, as with
    /// a plain socket, that the socket has been emptied.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.tls.reader().read(&mut buf[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(got) => filled += got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.ended || !self.receive()? {
                        break;
                    }
                }
                Err(error) if filled == 0 => return Err(error),
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        if filled == 0 && !self.ended { Err(ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }
}

impl Write for TlsStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let taken = self.tls.writer().write(buf)?;
        self.send_pending()?;
        // A full buffer and a socket that takes nothing.
        if taken == 0 && !buf.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_pending()
    }
}
