//! What committed calls are applied to.

use super::request::Request;
use crate::bug;
use crate::bytes::Malformed;
use ashlar_engine::command::Flags;
use ashlar_engine::engine::{Engine, EngineOptions};
use ashlar_engine::error::Error;
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::reply::Reply;
use ashlar_engine::stamp::{Rng, Stamp};
use std::io;

/// Hands the bytes of a state out piece by piece, wherever it is run.
pub type CaptureJob =
    Box<dyn FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> + Send>;

/// A state as it was at one moment.
pub enum Capture {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// What gives them, on another thread.
    Job(CaptureJob),
}

/// A replicated state: the same requests in the same order lead to the same state and the same
/// replies on every replica.
pub trait Machine {
    /// Applies a request; appends its replies, one after the other.
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>);
    /// Whether a request is going to be refused without a change, for a reason that passes: the refusal
    /// is then not remembered, so that it can be repeated under its id.
    fn refuses(&self, _request: &Request) -> bool {
        false
    }
    /// Runs calls that only read, here and now; appends their replies.
    fn read(&mut self, request: &Request, out: &mut Vec<u8>);
    /// The state as bytes.
    fn snapshot(&mut self) -> Vec<u8>;
    /// The state of this moment, for a snapshot that is written while calls go on; `None` if that is not
    /// possible now, so that it is to be tried again.
    fn capture(&mut self) -> Option<Capture> {
        Some(Capture::Bytes(self.snapshot()))
    }
    /// Replaces the state by one that [`Machine::snapshot`] gave; no bytes are the empty state.
    ///
    /// # Errors
    /// If the bytes are none; the state is then undefined, and another snapshot has to be taken.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed>;
    /// A digest of the state, to compare replicas with.
    fn digest(&self) -> u64;
}

/// The engine as a replicated state.
pub struct EngineMachine {
    engine: Engine,
    options: EngineOptions,
    /// Tells replicas apart for the bugs that let them differ.
    #[cfg_attr(not(feature = "known-bugs"), allow(dead_code))]
    node: u64,
}

impl EngineMachine {
    /// An empty engine on a node.
    pub fn new(node: u64, options: EngineOptions) -> EngineMachine {
        EngineMachine { engine: Engine::with_options(options.clone()), options, node }
    }

    fn run(&self, request: &Request, reads_only: bool, out: &mut Vec<u8>) {
        let mut executor = self.engine.executor();
        executor.lock_all();
        for (nth, call) in request.calls.iter().enumerate() {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            let stamp = self.stamp(&request.stamp, nth as u64);
            let mut reply = Reply::new(out, request.protocol);
            let Some(command) = Engine::find_command(&args) else {
                reply.error(&Error::text("ERR unknown command"));
                continue;
            };
            if !command.accepts(args.len()) {
                reply.error(&Error::text("ERR wrong number of arguments"));
                continue;
            }
            if reads_only && !command.flags.contains(Flags::READONLY) {
                reply.error(&Error::text("ERR the call writes"));
                continue;
            }
            let call = Call {
                command,
                args: &args,
                db: call.db,
                stamp: &stamp,
                may_block: false,
                no_touch: reads_only,
            };
            executor.run(&call, Prefetched::NONE, &mut reply);
        }
    }

    /// The stamp of the request's call number `nth`.
    fn stamp(&self, stamp: &Stamp, nth: u64) -> Stamp {
        let mut stamp = *stamp;
        if nth > 0 {
            stamp.seed = Rng::new(stamp.seed ^ nth).next_u64();
        }
        if bug!(RandomPerReplica) {
            stamp.seed ^= self.node;
        }
        if bug!(ClockPerReplica) {
            stamp.now_ms += self.node as i64 * 50;
        }
        stamp
    }
}

impl Machine for EngineMachine {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        self.run(request, false, out);
    }

    fn read(&mut self, request: &Request, out: &mut Vec<u8>) {
        self.run(request, true, out);
    }

    fn snapshot(&mut self) -> Vec<u8> {
        self.engine.image()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if bug!(SnapshotMerged) && self.engine.digest() != 0 {
            return Ok(());
        }
        self.engine = Engine::from_image(self.options.clone(), bytes).ok_or(Malformed)?;
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.engine.digest()
    }
}
