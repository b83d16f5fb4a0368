//! What keeps an engine in shape besides its clients' calls: keys past their expiry are deleted,
//! and keys make room when memory is full.
//!
//! The host decides when, and brings the stamp. What is to go is chosen here, by sampling; it goes
//! by ordinary calls (see `commands::internal`), so that the journal has every deletion.

use crate::command::Command;
use crate::commands::internal;
use crate::engine::command_table;
use crate::executor::{Call, Executor, Prefetched};
use crate::keyspace::access::FrequencySettings;
use crate::keyspace::{EntryRef, EvictionPolicy, Pool, Shard};
use crate::reply::{Protocol, Reply};
use crate::stamp::{Rng, Stamp};
use crate::value::{hash, view};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Buckets of the table of keys with an expiry that one sample visits: some 20 keys.
const SAMPLE_BUCKETS: usize = 6;
/// Hashes with fields that expire that one sample visits.
const SAMPLE_HASHES: usize = 20;
/// Percent of a sample that may have expired without another one being taken, at effort 1.
const STALE_PERCENT: usize = 10;
/// The highest effort, `active-expire-effort`.
const EFFORT_MAX: usize = 10;
/// Most keys that one call of the upkeep deletes.
const BATCH_MAX: usize = 256;

/// Tries to evict a key; one fails only if another thread deletes the chosen key first.
const TRIES_MAX: usize = 100;

/// State of the upkeep that outlives a pass.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// The shard with which the next pass of expiry starts.
    next_shard: AtomicUsize,
    pool: Mutex<Pool>,
}

/// What a pass of expiry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Keys that were deleted.
    pub keys: usize,
    /// Fields of hashes that were deleted.
    pub fields: usize,
    /// Keys that were looked at, and fields deleted.
    pub examined: usize,
    /// Whether the pass ended at its limit, with more to delete.
    pub unfinished: bool,
}

/// A key that was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its database.
    pub db: u32,
    /// The key.
    pub key: Box<[u8]>,
    /// Bytes that it took, as far as they can be told.
    pub bytes: usize,
}

/// A pass of expiry on its way.
struct Pass<'a> {
    stamp: &'a Stamp,
    /// Percent of a sample that may have expired without another one being taken.
    stale_percent: usize,
    keys_max: usize,
    done: Expired,
}

type KeyBatch = SmallVec<[Box<[u8]>; 32]>;

fn command(name: &str) -> &'static Command {
    let found = command_table().find(name.as_bytes());
    found.expect("the internal commands are in the table").1
}

impl Executor<'_> {
    /// One pass of active expiry: looks at some keys that have an expiry, shard after shard and
    /// database after database, and deletes those past it, then at some more while a tenth of
    /// the last ones had expired; a higher `effort` (1 to 10) accepts less. Looks at no
    /// more than about `keys_max` keys, then leaves the rest to the next pass, which goes on with
    /// the next shard. No lock is held afterwards.
    pub fn expire_cycle(&mut self, stamp: &Stamp, effort: usize, keys_max: usize) -> Expired {
        let shards = self.engine().shard_count();
        let upkeep = self.engine().upkeep();
        let start = upkeep.next_shard.load(Ordering::Relaxed);
        let mut pass = Pass {
            stamp,
            stale_percent: STALE_PERCENT.saturating_sub(effort.clamp(1, EFFORT_MAX) - 1),
            keys_max,
            done: Expired::default(),
        };
        for step in 0..shards {
            let number = (start + step) % shards;
            // Whoever has it may have it for long, as a script does: its turn comes with a later pass.
            if !self.try_hold(number) {
                continue;
            }
            for db in 0..self.config().databases {
                self.expire_in(number, db, &mut pass);
                self.expire_fields_in(number, db, &mut pass);
            }
            self.release();
            if pass.done.examined >= keys_max {
                pass.done.unfinished |= step + 1 < shards;
                upkeep.next_shard.store((number + 1) % shards, Ordering::Relaxed);
                break;
            }
        }
        pass.done
    }

    /// Expires keys of one database in one shard.
    fn expire_in(&mut self, shard: usize, db: u32, pass: &mut Pass<'_>) {
        while pass.done.examined < pass.keys_max {
            let now_ms = pass.stamp.now_ms;
            let (examined, batch) = self.with_shard(shard, |shard| sweep(shard, db, now_ms));
            pass.done.examined += examined;
            pass.done.keys += self.delete(internal::EXPIRE, db, &batch, pass.stamp);
            if batch.len() * 100 <= examined * pass.stale_percent {
                return;
            }
            pass.done.unfinished |= pass.done.examined >= pass.keys_max;
        }
    }

    /// Expires fields of hashes of one database in one shard.
    fn expire_fields_in(&mut self, shard: usize, db: u32, pass: &mut Pass<'_>) {
        while pass.done.examined < pass.keys_max {
            let (now_ms, mut batch) = (pass.stamp.now_ms, KeyBatch::new());
            let examined = self.with_shard(shard, |shard| {
                shard.db_mut(db).sweep_timed(SAMPLE_HASHES, |key, at_ms| {
                    if hash::is_past(at_ms, now_ms) {
                        batch.push(key.into());
                    }
                })
            });
            let fields = self.delete(internal::EXPIRE_FIELDS, db, &batch, pass.stamp);
            pass.done.examined += examined + fields;
            pass.done.fields += fields;
            let whole = fields < internal::FIELDS_MAX;
            if whole && batch.len() * 100 <= examined * pass.stale_percent {
                return;
            }
            pass.done.unfinished |= pass.done.examined >= pass.keys_max;
        }
    }

    /// Deletes the keys that reads met past their expiry ([`crate::effects::Effects::lapsed`]).
    /// Returns how many went.
    pub fn delete_lapsed(&mut self, stamp: &Stamp) -> usize {
        let lapsed = std::mem::take(self.effects.lapsed.get_mut());
        let delete = |(db, key): (u32, Box<[u8]>)| {
            self.delete(internal::EXPIRE, db, &SmallVec::from_iter([key]), stamp)
        };
        lapsed.into_iter().map(delete).sum()
    }

    /// Deletes a key if it is past its expiry, as a call of its own; returns how many went.
    pub(crate) fn delete_expired(&mut self, db: u32, key: Box<[u8]>, stamp: &Stamp) -> usize {
        self.delete(internal::EXPIRE, db, &SmallVec::from_iter([key]), stamp)
    }

    /// Runs an internal command on keys, as calls of bounded length; returns how many it deleted.
    fn delete(&mut self, name: &'static str, db: u32, keys: &KeyBatch, stamp: &Stamp) -> usize {
        let mut deleted = 0;
        for batch in keys.chunks(BATCH_MAX) {
            let mut args: SmallVec<[&[u8]; 33]> = SmallVec::from_iter([name.as_bytes()]);
            args.extend(batch.iter().map(|key| &**key));
            let call = Call {
                command: command(name),
                args: &args,
                db,
                stamp,
                may_block: false,
                no_touch: true,
            };
            let mut out = Vec::new();
            self.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
            let count = out.strip_prefix(b":").and_then(|out| out.strip_suffix(b"\r\n"));
            let count = count.and_then(crate::number::parse_i64).unwrap_or(0);
            deleted += usize::try_from(count).unwrap_or(0);
        }
        deleted
    }

    /// Deletes the key that `policy` would have go first, among a sample of `samples` keys of each
    /// database (`maxmemory-samples`) and the best ones of samples before. `None` if there is no
    /// key that may go. Locks that were held are released. The memory meter is the host's: it calls this while there is too little.
    pub fn evict(
        &mut self,
        policy: EvictionPolicy,
        samples: usize,
        stamp: &Stamp,
    ) -> Option<Evicted> {
        if policy == EvictionPolicy::NoEviction {
            return None;
        }
        // The pool's lock is taken before those of shards, never while one is held.
        self.release();
        // The seeds of two calls in a row may lie in one stream of numbers: mixed, they do not.
        let mut rng = Rng::new(Rng::new(stamp.seed).next_u64());
        for _ in 0..TRIES_MAX {
            let (db, key) = self.choose(policy, samples.max(1), stamp.now_ms, &mut rng)?;
            let shard = self.engine().shard_of(&key);
            let hash = self.engine().hasher().hash(&key);
            let bytes = self.with_shard(shard, |shard| {
                let database = shard.db(db);
                let entry = database.find(hash, &key)?;
                Some(view::memory(&EntryRef::new(entry, database)))
            });
            let batch = SmallVec::from_iter([key]);
            if self.delete(internal::EVICT, db, &batch, stamp) > 0 {
                let key = batch.into_iter().next()?;
                return Some(Evicted { db, key, bytes: bytes.unwrap_or(0) });
            }
            self.release();
        }
        None
    }

    /// The key to evict; it was there a moment ago.
    fn choose(
        &mut self,
        policy: EvictionPolicy,
        samples: usize,
        now_ms: i64,
        rng: &mut Rng,
    ) -> Option<(u32, Box<[u8]>)> {
        let shards = self.engine().shard_count();
        let start = rng.below(shards);
        let engine = self.engine();
        // Keys that several sites write stay, so it takes more looks to find another one.
        let looks = if engine.has_sites() { LOOKS_MAX } else { 1 };
        let may_go = |db: u32, key: &[u8]| engine.may_evict(db, key);
        if policy.is_random() {
            return (0..looks * shards).find_map(|step| {
                let found = self
                    .with_shard((start + step) % shards, |shard| random_key(shard, policy, rng));
                found.filter(|(db, key)| may_go(*db, key))
            });
        }
        let settings = self.config().frequency;
        let sampling = Sampling { policy, samples, now_ms, settings };
        let upkeep = self.engine().upkeep();
        let mut pool = upkeep.pool.lock();
        pool.set_policy(policy);
        for step in 0..looks * shards {
            let random = rng.next_u64();
            self.with_shard((start + step) % shards, |shard| {
                sampling.fill(shard, random, &mut pool, may_go);
            });
            while let Some(best) = pool.pop() {
                let hash = self.engine().hasher().hash(&best.key);
                let score = self.with_shard(self.engine().shard_of(&best.key), |shard| {
                    let entry = shard.db(best.db).find(hash, &best.key)?;
                    let may_go = !policy.is_volatile() || entry.expiry().is_some();
                    may_go.then(|| policy.score(entry, now_ms, settings))
                });
                // A lower score: the key was used since it came into the pool.
                if score.is_some_and(|score| score >= best.score) {
                    return Some((best.db, best.key));
                }
            }
        }
        None
    }
}

/// Looks at the next few keys of a database that have an expiry: how many, and those past it.
fn sweep(shard: &mut Shard, db: u32, now_ms: i64) -> (usize, KeyBatch) {
    let (mut examined, mut batch) = (0, KeyBatch::new());
    shard.db_mut(db).sweep_expires(SAMPLE_BUCKETS, |entry| {
        examined += 1;
        if entry.expired(now_ms) {
            batch.push(entry.key().into());
        }
    });
    (examined, batch)
}

/// A random key of a shard, from a random database of those that have any.
fn random_key(shard: &Shard, policy: EvictionPolicy, rng: &mut Rng) -> Option<(u32, Box<[u8]>)> {
    let count = shard.dbs().len();
    let start = rng.below(count);
    (0..count).map(|step| (start + step) % count).find_map(|number| {
        let db = shard.db(number as u32);
        let table = if policy.is_volatile() { db.expires() } else { db.table() };
        let entry = table.random(rng.next_u64())?;
        Some((number as u32, entry.key().into()))
    })
}

/// Looks for a key to evict where some may not go.
const LOOKS_MAX: usize = 64;

/// How candidates are found.
struct Sampling {
    policy: EvictionPolicy,
    samples: usize,
    now_ms: i64,
    settings: FrequencySettings,
}

impl Sampling {
    /// Offers a sample of each database of a shard.
    fn fill(
        &self,
        shard: &Shard,
        random: u64,
        pool: &mut Pool,
        may_go: impl Fn(u32, &[u8]) -> bool,
    ) {
        for (number, db) in shard.dbs().iter().enumerate() {
            let table = if self.policy.is_volatile() { db.expires() } else { db.table() };
            let mut sampled = 0;
            table.sample(random, self.samples, |entry| {
                if sampled < self.samples && may_go(number as u32, entry.key()) {
                    let score = self.policy.score(entry, self.now_ms, self.settings);
                    pool.offer(score, number as u32, entry.key());
                    sampled += 1;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::journal::{Journal, Record};
    use std::sync::Arc;

    fn run(executor: &mut Executor<'_>, db: u32, now_ms: i64, line: &str) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (_, command) = command_table().find(args[0]).unwrap();
        let (mut out, stamp) = (Vec::new(), Stamp::new(now_ms, 1));
        let call =
            Call { command, args: &args, db, stamp: &stamp, may_block: false, no_touch: false };
        executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
        assert_ne!(out[0], b'-', "{line}: {}", String::from_utf8_lossy(&out));
    }

    #[derive(Default)]
    struct Tape(Mutex<Vec<(Stamp, u32, String)>>);

    impl Journal for Tape {
        fn append(&self, calls: &[Record<'_>]) -> u64 {
            let mut tape = self.0.lock();
            for call in calls {
                let line = String::from_utf8_lossy(&call.args.join(&b' ')).into_owned();
                tape.push((*call.stamp, call.db, line));
            }
            tape.len() as u64
        }
    }

    fn keys(engine: &Engine) -> usize {
        engine.db_stats().iter().map(|stats| stats.keys).sum()
    }

    #[test]
    fn expired_keys_go_and_a_replay_agrees() {
        for shards in [1, 5] {
            let tape = Arc::new(Tape::default());
            let journal = Some(tape.clone() as Arc<dyn Journal>);
            let engine =
                Engine::with_options(EngineOptions { shards, journal, ..EngineOptions::default() });
            let mut executor = engine.executor();
            for n in 0..2_000 {
                run(&mut executor, n % 3, 1_000, &format!("SET key{n} {n}"));
                let after = if n % 2 == 0 { 50 } else { 5_000 };
                run(&mut executor, n % 3, 1_000, &format!("PEXPIRE key{n} {after}"));
            }
            let small = executor.expire_cycle(&Stamp::new(2_000, 9), 1, 100);
            assert!(small.unfinished && (100..400).contains(&small.examined), "{small:?}");
            for seed in 0..100 {
                executor.expire_cycle(&Stamp::new(2_000, seed), 10, 100_000);
            }
            assert_eq!(executor.effects.expired_keys, 1_000);
            assert_eq!(keys(&engine), 1_000);
            assert_eq!(executor.expire_cycle(&Stamp::new(2_000, 3), 10, 100_000).keys, 0);

            let replay = Engine::with_options(EngineOptions::default());
            let mut executor = replay.executor();
            for (stamp, db, line) in tape.0.lock().iter() {
                run(&mut executor, *db, stamp.now_ms, line);
            }
            drop(executor);
            assert_eq!(replay.digest(), engine.digest());
        }
    }

    #[test]
    fn expired_fields_go() {
        let engine = Engine::with_options(EngineOptions { shards: 2, ..Default::default() });
        let mut executor = engine.executor();
        for n in 0..100 {
            run(&mut executor, 1, 1_000, &format!("HSET hash{n} a 1 b 2 c 3"));
            run(&mut executor, 1, 1_000, &format!("HPEXPIRE hash{n} 50 FIELDS 2 a b"));
            run(&mut executor, 1, 1_000, &format!("HPEXPIRE hash{n} 500 FIELDS 1 c"));
        }
        run(&mut executor, 1, 1_000, "DEL hash0");
        run(&mut executor, 1, 1_000, "COPY hash1 copy");
        run(&mut executor, 1, 1_000, "RENAME hash2 renamed");
        assert_eq!(executor.expire_cycle(&Stamp::new(1_049, 1), 1, 1_000).fields, 0);
        assert_eq!(executor.expire_cycle(&Stamp::new(1_060, 1), 1, 1_000).fields, 200);
        assert_eq!(keys(&engine), 100);
        assert_eq!(executor.expire_cycle(&Stamp::new(1_600, 1), 1, 1_000).fields, 100);
        assert_eq!((keys(&engine), executor.effects.expired_fields), (0, 300));
        let mut big = String::from("HSET big");
        (0..5_000).for_each(|n| big.push_str(&format!(" field{n} x")));
        run(&mut executor, 0, 1_000, &big);
        for n in 0..5_000 {
            run(&mut executor, 0, 1_000, &format!("HPEXPIRE big 10 FIELDS 1 field{n}"));
        }
        assert_eq!(executor.expire_cycle(&Stamp::new(2_000, 1), 1, 100_000).fields, 5_000);
        assert_eq!(keys(&engine), 0);
    }

    #[test]
    fn what_reads_met_is_deleted() {
        let engine = Engine::with_options(EngineOptions::default());
        let mut executor = engine.executor();
        run(&mut executor, 2, 1_000, "SET k v");
        run(&mut executor, 2, 1_000, "PEXPIRE k 10");
        run(&mut executor, 2, 1_005, "GET k");
        assert_eq!(executor.delete_lapsed(&Stamp::new(1_005, 0)), 0);
        run(&mut executor, 2, 1_020, "GET k");
        assert_eq!(executor.delete_lapsed(&Stamp::new(1_020, 0)), 1);
        assert!(executor.effects.lapsed.borrow().is_empty());
        drop(executor);
        assert_eq!(keys(&engine), 0);
    }

    /// The numbers of the keys that are left after evicting until `left` are.
    fn survivors(policy: EvictionPolicy, shards: usize, left: usize) -> Vec<u32> {
        let options = EngineOptions { shards, ..EngineOptions::default() };
        let engine = Engine::with_options(options);
        engine.update_config(|config| config.access = policy.access_scheme());
        let mut executor = engine.executor();
        for n in 0..1_000 {
            let now_ms = i64::from(n) * 1_000;
            run(&mut executor, n % 2, now_ms, &format!("SET key{n} {n}"));
            if n % 4 != 3 {
                run(&mut executor, n % 2, now_ms, &format!("PEXPIREAT key{n} {}", 9_000_000 - n));
            }
            for _ in 0..n / 50 {
                run(&mut executor, n % 2, now_ms, &format!("GET key{n}"));
            }
        }
        let mut seed = 0;
        while executor.effects.evicted_keys < (1_000 - left) as u64 {
            seed += 1;
            let evicted = executor.evict(policy, 5, &Stamp::new(1_000_000, seed));
            assert!(evicted.is_some_and(|evicted| evicted.bytes > 0));
        }
        executor.release();
        let there = |n: &u32| {
            let mut executor = engine.executor();
            let (key, hash) =
                (format!("key{n}"), engine.hasher().hash(format!("key{n}").as_bytes()));
            let shard = engine.shard_of(key.as_bytes());
            executor.with_shard(shard, |shard| shard.db(n % 2).find(hash, key.as_bytes()).is_some())
        };
        (0..1_000).filter(there).collect()
    }

    #[test]
    fn policies_choose_well() {
        for shards in [1, 4] {
            for policy in EvictionPolicy::ALL.into_iter().skip(1) {
                let left = survivors(policy, shards, 500);
                assert_eq!(left.len(), 500);
                if policy.is_volatile() {
                    assert_eq!(left.iter().filter(|n| *n % 4 == 3).count(), 250, "{policy:?}");
                }
                let others = left.iter().filter(|n| !policy.is_volatile() || *n % 4 != 3);
                let mean = others.clone().sum::<u32>() / others.count() as u32;
                let expected = match policy {
                    // Of 0..1000 the last 500; of those with an expiry the last 250 of 750.
                    EvictionPolicy::AllKeysLru | EvictionPolicy::AllKeysLfu => 650..=800,
                    EvictionPolicy::VolatileLru | EvictionPolicy::VolatileLfu => 700..=900,
                    EvictionPolicy::VolatileTtl => 80..=300,
                    _ => 430..=570,
                };
                assert!(expected.contains(&mean), "{policy:?} with {shards}: {mean}");
            }
        }
    }

    #[test]
    fn expiry_waits_for_nobody() {
        let engine = Engine::with_options(EngineOptions { shards: 2, ..Default::default() });
        let mut executor = engine.executor();
        for n in 0..40 {
            run(&mut executor, 0, 1_000, &format!("SET key{n} {n} PX 10"));
        }
        executor.release();
        let held = engine.lock_shard(0);
        let there = |shard: usize| engine.lock_shard(shard).db(0).len();
        let expired = executor.expire_cycle(&Stamp::new(5_000, 1), 10, 1_000);
        assert!(expired.keys > 0 && expired.keys < 40, "{expired:?}");
        drop(held);
        executor.release();
        let rest = executor.expire_cycle(&Stamp::new(5_000, 2), 10, 1_000);
        assert_eq!(expired.keys + rest.keys, 40);
        assert_eq!((there(0), there(1)), (0, 0));
    }

    #[test]
    fn nothing_to_evict() {
        let engine = Engine::with_options(EngineOptions { shards: 3, ..Default::default() });
        let mut executor = engine.executor();
        let stamp = Stamp::new(1, 1);
        for policy in EvictionPolicy::ALL {
            assert_eq!(executor.evict(policy, 5, &stamp), None);
        }
        run(&mut executor, 0, 1, "SET k v");
        assert_eq!(executor.evict(EvictionPolicy::VolatileLru, 5, &stamp), None);
        assert_eq!(executor.evict(EvictionPolicy::NoEviction, 5, &stamp), None);
        assert!(executor.evict(EvictionPolicy::AllKeysLru, 5, &stamp).is_some());
    }
}
