//! The keys of the cold tier in memory: at most 16 bytes a key.
//!
//! ```text
//! bucket, 128 bytes   11 slots of: word u64, tag u16 (the fingerprint), epoch u8, kept 1 bit | length
//! ```
//! The bit says that a snapshot names the key's row, so that it has to stay when the key has gone.
//!
//! A table of segments, each for one range of fingerprints: the first bits of the fingerprint choose
//! it through a directory (Fagin et al., "Extendible hashing", TODS 1979). In its segment a fingerprint
//! may be in either of two buckets, and makes room by moving others to their second bucket (Pagh and
//! Rodler, "Cuckoo hashing", 2004), so that a segment fills to more than nine tenths before it grows
//! by an eighth. A change touches two buckets, or rebuilds one segment of at most 8 KiB: no operation
//! pays for the growth of the whole.

use super::fingerprint::Fingerprint;

const SLOTS: usize = 11;
/// Buckets of a segment above which it is split.
const BUCKETS_MAX: usize = 64;
/// Fingerprints that are moved to make room for one before the segment grows.
const KICKS_MAX: usize = 64;
/// Places of the directory for each segment above which it does not grow: fingerprints that share
/// their first bits beyond what chance allows make their segment longer instead.
const DIRECTORY_SHARE: usize = 16;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    words: [u64; SLOTS],
    tags: [u16; SLOTS],
    /// A bit a slot.
    kept: u16,
    epochs: [u8; SLOTS],
    len: u8,
}

/// What the index knows of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The epoch in which it was written.
    pub epoch: u8,
    /// Whether a snapshot names it.
    pub kept: bool,
}

type Slot = (Fingerprint, Named);

const _: () = assert!(size_of::<Bucket>() == 128, "a bucket is two cache lines");

impl Bucket {
    const EMPTY: Bucket =
        Bucket { words: [0; SLOTS], tags: [0; SLOTS], kept: 0, epochs: [0; SLOTS], len: 0 };

    fn find(&self, print: Fingerprint) -> Option<usize> {
        let len = self.len as usize;
        (0..len).find(|&at| self.words[at] == print.word && self.tags[at] == print.tag)
    }

    fn named(&self, at: usize) -> Named {
        Named { epoch: self.epochs[at], kept: self.kept >> at & 1 == 1 }
    }

    fn at(&self, at: usize) -> Slot {
        (Fingerprint { word: self.words[at], tag: self.tags[at] }, self.named(at))
    }

    fn set(&mut self, at: usize, (print, named): Slot) {
        (self.words[at], self.tags[at], self.epochs[at]) = (print.word, print.tag, named.epoch);
        self.kept = self.kept & !(1 << at) | u16::from(named.kept) << at;
    }

    fn push(&mut self, slot: Slot) -> bool {
        let at = self.len as usize;
        if at == SLOTS {
            return false;
        }
        self.set(at, slot);
        self.len += 1;
        true
    }

    fn remove(&mut self, at: usize) -> Named {
        let named = self.named(at);
        self.len -= 1;
        self.set(at, self.at(self.len as usize));
        named
    }

    fn iter(&self) -> impl Iterator<Item = Slot> {
        (0..self.len as usize).map(|at| self.at(at))
    }
}

struct Segment {
    buckets: Vec<Bucket>,
    len: usize,
    /// Bits that all its fingerprints have in common.
    depth: u32,
}

impl Segment {
    fn new(buckets: usize, depth: u32) -> Segment {
        Segment { buckets: vec![Bucket::EMPTY; buckets], len: 0, depth }
    }

    /// The two buckets of a fingerprint.
    fn places(&self, print: Fingerprint) -> (usize, usize) {
        let mixed = (print.word ^ u64::from(print.tag) << 47).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let count = self.buckets.len() as u64;
        let place = |half: u64| ((half * count) >> 32) as usize;
        let (one, two) = (place(mixed >> 32), place(mixed & 0xFFFF_FFFF));
        (one, if one == two { (one + 1) % self.buckets.len() } else { two })
    }

    fn find(&self, print: Fingerprint) -> Option<(usize, usize)> {
        let (one, two) = self.places(print);
        [one, two].into_iter().find_map(|place| Some((place, self.buckets[place].find(print)?)))
    }

    /// Puts a slot into one of its places; gives back the one that found none.
    fn place(&mut self, mut slot: Slot) -> Result<(), Slot> {
        for kick in 0..KICKS_MAX {
            let (one, two) = self.places(slot.0);
            let emptier = if self.buckets[one].len <= self.buckets[two].len { one } else { two };
            if self.buckets[emptier].push(slot) {
                self.len += 1;
                return Ok(());
            }
            // Which slot has to move varies with the fingerprint and the step.
            let place = if kick % 2 == 0 { one } else { two };
            let at = (slot.0.tag as usize + kick * 5) % SLOTS;
            let out = self.buckets[place].at(at);
            self.buckets[place].set(at, slot);
            slot = out;
        }
        Err(slot)
    }

    /// The same slots and one more in another number of buckets, or in as many more as it takes.
    fn rebuild(&mut self, mut count: usize, more: Option<Slot>) {
        'size: loop {
            let mut fresh = Segment::new(count, self.depth);
            for slot in self.buckets.iter().flat_map(Bucket::iter).chain(more) {
                if fresh.place(slot).is_err() {
                    count += 1 + count / 8;
                    continue 'size;
                }
            }
            *self = fresh;
            return;
        }
    }
}

/// Buckets for so many fingerprints, with some room.
fn roomy(len: usize) -> usize {
    (len * 8).div_ceil(SLOTS * 7).max(1)
}

/// The index of the cold keys of a database in one shard.
#[derive(Default)]
pub struct ColdIndex {
    /// For each of the first bits of a fingerprint, its segment.
    directory: Vec<u32>,
    segments: Vec<Segment>,
    len: usize,
}

impl ColdIndex {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let buckets: usize = self.segments.iter().map(|segment| segment.buckets.capacity()).sum();
        buckets * size_of::<Bucket>()
            + self.segments.capacity() * size_of::<Segment>()
            + self.directory.capacity() * size_of::<u32>()
    }

    fn depth(&self) -> u32 {
        self.directory.len().trailing_zeros()
    }

    fn place(&self, word: u64) -> usize {
        word.checked_shr(64 - self.depth()).unwrap_or(0) as usize
    }

    fn segment(&self, print: Fingerprint) -> Option<usize> {
        self.directory.get(self.place(print.word)).map(|&number| number as usize)
    }

    /// The epoch of a key's row.
    pub fn get(&self, print: Fingerprint) -> Option<u8> {
        let segment = &self.segments[self.segment(print)?];
        let (place, at) = segment.find(print)?;
        Some(segment.buckets[place].epochs[at])
    }

    /// Says of the keys of the segment that has `from`, those from there on, that a snapshot names their
    /// rows.
    pub fn keep(&mut self, from: u64) {
        let place = self.place(from);
        let Some(&number) = self.directory.get(place) else { return };
        for bucket in &mut self.segments[number as usize].buckets {
            for at in 0..bucket.len as usize {
                bucket.kept |= u16::from(bucket.words[at] >= from) << at;
            }
        }
    }

    /// Adds a key; `false`, and nothing is changed, where its fingerprint is there already.
    pub fn insert(&mut self, print: Fingerprint, named: Named) -> bool {
        if self.directory.is_empty() {
            self.directory.push(0);
            self.segments.push(Segment::new(1, 0));
        }
        if self.get(print).is_some() {
            return false;
        }
        self.len += 1;
        let number = self.segment(print).expect("the directory has a segment for every word");
        let segment = &mut self.segments[number];
        if let Err(left) = segment.place((print, named)) {
            let count = segment.buckets.len();
            segment.rebuild(count + 1 + count / 8, Some(left));
            let splits = segment.buckets.len() > BUCKETS_MAX
                && (segment.depth < self.depth()
                    || self.directory.len() <= self.segments.len() * DIRECTORY_SHARE);
            if splits {
                self.split(number);
            }
        }
        true
    }

    /// Splits a segment by one more bit of its fingerprints.
    fn split(&mut self, number: usize) {
        let depth = self.segments[number].depth;
        if depth == self.depth() {
            self.directory = self.directory.iter().flat_map(|&number| [number, number]).collect();
        }
        let old = std::mem::replace(&mut self.segments[number], Segment::new(1, depth + 1));
        let upper = |print: Fingerprint| print.word << depth >> 63 == 1;
        let slots = || old.buckets.iter().flat_map(Bucket::iter);
        let ones = slots().filter(|(print, _)| upper(*print)).count();
        let fresh = self.segments.len();
        self.segments.push(Segment::new(1, depth + 1));
        for (number, side, len) in [(number, false, old.len - ones), (fresh, true, ones)] {
            let mut half = Segment::new(roomy(len), depth + 1);
            for slot in slots().filter(|(print, _)| upper(*print) == side) {
                if let Err(left) = half.place(slot) {
                    let count = half.buckets.len();
                    half.rebuild(count + 1 + count / 8, Some(left));
                }
            }
            self.segments[number] = half;
        }
        let bit = 1 << (self.depth() - depth - 1);
        for (at, place) in self.directory.iter_mut().enumerate() {
            if *place as usize == number && at & bit != 0 {
                *place = fresh as u32;
            }
        }
    }

    /// Removes a key; what was known of its row, if it was there.
    pub fn remove(&mut self, print: Fingerprint) -> Option<Named> {
        let number = self.segment(print)?;
        let segment = &mut self.segments[number];
        let (place, at) = segment.find(print)?;
        let named = segment.buckets[place].remove(at);
        segment.len -= 1;
        self.len -= 1;
        let count = segment.buckets.len();
        if count > 1 && segment.len * 2 < count * SLOTS {
            segment.rebuild(roomy(segment.len).min(count - 1), None);
        }
        if self.len == 0 {
            *self = ColdIndex::default();
        }
        Some(named)
    }

    /// Visits the keys whose word is from `from` to `to`, both included, in no particular order.
    pub fn for_range(&self, from: u64, to: u64, mut each: impl FnMut(Fingerprint, u8)) {
        if self.directory.is_empty() {
            return;
        }
        let mut last = None;
        for place in self.place(from)..=self.place(to) {
            let number = self.directory[place];
            if last == Some(number) {
                continue;
            }
            last = Some(number);
            for (print, named) in
                self.segments[number as usize].buckets.iter().flat_map(Bucket::iter)
            {
                if (from..=to).contains(&print.word) {
                    each(print, named.epoch);
                }
            }
        }
    }

    /// Visits the keys of the segment that has `from`, those from there on, and returns from where to
    /// go on; `None` at the end.
    pub fn step(&self, from: u64, each: impl FnMut(Fingerprint, u8)) -> Option<u64> {
        let segment = &self.segments[*self.directory.get(self.place(from))? as usize];
        let last = from | u64::MAX.checked_shr(segment.depth).unwrap_or(0);
        self.for_range(from, last, each);
        last.checked_add(1)
    }

    /// A key chosen by the random number `random`.
    pub fn random(&self, random: u64) -> Option<(Fingerprint, u8)> {
        let below = |bits: u64, count: usize| ((bits * count as u64) >> 32) as usize;
        let mut at = below(random >> 32, self.segments.len());
        for _ in 0..self.segments.len() {
            let segment = &self.segments[at];
            let start = below(random & 0xFFFF_FFFF, segment.buckets.len().max(1));
            for step in 0..segment.buckets.len() {
                let bucket = &segment.buckets[(start + step) % segment.buckets.len()];
                if bucket.len > 0 {
                    let nth = random.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                    let (print, named) = bucket.at(nth as usize % bucket.len as usize);
                    return Some((print, named.epoch));
                }
            }
            at = (at + 1) % self.segments.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Rng;
    use std::collections::BTreeMap;

    fn named(epoch: u8) -> Named {
        Named { epoch, kept: epoch.is_multiple_of(3) }
    }

    fn print(rng: &mut Rng) -> Fingerprint {
        Fingerprint { word: rng.next_u64(), tag: rng.next_u64() as u16 }
    }

    #[test]
    fn behaves_as_a_map() {
        for seed in 0..4 {
            let mut rng = Rng::new(seed);
            let (mut index, mut model) = (ColdIndex::default(), BTreeMap::new());
            for step in 0..60_000 {
                let grow = step % 40_000 < 25_000;
                if rng.below(10) < if grow { 8 } else { 2 } {
                    let (print, epoch) = (print(&mut rng), rng.next_u64() as u8);
                    assert!(index.insert(print, named(epoch)) && !index.insert(print, named(1)));
                    model.insert(print, epoch);
                } else {
                    let from = print(&mut rng);
                    let some = model.range(from..).next().map(|(print, epoch)| (*print, *epoch));
                    let Some((print, epoch)) = some else { continue };
                    assert_eq!(index.get(print), Some(epoch), "seed {seed} step {step}");
                    assert_eq!(index.remove(print), Some(named(epoch)));
                    assert_eq!((index.remove(print), index.get(print)), (None, None));
                    model.remove(&print);
                }
                assert_eq!(index.len(), model.len());
            }
            let mut all = Vec::new();
            let mut from = Some(0);
            while let Some(at) = from {
                from = index.step(at, |print, epoch| all.push((print, epoch)));
            }
            all.sort_unstable();
            assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
            let (low, high) = (1 << 62, 3 << 62);
            let mut some = Vec::new();
            index.for_range(low, high, |print, epoch| some.push((print, epoch)));
            some.sort_unstable();
            let inside = |print: &Fingerprint| (low..=high).contains(&print.word);
            let model: Vec<_> = model.into_iter().filter(|(print, _)| inside(print)).collect();
            assert_eq!(some, model);
            for _ in 0..100 {
                let (print, epoch) = index.random(rng.next_u64()).unwrap();
                assert_eq!(index.get(print), Some(epoch));
            }
            for (print, _) in all {
                index.remove(print).unwrap();
            }
            assert_eq!((index.bytes(), index.random(5)), (0, None));
        }
    }

    #[test]
    fn a_key_takes_at_most_16_bytes() {
        let (mut index, mut rng) = (ColdIndex::default(), Rng::new(1));
        for count in 1..=400_000 {
            index.insert(print(&mut rng), named(0));
            if count > 2_000 && count % 1_000 == 0 {
                let bytes = index.bytes() as f64 / f64::from(count);
                assert!(bytes < 16.0, "{bytes} bytes a key at {count}");
            }
        }
    }

    #[test]
    fn what_is_kept_stays_marked_wherever_it_moves() {
        let (mut index, mut rng) = (ColdIndex::default(), Rng::new(3));
        let (mut old, mut from) = (Vec::new(), Some(0));
        for _ in 0..5_000 {
            old.push(print(&mut rng));
            index.insert(old[old.len() - 1], Named { epoch: 1, kept: false });
        }
        while let Some(at) = from {
            index.keep(at);
            from = index.step(at, |_, _| ());
        }
        for _ in 0..5_000 {
            assert!(index.insert(print(&mut rng), Named { epoch: 2, kept: false }));
        }
        for print in old {
            assert_eq!(index.remove(print), Some(Named { epoch: 1, kept: true }));
        }
        while let Some((print, _)) = index.random(rng.next_u64()) {
            assert_eq!(index.remove(print), Some(Named { epoch: 2, kept: false }));
        }
    }

    #[test]
    fn equal_words_are_told_apart_by_their_tags() {
        let mut index = ColdIndex::default();
        for tag in 0..2_000 {
            assert!(index.insert(Fingerprint { word: 5, tag }, named(1)));
        }
        for tag in 0..2_000 {
            assert_eq!(index.remove(Fingerprint { word: 5, tag }), Some(named(1)));
        }
    }
}
