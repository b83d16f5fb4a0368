//! The cold tier: values that left memory, on disk in a [`store::ColdStore`].
//!
//! ```text
//! index    what is cold, in memory: 80 bits of fingerprint and 8 of epoch a key
//! row      a value as rows of at most 4 KiB, each with a checksum
//! store    the seam to what keeps rows: sled (default), fjall, memory (tests)
//! ```

pub mod fingerprint;
pub mod fjall;
pub mod hook;
pub mod index;
pub mod memory;
pub mod row;
pub mod sled;
pub mod store;

#[cfg(test)]
mod store_tests;
