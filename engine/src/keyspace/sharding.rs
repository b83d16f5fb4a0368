//! Which shard a key is in.
//!
//! Usually that follows from its slot alone. An engine that keeps groups has a shard for each: a table
//! then says where each slot is, and which shards are seen by commands that look at all keys. Where the
//! one shard of an engine is shared out among threads for a while, the key's hash tells whose it is.

use super::{KeyHasher, LANES_MAX, Shard};
use crate::slot::{SLOTS, slot_of};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

/// Maps keys to shards.
#[derive(Debug)]
pub(crate) struct Sharding {
    count: usize,
    groups: Option<Box<Groups>>,
    /// There where keys are spread by their hash.
    lanes: Option<KeyHasher>,
}

#[derive(Debug)]
struct Groups {
    shards: [AtomicU16; SLOTS as usize],
    /// Raised by each change of the table, which happens with all shards locked that it concerns.
    version: AtomicU64,
    seen: Box<[AtomicBool]>,
}

impl Sharding {
    /// `count` shards; with `groups` every slot is in shard 0 until [`Sharding::assign`] says more.
    pub fn new(count: usize, groups: bool) -> Sharding {
        let groups = groups.then(|| {
            Box::new(Groups {
                shards: [const { AtomicU16::new(0) }; SLOTS as usize],
                version: AtomicU64::new(0),
                seen: (0..count).map(|shard| AtomicBool::new(shard == 0)).collect(),
            })
        });
        Sharding { count, groups, lanes: None }
    }

    /// `count` shards, a power of two: keys with the same lowest bits of their hash are in one.
    pub fn lanes(count: usize, hasher: KeyHasher) -> Sharding {
        assert!(count.is_power_of_two() && count <= LANES_MAX, "lanes are told apart by bits");
        Sharding { count, groups: None, lanes: Some(hasher) }
    }

    /// Number of shards.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The shard of a key.
    #[inline]
    pub fn of(&self, key: &[u8]) -> usize {
        match &self.groups {
            None if self.count == 1 => 0,
            None => match &self.lanes {
                None => slot_of(key) as usize % self.count,
                Some(hasher) => hasher.hash(key) as usize % self.count,
            },
            Some(groups) => groups.shards[slot_of(key) as usize].load(Ordering::Relaxed).into(),
        }
    }

    /// The shard of a slot.
    pub fn of_slot(&self, slot: u16) -> usize {
        match &self.groups {
            None => slot as usize % self.count,
            Some(groups) => groups.shards[slot as usize].load(Ordering::Relaxed).into(),
        }
    }

    /// The shard of a key whose hash is known.
    #[inline]
    pub fn of_hashed(&self, key: &[u8], hash: u64) -> usize {
        match self.lanes {
            Some(_) => hash as usize % self.count,
            None => self.of(key),
        }
    }

    /// Whether the shard of a key never changes, so that it can be looked up ahead.
    #[inline]
    pub fn is_fixed(&self) -> bool {
        self.groups.is_none()
    }

    /// Changes with the table. Whoever holds the lock of any shard has the table of this version until
    /// it lets go.
    #[inline]
    pub fn version(&self) -> u64 {
        self.groups.as_ref().map_or(0, |groups| groups.version.load(Ordering::Acquire))
    }

    /// Puts a slot into a shard; all shards are locked.
    pub fn assign(&self, slot: u16, shard: usize) {
        assert!(shard < self.count, "there is no such shard");
        if let Some(groups) = &self.groups {
            groups.shards[usize::from(slot)].store(shard as u16, Ordering::Relaxed);
        }
    }

    /// The table has changed; all shards are locked.
    pub fn raise_version(&self) {
        if let Some(groups) = &self.groups {
            groups.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Says whether commands that look at all keys see a shard.
    pub fn set_seen(&self, shard: usize, seen: bool) {
        if let Some(groups) = &self.groups {
            groups.seen[shard].store(seen, Ordering::Release);
        }
    }

    /// Whether commands that look at all keys see a shard.
    pub fn is_seen(&self, shard: usize) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.seen[shard].load(Ordering::Acquire))
    }
}

impl Shard {
    /// Visits the keys of a database whose slot `wanted` accepts.
    pub fn for_slots<'s>(
        &'s self,
        db: u32,
        wanted: impl Fn(u16) -> bool,
        mut each: impl FnMut(super::EntryRef<'s>),
    ) {
        let db = self.db(db);
        db.table().for_each(|entry| {
            if wanted(slot_of(entry.key())) {
                each(super::EntryRef::new(entry, db));
            }
        });
    }
}
