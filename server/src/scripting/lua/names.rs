//! Names of fields that replies are made of, kept in each state: pushing one is a look into an array,
//! where its text would have to be hashed and found among all strings.

use super::{REGISTRY, Stack};
use std::ffi::{CStr, c_int};

/// A name.
#[allow(missing_docs, reason = "the texts say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Err,
    Ok,
    Double,
    Map,
    Set,
    BigNumber,
    VerbatimString,
}

const TEXTS: [&CStr; 7] =
    [c"err", c"ok", c"double", c"map", c"set", c"big_number", c"verbatim_string"];

/// Keeps the names in a fresh state, in the order of the enum from number 1 on.
pub(super) fn keep(stack: &mut Stack<'_>) {
    for (at, text) in TEXTS.iter().enumerate() {
        stack.push_bytes(text.to_bytes());
        let number = stack.keep();
        debug_assert_eq!(number as usize, at + 1, "the first values that a state keeps");
    }
}

impl Stack<'_> {
    /// Pushes a name.
    #[inline]
    pub fn push_name(&mut self, name: Name) {
        self.get_index(REGISTRY, name as c_int + 1);
    }

    /// As [`Stack::get_field`].
    #[inline]
    pub fn get_named(&mut self, table: c_int, name: Name) {
        let table = self.absolute(table);
        self.push_name(name);
        self.get(table);
    }

    /// Pushes a table with one field, whose value `push` pushes.
    #[inline]
    pub fn push_tagged(&mut self, name: Name, push: impl FnOnce(&mut Self)) {
        self.push_table(0, 1);
        self.push_name(name);
        push(self);
        self.set(-3);
    }
}
