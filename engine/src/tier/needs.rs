//! What a call lacks to be run.

use super::row::RowId;
use crate::value::Type;
use crate::value::part::{Ask, Part};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// A value that is on disk and that a call needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// Its database.
    pub db: u32,
    /// Its key.
    pub key: Box<[u8]>,
    /// What of it is enough, if it is large; otherwise the whole is read.
    pub ask: Option<Ask>,
    /// Whether parts of it were asked for often of late, so that the whole is worth its place in memory.
    pub often: bool,
}

impl Want {
    /// The whole value of a key.
    pub fn whole(db: u32, key: &[u8]) -> Want {
        Want { db, key: key.into(), ask: None, often: false }
    }
}

/// Values and names that are on disk and that a call needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Values.
    pub values: Vec<Want>,
    /// Values that later calls will need: read along where there is room, or left for those calls.
    pub ahead: Vec<Want>,
    /// Rows whose keys' names are asked for.
    pub names: Vec<RowId>,
}

impl Needs {
    /// Whether nothing is lacking now.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.names.is_empty()
    }

    /// Adds what another call lacks.
    pub fn extend(&mut self, other: Needs) {
        self.values.extend(other.values);
        self.ahead.extend(other.ahead);
        self.names.extend(other.names);
    }
}

/// The name of a cold key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The key.
    pub key: Box<[u8]>,
    /// The type of its value.
    pub value_type: Type,
}

/// The names of rows that were read.
pub type Names = HashMap<RowId, Arc<Name>, foldhash::fast::FixedState>;

/// Part of a large value that stays on disk, for the calls that ask for just that.
#[derive(Debug)]
pub struct ColdPart {
    /// Its row, and the number of the read: while the key knows it, its value is that of the row.
    pub(super) row: RowId,
    pub(super) number: u64,
    pub(super) key: Box<[u8]>,
    pub(super) ask: Ask,
    pub(super) part: Part,
}

impl ColdPart {
    /// Whether it is what was asked for.
    pub fn is_for(&self, want: &Want) -> bool {
        self.key == want.key && want.ask.as_ref() == Some(&self.ask)
    }
}

/// What was read for calls and is not in memory as values.
#[derive(Clone, Debug, Default)]
pub struct Brought {
    /// Names of rows.
    pub names: Names,
    /// Parts of large values.
    pub parts: Vec<Arc<ColdPart>>,
}

impl Brought {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.parts.is_empty()
    }
}

/// Parts that wait for their calls, at most: twice those of the requests of a pipeline that are looked at together.
const PARTS_MAX: usize = 64;
/// Their bytes, besides those of the last one: a script may ask for one after the other.
const PARTS_BYTES_MAX: usize = 4 << 20;

/// The part of an executor's state that commands use to tell what they lack.
#[derive(Default)]
pub(crate) struct ColdCall {
    pub needs: RefCell<Needs>,
    /// Names that were read for this call.
    pub names: Names,
    /// Parts that were read for this call, or those behind it.
    parts: Vec<Arc<ColdPart>>,
    /// What the call asks of a large value; only while there are parts.
    pub ask: Option<Ask>,
    /// Bytes of values that were brought in under the locks of calls.
    pub ready_bytes: usize,
    /// Cached keys that were used so often that they are to stay in memory.
    pub used: RefCell<Vec<(u32, Box<[u8]>)>>,
}

impl ColdCall {
    pub fn need_value(&self, db: u32, key: &[u8], often: bool) {
        self.needs.borrow_mut().values.push(Want { often, ..Want::whole(db, key) });
    }

    /// The name of a row, or a note that it is needed.
    pub fn name(&self, row: RowId) -> Option<&Arc<Name>> {
        let name = self.names.get(&row);
        if name.is_none() {
            self.needs.borrow_mut().names.push(row);
        }
        name
    }

    /// Adds what was read.
    pub fn give(&mut self, brought: Brought) {
        self.names.extend(brought.names);
        self.parts.extend(brought.parts);
        let mut bytes = 0;
        let kept = self.parts.iter().rev().take(PARTS_MAX).take_while(|part| {
            let fits = bytes <= PARTS_BYTES_MAX;
            bytes += part.part.memory();
            fits
        });
        let spare = self.parts.len() - kept.count();
        self.parts.drain(..spare);
    }

    /// Whether any part was read.
    #[inline]
    pub fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Forgets parts whose calls have run, or never will.
    #[inline]
    pub fn drop_parts(&mut self) {
        self.parts.clear();
        self.ask = None;
    }

    /// What the call asks of a key's value, if it was read from this row and `is_valid` says of the number of the read
    /// that the key has not changed since.
    pub fn part(&self, row: RowId, key: &[u8], is_valid: impl Fn(u64) -> bool) -> Option<&Part> {
        let ask = self.ask.as_ref()?;
        let mut parts = self.parts.iter().rev();
        let own = parts.find(|part| {
            part.row == row && *part.key == *key && part.ask == *ask && is_valid(part.number)
        })?;
        Some(&own.part)
    }

    pub fn is_lacking(&self) -> bool {
        !self.needs.borrow().is_empty()
    }
}
