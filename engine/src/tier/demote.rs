//! Takes values out of memory: those unused for long, or the least used where memory is short.
//!
//! ```text
//! under the lock     choose entries, mark them, copy their values        cached ones are dropped at once
//! without a lock     write the rows
//! under the lock     what is still marked goes; its name goes into the index
//! ```
//! A large value is copied in steps while it is written, see `large::demote`.
//!
//! One thread at a time does this, with [`Tier::tidy`]. It deletes garbage first, so that a row
//! never gets a new value while its old chunks are still there.
//!
//! Which entries go is chosen from samples, so that a scan cannot flush what is used: a key that was
//! read in and not used again goes before all others (the idea of 2Q, Johnson and Shasha, 1994), then
//! what was not used for the longest time for how often it is used. Uses are counted on while a value is
//! on disk, so one that comes back has not to earn its place anew.

use super::row::{COLD_BYTES_MAX, ColdValue, RowId};
use super::store::{Batch, ColdError};
use super::{Tier, large, row};
use crate::engine::Engine;
use crate::keyspace::access::{self, AccessScheme};
use crate::keyspace::{Db, EntryPtr, EntryRef, Garbage, Shard};
use crate::policy::TierChoice;
use crate::stamp::Rng;
use crate::value::{Type, Value, form, view};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes of values that are copied before they are written.
const ROUND_BYTES: usize = 512 << 10;
/// Buckets that one sample visits: some 80 entries.
const SAMPLE_BUCKETS: usize = 16;
/// Room for a sample.
const SAMPLE_MAX: usize = 128;
/// Of a sample, the part that may go: one of so many.
const SAMPLE_SHARE: usize = 6;
/// Samples that a thread which serves connections looks at for values that need no write.
const DROP_SAMPLES: usize = 32;
/// Buckets that one step of the search for idle keys visits.
const AGE_BUCKETS: usize = 64;
/// Entries that one look for idle keys passes at most, and at least.
const AGE_ENTRIES: RangeInclusive<usize> = 100..=20_000;
/// A value leaves at most so much later than it should, of the time for which it has to be idle: one part of so many.
const AGE_LATE_SHARE: u64 = 16;
/// Uses that are assumed of an entry without a row: they are not counted, and to let go of it takes a write.
const HOT_USES: u8 = 64;
/// Milliseconds for which a key that was read in is left alone, so that the call which asked for it
/// finds it.
const GRACE_MS: u64 = 2_000;

/// Where the search for idle keys goes on.
#[derive(Debug, Default)]
pub(super) struct Position {
    shard: usize,
    db: u32,
    place: u64,
    /// Shard with which the next search for room begins.
    pub room: usize,
    /// Searches for room so far.
    pub searches: u64,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demoted {
    /// Values that were written to disk and left memory.
    pub written: usize,
    /// Values that left memory without being written.
    pub dropped: usize,
    /// Bytes of memory that this freed, about.
    pub bytes: usize,
    /// Entries that were looked at.
    pub examined: usize,
}

/// How memory is doing, as the host sees it.
pub trait Memory {
    /// Bytes that are to be freed still.
    fn excess(&self) -> usize;
}

impl<F: Fn() -> usize> Memory for F {
    fn excess(&self) -> usize {
        self()
    }
}

/// How little is lost with an entry: what it has been idle for, by how often it was used of late. Idle
/// time alone tells little where much is used within a second, which is what access data counts in; and
/// of two that were used a moment ago, the one that is used more often is worth more.
fn waste(idle_ms: u64, uses: u8) -> u64 {
    (idle_ms.min(1 << 40) + 500) * 256 / (u64::from(uses) + 1)
}

/// A marked entry with its value.
pub(super) struct Leaving {
    pub shard: usize,
    pub row: RowId,
    /// Only the key where it `is_large`.
    pub value: ColdValue,
    memory: usize,
    /// Whether it is copied in steps.
    is_large: bool,
    /// Whether it has an order besides.
    pub is_ranked: bool,
}

/// A candidate of a sample: the higher the score, the sooner it goes.
struct Candidate {
    score: u64,
    db: u32,
    entry: EntryPtr,
}

/// Ends the demotion of an entry, wherever its database is now: it may have been swapped.
fn end(shard: &mut Shard, one: &Leaving, whole: bool, garbage: &mut Garbage) -> bool {
    let generation = one.row.generation;
    let is = |db: &Db| db.cold().is_some_and(|cold| cold.generation() == generation);
    // Without one it was flushed: its rows go as a whole.
    let Some(number) = shard.dbs().iter().position(is) else { return false };
    shard.db_mut(number as u32).end_demotion(one.row, one.value.key(), whole, garbage)
}

/// Bytes of memory that an entry takes.
fn memory_of(db: &Db, entry: EntryPtr) -> usize {
    view::memory(&EntryRef::new(entry, db))
}

/// Whether an entry can leave memory at all. A hash with fields that expire cannot: nothing would
/// delete them while it is on disk.
fn can_leave(db: &Db, entry: EntryPtr) -> bool {
    /// Memory of a stream above which it stays: it is written out as a whole.
    const STREAM_BYTES_MAX: usize = 64 << 20;
    let max = if large::can_write(entry) { COLD_BYTES_MAX } else { STREAM_BYTES_MAX };
    entry.big().and_then(Value::next_deadline).is_none() && memory_of(db, entry) <= max
}

impl Tier {
    /// Takes values out of memory until `memory` says that it is enough, or `writes_max` bytes have
    /// been written, or nothing is left that may go.
    ///
    /// # Errors
    /// If the store failed; what was to be written is still in memory then.
    pub fn make_room(
        &self,
        engine: &Engine,
        now_ms: i64,
        seed: u64,
        writes_max: usize,
        memory: &dyn Memory,
    ) -> Result<Demoted, ColdError> {
        let mut position = self.worker.lock();
        // A host may have the same seed for several searches, where nothing is written meanwhile: they are not to look
        // at the same samples, of which nothing is left after the first.
        position.searches += 1;
        let seed = seed ^ position.searches.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (mut done, mut rng) = (Demoted::default(), Rng::new(seed));
        let (mut written, mut idle_rounds) = (0, 0);
        let shards = engine.shard_count();
        while memory.excess() > 0 && written < writes_max && idle_rounds < shards.max(4) {
            self.collect(engine)?;
            let before = (done.written, done.dropped);
            let (mut leaving, mut bytes) = (Vec::new(), 0);
            for _ in 0..shards {
                position.room = (position.room + 1) % shards;
                let excess = memory.excess();
                let mut garbage = Vec::new();
                let mut shard = engine.lock_shard(position.room);
                let sample = self.sample(engine, &shard, now_ms, rng.next_u64(), &mut done);
                for candidate in sample {
                    if bytes >= excess.max(1) {
                        break;
                    }
                    let number = position.room;
                    let memory = memory_of(shard.db(candidate.db), candidate.entry);
                    let database = shard.db_mut(candidate.db);
                    if database.drop_cached(candidate.entry, &mut garbage) {
                        done.dropped += 1;
                        done.bytes += memory;
                    } else if let Some(one) = self.mark(engine, number, database, &candidate) {
                        bytes += one.memory;
                        leaving.push(one);
                    }
                }
                drop(shard);
                drop(garbage);
                if bytes >= ROUND_BYTES || memory.excess() <= bytes {
                    break;
                }
            }
            written += self.write_out(engine, leaving, &mut done)?;
            idle_rounds = if before == (done.written, done.dropped) { idle_rounds + 1 } else { 0 };
        }
        Ok(done)
    }

    /// Takes values out of memory that need no write, until about `bytes` are free or a few samples have been looked at;
    /// returns how many bytes that freed. It waits for nobody: for a thread that serves connections.
    pub fn drop_some(&self, engine: &Engine, now_ms: i64, seed: u64, bytes: usize) -> usize {
        let (mut rng, mut freed, mut done) = (Rng::new(seed), 0, Demoted::default());
        let mut garbage = Vec::new();
        for _ in 0..DROP_SAMPLES {
            if freed >= bytes {
                break;
            }
            let Some(mut shard) = engine.try_lock_shard(rng.below(engine.shard_count())) else {
                continue;
            };
            for candidate in self.sample(engine, &shard, now_ms, rng.next_u64(), &mut done) {
                let memory = memory_of(shard.db(candidate.db), candidate.entry);
                if freed < bytes
                    && shard.db_mut(candidate.db).drop_cached(candidate.entry, &mut garbage)
                {
                    freed += memory;
                }
            }
        }
        freed
    }

    /// Entries that [`Tier::age`] has to look at where it is called so often, so that all are seen in time.
    pub fn age_share(&self, engine: &Engine, idle_ms: u64, every: Duration) -> usize {
        let keys_of = |shard: usize| {
            let shard = engine.lock_shard(shard);
            shard.dbs().iter().map(|db| db.table().len()).sum::<usize>()
        };
        let keys = (0..engine.shard_count()).map(keys_of).sum::<usize>() as u128;
        let wanted_ms = if engine.policies().has_tiers() { GRACE_MS.min(idle_ms) } else { idle_ms };
        let pass_ms = u128::from((wanted_ms / AGE_LATE_SHARE).max(1));
        let share = usize::try_from(keys * every.as_millis() / pass_ms).unwrap_or(usize::MAX);
        share.clamp(*AGE_ENTRIES.start(), *AGE_ENTRIES.end())
    }

    /// Takes values out of memory that were not used for `idle_ms`, going on where the last call
    /// stopped, until about `examined_max` entries were looked at.
    ///
    /// # Errors
    /// If the store failed.
    pub fn age(
        &self,
        engine: &Engine,
        now_ms: i64,
        idle_ms: u64,
        examined_max: usize,
    ) -> Result<Demoted, ColdError> {
        let mut done = Demoted::default();
        if engine.access_scheme() != AccessScheme::Recency {
            // Frequency counts do not tell when a key was used last.
            return Ok(done);
        }
        let mut position = self.worker.lock();
        self.collect(engine)?;
        let mut rounds = 0;
        while done.examined < examined_max && rounds <= engine.shard_count() {
            let (mut leaving, mut bytes, mut garbage) = (Vec::new(), 0, Vec::new());
            let mut shard = engine.lock_shard(position.shard);
            for _ in 0..AGE_BUCKETS {
                let mut idle = Vec::new();
                let db = shard.db(position.db);
                position.place = db.table().scan(position.place, |entry| {
                    done.examined += 1;
                    let choice = engine.policies().tier_of(entry.key());
                    let wanted_ms = match choice {
                        TierChoice::Auto => idle_ms,
                        TierChoice::Cold => GRACE_MS.min(idle_ms),
                        TierChoice::Hot => u64::MAX,
                    };
                    let idle_long = access::idle_ms(entry.access(), now_ms) >= wanted_ms;
                    if idle_long && !entry.expired(now_ms) && can_leave(db, entry) {
                        idle.push(entry);
                    }
                });
                let (number, db) = (position.shard, position.db);
                for entry in idle {
                    let memory = memory_of(shard.db(db), entry);
                    let database = shard.db_mut(db);
                    if database.drop_cached(entry, &mut garbage) {
                        done.dropped += 1;
                        done.bytes += memory;
                    } else {
                        let candidate = Candidate { score: 0, db, entry };
                        if let Some(one) = self.mark(engine, number, database, &candidate) {
                            bytes += one.memory;
                            leaving.push(one);
                        }
                    }
                }
                if position.place == 0 {
                    position.db += 1;
                    if position.db as usize == shard.dbs().len() {
                        position.db = 0;
                        position.shard = (position.shard + 1) % engine.shard_count();
                        rounds += 1;
                        break;
                    }
                }
                if bytes >= ROUND_BYTES {
                    break;
                }
            }
            drop(shard);
            drop(garbage);
            self.write_out(engine, leaving, &mut done)?;
        }
        Ok(done)
    }

    /// The part of a sample that is to leave, best first.
    fn sample(
        &self,
        engine: &Engine,
        shard: &Shard,
        now_ms: i64,
        random: u64,
        done: &mut Demoted,
    ) -> Vec<Candidate> {
        let mut sample = Vec::with_capacity(SAMPLE_MAX);
        let frequency =
            (engine.access_scheme() == AccessScheme::Frequency).then(|| engine.config().frequency);
        for (number, db) in shard.dbs().iter().enumerate() {
            // All of them are asked for before the first is looked at, which is not to wait for each in turn.
            let mut entries: SmallVec<[EntryPtr; SAMPLE_MAX]> = SmallVec::new();
            db.table().sample(random, SAMPLE_BUCKETS, |entry| {
                entry.prefetch();
                entries.push(entry);
            });
            for entry in entries {
                if entry.expired(now_ms) || !can_leave(db, entry) {
                    continue;
                }
                let choice = engine.policies().tier_of(entry.key());
                if choice == TierChoice::Hot {
                    continue;
                }
                let backed = entry.is_backed();
                let uses = db.cold().filter(|_| backed).map_or(HOT_USES, |cold| {
                    cold.sketch.borrow().count(db.hasher().hash(entry.key()))
                });
                let mut fresh = false;
                let mut rank = match frequency {
                    Some(settings) => {
                        let used = access::frequency(entry.access(), now_ms, settings);
                        u64::from(u8::MAX - used) << 8 | u64::from(u8::MAX - uses)
                    }
                    None => {
                        let idle_ms = access::idle_ms(entry.access(), now_ms);
                        fresh = idle_ms < GRACE_MS;
                        waste(idle_ms, uses)
                    }
                };
                if backed && uses <= 1 && !fresh {
                    rank |= 1 << 60;
                }
                if choice == TierChoice::Cold {
                    rank |= 1 << 61;
                }
                sample.push(Candidate { score: rank, db: number as u32, entry });
            }
        }
        done.examined += sample.len();
        let count = sample.len().div_ceil(SAMPLE_SHARE);
        let score = |candidate: &Candidate| Reverse(candidate.score);
        if count < sample.len() {
            sample.select_nth_unstable_by_key(count, score);
            sample.truncate(count);
        }
        sample.sort_unstable_by_key(score);
        sample
    }

    /// Marks an entry and copies its value.
    fn mark(
        &self,
        engine: &Engine,
        shard: usize,
        db: &mut Db,
        candidate: &Candidate,
    ) -> Option<Leaving> {
        let entry = candidate.entry;
        let tier = engine.tier()?;
        let row = db.begin_demotion(tier, entry, self.epoch.load(Ordering::Acquire))?;
        let memory = memory_of(db, entry);
        let is_large = large::can_write(entry) && memory > self.large_bytes.load(Ordering::Relaxed);
        let mut body = entry.key().to_vec();
        if !is_large {
            form::encode(&EntryRef::new(entry, db), &mut body);
        }
        if body.len() > COLD_BYTES_MAX {
            let key = entry.key().to_vec();
            db.end_demotion(row, &key, false, &mut Vec::new());
            return None;
        }
        let (expiry, access) = (entry.expiry(), entry.access());
        let value = ColdValue { expiry, access, body, key_len: entry.key().len() };
        let is_ranked = entry.big().is_some_and(|value| value.type_of() == Type::Zset);
        Some(Leaving { shard, row, value, memory, is_large, is_ranked })
    }

    /// Writes marked entries to disk and lets go of those that are still marked. Returns the bytes
    /// that were written.
    fn write_out(
        &self,
        engine: &Engine,
        leaving: Vec<Leaving>,
        done: &mut Demoted,
    ) -> Result<usize, ColdError> {
        let (large, small): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|one| one.is_large);
        let mut bytes = self.write_small(engine, small, done);
        for one in large {
            // After a fault the marks of the others are taken away.
            bytes = match bytes {
                Ok(bytes) => self.write_one_large(engine, &one, done).map(|more| bytes + more),
                Err(error) => {
                    let mut shard = engine.lock_shard(one.shard);
                    end(&mut shard, &one, false, &mut Vec::new());
                    Err(error)
                }
            };
        }
        bytes
    }

    /// The same of values that were copied already: all of them together.
    fn write_small(
        &self,
        engine: &Engine,
        leaving: Vec<Leaving>,
        done: &mut Demoted,
    ) -> Result<usize, ColdError> {
        if leaving.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::default();
        let mut result = Ok(());
        for one in &leaving {
            let number = self.next_number() as u32;
            result = result
                .and_then(|()| row::write(&*self.store, &mut batch, one.row, number, &one.value));
        }
        if let Err(error) = result.and_then(|()| self.store.apply(&batch)) {
            for one in &leaving {
                let mut shard = engine.lock_shard(one.shard);
                end(&mut shard, one, false, &mut Vec::new());
            }
            return Err(self.failed(error));
        }
        let mut bytes = 0;
        for one in leaving {
            let body = one.value.body.len();
            bytes += body;
            self.let_go(engine, &one, (body, row::disk_bytes(body)), done);
        }
        Ok(bytes)
    }

    /// The same of a value that is copied in steps.
    fn write_one_large(
        &self,
        engine: &Engine,
        one: &Leaving,
        done: &mut Demoted,
    ) -> Result<usize, ColdError> {
        match self.write_large(engine, one) {
            Ok(Some(head)) => {
                self.let_go(engine, one, (head.body_len, head.disk_bytes()), done);
                Ok(head.body_len)
            }
            unfinished => {
                let mut shard = engine.lock_shard(one.shard);
                end(&mut shard, one, false, &mut Vec::new());
                drop(shard);
                self.stats.stale_demotions.fetch_add(1, Ordering::Relaxed);
                unfinished.map(|_| 0).map_err(|error| self.failed(error))
            }
        }
    }

    /// Lets go of an entry whose value was written, if it is still marked.
    fn let_go(
        &self,
        engine: &Engine,
        one: &Leaving,
        (body, disk): (usize, u64),
        done: &mut Demoted,
    ) {
        self.stats.row_bytes.fetch_add(disk, Ordering::Relaxed);
        let mut garbage = Vec::new();
        let mut shard = engine.lock_shard(one.shard);
        let gone = end(&mut shard, one, true, &mut garbage);
        drop(shard);
        drop(garbage);
        if gone {
            done.written += 1;
            done.bytes += one.memory;
            self.stats.demotions.fetch_add(1, Ordering::Relaxed);
            self.stats.demoted_bytes.fetch_add(body as u64, Ordering::Relaxed);
        } else {
            self.stats.stale_demotions.fetch_add(1, Ordering::Relaxed);
        }
    }
}
