//! Which keys of some slots have changed since somebody began to copy them.

use super::Shard;
use crate::slot::slot_of;
use std::collections::HashSet;

/// Bytes of names that are noted at most; whoever copies starts over beyond.
const CHANGES_BYTES_MAX: usize = 64 << 20;

/// The keys of a shard's database 0 that have changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    slots: Vec<(u16, u16)>,
    keys: HashSet<Box<[u8]>, foldhash::fast::FixedState>,
    bytes: usize,
    lost: bool,
}

impl Changes {
    /// A key may have changed.
    pub fn note(&mut self, key: &[u8]) {
        let slot = slot_of(key);
        let wanted = self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        if !wanted || self.lost || self.keys.contains(key) {
            return;
        }
        self.bytes += key.len() + size_of::<Box<[u8]>>();
        self.keys.insert(key.into());
        if self.bytes > CHANGES_BYTES_MAX {
            self.lose();
        }
    }

    /// More has changed than can be said.
    pub fn lose(&mut self) {
        self.lost = true;
        (self.keys, self.bytes) = (HashSet::default(), 0);
    }
}

impl Shard {
    /// What notes changes, if anybody copies.
    #[inline]
    pub fn changes_mut(&mut self) -> Option<&mut Changes> {
        self.changes.as_deref_mut()
    }

    /// Begins to note changes of keys of these slots, and forgets those that were noted; without slots
    /// nothing is noted any more.
    pub fn note_changes(&mut self, slots: &[(u16, u16)]) {
        let changes = Changes { slots: slots.to_vec(), ..Changes::default() };
        self.changes = (!slots.is_empty()).then(|| Box::new(changes));
    }

    /// Some of the keys that were noted, which are forgotten; `None` if not all could be noted.
    pub fn take_changes(&mut self, max: usize) -> Option<Vec<Box<[u8]>>> {
        let changes = self.changes.as_deref_mut()?;
        if changes.lost {
            return None;
        }
        let keys: Vec<Box<[u8]>> = changes.keys.iter().take(max).cloned().collect();
        for key in &keys {
            changes.keys.remove(key);
            changes.bytes -= key.len() + size_of::<Box<[u8]>>();
        }
        Some(keys)
    }

    /// How many keys are noted.
    pub fn changes_len(&self) -> usize {
        self.changes.as_ref().map_or(0, |changes| changes.keys.len())
    }
}
