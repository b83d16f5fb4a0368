//! The cold store on sled 0.34.
//!
//! As it comes, sled 0.34 does not survive a power cut: it flushes with `sync_file_range`, which
//! forces neither the file's size nor its extents to disk, and it never forces the files to disk that
//! it puts large nodes into. Where that call answers that it does not exist, sled forces the whole
//! file instead. So this module answers just that (see `hook`) and asks for rows small enough that
//! no such file is made. With both, twenty power cuts of twenty came out clean; without, two
//! of 28.
//!
//! sled looks at what its cache holds only once 64 accesses have gathered in one of the 256 parts of its
//! list of pages. Up to 16,384 pages beyond the cache stay in memory that way, whatever size it was told:
//! with rows of 2 KB, where a page has some 22, up to 300 MiB and a good 80 MiB in the middle. So this module
//! makes accesses: after every 16 KiB of rows it reads small trees whose pages are in all parts, see
//! `Sled::pace`. What sled has then is a few MiB beyond what it was told, and some 30 bytes for each row.
//!
//! Pages that sled has let go of are freed once no thread can be looking at them. Nothing bounds how many of them
//! wait: with two readers on two busy cores 90 MB were seen. So whoever comes to the store waits while they are too
//! many, see `reclaim`.

use super::hook;
use super::reclaim::Reclaim;
use super::store::{Batch, ColdError, ColdStore, EachRow, guarded};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The part of the memory set aside for sled that its cache is told.
const CACHE_SHARE: u64 = 5;
/// The small trees: half as many as sled's list of pages has parts.
const TICK_TREES: usize = 128;
/// Bytes of rows after which they are read.
const TICK_BYTES: usize = 16 << 10;
/// What a row counts at least that is read or written.
const MOVED_BYTES_MIN: usize = 128;
/// The same towards a part, and a flush: for each row that is written or deleted a page is read and one written.
const WRITTEN_BYTES_MIN: usize = 1 << 10;
/// Rounds of reads at a time: 64 fill every part.
const ROUNDS_MAX: usize = 64;
/// Bytes that go to sled at a time.
const PART_BYTES: usize = 64 << 10;
/// Bytes of rows that may wait to be written to the file. Who reads a page waits for it to be on disk; so they are few
/// enough for their pages to be in the cache until then.
const UNFLUSHED_BYTES_MAX: usize = 2 << 20;
/// Tables for metrics, one of 65,536 counters for each of what it would measure. They are made with the first store
/// of a process, and kept.
const METRICS_BYTES: usize = 41 * (8 << 16);
/// Least size of its cache.
const CACHE_BYTES_MIN: u64 = 1 << 20;
/// A store that was just closed in this process keeps its lock until sled's threads have ended.
const LOCK_WAIT: Duration = Duration::from_millis(50);
const LOCK_TRIES: usize = 40;
const PROBE_KEY: &[u8] = b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF probe";

/// A cold store on sled.
pub struct Sled {
    db: sled::Db,
    dir: PathBuf,
    /// Small trees that are read so that sled looks at its cache, see [`Sled::pace`].
    ticks: Vec<sled::Tree>,
    /// Bytes of rows that were read or written since sled last looked at its cache.
    moved: AtomicUsize,
    /// Bytes of rows that were written since the last flush.
    unflushed: AtomicUsize,
    /// Held by readers, and by a writer alone. sled has such a lock too, but a reader that waits for it there keeps
    /// pages from being freed.
    gate: RwLock<()>,
    reclaim: Reclaim,
}

fn failed(error: sled::Error) -> ColdError {
    match error {
        sled::Error::Corruption { at, .. } => {
            ColdError::Damaged(format!("sled found damage at {at:?}"))
        }
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            ColdError::Unusable("another process has it open".to_owned())
        }
        error => ColdError::Failed(error.to_string()),
    }
}

fn io_failed(error: io::Error) -> ColdError {
    ColdError::Failed(error.to_string())
}

impl Sled {
    /// Opens or creates a store in the folder `dir`.
    ///
    /// # Errors
    /// If the files are damaged or the disk fails, or if the program lacks the hook without which a
    /// power cut would cost the files.
    pub fn open(dir: &Path, memory_bytes: u64) -> Result<Sled, ColdError> {
        // A snapshot that was being written when the process ended keeps sled from opening.
        remove_files(dir, |name| name.starts_with("snap.") && name.ends_with(".generating"))?;
        let db = match try_open(dir, memory_bytes) {
            Ok(db) => db,
            Err(error @ ColdError::Unusable(_)) => return Err(error),
            Err(_) => {
                // Snapshots are an index over the rows, and are made again without them.
                remove_files(dir, |name| name.starts_with("snap."))?;
                try_open(dir, memory_bytes)?
            }
        };
        let tick = |nth: usize| db.open_tree(format!("tick {nth}")).map_err(failed);
        let ticks = guarded(|| (0..TICK_TREES).map(tick).collect())?;
        let (moved, unflushed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (gate, reclaim) = (RwLock::new(()), Reclaim::default());
        let store = Sled { db, dir: dir.to_owned(), ticks, moved, unflushed, gate, reclaim };
        store.probe()?;
        Ok(store)
    }

    /// Makes sure that flushing goes through the hook.
    fn probe(&self) -> Result<(), ColdError> {
        if !cfg!(target_os = "linux") {
            return Ok(());
        }
        let before = hook::calls();
        guarded(|| {
            // Another value than the last time, or there would be nothing to flush.
            let last = self.db.get(PROBE_KEY).map_err(failed)?;
            let next = last.and_then(|row| row.first().copied()).unwrap_or(0).wrapping_add(1);
            self.db.insert(PROBE_KEY, &[next]).map_err(failed)?;
            self.db.flush().map_err(failed)
        })?;
        if hook::calls() == before {
            return Err(ColdError::Unusable(
                "the program is linked without the feature `sync-hook`, so that a power cut would \
                 cost sled's files; build with it, or take fjall"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn try_open(dir: &Path, memory_bytes: u64) -> Result<sled::Db, ColdError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity((memory_bytes / CACHE_SHARE).max(CACHE_BYTES_MIN))
        .flush_every_ms(None)
        .use_compression(false);
    for _ in 0..LOCK_TRIES {
        match guarded(|| config.open().map_err(failed)) {
            Err(ColdError::Unusable(_)) => std::thread::sleep(LOCK_WAIT),
            opened => return opened,
        }
    }
    guarded(|| config.open().map_err(failed))
}

fn remove_files(dir: &Path, is: impl Fn(&str) -> bool) -> Result<(), ColdError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io_failed)?;
        if entry.file_name().to_str().is_some_and(&is) {
            std::fs::remove_file(entry.path()).map_err(io_failed)?;
        }
    }
    Ok(())
}

impl Sled {
    /// Notes that `bytes` of rows were read or written, and has sled look at its cache every so often.
    ///
    /// Each tree has two pages, whose numbers follow each other: one round of reads is an access in every part
    /// of sled's list of pages.
    fn pace(&self, bytes: usize) -> Result<(), ColdError> {
        let before = self.moved.fetch_add(bytes.max(MOVED_BYTES_MIN), Ordering::Relaxed);
        let after = before.wrapping_add(bytes.max(MOVED_BYTES_MIN));
        let rounds = (after / TICK_BYTES).wrapping_sub(before / TICK_BYTES).min(ROUNDS_MAX);
        for _ in 0..rounds {
            let gate = self.gate.read();
            for tree in &self.ticks {
                tree.get([]).map_err(failed)?;
            }
            drop(gate);
            self.reclaim.note(TICK_BYTES);
        }
        self.reclaim.hand_in();
        Ok(())
    }

    /// Writes wait for those before them to be on disk: sled would keep any number of buffers of half a MiB
    /// in memory that its threads have not written yet.
    fn bound_buffers(&self, bytes: usize) -> Result<(), ColdError> {
        if self.unflushed.fetch_add(bytes, Ordering::Relaxed) + bytes >= UNFLUSHED_BYTES_MAX {
            self.unflushed.store(0, Ordering::Relaxed);
            self.db.flush().map_err(failed)?;
        }
        Ok(())
    }

    /// Writes rows together: readers wait for that long.
    fn apply_part(&self, writes: sled::Batch, bytes: usize) -> Result<(), ColdError> {
        guarded(|| {
            self.reclaim.wait();
            let alone = self.gate.write();
            self.db.apply_batch(writes).map_err(failed)?;
            drop(alone);
            self.pace(bytes / (WRITTEN_BYTES_MIN / MOVED_BYTES_MIN))?;
            self.bound_buffers(bytes)
        })
    }
}

/// What becomes of each row of a batch: a row that is deleted and written again must not be missing
/// between two parts, where the power may be cut.
fn last_writes(batch: &Batch) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let last: HashMap<&[u8], usize> =
        batch.rows().enumerate().map(|(nth, (key, _))| (key, nth)).collect();
    let rows = batch.rows().enumerate();
    rows.filter(move |(nth, (key, _))| last.get(key) == Some(nth)).map(|(_, row)| row)
}

impl ColdStore for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        guarded(|| {
            self.reclaim.wait();
            let gate = self.gate.read();
            let row = self.db.get(key).map_err(failed)?.map(|row| row.to_vec());
            drop(gate);
            self.pace(row.as_ref().map_or(0, Vec::len))?;
            Ok(row)
        })
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        // In parts: what sled has replaced stays in memory until a batch has ended.
        let (mut writes, mut bytes) = (sled::Batch::default(), 0);
        for (key, value) in last_writes(batch) {
            let row_bytes = key.len() + value.map_or(0, <[u8]>::len);
            bytes += row_bytes.max(WRITTEN_BYTES_MIN);
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
            if bytes >= PART_BYTES {
                self.apply_part(std::mem::take(&mut writes), std::mem::take(&mut bytes))?;
            }
        }
        self.apply_part(writes, bytes)
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        guarded(|| {
            let mut rows = self.db.range(from..to);
            loop {
                self.reclaim.wait();
                let gate = self.gate.read();
                let Some(row) = rows.next() else { break };
                drop(gate);
                let (key, value) = row.map_err(failed)?;
                self.pace(key.len() + value.len())?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        self.unflushed.store(0, Ordering::Relaxed);
        guarded(|| self.db.flush().map(drop).map_err(failed))
    }

    fn size(&self) -> u64 {
        guarded(|| self.db.size_on_disk().map_err(failed)).unwrap_or(0)
    }

    fn untouched_bytes(&self) -> usize {
        METRICS_BYTES
    }

    fn shrink(&self) -> Result<(), ColdError> {
        self.flush_durable()?;
        guarded(|| self.pace(ROUNDS_MAX * TICK_BYTES))
    }

    fn alarm(&self) -> Option<String> {
        let mut blobs = std::fs::read_dir(self.dir.join("blobs")).ok()?;
        blobs
            .next()
            .map(|_| "sled has made files for large nodes, which a power cut loses".to_owned())
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        let Sled { db, dir, ticks, .. } = *self;
        guarded(|| {
            drop(ticks);
            drop(db);
            Ok(())
        })?;
        std::fs::remove_dir_all(dir).map_err(io_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reclaim::UNFREED_BYTES_MAX;
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Rows that many pages go with.
    fn write_many(store: &Sled) {
        for round in 0..8u8 {
            for part in 0..16u32 {
                let mut batch = Batch::default();
                for row in 0..64u32 {
                    let key = (row * 16 + part).wrapping_mul(0x9E37_79B9).to_be_bytes().to_vec();
                    batch.put(key, vec![round; 1000]);
                }
                store.apply(&batch).unwrap();
            }
        }
    }

    #[test]
    fn writes_wait_for_a_thread_that_keeps_pages_from_being_freed() {
        let dir = std::env::temp_dir().join(format!("ashlar-reclaim-{}", std::process::id()));
        let store = Sled::open(&dir, 8 << 20).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As a reader that has no turn in the middle of a read.
            let pinned = crossbeam_epoch::pin();
            scope.spawn(|| {
                write_many(&store);
                done.store(true, Ordering::Release);
            });
            while store.reclaim.waiting() == 0 {
                assert!(!done.load(Ordering::Acquire), "any number of pages may wait");
                std::thread::yield_now();
            }
            // What was too much is at most what one part has added.
            assert!(store.reclaim.unfreed() <= UNFREED_BYTES_MAX + 2 * PART_BYTES);
            drop(pinned);
        });
        // All that was noted is freed when nobody looks any more.
        while store.reclaim.unfreed() > 0 {
            store.reclaim.hand_in();
        }
        assert!(store.get(&0u32.to_be_bytes()).unwrap().is_some());
        Box::new(store).destroy().unwrap();
    }

    #[test]
    fn a_row_that_is_written_again_is_never_deleted_before() {
        let mut batch = Batch::default();
        batch.delete(b"a".to_vec());
        batch.put(b"b".to_vec(), b"old".to_vec());
        // More than a part between them.
        for nth in 0..PART_BYTES / 1000 + 1 {
            batch.put(nth.to_le_bytes().to_vec(), vec![0; 1000]);
        }
        batch.put(b"a".to_vec(), b"new".to_vec());
        batch.delete(b"b".to_vec());
        let of = |wanted: &[u8]| {
            let rows = last_writes(&batch).filter(|(key, _)| *key == wanted);
            rows.map(|(_, value)| value.map(<[u8]>::to_vec)).collect::<Vec<_>>()
        };
        assert_eq!(of(b"a"), [Some(b"new".to_vec())]);
        assert_eq!(of(b"b"), [None]);
        assert_eq!(last_writes(&batch).count(), batch.rows().count() - 2);
    }
}
