//! Replication of ashlar's data.
//!
//! [`raft`] keeps the keys that must never be wrong: groups of nodes that agree on one order of
//! calls before any of them is answered. [`sites`] keeps those that several sites write at once and
//! that converge. Nothing but [`runtime`] reads a clock, a
//! file or a socket: a [`Node`] is told the time, the messages and what was persisted, and says
//! what to send, to persist and to answer. So a whole cluster runs in one thread under one seed,
//! and the same code runs between real sockets.
//!
//! ```text
//! request -> Node::propose -> Group (raft) -> log records ----> persisted
//!                                 |                                |
//!                                 +--> messages to the other nodes +--> votes, acknowledgements
//!                                 +--> committed -> Machine::apply -> reply
//! ```

#![allow(
    clippy::field_reassign_with_default,
    reason = "the structs of the raft crate have fields of their protobuf runtime besides those that are set"
)]

pub mod bytes;
pub mod node;
pub mod raft;
pub mod runtime;
pub mod sites;
pub mod slots;
pub mod tls;
pub mod topology;

#[cfg(feature = "known-bugs")]
pub mod known_bugs;

pub use node::Node;

/// Whether a known bug is switched on; never so outside tests of the tests.
#[cfg(not(feature = "known-bugs"))]
macro_rules! bug {
    ($name:ident) => {
        false
    };
}
#[cfg(feature = "known-bugs")]
macro_rules! bug {
    ($name:ident) => {
        crate::known_bugs::is_on(crate::known_bugs::Bug::$name)
    };
}
pub(crate) use bug;
