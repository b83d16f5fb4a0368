//! A data directory: what an engine keeps on disk.
//!
//! ```text
//! ashlar-data/LOCK           held while a process uses the directory
//! ashlar-data/log/           segments of the log
//! ```

use crate::disk::{Disk, Lock};
use crate::engine::Engine;
use crate::log::{Log, LogError, LogOptions, Recovered, Replayed, replay};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the data directory in a server's working directory.
pub const DIRECTORY: &str = "ashlar-data";

/// Why a data directory cannot be opened.
#[derive(Debug)]
pub enum StorageError {
    /// Another process uses it.
    InUse(String),
    /// The disk failed, or refuses.
    Io(String),
    /// The log is damaged or cannot be read.
    Log(LogError),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::InUse(text) | StorageError::Io(text) => f.write_str(text),
            StorageError::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StorageError {}

impl From<LogError> for StorageError {
    fn from(error: LogError) -> StorageError {
        StorageError::Log(error)
    }
}

/// What opening a data directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// In the log.
    pub recovered: Recovered,
    /// What was run again.
    pub replayed: Replayed,
}

/// An open data directory; other processes are refused while it lives.
pub struct Storage {
    log: Arc<Log>,
    dir: PathBuf,
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
    let io = |error: std::io::Error| {
        StorageError::Io(format!("can't open the data directory {}: {error}", dir.display()))
    };
    disk.create_dir(dir).map_err(io)?;
    disk.lock(&dir.join("LOCK")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => StorageError::InUse(format!(
            "the data directory is used by another server: {error}; stop it, or choose another \
             directory with --dir"
        )),
        _ => io(error),
    })
}

impl Storage {
    /// Opens the data directory `dir`, brings `engine`, which is empty, up to date, and becomes its
    /// journal. `progress` gets the index of a record now and then.
    ///
    /// # Errors
    /// If another process uses the directory, if it is damaged, or if the disk fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        engine: &Engine,
        options: LogOptions,
        progress: impl FnMut(u64),
    ) -> Result<(Storage, Opened), StorageError> {
        let lock = lock(&*disk, dir)?;
        let (log, recovered) = Log::open(disk, &log_dir(dir), options)?;
        let replayed = replay(engine, log.read_from(recovered.first), progress)?;
        let log = Arc::new(log);
        let is_first = engine.set_journal(log.clone());
        assert!(is_first, "an engine that is recovered has no journal yet");
        engine.log_config();
        let storage = Storage { log, dir: dir.into(), _lock: lock };
        Ok((storage, Opened { recovered, replayed }))
    }

    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("dir", &self.dir).field("log", &self.log).finish()
    }
}
