//! ashlar as a server: a daemon, or a node inside a Rust program.

pub mod alloc;
pub mod blocking;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod command_docs;
pub mod commands;
pub mod config;
pub mod config_docs;
pub mod conn;
pub mod facts;
pub mod histogram;
pub mod host;
pub mod info;
pub mod latency;
pub mod listen;
pub mod mailbox;
pub mod memory;
pub mod monitor;
pub mod pipeline;
pub mod proc;
pub mod pubsub;
pub mod redact;
pub mod registry;
pub mod resp;
pub mod server;
pub mod session;
pub mod shared;
pub mod slowlog;
pub mod stats;
pub mod timer;
pub mod upkeep;
pub mod worker;

pub use server::Server;
