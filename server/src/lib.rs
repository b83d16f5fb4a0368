//! ashlar as a server.

pub mod cli;
pub mod config;
pub mod config_docs;
pub mod histogram;
pub mod info;
pub mod latency;
pub mod proc;
pub mod redact;
pub mod slowlog;
pub mod stats;
