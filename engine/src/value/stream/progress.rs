//! How far a consumer group has come: the number of entries it has read and those still ahead.
//!
//! Entries that were deleted leave gaps that nobody counts, so both numbers are known only where no gap
//! lies in the way; they are reckoned as Redis does it.

use super::id::Id;

/// The state of a stream that these numbers follow from.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub(super) len: u64,
    pub(super) first_id: Id,
    pub(super) last_id: Id,
    pub(super) max_deleted_id: Id,
    pub(super) entries_added: u64,
}

impl Progress {
    /// Whether an entry from `id` on was deleted.
    fn has_gap_from(&self, id: Id) -> bool {
        self.len > 0 && self.max_deleted_id != Id::MIN && id <= self.max_deleted_id
    }

    /// How many entries were ever added up to `id`, if that can be told.
    pub fn entries_up_to(&self, id: Id) -> Option<u64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        if id == self.last_id || (self.len == 0 && id < self.last_id) {
            return Some(self.entries_added);
        }
        let no_gap = self.max_deleted_id == Id::MIN || self.max_deleted_id < self.first_id;
        if id > self.last_id || !no_gap {
            return None;
        }
        let before_first = self.entries_added.wrapping_sub(self.len);
        match id.cmp(&self.first_id) {
            std::cmp::Ordering::Less => Some(before_first),
            std::cmp::Ordering::Equal => Some(before_first.wrapping_add(1)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// What a group's count of entries read becomes when it is given the entry `id`.
    pub fn after_reading(&self, read: Option<u64>, id: Id) -> Option<u64> {
        match read {
            Some(read) if !self.has_gap_from(id) => Some(read.wrapping_add(1)),
            _ if self.entries_added > 0 => self.entries_up_to(id),
            read => read,
        }
    }

    /// How many entries a group has not read yet, if that can be told.
    pub fn lag(&self, read: Option<u64>, last_id: Id) -> Option<i64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        let read = match read {
            Some(read) if !self.has_gap_from(last_id) => read,
            _ => self.entries_up_to(last_id)?,
        };
        Some((self.entries_added as i64).wrapping_sub(read as i64))
    }
}
