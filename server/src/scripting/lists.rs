//! KEYS and ARGV: two tables that are filled anew for each script.
//!
//! A script may do to them what it likes. The next one gets the same table only if it is still the
//! plain list that it was made as; so no script sees anything of another one.

use super::lua::{REGISTRY, Shape, Stack};
use super::sandbox::Globals;
use std::ffi::{CStr, c_int};

/// Longest list whose table is used again.
const REUSED_LEN_MAX: usize = 16;
/// Most bytes of a list that stay in memory until the next script runs.
const REUSED_BYTES_MAX: usize = 4096;

/// One of the two.
struct List {
    name: &'static CStr,
    /// The table, by [`Stack::push_kept`].
    table: c_int,
    /// What it looks like if it may be used again.
    plain: Option<Shape>,
}

/// Both.
pub(super) struct Lists {
    keys: List,
    args: List,
}

impl Lists {
    /// Makes them known to scripts.
    pub(super) fn new(stack: &mut Stack<'_>, globals: &Globals) -> Lists {
        let mut list = |name| {
            stack.push_bool(false);
            let table = stack.keep();
            let mut list = List { name, table, plain: None };
            list.replace(stack, globals, &[]);
            list
        };
        Lists { keys: list(c"KEYS"), args: list(c"ARGV") }
    }

    /// Fills them for a script.
    #[inline]
    pub(super) fn fill(
        &mut self,
        stack: &mut Stack<'_>,
        globals: &Globals,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) {
        self.keys.fill(stack, globals, keys);
        self.args.fill(stack, globals, args);
    }
}

impl List {
    #[inline]
    fn fill(&mut self, stack: &mut Stack<'_>, globals: &Globals, items: &[&[u8]]) {
        let Some(plain) = self.plain.filter(|_| is_small(items)) else {
            return self.replace(stack, globals, items);
        };
        stack.push_kept(self.table);
        if stack.shape(-1) != Some(plain) {
            stack.pop(1);
            return self.replace(stack, globals, items);
        }
        stack.cut_list(-1, items.len(), plain);
        push_items(stack, items);
        stack.pop(1);
    }

    /// A fresh table in the place of the old one.
    fn replace(&mut self, stack: &mut Stack<'_>, globals: &Globals, items: &[&[u8]]) {
        let is_small = is_small(items);
        stack.push_table(if is_small { REUSED_LEN_MAX } else { items.len() }, 0);
        self.plain = if is_small { stack.shape(-1) } else { None };
        push_items(stack, items);
        for names in [globals.names, globals.quick_names] {
            stack.push_kept(names);
            stack.push_copy(-2);
            stack.set_field(-2, self.name);
            stack.pop(1);
        }
        stack.set_index(REGISTRY, self.table);
    }
}

fn is_small(items: &[&[u8]]) -> bool {
    items.len() <= REUSED_LEN_MAX
        && items.iter().map(|item| item.len()).sum::<usize>() <= REUSED_BYTES_MAX
}

/// Pushes a table of strings.
pub(super) fn push_list(stack: &mut Stack<'_>, items: &[&[u8]]) {
    stack.push_table(items.len(), 0);
    push_items(stack, items);
}

fn push_items(stack: &mut Stack<'_>, items: &[&[u8]]) {
    for (at, item) in items.iter().enumerate() {
        stack.push_bytes(item);
        stack.set_index(-2, c_int::try_from(at + 1).unwrap_or(c_int::MAX));
    }
}
