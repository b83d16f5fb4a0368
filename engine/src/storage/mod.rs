//! A data directory: what an engine keeps on disk, and how it comes back.
//!
//! ```text
//! ashlar-data/LOCK           held while a process uses the directory
//!             seed           seed of the hash tables, see `files`
//!             log-begins     there while the log waits for the snapshot it begins with, see `switch`
//!             snapshot/      NNNNNNNNNNNNNNNN.snap: all keys after record N of the log
//!             log/           segments of the log
//! ```
//! The state is the newest snapshot and the records of the log behind it. A snapshot is written under
//! a temporary name, synced and renamed, so there is a whole one or none. The one before stays, with
//! the log from there on: should the newest be damaged, the older one and a longer log take its place.
//!
//! Without a log each snapshot gets a number of its own, one more than the one before, so that an
//! older one does not pass for a newer one: what happened between them is in no log.
//!
//! With a cold tier that is durable ([`Tier::set_durable`](crate::tier::Tier::set_durable)) a snapshot has
//! the names of cold keys, and their values are in the tier's store: what it names stays there.
//!
//! Nothing here starts a thread or reads a clock: the host does, see
//! [`Keeper`](crate::embedded::Keeper) and the server.

mod error;
mod files;
mod fill;
mod recover;
mod save;
mod switch;
#[cfg(test)]
mod tests;

pub use error::StorageError;
pub use files::newest_snapshot;
pub use fill::Filling;
pub use recover::{Directory, Opened, RecoverOptions, Recovering};
pub use save::{SaveProgress, Saved};
pub use switch::is_log_baseless;

use crate::disk::{Disk, Lock};
use crate::engine::Engine;
use crate::log::Log;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Name of the data directory in a server's working directory.
pub const DIRECTORY: &str = "ashlar-data";

/// An open data directory; other processes are refused while it lives.
pub struct Storage {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    engine: Arc<Engine>,
    /// Given once; `logging` says whether it takes records.
    log: OnceLock<Arc<Log>>,
    logging: AtomicBool,
    /// Whether the log is to take records from the next snapshot's cut on, see `switch`.
    prepared: AtomicBool,
    hash_seed: u64,
    random: u64,
    /// The records that the snapshots of the directory include up to, ascending.
    snapshots: Mutex<Vec<u64>>,
    /// Without a log: the number of the last snapshot.
    number: AtomicU64,
    /// Bytes of the newest snapshot.
    bytes: AtomicU64,
    /// Bytes of the log before what the newest snapshot does not have.
    log_base: AtomicU64,
    progress: SaveProgress,
    _lock: Box<dyn Lock>,
}

/// The directory of the log in a data directory.
pub fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// Locks a data directory, which is created if it is missing.
///
/// # Errors
/// [`StorageError::InUse`] if another process uses it.
pub fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Lock>, StorageError> {
    let io = |error: io::Error| StorageError::io(&format!("open {}", dir.display()), &error);
    disk.create_dir(dir).map_err(io)?;
    disk.lock(&dir.join("LOCK")).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StorageError::InUse(format!(
            "the data directory is used by another server: {error}; stop it, or choose another \
             directory with --dir"
        )),
        _ => io(error),
    })
}

impl Storage {
    /// The log, where there is one that takes records.
    pub fn log(&self) -> Option<&Arc<Log>> {
        self.log.get().filter(|_| self.logging.load(Ordering::Acquire))
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("dir", &self.dir).field("log", &self.log()).finish()
    }
}
