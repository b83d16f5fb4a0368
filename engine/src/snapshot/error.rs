//! Why a snapshot cannot be read.

use std::fmt;
use std::io;

/// Why a snapshot cannot be read.
#[derive(Debug)]
pub enum SnapshotError {
    /// The system failed.
    Io(io::Error),
    /// Its bytes are not as they were written: in which frame, and what is wrong.
    Damaged(u32, &'static str),
    /// It is of another version of the format.
    Version(u8),
    /// It is valid, but does not fit here: for example it has more databases.
    Unfit(String),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Io(error) => error.fmt(f),
            SnapshotError::Damaged(frame, what) => write!(f, "damaged at frame {frame}: {what}"),
            SnapshotError::Version(version) => {
                write!(f, "version {version} of the format is not one that this version reads")
            }
            SnapshotError::Unfit(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> SnapshotError {
        SnapshotError::Io(error)
    }
}
