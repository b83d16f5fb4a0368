//! Where rows are that were looked for of late: a value that has left memory again is often asked for again, and its
//! place takes a seventieth of the room of a value of 1 KB. With it a read does without the back end.
//!
//! A place may never be found here once its row has been changed. Who writes makes the number of writes odd, forgets
//! the rows when they have been written, and makes it even again. A place is noted only if it was looked for and
//! noted at the same even number.

use super::Place;
use super::bugs::{Bug, is_back};
use parking_lot::Mutex;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places of a bucket, the one that was used last first.
const PLACES: usize = 4;

/// A hash and a place; all zeros where there is none.
type Bucket = Mutex<[(u64, u64); PLACES]>;

pub(super) struct Recent {
    buckets: Box<[Bucket]>,
    writes: AtomicU64,
    hasher: foldhash::fast::FixedState,
}

/// The number of writes when a place was looked for.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// With it nothing is noted.
    pub const NEVER: Ticket = Ticket(1);
}

impl Recent {
    /// Room for as many places as fit into so many bytes.
    pub fn new(bytes: u64) -> Recent {
        let count = (bytes / size_of::<Bucket>() as u64).max(1) as usize;
        let buckets = (0..count).map(|_| Bucket::default()).collect();
        Recent { buckets, writes: AtomicU64::new(0), hasher: foldhash::fast::FixedState::default() }
    }

    fn bucket(&self, key: &[u8]) -> (u64, &Bucket) {
        let hash = self.hasher.hash_one(key) | 1;
        let at = ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize;
        (hash, &self.buckets[at])
    }

    /// The place of a row, if it is known.
    pub fn find(&self, key: &[u8]) -> Option<Place> {
        let (hash, bucket) = self.bucket(key);
        let mut bucket = bucket.lock();
        let at = bucket.iter().position(|(known, _)| *known == hash)?;
        bucket[..=at].rotate_right(1);
        Some(Place::from_word(bucket[0].1))
    }

    /// To be taken before a place is looked for.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.writes.load(Ordering::Acquire))
    }

    /// Notes a place, unless something has been written since the ticket.
    pub fn note(&self, ticket: Ticket, key: &[u8], place: Place) {
        let (hash, bucket) = self.bucket(key);
        let mut bucket = bucket.lock();
        let is_same = self.writes.load(Ordering::Acquire) == ticket.0 && ticket.0.is_multiple_of(2);
        if !is_same && !is_back(Bug::PlacesNotedLate) {
            return;
        }
        let at = bucket.iter().position(|(known, _)| *known == hash).unwrap_or(PLACES - 1);
        bucket[..=at].rotate_right(1);
        bucket[0] = (hash, place.to_word());
    }

    /// Writes rows, one thread at a time, whose places are forgotten however that ends.
    pub fn change<'k, R>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        write: impl FnOnce() -> R,
    ) -> R {
        self.writes.fetch_add(1, Ordering::AcqRel);
        let result = write();
        for key in keys {
            let (hash, bucket) = self.bucket(key);
            let mut bucket = bucket.lock();
            if let Some(slot) = bucket.iter_mut().find(|(known, _)| *known == hash) {
                *slot = (0, 0);
            }
        }
        self.writes.fetch_add(1, Ordering::AcqRel);
        result
    }
}
