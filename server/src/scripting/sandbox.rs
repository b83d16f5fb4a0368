//! What a script finds: the globals, the libraries, and what keeps one script's doings from the
//! next.
//!
//! ```text
//! globals of every script: {}, empty and read-only
//!   __index -> the names that there are: KEYS, ARGV, redis, string, ...
//!     __index -> error: Script attempted to access nonexistent global variable
//! redis, string, ...: {}, empty and read-only
//!   __index -> the library's functions
//! ```
//! Lua 5.1 has no read-only tables, so what scripts get are empty tables in front of the real ones.
//! A script without an assignment to a global, which the compiled code shows, finds the names
//! directly: a look-up then passes one table instead of three.
//! The tables in front refuse to be written to, and the functions that would write past metamethods (`rawset`,
//! `table.insert`, ...) refuse them. `next` and `pairs` show what is behind them.
//!
//! Not there, besides what Redis leaves out: `newproxy`, since a finalizer would run in the middle
//! of anything, and bytecode, which Lua does not check.

use super::lua::{Body, Check, Kind, Lua, REGISTRY, Raise, Stack};
use super::{agreed, base, bit, cjson, cmsgpack, math, packing, redis};
use ashlar_engine::known_bugs::{self, Bug};
use std::ffi::{CStr, c_int};

/// Names of Lua's base library that scripts do not get.
const REMOVED: [&CStr; 9] = [
    c"dofile",
    c"loadfile",
    c"print",
    c"newproxy",
    c"getfenv",
    c"setfenv",
    c"require",
    c"module",
    c"package",
];

/// Functions in the place of Lua's own.
const REPLACED: [(Option<&CStr>, &CStr, Body); 12] = [
    (None, c"pcall", base::pcall),
    (None, c"xpcall", base::xpcall),
    (None, c"load", base::load),
    (None, c"loadstring", base::loadstring),
    (None, c"pairs", pairs),
    (None, c"collectgarbage", base::collectgarbage),
    (None, c"unpack", base::unpack),
    (Some(c"string"), c"rep", base::rep),
    (Some(c"math"), c"random", math::random),
    (Some(c"math"), c"randomseed", math::random_seed),
    (Some(c"table"), c"setn", base::obsolete),
    (Some(c"string"), c"gfind", base::obsolete),
];

/// A function of a library, or a global one, and what looks at its arguments.
pub(super) type Guard = (Option<&'static CStr>, &'static CStr, Check);

/// Lua's own functions that are called only once their arguments are looked at.
const GUARDED: [Guard; 11] = [
    (None, c"rawset", refuse_protected),
    (None, c"setmetatable", refuse_protected),
    (None, c"rawget", unwrap_protected),
    (None, c"next", unwrap_protected),
    (Some(c"table"), c"insert", refuse_protected),
    (Some(c"table"), c"remove", refuse_protected),
    (Some(c"table"), c"sort", refuse_protected),
    (Some(c"string"), c"find", base::check_pattern),
    (Some(c"string"), c"match", base::check_pattern),
    (Some(c"string"), c"gmatch", base::check_pattern),
    (Some(c"string"), c"gsub", base::check_pattern),
];

/// What a host needs of the globals, by [`Stack::push_kept`].
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// The table of names, where KEYS and ARGV go.
    pub names: c_int,
    /// A copy of it that is the environment of scripts that assign to no global.
    pub quick_names: c_int,
    /// The names that a library finds while it is loaded.
    pub library_names: c_int,
    /// The metatable of the scripts' globals; its `__index` is one of the two.
    pub front: c_int,
}

/// Fills a fresh state; `is_agreed` where it is for a script that the replicas of a group run.
pub fn furnish(lua: &mut Lua, is_agreed: bool) -> Globals {
    let stack = &mut lua.stack();
    stack.open_libraries();
    stack.push_globals();
    let names = stack.top();
    for name in REMOVED {
        stack.push_nil();
        stack.set_field(names, name);
    }
    for (library, name, body) in REPLACED {
        edit(stack, names, library, |stack, table| {
            stack.push_function(body);
            stack.set_field(table, name);
        });
    }
    let agreed: &[Guard] = if is_agreed { &agreed::GUARDED } else { &[] };
    let common = GUARDED.iter().filter(|(_, name, _)| agreed.iter().all(|one| one.1 != *name));
    for (library, name, check) in common.chain(agreed).copied() {
        edit(stack, names, library, |stack, table| {
            stack.get_field(table, name);
            stack.guard(check);
            stack.set_field(table, name);
        });
    }
    // `pairs` hands these out.
    stack.get_field(names, c"next");
    stack.set_field(REGISTRY, c"next");
    push_library(stack, &bit::FUNCTIONS);
    stack.set_field(names, c"bit");
    push_library(stack, &packing::FUNCTIONS);
    stack.set_field(names, c"struct");
    push_library(stack, &cmsgpack::FUNCTIONS);
    cmsgpack::describe(stack);
    stack.set_field(names, c"cmsgpack");
    push_library(stack, &cjson::FUNCTIONS);
    cjson::describe(stack);
    stack.set_field(names, c"cjson");
    push_library(stack, &[(c"clock", if is_agreed { agreed::clock } else { base::clock })]);
    stack.set_field(names, c"os");
    push_library(stack, &redis::FUNCTIONS);
    redis::describe(stack);
    stack.set_field(names, c"redis");
    let libraries = [
        c"string",
        c"table",
        c"math",
        c"coroutine",
        c"bit",
        c"struct",
        c"cmsgpack",
        c"cjson",
        c"os",
        c"redis",
    ];
    for library in libraries {
        stack.get_field(names, library);
        protect(stack);
        stack.set_field(names, library);
    }
    lock_strings(stack);
    finish(stack, names)
}

/// Puts the globals of scripts in front of the names, and keeps what the host needs.
fn finish(stack: &mut Stack<'_>, names: c_int) -> Globals {
    // The names end in an error.
    stack.push_table(0, 1);
    stack.push_function(missing);
    stack.set_field(-2, c"__index");
    let end = stack.top();
    stack.push_copy(end);
    stack.set_metatable(names);
    // The same names for a library that is being loaded, with less of redis.
    stack.push_table(0, 32);
    let library_names = stack.top();
    stack.push_nil();
    while stack.next(names) {
        stack.push_copy(-2);
        stack.insert(-2);
        stack.set(library_names);
    }
    push_library(stack, &redis::LIBRARY_FUNCTIONS);
    redis::describe(stack);
    stack.push_function(super::library::register_function);
    stack.set_field(-2, c"register_function");
    // What is not there is an error here too, as Redis has it.
    stack.push_copy(end);
    stack.set_metatable(-2);
    protect(stack);
    stack.set_field(library_names, c"redis");
    stack.push_copy(end);
    stack.set_metatable(library_names);
    // What scripts have as globals.
    stack.push_copy(names);
    protect(stack);
    for table in [names, library_names] {
        stack.push_copy(-1);
        stack.set_field(table, c"_G");
    }
    let has_front = stack.push_metatable(-1);
    debug_assert!(has_front, "what `protect` makes has a metatable");
    let front = stack.keep();
    stack.set_globals();
    let quick_names = push_quick_names(stack, names, end);
    stack.push_copy(library_names);
    let library_names = stack.keep();
    stack.push_copy(names);
    let names = stack.keep();
    stack.set_top(0);
    Globals { names, quick_names, library_names, front }
}

/// The names as an environment of their own, without a table in front: nothing refuses a write there, so
/// it is for functions that have no instruction that assigns to a global. `_G` is the front there too.
fn push_quick_names(stack: &mut Stack<'_>, names: c_int, end: c_int) -> c_int {
    stack.push_table(0, 32);
    let quick_names = stack.top();
    stack.push_nil();
    while stack.next(names) {
        stack.push_copy(-2);
        stack.insert(-2);
        stack.set(quick_names);
    }
    stack.push_copy(end);
    stack.set_metatable(quick_names);
    stack.keep()
}

/// Runs `change` on a library's table, or on the globals.
fn edit(
    stack: &mut Stack<'_>,
    names: c_int,
    library: Option<&CStr>,
    change: impl FnOnce(&mut Stack<'_>, c_int),
) {
    match library {
        None => change(stack, names),
        Some(library) => {
            stack.get_field(names, library);
            let table = stack.top();
            change(stack, table);
            stack.set_top(table - 1);
        }
    }
}

/// Pushes a table of functions.
pub fn push_library(stack: &mut Stack<'_>, functions: &[(&CStr, Body)]) {
    stack.push_table(0, functions.len());
    for (name, body) in functions {
        stack.push_function(*body);
        stack.set_field(-2, name);
    }
}

/// Replaces the table on top of the stack by an empty, read-only one in front of it.
fn protect(stack: &mut Stack<'_>) {
    if known_bugs::is_back(Bug::LibrariesAreWritable) {
        return;
    }
    stack.push_table(0, 0);
    stack.insert(-2);
    stack.push_table(0, 4);
    stack.insert(-2);
    stack.push_copy(-1);
    stack.set_field(-3, c"__protected");
    stack.set_field(-2, c"__index");
    stack.push_function(refuse_write);
    stack.set_field(-2, c"__newindex");
    stack.push_bool(false);
    stack.set_field(-2, c"__metatable");
    stack.set_metatable(-2);
}

/// The metatable that all strings share is nobody's to see or change (CVE-2025-46818).
fn lock_strings(stack: &mut Stack<'_>) {
    stack.push_bytes(b"");
    if stack.push_metatable(-1) {
        stack.push_bool(false);
        stack.set_field(-2, c"__metatable");
        stack.pop(1);
    }
    stack.pop(1);
}

/// Pushes the table that a value is in front of, if it is.
fn push_protected(stack: &mut Stack<'_>, index: c_int) -> bool {
    if stack.kind(index) != Kind::Table || !stack.push_metatable(index) {
        return false;
    }
    stack.get_field(-1, c"__protected");
    stack.remove(-2);
    if stack.kind(-1) == Kind::Table {
        return true;
    }
    stack.pop(1);
    false
}

/// Refuses a write past metamethods.
fn refuse_protected(stack: &mut Stack<'_>) -> Result<(), Raise> {
    if push_protected(stack, 1) {
        return Err(stack.error_plain("Attempt to modify a readonly table"));
    }
    Ok(())
}

/// Lets a read past metamethods see what is behind the first argument.
pub(super) fn unwrap_protected(stack: &mut Stack<'_>) -> Result<(), Raise> {
    if push_protected(stack, 1) {
        stack.replace(1);
    }
    Ok(())
}

fn refuse_write(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    Err(stack.error("Attempt to modify a readonly table"))
}

fn missing(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    let name = String::from_utf8_lossy(stack.text(2).unwrap_or(b"?")).into_owned();
    Err(stack.error(&format!("Script attempted to access nonexistent global variable '{name}'")))
}

/// `pairs(table)`
fn pairs(stack: &mut Stack<'_>) -> Result<c_int, Raise> {
    if stack.kind(1) != Kind::Table {
        return Err(stack.type_error(1, "table"));
    }
    if stack.extra().is_agreed() {
        agreed::check_order(stack)?;
    }
    stack.get_field(REGISTRY, c"next");
    stack.push_copy(1);
    stack.push_nil();
    Ok(3)
}
