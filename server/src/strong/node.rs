//! This node of the cluster, as the rest of the server sees it.

use super::frozen::FrozenSlots;
use super::heard::{self, Heard};
use super::libraries::{self, Everywhere};
use super::machine::ShardMachine;
use super::path::{Agreed, Agreement, Confirmed, refusal, refusals};
use super::tables;
use crate::clock;
use crate::cluster::{Done, Member};
use crate::config::{READS_LEASE, READS_LOCAL, ids};
use crate::mailbox::{Address, Message};
use crate::redis_files;
use crate::registry::Resolved;
use crate::shared::Shared;
use crate::sites::groups::ClusterSites;
use ashlar_engine::command::Flags;
use ashlar_engine::commands::internal;
use ashlar_engine::disk::{Disk, Mode, RealDisk};
use ashlar_engine::engine::Engine;
use ashlar_engine::reply::Protocol;
use ashlar_engine::slot::SLOTS;
use ashlar_engine::stamp::Stamp;
use ashlar_engine::storage::{self, DIRECTORY, Directory, RecoverOptions, Recovering};
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::{Answer, GroupId, OwnedCall, Request, RequestId, Settings};
use ashlar_replication::runtime::{
    self, DATA_GROUPS_MAX, Event, Handle, Options, SiteWrites, wire,
};
use ashlar_replication::sites::group::GroupSites;
use ashlar_replication::topology::{Change, META_GROUP, SlotRange, Topology};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Keys that one look for expired keys deletes in a group.
const EXPIRED_KEYS_MAX: usize = 256;
/// Hashes that one look for expired fields visits in a group.
const EXPIRED_HASHES_MAX: usize = 256;
/// The file that says that a node's keys from before it was one of a cluster are in their groups.
const GROWN: &str = "grown";
/// By how much two clocks may run apart while a lease holds.
const LEASE_DRIFT_PERCENT: u32 = 10;

/// First byte of a message between hosts that is about leaders; 0 and 1 are PUBLISH and SPUBLISH.
const LEADS: u8 = 2;
/// How often other nodes are told what they know already.
const TELL_US: u64 = 1_000_000;

/// The node.
pub struct Strong {
    handle: Arc<Handle>,
    shared: Weak<Shared>,
    engine: Arc<Engine>,
    /// The group of each slot, 0 for nobody's: to be looked up without a lock.
    groups: Arc<[AtomicU16; SLOTS as usize]>,
    /// Whether all slots have a group and none is moving.
    calm: Arc<AtomicBool>,
    frozen: Arc<FrozenSlots>,
    /// Whether reads are answered from what is here, without a round.
    local_reads: bool,
    /// What other leaders tell of their groups.
    heard: Heard,
    /// What this node told last of those that it leads, and when.
    told: Mutex<(Vec<u8>, u64)>,
    /// The groups among the sites.
    sites: Arc<ClusterSites>,
    /// Who waits for classes of keys, or sites.
    tables: tables::Waiting,
    /// Who waits until all nodes have libraries of functions.
    libraries: libraries::Waiting,
    /// The groups whose replica here has been as new as its leader's since the start.
    caught_up: Box<[AtomicBool]>,
    /// Reads of `async` keys that this node answered though it does not lead them, and those that it sent to
    /// the leader instead.
    nearest: [AtomicU64; 2],
}

/// What the runtime calls on its thread.
struct NodeHost {
    shared: Arc<Shared>,
    sites: Arc<ClusterSites>,
    groups: Arc<[AtomicU16; SLOTS as usize]>,
    calm: Arc<AtomicBool>,
    frozen: Arc<FrozenSlots>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Whether the file is there that says so.
    grown: AtomicBool,
}

impl NodeHost {
    /// Once all groups have been started nobody needs the keys any more that were there before them.
    fn note_growth(&self, topology: &Topology) {
        let all = topology.is_created() && topology.groups.values().all(|group| group.born);
        if !all || self.grown.load(Ordering::Relaxed) {
            return;
        }
        let written = self.disk.open(&self.dir.join(GROWN), Mode::Create);
        let written = written.and_then(|file| {
            file.sync_data()?;
            self.disk.sync_dir(&self.dir)
        });
        self.grown.store(written.is_ok(), Ordering::Relaxed);
        let left: usize = self.shared.engine.rows_left();
        if left > 0 {
            tracing::warn!(
                "{left} keys from before the node joined the cluster are not part of it"
            );
        }
    }
}

/// A node that runs.
pub struct Running {
    strong: Arc<Strong>,
    thread: JoinHandle<()>,
    _lock: Box<dyn Any + Send>,
}

impl Running {
    /// Ends the node, and waits until it has ended.
    ///
    /// # Errors
    /// If its thread panicked.
    pub fn stop(self) -> io::Result<()> {
        drop(self.strong.handle.ask(Event::Stop));
        self.thread.join().map_err(|_| io::Error::other("the node's thread panicked"))
    }
}

/// Starts this node of a cluster. Its files are in `ashlar-data/node` below `dir`.
///
/// # Errors
/// If they are damaged or in use, or the system gives no socket or thread.
pub fn start(shared: &Arc<Shared>) -> io::Result<Running> {
    let settings = &shared.settings;
    let data = Path::new(&settings.string(ids::DIR)).join(DIRECTORY);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    disk.create_dir(&data)?;
    let dir = data.join("node");
    let lock = hold(shared, &disk, &data, &dir)?;
    let port = crate::cluster::peer_port(settings, shared.port);
    let bind = bind_address(&settings.string(ids::BIND));
    let listener = std::net::TcpListener::bind((bind.as_str(), port)).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("can't listen on {bind}:{port} for other nodes: {error}"),
        )
    })?;
    let mut random = [0; 28];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = [0; 20];
    name.copy_from_slice(&random[..20]);
    let mut seed = [0; 8];
    seed.copy_from_slice(&random[20..]);
    let groups: Arc<[AtomicU16; SLOTS as usize]> =
        Arc::new([const { AtomicU16::new(0) }; SLOTS as usize]);
    let calm = Arc::new(AtomicBool::new(false));
    let frozen = Arc::new(FrozenSlots::default());
    let mut places = [0; 8];
    getrandom::fill(&mut places).map_err(io::Error::other)?;
    let sites = ClusterSites::new(GroupSites::install(&shared.engine, u64::from_le_bytes(places)));
    let host = NodeHost {
        shared: shared.clone(),
        sites: sites.clone(),
        frozen: frozen.clone(),
        groups: groups.clone(),
        calm: calm.clone(),
        disk: disk.clone(),
        dir: dir.clone(),
        grown: AtomicBool::new(disk.open(&dir.join(GROWN), Mode::Read).is_ok()),
    };
    let options = Options {
        disk,
        dir,
        name,
        listener,
        secret: settings.string(ids::CLUSTER_SECRET).as_bytes().to_vec(),
        security: Box::new(super::security::Links::new(shared)),
        settings: timing(settings),
        seed: u64::from_le_bytes(seed),
    };
    let nonce = || {
        let mut nonce = [0; 32];
        // Without randomness a greeting could be repeated; the next one is tried anew.
        let _ = getrandom::fill(&mut nonce);
        nonce
    };
    let (handle, thread) = runtime::start(host, options, nonce)?;
    let strong = Arc::new(Strong {
        handle,
        shared: Arc::downgrade(shared),
        engine: shared.engine.clone(),
        groups,
        calm,
        frozen,
        local_reads: settings.number(ids::CLUSTER_READS) == READS_LOCAL,
        heard: Heard::default(),
        told: Mutex::default(),
        tables: tables::Waiting::default(),
        sites,
        libraries: libraries::Waiting::default(),
        caught_up: (0..=DATA_GROUPS_MAX).map(|_| AtomicBool::new(false)).collect(),
        nearest: Default::default(),
    });
    let handle = strong.handle.clone();
    shared.persistence.leave_to_groups(move || drop(handle.ask(Event::SaveAll)));
    drop(shared.strong.set(strong.clone()));
    drop(shared.cluster.set(strong.clone()));
    // What the runtime said before anybody could hear it.
    let topology = strong.handle.topology();
    assign(shared, &strong.groups, &topology);
    crate::cluster::functions::take(shared, &topology);
    strong.sites.follow(shared, &topology);
    Ok(Running { strong, thread, _lock: lock })
}

/// Tells the engine and the workers which group has which slot.
///
/// Returns the slots that were a group's and are another one's now.
fn assign(
    shared: &Shared,
    groups: &[AtomicU16; SLOTS as usize],
    topology: &Topology,
) -> BTreeSet<u16> {
    let mut moved = BTreeSet::new();
    let mut changed: BTreeMap<GroupId, Vec<u16>> = BTreeMap::new();
    for slot in 0..SLOTS {
        let group = topology.group_of(slot).unwrap_or(0);
        if u32::from(groups[usize::from(slot)].load(Ordering::Relaxed)) != group {
            changed.entry(group).or_default().push(slot);
        }
    }
    for (group, slots) in changed {
        let shard = (group as usize).min(DATA_GROUPS_MAX);
        shared.engine.assign_slots(slots.iter().copied(), shard);
        for slot in slots {
            if groups[usize::from(slot)].swap(group as u16, Ordering::Relaxed) != 0 {
                moved.insert(slot);
            }
        }
    }
    moved
}

/// Locks the data directory. Keys that are there from before the node was one of a cluster are loaded:
/// its groups will start with them.
fn hold(
    shared: &Arc<Shared>,
    disk: &Arc<dyn Disk>,
    data: &Path,
    dir: &Path,
) -> io::Result<Box<dyn Any + Send>> {
    let other = |error: storage::StorageError| io::Error::other(error.to_string());
    if disk.open(&dir.join(GROWN), Mode::Read).is_ok() {
        return Ok(Box::new(storage::lock(&**disk, data).map_err(other)?));
    }
    let directory = Directory::open(disk.clone(), data, shared.stamp(0).seed).map_err(other)?;
    if directory.is_empty()
        && let Some(source) = redis_files::find(&shared.settings)?
    {
        // Its functions and keys are the groups' before anybody is answered.
        redis_files::load(shared, &source)?;
    }
    let options = RecoverOptions {
        log: false,
        segment_bytes: shared.settings.count(ids::LOG_SEGMENT_SIZE),
        threads: 1,
        relieve: None,
        zeroed: false,
    };
    let progress = Recovering::default();
    let (storage, _) = directory.recover(&shared.engine, &options, &progress).map_err(other)?;
    let databases = shared.engine.db_stats();
    let keys: usize = databases.iter().map(|db| db.keys).sum();
    if databases.iter().skip(1).any(|db| db.keys > 0) {
        return Err(io::Error::other(
            "a cluster has one database, but there are keys in others than 0: move them first",
        ));
    }
    if keys > 0 {
        tracing::info!("loaded {keys} keys, with which the groups of the cluster will start");
    }
    Ok(Box::new(storage))
}

/// The address on which other nodes are awaited: the first one that clients are, or all.
fn bind_address(bind: &str) -> String {
    let address = bind.split_ascii_whitespace().next().map(|word| word.trim_start_matches('-'));
    match address {
        None | Some("*" | "::*") => "0.0.0.0".to_owned(),
        Some(address) => address.to_owned(),
    }
}

/// How long things take, from `down-after-milliseconds`: its fifth is the time without a leader after
/// which its followers elect another one.
fn timing(settings: &crate::config::Settings) -> Settings {
    const ELECTION_TICKS: u64 = 20;
    let election_us = crate::cluster::election_timeout_ms(settings) * 1000;
    let lease = settings.number(ids::CLUSTER_READS) == READS_LEASE;
    Settings {
        tick_us: election_us / ELECTION_TICKS,
        election_ticks: ELECTION_TICKS as usize,
        heartbeat_ticks: 2,
        lease_drift_percent: lease.then_some(LEASE_DRIFT_PERCENT),
        snapshot_bytes: 64 << 20,
        ..Settings::default()
    }
}

impl Strong {
    /// The runtime.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The groups among the sites.
    pub fn sites(&self) -> &Arc<ClusterSites> {
        &self.sites
    }

    /// The group of a slot.
    #[inline]
    pub fn group_of(&self, slot: u16) -> Option<GroupId> {
        let group = self.groups[usize::from(slot)].load(Ordering::Relaxed);
        (group != 0).then_some(group.into())
    }

    /// Whether the engine looks for the keys of a slot where those of a group are.
    #[inline]
    pub fn is_in_shard_of(&self, group: GroupId, slot: u16, engine: &Engine) -> bool {
        engine.shard_of_slot(slot) == (group as usize).min(DATA_GROUPS_MAX)
    }

    /// Whether this node leads a group, as far as it knows.
    #[inline]
    pub fn leads(&self, group: GroupId) -> bool {
        self.handle.leader(group) == Some(self.handle.me())
    }

    /// The group of a slot if this node answers for it and there is nothing else to look at: all slots
    /// have a group, and none is moving.
    #[inline]
    pub fn quick_route(&self, slot: u16) -> Option<GroupId> {
        let calm = self.calm.load(Ordering::Acquire);
        self.group_of(slot).filter(|group| calm && self.leads(*group))
    }

    /// Whether what is here is as new as anything that was answered, at this moment.
    #[inline]
    pub fn holds_lease(&self, group: GroupId) -> bool {
        self.handle.holds_lease(group)
    }

    /// Whether a slot has left a group, or is about to, as far as the replica here has applied.
    #[inline]
    pub fn is_frozen(&self, group: GroupId, slot: u16) -> bool {
        self.frozen.has(group, slot)
    }

    /// Whether the replica of a group here has been as new as its leader's since the start: a node that joins
    /// has nothing at first.
    pub fn has_caught_up(&self, group: GroupId) -> bool {
        let Some(known) = self.caught_up.get(group as usize) else { return false };
        let here = self.handle.group(group).is_some_and(|one| one.here.load(Ordering::Relaxed));
        if known.load(Ordering::Relaxed) != here || !here {
            // Whoever is named in a group that is settled was counted as caught up by its leader.
            known.store(here && self.is_settled(group), Ordering::Relaxed);
        }
        known.load(Ordering::Relaxed)
    }

    /// Counts a read of `async` keys at a node that does not lead them.
    pub fn count_nearest(&self, answered: bool) {
        self.nearest[usize::from(!answered)].fetch_add(1, Ordering::Relaxed);
    }

    /// Has all groups take a table, once this node knows that of that version.
    pub fn spread(&self, kind: tables::Kind, version: u64, done: tables::Spread) {
        self.tables.spread(&self.handle, kind, version, done);
    }

    /// Tells `done` which nodes have not said by then that they have the libraries of that version, of those
    /// that were heard of lately; at once where there are none.
    pub fn await_libraries(&self, version: u64, wait_us: u64, done: Everywhere) {
        let until_us = self.handle.now_us().saturating_add(wait_us);
        self.libraries.wait(version, until_us, done);
        self.look_for_libraries();
    }

    /// Looks whether those who wait for libraries have waited for long enough.
    pub fn look_for_libraries(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (topology, me) = (self.topology(), self.me());
        let limit_ms = crate::cluster::election_timeout_ms(&shared.settings);
        self.libraries.look(self.handle.now_us(), |version| {
            let has = |node: NodeId| match node == me {
                true => crate::cluster::functions::version(&shared),
                false => self.heard.libraries_of(node),
            };
            let is_heard = |node| self.silent_ms(node).is_some_and(|silent| silent <= limit_ms);
            let nodes = topology.nodes.keys().copied();
            nodes.filter(|node| has(*node) < version && (*node == me || is_heard(*node))).collect()
        });
    }

    fn settled_epoch(&self, group: GroupId) -> u64 {
        self.handle.group(group).map_or(0, |group| group.settled_epoch.load(Ordering::Acquire))
    }

    /// Tells the other nodes of the groups that this one leads, and which libraries it has, where there is
    /// something new or it is time again.
    pub fn tell(&self) {
        let topology = self.topology();
        let mut led = Vec::new();
        for group in topology.groups.keys().filter(|group| self.leads(**group)) {
            led.push((*group, self.term(*group), self.settled_epoch(*group)));
        }
        let libraries = self.shared.upgrade();
        let libraries = libraries.map_or(0, |shared| crate::cluster::functions::version(&shared));
        if libraries > 0 {
            led.push((heard::LIBRARIES, libraries, 0));
        }
        let (message, now_us) = (heard::message(&led), self.handle.now_us());
        {
            let mut told = self.told.lock();
            if message.is_empty() || told.0 == message && now_us < told.1 + TELL_US {
                return;
            }
            *told = (message.clone(), now_us);
        }
        let me = self.handle.me();
        let to: Vec<NodeId> = topology.nodes.keys().copied().filter(|node| *node != me).collect();
        if !to.is_empty() {
            let payload = [&[wire::HOST, LEADS], message.as_slice()].concat();
            drop(self.handle.ask(Event::Message(to, payload)));
        }
    }

    /// Whether reads are not confirmed (`cluster-reads local`).
    pub fn reads_locally(&self) -> bool {
        self.local_reads
    }

    /// Whether a command may wait for its keys.
    pub fn is_blocking(&self, resolved: &Resolved) -> bool {
        resolved.command.flags.contains(Flags::BLOCKING)
    }

    /// The groups with data that this node leads.
    pub fn led(&self) -> Vec<GroupId> {
        (1..=DATA_GROUPS_MAX as GroupId).filter(|group| self.leads(*group)).collect()
    }

    /// Asks for what a connection waits for; it is told through its mailbox.
    pub fn ask(&self, address: Address, protocol: Protocol, agreement: Agreement) {
        let Some(shared) = self.shared.upgrade() else { return };
        let tell = move |shared: &Shared, agreed: Agreed| {
            shared.mailboxes[address.worker].post(Message::Agreed(address, agreed));
        };
        match agreement {
            Agreement::Propose(group, request, slots) => {
                let done = Box::new(move |answer: Answer| {
                    let replies = match answer {
                        Answer::Reply(replies) => replies,
                        answer => refusals(&shared, &slots, &answer, protocol),
                    };
                    tell(&shared, Agreed::Replies(replies));
                });
                self.handle.ask_or_refuse(Event::Propose(group, request, done));
            }
            Agreement::Confirm(group, confirmed) => {
                let done = Box::new(move |answer: Answer| {
                    let agreed = match &answer {
                        Answer::Reply(_) => Agreed::Confirmed(confirmed),
                        answer => {
                            let topology = shared.cluster.get().map(|member| member.topology());
                            let slots = topology.and_then(|one| one.slots_of(group).next());
                            Agreed::Refused(refusal(&shared, slots.unwrap_or(0), answer))
                        }
                    };
                    tell(&shared, agreed);
                });
                self.handle.ask_or_refuse(Event::Confirm(group, done));
            }
            Agreement::Flush(groups, args) => self.flush(groups, args, protocol, tell),
        }
    }

    fn flush(
        &self,
        groups: Vec<GroupId>,
        args: Vec<Vec<u8>>,
        protocol: Protocol,
        tell: impl Fn(&Shared, Agreed) + Send + Sync + 'static,
    ) {
        let Some(shared) = self.shared.upgrade() else { return };
        if groups.is_empty() {
            return tell(&shared, Agreed::Replies(b"+OK\r\n".to_vec()));
        }
        let left = Arc::new(Mutex::new((groups.len(), b"+OK\r\n".to_vec())));
        let tell = Arc::new(tell);
        for group in groups {
            let (left, tell, shared) = (left.clone(), tell.clone(), shared.clone());
            let stamp = shared.stamp(clock::now_ms());
            let calls = vec![OwnedCall { db: 0, args: args.clone() }];
            let done = Box::new(move |answer: Answer| {
                let mut left = left.lock();
                left.0 -= 1;
                match answer {
                    Answer::Reply(reply) if reply.starts_with(b"-") => left.1 = reply,
                    Answer::Reply(_) => {}
                    answer => left.1 = refusals(&shared, &[0], &answer, protocol),
                }
                if left.0 == 0 {
                    tell(&shared, Agreed::Replies(std::mem::take(&mut left.1)));
                }
            });
            self.propose(group, protocol, stamp, calls, done);
        }
    }

    /// Has a group apply calls that no client can repeat.
    pub fn propose(
        &self,
        group: GroupId,
        protocol: Protocol,
        stamp: Stamp,
        calls: Vec<OwnedCall>,
        done: runtime::Done,
    ) {
        let (id, conditions) = (RequestId::default(), Vec::new());
        let request = Box::new(Request { id, protocol, stamp, conditions, calls });
        self.handle.ask_or_refuse(Event::Propose(group, request, done));
    }

    /// Ten times a second: has the groups that this node leads delete what has expired, keys and fields.
    pub fn expire(&self, shared: &Shared, now_ms: i64) {
        for group in self.led() {
            let shard = group as usize;
            let keys = self.engine.find_expired(shard, now_ms, EXPIRED_KEYS_MAX);
            let hashes = self.engine.find_expired_fields(shard, now_ms, EXPIRED_HASHES_MAX);
            let calls = [(internal::EXPIRE, keys), (internal::EXPIRE_FIELDS, hashes)];
            let calls: Vec<OwnedCall> = calls
                .into_iter()
                .filter(|(_, keys)| !keys.is_empty())
                .map(|(name, keys)| {
                    let args = std::iter::once(name.as_bytes().to_vec()).chain(keys).collect();
                    OwnedCall { db: 0, args }
                })
                .collect();
            if calls.is_empty() {
                continue;
            }
            let stamp = shared.stamp(now_ms);
            self.propose(group, Protocol::Resp2, stamp, calls, Box::new(|_| {}));
        }
    }
}

impl Member for Strong {
    fn me(&self) -> NodeId {
        self.handle.me()
    }

    fn name(&self) -> [u8; 20] {
        self.handle.name()
    }

    fn peer_port(&self) -> u16 {
        self.handle.peer_port
    }

    fn topology(&self) -> Arc<Topology> {
        self.handle.topology()
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        let known = self.handle.leader(group);
        if known.is_some() || group == META_GROUP {
            return known;
        }
        if self.handle.group(group)?.here.load(Ordering::Relaxed) {
            return None;
        }
        // Of a group without a replica here only others know.
        let topology = self.topology();
        let told = self.heard.of(group).map(|told| told.leader);
        let told = told.filter(|leader| topology.nodes.contains_key(leader));
        told.or_else(|| topology.groups.get(&group).map(|group| group.preferred))
    }

    fn term(&self, group: GroupId) -> u64 {
        let own = self.handle.group(group).map_or(0, |group| group.term.load(Ordering::Relaxed));
        own.max(self.heard.of(group).map_or(0, |told| told.term))
    }

    fn applied(&self, group: GroupId) -> u64 {
        self.handle.group(group).map_or(0, |group| group.applied.load(Ordering::Acquire))
    }

    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        if node == self.me() { Some(0) } else { self.handle.silent_ms(node) }
    }

    fn has_quorum(&self, group: GroupId) -> bool {
        let topology = self.topology();
        let timeout_ms = 2_000;
        let alive = |node: &NodeId| self.silent_ms(*node).is_some_and(|silent| silent < timeout_ms);
        let members = match topology.groups.get(&group) {
            Some(group) => group.members.clone(),
            None => topology.nodes.keys().copied().collect(),
        };
        members.iter().filter(|node| alive(node)).count() * 2 > members.len()
    }

    fn site_writes(&self, group: GroupId) -> SiteWrites {
        let group = self.handle.group(group);
        SiteWrites::from_number(group.map_or(0, |one| one.site_writes.load(Ordering::Acquire)))
    }

    fn is_settled(&self, group: GroupId) -> bool {
        let Some(epoch) = self.topology().groups.get(&group).map(|group| group.config_epoch) else {
            return false;
        };
        if self.leads(group) {
            return self.settled_epoch(group) >= epoch;
        }
        let told = self.heard.of(group);
        told.is_some_and(|told| told.settled_epoch >= epoch && told.term >= self.term(group))
    }

    fn nearest_reads(&self) -> (u64, u64) {
        let [answered, sent_on] = &self.nearest;
        (answered.load(Ordering::Relaxed), sent_on.load(Ordering::Relaxed))
    }

    fn change(&self, change: Change, done: Done) {
        let done = Box::new(move |answer| {
            done(match answer {
                Answer::Reply(reply) => Ok(reply),
                Answer::NotLeader(_) => Err("the meta group has no leader at the moment".into()),
                Answer::SiteLost => Err("only one site is left".into()),
                Answer::Busy => Err("too much waits for the meta group".into()),
                Answer::Refused => {
                    Err("the node is in a cluster already, or the change does not name it".into())
                }
                Answer::Unknown | Answer::AppliedBefore | Answer::Forgotten => {
                    Err("it is not known whether the change was made".into())
                }
            });
        });
        self.handle.ask_or_refuse(Event::Change(Box::new(change), done));
    }

    fn transfer(&self, group: GroupId, to: NodeId) {
        drop(self.handle.ask(Event::Transfer(group, to)));
    }

    fn count_keys(&self, slot: u16) -> usize {
        self.engine.count_keys(slot)
    }

    fn keys_in_slot(&self, slot: u16, max: usize) -> Vec<Vec<u8>> {
        self.engine.keys_of_slot(slot, max)
    }

    fn publish(&self, group: Option<GroupId>, channel: &[u8], message: &[u8]) {
        let topology = self.topology();
        let me = self.me();
        let to: Vec<NodeId> = match group.and_then(|group| topology.groups.get(&group)) {
            Some(group) => group.replicas().filter(|node| *node != me).collect(),
            None => topology.nodes.keys().copied().filter(|node| *node != me).collect(),
        };
        if to.is_empty() {
            return;
        }
        let mut payload = vec![wire::HOST, u8::from(group.is_some())];
        payload.extend_from_slice(&(channel.len() as u32).to_le_bytes());
        payload.extend_from_slice(channel);
        payload.extend_from_slice(message);
        drop(self.handle.ask(Event::Message(to, payload)));
    }
}

impl runtime::Host for NodeHost {
    type Data = ShardMachine;

    fn machine(&self, group: GroupId) -> ShardMachine {
        let shard = (group as usize).min(DATA_GROUPS_MAX);
        ShardMachine::new(&self.shared, shard, self.frozen.clone(), self.sites.groups().clone())
    }

    fn first_state(&self, slots: &[SlotRange]) -> Vec<u8> {
        ashlar_replication::slots::first_state(&self.shared.engine, slots)
    }

    fn topology_changed(&self, topology: &Arc<Topology>) {
        // Requests that come from here on look at the topology itself until all is in place.
        self.calm.store(false, Ordering::Release);
        let moved = assign(&self.shared, &self.groups, topology);
        super::park::send_after(&self.shared, &moved);
        crate::cluster::functions::take(&self.shared, topology);
        self.note_growth(topology);
        let calm = topology.moves.is_empty() && topology.assigned() == usize::from(SLOTS);
        self.calm.store(calm, Ordering::Release);
        if let Some(strong) = self.shared.strong.get() {
            strong.tables.arrived(&strong.handle, topology);
            strong.sites.follow(&self.shared, topology);
            strong.tell();
            strong.look_for_libraries();
        }
    }

    fn leader_changed(&self, group: GroupId, leader: Option<NodeId>) {
        let Some(strong) = self.shared.strong.get() else { return };
        let me = strong.handle.me();
        if group != META_GROUP && group as usize <= DATA_GROUPS_MAX {
            self.shared.engine.show_shard(group as usize, leader == Some(me));
        }
        if leader != Some(me) {
            // What others write to the group may not arrive here, or late.
            self.shared.tracking.forget_all(&self.shared);
        }
        if leader.is_some_and(|leader| leader != me) {
            super::park::send_elsewhere(&self.shared, strong, group);
        }
    }

    fn message(&self, from: NodeId, payload: &[u8]) {
        let Some((&kind, rest)) = payload.split_first() else { return };
        if kind == LEADS {
            if let Some(strong) = self.shared.strong.get() {
                strong.heard.take(from, rest);
                strong.look_for_libraries();
            }
            return;
        }
        let Some((len, rest)) = rest.split_first_chunk::<4>() else { return };
        let len = u32::from_le_bytes(*len) as usize;
        let Some((channel, message)) = rest.split_at_checked(len) else { return };
        let kind = match kind {
            0 => crate::pubsub::Kind::Channel,
            _ => crate::pubsub::Kind::Shard,
        };
        self.shared.pubsub.publish(kind, channel, message, &self.shared.mailboxes);
    }

    fn failed(&self, reason: &str) {
        tracing::error!("this node of the cluster has failed: {reason}");
        self.shared.stop();
    }
}

/// Reads that were confirmed, for a connection that runs its requests again.
impl Confirmed {
    /// None.
    pub const NONE: Confirmed = Confirmed { group: 0, reads: 0 };
}
