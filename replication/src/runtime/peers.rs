//! The connections to the other nodes: non-blocking sockets on the node's own thread.
//!
//! They are plain or encrypted, as [`Security`] says when they are made; what is said over them is the same.
//! Encrypted, both sides show a certificate before anything of the greeting is sent.

use super::channel::{Channel, Security};
use super::links::{Incoming, Links, PeerAddress};
use super::wire::{
    self, CHUNK_BYTES, HEADER_BYTES, HELLO_BYTES, Hello, NONCE_BYTES, first_frame, push_frame,
};
use crate::bytes::{Reader, push_bytes, push_u64};
use crate::node::NodeId;
use crate::raft::{GroupId, codec};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use raft::eraftpb::Message;
use slab::Slab;
use socket2::{Domain, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Token of the waker.
const WAKER: Token = Token(usize::MAX);
/// Token of the listener.
const LISTENER: Token = Token(usize::MAX - 1);

/// Bytes that wait for a node at most; further frames are dropped, as if they got lost on the way.
const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Bytes that wait while no more of a snapshot is added.
const BACKLOG_BYTES_SNAPSHOT: usize = 1 << 20;
/// Connections from others at most.
const INBOUND_MAX: usize = 4_096;
/// Bytes of a snapshot at most.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;
/// Microseconds between two tries to reach a node.
const RETRY_US: u64 = 200_000;
/// Microseconds that two nodes may take to greet each other. One of them may wait for what the other never
/// says: if only one encrypts, for instance.
const GREETING_US_MAX: u64 = 10_000_000;
/// Microseconds between two looks for connections that are late, or plain where they no longer may be.
const LOOK_US: u64 = 1_000_000;
/// Events of sockets that one wait brings.
const EVENTS: usize = 1_024;
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

struct OutSnapshot {
    group: GroupId,
    message: Message,
    data: Vec<u8>,
    /// Bytes that are on their way; `None` before the beginning.
    at: Option<usize>,
}

enum Stage {
    /// The acceptor's nonce is awaited.
    Nonce,
    /// Its proof is awaited, which has to be this one.
    Proof([u8; 32]),
    Ready,
}

/// A connection that this node dialled.
struct Link {
    address: PeerAddress,
    stream: Option<Channel>,
    stage: Stage,
    input: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    snapshots: VecDeque<OutSnapshot>,
    retry_at_us: u64,
    /// When the connection was begun.
    since_us: u64,
}

struct InSnapshot {
    group: GroupId,
    message: Box<Message>,
    len: usize,
    data: Vec<u8>,
}

/// A connection that another node dialled.
struct Inbound {
    stream: Channel,
    since_us: u64,
    nonce: [u8; NONCE_BYTES],
    from: Option<NodeId>,
    input: Vec<u8>,
    snapshot: Option<InSnapshot>,
}

/// All connections.
pub struct Peers {
    poll: Poll,
    events: Events,
    registry: Registry,
    listener: Option<TcpListener>,
    secret: Vec<u8>,
    security: Box<dyn Security>,
    looked_us: u64,
    /// The port that this node is reached at.
    port: u16,
    /// This node's number, 0 while it has none.
    me: NodeId,
    /// The cluster's name, zeros while there is none.
    cluster: [u8; 20],
    links: BTreeMap<NodeId, Link>,
    inbound: Slab<Inbound>,
    nonce: Box<dyn FnMut() -> [u8; NONCE_BYTES] + Send>,
    /// When each node was last heard of, microseconds.
    heard_us: BTreeMap<NodeId, u64>,
    buf: Vec<u8>,
    now_us: u64,
}

impl Peers {
    /// Listens on a socket that is bound; `nonce` gives random bytes. The waker ends [`Links::wait`].
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(
        listener: std::net::TcpListener,
        secret: Vec<u8>,
        security: Box<dyn Security>,
        nonce: Box<dyn FnMut() -> [u8; NONCE_BYTES] + Send>,
    ) -> io::Result<(Peers, Waker)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let mut listener = TcpListener::from_std(listener);
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let peers = Peers {
            poll,
            events: Events::with_capacity(EVENTS),
            registry,
            listener: Some(listener),
            secret,
            security,
            looked_us: 0,
            port,
            me: 0,
            cluster: [0; 20],
            links: BTreeMap::new(),
            inbound: Slab::new(),
            nonce,
            heard_us: BTreeMap::new(),
            buf: vec![0; READ_BYTES],
            now_us: 0,
        };
        Ok((peers, waker))
    }

    fn dial(&mut self, node: NodeId) {
        let me = self.me;
        let Some(link) = self.links.get_mut(&node) else { return };
        if link.stream.is_some() || self.now_us < link.retry_at_us || me == 0 {
            return;
        }
        link.retry_at_us = self.now_us + RETRY_US;
        let Some(address) = resolve(&link.address) else { return };
        let Ok(mut stream) = open(address, self.security.source()) else { return };
        drop(stream.set_nodelay(true));
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut stream, link_token(node), interest).is_ok()
            && let Ok(channel) = Channel::dialled(stream, self.security.secure())
        {
            link.stream = Some(channel);
            link.since_us = self.now_us;
            link.stage = Stage::Nonce;
            link.input.clear();
            link.out.clear();
            link.sent = 0;
        }
    }

    fn flush(&mut self, node: NodeId, incoming: &mut Vec<Incoming>) {
        let Some(link) = self.links.get_mut(&node) else { return };
        loop {
            link.feed(incoming);
            let Some(stream) = &mut link.stream else { return };
            if link.sent == link.out.len() {
                if stream.flush().is_err() {
                    break;
                }
                link.out.clear();
                link.sent = 0;
                return;
            }
            match stream.write(&link.out[link.sent..]) {
                Ok(0) => break,
                Ok(sent) => link.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if link.sent > link.out.len() / 2 {
                        link.out.drain(..link.sent);
                        link.sent = 0;
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lose(node, incoming);
    }

    /// A connection that was dialled is broken.
    fn lose(&mut self, node: NodeId, incoming: &mut Vec<Incoming>) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if let Some(mut stream) = link.stream.take() {
            drop(self.registry.deregister(stream.tcp()));
        }
        link.stage = Stage::Nonce;
        link.out.clear();
        link.sent = 0;
        for snapshot in link.snapshots.drain(..) {
            incoming.push(Incoming::SnapshotSent(node, snapshot.group, false));
        }
        incoming.push(Incoming::Unreachable(node));
    }

    /// Something happened to a socket.
    fn event(&mut self, token: Token, now_us: u64, incoming: &mut Vec<Incoming>) {
        self.now_us = now_us;
        match token {
            LISTENER => self.accept(),
            Token(at) if at % 2 == 0 => {
                let node = (at / 2) as NodeId;
                match self.read_link(node) {
                    Ok(()) => self.flush(node, incoming),
                    Err(error) => {
                        self.explain_link(node, &error);
                        self.lose(node, incoming);
                    }
                }
            }
            Token(at) => {
                let at = at / 2;
                if let Err(error) = self.read_inbound(at, incoming) {
                    self.turn_away(at, &error.to_string(), error.kind());
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            let Ok((stream, _)) = listener.accept() else { return };
            if self.inbound.len() >= INBOUND_MAX {
                continue;
            }
            drop(stream.set_nodelay(true));
            let Ok(mut stream) = Channel::accepted(stream, self.security.secure()) else {
                continue;
            };
            let nonce = (self.nonce)();
            // An encrypted one writes to agree on how.
            let interest = match stream.is_secure() {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let entry = self.inbound.vacant_entry();
            let token = Token(entry.key() * 2 + 1);
            // A fresh socket takes 32 bytes.
            let greeted = stream.write(&nonce).is_ok_and(|sent| sent == NONCE_BYTES);
            if greeted && self.registry.register(stream.tcp(), token, interest).is_ok() {
                let (from, input, snapshot) = (None, Vec::new(), None);
                let since_us = self.now_us;
                entry.insert(Inbound { stream, since_us, nonce, from, input, snapshot });
            }
        }
    }

    /// Lets go of a connection that another node dialled.
    fn turn_away(&mut self, at: usize, why: &str, kind: io::ErrorKind) {
        let Some(mut gone) = self.inbound.try_remove(at) else { return };
        let is_stranger = gone.from.is_none() && gone.stream.is_secure();
        if is_stranger
            && matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::TimedOut)
            && let Ok(peer) = gone.stream.tcp().peer_addr()
        {
            self.security.refused(peer, why);
        }
        drop(self.registry.deregister(gone.stream.tcp()));
    }

    /// Tells why a node cannot be reached, if that is a matter of certificates.
    fn explain_link(&mut self, node: NodeId, error: &io::Error) {
        let stream = self.links.get_mut(&node).and_then(|link| link.stream.as_mut());
        if error.kind() == io::ErrorKind::InvalidData
            && let Some(stream) = stream.filter(|stream| stream.is_secure())
            && let Ok(peer) = stream.tcp().peer_addr()
        {
            self.security.refused(peer, &error.to_string());
        }
    }

    /// Ends connections that have not greeted in time, and those that are not what they have to be by now.
    fn look(&mut self, incoming: &mut Vec<Incoming>) {
        let secure = self.security.secure().is_some();
        let now_us = self.now_us;
        let late = |since_us: u64, max_us: u64| now_us.saturating_sub(since_us) > max_us;
        let is_wrong = |stream: &Channel| stream.is_secure() != secure;
        let lost: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                let stream = link.stream.as_ref();
                // Longer than the other one does, who can say what is wrong: see `turn_away`.
                let max_us = GREETING_US_MAX + 2 * LOOK_US;
                let waits = !matches!(link.stage, Stage::Ready) && late(link.since_us, max_us);
                stream.is_some_and(|stream| waits || is_wrong(stream))
            })
            .map(|(node, _)| *node)
            .collect();
        for node in lost {
            self.lose(node, incoming);
        }
        let ended: Vec<usize> = self
            .inbound
            .iter()
            .filter(|(_, one)| {
                let waits = one.from.is_none() && late(one.since_us, GREETING_US_MAX);
                is_wrong(&one.stream) || waits
            })
            .map(|(at, _)| at)
            .collect();
        for at in ended {
            self.turn_away(at, "it does not begin to encrypt", io::ErrorKind::TimedOut);
        }
    }

    fn read_link(&mut self, node: NodeId) -> io::Result<()> {
        let Some(link) = self.links.get_mut(&node) else { return Ok(()) };
        let Some(stream) = &mut link.stream else { return Ok(()) };
        let mut buf = [0; 256];
        loop {
            match stream.read(&mut buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => link.input.extend_from_slice(&buf[..got]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Stage::Nonce = link.stage
            && let Some(their_nonce) = link.input.first_chunk::<NONCE_BYTES>().copied()
        {
            let nonce = (self.nonce)();
            let (cluster, from, port) = (self.cluster, self.me, self.port);
            let hello = Hello { cluster, from, to: node, port, nonce };
            let sent = hello.encode(&self.secret, &their_nonce);
            link.stage = Stage::Proof(Hello::expected(&sent, &self.secret, &their_nonce));
            link.input.drain(..NONCE_BYTES);
            link.out.extend_from_slice(&sent);
        }
        if let Stage::Proof(expected) = &link.stage
            && let Some(theirs) = link.input.first_chunk::<32>()
        {
            if !wire::same(expected, theirs) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            link.input.clear();
            link.stage = Stage::Ready;
        }
        if link.input.len() > 64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    fn read_inbound(&mut self, at: usize, incoming: &mut Vec<Incoming>) -> io::Result<()> {
        if let Some(inbound) = self.inbound.get_mut(at) {
            inbound.stream.flush()?;
        }
        loop {
            let Some(inbound) = self.inbound.get_mut(at) else { return Ok(()) };
            let got = match inbound.stream.read(&mut self.buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            inbound.input.extend_from_slice(&self.buf[..got]);
            if inbound.from.is_none() && !self.greet(at, incoming)? {
                continue;
            }
            let Some(inbound) = self.inbound.get_mut(at) else { return Ok(()) };
            let Some(from) = inbound.from else { continue };
            self.heard_us.insert(from, self.now_us);
            inbound.take_frames(from, incoming)?;
            // Less than there was room for: the socket is empty, and the next bytes bring an event.
            if got < self.buf.len() && !inbound.stream.is_ended() {
                return Ok(());
            }
        }
    }

    /// Looks at a greeting; `false` while it is not all there.
    fn greet(&mut self, at: usize, incoming: &mut Vec<Incoming>) -> io::Result<bool> {
        let inbound = &mut self.inbound[at];
        if inbound.input.len() < HELLO_BYTES {
            return Ok(false);
        }
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let greeting = Hello::decode(&inbound.input[..HELLO_BYTES], &self.secret, &inbound.nonce);
        let (hello, proof) = greeting.map_err(|_| refused())?;
        let meant = self.me == 0 || hello.to == self.me;
        let known = self.cluster == [0; 20] || hello.cluster == self.cluster;
        if !meant || !known || hello.from == 0 || hello.to == 0 {
            return Err(refused());
        }
        inbound.stream.write_all(&proof)?;
        inbound.input.drain(..HELLO_BYTES);
        inbound.from = Some(hello.from);
        incoming.push(Incoming::Hello(hello.to, hello.cluster));
        let host = inbound.stream.tcp().peer_addr()?.ip().to_string();
        // The topology, which comes this way, will tell better.
        let address = PeerAddress { host, port: hello.port };
        self.links.entry(hello.from).or_insert_with(|| Link::new(address));
        // A node that has just been named goes by that name from here on.
        if self.me == 0 {
            (self.me, self.cluster) = (hello.to, hello.cluster);
        }
        Ok(true)
    }
}

impl Links for Peers {
    fn set_identity(&mut self, me: NodeId, cluster: [u8; 20]) {
        (self.me, self.cluster) = (me, cluster);
    }

    fn wait(&mut self, wait: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, now_us: u64, incoming: &mut Vec<Incoming>) {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.event(event.token(), now_us, incoming);
        }
        self.events = events;
    }

    fn set_peers(&mut self, peers: &BTreeMap<NodeId, PeerAddress>) {
        self.links.retain(|node, link| peers.get(node) == Some(&link.address));
        for (node, address) in peers.iter().filter(|(node, _)| **node != self.me) {
            self.links.entry(*node).or_insert_with(|| Link::new(address.clone()));
        }
    }

    fn heard_us(&self, node: NodeId) -> Option<u64> {
        self.heard_us.get(&node).copied()
    }

    fn is_linked(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|link| matches!(link.stage, Stage::Ready))
    }

    fn send(&mut self, node: NodeId, kind: u8, parts: &[&[u8]]) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let waiting = link.out.len() - link.sent + len;
        let fits = len <= wire::FRAME_BYTES_MAX && waiting <= BACKLOG_BYTES_MAX;
        if !matches!(link.stage, Stage::Ready) || !fits {
            return false;
        }
        push_frame(&mut link.out, kind, parts);
        true
    }

    fn send_snapshot(&mut self, group: GroupId, message: Message, data: Vec<u8>) -> bool {
        let Some(link) = self.links.get_mut(&message.to) else { return false };
        if !matches!(link.stage, Stage::Ready) {
            return false;
        }
        link.snapshots.retain(|other| other.group != group || other.at.is_some());
        link.snapshots.push_back(OutSnapshot { group, message, data, at: None });
        true
    }

    fn work(&mut self, now_us: u64, incoming: &mut Vec<Incoming>) {
        self.now_us = now_us;
        if now_us.saturating_sub(self.looked_us) >= LOOK_US {
            self.looked_us = now_us;
            self.look(incoming);
        }
        for node in self.links.keys().copied().collect::<Vec<_>>() {
            self.dial(node);
            self.flush(node, incoming);
        }
    }
}

impl Link {
    fn new(address: PeerAddress) -> Link {
        Link {
            address,
            stream: None,
            stage: Stage::Nonce,
            input: Vec::new(),
            out: Vec::new(),
            sent: 0,
            snapshots: VecDeque::new(),
            retry_at_us: 0,
            since_us: 0,
        }
    }

    /// Adds more of the snapshots that are to be sent, as long as not much waits.
    fn feed(&mut self, incoming: &mut Vec<Incoming>) {
        while self.out.len() - self.sent < BACKLOG_BYTES_SNAPSHOT
            && let Some(snapshot) = self.snapshots.front_mut()
        {
            let Some(at) = snapshot.at else {
                let mut head = snapshot.group.to_le_bytes().to_vec();
                push_u64(&mut head, snapshot.data.len() as u64);
                let mut message = Vec::new();
                codec::push_message(&mut message, &snapshot.message);
                push_bytes(&mut head, &message);
                push_frame(&mut self.out, wire::SNAPSHOT, &[&head]);
                snapshot.at = Some(0);
                continue;
            };
            let end = snapshot.data.len().min(at + CHUNK_BYTES);
            push_frame(&mut self.out, wire::CHUNK, &[&snapshot.data[at..end]]);
            snapshot.at = Some(end);
            if end == snapshot.data.len() {
                let (to, group) = (snapshot.message.to, snapshot.group);
                incoming.push(Incoming::SnapshotSent(to, group, true));
                self.snapshots.pop_front();
            }
        }
    }
}

impl Inbound {
    fn take_frames(&mut self, from: NodeId, incoming: &mut Vec<Incoming>) -> io::Result<()> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let mut at = 0;
        while let Some((kind, payload)) = first_frame(&self.input[at..]).map_err(|_| malformed())? {
            at += HEADER_BYTES + payload.len();
            match kind {
                wire::ALIVE => {}
                wire::SNAPSHOT => {
                    let mut reader = Reader(payload);
                    let mut read = || {
                        let (group, len) = (reader.u32()?, reader.u64()?);
                        let message = codec::read_message(&mut Reader(reader.bytes()?))?;
                        Ok::<_, crate::bytes::Malformed>((group, len, message))
                    };
                    let (group, len, message) = read().map_err(|_| malformed())?;
                    if len > SNAPSHOT_BYTES_MAX {
                        return Err(malformed());
                    }
                    let (len, message) = (len as usize, Box::new(message));
                    self.snapshot = Some(InSnapshot { group, message, len, data: Vec::new() });
                }
                wire::CHUNK => {
                    let snapshot = self.snapshot.as_mut().ok_or_else(malformed)?;
                    snapshot.data.extend_from_slice(payload);
                    if snapshot.data.len() > snapshot.len {
                        return Err(malformed());
                    }
                    if let Some(whole) = self.snapshot.take_if(|one| one.data.len() == one.len) {
                        let InSnapshot { group, message, data, .. } = whole;
                        incoming.push(Incoming::Snapshot(from, group, message, data));
                    }
                }
                kind => incoming.push(Incoming::Frame(from, kind, payload.to_vec())),
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() && self.input.capacity() > READ_BYTES {
            self.input = Vec::new();
        }
        Ok(())
    }
}

fn link_token(node: NodeId) -> Token {
    Token(node as usize * 2)
}

/// Begins a connection to `to`, from the address `from` of this machine if it can: that one may have left it.
fn open(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) else {
        return TcpStream::connect(to);
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    drop(socket.bind(&SocketAddr::new(from, 0).into()));
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.connect(&to.into())
        && error.raw_os_error() != Some(libc::EINPROGRESS)
    {
        return Err(error);
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn resolve(address: &PeerAddress) -> Option<SocketAddr> {
    (address.host.as_str(), address.port).to_socket_addrs().ok()?.next()
}
