//! What a call lacks to be run.

use super::row::RowId;
use crate::value::Type;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Values and names that are on disk and that a call needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Values: database and key.
    pub values: Vec<(u32, Box<[u8]>)>,
    /// Values that later calls will need: read along where there is room, or left for those calls.
    pub ahead: Vec<(u32, Box<[u8]>)>,
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

/// The part of an executor's state that commands use to tell what they lack.
#[derive(Default)]
pub(crate) struct ColdCall {
    pub needs: RefCell<Needs>,
    /// Names that were read for this call.
    pub names: Names,
    /// Cached keys that were used so often that they are to stay in memory.
    pub used: RefCell<Vec<(u32, Box<[u8]>)>>,
}

impl ColdCall {
    pub fn need_value(&self, db: u32, key: &[u8]) {
        self.needs.borrow_mut().values.push((db, key.into()));
    }

    /// The name of a row, or a note that it is needed.
    pub fn name(&self, row: RowId) -> Option<&Arc<Name>> {
        let name = self.names.get(&row);
        if name.is_none() {
            self.needs.borrow_mut().names.push(row);
        }
        name
    }

    pub fn is_lacking(&self) -> bool {
        !self.needs.borrow().is_empty()
    }
}
