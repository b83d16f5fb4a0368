//! Takes snapshots of an engine that is at work.

use super::files::{self, Sink};
use super::{Storage, StorageError, log_dir};
use crate::disk::Mode;
use crate::snapshot::Writer;
use crate::stamp::{Rng, Stamp};
use crate::tier::Tier;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Snapshots that are kept: the newest, and the one before with the log from there on.
pub(super) const KEPT: usize = 2;

/// How far a snapshot has come; other threads may look.
#[derive(Debug, Default)]
pub struct SaveProgress {
    /// Whether one is on its way.
    pub running: AtomicBool,
    /// Keys to be saved.
    pub keys_total: AtomicU64,
    /// Keys saved.
    pub keys: AtomicU64,
    /// Bytes of keys that were changed meanwhile, whose old state waits in memory.
    pub waiting_bytes: AtomicU64,
    /// The most that was.
    pub waiting_bytes_peak: AtomicU64,
}

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The last record of the log that it includes.
    pub log_index: u64,
    /// Keys in it with their values.
    pub keys: u64,
    /// Keys of which it has the name, and the cold store the value.
    pub cold_keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The most bytes that waited in memory, as they were changed meanwhile.
    pub waiting_bytes_peak: u64,
    /// Segments of the log that were let go of.
    pub released: u64,
    /// Whether files that are no longer needed could not be removed.
    pub leftovers: bool,
}

/// Known mistakes, for the test which shows that the crash harness finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The file is not synced before it gets its name.
    NoSync,
    /// The directory is not synced afterwards.
    NoSyncOfNames,
    /// The snapshot says that it includes one change more than it does.
    LateIndex,
    /// The log is let go of before the snapshot is durable.
    EarlyRelease,
    /// The cold store does not force to disk what a snapshot names.
    #[cfg(test)]
    NoColdFlush,
    /// Rows are deleted that a snapshot names.
    EarlyGarbage,
}

#[cfg(test)]
thread_local! {
    pub(super) static BUG: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
fn has(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

#[cfg(not(test))]
fn has(_: Bug) -> bool {
    false
}

/// Ends a snapshot's state, however it ends.
struct Running<'a>(&'a SaveProgress);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.waiting_bytes.store(0, Ordering::Relaxed);
        self.0.running.store(false, Ordering::Release);
    }
}

impl Storage {
    /// Takes a snapshot, while others go on using the engine, and returns once it is durable. The log
    /// behind the one before it is let go of. `at_cut` is called at the moment whose state it has;
    /// `pause` again and again, on this thread, with no lock held: it may sleep, to leave the
    /// machine to others, and gives the snapshot up by returning `false`.
    ///
    /// The thread must hold no lock of the engine.
    ///
    /// # Errors
    /// [`StorageError::Busy`] if one is on its way; otherwise those of the disk. Then the one before
    /// is still there.
    pub fn snapshot(
        &self,
        now_ms: i64,
        at_cut: impl FnOnce(),
        mut pause: impl FnMut() -> bool,
    ) -> Result<Saved, StorageError> {
        let progress = &self.progress;
        if progress.running.swap(true, Ordering::Acquire) {
            return Err(StorageError::Busy);
        }
        let running = Running(progress);
        let result = self.write_snapshot(now_ms, at_cut, &mut pause);
        let saved = result.map_err(|error| {
            error.map_or(StorageError::Busy, |error| StorageError::io("take a snapshot", &error))
        })?;
        drop(running);
        Ok(saved)
    }

    /// How far the present snapshot has come.
    pub fn save_progress(&self) -> &SaveProgress {
        &self.progress
    }

    /// The last record of the log that the newest snapshot includes; 0 if there is none.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshots.lock().last().copied().unwrap_or(0)
    }

    /// Bytes of the newest snapshot, 0 if there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the log behind the newest snapshot.
    pub fn log_growth(&self) -> u64 {
        self.log_bytes().saturating_sub(self.log_base.load(Ordering::Relaxed))
    }

    fn log_bytes(&self) -> u64 {
        self.log().map_or(0, |log| log.stats().bytes)
    }

    /// The cold tier, if snapshots name its rows.
    fn durable_tier(&self) -> Option<&Tier> {
        self.engine.tier().map(|tier| &**tier).filter(|tier| tier.is_durable())
    }

    /// `Err(None)` if there is a cut already.
    fn write_snapshot(
        &self,
        now_ms: i64,
        at_cut: impl FnOnce(),
        pause: &mut impl FnMut() -> bool,
    ) -> Result<Saved, Option<io::Error>> {
        let log_bytes = self.log_bytes();
        let cut = self.engine.begin_cut(|| {
            if let Some(tier) = self.durable_tier() {
                tier.begin_snapshot();
            }
            at_cut();
            self.begin_prepared_log();
            match self.log() {
                Some(log) => {
                    let last = log.appended();
                    // A replay begins right behind, and has to know the settings.
                    self.engine.log_config();
                    if has(Bug::LateIndex) { last + 2 } else { last }
                }
                None => self.number.load(Ordering::Relaxed) + 1,
            }
        });
        let (mut cut, log_index) = cut.ok_or(None)?;
        // The snapshot has the keys; what the sites know of them goes to the log behind it.
        self.engine.log_sites(&Stamp::new(now_ms, 0));
        if has(Bug::EarlyRelease) {
            let log = self.log();
            log.map(|log| log.release_before(log_index + 1));
        }
        let cold_keys = self.durable_tier().map_or(0, |_| cut.leave_cold());
        let info = cut.info(log_index, now_ms, self.hash_seed);
        let progress = &self.progress;
        progress.keys.store(0, Ordering::Relaxed);
        progress.keys_total.store(info.keys(), Ordering::Relaxed);
        progress.waiting_bytes_peak.store(0, Ordering::Relaxed);
        let temporary = files::temporary_path(&self.dir, log_index);
        let result = (|| {
            let file = self.disk.open(&temporary, Mode::Create)?;
            file.set_len(0)?;
            let id = Rng::new(self.random ^ log_index ^ (now_ms as u64).rotate_left(20)).next_u64();
            let mut writer = Writer::new(Sink::new(file), id, &info)?;
            if let Some(tier) = self.durable_tier() {
                tier.write_index(&self.engine, &mut |part| writer.cold(part))?;
            }
            let mut goes_on = true;
            writer.cut(&mut cut, |rows, waiting| {
                progress.keys.store(rows, Ordering::Relaxed);
                progress.waiting_bytes.store(waiting as u64, Ordering::Relaxed);
                progress.waiting_bytes_peak.fetch_max(waiting as u64, Ordering::Relaxed);
                goes_on = pause();
                goes_on
            })?;
            if !goes_on {
                return Err(io::Error::other("it was given up"));
            }
            drop(cut);
            if let Some(tier) = self.durable_tier() {
                // The snapshot names rows: they have to be on the disk before it is.
                tier.store()
                    .flush_durable()
                    .map_err(|error| io::Error::other(error.to_string()))?;
            }
            let (keys, sink) = (writer.rows(), writer.finish()?);
            if !has(Bug::NoSync) {
                sink.sync()?;
            }
            if let (Some(log), true) = (self.log(), self.engine.has_sites()) {
                // The log from here on stands for what is let go of below.
                log.sync().map_err(|error| io::Error::other(error.to_string()))?;
            }
            self.disk.rename(&temporary, &files::snapshot_path(&self.dir, log_index))?;
            if !has(Bug::NoSyncOfNames) {
                self.disk.sync_dir(&files::snapshot_dir(&self.dir))?;
            }
            Ok(Saved { log_index, keys, cold_keys, bytes: sink.bytes(), ..Saved::default() })
        })();
        if result.is_err() {
            // The next start removes it too.
            let _ = self.disk.remove(&temporary);
        }
        let mut saved = result.map_err(Some)?;
        saved.waiting_bytes_peak = progress.waiting_bytes_peak.load(Ordering::Relaxed);
        self.number.fetch_max(log_index, Ordering::Relaxed);
        if let Some(tier) = self.durable_tier() {
            tier.end_snapshot();
            if has(Bug::EarlyGarbage) {
                tier.free_all();
            }
        }
        let before = self.log_bytes();
        match self.let_go(log_index) {
            Ok(released) => saved.released = released,
            // The snapshot is there all the same; the next one tries again.
            Err(_) => saved.leftovers = true,
        }
        self.bytes.store(saved.bytes, Ordering::Relaxed);
        let released = before.saturating_sub(self.log_bytes());
        self.log_base.store(log_bytes.saturating_sub(released), Ordering::Relaxed);
        Ok(saved)
    }

    /// The snapshot `number` is durable: what only older ones need is not needed any more.
    fn let_go(&self, number: u64) -> io::Result<u64> {
        let mut snapshots = self.snapshots.lock();
        snapshots.retain(|other| *other != number);
        snapshots.push(number);
        while snapshots.len() > KEPT {
            let oldest = snapshots[0];
            self.disk.remove(&files::snapshot_path(&self.dir, oldest))?;
            snapshots.remove(0);
        }
        let oldest = snapshots[0];
        drop(snapshots);
        match self.log() {
            Some(log) => {
                log.release_before(oldest + 1).map_err(|error| io::Error::other(error.to_string()))
            }
            None if self.prepared.load(Ordering::Acquire) => Ok(0),
            None => self.remove_log(),
        }
    }

    /// There is no log any more: what is left of an earlier one is in the snapshot.
    pub(super) fn remove_log(&self) -> io::Result<u64> {
        let dir = log_dir(&self.dir);
        let Ok(names) = self.disk.list(&dir) else { return Ok(0) };
        for name in &names {
            self.disk.remove(&dir.join(name))?;
        }
        Ok(names.len() as u64)
    }
}
