//! A table that several threads change at the same time, each its own part.
//!
//! Keys whose hashes differ in the lowest bits are never in the same bucket, so threads that each
//! keep to one value of these bits, a *lane*, share no bucket: they need no lock. What all buckets
//! have in common stays as it is meanwhile: the table gets no bucket more or less, and its length is put
//! together afterwards. What a batch of calls was too many for is made good before the next one: the
//! table gets buckets, and each lane splits its own.
//!
//! ```text
//! widen --> lend --+--> lane 0, on one thread:  grow_lane, calls --+--> take_back --> narrow
//!                 \--> lane 1, on another one: grow_lane, calls --/
//! ```

use super::{Bucket, EntryPtr, LOAD_MAX, LOAD_MIN, POINTER_MASK, SEGMENT, Table, prefetch, unpack};

/// Buckets below which a table is not lent: a batch of new keys would fill them too much.
const BUCKETS_MIN: usize = 128;
/// Lanes of a table at most.
pub(crate) const LANES_MAX: usize = 16;
/// Splits ahead of which a bucket is asked for, and its entries.
const BUCKET_AHEAD: usize = 12;
const ENTRIES_AHEAD: usize = 6;

const _: () = assert!(LANES_MAX < BUCKETS_MIN / 2, "a lane is told by bits that all rounds have");

/// What a table had when it was lent.
#[derive(Clone, Copy)]
pub(super) struct Lent {
    number: usize,
    lanes: usize,
    len: usize,
    overflows: usize,
}

impl Table {
    /// Whether it has enough buckets to be lent.
    pub fn can_be_lent(&self) -> bool {
        self.buckets >= BUCKETS_MIN
    }

    /// Whether this is a lane of another table.
    pub fn is_lane(&self) -> bool {
        self.lent.is_some()
    }

    /// Gives it the buckets that its length asks for, at least as many as it takes to be lent. Those that
    /// come to a large table are empty: each lane fills its own, see [`Table::grow_lane`].
    pub fn widen(&mut self, hash_of: impl Fn(EntryPtr) -> u64 + Copy) {
        while !self.can_be_lent() {
            self.grow(hash_of);
        }
        self.whole = self.buckets;
        while self.buckets * LOAD_MAX < self.len {
            if self.buckets.is_multiple_of(SEGMENT) {
                self.segments.push(Vec::with_capacity(SEGMENT));
            }
            self.segments.last_mut().expect("there are many").push(Bucket::EMPTY);
            self.buckets += 1;
        }
        self.round = largest_round(self.buckets - 1);
    }

    /// The lane of this number, of so many; it counts all entries as its own to begin with.
    ///
    /// # Safety
    /// It was just widened. Until all lanes are taken back or dropped this table is not used. Each lane grows
    /// first, and is asked only for keys for which `hash % lanes` is its number; `lanes` is a power of two
    /// up to [`LANES_MAX`].
    pub unsafe fn lend(&mut self, (number, lanes): (usize, usize)) -> Table {
        assert!(self.can_be_lent() && self.lent.is_none(), "a large table that is nobody's lane");
        assert!(lanes.is_power_of_two() && lanes <= LANES_MAX, "lanes are told apart by bits");
        let segments = self.segments.iter_mut().map(|segment| {
            let (len, capacity) = (segment.len(), segment.capacity());
            // SAFETY: the parts of a vector. The copy is forgotten, never dropped, and only its
            // buckets are changed; see `forget`.
            unsafe { Vec::from_raw_parts(segment.as_mut_ptr(), len, capacity) }
        });
        let Table { buckets, round, len, overflows, whole, .. } = *self;
        let lent = Some(Lent { number, lanes, len, overflows });
        Table { segments: segments.collect(), buckets, round, len, overflows, whole, lent }
    }

    /// Splits the lane's share of the buckets that are yet to be split.
    pub fn grow_lane(&mut self, hash_of: impl Fn(EntryPtr) -> u64) {
        let Some(Lent { number, lanes, .. }) = self.lent else { return };
        let first = self.whole.next_multiple_of(lanes) + number;
        // A lane's number is what its buckets' leave.
        let first = if first >= self.whole + lanes { first - lanes } else { first };
        for index in (first..self.buckets).step_by(lanes) {
            self.ask_ahead(index, lanes);
            let round = largest_round(index);
            let mut moved = smallvec::SmallVec::new();
            self.drain(index - round, &mut moved);
            for slot in moved {
                self.push(hash_of(unpack(slot)) as usize & (2 * round - 1), slot);
            }
        }
        self.whole = self.buckets;
    }

    /// Counts what a lane of this table has done.
    pub fn take_back(&mut self, mut lane: Table) {
        let lent = lane.lent.expect("a lane was lent");
        self.len = self.len + lane.len - lent.len;
        self.overflows = self.overflows + lane.overflows - lent.overflows;
        lane.forget();
    }

    /// Lets go of what belongs to the table that this one is a lane of.
    pub(super) fn forget(&mut self) {
        self.segments.drain(..).for_each(std::mem::forget);
        (self.buckets, self.len) = (0, 0);
    }

    /// Shrinks to what its length asks for, all lanes taken back.
    pub fn narrow(&mut self, hash_of: impl Fn(EntryPtr) -> u64 + Copy) {
        self.whole = self.buckets;
        while self.buckets > BUCKETS_MIN && self.len < self.buckets * LOAD_MIN {
            self.shrink(hash_of);
        }
    }

    /// Asks for what the lane's splits behind the one of `index` will need.
    fn ask_ahead(&self, index: usize, lanes: usize) {
        let source = |splits: usize| {
            let index = index + splits * lanes;
            let from = index - largest_round(index);
            (from < self.buckets).then(|| self.bucket(from))
        };
        if let Some(bucket) = source(BUCKET_AHEAD) {
            prefetch(bucket);
        }
        if let Some(bucket) = source(ENTRIES_AHEAD) {
            // SAFETY: a bucket of this lane, only read.
            for slot in unsafe { (*bucket).slots } {
                prefetch(slot.map_addr(|addr| addr & POINTER_MASK));
            }
        }
    }
}

/// The round in which the bucket of this index is split off; not for the first one.
fn largest_round(index: usize) -> usize {
    1 << index.ilog2()
}

#[cfg(test)]
mod tests {
    use super::super::pack;
    use super::super::tests::{COUNT, entry, has, hash, hash_of, remove};
    use super::*;

    #[test]
    fn lanes_on_threads_do_what_one_thread_does() {
        for lanes in [1, 2, 8, LANES_MAX] {
            let (mut alone, mut shared) = (Table::new(), Table::new());
            for number in 0..COUNT {
                alone.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
                shared.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
            }
            let work = |table: &mut Table, wanted: &dyn Fn(u64) -> bool| {
                for number in 0..2 * COUNT {
                    let own = hash(&number.to_le_bytes());
                    if wanted(own) && number % 3 == 0 && number < COUNT {
                        assert!(remove(table, number));
                    } else if wanted(own) && number >= COUNT {
                        table.insert(own, entry(number), hash_of);
                    }
                }
            };
            work(&mut alone, &|_| true);
            // As after a batch that has filled it too much.
            for number in 2 * COUNT..3 * COUNT {
                let own = hash(&number.to_le_bytes());
                alone.insert(own, entry(number), hash_of);
                let index = shared.index(own);
                shared.push(index, pack(entry(number), own));
                shared.len += 1;
            }
            shared.widen(hash_of);
            // SAFETY: each lane keeps to its keys, and the table is not used meanwhile.
            let lent = (0..lanes).map(|lane| unsafe { shared.lend((lane, lanes)) });
            let lent: Vec<Table> = lent.collect();
            let done: Vec<Table> = std::thread::scope(|scope| {
                let threads = lent.into_iter().enumerate().map(|(lane, mut table)| {
                    scope.spawn(move || {
                        table.grow_lane(hash_of);
                        work(&mut table, &|hash| hash as usize % lanes == lane);
                        table
                    })
                });
                let threads: Vec<_> = threads.collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            done.into_iter().for_each(|lane| shared.take_back(lane));
            shared.narrow(hash_of);
            shared.widen(hash_of);
            for number in 0..lanes {
                // SAFETY: one lane at a time, which is only asked to grow.
                let mut lane = unsafe { shared.lend((number, lanes)) };
                lane.grow_lane(hash_of);
                shared.take_back(lane);
            }
            shared.narrow(hash_of);
            assert_eq!(shared.len(), alone.len());
            assert!(shared.buckets.abs_diff(alone.buckets) <= BUCKETS_MIN, "{lanes}");
            for number in 0..3 * COUNT {
                assert_eq!(has(&shared, number), has(&alone, number), "{lanes} {number}");
            }
            // Every entry and every overflow bucket is counted.
            for number in 0..3 * COUNT {
                assert_eq!(remove(&mut shared, number), remove(&mut alone, number));
            }
            assert_eq!((shared.len(), shared.overflows), (0, 0));
        }
    }

    #[test]
    fn a_lane_that_is_dropped_leaves_the_table_whole() {
        let mut table = Table::new();
        for number in 0..COUNT {
            table.insert(hash(&number.to_le_bytes()), entry(number), hash_of);
        }
        table.widen(hash_of);
        // SAFETY: the lane is dropped before the table is used again.
        drop(unsafe { table.lend((0, 2)) });
        assert!((0..COUNT).all(|number| remove(&mut table, number)));
    }
}
