//! Parts of a large value: what a command reads of it, where the whole stays on disk.
//!
//! A part knows the type and the length of the whole and has the elements that one call asks for. Commands read it
//! through the same views as values ([`super::hash::HashRef`] and its like), so they have one function for both. A
//! part is made for the call that gets it: whatever else is asked of it counts as absent.

use super::Type;
use super::hash::{Hash, HashRef};
use super::list::{List, ListRef};
use super::set::{Set, SetRef};
use super::zset::{ScoreBound, Window, Zset, ZsetRef};
use crate::error::Error;
use std::ops::Range;

/// What a command reads of a large value.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Its type and length.
    Head,
    /// The fields or members of these names.
    Members(Vec<Box<[u8]>>),
    /// Elements of a list, or bytes of a string, from one index to another, both included and negative ones counted
    /// from the end.
    Range(i64, i64),
    /// The rank of a member of a sorted set.
    Rank(Box<[u8]>),
    /// The elements of a sorted set within bounds, or a window of them.
    Ranks(Bounds, Window),
}

/// Bounds of a range of a sorted set's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bounds {
    /// By rank.
    Rank(i64, i64),
    /// By score.
    Score(ScoreBound, ScoreBound),
}

/// The elements that a part has.
#[derive(Clone, Debug)]
pub enum Found {
    /// None were asked for, or the type has none such.
    Nothing,
    /// Bytes of a string, from an offset on.
    Bytes(usize, Vec<u8>),
    /// Elements of a list, from an index on.
    Elements(usize, List),
    /// Fields of a hash.
    Fields(Hash),
    /// Members of a set.
    Members(Set),
    /// Members of a sorted set.
    Scores(Box<Zset>),
    /// Elements of a sorted set that follow each other.
    Ranks {
        /// The ranks within the bounds that were asked for.
        bounds: Range<usize>,
        /// The rank of the first element that is here.
        first: usize,
        /// The elements.
        elements: Box<Zset>,
    },
}

/// Part of a large value.
#[derive(Clone, Debug)]
pub struct Part {
    /// The type of the whole.
    pub value_type: Type,
    /// Elements of the whole, or bytes of a string.
    pub len: usize,
    /// What was asked for.
    pub found: Found,
}

impl Part {
    fn is(&self, value_type: Type) -> Result<(), Error> {
        if self.value_type == value_type { Ok(()) } else { Err(Error::WrongType) }
    }

    /// Part of a hash.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn hash(&self) -> Result<HashRef<'_>, Error> {
        self.is(Type::Hash).map(|()| HashRef::Part(self))
    }

    /// Part of a set.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn set(&self) -> Result<SetRef<'_>, Error> {
        self.is(Type::Set).map(|()| SetRef::Part(self))
    }

    /// Part of a sorted set.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn zset(&self) -> Result<ZsetRef<'_>, Error> {
        self.is(Type::Zset).map(|()| ZsetRef::Part(self))
    }

    /// Part of a list.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn list(&self) -> Result<ListRef<'_>, Error> {
        self.is(Type::List).map(|()| ListRef::Part(self))
    }

    /// Bytes of a string; none beyond those that were asked for.
    ///
    /// # Errors
    /// If the value has another type.
    pub fn text(&self, range: Range<usize>) -> Result<&[u8], Error> {
        self.is(Type::String)?;
        let Found::Bytes(first, bytes) = &self.found else { return Ok(&[]) };
        let (Some(from), Some(to)) =
            (range.start.checked_sub(*first), range.end.checked_sub(*first))
        else {
            return Ok(&[]);
        };
        Ok(bytes.get(from..to).unwrap_or_default())
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        size_of::<Part>()
            + match &self.found {
                Found::Nothing => 0,
                Found::Bytes(_, bytes) => bytes.capacity(),
                Found::Elements(_, list) => list.memory(),
                Found::Fields(hash) => hash.memory(),
                Found::Members(set) => set.memory(),
                Found::Scores(zset) | Found::Ranks { elements: zset, .. } => zset.memory(),
            }
    }
}

/// The indices from `start` to `end`, both included and negative ones counted from the end, of `len`: from one, up to
/// and without another.
pub fn index_range(start: i64, end: i64, len: usize) -> Range<usize> {
    let whole = i64::try_from(len).unwrap_or(i64::MAX);
    let from_end = |at: i64| if at < 0 { at.saturating_add(whole).max(0) } else { at };
    let (first, last) = (from_end(start), from_end(end).min(whole - 1));
    if first > last {
        return 0..0;
    }
    first as usize..last as usize + 1
}
