//! Scripts that run long: who waits is told, and may end them.
//!
//! Above `busy-reply-threshold` a script counts as busy. Other workers then refuse what is not
//! allowed meanwhile. The script's own worker has more clients than the one that waits for the
//! script: they are served from the hook, with the few commands that make sense.

use super::run::Run;
use crate::config::ids;
use crate::host::Host;
use ashlar_engine::Engine;
use ashlar_engine::error::Error;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a library may take to load.
const LOADING_MAX: Duration = Duration::from_millis(500);

/// What becomes of a script that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    GoOn,
    /// SCRIPT KILL or FUNCTION KILL.
    Killed,
    /// The server stops.
    Stopping,
    /// It is a library that takes too long to load.
    LoadingTooLong,
}

/// A script that is busy.
#[derive(Clone, Debug)]
pub struct Busy {
    /// The function's name, or the script's digest.
    pub name: Vec<u8>,
    /// The command that runs it.
    pub command: Vec<Vec<u8>>,
    /// When it started.
    pub started: Instant,
    /// Whether it is a function.
    pub is_function: bool,
}

/// What the workers share of the scripts that run.
#[derive(Debug, Default)]
pub struct Scripts {
    /// The scripts that are known.
    pub cache: super::cache::Cache,
    /// Bytes of all interpreters.
    pub lua_bytes: AtomicUsize,
    /// Whether a script holds all shards: what need not be done now is left for later.
    pub is_running: AtomicBool,
    /// Whether a script is busy; looked at by every command.
    pub is_busy: AtomicBool,
    busy: Mutex<Option<Busy>>,
    kill: AtomicBool,
    /// Whether the busy script has written, so that it cannot be killed.
    wrote: AtomicBool,
    /// Whether all replicas of a group run the busy script, so that none may end it.
    is_agreed: AtomicBool,
}

impl Scripts {
    /// The error for what is not allowed while a script is busy.
    pub fn busy_error(&self) -> Error {
        let busy = self.busy.lock();
        Error::text(match &*busy {
            Some(Busy { is_function: true, .. }) => {
                "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN \
                 NOSAVE."
            }
            _ => {
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN \
                 NOSAVE."
            }
        })
    }

    /// The busy script.
    pub fn busy(&self) -> Option<Busy> {
        self.busy.lock().clone()
    }

    /// SCRIPT KILL and FUNCTION KILL.
    ///
    /// # Errors
    /// Redis's texts where there is nothing to end, or it cannot be ended.
    pub fn kill(&self, function: bool) -> Result<(), Error> {
        match &*self.busy.lock() {
            None => {
                return Err(Error::text("NOTBUSY No scripts in execution right now."));
            }
            Some(busy) if busy.is_function != function => {
                return Err(Error::text(if function {
                    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or \
                     SHUTDOWN NOSAVE."
                } else {
                    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or \
                     SHUTDOWN NOSAVE."
                }));
            }
            Some(_) => {}
        }
        if self.is_agreed.load(Ordering::Acquire) {
            return Err(Error::text(
                "UNKILLABLE The script runs on all replicas of its group, which have to do the same. \
                 It ends by itself, at the latest after as many instructions as a script in a cluster \
                 may have.",
            ));
        }
        if self.wrote.load(Ordering::Acquire) {
            return Err(Error::text(
                "UNKILLABLE Sorry the script already executed write commands against the \
                 dataset. You can either wait the script termination or kill the server in a \
                 hard way using the SHUTDOWN NOSAVE command.",
            ));
        }
        self.kill.store(true, Ordering::Release);
        Ok(())
    }

    fn becomes_busy(&self, run: &Run, started: Instant, engine: &Engine) {
        let (name, command) = run.invocation().unwrap_or_default();
        tracing::warn!(
            "a script runs for more than busy-reply-threshold: {}",
            String::from_utf8_lossy(&name)
        );
        let is_function = run.is_function.get();
        self.kill.store(false, Ordering::Release);
        self.is_agreed.store(run.is_agreed(), Ordering::Release);
        *self.busy.lock() = Some(Busy { name, command, started, is_function });
        self.is_busy.store(true, Ordering::Release);
        // Those who wait for a shard already are told as well.
        engine.set_busy(true);
        run.is_busy.set(true);
    }

    /// A script has ended.
    pub fn done(&self, run: &Run, engine: &Engine) {
        if run.is_busy.replace(false) {
            engine.set_busy(false);
            self.is_busy.store(false, Ordering::Release);
            *self.busy.lock() = None;
        }
    }
}

/// Looks at a script that has run for a while.
pub fn look(host: &mut Host<'_, '_>, run: &Run) -> Verdict {
    let started = run.started.get().unwrap_or_else(Instant::now);
    run.started.set(Some(started));
    let elapsed = started.elapsed();
    if run.loading.get() && !run.is_agreed() {
        return if elapsed > LOADING_MAX { Verdict::LoadingTooLong } else { Verdict::GoOn };
    }
    let limit_ms = host.shared.settings.number(ids::BUSY_REPLY_THRESHOLD);
    if elapsed < Duration::from_millis(u64::try_from(limit_ms).unwrap_or(0)) {
        return Verdict::GoOn;
    }
    let scripts = &host.shared.scripts;
    if !run.is_busy.get() {
        scripts.becomes_busy(run, started, &host.shared.engine);
    }
    scripts.wrote.store(run.wrote.get(), Ordering::Release);
    if let Some(others) = &mut host.others {
        others.serve();
    }
    if run.is_agreed() {
        // The other replicas go on too.
        return Verdict::GoOn;
    }
    if host.shared.stopping.load(Ordering::Acquire) {
        return Verdict::Stopping;
    }
    match scripts.kill.swap(false, Ordering::AcqRel) {
        true => Verdict::Killed,
        false => Verdict::GoOn,
    }
}

/// The clients of a worker besides the one whose script runs.
pub trait Others {
    /// Answers what they have sent.
    fn serve(&mut self);
}
