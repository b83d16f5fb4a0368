//! Strong keys: groups of replicas on the raft crate, driven without I/O.

pub mod codec;
pub mod group;
pub mod machine;
pub mod request;
pub mod sessions;
pub mod storage;

pub use group::{Answer, Group, Settings, Ticket};
pub use machine::{Capture, CaptureJob, EngineMachine, Machine};
pub use request::{Condition, OwnedCall, Request, RequestId};
pub use storage::{GroupId, GroupLog, LogRecord};
