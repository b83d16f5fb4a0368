//! What the server keeps on disk: loading it at start, and snapshots: on command, by time, as the log grows,
//! and at the end.
//!
//! ```text
//! start: Directory (lock, seed) -> workers answer LOADING -> newest snapshot, log -> Gate, open for all
//! later: SAVE | BGSAVE | `save` | log growth | SHUTDOWN -> Storage::snapshot, on a thread of its own
//! ```
//! A node of a cluster has none of this: its groups have logs and snapshots of their own, which have every write
//! that was answered, and are asked for new snapshots where somebody wants one.
//!
//! With `save ""` and `appendonly no` nothing is kept: the directory is opened only if it is there
//! already, or once somebody calls SAVE.

pub mod switch;

use crate::clock;
use crate::config::{Settings, ids};
use crate::replication::continued::End;
use crate::shared::Shared;
use ashlar_engine::disk::RealDisk;
use ashlar_engine::engine::Engine;
use ashlar_engine::error::Error;
use ashlar_engine::storage::{DIRECTORY, Directory, Recovering, Saved, Storage, StorageError};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long a snapshot that failed is left alone before `save` tries again, as in Redis.
const RETRY_MS: i64 = 5_000;
/// A snapshot rests after so much work, to leave the machine to the clients...
const WORK: Duration = Duration::from_micros(500);
/// ... for this part of it.
const REST_PER_WORK: u32 = 1;
/// Between two steps it lets others go first who wait for its core: a worker that wakes up has its turn after
/// some 50 us, where it would wait for the end of the snapshot's (a millisecond or more). So much longer than
/// it works it may take for that; then it is no more polite than other threads.
const YIELDED_PER_WORK: u32 = 4;

/// A snapshot that was taken, or failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSave {
    /// When it was done, seconds since 1970; at first the start of the server.
    pub unix: i64,
    /// How long it took; -1 before the first.
    pub seconds: i64,
    /// How long all shards were locked at its beginning.
    pub cut_us: u64,
    /// What it has.
    pub saved: Saved,
}

/// Everything about the server's disk but the log.
pub struct Persistence {
    engine: Arc<Engine>,
    dir: PathBuf,
    random: u64,
    storage: OnceLock<Arc<Storage>>,
    /// Held while the directory is opened late.
    opening: Mutex<()>,
    /// Whether a command has to look closer: `loading` or `writes_stopped`.
    pub attention: AtomicBool,
    /// Whether data is being loaded.
    pub loading: AtomicBool,
    /// How far.
    pub recovering: Recovering,
    /// When that began, seconds since 1970.
    pub loading_since: i64,
    /// What was loaded: keys, and keys that had expired.
    pub loaded_keys: AtomicU64,
    loaded: (Mutex<Option<Result<(), String>>>, Condvar),
    /// Changes since the last snapshot.
    pub changes: AtomicU64,
    /// Why the last snapshot failed, where it did.
    failure: Mutex<Option<String>>,
    tried_ms: AtomicI64,
    last: Mutex<LastSave>,
    /// The last snapshot, taken or loaded: the record up to which it goes, and its bytes.
    newest: Mutex<Option<(u64, u64)>>,
    /// When the present one began, seconds since 1970; 0 if none is on its way.
    pub started_unix: AtomicI64,
    /// Whether the present one is for BGREWRITEAOF or the growth of the log.
    pub rewrites: AtomicBool,
    /// Whether one is to follow the present one.
    pub scheduled: AtomicBool,
    /// Snapshots so far.
    pub saves: AtomicU64,
    cancelled: AtomicBool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Whom to tell how long a cut took.
    shared: OnceLock<Weak<Shared>>,
    /// Whether there is to be a log.
    log_wanted: AtomicBool,
    /// Whether there is to be one, and no durable snapshot that it begins with yet.
    pub basing: AtomicBool,
    /// Held by the thread that brings that about, `switcher`.
    switching: Mutex<()>,
    switcher: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Asks the groups of a cluster's node for snapshots.
    groups: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Why a snapshot was not begun.
#[derive(Debug)]
pub enum NotStarted {
    /// One is on its way.
    Busy,
    /// The directory cannot be opened, or there is no thread.
    Failed(String),
}

/// The directory that is to be loaded, if any, and the seed that the engine must have.
///
/// # Errors
/// If another process uses it, or the disk fails.
pub fn open(settings: &Settings, random: u64) -> io::Result<Option<Directory>> {
    let dir = directory(settings);
    if !keeps(settings) && !dir.is_dir() {
        return Ok(None);
    }
    let directory = Directory::open(Arc::new(RealDisk), &dir, random);
    directory.map(Some).map_err(|error| io::Error::other(error.to_string()))
}

/// Whether the settings ask for anything to be kept.
pub fn keeps(settings: &Settings) -> bool {
    settings.flag(ids::APPENDONLY) || !settings.text(ids::SAVE).is_empty()
}

fn directory(settings: &Settings) -> PathBuf {
    Path::new(&settings.string(ids::DIR)).join(DIRECTORY)
}

impl Persistence {
    /// Of a server that is about to load, or has nothing to load.
    pub fn new(settings: &Settings, engine: &Arc<Engine>, loads: bool, random: u64) -> Persistence {
        let now = clock::now_ms() / 1000;
        let last = LastSave { unix: now, seconds: -1, ..LastSave::default() };
        Persistence {
            engine: engine.clone(),
            dir: directory(settings),
            random,
            storage: OnceLock::new(),
            opening: Mutex::new(()),
            attention: AtomicBool::new(loads),
            loading: AtomicBool::new(loads),
            recovering: Recovering::default(),
            loading_since: now,
            loaded_keys: AtomicU64::new(0),
            loaded: (Mutex::new(if loads { None } else { Some(Ok(())) }), Condvar::new()),
            changes: AtomicU64::new(0),
            failure: Mutex::new(None),
            tried_ms: AtomicI64::new(0),
            newest: Mutex::default(),
            last: Mutex::new(last),
            started_unix: AtomicI64::new(0),
            rewrites: AtomicBool::new(false),
            scheduled: AtomicBool::new(false),
            saves: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            thread: Mutex::new(None),
            shared: OnceLock::new(),
            log_wanted: AtomicBool::new(settings.flag(ids::APPENDONLY)),
            basing: AtomicBool::new(false),
            switching: Mutex::new(()),
            switcher: Mutex::new(None),
            groups: OnceLock::new(),
        }
    }

    /// Loading has ended; only now do clients get in.
    pub fn finish_loading(&self, result: Result<(Option<Arc<Storage>>, u64), String>) {
        let result = result.map(|(storage, keys)| {
            self.loaded_keys.store(keys, Ordering::Relaxed);
            if let Some(storage) = storage {
                // It is set once: there is one loading.
                let _ = self.storage.set(storage);
            }
            self.attention.store(false, Ordering::Release);
            self.loading.store(false, Ordering::Release);
        });
        *self.loaded.0.lock() = Some(result);
        self.loaded.1.notify_all();
    }

    /// Waits for the end of loading, but not for ever: `None` if it goes on.
    pub fn wait_loaded(&self, timeout: Duration) -> Option<Result<(), String>> {
        let mut loaded = self.loaded.0.lock();
        self.loaded.1.wait_while_for(&mut loaded, |loaded| loaded.is_none(), timeout);
        loaded.clone()
    }

    /// The data directory, where there is one.
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        self.storage.get()
    }

    /// The data directory, which is made if nothing was to be kept so far.
    fn storage_or_new(&self) -> Result<Arc<Storage>, String> {
        let _opening = self.opening.lock();
        if let Some(storage) = self.storage.get() {
            return Ok(storage.clone());
        }
        let directory = Directory::open(Arc::new(RealDisk), &self.dir, self.random);
        let storage = directory.and_then(|directory| directory.adopt(&self.engine));
        let storage = Arc::new(storage.map_err(|error| error.to_string())?);
        Ok(self.storage.get_or_init(|| storage).clone())
    }

    /// Tells which snapshot has been loaded, with no record of a log behind it.
    pub fn set_newest(&self, index: u64, bytes: u64) {
        *self.newest.lock() = Some((index, bytes));
    }

    /// The snapshot that has all of the data, where there is no log; `None` if none has.
    pub fn end_of_data(&self) -> Option<End> {
        let unsaved = self.changes.load(Ordering::Acquire) > 0;
        let newest = self.newest.lock().filter(|_| !unsaved);
        newest.map(|(index, bytes)| End::Snapshot(index, bytes))
    }

    /// The last snapshot.
    pub fn last(&self) -> LastSave {
        *self.last.lock()
    }

    /// Why the last snapshot failed, where it did.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Whether a snapshot is on its way.
    pub fn is_saving(&self) -> bool {
        self.started_unix.load(Ordering::Acquire) != 0
    }

    /// From now on the data is kept by groups that agree; `ask` asks them for snapshots.
    pub fn leave_to_groups(&self, ask: impl Fn() + Send + Sync + 'static) {
        // There is one node.
        let _ = self.groups.set(Box::new(ask));
    }

    /// Where groups keep the data: asks them for snapshots. All that was answered is in their logs, so nobody has to
    /// wait.
    fn save_groups(&self) -> bool {
        let Some(ask) = self.groups.get() else { return false };
        ask();
        self.changes.store(0, Ordering::Relaxed);
        self.scheduled.store(false, Ordering::Relaxed);
        let unix = clock::now_ms() / 1000;
        *self.last.lock() = LastSave { unix, seconds: 0, ..LastSave::default() };
        self.saves.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Takes a snapshot and waits for it.
    ///
    /// # Errors
    /// If one is on its way, or it fails.
    pub fn save(&self, settings: &Settings) -> Result<(), NotStarted> {
        if self.save_groups() {
            return Ok(());
        }
        let storage = self.begin(settings, false)?;
        self.take(settings, &storage, |_| true).map_err(NotStarted::Failed)
    }

    /// Begins a snapshot in the background; `rewrites` if it is for the log.
    ///
    /// # Errors
    /// If one is on its way, or it cannot be begun.
    pub fn save_in_background(
        self: &Arc<Self>,
        settings: &Settings,
        rewrites: bool,
    ) -> Result<(), NotStarted> {
        if self.save_groups() {
            return Ok(());
        }
        let storage = self.begin(settings, rewrites)?;
        let this = self.clone();
        let stops = stops_writes(settings);
        let cores = crate::cores::of(
            settings,
            match rewrites {
                true => ids::AOF_REWRITE_CPULIST,
                false => ids::BGSAVE_CPULIST,
            },
        );
        let spawned = std::thread::Builder::new().name("ashlar-snapshot".into()).spawn(move || {
            crate::tier::step_back();
            if let Some(cores) = cores {
                crate::cores::bind_to(&cores);
            }
            // A failure is logged there.
            let _ = this.take_gently(stops, &storage);
        });
        match spawned {
            Ok(thread) => {
                *self.thread.lock() = Some(thread);
                Ok(())
            }
            Err(error) => {
                self.started_unix.store(0, Ordering::Release);
                Err(NotStarted::Failed(format!("can't start a thread: {error}")))
            }
        }
    }

    /// Claims the right to take a snapshot.
    fn begin(&self, settings: &Settings, rewrites: bool) -> Result<Arc<Storage>, NotStarted> {
        let now_ms = clock::now_ms();
        let claimed = self.started_unix.compare_exchange(
            0,
            now_ms / 1000,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if claimed.is_err() {
            return Err(NotStarted::Busy);
        }
        self.rewrites.store(rewrites, Ordering::Relaxed);
        self.scheduled.store(false, Ordering::Relaxed);
        self.tried_ms.store(now_ms, Ordering::Relaxed);
        self.storage_or_new().map_err(|error| {
            self.failed(stops_writes(settings), &error);
            self.started_unix.store(0, Ordering::Release);
            NotStarted::Failed(error)
        })
    }

    fn take(
        &self,
        settings: &Settings,
        storage: &Storage,
        mut pause: impl FnMut(&Storage) -> bool,
    ) -> Result<(), String> {
        self.take_with(stops_writes(settings), storage, || pause(storage))
    }

    /// Takes a snapshot that leaves most of the machine to others.
    fn take_gently(&self, stops: bool, storage: &Storage) -> Result<(), String> {
        let (mut worked, cancelled) = (Instant::now(), &self.cancelled);
        let (mut step_began, mut work_all, mut yielded_all) =
            (worked, Duration::ZERO, Duration::ZERO);
        self.take_with(stops, storage, || {
            let step_ended = Instant::now();
            work_all += step_ended - step_began;
            let work = step_ended - worked;
            if work >= WORK {
                std::thread::sleep(work.min(WORK * 4) * REST_PER_WORK);
                worked = Instant::now();
                step_began = worked;
            } else if yielded_all <= work_all * YIELDED_PER_WORK {
                std::thread::yield_now();
                step_began = Instant::now();
                let yielded = step_began - step_ended;
                yielded_all += yielded;
                // It was no work.
                worked += yielded;
            } else {
                step_began = step_ended;
            }
            !cancelled.load(Ordering::Relaxed)
        })
    }

    fn take_with(
        &self,
        stops: bool,
        storage: &Storage,
        pause: impl FnMut() -> bool,
    ) -> Result<(), String> {
        let (started, mut at_cut, mut cut_took) = (Instant::now(), 0, Duration::ZERO);
        let changes = &self.changes;
        let cut = || {
            at_cut = changes.load(Ordering::Relaxed);
            cut_took = started.elapsed();
        };
        let result = storage.snapshot(clock::now_ms(), cut, pause);
        if let Some(shared) = self.shared.get().and_then(Weak::upgrade) {
            // All shards were locked meanwhile: what a fork is to Redis.
            shared.note_latency("fork", cut_took);
        }
        let confirmed = |saved| match self.confirm(storage) {
            Ok(()) => Ok(saved),
            Err(error) => Err(StorageError::Snapshot(error)),
        };
        let result = match result.and_then(confirmed) {
            Ok(saved) => {
                changes.fetch_sub(at_cut.min(changes.load(Ordering::Relaxed)), Ordering::Relaxed);
                self.succeeded(saved, started.elapsed(), cut_took);
                Ok(())
            }
            Err(StorageError::Busy) => Err("a snapshot is being taken already".into()),
            Err(error) => {
                let text = error.to_string();
                self.failed(stops && !self.cancelled.load(Ordering::Relaxed), &text);
                Err(text)
            }
        };
        self.started_unix.store(0, Ordering::Release);
        result
    }

    fn succeeded(&self, saved: Saved, took: Duration, cut_took: Duration) {
        let unix = clock::now_ms() / 1000;
        let seconds = i64::try_from(took.as_secs()).unwrap_or(i64::MAX);
        let cut_us = u64::try_from(cut_took.as_micros()).unwrap_or(u64::MAX);
        *self.last.lock() = LastSave { unix, seconds, cut_us, saved };
        *self.newest.lock() = Some((saved.log_index, saved.bytes));
        *self.failure.lock() = None;
        self.attention.store(self.loading.load(Ordering::Acquire), Ordering::Release);
        self.saves.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            "a snapshot of {} keys, {} bytes, in {:.3} s; it includes the log up to record {}",
            saved.keys,
            saved.bytes,
            took.as_secs_f64(),
            saved.log_index
        );
        if saved.leftovers {
            tracing::warn!("files that are no longer needed could not be removed");
        }
    }

    fn failed(&self, stops_writes: bool, text: &str) {
        tracing::error!("no snapshot: {text}");
        *self.failure.lock() = Some(text.to_owned());
        if stops_writes {
            self.attention.store(true, Ordering::Release);
        }
    }

    /// Why a command is refused, if it is: data is being loaded, or snapshots fail and writes are not
    /// to go on then. Only asked where `attention` is set.
    #[cold]
    pub fn refusal(&self, settings: &Settings, loading_ok: bool, writes: bool) -> Option<Error> {
        if self.loading.load(Ordering::Acquire) {
            return (!loading_ok)
                .then(|| Error::text("LOADING Redis is loading the dataset in memory"));
        }
        (writes && stops_writes(settings) && self.failure.lock().is_some()).then(|| {
            Error::text(
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to \
                 persist to disk. Commands that may modify the data set are disabled, because this \
                 instance is configured to report errors during writes if RDB snapshotting fails \
                 (stop-writes-on-bgsave-error option). Please check the Redis logs for details \
                 about the RDB error.",
            )
        })
    }

    /// Ten times a second: begins a snapshot if one is due.
    pub fn tick(self: &Arc<Self>, settings: &Settings, now_ms: i64) {
        if self.is_saving() || self.loading.load(Ordering::Acquire) {
            return;
        }
        let log_is_due = self.log_is_due(settings);
        if self.scheduled.load(Ordering::Relaxed) || log_is_due || self.is_due(settings, now_ms) {
            // What fails is logged, and tried again later.
            let _ = self.save_in_background(settings, log_is_due);
        }
    }

    /// Whether one of the points of `save` is reached.
    fn is_due(&self, settings: &Settings, now_ms: i64) -> bool {
        let changes = self.changes.load(Ordering::Relaxed);
        if changes == 0 || self.rests(now_ms) || self.groups.get().is_some() {
            return false;
        }
        let since = now_ms / 1000 - self.last.lock().unix;
        save_points(&settings.string(ids::SAVE))
            .into_iter()
            .any(|(seconds, least)| changes >= least && since > seconds)
    }

    /// Whether the log has grown by `auto-aof-rewrite-percentage` of what the state takes.
    fn log_is_due(&self, settings: &Settings) -> bool {
        let percent = settings.count(ids::AUTO_AOF_REWRITE_PERCENTAGE);
        let Some(storage) = self.storage.get().filter(|storage| storage.log().is_some()) else {
            return false;
        };
        if percent == 0 || self.rests(clock::now_ms()) {
            return false;
        }
        let (base, growth) = (storage.snapshot_bytes(), storage.log_growth());
        base + growth > settings.count(ids::AUTO_AOF_REWRITE_MIN_SIZE)
            && growth.saturating_mul(100) / base.max(1) >= percent
    }

    fn rests(&self, now_ms: i64) -> bool {
        self.failure.lock().is_some() && now_ms - self.tried_ms.load(Ordering::Relaxed) < RETRY_MS
    }

    /// The server ends and its workers have ended: gives up what is on its way, and saves what has
    /// not been, if `saves` says so.
    pub fn end(&self, settings: &Settings, saves: bool) {
        self.cancelled.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take() {
            // What a panic there said was printed.
            let _ = thread.join();
        }
        if let Some(thread) = self.switcher.lock().take() {
            let _ = thread.join();
        }
        if saves
            && self.groups.get().is_none()
            && self.changes.load(Ordering::Relaxed) > 0
            && !self.loading.load(Ordering::Acquire)
        {
            // A failure is logged, and nobody is left to be told.
            let _ = self.save(settings);
        }
    }
}

/// Whether writes are refused while snapshots fail.
fn stops_writes(settings: &Settings) -> bool {
    settings.flag(ids::STOP_WRITES_ON_BGSAVE_ERROR) && !settings.text(ids::SAVE).is_empty()
}

/// The points of `save`: seconds and changes.
fn save_points(text: &str) -> Vec<(i64, u64)> {
    let numbers: Vec<&str> = text.split_ascii_whitespace().collect();
    let points = numbers.chunks_exact(2);
    points.filter_map(|point| Some((point[0].parse().ok()?, point[1].parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn save_points_are_pairs() {
        assert_eq!(save_points("3600 1 300 100"), [(3600, 1), (300, 100)]);
        assert_eq!(save_points(""), []);
    }
}
