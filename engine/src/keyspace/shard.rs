//! A shard: what one lock guards.

use super::changes::Changes;
use super::db::{Db, FlushedDb, KeyHasher};
use super::saving::HandOver;
use super::tracking::{Invalidation, TrackTable};
use crate::cut::{ColdRow, Handed, Rows};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Turns true when a key that its holder watches is modified.
#[derive(Clone, Debug, Default)]
pub struct WatchToken(Arc<AtomicBool>);

impl WatchToken {
    /// Whether a watched key was modified.
    pub fn is_dirty(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Marks that a watched key was modified.
    pub fn set_dirty(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn same(&self, other: &WatchToken) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

type ByKey<T> = HashMap<Box<[u8]>, T, foldhash::fast::FixedState>;

/// The part of every database whose keys map to this shard.
pub(crate) struct Shard {
    dbs: Vec<Db>,
    /// Databases that were emptied while a cut had still to save some of them.
    flushed: Vec<Db>,
    /// Watched keys, by database.
    watched: Vec<ByKey<Vec<WatchToken>>>,
    watches: usize,
    /// Keys that blocked clients wait for and how many do, by database.
    awaited: Vec<ByKey<u32>>,
    awaits: usize,
    /// Who read which keys.
    tracked: TrackTable,
    /// Whether anybody wants to hear of changes: the one thing that every change looks at.
    observed: bool,
    /// What has changed since a copy was begun, while there is one.
    pub(super) changes: Option<Box<Changes>>,
}

impl Shard {
    pub fn new(databases: u32, hasher: &KeyHasher) -> Shard {
        let databases = databases as usize;
        Shard {
            dbs: (0..databases)
                .map(|number| Db::new(hasher.clone(), number as u32, databases as u32))
                .collect(),
            flushed: Vec::new(),
            watched: (0..databases).map(|_| ByKey::default()).collect(),
            watches: 0,
            awaited: (0..databases).map(|_| ByKey::default()).collect(),
            awaits: 0,
            tracked: TrackTable::default(),
            observed: false,
            changes: None,
        }
    }

    /// # Panics
    /// If there is no database `db`: SELECT and its like check that first.
    #[inline]
    pub fn db(&self, db: u32) -> &Db {
        &self.dbs[db as usize]
    }

    /// # Panics
    /// As for [`Shard::db`].
    #[inline]
    pub fn db_mut(&mut self, db: u32) -> &mut Db {
        &mut self.dbs[db as usize]
    }

    pub fn dbs(&self) -> &[Db] {
        &self.dbs
    }

    /// Whether nothing but its keys follows from their changes: nobody waits for one, watches or
    /// reads it through a cache, or copies them.
    pub fn is_unobserved(&self) -> bool {
        !self.observed && self.awaits == 0 && self.changes.is_none()
    }

    /// Gives the buckets of lanes that were lent what belongs into them, see [`Db::lend`].
    pub fn grow_lanes(&mut self) {
        self.dbs.iter_mut().for_each(Db::grow_lane);
    }

    /// Exchanges the keys of one database with those of another shard.
    pub fn exchange_db(&mut self, db: u32, other: &mut Shard) {
        std::mem::swap(&mut self.dbs[db as usize], &mut other.dbs[db as usize]);
    }

    /// Exchanges all keys with those of another shard.
    pub fn exchange(&mut self, other: &mut Shard) {
        std::mem::swap(&mut self.dbs, &mut other.dbs);
    }

    /// Drops all keys.
    pub fn clear(&mut self) {
        self.dbs.iter_mut().for_each(|db| drop(db.take()));
    }

    /// Swaps two databases; what a cut has still to save goes with its number at the cut.
    pub fn swap_dbs(&mut self, a: u32, b: u32) {
        self.dbs.swap(a as usize, b as usize);
        for db in [a, b] {
            if let Some(saving) = self.dbs[db as usize].saving_mut() {
                saving.moved_to(db);
            }
        }
    }

    /// Empties a database: how many keys it had, and what is to be dropped. A running cut keeps what
    /// it has still to save of it.
    pub fn flush(&mut self, db: u32) -> (usize, Option<FlushedDb>) {
        let mut old = self.dbs[db as usize].take();
        let len = old.len();
        let forgets = old.saving_mut().is_some_and(|saving| saving.forgets(HandOver::Flush));
        if old.is_saving() && !forgets {
            self.flushed.push(old);
            return (len, None);
        }
        (len, (len > 0).then(|| FlushedDb::new(old)))
    }

    /// The databases, and those that were emptied while a cut had still to save some of them.
    pub fn dbs_of_cut(&mut self) -> impl Iterator<Item = &mut Db> {
        self.dbs.iter_mut().chain(&mut self.flushed)
    }

    /// Begins a cut: what is here now is to be saved.
    pub fn begin_saving(&mut self, handed: &Arc<Handed>) {
        for (number, db) in self.dbs.iter_mut().enumerate() {
            db.begin_saving(number as u32, handed);
        }
    }

    /// Saves the entries of the next few buckets, until `rows` has `bytes_max` bytes. Returns
    /// whether there is more; flushed databases that were saved are put into `spent`.
    pub fn save_some(
        &mut self,
        rows: &mut Rows,
        buckets: usize,
        bytes_max: usize,
        cold: &mut Vec<ColdRow>,
        spent: &mut Vec<FlushedDb>,
    ) -> bool {
        if let Some(db) = self.dbs.iter_mut().find(|db| db.is_saving()) {
            db.save_some(rows, buckets, bytes_max, cold);
            return true;
        }
        let Some(db) = self.flushed.last_mut() else { return false };
        db.save_some(rows, buckets, bytes_max, cold);
        if !db.is_saving() {
            spent.extend(self.flushed.pop().map(FlushedDb::new));
        }
        true
    }

    pub fn watch(&mut self, db: u32, key: &[u8], token: &WatchToken) {
        self.watched[db as usize].entry(key.into()).or_default().push(token.clone());
        self.watches += 1;
        self.observed = true;
    }

    pub fn unwatch(&mut self, db: u32, key: &[u8], token: &WatchToken) {
        let Some(tokens) = self.watched[db as usize].get_mut(key) else { return };
        let before = tokens.len();
        tokens.retain(|other| !other.same(token));
        self.watches -= before - tokens.len();
        if tokens.is_empty() {
            self.watched[db as usize].remove(key);
        }
        self.look_for_observers();
    }

    /// Works on the table of readers.
    pub fn with_tracked<T>(&mut self, work: impl FnOnce(&mut TrackTable) -> T) -> T {
        let result = work(&mut self.tracked);
        self.look_for_observers();
        result
    }

    fn look_for_observers(&mut self) {
        self.observed = self.watches != 0 || !self.tracked.is_idle();
    }

    /// Tells those who watch `key`, and leaves in `out` who read it.
    #[inline]
    pub fn modified(&mut self, db: u32, key: &[u8], by_caller: bool, out: &mut Vec<Invalidation>) {
        if self.observed {
            self.tell(db, key, by_caller, out);
        }
    }

    #[cold]
    fn tell(&mut self, db: u32, key: &[u8], by_caller: bool, out: &mut Vec<Invalidation>) {
        if self.watches != 0
            && let Some(tokens) = self.watched[db as usize].get(key)
        {
            tokens.iter().for_each(WatchToken::set_dirty);
        }
        self.tracked.changed(key, by_caller, out);
        self.look_for_observers();
    }

    /// Tells those who watch any key of `db` that `changes` accepts.
    pub fn all_modified(&self, db: u32, changes: impl Fn(&[u8]) -> bool) {
        for (key, tokens) in &self.watched[db as usize] {
            if changes(key) {
                tokens.iter().for_each(WatchToken::set_dirty);
            }
        }
    }

    /// Keys of `db` that blocked clients wait for.
    pub fn awaited_keys(&self, db: u32) -> impl Iterator<Item = &[u8]> {
        self.awaited[db as usize].keys().map(|key| &**key)
    }

    pub fn await_key(&mut self, db: u32, key: &[u8]) {
        *self.awaited[db as usize].entry(key.into()).or_default() += 1;
        self.awaits += 1;
    }

    pub fn unawait_key(&mut self, db: u32, key: &[u8]) {
        let Some(count) = self.awaited[db as usize].get_mut(key) else { return };
        *count -= 1;
        self.awaits -= 1;
        if *count == 0 {
            self.awaited[db as usize].remove(key);
        }
    }

    #[inline]
    pub fn is_awaited(&self, db: u32, key: &[u8]) -> bool {
        self.awaits != 0 && self.has_waiters(db, key)
    }

    #[cold]
    fn has_waiters(&self, db: u32, key: &[u8]) -> bool {
        self.awaited[db as usize].contains_key(key)
    }
}
