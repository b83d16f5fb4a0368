//! The cold store on fjall 3, a log-structured merge tree.
//!
//! Small rows go in ten times as fast as into sled, and it needs no help to survive a power cut.

use super::store::{Batch, ColdError, ColdStore, EachRow, guarded};
use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Share of the memory set aside for fjall that is its block cache; the rest is for what is being
/// written, of which there may be a few parts at a time.
const CACHE_SHARE: u64 = 2;
/// Share for the rows that are collected in memory before they are written as a table.
const MEMTABLE_SHARE: u64 = 8;
const MEMTABLE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;
/// Bytes of its journal above which tables are written: bounds the time to open.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Parts of that size that may be in memory at a time.
const WAITING_MEMTABLES: u64 = 4;
/// How long a writer waits before it looks again, and how often it does.
const WAIT: Duration = Duration::from_millis(1);
const WAITS_MAX: usize = 2_000;
/// Files it keeps open.
const FILES_MAX: usize = 256;

/// A cold store on fjall.
pub struct Fjall {
    db: Database,
    rows: Keyspace,
    dir: PathBuf,
    /// Bytes that wait in memory to be written as tables, above which writers wait.
    waiting_bytes_max: u64,
}

fn failed(error: fjall::Error) -> ColdError {
    match error {
        fjall::Error::Locked => ColdError::Unusable("another process has it open".to_owned()),
        error => ColdError::Failed(error.to_string()),
    }
}

impl Fjall {
    /// Opens or creates a store in the folder `dir`.
    ///
    /// # Errors
    /// If the files are damaged or the disk fails.
    pub fn open(dir: &Path, memory_bytes: u64) -> Result<Fjall, ColdError> {
        guarded(|| {
            let memtable = (memory_bytes / MEMTABLE_SHARE)
                .clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end());
            let db = Database::builder(dir)
                .cache_size(memory_bytes / CACHE_SHARE)
                .max_journaling_size(JOURNAL_BYTES_MAX)
                .max_cached_files(Some(FILES_MAX))
                .worker_threads(2)
                .open()
                .map_err(failed)?;
            // Rows are few bytes, the places of larger ones: a table of them has long indexes and filters, which do
            // not fit into the cache as a whole. What is asked for is there but for rows that are new.
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memtable)
                    .index_block_partitioning_policy(PartitioningPolicy::all(true))
                    .filter_block_partitioning_policy(PartitioningPolicy::all(true))
                    .expect_point_read_hits(true)
            };
            let rows = db.keyspace("rows", options).map_err(failed)?;
            let waiting_bytes_max = memtable * WAITING_MEMTABLES;
            Ok(Fjall { db, rows, dir: dir.to_owned(), waiting_bytes_max })
        })
    }
}

impl Fjall {
    /// fjall takes writes faster than it makes tables of them, and keeps in memory what waits: whoever
    /// writes waits too, so that its memory has a bound.
    fn wait_for_tables(&self) {
        for _ in 0..WAITS_MAX {
            if self.db.write_buffer_size() <= self.waiting_bytes_max {
                break;
            }
            std::thread::sleep(WAIT);
        }
    }
}

impl ColdStore for Fjall {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        guarded(|| Ok(self.rows.get(key).map_err(failed)?.map(|row| row.to_vec())))
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        guarded(|| {
            // Two writes of one key in a batch have the same age to fjall: only the last one goes in.
            let last: BTreeMap<&[u8], Option<&[u8]>> = batch.rows().collect();
            let mut writes = self.db.batch();
            for (key, value) in last {
                match value {
                    Some(value) => writes.insert(&self.rows, key, value),
                    None => writes.remove(&self.rows, key),
                }
            }
            writes.commit().map_err(failed)
        })?;
        self.wait_for_tables();
        Ok(())
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        guarded(|| {
            for row in self.rows.range(from..to) {
                let (key, value) = row.into_inner().map_err(failed)?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        guarded(|| self.db.persist(PersistMode::SyncAll).map_err(failed))
    }

    fn size(&self) -> u64 {
        guarded(|| self.db.disk_space().map_err(failed)).unwrap_or(0)
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        let Fjall { db, rows, dir, .. } = *self;
        guarded(|| {
            drop(rows);
            drop(db);
            Ok(())
        })?;
        std::fs::remove_dir_all(dir).map_err(|error| ColdError::Failed(error.to_string()))
    }
}
