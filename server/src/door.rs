//! How connections come to a worker: accepted from its listeners, entered among its connections.

use crate::clients::Client;
use crate::conn::{Conn, Stream, write_some};
use crate::mailbox::Address;
use crate::session::Session;
use crate::shared::Shared;
use crate::stats::Counter;
use crate::tls::TlsStream;
use crate::worker::{LISTENERS, Listener};
use mio::net::TcpStream;
use mio::{Interest, Poll, Token};
use slab::Slab;
use std::io;
use std::sync::Arc;

/// Connections that are accepted before others get their turn.
const ACCEPTS_MAX: usize = 64;

/// A worker's connections; one that is being served is out of its place.
pub type Conns = Slab<Option<Box<Conn>>>;

/// What it takes to let connections in.
pub struct Door<'a, 'e> {
    /// What all workers share.
    pub shared: &'e Shared,
    /// Number of the worker.
    pub number: usize,
    /// What watches its sockets.
    pub poll: &'a mut Poll,
    /// Its listeners.
    pub listeners: &'a mut [Listener],
    /// Its connections.
    pub conns: &'a mut Conns,
}

impl Door<'_, '_> {
    /// Accepts what waits at a listener; `true` if there was no descriptor left for it, so that it
    /// has to be tried again later: no event tells when there is one.
    pub fn accept(&mut self, nth: usize, now_ms: i64) -> bool {
        for _ in 0..ACCEPTS_MAX {
            let accepted = match &self.listeners[nth] {
                Listener::Tcp(tcp) => tcp.accept().map(|(stream, _)| Stream::Tcp(stream)),
                Listener::Tls(tcp) => tcp.accept().and_then(|(stream, _)| self.encrypted(stream)),
                Listener::Unix(unix) => unix.accept().map(|(stream, _)| Stream::Unix(stream)),
            };
            match accepted {
                Ok(stream) => self.welcome(stream, now_ms),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // A connection that was reset before it was accepted: the next one may be fine.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    return true;
                }
            }
        }
        // Events come only for what is new: look again soon.
        let token = Token(LISTENERS + nth);
        let registry = self.poll.registry();
        let renewed = match &mut self.listeners[nth] {
            Listener::Tcp(tcp) | Listener::Tls(tcp) => {
                registry.reregister(tcp, token, Interest::READABLE)
            }
            Listener::Unix(unix) => registry.reregister(unix, token, Interest::READABLE),
        };
        if let Err(error) = renewed {
            tracing::error!("a listening socket cannot be watched any more: {error}");
        }
        false
    }

    fn encrypted(&self, stream: TcpStream) -> io::Result<Stream> {
        let config = self.shared.tls.config().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Stream::Tls(Box::new(TlsStream::accepted(stream, config)?)))
    }

    /// Enters a connection among those of the worker, unless it is to be refused.
    pub fn welcome(&mut self, mut stream: Stream, now_ms: i64) {
        let (peer, local) = crate::listen::addresses(&stream);
        let stats = self.shared.stats.worker(self.number);
        stats.add(Counter::Connections, 1);
        if let Err(refusal) = crate::listen::admit(self.shared, &stream) {
            stats.add(Counter::RejectedConnections, 1);
            // The socket's buffer is empty: the refusal fits, or the peer is gone already.
            drop(write_some(&mut stream, refusal.as_bytes()));
            return;
        }
        crate::listen::tune(self.shared, &stream);
        let place = self.conns.vacant_entry();
        let address =
            Address { worker: self.number, slot: place.key(), id: self.shared.clients.next_id() };
        let client = Arc::new(Client::new(address, peer, local, stream.fd(), now_ms));
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        if let Err(error) =
            self.poll.registry().register(stream.source(), Token(address.slot), interest)
        {
            tracing::warn!("a connection cannot be watched: {error}");
            self.shared.clients.leave();
            return;
        }
        self.shared.clients.add(client.clone());
        let user = self.shared.acl.default_user();
        let mut session = Session::new(client, user, !self.shared.needs_password());
        session.encrypted = matches!(stream, Stream::Tls(_));
        place.insert(Some(Box::new(Conn::new(stream, session))));
    }
}
