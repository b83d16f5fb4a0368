//! Lua itself: a state with bounded memory, and a view of its stack for functions in Rust.
//!
//! All of the program's contact with Lua's C interface is in this folder. It uses the interface
//! and not `mlua`'s types on top of it, for two reasons: errors that scripts see must be plain
//! strings and tables, as Redis's are, and a call from a script must not cost more than the
//! command that it runs.
//!
//! Lua raises errors with `longjmp`, which must not pass over frames of Rust that have something
//! to drop. So functions in Rust never raise: they return [`Raise`], and `function::enter`, which
//! has nothing to drop, raises for them. What Lua raises by itself inside an interface call is the
//! lack of memory: while Rust is on top of the stack the allocator therefore never refuses. What
//! is too much is noticed when the function returns.

mod function;
mod stack;

pub use function::{Body, Check, Raise};
pub use stack::{End, Failed, Kind, REGISTRY, Stack};

use super::run::Run;
use mlua_sys as ffi;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::any::Any;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Most memory that one interpreter uses, in bytes. A script that needs more is ended with Lua's
/// own error, `not enough memory`.
pub const MEMORY_BYTES_MAX: usize = 512 << 20;
/// Lua's types have at most this alignment.
const ALIGN: usize = 16;

/// What belongs to a state besides what Lua keeps: its allocator's user data.
#[derive(Default)]
pub struct Extra {
    used_bytes: Cell<usize>,
    /// Whether a function in Rust is on top of the stack: no allocation may fail then.
    in_rust: Cell<bool>,
    /// A panic on its way through Lua.
    panic: Cell<Option<Box<dyn Any + Send>>>,
    /// The script that is running.
    pub run: Run,
}

impl Extra {
    fn is_over(&self) -> bool {
        self.used_bytes.get() > MEMORY_BYTES_MAX
    }
}

/// A Lua state with its memory. It stays on its thread.
pub struct Lua {
    state: NonNull<ffi::lua_State>,
    extra: NonNull<Extra>,
}

impl Lua {
    /// A state without any library; `None` where there is no memory for it.
    pub fn new() -> Option<Lua> {
        let extra = NonNull::from(Box::leak(Box::<Extra>::default()));
        // SAFETY: `allocate` is given the Extra, which lives until after `lua_close`.
        let state = unsafe { ffi::lua_newstate(allocate, extra.as_ptr().cast()) };
        let Some(state) = NonNull::new(state) else {
            // SAFETY: made by `Box::leak` above and not given to anybody.
            drop(unsafe { Box::from_raw(extra.as_ptr()) });
            return None;
        };
        let lua = Lua { state, extra };
        lua.extra().in_rust.set(true);
        Some(lua)
    }

    /// The state's stack, for the host: nothing runs on it now.
    pub fn stack(&mut self) -> Stack<'_> {
        Stack { state: self.state.as_ptr(), extra: self.extra(), lifetime: PhantomData }
    }

    /// What belongs to the state.
    pub fn extra(&self) -> &Extra {
        // SAFETY: made by `new`, freed by `drop`, and only ever shared.
        unsafe { self.extra.as_ref() }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        self.extra().used_bytes.get()
    }

    /// The panic of a function in Rust that ended the last call, if one did.
    pub fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.extra().panic.take()
    }

    /// Looks at the running script every `instructions`; 0 stops that. Coroutines inherit it.
    pub fn set_hook(&mut self, instructions: c_int) {
        let (hook, mask): (Option<ffi::lua_Hook>, _) = match instructions {
            0 => (None, 0),
            _ => (Some(function::hook), ffi::LUA_MASKCOUNT),
        };
        // SAFETY: the state is valid, and the hook is a function of this program.
        unsafe { ffi::lua_sethook(self.state.as_ptr(), hook, mask, instructions) };
    }
}

impl Drop for Lua {
    fn drop(&mut self) {
        // SAFETY: the state is valid and nothing runs on it; the allocator's data outlives it.
        unsafe {
            ffi::lua_close(self.state.as_ptr());
            drop(Box::from_raw(self.extra.as_ptr()));
        }
    }
}

/// Lua's allocator: counts, and refuses above the bound unless Rust is on top of the stack.
unsafe extern "C" fn allocate(
    extra: *mut c_void,
    old: *mut c_void,
    old_bytes: usize,
    new_bytes: usize,
) -> *mut c_void {
    // SAFETY: the user data of every state is its Extra, see `Lua::new`.
    let extra = unsafe { &*extra.cast::<Extra>() };
    let used = extra.used_bytes.get();
    let layout = |bytes| Layout::from_size_align(bytes, ALIGN);
    let old_bytes = if old.is_null() { 0 } else { old_bytes };
    if new_bytes == 0 {
        if let (false, Ok(layout)) = (old.is_null(), layout(old_bytes)) {
            extra.used_bytes.set(used - old_bytes);
            // SAFETY: Lua frees what this function gave, with the size it asked for.
            unsafe { dealloc(old.cast(), layout) };
        }
        return std::ptr::null_mut();
    }
    let wanted = (used - old_bytes).saturating_add(new_bytes);
    if wanted > MEMORY_BYTES_MAX && new_bytes > old_bytes && !extra.in_rust.get() {
        return std::ptr::null_mut();
    }
    let (Ok(old_layout), Ok(new_layout)) = (layout(old_bytes), layout(new_bytes)) else {
        return std::ptr::null_mut();
    };
    let block = if old.is_null() {
        // SAFETY: the size is not 0.
        unsafe { alloc(new_layout) }
    } else {
        // SAFETY: as above, and `old` came from here with the old layout.
        unsafe { realloc(old.cast(), old_layout, new_bytes) }
    };
    if block.is_null() {
        if extra.in_rust.get() {
            handle_alloc_error(new_layout);
        }
        return block.cast();
    }
    extra.used_bytes.set(wanted);
    block.cast()
}
