//! The ashlar engine: a deterministic, thread-safe key-value state machine with Redis's data types.

pub mod command;
pub mod commands;
pub mod config;
pub mod context;
pub mod effects;
pub mod engine;
pub mod error;
pub mod executor;
pub mod extended;
pub mod glob;
pub mod image;
pub mod journal;
pub mod keyspace;
pub mod number;
pub mod reply;
pub mod slot;
pub mod stamp;
pub mod upkeep;
pub mod value;
