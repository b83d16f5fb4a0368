//! The large sorted set: a hash table of the members with their scores, and a tree of the order.
//!
//! ```text
//! members:  position -> { member, score }      found by member in O(1), one copy of each member
//! tree:     (score, position) in order         found by score and rank in O(log n)
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use super::tree::{self, Tree};
use super::{RangeSpec, packed, rank_range};
use crate::value::dense::{Dense, Entry, Keyed};
use crate::value::small::SmallBytes;

#[derive(Clone)]
pub(crate) struct Element {
    member: SmallBytes,
    score: f64,
}

impl Element {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.score.to_le_bytes());
        out.extend_from_slice(&(self.key().len() as u32).to_le_bytes());
        out.extend_from_slice(self.key());
    }
}

impl Keyed for Element {
    #[inline]
    fn key(&self) -> &[u8] {
        self.member.as_bytes()
    }
}

/// A sorted set of any size.
///
/// ```
/// use ashlar_engine::value::zset::Zset;
///
/// let mut zset = Zset::new();
/// zset.upsert(b"one", |_| Some(1.0));
/// zset.upsert(b"two", |_| Some(2.0));
/// assert_eq!(zset.rank(b"two"), Some((1, 2.0)));
/// ```
#[derive(Clone)]
pub struct Zset {
    members: Dense<Element>,
    tree: Tree,
    /// Bytes of the members that do not fit into their elements.
    member_bytes: usize,
}

impl fmt::Debug for Zset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zset of {} elements", self.len())
    }
}

impl Default for Zset {
    fn default() -> Self {
        Self::new()
    }
}

/// What the tree has to know of the element with this member.
#[inline]
fn in_tree<'a>(
    members: &'a Dense<Element>,
    position: usize,
    member: &'a [u8],
    score: f64,
) -> tree::Element<impl Fn(u32) -> Ordering + use<'a>> {
    let cmp = move |id| {
        members.at(id as usize).map_or(Ordering::Less, |element| element.key().cmp(member))
    };
    tree::Element { score, id: position as u32, cmp }
}

impl Zset {
    /// The table of its members, to be prefetched from.
    pub(crate) fn table(&self) -> &Dense<Element> {
        &self.members
    }

    /// One without elements.
    pub fn new() -> Self {
        Zset { members: Dense::new(), tree: Tree::new(), member_bytes: 0 }
    }

    /// The elements of a packed sorted set.
    pub fn from_packed(bytes: &[u8]) -> Self {
        let mut zset = Zset::new();
        packed::for_range(bytes, 0..packed::len(bytes), false, |member, score| {
            zset.upsert(member, |_| Some(score));
        });
        zset
    }

    /// The packed form; `None` if a member is longer than `value_max` or the form than `bytes_max`.
    pub fn to_packed(&self, value_max: usize, bytes_max: usize) -> Option<Vec<u8>> {
        let value_max = value_max.min(packed::MEMBER_LEN_MAX);
        let mut blob = packed::EMPTY.to_vec();
        let mut fits = self.len() <= packed::COUNT_MAX;
        self.for_range(0..self.len(), false, |member, score| {
            fits &= member.len() <= value_max && blob.len() + packed::size_max(member) <= bytes_max;
            if fits {
                packed::append(&mut blob, member, score);
            }
        });
        fits.then_some(blob)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes taken on the heap.
    pub fn memory(&self) -> usize {
        self.members.memory() + self.tree.memory() + self.member_bytes
    }

    /// A member's score.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        Some(self.members.get(member)?.score)
    }

    /// A member's rank, from the lowest, and score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let position = self.members.find(member)?;
        let score = self.members.at(position)?.score;
        Some((self.tree.rank(in_tree(&self.members, position, member, score)), score))
    }

    /// Gives `member` the score that `decide` makes of its present one. `None` leaves everything as
    /// it is. Returns the score it had.
    pub fn upsert(
        &mut self,
        member: &[u8],
        decide: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> Option<f64> {
        match self.members.entry(member) {
            Entry::Found(position) => {
                let element = self.members.at_mut(position)?;
                let old = element.score;
                if let Some(new) = decide(Some(old))
                    && new != old
                {
                    element.score = new;
                    self.tree.rescore(in_tree(&self.members, position, member, old), new);
                }
                Some(old)
            }
            Entry::Vacant(vacant) => {
                let score = decide(None)?;
                let element = Element { member: SmallBytes::new(member), score };
                self.member_bytes += element.member.heap_size();
                vacant.insert(element);
                let position = self.members.len() - 1;
                self.tree.insert(in_tree(&self.members, position, member, score));
                None
            }
        }
    }

    /// Removes a member; its score if it was there.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let position = self.members.find(member)?;
        let score = self.members.at(position)?.score;
        self.tree.remove(in_tree(&self.members, position, member, score));
        self.take_member(position);
        Some(score)
    }

    /// Removes the elements of these ranks and calls `each` with them, lowest or, if `reverse`,
    /// highest first.
    pub fn remove_range(
        &mut self,
        ranks: Range<usize>,
        reverse: bool,
        mut each: impl FnMut(&[u8], f64),
    ) {
        let end = ranks.end.min(self.len());
        for done in 0..end.saturating_sub(ranks.start) {
            let rank = if reverse { end - 1 - done } else { ranks.start };
            let (score, id) = self.tree.remove_rank(rank);
            if let Some(member) = self.take_member(id as usize) {
                each(member.as_bytes(), score);
            }
        }
    }

    /// Takes out a member that is no longer in the tree. The last one takes its position.
    fn take_member(&mut self, position: usize) -> Option<SmallBytes> {
        let last = self.members.len() - 1;
        if position != last {
            let moved = self.members.at(last)?;
            let element = in_tree(&self.members, last, moved.key(), moved.score);
            self.tree.rename(element, position as u32);
        }
        let gone = self.members.remove_at(position)?;
        self.member_bytes -= gone.member.heap_size();
        Some(gone.member)
    }

    /// The ranks that `spec` selects.
    pub fn resolve(&self, spec: &RangeSpec<'_>) -> Range<usize> {
        let member = |id: u32| self.members.at(id as usize).map_or(&[][..], Keyed::key);
        let (start, end) = match *spec {
            RangeSpec::Rank(start, stop) => return rank_range(self.len(), start, stop),
            RangeSpec::Score(min, max) => (
                self.tree.count_while(|score, _| min.is_above(score)),
                self.tree.count_while(|score, _| !max.is_below(score)),
            ),
            RangeSpec::Lex(min, max) => (
                self.tree.count_while(|_, id| min.is_above(|bound| member(id).cmp(bound))),
                self.tree.count_while(|_, id| !max.is_below(|bound| member(id).cmp(bound))),
            ),
        };
        start.min(end)..end
    }

    /// Calls `each` with the elements of these ranks, from the highest down if `reverse`.
    pub fn for_range(&self, ranks: Range<usize>, reverse: bool, mut each: impl FnMut(&[u8], f64)) {
        self.tree.for_range(ranks, reverse, |score, id| {
            if let Some(element) = self.members.at(id as usize) {
                each(element.key(), score);
            }
        });
    }

    /// Calls `each` with the scores of these ranks, and the positions of their elements in the order of insertion.
    pub(crate) fn for_ranks(&self, ranks: Range<usize>, mut each: impl FnMut(f64, usize)) {
        self.tree.for_range(ranks, false, |score, id| each(score, id as usize));
    }

    /// Visits up to `count` elements and returns the cursor to go on with; 0 begins and 0 ends.
    /// What is there from begin to end is visited at least once whatever changes in between.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], f64)) -> u64 {
        self.members.scan(cursor, count, |element| visit(element.key(), element.score))
    }

    /// Appends the serialised form: for each element in the order of insertion (which
    /// [`Zset::scan`] shows) the score (f64), the member's length (u32) and the member.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        self.members.iter().for_each(|element| element.encode(out));
    }

    /// Appends what comes before the first element in the serialised form.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
    }

    /// Appends the element at a position of the serialised form; its member.
    pub(crate) fn encode_at(&self, position: usize, out: &mut Vec<u8>) -> Option<&[u8]> {
        let element = self.members.at(position)?;
        element.encode(out);
        Some(element.key())
    }

    /// Reads an element of the serialised form at an offset: its member, score, and where the next one
    /// starts. `None` where the bytes are not a whole one.
    pub(crate) fn read_element(bytes: &[u8], at: usize) -> Option<(&[u8], f64, usize)> {
        let mut rest = bytes.get(at..)?;
        let score = f64::from_le_bytes(*take(&mut rest)?);
        let len = u32::from_le_bytes(*take(&mut rest)?) as usize;
        Some((rest.get(..len)?, score, at + 12 + len))
    }

    /// Reads what [`Zset::encode`] wrote; `None` where the bytes are anything else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let count = u32::from_le_bytes(*take(&mut bytes)?) as usize;
        let mut zset = Zset::new();
        for _ in 0..count {
            let score = f64::from_le_bytes(*take(&mut bytes)?);
            let len = u32::from_le_bytes(*take(&mut bytes)?) as usize;
            let member = bytes.get(..len)?;
            bytes = &bytes[len..];
            if score.is_nan() || zset.upsert(member, |_| Some(score)).is_some() {
                return None;
            }
        }
        bytes.is_empty().then_some(zset)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.tree.check();
        assert_eq!(self.members.len(), self.tree.len());
        let bytes: usize = self.members.iter().map(|element| element.member.heap_size()).sum();
        assert_eq!(self.member_bytes, bytes);
    }
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(head)
}
