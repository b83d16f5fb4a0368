//! Strong keys: in a cluster, a write is answered once a majority of its group has it on disk.
//!
//! ```text
//! write  -> Agreement::Propose -> the group's log -> applied on every replica -> reply
//! read   -> lease, or Agreement::Confirm: a round among the replicas -> run here as any read
//! ```
//! A connection waits for one agreement at a time; all requests of a read from its socket that go to
//! the same group share it, so a pipeline costs one entry. `path` says what goes which way,
//! `machine` what is agreed on, `node` is the node as the rest of the server sees it.

mod frozen;
mod heard;
mod libraries;
mod machine;
mod node;
mod park;
mod path;
mod script;
mod security;
pub mod tables;

pub use node::{Running, Strong, start};
pub use park::serve;
pub use path::{Agreed, AgreedRead, Agreement, Confirmed, refusal};

use ashlar_engine::error::Error;

/// What a write to slots that are about to change hands is told.
pub fn try_again() -> Error {
    Error::text("TRYAGAIN The slot is about to move to other nodes")
}
