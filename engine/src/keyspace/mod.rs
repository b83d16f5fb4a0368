//! The keys: slots, shards, databases, entries.
//!
//! ```text
//! key -> slot (CRC16, 16,384) -> shard (unit of locking) -> database -> bucket -> entry
//! ```

pub mod access;
mod changes;
mod cold;
mod db;
mod detached;
mod entry;
mod eviction;
mod saving;
mod shapes;
mod shard;
mod sharding;
mod table;
mod tracking;

pub(crate) use db::{Db, Garbage, KeyHasher, Loose};
pub use db::{EntryMut, EntryRef, FlushedDb, STRING_EDITED_INLINE_MAX, STRING_INLINE_MAX};
pub use detached::Detached;
pub(crate) use entry::EntryPtr;
pub use entry::{INLINE_BYTES_MAX, Kind};
pub use eviction::EvictionPolicy;
pub(crate) use eviction::Pool;
pub use saving::HandOver;
pub(crate) use shard::Shard;
pub use shard::WatchToken;
pub(crate) use sharding::Sharding;
pub(crate) use table::{CURSOR_BITS, LANES_MAX, Place};
pub(crate) use tracking::TrackTable;
pub use tracking::{Invalidation, Tracker, Trackers};
