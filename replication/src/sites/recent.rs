//! What was changed here of late: the queue of the links, one for all of them.
//!
//! ```text
//! chunk    changes, one behind the other, with the first and the last stamp beside them
//! change   stamp u64 | key length u32 | name length u32 | key | name
//! ```
//! It has names only; a link reads the elements when it sends them, so that an element which was
//! changed many times travels once. It is bounded: a site that was away for longer than it
//! reaches back is told of all elements that were changed since, found by looking at every key.

use std::collections::VecDeque;

/// Most bytes that are kept.
pub const RECENT_BYTES_MAX: usize = 64 << 20;
/// The same for a group of a cluster, of which a node keeps many.
pub const GROUP_BYTES_MAX: usize = 8 << 20;
/// Bytes of a chunk, unless one change is longer.
const CHUNK_BYTES: usize = 32 << 10;
/// Bytes of a change besides those of key and name.
const HEADER: usize = 16;

/// A change.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Its stamp.
    pub stamp: u64,
    /// The key.
    pub key: &'a [u8],
    /// The element.
    pub name: &'a [u8],
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    last: u64,
    changes: usize,
}

impl Chunk {
    fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (header, rest) = self.bytes.get(at..)?.split_first_chunk::<HEADER>()?;
            let word = |from: usize| {
                u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes")) as usize
            };
            let stamp = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
            let (key, rest) = rest.split_at(word(8));
            let name = &rest[..word(12)];
            at += HEADER + key.len() + name.len();
            Some(Change { stamp, key, name })
        })
    }
}

/// Changes in the order of their stamps.
#[derive(Debug)]
pub struct Recent {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
    /// Changes up to this stamp may be missing.
    floor: u64,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent::with_bytes(RECENT_BYTES_MAX)
    }
}

impl Recent {
    /// Keeps at most so many bytes.
    pub fn with_bytes(bytes_max: usize) -> Recent {
        Recent { chunks: VecDeque::new(), bytes: 0, bytes_max, floor: 0 }
    }

    /// Adds a change; its stamp is at or above all before.
    pub fn push(&mut self, stamp: u64, key: &[u8], name: &[u8]) {
        let len = HEADER + key.len() + name.len();
        let room = |chunk: &Chunk| chunk.bytes.len() + len <= CHUNK_BYTES;
        if !self.chunks.back().is_some_and(room) {
            let bytes = Vec::with_capacity(CHUNK_BYTES.max(len));
            self.chunks.push_back(Chunk { bytes, last: stamp, changes: 0 });
        }
        let chunk = self.chunks.back_mut().expect("one was added if there was none with room");
        let short = |len: usize| u32::try_from(len).expect("keys are far shorter than 4 GiB");
        chunk.bytes.extend_from_slice(&stamp.to_le_bytes());
        chunk.bytes.extend_from_slice(&short(key.len()).to_le_bytes());
        chunk.bytes.extend_from_slice(&short(name.len()).to_le_bytes());
        chunk.bytes.extend_from_slice(key);
        chunk.bytes.extend_from_slice(name);
        (chunk.last, chunk.changes) = (stamp, chunk.changes + 1);
        self.bytes += len;
        while self.bytes > self.bytes_max {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.chunks.pop_front() {
            self.bytes -= oldest.bytes.len();
            self.floor = self.floor.max(oldest.last);
        }
    }

    /// Nothing is known of changes up to a stamp, as after a restart.
    pub fn begin_at(&mut self, stamp: u64) {
        self.floor = self.floor.max(stamp);
    }

    /// Lets go of what every site has, a chunk at a time.
    pub fn release(&mut self, acknowledged: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.last <= acknowledged) {
            self.pop();
        }
    }

    /// Whether all changes after a stamp are here.
    pub fn reaches(&self, stamp: u64) -> bool {
        stamp >= self.floor
    }

    /// The changes after a stamp.
    pub fn after(&self, stamp: u64) -> impl Iterator<Item = Change<'_>> {
        let at = self.chunks.partition_point(|chunk| chunk.last <= stamp);
        let changes = self.chunks.range(at..).flat_map(Chunk::changes);
        changes.skip_while(move |change| change.stamp <= stamp)
    }

    /// Number and bytes of the changes after a stamp, and the stamp of the first.
    pub fn lag(&self, stamp: u64) -> (usize, usize, Option<u64>) {
        let at = self.chunks.partition_point(|chunk| chunk.last <= stamp);
        let mut later = self.chunks.range(at..);
        let Some(first) = later.next() else { return (0, 0, None) };
        let of_first = first.changes().filter(|change| change.stamp > stamp);
        let of_first = of_first.map(|change| HEADER + change.key.len() + change.name.len());
        let (mut records, mut bytes) = of_first.fold((0, 0), |(n, sum), len| (n + 1, sum + len));
        for chunk in later {
            records += chunk.changes;
            bytes += chunk.bytes.len();
        }
        (records, bytes, self.after(stamp).next().map(|change| change.stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_stamp_is_found_whatever_the_chunks() {
        let mut recent = Recent::default();
        let (key, long) = ([7; 100], vec![1; 3 * CHUNK_BYTES]);
        for stamp in 1..=2_000 {
            recent.push(stamp, &key[..(stamp % 90) as usize], b"name");
            if stamp % 700 == 0 {
                recent.push(stamp, &long, b"");
            }
        }
        assert!(recent.chunks.len() > 3, "there are several chunks");
        for stamp in [0, 1, 333, 699, 700, 701, 1_999, 2_000, 2_001] {
            let later: Vec<u64> = recent.after(stamp).map(|change| change.stamp).collect();
            let longs = [700, 1_400].iter().filter(|at| **at > stamp).count();
            assert_eq!(later.len() as u64, 2_000u64.saturating_sub(stamp) + longs as u64);
            assert!(later.is_sorted() && later.iter().all(|at| *at > stamp));
            let (records, bytes, first) = recent.lag(stamp);
            assert_eq!((records, first), (later.len(), later.first().copied()));
            assert_eq!(bytes == 0, later.is_empty());
        }
        recent.release(1_000);
        assert!(recent.reaches(1_000) && recent.after(1_000).count() > 1_000);
        assert!(!recent.reaches(0));
        recent.release(2_000);
        assert_eq!((recent.bytes, recent.after(0).count()), (0, 0));
    }

    #[test]
    fn the_oldest_give_way() {
        let mut recent = Recent::default();
        let key = vec![0; 1 << 20];
        for stamp in 1..=100 {
            recent.push(stamp, &key, b"name");
        }
        assert!(recent.bytes <= RECENT_BYTES_MAX);
        assert!(!recent.reaches(20) && recent.reaches(50));
        assert_eq!(recent.after(99).count(), 1);
    }
}
