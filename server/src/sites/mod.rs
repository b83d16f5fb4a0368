//! This server as one of several sites: the links to the others, and what comes from them. The merge
//! itself is in `ashlar_replication::sites`.
//!
//! ```text
//! call on a global key -> engine -> SiteNode (what it meant) -> a link's thread -> SITE MERGE of the peer
//! SITE MERGE of a peer -> SiteNode -> calls on the engine, records in the log -> reply: acknowledged
//! ```
//! A link is a connection as a client has one: the peer's users, TLS and limits hold for it; with
//! `tls-replication` both sides show certificates. Its
//! replies pass the gate like any other, so what is acknowledged is as safe as `appendfsync` asks.

pub mod groups;
pub mod link;
mod local;
pub mod peer;
pub mod status;

use crate::clock;
use crate::config::{Settings, ids};
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, KeyList};
use ashlar_engine::engine::Engine;
use ashlar_engine::error::Error;
use ashlar_engine::policy::Class;
use ashlar_replication::sites::element::SiteId;
use ashlar_replication::sites::node::SiteNode;
use link::LinkState;
use local::Local;
use parking_lot::Mutex;
use peer::{Home, Peer};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What a client is told that writes `global` keys at a backup.
pub const BACKUP: &str =
    "READONLY This site is a backup: it takes no writes on global keys (see SITE PROMOTE)";

/// What another site is told whose connection is not its last one.
pub const STALE: &str = "SITESTALE another connection took its place";

/// What a site is told that nobody has named here.
pub fn not_known(site: SiteId) -> Error {
    Error::owned(format!("ERR site {site} is not known here: it takes a SITE ADD on both sides"))
}

/// What this server is among the sites.
pub struct Sites {
    /// What it knows.
    pub node: Arc<SiteNode>,
    /// Its number.
    pub id: SiteId,
    /// Its name.
    pub name: String,
    /// Whether it only follows.
    pub is_backup: AtomicBool,
    /// The others, by the names they have here.
    peers: Mutex<BTreeMap<String, Arc<Peer>>>,
    /// This value itself.
    this: Weak<Sites>,
    /// The last connection of each other site to this one.
    sessions: Mutex<BTreeMap<SiteId, u64>>,
    /// Held while a batch is taken in: those of an old connection are not mixed with a new one's.
    pub taking: Mutex<()>,
    /// A stamp below which nothing happens here any more, and when that was recorded.
    promised: Mutex<(u64, i64)>,
    next_session: AtomicU64,
    /// Batches that were refused, as their stamps were too far ahead.
    pub refused_clock: AtomicU64,
}

/// Milliseconds between two records of the clock.
const PROMISE_EVERY_MS: i64 = 200;

/// What the configuration makes of this server; `None` where it is no site.
pub fn open(settings: &Settings, engine: &Arc<Engine>) -> io::Result<Option<Arc<Sites>>> {
    let id = SiteId::try_from(settings.number(ids::SITE_ID)).unwrap_or(0);
    if id == 0 {
        return Ok(None);
    }
    if !settings.flag(ids::APPENDONLY) {
        return Err(io::Error::other(
            "site-id needs appendonly yes: what the sites know of each other is in the log",
        ));
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let seed = u64::from_le_bytes(seed);
    // The engine keeps the node, so the node must not keep the engine.
    let weak = Arc::downgrade(engine);
    let is_global = move |key: &[u8]| {
        weak.upgrade().is_some_and(|engine| engine.policies().class_of(key) == Class::Global)
    };
    let node = Arc::new(SiteNode::new(id, seed, Box::new(is_global)));
    engine.set_sites(node.clone());
    engine.set_sites_by_policy();
    let name = settings.string(ids::SITE_NAME);
    Ok(Some(Arc::new_cyclic(|this| Sites {
        this: this.clone(),
        node,
        id,
        name: if name.is_empty() { format!("site-{id}") } else { name },
        is_backup: AtomicBool::new(settings.flag(ids::SITE_BACKUP)),
        peers: Mutex::default(),
        sessions: Mutex::default(),
        taking: Mutex::default(),
        promised: Mutex::default(),
        next_session: AtomicU64::new(1),
        refused_clock: AtomicU64::new(0),
    })))
}

impl Sites {
    /// The data is loaded: from now on calls are news, and the links start.
    pub fn enter(&self, shared: &Arc<Shared>) {
        let stamp = shared.stamp(clock::now_ms());
        self.node.recovered();
        shared.engine.set_sites_active(true);
        let mut exec = shared.engine.executor();
        self.node.adopt(&mut exec, &stamp);
        let peers = self.node.site().peers.clone();
        if peers.promoted {
            self.is_backup.store(false, Ordering::Release);
        }
        for (name, peer) in peers.list {
            self.start(shared, &name, &peer.host, peer.port);
        }
    }

    /// Whether a client's write is refused, as this site only follows.
    pub fn refuses(&self, command: &Command, args: &[&[u8]]) -> bool {
        self.is_backup.load(Ordering::Acquire)
            && writes_global(command, args, |key| self.node.is_global(key))
    }

    /// Starts the link to another site.
    pub fn start(&self, shared: &Arc<Shared>, name: &str, host: &str, port: u16) {
        let Some(this) = self.this.upgrade() else { return };
        let peer = Peer::spawn(shared, this, name, (host.to_owned(), port));
        if let Some(old) = self.peers.lock().insert(name.to_owned(), peer) {
            old.stop();
        }
    }

    /// Ends the link to another site.
    pub fn stop(&self, name: &str) {
        if let Some(old) = self.peers.lock().remove(name) {
            old.stop();
        }
    }

    /// The links as they are now.
    pub fn links(&self) -> Vec<Arc<LinkState>> {
        self.peers.lock().values().flat_map(|peer| peer.links()).collect()
    }

    /// A new connection of another site; those before are void.
    pub fn begin_session(&self, site: SiteId) -> u64 {
        let session = self.next_session.fetch_add(1, Ordering::AcqRel);
        self.sessions.lock().insert(site, session);
        session
    }

    /// Whether a connection is the last one of its site.
    pub fn is_current(&self, site: SiteId, session: u64) -> bool {
        self.sessions.lock().get(&site) == Some(&session)
    }

    /// A stamp below which nothing happens here any more; recorded now and then.
    pub fn promise(
        &self,
        shared: &Shared,
        exec: &mut ashlar_engine::executor::Executor<'_>,
    ) -> u64 {
        let now_ms = clock::now_ms();
        let mut promised = self.promised.lock();
        if shared.replication.failover.is_on() {
            // Nothing is to be recorded, and what was promised stays true.
            return promised.0;
        }
        if promised.0 == 0 || (now_ms - promised.1).abs() >= PROMISE_EVERY_MS {
            promised.0 = self.node.promise(exec, &shared.stamp(now_ms));
            promised.1 = now_ms;
            self.node.tidy(exec, promised.0, &shared.stamp(now_ms), FORGET_KEYS_MAX);
            let acknowledged = self.links().iter().map(|link| link.acknowledged()).min();
            if let Some(acknowledged) = acknowledged {
                self.node.site().recent.release(acknowledged);
            }
        }
        promised.0
    }
}

impl Home for Sites {
    fn ends(&self, _: &Shared) -> Vec<Local> {
        self.this.upgrade().into_iter().map(Local::Server).collect()
    }

    fn learn(&self, shared: &Arc<Shared>, name: &str, id: SiteId, groups: &[SiteId]) {
        let known = self.node.site().peers.list.get(name).cloned();
        let Some(known) = known else { return };
        if id == self.id || known.id == Some(id) && known.groups == groups {
            return;
        }
        if shared.replication.failover.is_on() {
            return;
        }
        let stamp = shared.stamp(clock::now_ms());
        self.node.change_peers(&mut shared.engine.executor(), &stamp, |peers| {
            if let Some(peer) = peers.list.get_mut(name) {
                (peer.id, peer.groups) = (Some(id), groups.to_vec());
            }
        });
    }
}

/// Whether a command that writes may change a global key.
pub fn writes_global(command: &Command, args: &[&[u8]], is_global: impl Fn(&[u8]) -> bool) -> bool {
    let mut positions = KeyList::new();
    command.keys.positions(args, &mut positions);
    let mut keys = positions.iter().filter_map(|at| args.get(*at));
    command.flags.contains(Flags::WHOLE_KEYSPACE) || keys.any(|key| is_global(key))
}

/// Keys that are looked at each time, to forget what every site knows to be gone.
const FORGET_KEYS_MAX: usize = 4_096;
