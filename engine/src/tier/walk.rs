//! SCAN, KEYS and RANDOMKEY over both tiers.
//!
//! The fingerprints of cold keys begin with the bits that order SCAN's walk over the table in memory. So
//! a step of SCAN covers one range of that order in both: whatever moves between them while the scan is
//! on its way, a key is met when its place comes, in the one or in the other.

use super::needs::Name;
use super::row::RowId;
use crate::context::{Cx, SHARD_BITS, SHARDS_MAX};
use crate::keyspace::{CURSOR_BITS, Db, EntryRef};
use std::sync::Arc;

/// Cold keys that one step of a scan covers, about.
const STEP_KEYS: usize = 16;
/// Bits by which a position of a scan is longer than the part of it that a fingerprint holds.
const FINER_BITS: u32 = 8;

/// A key that a walk met.
pub enum Met<'s> {
    /// One in memory.
    Entry(EntryRef<'s>),
    /// One on disk.
    Cold(&'s Arc<Name>),
    /// One on disk whose name has to be read first; the call will be run again.
    Unknown,
}

/// The part of the walk's order that a step covers: from `position` up to `last`, both included.
fn step_range(db: &Db, position: u64) -> (u64, u64) {
    let mut depth = db.table().scan_depth(position);
    if let Some(cold) = db.cold().filter(|cold| !cold.index().is_empty()) {
        let steps = cold.index().len().div_ceil(STEP_KEYS);
        let cold_depth = steps.next_power_of_two().trailing_zeros();
        depth = depth.max(cold_depth.min(CURSOR_BITS - FINER_BITS));
    }
    let covered = ((1u64 << CURSOR_BITS) - 1).checked_shr(depth).unwrap_or(0);
    (position, position | covered)
}

impl Cx<'_> {
    /// One step of SCAN: visits a few live keys from `cursor` on and returns the next cursor, 0 at the
    /// end. Every key that is there from the first step to the last is visited.
    pub fn scan<'s>(&'s self, cursor: u64, mut each: impl FnMut(Met<'s>)) -> u64 {
        let number = (cursor & (SHARDS_MAX as u64 - 1)) as usize;
        let position = (cursor >> SHARD_BITS) & ((1 << CURSOR_BITS) - 1);
        // Not all shards need be seen, and not always the same ones: the cursor has their number.
        let mut places = (0..self.shards.len()).filter(|&at| self.shards.number(at) >= number);
        let Some(place) = places.next() else { return 0 };
        let position = if self.shards.number(place) == number { position } else { 0 };
        let shard = self.shards.at(place);
        let (db, now_ms) = (shard.db(self.db), self.now_ms());
        let (first, last) = step_range(db, position);
        let whole = db.cold().is_none_or(|cold| cold.index().is_empty());
        db.table().scan(position, |entry| {
            let place = || self.hasher.hash(entry.key()).reverse_bits() >> (64 - CURSOR_BITS);
            if !entry.expired(now_ms) && (whole || (first..=last).contains(&place())) {
                each(Met::Entry(EntryRef::new(entry, db)));
            }
        });
        if let Some(cold) = db.cold() {
            let low = (first >> FINER_BITS) << (64 - CURSOR_BITS + FINER_BITS);
            let high = (last >> FINER_BITS) << (64 - CURSOR_BITS + FINER_BITS)
                | ((1 << (64 - CURSOR_BITS + FINER_BITS)) - 1);
            cold.for_rows(low, high, now_ms, |row| self.meet(db, row, &mut each));
        }
        let next = (last + 1) & ((1 << CURSOR_BITS) - 1);
        if next != 0 {
            return next << SHARD_BITS | self.shards.number(place) as u64;
        }
        places.next().map_or(0, |place| self.shards.number(place) as u64)
    }

    /// Tells a row of a cold or cached key by its name; a cached one is met in memory.
    fn meet<'s>(&'s self, db: &Db, row: RowId, each: &mut impl FnMut(Met<'s>)) {
        match self.effects.cold.name(row) {
            None => each(Met::Unknown),
            Some(name) => {
                if db.find(self.hasher.hash(&name.key), &name.key).is_none() {
                    each(Met::Cold(name));
                }
            }
        }
    }

    /// Visits the live keys of the selected database, in no particular order.
    pub fn for_each_key<'s>(&'s self, mut each: impl FnMut(Met<'s>)) {
        let now_ms = self.now_ms();
        self.for_each(|entry| each(Met::Entry(entry)));
        for shard in self.shards.iter() {
            let db = shard.db(self.db);
            if let Some(cold) = db.cold() {
                cold.for_rows(0, u64::MAX, now_ms, |row| self.meet(db, row, &mut each));
            }
        }
    }

    /// A random live key of the selected database. Where it is on disk and its name not known yet, the
    /// call will be run again.
    pub fn random_key(&mut self) -> Option<Vec<u8>> {
        /// Tries to find a key that has not expired.
        const TRIES_MAX: usize = 100;
        let now_ms = self.now_ms();
        for shard in self.shards.iter() {
            let Some(cold) = shard.db(self.db).cold() else { continue };
            // The choice was made by an earlier run of this call.
            let chosen = |(row, _): &(&RowId, &Arc<Name>)| cold.names(**row, now_ms);
            if let Some((_, name)) = self.effects.cold.names.iter().find(chosen) {
                return Some(name.key.to_vec());
            }
        }
        for _ in 0..TRIES_MAX {
            let keys = self.db_len();
            let mut nth = self.rng().below(keys);
            let random = self.rng().next_u64();
            for shard in self.shards.iter() {
                let db = shard.db(self.db);
                if nth >= db.len() {
                    nth -= db.len();
                    continue;
                }
                if nth < db.table().len() {
                    let entry = db.table().random(random)?;
                    if !entry.expired(now_ms) {
                        return Some(entry.key().to_vec());
                    }
                } else if let Some(row) = db.cold()?.random(random)
                    && db.cold()?.names(row, now_ms)
                {
                    return self.effects.cold.name(row).map(|name| name.key.to_vec());
                }
                break;
            }
        }
        None
    }
}
