//! Where the elements of a large value are.

use super::super::store::ColdError;
use super::{Reader, Writer};
use crate::value::Type;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Strings have none.
pub(super) const NONE: u8 = 0;
/// By field or member.
pub(super) const MEMBERS: u8 = 1;
/// By index.
pub(super) const STRIDES: u8 = 2;
/// By member, and by rank.
pub(super) const RANKED: u8 = 3;

/// Entries of a place, on average.
const PLACE_ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 6;
const RANK_BYTES: usize = 12;
/// Elements of a list from one that the directory has to the next, at most; and their bytes, on average.
const STRIDE_MAX: usize = 64;
const STRIDE_BYTES: usize = 2048;

/// What the first row tells of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Elements of the value, or bytes of a string.
    pub elements: u64,
    /// Which kind of directory it is.
    pub kind: u8,
    /// Places, or elements of a stride.
    pub places: u32,
}

impl Directory {
    /// Whether the numbers can be those of a directory.
    pub fn makes_sense(self) -> bool {
        let has_places = self.kind == NONE || self.places > 0;
        self.kind <= RANKED && has_places && self.elements <= u64::from(u32::MAX)
    }

    /// Whether it tells where a field or member is.
    pub fn has_members(self) -> bool {
        matches!(self.kind, MEMBERS | RANKED)
    }

    /// Bytes of the directory by member.
    fn member_bytes(self) -> usize {
        (self.places as usize + 1) * 4 + self.elements as usize * ENTRY_BYTES
    }

    /// Bytes of the directory.
    pub fn bytes(self) -> usize {
        let elements = self.elements as usize;
        match self.kind {
            MEMBERS => self.member_bytes(),
            RANKED => self.member_bytes() + elements * RANK_BYTES,
            STRIDES => elements.div_ceil(self.places.max(1) as usize) * 4,
            _ => 0,
        }
    }
}

/// What stands for a field or member.
fn hash(seed: u64, member: &[u8]) -> u32 {
    let mut sip = SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0xD1EC_7041_0000_0001);
    sip.write(member);
    sip.finish() as u32
}

fn place_of(hash: u32, places: u32) -> u32 {
    ((u64::from(hash) * u64::from(places)) >> 32) as u32
}

/// A directory on its way: 8 bytes an element, 4 for a list, and 12 for a sorted set.
pub struct Builder {
    seed: u64,
    value_type: Type,
    /// Of each member the hash, which is above, and the offset.
    members: Vec<u64>,
    /// Offsets of elements by their position.
    starts: Vec<u32>,
}

impl Builder {
    /// One with room for `len` elements: to make more later would take long, under the lock of a shard.
    pub fn new(seed: u64, value_type: Type, len: usize) -> Builder {
        let (mut members, mut starts) = (Vec::new(), Vec::new());
        match value_type {
            Type::Hash | Type::Set => members.reserve_exact(len),
            Type::Zset => {
                members.reserve_exact(len);
                starts.reserve_exact(len);
            }
            Type::List => starts.reserve_exact(len),
            Type::String | Type::Stream => {}
        }
        Builder { seed, value_type, members, starts }
    }

    /// Notes an element that begins at an offset.
    pub fn add(&mut self, member: &[u8], at: usize) {
        match self.value_type {
            Type::Hash | Type::Set | Type::Zset => {
                self.members.push(u64::from(hash(self.seed, member)) << 32 | at as u64);
                if self.value_type == Type::Zset {
                    self.starts.push(at as u32);
                }
            }
            Type::List => self.starts.push(at as u32),
            Type::String | Type::Stream => {}
        }
    }

    /// What an order has of an element, told by its position.
    pub fn rank(&self, score: f64, position: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&score.to_le_bytes());
        let start = self.starts.get(position).copied().unwrap_or(u32::MAX);
        out.extend_from_slice(&start.to_le_bytes());
    }

    /// Writes the directory behind a body of `body_len` bytes. That of a sorted set goes on with its order.
    pub fn write(
        &mut self,
        len: usize,
        body_len: usize,
        to: &mut Writer<'_>,
    ) -> Result<Directory, ColdError> {
        let elements = len as u64;
        if !self.members.is_empty() {
            self.members.sort_unstable();
            let places = self.members.len().div_ceil(PLACE_ENTRIES) as u32;
            let (mut next, mut place) = (0, 0);
            while place <= places {
                let of_place = |member: &u64| place_of((member >> 32) as u32, places) < place;
                next += self.members[next..].iter().take_while(|member| of_place(member)).count();
                to.push(&(next as u32).to_le_bytes())?;
                place += 1;
            }
            for member in std::mem::take(&mut self.members) {
                to.push(&((member >> 32) as u16).to_le_bytes())?;
                to.push(&(member as u32).to_le_bytes())?;
            }
            let kind = if self.value_type == Type::Zset { RANKED } else { MEMBERS };
            return Ok(Directory { elements, kind, places });
        }
        if !self.starts.is_empty() {
            let average = (body_len / self.starts.len()).max(1);
            let stride = (STRIDE_BYTES / average).clamp(1, STRIDE_MAX);
            for start in self.starts.iter().step_by(stride) {
                to.push(&start.to_le_bytes())?;
            }
            return Ok(Directory { elements, kind: STRIDES, places: stride as u32 });
        }
        Ok(Directory { elements, kind: NONE, places: 0 })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let number = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    number.map_or(usize::MAX, |number| u32::from_le_bytes(*number) as usize)
}

/// Offsets of elements that may be this member: seldom more than one.
pub(super) fn candidates(
    reader: &mut Reader<'_>,
    directory: Directory,
    seed: u64,
    member: &[u8],
) -> Result<Vec<usize>, ColdError> {
    let base = reader.head().body_len;
    let hash = hash(seed, member);
    let place = place_of(hash, directory.places) as usize;
    let mut numbers = Vec::new();
    reader.take(base + place * 4, 8, &mut numbers)?;
    let (from, to) = (u32_at(&numbers, 0), u32_at(&numbers, 4));
    if from > to || to as u64 > directory.elements {
        return Err(reader.damaged("the directory makes no sense"));
    }
    let mut entries = Vec::new();
    let first = base + (directory.places as usize + 1) * 4;
    reader.take(first + from * ENTRY_BYTES, (to - from) * ENTRY_BYTES, &mut entries)?;
    let tag = (hash as u16).to_le_bytes();
    let own = entries.chunks_exact(ENTRY_BYTES).filter(|entry| entry[..2] == tag);
    Ok(own.map(|entry| u32_at(entry, 2)).collect())
}

/// An element of a list whose offset is known, at or before the one at `index`: its index, and the offset.
pub(super) fn stride(
    reader: &mut Reader<'_>,
    directory: Directory,
    index: usize,
) -> Result<(usize, usize), ColdError> {
    let nth = index / directory.places as usize;
    let mut start = Vec::new();
    reader.take(reader.head().body_len + nth * 4, 4, &mut start)?;
    Ok((nth * directory.places as usize, u32_at(&start, 0)))
}

/// The score at a rank, and where its element is.
pub(super) fn ranked(
    reader: &mut Reader<'_>,
    directory: Directory,
    rank: usize,
) -> Result<(f64, usize), ColdError> {
    let at = reader.head().body_len + directory.member_bytes() + rank * RANK_BYTES;
    let mut entry = Vec::new();
    reader.take(at, RANK_BYTES, &mut entry)?;
    let score = entry.first_chunk().map_or(f64::NAN, |score| f64::from_le_bytes(*score));
    Ok((score, u32_at(&entry, 8)))
}
