//! The cold tier: values that left memory.
pub mod fingerprint;
pub mod fjall;
pub mod hook;
pub mod index;
pub mod memory;
pub mod row;
pub mod sled;
pub mod store;
