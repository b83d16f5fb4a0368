//! The cold store on sled 0.34.
//!
//! As it comes, sled 0.34 does not survive a power cut: it flushes with `sync_file_range`, which
//! forces neither the file's size nor its extents to disk, and it never forces the files to disk that
//! it puts large nodes into. Where that call answers that it does not exist, sled forces the whole
//! file instead. So this module answers just that (see `hook`) and asks for rows small enough that
//! no such file is made. With both, twenty power cuts of twenty came out clean; without, two
//! of 28.
//!
//! sled's cache grows to several times what it was told, so it is told a fifth of its share.

use super::hook;
use super::store::{Batch, ColdError, ColdStore, EachRow, guarded};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The part of the memory set aside for sled that its cache is told.
const CACHE_SHARE: u64 = 5;
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
        let store = Sled { db, dir: dir.to_owned() };
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

impl ColdStore for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdError> {
        guarded(|| Ok(self.db.get(key).map_err(failed)?.map(|row| row.to_vec())))
    }

    fn apply(&self, batch: &Batch) -> Result<(), ColdError> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch.rows() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        guarded(|| self.db.apply_batch(writes).map_err(failed))
    }

    fn range(&self, from: &[u8], to: &[u8], each: &mut EachRow<'_>) -> Result<(), ColdError> {
        guarded(|| {
            for row in self.db.range(from..to) {
                let (key, value) = row.map_err(failed)?;
                if !each(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn flush_durable(&self) -> Result<(), ColdError> {
        guarded(|| self.db.flush().map(drop).map_err(failed))
    }

    fn size(&self) -> u64 {
        guarded(|| self.db.size_on_disk().map_err(failed)).unwrap_or(0)
    }

    fn alarm(&self) -> Option<String> {
        let mut blobs = std::fs::read_dir(self.dir.join("blobs")).ok()?;
        blobs
            .next()
            .map(|_| "sled has made files for large nodes, which a power cut loses".to_owned())
    }

    fn destroy(self: Box<Self>) -> Result<(), ColdError> {
        let Sled { db, dir } = *self;
        guarded(|| {
            drop(db);
            Ok(())
        })?;
        std::fs::remove_dir_all(dir).map_err(io_failed)
    }
}
