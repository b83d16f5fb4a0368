//! The engine: shards, settings, and the way in for a host.

use crate::command::{Command, CommandTable, Flags, Keys};
use crate::commands;
use crate::config::EngineConfig;
use crate::context::SHARDS_MAX;
use crate::executor::Executor;
use crate::journal::{Journal, Record};
use crate::keyspace::access::AccessScheme;
use crate::keyspace::{KeyHasher, Shard, Sharding};
use crate::libraries::Libraries;
use crate::log::settings;
use crate::policy::{Class, Policies, Table};
use crate::propagate::Propagate;
use crate::shipping::{Position, Shipping};
use crate::sites::{self, Sites};
use crate::stamp::Stamp;
use crate::tier::Tier;
use crate::upkeep::Upkeep;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A key-value engine.
pub struct Engine {
    shards: Box<[Mutex<Shard>]>,
    sharding: Sharding,
    hasher: KeyHasher,
    config: RwLock<Arc<EngineConfig>>,
    config_version: AtomicU64,
    /// Given once: at once, or after a recovery.
    journal: OnceLock<Arc<dyn Journal>>,
    /// Whether it takes records now.
    journaling: AtomicBool,
    upkeep: Upkeep,
    propagate: OnceLock<Arc<dyn Propagate>>,
    propagating: AtomicBool,
    sites: OnceLock<Arc<dyn Sites>>,
    sites_active: AtomicBool,
    /// Whether only keys of the class global concern other sites.
    sites_by_policy: AtomicBool,
    libraries: Libraries,
    policies: Policies,
    /// Those of each shard, where shards are groups that agree on theirs one by one.
    shard_policies: Box<[Policies]>,
    shipping: Shipping,
    /// The settings that data depends on, where they are those of a primary: the call that has them.
    foreign: Mutex<Option<Vec<Vec<u8>>>>,
    /// Those that the last records were made with, as far as records say.
    recorded: Mutex<Option<Vec<Vec<u8>>>>,
    /// Whether access data is of the frequency scheme: a copy of the setting, to read at once.
    by_frequency: AtomicBool,
    /// The same of `hot-threshold`.
    hot_threshold: AtomicU32,
    /// Whether a cut is on its way.
    cut_running: AtomicBool,
    /// Whether somebody holds shards for long.
    busy: AtomicBool,
    databases: u32,
    tier: Option<Arc<Tier>>,
}

/// Keys of groups that agree on their writes are strong, unless a rule says otherwise.
fn shard_policies(count: usize) -> Box<[Policies]> {
    (0..count).map(|_| Policies::with_default(Class::Strong)).collect()
}

/// How often who waits for a shard looks whether it is worth it.
const BUSY_LOOK: Duration = Duration::from_millis(5);

/// How an engine is opened.
#[derive(Clone, Default)]
pub struct EngineOptions {
    /// The settings.
    pub config: EngineConfig,
    /// Number of shards: 1 for a host with one thread, a few for each thread otherwise. 0 is 1.
    pub shards: usize,
    /// Whether slots are put into shards by [`Engine::assign_slots`], each shard a group of slots,
    /// instead of being spread over all of them. Without a tier.
    pub groups: bool,
    /// Seed of the hash tables. Give a random one where keys come from strangers, so that they
    /// cannot choose keys that collide.
    pub hash_seed: u64,
    /// Takes a record of every call that changes the data.
    pub journal: Option<Arc<dyn Journal>>,
    /// Where values go that leave memory. Its seed is `hash_seed`, and it serves this engine alone.
    pub tier: Option<Arc<Tier>>,
}

/// Keys of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbStats {
    /// Keys.
    pub keys: usize,
    /// Keys with an expiry.
    pub expires: usize,
    /// Bytes of the hash tables.
    pub table_bytes: usize,
}

impl Engine {
    /// Opens an engine in memory.
    ///
    /// # Panics
    /// If more than [`SHARDS_MAX`] shards are asked for.
    pub fn with_options(options: EngineOptions) -> Engine {
        let count = options.shards.max(1);
        assert!(count <= SHARDS_MAX, "at most {SHARDS_MAX} shards");
        let hasher = KeyHasher::new(options.hash_seed);
        let databases = options.config.databases;
        let by_frequency = options.config.access == AccessScheme::Frequency;
        let journal = options.journal.map_or_else(OnceLock::new, OnceLock::from);
        let hot_threshold = options.config.hot_threshold;
        Engine {
            shards: (0..count).map(|_| Mutex::new(Shard::new(databases, &hasher))).collect(),
            sharding: Sharding::new(count, options.groups),
            hasher,
            config: RwLock::new(Arc::new(options.config)),
            config_version: AtomicU64::new(0),
            journal,
            journaling: AtomicBool::new(true),
            upkeep: Upkeep::default(),
            propagate: OnceLock::new(),
            propagating: AtomicBool::new(false),
            sites: OnceLock::new(),
            sites_active: AtomicBool::new(false),
            sites_by_policy: AtomicBool::new(false),
            libraries: Libraries::default(),
            policies: Policies::default(),
            shard_policies: shard_policies(if options.groups { count } else { 0 }),
            shipping: Shipping::default(),
            foreign: Mutex::new(None),
            recorded: Mutex::new(None),
            by_frequency: AtomicBool::new(by_frequency),
            hot_threshold: AtomicU32::new(hot_threshold),
            cut_running: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            databases,
            tier: options.tier,
        }
    }

    /// What runs calls on this thread.
    pub fn executor(&self) -> Executor<'_> {
        Executor::new(self)
    }

    /// The settings.
    pub fn config(&self) -> Arc<EngineConfig> {
        self.config.read().clone()
    }

    /// Changes settings; calls see them from the next one on. The number of databases is fixed.
    pub fn update_config(&self, change: impl FnOnce(&mut EngineConfig)) {
        let foreign = self.foreign.lock();
        let mut config = self.config.write();
        let mut fresh = EngineConfig::clone(&config);
        change(&mut fresh);
        if let Some(call) = &*foreign {
            let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
            settings::apply(&args, &mut fresh);
            // What a primary has accepted is not refused here.
            fresh.proto_max_bulk_len = usize::MAX;
        }
        fresh.databases = config.databases;
        self.by_frequency.store(fresh.access == AccessScheme::Frequency, Ordering::Relaxed);
        self.hot_threshold.store(fresh.hot_threshold, Ordering::Relaxed);
        *config = Arc::new(fresh);
        self.config_version.fetch_add(1, Ordering::Release);
        drop(config);
        if foreign.is_none() {
            self.record_config();
        }
    }

    /// Takes over the settings that a primary's data depends on, which stand in its stream as a record
    /// (`args`), or gives them up. Those of this engine come back with the next
    /// [`Engine::update_config`].
    pub fn follow_config(&self, args: Option<&[&[u8]]>) {
        let call = args.map(|args| args.iter().map(|arg| arg.to_vec()).collect());
        let is_foreign = call.is_some();
        *self.foreign.lock() = call;
        if is_foreign {
            self.update_config(|_| ());
            self.record_config();
        }
    }

    /// The same for settings that the data was made with already: no record is made of them.
    pub fn keep_config(&self, args: &[&[u8]]) {
        *self.foreign.lock() = Some(args.iter().map(|arg| arg.to_vec()).collect());
        self.update_config(|_| ());
    }

    /// The settings that the records of a log were made with, which are no longer those in force if
    /// the configuration has changed since.
    pub(crate) fn note_config(&self, call: Option<Vec<Vec<u8>>>) {
        *self.recorded.lock() = call;
    }

    /// This engine's own settings count from here on, and its history has another name.
    pub fn begin_history(&self, id: &str, change: impl FnOnce(&mut EngineConfig)) {
        self.shipping.begin(id, self.journal());
        let was_foreign = self.foreign.lock().take().is_some();
        if was_foreign {
            self.update_config(change);
        }
        let now = self.config_call();
        let differs = self.recorded.lock().as_ref().is_some_and(|before| *before != now);
        if differs {
            self.record_config();
        }
        self.log_config();
    }

    /// The settings that data depends on, as they stand in a record.
    pub fn config_call(&self) -> Vec<Vec<u8>> {
        settings::call(&self.config())
    }

    /// Hands the settings that data depends on to the journal, and where the history stands: at the
    /// start of a log, and after a snapshot's cut, so that a replay of what follows sees them.
    pub fn log_config(&self) {
        let Some(journal) = self.journal() else { return };
        let calls = [Some(self.config_call()), self.shipping.call(journal)];
        let args = calls.iter().flatten().map(|call| call.iter().map(Vec::as_slice).collect());
        let args: Vec<Vec<&[u8]>> = args.collect();
        let stamp = Stamp::default();
        let records: Vec<Record<'_>> =
            args.iter().map(|args| Record { stamp: &stamp, db: 0, args }).collect();
        self.shipping.note(&records, journal);
    }

    /// The settings have changed: a record for the log and for replicas, which have to see it at its
    /// place.
    fn record_config(&self) {
        if self.is_recording() {
            let call = self.config_call();
            let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
            let record = Record { stamp: &Stamp::default(), db: 0, args: &args };
            self.shipping.append(&[record], self.journal(), &self.policies);
            drop(args);
            *self.recorded.lock() = Some(call);
        }
    }

    /// Whether changes are recorded, for a journal or for replicas.
    #[inline]
    pub(crate) fn is_recording(&self) -> bool {
        self.journal().is_some() || self.shipping.is_on()
    }

    /// Takes the record of calls that took effect as one. Returns its index in the journal.
    #[inline]
    pub(crate) fn record(&self, calls: &[Record<'_>]) -> u64 {
        if self.shipping.is_on() {
            return self.shipping.append(calls, self.journal(), &self.policies);
        }
        self.journal().map_or(0, |journal| journal.append(calls))
    }

    /// Takes records of a primary as they came, each with its length in front, ahead of the calls in them: of an
    /// executor that has locked all shards and does not record itself
    /// ([`Executor::set_recorded_elsewhere`]).
    pub fn record_copied(&self, records: &[u8], count: u64) {
        self.shipping.append_copied(records, count, self.journal(), &self.policies);
    }

    /// The stream of records for replicas.
    pub fn shipping(&self) -> &Shipping {
        &self.shipping
    }

    /// Where the history stands.
    pub fn position(&self) -> Position {
        self.shipping.position(self.journal())
    }

    /// The engine's command of that name, or its subcommand where `args[1]` names one.
    pub fn find_command(args: &[&[u8]]) -> Option<&'static Command> {
        let (_, command) = command_table().find(args.first()?)?;
        if command.flags.contains(Flags::INTERNAL) {
            return None;
        }
        match args.get(1).and_then(|name| command.subcommand(name)) {
            Some(subcommand) => Some(subcommand),
            None => command.run.map(|_| command),
        }
    }

    /// Keys of each database.
    pub fn db_stats(&self) -> Vec<DbStats> {
        self.executor().db_stats()
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The shard of a key.
    #[inline]
    pub(crate) fn shard_of(&self, key: &[u8]) -> usize {
        self.sharding.of(key)
    }

    pub(crate) fn sharding(&self) -> &Sharding {
        &self.sharding
    }

    /// The libraries of functions. They change by [`Executor::change_libraries`], or as a whole
    /// when a state is read.
    pub fn libraries(&self) -> &Libraries {
        &self.libraries
    }

    /// The classes of keys. They change by [`Executor::change_policies`], or as a whole when a state
    /// is read.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The classes of keys in a shard: in an engine of groups each group agrees on its own, which the host
    /// replaces when the group has. Otherwise [`Engine::policies`].
    pub fn shard_policies(&self, shard: usize) -> &Policies {
        self.shard_policies.get(shard).unwrap_or(&self.policies)
    }

    /// The classes that count for a key of a client's call.
    pub fn policies_of(&self, key: &[u8]) -> &Policies {
        match self.shard_policies.is_empty() {
            true => &self.policies,
            false => self.shard_policies(self.shard_of(key)),
        }
    }

    pub(crate) fn config_snapshot(&self) -> (Arc<EngineConfig>, u64) {
        let version = self.config_version.load(Ordering::Acquire);
        (self.config(), version)
    }

    pub(crate) fn config_version(&self) -> u64 {
        self.config_version.load(Ordering::Acquire)
    }

    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// What the access data of keys means.
    #[inline]
    pub(crate) fn access_scheme(&self) -> AccessScheme {
        match self.by_frequency.load(Ordering::Relaxed) {
            true => AccessScheme::Frequency,
            false => AccessScheme::Recency,
        }
    }

    /// Accesses after which a key that was read from disk stays in memory.
    #[inline]
    pub(crate) fn hot_threshold(&self) -> u32 {
        self.hot_threshold.load(Ordering::Relaxed)
    }

    /// Where values go that leave memory, if it has such a place.
    pub fn tier(&self) -> Option<&Arc<Tier>> {
        self.tier.as_ref()
    }

    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// An empty engine with the same shards and the same hashes.
    pub(crate) fn sibling(&self) -> Engine {
        self.relative(self.shard_count())
    }

    /// An empty engine with the same hashes, by which keys are spread over `count` shards.
    pub(crate) fn with_lanes(&self, count: usize) -> Engine {
        let mut lanes = self.relative(count);
        lanes.sharding = Sharding::lanes(count, self.hasher.clone());
        lanes
    }

    fn relative(&self, shards: usize) -> Engine {
        let config = EngineConfig::clone(&self.config());
        let options = EngineOptions { config, shards, ..EngineOptions::default() };
        let mut sibling = Engine::with_options(options);
        sibling.hasher = self.hasher.clone();
        for shard in &mut sibling.shards {
            *shard.get_mut() = Shard::new(self.databases, &self.hasher);
        }
        sibling
    }

    /// Drops all keys, without a record of it.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
        self.libraries.replace_all([]);
        self.policies.replace(Table::default());
    }

    /// Number of databases, which never changes.
    pub(crate) fn config_databases(&self) -> u32 {
        self.databases
    }

    pub(crate) fn cut_running(&self) -> &AtomicBool {
        &self.cut_running
    }

    /// From now on `journal` takes a record of every call that changes the data: for an engine that
    /// was brought up to date from records first. `false` if there is a journal already.
    pub fn set_journal(&self, journal: Arc<dyn Journal>) -> bool {
        self.journal.set(journal).is_ok()
    }

    /// From now on `journal`, which has to be the same at each call, takes records; all shards are
    /// locked. What was recorded before has no positions any more: the history gets the name `fresh`, if it had
    /// one.
    pub(crate) fn begin_journal(&self, journal: Arc<dyn Journal>, fresh: &str) {
        let last = journal.last();
        // Set before: it is the same one.
        drop(self.journal.set(journal));
        self.shipping.renew(fresh, last);
        self.journaling.store(true, Ordering::Relaxed);
    }

    /// Nobody takes records any more; all shards are locked.
    pub(crate) fn end_journal(&self) {
        self.journaling.store(false, Ordering::Relaxed);
    }

    /// Who takes records, if anybody does.
    #[inline]
    pub fn journal(&self) -> Option<&dyn Journal> {
        let journal = self.journal.get().filter(|_| self.journaling.load(Ordering::Relaxed));
        journal.map(|journal| &**journal)
    }

    /// Sets who takes what followers are to be told; only the first one is kept.
    pub fn set_propagate(&self, propagate: Arc<dyn Propagate>) {
        drop(self.propagate.set(propagate));
    }

    /// Says whether anybody follows: whether it is worth the effort to tell. A call that has its
    /// locks already may not see a change, so this is called with all shards locked.
    pub fn set_propagating(&self, on: bool) {
        self.propagating.store(on, Ordering::Relaxed);
    }

    /// Who is to be told, if anybody follows.
    #[inline]
    pub(crate) fn propagate(&self) -> Option<&dyn Propagate> {
        if !self.propagating.load(Ordering::Relaxed) {
            return None;
        }
        self.propagate.get().map(|propagate| &**propagate)
    }

    /// Sets who keeps the state of keys that several sites write; only the first one is kept. To be
    /// set before the engine is brought up to date from a log.
    pub fn set_sites(&self, sites: Arc<dyn Sites>) {
        drop(self.sites.set(sites));
    }

    /// Whether anybody keeps a state of keys that several sites write.
    pub fn has_sites(&self) -> bool {
        self.sites.get().is_some()
    }

    /// Whether a key may be evicted. Of one that several sites write an eviction would be a removal, at
    /// all of them: such a key stays until somebody removes it.
    pub(crate) fn may_evict(&self, db: u32, key: &[u8]) -> bool {
        db != 0 || !self.has_sites() || self.policies().class_of(key) != Class::Global
    }

    /// Says whether calls are news to other sites; not so while a log is replayed.
    pub fn set_sites_active(&self, on: bool) {
        self.sites_active.store(on, Ordering::Relaxed);
    }

    /// Who keeps the state of keys that several sites write, active or not.
    pub(crate) fn sites(&self) -> Option<&dyn Sites> {
        self.sites.get().map(|sites| &**sites)
    }

    /// The same, if calls are news to other sites.
    #[inline]
    pub(crate) fn active_sites(&self) -> Option<&dyn Sites> {
        if !self.sites_active.load(Ordering::Relaxed) {
            return None;
        }
        self.sites()
    }

    /// From now on the hook is asked of no key while there is no rule of the class global.
    pub fn set_sites_by_policy(&self) {
        self.sites_by_policy.store(true, Ordering::Relaxed);
    }

    /// The hook, if a call of this command may concern other sites. Keys of other classes are to cost nothing:
    /// so it is found out here, by a few loads, that there are no others.
    #[inline]
    pub(crate) fn concerned_sites(&self, command: &Command) -> Option<&dyn Sites> {
        if !self.sites_active.load(Ordering::Relaxed) {
            return None;
        }
        let none = self.sites_by_policy.load(Ordering::Relaxed)
            && !self.policies.has_global()
            && !matches!(command.keys, Keys::None);
        if none { None } else { self.sites() }
    }

    /// Hands the whole state of the keys that several sites write to the journal, which lets go of
    /// what it had of it before a snapshot. The thread must hold no lock of the engine.
    pub fn log_sites(&self, stamp: &Stamp) {
        let (Some(sites), Some(journal)) = (self.sites(), self.journal()) else { return };
        let mut place = None;
        loop {
            // A call is in the journal before its locks are released: so a state that a call led to
            // never comes before it.
            let mut executor = self.executor();
            executor.lock_all();
            let history = self.shipping.call(journal);
            let history: Option<Vec<&[u8]>> =
                history.as_ref().map(|call| call.iter().map(Vec::as_slice).collect());
            place = sites.dump(place, &mut |key, record| {
                let args = [sites::RECORD.as_bytes(), key, record];
                let record = Record { stamp, db: 0, args: &args };
                // It is news to nobody else: a record of this node alone.
                match &history {
                    Some(args) => {
                        let history = Record { stamp, db: 0, args };
                        self.shipping.note(&[history, record], journal);
                    }
                    None => self.shipping.note(&[record], journal),
                }
            });
            executor.release();
            if place.is_none() {
                return;
            }
        }
    }

    pub(crate) fn lock_shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock()
    }

    /// Says whether somebody holds shards for longer than calls are to wait; see
    /// [`Executor::set_impatient`].
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// Waits for a shard, but not for somebody who is busy with it.
    #[inline]
    pub(crate) fn lock_shard_unless_busy(&self, number: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards[number].try_lock().or_else(|| self.wait_for_shard(number))
    }

    #[cold]
    fn wait_for_shard(&self, number: usize) -> Option<MutexGuard<'_, Shard>> {
        while !self.busy.load(Ordering::Acquire) {
            if let Some(guard) = self.shards[number].try_lock_for(BUSY_LOOK) {
                return Some(guard);
            }
        }
        None
    }

    pub(crate) fn try_lock_shard(&self, number: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards[number].try_lock()
    }
}

/// The table of all commands that the engine runs.
pub fn command_table() -> &'static CommandTable {
    static TABLE: OnceLock<CommandTable> = OnceLock::new();
    TABLE.get_or_init(|| CommandTable::new(commands::FAMILIES))
}
