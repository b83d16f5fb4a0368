//! The value log: rows of some size stand one after the other in files of their own, and the store of a back end
//! only keeps where they are (Lu et al., "WiscKey: Separating Keys from Values in SSD-Conscious Storage", FAST 2016).
//!
//! ```text
//! place     where a row is, in 7 bytes
//! segment   one file: its name, and the records in it
//! log       the files: append, read, sync, how much of each is in use
//! store     a ColdStore over a back end: what goes where
//! recent    places that were looked for of late
//! compact   gives space back: moves what is left of files that are half empty
//! ```
//! A tree of pages rewrites and reads again sixteen neighbours of a row, and a merge tree rewrites it as it
//! compacts; with rows of 1 KB that is most of what they do. Places are small, so more of them fit into the
//! back end's cache, and a row is read with one call.
//!
//! What is durable: [`ColdStore::flush_durable`](super::store::ColdStore::flush_durable) first syncs the files, then the back end. In between the
//! back end may write a place to disk whose row a power cut loses. Such a row reads as an empty one, which no
//! checksum takes for a value; nothing names it. A row that is moved is synced before its new place is written,
//! and the file that it was in goes after the new place is durable.

mod bugs;
mod compact;
mod log;
mod place;
mod recent;
mod segment;
pub(super) mod store;
#[cfg(test)]
mod tests;

use place::Place;
pub(super) use store::Separated;
