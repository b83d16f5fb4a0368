//! `appendonly` while the server runs.
//!
//! ```text
//! yes   a snapshot, where files of an earlier log are left; a new log; a snapshot that it begins with
//! no    the log is made durable and takes no more
//! ```
//! CONFIG SET answers at once, as Redis does, and a thread does the rest. Until the snapshot is durable the
//! log does not count: INFO says `aof_rewrite_in_progress:1`, and a start would not read it.

use super::{NotStarted, Persistence, stops_writes};
use crate::clock;
use crate::config::ids;
use crate::config::kind::Reason;
use crate::gate::{Gate, Policy};
use crate::shared::Shared;
use ashlar_engine::storage::{Directory, Storage, StorageError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a snapshot that is on its way is waited for before another look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// From now on CONFIG SET changes it.
pub fn connect(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    // There is one server.
    drop(shared.persistence.shared.set(weak.clone()));
    let connected = shared.settings.subscribe(&[ids::APPENDONLY], move |settings| {
        let shared = weak.upgrade();
        shared.map_or(Ok(()), |shared| ask(&shared, settings.flag(ids::APPENDONLY)))
    });
    debug_assert!(connected.is_ok(), "the value of the start is no change");
}

fn ask(shared: &Arc<Shared>, on: bool) -> Result<(), Reason> {
    let persistence = &shared.persistence;
    if persistence.log_wanted.load(Ordering::Acquire) == on {
        return Ok(());
    }
    if persistence.loading.load(Ordering::Acquire) {
        return Err("the data is being loaded".into());
    }
    if shared.settings.flag(ids::CLUSTER_ENABLED) {
        return Err("a node of a cluster has logs of its own".into());
    }
    if shared.sites.is_some() {
        return Err("what the sites know of each other is in the log".into());
    }
    if shared.engine.shipping().is_on() {
        return Err("the log has what replicas of ashlar need; end the replication first".into());
    }
    if on {
        persistence.storage_or_new()?;
    }
    persistence.log_wanted.store(on, Ordering::Release);
    persistence.basing.store(on, Ordering::Release);
    start(shared);
    Ok(())
}

fn start(shared: &Arc<Shared>) {
    let this = shared.clone();
    let spawned =
        std::thread::Builder::new().name("ashlar-switch".into()).spawn(move || run(&this));
    match spawned {
        Ok(thread) => {
            // One before it has ended, or does once it has let go of `switching`.
            drop(shared.persistence.switcher.lock().replace(thread));
        }
        Err(error) => tracing::error!("can't start a thread: {error}"),
    }
}

/// Ten times a second: tries again what has failed.
pub fn tick(shared: &Arc<Shared>, now_ms: i64) {
    let persistence = &shared.persistence;
    let due = persistence.basing.load(Ordering::Acquire)
        && persistence.failure.lock().is_some()
        && !persistence.rests(now_ms)
        && !persistence.is_saving();
    if !due {
        return;
    }
    match persistence.logs() {
        // The log is there and only lacks its beginning. What fails is logged.
        true => drop(persistence.save_in_background(&shared.settings, true)),
        false => start(shared),
    }
}

/// Does what `appendonly` says.
fn run(shared: &Arc<Shared>) {
    crate::tier::step_back();
    let persistence = &shared.persistence;
    let _one_at_a_time = persistence.switching.lock();
    loop {
        let on = persistence.log_wanted.load(Ordering::Acquire);
        if on == persistence.logs() || shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let done = if on { begin(shared) } else { end(shared) };
        if let Err(error) = done {
            tracing::error!("appendonly: {error}");
            return;
        }
    }
}

/// The right to take a snapshot: whoever has it keeps the log as it is.
fn claim(shared: &Shared) -> Result<Arc<Storage>, String> {
    loop {
        match shared.persistence.begin(&shared.settings, true) {
            Ok(storage) => return Ok(storage),
            Err(NotStarted::Failed(error)) => return Err(error),
            Err(NotStarted::Busy) if shared.stopping.load(Ordering::Acquire) => {
                return Err("the server stops".into());
            }
            Err(NotStarted::Busy) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn begin(shared: &Arc<Shared>) -> Result<(), String> {
    let persistence = &shared.persistence;
    let stops = stops_writes(&shared.settings);
    let mut storage = claim(shared)?;
    if storage.has_old_log() {
        persistence.take_gently(stops, &storage)?;
        storage = claim(shared)?;
    }
    if let Err(error) = prepare(shared, &storage) {
        persistence.failed(stops, &error);
        persistence.started_unix.store(0, Ordering::Release);
        return Err(error);
    }
    persistence.take_gently(stops, &storage)
}

/// Makes the log, and the gate before it.
fn prepare(shared: &Arc<Shared>, storage: &Storage) -> Result<(), String> {
    let settings = &shared.settings;
    let zeroed = Policy::of(settings) == Policy::Always;
    let log = storage.prepare_log(settings.count(ids::LOG_SEGMENT_SIZE), zeroed);
    let log = log.map_err(|error| error.to_string())?;
    if shared.gate.get().is_none() {
        // Only this thread makes one: it loads, or the data is loaded and `switching` is held.
        drop(shared.gate.set(Gate::new(&log, shared.mailboxes.len())));
        let thread = Gate::start(shared).map_err(|error| error.to_string())?;
        *shared.log_thread.lock() = thread;
    }
    Ok(())
}

fn end(shared: &Shared) -> Result<(), String> {
    let persistence = &shared.persistence;
    let storage = claim(shared)?;
    let ended = storage.end_log().map_err(|error| error.to_string());
    persistence.started_unix.store(0, Ordering::Release);
    ended
}

impl Persistence {
    /// Makes what was loaded from elsewhere the beginning of a directory that has no data: its first
    /// snapshot, where anything is to be kept, and the log behind that. Returns the log's thread.
    ///
    /// # Errors
    /// If the disk fails; the directory has no data then.
    pub fn base(
        &self,
        shared: &Arc<Shared>,
        directory: Directory,
    ) -> io::Result<(Arc<Storage>, Option<JoinHandle<()>>)> {
        let other = |error: StorageError| io::Error::other(error.to_string());
        let settings = &shared.settings;
        let storage = Arc::new(directory.adopt(&shared.engine).map_err(other)?);
        if !super::keeps(settings) {
            return Ok((storage, None));
        }
        if settings.flag(ids::APPENDONLY) {
            prepare(shared, &storage).map_err(io::Error::other)?;
        }
        let cancelled = || !shared.stopping.load(Ordering::Acquire);
        let saved = storage.snapshot(clock::now_ms(), || {}, cancelled).map_err(other)?;
        if settings.flag(ids::APPENDONLY) {
            storage.confirm_log().map_err(other)?;
        }
        let (dir, keys) = (storage.dir().display(), saved.keys);
        tracing::info!(
            "from here on the data is in {dir}, beginning with a snapshot of {keys} keys"
        );
        Ok((storage, shared.log_thread.lock().take()))
    }

    /// Whether there is a log that takes records.
    pub fn logs(&self) -> bool {
        self.storage.get().is_some_and(|storage| storage.log().is_some())
    }

    /// A snapshot is durable: if the log waits for it, it counts from now on.
    pub(super) fn confirm(&self, storage: &Storage) -> Result<(), String> {
        if self.basing.load(Ordering::Acquire) && storage.log().is_some() {
            storage.confirm_log().map_err(|error| error.to_string())?;
            self.basing.store(false, Ordering::Release);
            tracing::info!("the log counts from now on");
        }
        Ok(())
    }
}
