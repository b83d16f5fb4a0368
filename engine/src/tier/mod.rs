//! The cold tier: values that left memory, on disk in a [`store::ColdStore`].
//!
//! ```text
//! needs    what a call lacks: values and names that are on disk
//! run      finds that out before and after a call
//! load     brings them in            demote   takes values out           upkeep   gives space back
//! db       what is cold, cached or on its way, for one database of one shard, under its lock
//! index    the names of cold keys in memory: 80 bits of fingerprint and 8 of epoch a key
//! walk     SCAN, KEYS and RANDOMKEY over both tiers
//! sketch   how often cached keys are used
//! row      a value as rows of at most 4 KiB, each with a checksum
//! large    values of which parts are read and which are written in steps
//! snapshot the index as part of a snapshot
//! store    the seam to what keeps rows: sled (default), fjall, memory (tests)
//! values   files for rows of some size, of which sled and fjall only keep the places
//! ```
//! A call that meets a cold key does not run: [`Outcome::NeedsCold`](crate::executor::Outcome) says so,
//! nothing is changed, and the host has the values loaded, with no lock held, and runs the call again.
//! Calls that can do without the value (DEL, SET, EXISTS, TTL, EXPIRE and the like) run on the
//! index alone. Demotion and loading change no data, so the journal does not have them.
//!
//! Nothing here starts a thread: the host calls [`Tier::load`] on threads of its own, and the upkeep,
//! [`Tier::make_room`], [`Tier::age`] and [`Tier::tidy`], on one.

pub(crate) mod db;
mod demote;
pub mod fingerprint;
pub mod fjall;
pub mod hook;
pub mod index;
mod large;
mod load;
pub mod memory;
mod needs;
mod reclaim;
pub mod row;
mod run;
pub mod sketch;
pub mod sled;
mod snapshot;
pub mod stats;
pub mod store;
mod upkeep;
mod values;
pub mod walk;

#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;

pub use demote::{Demoted, Memory};
pub use large::{LARGE_BYTES, PART_BYTES_MAX};
pub(crate) use needs::ColdCall;
pub use needs::{Brought, ColdPart, Name, Names, Needs, Want};
pub use upkeep::Tidied;

use crate::executor::Executor;
use crate::keyspace::{KeyHasher, Shard};
use parking_lot::{Mutex, RwLock};
pub use stats::KeyCounts;
use stats::Stats;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use store::{ColdError, ColdStore};

/// The tier of one engine.
pub struct Tier {
    store: Box<dyn ColdStore>,
    name: &'static str,
    seed: u64,
    /// What it has done.
    pub stats: Stats,
    next_number: AtomicU64,
    /// Epoch of rows that are written now.
    epoch: AtomicU8,
    /// Number of the snapshot period. Rows that were given up in one before `free_before` can go.
    period: AtomicU64,
    free_before: AtomicU64,
    /// Flushed databases: their rows are to be deleted.
    dropped: Mutex<Vec<(u32, u64)>>,
    /// Only one thread at a time demotes and deletes.
    worker: Mutex<demote::Position>,
    /// Whether snapshots name rows, so that the store outlives the process.
    durable: AtomicBool,
    /// The cuts of the two last snapshots that are durable, the older one first.
    snapshots: Mutex<[snapshot::Kept; 2]>,
    /// The last cut, and that of the snapshot that is being written.
    at_cut: Mutex<snapshot::Pending>,
    pending: Mutex<snapshot::Pending>,
    /// Whether rows may be written that an older snapshot than the one that was loaded names.
    older_is_void: AtomicBool,
    /// Where the search for rows that nothing names goes on; `None` once it is over.
    sweep: Mutex<Option<Vec<u8>>>,
    /// The last fault of the store.
    fault: RwLock<Option<ColdError>>,
    /// Bytes of memory of a value above which it is written as a large one.
    large_bytes: AtomicUsize,
}

impl Executor<'_> {
    /// Keys in memory and on disk, and the memory that the names of the latter take. Locks one shard
    /// after the other.
    pub fn tier_counts(&mut self) -> KeyCounts {
        let mut counts = KeyCounts::default();
        self.for_each_shard(|shard| {
            for db in shard.dbs() {
                counts.hot += db.table().len();
                let Some(cold) = db.cold() else { continue };
                let (index, expires) = cold.bytes();
                counts.cold += cold.len();
                counts.cached += cold.cached();
                counts.named += cold.index().len();
                counts.index_bytes += index;
                counts.expires_bytes += expires;
            }
        });
        counts
    }
}

impl Tier {
    /// A tier over an empty store, for one engine. `hash_seed` is that of the engine; fingerprints are
    /// keyed by it.
    pub fn new(store: Box<dyn ColdStore>, name: &'static str, hash_seed: u64) -> Arc<Tier> {
        Arc::new(Tier {
            store,
            name,
            seed: hash_seed,
            stats: Stats::default(),
            next_number: AtomicU64::new(1),
            epoch: AtomicU8::new(0),
            period: AtomicU64::new(1),
            free_before: AtomicU64::new(u64::MAX),
            dropped: Mutex::default(),
            worker: Mutex::default(),
            durable: AtomicBool::new(false),
            snapshots: Mutex::default(),
            at_cut: Mutex::default(),
            pending: Mutex::default(),
            older_is_void: AtomicBool::new(false),
            sweep: Mutex::default(),
            fault: RwLock::default(),
            large_bytes: AtomicUsize::new(LARGE_BYTES),
        })
    }

    /// The store's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Sets the bytes of memory of a value above which parts of it can be read from disk, [`LARGE_BYTES`] otherwise:
    /// for tests, which have small values.
    pub fn set_large_bytes(&self, bytes: usize) {
        self.large_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The store.
    pub fn store(&self) -> &dyn ColdStore {
        &*self.store
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn period(&self) -> u64 {
        self.period.load(Ordering::Acquire)
    }

    pub(crate) fn drop_generation(&self, generation: u32) {
        let mut dropped = self.dropped.lock();
        if !dropped.iter().any(|(known, _)| *known == generation) {
            dropped.push((generation, self.period()));
        }
    }

    /// The last fault of the store, if there was one.
    pub fn fault(&self) -> Option<ColdError> {
        self.fault.read().clone()
    }

    /// A cut begins: rows that are given up from now on are kept until it has ended.
    /// `generations` are those of the databases.
    pub(crate) fn begin_cut(&self, generations: Vec<u32>) {
        let period = self.period.fetch_add(1, Ordering::AcqRel) + 1;
        if self.is_durable() {
            self.next_epoch();
            *self.at_cut.lock() = snapshot::Pending::new(period, generations);
        } else {
            self.free_before.store(period, Ordering::Release);
        }
    }

    /// The cut has ended.
    pub(crate) fn end_cut(&self) {
        if !self.is_durable() {
            self.free_before.store(u64::MAX, Ordering::Release);
        }
    }

    /// Whether snapshots name rows, see `snapshot`.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// The whole value of a row that must be there.
    pub(crate) fn read(&self, row: row::RowId) -> Result<row::ColdValue, ColdError> {
        let read = row::read(&*self.store, row, usize::MAX);
        let missing = || ColdError::Damaged("a row is missing".to_owned());
        read.and_then(|value| value.ok_or_else(missing)).map_err(|error| self.failed(error))
    }

    /// Notes a fault of the store and passes it on.
    fn failed(&self, error: ColdError) -> ColdError {
        self.stats.faults.fetch_add(1, Ordering::Relaxed);
        *self.fault.write() = Some(error.clone());
        error
    }

    /// Where a key is: `hot`, `cached` (in memory, with a row on disk that has the same value) or `cold`.
    pub(crate) fn tier_of(shard: &Shard, db: u32, hasher: &KeyHasher, key: &[u8]) -> &'static str {
        let (db, hash) = (shard.db(db), hasher.hash(key));
        match db.find(hash, key) {
            Some(entry) if entry.is_backed() => "cached",
            Some(_) => "hot",
            None => "cold",
        }
    }
}
