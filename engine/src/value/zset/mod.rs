//! Sorted sets: members with scores, in the order of (score, member).
//!
//! A small one is [packed] bytes inside its key's entry; a large one is a [`Zset`], a
//! B+tree that counts its elements beside a hash table of the members. Ranges by rank, score and
//! member all become ranges of ranks first ([`ZsetRef::resolve`]), so that counting, reading in
//! either direction and removing are one operation each.

mod big;
mod node;
pub mod packed;
mod tree;

use std::cmp::Ordering;
use std::ops::Range;

use super::part::{Found, Part};
pub use big::Zset;
pub use packed::MemberBuf;

/// One end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreBound {
    /// The score; never NaN.
    pub value: f64,
    /// Whether elements with exactly this score are left out.
    pub exclusive: bool,
}

impl ScoreBound {
    /// Whether this, as a lower end, leaves out `score`.
    #[inline]
    pub fn is_above(&self, score: f64) -> bool {
        if self.exclusive { score <= self.value } else { score < self.value }
    }

    /// Whether this, as an upper end, leaves out `score`.
    #[inline]
    pub fn is_below(&self, score: f64) -> bool {
        if self.exclusive { score >= self.value } else { score > self.value }
    }
}

/// One end of a range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexBound<'a> {
    /// Before every member.
    Min,
    /// After every member.
    Max,
    /// At this string, including it.
    Included(&'a [u8]),
    /// At this string, without it.
    Excluded(&'a [u8]),
}

impl LexBound<'_> {
    /// Whether this, as a lower end, leaves out a member; `cmp` compares that to a string.
    pub fn is_above(&self, cmp: impl Fn(&[u8]) -> Ordering) -> bool {
        match *self {
            LexBound::Min => false,
            LexBound::Max => true,
            LexBound::Included(bound) => cmp(bound).is_lt(),
            LexBound::Excluded(bound) => cmp(bound).is_le(),
        }
    }

    /// Whether this, as an upper end, leaves out a member; `cmp` compares that to a string.
    pub fn is_below(&self, cmp: impl Fn(&[u8]) -> Ordering) -> bool {
        match *self {
            LexBound::Min => true,
            LexBound::Max => false,
            LexBound::Included(bound) => cmp(bound).is_gt(),
            LexBound::Excluded(bound) => cmp(bound).is_ge(),
        }
    }
}

/// Which elements a command is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeSpec<'a> {
    /// From one rank to another, both included; negative ranks count from the end.
    Rank(i64, i64),
    /// By score.
    Score(ScoreBound, ScoreBound),
    /// By member, among elements of equal score.
    Lex(LexBound<'a>, LexBound<'a>),
}

/// The ranks from `start` to `stop`, both included and negative ones counted from the end, of
/// `len` elements.
pub fn rank_range(len: usize, start: i64, stop: i64) -> Range<usize> {
    let from_end = |rank: i64| if rank < 0 { rank.saturating_add(len as i64) } else { rank };
    let start = from_end(start).max(0) as usize;
    let end = from_end(stop).saturating_add(1).clamp(0, len as i64) as usize;
    start.min(end)..end
}

/// Which of the elements within bounds are wanted, in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// From the highest down.
    pub reverse: bool,
    /// Offset and count; a negative count is no limit.
    pub limit: Option<(i64, i64)>,
}

impl Window {
    /// The ranks that are wanted of those within the bounds; of `len` elements if the bounds are ranks, which count from
    /// the other end then where the order is reversed.
    pub fn of(self, bounds: Range<usize>, ranks_of: Option<usize>) -> Range<usize> {
        let Range { mut start, mut end } = bounds;
        if let Some(len) = ranks_of.filter(|_| self.reverse) {
            (start, end) = (len - end, len - start);
        }
        if let Some((offset, count)) = self.limit {
            let left = end - start;
            let skipped = usize::try_from(offset).map_or(left, |offset| offset.min(left));
            let taken = usize::try_from(count).unwrap_or(left).min(left - skipped);
            if self.reverse {
                end -= skipped;
                start = end - taken;
            } else {
                start += skipped;
                end = start + taken;
            }
        }
        start..end
    }
}

/// A sorted set in either form, to read.
#[derive(Clone, Copy)]
pub enum ZsetRef<'a> {
    /// Packed bytes.
    Packed(&'a [u8]),
    /// A large one.
    Big(&'a Zset),
    /// Some elements of a large one on disk.
    Part(&'a Part),
}

/// The elements that a part has.
fn found(part: &Part) -> Option<&Zset> {
    match &part.found {
        Found::Scores(zset) => Some(zset),
        _ => None,
    }
}

impl<'a> ZsetRef<'a> {
    /// A sorted set without elements.
    pub const EMPTY: ZsetRef<'static> = ZsetRef::Packed(&packed::EMPTY);

    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            ZsetRef::Packed(bytes) => packed::len(bytes),
            ZsetRef::Big(zset) => zset.len(),
            ZsetRef::Part(part) => part.len,
        }
    }

    /// Whether there is no element.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// A member's score.
    pub fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            ZsetRef::Packed(bytes) => packed::find(bytes, member).map(|(_, item)| item.score),
            ZsetRef::Big(zset) => zset.score(member),
            ZsetRef::Part(part) => found(part)?.score(member),
        }
    }

    /// A member's rank, from the lowest, and score.
    pub fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        match self {
            ZsetRef::Packed(bytes) => {
                packed::find(bytes, member).map(|(rank, item)| (rank, item.score))
            }
            ZsetRef::Big(zset) => zset.rank(member),
            ZsetRef::Part(part) => match &part.found {
                Found::Ranks { first, elements, .. } => {
                    elements.rank(member).map(|(rank, score)| (first + rank, score))
                }
                _ => None,
            },
        }
    }

    /// The ranks that `spec` selects.
    pub fn resolve(self, spec: &RangeSpec<'_>) -> Range<usize> {
        match self {
            ZsetRef::Packed(bytes) => packed::resolve(bytes, spec),
            ZsetRef::Big(zset) => zset.resolve(spec),
            ZsetRef::Part(part) => match &part.found {
                Found::Ranks { bounds, .. } => bounds.clone(),
                _ => 0..0,
            },
        }
    }

    /// Calls `each` with the elements of these ranks, from the highest down if `reverse`.
    pub fn for_range(self, ranks: Range<usize>, reverse: bool, each: impl FnMut(&[u8], f64)) {
        match self {
            ZsetRef::Packed(bytes) => packed::for_range(bytes, ranks, reverse, each),
            ZsetRef::Big(zset) => zset.for_range(ranks, reverse, each),
            ZsetRef::Part(part) => {
                if let Found::Ranks { first, elements, .. } = &part.found {
                    let from_first = |rank: usize| rank.saturating_sub(*first);
                    let ranks = from_first(ranks.start)..from_first(ranks.end);
                    elements.for_range(ranks, reverse, each);
                }
            }
        }
    }

    /// Calls `each` with every element, in order.
    pub fn for_each(self, each: impl FnMut(&[u8], f64)) {
        self.for_range(0..self.len(), false, each);
    }
}

#[cfg(test)]
mod tests;
