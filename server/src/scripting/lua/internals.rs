//! What Lua's interface does not tell, read from its structures: whether a caller wants a result, and
//! whether a table is still the plain list that it was made as.
//!
//! So a reply that a script drops is not made, and KEYS and ARGV are tables that are used again. The
//! structures are those of Lua
//! 5.1.5, the last release of its line, which is built with the server. `check` looks at each of
//! them when a state is made; where they are not as expected, nothing is read.

use super::{Extra, Stack};
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};

/// The start of `lua_State` (lstate.h).
#[repr(C)]
struct State {
    next: *const c_void,
    tt: u8,
    marked: u8,
    status: u8,
    top: *const c_void,
    base: *const c_void,
    global: *const c_void,
    ci: *const CallInfo,
}

/// `CallInfo` (lstate.h).
#[repr(C)]
struct CallInfo {
    base: *const c_void,
    func: *const c_void,
    top: *const c_void,
    savedpc: *const c_void,
    nresults: c_int,
    tailcalls: c_int,
}

/// `Table` (lobject.h).
#[repr(C)]
struct Table {
    next: *const c_void,
    tt: u8,
    marked: u8,
    flags: u8,
    lsizenode: u8,
    metatable: *const c_void,
    array: *mut TValue,
    node: *const c_void,
    lastfree: *const c_void,
    gclist: *const c_void,
    sizearray: c_int,
}

/// `TValue` (lobject.h).
#[repr(C)]
struct TValue {
    value: u64,
    tt: c_int,
}

/// What tells a plain list of so many places from anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    metatable: usize,
    /// All tables without fields have one and the same node.
    node: usize,
    places: c_int,
}

impl Stack<'_> {
    /// Whether the caller of the function that runs drops its results.
    #[inline]
    pub fn results_are_dropped(&self) -> bool {
        // SAFETY: `check` has seen that states are as described; a function runs, so there is a call.
        self.extra.is_known.get() && unsafe { (*(*self.state.cast::<State>()).ci).nresults } == 0
    }

    /// The shape of a table; `None` where that cannot be told.
    #[inline]
    pub fn shape(&self, index: c_int) -> Option<Shape> {
        if !self.extra.is_known.get() {
            return None;
        }
        // SAFETY: the caller's index is that of a table, and `check` has seen how tables are.
        let table = unsafe { &*ffi::lua_topointer(self.state, index).cast::<Table>() };
        Some(Shape {
            metatable: table.metatable.addr(),
            node: table.node.addr(),
            places: table.sizearray,
        })
    }

    /// Empties a plain list from the place after `len` on. `shape` is what the table has now.
    #[inline]
    pub fn cut_list(&mut self, index: c_int, len: usize, shape: Shape) {
        let places = usize::try_from(shape.places).unwrap_or(0);
        // SAFETY: as in `shape`; the array has so many places, and nil needs no barrier of the
        // collector. No reference to the table is alive.
        unsafe {
            let table = ffi::lua_topointer(self.state, index).cast::<Table>();
            let array = (*table).array;
            for at in len..places {
                (*array.add(at)).tt = ffi::LUA_TNIL;
            }
        }
    }
}

/// Looks at a fresh state, whether its structures are as described above.
pub(super) fn check(stack: &mut Stack<'_>, extra: &Extra) {
    extra.is_known.set(calls_are_as_described(stack) && tables_are_as_described(stack));
    stack.set_top(0);
    debug_assert!(extra.is_known.get(), "Lua's structures are not those of Lua 5.1.5");
}

fn calls_are_as_described(stack: &mut Stack<'_>) -> bool {
    unsafe extern "C-unwind" fn probe(state: *mut ffi::lua_State) -> c_int {
        // SAFETY: the pointer is within any version's state; it is compared before it is followed.
        unsafe {
            let seen = &*state.cast::<State>();
            let top = ffi::lua_gettop(state);
            let arguments = seen.top.addr().wrapping_sub(seen.base.addr());
            // Two arguments are two values of 16 bytes, and the call has the same base.
            let is_state = top == 2 && arguments == 32 && !seen.ci.is_null();
            let is_call = is_state && (*seen.ci).base == seen.base;
            let wanted = if is_call { (*seen.ci).nresults } else { -2 };
            ffi::lua_pushboolean(
                state,
                c_int::from(wanted == ffi::lua_tonumber(state, 1) as c_int),
            );
        }
        1
    }
    let mut is_as_described = true;
    for wanted in [1, 3] {
        // SAFETY: `probe` is a function for Lua.
        unsafe { ffi::lua_pushcclosure(stack.state, probe, 0) };
        stack.push_number(f64::from(wanted));
        stack.push_nil();
        is_as_described &= stack.call(2, wanted, 0).is_ok() && stack.is_true(1);
        stack.set_top(0);
    }
    is_as_described
}

fn tables_are_as_described(stack: &mut Stack<'_>) -> bool {
    const PLACES: c_int = 5;
    const TAG: u64 = 0x5EED;
    for _ in 0..2 {
        stack.push_table(PLACES as usize, 0);
        // SAFETY: a light userdata is any pointer.
        unsafe { ffi::lua_pushlightuserdata(stack.state, TAG as usize as *mut c_void) };
        stack.set_index(-2, 2);
    }
    // SAFETY: `Table` is not larger than that of any 5.1; pointers are compared before they are
    // followed.
    let (first, second) = unsafe {
        let table = |index| &*ffi::lua_topointer(stack.state, index).cast::<Table>();
        (table(1), table(2))
    };
    let fits = first.tt == 5
        && first.lsizenode == 0
        && first.sizearray == PLACES
        && first.metatable.is_null()
        && first.node == second.node
        && first.array != second.array
        && !first.array.is_null();
    // SAFETY: the array has `PLACES` places.
    if !fits || unsafe { (*first.array.add(1)).value != TAG || (*first.array).tt != 0 } {
        return false;
    }
    stack.push_copy(2);
    stack.set_metatable(1);
    stack.push_nil();
    stack.push_bool(true);
    stack.remove(-2);
    stack.set_field(2, c"field");
    // SAFETY: as above.
    let (first, second) = unsafe {
        let table = |index| &*ffi::lua_topointer(stack.state, index).cast::<Table>();
        (table(1), table(2))
    };
    first.metatable == std::ptr::from_ref(second).cast() && first.node != second.node
}
