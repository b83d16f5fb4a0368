//! The ashlar engine: a deterministic, thread-safe key-value state machine with Redis's data types.

pub mod extended;
pub mod glob;
pub mod number;
pub mod slot;
pub mod value;
