//! Bugs put back on purpose, so that the tests can prove that they would find them.
//!
//! Only with the feature `known-bugs`, which only the tests turn on; without it `is_back` is a
//! constant and leaves no code. A bug is put back for the thread that asks: tests of other threads
//! do not see it.

/// A bug that was there once, or that is easily made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A geo search at the greatest longitude or latitude looks into the wrong neighbours.
    GeoEdges,
    /// A key is gone in the very millisecond of its expiry.
    ExpiryTooEarly,
    /// LREM with a negative count removes from the head.
    LremFromHead,
    /// `(` in front of a score does not exclude it.
    InclusiveScores,
    /// SETRANGE with an empty value makes a key.
    SetrangeEmpty,
    /// INCR and its like wrap around.
    IncrWraps,
    /// A hash loses a field when it outgrows its packed form.
    HashGrowthLoses,
    /// An error does not take back what the command has written already.
    ErrorKeepsReply,
    /// SPOP draws from something else than the call's stamp, so a replica draws differently.
    RandomOutsideStamp,
}

/// All of them.
pub const ALL: [Bug; 9] = [
    Bug::GeoEdges,
    Bug::ExpiryTooEarly,
    Bug::LremFromHead,
    Bug::InclusiveScores,
    Bug::SetrangeEmpty,
    Bug::IncrWraps,
    Bug::HashGrowthLoses,
    Bug::ErrorKeepsReply,
    Bug::RandomOutsideStamp,
];

#[cfg(feature = "known-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static BACK: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Puts a bug back for this thread, or takes it away.
    pub fn put_back(bug: Option<Bug>) {
        BACK.set(bug);
    }

    pub(super) fn is_back(bug: Bug) -> bool {
        BACK.get() == Some(bug)
    }
}

#[cfg(feature = "known-bugs")]
pub use switch::put_back;

/// Whether a bug is put back.
#[inline(always)]
pub(crate) fn is_back(bug: Bug) -> bool {
    #[cfg(feature = "known-bugs")]
    return switch::is_back(bug);
    #[cfg(not(feature = "known-bugs"))]
    {
        let _ = bug;
        false
    }
}
