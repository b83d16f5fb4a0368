//! The hash table of a database: linear hashing over buckets of one cache line.
//!
//! ```text
//! bucket (64 bytes): 7 slots of 8 bytes | pointer to an overflow bucket
//! slot: 16 bits of the hash | 48 bits of pointer to the entry
//! ```
//! The table grows and shrinks by one bucket at a time (Litwin, "Linear hashing: a new tool for
//! file and table addressing", VLDB 1980), so no operation pays for a rehash and the load stays
//! the same at every size. A lookup touches the bucket's line and, where 16 bits of the hash
//! match, the entry. Both can be prefetched before the commands of a pipeline run.
//!
//! A scan walks the buckets in the order of their reversed hash bits: a bucket then covers one
//! range of that order, whatever the number of buckets, so a cursor stays valid while the table
//! grows and shrinks.

mod lane;

use super::entry::EntryPtr;
use crate::prefetch::prefetch;
pub(crate) use lane::LANES_MAX;
use lane::Lent;
use std::ptr::null_mut;

const SLOTS: usize = 7;
/// Buckets in a segment; the table's memory grows by one segment of 64 KiB.
const SEGMENT: usize = 1024;
/// Entries a bucket, on average, above which the table grows.
const LOAD_MAX: usize = 5;
/// Entries a bucket below which it shrinks.
const LOAD_MIN: usize = 2;
const POINTER_BITS: u32 = 48;
const POINTER_MASK: usize = (1 << POINTER_BITS) - 1;
/// Bits of a scan position that a cursor carries; more buckets than this are not addressable.
pub(crate) const CURSOR_BITS: u32 = 48;

/// An entry's pointer with 16 bits of its hash on top; null is an empty slot.
type Slot = *mut u8;

#[repr(C, align(64))]
struct Bucket {
    slots: [Slot; SLOTS],
    overflow: *mut Bucket,
}

impl Bucket {
    const EMPTY: Bucket = Bucket { slots: [null_mut(); SLOTS], overflow: null_mut() };
}

/// Where a search by hash alone ended: a bucket and a slot in it. It is a hint, checked before use:
/// the entry may have gone since, or be another key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    bucket: u32,
    slot: u32,
}

impl Place {
    /// No place.
    pub const NONE: Place = Place { bucket: u32::MAX, slot: 0 };
}

/// Where an entry's pointer is kept. Valid until the table is changed.
#[derive(Clone, Copy)]
pub(crate) struct SlotRef(*mut Slot);

/// Entries by the hash of their key.
pub(crate) struct Table {
    segments: Vec<Vec<Bucket>>,
    buckets: usize,
    /// Largest power of two below `buckets`; 1 at the least.
    round: usize,
    len: usize,
    overflows: usize,
    /// Buckets whose entries are where they belong; all of them but on the way to lanes.
    whole: usize,
    /// There in a lane of another table: it does not grow or shrink and owns nothing.
    lent: Option<Lent>,
}

// SAFETY: the table owns its buckets and the entries in them, which are Send; all access goes
// through `&self` or `&mut self`.
unsafe impl Send for Table {}
// SAFETY: `&self` methods only read.
unsafe impl Sync for Table {}

#[inline]
fn tag(hash: u64) -> usize {
    ((hash >> POINTER_BITS) as usize) << POINTER_BITS
}

/// Which slots have this tag, a bit each; empty ones may be among them. Looks at all of them: where
/// the entry is cannot be predicted, and a wrong guess costs more than the whole bucket.
#[inline]
fn matching(slots: &[Slot; SLOTS], tag: usize) -> u32 {
    let mut found = 0;
    for (at, slot) in slots.iter().enumerate() {
        found |= u32::from((slot.addr() ^ tag) >> POINTER_BITS == 0) << at;
    }
    found
}

fn pack(entry: EntryPtr, hash: u64) -> Slot {
    let ptr = entry.as_ptr();
    assert!(ptr.addr() & !POINTER_MASK == 0, "user-space pointers have at most 48 bits");
    ptr.map_addr(|addr| addr | tag(hash))
}

fn unpack(slot: Slot) -> EntryPtr {
    // SAFETY: a slot that is not null was packed from a live entry.
    unsafe { EntryPtr::from_ptr(slot.map_addr(|addr| addr & POINTER_MASK)) }
}

impl Table {
    pub const fn new() -> Table {
        Table {
            segments: Vec::new(),
            buckets: 0,
            round: 1,
            len: 0,
            overflows: 0,
            whole: 0,
            lent: None,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the buckets.
    pub fn bytes(&self) -> usize {
        (self.segments.iter().map(Vec::capacity).sum::<usize>() + self.overflows)
            * size_of::<Bucket>()
    }

    #[inline]
    fn index(&self, hash: u64) -> usize {
        let wide = hash as usize & (2 * self.round - 1);
        if wide < self.buckets { wide } else { wide - self.round }
    }

    // Slots are handed out as pointers that stay good while the table is read. So no reference to a
    // whole segment may come between: buckets are reached from the vector's own pointer.

    #[inline]
    fn bucket(&self, index: usize) -> *const Bucket {
        let segment = &self.segments[index / SEGMENT];
        assert!(index % SEGMENT < segment.len(), "a bucket of the table");
        // SAFETY: just checked.
        unsafe { segment.as_ptr().add(index % SEGMENT) }
    }

    #[inline]
    fn bucket_mut(&mut self, index: usize) -> *mut Bucket {
        let segment = &mut self.segments[index / SEGMENT];
        assert!(index % SEGMENT < segment.len(), "a bucket of the table");
        // SAFETY: just checked.
        unsafe { segment.as_mut_ptr().add(index % SEGMENT) }
    }

    /// Asks for the bucket of `hash` to be brought near.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        if self.buckets != 0 {
            prefetch(self.bucket(self.index(hash)));
        }
    }

    /// Asks for the entry that is probably the one of `hash` to be brought near; where it was seen.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) -> Place {
        if self.buckets == 0 {
            return Place::NONE;
        }
        let tag = tag(hash);
        let index = self.index(hash);
        // The overflow bucket, where there is one, is read here: the loads of several keys overlap.
        let mut bucket = self.bucket(index);
        let mut place = index as u32;
        while !bucket.is_null() {
            // SAFETY: a bucket of this table or an overflow bucket that it owns.
            let here = unsafe { &*bucket };
            let found = matching(&here.slots, tag);
            if found != 0 {
                let slot = found.trailing_zeros();
                let entry = here.slots[slot as usize % SLOTS];
                prefetch(entry.map_addr(|addr| addr & POINTER_MASK));
                return Place { bucket: place, slot };
            }
            bucket = here.overflow;
            place = u32::MAX;
        }
        Place::NONE
    }

    /// Asks for the rest of the entry that was seen at a place.
    #[inline]
    pub fn prefetch_value(&self, place: Place, hash: u64) {
        if let Some(entry) = self.find_at(place, hash, |_| true) {
            entry.prefetch_value();
        }
    }

    /// The entry at a place where one with this hash was seen, if `is` accepts it now.
    #[inline]
    pub fn find_at(
        &self,
        place: Place,
        hash: u64,
        is: impl Fn(EntryPtr) -> bool,
    ) -> Option<EntryPtr> {
        if place.bucket as usize >= self.buckets {
            return None;
        }
        // SAFETY: a bucket of this table; it is only read.
        let slot = unsafe { (*self.bucket(place.bucket as usize)).slots[place.slot as usize] };
        if (slot.addr() ^ tag(hash)) >> POINTER_BITS != 0 || slot.is_null() {
            return None;
        }
        let entry = unpack(slot);
        is(entry).then_some(entry)
    }

    /// The slot of the entry at a place, as [`Table::find_at`].
    #[inline]
    pub fn find_slot_at(
        &mut self,
        place: Place,
        hash: u64,
        is: impl Fn(EntryPtr) -> bool,
    ) -> Option<SlotRef> {
        self.find_at(place, hash, is)?;
        let bucket = self.bucket_mut(place.bucket as usize);
        // SAFETY: the place was just checked; the table is borrowed mutably.
        Some(SlotRef(unsafe { &raw mut (*bucket).slots[place.slot as usize] }))
    }

    /// The entry whose hash is `hash` and that `is` accepts.
    #[inline]
    pub fn find(&self, hash: u64, is: impl Fn(EntryPtr) -> bool) -> Option<EntryPtr> {
        if self.buckets == 0 {
            return None;
        }
        let tag = tag(hash);
        let mut bucket = self.bucket(self.index(hash));
        while !bucket.is_null() {
            // SAFETY: a bucket of this table or an overflow bucket that it owns.
            let here = unsafe { &*bucket };
            let mut found = matching(&here.slots, tag);
            while found != 0 {
                let slot = here.slots[found.trailing_zeros() as usize % SLOTS];
                if !slot.is_null() {
                    let entry = unpack(slot);
                    if is(entry) {
                        return Some(entry);
                    }
                }
                found &= found - 1;
            }
            bucket = here.overflow;
        }
        None
    }

    /// The slot of the entry whose hash is `hash` and that `is` accepts.
    #[inline]
    pub fn find_slot(&mut self, hash: u64, is: impl Fn(EntryPtr) -> bool) -> Option<SlotRef> {
        if self.buckets == 0 {
            return None;
        }
        let tag = tag(hash);
        let mut bucket = self.bucket_mut(self.index(hash));
        while !bucket.is_null() {
            // SAFETY: as in `find`; the table is borrowed mutably.
            let mut found = matching(unsafe { &(*bucket).slots }, tag);
            while found != 0 {
                let at = found.trailing_zeros() as usize % SLOTS;
                // SAFETY: a slot of a live bucket.
                let slot = unsafe { &raw mut (*bucket).slots[at] };
                // SAFETY: as above.
                let value = unsafe { *slot };
                if !value.is_null() && is(unpack(value)) {
                    return Some(SlotRef(slot));
                }
                found &= found - 1;
            }
            // SAFETY: as above.
            bucket = unsafe { (*bucket).overflow };
        }
        None
    }

    /// Makes room for `len` entries at once; only an empty table does.
    pub fn reserve(&mut self, len: usize) {
        let buckets = len / LOAD_MAX + 1;
        if self.buckets != 0 || len == 0 {
            return;
        }
        while self.buckets < buckets {
            let count = (buckets - self.buckets).min(SEGMENT);
            // The last one has room to grow, as where a table grows by itself.
            let mut segment = Vec::with_capacity(SEGMENT);
            segment.resize_with(count, || Bucket::EMPTY);
            self.segments.push(segment);
            self.buckets += count;
        }
        // The largest power of two below the number of buckets.
        self.round = (buckets.next_power_of_two() / 2).max(1);
    }

    /// The entry in a slot that this table gave out and that was not changed since.
    pub fn at(&self, slot: SlotRef) -> EntryPtr {
        // SAFETY: by contract the slot is still there and filled.
        unpack(unsafe { *slot.0 })
    }

    /// Puts an entry that moved into the slot of the old one.
    pub fn replace_at(&mut self, slot: SlotRef, entry: EntryPtr) {
        // SAFETY: as in `at`; the tag stays, since the key does.
        unsafe {
            let tag = (*slot.0).addr() & !POINTER_MASK;
            *slot.0 = entry.as_ptr().map_addr(|addr| addr | tag);
        }
    }

    /// Adds an entry whose key is not in the table. `hash_of` gives the hash of any entry.
    pub fn insert(
        &mut self,
        hash: u64,
        entry: EntryPtr,
        hash_of: impl Fn(EntryPtr) -> u64,
    ) -> SlotRef {
        if self.len >= self.buckets * LOAD_MAX && self.lent.is_none() {
            self.grow(hash_of);
        }
        let index = self.index(hash);
        self.len += 1;
        self.push(index, pack(entry, hash))
    }

    fn push(&mut self, index: usize, slot: Slot) -> SlotRef {
        let mut bucket = self.bucket_mut(index);
        loop {
            // SAFETY: a bucket of this table or an overflow bucket it owns, borrowed mutably.
            unsafe {
                if let Some(at) = (0..SLOTS).find(|&at| (*bucket).slots[at].is_null()) {
                    (*bucket).slots[at] = slot;
                    return SlotRef(&raw mut (*bucket).slots[at]);
                }
                if (*bucket).overflow.is_null() {
                    (*bucket).overflow = Box::into_raw(Box::new(Bucket::EMPTY));
                    self.overflows += 1;
                }
                bucket = (*bucket).overflow;
            }
        }
    }

    /// Takes the entry out of its slot; the caller frees it. `hash` is its hash.
    pub fn remove_at(
        &mut self,
        hash: u64,
        slot: SlotRef,
        hash_of: impl Fn(EntryPtr) -> u64,
    ) -> EntryPtr {
        let entry = self.at(slot);
        let index = self.index(hash);
        let last = self.last_slot(index);
        // SAFETY: both are slots of this bucket's chain; moving the last one into the hole keeps
        // the chain dense.
        unsafe {
            *slot.0 = *last.0;
            *last.0 = null_mut();
        }
        self.trim(index);
        self.len -= 1;
        if self.buckets > 1 && self.len < self.buckets * LOAD_MIN && self.lent.is_none() {
            self.shrink(hash_of);
        }
        entry
    }

    /// The last filled slot of a chain that is not empty.
    fn last_slot(&mut self, index: usize) -> SlotRef {
        let mut bucket = self.bucket_mut(index);
        // SAFETY: buckets of this table, borrowed mutably.
        unsafe {
            while !(*bucket).overflow.is_null() {
                bucket = (*bucket).overflow;
            }
            let filled = (*bucket).slots.iter().rposition(|slot| !slot.is_null());
            let at = filled.expect("overflow buckets are freed when they become empty");
            SlotRef(&raw mut (*bucket).slots[at])
        }
    }

    /// Frees the chain's last overflow bucket if it is empty.
    fn trim(&mut self, index: usize) {
        let mut bucket = self.bucket_mut(index);
        // SAFETY: buckets of this table, borrowed mutably; an overflow bucket came from Box.
        unsafe {
            while !(*bucket).overflow.is_null() {
                let next = (*bucket).overflow;
                if (*next).overflow.is_null() && (*next).slots[0].is_null() {
                    drop(Box::from_raw(next));
                    (*bucket).overflow = null_mut();
                    self.overflows -= 1;
                    return;
                }
                bucket = next;
            }
        }
    }

    /// Empties a chain into `out` and frees its overflow buckets.
    fn drain(&mut self, index: usize, out: &mut smallvec::SmallVec<[Slot; 32]>) {
        let bucket = self.bucket_mut(index);
        // SAFETY: buckets of this table, borrowed mutably; overflow buckets came from Box.
        unsafe {
            out.extend((*bucket).slots.iter().copied().filter(|slot| !slot.is_null()));
            (*bucket).slots = [null_mut(); SLOTS];
            let mut next = std::mem::replace(&mut (*bucket).overflow, null_mut());
            while !next.is_null() {
                let boxed = Box::from_raw(next);
                out.extend(boxed.slots.iter().copied().filter(|slot| !slot.is_null()));
                next = boxed.overflow;
                self.overflows -= 1;
            }
        }
    }

    /// Adds one bucket and moves into it what belongs there.
    fn grow(&mut self, hash_of: impl Fn(EntryPtr) -> u64) {
        let index = self.buckets;
        if index.is_multiple_of(SEGMENT) {
            let capacity = if index == 0 { 4 } else { SEGMENT };
            self.segments.push(Vec::with_capacity(capacity));
        }
        self.segments.last_mut().expect("one was just pushed").push(Bucket::EMPTY);
        self.buckets += 1;
        if self.buckets == 1 {
            return;
        }
        if index == self.round * 2 {
            self.round = index;
        }
        let from = index - self.round;
        let mut moved = smallvec::SmallVec::new();
        self.drain(from, &mut moved);
        for &slot in &moved {
            prefetch(slot.map_addr(|addr| addr & POINTER_MASK));
        }
        for slot in moved {
            let to = self.index(hash_of(unpack(slot)));
            debug_assert!(to == from || to == index);
            self.push(to, slot);
        }
    }

    /// Takes the last bucket away and moves its entries to where they came from.
    fn shrink(&mut self, hash_of: impl Fn(EntryPtr) -> u64) {
        let last = self.buckets - 1;
        let mut moved = smallvec::SmallVec::new();
        self.drain(last, &mut moved);
        let segment = self.segments.last_mut().expect("there is more than one bucket");
        segment.pop();
        if segment.is_empty() {
            self.segments.pop();
        } else if self.segments.len() == 1
            && self.segments[0].len() * 4 < self.segments[0].capacity()
        {
            let len = self.segments[0].len();
            self.segments[0].shrink_to(len * 2);
        }
        self.buckets = last;
        if self.buckets <= self.round && self.round > 1 {
            self.round /= 2;
        }
        for slot in moved {
            let to = self.index(hash_of(unpack(slot)));
            self.push(to, slot);
        }
    }

    /// Calls `each` for every entry, in no order that means anything.
    pub fn for_each(&self, mut each: impl FnMut(EntryPtr)) {
        for index in 0..self.buckets {
            self.for_chain(index, &mut each);
        }
    }

    fn for_chain(&self, index: usize, each: &mut impl FnMut(EntryPtr)) {
        let mut bucket = self.bucket(index);
        while !bucket.is_null() {
            // SAFETY: a bucket of this table or an overflow bucket that it owns.
            let here = unsafe { &*bucket };
            here.slots.iter().filter(|slot| !slot.is_null()).for_each(|&slot| each(unpack(slot)));
            bucket = here.overflow;
        }
    }

    /// Bits of a position that tell the bucket there apart: it covers all positions that share them.
    pub fn scan_depth(&self, position: u64) -> u32 {
        if self.buckets == 0 {
            return 0;
        }
        let reversed = position << (64 - CURSOR_BITS);
        self.depth_of(self.index(reversed.reverse_bits()))
    }

    fn depth_of(&self, index: usize) -> u32 {
        // A bucket is told apart by `round`'s bits, or by one more where it has been split.
        let split = index + self.round < self.buckets || index >= self.round;
        self.round.trailing_zeros() + u32::from(split)
    }

    /// Visits the bucket at scan position `position` and returns the next position, 0 at the end.
    /// A scan from 0 to 0 visits every entry that was there all along at least once.
    pub fn scan(&self, position: u64, mut each: impl FnMut(EntryPtr)) -> u64 {
        if self.buckets == 0 {
            return 0;
        }
        let reversed = position << (64 - CURSOR_BITS);
        let index = self.index(reversed.reverse_bits());
        self.for_chain(index, &mut each);
        let depth = self.depth_of(index);
        let covered = if depth == 0 { u64::MAX } else { u64::MAX >> depth };
        match (reversed | covered).checked_add(1) {
            Some(next) => next >> (64 - CURSOR_BITS),
            None => 0,
        }
    }

    /// An entry chosen by the random number `random`: a random bucket, then one of its chain.
    pub fn random(&self, random: u64) -> Option<EntryPtr> {
        if self.len == 0 {
            return None;
        }
        let start = ((u128::from(random) * self.buckets as u128) >> 64) as usize;
        for step in 0..self.buckets {
            let mut chain = smallvec::SmallVec::<[EntryPtr; 32]>::new();
            self.for_chain((start + step) % self.buckets, &mut |entry| chain.push(entry));
            if !chain.is_empty() {
                return Some(chain[random as u32 as usize % chain.len()]);
            }
        }
        None
    }

    /// Visits up to `limit` buckets from a random one on: a cheap sample for expiry and eviction.
    pub fn sample(&self, random: u64, limit: usize, mut each: impl FnMut(EntryPtr)) {
        if self.buckets == 0 {
            return;
        }
        let start = ((u128::from(random) * self.buckets as u128) >> 64) as usize;
        for step in 0..limit.min(self.buckets) {
            self.for_chain((start + step) % self.buckets, &mut each);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.lent.is_some() {
            return self.forget();
        }
        for index in 0..self.buckets {
            let mut slots = smallvec::SmallVec::new();
            self.drain(index, &mut slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Kind, Parts};
    use super::*;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hasher};

    pub(super) fn hash(key: &[u8]) -> u64 {
        let mut hasher = foldhash::fast::FixedState::with_seed(5).build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    pub(super) fn hash_of(entry: EntryPtr) -> u64 {
        hash(entry.key())
    }

    pub(super) fn entry(number: u32) -> EntryPtr {
        let key = number.to_le_bytes();
        EntryPtr::new(&Parts {
            kind: Kind::Str,
            key: &key,
            expiry: None,
            payload: 0,
            inline: b"",
            colour: 0,
        })
    }

    pub(super) fn remove(table: &mut Table, number: u32) -> bool {
        let key = number.to_le_bytes();
        let hash = hash(&key);
        let Some(slot) = table.find_slot(hash, |entry| entry.key() == key) else { return false };
        table.remove_at(hash, slot, hash_of).free();
        true
    }

    pub(super) fn has(table: &Table, number: u32) -> bool {
        let key = number.to_le_bytes();
        table.find(hash(&key), |entry| entry.key() == key).is_some()
    }

    pub(super) const COUNT: u32 = if cfg!(miri) { 200 } else { 30_000 };

    #[test]
    fn grows_and_shrinks_and_keeps_every_key() {
        let mut table = Table::new();
        for number in 0..COUNT {
            table.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
            assert!(has(&table, number) && has(&table, number / 2) && !has(&table, number + 1));
        }
        assert_eq!(table.len(), COUNT as usize);
        let grown = table.bytes();
        for number in 0..COUNT {
            assert!(remove(&mut table, number) && !remove(&mut table, number));
            assert!(number + 1 == COUNT || has(&table, COUNT - 1));
        }
        assert_eq!(table.len(), 0);
        assert!(table.random(7).is_none());
        assert!(table.bytes() * 10 < grown);
    }

    #[test]
    fn a_table_with_room_made_ahead_is_like_one_that_grew() {
        let lens = [1, 4, 5, 9, 10, 11, 20, 39, 40, 41, 5_119, 5_120, 5_121, COUNT];
        // The last are for the table's second segment; Miri would take half an hour over them.
        for len in lens.into_iter().filter(|len| !cfg!(miri) || *len < 100) {
            let (mut ahead, mut grown) = (Table::new(), Table::new());
            ahead.reserve(len as usize);
            for table in [&mut ahead, &mut grown] {
                for number in 0..len {
                    table.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
                }
                assert!((0..len).all(|number| has(table, number)), "{len}");
            }
            assert!(ahead.buckets.abs_diff(grown.buckets) <= 1, "{len}");
            for table in [&mut ahead, &mut grown] {
                for number in 0..len {
                    assert!(remove(table, number), "{len}");
                }
                assert_eq!((table.len(), table.buckets), (0, 1), "{len}");
            }
        }
    }

    #[test]
    fn a_scan_meets_all_that_stays_while_the_table_changes() {
        for (grow, delete) in [(0, 0), (3, 0), (0, 2), (1, 1)] {
            let mut table = Table::new();
            let stays = COUNT / 10;
            for number in 0..COUNT / 5 {
                table.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
            }
            let (mut seen, mut position) = (HashSet::new(), 0);
            let (mut fresh, mut gone) = (COUNT, stays);
            loop {
                position = table.scan(position, |entry| {
                    seen.insert(u32::from_le_bytes(entry.key().try_into().unwrap()));
                });
                if position == 0 {
                    break;
                }
                for _ in 0..grow * 3 {
                    table.insert(hash(&fresh.to_le_bytes()), entry(fresh), hash_of);
                    fresh += 1;
                }
                for _ in 0..delete * 3 {
                    remove(&mut table, gone);
                    gone += 1;
                }
            }
            assert!((0..stays).all(|number| seen.contains(&number)), "{grow} {delete}");
            table.for_each(|entry| {
                entry.free();
            });
        }
    }
}
