//! Runs calls: `execute(keyspace, stamp, call)`.
//!
//! One function serves the socket, the embedded API, replicas and replay: [`Executor::run`] locks
//! the shards of the call in order, runs the command's function, hands the call to the journal
//! while the locks are still held, and leaves them locked for the next call of a pipeline until
//! [`Executor::release`].

use crate::command::{Command, Flags, KeyList, Keys, Run};
use crate::config::EngineConfig;
use crate::context::{Cx, LockedShards};
use crate::effects::Effects;
use crate::engine::{DbStats, Engine};
use crate::error::{Error, Stop};
use crate::image::value_digest;
use crate::journal::{OpenBatch, Record};
use crate::keyspace::{EntryRef, Place, Shard, Tracker, WatchToken};
use crate::known_bugs::{self, Bug};
use crate::policy::Policies;
use crate::policy::enforce::{self, Owner};
use crate::propagate::Batch;
use crate::reply::{Protocol, Reply, TOO_LONG};
use crate::sites;
use crate::stamp::{Rng, Stamp};
use parking_lot::MutexGuard;
use smallvec::SmallVec;
use std::sync::Arc;

/// How a call ended; the reply is written unless it would block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Done,
    /// It was refused: the reply is an error.
    Failed,
    /// It found nothing to take and may be run again when one of its keys is ready.
    WouldBlock,
    /// It needs values or names that are on disk; nothing was changed. It is to be run again once
    /// [`Tier::load`](crate::tier::Tier::load) has brought in what [`Executor::take_needs`] says. Only for
    /// a host that has asked for it with [`Executor::set_loads_elsewhere`].
    NeedsCold,
    /// Its shards are held by a host that is busy with them for long; nothing was done. Only for a
    /// host that has asked for it with [`Executor::set_impatient`].
    Busy,
}

/// A call: a command with its arguments, in a database, at a time.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The command, or the subcommand that `args[1]` names.
    pub command: &'static Command,
    /// The arguments, the name first.
    pub args: &'a [&'a [u8]],
    /// The selected database.
    pub db: u32,
    /// The call's time and random seed.
    pub stamp: &'a Stamp,
    /// Whether the client can be blocked.
    pub may_block: bool,
    /// Whether reads leave the access data as it is.
    pub no_touch: bool,
}

/// What was found out about a key ahead of its command.
#[derive(Clone, Copy, Debug)]
pub struct Prefetched {
    key: *const u8,
    len: usize,
    pub(crate) hash: u64,
    /// Its shard.
    pub(crate) shard: usize,
    /// Where an entry was seen that is probably the key's.
    pub(crate) place: Place,
}

impl Prefetched {
    /// No key.
    pub const NONE: Prefetched =
        Prefetched { key: std::ptr::null(), len: 0, hash: 0, shard: 0, place: Place::NONE };

    /// About a key of which so much is known.
    #[inline]
    pub(crate) fn of(key: &[u8], hash: u64, shard: usize) -> Prefetched {
        Prefetched { key: key.as_ptr(), len: key.len(), hash, shard, place: Place::NONE }
    }

    /// Whether this is about no key.
    pub fn is_none(&self) -> bool {
        self.key.is_null()
    }

    /// Whether this is about `key`, told by its address.
    #[inline]
    pub(crate) fn is_of(&self, key: &[u8]) -> bool {
        key.as_ptr() == self.key && key.len() == self.len
    }
}

/// Runs calls on one thread.
pub struct Executor<'e> {
    engine: &'e Engine,
    held: SmallVec<[(usize, MutexGuard<'e, Shard>); 1]>,
    config: Arc<EngineConfig>,
    config_version: u64,
    /// What followers are to be told of the calls of a group, while there is one.
    group: Option<Batch>,
    /// The class of a transaction or script that is on its way, while there is one.
    unit: Option<Owner>,
    /// Calls of a transaction, while one is on its way and there is a journal.
    batch: Option<Box<OpenBatch>>,
    /// The one before, empty, with its room.
    spare_batch: Option<Box<OpenBatch>>,
    /// Whether the host loads what calls need from disk; otherwise it is done here.
    pub(crate) loads_elsewhere: bool,
    /// Whether calls end with [`Outcome::Busy`] where they would wait for long.
    impatient: bool,
    /// Whether the host has locked shards for several calls, so that they stay locked.
    pinned: bool,
    /// The one shard that all calls work on.
    only: Option<usize>,
    /// Whether the host hands the records of calls on, which it has as bytes.
    recorded_elsewhere: bool,
    /// What the calls did besides their replies, since the host last took it.
    pub effects: Effects,
}

impl<'e> Executor<'e> {
    pub(crate) fn new(engine: &'e Engine) -> Executor<'e> {
        let (config, config_version) = engine.config_snapshot();
        let effects = Effects::default();
        Executor {
            engine,
            held: SmallVec::new(),
            config,
            config_version,
            group: None,
            unit: None,
            batch: None,
            spare_batch: None,
            loads_elsewhere: false,
            impatient: false,
            pinned: false,
            only: None,
            recorded_elsewhere: false,
            effects,
        }
    }

    /// The settings that the next call sees.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Runs one call and writes its reply.
    #[inline]
    pub fn run(&mut self, call: &Call<'_>, hint: Prefetched, reply: &mut Reply<'_>) -> Outcome {
        let Some(run) = call.command.run else {
            reply.error(&Error::text("ERR the engine does not run this command"));
            return Outcome::Failed;
        };
        if self.engine.tier().is_some() {
            return self.run_tiered(call, run, hint, reply);
        }
        self.run_once(call, run, hint, reply)
    }

    #[inline]
    pub(crate) fn run_once(
        &mut self,
        call: &Call<'_>,
        run: Run,
        hint: Prefetched,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if !self.lock_for(call.command, call.args, &hint, self.impatient) {
            return Outcome::Busy;
        }
        if self.policies().any()
            && (self.unit.is_some() || !call.command.keys.is_one())
            && let Err(error) = self.check_classes(call)
        {
            reply.error(&error);
            return Outcome::Failed;
        }
        let dirty = self.effects.dirty;
        let mut cx = self.context(call, hint);
        let result = run(&mut cx, call.args, reply);
        if cx.policies.has_ttls() && cx.effects.dirty != dirty {
            enforce::give_ttls(&mut cx, call);
        }
        drop(cx);
        if self.effects.told.active && self.effects.dirty != dirty {
            self.propagate(call, result.is_ok());
        }
        let changed = self.effects.dirty != dirty;
        if changed && let Some(only) = self.only {
            self.note_changes(only, call);
        }
        if call.command.is_write()
            && let Some(sites) = self.engine.concerned_sites(call.command)
            && sites.concerns(call, self.only)
        {
            self.tell_sites(call, changed);
        } else if changed && self.engine.is_recording() && !self.recorded_elsewhere {
            let record = Record { stamp: call.stamp, db: call.db, args: call.args };
            match &mut self.batch {
                None => self.effects.log_index = self.engine.record(&[record]),
                Some(batch) => batch.push(&record),
            }
        }
        match result {
            Ok(()) if reply.is_too_long() => {
                reply.error(&Error::text(TOO_LONG));
                Outcome::Failed
            }
            Ok(()) => Outcome::Done,
            Err(Stop::Error(error)) => {
                if known_bugs::is_back(Bug::ErrorKeepsReply) {
                    reply.error_element(&error);
                } else {
                    reply.error(&error);
                }
                Outcome::Failed
            }
            Err(Stop::WouldBlock) => {
                reply.discard();
                Outcome::WouldBlock
            }
            Err(Stop::Cold) => {
                reply.discard();
                Outcome::NeedsCold
            }
        }
    }

    /// Notes the keys that a call may have changed, if anybody copies its shard.
    fn note_changes(&mut self, shard: usize, call: &Call<'_>) {
        self.with_shard(shard, |shard| {
            let Some(changes) = shard.changes_mut() else { return };
            let mut keys = KeyList::new();
            call.command.keys.positions(call.args, &mut keys);
            if keys.is_empty() {
                changes.lose();
            }
            keys.iter().for_each(|at| changes.note(call.args[*at]));
        });
    }

    /// The classes that count for calls: those of the shard that all calls work on, if there is one.
    #[inline]
    fn policies(&self) -> &'e Policies {
        match self.only {
            None => self.engine.policies(),
            Some(shard) => self.engine.shard_policies(shard),
        }
    }

    /// The classes that count for calls as one on this key, and on others of its group.
    pub fn policies_of(&self, key: &[u8]) -> &'e Policies {
        match self.only {
            None => self.engine.policies_of(key),
            Some(_) => self.policies(),
        }
    }

    /// Refuses a call over two classes, its locks held: no class changes until it has run.
    #[cold]
    fn check_classes(&mut self, call: &Call<'_>) -> Result<(), Error> {
        self.lock_call(call);
        enforce::check_call(self.policies(), call, self.unit.as_mut())
    }

    /// Finds out what the other sites have to know of a call, and records both as one.
    #[cold]
    fn tell_sites(&mut self, call: &Call<'_>, changed: bool) {
        let Some(sites) = self.engine.active_sites() else { return };
        let alone = self.batch.is_none();
        if alone {
            self.begin_batch();
        }
        if changed && let Some(batch) = &mut self.batch {
            batch.push(&Record { stamp: call.stamp, db: call.db, args: call.args });
        }
        let only = self.only;
        let mut cx = self.context(call, Prefetched::NONE);
        let after = sites.after(&mut cx, call, only, changed);
        drop(cx);
        if let Some(batch) = &mut self.batch {
            for (key, record) in &after.records {
                let args = [sites::RECORD.as_bytes(), key, record];
                batch.push(&Record { stamp: call.stamp, db: 0, args: &args });
            }
        }
        let stamp = Stamp { site: Stamp::MERGED, ..*call.stamp };
        for fix in &after.fixes {
            self.run_own(fix, &stamp);
        }
        if alone {
            self.commit_batch();
        }
    }

    /// Runs a call of the engine's own in database 0, whose reply nobody wants. The locks of its keys
    /// are held, or it takes them.
    pub fn run_own<A: AsRef<[u8]>>(&mut self, args: &[A], stamp: &Stamp) -> Outcome {
        let args: SmallVec<[&[u8]; 8]> = args.iter().map(AsRef::as_ref).collect();
        let found = args.first().and_then(|name| crate::engine::command_table().find(name));
        let Some((_, command)) = found else { return Outcome::Failed };
        let call = Call { command, args: &args, db: 0, stamp, may_block: false, no_touch: true };
        let mut out = Vec::new();
        self.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2))
    }

    /// Tells followers what a call did.
    #[cold]
    fn propagate(&mut self, call: &Call<'_>, repeat: bool) {
        let told = &mut self.effects.told;
        if repeat && !told.instead {
            told.batch.push(call.db, call.args);
        }
        told.batch.append(&mut told.after);
        match (&mut self.group, self.engine.propagate()) {
            (Some(group), _) => group.append(&mut told.batch),
            (None, Some(propagate)) if !told.batch.is_empty() => propagate.append(&told.batch),
            _ => {}
        }
        told.batch.clear();
    }

    /// From here on the calls are one for followers, until [`Executor::end_group`]. The locks of all
    /// their keys are held from before until after.
    pub fn begin_group(&mut self) {
        self.group = Some(Batch::default());
        self.unit = Some(None);
    }

    /// Ends a group of calls, the locks still held.
    pub fn end_group(&mut self) {
        self.unit = None;
        if let (Some(group), Some(propagate)) = (self.group.take(), self.engine.propagate())
            && !group.is_empty()
        {
            propagate.append(&group);
        }
    }

    /// From now on the calls are one for the journal, until [`Executor::commit_batch`]. The shards
    /// of all of them are to stay locked meanwhile.
    pub fn begin_batch(&mut self) {
        if self.engine.is_recording() {
            self.batch = Some(self.spare_batch.take().unwrap_or_default());
        }
    }

    /// Hands the calls since [`Executor::begin_batch`] to the journal as one record. The locks are
    /// still held.
    pub fn commit_batch(&mut self) {
        let Some(mut batch) = self.batch.take() else { return };
        let index = batch.append_to(|records| self.engine.record(records));
        self.effects.log_index = index.unwrap_or(self.effects.log_index);
        self.spare_batch = batch.clear().then_some(batch);
    }

    /// Forgets the calls since [`Executor::begin_batch`] and [`Executor::begin_group`]: for a host
    /// that stops in the middle of them, and goes on from the journal without them.
    pub fn abandon_batch(&mut self) {
        self.batch = None;
        self.group = None;
        self.unit = None;
    }

    /// Lets `look` use the keys of a call without running it.
    pub fn inspect<T>(&mut self, call: &Call<'_>, look: impl FnOnce(&mut Cx<'_>) -> T) -> T {
        self.lock_call(call);
        look(&mut self.context(call, Prefetched::NONE))
    }

    /// Builds what a call's function works with; its shards are locked.
    #[inline]
    fn context(&mut self, call: &Call<'_>, hint: Prefetched) -> Cx<'_> {
        if self.config_version != self.engine.config_version() {
            (self.config, self.config_version) = self.engine.config_snapshot();
        }
        let told = &mut self.effects.told;
        told.active = self.engine.propagate().is_some();
        if told.active {
            told.instead = false;
            told.batch.clear();
            told.after.clear();
        }
        let followed = call.stamp.site == Stamp::FOLLOWED;
        let policies = self.policies();
        Cx {
            shards: shards(&mut self.held, self.engine.shard_count(), self.only.is_some()),
            sharding: self.engine.sharding(),
            hasher: self.engine.hasher(),
            config: &self.config,
            libraries: self.engine.libraries(),
            policies,
            sites: self.engine.sites(),
            effects: &mut self.effects,
            stamp: *call.stamp,
            expiry_now_ms: if followed { i64::MIN } else { call.stamp.now_ms },
            rng: Rng::new(match known_bugs::is_back(Bug::RandomOutsideStamp) {
                true => std::ptr::from_ref(self.engine).addr() as u64,
                false => call.stamp.seed,
            }),
            db: call.db,
            may_block: call.may_block,
            no_touch: call.no_touch,
            hint,
        }
    }

    /// Releases the locks.
    #[inline]
    pub fn release(&mut self) {
        self.held.clear();
        self.pinned = false;
    }

    /// Changes the libraries of functions by a call of its own: the arguments of
    /// [`crate::commands::library::LIBRARY`].
    ///
    /// # Errors
    /// Where there is no room for them.
    pub fn change_libraries(&mut self, changes: &[&[u8]], stamp: &Stamp) -> Result<(), Error> {
        self.run_internal(crate::commands::library::LIBRARY, changes, stamp).map(drop)
    }

    /// Changes the classes of keys by a call of its own: the arguments of
    /// [`crate::commands::policy::POLICY`]. Returns the number of rules that have changed.
    ///
    /// # Errors
    /// What is wrong with a rule.
    pub fn change_policies(&mut self, changes: &[&[u8]], stamp: &Stamp) -> Result<i64, Error> {
        let reply = self.run_internal(crate::commands::policy::POLICY, changes, stamp)?;
        let count = reply.strip_prefix(b":").and_then(|reply| reply.strip_suffix(b"\r\n"));
        Ok(count.and_then(crate::number::parse_i64).unwrap_or(0))
    }

    fn run_internal(
        &mut self,
        name: &'static str,
        changes: &[&[u8]],
        stamp: &Stamp,
    ) -> Result<Vec<u8>, Error> {
        let name = name.as_bytes();
        let found = crate::engine::command_table().find(name);
        let command = found.expect("the internal commands are in the table").1;
        let mut args: Vec<&[u8]> = vec![name];
        args.extend_from_slice(changes);
        let call = Call { command, args: &args, db: 0, stamp, may_block: false, no_touch: true };
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, crate::reply::Protocol::Resp2);
        match self.run(&call, Prefetched::NONE, &mut reply) {
            Outcome::Done => Ok(out),
            _ => Err(Error::from_bytes(out.get(1..).unwrap_or_default().to_vec())),
        }
    }

    /// Locks every shard, for calls that are to run as one (EXEC).
    pub fn lock_all(&mut self) {
        self.pinned = true;
        self.lock_all_shards(false);
    }

    /// The same where nobody holds shards for long; otherwise none is locked, and `false`.
    pub fn try_lock_all(&mut self) -> bool {
        self.pinned = self.lock_all_shards(true);
        self.pinned
    }

    /// With `true`, calls that would wait for long end with [`Outcome::Busy`]: while
    /// [`Engine::set_busy`] says that somebody holds shards for long.
    #[inline]
    pub fn set_impatient(&mut self, impatient: bool) {
        self.impatient = impatient;
    }

    fn lock_all_shards(&mut self, impatient: bool) -> bool {
        if let Some(shard) = self.only {
            return self.lock(&[shard], impatient);
        }
        let count = self.engine.shard_count();
        self.held.len() == count || self.lock_anew(0..count, impatient)
    }

    /// Locks these shards in the place of those that are held; none where that would take long.
    fn lock_anew(&mut self, numbers: impl Iterator<Item = usize>, impatient: bool) -> bool {
        self.held.clear();
        for number in numbers {
            let guard = match impatient {
                false => self.engine.lock_shard(number),
                true => match self.engine.lock_shard_unless_busy(number) {
                    Some(guard) => guard,
                    None => {
                        self.release();
                        return false;
                    }
                },
            };
            self.held.push((number, guard));
        }
        true
    }

    /// Locks the shards of keys, and no others, for calls on them that are to run as one.
    pub fn lock_keys(&mut self, keys: &[&[u8]]) {
        let engine = self.engine;
        loop {
            let version = engine.sharding().version();
            if let Some(shard) = self.only {
                self.lock(&[shard], false);
                break;
            }
            let mut wanted: SmallVec<[usize; 8]> =
                keys.iter().map(|key| engine.shard_of(key)).collect();
            wanted.sort_unstable();
            wanted.dedup();
            self.lock(&wanted, false);
            if self.is_current(version) {
                break;
            }
        }
        self.pinned = true;
    }

    /// Locks the shards of a call, those and no others unless all that it needs are held already.
    /// `false` where that would take long, see [`Executor::set_impatient`].
    #[inline]
    pub(crate) fn lock_for(
        &mut self,
        command: &Command,
        args: &[&[u8]],
        hint: &Prefetched,
        impatient: bool,
    ) -> bool {
        if self.engine.shard_count() == 1 {
            !self.held.is_empty() || self.lock_anew(0..1, impatient)
        } else {
            self.lock_some(command, args, hint, impatient)
        }
    }

    fn lock_some(
        &mut self,
        command: &Command,
        args: &[&[u8]],
        hint: &Prefetched,
        impatient: bool,
    ) -> bool {
        if let Some(shard) = self.only {
            return self.lock(&[shard], impatient);
        }
        let sharding = self.engine.sharding();
        if self.held.len() == sharding.count() {
            return true;
        }
        if command.flags.contains(Flags::WHOLE_KEYSPACE) {
            return self.lock_seen_shards(impatient);
        }
        loop {
            let version = sharding.version();
            let mut wanted = SmallVec::<[usize; 8]>::new();
            match command.keys {
                Keys::Range { first, last, .. } if first as isize == last => {
                    let shard = |key: &&[u8]| match hint.is_of(key) && sharding.is_fixed() {
                        true => hint.shard,
                        false => sharding.of(key),
                    };
                    wanted.extend(args.get(first).map(shard));
                }
                keys => {
                    let mut positions = KeyList::new();
                    keys.positions(args, &mut positions);
                    wanted.extend(positions.iter().map(|&at| sharding.of(args[at])));
                    wanted.sort_unstable();
                    wanted.dedup();
                }
            }
            if !self.lock(&wanted, impatient) {
                return false;
            }
            if self.is_current(version) {
                return true;
            }
        }
    }

    /// Whether the table of slots, with which the held shards were chosen, is still of this version;
    /// otherwise they are released. Without a shard held nothing depends on it.
    #[inline]
    fn is_current(&mut self, version: u64) -> bool {
        let current = self.held.is_empty() || self.engine.sharding().version() == version;
        if !current {
            self.held.clear();
        }
        current
    }

    /// Locks the shards that commands see which look at all keys.
    fn lock_seen_shards(&mut self, impatient: bool) -> bool {
        let sharding = self.engine.sharding();
        if sharding.is_fixed() {
            return self.lock_all_shards(impatient);
        }
        let seen = (0..sharding.count()).filter(|&number| sharding.is_seen(number));
        self.pinned || self.lock_anew(seen, impatient)
    }

    /// From now on all calls work on this shard, whatever the table of slots says: for a host that
    /// applies the calls of a group.
    pub fn see_only(&mut self, shard: usize) {
        self.only = Some(shard);
    }

    /// Locks exactly the shards of `wanted`, which is sorted, unless all of them are held.
    fn lock(&mut self, wanted: &[usize], impatient: bool) -> bool {
        let held = |number| self.held.binary_search_by_key(number, |(held, _)| *held).is_ok();
        wanted.iter().all(held) || self.lock_anew(wanted.iter().copied(), impatient)
    }

    /// Locks these shards, which are in ascending order, until [`Executor::release`].
    pub(crate) fn hold(&mut self, numbers: impl Iterator<Item = usize>) {
        self.lock_anew(numbers, false);
        self.pinned = true;
    }

    /// Whether the records of the next calls are handed on by the host, which has their bytes, and not by
    /// this executor.
    pub fn set_recorded_elsewhere(&mut self, elsewhere: bool) {
        self.recorded_elsewhere = elsewhere;
    }

    /// Looks at a key ahead of its call.
    #[inline]
    pub fn hint(&self, key: &[u8]) -> Prefetched {
        let hash = self.engine.hasher().hash(key);
        let shard = self.engine.sharding().of_hashed(key, hash);
        Prefetched::of(key, hash, shard)
    }

    /// Asks for the buckets of keys to be brought near, then for their entries, then for the values in these. Where
    /// some of them are going to be written, also for their places among the keys that expire.
    #[inline]
    pub fn prefetch(&mut self, db: u32, keys: &mut [Prefetched], writes: bool) {
        if self.engine.shard_count() != 1 {
            return self.prefetch_sharded(db, keys, writes);
        }
        self.lock_first();
        let db = self.held[0].1.db(db);
        let table = db.table();
        keys.iter().for_each(|key| table.prefetch_bucket(key.hash));
        if writes && db.expires().len() != 0 {
            keys.iter().for_each(|key| db.expires().prefetch_bucket(key.hash));
        }
        keys.iter_mut().for_each(|key| key.place = table.prefetch_entry(key.hash));
        keys.iter().for_each(|key| table.prefetch_value(key.place, key.hash));
    }

    /// The same where there are several shards: a lock for each look. A shard that another thread
    /// holds is not waited for.
    fn prefetch_sharded(&mut self, db: u32, keys: &mut [Prefetched], writes: bool) {
        self.prefetch_buckets(db, keys, writes);
        self.prefetch_places(db, keys);
        for key in keys.iter().filter(|key| key.place != Place::NONE) {
            self.look(key.shard, |shard| shard.db(db).table().prefetch_value(key.place, key.hash));
        }
    }

    /// The first half of [`Executor::prefetch`] where there are several shards: only what is found by
    /// the hash of a key.
    pub(crate) fn prefetch_buckets(&self, db: u32, keys: &[Prefetched], writes: bool) {
        for key in keys {
            self.look(key.shard, |shard| {
                let db = shard.db(db);
                db.table().prefetch_bucket(key.hash);
                if writes && db.expires().len() != 0 {
                    db.expires().prefetch_bucket(key.hash);
                }
            });
        }
    }

    /// The second half.
    pub(crate) fn prefetch_places(&self, db: u32, keys: &mut [Prefetched]) {
        for key in keys {
            let place = self.look(key.shard, |shard| shard.db(db).table().prefetch_entry(key.hash));
            key.place = place.unwrap_or(key.place);
        }
    }

    /// Looks into a shard that is held, or that nobody holds.
    #[inline]
    fn look<T>(&self, number: usize, look: impl FnOnce(&Shard) -> T) -> Option<T> {
        match self.held.binary_search_by_key(&number, |(held, _)| *held) {
            Ok(at) => Some(look(&self.held[at].1)),
            Err(_) => self.engine.try_lock_shard(number).map(|shard| look(&shard)),
        }
    }

    /// Asks for the place of a field or member in its key's index to be brought near; after
    /// [`Executor::prefetch`]. Returns the member's hash; 0 where it was not looked for.
    #[inline]
    pub fn prefetch_member(
        &mut self,
        db: u32,
        key: &Prefetched,
        name: &[u8],
        member: &[u8],
    ) -> u32 {
        if key.key.is_null() || self.engine.shard_count() != 1 {
            return 0;
        }
        self.lock_first();
        let entry = self.held[0].1.db(db).find_near(key.hash, key.place, name);
        entry.and_then(|entry| entry.big()).map_or(0, |value| value.prefetch_index(member))
    }

    /// Asks for a field or member to be brought near; after [`Executor::prefetch_member`].
    #[inline]
    pub fn prefetch_element(&mut self, db: u32, key: &Prefetched, name: &[u8], hash: u32) {
        if hash == 0 || key.key.is_null() {
            return;
        }
        self.lock_first();
        let entry = self.held[0].1.db(db).find_near(key.hash, key.place, name);
        if let Some(value) = entry.and_then(|entry| entry.big()) {
            value.prefetch_element(hash);
        }
    }

    #[inline]
    fn lock_first(&mut self) {
        if self.held.is_empty() {
            self.held.push((0, self.engine.lock_shard(0)));
        }
    }

    /// From now on `token` learns of every change of `key`.
    pub fn watch(&mut self, db: u32, key: &[u8], token: &WatchToken) {
        self.shard(key).watch(db, key, token);
    }

    /// The opposite of [`Executor::watch`].
    pub fn unwatch(&mut self, db: u32, key: &[u8], token: &WatchToken) {
        self.shard(key).unwatch(db, key, token);
    }

    /// Enters `tracker` as a reader of the call's keys: the next change of each appears in
    /// [`Effects::invalidated`]. To be called while the locks of the call are still held, so that
    /// no change gets in between.
    pub fn track(&mut self, command: &Command, args: &[&[u8]], tracker: &Tracker) {
        let mut positions = KeyList::new();
        command.keys.positions(args, &mut positions);
        let keys_max = self.config.tracking_keys_max.div_ceil(self.engine.shard_count());
        for at in positions {
            let number = self.engine.shard_of(args[at]);
            let mut out = std::mem::take(&mut self.effects.invalidated);
            self.with_shard(number, |shard| {
                shard.with_tracked(|table| table.track(args[at], tracker, keys_max, &mut out));
            });
            self.effects.invalidated = out;
        }
    }

    /// Somebody more, or somebody less, wants every change to appear in [`Effects::invalidated`];
    /// counted.
    pub fn broadcast_changes(&mut self, on: bool) {
        for number in 0..self.engine.shard_count() {
            self.with_shard(number, |shard| shard.with_tracked(|table| table.broadcast(on)));
        }
    }

    /// Tracked keys, and pairs of a tracked key and a reader.
    pub fn tracked(&mut self) -> (usize, usize) {
        let mut counts = (0, 0);
        for number in 0..self.engine.shard_count() {
            let own = self.with_shard(number, |shard| shard.with_tracked(|table| table.counts()));
            counts = (counts.0 + own.0, counts.1 + own.1);
        }
        counts
    }

    /// From now on changes of `key` appear in [`Effects::ready`]; counted.
    pub fn await_key(&mut self, db: u32, key: &[u8]) {
        self.shard(key).await_key(db, key);
    }

    /// The opposite of [`Executor::await_key`].
    pub fn unawait_key(&mut self, db: u32, key: &[u8]) {
        self.shard(key).unawait_key(db, key);
    }

    /// Whether `key` is there but past its expiry at `now_ms`.
    pub fn is_lapsed(&mut self, db: u32, key: &[u8], now_ms: i64) -> bool {
        let hash = self.engine.hasher().hash(key);
        let database = self.shard(key).db(db);
        match database.find(hash, key) {
            Some(entry) => entry.expired(now_ms),
            None => database.find_cold(hash, key).is_some_and(|cold| cold.expired(now_ms)),
        }
    }

    /// A digest of the live value of `key`, 0 where there is none.
    pub fn value_digest(&mut self, db: u32, key: &[u8], now_ms: i64) -> u64 {
        let hash = self.engine.hasher().hash(key);
        let database = self.shard(key).db(db);
        let entry = database.find(hash, key).filter(|entry| !entry.expired(now_ms));
        entry.map_or(0, |entry| {
            value_digest(&EntryRef::new(entry, database), &mut Vec::new()).max(1)
        })
    }

    fn shard(&mut self, key: &[u8]) -> &mut Shard {
        let number = loop {
            let version = self.engine.sharding().version();
            let number = self.only.unwrap_or_else(|| self.engine.shard_of(key));
            self.lock(&[number], false);
            if self.is_current(version) {
                break number;
            }
        };
        let at = self.held.binary_search_by_key(&number, |(held, _)| *held);
        &mut self.held[at.expect("the shard was just locked")].1
    }

    pub(crate) fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Holds the lock of one shard and no other; `false` where another thread has it.
    pub(crate) fn try_hold(&mut self, number: usize) -> bool {
        self.held.clear();
        let guard = self.engine.try_lock_shard(number);
        self.held.extend(guard.map(|guard| (number, guard)));
        !self.held.is_empty()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Locks the shards of a call, however long that takes.
    pub(crate) fn lock_call(&mut self, call: &Call<'_>) {
        self.lock_for(call.command, call.args, &Prefetched::NONE, false);
    }

    pub(crate) fn is_impatient(&self) -> bool {
        self.impatient
    }

    /// Works on one shard, under its lock.
    pub(crate) fn with_shard<T>(&mut self, number: usize, look: impl FnOnce(&mut Shard) -> T) -> T {
        self.lock(&[number], false);
        let at = self.held.binary_search_by_key(&number, |(held, _)| *held);
        look(&mut self.held[at.expect("the shard was just locked")].1)
    }

    /// Keys of each database.
    pub fn db_stats(&mut self) -> Vec<DbStats> {
        let mut stats = vec![DbStats::default(); self.config.databases as usize];
        self.for_each_shard(|shard| {
            for (stats, db) in stats.iter_mut().zip(shard.dbs()) {
                stats.keys += db.len();
                stats.expires += db.expiring();
                stats.table_bytes += db.table_bytes();
            }
        });
        stats
    }

    /// Visits the shards one after the other, each under its lock.
    pub(crate) fn for_each_shard(&mut self, mut each: impl FnMut(&Shard)) {
        for number in 0..self.engine.shard_count() {
            self.with_shard(number, |shard| each(shard));
        }
    }
}

#[inline]
fn shards<'a>(
    held: &'a mut SmallVec<[(usize, MutexGuard<'_, Shard>); 1]>,
    count: usize,
    only: bool,
) -> LockedShards<'a> {
    if (count == 1 || only) && held.len() == 1 {
        return LockedShards::One(&mut held[0].1);
    }
    LockedShards::Some(held.iter_mut().map(|(number, guard)| (*number, &mut **guard)).collect())
}
