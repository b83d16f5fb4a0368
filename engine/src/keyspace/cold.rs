//! How entries come from the cold tier and go there; what `tier` does to a database under its lock.

use super::db::{Db, Garbage};
use super::entry::EntryPtr;
use super::saving::HandOver;
use crate::tier::Tier;
use crate::tier::db::{ColdDb, ColdKey};
use crate::tier::fingerprint::Fingerprint;
use crate::tier::row::RowId;
use crate::value::NewValue;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Db {
    /// The row of an entry that the cold tier knows of is not its value any more.
    #[cold]
    #[inline(never)]
    pub(super) fn detach(&mut self, entry: EntryPtr) {
        entry.set_backed(false);
        let hash = self.hasher().hash(entry.key());
        if let Some(cold) = self.cold_mut() {
            cold.forget(cold.print(hash, entry.key()), true);
        }
    }

    /// A key without an entry is removed or overwritten. `None` if it is not cold, otherwise its
    /// expiry.
    #[inline]
    pub(super) fn forget_cold(&mut self, hash: u64, key: &[u8]) -> Option<Option<i64>> {
        let cold = self.cold_mut().as_deref_mut()?;
        let found = cold.find(hash, key)?;
        cold.forget(found.row.print, false)
    }

    /// The key, if it is cold: it has no entry, and the index names a row for it.
    #[inline]
    pub fn find_cold(&self, hash: u64, key: &[u8]) -> Option<ColdKey> {
        let found = self.cold()?.find(hash, key)?;
        self.find(hash, key).is_none().then_some(found)
    }

    /// Whether the key is there, in memory or on disk.
    pub fn holds(&self, hash: u64, key: &[u8]) -> bool {
        self.find(hash, key).is_some() || self.find_cold(hash, key).is_some()
    }

    /// Changes the expiry of a cold key.
    pub fn set_cold_expiry(&mut self, hash: u64, key: &[u8], expiry: Option<i64>) {
        if let Some(cold) = self.cold_mut() {
            cold.set_expiry(cold.print(hash, key), expiry);
        }
    }

    /// A cached key was used: whether it has been so often now that it is to stay for good.
    #[cold]
    pub fn use_cached(&self, hash: u64, threshold: u32) -> bool {
        let Some(cold) = self.cold() else { return false };
        u32::from(cold.sketch.borrow_mut().add(hash, cold.cached())) >= threshold
    }

    /// Whether a key has been used so often of late, in memory or in parts from disk.
    #[cold]
    pub fn is_used(&self, hash: u64, threshold: u32) -> bool {
        self.cold().is_some_and(|cold| u32::from(cold.sketch.borrow().count(hash)) >= threshold)
    }

    /// A cached key stays in memory for good: its row is given up.
    pub fn promote(&mut self, hash: u64, key: &[u8]) -> bool {
        let Some(entry) = self.find(hash, key).filter(|entry| entry.is_backed()) else {
            return false;
        };
        let print = self.cold().map(|cold| cold.print(hash, key));
        let named = print
            .is_some_and(|print| self.cold().is_some_and(|cold| cold.index().get(print).is_some()));
        if named {
            self.about_to_change(entry, HandOver::Edit);
        }
        named
    }

    /// A row of a key without an entry begins to be read: which row, and the number of the read.
    pub fn begin_load(&mut self, hash: u64, key: &[u8]) -> Option<(RowId, u64)> {
        let row = self.find_cold(hash, key)?.row;
        let cold = self.cold_mut().as_deref_mut()?;
        Some((row, cold.begin_load(row.print)))
    }

    /// Whether the key has still the value of which a part was read.
    pub fn is_read(&self, row: RowId, number: u64) -> bool {
        self.cold().is_some_and(|cold| {
            cold.generation() == row.generation && cold.is_read(row.print, number)
        })
    }

    /// Whether the row that was read may be used.
    pub fn end_load(&mut self, row: RowId, number: u64) -> bool {
        self.cold_mut().as_deref_mut().is_some_and(|cold| {
            cold.generation() == row.generation && cold.end_load(row.print, number)
        })
    }

    /// The row under a key's fingerprint is another key's.
    pub fn set_absent(&mut self, key: &[u8]) {
        if let Some(cold) = self.cold_mut() {
            cold.set_absent(key);
        }
    }

    /// A cold key gets its entry back; its row stays valid.
    pub fn insert_cached(
        &mut self,
        hash: u64,
        key: &[u8],
        row: RowId,
        value: NewValue<'_>,
        access: u32,
    ) {
        let expiry = self.find_cold(hash, key).and_then(|cold| cold.expiry);
        let entry = self.insert_new(hash, key, value, expiry);
        entry.set_access(access);
        entry.set_backed(true);
        if let Some(cold) = self.cold_mut() {
            // How often it was used before it left still counts.
            cold.cache(row.print);
        }
    }

    /// Marks an entry whose value is about to be written to disk; `false` where it cannot be: it is
    /// marked already, or the row it would get is still to be deleted.
    pub fn begin_demotion(
        &mut self,
        tier: &Arc<Tier>,
        entry: EntryPtr,
        epoch: u8,
    ) -> Option<RowId> {
        if entry.is_backed() {
            return None;
        }
        let hash = self.hasher().hash(entry.key());
        let generation = self.generation();
        let cold = self.cold_mut();
        let cold = cold.get_or_insert_with(|| Box::new(ColdDb::new(tier, generation)));
        let print = cold.print(hash, entry.key());
        if !cold.begin_move(print, epoch) {
            return None;
        }
        entry.set_backed(true);
        Some(RowId { generation: cold.generation(), print, epoch })
    }

    /// The entry of a key that is being written to a row, if it has not changed since it was marked.
    pub fn marked(&self, row: RowId, key: &[u8]) -> Option<EntryPtr> {
        let cold = self.cold().filter(|cold| cold.generation() == row.generation)?;
        let entry = self.find(self.hasher().hash(key), key)?;
        (entry.is_backed() && cold.is_moving(row.print)).then_some(entry)
    }

    /// The value of a marked entry was written, or in part if not `whole`: the entry goes, unless it was
    /// changed meanwhile. Says whether it went.
    pub fn end_demotion(
        &mut self,
        row: RowId,
        key: &[u8],
        whole: bool,
        garbage: &mut Garbage,
    ) -> bool {
        let hash = self.hasher().hash(key);
        let marked = self.find(hash, key).filter(|entry| entry.is_backed());
        let Some(cold) = self.cold_mut().as_deref_mut() else { return false };
        if cold.generation() != row.generation {
            // The database was flushed: its rows go as a whole.
            return false;
        }
        cold.end_move(row.print);
        if let Some(entry) = marked {
            // While it has no name yet: a cut has cached keys from their rows.
            self.before_drop(entry);
        }
        let Some(cold) = self.cold_mut().as_deref_mut() else { return false };
        let expiry = marked.and_then(EntryPtr::expiry);
        if marked.is_none() || !whole || !cold.add(key, row.print, row.epoch, expiry) {
            cold.reject(row.print, row.epoch);
            if let Some(entry) = marked {
                entry.set_backed(false);
            }
            return false;
        }
        self.drop_entry(hash, key, garbage);
        true
    }

    /// Drops the entry of a cached key; `false` where it is none.
    pub fn drop_cached(&mut self, entry: EntryPtr, garbage: &mut Garbage) -> bool {
        if !entry.is_backed() {
            return false;
        }
        let hash = self.hasher().hash(entry.key());
        let Some(cold) = self.cold_mut().as_deref_mut() else { return false };
        let print = cold.print(hash, entry.key());
        if cold.index().get(print).is_none() {
            return false;
        }
        cold.uncache(print);
        cold.tier().stats.dropped.fetch_add(1, Ordering::Relaxed);
        let key = entry.key().to_vec();
        self.drop_entry(hash, &key, garbage);
        true
    }

    /// Names a row that a snapshot names; `false` where its fingerprint is taken.
    pub fn restore_cold(
        &mut self,
        tier: &Arc<Tier>,
        (print, epoch): (Fingerprint, u8),
        expiry: Option<i64>,
    ) -> bool {
        let generation = self.generation();
        let cold = self.cold_mut();
        let cold = cold.get_or_insert_with(|| Box::new(ColdDb::new(tier, generation)));
        cold.restore(print, epoch, expiry)
    }

    /// Forgets all cold keys, without a word to the tier.
    pub fn clear_cold(&mut self) {
        *self.cold_mut() = None;
    }

    /// For the upkeep of the cold tier.
    pub fn cold_upkeep(&mut self) -> Option<&mut ColdDb> {
        self.cold_mut().as_deref_mut()
    }
}
