//! The log: every change, in order, on disk.
//!
//! A record is one atomic batch of calls ([`record`]); records stand in segments ([`segment`]),
//! files that are zero-filled ahead and used again. [`Log::append`] only copies the batch into
//! memory, under the locks of its keys. [`Log::write`] brings what was appended into the system's
//! page cache, where it survives the end of the process; [`Log::sync`] makes it durable, one
//! call for whatever has gathered (group commit).
//!
//! ```text
//! append (shard locks held) -> buffer -> write: checksums, pwrite -> sync: fdatasync
//!                    appended()           written()                  durable()
//! ```
//! The log starts no thread and reads no clock: its host calls [`Log::tend`] now and then, which makes
//! the next segment ahead of time and tries again after a full disk. A failed sync is final: see
//! [`LogError::Failed`].
//!
//! [`scan`] finds the end of a log and tells a torn tail from damage; [`Reader`] goes through its
//! records; [`replay`] runs them; [`check`] is for people.

#[cfg(test)]
pub(crate) mod bugs;
pub mod check;
mod error;
#[cfg(test)]
mod harness;
mod open;
mod reader;
pub mod record;
mod replay;
pub mod scan;
pub mod segment;
pub mod settings;
#[cfg(test)]
mod tests;
mod writer;

pub use error::LogError;
pub use open::{Cut, LogOptions, Recovered};
pub use reader::{Batch, Group, Reader};
pub use replay::{Replayed, Replaying, replay, resolve};

use crate::disk::Disk;
use crate::journal::{Journal, Record, next_payload};
use parking_lot::{Mutex, RwLock};
use segment::{Maker, Segment};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use writer::Writer;

/// Bytes of an empty buffer above which its memory is given back.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// What is appended and not yet taken by [`Log::write`].
struct Buffer {
    bytes: Vec<u8>,
    /// Index of the next record.
    next: u64,
}

/// Whether the log takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Well,
    /// The disk has no room, is read-only or gives no new file; the log goes on by itself once
    /// that has changed.
    Blocked(String),
    /// It failed for good; it has to be opened again.
    Failed(String),
}

const WELL: u8 = 0;
const BLOCKED: u8 = 1;
const FAILED: u8 = 2;

/// Figures of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments that hold records, the one that is being written included.
    pub segments: u64,
    /// Bytes of records in them.
    pub bytes: u64,
    /// Bytes of records that were appended and are not written.
    pub buffered_bytes: u64,
    /// Index of the oldest record; one more than `appended` where there is none.
    pub first: u64,
    /// Syncs so far.
    pub syncs: u64,
    /// Writes to the system so far.
    pub writes: u64,
}

/// Called after the written or the durable index has moved, or the health has changed.
type Callback = Box<dyn Fn() + Send + Sync>;

/// An open log. Any number of threads may use it.
pub struct Log {
    /// Innermost lock: taken under those of shards.
    buffer: Mutex<Buffer>,
    /// Taken before `next` and `buffer`.
    writer: Mutex<Writer>,
    /// Makes segments; `ready` is one that was made ahead.
    next: Mutex<Next>,
    /// Held while a sync runs: the others wait, and find their records durable. Taken first.
    syncing: Mutex<()>,
    appended: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    health: AtomicU8,
    reason: Mutex<String>,
    callback: RwLock<Option<Callback>>,
    syncs: AtomicU64,
    writes: AtomicU64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

struct Next {
    maker: Maker,
    ready: Option<Segment>,
    /// Calls of [`Log::tend`] since the present segment began.
    tends: u64,
}

impl Log {
    /// The last index that was appended.
    #[inline]
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// The last index that survives the end of the process.
    #[inline]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The last index that survives a power cut.
    #[inline]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether it takes writes: to be asked before a call that changes data. One load.
    #[inline]
    pub fn is_well(&self) -> bool {
        self.health.load(Ordering::Acquire) == WELL
    }

    /// Whether it takes writes, and why not.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            WELL => Health::Well,
            BLOCKED => Health::Blocked(self.reason.lock().clone()),
            _ => Health::Failed(self.reason.lock().clone()),
        }
    }

    /// Whether it failed for good: nothing more becomes durable.
    pub fn is_failed(&self) -> bool {
        self.health.load(Ordering::Acquire) == FAILED
    }

    /// From now on `callback` is called after [`Log::written`], [`Log::durable`] or
    /// [`Log::health`] have changed, on the thread that brought it about, with no lock held that
    /// an append needs.
    pub fn on_progress(&self, callback: impl Fn() + Send + Sync + 'static) {
        *self.callback.write() = Some(Box::new(callback));
    }

    fn tell(&self) {
        if let Some(callback) = &*self.callback.read() {
            callback();
        }
    }

    /// Whether new segments are filled with zeros. Syncs are twice as fast then, but the disk has twice as
    /// much to write: worth it where clients wait for syncs. It is not done while segments fill up within
    /// a few calls of [`Log::tend`]: a sync has so much to write then that the zeros would cost more.
    pub fn set_zeroed(&self, zeroed: bool) {
        self.next.lock().maker.zeroed = zeroed;
    }

    /// Its directory.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Figures.
    pub fn stats(&self) -> LogStats {
        let writer = self.writer.lock();
        let buffered = self.buffer.lock().bytes.len() as u64 + writer.waiting_bytes();
        LogStats {
            segments: writer.sealed.len() as u64 + 1,
            bytes: writer.bytes(),
            buffered_bytes: buffered,
            first: writer.first(),
            syncs: self.syncs.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }

    /// Takes the log as failed, or full, from now on.
    fn ail(&self, error: LogError) -> LogError {
        let (state, text) = match &error {
            LogError::Blocked(text) => (BLOCKED, text.clone()),
            LogError::Failed(text) => (FAILED, text.clone()),
            other => (FAILED, other.to_string()),
        };
        let mut reason = self.reason.lock();
        if self.health.load(Ordering::Acquire) != FAILED {
            *reason = text;
            self.health.store(state, Ordering::Release);
        }
        let failed = self.is_failed().then(|| LogError::Failed(reason.clone()));
        drop(reason);
        failed.unwrap_or(error)
    }

    /// There is room again.
    fn recover(&self) {
        let _ = self.health.compare_exchange(BLOCKED, WELL, Ordering::AcqRel, Ordering::Acquire);
    }

    fn check_failed(&self) -> Result<(), LogError> {
        if self.is_failed() {
            return Err(LogError::Failed(self.reason.lock().clone()));
        }
        Ok(())
    }
}

impl Journal for Log {
    #[inline]
    fn append(&self, calls: &[Record<'_>]) -> u64 {
        let mut buffer = self.buffer.lock();
        let index = buffer.next;
        record::push_calls(&mut buffer.bytes, index, calls);
        buffer.next += 1;
        self.appended.store(index, Ordering::Release);
        index
    }

    fn append_payloads(&self, records: &[u8]) -> u64 {
        let mut buffer = self.buffer.lock();
        let mut at = 0;
        while let Some((payload, next)) = next_payload(records, at) {
            at = next;
            let index = buffer.next;
            record::push_copied(&mut buffer.bytes, index, payload);
            buffer.next += 1;
        }
        let last = buffer.next - 1;
        self.appended.store(last, Ordering::Release);
        last
    }

    fn last(&self) -> u64 {
        self.appended()
    }

    fn written(&self) -> u64 {
        Log::written(self)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("appended", &self.appended())
            .field("written", &self.written())
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}
