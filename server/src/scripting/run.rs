//! The script that runs: what its calls need to know, and the way back to its host.

use super::busy;
use super::interpreter::Invocation;
use crate::host::Host;
use crate::timer::Timer;
use ashlar_engine::reply::Protocol;
use ashlar_engine::tier::Needs;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::time::Instant;

/// Why a script was ended.
const KILLED: &str = "ERR Error running script: Script killed by user with SCRIPT KILL.";
const STOPPING: &str = "ERR The server is being stopped.";
const TOO_LONG: &str =
    "ERR The script has run for more instructions than one in a cluster may (AGREED_LOOKS_MAX)";

/// Looks, each after [`LOOK_INSTRUCTIONS`](super::interpreter::LOOK_INSTRUCTIONS), after which a script that
/// the replicas of a group run is ended: 50 million instructions, half a second of a thread that has the
/// group's elections to think of.
pub const AGREED_LOOKS_MAX: u32 = 500;
/// Calls of commands that count as one of these looks.
const CALLS_PER_LOOK: u64 = 1_000;

/// What is true of the script that runs now.
#[derive(Default)]
pub struct Run {
    /// The host that the script runs for; none while a call uses it, or when nothing runs.
    host: Cell<Option<NonNull<()>>>,
    what: Cell<Option<NonNull<()>>>,
    /// Protocol of the replies that the script sees (`redis.setresp`).
    pub protocol: Cell<Protocol>,
    /// Whether writes are refused (EVAL_RO, `no-writes`).
    pub read_only: Cell<bool>,
    /// Whether memory is above `maxmemory`, so that commands that may need more are refused.
    pub is_full: Cell<bool>,
    /// Whether a command that writes was called: from then on the script cannot be killed.
    pub wrote: Cell<bool>,
    /// Whether the script may be given up where it meets something on disk, to be run again once that is in memory.
    pub may_wait: Cell<bool>,
    /// Whether it has called a command that does more than read: then it cannot be run again.
    pub acted: Cell<bool>,
    /// What it was given up for.
    pub lacks: RefCell<Option<Needs>>,
    /// Whether what runs is a function's library that is being loaded.
    pub loading: Cell<bool>,
    /// Whether what runs is a function and not a script.
    pub is_function: Cell<bool>,
    /// In a cluster, the slot of the keys, once there are any.
    pub slot: Cell<Option<u16>>,
    /// Number of calls so far; each has random numbers of its own.
    pub calls: Cell<u64>,
    /// Random numbers of `math.random`.
    pub random: Cell<u64>,
    /// What the script has set of `cjson`.
    pub json: Cell<super::cjson::Settings>,
    /// The functions that a library has registered while it is loaded.
    pub registered: RefCell<Vec<super::library::Registered>>,
    /// Replies of commands, as bytes; kept for the next call.
    pub out: RefCell<Vec<u8>>,
    /// Commands that were called lately.
    pub(super) commands: super::call::Known,
    /// What times the script's commands, once there was one.
    pub(super) timer: Cell<Option<Timer>>,
    pub(super) started: Cell<Option<Instant>>,
    pub(super) is_busy: Cell<bool>,
    ended: Cell<Option<&'static str>>,
    /// Looks after which a script without a server ends.
    pub(super) looks_left: Cell<Option<u32>>,
    /// The same for one that the replicas of a group run: nothing else ends it.
    agreed_looks_left: Cell<Option<u32>>,
}

impl Run {
    /// Runs `work` with the host in reach of the script's calls.
    pub fn lend<T>(
        &self,
        host: &mut Host<'_, '_>,
        what: &Invocation<'_>,
        work: impl FnOnce() -> T,
    ) -> T {
        /// Takes the host back, also when `work` panics.
        struct Back<'a>(&'a Run);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.host.set(None);
                self.0.what.set(None);
            }
        }
        self.host.set(Some(NonNull::from(host).cast()));
        self.what.set(Some(NonNull::from(what).cast()));
        let _back = Back(self);
        work()
    }

    /// As [`Run::lend`], while a library is loaded: there is no command that runs it.
    pub fn lend_for_loading<T>(&self, host: &mut Host<'_, '_>, work: impl FnOnce() -> T) -> T {
        let what = Invocation::default();
        self.lend(host, &what, work)
    }

    /// The host, for one call; `None` where no script runs.
    pub fn with_host<T>(&self, work: impl FnOnce(&mut Host<'_, '_>) -> T) -> Option<T> {
        let host = self.host.take()?;
        // SAFETY: `lend` put it there, whose caller waits, with the host mutably borrowed, until it
        // is taken back; and taking it out here makes this the only use of it.
        let result = work(unsafe { host.cast::<Host<'_, '_>>().as_mut() });
        self.host.set(Some(host));
        Some(result)
    }

    /// The name of what runs, and the command that runs it.
    pub fn invocation(&self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        // SAFETY: `lend` put it there from a reference that outlives its stay.
        let what = unsafe { self.what.get()?.cast::<Invocation<'_>>().as_ref() };
        Some((what.name.to_vec(), what.command()))
    }

    /// Starts anew for the next script.
    pub fn reset(&self, seed: u64) {
        self.protocol.set(Protocol::Resp2);
        self.read_only.set(false);
        self.is_full.set(false);
        self.wrote.set(false);
        self.may_wait.set(false);
        self.acted.set(false);
        self.lacks.replace(None);
        self.loading.set(false);
        self.slot.set(None);
        self.calls.set(0);
        self.timer.set(None);
        self.json.set(Default::default());
        self.random.set(seed & super::math::STATE_MASK);
        self.started.set(None);
        self.is_busy.set(false);
        self.ended.set(None);
        self.agreed_looks_left.set(None);
    }

    /// Says whether it is a script that the replicas of a group run.
    pub fn agree(&self, is_agreed: bool) {
        self.agreed_looks_left.set(is_agreed.then_some(AGREED_LOOKS_MAX));
    }

    /// Whether it is one.
    pub fn is_agreed(&self) -> bool {
        self.agreed_looks_left.get().is_some()
    }

    /// Ends the script at the next look.
    pub fn end_now(&self) {
        self.ended.set(Some(STOPPING));
    }

    /// Why the script was ended, if it was.
    pub fn why_ended(&self) -> Option<&'static str> {
        self.ended.get()
    }

    /// Whether the server stops in the middle of the script: what it did must not stay.
    pub fn is_cut_short(&self) -> bool {
        self.ended.get() == Some(STOPPING)
    }

    /// Counts a look of a script that the replicas of a group run.
    fn spend_look(&self) {
        if let Some(left) = self.agreed_looks_left.get() {
            self.agreed_looks_left.set(Some(left.saturating_sub(1)));
            if left == 0 {
                self.ended.set(Some(TOO_LONG));
            }
        }
    }

    /// Counts a call of a command; why the script may make no more of them, if it may not.
    pub fn count_call(&self) -> Option<&'static str> {
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        if calls.is_multiple_of(CALLS_PER_LOOK) && self.ended.get().is_none() {
            self.spend_look();
        }
        self.agreed_looks_left.get().and(self.ended.get())
    }

    /// Looks at a script that has run for a while: serves those who wait. Returns why it is to end,
    /// if it is.
    pub fn look(&self) -> Option<&'static str> {
        if let Some(left) = self.looks_left.get() {
            self.looks_left.set(Some(left.saturating_sub(1)));
            if left == 0 {
                self.end_now();
            }
        } else if self.ended.get().is_none() {
            self.spend_look();
            if self.ended.get().is_some() {
                return self.ended.get();
            }
            let verdict = self.with_host(|host| busy::look(host, self));
            self.ended.set(match verdict {
                None | Some(busy::Verdict::GoOn) => None,
                Some(busy::Verdict::Killed) => Some(KILLED),
                Some(busy::Verdict::Stopping) => Some(STOPPING),
                Some(busy::Verdict::LoadingTooLong) => Some("ERR FUNCTION LOAD timeout"),
            });
        }
        self.ended.get()
    }
}
