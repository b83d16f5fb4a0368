//! Where a request is answered: here, elsewhere, or nowhere.
//!
//! The slot of its keys decides. A slot has one owner at every moment, as the topology has it, and
//! changes it in one step at the end of a move; so no client is sent to two nodes for the keys of one
//! slot, and ASK is not needed.

use super::Member;
use super::view::Endpoint;
use crate::config::{REDIRECTS_READONLY, ids};
use crate::host::Host;
use crate::registry::Resolved;
use crate::session::Session;
use crate::shared::Shared;
use ashlar_engine::command::{Command, Flags, Group, KeyList};
use ashlar_engine::error::Error;
use ashlar_engine::slot::slot_of;
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{MoveState, NodeInfo, Role, SLOTS, Topology};
use std::cell::Cell;

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// It names no key: it is about this node.
    NoKeys,
    /// This node answers for the keys' group.
    Local(GroupId),
    /// Another node does.
    Moved {
        /// The keys' slot.
        slot: u16,
        /// The host to be named; empty where clients are to take the one that they know.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Its keys are of several slots.
    CrossSlot,
    /// It writes, this node is a replica, and its client is one that knows what that means.
    ReadOnly,
    /// Its slot is about to change hands: what it asks for can be had in a moment.
    TryAgain,
    /// Nobody answers for its keys; why, as Redis says it.
    Down(&'static str),
}

const DOWN: &str = "CLUSTERDOWN The cluster is down";
const READS_ONLY: &str = "CLUSTERDOWN The cluster is down and only accepts read commands";
const UNSERVED: &str = "CLUSTERDOWN Hash slot not served";

impl Route {
    /// What the client is told, unless the request is run here.
    pub fn error(&self) -> Option<Error> {
        Some(match self {
            Route::NoKeys | Route::Local(_) => return None,
            Route::Moved { slot, host, port } => {
                Error::owned(format!("MOVED {slot} {host}:{port}"))
            }
            Route::CrossSlot => {
                Error::text("CROSSSLOT Keys in request don't hash to the same slot")
            }
            Route::ReadOnly => Error::text("READONLY You can't write against a read only replica."),
            Route::TryAgain => {
                Error::text("TRYAGAIN Multiple keys request during rehashing of slot")
            }
            Route::Down(text) => Error::text(text),
        })
    }
}

/// The slot that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    None,
    One(u16),
    /// Several; this is the first one's.
    Several(u16),
}

impl Slot {
    fn join(self, key: &[u8]) -> Slot {
        match self {
            Slot::None => Slot::One(slot_of(key)),
            Slot::One(slot) if slot == slot_of(key) => self,
            Slot::One(first) | Slot::Several(first) => Slot::Several(first),
        }
    }
}

/// Whether a command's arguments are shard channels, which are routed as keys are.
fn names_shard_channels(command: &Command) -> bool {
    matches!(command.name, "SPUBLISH" | "SSUBSCRIBE" | "SUNSUBSCRIBE")
}

fn join_keys(mut slot: Slot, command: &Command, args: &[&[u8]]) -> Slot {
    if names_shard_channels(command) {
        let end = if command.name == "SPUBLISH" { 2 } else { args.len() };
        return args.iter().take(end).skip(1).fold(slot, |slot, channel| slot.join(channel));
    }
    let mut keys = KeyList::new();
    command.keys.positions(args, &mut keys);
    for key in keys.iter().filter_map(|at| args.get(*at)) {
        slot = slot.join(key);
    }
    slot
}

/// Whether a command can do nothing but read.
pub fn only_reads(command: &Command) -> bool {
    let writes = Flags::WRITE.union(Flags::MAY_REPLICATE);
    let runs_anything =
        command.group == Group::Scripting && !command.flags.contains(Flags::READONLY);
    !command.flags.intersects(writes) && !runs_anything
}

/// What a request asks of its slot.
struct Wish {
    slot: Slot,
    only_reads: bool,
    is_pubsub: bool,
}

fn wish(session: &Session, command: &Command, args: &[&[u8]]) -> Wish {
    let queue = session.multi.as_ref().filter(|_| command.name == "EXEC");
    let Some(multi) = queue else {
        return Wish {
            slot: join_keys(Slot::None, command, args),
            only_reads: only_reads(command),
            is_pubsub: names_shard_channels(command),
        };
    };
    let mut wish = Wish { slot: Slot::None, only_reads: true, is_pubsub: false };
    for queued in &multi.queue {
        let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
        wish.slot = join_keys(wish.slot, queued.resolved.command, &args);
        wish.only_reads &= only_reads(queued.resolved.command);
    }
    wish
}

/// Where the request of this session belongs. EXEC belongs where all of its commands do.
pub fn route(
    host: &Host<'_, '_>,
    member: &dyn Member,
    resolved: &Resolved,
    args: &[&[u8]],
) -> Route {
    let wish = wish(host.session, resolved.command, args);
    let (Slot::One(slot) | Slot::Several(slot)) = wish.slot else { return Route::NoKeys };
    let settings = &host.shared.settings;
    let one = matches!(wish.slot, Slot::One(_));
    let quick = host.shared.strong.get().and_then(|strong| strong.quick_route(slot));
    if let Some(group) = quick.filter(|_| one) {
        return Route::Local(group);
    }
    let topology = member.topology();
    let Some(group) = topology.group_of(slot) else { return Route::Down(UNSERVED) };
    if matches!(wish.slot, Slot::Several(_)) {
        return Route::CrossSlot;
    }
    let me = member.me();
    let is_replica = topology.groups.get(&group).is_some_and(|group| group.has(me))
        && topology.nodes.get(&me).is_some_and(|node| node.role == Role::Data);
    let as_replica = is_replica && settings.number(ids::CLUSTER_REDIRECTS) == REDIRECTS_READONLY;
    let asked = host.session.reads_replicas || as_replica;
    let nearest = is_replica
        && !asked
        && wish.only_reads
        && super::nearest::answers(host, member, group, slot, resolved, args);
    let may_read_here = is_replica && asked && wish.only_reads || nearest;
    let covered = topology.assigned() == SLOTS;
    if !covered && settings.flag(ids::CLUSTER_REQUIRE_FULL_COVERAGE) {
        let allowed = match (wish.is_pubsub, settings.flag(ids::CLUSTER_ALLOW_READS_WHEN_DOWN)) {
            (true, _) => settings.flag(ids::CLUSTER_ALLOW_PUBSUBSHARD_WHEN_DOWN),
            (false, true) if !wish.only_reads => return Route::Down(READS_ONLY),
            (false, allowed) => allowed,
        };
        if !allowed {
            return Route::Down(DOWN);
        }
    }
    let leader = super::live_leader(member, settings, group);
    match leader.and_then(|leader| topology.nodes.get(&leader)) {
        Some(leader) if leader.id == me => local(&topology, slot, group, &wish),
        // Messages of a shard reach all of its nodes.
        Some(_) if may_read_here || is_replica && wish.is_pubsub => Route::Local(group),
        Some(_) if as_replica => Route::ReadOnly,
        Some(leader) => moved(host, slot, leader),
        None if wish.is_pubsub && settings.flag(ids::CLUSTER_ALLOW_PUBSUBSHARD_WHEN_DOWN) => {
            Route::Local(group)
        }
        None if nearest => Route::Local(group),
        None if may_read_here && settings.flag(ids::CLUSTER_ALLOW_READS_WHEN_DOWN) => {
            Route::Local(group)
        }
        None => Route::Down(DOWN),
    }
}

fn local(topology: &Topology, slot: u16, group: GroupId, wish: &Wish) -> Route {
    let switching = !topology.moves.is_empty()
        && topology.move_of(slot).is_some_and(|one| one.state == MoveState::Switching);
    if switching && !wish.only_reads { Route::TryAgain } else { Route::Local(group) }
}

impl Route {
    /// The group whose keys are asked for, where this node answers.
    pub const fn group(&self) -> Option<GroupId> {
        match self {
            Route::Local(group) => Some(*group),
            _ => None,
        }
    }
}

/// Whether a request without any special case is answered by this node.
pub fn is_here(host: &Host<'_, '_>, resolved: &Resolved, args: &[&[u8]]) -> bool {
    let Some(member) = host.shared.cluster.get() else { return true };
    forbidden(resolved.command, args).is_none()
        && matches!(route(host, &**member, resolved, args), Route::Local(_))
}

/// That another node answers for a slot.
pub fn moved_to(shared: &Shared, slot: u16, node: &NodeInfo) -> Error {
    let name = Endpoint::of(&shared.settings).name(node).unwrap_or_default().to_owned();
    let moved = Route::Moved { slot, host: name, port: port(node, false) };
    moved.error().unwrap_or_else(|| Error::text(DOWN))
}

fn moved(host: &Host<'_, '_>, slot: u16, node: &NodeInfo) -> Route {
    let name = Endpoint::of(&host.shared.settings).name(node).unwrap_or_default();
    Route::Moved { slot, host: name.to_owned(), port: port(node, host.session.encrypted) }
}

/// The port of a node that a client is sent to: of its own kind where there is one.
pub fn port(node: &NodeInfo, encrypted: bool) -> u16 {
    let (first, second) =
        if encrypted { (node.tls_port, node.port) } else { (node.port, node.tls_port) };
    if first == 0 { second } else { first }
}

/// Whether a script may run this command: its keys have to be answered for here, and to be of the
/// script's slot, which its declared keys decide, or the first key that it touches.
///
/// # Errors
/// Redis's texts for scripts.
pub fn admit_in_script(
    host: &Host<'_, '_>,
    member: &dyn Member,
    resolved: &Resolved,
    args: &[&[u8]],
    script: &Cell<Option<u16>>,
) -> Result<(), Error> {
    const SEVERAL: &str = "ERR Script attempted to access keys that do not hash to the same slot";
    // What a group has agreed on runs on all of its replicas alike, whoever leads.
    let route = match host.session.applies {
        true if matches!(join_keys(Slot::None, resolved.command, args), Slot::Several(_)) => {
            Route::CrossSlot
        }
        true => Route::NoKeys,
        false => route(host, member, resolved, args),
    };
    let elsewhere = match route {
        Route::NoKeys | Route::Local(_) => None,
        Route::CrossSlot => Some(SEVERAL),
        Route::Down(DOWN) => {
            Some("ERR Script attempted to execute a command while the cluster is down")
        }
        Route::Down(READS_ONLY) => Some(
            "ERR Script attempted to execute a write command while the cluster is down and readonly",
        ),
        Route::ReadOnly => Some("READONLY You can't write against a read only replica."),
        Route::Moved { .. } | Route::TryAgain | Route::Down(_) => {
            Some("ERR Script attempted to access a non local key in a cluster node")
        }
    };
    if let Some(text) = elsewhere {
        return Err(Error::text(text));
    }
    if let Slot::One(slot) = join_keys(Slot::None, resolved.command, args)
        && script.replace(script.get().or(Some(slot))).is_some_and(|own| own != slot)
    {
        return Err(Error::text(SEVERAL));
    }
    forbidden(resolved.command, args).map_or(Ok(()), Err)
}

/// What is refused in a cluster whatever its keys are, in Redis's words: there is one database, and a
/// command touches the keys that it names.
pub fn forbidden(command: &Command, args: &[&[u8]]) -> Option<Error> {
    let has = |option: &[u8]| args.iter().skip(2).any(|arg| arg.eq_ignore_ascii_case(option));
    Some(Error::text(match command.name {
        "MOVE" => "ERR MOVE is not allowed in cluster mode",
        "SWAPDB" => "ERR SWAPDB is not allowed in cluster mode",
        "SELECT" if args.get(1).is_some_and(|db| *db != b"0") => {
            "ERR SELECT is not allowed in cluster mode"
        }
        "COPY" if args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"DB")) => {
            "ERR Copying to another database is not allowed in cluster mode"
        }
        "SORT" | "SORT_RO" if has(b"BY") => "ERR BY option of SORT denied in cluster mode.",
        "SORT" | "SORT_RO" if has(b"GET") => "ERR GET option of SORT denied in cluster mode.",
        "REPLICAOF" | "SLAVEOF" => "ERR REPLICAOF not allowed in cluster mode.",
        _ => return None,
    }))
}
