//! Bugs put back on purpose, so that the tests can prove that they would find them.
//!
//! Only with the feature `known-bugs`, which only the tests turn on; without it `is_back` is a
//! constant and leaves no code. A bug is put back for the thread that asks: tests of other threads
//! do not see it. Those of [`VULNERABILITIES`] are faults of a whole server: a program of the tests
//! puts one back for all of its threads.

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
    /// Scripts may load bytecode, which Lua does not check.
    BytecodeIsLoaded,
    /// Lua's `unpack` counts in 32 bits.
    UnpackOverflows,
    /// Numbers in the formats of `struct` wrap around.
    StructNumbersWrap,
    /// Tables of the server's libraries are open to scripts.
    LibrariesAreWritable,
    /// The runs of a sparse HyperLogLog may cover more registers than there are.
    HyperLogLogRunsOn,
    /// SETRANGE adds offset and length without a look at their sum.
    SetrangeOverflows,
    /// BITFIELD multiplies `#offset` by the width without a look at the product.
    BitfieldOverflows,
    /// SORT adds the two numbers of LIMIT without a look at their sum.
    SortLimitOverflows,
    /// A random count may be the integer that has no opposite.
    RandomCountOverflows,
    /// XAUTOCLAIM multiplies its COUNT without a look at the product.
    AutoclaimOverflows,
    /// Patterns are matched by a function that calls itself for each star.
    GlobRecurses,
    /// Replies to strangers may wait for as long as others'.
    StrangersFillMemory,
    /// A client that is closed stays among those that wait for a key.
    KilledWaiterStays,
    /// Records that run by several threads do not stop at one that has to run alone.
    BarriersComeLate,
    /// SORT's BY and GET are not asked for permission.
    SortIgnoresAcl,
}

/// Classes of faults that servers like this one had, see docs/security.md.
pub const VULNERABILITIES: [Bug; 14] = [
    Bug::BytecodeIsLoaded,
    Bug::UnpackOverflows,
    Bug::StructNumbersWrap,
    Bug::LibrariesAreWritable,
    Bug::HyperLogLogRunsOn,
    Bug::SetrangeOverflows,
    Bug::BitfieldOverflows,
    Bug::SortLimitOverflows,
    Bug::RandomCountOverflows,
    Bug::AutoclaimOverflows,
    Bug::GlobRecurses,
    Bug::StrangersFillMemory,
    Bug::KilledWaiterStays,
    Bug::SortIgnoresAcl,
];

/// Those that golden scripts or the check of determinism find.
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
    use std::sync::OnceLock;

    thread_local! {
        static BACK: Cell<Option<Bug>> = const { Cell::new(None) };
    }
    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    /// Puts a bug back for this thread, or takes it away.
    pub fn put_back(bug: Option<Bug>) {
        BACK.set(bug);
    }

    /// Puts a bug back for all threads of this process, for as long as it lives.
    pub fn put_back_everywhere(bug: Bug) {
        EVERYWHERE.get_or_init(|| bug);
    }

    pub(super) fn is_back(bug: Bug) -> bool {
        BACK.get() == Some(bug) || EVERYWHERE.get() == Some(&bug)
    }
}

#[cfg(feature = "known-bugs")]
pub use switch::{put_back, put_back_everywhere};

/// Whether a bug is put back.
#[inline(always)]
pub fn is_back(bug: Bug) -> bool {
    #[cfg(feature = "known-bugs")]
    return switch::is_back(bug);
    #[cfg(not(feature = "known-bugs"))]
    {
        let _ = bug;
        false
    }
}
