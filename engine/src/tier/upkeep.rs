//! Gives back the space of rows that nothing names any more, and deletes cold keys that have expired.

use super::Tier;
use super::row::{self, RowId};
use super::store::{Batch, ColdError};
use crate::engine::Engine;
use crate::executor::Executor;
use crate::stamp::Stamp;
use std::sync::atomic::Ordering;

/// Rows of flushed databases that one pass deletes at most.
const FLUSHED_ROWS_MAX: usize = 20_000;
/// Cold keys with an expiry that one pass looks at, of each database of a shard.
const SWEEP_KEYS: usize = 256;
/// Bytes of files that one pass goes through to give their space back.
const COMPACTED_BYTES: usize = 4 << 20;

/// What a pass gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Rows that were deleted.
    pub rows: usize,
    /// Their bytes, which the store gives back to the file system in its time.
    pub bytes: u64,
    /// Cold keys that were deleted because they had expired.
    pub expired: usize,
    /// Whether there is more to do.
    pub unfinished: bool,
}

impl Tier {
    /// Deletes rows that nothing names any more, and cold keys past their expiry: their names are
    /// read for that, since the journal and notifications tell them. No lock is held afterwards.
    ///
    /// # Errors
    /// If the store failed.
    pub fn tidy(&self, executor: &mut Executor<'_>, stamp: &Stamp) -> Result<Tidied, ColdError> {
        executor.release();
        let engine = executor.engine();
        let mut done = Tidied::default();
        {
            let _worker = self.worker.lock();
            let before = self.deleted();
            self.collect(engine)?;
            done.unfinished = self.collect_flushed()?;
            self.sweep_orphans(engine).map_err(|error| self.failed(error))?;
            let returned = self.store.tidy(COMPACTED_BYTES).map_err(|error| self.failed(error))?;
            self.stats.returned_bytes.fetch_add(returned, Ordering::Relaxed);
            let after = self.deleted();
            done.rows = (after.0 - before.0) as usize;
            done.bytes = after.1 - before.1;
        }
        done.expired = self.expire(executor, stamp)?;
        Ok(done)
    }

    fn deleted(&self) -> (u64, u64) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.stats.deleted_rows), load(&self.stats.deleted_bytes))
    }

    /// Deletes the rows of keys that were changed or removed. The caller is the tier's one worker:
    /// no row gets a name meanwhile.
    pub(super) fn collect(&self, engine: &Engine) -> Result<(), ColdError> {
        let before = self.free_before.load(Ordering::Acquire);
        let mut rows = Vec::new();
        for number in 0..engine.shard_count() {
            let mut shard = engine.lock_shard(number);
            for db in 0..shard.dbs().len() as u32 {
                if let Some(cold) = shard.db_mut(db).cold_upkeep() {
                    cold.take_garbage(before, &mut rows);
                }
            }
        }
        let mut batch = Batch::default();
        for row in rows {
            self.delete(&mut batch, row)?;
        }
        self.apply(&mut batch)
    }

    fn delete(&self, batch: &mut Batch, row: RowId) -> Result<(), ColdError> {
        let (count, bytes) =
            row::delete(&*self.store, batch, row).map_err(|error| self.failed(error))?;
        self.stats.deleted_rows.fetch_add(count, Ordering::Relaxed);
        self.stats.deleted_bytes.fetch_add(bytes, Ordering::Relaxed);
        let left = self.stats.row_bytes.load(Ordering::Relaxed).saturating_sub(bytes);
        self.stats.row_bytes.store(left, Ordering::Relaxed);
        Ok(())
    }

    fn apply(&self, batch: &mut Batch) -> Result<(), ColdError> {
        if !batch.is_empty() {
            self.store.apply(batch).map_err(|error| self.failed(error))?;
            batch.clear();
        }
        Ok(())
    }

    /// Deletes rows of flushed databases; says whether there are more.
    fn collect_flushed(&self) -> Result<bool, ColdError> {
        let before = self.free_before.load(Ordering::Acquire);
        let mut deleted = 0;
        loop {
            let next = self.dropped.lock().iter().find(|(_, period)| *period < before).copied();
            let Some((generation, period)) = next else { return Ok(false) };
            if deleted >= FLUSHED_ROWS_MAX {
                return Ok(true);
            }
            let (from, to) = (generation.to_be_bytes(), (generation + 1).to_be_bytes());
            let (mut batch, mut bytes) = (Batch::default(), 0);
            let read = self.store.range_keys(&from, &to, &mut |key, row_bytes| {
                batch.delete(key.to_vec());
                bytes += (key.len() + row_bytes) as u64;
                deleted += 1;
                !batch.is_full() && deleted < FLUSHED_ROWS_MAX
            });
            read.map_err(|error| self.failed(error))?;
            if batch.is_empty() {
                self.dropped.lock().retain(|dropped| *dropped != (generation, period));
                continue;
            }
            self.stats.deleted_rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.stats.deleted_bytes.fetch_add(bytes, Ordering::Relaxed);
            let left = self.stats.row_bytes.load(Ordering::Relaxed).saturating_sub(bytes);
            self.stats.row_bytes.store(left, Ordering::Relaxed);
            self.apply(&mut batch)?;
        }
    }

    /// Deletes some cold keys that have expired.
    fn expire(&self, executor: &mut Executor<'_>, stamp: &Stamp) -> Result<usize, ColdError> {
        let engine = executor.engine();
        let mut expired = 0;
        for number in 0..engine.shard_count() {
            for db in 0..executor.config().databases {
                let mut rows = Vec::new();
                executor.with_shard(number, |shard| {
                    if let Some(cold) = shard.db_mut(db).cold_upkeep() {
                        cold.sweep_expired(SWEEP_KEYS, stamp.now_ms, &mut rows);
                    }
                });
                executor.release();
                for row in rows {
                    let name = self.load_name(row).map_err(|error| self.failed(error))?;
                    if let Some(name) = name {
                        expired += executor.delete_expired(db, name.key.clone(), stamp);
                        executor.release();
                    }
                }
            }
        }
        self.stats.expired.fetch_add(expired as u64, Ordering::Relaxed);
        Ok(expired)
    }
}
