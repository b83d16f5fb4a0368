//! Groups of slots: each has a shard of the engine to itself.
//!
//! A host that replicates groups of slots one by one opens the engine with
//! [`EngineOptions::groups`](crate::engine::EngineOptions::groups). Shard 0 has the slots of no group; the
//! others are the host's to give out. Calls of clients find a key's shard in the table of slots;
//! the host applies what a group agreed on with [`Executor::see_only`](crate::executor::Executor::see_only).
//!
//! ```
//! use ashlar_engine::cut::Rows;
//! use ashlar_engine::engine::{Engine, EngineOptions};
//!
//! let engine = Engine::with_options(EngineOptions { shards: 3, groups: true, ..Default::default() });
//! engine.assign_slots(0..16_384, 2);
//! let mut rows = Rows::default();
//! engine.rows_of(2, |_slot| true, &mut rows);
//! assert!(rows.is_empty());
//! ```

use crate::cut::{Row, Rows};
use crate::engine::Engine;
use crate::image;
use crate::keyspace::{EntryRef, FlushedDb, Loose};
use crate::slot::slot_of;
use crate::value::{form, hash};

impl Engine {
    /// From now on calls of clients find these slots' keys in that shard. What is in the shards does not
    /// move: that is the host's to do before. Takes the locks of all shards.
    ///
    /// # Panics
    /// If there is no such shard or slot.
    pub fn assign_slots(&self, slots: impl IntoIterator<Item = u16>, shard: usize) {
        let mut executor = self.executor();
        executor.lock_all();
        slots.into_iter().for_each(|slot| self.sharding().assign(slot, shard));
        self.sharding().raise_version();
    }

    /// The shard of a slot. It stays so for whoever holds the lock of a shard.
    pub fn shard_of_slot(&self, slot: u16) -> usize {
        self.sharding().of_slot(slot)
    }

    /// Says whether commands that look at all keys (KEYS, SCAN, DBSIZE, ...) see the keys of a shard.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn show_shard(&self, shard: usize, seen: bool) {
        self.sharding().set_seen(shard, seen);
    }

    /// Appends the keys of a shard whose slot `wanted` accepts, with their values, in no particular
    /// order. The shard is locked meanwhile.
    pub fn rows_of(&self, shard: usize, wanted: impl Fn(u16) -> bool, rows: &mut Rows) {
        let guard = self.lock_shard(shard);
        for db in 0..self.config_databases() {
            guard.for_slots(db, &wanted, |entry| rows.push(db, &entry));
        }
    }

    /// Appends keys of a shard as [`Engine::rows_of`] does, from a position on until there are that many
    /// bytes of them, and returns the next position: 0 at the end. From 0 to 0 every key that was
    /// there all along is met at least once. Database 0 only.
    pub fn rows_from(
        &self,
        shard: usize,
        position: u64,
        wanted: impl Fn(u16) -> bool,
        bytes: usize,
        rows: &mut Rows,
    ) -> u64 {
        /// Buckets that one call looks at, so that the shard is not locked for long.
        const BUCKETS: usize = 16_384;
        let guard = self.lock_shard(shard);
        let db = guard.db(0);
        let (mut position, end) = (position, rows.bytes() + bytes);
        for _ in 0..BUCKETS {
            position = db.table().scan(position, |entry| {
                if wanted(slot_of(entry.key())) {
                    rows.push(0, &EntryRef::new(entry, db));
                }
            });
            if position == 0 || rows.bytes() >= end {
                break;
            }
        }
        position
    }

    /// Begins to note which keys of these slots change in a shard, by calls of executors that
    /// [see only it](crate::executor::Executor::see_only), and forgets what was noted before; without slots nothing
    /// is noted any more.
    pub fn note_changes(&self, shard: usize, slots: &[(u16, u16)]) {
        self.lock_shard(shard).note_changes(slots);
    }

    /// Appends keys that were noted, until there are that many bytes of them: those that are there with
    /// their values to `rows`, the others to `gone`. Returns how many are left, or `None` where not all could
    /// be noted, so that whoever copies has to start over. Database 0 only.
    pub fn take_changes(
        &self,
        shard: usize,
        bytes: usize,
        rows: &mut Rows,
        gone: &mut Vec<Box<[u8]>>,
    ) -> Option<usize> {
        /// Keys that are looked at before their bytes are counted.
        const KEYS: usize = 16;
        let mut guard = self.lock_shard(shard);
        let (end, mut gone_bytes) = (rows.bytes() + bytes, 0);
        loop {
            let keys = guard.take_changes(KEYS)?;
            if keys.is_empty() {
                return Some(0);
            }
            for key in keys {
                let db = guard.db(0);
                match db.find(self.hasher().hash(&key), &key) {
                    Some(entry) => rows.push(0, &EntryRef::new(entry, db)),
                    None => {
                        gone_bytes += key.len();
                        gone.push(key);
                    }
                }
            }
            if rows.bytes() + gone_bytes >= end {
                return Some(guard.changes_len());
            }
        }
    }

    /// Removes keys of a shard's database 0.
    pub fn remove_keys<'a>(&self, shard: usize, keys: impl IntoIterator<Item = &'a [u8]>) {
        let mut guard = self.lock_shard(shard);
        for key in keys {
            guard.db_mut(0).remove(self.hasher().hash(key), key, &mut Vec::new());
        }
    }

    /// Puts rows into a shard; a key that is there gets the row's value. Returns `false`, with some of
    /// them put, if a row cannot be read.
    pub fn put_rows<'a>(&self, shard: usize, rows: impl IntoIterator<Item = Row<'a>>) -> bool {
        let mut guard = self.lock_shard(shard);
        for row in rows {
            let Some(value) = form::decode(row.value).filter(|_| row.db < self.config_databases())
            else {
                return false;
            };
            let hash = self.hasher().hash(row.key);
            let db = guard.db_mut(row.db);
            db.remove(hash, row.key, &mut Vec::new());
            let entry = Loose::new(row.key, value, row.expiry, row.access);
            if !db.adopt(hash, entry) {
                return false;
            }
        }
        true
    }

    /// Removes the keys of a shard whose slot `wanted` accepts; returns how many there were.
    pub fn drop_slots(&self, shard: usize, wanted: impl Fn(u16) -> bool) -> usize {
        let mut guard = self.lock_shard(shard);
        let mut dropped = 0;
        for db in 0..self.config_databases() {
            let mut keys: Vec<Box<[u8]>> = Vec::new();
            guard.for_slots(db, &wanted, |entry| keys.push(entry.key().into()));
            dropped += keys.len();
            for key in keys {
                let hash = self.hasher().hash(&key);
                guard.db_mut(db).remove(hash, &key, &mut Vec::new());
            }
        }
        dropped
    }

    /// Empties a shard; what was in it is given back, since to drop it takes long where it is large.
    pub fn empty_shard(&self, shard: usize) -> Vec<FlushedDb> {
        let mut guard = self.lock_shard(shard);
        (0..self.config_databases()).filter_map(|db| guard.flush(db).1).collect()
    }

    /// Keys in the shard of the slots of no group.
    pub fn rows_left(&self) -> usize {
        self.lock_shard(0).dbs().iter().map(|db| db.len()).sum()
    }

    /// Keys of a slot in its shard, at most `max`.
    pub fn keys_of_slot(&self, slot: u16, max: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let guard = self.lock_shard(self.sharding().of_slot(slot));
        guard.for_slots(
            0,
            |other| other == slot,
            |entry| {
                if keys.len() < max {
                    keys.push(entry.key().to_vec());
                }
            },
        );
        keys
    }

    /// How many keys a slot has in its shard.
    pub fn count_keys(&self, slot: u16) -> usize {
        let mut keys = 0;
        let guard = self.lock_shard(self.sharding().of_slot(slot));
        guard.for_slots(0, |other| other == slot, |_| keys += 1);
        keys
    }

    /// Whether a shard has any key whose slot `wanted` accepts.
    pub fn has_keys(&self, shard: usize, wanted: impl Fn(u16) -> bool) -> bool {
        let guard = self.lock_shard(shard);
        (0..self.config_databases()).any(|db| {
            let (db, mut found, mut position) = (guard.db(db), false, 0);
            loop {
                position = db.table().scan(position, |entry| {
                    found |= wanted(slot_of(entry.key()));
                });
                if found || position == 0 {
                    return found;
                }
            }
        })
    }

    /// A digest of the keys of one shard, like [`Engine::digest`] of all.
    pub fn shard_digest(&self, shard: usize) -> u64 {
        let mut rows = Rows::default();
        self.rows_of(shard, |_| true, &mut rows);
        rows.iter().fold(0, |sum: u64, row| sum.wrapping_add(image::row_digest(&row)))
    }

    /// Keys past their expiry in one shard, at most `max` of those that a look at a few buckets finds; the
    /// next look goes on from there. For a host that deletes them by calls of its own.
    pub fn find_expired(&self, shard: usize, now_ms: i64, max: usize) -> Vec<Vec<u8>> {
        /// Buckets of keys with an expiry that one look visits.
        const BUCKETS: usize = 64;
        let mut found = Vec::new();
        let mut guard = self.lock_shard(shard);
        guard.db_mut(0).sweep_expires(BUCKETS, |entry| {
            if entry.expired(now_ms) && found.len() < max {
                found.push(entry.key().to_vec());
            }
        });
        found
    }

    /// Keys of hashes of one shard with fields past their expiry, of `count` hashes that one look visits; the
    /// next look goes on from there. For a host that deletes the fields by calls of its own.
    pub fn find_expired_fields(&self, shard: usize, now_ms: i64, count: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut guard = self.lock_shard(shard);
        guard.db_mut(0).sweep_timed(count, |key, at_ms| {
            if hash::is_past(at_ms, now_ms) {
                found.push(key.to_vec());
            }
        });
        found
    }
}
