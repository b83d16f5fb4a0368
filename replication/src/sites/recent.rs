//! What was changed here of late: the queue of the links, one for all of them.
//!
//! It has names only; a link reads the elements when it sends them, so that an element which was
//! changed many times travels once. It is bounded: a site that was away for longer than it
//! reaches back is told of all elements that were changed since, found by looking at every key.

use std::collections::VecDeque;
use std::sync::Arc;

/// Most changes that are kept.
pub const RECENT_MAX: usize = 262_144;
/// Most bytes of names and keys that are kept.
pub const RECENT_BYTES_MAX: usize = 64 << 20;

/// A change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its stamp.
    pub stamp: u64,
    /// The key.
    pub key: Arc<[u8]>,
    /// The element.
    pub name: Box<[u8]>,
}

/// Changes in the order of their stamps.
#[derive(Debug, Default)]
pub struct Recent {
    changes: VecDeque<Change>,
    bytes: usize,
    /// Changes up to this stamp may be missing.
    floor: u64,
}

impl Recent {
    /// Adds a change; its stamp is at or above all before.
    pub fn push(&mut self, stamp: u64, key: &[u8], name: &[u8]) {
        let key = match self.changes.back() {
            Some(last) if *last.key == *key => last.key.clone(),
            _ => key.into(),
        };
        self.bytes += key.len() + name.len();
        self.changes.push_back(Change { stamp, key, name: name.into() });
        while self.changes.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.changes.pop_front() {
            self.bytes -= oldest.key.len() + oldest.name.len();
            self.floor = self.floor.max(oldest.stamp);
        }
    }

    /// Nothing is known of changes up to a stamp, as after a restart.
    pub fn begin_at(&mut self, stamp: u64) {
        self.floor = self.floor.max(stamp);
    }

    /// Lets go of what every site has.
    pub fn release(&mut self, acknowledged: u64) {
        while self.changes.front().is_some_and(|change| change.stamp <= acknowledged) {
            self.pop();
        }
    }

    /// Whether all changes after a stamp are here.
    pub fn reaches(&self, stamp: u64) -> bool {
        stamp >= self.floor
    }

    /// The changes after a stamp.
    pub fn after(&self, stamp: u64) -> impl Iterator<Item = &Change> {
        let at = self.changes.partition_point(|change| change.stamp <= stamp);
        self.changes.range(at..)
    }

    /// Number and bytes of the changes after a stamp, and the stamp of the first.
    pub fn lag(&self, stamp: u64) -> (usize, usize, Option<u64>) {
        let at = self.changes.partition_point(|change| change.stamp <= stamp);
        let records = self.changes.len() - at;
        let bytes = match self.changes.len() {
            0 => 0,
            all => self.bytes / all * records,
        };
        (records, bytes, self.changes.get(at).map(|change| change.stamp))
    }
}
