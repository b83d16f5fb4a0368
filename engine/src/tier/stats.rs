//! What the cold tier has done, for INFO.

use std::sync::atomic::AtomicU64;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Values that were read from disk for a call.
    pub loads: AtomicU64,
    /// Of these, values that the call's own thread brought in, as nobody had to wait for the disk.
    pub ready_loads: AtomicU64,
    /// Reads from disk that came too late: the key had changed.
    pub stale_loads: AtomicU64,
    /// Bytes of values that were read.
    pub load_bytes: AtomicU64,
    /// Parts of large values that were read for a call, the rest of which stayed on disk.
    pub parts: AtomicU64,
    /// Bytes of rows that were read for them.
    pub part_bytes: AtomicU64,
    /// Names that were read for SCAN, KEYS and RANDOMKEY.
    pub names: AtomicU64,
    /// Calls that waited for the disk.
    pub waits: AtomicU64,
    /// Loads that had to be done while locks were held (in transactions and scripts).
    pub locked_loads: AtomicU64,
    /// Cached keys that were used so often that they stay in memory.
    pub promotions: AtomicU64,
    /// Values that were written to disk and left memory.
    pub demotions: AtomicU64,
    /// Bytes of values that were written.
    pub demoted_bytes: AtomicU64,
    /// Values that were written but changed meanwhile.
    pub stale_demotions: AtomicU64,
    /// Values that left memory without being written: their row was still valid.
    pub dropped: AtomicU64,
    /// Cold keys of databases that were flushed.
    pub flushed: AtomicU64,
    /// Cold keys that were deleted because they had expired.
    pub expired: AtomicU64,
    /// Rows that were deleted.
    pub deleted_rows: AtomicU64,
    /// Bytes of rows that were deleted.
    pub deleted_bytes: AtomicU64,
    /// Bytes of files that went because what was in use of them is elsewhere.
    pub returned_bytes: AtomicU64,
    /// Bytes of rows that are in use, or wait to be deleted.
    pub row_bytes: AtomicU64,
    /// Faults of the store.
    pub faults: AtomicU64,
}

/// Keys by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Keys in memory, cached ones included.
    pub hot: usize,
    /// Of those, keys whose row on disk has the same value.
    pub cached: usize,
    /// Keys on disk only.
    pub cold: usize,
    /// Keys in the index: cold and cached ones.
    pub named: usize,
    /// Bytes of the index.
    pub index_bytes: usize,
    /// Bytes of the map of expiries of cold keys.
    pub expires_bytes: usize,
}
