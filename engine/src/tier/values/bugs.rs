//! Known bugs, to be switched on by the tests: they have to find each of them.

use std::cell::Cell;

/// What can be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Rows that were moved are not forced to disk before their new places may be.
    MovedRowsUnsynced,
    /// A file goes before the places of what was moved out of it are durable.
    FilesGoEarly,
    /// What was written before a failed sync counts as durable after the next one.
    SyncAgain,
    /// The place of a row is noted though it has been written since the place was looked for.
    PlacesNotedLate,
    /// Who reads in a place does not compare the key there.
    KeysNotCompared,
    /// A row that was written while it was moved gets the place of the old one.
    MovesWin,
}

thread_local! {
    static BACK: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Puts a bug back for this thread, or takes it away.
#[cfg(test)]
pub fn put_back(bug: Option<Bug>) {
    BACK.set(bug);
}

/// Whether a bug is put back.
pub fn is_back(bug: Bug) -> bool {
    cfg!(test) && BACK.get() == Some(bug)
}
