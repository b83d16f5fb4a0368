//! The state of a group and its host: the engine's shard with the product's own slots, and of the
//! server no more than what runs a call.

use ashlar_engine::command::KeyList;
use ashlar_engine::engine::{Engine, EngineOptions};
use ashlar_engine::error::Error;
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::policy::Table;
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::{Rng, Stamp};
use ashlar_replication::bytes::Malformed;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::{GroupId, Machine, OwnedCall, Request};
use ashlar_replication::runtime::{Data, Host, Piece};
use ashlar_replication::slots::{GroupShard, first_state};
use ashlar_replication::topology::{SlotRange, Topology};
use std::sync::{Arc, Mutex};

/// Groups with data that a simulated node has shards for.
pub const GROUPS_MAX: usize = 6;

/// Reply of a call about a slot that is about to leave.
pub const TRY_AGAIN: &[u8] = b"-TRYAGAIN the slot is moving\r\n";

/// A node's engine.
pub fn engine() -> Arc<Engine> {
    let options = EngineOptions { shards: GROUPS_MAX + 1, groups: true, ..Default::default() };
    Arc::new(Engine::with_options(options))
}

/// A group's shard.
pub struct ShardMachine(GroupShard);

impl ShardMachine {
    /// Whether a slot takes no writes here.
    pub fn is_frozen(&self, slot: u16) -> bool {
        self.0.is_frozen(slot)
    }

    /// Whether a call is about a slot that takes no writes.
    fn takes_no(&self, args: &[&[u8]]) -> bool {
        let Some(command) = Engine::find_command(args) else { return false };
        let mut keys = KeyList::new();
        command.keys.positions(args, &mut keys);
        keys.iter().any(|at| self.0.is_frozen(slot_of(args[*at])))
    }

    fn run(&self, request: &Request, out: &mut Vec<u8>) {
        let mut exec = self.0.engine().executor();
        exec.see_only(self.0.shard());
        exec.lock_all();
        let calls = match request.calls.split_first() {
            Some((first, calls)) if first.args == [b"MULTI"] => {
                Reply::new(out, request.protocol).array(calls.len());
                calls
            }
            _ => request.calls.as_slice(),
        };
        for (nth, call) in calls.iter().enumerate() {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            let mut reply = Reply::new(out, request.protocol);
            let Some(command) = Engine::find_command(&args) else {
                reply.error(&Error::text("ERR unknown command"));
                continue;
            };
            if self.takes_no(&args) {
                reply.error(&Error::text("TRYAGAIN the slot is moving"));
                continue;
            }
            let seed = Rng::new(request.stamp.seed ^ nth as u64).next_u64();
            let stamp = Stamp { seed, now_ms: self.0.now_ms, ..request.stamp };
            let (args, db) = (args.as_slice(), call.db);
            let call = Call { command, args, db, stamp: &stamp, may_block: false, no_touch: true };
            exec.run(&call, Prefetched::NONE, &mut reply);
        }
    }

    /// Runs calls that only read, as the thread of a client does once the group has said that it may.
    pub fn look(&self, request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        self.run(request, &mut out);
        out
    }
}

impl Machine for ShardMachine {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        self.0.advance(request.stamp.now_ms);
        match request.calls.first().and_then(|call: &OwnedCall| self.0.move_slots(call)) {
            Some(Ok(())) => Reply::new(out, request.protocol).ok(),
            Some(Err(error)) => Reply::new(out, request.protocol).error(&error),
            None => self.run(request, out),
        }
    }

    fn refuses(&self, request: &Request) -> bool {
        request.calls.iter().any(|call| {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            self.takes_no(&args)
        })
    }

    fn read(&mut self, _: &Request, _: &mut Vec<u8>) {}

    fn snapshot(&mut self) -> Vec<u8> {
        self.0.snapshot()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.0.restore(bytes)
    }

    fn digest(&self) -> u64 {
        self.0.digest()
    }
}

impl Data for ShardMachine {
    fn frozen(&self) -> Vec<SlotRange> {
        self.0.frozen()
    }

    fn frozen_by(&self) -> u64 {
        self.0.frozen_by()
    }

    fn pieces(&self) -> u64 {
        self.0.pieces()
    }

    fn arrivals(&self) -> Vec<(u64, Vec<SlotRange>, bool)> {
        self.0.arrivals()
    }

    fn note_changes(&self, slots: &[SlotRange]) {
        self.0.note_changes(slots);
    }

    fn copy(&self, slots: &[SlotRange], position: u64, bytes: usize) -> Piece {
        self.0.copy(slots, position, bytes.min(64))
    }

    fn changes(&self, slots: &[SlotRange], bytes: usize) -> Option<Piece> {
        self.0.changes(slots, bytes.min(64))
    }

    fn has_keys(&self, slots: &[SlotRange]) -> bool {
        self.0.has_keys(slots)
    }

    fn policies(&self) -> Arc<Table> {
        self.0.policies()
    }

    fn sites_version(&self) -> u64 {
        self.0.sites_version()
    }

    fn site_slots(&self) -> Option<Vec<SlotRange>> {
        self.0.site_slots()
    }
}

/// The host of a simulated node.
pub struct SimHost {
    /// Its engine.
    pub engine: Arc<Engine>,
    /// Why it failed, if it did.
    pub failure: Arc<Mutex<Option<String>>>,
}

impl Host for SimHost {
    type Data = ShardMachine;

    fn machine(&self, group: GroupId) -> ShardMachine {
        assert!(group as usize <= GROUPS_MAX, "the simulation makes no more groups than these");
        ShardMachine(GroupShard::new(self.engine.clone(), group as usize, |_, _| {}))
    }

    fn first_state(&self, slots: &[SlotRange]) -> Vec<u8> {
        first_state(&self.engine, slots)
    }

    fn topology_changed(&self, _: &Arc<Topology>) {}

    fn leader_changed(&self, _: GroupId, _: Option<NodeId>) {}

    fn message(&self, _: NodeId, _: &[u8]) {}

    fn failed(&self, reason: &str) {
        *self.failure.lock().expect("nobody panics with it") = Some(reason.into());
    }
}
