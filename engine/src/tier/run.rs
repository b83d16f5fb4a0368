//! Runs calls on an engine that has a cold tier: what they need is found out first.
//!
//! A call that only reads runs as if there were no disk; if it met a cold key, its reply is discarded and
//! it is run again with the value. A call that writes must not begin without what it needs, so its
//! declared keys are looked up first, unless it works on keys without their values (`Flags::BLIND`).
//! Commands that find keys by themselves (SORT) stop before they change anything.

use super::needs::Needs;
use super::store::ColdError;
use super::{Brought, Tier, Want};
use crate::command::{Command, Flags, KeyList, Run};
use crate::error::Error;
use crate::executor::{Call, Executor, Outcome, Prefetched};
use crate::reply::Reply;
use crate::stamp::Stamp;
use crate::value::part::Ask;
use std::sync::atomic::Ordering;

/// Times that a call is run again because what was loaded has left again, or more is needed, before
/// it is an error.
const TRIES_MAX: usize = 1_000;

/// Whether the call needs the values of its declared keys.
fn needs_values(command: &Command, args: &[&[u8]]) -> bool {
    if command.flags.contains(Flags::BLIND) {
        // SET with GET returns the old value.
        return command.name == "SET"
            && args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"GET"));
    }
    true
}

impl Executor<'_> {
    /// With `true`, calls that need something from disk end with [`Outcome::NeedsCold`]; otherwise it is
    /// loaded right here, and the locks are released for it where the host has not locked shards
    /// for several calls.
    pub fn set_loads_elsewhere(&mut self, elsewhere: bool) {
        self.loads_elsewhere = elsewhere;
    }

    /// After [`Outcome::NeedsCold`]: brings in what the last call needs, where all of it can be had without waiting for
    /// the disk, under the locks that it holds. It is to be run again then.
    pub fn load_ready(&mut self) -> bool {
        let engine = self.engine();
        let Some(tier) = engine.tier() else { return false };
        let needs = self.take_needs();
        let is_ready = needs.names.is_empty()
            && needs.values.iter().all(|want| {
                let number = engine.shard_of(&want.key);
                let bytes = self.with_shard(number, |shard| tier.load_ready(engine, shard, want));
                self.effects.cold.ready_bytes += bytes.unwrap_or(0);
                bytes.is_some()
            });
        if !is_ready {
            self.set_needs(needs);
        }
        is_ready
    }

    /// Bytes of values that [`Executor::load_ready`] has brought in since the last time.
    pub fn take_ready_bytes(&mut self) -> usize {
        std::mem::take(&mut self.effects.cold.ready_bytes)
    }

    /// What the last call needs, after [`Outcome::NeedsCold`].
    pub fn take_needs(&mut self) -> Needs {
        std::mem::take(self.effects.cold.needs.get_mut())
    }

    /// Says what a call needs that the host found out about.
    pub fn set_needs(&mut self, needs: Needs) {
        *self.effects.cold.needs.get_mut() = needs;
    }

    /// What was read for the next calls.
    pub fn give(&mut self, brought: Brought) {
        self.effects.cold.give(brought);
    }

    /// Forgets what was read in part: the calls that asked for it have run, or will not.
    #[inline]
    pub fn drop_parts(&mut self) {
        if self.effects.cold.has_parts() {
            self.effects.cold.drop_parts();
        }
    }

    /// What a call would need that is to be run soon, as far as its declared keys tell; of large values what it
    /// would read.
    pub fn needs_ahead(&mut self, call: &Call<'_>) -> Vec<Want> {
        let mut values = self.needs_of(call).values;
        if !values.is_empty() {
            self.ask_for_parts(call, &mut values);
        }
        values
    }

    /// What a call would need that is not run yet, as far as its declared keys tell.
    pub fn needs_of(&mut self, call: &Call<'_>) -> Needs {
        let mut needs = Needs::default();
        if self.engine().tier().is_some() && needs_values(call.command, call.args) {
            self.add_needs(call, &mut needs);
        }
        needs
    }

    /// What the values of keys that are on disk need to be read: all of a small one, and of a large one its head alone,
    /// as nobody can say yet which part of it is wanted.
    pub fn needs_of_keys(&mut self, db: u32, keys: &[&[u8]], now_ms: i64) -> Needs {
        let mut needs = Needs::default();
        if self.engine().tier().is_some() {
            keys.iter().for_each(|key| self.add_need((db, key), now_ms, &mut needs));
        }
        needs.values.iter_mut().for_each(|want| want.ask = Some(Ask::Head));
        needs
    }

    fn add_need(&mut self, (db, key): (u32, &[u8]), now_ms: i64, needs: &mut Needs) {
        let hasher = self.engine().hasher();
        self.with_shard(self.engine().shard_of(key), |shard| {
            let database = shard.db(db);
            if database.cold().is_none() {
                return;
            }
            let cold = database.find_cold(hasher.hash(key), key);
            if cold.is_some_and(|cold| !cold.expired(now_ms)) {
                needs.values.push(Want::whole(db, key));
            }
        });
    }

    fn add_needs(&mut self, call: &Call<'_>, needs: &mut Needs) {
        let mut positions = KeyList::new();
        call.command.keys.positions(call.args, &mut positions);
        let followed = call.stamp.site == Stamp::FOLLOWED;
        let now_ms = if followed { i64::MIN } else { call.stamp.now_ms };
        for at in positions {
            self.add_need((call.db, call.args[at]), now_ms, needs);
        }
    }

    /// Where parts of large values are enough for a call, says which.
    fn ask_for_parts(&self, call: &Call<'_>, values: &mut [Want]) {
        if !call.command.flags.contains(Flags::READONLY) || call.command.reads.is_whole() {
            return;
        }
        let key = call.args.get(1).copied();
        if let Some(ask) = call.command.reads.ask(call.args) {
            let own = values.iter_mut().filter(|want| key == Some(&want.key));
            own.for_each(|want| want.ask = Some(ask.clone()));
        }
    }

    /// Runs a call where the engine has a cold tier.
    pub(crate) fn run_tiered(
        &mut self,
        call: &Call<'_>,
        run: Run,
        hint: Prefetched,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        for _ in 0..TRIES_MAX {
            let outcome = self.try_tiered(call, run, hint, reply);
            if outcome != Outcome::NeedsCold || self.loads_elsewhere {
                if outcome != Outcome::NeedsCold {
                    self.promote_used();
                    self.effects.cold.names.clear();
                    if !self.loads_elsewhere && !self.is_pinned() {
                        self.drop_parts();
                    }
                }
                return outcome;
            }
            if let Err(error) = self.load_here() {
                reply.error(&Error::owned(format!("ERR {error}")));
                return Outcome::Failed;
            }
        }
        reply.error(&Error::text("ERR the values of the call do not stay in memory"));
        Outcome::Failed
    }

    fn try_tiered(
        &mut self,
        call: &Call<'_>,
        run: Run,
        hint: Prefetched,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        let reads = call.command.flags.contains(Flags::READONLY);
        if !reads && needs_values(call.command, call.args) {
            if !self.lock_for(call.command, call.args, &hint, self.is_impatient()) {
                return Outcome::Busy;
            }
            let mut needs = Needs::default();
            self.add_needs(call, &mut needs);
            if !needs.is_empty() {
                *self.effects.cold.needs.get_mut() = needs;
                return Outcome::NeedsCold;
            }
        }
        if self.effects.cold.has_parts() {
            self.effects.cold.ask = if reads { call.command.reads.ask(call.args) } else { None };
        }
        let (hits, misses) = (self.effects.hits.get(), self.effects.misses.get());
        let missed = self.effects.missed.get_mut().len();
        let outcome = self.run_once(call, run, hint, reply);
        if outcome != Outcome::NeedsCold && !(reads && self.effects.cold.is_lacking()) {
            drop(self.take_needs());
            return outcome;
        }
        reply.discard();
        self.effects.hits.set(hits);
        self.effects.misses.set(misses);
        self.effects.missed.get_mut().truncate(missed);
        let mut values = std::mem::take(&mut self.effects.cold.needs.get_mut().values);
        self.ask_for_parts(call, &mut values);
        self.effects.cold.needs.get_mut().values = values;
        Outcome::NeedsCold
    }

    /// Loads what the last call needs, on this thread.
    fn load_here(&mut self) -> Result<(), ColdError> {
        let needs = self.take_needs();
        let engine = self.engine();
        let Some(tier) = engine.tier() else { return Ok(()) };
        if !self.is_pinned() {
            self.release();
            let brought = tier.load(engine, &needs)?;
            self.effects.cold.give(brought);
            return Ok(());
        }
        for want in &needs.values {
            let number = engine.shard_of(&want.key);
            let part = self.with_shard(number, |shard| tier.load_locked(engine, shard, want))?;
            let parts = part.into_iter().collect();
            self.effects.cold.give(Brought { parts, ..Brought::default() });
        }
        let names = Needs { names: needs.names, ..Needs::default() };
        let brought = tier.load(engine, &names)?;
        self.effects.cold.give(brought);
        Ok(())
    }

    /// Loads the values of keys, with no lock held afterwards: before a transaction on them.
    ///
    /// # Errors
    /// If the store failed or a value is damaged.
    pub fn load_keys(&mut self, db: u32, keys: &[&[u8]]) -> Result<(), ColdError> {
        self.release();
        let engine = self.engine();
        let Some(tier) = engine.tier() else { return Ok(()) };
        let values = keys.iter().map(|&key| Want::whole(db, key)).collect();
        tier.load(engine, &Needs { values, ..Needs::default() }).map(drop)
    }

    /// Keys that were used often enough stay in memory for good; their shards are still locked.
    fn promote_used(&mut self) {
        let used = self.effects.cold.used.get_mut();
        if used.is_empty() {
            return;
        }
        let used = std::mem::take(used);
        let engine = self.engine();
        for (db, key) in used {
            let hash = engine.hasher().hash(&key);
            let number = engine.shard_of(&key);
            let promoted = self.with_shard(number, |shard| shard.db_mut(db).promote(hash, &key));
            if promoted && let Some(tier) = engine.tier() {
                tier.stats.promotions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tier {
    /// Counts a call that waits for the disk.
    pub fn count_wait(&self) {
        self.stats.waits.fetch_add(1, Ordering::Relaxed);
    }
}
