//! The state of all keys at one moment, read bit by bit while calls go on: what a snapshot is made of.
//!
//! ```
//! use ashlar_engine::cut::Rows;
//! use ashlar_engine::prelude::*;
//!
//! let store = Store::in_memory();
//! store.set("k", "before")?;
//! let mut cut = store.engine().begin_cut(|| ()).expect("no other cut is running").0;
//! store.set("k", "after")?;
//! store.set("other", "not there yet")?;
//!
//! let (mut rows, mut seen) = (Rows::default(), Vec::new());
//! while cut.step(&mut rows) {}
//! seen.extend(rows.iter().map(|row| (row.key.to_vec(), row.value[1..].to_vec())));
//! assert_eq!(seen, [(b"k".to_vec(), b"before".to_vec())]);
//! # Ok::<(), ashlar_engine::Error>(())
//! ```
//! How it works is told in `keyspace::saving`. Access data is taken as it is when an entry is saved,
//! since reads change it and it is only a hint.

mod group;
mod rows;

pub use group::GroupCut;
pub use rows::{Row, Rows};

use crate::engine::{DbStats, Engine};
use crate::keyspace::{Db, HandOver};
use crate::libraries::Library;
use crate::policy::Table;
use crate::tier::db::ColdDb;
use crate::tier::row::RowId;
use crate::tier::store::ColdError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Buckets that one step saves while it holds a shard's lock: some 80 entries.
const BUCKETS_A_STEP: usize = 16;
/// Bytes of rows after which a step ends, whatever the number of buckets.
const BYTES_A_STEP: usize = 32 << 10;

/// Batches of handed over entries that one step takes at most.
const BATCHES_A_STEP: usize = 8;
/// Empty batches that are kept, with their memory, for what is handed over next.
const SPARES_MAX: usize = 4;

/// Entries that were handed over by those who changed them and that wait for the cut's reader. They
/// stay in the batches in which they come: whoever hands one over holds a shard's lock, and should not
/// have to make room for all that waits already.
#[derive(Default)]
pub(crate) struct Handed {
    batches: Mutex<Batches>,
    bytes: AtomicUsize,
    flaw: Option<HandOver>,
}

#[derive(Default)]
struct Batches {
    waiting: VecDeque<Rows>,
    spare: Vec<Rows>,
}

impl Handed {
    /// Takes a batch, which is empty afterwards.
    pub fn push(&self, rows: &mut Rows) {
        self.bytes.fetch_add(rows.bytes(), Ordering::Relaxed);
        let mut batches = self.batches.lock();
        let empty = batches.spare.pop().unwrap_or_default();
        batches.waiting.push_back(std::mem::replace(rows, empty));
    }

    /// What a test wants to be forgotten.
    pub fn flaw(&self) -> Option<HandOver> {
        self.flaw
    }

    /// Moves some of what waits to `rows`, and says whether that was anything.
    fn take(&self, rows: &mut Rows) -> bool {
        for nth in 0..BATCHES_A_STEP {
            if self.bytes.load(Ordering::Relaxed) == 0 {
                return nth > 0;
            }
            let Some(mut batch) = self.batches.lock().waiting.pop_front() else { return nth > 0 };
            self.bytes.fetch_sub(batch.bytes(), Ordering::Relaxed);
            rows.append(&mut batch);
            let mut batches = self.batches.lock();
            if batches.spare.len() < SPARES_MAX {
                batches.spare.push(batch);
            }
        }
        true
    }
}

/// A cut on its way. Dropped before its end, it lets go of what it has not read yet.
pub struct Cut<'e> {
    engine: &'e Engine,
    handed: Arc<Handed>,
    /// The shard that is being read; the number of shards at the end.
    shard: usize,
    dbs: Vec<DbStats>,
    /// Of these, the keys that the cold tier has rows of.
    cold: Vec<DbStats>,
    libraries: Vec<Library>,
    policies: Arc<Table>,
    fault: Option<ColdError>,
}

/// A key whose value is on disk, as a cut has it.
pub(crate) struct ColdRow {
    pub db: u32,
    pub row: RowId,
    pub expiry: Option<i64>,
}

impl Engine {
    /// Begins a cut: it will have the state of this moment. All shards are locked for the moment, in
    /// which `at_cut` runs; what it returns is handed out. `None` while another cut is running.
    ///
    /// The thread must hold no lock of this engine: an executor releases its own first.
    pub fn begin_cut<T>(&self, at_cut: impl FnOnce() -> T) -> Option<(Cut<'_>, T)> {
        self.begin(None, at_cut)
    }

    /// A cut that forgets some hand-overs: for the test which shows that tests notice.
    #[doc(hidden)]
    pub fn begin_flawed_cut(&self, flaw: HandOver) -> Option<Cut<'_>> {
        self.begin(Some(flaw), || ()).map(|(cut, ())| cut)
    }

    fn begin<T>(&self, flaw: Option<HandOver>, at_cut: impl FnOnce() -> T) -> Option<(Cut<'_>, T)> {
        if self.cut_running().swap(true, Ordering::Acquire) {
            return None;
        }
        let handed = Arc::new(Handed { flaw, ..Handed::default() });
        let mut executor = self.executor();
        executor.lock_all();
        let dbs = executor.db_stats();
        if let Some(tier) = self.tier() {
            let mut generations = Vec::new();
            executor.with_shard(0, |shard| {
                generations.extend(shard.dbs().iter().map(Db::generation));
            });
            tier.begin_cut(generations);
        }
        for number in 0..self.shard_count() {
            executor.with_shard(number, |shard| shard.begin_saving(&handed));
        }
        let mut cold = vec![DbStats::default(); dbs.len()];
        executor.for_each_shard(|shard| {
            for (stats, db) in cold.iter_mut().zip(shard.dbs()) {
                stats.keys += db.cold().map_or(0, |cold| cold.index().len());
                stats.expires += db.cold().map_or(0, ColdDb::all_expiring);
            }
        });
        let (libraries, policies) = (self.libraries().all().0, self.policies().table());
        let at_cut = at_cut();
        executor.release();
        let (shard, fault) = (0, None);
        let cut = Cut { engine: self, handed, shard, dbs, cold, libraries, policies, fault };
        Some((cut, at_cut))
    }
}

impl Cut<'_> {
    /// Keys of each database at the cut.
    pub fn dbs(&self) -> &[DbStats] {
        &self.dbs
    }

    /// The keys that the cold tier has are saved otherwise, with its index: they do not count. Returns
    /// how many there are.
    pub(crate) fn leave_cold(&mut self) -> u64 {
        let mut keys = 0;
        for (all, cold) in self.dbs.iter_mut().zip(&mut self.cold) {
            all.keys -= cold.keys;
            all.expires -= cold.expires;
            keys += std::mem::take(cold).keys as u64;
        }
        keys
    }

    /// The libraries of functions at the cut.
    pub fn libraries(&self) -> &[Library] {
        &self.libraries
    }

    /// The classes of keys at the cut.
    pub fn policies(&self) -> &Table {
        &self.policies
    }

    /// Bytes of rows that were handed over and not read yet.
    pub fn waiting_bytes(&self) -> usize {
        self.handed.bytes.load(Ordering::Relaxed)
    }

    /// Why the cut is not whole: values that are on disk could not be read. Whoever wants all of it has to
    /// look at the end.
    pub fn fault(&self) -> Option<&ColdError> {
        self.fault.as_ref()
    }

    /// Reads a row of a cold key.
    fn read_cold(&mut self, cold: &ColdRow, rows: &mut Rows) {
        let Some(tier) = self.engine.tier() else { return };
        match tier.read(cold.row) {
            Ok(value) => rows.push_value(cold.db, cold.expiry, &value),
            Err(error) => self.fault = Some(error),
        }
    }

    /// Appends some more rows, a bounded number but for the ones that were handed over, and returns
    /// whether there are more. One shard is locked for a short time, a large value aside: that is
    /// written out as a whole.
    pub fn step(&mut self, rows: &mut Rows) -> bool {
        let mut cold = Vec::new();
        let more = self.advance(rows, &mut cold);
        cold.iter().for_each(|cold| self.read_cold(cold, rows));
        more
    }

    fn advance(&mut self, rows: &mut Rows, cold: &mut Vec<ColdRow>) -> bool {
        let took = self.handed.take(rows);
        if self.shard == self.engine.shard_count() {
            // All of them are saved: nothing is handed over any more.
            return took;
        }
        let mut spent = Vec::new();
        let bytes_max = rows.bytes() + BYTES_A_STEP;
        let mut shard = self.engine.lock_shard(self.shard);
        let more = shard.save_some(rows, BUCKETS_A_STEP, bytes_max, cold, &mut spent);
        drop(shard);
        if !more {
            self.shard += 1;
        }
        true
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let (mut rows, mut cold) = (Rows::default(), Vec::new());
        while self.advance(&mut rows, &mut cold) {
            rows.clear();
            cold.clear();
        }
        if let Some(tier) = self.engine.tier() {
            tier.end_cut();
        }
        self.engine.cut_running().store(false, Ordering::Release);
    }
}
