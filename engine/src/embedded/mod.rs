//! The engine as a library: a [`Store`] to open, typed methods on it, transactions.
//!
//! ```text
//! Store ─┐                      ┌─ Strings  Hashes  Lists
//!        ├─ Call: one command ──┤                          typed methods, one trait a family
//! Tx ────┘  in, one reply out   └─ Sets  SortedSets  Keys
//! ```
//! A store is a cheap handle on one engine, for any number of threads: a call locks the shards of
//! its keys, runs on the thread that makes it, and returns. A store in memory has no background thread;
//! one with a directory has one, which looks after its files. Keys past their expiry are never seen; to also free their memory, call [`Store::upkeep`] now and then.

mod call;
mod hashes;
mod keeper;
mod keys;
mod lists;
mod sets;
mod sorted_sets;
mod store;
mod strings;
#[cfg(test)]
mod tests;
mod transaction;
mod value;

pub use call::Call;
pub use hashes::{Field, Hashes};
pub use keeper::{Durability, Keeper};
pub use keys::{Keys, ScanKeys, Ttl};
pub use lists::Lists;
pub use sets::Sets;
pub use sorted_sets::SortedSets;
pub use store::{Builder, Store};
pub use strings::{SetOptions, Strings};
pub use transaction::{Tx, Watch};
pub use value::ReplyValue;
