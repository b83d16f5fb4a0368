//! Replication as Redis does it: a real redis-server can follow this server, and this server can
//! follow a real one. That is how data moves in and out while it is in use (docs/migration.md).
//!
//! ```text
//! executor --commands--> feed --+--> replica's thread --socket--> redis-server, redis-cli --rdb
//!                               +--> another one
//! redis-server --socket--> follower's thread --calls--> executor
//! ```
//! [`feed`] numbers and keeps the last commands; [`primary`] serves a replica, [`follower`] is one.
//! Two nodes of ashlar have a protocol of their own, see [`ship`]: a follower names it with `REPLCONF
//! capa` ([`NATIVE`]), and the primary answers in kind. With others what is here is spoken.

pub mod continued;
pub mod failover;
pub mod feed;
pub mod follower;
pub mod link;
pub mod primary;
pub mod ship;
pub mod snapshot;
pub mod socket;

use crate::blocking::Waiter;
use crate::config::{Settings, ids};
use crate::session::Session;
use crate::shared::Shared;
use feed::Feed;
use follower::Follower;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a node of ashlar says that it can do (`REPLCONF capa`); a real Redis passes over it.
pub const NATIVE: &[u8] = b"ashlar1";

/// Whether a connection may be that of a replica or a site: with `tls-replication` only one whose client
/// has shown a certificate.
pub fn admits(shared: &Shared, session: &Session) -> bool {
    session.certified || !shared.settings.flag(ids::TLS_REPLICATION)
}

/// A server that follows this one, as other threads see it.
#[derive(Debug)]
pub struct Replica {
    /// Its client id.
    pub id: u64,
    /// Its address, and the port that it says it listens on.
    pub ip: String,
    /// The port it listens on.
    pub port: u16,
    /// Offset up to which it has told to have everything.
    pub acked: AtomicU64,
    /// When it last told so, Unix milliseconds.
    pub acked_ms: AtomicI64,
    /// Whether it is a node of ashlar: what it has told is a position.
    pub native: bool,
    /// Up to where it has told to have everything durable.
    pub durable: AtomicU64,
    /// Whether it is to be asked how far it is.
    pub asked: AtomicBool,
    /// Whether it is so far behind that the log is read for it.
    pub from_disk: AtomicBool,
    /// Whether it has the full copy and gets the stream.
    pub online: AtomicBool,
    /// Whether its connection is broken.
    pub gone: AtomicBool,
}

/// A client that waits (WAIT) until `replicas` have everything up to `offset`.
struct Wait {
    waiter: Arc<Waiter>,
    target: Target,
    replicas: usize,
}

/// What WAIT and WAITAOF wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Of replicas as Redis has them.
    pub offset: u64,
    /// Of replicas of ashlar.
    pub position: u64,
    /// For WAITAOF: the record that is to be durable here, 0 for none; and durable is what counts
    /// of replicas.
    pub aof: Option<u64>,
}

/// All about replication.
pub struct Replication {
    /// The stream of commands for replicas.
    pub feed: Arc<Feed>,
    /// What this server follows, if anything.
    pub follower: Follower,
    /// A change of roles that was asked for here.
    pub failover: failover::Failover,
    replicas: Mutex<BTreeMap<u64, Arc<Replica>>>,
    waits: Mutex<Vec<Wait>>,
    /// Notified when a replica tells how far it is.
    acked: Condvar,
    acked_lock: Mutex<()>,
    /// Whether commands have to be looked at before they run: reads or writes may be refused.
    pub restricted: Arc<AtomicBool>,
    /// Full copies, and requests to go on that were granted and refused.
    pub syncs: [AtomicU64; 3],
    last_ping_ms: AtomicI64,
    last_replica_ms: AtomicI64,
    /// Whether replicas are served no longer: the server has ended, and they have what it has.
    closed: AtomicBool,
    /// Whether a stop does not wait for replicas.
    pub hurries: AtomicBool,
    /// When there was last a replica of ashlar.
    pub(crate) last_native_ms: AtomicI64,
}

impl Replication {
    /// Of a server that starts; `replid` names the history of its changes.
    pub fn new(replid: String) -> Replication {
        Replication {
            feed: Arc::new(Feed::new(replid)),
            follower: Follower::default(),
            failover: Default::default(),
            replicas: Mutex::default(),
            waits: Mutex::default(),
            acked: Condvar::new(),
            acked_lock: Mutex::default(),
            restricted: Arc::default(),
            syncs: Default::default(),
            last_ping_ms: AtomicI64::new(0),
            last_replica_ms: AtomicI64::new(0),
            closed: AtomicBool::new(false),
            hurries: AtomicBool::new(false),
            last_native_ms: AtomicI64::new(0),
        }
    }

    /// The replicas, by client id.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.lock().values().cloned().collect()
    }

    /// Number of replicas that have told to have everything up to there.
    pub fn acknowledged(&self, target: &Target) -> usize {
        let has = |replica: &&Arc<Replica>| {
            let wanted = if replica.native { target.position } else { target.offset };
            let told = if target.aof.is_some() { &replica.durable } else { &replica.acked };
            replica.online.load(Ordering::Acquire) && told.load(Ordering::Acquire) >= wanted
        };
        self.replicas.lock().values().filter(has).count()
    }

    /// Number of replicas that have been heard of in the last `lag_ms`.
    pub fn good(&self, now_ms: i64, lag_ms: i64) -> usize {
        let is_good = |replica: &&Arc<Replica>| {
            replica.online.load(Ordering::Acquire)
                && now_ms - replica.acked_ms.load(Ordering::Acquire) <= lag_ms
        };
        self.replicas.lock().values().filter(is_good).count()
    }

    /// From now on `min-replicas-to-write` is looked at as soon as it is set.
    pub fn follow_settings(&self, settings: &Settings) {
        let restricted = self.restricted.clone();
        let watched = settings.subscribe(&[ids::MIN_REPLICAS_TO_WRITE], move |settings| {
            if settings.count(ids::MIN_REPLICAS_TO_WRITE) > 0 {
                restricted.store(true, Ordering::Release);
            }
            Ok(())
        });
        debug_assert!(watched.is_ok(), "the subscriber refuses nothing");
    }

    /// The workers have ended, and nothing changes any more: waits until the replicas have all, but not for ever,
    /// and ends their connections.
    pub fn close(&self, settings: &Settings, engine: &ashlar_engine::Engine) {
        let seconds = settings.count(ids::SHUTDOWN_TIMEOUT);
        let patience = if self.hurries.load(Ordering::Acquire) { 0 } else { seconds };
        let deadline = Instant::now() + Duration::from_secs(patience);
        let is_behind = || {
            let wanted = [self.feed.offset(), engine.position().position];
            self.replicas.lock().values().any(|replica| {
                let online = replica.online.load(Ordering::Acquire);
                let acked = replica.acked.load(Ordering::Acquire);
                online
                    && !replica.gone.load(Ordering::Acquire)
                    && acked < wanted[usize::from(replica.native)]
            })
        };
        while is_behind() {
            if Instant::now() >= deadline {
                tracing::warn!("not all replicas have all writes: they go on after the next start");
                break;
            }
            self.ask_nodes(engine);
            self.wait_acked(Duration::from_millis(20));
        }
        self.closed.store(true, Ordering::Release);
    }

    /// Whether replicas are served no longer.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the connection of a replica.
    pub fn kill(&self, id: u64) {
        if let Some(replica) = self.replicas.lock().get(&id) {
            replica.gone.store(true, Ordering::Release);
        }
    }

    fn add(&self, replica: Arc<Replica>) {
        self.replicas.lock().insert(replica.id, replica);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.replicas.lock().remove(&id);
        self.feed.forget(id);
        self.notify_acked();
    }

    fn notify_acked(&self) {
        drop(self.acked_lock.lock());
        self.acked.notify_all();
    }

    /// Whether it is for this node to say which keys have expired: not while another one is the primary, or
    /// about to be.
    pub fn decides(&self) -> bool {
        !self.follower.is_following() && !self.failover.is_on()
    }

    /// Waits until a replica tells how far it is, but not for long.
    fn wait_acked(&self, wait: Duration) {
        self.acked.wait_for(&mut self.acked_lock.lock(), wait);
    }

    /// Asks the replicas that are nodes of ashlar how far they are.
    fn ask_nodes(&self, engine: &ashlar_engine::Engine) {
        for replica in self.replicas.lock().values().filter(|replica| replica.native) {
            replica.asked.store(true, Ordering::Release);
        }
        engine.shipping().wake();
    }

    /// Asks the replicas how far they are.
    pub fn ask(&self, engine: &ashlar_engine::Engine) {
        self.ask_nodes(engine);
        self.feed.push(&[b"REPLCONF", b"GETACK", b"*"]);
    }

    /// Answers the parked `waiter` once so many replicas are there.
    pub fn wait(&self, waiter: Arc<Waiter>, target: Target, replicas: usize) {
        self.waits.lock().push(Wait { waiter, target, replicas });
    }

    /// Whether a client waits.
    pub fn has_waits(&self) -> bool {
        !self.waits.lock().is_empty()
    }

    /// The parked clients whose wait is over, each with its reply.
    fn served(&self, durable: u64) -> Vec<(Arc<Waiter>, Vec<u8>)> {
        let mut served = Vec::new();
        self.waits.lock().retain(|wait| {
            let count = self.acknowledged(&wait.target);
            let here = wait.target.aof.is_none_or(|index| index <= durable);
            let done = count >= wait.replicas && here;
            if done {
                let reply = match wait.target.aof {
                    None => format!(":{count}\r\n"),
                    Some(index) => format!("*2\r\n:{}\r\n:{count}\r\n", i32::from(index > 0)),
                };
                served.push((wait.waiter.clone(), reply.into_bytes()));
            }
            !done && !wait.waiter.is_done()
        });
        served
    }

    /// Ten times a second: sends a sign of life now and then, and forgets the stream when nobody has
    /// followed for long.
    pub fn tick(&self, settings: &Settings, engine: &ashlar_engine::Engine, now_ms: i64) {
        ship::tick(self, settings, engine, now_ms);
        if !self.feed.is_active() {
            return;
        }
        if !self.replicas.lock().is_empty() {
            self.last_replica_ms.store(now_ms, Ordering::Relaxed);
            let period_ms = settings.number(ids::REPL_PING_REPLICA_PERIOD).saturating_mul(1000);
            if now_ms - self.last_ping_ms.load(Ordering::Relaxed) >= period_ms {
                self.last_ping_ms.store(now_ms, Ordering::Relaxed);
                self.feed.push(&[b"PING"]);
            }
            return;
        }
        let ttl_ms = settings.number(ids::REPL_BACKLOG_TTL).saturating_mul(1000);
        if ttl_ms > 0 && now_ms - self.last_replica_ms.load(Ordering::Relaxed) > ttl_ms {
            let mut executor = engine.executor();
            executor.lock_all();
            engine.set_propagating(false);
            self.feed.stop(&feed::new_replid());
        }
    }
}
