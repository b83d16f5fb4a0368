//! Follows a Redis primary: copies its keys, then runs the commands that it streams.
//!
//! ```text
//! Connecting --handshake--> Copying --all keys--> Connected --broken--> Connecting
//!                  \--------- +CONTINUE ------------^
//! ```
//! One thread does it, with a socket that blocks. What comes is run like any call, as that of a
//! primary: [`Stamp::FOLLOWED`]. The offset up to which everything was run is where the stream goes
//! on after a broken connection; inside a transaction it stays in front of it.

use super::link::{Answer, Credentials, Extent, Link, UNKNOWN};
use super::socket::Socket;
use crate::acl::{Rules, User};
use crate::clients::Client;
use crate::clock;
use crate::config::ids;
use crate::conn::Again;
use crate::host::Host;
use crate::mailbox::Address;
use crate::resp::decode::{Limits, Parsed, parse};
use crate::session::Session;
use crate::shared::Shared;
use ashlar_engine::executor::{Executor, Prefetched};
use ashlar_engine::rdb::{self, Reader, Record};
use ashlar_engine::stamp::Stamp;
use parking_lot::{Condvar, Mutex};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long to wait before connecting again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a read waits for commands before it looks at the time.
const TICK: Duration = Duration::from_millis(100);
/// How often the primary is told how far this server is.
const ACK_PERIOD: Duration = Duration::from_secs(1);
/// Keys of a copy after which locks are released.
const KEYS_A_STEP: usize = 64;

/// How far following has come, under the names that INFO has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It looks for the primary.
    #[default]
    Connecting,
    /// It gets the copy.
    Copying,
    /// It gets the stream.
    Connected,
}

/// What INFO and ROLE tell of it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The primary's address.
    pub primary: Option<(String, u16)>,
    /// How far it has come.
    pub phase: Phase,
    /// Offset of the stream up to which everything was run; -1 before the first copy.
    pub offset: i64,
    /// When the primary last sent something, Unix milliseconds.
    pub heard_ms: i64,
    /// Since when there has been no connection, Unix milliseconds.
    pub down_ms: i64,
    /// Bytes of the copy so far.
    pub copied_bytes: u64,
    /// Bytes of the copy in total, if that is known.
    pub copy_bytes: u64,
    /// Whether the primary is a node of ashlar: the offset is a position.
    pub native: bool,
    /// The primary's position, as it last said.
    pub primary_position: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) status: Status,
    replid: Vec<u8>,
    /// To be shut down when the primary changes.
    socket: Option<Socket>,
}

/// What this server follows, if anything.
#[derive(Default)]
pub struct Follower {
    state: Mutex<State>,
    wake: Condvar,
    /// Grows with every change of the primary; a thread of an older one ends.
    generation: AtomicU64,
    /// Held while commands of the primary run.
    pub(super) running: Mutex<()>,
    /// Whether there is a primary.
    pub following: AtomicBool,
    /// Whether it is a node of ashlar, of which this one is a copy: nothing else may change it.
    pub native: AtomicBool,
    /// The generation in which this node began a history of its own, behind a Redis.
    began: AtomicU64,
    /// Whether the keys are being replaced by a copy.
    pub loading: AtomicBool,
}

impl Follower {
    /// What INFO and ROLE tell.
    pub fn status(&self) -> Status {
        self.state.lock().status.clone()
    }

    /// Whether there is a primary.
    pub fn is_following(&self) -> bool {
        self.following.load(Ordering::Acquire)
    }

    /// Ends it, as the server does: the stream of a Redis that it follows, and how much of it was run.
    pub fn stopped_at(&self) -> Option<(Vec<u8>, i64)> {
        let _running = self.running.lock();
        let state = self.state.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let known = self.is_following() && !state.status.native && !state.replid.is_empty();
        known.then(|| (state.replid.clone(), state.status.offset))
    }

    /// Whether it follows a Redis whose stream has this name.
    pub fn follows_stream(&self, replid: &[u8]) -> bool {
        let state = self.state.lock();
        !state.status.native && !state.replid.is_empty() && state.replid == replid
    }

    /// Whether the primary's stream is being received.
    pub fn is_connected(&self) -> bool {
        self.state.lock().status.phase == Phase::Connected
    }

    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// Changes what is told, unless the primary has changed.
    pub(super) fn update(&self, generation: u64, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        if self.is_current(generation) {
            change(&mut state);
        }
    }
}

/// Follows another primary, or none. No command of the one before runs after this returns.
pub fn set_primary(shared: &Arc<Shared>, primary: Option<(String, u16)>) {
    set_primary_from(shared, primary, None);
}

/// The same, with the stream of Redis's kind that the data is from and the offset up to which it was run.
pub fn set_primary_from(
    shared: &Arc<Shared>,
    primary: Option<(String, u16)>,
    from: Option<(Vec<u8>, i64)>,
) {
    let follower = &shared.replication.follower;
    // A copy that is on its way ends here, so that the wait for the lock is short.
    if let Some(socket) = follower.state.lock().socket.take() {
        socket.shutdown();
    }
    let generation = {
        let _running = follower.running.lock();
        let mut state = follower.state.lock();
        let generation = follower.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let now_ms = clock::now_ms();
        state.status =
            Status { primary: primary.clone(), offset: -1, down_ms: now_ms, ..Status::default() };
        state.replid.clear();
        if let Some((replid, offset)) = from {
            (state.replid, state.status.offset) = (replid, offset);
        }
        follower.following.store(primary.is_some(), Ordering::Release);
        follower.loading.store(false, Ordering::Release);
        // Until it is known what the new primary is, what came from another one stays as it is.
        let is_copy = shared.engine.position().history.followed;
        follower.native.store(primary.is_some() && is_copy, Ordering::Release);
        let wants_replicas = shared.settings.count(ids::MIN_REPLICAS_TO_WRITE) > 0;
        let restricted = primary.is_some() || wants_replicas;
        shared.replication.restricted.store(restricted, Ordering::Release);
        if primary.is_none() {
            super::ship::begin(&shared.engine, &shared.settings);
        }
        generation
    };
    follower.wake.notify_all();
    let Some((host, port)) = primary else { return };
    let on_thread = shared.clone();
    let work = move || run(&on_thread, &host, port, generation);
    if let Err(error) = std::thread::Builder::new().name("ashlar-follower".into()).spawn(work) {
        tracing::error!("no thread to follow a primary: {error}");
    }
}

/// Follows until the primary changes or the server stops.
fn run(shared: &Arc<Shared>, host: &str, port: u16, generation: u64) {
    let follower = &shared.replication.follower;
    let current = || follower.is_current(generation) && !shared.stopping.load(Ordering::Acquire);
    while current() {
        if let Err(error) = follow(shared, host, port, generation)
            && current()
        {
            tracing::warn!("following {host}:{port}: {error}");
        }
        follower.update(generation, |state| {
            if state.status.phase != Phase::Connecting {
                state.status.down_ms = clock::now_ms();
            }
            state.status.phase = Phase::Connecting;
            state.socket = None;
        });
        let mut state = follower.state.lock();
        if follower.is_current(generation) {
            follower.wake.wait_for(&mut state, RETRY);
        }
    }
}

fn follow(shared: &Arc<Shared>, host: &str, port: u16, generation: u64) -> io::Result<()> {
    let settings = &shared.settings;
    let timeout = Duration::from_secs(settings.count(ids::REPL_TIMEOUT).max(1));
    let mut link = Link::to_peer(shared, ids::TLS_REPLICATION, host, port, timeout)?;
    let socket = link.stream().try_clone()?;
    let follower = &shared.replication.follower;
    let (mut replid, mut offset) = (Vec::new(), -1);
    follower.update(generation, |state| {
        state.socket = Some(socket);
        (replid, offset) = (state.replid.clone(), state.status.offset);
    });
    let credentials = Credentials {
        user: settings.string(ids::MASTERUSER),
        password: settings.string(ids::MASTERAUTH),
    };
    let announced = u16::try_from(settings.number(ids::REPLICA_ANNOUNCE_PORT)).unwrap_or(0);
    let own_port = match announced {
        0 if settings.flag(ids::TLS_REPLICATION) => settings.number(ids::TLS_PORT) as u16,
        0 => shared.port,
        announced => announced,
    };
    let native = link.introduce(&credentials, own_port)?;
    super::failover::tell(shared, &mut link, native)?;
    if native {
        return super::ship::receiver::follow(shared, &mut link, generation, timeout);
    }
    // What a Redis sends has no positions: from here on this node writes a history of its own.
    follower.native.store(false, Ordering::Release);
    if follower.began.swap(generation, Ordering::AcqRel) != generation {
        super::ship::begin(&shared.engine, settings);
    }
    let known = !replid.is_empty() && offset >= 0;
    let answer = if known { link.ask(&replid, offset + 1)? } else { link.ask(UNKNOWN, -1)? };
    let mut applier = Applier::new(shared, &format!("{host}:{port}"));
    match answer {
        Answer::Continue(renamed) => {
            tracing::info!("following {host}:{port} from offset {offset} on");
            follower.update(generation, |state| {
                state.replid = renamed.unwrap_or(replid);
            });
        }
        Answer::Full(replid, offset) => {
            tracing::info!("following {host}:{port}: all keys are copied first");
            follower.update(generation, |state| {
                state.status.phase = Phase::Copying;
                // Until the copy is whole there is nothing to go on from.
                state.replid.clear();
            });
            let copied = copy(shared, &mut link, &mut applier, generation);
            if follower.is_current(generation) {
                follower.loading.store(false, Ordering::Release);
            }
            let keys = copied?;
            tracing::info!("following {host}:{port}: {keys} keys copied");
            follower.update(generation, |state| {
                state.replid = replid;
                state.status.offset = offset;
            });
        }
    }
    follower.update(generation, |state| {
        state.status.phase = Phase::Connected;
        state.status.heard_ms = clock::now_ms();
    });
    stream(shared, &mut link, &mut applier, generation, timeout)
}

/// Replaces all keys by the primary's. Returns how many there are.
fn copy(
    shared: &Arc<Shared>,
    link: &mut Link,
    applier: &mut Applier<'_>,
    generation: u64,
) -> io::Result<u64> {
    let extent = link.extent()?;
    let follower = &shared.replication.follower;
    let keys = match &extent {
        Extent::Bytes(len) => {
            follower.update(generation, |state| state.status.copy_bytes = *len);
            let mut limited = link.take(*len);
            let (keys, _) = load(shared, &mut limited, applier, generation)?;
            if limited.limit() > 0 {
                return Err(io::Error::other("there is more behind the copy"));
            }
            keys
        }
        Extent::Mark(mark) => {
            let (keys, rest) = load(shared, &mut *link, applier, generation)?;
            link.unread(&rest);
            link.expect_mark(mark)?;
            keys
        }
    };
    // Tells a primary that sent a mark that the stream may come.
    link.send(&[b"REPLCONF", b"ACK", b"0"])?;
    Ok(keys)
}

pub(super) fn changed() -> io::Error {
    io::Error::other("the primary has changed")
}

fn load<R: Read>(
    shared: &Arc<Shared>,
    from: R,
    applier: &mut Applier<'_>,
    generation: u64,
) -> io::Result<(u64, Vec<u8>)> {
    let follower = &shared.replication.follower;
    let mut reader = Reader::new(from).map_err(io::Error::other)?;
    {
        let _running = follower.running.lock();
        if !follower.is_current(generation) {
            return Err(changed());
        }
        follower.loading.store(true, Ordering::Release);
        applier.run(&[b"FLUSHALL"])?;
        applier.run(&[b"FUNCTION", b"FLUSH"])?;
        applier.release();
    }
    let (mut keys, mut payload) = (0u64, Vec::new());
    let mut running = None;
    loop {
        let record = reader.next_record();
        let Some(record) = record.map_err(io::Error::other)? else { break };
        if running.is_none() {
            running = Some(follower.running.lock());
            if !follower.is_current(generation) {
                return Err(changed());
            }
        }
        match record {
            Record::Aux(..) | Record::Sizes(..) => {}
            Record::Db(db) => applier.select(db)?,
            Record::ModuleAux(name) => {
                tracing::warn!("data of the module {name} is left out of the copy");
            }
            Record::Function(code) => applier.run(&[b"FUNCTION", b"LOAD", b"REPLACE", &code])?,
            Record::Entry(entry) => {
                applier.restore(&entry, &mut payload)?;
                keys += 1;
            }
        }
        if keys.is_multiple_of(KEYS_A_STEP as u64) {
            applier.release();
            running = None;
            let copied = reader.position();
            follower.update(generation, |state| {
                state.status.copied_bytes = copied;
                state.status.heard_ms = clock::now_ms();
            });
        }
    }
    applier.release();
    drop(running);
    Ok((keys, reader.into_parts().1))
}

/// Runs the commands that come, until the connection breaks.
fn stream(
    shared: &Arc<Shared>,
    link: &mut Link,
    applier: &mut Applier<'_>,
    generation: u64,
    timeout: Duration,
) -> io::Result<()> {
    let follower = &shared.replication.follower;
    link.stream().set_read_timeout(TICK)?;
    let (mut heard, mut acked): (Instant, Option<Instant>) = (Instant::now(), None);
    while !shared.stopping.load(Ordering::Acquire) {
        let (used, asked) = applier.run_all(follower, link.buffered(), generation)?;
        link.consume(used);
        if asked || acked.is_none_or(|acked| acked.elapsed() >= ACK_PERIOD) {
            let offset = follower.status().offset.max(0).to_string();
            link.send(&[b"REPLCONF", b"ACK", offset.as_bytes()])?;
            acked = Some(Instant::now());
        }
        match link.fill() {
            Ok(_) => heard = Instant::now(),
            Err(error) if is_timeout(&error) && heard.elapsed() < timeout => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Runs what comes from a primary, or from its files.
pub(crate) struct Applier<'e> {
    shared: &'e Shared,
    session: Session,
    exec: Executor<'e>,
    out: Vec<u8>,
    /// Bytes of a transaction that is not complete yet.
    open_bytes: i64,
}

impl<'e> Applier<'e> {
    pub(crate) fn new(shared: &'e Shared, peer: &str) -> Applier<'e> {
        let address = Address { worker: 0, slot: usize::MAX, id: shared.clients.next_id() };
        let client = Client::new(address, peer.into(), String::new(), -1, clock::now_ms());
        let rules = Rules::unrestricted(&shared.registry);
        let user = Arc::new(User::new("primary".into(), rules));
        let mut session = Session::new(Arc::new(client), user, true);
        session.from_primary = true;
        let exec = shared.engine.executor();
        Applier { shared, session, exec, out: Vec::new(), open_bytes: 0 }
    }

    pub(crate) fn release(&mut self) {
        self.exec.release();
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.session.multi.is_some()
    }

    /// Runs a command of a copy, which must not fail.
    pub(crate) fn run(&mut self, args: &[&[u8]]) -> io::Result<()> {
        self.request(args);
        match self.out.first() {
            Some(b'-') => {
                let end = self.out.iter().position(|byte| *byte == b'\r').unwrap_or(self.out.len());
                let error = String::from_utf8_lossy(&self.out[1..end]).into_owned();
                let name = String::from_utf8_lossy(args[0]);
                Err(io::Error::other(format!("{name} is refused: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn request(&mut self, args: &[&[u8]]) {
        self.out.clear();
        let stamp = self.shared.stamp(clock::now_ms());
        let mut again = Again::default();
        let mut host = Host::new(
            self.shared,
            &mut self.session,
            &mut self.exec,
            Stamp { site: Stamp::FOLLOWED, ..stamp },
            &mut again,
        );
        let found = self.shared.registry.resolve(args).ok();
        host.request(found, args, Prefetched::NONE, &mut self.out);
    }

    fn select(&mut self, db: u64) -> io::Result<()> {
        let databases = u64::from(self.exec.config().databases);
        if db >= databases {
            let text = format!("the primary has a database {db}, this server has {databases}");
            return Err(io::Error::other(text));
        }
        self.session.db = db as u32;
        Ok(())
    }

    pub(crate) fn restore(
        &mut self,
        entry: &rdb::Entry<'_>,
        payload: &mut Vec<u8>,
    ) -> io::Result<()> {
        payload.clear();
        payload.push(entry.kind);
        payload.extend_from_slice(entry.body);
        rdb::seal(payload);
        let at_ms = entry.expiry_ms.map_or(0, |at_ms| at_ms.max(1)).to_string();
        let idle = entry.idle_seconds.map(|seconds| seconds.to_string());
        let frequency = entry.frequency.map(|counter| counter.to_string());
        let mut args: Vec<&[u8]> = Vec::with_capacity(8);
        args.extend([b"RESTORE", entry.key, at_ms.as_bytes(), payload, b"REPLACE", b"ABSTTL"]);
        if let Some(seconds) = &idle {
            args.extend([b"IDLETIME", seconds.as_bytes()]);
        } else if let Some(counter) = &frequency {
            args.extend([b"FREQ", counter.as_bytes()]);
        }
        self.run(&args).map_err(|error| {
            let key = String::from_utf8_lossy(entry.key);
            io::Error::other(format!("the key {key:?}: {error}"))
        })
    }

    /// Runs all whole commands in `bytes`. Returns how many bytes they are, and whether the primary
    /// asks how far this server is.
    fn run_all(
        &mut self,
        follower: &Follower,
        bytes: &[u8],
        generation: u64,
    ) -> io::Result<(usize, bool)> {
        let _running = follower.running.lock();
        if !follower.is_current(generation) {
            return Err(changed());
        }
        let limits = Limits { authenticated: true, bulk_bytes_max: i64::MAX >> 1 };
        let (mut at, mut asked) = (0, false);
        let mut args: Vec<&[u8]> = Vec::new();
        loop {
            args.clear();
            let end = match parse(bytes, at, limits, &mut args) {
                Ok(Parsed::Request(end)) => end,
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Inline(..)) => return Err(io::Error::other("no command in the stream")),
                Err(error) => return Err(io::Error::other(error.0.into_owned())),
            };
            let own = args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"REPLCONF"));
            if own {
                asked |= args.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"GETACK"));
            } else if !args.is_empty() {
                self.request(&args);
                if [&b"-MISCONF"[..], b"-OOM"].iter().any(|error| self.out.starts_with(error)) {
                    // It is for this server to get well; then the stream goes on from here.
                    let error = String::from_utf8_lossy(&self.out).trim_end().to_owned();
                    return Err(io::Error::other(error));
                }
                if self.out.first() == Some(&b'-') {
                    let name = String::from_utf8_lossy(args[0]);
                    let error = String::from_utf8_lossy(&self.out);
                    tracing::warn!("{name} of the primary fails: {}", error.trim_end());
                }
            }
            self.open_bytes += (end - at) as i64;
            at = end;
            if self.session.multi.is_none() {
                let done = std::mem::take(&mut self.open_bytes);
                let now_ms = clock::now_ms();
                follower.update(generation, |state| {
                    state.status.offset += done;
                    state.status.heard_ms = now_ms;
                });
            }
        }
        self.exec.release();
        Ok((at, asked))
    }
}

impl Drop for Applier<'_> {
    fn drop(&mut self) {
        crate::commands::connection::forget(self.shared, &mut self.exec, &mut self.session);
        self.exec.release();
    }
}
