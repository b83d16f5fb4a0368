//! The ashlar engine: a deterministic, thread-safe key-value state machine with Redis's data types.

pub mod value;
