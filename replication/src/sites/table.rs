//! The states of keys in little memory: a hash table of packed blocks.
//!
//! ```text
//! block    records, one behind the other, 16 of them on average
//! record   form (2 bits), key length (6 bits; 63: a u32 follows) | key | state
//!
//! form 0   a string that one site wrote        site and stamp, 8 bytes
//!      1   a counter that one site increments  site and stamp, 8 bytes | since u64 | sum i64
//!      2   a few elements                      length u16 | name bytes, element: as they are sent
//!      3   anything else                       number of an allocation of its own, u32
//! ```
//! Site and stamp share a word: 6 bits for the site, which has a number of its own here, and 58 for the
//! stamp, which last until the year 2109; what does not fit takes form 2. A block is found by the hash of
//! the key, whose seed is the host's, and grows by linear hashing: one block is split at a time, so no
//! call pays for a rehash, and a key only ever moves to a block with a larger number. Whoever walks
//! through the blocks in their order therefore meets every key that was there from start to end.

use super::codec::{push_bytes, push_element, read_bytes, read_element};
use super::element::SiteId;
use super::key::{Key, Short};
use crate::bytes::Reader;
use std::borrow::Cow;

/// Records of a block on average.
const BLOCK_RECORDS: usize = 16;
/// Blocks have room for a multiple of so many bytes.
const BLOCK_STEP: usize = 32;
/// Elements and bytes of a key up to which they are packed.
const PACKED_ELEMENTS_MAX: usize = 6;
const PACKED_BYTES_MAX: usize = 256;
/// Elements from which one that was not packed stays so.
const UNPACKED_ELEMENTS_MIN: usize = 4;
/// Sites that have a number here.
const NUMBERED_MAX: usize = 64;
const STAMP_BITS: u32 = 58;
/// A key length that stands behind the header.
const LONG: u8 = 63;

const PLAIN: u8 = 0;
const COUNT: u8 = 1;
const PACKED: u8 = 2;
const LARGE: u8 = 3;

/// The states of keys.
#[derive(Clone, Debug)]
pub struct Table {
    blocks: Vec<Vec<u8>>,
    len: usize,
    seed: u64,
    /// The sites by their numbers here.
    numbered: Vec<SiteId>,
    large: Vec<Key>,
    free: Vec<u32>,
    scratch: Vec<u8>,
}

/// Where a key's record is; good until the table changes.
#[derive(Debug)]
pub struct Place {
    block: usize,
    /// Start and end in the block; none of a key that is not there.
    span: Option<(usize, usize)>,
    /// Number of its allocation.
    large: Option<u32>,
}

struct Record<'a> {
    start: usize,
    end: usize,
    form: u8,
    key: &'a [u8],
    state: &'a [u8],
}

/// The record that begins at `start`.
fn record_at(block: &[u8], start: usize) -> Record<'_> {
    let (form, short) = (block[start] >> 6, block[start] & LONG);
    let (key, len) = match short {
        LONG => (start + 5, u32_at(block, start + 1) as usize),
        short => (start + 1, usize::from(short)),
    };
    let state = key + len;
    let end = state
        + match form {
            PLAIN => 8,
            COUNT => 24,
            PACKED => 2 + usize::from(block[state]) + 256 * usize::from(block[state + 1]),
            _ => 4,
        };
    Record { start, end, form, key: &block[key..state], state: &block[state..end] }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn records(block: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let record = (at < block.len()).then(|| record_at(block, at))?;
        at = record.end;
        Some(record)
    })
}

impl Table {
    /// An empty one; whoever knows the seed can make keys meet in one block.
    pub fn new(seed: u64) -> Table {
        Table {
            blocks: vec![Vec::new()],
            len: 0,
            seed,
            numbered: Vec::new(),
            large: Vec::new(),
            free: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_of(&self, key: &[u8]) -> usize {
        let hash = super::hash::bytes(self.seed, key) as usize;
        let above = self.blocks.len().next_power_of_two();
        match hash & (above - 1) {
            block if block < self.blocks.len() => block,
            block => block & (above / 2 - 1),
        }
    }

    fn find(&self, block: usize, key: &[u8]) -> Option<Record<'_>> {
        records(&self.blocks[block]).find(|record| record.key == key)
    }

    /// The state of a key.
    pub fn get(&self, key: &[u8]) -> Option<Cow<'_, Key>> {
        self.find(self.block_of(key), key).map(|record| self.view(&record))
    }

    /// The keys of a block with their states, in the order of their bytes.
    pub fn block(&self, block: usize) -> Vec<(&[u8], Cow<'_, Key>)> {
        let Some(bytes) = self.blocks.get(block) else { return Vec::new() };
        let mut all: Vec<(&[u8], Cow<'_, Key>)> =
            records(bytes).map(|record| (record.key, self.view(&record))).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    fn view(&self, record: &Record<'_>) -> Cow<'_, Key> {
        match record.form {
            LARGE => Cow::Borrowed(&self.large[u32_at(record.state, 0) as usize]),
            _ => Cow::Owned(self.decode(record)),
        }
    }

    /// The state of a record that has no allocation.
    fn decode(&self, record: &Record<'_>) -> Key {
        let state = record.state;
        match record.form {
            PLAIN => Key::from(self.short(u64_at(state, 0), None)),
            COUNT => {
                let counted = (u64_at(state, 8), u64_at(state, 16) as i64);
                Key::from(self.short(u64_at(state, 0), Some(counted)))
            }
            PACKED => {
                let mut reader = Reader(&state[2..]);
                let mut key = Key::default();
                while !reader.0.is_empty() {
                    let name = read_bytes(&mut reader).expect("it was packed here");
                    let element = read_element(&mut reader).expect("it was packed here");
                    key.put(name, element);
                }
                key
            }
            _ => Key::default(),
        }
    }

    fn short(&self, word: u64, counted: Option<(u64, i64)>) -> Short {
        let site = self.numbered[(word >> STAMP_BITS) as usize];
        Short { site, stamp: word & ((1 << STAMP_BITS) - 1), counted }
    }

    /// Takes the state of a key out, to be put back.
    pub fn take(&mut self, key: &[u8]) -> (Place, Key) {
        let block = self.block_of(key);
        let Some(record) = self.find(block, key) else {
            return (Place { block, span: None, large: None }, Key::default());
        };
        let span = Some((record.start, record.end));
        if record.form != LARGE {
            let state = self.decode(&record);
            return (Place { block, span, large: None }, state);
        }
        let number = u32_at(record.state, 0);
        let large = std::mem::take(&mut self.large[number as usize]);
        (Place { block, span, large: Some(number) }, large)
    }

    /// Puts a state back where it was taken from; an empty one removes the key.
    pub fn put(&mut self, place: &Place, key: &[u8], state: Key) {
        let mut record = std::mem::take(&mut self.scratch);
        record.clear();
        let is_empty = state.is_empty();
        if is_empty {
            self.let_go(place);
        } else {
            match u8::try_from(key.len()) {
                Ok(len) if len < LONG => record.push(len),
                _ => {
                    record.push(LONG);
                    let len = u32::try_from(key.len()).expect("keys are far shorter than 4 GiB");
                    record.extend_from_slice(&len.to_le_bytes());
                }
            }
            record.extend_from_slice(key);
            let form = self.encode(place, state, &mut record);
            record[0] |= form << 6;
        }
        let block = &mut self.blocks[place.block];
        match place.span {
            Some((start, end)) if end - start == record.len() => {
                block[start..end].copy_from_slice(&record);
            }
            span => {
                if let Some((start, end)) = span {
                    block.drain(start..end);
                }
                append(block, &record);
            }
        }
        self.len += usize::from(!is_empty);
        self.len -= usize::from(place.span.is_some());
        self.scratch = record;
        if self.len > self.blocks.len() * BLOCK_RECORDS {
            self.split();
        }
    }

    fn let_go(&mut self, place: &Place) {
        if let Some(number) = place.large {
            self.large[number as usize] = Key::default();
            self.free.push(number);
        }
    }

    /// Appends the state to its record; returns the form.
    fn encode(&mut self, place: &Place, state: Key, record: &mut Vec<u8>) -> u8 {
        let start = record.len();
        if let Some(short) = state.as_short()
            && let Some(word) = self.word(short.site, short.stamp)
        {
            self.let_go(place);
            record.extend_from_slice(&word.to_le_bytes());
            let Some((since, sum)) = short.counted else { return PLAIN };
            record.extend_from_slice(&since.to_le_bytes());
            record.extend_from_slice(&sum.to_le_bytes());
            return COUNT;
        }
        let packed_max =
            if place.large.is_some() { UNPACKED_ELEMENTS_MIN } else { PACKED_ELEMENTS_MAX };
        if state.len() <= packed_max {
            record.extend_from_slice(&[0; 2]);
            for (name, element) in state.iter() {
                push_bytes(record, name);
                push_element(record, &element);
            }
            let len = record.len() - start - 2;
            if len <= PACKED_BYTES_MAX {
                self.let_go(place);
                record[start..start + 2].copy_from_slice(&(len as u16).to_le_bytes());
                return PACKED;
            }
            record.truncate(start);
        }
        let number = place.large.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.large.push(Key::default());
            u32::try_from(self.large.len() - 1).expect("4 billion keys do not fit into memory")
        });
        self.large[number as usize] = state;
        record.extend_from_slice(&number.to_le_bytes());
        LARGE
    }

    /// Site and stamp in one word, if they fit.
    fn word(&mut self, site: SiteId, stamp: u64) -> Option<u64> {
        let number = match self.numbered.iter().position(|other| *other == site) {
            Some(number) => number,
            None if self.numbered.len() < NUMBERED_MAX => {
                self.numbered.push(site);
                self.numbered.len() - 1
            }
            None => return None,
        };
        (stamp < 1 << STAMP_BITS).then_some((number as u64) << STAMP_BITS | stamp)
    }

    /// Adds a block, which takes its part of an earlier one.
    fn split(&mut self) {
        let new = self.blocks.len();
        let old = new - (new + 1).next_power_of_two() / 2;
        self.blocks.push(Vec::new());
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for record in records(&self.blocks[old]) {
            let to = if self.block_of(record.key) == old { &mut stay } else { &mut go };
            append(to, &self.blocks[old][record.start..record.end]);
        }
        (self.blocks[old], self.blocks[new]) = (stay, go);
    }
}

/// Appends to a block; what it has too much room for goes back.
fn append(block: &mut Vec<u8>, record: &[u8]) {
    let wanted = (block.len() + record.len()).next_multiple_of(BLOCK_STEP);
    if wanted > block.capacity() {
        block.reserve_exact(wanted - block.len());
    } else if block.capacity() > 2 * wanted {
        block.shrink_to(wanted);
    }
    block.extend_from_slice(record);
}

#[cfg(test)]
mod tests {
    use super::super::element::{Element, Sum};
    use super::super::key::Kind;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn change(table: &mut Table, key: &[u8], act: impl FnOnce(&mut Key)) {
        let (place, mut state) = table.take(key);
        act(&mut state);
        state.shrink();
        table.put(&place, key, state);
    }

    fn elements(key: &Key) -> Vec<(Vec<u8>, Element)> {
        key.iter().map(|(name, element)| (name.to_vec(), element.into_owned())).collect()
    }

    #[test]
    fn a_string_and_a_counter_take_few_bytes() {
        let mut table = Table::new(1);
        for nth in 0..100_000u64 {
            let key = format!("key:{nth:010}");
            change(&mut table, key.as_bytes(), |key| {
                key.update(&[Kind::String as u8], |one| one.write(3, nth + 1, None));
            });
        }
        let bytes: usize = table.blocks.iter().map(|block| block.capacity() + 24).sum();
        assert!(bytes < 28 * table.len(), "{} bytes", bytes / table.len());
        let (place, _) = table.take(b"n");
        let mut counter = Key::default();
        let plus = Sum { int: 5, float: 0.0 };
        counter.update(&[Kind::String as u8], |one| one.count(3, 9, plus));
        counter.shrink();
        table.put(&place, b"n", counter);
        let record = table.find(table.block_of(b"n"), b"n").expect("it was put there");
        assert_eq!((record.form, record.end - record.start), (COUNT, 26));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(u16, u64, u8),
        Count(u16, u64, i64),
        Undo,
        Clear,
    }

    fn act() -> impl Strategy<Value = Act> {
        let stamp = prop_oneof![4 => 1..1_000u64, 1 => (1u64 << 57)..(1 << 60)];
        prop_oneof![
            6 => (0..90u16, stamp.clone(), 0..30u8).prop_map(|(s, at, name)| Act::Write(s, at, name)),
            3 => (0..90u16, stamp, any::<i64>()).prop_map(|(s, at, by)| Act::Count(s, at, by)),
            1 => Just(Act::Undo),
            1 => Just(Act::Clear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn it_keeps_what_a_map_would(
            acts in prop::collection::vec((0..60u8, act()), 1..400),
        ) {
            let mut table = Table::new(7);
            let mut map: BTreeMap<Vec<u8>, Key> = BTreeMap::new();
            for (key, act) in acts {
                // Some keys are longer than the header says.
                let key = vec![key; if key % 7 == 0 { 80 } else { 3 }];
                let run = |key: &mut Key| match &act {
                    Act::Write(site, at, name) => {
                        let name = match name {
                            0..4 => Kind::String.name(b""),
                            name => Kind::Hash.name(&[*name]),
                        };
                        key.update(&name, |one| one.write(*site, *at, None));
                    }
                    Act::Count(site, at, int) => {
                        let sum = Sum { int: *int, float: 0.0 };
                        key.update(&Kind::String.name(b""), |one| one.count(*site, *at, sum));
                    }
                    Act::Undo => {
                        key.update(&Kind::String.name(b""), |one| one.undo(1_001));
                    }
                    Act::Clear => *key = Key::default(),
                };
                change(&mut table, &key, run);
                let mine = map.entry(key.clone()).or_default();
                run(mine);
                if mine.is_empty() {
                    map.remove(&key);
                }
            }
            prop_assert_eq!(table.len(), map.len());
            for (key, state) in &map {
                let found = table.get(key).expect("it was put there");
                prop_assert_eq!(elements(&found), elements(state));
                for kind in Kind::ALL {
                    prop_assert_eq!(found.live(kind), state.live(kind));
                }
                prop_assert_eq!(found.has_undone(), state.has_undone());
            }
            let walked: usize = (0..table.blocks()).map(|block| table.block(block).len()).sum();
            prop_assert_eq!(walked, map.len());
            let large = table.large.iter().filter(|key| !key.is_empty()).count();
            prop_assert_eq!(large + table.free.len(), table.large.len());
        }
    }
}
