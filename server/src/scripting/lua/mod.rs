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
mod image;
mod internals;
mod memory;
mod names;
mod opcodes;
mod stack;

pub use function::{Body, Check, Raise};
pub use internals::Shape;
pub use names::Name;
pub use stack::{End, Failed, Kind, REGISTRY, Stack};

use super::run::Run;
use mlua_sys as ffi;
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Most memory that one interpreter uses, in bytes. A script that needs more is ended with Lua's
/// own error, `not enough memory`.
pub const MEMORY_BYTES_MAX: usize = 512 << 20;
/// The same for a script that the replicas of a group run, each in a state of its own.
pub const AGREED_BYTES_MAX: usize = 128 << 20;

/// What belongs to a state besides what Lua keeps: its allocator's user data.
#[derive(Default)]
pub struct Extra {
    used_bytes: Cell<usize>,
    /// Blocks for what comes next.
    blocks: memory::Blocks,
    /// Whether the collector runs often, since there is much in memory.
    eager: Cell<bool>,
    /// The state; null until there is one.
    state: Cell<*mut ffi::lua_State>,
    /// Whether Lua's structures are as `internals` describes them.
    is_known: Cell<bool>,
    /// Whether a function in Rust is on top of the stack: no allocation may fail then.
    in_rust: Cell<bool>,
    /// Whether the state is one for scripts that the replicas of a group run.
    is_agreed: Cell<bool>,
    /// A panic on its way through Lua.
    panic: Cell<Option<Box<dyn Any + Send>>>,
    /// The script that is running.
    pub run: Run,
}

impl Extra {
    /// Whether the state is one for scripts that the replicas of a group run.
    pub fn is_agreed(&self) -> bool {
        self.is_agreed.get()
    }

    fn is_over(&self) -> bool {
        self.used_bytes.get() > self.bytes_max()
    }

    fn bytes_max(&self) -> usize {
        if self.is_agreed.get() { AGREED_BYTES_MAX } else { MEMORY_BYTES_MAX }
    }
}

/// What a state was at one moment, to be put back into the same one.
pub struct StateCopy {
    image: image::Image,
    used_bytes: usize,
    eager: bool,
}

impl StateCopy {
    /// Bytes of the copy.
    pub fn bytes(&self) -> usize {
        self.image.len()
    }
}

/// A Lua state with its memory. It stays on its thread.
pub struct Lua {
    state: NonNull<ffi::lua_State>,
    extra: NonNull<Extra>,
}

impl Lua {
    /// A state without any library; `None` where there is no memory for it. `is_agreed` is for scripts
    /// that the replicas of a group run.
    pub fn new(is_agreed: bool) -> Option<Lua> {
        // Those for the replicas of a group are put back after each script.
        let blocks = if is_agreed { memory::Blocks::in_arena()? } else { Default::default() };
        let extra = Extra { blocks, ..Extra::default() };
        let extra = NonNull::from(Box::leak(Box::new(extra)));
        // SAFETY: `allocate` is given the Extra, which lives until after `lua_close`.
        let state = unsafe { ffi::lua_newstate(memory::allocate, extra.as_ptr().cast()) };
        let Some(state) = NonNull::new(state) else {
            // SAFETY: made by `Box::leak` above and not given to anybody.
            drop(unsafe { Box::from_raw(extra.as_ptr()) });
            return None;
        };
        let mut lua = Lua { state, extra };
        lua.extra().in_rust.set(true);
        lua.extra().is_agreed.set(is_agreed);
        lua.extra().state.set(state.as_ptr());
        lua.extra().eager.set(true);
        lua.relax();
        names::keep(&mut lua.stack());
        // SAFETY: the Extra outlives the state.
        internals::check(&mut lua.stack(), unsafe { extra.as_ref() });
        Some(lua)
    }

    /// A copy of the state as it is now, for [`Lua::put_back`]; `None` if it is of a kind that is not put back, or too
    /// large.
    pub fn copy(&mut self) -> Option<StateCopy> {
        let extra = self.extra();
        let (used_bytes, eager) = (extra.used_bytes.get(), extra.eager.get());
        Some(StateCopy { image: extra.blocks.copy()?, used_bytes, eager })
    }

    /// Makes it the state that it was when the copy was taken, whatever has run since; numbers of what is
    /// kept that are not from before stand for nothing any more. Returns whether it could: if not, nothing has changed.
    pub fn put_back(&mut self, copy: &StateCopy) -> bool {
        // SAFETY: nothing runs, as this is the only reference to the state; the addresses that its Run keeps are
        // dropped with it below, and the one of the state itself was there before.
        let is_back = unsafe { self.extra().blocks.put_back(&copy.image) };
        if is_back {
            // SAFETY: made by `new`; as this is the only reference to the state, there is none to this either.
            let extra = unsafe { self.extra.as_mut() };
            extra.used_bytes.set(copy.used_bytes);
            extra.eager.set(copy.eager);
            extra.in_rust.set(true);
            extra.panic.set(None);
            extra.run = Run::default();
        }
        is_back
    }

    /// Lets the collector wait for longer, if there is little in memory: between two scripts.
    pub fn relax(&mut self) {
        memory::be_lazy(self.extra(), self.state.as_ptr());
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
