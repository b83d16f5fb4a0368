//! Snapshots: all keys at one moment, as a file or a stream.
//!
//! ```text
//! header | INFO | ROWS ROWS LARGE ROWS ... | COLD ... | END
//! ```
//! After a header come frames with a checksum each (`format`), so that they can be
//! checked and loaded by several threads, and a stream of them can be followed without seeking. The
//! last one has the totals: a snapshot without it is not complete. The format byte by byte is in
//! `docs/formats.md`.

mod error;
pub(crate) mod format;
mod load;
mod read;
mod reload;
#[cfg(test)]
mod tests;
mod write;

pub use error::SnapshotError;
pub use load::{Loaded, Progress, load};
pub use read::Reader;
pub use write::Writer;

use crate::cut::Cut;

impl Cut<'_> {
    /// What a snapshot of this cut says about itself.
    pub fn info(&self, log_index: u64, created_ms: i64, hash_seed: u64) -> Info {
        let dbs = self.dbs().iter().enumerate().filter(|(_, db)| db.keys > 0);
        let dbs = dbs.map(|(number, db)| DbInfo {
            db: number as u32,
            keys: db.keys as u64,
            expires: db.expires as u64,
        });
        Info { log_index, created_ms, hash_seed, dbs: dbs.collect() }
    }
}

/// What a snapshot says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The last record of the log that it includes.
    pub log_index: u64,
    /// When it was begun, Unix milliseconds.
    pub created_ms: i64,
    /// Seed of the hash tables, and of the fingerprints of cold keys.
    pub hash_seed: u64,
    /// Databases with keys.
    pub dbs: Vec<DbInfo>,
}

impl Info {
    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.dbs.iter().fold(0, |sum, db| sum.saturating_add(db.keys))
    }
}

/// A database in a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbInfo {
    /// Its number.
    pub db: u32,
    /// Keys in memory.
    pub keys: u64,
    /// Those with an expiry.
    pub expires: u64,
}
