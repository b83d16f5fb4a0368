//! What a cut has still to save of one database in one shard.
//!
//! A cut is the state of all keys at one moment, read while calls go on. Each entry has a *colour*, one
//! bit of its header. To begin a cut, all shards are locked for a moment and each database changes
//! the colour that its entries are born with: what is there has the other one and is not saved yet.
//! A scan then saves entries of the old colour and repaints them. Whoever is about to change or
//! remove an entry of the old colour first *hands it over*: its state is saved then and there, and it
//! is repainted. Without a cut all entries have the same colour, and the price is one comparison.
//!
//! A database that is flushed goes to the cut as a whole; one that is swapped takes its share of the
//! cut along, with the number that it had at the cut.

use super::EntryRef;
use crate::cut::{Handed, Rows};
use std::sync::Arc;

/// Bytes that a database collects before they go to the cut's common queue.
const HANDED_BYTES: usize = 32 << 10;

/// Why an entry is handed over to a cut. Tests forget one of them on purpose, see
/// [`Engine::begin_flawed_cut`](crate::engine::Engine::begin_flawed_cut).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// It is overwritten.
    Put,
    /// It is edited in place, or its expiry changes.
    Edit,
    /// It is removed.
    Remove,
    /// Its database is flushed.
    Flush,
    /// Its database changes its number.
    Swap,
}

/// The state of a cut in one database of one shard.
pub(crate) struct Saving {
    /// The number that the database had at the cut.
    number: u32,
    /// The scan position in its table from which saving goes on.
    pub position: u64,
    /// What was handed over and is not in the queue yet.
    rows: Rows,
    handed: Arc<Handed>,
}

impl Saving {
    pub fn new(number: u32, handed: &Arc<Handed>) -> Saving {
        Saving { number, position: 0, rows: Rows::default(), handed: handed.clone() }
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether a test asks to forget hand-overs of this kind.
    pub fn forgets(&self, reason: HandOver) -> bool {
        self.handed.flaw() == Some(reason)
    }

    /// Keeps the state of an entry that is about to change.
    pub fn keep(&mut self, entry: &EntryRef<'_>, reason: HandOver) {
        if self.forgets(reason) {
            return;
        }
        self.rows.push(self.number, entry);
        if self.rows.bytes() >= HANDED_BYTES {
            self.handed.push(&mut self.rows);
        }
    }

    /// The database's number is another one now; the cut's rows keep the old one.
    pub fn moved_to(&mut self, number: u32) {
        if self.forgets(HandOver::Swap) {
            self.number = number;
        }
    }

    /// Everything is saved: what was handed over goes along.
    pub fn finish(&mut self, rows: &mut Rows) {
        rows.append(&mut self.rows);
    }
}
