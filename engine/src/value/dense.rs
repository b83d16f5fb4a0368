//! A hash table whose elements lie densely, in the order in which they came.
//!
//! ```text
//! elements:  | 0 | 1 | 2 | ... | len-1 |    chunks of 4,096, in insertion order
//! index:     hash -> position               absent up to 8 elements
//! ```
//! Removal moves the last element into the gap. So the order follows from the history of
//! insertions and removals alone, never from hashes: replicas agree on it whatever seed they hash
//! with. A random element, the last one, and an iteration that survives changes ([`Dense::scan`])
//! cost O(1) an element. Chunks and the split-by-split index keep every single
//! insertion short, however large the table.

use std::hash::{BuildHasher, Hasher};
use std::iter::{Chain, Flatten};
use std::slice;
use std::sync::OnceLock;

use foldhash::quality::FixedState;

use super::index::{Index, POSITIONS_MAX};
use super::small::SmallBytes;
use crate::error::Error;
use crate::prefetch::prefetch;

/// Elements from which on nothing is added to a collection. A call adds fewer than 2^31, so that
/// positions, which are 32 bits, never run out.
const LEN_MAX: usize = if cfg!(test) { 200_000 } else { 1 << 31 };

/// Whether a collection of `len` elements may grow by those of one call.
///
/// # Errors
/// Where it is too large for that.
pub fn check_room(len: usize) -> Result<(), Error> {
    if len < LEN_MAX {
        return Ok(());
    }
    Err(Error::text("ERR the collection has too many elements"))
}

/// Elements a chunk.
const CHUNK: usize = 4096;
/// Up to this many elements they are compared one after the other.
const UNINDEXED_MAX: usize = 8;

static HASH_SEED: OnceLock<u64> = OnceLock::new();

/// Sets the seed of all hash tables of this process, so that nobody outside can choose colliding
/// elements. It counts only before the first table is made; nothing observable depends on it.
/// Returns whether it was accepted.
pub fn seed_hashes(seed: u64) -> bool {
    HASH_SEED.set(seed).is_ok()
}

/// What a [`Dense`] table can hold.
pub trait Keyed {
    /// The key under which the element is found. It must not change while it is in a table.
    fn key(&self) -> &[u8];
}

impl Keyed for SmallBytes {
    #[inline]
    fn key(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The elements of a table in order.
pub type Iter<'a, E> = Chain<slice::Iter<'a, E>, Flatten<slice::Iter<'a, Vec<E>>>>;

/// A hash table with elements in insertion order.
#[derive(Clone)]
pub struct Dense<E> {
    /// Elements 0 to 4,095: most tables have no more.
    first: Vec<E>,
    /// The others; each of these but the last is full, one empty one may follow.
    rest: Vec<Vec<E>>,
    len: usize,
    index: Index,
    hasher: FixedState,
}

impl<E: Keyed> Default for Dense<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Keyed> Dense<E> {
    /// An empty table.
    pub fn new() -> Self {
        let seed = *HASH_SEED.get_or_init(|| 0x5EED_0FA5_41A2);
        Dense {
            first: Vec::new(),
            rest: Vec::new(),
            len: 0,
            index: Index::default(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes taken on the heap, without what the elements own themselves.
    pub fn memory(&self) -> usize {
        let chunks: usize = self.rest.iter().map(Vec::capacity).sum();
        (self.first.capacity() + chunks) * size_of::<E>()
            + self.rest.capacity() * size_of::<Vec<E>>()
            + self.index.memory()
    }

    /// The element at a position.
    #[inline]
    pub fn at(&self, position: usize) -> Option<&E> {
        match position.checked_sub(CHUNK) {
            None => self.first.get(position),
            Some(beyond) => self.rest.get(beyond / CHUNK)?.get(beyond % CHUNK),
        }
    }

    /// The element at a position, to change it; its key must stay what it is.
    #[inline]
    pub fn at_mut(&mut self, position: usize) -> Option<&mut E> {
        match position.checked_sub(CHUNK) {
            None => self.first.get_mut(position),
            Some(beyond) => self.rest.get_mut(beyond / CHUNK)?.get_mut(beyond % CHUNK),
        }
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        (hasher.finish() >> 32) as u32
    }

    #[inline]
    fn find_hashed(&self, hash: u32, key: &[u8]) -> Option<usize> {
        if self.index.is_vacant() {
            return self.first.iter().position(|element| element.key() == key);
        }
        let matches =
            |position| self.at(position as usize).is_some_and(|element| element.key() == key);
        self.index.find(hash, matches).map(|position| position as usize)
    }

    /// Asks for the place in the index of a key to be brought near; returns its hash, for
    /// [`Dense::prefetch_element`]. 0 where there is nothing to bring.
    #[inline]
    pub fn prefetch_index(&self, key: &[u8]) -> u32 {
        if self.index.is_vacant() {
            return 0;
        }
        let hash = self.hash(key);
        self.index.prefetch(hash);
        hash
    }

    /// Asks for the element whose key has this hash to be brought near.
    #[inline]
    pub fn prefetch_element(&self, hash: u32) {
        if !self.index.is_vacant()
            && let Some(position) = self.index.find(hash, |_| true)
            && let Some(element) = self.at(position as usize)
        {
            prefetch(element);
        }
    }

    /// The position of the element with this key.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = if self.index.is_vacant() { 0 } else { self.hash(key) };
        self.find_hashed(hash, key)
    }

    /// The element with this key.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&E> {
        self.find(key).and_then(|position| self.at(position))
    }

    /// The element with this key, to change it; its key must stay what it is.
    #[inline]
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut E> {
        self.find(key).and_then(|position| self.at_mut(position))
    }

    /// The position of the element with this key, or a place for one: one lookup for both.
    #[inline]
    pub fn entry(&mut self, key: &[u8]) -> Entry<'_, E> {
        let hash = self.hash(key);
        match self.find_hashed(hash, key) {
            Some(position) => Entry::Found(position),
            None => Entry::Vacant(Vacant { table: self, hash }),
        }
    }

    /// Adds an element at the end unless there is one with its key. Returns whether it was added.
    pub fn insert(&mut self, element: E) -> bool {
        let hash = self.hash(element.key());
        let is_new = self.find_hashed(hash, element.key()).is_none();
        if is_new {
            self.push(hash, element);
        }
        is_new
    }

    fn push(&mut self, hash: u32, element: E) {
        assert!(self.len < POSITIONS_MAX, "commands ask `check_room` before they add");
        let position = self.len;
        match position.checked_sub(CHUNK).map(|beyond| beyond / CHUNK) {
            None => self.first.push(element),
            Some(chunk) => {
                if chunk == self.rest.len() {
                    self.rest.push(Vec::with_capacity(CHUNK));
                }
                self.rest[chunk].push(element);
            }
        }
        self.len += 1;
        if !self.index.is_vacant() {
            self.index.insert(hash, position as u32);
        } else if self.len > UNINDEXED_MAX {
            for position in 0..self.len {
                let hash = self.hash(self.first[position].key());
                self.index.insert(hash, position as u32);
            }
        }
    }

    /// Removes and returns the element with this key; the last element takes its position.
    pub fn remove(&mut self, key: &[u8]) -> Option<E> {
        let hash = self.hash(key);
        let position = self.find_hashed(hash, key)?;
        self.take(hash, position)
    }

    /// Removes and returns the element at a position; the last element takes its place.
    pub fn remove_at(&mut self, position: usize) -> Option<E> {
        let hash = self.hash(self.at(position)?.key());
        self.take(hash, position)
    }

    /// Removes and returns the last element.
    pub fn pop(&mut self) -> Option<E> {
        self.remove_at(self.len.checked_sub(1)?)
    }

    fn take(&mut self, hash: u32, position: usize) -> Option<E> {
        let last_position = self.len.checked_sub(1)?;
        if !self.index.is_vacant() {
            self.index.remove(hash, position as u32);
            if position != last_position {
                let last_hash = self.hash(self.at(last_position)?.key());
                self.index.relocate(last_hash, last_position as u32, position as u32);
            }
        }
        let last = self.pop_element(last_position)?;
        if position == last_position {
            return Some(last);
        }
        Some(std::mem::replace(self.at_mut(position)?, last))
    }

    fn pop_element(&mut self, position: usize) -> Option<E> {
        self.len -= 1;
        if let Some(chunk) = position.checked_sub(CHUNK).map(|beyond| beyond / CHUNK) {
            self.rest.truncate(chunk + 2);
            if self.rest.capacity() > 4 * self.rest.len() {
                self.rest.shrink_to(2 * self.rest.len());
            }
            return self.rest.get_mut(chunk)?.pop();
        }
        let element = self.first.pop();
        if self.first.len() < self.first.capacity() / 4 {
            self.rest = Vec::new();
            self.first.shrink_to(self.first.capacity() / 2);
            if self.len <= UNINDEXED_MAX / 2 {
                self.index = Index::default();
            }
        }
        element
    }

    /// The elements in order.
    pub fn iter(&self) -> Iter<'_, E> {
        self.first.iter().chain(self.rest.iter().flatten())
    }

    /// Visits up to `count` elements, from a position backwards, and returns the cursor to go on
    /// with; 0 begins, and 0 comes back at the end.
    ///
    /// Every element that is there from begin to end is visited at least once, whatever is
    /// inserted and removed between the calls: what moves, moves from behind to a lower position.
    pub fn scan<'s>(&'s self, cursor: u64, count: usize, mut visit: impl FnMut(&'s E)) -> u64 {
        let from = match usize::try_from(cursor) {
            Ok(0) => self.len,
            Ok(cursor) => cursor.min(self.len),
            Err(_) => self.len,
        };
        let to = from.saturating_sub(count.max(1));
        (to..from).rev().filter_map(|position| self.at(position)).for_each(&mut visit);
        to as u64
    }
}

impl<E: Keyed> Extend<E> for Dense<E> {
    fn extend<I: IntoIterator<Item = E>>(&mut self, elements: I) {
        elements.into_iter().for_each(|element| {
            self.insert(element);
        });
    }
}

impl<E: Keyed> FromIterator<E> for Dense<E> {
    fn from_iter<I: IntoIterator<Item = E>>(elements: I) -> Self {
        let mut table = Self::new();
        table.extend(elements);
        table
    }
}

/// What [`Dense::entry`] found.
pub enum Entry<'a, E> {
    /// The position of the element.
    Found(usize),
    /// There is none yet.
    Vacant(Vacant<'a, E>),
}

/// A place for an element with the key that was looked for.
pub struct Vacant<'a, E> {
    table: &'a mut Dense<E>,
    hash: u32,
}

impl<E: Keyed> Vacant<'_, E> {
    /// Adds an element, with the key that was looked for, at the end.
    #[inline]
    pub fn insert(self, element: E) {
        debug_assert_eq!(self.hash, self.table.hash(element.key()), "the key looked for");
        self.table.push(self.hash, element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Set = Dense<SmallBytes>;

    fn member(n: usize) -> SmallBytes {
        SmallBytes::new(format!("member:{n}").as_bytes())
    }

    fn members(set: &Set) -> Vec<SmallBytes> {
        set.iter().cloned().collect()
    }

    #[test]
    fn behaves_like_a_vector_with_swap_remove() {
        let rounds = if cfg!(miri) { 300 } else { 60_000 };
        let (mut set, mut model) = (Set::new(), Vec::new());
        let mut random = 1_u64;
        for round in 0..rounds {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (random >> 33) as usize;
            let grows = (round / (rounds / 4)) % 2 == 0;
            if n.is_multiple_of(4) || (grows && n % 4 < 3) {
                let new = member(n % (rounds / 2));
                let expected = !model.contains(&new);
                if expected {
                    model.push(new.clone());
                }
                assert_eq!(set.insert(new), expected);
            } else if !model.is_empty() {
                let position = n % model.len();
                let gone = model.swap_remove(position);
                let removed =
                    if n % 8 < 4 { set.remove(gone.key()) } else { set.remove_at(position) };
                assert_eq!(removed, Some(gone.clone()));
                assert_eq!(set.find(gone.key()), None);
            }
            assert_eq!(set.len(), model.len());
            if round % 1000 == 0 {
                assert_eq!(members(&set), model);
                for (position, element) in model.iter().enumerate() {
                    assert_eq!(set.find(element.key()), Some(position));
                }
            }
        }
        assert_eq!(members(&set), model);
        while let Some(last) = model.pop() {
            assert_eq!(set.pop(), Some(last));
        }
        assert_eq!(set.pop(), None);
    }

    #[test]
    fn gives_memory_back() {
        let count = if cfg!(miri) { 500 } else { 50_000 };
        let mut set: Set = (0..count).map(member).collect();
        let full = set.memory();
        while set.len() > count / 50 {
            set.remove_at(set.len() / 2);
        }
        assert!(set.memory() < full / 8, "{} of {full}", set.memory());
        while set.pop().is_some() {}
        assert!(set.memory() < 1000, "{}", set.memory());
    }

    #[test]
    fn a_scan_returns_all_that_stayed() {
        let count = if cfg!(miri) { 100 } else { 10_000 };
        let mut set: Set = (0..count).map(member).collect();
        let mut seen = Set::new();
        let (mut cursor, mut round) = (0, 0);
        loop {
            cursor = set.scan(cursor, 10, |element| {
                seen.insert(element.clone());
            });
            if cursor == 0 {
                break;
            }
            // Even members stay; odd ones go, from both ends, and others come.
            for n in round * 20..round * 20 + 20 {
                set.remove(member((n % count) | 1).key());
                set.remove(member((count - 1 - n % count) | 1).key());
                set.insert(member(count + n));
            }
            round += 1;
        }
        for n in (0..count).step_by(2) {
            assert!(seen.find(member(n).key()).is_some(), "{n}");
        }
    }

    #[test]
    fn scan_takes_any_cursor() {
        let set: Set = (0..10).map(member).collect();
        let mut visited = 0;
        assert_eq!(set.scan(u64::MAX, 4, |_| visited += 1), 6);
        assert_eq!(set.scan(6, usize::MAX, |_| visited += 1), 0);
        assert_eq!(visited, 10);
        assert_eq!(Set::new().scan(3, 10, |_| visited += 1), 0);
    }

    #[test]
    fn an_entry_is_found_or_made() {
        let mut set = Set::new();
        for n in 0..100 {
            match set.entry(member(n / 2).key()) {
                Entry::Found(position) => assert_eq!((position, n % 2), (n / 2, 1)),
                Entry::Vacant(vacant) => vacant.insert(member(n / 2)),
            }
        }
        assert_eq!(set.len(), 50);
    }
}
