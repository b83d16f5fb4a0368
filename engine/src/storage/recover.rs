//! Opens a data directory: the newest snapshot, then the log.

use super::files::{self, Source};
use super::save::{KEPT, SaveProgress};
use super::{Storage, StorageError, lock, log_dir, switch};
use crate::disk::{Disk, Lock, Mode};
use crate::engine::Engine;
use crate::lanes::TOGETHER_MIN;
use crate::log::{Log, LogOptions, Recovered, Replayed, Replaying, replay};
use crate::snapshot::{self, Loaded, Progress, Reader, SnapshotError};
use crate::stamp::Rng;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A data directory that is locked and not read yet.
pub struct Directory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) hash_seed: u64,
    pub(super) random: u64,
    pub(super) snapshots: Vec<u64>,
    lock: Box<dyn Lock>,
}

/// How a directory is read.
#[derive(Clone)]
pub struct RecoverOptions {
    /// Whether changes are logged from then on. A log that is there is read in any case.
    pub log: bool,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Whether new segments are filled with zeros, see [`Log::set_zeroed`].
    pub zeroed: bool,
    /// Threads that load.
    pub threads: usize,
    /// Called again and again while the log is run, with no lock held: may make room in memory.
    pub relieve: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Default for RecoverOptions {
    fn default() -> RecoverOptions {
        let segment_bytes = LogOptions::default().segment_bytes;
        RecoverOptions { log: true, segment_bytes, zeroed: true, threads: 1, relieve: None }
    }
}

/// How far a recovery has come; other threads may look.
#[derive(Debug, Default)]
pub struct Recovering {
    /// The snapshot.
    pub snapshot: Progress,
    /// The last record of the log that was run, 0 before.
    pub log_index: AtomicU64,
    /// The last record there is.
    pub log_last: AtomicU64,
}

/// What opening a data directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The snapshot that was loaded.
    pub snapshot: Option<Loaded>,
    /// Newer snapshots that are damaged, and in which way: an older one and the log took their
    /// place. They were set aside as `.bad`.
    pub damaged: Vec<String>,
    /// What is in the log.
    pub recovered: Recovered,
    /// What was run again.
    pub replayed: Replayed,
}

impl Directory {
    /// Opens and locks the directory `dir`, which is created if it is missing. From `random` come
    /// the seed of a new directory's hash tables, and salts: it should be another one each time.
    ///
    /// # Errors
    /// If another process uses it, or the disk fails.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, random: u64) -> Result<Directory, StorageError> {
        let lock = lock(&*disk, dir)?;
        let io = |error: io::Error| StorageError::io(&format!("open {}", dir.display()), &error);
        disk.create_dir(&files::snapshot_dir(dir)).map_err(io)?;
        disk.sync_dir(dir).map_err(io)?;
        switch::remove_baseless_log(&*disk, dir).map_err(io)?;
        let snapshots = files::snapshots(&*disk, dir).map_err(io)?;
        let hash_seed = match files::read_seed(&*disk, dir).map_err(io)? {
            Some(seed) => seed,
            None => {
                // Of a snapshot, should the file have been lost.
                let known = snapshots.iter().rev().find_map(|number| {
                    let file = disk.open(&files::snapshot_path(dir, *number), Mode::Read).ok()?;
                    Some(Reader::new(Source::new(file)).ok()?.info().hash_seed)
                });
                let seed = known.unwrap_or_else(|| Rng::new(random).next_u64());
                files::write_seed(&*disk, dir, seed).map_err(io)?;
                seed
            }
        };
        Ok(Directory { disk, dir: dir.into(), hash_seed, random, snapshots, lock })
    }

    /// Whether there is a snapshot or a log, so that something is to be loaded.
    pub fn has_data(&self) -> bool {
        !self.snapshots.is_empty() || has_log(&*self.disk, &log_dir(&self.dir))
    }

    /// The seed that the engine's hash tables must have.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// Becomes the directory of an engine that had none: nothing is loaded, and nothing logged. What
    /// the directory had is history once a snapshot is taken.
    ///
    /// # Errors
    /// None at present.
    pub fn adopt(self, engine: &Arc<Engine>) -> Result<Storage, StorageError> {
        let number = self.snapshots.last().copied().unwrap_or(0);
        let snapshots = self.snapshots.clone();
        Ok(self.into_storage(engine, None, snapshots, number, 0))
    }

    fn into_storage(
        self,
        engine: &Arc<Engine>,
        log: Option<Arc<Log>>,
        snapshots: Vec<u64>,
        number: u64,
        bytes: u64,
    ) -> Storage {
        Storage {
            disk: self.disk,
            dir: self.dir,
            engine: engine.clone(),
            logging: AtomicBool::new(log.is_some()),
            prepared: AtomicBool::new(false),
            log: log.map_or_else(OnceLock::new, OnceLock::from),
            hash_seed: self.hash_seed,
            random: self.random,
            snapshots: Mutex::new(snapshots),
            number: AtomicU64::new(number),
            bytes: AtomicU64::new(bytes),
            log_base: AtomicU64::new(0),
            progress: SaveProgress::default(),
            _lock: self.lock,
        }
    }

    /// Brings an empty engine up to date and becomes its journal where there is to be a log.
    /// `progress` may be looked at meanwhile; commands that change data must not run.
    ///
    /// # Errors
    /// If what is there is damaged, or the disk fails.
    pub fn recover(
        self,
        engine: &Arc<Engine>,
        options: &RecoverOptions,
        progress: &Recovering,
    ) -> Result<(Storage, Opened), StorageError> {
        let mut opened = Opened::default();
        let mut snapshots = self.snapshots.clone();
        let newest = snapshots.last().copied().unwrap_or(0);
        let floor = self.load_newest(engine, options, progress, &mut snapshots, &mut opened)?;
        self.remove_void(engine, &mut snapshots)?;
        let log = self.open_log(engine, options, floor, progress, &mut opened)?;
        let reached = opened.recovered.last.max(floor);
        if reached < newest {
            return Err(StorageError::Snapshot(format!(
                "{}; the older snapshot and the log only reach record {reached} of {newest}. To go \
                 on with those, and lose the rest, move the damaged file away",
                opened.damaged.join("; ")
            )));
        }
        self.set_aside(newest, &snapshots, &opened)?;
        if let Some(log) = &log {
            let is_first = engine.set_journal(log.clone());
            assert!(is_first, "an engine that is recovered has no journal yet");
            engine.note_config(opened.replayed.config.clone());
            if let Some(here) = &opened.replayed.here {
                engine.shipping().recover(here, opened.replayed.points.iter().copied());
                if here.history.followed
                    && let Some(call) = &opened.replayed.config
                {
                    let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
                    engine.keep_config(&args);
                }
            }
            engine.log_config();
        }
        let bytes = opened.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes);
        let log_base = log.as_ref().map_or(0, |log| {
            let (all, new) = (log.stats().bytes, opened.replayed.batches);
            let records = (opened.recovered.last + 1).saturating_sub(opened.recovered.first).max(1);
            // By their number: records are of similar sizes, and nothing depends on it but when the
            // next snapshot is due.
            all - u64::try_from(
                u128::from(all) * u128::from(new.min(records)) / u128::from(records),
            )
            .unwrap_or(all)
        });
        let storage = self.into_storage(engine, log, snapshots, reached, bytes);
        storage.log_base.store(log_base, Ordering::Relaxed);
        Ok((storage, opened))
    }

    /// Loads the newest snapshot that is whole; returns its number, 0 if there is none. Those that
    /// are damaged are taken off `snapshots`.
    fn load_newest(
        &self,
        engine: &Engine,
        options: &RecoverOptions,
        progress: &Recovering,
        snapshots: &mut Vec<u64>,
        opened: &mut Opened,
    ) -> Result<u64, StorageError> {
        while let Some(number) = snapshots.last().copied() {
            let path = files::snapshot_path(&self.dir, number);
            match self.load(engine, options, &progress.snapshot, &path) {
                Ok(loaded) if loaded.info.log_index == number => {
                    opened.snapshot = Some(loaded);
                    return Ok(number);
                }
                Ok(_) => opened
                    .damaged
                    .push(format!("{} is the snapshot of another number", path.display())),
                // Not the bytes are wrong but the disk or the settings: nothing else will do.
                Err(error @ (SnapshotError::Io(_) | SnapshotError::Unfit(_))) => {
                    let text = format!("can't load {}: {error}", path.display());
                    return Err(StorageError::Snapshot(text));
                }
                Err(error) => opened.damaged.push(format!("{}: {error}", path.display())),
            }
            engine.clear();
            if let Some(tier) = engine.tier() {
                tier.clear_index(engine);
            }
            snapshots.pop();
        }
        Ok(0)
    }

    fn load(
        &self,
        engine: &Engine,
        options: &RecoverOptions,
        progress: &Progress,
        path: &Path,
    ) -> Result<Loaded, SnapshotError> {
        progress.keys.store(0, Ordering::Relaxed);
        let file = self.disk.open(path, Mode::Read)?;
        let len = file.len()?;
        let tier = engine.tier().filter(|tier| tier.is_durable());
        let cold = |part: &[u8]| match tier {
            Some(tier) => tier.load_index(engine, part),
            None => Err("it has cold keys, but there is no cold tier (see `cold-store`)".into()),
        };
        snapshot::load(engine, Source::new(file), Some(len), options.threads, progress, &cold)
    }

    /// Removes snapshots that name rows of the cold tier which may be given up from now on.
    fn remove_void(&self, engine: &Engine, snapshots: &mut Vec<u64>) -> Result<(), StorageError> {
        let Some(tier) = engine.tier().filter(|tier| tier.is_durable()) else { return Ok(()) };
        let kept = if tier.older_is_void() { 1 } else { KEPT };
        while snapshots.len() > kept {
            let path = files::snapshot_path(&self.dir, snapshots[0]);
            let removed = self.disk.remove(&path);
            removed.map_err(|error| StorageError::io("remove an old snapshot", &error))?;
            snapshots.remove(0);
        }
        Ok(())
    }

    /// Opens the log if there is one or is to be one, and runs what is behind the snapshot.
    fn open_log(
        &self,
        engine: &Engine,
        options: &RecoverOptions,
        floor: u64,
        progress: &Recovering,
        opened: &mut Opened,
    ) -> Result<Option<Arc<Log>>, StorageError> {
        let dir = log_dir(&self.dir);
        opened.recovered.last = floor;
        if !options.log && !has_log(&*self.disk, &dir) {
            return Ok(None);
        }
        let salt_seed = self.random;
        let segment_bytes = options.segment_bytes;
        let log_options = LogOptions { segment_bytes, floor, salt_seed, zeroed: options.zeroed };
        let (log, recovered) = match Log::open(self.disk.clone(), &dir, log_options) {
            Ok(log) => log,
            Err(error) if opened.damaged.is_empty() => return Err(error.into()),
            Err(error) => {
                return Err(StorageError::Snapshot(format!(
                    "{}; nothing can take its place: {error}",
                    opened.damaged.join("; ")
                )));
            }
        };
        progress.log_last.store(recovered.last, Ordering::Relaxed);
        let from = recovered.first.max(floor + 1);
        let relieve = || options.relieve.iter().for_each(|relieve| relieve());
        let mut progress = |index| progress.log_index.store(index, Ordering::Relaxed);
        let how = Replaying {
            threads: options.threads,
            together_min: TOGETHER_MIN,
            progress: &mut progress,
            relieve: &relieve,
        };
        opened.replayed = replay(engine, log.read_opened(from), how)?;
        opened.recovered = recovered;
        if options.log { Ok(Some(Arc::new(log))) } else { Ok(None) }
    }

    /// Gives snapshots that are damaged another name, so that the next start does not try them.
    fn set_aside(&self, newest: u64, whole: &[u64], opened: &Opened) -> Result<(), StorageError> {
        let last = whole.last().copied();
        let damaged =
            self.snapshots.iter().filter(|number| last.is_none_or(|last| **number > last));
        for number in damaged {
            let path = files::snapshot_path(&self.dir, *number);
            let bad = path.with_extension("bad");
            self.disk
                .rename(&path, &bad)
                .and_then(|()| self.disk.sync_dir(&files::snapshot_dir(&self.dir)))
                .map_err(|error| StorageError::io("set a damaged snapshot aside", &error))?;
        }
        debug_assert!(opened.damaged.is_empty() || newest > 0);
        Ok(())
    }
}

pub(super) fn has_log(disk: &dyn Disk, dir: &Path) -> bool {
    disk.list(dir).is_ok_and(|names| names.iter().any(|name| name.ends_with(".log")))
}
