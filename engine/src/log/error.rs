//! What can go wrong with a log.

use super::scan::Place;
use std::fmt;
use std::io;

/// An error of the log. None of them is a command's: the data in memory is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The disk is full or read-only: what was to be written waits, and goes on once it can.
    Blocked(String),
    /// The disk failed.
    Io(String),
    /// A write or a sync failed: what is on the disk is unknown, so nothing is called durable any
    /// more until the log is opened again.
    Failed(String),
    /// A segment's header is damaged.
    Header {
        /// Number of the segment.
        segment: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A record that was acknowledged is damaged or missing.
    Damaged {
        /// Where it should be.
        place: Place,
        /// The last index that is known to have been durable.
        durable: u64,
    },
    /// A record is intact, but its payload is not one that this version can read.
    Unreadable(Place),
}

/// Whether an error passes once there is room, or the disk can be written to again.
fn passes(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | ReadOnlyFilesystem | FileTooLarge)
}

impl LogError {
    /// An error of the disk while something was done, which is named as in "can't DO: error".
    pub(crate) fn io(doing: &str, error: &io::Error) -> LogError {
        let text = format!("can't {doing}: {error}");
        if passes(error.kind()) { LogError::Blocked(text) } else { LogError::Io(text) }
    }

    /// Whether it passes by itself once there is room.
    pub fn passes(&self) -> bool {
        matches!(self, LogError::Blocked(_))
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Blocked(text) | LogError::Io(text) => f.write_str(text),
            LogError::Failed(text) => write!(f, "the log failed and is closed: {text}"),
            LogError::Header { segment, what } => {
                write!(f, "segment {segment:016}.log of the log is damaged at offset 0: {what}")
            }
            LogError::Damaged { place, durable } => {
                let Place { segment, offset, index } = place;
                write!(
                    f,
                    "segment {segment:016}.log of the log is damaged at offset {offset}: record \
                     {index} is not there, though records up to {durable} were acknowledged"
                )
            }
            LogError::Unreadable(Place { segment, offset, index }) => write!(
                f,
                "record {index} at offset {offset} of segment {segment:016}.log cannot be read by \
                 this version"
            ),
        }
    }
}

impl std::error::Error for LogError {}
