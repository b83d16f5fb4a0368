//! A record as the lanes see it: which key, if it is one call on one key, and where it stands.

use super::Lanes;
use crate::command::{Command, Flags, KeyList, Keys};
use crate::known_bugs::{self, Bug};
use crate::log::record::Calls;
use crate::log::resolve;
use std::ops::Range;

/// A record that was looked at.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where its payload stands.
    start: usize,
    end: usize,
    /// Of its key.
    hash: u64,
    /// None for a record that runs alone.
    command: Option<&'static Command>,
    shard: u32,
    db: u32,
    nth: u32,
}

impl Item {
    fn alone(nth: usize, payload: Range<usize>) -> Item {
        let Range { start, end } = payload;
        Item { start, end, hash: 0, command: None, shard: 0, db: 0, nth: nth as u32 }
    }

    /// Which one of its batch it is.
    pub fn nth(&self) -> usize {
        self.nth as usize
    }

    /// Whether it cannot run beside others.
    pub fn is_alone(&self) -> bool {
        self.command.is_none()
    }

    /// Its payload; `bytes` are those that it was found in.
    pub fn payload<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.start..self.end]
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn shard(&self) -> usize {
        self.shard as usize
    }

    pub(super) fn db(&self) -> u32 {
        self.db
    }

    pub(super) fn command(&self) -> &'static Command {
        self.command.expect("those that run alone run elsewhere")
    }

    pub(super) fn key<'a>(&self, args: &[&'a [u8]]) -> &'a [u8] {
        let at = self.command().first_key(args);
        debug_assert!(at != 0, "it has a key");
        args[at]
    }
}

/// The position of the key, if a call of this command looks at and changes the one that it names, and
/// nothing else.
fn only_key(command: &Command, args: &[&[u8]]) -> Option<usize> {
    let others = Flags::WHOLE_KEYSPACE | Flags::INTERNAL | Flags::ADMIN;
    // MOVE has a key in another database.
    if !command.is_write() || command.flags.intersects(others) || command.name == "MOVE" {
        return None;
    }
    match command.keys {
        Keys::Range { first, last, .. } if first as isize == last => Some(first),
        Keys::Range { .. } | Keys::Numkeys { .. } => {
            let mut positions = KeyList::new();
            command.keys.positions(args, &mut positions);
            positions.first().copied().filter(|_| positions.len() == 1)
        }
        Keys::None | Keys::Custom(_) => None,
    }
    .filter(|at| *at < args.len())
}

impl Lanes<'_> {
    /// Looks at a record of a batch, the `nth` from 0 on, whose payload stands there.
    pub fn look(&self, nth: usize, bytes: &[u8], payload: Range<usize>) -> Item {
        let mut alone = Item::alone(nth, payload);
        let mut calls = Calls::new(alone.payload(bytes));
        if calls.left() != 1 {
            return alone;
        }
        let Some(call) = calls.next() else { return alone };
        let Some(command) = resolve(&call.args) else { return alone };
        let Some(at) = only_key(command, &call.args) else { return alone };
        alone.hash = self.lent.hasher().hash(call.args[at]);
        alone.shard = self.lent.sharding().of_hashed(call.args[at], alone.hash) as u32;
        (alone.command, alone.db) = (Some(command), call.db);
        alone
    }
}

/// Records that are next to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// They may run at the same time.
    Together(Range<usize>),
    /// They run one after the other.
    InTurn(Range<usize>),
}

/// Divides records into parts. Fewer than `together_min` in a row that might run at the same time are not
/// worth the effort.
pub fn parts(items: &mut [Item], together_min: usize) -> Vec<Part> {
    if known_bugs::is_back(Bug::BarriersComeLate) {
        items.sort_by_key(Item::is_alone);
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut start = 0;
    for run in items.chunk_by(|a, b| a.is_alone() == b.is_alone()) {
        let range = start..start + run.len();
        start = range.end;
        let together = !run[0].is_alone() && run.len() >= together_min;
        match parts.last_mut() {
            _ if together => parts.push(Part::Together(range)),
            Some(Part::InTurn(before)) => before.end = range.end,
            _ => parts.push(Part::InTurn(range)),
        }
    }
    parts
}
