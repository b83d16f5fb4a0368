//! An index from 32-bit hashes to positions, for [`Dense`](super::dense::Dense).
//!
//! ```text
//! hash  = prefix bits | ... | home bits
//! directory[prefix] -> segment: slots of u64 { hash: high 32 bits, position + 1: low 32 bits }
//! ```
//! Extendible hashing (Fagin, Nievergelt, Pippenger, Strong: "Extendible Hashing", 1979) over
//! small linearly probed tables. A full segment splits into two and the directory says which hash
//! prefix lives where, so growth costs a few microseconds at a time even with ten million
//! elements, where one large table would stop the world to rehash. A slot keeps the whole hash:
//! splits and removals never look at the elements. Removal shifts back, so there are no
//! tombstones. Which slot holds what is not observable from outside.

use crate::prefetch::prefetch;

/// Slots of a segment that splits rather than grows: 32 KiB.
const SEGMENT_SLOTS: usize = 4096;
/// Slots of the first segment when it is made.
const SLOTS_MIN: usize = 16;
/// How many more prefix bits than evenly spread hashes need the directory may use. Beyond that a
/// segment grows: hashes chosen by an attacker must not blow up the directory.
const DEPTH_SLACK: u32 = 4;
/// Removals from a segment between two looks at whether it could merge.
const MERGE_INTERVAL: u32 = 64;

/// The largest number of positions an index can hold.
pub(crate) const POSITIONS_MAX: usize = u32::MAX as usize - 1;

#[derive(Clone, Default)]
struct Segment {
    /// A power of two of them; 0 is empty.
    slots: Box<[u64]>,
    used: u32,
    /// Number of prefix bits that the hashes in here share.
    depth: u32,
    /// These bits.
    prefix: u32,
}

/// Hashes and the positions they stand for.
#[derive(Clone, Default)]
pub(crate) struct Index {
    /// Segment numbers, by the first `depth` bits of the hash.
    directory: Vec<u32>,
    segments: Vec<Segment>,
    depth: u32,
    used: usize,
}

fn slot(hash: u32, position: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(position + 1)
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

fn position_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

/// The first `depth` bits of `hash`.
fn prefix(hash: u32, depth: u32) -> usize {
    ((u64::from(hash) << depth) >> 32) as usize
}

impl Segment {
    fn new(slots: usize, depth: u32, prefix: u32) -> Self {
        Segment { slots: vec![0; slots].into(), used: 0, depth, prefix }
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    fn is_full(&self) -> bool {
        (self.used as usize + 1) * 4 > self.slots.len() * 3
    }

    /// Where the slot is that holds `wanted`.
    fn locate(&self, wanted: u64) -> Option<usize> {
        let mask = self.mask();
        let mut at = hash_of(wanted) as usize & mask;
        loop {
            match self.slots[at & mask] {
                0 => return None,
                found if found == wanted => return Some(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn put(&mut self, slot: u64) {
        let mask = self.mask();
        let mut at = hash_of(slot) as usize & mask;
        while self.slots[at & mask] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at & mask] = slot;
        self.used += 1;
    }

    /// Empties slot `hole` and moves up those behind it that were displaced by it.
    fn take(&mut self, mut hole: usize) {
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let moved = self.slots[at];
            if moved == 0 {
                break;
            }
            let home = hash_of(moved) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = moved;
                hole = at;
            }
        }
        self.slots[hole] = 0;
        self.used -= 1;
    }

    fn resize(&mut self, slots: usize) {
        let mut resized = Segment::new(slots, self.depth, self.prefix);
        self.slots.iter().filter(|&&slot| slot != 0).for_each(|&slot| resized.put(slot));
        *self = resized;
    }
}

impl Index {
    fn number(&self, hash: u32) -> usize {
        self.directory[prefix(hash, self.depth)] as usize
    }

    /// Whether nothing was inserted since the index was made.
    pub(crate) fn is_vacant(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes the index takes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let slots: usize = self.segments.iter().map(|segment| segment.slots.len()).sum();
        slots * 8
            + self.segments.capacity() * size_of::<Segment>()
            + self.directory.capacity() * size_of::<u32>()
    }

    /// The position among those filed under `hash` that `matches` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = self.segments.get(*self.directory.get(prefix(hash, self.depth))? as usize)?;
        let mask = segment.mask();
        let mut at = hash as usize & mask;
        loop {
            let slot = segment.slots[at & mask];
            if slot == 0 {
                return None;
            }
            if hash_of(slot) == hash && matches(position_of(slot)) {
                return Some(position_of(slot));
            }
            at = (at + 1) & mask;
        }
    }

    /// Asks for the slots of `hash` to be brought near.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u32) {
        let number = self.directory.get(prefix(hash, self.depth));
        if let Some(segment) = number.and_then(|number| self.segments.get(*number as usize)) {
            prefetch(&raw const segment.slots[hash as usize & segment.mask()]);
        }
    }

    /// Files `position`, which must not be filed yet, under `hash`.
    pub(crate) fn insert(&mut self, hash: u32, position: u32) {
        if self.segments.is_empty() {
            self.segments.push(Segment::new(SLOTS_MIN, 0, 0));
            self.directory = vec![0];
        }
        let mut number = self.number(hash);
        while self.segments[number].is_full() {
            self.grow(number);
            number = self.number(hash);
        }
        self.segments[number].put(slot(hash, position));
        self.used += 1;
    }

    /// Takes `position` out from under `hash`.
    pub(crate) fn remove(&mut self, hash: u32, position: u32) {
        let number = self.number(hash);
        let segment = &mut self.segments[number];
        let Some(at) = segment.locate(slot(hash, position)) else {
            debug_assert!(false, "a position that is removed was inserted");
            return;
        };
        segment.take(at);
        self.used -= 1;
        if segment.used.is_multiple_of(MERGE_INTERVAL) {
            self.shrink(number);
        } else if segment.depth == 0
            && segment.slots.len() > SLOTS_MIN
            && (segment.used as usize) < segment.slots.len() / 8
        {
            segment.resize(segment.slots.len() / 2);
        }
    }

    /// Files what is at `from` under `hash` as being at `to`.
    pub(crate) fn relocate(&mut self, hash: u32, from: u32, to: u32) {
        let number = self.number(hash);
        let segment = &mut self.segments[number];
        match segment.locate(slot(hash, from)) {
            Some(at) => segment.slots[at] = slot(hash, to),
            None => debug_assert!(false, "a position that moves was inserted"),
        }
    }

    /// Makes room in a full segment: it doubles, or it splits by the next bit of the hash.
    fn grow(&mut self, number: usize) {
        let segment = &self.segments[number];
        let (slots, depth) = (segment.slots.len(), segment.depth);
        let fair = (self.used / SEGMENT_SLOTS).checked_ilog2().map_or(0, |bits| bits + 1);
        if slots < SEGMENT_SLOTS || depth >= fair + DEPTH_SLACK {
            return self.segments[number].resize(slots * 2);
        }
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|&number| [number; 2]).collect();
            self.depth += 1;
        }
        let full = std::mem::take(&mut self.segments[number]);
        let mut low = Segment::new(slots, depth + 1, full.prefix << 1);
        let mut high = Segment::new(slots, depth + 1, full.prefix << 1 | 1);
        for &slot in full.slots.iter().filter(|&&slot| slot != 0) {
            let is_high = hash_of(slot) >> (31 - depth) & 1 == 1;
            if is_high { high.put(slot) } else { low.put(slot) }
        }
        self.segments[number] = low;
        self.segments.push(high);
        self.point_directory(self.segments.len() - 1);
    }

    /// Lets the directory's entries for a segment's prefix say its number.
    fn point_directory(&mut self, number: usize) {
        let segment = &self.segments[number];
        let wide = self.depth - segment.depth;
        let first = (segment.prefix as usize) << wide;
        self.directory[first..first + (1 << wide)].fill(number as u32);
    }

    /// Merges a segment with the one it was split from while both together are mostly empty.
    fn shrink(&mut self, mut number: usize) {
        loop {
            let segment = &self.segments[number];
            let slots = segment.slots.len();
            if segment.depth == 0 {
                if slots > SLOTS_MIN && (segment.used as usize) < slots / 8 {
                    self.segments[number].resize(slots / 2);
                }
                return;
            }
            let buddy_prefix = (segment.prefix ^ 1) as usize;
            let buddy = self.directory[buddy_prefix << (self.depth - segment.depth)] as usize;
            let other = &self.segments[buddy];
            let together = (segment.used + other.used) as usize;
            if other.depth != segment.depth || together > SEGMENT_SLOTS * 3 / 8 {
                return;
            }
            let mut merged = Segment::new(SEGMENT_SLOTS, segment.depth - 1, segment.prefix >> 1);
            for &slot in segment.slots.iter().chain(&other.slots).filter(|&&slot| slot != 0) {
                merged.put(slot);
            }
            self.segments[number] = merged;
            self.point_directory(number);
            self.segments.swap_remove(buddy);
            if buddy < self.segments.len() {
                self.point_directory(buddy);
            }
            if number == self.segments.len() {
                number = buddy;
            }
            self.shrink_directory();
        }
    }

    /// Halves the directory while no segment needs its last bit.
    fn shrink_directory(&mut self) {
        if self.segments.capacity() > 4 * self.segments.len() {
            self.segments.shrink_to(2 * self.segments.len());
        }
        while self.directory.len() >= 2 * self.segments.len()
            && self.segments.iter().all(|segment| segment.depth < self.depth)
        {
            self.directory = self.directory.iter().step_by(2).copied().collect();
            self.depth -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(n: u32) -> u32 {
        (u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29) as u32
    }

    fn check(index: &Index) {
        assert_eq!(index.directory.len(), 1 << index.depth);
        for (number, segment) in index.segments.iter().enumerate() {
            let used = segment.slots.iter().filter(|&&slot| slot != 0).count();
            assert_eq!(used, segment.used as usize);
            for &slot in segment.slots.iter().filter(|&&slot| slot != 0) {
                assert_eq!(index.number(hash_of(slot)), number);
            }
        }
    }

    #[test]
    fn grows_by_splitting_and_shrinks_by_merging() {
        let count = if cfg!(miri) { 4_000 } else { 100_000 };
        let mut index = Index::default();
        for position in 0..count {
            index.insert(mix(position), position);
        }
        check(&index);
        for position in 0..count {
            assert_eq!(index.find(mix(position), |found| found == position), Some(position));
            assert_eq!(index.find(mix(position), |found| found == count), None);
        }
        let (full, segments) = (index.memory(), index.segments.len());
        assert!(cfg!(miri) || segments > 16);
        for position in (0..count).filter(|position| position % 16 != 0) {
            index.remove(mix(position), position);
        }
        check(&index);
        assert!(index.memory() <= full / 4, "{} of {full}", index.memory());
        for position in 0..count {
            let found = index.find(mix(position), |found| found == position);
            assert_eq!(found.is_some(), position % 16 == 0);
        }
        for position in (0..count).filter(|position| position % 16 == 0) {
            index.remove(mix(position), position);
        }
        check(&index);
        assert_eq!((index.segments.len(), index.directory.len()), (1, 1));
        assert_eq!(index.segments[0].slots.len(), SLOTS_MIN);
    }

    #[test]
    fn equal_hashes_stay_apart_and_do_not_blow_up_the_directory() {
        let count = if cfg!(miri) { 200 } else { 5_000 };
        let mut index = Index::default();
        for position in 0..count {
            index.insert(7, position);
        }
        index.relocate(7, 5, count);
        assert_eq!(index.find(7, |found| found == count), Some(count));
        assert_eq!(index.find(7, |found| found == 5), None);
        assert!(index.directory.len() <= 1 << (DEPTH_SLACK + 2));
        for position in (0..=count).filter(|&position| position != 5) {
            index.remove(7, position);
        }
        assert_eq!(index.used, 0);
        check(&index);
    }
}
