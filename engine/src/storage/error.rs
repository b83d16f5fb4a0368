//! What can go wrong with a data directory.

use crate::log::LogError;
use std::fmt;
use std::io;

/// What can go wrong with a data directory.
#[derive(Debug)]
pub enum StorageError {
    /// Another process uses it.
    InUse(String),
    /// The disk failed, or refuses.
    Io(String),
    /// The log is damaged or cannot be read.
    Log(LogError),
    /// A snapshot cannot be read, and nothing can take its place.
    Snapshot(String),
    /// A snapshot is on its way already.
    Busy,
}

impl StorageError {
    /// An error of the disk while something was done, which is named as in "can't DO: error".
    pub(super) fn io(doing: &str, error: &io::Error) -> StorageError {
        StorageError::Io(format!("can't {doing}: {error}"))
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::InUse(text) | StorageError::Io(text) | StorageError::Snapshot(text) => {
                f.write_str(text)
            }
            StorageError::Log(error) => error.fmt(f),
            StorageError::Busy => f.write_str("a snapshot is being taken already"),
        }
    }
}

impl std::error::Error for StorageError {}

impl From<LogError> for StorageError {
    fn from(error: LogError) -> StorageError {
        StorageError::Log(error)
    }
}
