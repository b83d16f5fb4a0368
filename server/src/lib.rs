//! ashlar as a server.

pub mod config;
