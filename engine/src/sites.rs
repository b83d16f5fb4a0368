//! Where what the other sites have to know of a call is found out.
//!
//! Keys that several sites write at once have a state beside the engine's: which site wrote what
//! and when. Whoever keeps it is a [`Sites`]: it looks at such a key after each call, while its
//! locks are held, and what it makes of it goes into the journal with the call, as one
//! [`RECORD`]. So both states come back from one log, and neither without the other. A server
//! without sites pays one branch a call.

use crate::context::Cx;
use crate::executor::Call;

/// The call by which the state of a key is recorded; clients cannot make it.
pub const RECORD: &str = "ASHLAR.SITE";

/// What a call meant for the other sites.
#[derive(Debug, Default)]
pub struct After {
    /// Keys, and the changes of their states, for the journal.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Calls that are to follow, so that the engine holds what the sites have agreed on.
    pub fixes: Vec<Vec<Vec<u8>>>,
}

/// Keeps the state of the keys that several sites write. `shard` is the only one that a call works on, if its host has
/// said so: that of a group.
pub trait Sites: Send + Sync {
    /// Whether a call may change such keys.
    fn concerns(&self, call: &Call<'_>, shard: Option<usize>) -> bool;

    /// Looks at the keys of a call that ran; `changed` says whether it changed anything. The locks of
    /// its keys are held: no I/O here.
    fn after(&self, cx: &mut Cx<'_>, call: &Call<'_>, shard: Option<usize>, changed: bool)
    -> After;

    /// Takes in a record: of the log, or of a batch that is being merged.
    fn restore(&self, key: &[u8], record: &[u8]);

    /// Gives out the whole state as records, a part at a time: those behind `from`, an opaque place
    /// that was returned, `None` at the start. Returns `None` when there is nothing more.
    fn dump(&self, from: Option<Vec<u8>>, put: &mut dyn FnMut(&[u8], &[u8])) -> Option<Vec<u8>>;
}
