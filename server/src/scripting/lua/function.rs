//! Functions in Rust that scripts call, and the hook that looks at long ones.

use super::{Extra, Stack};
use mlua_sys as ffi;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a function in Rust returns where it raises an error: the error's value is on top of the
/// stack.
#[derive(Debug)]
#[must_use]
pub struct Raise(pub(super) ());

/// A function for scripts: its arguments are the stack, its results the topmost values.
pub type Body = fn(&mut Stack<'_>) -> Result<c_int, Raise>;

/// The Extra of a state.
#[inline]
pub(super) fn extra_of<'a>(state: *mut ffi::lua_State) -> &'a Extra {
    let mut extra: *mut c_void = std::ptr::null_mut();
    // SAFETY: the state is valid; every state's allocator data is its Extra, which outlives all
    // calls on the state.
    unsafe {
        ffi::lua_getallocf(state, &mut extra);
        &*extra.cast::<Extra>()
    }
}

/// The one C function behind all functions in Rust: which one is its upvalue.
pub(super) unsafe extern "C-unwind" fn enter(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the upvalue was made from a `Body` by `Stack::push_function`, the only user of `enter`.
    let body: Body = unsafe {
        std::mem::transmute(ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast_const())
    };
    match run_body(state, body) {
        Some(results) => results,
        // SAFETY: the error's value is on top of the stack, and no frame of Rust between here and
        // the protected call has anything to drop.
        None => unsafe { ffi::lua_error(state) },
    }
}

/// Runs a function; `None` where it raises what is on top of the stack. Leaves nothing to drop.
#[inline]
fn run_body(state: *mut ffi::lua_State, body: Body) -> Option<c_int> {
    let extra = extra_of(state);
    let mut stack = Stack { state, extra, lifetime: PhantomData };
    extra.in_rust.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| body(&mut stack)));
    let results = match result {
        Ok(Ok(_)) if extra.is_over() => {
            stack.push_bytes(b"not enough memory");
            None
        }
        Ok(Ok(results)) => Some(results),
        Ok(Err(Raise(()))) => None,
        Err(panic) => {
            extra.panic.set(Some(panic));
            extra.run.end_now();
            stack.push_bytes(b"ERR a function of the server failed");
            None
        }
    };
    extra.in_rust.set(false);
    results
}

/// Looks at a script that runs long; ends it where it is told to.
pub(super) unsafe extern "C-unwind" fn hook(state: *mut ffi::lua_State, _: *mut ffi::lua_Debug) {
    let extra = extra_of(state);
    extra.in_rust.set(true);
    let ended = catch_unwind(AssertUnwindSafe(|| extra.run.look()));
    let reason = match ended {
        Ok(reason) => reason,
        Err(panic) => {
            extra.panic.set(Some(panic));
            extra.run.end_now();
            Some("ERR the server failed while a script ran")
        }
    };
    if let Some(reason) = reason {
        // From now on every line ends the script, so that it cannot go on by catching the error.
        // SAFETY: the state is valid; Lua allows to set a hook from a hook.
        unsafe { ffi::lua_sethook(state, Some(hook), ffi::LUA_MASKLINE, 0) };
        let mut stack = Stack { state, extra, lifetime: PhantomData };
        stack.push_error_table(reason.as_bytes());
    }
    extra.in_rust.set(false);
    if reason.is_some() {
        // SAFETY: the value is on top of the stack, and nothing is left to drop.
        unsafe { ffi::lua_error(state) };
    }
}

/// What looks at the arguments before one of Lua's own functions runs.
pub type Check = fn(&mut Stack<'_>) -> Result<(), Raise>;

/// One of Lua's own functions behind a check: the check and the function are the upvalues.
pub(super) unsafe extern "C-unwind" fn guarded(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: the upvalues were made by `Stack::push_guarded`, the only user of `guarded`.
    unsafe {
        let check: Check =
            std::mem::transmute(ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast_const());
        if !passes(state, check) {
            ffi::lua_error(state);
        }
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(2)) {
            Some(function) => function(state),
            None => 0,
        }
    }
}

/// Whether the arguments pass; the error is on top of the stack otherwise. Leaves nothing to drop.
#[inline]
fn passes(state: *mut ffi::lua_State, check: Check) -> bool {
    let extra = extra_of(state);
    let mut stack = Stack { state, extra, lifetime: PhantomData };
    extra.in_rust.set(true);
    let passes = catch_unwind(AssertUnwindSafe(|| check(&mut stack)));
    extra.in_rust.set(false);
    match passes {
        Ok(result) => result.is_ok(),
        Err(panic) => {
            extra.panic.set(Some(panic));
            extra.run.end_now();
            stack.push_nil();
            false
        }
    }
}
