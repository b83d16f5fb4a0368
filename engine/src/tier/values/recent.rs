//! Where rows are: a value that has left memory is often asked for again, and its place takes a hundredth of the room
//! of a value of 1 KB. With it a read does without the back end.
//!
//! ```text
//! bucket, 64 bytes    lock u8 | 7 slots of: tag u16 | place, 56 bits; all zeros where there is none
//! ```
//! A key's hash chooses two buckets and its tag; it is in the one that had more room. The slot that was used last
//! comes first, and what is written comes into the middle: who writes much pushes out what others have written and not
//! what is read. Another key may have the same tag, so who reads in a place compares the key there.
//!
//! A place may never be found here once its row has been changed. Who writes makes the number of writes odd, notes the
//! new places when they have been written, and makes it even again. A reader notes a place only if it was looked for and
//! noted at the same even number.

use super::Place;
use super::bugs::{Bug, is_back};
use parking_lot::Mutex;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places of a bucket.
const PLACES: usize = 7;
/// Where in a bucket a place begins that was written and not looked for.
const MIDDLE: usize = PLACES / 2;
const TAG_BYTES: usize = 2;
const SLOT_BYTES: usize = TAG_BYTES + Place::BYTES;

struct Slots([u8; PLACES * SLOT_BYTES]);

#[repr(align(64))]
struct Bucket(Mutex<Slots>);

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

impl Slots {
    fn slot(&mut self, at: usize) -> &mut [u8] {
        &mut self.0[at * SLOT_BYTES..(at + 1) * SLOT_BYTES]
    }

    fn tag(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at * SLOT_BYTES], self.0[at * SLOT_BYTES + 1]])
    }

    /// The slot with a tag: each is there at most once.
    fn position(&self, tag: u16) -> Option<usize> {
        (0..PLACES).find(|&at| self.tag(at) == tag)
    }

    /// Number of empty slots.
    fn room(&self) -> usize {
        (0..PLACES).filter(|&at| self.tag(at) == NO_TAG).count()
    }

    /// Moves the slot `from` to the front of those from `to` on, with what is in it now.
    fn bring(&mut self, from: usize, to: usize) {
        self.0[to * SLOT_BYTES..(from + 1) * SLOT_BYTES].rotate_right(SLOT_BYTES);
    }

    fn set(&mut self, at: usize, tag: u16, place: Place) {
        let slot = self.slot(at);
        slot[..TAG_BYTES].copy_from_slice(&tag.to_le_bytes());
        slot[TAG_BYTES..].copy_from_slice(&place.to_bytes());
    }

    /// Puts a place in front, or to where its tag is or the middle.
    fn put(&mut self, tag: u16, place: Place, in_front: bool) {
        let known = self.position(tag);
        let from = known.or_else(|| self.position(NO_TAG)).unwrap_or(PLACES - 1);
        let to = match (in_front, known) {
            (true, _) => 0,
            (false, Some(at)) => at,
            (false, None) => MIDDLE.min(from),
        };
        self.bring(from, to);
        self.set(to, tag, place);
    }
}

/// The tag of an empty slot.
const NO_TAG: u16 = 0;

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

/// What becomes of the place of a row that is written.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// The row has none any more.
    Forget,
    /// It is a row that is new or has been replaced.
    Written(Place),
    /// It is the same row in another place.
    Moved(Place),
}

impl Recent {
    /// Room for as many places as fit into so many bytes.
    pub fn new(bytes: u64) -> Recent {
        let count = (bytes / size_of::<Bucket>() as u64).max(1) as usize;
        let empty = || Bucket(Mutex::new(Slots([0; PLACES * SLOT_BYTES])));
        let buckets = (0..count).map(|_| empty()).collect();
        Recent { buckets, writes: AtomicU64::new(0), hasher: foldhash::fast::FixedState::default() }
    }

    /// The tag of a key, and its two buckets.
    fn buckets(&self, key: &[u8]) -> (u16, usize, usize) {
        let hash = self.hasher.hash_one(key);
        let place = |hash: u64| ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize;
        let other = hash.rotate_left(32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash as u16).max(NO_TAG + 1), place(hash), place(other))
    }

    /// Locks both buckets of a key, and passes the one that has its tag, or else more room, and the tag.
    fn with_home<R>(&self, key: &[u8], visit: impl FnOnce(&mut Slots, u16) -> R) -> R {
        let (tag, one, two) = self.buckets(key);
        let lock = |at: usize| self.buckets[at].0.lock();
        if one == two {
            return visit(&mut lock(one), tag);
        }
        // In order, as others lock them too.
        let (mut low, mut high) = (lock(one.min(two)), lock(one.max(two)));
        let (first, second) =
            if one < two { (&mut *low, &mut *high) } else { (&mut *high, &mut *low) };
        let knows = first.position(tag).is_some();
        let is_second = second.position(tag).is_some() || second.room() > first.room();
        visit(if knows || !is_second { first } else { second }, tag)
    }

    /// Where a key's place is while there is room: its tag and its first bucket.
    #[cfg(test)]
    pub fn slot_of(&self, key: &[u8]) -> (u16, usize) {
        let (tag, one, _) = self.buckets(key);
        (tag, one)
    }

    /// The place of a row, if it is known, or that of another key's row.
    pub fn find(&self, key: &[u8]) -> Option<Place> {
        let (tag, one, two) = self.buckets(key);
        [one, two].into_iter().find_map(|bucket| {
            let mut slots = self.buckets[bucket].0.lock();
            let at = slots.position(tag)?;
            slots.bring(at, 0);
            Place::read(&slots.slot(0)[TAG_BYTES..])
        })
    }

    /// To be taken before a place is looked for.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.writes.load(Ordering::Acquire))
    }

    /// Notes a place, unless something has been written since the ticket.
    pub fn note(&self, ticket: Ticket, key: &[u8], place: Place) {
        self.with_home(key, |slots, tag| {
            let now = self.writes.load(Ordering::Acquire);
            if now == ticket.0 && now.is_multiple_of(2) || is_back(Bug::PlacesNotedLate) {
                slots.put(tag, place, true);
            }
        });
    }

    /// Writes rows, one thread at a time. Their new places are known then, and if that fails none are.
    pub fn change<'k, R, E>(
        &self,
        changes: impl Iterator<Item = (&'k [u8], Change)>,
        write: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        self.writes.fetch_add(1, Ordering::AcqRel);
        let result = write();
        for (key, change) in changes {
            self.with_home(key, |slots, tag| match (change, slots.position(tag)) {
                (Change::Written(place), _) if result.is_ok() => slots.put(tag, place, false),
                (Change::Moved(place), Some(at)) if result.is_ok() => slots.set(at, tag, place),
                (_, Some(at)) => slots.slot(at).fill(0),
                (_, None) => {}
            });
        }
        self.writes.fetch_add(1, Ordering::AcqRel);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(nth: u32) -> Place {
        Place { segment: nth, offset: 16 * nth, len: 200 }
    }

    fn write(recent: &Recent, key: &[u8], change: Change) {
        recent.change([(key, change)].into_iter(), || Ok::<(), ()>(())).unwrap();
    }

    #[test]
    fn what_is_read_stays_before_what_is_written() {
        let recent = Recent::new(64);
        let key = |nth: u32| nth.to_le_bytes();
        for nth in 0..2 {
            recent.note(recent.ticket(), &key(nth), place(nth));
        }
        (10..500).for_each(|nth| write(&recent, &key(nth), Change::Written(place(nth))));
        let known = |nth: u32| recent.find(&key(nth)) == Some(place(nth));
        assert!(known(0) && known(1), "two that were read");
        assert_eq!((10..500).filter(|nth| known(*nth)).count(), PLACES - 2);
        // Those that were read now are seven others.
        for nth in 1_000..1_007 {
            recent.note(recent.ticket(), &key(nth), place(nth));
        }
        assert!((1_000..1_007).all(known) && !known(0));
    }

    #[test]
    fn nearly_all_of_the_room_is_used() {
        let recent = Recent::new(64 * 1_000);
        let count = PLACES as u32 * 1_000;
        for nth in 0..count {
            write(&recent, &nth.to_le_bytes(), Change::Written(place(nth)));
        }
        let known = |nth: &u32| recent.find(&nth.to_le_bytes()) == Some(place(*nth));
        let known = (0..count).filter(known).count();
        assert!(known * 100 > PLACES * 1_000 * 93, "{known}");
    }

    #[test]
    fn places_follow_their_rows() {
        let recent = Recent::new(64 << 10);
        write(&recent, b"moved", Change::Moved(place(1)));
        assert_eq!(recent.find(b"moved"), None, "who moves rows adds none");
        write(&recent, b"moved", Change::Written(place(2)));
        write(&recent, b"moved", Change::Moved(place(3)));
        assert_eq!(recent.find(b"moved"), Some(place(3)));
        write(&recent, b"moved", Change::Forget);
        assert_eq!(recent.find(b"moved"), None);
        for change in [Change::Written(place(5)), Change::Moved(place(5)), Change::Forget] {
            write(&recent, b"failed", Change::Written(place(4)));
            let changes = [(&b"failed"[..], change)].into_iter();
            assert!(recent.change(changes, || Err::<(), ()>(())).is_err());
            assert_eq!(recent.find(b"failed"), None);
        }
    }
}
