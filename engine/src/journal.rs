//! Where calls that changed the data are recorded.

use crate::stamp::Stamp;

/// A call that changed the data. Run again with its stamp on a copy of the state that it met, it
/// leads to the same state.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The call's time and random seed.
    pub stamp: &'a Stamp,
    /// The selected database.
    pub db: u32,
    /// The arguments, the name first.
    pub args: &'a [&'a [u8]],
}

/// Takes the records of an engine, in the order in which the calls took effect on each key.
pub trait Journal: Send + Sync {
    /// Takes one record. The locks of the call's keys are held: no I/O here.
    fn append(&self, record: Record<'_>);
}
