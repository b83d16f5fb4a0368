//! Conflicts in which a write was dropped: counted, and the last ones kept for the operator.

use super::element::SiteId;
use super::key::Kind;
use std::collections::VecDeque;

/// Conflicts that are kept.
pub const CONFLICTS_MAX: usize = 1_024;
/// Bytes of a dropped value, or of a name, that are kept.
pub const VALUE_BYTES_MAX: usize = 128;

/// Why a write was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another write that did not know of it has the larger stamp.
    LaterWrite,
    /// A removal met an add that it did not know of, and lost.
    AddWins,
    /// The key has another type by a write that did not know of it.
    OtherType,
    /// An expiry met a longer one that did not know of it.
    LongerExpiry,
}

impl Reason {
    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Reason::LaterWrite => "later-write",
            Reason::AddWins => "add-wins",
            Reason::OtherType => "other-type",
            Reason::LongerExpiry => "longer-expiry",
        }
    }
}

/// A write that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Box<[u8]>,
    /// What the element is.
    pub kind: Kind,
    /// The element, without its kind; cut.
    pub element: Box<[u8]>,
    /// Why.
    pub reason: Reason,
    /// Site and stamp of what holds.
    pub winner: (SiteId, u64),
    /// Site and stamp of what was dropped.
    pub loser: (SiteId, u64),
    /// The value that was dropped, cut; `None` where it is not known or there is none.
    pub dropped: Option<Box<[u8]>>,
}

/// The conflicts that a site has met.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    count: u64,
    last: VecDeque<Conflict>,
}

impl Conflicts {
    /// Adds one; the oldest gives way.
    pub fn push(&mut self, conflict: Conflict) {
        self.count += 1;
        if self.last.len() == CONFLICTS_MAX {
            self.last.pop_front();
        }
        self.last.push_back(conflict);
    }

    /// How many there were since the last reset.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last ones, the newest first.
    pub fn list(&self) -> impl Iterator<Item = &Conflict> {
        self.last.iter().rev()
    }

    /// Forgets them.
    pub fn reset(&mut self) {
        *self = Conflicts::default();
    }
}

/// The first bytes of a value.
pub fn cut(bytes: &[u8]) -> Box<[u8]> {
    bytes[..bytes.len().min(VALUE_BYTES_MAX)].into()
}
