//! A worker: one thread with its own poll, its connections and its buffers.
//!
//! A connection stays with the worker that accepted it. Per turn of the loop: read, run and answer
//! each connection that has something, then deliver messages from elsewhere, then look at time.
//! One read buffer and one write buffer serve all connections of the thread.

mod messages;
mod time;

use crate::busy_clients::BusyClients;
use crate::clock;
use crate::config::ids;
use crate::conn::{
    Conn, INPUT_BYTES_MAX_BLOCKED, OUTPUT_BYTES_MAX, OUTPUT_BYTES_MAX_UNAUTHENTICATED, Stream,
    Waiting, write_some,
};
use crate::door::{Conns, Door};
use crate::gate::{Gate, Passage};
use crate::host::{Flow, Host};
use crate::mailbox::{Address, Mailbox, Message};
use crate::memory;
use crate::pipeline::Pipeline;
use crate::replication::primary;
use crate::replication::socket::Socket;
use crate::shared::Shared;
use crate::stats::{Counter, bump};
use crate::strong::Agreement;
use crate::tier::Gathered;
use ashlar_engine::executor::Executor;
use ashlar_engine::known_bugs::{self, Bug};
use mio::net::{TcpListener, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes that are read from a socket at a time.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of replies after which they are written even though there are more requests.
pub const WRITE_BYTES: usize = 256 * 1024;
/// Milliseconds between looks at the time.
const TICK_MS: i64 = 100;
/// Milliseconds between looks at the files of the certificates.
const TLS_LOOK_MS: i64 = 1_000;

/// Token of the mailbox.
pub const MAILBOX: Token = Token(usize::MAX);
/// The first listener's token; those of connections are below it.
pub const LISTENERS: usize = usize::MAX - 1024;

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// TCP
    Tcp(TcpListener),
    /// TCP, for encrypted connections
    Tls(TcpListener),
    /// Unix domain
    Unix(UnixListener),
}

/// A worker's state.
pub struct Worker<'e> {
    shared: &'e Shared,
    number: usize,
    poll: Poll,
    listeners: Vec<Listener>,
    conns: Conns,
    exec: Executor<'e>,
    pipeline: Pipeline<'e>,
    read_buf: Box<[u8]>,
    /// Replies of the connection that is being served.
    out: Vec<u8>,
    messages: Vec<Message>,
    /// Connections that may have more to read than one turn takes.
    again: Vec<usize>,
    /// Connections that sent something while a script was busy.
    later: Vec<usize>,
    /// Connections that got messages, to be written to.
    touched: Vec<usize>,
    paused: Vec<usize>,
    /// Connections that wait until the mailboxes have been emptied.
    crowded: Vec<usize>,
    /// Listeners that may have more connections to accept, once there are descriptors again.
    accept_later: Vec<usize>,
    /// What connections need from disk, to be handed over by the end of the turn.
    cold_jobs: Gathered,
    /// Connections that wait for room in memory.
    roomless: Vec<usize>,
    /// Connections that are closed once the shards can be had, with their places.
    graves: Vec<(usize, Box<Conn>)>,
    /// When blocked clients give up: (time, place, id).
    deadlines: BTreeSet<(i64, usize, u64)>,
    next_tick_ms: i64,
    gate: Option<&'e Gate>,
    /// Connections with replies that have to pass the gate at the end of this turn.
    gathered: Vec<Address>,
    /// Those that wait for the log, with the index of the last record that they depend on.
    held: VecDeque<(u64, Vec<Address>)>,
}

impl<'e> Worker<'e> {
    /// A worker with its listeners, which `poll` watches from now on.
    ///
    /// # Errors
    /// If a listener cannot be watched.
    pub fn new(
        shared: &'e Shared,
        number: usize,
        poll: Poll,
        mut listeners: Vec<Listener>,
    ) -> io::Result<Worker<'e>> {
        for (nth, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENERS + nth);
            match listener {
                Listener::Tcp(tcp) | Listener::Tls(tcp) => {
                    poll.registry().register(tcp, token, Interest::READABLE)?
                }
                Listener::Unix(unix) => {
                    poll.registry().register(unix, token, Interest::READABLE)?
                }
            }
        }
        Ok(Worker {
            shared,
            number,
            poll,
            listeners,
            conns: Slab::new(),
            exec: shared.engine.executor(),
            pipeline: Pipeline::default(),
            read_buf: vec![0; READ_BYTES].into(),
            out: Vec::with_capacity(WRITE_BYTES),
            messages: Vec::new(),
            again: Vec::new(),
            later: Vec::new(),
            touched: Vec::new(),
            paused: Vec::new(),
            crowded: Vec::new(),
            accept_later: Vec::new(),
            cold_jobs: Gathered::default(),
            roomless: Vec::new(),
            graves: Vec::new(),
            deadlines: BTreeSet::new(),
            next_tick_ms: 0,
            gate: shared.gate.get(),
            gathered: Vec::new(),
            held: VecDeque::new(),
        })
    }

    /// Serves until the server stops.
    ///
    /// # Errors
    /// If the system's poll fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stopping.load(Ordering::Acquire) {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now_ms = clock::now_ms();
            for event in &events {
                match event.token() {
                    MAILBOX => {}
                    Token(at) if at >= LISTENERS => self.accept(at - LISTENERS, now_ms),
                    Token(slot) => {
                        if event.is_writable() {
                            self.with_conn(slot, |worker, conn| worker.flush(conn));
                        }
                        if event.is_readable() || event.is_read_closed() || event.is_error() {
                            self.serve(slot, event.is_read_closed() || event.is_error());
                        }
                    }
                }
            }
            for slot in std::mem::take(&mut self.again) {
                self.serve(slot, false);
            }
            for slot in std::mem::take(&mut self.later) {
                self.serve_later(slot);
            }
            self.deliver();
            self.go_on_crowded();
            self.hand_over_cold();
            self.bury();
            memory::evict_clients(self.shared, self.number);
            if now_ms >= self.next_tick_ms {
                self.next_tick_ms = now_ms + TICK_MS;
                self.tick(now_ms);
            }
            self.expire_deadlines(clock::now_ms());
            self.gate = self.shared.gate.get();
            if let Some(gate) = self.gate {
                self.pass_gate(gate);
            }
            // Of connections that went on since.
            self.hand_over_cold();
            self.make_way();
        }
        self.shutdown();
        Ok(())
    }

    fn hand_over_cold(&mut self) {
        if let Some(cold) = &self.shared.cold {
            cold.hand_over(&mut self.cold_jobs);
        }
    }

    /// Lets go of values for those that this turn has brought in.
    fn make_way(&mut self) {
        let brought = self.exec.take_ready_bytes();
        if brought > 0
            && let Some(cold) = &self.shared.cold
        {
            cold.make_way(self.shared, brought, clock::now_ms());
        }
    }

    fn timeout(&self) -> Duration {
        let waits = !self.again.is_empty() || !self.later.is_empty();
        if waits || self.shared.mailboxes[self.number].is_waiting() {
            return Duration::ZERO;
        }
        if !self.crowded.is_empty() {
            return Duration::from_millis(1);
        }
        let now_ms = clock::now_ms();
        let mut deadline = self.deadlines.first().map_or(i64::MAX, |deadline| deadline.0);
        if self.shared.scripts.is_busy.load(Ordering::Acquire) {
            // Who gives up has to wait for the script.
            deadline = i64::MAX;
        }
        let until = self.next_tick_ms.min(deadline) - now_ms;
        Duration::from_millis(u64::try_from(until).unwrap_or(0))
    }

    /// Takes the connection out of its place while it is served; it goes back unless `serve` says
    /// that it is to be closed.
    fn with_conn(
        &mut self,
        slot: usize,
        serve: impl FnOnce(&mut Self, &mut Conn) -> io::Result<()>,
    ) {
        let Some(mut conn) = self.conns.get_mut(slot).and_then(Option::take) else { return };
        let result = serve(self, &mut conn);
        if result.is_ok() && conn.detach.is_some() {
            self.detach(slot, *conn);
        } else if result.is_err() || (conn.closing && conn.is_drained()) {
            self.graves.push((slot, conn));
            self.bury();
        } else if let Some(place) = self.conns.get_mut(slot) {
            *place = Some(conn);
        }
    }

    /// Enters a connection from inside the process.
    fn adopt(&mut self, stream: UnixStream) {
        let Worker { shared, number, poll, listeners, conns, .. } = self;
        Door { shared, number: *number, poll, listeners, conns }
            .welcome(Stream::Unix(stream), clock::now_ms());
    }

    fn accept(&mut self, nth: usize, now_ms: i64) {
        let Worker { shared, number, poll, listeners, conns, .. } = self;
        let mut door = Door { shared, number: *number, poll, listeners, conns };
        if door.accept(nth, now_ms) {
            self.accept_later.push(nth);
        }
    }

    /// Goes on with a connection that sent something while a script was busy.
    fn serve_later(&mut self, slot: usize) {
        self.with_conn(slot, |worker, conn| {
            if conn.held {
                // Its replies wait for the log; what it sent meanwhile waits for them.
                worker.later.push(slot);
                return Ok(());
            }
            worker.flush(conn)?;
            worker.process_input(conn)?;
            conn.readable = true;
            worker.read(conn)
        });
    }

    /// Reads from a connection and runs its requests. `hung_up` says that the peer will send
    /// nothing more.
    fn serve(&mut self, slot: usize, hung_up: bool) {
        if self.shared.tracking.clients() != 0 {
            // What a client reads next must not be newer than what it has been told of.
            self.deliver();
        }
        self.with_conn(slot, |worker, conn| {
            conn.readable = true;
            conn.hung_up |= hung_up;
            let waits = conn.waiting.is_some() || conn.closing;
            if hung_up && waits && conn.input.len() > INPUT_BYTES_MAX_BLOCKED {
                // Its input is not read for now, so no end of it would be met.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            worker.read(conn)
        });
    }

    fn read(&mut self, conn: &mut Conn) -> io::Result<()> {
        if conn.closing || conn.held {
            return Ok(());
        }
        if conn.waiting.is_some() && conn.input.len() > INPUT_BYTES_MAX_BLOCKED {
            return Ok(());
        }
        let got = match conn.stream.read(&mut self.read_buf) {
            // What it sent before is run first, where only the server is to blame for the wait.
            Ok(0) if conn.waiting.as_ref().is_some_and(Waiting::is_short) => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // A read that did not fill the buffer has emptied the socket: the next bytes come with an
        // event of their own. Not so the end, which may have come in one event with these bytes.
        let mut ended = conn.hung_up;
        if let Some(tls) = conn.stream.tls() {
            ended |= tls.is_ended();
            conn.session.certified = tls.has_certificate();
        }
        conn.readable = got == READ_BYTES || ended;
        if conn.readable {
            self.again.push(conn.session.address.slot);
        }
        let client = &conn.session.client;
        bump(&client.traffic[0], got as u64);
        let stats = self.shared.stats.worker(self.number);
        stats.add(Counter::Reads, 1);
        stats.add(Counter::InputBytes, got as u64);
        if conn.input.is_empty() && conn.waiting.is_none() {
            let buf = std::mem::take(&mut self.read_buf);
            let used = self.process(conn, &buf[..got]);
            if let Ok(used) = used {
                conn.input.extend_from_slice(&buf[used..got]);
            }
            self.read_buf = buf;
            used?;
        } else {
            conn.input.extend_from_slice(&self.read_buf[..got]);
            self.process_input(conn)?;
        }
        conn.session.client.input_bytes.store(conn.input.len(), Ordering::Relaxed);
        self.shared.clients.account(&conn.session.client);
        let limit = self.shared.settings.count(ids::CLIENT_QUERY_BUFFER_LIMIT);
        if conn.input.len() as u64 > limit {
            self.shared.stats.worker(self.number).add(Counter::QueryLimitDisconnections, 1);
            tracing::warn!("a client sent a request above client-query-buffer-limit");
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }

    /// Runs the requests that wait in the connection's own buffer.
    fn process_input(&mut self, conn: &mut Conn) -> io::Result<()> {
        if conn.waiting.is_some() || conn.input.is_empty() {
            return Ok(());
        }
        let input = std::mem::take(&mut conn.input);
        let used = self.process(conn, &input)?;
        conn.input = input;
        conn.input.drain(..used);
        if conn.input.is_empty() {
            conn.input = Vec::new();
        }
        Ok(())
    }

    /// Runs the requests in `bytes`, answers them, and returns how many bytes they were.
    fn process(&mut self, conn: &mut Conn, bytes: &[u8]) -> io::Result<usize> {
        let now_ms = clock::now_ms();
        conn.session.client.active_ms.store(now_ms, Ordering::Relaxed);
        let mut pipeline = std::mem::take(&mut self.pipeline);
        let appended = self.exec.effects.log_index;
        let mut at = 0;
        loop {
            let door = Door {
                shared: self.shared,
                number: self.number,
                poll: &mut self.poll,
                listeners: &mut self.listeners,
                conns: &mut self.conns,
            };
            let mut others = BusyClients { door, later: &mut self.later, looked: false };
            let mut host = Host::new(
                self.shared,
                &mut conn.session,
                &mut self.exec,
                self.shared.stamp(now_ms),
                &mut conn.again,
            );
            host.worker = self.number;
            host.others = Some(&mut others);
            if !host.again.brought.is_empty() {
                host.exec.give(std::mem::take(&mut host.again.brought));
            }
            let step = pipeline.step(&mut host, &mut conn.resume, bytes, at, &mut self.out);
            host.exec.drop_parts();
            at = step.at;
            match step.flow {
                Flow::Next => {}
                Flow::Close => conn.closing = true,
                Flow::Detach(_) if !crate::replication::admits(self.shared, &conn.session) => {
                    let peer = &conn.session.client.peer;
                    tracing::warn!("{peer} wants to be a replica without a certificate: refused");
                    let text = b"-ERR tls-replication asks replicas for TLS and a certificate\r\n";
                    self.out.extend_from_slice(text);
                    conn.closing = true;
                }
                Flow::Detach(detach) => conn.detach = Some(detach),
                Flow::Paused => {
                    conn.waiting = Some(Waiting::Paused);
                    self.paused.push(conn.session.address.slot);
                }
                Flow::Cold(needs) => {
                    conn.again.begun = true;
                    conn.again.tries += 1;
                    conn.waiting = Some(Waiting::Cold);
                    if let Some(cold) = &self.shared.cold {
                        cold.load(&mut self.cold_jobs, conn.session.address, needs);
                    }
                }
                Flow::Room => {
                    conn.again.begun = true;
                    conn.waiting = Some(Waiting::Room);
                    self.roomless.push(conn.session.address.slot);
                    self.shared.waiting_for_room.fetch_add(1, Ordering::AcqRel);
                    self.press();
                }
                Flow::Agree(agreement) => {
                    conn.again.begun = !matches!(*agreement, Agreement::Propose(..));
                    conn.waiting = Some(Waiting::Agreement);
                    if let Some(strong) = self.shared.strong.get() {
                        let protocol = conn.session.protocol;
                        strong.ask(conn.session.address, protocol, *agreement);
                    }
                }
                Flow::Blocked(waiter, until_ms) => {
                    if let Some(until_ms) = until_ms {
                        let address = conn.session.address;
                        self.deadlines.insert((until_ms, address.slot, address.id));
                    }
                    *conn.session.client.waiter.lock() = Some(waiter.clone());
                    conn.session.client.blocked.store(true, Ordering::Relaxed);
                    conn.waiting = Some(Waiting::Blocked(waiter, until_ms));
                }
            }
            if self.exec.effects.log_index != appended {
                conn.own_index = self.exec.effects.log_index;
            }
            let mut stop =
                step.done || conn.closing || conn.waiting.is_some() || conn.detach.is_some();
            if !stop && self.shared.mailboxes.iter().any(Mailbox::is_full) {
                conn.waiting = Some(Waiting::Crowded);
                self.crowded.push(conn.session.address.slot);
                stop = true;
            }
            if stop || self.out.len() >= WRITE_BYTES {
                let sent = self.send_out(conn);
                if sent.is_err() {
                    self.pipeline = pipeline;
                    return sent.map(|()| at);
                }
            }
            if stop {
                break;
            }
        }
        self.pipeline = pipeline;
        self.count_effects();
        Ok(at)
    }

    /// Enters what calls did into the statistics.
    fn count_effects(&mut self) {
        let stats = self.shared.stats.worker(self.number);
        let effects = &mut self.exec.effects;
        let enter = |counter, count: u64| {
            if count != 0 {
                stats.add(counter, count);
            }
        };
        enter(Counter::KeyspaceHits, effects.hits.take());
        enter(Counter::KeyspaceMisses, effects.misses.take());
        enter(Counter::ExpiredKeys, std::mem::take(&mut effects.expired_keys));
        enter(Counter::ExpiredFields, std::mem::take(&mut effects.expired_fields));
        enter(Counter::EvictedKeys, std::mem::take(&mut effects.evicted_keys));
    }

    /// Sends the thread's write buffer to a connection.
    fn send_out(&mut self, conn: &mut Conn) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        bump(&conn.session.client.traffic[1], self.out.len() as u64);
        let stats = self.shared.stats.worker(self.number);
        stats.add(Counter::Writes, 1);
        stats.add(Counter::OutputBytes, self.out.len() as u64);
        if let Some(gate) = self.gate
            && (conn.held || gate.holds(conn.own_index))
            && !self.hold(gate, conn)
        {
            return self.check_backlog(conn);
        }
        let mut sent = 0;
        if conn.backlog.is_empty() {
            while sent < self.out.len() {
                match write_some(&mut conn.stream, &self.out[sent..])? {
                    0 => break,
                    more => sent += more,
                }
            }
        }
        if sent < self.out.len() {
            conn.backlog.push(&self.out[sent..]);
        }
        self.out.clear();
        self.out.shrink_to(4 * WRITE_BYTES);
        self.check_backlog(conn)
    }

    /// Puts the thread's write buffer into the connection's backlog until the end of the turn;
    /// `true` if there is so much of it that the log was waited for, and it may be sent.
    fn hold(&mut self, gate: &Gate, conn: &mut Conn) -> bool {
        let large = self.out.len() + conn.backlog.len() >= WRITE_BYTES;
        if large && gate.pass_now() == Passage::Open {
            // Its place among those that pass the gate later does no harm.
            conn.held = false;
            return true;
        }
        conn.backlog.push(&self.out);
        self.out.clear();
        if !conn.held {
            conn.held = true;
            self.gathered.push(conn.session.address);
        }
        false
    }

    fn check_backlog(&self, conn: &mut Conn) -> io::Result<()> {
        let waiting = conn.backlog.len();
        conn.session.client.output_bytes.store(waiting, Ordering::Relaxed);
        self.shared.clients.account(&conn.session.client);
        if waiting == 0 {
            conn.backlog.soft_since_ms = None;
            return Ok(());
        }
        let limit = self.shared.settings.output_limits()[conn.session.client.output_class()];
        let mut hard = OUTPUT_BYTES_MAX;
        if limit.hard_bytes != 0 {
            hard = hard.min(usize::try_from(limit.hard_bytes).unwrap_or(usize::MAX));
        }
        if !conn.session.authenticated && !known_bugs::is_back(Bug::StrangersFillMemory) {
            hard = hard.min(OUTPUT_BYTES_MAX_UNAUTHENTICATED);
        }
        let mut above = waiting > hard;
        if limit.soft_bytes != 0 && waiting as u64 > limit.soft_bytes {
            let now_ms = clock::now_ms();
            let since = *conn.backlog.soft_since_ms.get_or_insert(now_ms);
            above |= (now_ms - since) as u64 >= limit.soft_seconds.saturating_mul(1000);
        } else {
            conn.backlog.soft_since_ms = None;
        }
        if above {
            let peer = &conn.session.client.peer;
            let stats = self.shared.stats.worker(self.number);
            stats.add(Counter::OutputLimitDisconnections, 1);
            tracing::warn!("client {peer} reads too slowly: {waiting} bytes wait; it is cut off");
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Sends what the connection's backlog holds.
    fn flush(&mut self, conn: &mut Conn) -> io::Result<()> {
        conn.stream.flush()?;
        if conn.backlog.is_empty() {
            return Ok(());
        }
        if !conn.held {
            let before = conn.backlog.len();
            conn.backlog.send(&mut conn.stream)?;
            if conn.backlog.len() < before {
                conn.session.client.active_ms.store(clock::now_ms(), Ordering::Relaxed);
            }
        }
        self.check_backlog(conn)
    }

    /// The end of a turn: lets go of the replies that are safe, its own and those of earlier turns.
    fn pass_gate(&mut self, gate: &Gate) {
        if !self.gathered.is_empty() {
            let index = gate.log.appended();
            let passage = gate.pass(index, false);
            let gathered = std::mem::take(&mut self.gathered);
            if passage == Passage::Open {
                self.let_go(gathered, u64::MAX);
            } else {
                // Also where the log has failed: that is looked at just below.
                self.held.push_back((index, gathered));
            }
        }
        if self.held.is_empty() {
            return;
        }
        // Said before looking, so that no progress is missed in between.
        gate.wait(self.number);
        let safe = gate.safe();
        while self.held.front().is_some_and(|(index, _)| *index <= safe || gate.log.is_failed()) {
            if let Some((_, addresses)) = self.held.pop_front() {
                self.let_go(addresses, safe);
            }
        }
    }

    /// Sends the replies that were held back. A connection whose own writes are beyond `safe` in a
    /// log that has failed is closed instead: nobody can say whether they will be there.
    fn let_go(&mut self, addresses: Vec<Address>, safe: u64) {
        for address in addresses {
            let Some(conn) = self.conn(address) else { continue };
            let lost = safe != u64::MAX && conn.own_index > safe && conn.held;
            if std::mem::take(&mut conn.held) && conn.readable {
                self.again.push(address.slot);
            }
            self.with_conn(address.slot, |worker, conn| match lost {
                true => Err(io::ErrorKind::ConnectionAborted.into()),
                false => worker.flush(conn),
            });
        }
    }

    /// Gives a connection to the threads that serve a replica.
    fn detach(&mut self, slot: usize, mut conn: Conn) {
        self.conns.try_remove(slot);
        let Some(mut detach) = conn.detach.take() else { return };
        detach.pending = conn.backlog.take();
        crate::commands::connection::forget(self.shared, &mut self.exec, &mut conn.session);
        self.exec.release();
        // What is not watched any more needs no watch to be ended.
        drop(self.poll.registry().deregister(conn.stream.source()));
        let client = conn.session.client.clone();
        client.replica.store(true, Ordering::Relaxed);
        match (self.shared.arc(), Socket::of(conn.stream)) {
            (Some(shared), Ok(socket)) => primary::spawn(shared, client, socket, detach),
            (_, socket) => {
                if let Err(error) = socket {
                    tracing::error!("the replica {} can not be served: {error}", client.peer);
                }
                self.shared.clients.remove(client.address.id);
                self.shared.clients.leave();
            }
        }
    }

    /// Lets go of a connection and of all that refers to it.
    fn close(&mut self, slot: usize, mut conn: Conn) {
        self.conns.try_remove(slot);
        crate::commands::connection::forget(self.shared, &mut self.exec, &mut conn.session);
        self.exec.release();
        // The descriptor is closed with the stream, which ends the watching too.
        if let Some(tls) = conn.stream.tls() {
            tls.say_goodbye();
        }
        drop(self.poll.registry().deregister(conn.stream.source()));
        self.shared.clients.remove(conn.session.address.id);
        self.shared.clients.leave();
    }

    fn shutdown(&mut self) {
        let passage = self.gate.map_or(Passage::Open, Gate::pass_now);
        let slots: Vec<usize> = self.conns.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.with_conn(slot, |worker, conn| {
                conn.held &= passage != Passage::Open;
                worker.flush(conn)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            });
        }
    }
}
