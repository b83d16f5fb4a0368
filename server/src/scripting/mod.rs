//! Scripts and functions in Lua.
//!
//! ```text
//! EVAL, FCALL -> thread's interpreter -> sandbox -> redis.call -> host -> executor
//!                     |                                             (all shards locked)
//!      cache (texts by SHA1, shared)      libraries (text, in the engine)
//! ```
//! A script is not replayed: the log and the replicas get what its commands did, each as the call
//! that it is, with its stamp. So nothing depends on how Lua orders a table, and a replica needs
//! neither the script nor Lua.

mod agreed;
pub mod base;
pub mod bit;
pub mod busy;
pub mod cache;
mod call;
pub mod cjson;
pub mod cmsgpack;
pub mod convert;
mod copies;
mod gformat;
pub mod interpreter;
pub mod library;
mod lists;
pub mod lua;
pub mod math;
pub mod packing;
mod redis;
mod run;
mod sandbox;
pub mod shebang;

use crate::host::Host;
use ashlar_engine::error::Error;
use interpreter::Interpreter;
use library::Functions;
use std::cell::RefCell;

thread_local! {
    /// The interpreters of this thread. A worker is a thread, and Lua states stay on theirs.
    static SCRIPTS: RefCell<Option<Interpreter>> = const { RefCell::new(None) };
    static FUNCTIONS: RefCell<Option<Functions>> = const { RefCell::new(None) };
    /// For what the replicas of a group run: as good as fresh, see `agreed.rs`.
    static AGREED: RefCell<Option<Interpreter>> = const { RefCell::new(None) };
}

/// A fresh interpreter for what the replicas of a group run.
fn take_agreed() -> Result<Interpreter, Error> {
    AGREED.take().map_or_else(Interpreter::agreed, Ok)
}

/// Makes it fresh again, for the next one.
fn keep_agreed(mut used: Interpreter, host: &Host<'_, '_>) {
    if used.put_back() {
        used.report(host);
        AGREED.set(Some(used));
    } else {
        used.retire(host);
    }
}

const NESTED: &str = "ERR a script cannot run another one";

/// Works with this worker's interpreter for scripts; a fresh one after SCRIPT FLUSH, and for a script that
/// the replicas of a group run, see `agreed.rs`.
///
/// # Errors
/// Where there is no memory for it, and whatever `work` returns.
pub fn with_scripts<T, E: From<Error>>(
    host: &mut Host<'_, '_>,
    work: impl FnOnce(&mut Host<'_, '_>, &mut Interpreter) -> Result<T, E>,
) -> Result<T, E> {
    if host.session.applies {
        let mut fresh = take_agreed()?;
        let result = work(host, &mut fresh);
        keep_agreed(fresh, host);
        return result;
    }
    SCRIPTS.with(|scripts| {
        let Ok(mut scripts) = scripts.try_borrow_mut() else {
            return Err(Error::text(NESTED).into());
        };
        let flushes = host.shared.scripts.cache.flushes();
        if scripts.as_ref().is_some_and(|scripts| scripts.version != flushes)
            && let Some(old) = scripts.take()
        {
            old.retire(host);
        }
        let scripts = match &mut *scripts {
            Some(scripts) => scripts,
            none => none.insert(Interpreter::new(flushes)?),
        };
        work(host, scripts)
    })
}

/// Works with this worker's functions, as the engine has them now.
///
/// # Errors
/// Where there is no memory for them, and whatever `work` returns.
pub fn with_functions<T, E: From<Error>>(
    host: &mut Host<'_, '_>,
    work: impl FnOnce(&mut Host<'_, '_>, &mut Functions) -> Result<T, E>,
) -> Result<T, E> {
    with_interpreter_of_functions(host, |host, functions| {
        functions.refresh(host);
        work(host, functions)
    })
}

/// The same, with whatever functions are there: for one whose library is at hand. A fresh interpreter
/// where the replicas of a group run it.
///
/// # Errors
/// As [`with_functions`].
pub fn with_interpreter_of_functions<T, E: From<Error>>(
    host: &mut Host<'_, '_>,
    work: impl FnOnce(&mut Host<'_, '_>, &mut Functions) -> Result<T, E>,
) -> Result<T, E> {
    if host.session.applies {
        let mut fresh = take_agreed()?;
        if !fresh.put_back_to_base() {
            fresh = Interpreter::agreed()?;
        }
        let mut fresh = Functions::of(fresh);
        let result = work(host, &mut fresh);
        keep_agreed(fresh.interpreter, host);
        return result;
    }
    FUNCTIONS.with(|functions| {
        let Ok(mut functions) = functions.try_borrow_mut() else {
            return Err(Error::text(NESTED).into());
        };
        let functions = match &mut *functions {
            Some(functions) => functions,
            none => none.insert(Functions::new()?),
        };
        work(host, functions)
    })
}
