//! A store with a directory: what keeps it on disk.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the host of an embedded engine: its thread needs to know how long it waited"
)]

use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::log::{Health, Log};
use crate::stamp::Stamp;
use crate::storage::Storage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the thread looks after the log.
const TEND_EVERY: Duration = Duration::from_millis(100);
/// How often it syncs with [`Durability::Everysec`].
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Bytes by which the log grows at least between two snapshots that nobody asked for; after that it
/// has to have twice the size of the last snapshot.
const GROWTH_BYTES_MIN: u64 = 64 << 20;
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How long a snapshot that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// How safe a change is once its call has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk: a power cut loses nothing.
    Always,
    /// It is on the disk a second later; until then the end of the process, too, may lose it.
    #[default]
    Everysec,
    /// As `Everysec`, but it is the system that decides when it goes to the disk.
    No,
}

/// Looks after a store's directory, with a thread of its own. Its drop makes everything durable.
pub struct Keeper {
    storage: Arc<Storage>,
    durability: Durability,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
}

impl Keeper {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(
        storage: Storage,
        durability: Durability,
        cold_after: Option<Duration>,
    ) -> std::io::Result<Keeper> {
        let storage = Arc::new(storage);
        let shared = Arc::new(Shared::default());
        let mut work = Work {
            storage: storage.clone(),
            durability,
            cold_after,
            shared: shared.clone(),
            since: Since::new(),
        };
        let thread = std::thread::Builder::new().name("ashlar-store".into());
        let thread = Some(thread.spawn(move || work.run())?);
        Ok(Keeper { storage, durability, shared, thread })
    }

    /// The directory.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Why changes are refused, if they are.
    #[inline]
    pub(super) fn refusal(&self) -> Option<Error> {
        match self.storage.log() {
            Some(log) if !log.is_well() => refusal(log),
            _ => None,
        }
    }

    /// Waits until a change is as safe as it has to be; 0 is no change.
    #[inline]
    pub(super) fn settle(&self, log_index: u64) -> Result<(), Error> {
        if log_index == 0 || self.durability != Durability::Always {
            return Ok(());
        }
        let Some(log) = self.storage.log() else { return Ok(()) };
        match log.sync_to(log_index) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::owned(format!("MISCONF the change may be lost: {error}"))),
        }
    }
}

#[cold]
fn refusal(log: &Log) -> Option<Error> {
    match log.health() {
        Health::Well => None,
        Health::Blocked(reason) | Health::Failed(reason) => {
            Some(Error::owned(format!("MISCONF Errors writing to the AOF file: {reason}")))
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was printed; the log is closed all the same.
            let _ = thread.join();
        }
        if let Some(log) = self.storage.log() {
            // Nobody is left to be told; what was acknowledged as durable is.
            let _ = log.close();
        }
    }
}

/// When what was done.
struct Since {
    tended: Instant,
    synced: Instant,
    tidied: Instant,
    failed: Option<Instant>,
}

impl Since {
    fn new() -> Since {
        let now = Instant::now();
        Since { tended: now, synced: now, tidied: now, failed: None }
    }
}

/// What the thread has.
struct Work {
    storage: Arc<Storage>,
    durability: Durability,
    cold_after: Option<Duration>,
    shared: Arc<Shared>,
    since: Since,
}

impl Work {
    fn run(&mut self) {
        while !self.shared.stopping.load(Ordering::Acquire) {
            std::thread::park_timeout(TEND_EVERY);
            tend(&self.storage, self.durability, &mut self.since);
            self.tend_tier();
            if self.is_snapshot_due() {
                self.snapshot();
            }
        }
    }

    /// Takes idle values out of memory, and gives back the space of rows that are not needed any more.
    /// Faults show in [`Tier::fault`](crate::tier::Tier::fault); values stay in memory then.
    fn tend_tier(&mut self) {
        let engine = self.storage.engine();
        let Some(tier) = engine.tier() else { return };
        let now_ms = unix_ms();
        if let Some(idle) = self.cold_after {
            let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
            let share = tier.age_share(engine, idle_ms, TEND_EVERY);
            let _ = tier.age(engine, now_ms, idle_ms, share);
        }
        if self.since.tidied.elapsed() >= TIDY_EVERY {
            self.since.tidied = Instant::now();
            let stamp = Stamp::new(now_ms, now_ms as u64);
            let _ = tier.tidy(&mut engine.executor(), &stamp);
        }
    }

    fn is_snapshot_due(&self) -> bool {
        let rests = self.since.failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER);
        !rests && self.storage.log_growth() >= GROWTH_BYTES_MIN.max(self.storage.snapshot_bytes())
    }

    fn snapshot(&mut self) {
        let (storage, shared) = (self.storage.clone(), self.shared.clone());
        let (durability, since) = (self.durability, &mut self.since);
        let result = storage.snapshot(
            unix_ms(),
            || (),
            || {
                tend(&storage, durability, since);
                // The log has everything that the snapshot would have.
                !shared.stopping.load(Ordering::Acquire)
            },
        );
        since.failed = result.is_err().then(Instant::now);
    }
}

/// Looks after the log, if it is time to. Errors show in the log's health.
fn tend(storage: &Storage, durability: Durability, since: &mut Since) {
    let Some(log) = storage.log() else { return };
    if since.tended.elapsed() < TEND_EVERY {
        return;
    }
    since.tended = Instant::now();
    let _ = log.tend();
    if durability == Durability::Everysec && since.synced.elapsed() >= SYNC_EVERY {
        since.synced = Instant::now();
        let _ = log.sync();
    }
}

pub(super) fn unix_ms() -> i64 {
    SystemClock.now_ms()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Call, Strings};
    use crate::prelude::Store;
    use crate::storage::StorageError;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            Dir(std::env::temp_dir().join(format!("ashlar-keeper-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_store_comes_back_with_and_without_a_snapshot() {
        let dir = Dir::new("back");
        let mut image = Vec::new();
        for round in 0..4 {
            let store = Store::open(&dir.0).unwrap();
            assert_eq!(store.engine().image(), image, "round {round}");
            let other = store.clone();
            let value = format!("{round}");
            store.set("k", &value).unwrap();
            store.call(&[b"RPUSH", b"list", value.as_bytes()]).unwrap();
            other.db(2).unwrap().call(&[b"HSET", b"h", value.as_bytes(), b"v"]).unwrap();
            if round % 2 == 1 {
                let saved = store.snapshot().unwrap().unwrap();
                assert_eq!(saved.keys, 5);
            }
            store
                .transaction(&["a", "b"], |tx| {
                    tx.incr_by("a", 1)?;
                    tx.incr_by("b", 1)
                })
                .unwrap();
            image = store.engine().image();
        }
    }

    #[test]
    fn a_directory_has_one_store() {
        let dir = Dir::new("one");
        let store = Store::open(&dir.0).unwrap();
        assert!(matches!(Store::open(&dir.0), Err(StorageError::InUse(_))));
        drop(store);
        assert!(Store::open(&dir.0).is_ok());
    }

    #[test]
    fn always_means_that_the_log_has_it() {
        let dir = Dir::new("always");
        let store = Store::builder().durability(Durability::Always).open_in(&dir.0).unwrap();
        let log = store.storage().unwrap().log().unwrap().clone();
        for n in 1..20 {
            store.set("k", n.to_string()).unwrap();
            // The first record has the settings.
            assert_eq!((log.durable(), log.appended()), (n + 1, n + 1));
        }
        store.transaction(&["k"], |tx| tx.incr_by("k", 1)).unwrap();
        assert_eq!(log.durable(), 21);
        assert!(Store::in_memory().snapshot().unwrap().is_none());
    }
}
