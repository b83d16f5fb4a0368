//! Runs the records of a log by several threads, at a start.
//!
//! ```text
//! records -> look -> parts --+--> of one key each --> lanes, on several threads at the same time
//!                            \--> all others: one by one, on the host's thread, once the lanes are done
//! ```
//! A call on one key changes nothing but what is in its key's shard, so calls of different shards can run at
//! the same time, if those of each shard keep their order: the state afterwards is the same to the byte.
//! Every other record is a barrier, be it of several keys or of none, several calls, or one whose effects
//! somebody waits for ([`Lanes::can_run`]).
//!
//! The host's executor holds all shards of the engine meanwhile, and their keys are lent to an engine that
//! has nothing else, one shard a lane. An engine with several shards lends each as it is; one with a single
//! shard lends the buckets of its tables, by bits of the keys' hashes (`keyspace::table::lane`). To each
//! call its lane's shard is all there is: one that would touch another key than its own finds no shard for it,
//! as everywhere.

mod item;
#[cfg(test)]
mod tests;

pub use item::{Item, Part, parts};

use crate::effects::Effects;
use crate::engine::Engine;
use crate::executor::{Call, Executor, Prefetched};
use crate::keyspace::{Db, LANES_MAX, Shard};
use crate::log::record::{Calls, LoggedCall};
use crate::prefetch::{LINE_BYTES, prefetch};
use crate::reply::{Protocol, Reply};
use rayon_core::{ThreadPool, ThreadPoolBuilder};
use smallvec::SmallVec;
use std::sync::OnceLock;

/// Threads that run records at most.
pub const THREADS_MAX: usize = 8;
/// Records in a row from which several threads are worth it.
pub const TOGETHER_MIN: usize = 256;
/// Records that are looked at and run as one batch.
pub const BATCH_MAX: usize = 4096;
/// Lanes of an engine with one shard: more than threads, so that none waits long for the others.
const LANES: usize = 8;
/// Calls whose keys are brought near together.
const GROUP: usize = 32;

const _: () = assert!(LANES <= LANES_MAX && LANES.is_power_of_two(), "a table has as many");

/// What runs the records of an engine by several threads.
pub struct Lanes<'e> {
    engine: &'e Engine,
    /// The engine to which the keys are lent.
    lent: Engine,
    /// Jobs of which each has some of the lanes.
    jobs: usize,
    threads: usize,
    /// Made when it is needed first; none where the system refuses threads.
    pool: OnceLock<Option<ThreadPool>>,
}

impl<'e> Lanes<'e> {
    /// For an engine and so many threads; `None` where one thread has to do. The databases' shapes are those
    /// of now.
    pub fn new(engine: &'e Engine, threads: usize) -> Option<Lanes<'e>> {
        let sharding = engine.sharding();
        if threads < 2 || !sharding.is_fixed() || engine.tier().is_some() || engine.has_sites() {
            return None;
        }
        let lent = match sharding.count() {
            1 => engine.with_lanes(LANES),
            _ => engine.sibling(),
        };
        let jobs = lent.shard_count().min(LANES);
        let lanes = Lanes { engine, lent, jobs, threads, pool: OnceLock::new() };
        if lanes.is_split() {
            let own = engine.lock_shard(0);
            for lane in 0..LANES {
                let mut lane = lanes.lent.lock_shard(lane);
                own.dbs().iter().zip(0..).for_each(|(db, at)| db.share_shapes(lane.db_mut(at)));
            }
        }
        Some(lanes)
    }

    /// Whether the lanes are parts of one shard.
    fn is_split(&self) -> bool {
        self.engine.shard_count() == 1
    }

    /// Whether these records, each of one key, can run at the same time: nobody is to be told of them, and
    /// nothing but their keys' values follows from them. Locks all shards.
    pub fn can_run(&self, executor: &mut Executor<'_>, items: &[Item]) -> bool {
        executor.lock_all();
        let engine = self.engine;
        let is_quiet = executor.config().notify.is_empty()
            && engine.propagate().is_none()
            && engine.active_sites().is_none()
            && !engine.policies().any();
        let dbs = dbs_of(items);
        is_quiet
            && dbs.iter().all(|db| *db < engine.config_databases())
            && (0..engine.shard_count()).all(|number| {
                executor.with_shard(number, |shard| {
                    let fits = |db: &u32| match self.is_split() {
                        true => shard.db(*db).can_be_lent(),
                        false => !shard.db(*db).is_saving() && shard.db(*db).cold().is_none(),
                    };
                    shard.is_unobserved() && dbs.iter().all(fits)
                })
            })
            && self.pool().is_some()
    }

    fn pool(&self) -> Option<&ThreadPool> {
        let make = || {
            let builder = ThreadPoolBuilder::new()
                .num_threads(self.threads.min(THREADS_MAX))
                .thread_name(|number| format!("ashlar-lane-{number}"));
            builder.build().ok()
        };
        self.pool.get_or_init(make).as_ref()
    }

    /// Runs records, each of one key, of which [`Lanes::can_run`] was just asked, and `meanwhile` on this
    /// thread. `bytes` has their payloads. All shards stay locked; what the calls did besides is added to the
    /// executor's effects. Says whether each call has changed something.
    ///
    /// # Panics
    /// If [`Lanes::can_run`] was not asked.
    pub fn run<T>(
        &self,
        executor: &mut Executor<'_>,
        bytes: &[u8],
        items: &[Item],
        meanwhile: impl FnOnce() -> T,
    ) -> (T, bool) {
        let pool = self.pool().expect("there is one, or nothing can run");
        let dbs = dbs_of(items);
        self.follow_config();
        self.lend(executor, &dbs);
        let (order, ends) = self.jobs_of(items);
        let mut done: [Option<Done>; LANES] = Default::default();
        let result = pool.in_place_scope(|scope| {
            let mut start = 0;
            for (job, (end, done)) in ends.iter().zip(&mut done).enumerate().take(self.jobs) {
                let own = &order[start..*end];
                start = *end;
                // Without records a lane may have buckets to split all the same.
                if self.is_split() || !own.is_empty() {
                    scope.spawn(move |_| *done = Some(self.job(job, bytes, items, own)));
                }
            }
            meanwhile()
        });
        self.take_back(executor, &dbs);
        let mut all_changed = true;
        for done in done.into_iter().flatten() {
            all_changed &= done.all_changed;
            executor.effects.join(done.effects);
        }
        (result, all_changed)
    }

    /// The settings may have changed since the last records.
    fn follow_config(&self) {
        let (now, then) = (self.engine.config(), self.lent.config());
        if *now != *then {
            self.lent.update_config(|config| *config = (*now).clone());
        }
    }

    /// The items of each job in their order, and where those of each end.
    fn jobs_of(&self, items: &[Item]) -> (Vec<u32>, [usize; LANES]) {
        let job = |item: &Item| item.shard() % self.jobs;
        let mut ends = [0; LANES];
        items.iter().for_each(|item| ends[job(item)] += 1);
        let mut sum = 0;
        for end in &mut ends {
            // Where those of the job begin; it becomes their end below.
            (*end, sum) = (sum, sum + *end);
        }
        let mut order = vec![0; items.len()];
        for (at, item) in items.iter().enumerate() {
            let end = &mut ends[job(item)];
            order[*end] = at as u32;
            *end += 1;
        }
        (order, ends)
    }

    fn lend(&self, executor: &mut Executor<'_>, dbs: &[u32]) {
        self.exchange(executor, dbs, |own, db| {
            own.before_lending();
            for number in 0..LANES {
                let mut lane = self.lent.lock_shard(number);
                // SAFETY: the shard is locked by this executor, which does nothing with it until
                // `take_back`, and its lanes are dropped without it otherwise. A lane is the shard
                // of the keys whose hash, divided by the number of lanes, leaves its number.
                unsafe { own.lend(lane.db_mut(db), (number, LANES)) };
            }
        });
    }

    fn take_back(&self, executor: &mut Executor<'_>, dbs: &[u32]) {
        self.exchange(executor, dbs, |own, db| {
            (0..LANES).for_each(|lane| own.take_back(self.lent.lock_shard(lane).db_mut(db)));
            own.after_lending();
        });
    }

    /// Exchanges databases with those of the engine that has nothing else, each shard's as it is; where there is a
    /// single shard, `split` deals with its lanes.
    fn exchange(&self, executor: &mut Executor<'_>, dbs: &[u32], split: impl Fn(&mut Db, u32)) {
        for number in 0..self.engine.shard_count() {
            executor.with_shard(number, |shard| {
                for db in dbs {
                    match self.is_split() {
                        true => split(shard.db_mut(*db), *db),
                        false => shard.exchange_db(*db, &mut self.lent.lock_shard(number)),
                    }
                }
            });
        }
    }

    /// Runs the items of a job, in their order.
    fn job(&self, job: usize, bytes: &[u8], items: &[Item], order: &[u32]) -> Done {
        let mut executor = self.lent.executor();
        let numbers = (job..self.lent.shard_count()).step_by(self.jobs);
        executor.hold(numbers.clone());
        if self.is_split() {
            numbers.for_each(|number| executor.with_shard(number, Shard::grow_lanes));
        }
        let (mut out, mut all_changed) = (Vec::new(), true);
        let mut hints: SmallVec<[Prefetched; GROUP]> = SmallVec::new();
        let mut calls: Vec<LoggedCall<'_>> = Vec::with_capacity(GROUP);
        let mut groups = order.chunks(GROUP).peekable();
        while let Some(group) = groups.next() {
            for at in groups.peek().copied().unwrap_or_default() {
                let payload = items[*at as usize].payload(bytes).as_ptr();
                prefetch(payload);
                prefetch(payload.wrapping_add(LINE_BYTES));
            }
            let group = || group.iter().map(|at| &items[*at as usize]);
            let db = group().next().map_or(0, Item::db);
            hints.clear();
            // The memory is on its way while the calls are read.
            hints.extend(group().map(|item| Prefetched::of(b"", item.hash(), item.shard())));
            executor.prefetch_buckets(db, &hints, true);
            calls.clear();
            calls.extend(group().filter_map(|item| Calls::new(item.payload(bytes)).next()));
            assert_eq!(calls.len(), hints.len(), "they were read before");
            for ((item, call), hint) in group().zip(&calls).zip(&mut hints) {
                *hint = Prefetched::of(item.key(&call.args), item.hash(), item.shard());
            }
            executor.prefetch_places(db, &mut hints);
            for ((item, logged), hint) in group().zip(&calls).zip(&hints) {
                let hint = if item.db() == db { *hint } else { Prefetched::NONE };
                all_changed &= run_one(&mut executor, item, logged, hint, &mut out);
            }
        }
        Done { effects: std::mem::take(&mut executor.effects), all_changed }
    }
}

/// Runs a call; says whether it has changed anything.
fn run_one(
    executor: &mut Executor<'_>,
    item: &Item,
    logged: &LoggedCall<'_>,
    hint: Prefetched,
    out: &mut Vec<u8>,
) -> bool {
    let call = Call {
        command: item.command(),
        args: &logged.args,
        db: logged.db,
        stamp: &logged.stamp,
        may_block: false,
        no_touch: false,
    };
    let effects = &mut executor.effects;
    let dirty = effects.dirty;
    // Access data that is drawn by lot depends on it: a call begins with none, see `log::replay`.
    let hits = effects.hits.take();
    out.clear();
    executor.run(&call, hint, &mut Reply::new(out, Protocol::Resp2));
    executor.effects.hits.set(hits + executor.effects.hits.get());
    executor.effects.dirty != dirty
}

/// What a job did.
struct Done {
    effects: Effects,
    all_changed: bool,
}

/// The databases of records.
fn dbs_of(items: &[Item]) -> SmallVec<[u32; 4]> {
    let mut dbs = SmallVec::new();
    for item in items {
        if dbs.last() != Some(&item.db()) && !dbs.contains(&item.db()) {
            dbs.push(item.db());
        }
    }
    dbs
}

impl Drop for Lanes<'_> {
    fn drop(&mut self) {
        if !self.is_split() {
            return;
        }
        // What the lanes have learned about shapes; whoever panics with the shard's lock does without.
        let Some(mut own) = self.engine.try_lock_shard(0) else { return };
        for lane in 0..LANES {
            let lane = self.lent.lock_shard(lane);
            lane.dbs().iter().zip(0..).for_each(|(db, at)| db.share_shapes(own.db_mut(at)));
        }
    }
}
