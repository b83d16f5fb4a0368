//! A group's shard of the engine, as the state that its replicas agree on.
//!
//! Its slots, and how they move, are `ashlar_replication::slots`.
//!
//! What a request does here follows from the request alone: its time is the group's, which never
//! goes back, its random numbers come with it, and a script runs on every replica.

use super::frozen::FrozenSlots;
use super::script;
use crate::acl::{Rules, User};
use crate::clients::Client;
use crate::clock;
use crate::conn::Again;
use crate::host::{Host, settle};
use crate::mailbox::Address;
use crate::session::Session;
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, KeyList};
use ashlar_engine::engine::command_table;
use ashlar_engine::error::{Error, Stop};
use ashlar_engine::executor::{Call, Executor, Prefetched};
use ashlar_engine::policy::{self, Policies, Table};
use ashlar_engine::reply::Reply;
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::{Rng, Stamp};
use ashlar_replication::bytes::Malformed;
use ashlar_replication::raft::{Capture, Machine, OwnedCall, Request};
use ashlar_replication::runtime::{Data, Piece};
use ashlar_replication::sites::group::GroupSites;
use ashlar_replication::slots::GroupShard;
use ashlar_replication::topology::SlotRange;
use std::sync::{Arc, Weak};

/// The state of a group.
pub struct ShardMachine {
    shared: Weak<Shared>,
    slots: GroupShard,
    session: Option<Session>,
    /// Who runs what every client may run.
    user: Option<Arc<User>>,
}

/// The session with which what was agreed on is run.
fn session(shared: &Shared) -> Session {
    let address = Address { worker: 0, slot: usize::MAX, id: shared.clients.next_id() };
    let client = Client::new(address, "cluster".into(), String::new(), -1, clock::now_ms());
    let user = Arc::new(User::new("cluster".into(), Rules::unrestricted(&shared.registry)));
    let mut session = Session::new(Arc::new(client), user, true);
    session.in_transaction = true;
    session.applies = true;
    session
}

impl ShardMachine {
    /// The empty state of a group in that shard.
    pub fn new(
        shared: &Arc<Shared>,
        shard: usize,
        shown: Arc<FrozenSlots>,
        sites: Arc<GroupSites>,
    ) -> ShardMachine {
        let tracked = Arc::downgrade(shared);
        let show = move |slots: &[SlotRange], frozen| {
            shown.set(shard, slots, frozen);
            if let Some(shared) = tracked.upgrade().filter(|_| frozen) {
                // From here on reads of these slots are refused, and another group will have them.
                shared.tracking.forget_all(&shared);
            }
        };
        let slots = GroupShard::new(shared.engine.clone(), shard, show).with_sites(sites);
        ShardMachine { shared: Arc::downgrade(shared), slots, session: None, user: None }
    }

    /// Whether a call is about a slot that takes no writes.
    fn is_frozen(&self, shared: &Shared, args: &[&[u8]]) -> bool {
        if !self.slots.has_frozen() {
            return false;
        }
        let args = script::command_of(args);
        let Ok(resolved) = shared.registry.resolve(args) else { return false };
        let mut keys = KeyList::new();
        resolved.command.keys.positions(args, &mut keys);
        keys.iter().any(|at| self.slots.is_frozen(slot_of(args[*at])))
    }

    /// Runs what the group has agreed on as a site; `None` if it is something else.
    fn run_site(&mut self, shared: &Shared, request: &Request) -> Option<Result<(), Error>> {
        let call = request.calls.first().filter(|call| GroupShard::is_site_call(call))?;
        let mut exec = shared.engine.executor();
        exec.see_only(self.slots.shard());
        let result = self.slots.site_call(&mut exec, call);
        settle(shared, &mut exec, &Stamp { now_ms: self.slots.now_ms, ..request.stamp });
        result
    }

    fn run(&mut self, shared: &Shared, request: &Request, out: &mut Vec<u8>) {
        let mut exec = shared.engine.executor();
        exec.see_only(self.slots.shard());
        exec.lock_all();
        let stamp =
            Stamp { now_ms: self.slots.now_ms, site: self.slots.site_number(), ..request.stamp };
        let mut reply = Reply::new(out, request.protocol);
        let calls = match request.calls.split_first() {
            Some((first, calls)) if is_multi(first) => {
                let kept = request.conditions.iter().all(|condition| {
                    exec.value_digest(condition.db, &condition.key, stamp.now_ms)
                        == condition.digest
                });
                if !kept {
                    reply.null_array();
                    return;
                }
                let policies = shared.engine.shard_policies(self.slots.shard());
                if let Err(error) = check_classes(shared, policies, calls) {
                    return reply.error(&error);
                }
                reply.array(calls.len());
                calls
            }
            _ => request.calls.as_slice(),
        };
        let mut session = self.session.take().unwrap_or_else(|| session(shared));
        session.backup = self.slots.is_backup().then_some(self.slots.shard());
        let user = self.user.get_or_insert_with(|| session.identity.user.clone()).clone();
        for (nth, call) in calls.iter().enumerate() {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            session.protocol = request.protocol;
            session.db = call.db;
            let mut reply = Reply::new(out, request.protocol);
            if self.is_frozen(shared, &args) {
                reply.error(&super::try_again());
                continue;
            }
            let seed = Rng::new(stamp.seed ^ nth as u64).next_u64();
            let stamp = Stamp { seed, ..stamp };
            let entered = script::enter(shared, &mut session, &args);
            match entered {
                Ok(()) => {
                    let args = script::command_of(&args);
                    run_call(shared, &mut session, &mut exec, stamp, args, &mut reply);
                }
                Err(error) => reply.error(&error),
            }
            script::leave(&mut session, &user);
        }
        self.session = Some(session);
        settle(shared, &mut exec, &stamp);
    }
}

/// A command of the engine's own upkeep, which clients cannot name.
fn internal(args: &[&[u8]]) -> Option<&'static Command> {
    let name = args.first().filter(|name| name.starts_with(b"ASHLAR."))?;
    let (_, command) = command_table().find(name)?;
    command.flags.contains(Flags::INTERNAL).then_some(command)
}

/// Refuses a transaction over two classes of keys, the same on every replica.
fn check_classes(shared: &Shared, policies: &Policies, calls: &[OwnedCall]) -> Result<(), Error> {
    let calls = calls.iter().filter_map(|call| {
        let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
        let command = shared.registry.resolve(&args).ok()?.command;
        Some((command, args))
    });
    policy::check_one_class(policies, calls)
}

fn is_multi(call: &OwnedCall) -> bool {
    matches!(call.args.as_slice(), [name] if name == b"MULTI")
}

fn run_call<'e>(
    shared: &'e Shared,
    session: &mut Session,
    exec: &mut Executor<'e>,
    stamp: Stamp,
    args: &[&[u8]],
    reply: &mut Reply<'_>,
) {
    if let Some(command) = internal(args) {
        let db = session.db;
        let call = Call { command, args, db, stamp: &stamp, may_block: false, no_touch: true };
        exec.run(&call, Prefetched::NONE, reply);
        return;
    }
    let resolved = match shared.registry.resolve(args) {
        Ok(resolved) => *resolved,
        Err(error) => return reply.error(&error),
    };
    let mut again = Again::default();
    let mut host = Host::new(shared, session, exec, stamp, &mut again);
    let result = match resolved.host {
        Some(run) => run(&mut host, args, reply),
        None => {
            host.call_engine(&resolved, args, Prefetched::NONE, reply);
            Ok(())
        }
    };
    match result {
        Ok(()) => {}
        Err(Stop::Error(error)) => reply.error(&error),
        Err(Stop::WouldBlock | Stop::Cold) => {
            reply.error(&Error::text("ERR the command would block, which it cannot here"));
        }
    }
}

impl Machine for ShardMachine {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        let Some(shared) = self.shared.upgrade() else { return };
        self.slots.advance(request.stamp.now_ms);
        let moved = request.calls.first().and_then(|call| self.slots.move_slots(call));
        if let Some(result) = moved.or_else(|| self.run_site(&shared, request)) {
            let mut reply = Reply::new(out, request.protocol);
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(&error),
            };
        }
        self.run(&shared, request, out);
    }

    fn refuses(&self, request: &Request) -> bool {
        let Some(shared) = self.shared.upgrade().filter(|_| self.slots.has_frozen()) else {
            return false;
        };
        request.calls.iter().any(|call| {
            let args: Vec<&[u8]> = call.args.iter().map(Vec::as_slice).collect();
            self.is_frozen(&shared, &args)
        })
    }

    /// Reads run on the threads of their clients once the group has said that they may.
    fn read(&mut self, _: &Request, _: &mut Vec<u8>) {}

    fn snapshot(&mut self) -> Vec<u8> {
        self.slots.snapshot()
    }

    fn capture(&mut self) -> Option<Capture> {
        self.slots.capture()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let restored = self.slots.restore(bytes);
        if let Some(shared) = self.shared.upgrade() {
            // Replicas are read too, and nobody says which keys differ.
            shared.tracking.forget_all(&shared);
        }
        restored
    }

    fn digest(&self) -> u64 {
        self.slots.digest()
    }
}

impl Data for ShardMachine {
    fn frozen(&self) -> Vec<SlotRange> {
        self.slots.frozen()
    }

    fn frozen_by(&self) -> u64 {
        self.slots.frozen_by()
    }

    fn pieces(&self) -> u64 {
        self.slots.pieces()
    }

    fn arrivals(&self) -> Vec<(u64, Vec<SlotRange>, bool)> {
        self.slots.arrivals()
    }

    fn note_changes(&self, slots: &[SlotRange]) {
        self.slots.note_changes(slots);
    }

    fn copy(&self, slots: &[SlotRange], position: u64, bytes: usize) -> Piece {
        self.slots.copy(slots, position, bytes)
    }

    fn changes(&self, slots: &[SlotRange], bytes: usize) -> Option<Piece> {
        self.slots.changes(slots, bytes)
    }

    fn has_keys(&self, slots: &[SlotRange]) -> bool {
        self.slots.has_keys(slots)
    }

    fn policies(&self) -> Arc<Table> {
        self.slots.policies()
    }

    fn sites_version(&self) -> u64 {
        self.slots.sites_version()
    }

    fn site_slots(&self) -> Option<Vec<SlotRange>> {
        self.slots.site_slots()
    }
}
