//! A database that several threads change at the same time, see [`Table::lend`].

use super::{Db, EntryPtr, KeyHasher};
use crate::keyspace::table::Table;
use crate::value::set::Set;

impl Db {
    /// Whether all that a call on one key changes here is found by the key's hash: not so while a cut
    /// is on its way, and where keys are on disk.
    pub fn can_be_lent(&self) -> bool {
        self.saving.is_none() && self.cold.is_none()
    }

    /// Before its lanes are lent: the tables get as many buckets as what is in them asks for.
    pub fn before_lending(&mut self) {
        let hasher = &self.hasher;
        self.table.widen(|entry| hash_of(hasher, entry));
        self.expires.widen(|entry| hash_of(hasher, entry));
    }

    /// Makes `lane` the lane of that number, of so many. What it knows of shapes stays its own. The lane
    /// has to grow first, see [`Db::grow_lane`].
    ///
    /// # Safety
    /// As for [`Table::lend`], for all of this database.
    pub unsafe fn lend(&mut self, lane: &mut Db, number: (usize, usize)) {
        // SAFETY: as promised by the caller, who is told so.
        unsafe {
            lane.table = self.table.lend(number);
            lane.expires = self.expires.lend(number);
        }
        (lane.colour, lane.generation) = (self.colour, self.generation);
    }

    /// Puts into the lane's new buckets what belongs there, if this is a lane.
    pub fn grow_lane(&mut self) {
        let hasher = &self.hasher;
        self.table.grow_lane(|entry| hash_of(hasher, entry));
        self.expires.grow_lane(|entry| hash_of(hasher, entry));
    }

    /// Takes over what a lane has done.
    pub fn take_back(&mut self, lane: &mut Db) {
        self.table.take_back(std::mem::replace(&mut lane.table, Table::new()));
        self.expires.take_back(std::mem::replace(&mut lane.expires, Table::new()));
        if !lane.timed.is_empty() {
            let timed = std::mem::replace(&mut lane.timed, Set::new());
            (0..timed.len()).filter_map(|at| timed.at(at)).for_each(|key| {
                self.timed.insert(key);
            });
        }
    }

    /// All lanes are taken back: the tables shrink to what is in them.
    pub fn after_lending(&mut self) {
        let hasher = &self.hasher;
        self.table.narrow(|entry| hash_of(hasher, entry));
        self.expires.narrow(|entry| hash_of(hasher, entry));
    }

    /// Lets another part of the database know the shapes of this one.
    pub fn share_shapes(&self, other: &mut Db) {
        other.shapes.learn(&self.shapes);
    }
}

fn hash_of(hasher: &KeyHasher, entry: EntryPtr) -> u64 {
    hasher.hash(entry.key())
}
