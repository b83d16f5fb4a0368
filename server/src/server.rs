//! A running server: for the daemon, and for programs that embed a whole node.

use crate::acl::Acl;
use crate::acl::parse::Context;
use crate::blocking::Blocking;
use crate::clients::Clients;
use crate::config::{Settings, connect, engine_config, ids, raise_open_files};
use crate::gate::{Gate, Policy};
use crate::listen::{self, Bound};
use crate::local::{self, LocalClient};
use crate::mailbox::Mailbox;
use crate::persistence::{self, Persistence};
use crate::pubsub::PubSub;
use crate::redis_files::{self, Source};
use crate::registry::Registry;
use crate::replication::Replication;
use crate::replication::continued::{self, Continued, End};
use crate::replication::follower::set_primary_from;
use crate::replication::ship;
use crate::shared::{Pause, Shared, Trash};
use crate::stats::Stats;
use crate::tier::ColdTier;
use crate::tls::Tls;
use crate::worker::{MAILBOX, Worker};
use crate::{clock, commands, cores, info};
use ashlar_engine::engine::{Engine, EngineOptions};
use ashlar_engine::stamp::Rng;
use ashlar_engine::storage::{Directory, RecoverOptions, Storage};
use ashlar_replication::runtime::DATA_GROUPS_MAX;
use crossbeam::channel::Receiver;
use parking_lot::RwLock;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shards for each worker where there are several: enough that two rarely want the same.
const SHARDS_PER_WORKER: usize = 16;

/// How long a start waits for its data: who starts a server with little of it meets no `LOADING`.
const LOAD_WAIT: Duration = Duration::from_millis(200);
/// Threads that load at most.
const LOAD_THREADS_MAX: usize = 16;

/// A running server. Dropping it stops it.
///
/// ```
/// use ashlar_engine::prelude::ReplyValue;
/// use ashlar_server::Server;
/// use ashlar_server::config::{Source, load};
///
/// // Settings as on the command line of `ashlar`. With port 0 and no `unixsocket` there is no
/// // listening socket: only this program reaches the server.
/// let flags = ["--port", "0", "--io-threads", "1", "--save", ""];
/// let flags = flags.map(|word| word.as_bytes().to_vec()).to_vec();
/// let settings = load(&[Source::Flags(flags)]).map_err(|errors| errors[0].clone())?;
/// let server = Server::start(settings)?;
///
/// let mut client = server.connect()?;
/// client.call(&[b"SET", b"greeting", b"hello"])?;
/// assert_eq!(client.call(&[b"STRLEN", b"greeting"])?, ReplyValue::Int(5));
///
/// // A client has a session like any other: transactions, blocking commands, channels.
/// let mut subscriber = server.connect()?;
/// subscriber.call(&[b"SUBSCRIBE", b"news"])?;
/// client.call(&[b"PUBLISH", b"news", b"it works"])?;
/// let message = subscriber.message(None)?.ok_or("no message")?;
/// assert_eq!(message[2], ReplyValue::Bytes(b"it works".to_vec()));
///
/// server.stop();
/// server.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    collector: Option<JoinHandle<()>>,
    loader: Option<JoinHandle<io::Result<Option<JoinHandle<()>>>>>,
    tier: Vec<JoinHandle<()>>,
    /// The node of a cluster.
    node: Option<crate::strong::Running>,
}

impl Server {
    /// Starts a server with these settings: it accepts connections once this returns. With port 0
    /// and no `unixsocket` it listens nowhere, and [`Server::connect`] is the way in.
    /// If its data takes longer to load than a moment, it goes on loading and answers `LOADING`
    /// meanwhile.
    ///
    /// # Errors
    /// If an address cannot be bound, the system gives no threads or descriptors, or the data
    /// directory is in use or damaged. What is found later ends the server, see [`Server::wait`].
    pub fn start(settings: Settings) -> io::Result<Server> {
        let (bound, port) = listen::bind(&settings)?;
        Server::start_on(settings, bound, port)
    }

    fn start_on(settings: Settings, bound: Vec<Bound>, port: u16) -> io::Result<Server> {
        crate::cluster::sites::check_settings(&settings)?;
        raise_clients_limit(&settings);
        let count = usize::try_from(settings.number(ids::IO_THREADS)).unwrap_or(1).max(1);
        let polls: Vec<mio::Poll> =
            (0..count).map(|_| mio::Poll::new()).collect::<io::Result<_>>()?;
        let mailboxes = polls.iter().map(|poll| Mailbox::new(poll.registry(), MAILBOX));
        let mailboxes = mailboxes.collect::<io::Result<Vec<_>>>()?;
        let (trash, garbage) = crossbeam::channel::unbounded();
        let mut random = [0; 80];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let in_cluster = settings.flag(ids::CLUSTER_ENABLED);
        let directory = match in_cluster {
            true => None,
            false => persistence::open(&settings, word(&random, 64))?,
        };
        let source = match directory.as_ref().is_none_or(Directory::is_empty) && !in_cluster {
            true => redis_files::find(&settings)?,
            false => None,
        };
        let stored = Stored { directory, source };
        let shared = share(settings, mailboxes, port, trash, &stored, &random)?;
        let shared = Arc::new(shared);
        drop(shared.this.set(Arc::downgrade(&shared)));
        connect(&shared.settings, &shared.engine);
        give_back(&shared.settings);
        persistence::switch::connect(&shared);
        let owner = shared.clone();
        let collector =
            std::thread::Builder::new().name("ashlar-free".into()).spawn(move || {
                cores::bind(&owner.settings, ids::BIO_CPULIST);
                drop(owner);
                collect(&garbage);
            })?;
        let collector = Some(collector);
        let tier = crate::tier::start(&shared)?;
        let node = if in_cluster { Some(crate::strong::start(&shared)?) } else { None };
        let mut server =
            Server { shared, workers: Vec::new(), collector, loader: None, tier, node };
        for (number, poll) in polls.into_iter().enumerate() {
            let listeners = bound.iter().map(Bound::listener).collect::<io::Result<Vec<_>>>()?;
            let shared = server.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("ashlar-worker-{number}"))
                .spawn(move || {
                    cores::bind(&shared.settings, ids::SERVER_CPULIST);
                    if shared.cold.is_some() {
                        crate::alloc::share_arena(number);
                        cores::take_short_turns();
                    }
                    // A server without one of its workers would leave connections hanging.
                    let _stops = StopOnPanic(&shared);
                    Worker::new(&shared, number, poll, listeners)?.run()
                })?;
            server.workers.push(worker);
        }
        if !stored.is_there() {
            enter_replication(&server.shared, Continued::default())?;
            return Ok(server);
        }
        let shared = server.shared.clone();
        let loader = std::thread::Builder::new().name("ashlar-load".into());
        server.loader = Some(loader.spawn(move || load(&shared, stored))?);
        match server.shared.persistence.wait_loaded(LOAD_WAIT) {
            // The loader's own error says more; joining the threads brings it up.
            Some(Err(_)) => {
                server.shared.stop();
                server.join().map(|()| server)
            }
            Some(Ok(())) | None => Ok(server),
        }
    }

    /// The port it listens on; 0 where there is none.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// A client of this server inside the process; it needs no listening socket.
    ///
    /// # Errors
    /// If the system gives no descriptors, or the server refuses one more client.
    pub fn connect(&self) -> io::Result<LocalClient> {
        local::connect(&self.shared)
    }

    /// The data, to be used from this process without a socket.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// What the workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Asks the server to stop; [`Server::wait`] waits until it has.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// If a worker failed.
    pub fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            let ended = worker.join().unwrap_or_else(|_| {
                Err(io::Error::other("a worker panicked; see the message above"))
            });
            if ended.is_err() {
                self.shared.stop();
            }
            result = result.and(ended);
        }
        if let Some(node) = self.node.take() {
            result = result.and(node.stop());
        }
        // The last sender is in `shared`, which other threads may still hold: the collector is
        // not waited for, it has nothing that must be kept.
        drop(self.collector.take());
        for thread in self.tier.drain(..) {
            if thread.join().is_err() {
                result = result.and(Err(io::Error::other("a thread of the cold tier panicked")));
            }
        }
        let replication = &self.shared.replication;
        replication.close(&self.shared.settings, &self.shared.engine);
        // From here on the follower changes nothing either.
        let followed = replication.follower.stopped_at();
        let persistence = &self.shared.persistence;
        persistence.recovering.snapshot.cancelled.store(true, Ordering::Relaxed);
        let panicked = |_| io::Error::other("a thread panicked; see the message above");
        let loaded = self.loader.take().map_or(Ok(Ok(None)), JoinHandle::join);
        let log = loaded.map_err(panicked).and_then(|loaded| loaded).unwrap_or_else(|error| {
            result = Err(error);
            None
        });
        let settings = &self.shared.settings;
        let asked = self.shared.saves_at_end.get().copied();
        persistence.end(settings, asked.unwrap_or_else(|| !settings.text(ids::SAVE).is_empty()));
        let log = log.or_else(|| self.shared.log_thread.lock().take());
        if let (Some(gate), Some(log)) = (self.shared.gate.get(), log) {
            gate.stop();
            result = result.and(log.join().map_err(panicked));
        }
        if let Some(storage) = persistence.storage().filter(|_| result.is_ok()) {
            continued::note(&self.shared, followed, storage.dir());
        }
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        if let Err(error) = self.join() {
            tracing::error!("{error}");
        }
    }
}

/// The primary that `replicaof` names.
fn primary_of(settings: &Settings) -> Option<(String, u16)> {
    let words = settings.string(ids::REPLICAOF);
    let (host, port) = words.rsplit_once(' ')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// What there is to be loaded at the start.
struct Stored {
    /// The data directory, where anything is kept.
    directory: Option<Directory>,
    /// The files of a Redis, where ashlar has no data of its own.
    source: Option<Source>,
}

impl Stored {
    fn is_there(&self) -> bool {
        self.directory.is_some() || self.source.is_some()
    }
}

/// Stops the server when its thread panics.
struct StopOnPanic<'a>(&'a Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

fn share(
    settings: Settings,
    mailboxes: Vec<Mailbox>,
    port: u16,
    trash: crossbeam::channel::Sender<Trash>,
    stored: &Stored,
    random: &[u8; 80],
) -> io::Result<Shared> {
    let word = |at: usize| word(random, at);
    let directory = stored.directory.as_ref();
    let workers = mailboxes.len();
    // A second server of the same process keeps the seed of the first: it is random all the same.
    ashlar_engine::value::dense::seed_hashes(word(56));
    let cold = match crate::tier::is_wanted(&settings) {
        true => {
            let seed = directory.map_or(word(0), Directory::hash_seed);
            let loads = directory.is_some_and(Directory::has_data);
            Some(ColdTier::open(&settings, seed, loads || persistence::keeps(&settings))?)
        }
        false => None,
    };
    let engine = Arc::new(Engine::with_options(EngineOptions {
        config: engine_config(&settings),
        shards: match settings.flag(ids::CLUSTER_ENABLED) {
            // One for each group, and one for the slots of none.
            true => DATA_GROUPS_MAX + 1,
            false if workers == 1 => 1,
            false => (workers * SHARDS_PER_WORKER).min(1024),
        },
        groups: settings.flag(ids::CLUSTER_ENABLED),
        hash_seed: directory.map_or(word(0), Directory::hash_seed),
        journal: None,
        tier: cold.as_ref().map(|cold| cold.tier().clone()),
    }));
    let sites = crate::sites::open(&settings, &engine)?;
    let persistence = Persistence::new(&settings, &engine, stored.is_there(), word(72));
    let mut identity = [0; 40];
    identity.copy_from_slice(&random[8..48]);
    let registry = Registry::new(commands::FAMILIES);
    let acl = users(&settings, &registry)?;
    let tls = tls(&settings)?;
    let identity = info::Identity::new(identity);
    let replication = Replication::new(identity.replication_id.clone());
    replication.follow_settings(&settings);
    Ok(Shared {
        acl,
        tls,
        engine,
        gate: OnceLock::new(),
        log_thread: parking_lot::Mutex::new(None),
        persistence: Arc::new(persistence),
        saves_at_end: OnceLock::new(),
        settings,
        stats: Stats::new(workers, registry.table()),
        registry,
        clients: Clients::default(),
        pubsub: PubSub::default(),
        tracking: Default::default(),
        blocking: Blocking::default(),
        scripts: Default::default(),
        mailboxes,
        monitors: RwLock::default(),
        monitored: AtomicBool::new(false),
        pause: Pause::default(),
        trash,
        replication,
        cluster: OnceLock::new(),
        cluster_seen: Default::default(),
        strong: OnceLock::new(),
        this: OnceLock::new(),
        identity,
        started_ms: clock::now_ms(),
        port,
        stopping: AtomicBool::new(false),
        seeds: AtomicU64::new(Rng::new(word(48)).next_u64()),
        active_expire: AtomicBool::new(true),
        next_upkeep_ms: AtomicI64::new(0),
        adopted: AtomicU64::new(0),
        slow_log: Default::default(),
        latency: Default::default(),
        sites,
        cold,
        waiting_for_room: AtomicUsize::new(0),
    })
}

/// The certificates of the configuration, which from now on follow its changes.
fn tls(settings: &Settings) -> io::Result<Arc<Tls>> {
    let tls = Arc::new(Tls::default());
    let own = tls.clone();
    settings
        .subscribe(crate::tls::SETTINGS, move |settings| own.load(settings).map_err(Into::into))
        .map_err(|reason| io::Error::other(reason.to_string()))?;
    Ok(tls)
}

/// Lets the allocator's thread follow `jemalloc-bg-thread`.
fn give_back(settings: &Settings) {
    let subscribed = settings.subscribe(&[ids::JEMALLOC_BG_THREAD], |settings| {
        crate::alloc::purge_in_background(settings.flag(ids::JEMALLOC_BG_THREAD));
        Ok(())
    });
    debug_assert!(subscribed.is_ok(), "the subscriber refuses nothing");
}

/// The users of the configuration, which from now on follow its changes.
fn users(settings: &Settings, registry: &Registry) -> io::Result<Arc<Acl>> {
    let acl = Arc::new(Acl::new(registry));
    let own = acl.clone();
    let subscribed = settings.subscribe(&[ids::REQUIREPASS], move |settings| {
        own.set_default_password(&settings.text(ids::REQUIREPASS));
        Ok(())
    });
    debug_assert!(subscribed.is_ok(), "the subscriber refuses nothing");
    let all_channels = settings.flag(ids::ACL_PUBSUB_DEFAULT);
    let context = Context { registry, all_channels };
    acl.read_config(context, settings.user_lines()).map_err(io::Error::other)?;
    let file = settings.string(ids::ACLFILE);
    if !file.is_empty() {
        if !settings.user_lines().is_empty() {
            return Err(io::Error::other(
                "users are defined by `user` lines and aclfile is set: use only one of the two",
            ));
        }
        acl.load(context, file.as_ref()).map_err(io::Error::other)?;
    }
    let own = acl.clone();
    settings.write_users(move |settings| {
        if !settings.text(ids::ACLFILE).is_empty() {
            return Vec::new();
        }
        own.config_lines(&settings.text(ids::REQUIREPASS))
    });
    Ok(acl)
}

/// From now on changes go to replicas, and the server follows its primary if it has one: what is
/// loaded at the start is no change.
fn enter_replication(shared: &Arc<Shared>, continued: Continued) -> io::Result<()> {
    shared.engine.set_propagate(shared.replication.feed.clone());
    continued::go_on(shared, &continued);
    match primary_of(&shared.settings) {
        Some(primary) => set_primary_from(shared, Some(primary), continued.followed),
        None => ship::begin(&shared.engine, &shared.settings),
    }
    commands::policy::enter(shared).map_err(|error| io::Error::other(error.message()))
}

fn word(random: &[u8; 80], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&random[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Loads the data; then the gate is there and clients get in. Returns the log's thread.
fn load(shared: &Arc<Shared>, stored: Stored) -> io::Result<Option<JoinHandle<()>>> {
    let result = match stored {
        Stored { source: Some(source), directory } => take_over(shared, directory, &source),
        Stored { source: None, directory: Some(directory) } => recover(shared, directory),
        Stored { source: None, directory: None } => Ok((None, 0, None, None)),
    };
    let persistence = &shared.persistence;
    match result {
        Ok((storage, keys, log, end)) => {
            let dir = storage.as_ref().map(|storage| storage.dir());
            let continued = dir.map_or(Ok(Continued::default()), |dir| continued::take(dir, end));
            let entered = continued.and_then(|continued| enter_replication(shared, continued));
            if let Err(error) = entered {
                persistence.finish_loading(Err(error.to_string()));
                shared.gate.get().inspect(|gate| gate.stop());
                shared.stop();
                return Err(error);
            }
            if let Some(sites) = &shared.sites {
                sites.enter(shared);
            }
            persistence.finish_loading(Ok((storage, keys)));
            Ok(log)
        }
        Err(error) => {
            persistence.finish_loading(Err(error.to_string()));
            shared.stop();
            Err(error)
        }
    }
}

/// The directory, its keys, the log's thread, and what the data ends with.
type Recovered = (Option<Arc<Storage>>, u64, Option<JoinHandle<()>>, Option<End>);

/// Loads the files of a Redis, and makes them the beginning of a directory of ashlar's own.
fn take_over(
    shared: &Arc<Shared>,
    directory: Option<Directory>,
    source: &Source,
) -> io::Result<Recovered> {
    if shared.sites.is_some() {
        return Err(io::Error::other(
            "a site does not start with the files of a Redis: turn an RDB file into data of ashlar \
             with `ashlar import FILE --dir DIR` first, or move the files away",
        ));
    }
    let started = Instant::now();
    let loaded = redis_files::load(shared, source)?;
    tracing::info!(
        "loaded the files of a Redis: {} keys of an RDB file ({} more had expired), {} commands of a log \
         ({} of them failed), in {:.3} s; they stay as they are",
        loaded.keys,
        loaded.expired,
        loaded.commands,
        loaded.failed,
        started.elapsed().as_secs_f64()
    );
    let keys = shared.engine.db_stats().iter().map(|db| db.keys as u64).sum();
    let Some(directory) = directory else { return Ok((None, keys, None, None)) };
    let (storage, thread) = shared.persistence.base(shared, directory)?;
    Ok((Some(storage), keys, thread, None))
}

fn recover(shared: &Arc<Shared>, directory: Directory) -> io::Result<Recovered> {
    let (settings, persistence) = (&shared.settings, &shared.persistence);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RecoverOptions {
        log: settings.flag(ids::APPENDONLY),
        segment_bytes: settings.count(ids::LOG_SEGMENT_SIZE),
        threads: cores.min(LOAD_THREADS_MAX),
        zeroed: Policy::of(settings) == Policy::Always,
        relieve: shared.cold.is_some().then(|| relieve(shared)),
    };
    let started = Instant::now();
    let recovered = directory.recover(&shared.engine, &options, &persistence.recovering);
    let (storage, opened) = recovered.map_err(|error| io::Error::other(error.to_string()))?;
    for damaged in &opened.damaged {
        tracing::warn!("{damaged}; the older snapshot and the log took its place");
    }
    if let Some(cut) = &opened.recovered.cut {
        tracing::warn!(
            "the log's end was torn: cut at record {}, offset {} of segment {:016}.log; nothing \
             behind it was acknowledged as durable",
            cut.place.index,
            cut.place.offset,
            cut.place.segment
        );
    }
    let keys = opened.snapshot.as_ref().map_or(0, |snapshot| snapshot.keys);
    tracing::info!(
        "loaded {}: {keys} keys of a snapshot, {} calls of the log, in {:.3} s",
        storage.dir().display(),
        opened.replayed.calls,
        started.elapsed().as_secs_f64()
    );
    let snapshot = opened.snapshot.as_ref().map(|one| (one.info.log_index, one.bytes));
    let end = match snapshot {
        _ if storage.log().is_some() => Some(End::Log(opened.recovered.last)),
        Some((index, bytes)) if opened.replayed.calls == 0 => {
            persistence.set_newest(index, bytes);
            Some(End::Snapshot(index, bytes))
        }
        _ => None,
    };
    let storage = Arc::new(storage);
    let mut thread = None;
    if let Some(log) = storage.log() {
        let gate = Gate::new(log, shared.mailboxes.len());
        assert!(shared.gate.set(gate).is_ok(), "data is loaded once");
        thread = Gate::start(shared)?;
    }
    Ok((Some(storage), keys, thread, end))
}

/// Makes room while the log is run.
fn relieve(shared: &Arc<Shared>) -> Arc<dyn Fn() + Send + Sync> {
    let shared = shared.clone();
    Arc::new(move || crate::tier::relieve(&shared))
}

fn raise_clients_limit(settings: &Settings) {
    let wanted = settings.count(ids::MAXCLIENTS);
    let possible = raise_open_files(wanted);
    if possible < wanted {
        tracing::warn!(
            "maxclients is {possible} instead of {wanted}: the system allows no more open files"
        );
        settings.adjust(ids::MAXCLIENTS, i64::try_from(possible).unwrap_or(i64::MAX));
    }
}

/// Drops large values, away from the threads that serve.
fn collect(garbage: &Receiver<Trash>) {
    for trash in garbage {
        match trash {
            Trash::Values(values) => drop(values),
            Trash::Databases(databases) => drop(databases),
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        f.debug_struct("Server").field("port", &self.port()).field("stopping", &stopping).finish()
    }
}
