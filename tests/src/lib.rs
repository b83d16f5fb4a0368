//! Tests that see the whole of ashlar, and what they share.
//!
//! - [`resp`], [`process`]: a client of our own and real servers on free ports
//! - [`ask`]: short questions to a server, and waiting
//! - [`cluster`]: clusters of them, with a network that can be cut
//! - [`random`], [`grammar`]: seeded random calls, made from the syntax lines of the command table
//! - [`differential`]: the same calls against two servers, replies compared, failures shrunk
//! - [`golden`]: scripts of commands with the replies they must give
//! - [`history`]: what clients did and were told, and whether one order explains it
//! - [`powercut`]: a file system that loses what was not forced to disk
//! - [`faults`]: servers with a fault put back, for tests that have to find it
//! - [`fuzz_targets`]: what no input may be able to do

pub mod ask;
pub mod authority;
pub mod cli;
pub mod cluster;
pub mod differential;
pub mod faults;
pub mod fuzz_targets;
pub mod golden;
pub mod grammar;
pub mod history;
pub mod host;
pub mod pools;
pub mod powercut;
pub mod process;
pub mod proxy;
pub mod random;
pub mod release;
pub mod resp;
pub mod simulation;
