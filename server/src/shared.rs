//! What all workers share.

use crate::acl::Acl;
use crate::blocking::Blocking;
use crate::blocking::Waiter;
use crate::clients::{Client, Clients};
use crate::clock;
use crate::cluster::Member;
use crate::config::{Settings, ids};
use crate::gate::Gate;
use crate::info::Identity;
use crate::latency::LatencyMonitor;
use crate::mailbox::{Mailbox, Message};
use crate::persistence::Persistence;
use crate::pubsub::PubSub;
use crate::registry::Registry;
use crate::replication::Replication;
use crate::scripting::busy::Scripts;
use crate::sites::Sites;
use crate::slowlog::SlowLog;
use crate::stats::Stats;
use crate::strong::Strong;
use crate::tier::ColdTier;
use crate::tls::Tls;
use crate::tracking::Tracking;
use ashlar_engine::effects::Effects;
use ashlar_engine::engine::Engine;
use ashlar_engine::executor::Executor;
use ashlar_engine::keyspace::FlushedDb;
use ashlar_engine::stamp::Stamp;
use ashlar_engine::value::Value;
use crossbeam::channel::Sender;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// Values whose drop takes long; a thread of its own does it.
pub enum Trash {
    /// Values that were removed.
    Values(Vec<Box<Value>>),
    /// Databases that were emptied.
    Databases(Vec<FlushedDb>),
}

/// CLIENT PAUSE
#[derive(Debug, Default)]
pub struct Pause {
    /// Whether a pause is on; looked at by every command.
    pub active: AtomicBool,
    /// When it ends, Unix milliseconds.
    pub until_ms: AtomicI64,
    /// Whether only writes wait.
    pub writes_only: AtomicBool,
    /// Whether writes wait for a fail-over, whatever clients ask for.
    pub failing_over: AtomicBool,
}

impl Pause {
    /// Ends it if its time is over and nothing else keeps writes waiting.
    pub fn end_if_over(&self, now_ms: i64) {
        let is_over = || {
            self.until_ms.load(Ordering::SeqCst) <= now_ms
                && !self.failing_over.load(Ordering::SeqCst)
        };
        if is_over() && self.active.swap(false, Ordering::SeqCst) && !is_over() {
            // Another one has begun in between.
            self.active.store(true, Ordering::SeqCst);
        }
    }
}

/// The server, as its workers see it.
pub struct Shared {
    /// The data.
    pub engine: Arc<Engine>,
    /// The log and the replies that wait for it, where there is one; set once data is loaded.
    pub gate: OnceLock<Gate>,
    /// The log's thread, where the log was begun after the start.
    pub log_thread: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Snapshots and loading.
    pub persistence: Arc<Persistence>,
    /// Whether the data is saved once the workers have ended, where SHUTDOWN said so; otherwise that
    /// follows from `save`.
    pub saves_at_end: OnceLock<bool>,
    /// The settings.
    pub settings: Settings,
    /// The commands.
    pub registry: Registry,
    /// The users.
    pub acl: Arc<Acl>,
    /// What encrypted connections are accepted with.
    pub tls: Arc<Tls>,
    /// The connected clients.
    pub clients: Clients,
    /// The subscriptions.
    pub pubsub: PubSub,
    /// The clients that keep what they read.
    pub tracking: Tracking,
    /// The parked commands.
    pub blocking: Blocking,
    /// What follows this server, and what it follows.
    pub replication: Replication,
    /// This node as a member of a cluster; set once the runtime is there, with `cluster-enabled`.
    pub cluster: OnceLock<Arc<dyn Member>>,
    /// What Sentinel clients have been told of.
    pub cluster_seen: crate::cluster::watch::Seen,
    /// The same node, for requests on strong keys.
    pub strong: OnceLock<Arc<Strong>>,
    /// This value itself, for threads that are started on the way.
    pub this: OnceLock<Weak<Shared>>,
    /// The scripts that are known, and the one that is busy.
    pub scripts: Scripts,
    /// The workers' mailboxes, by number.
    pub mailboxes: Vec<Mailbox>,
    /// The clients that see every command.
    pub monitors: RwLock<Vec<Arc<Client>>>,
    /// Whether there are any.
    pub monitored: AtomicBool,
    /// CLIENT PAUSE
    pub pause: Pause,
    /// Where large values go to be dropped.
    pub trash: Sender<Trash>,
    /// What identifies this run.
    pub identity: Identity,
    /// The counters.
    pub stats: Stats,
    /// SLOWLOG
    pub slow_log: SlowLog,
    /// LATENCY
    pub latency: LatencyMonitor,
    /// Whether keys are deleted once they have expired, even if nobody asks (DEBUG
    /// SET-ACTIVE-EXPIRE).
    pub active_expire: AtomicBool,
    /// When the server started, Unix milliseconds.
    pub started_ms: i64,
    /// Port it listens on; 0 where there is none.
    pub port: u16,
    /// Set once the server is to stop.
    pub stopping: AtomicBool,
    /// Randomness of the stamps.
    pub seeds: AtomicU64,
    /// When upkeep is due again, Unix milliseconds.
    pub next_upkeep_ms: AtomicI64,
    /// Counts the connections that were made inside the process.
    pub adopted: AtomicU64,
    /// What this server is among sites that all take writes, if it is one.
    pub sites: Option<Arc<Sites>>,
    /// The cold tier, if there is one.
    pub cold: Option<ColdTier>,
    /// Connections that wait for room in memory.
    pub waiting_for_room: AtomicUsize,
}

impl Shared {
    /// The stamp of calls that are accepted at `now_ms`.
    pub fn stamp(&self, now_ms: i64) -> Stamp {
        let seed = self.seeds.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let site = self.sites.as_ref().map_or(0, |sites| sites.id);
        Stamp { site, ..Stamp::new(now_ms, seed) }
    }

    /// This value itself, to be kept by a thread; `None` while the server stops.
    pub fn arc(&self) -> Option<Arc<Shared>> {
        self.this.get()?.upgrade()
    }

    /// Answers a client whose command is parked, unless it has been answered or has given up. Locks
    /// that `exec` holds are released.
    pub fn answer(&self, exec: &mut Executor<'_>, waiter: &Arc<Waiter>, reply: Vec<u8>) {
        if self.blocking.cancel(waiter, exec) {
            let message = Message::Unblock(waiter.address, reply);
            self.mailboxes[waiter.address.worker].post(message);
        }
    }

    /// Whether upkeep is due and the caller is the one to do it. A clock that went back must not
    /// stop it, so a time too far ahead counts as due.
    pub fn claim_upkeep(&self, now_ms: i64, interval_ms: i64) -> bool {
        let due_ms = self.next_upkeep_ms.load(Ordering::Relaxed);
        let is_due = now_ms >= due_ms || due_ms - now_ms > interval_ms;
        is_due
            && self
                .next_upkeep_ms
                .compare_exchange(
                    due_ms,
                    now_ms + interval_ms,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Whether clients have to authenticate.
    pub fn needs_password(&self) -> bool {
        self.acl.needs_password()
    }

    /// Sends what has become garbage to the thread that drops it.
    pub fn discard(&self, effects: &mut Effects) {
        // Without a receiver (at the end of the process) the values are dropped right here.
        if !effects.garbage.is_empty() {
            drop(self.trash.send(Trash::Values(std::mem::take(&mut effects.garbage))));
        }
        if !effects.flushed.is_empty() {
            drop(self.trash.send(Trash::Databases(std::mem::take(&mut effects.flushed))));
        }
    }

    /// Tells every worker.
    pub fn broadcast(&self, message: impl Fn() -> Message) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(message()));
    }

    /// Tells every worker that there may be room in memory, if any connection waits for it.
    pub fn broadcast_waiting_for_room(&self) {
        if self.waiting_for_room.load(Ordering::Acquire) > 0 {
            self.broadcast(|| Message::Room);
        }
    }

    /// Something took so long: the latency monitor keeps it, if that is much.
    pub fn note_latency(&self, event: &'static str, took: Duration) {
        let threshold_ms = self.settings.count(ids::LATENCY_MONITOR_THRESHOLD);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if threshold_ms > 0 && ms >= threshold_ms {
            self.latency.add(event, clock::now_ms() / 1000, ms);
        }
    }

    /// The gate of the log, while there is a log that takes records.
    #[inline]
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.get().filter(|_| self.engine.journal().is_some())
    }

    /// Starts an orderly stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.broadcast(|| Message::Shutdown);
    }
}
