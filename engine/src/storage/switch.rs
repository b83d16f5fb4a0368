//! Begins and ends the log of a directory while its engine is at work.
//!
//! ```text
//! prepare_log      log-begins is there; an empty log
//! snapshot         its cut: the log takes what comes from here on
//! confirm_log      the snapshot is durable: log-begins goes, and the log counts
//! end_log          the log takes no more; it is read at the next start, and goes with the next snapshot
//! ```
//! Until the snapshot is durable the log begins somewhere behind what a start would load. So what it has is
//! not read then: a start that finds `log-begins` removes it.

use super::{Storage, StorageError, log_dir, recover};
use crate::disk::{Disk, Mode};
use crate::journal::Journal;
use crate::log::{Log, LogOptions};
use crate::stamp::Rng;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn marker(dir: &Path) -> PathBuf {
    dir.join("log-begins")
}

/// Whether the log in the data directory `dir` waits for the snapshot it begins with: the next start removes
/// it then, whatever it has.
///
/// # Errors
/// If that cannot be found out.
pub fn is_log_baseless(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    match disk.open(&marker(dir), Mode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true),
    }
}

/// Removes a log that no durable snapshot is the beginning of.
pub(super) fn remove_baseless_log(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if !is_log_baseless(disk, dir)? {
        return Ok(());
    }
    let log = log_dir(dir);
    for name in disk.list(&log).unwrap_or_default() {
        disk.remove(&log.join(name))?;
    }
    if disk.list(&log).is_ok() {
        disk.sync_dir(&log)?;
    }
    disk.remove(&marker(dir))?;
    disk.sync_dir(dir)
}

impl Storage {
    /// Whether files of a log are there that takes no records any more: only a snapshot makes room for a
    /// new one.
    pub fn has_old_log(&self) -> bool {
        self.log().is_none()
            && !self.prepared.load(Ordering::Acquire)
            && recover::has_log(&*self.disk, &log_dir(&self.dir))
    }

    /// Makes an empty log, which takes records from the next snapshot's cut on. There is no old one, no
    /// snapshot is on its way, and [`Storage::confirm_log`] is to be called once one is durable.
    ///
    /// # Errors
    /// Those of the disk; no log is prepared then.
    pub fn prepare_log(&self, segment_bytes: u64, zeroed: bool) -> Result<Arc<Log>, StorageError> {
        if let Some(log) = self.log.get().filter(|_| self.prepared.load(Ordering::Acquire)) {
            return Ok(log.clone());
        }
        assert!(self.log().is_none() && !self.has_old_log(), "there is no log that is needed");
        let io = |error: io::Error| StorageError::io("begin a log", &error);
        let file = self.disk.open(&marker(&self.dir), Mode::Create).map_err(io)?;
        file.sync_data().and_then(|()| self.disk.sync_dir(&self.dir)).map_err(io)?;
        // The snapshot gets a number of its own, as each has without a log.
        let floor = self.number.load(Ordering::Relaxed) + 1;
        let salt_seed = Rng::new(self.random ^ floor.rotate_left(23)).next_u64();
        let options = LogOptions { segment_bytes, floor, salt_seed, zeroed };
        let log = match self.log.get() {
            Some(log) => {
                log.restart(options)?;
                log.clone()
            }
            None => {
                let (log, _) = Log::open(self.disk.clone(), &log_dir(&self.dir), options)?;
                self.log.get_or_init(|| Arc::new(log)).clone()
            }
        };
        assert_eq!(log.appended(), floor, "a new log begins behind its floor");
        self.prepared.store(true, Ordering::Release);
        Ok(log)
    }

    /// At a snapshot's cut, with all shards locked.
    pub(super) fn begin_prepared_log(&self) {
        if !self.prepared.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Some(log) = self.log.get() {
            let mut rng = Rng::new(self.random ^ log.last().rotate_left(7));
            let fresh: String = (0..5).map(|_| format!("{:08x}", rng.next_u64() as u32)).collect();
            self.engine.begin_journal(log.clone(), &fresh);
            self.logging.store(true, Ordering::Release);
        }
    }

    /// A snapshot is durable that was begun after [`Storage::prepare_log`]: the log counts from now on.
    ///
    /// # Errors
    /// Those of the disk; it may be tried again.
    pub fn confirm_log(&self) -> Result<(), StorageError> {
        let removed = match self.disk.remove(&marker(&self.dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|error| StorageError::io("begin a log", &error))
    }

    /// The log takes no more records. What it has is made durable; whoever waits for that hears of it.
    /// No snapshot is on its way, and the thread holds no lock of the engine.
    ///
    /// # Errors
    /// If it cannot be made durable; it has ended all the same.
    pub fn end_log(&self) -> Result<(), StorageError> {
        let Some(log) = self.log() else { return Ok(()) };
        let mut executor = self.engine.executor();
        executor.lock_all();
        self.engine.end_journal();
        self.logging.store(false, Ordering::Release);
        self.number.fetch_max(log.appended(), Ordering::Relaxed);
        executor.release();
        Ok(log.close()?)
    }
}
