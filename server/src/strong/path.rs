//! Which requests need an agreement of their group, and what becomes of them.

use crate::cluster::nearest;
use crate::cluster::route::only_reads;
use crate::config::{READS_READINDEX, REDIRECTS_READONLY, ids};
use crate::host::Host;
use crate::memory;
use crate::registry::Resolved;
use crate::shared::Shared;
use ashlar_engine::command::{Flags, Group, KeyList};
use ashlar_engine::error::Error;
use ashlar_engine::policy::Class;
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::slot::slot_of;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::raft::{Answer, Condition, GroupId, OwnedCall, Request};
use smallvec::SmallVec;

/// Bytes of arguments that one agreement gathers.
const GATHERED_BYTES_MAX: usize = 4 << 20;

/// What a connection waits for.
#[derive(Debug)]
pub enum Agreement {
    /// That the group applies these requests, each with its slot.
    Propose(GroupId, Box<Request>, SmallVec<[u16; 4]>),
    /// That what this node has is as new as anything that was answered, for so many reads.
    Confirm(GroupId, Confirmed),
    /// That all groups which this node leads have dropped their keys.
    Flush(Vec<GroupId>, Vec<Vec<u8>>),
}

/// Reads that may be run here, as the group has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// The group.
    pub group: GroupId,
    /// How many.
    pub reads: u32,
}

/// What a read that was agreed on stands on.
#[derive(Clone, Copy, Debug)]
pub struct AgreedRead {
    /// The group that the slot had.
    pub group: GroupId,
    /// The slot of its first key.
    pub slot: u16,
    /// Whether it stands on the group's lease.
    pub leased: bool,
}

/// How a wait for an agreement ended.
#[derive(Debug)]
pub enum Agreed {
    /// With these replies.
    Replies(Vec<u8>),
    /// The reads may be run.
    Confirmed(Confirmed),
    /// The reads may not be run, for this reason; their requests are answered with it.
    Refused(Error),
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Write,
    Read,
    Flush,
}

impl Host<'_, '_> {
    /// In a cluster: the agreement that a request waits for, which is routed here; `None` where it is run
    /// at once.
    ///
    /// # Errors
    /// Why it cannot be run at all.
    pub fn agreement(
        &mut self,
        resolved: &Resolved,
        args: &[&[u8]],
    ) -> Result<Option<Agreement>, Error> {
        let Some(strong) = self.shared.strong.get() else { return Ok(None) };
        if self.session.applies || self.session.in_transaction {
            return Ok(None);
        }
        if resolved.command.name == "EXEC" {
            return self.transaction();
        }
        let slot = first_slot(resolved, args);
        match (need(resolved)?, slot) {
            (Need::Flush, _) => {
                let args = args.iter().map(|arg| arg.to_vec()).collect();
                Ok(Some(Agreement::Flush(strong.led(), args)))
            }
            (Need::Nothing, _) | (_, None) => Ok(None),
            (Need::Write, Some(slot)) => {
                self.check_room(resolved)?;
                let group = strong.group_of(slot).ok_or_else(super::try_again)?;
                let call = self.owned(resolved, args)?;
                let request = self.request_of(vec![call]);
                let slots = SmallVec::from_slice(&[slot]);
                Ok(Some(Agreement::Propose(group, Box::new(request), slots)))
            }
            (Need::Read, Some(slot)) => self.read_in(slot, Some((resolved, args))),
        }
    }

    /// What a read of a slot waits for: the command, if it is one by itself.
    ///
    /// # Errors
    /// Where the slot has just come or gone: the request was found to belong here by another group than the one that
    /// has the slot now, of which this node may have nothing.
    fn read_in(
        &mut self,
        slot: u16,
        alone: Option<(&Resolved, &[&[u8]])>,
    ) -> Result<Option<Agreement>, Error> {
        let Some(strong) = self.shared.strong.get() else { return Ok(None) };
        let group = strong.group_of(slot).ok_or_else(super::try_again)?;
        let is_here = strong.is_in_shard_of(group, slot, &self.shared.engine);
        if !is_here || self.routed.is_some_and(|routed| routed != group) {
            return Err(super::try_again());
        }
        let relaxed = alone.is_some_and(|(resolved, args)| {
            let policies = self.shared.engine.shard_policies(group as usize);
            let classes = [Class::Local, Class::Async, Class::Global];
            nearest::all_of(policies, resolved, args, &classes)
        });
        // A replica's client has asked for what it has, or its keys may be read anywhere.
        let leads = strong.leads(group);
        let settings = &self.shared.settings;
        let asks_replicas = self.session.reads_replicas
            || settings.number(ids::CLUSTER_REDIRECTS) == REDIRECTS_READONLY;
        if !leads && !relaxed && !asks_replicas {
            // It led when the request was looked at.
            return Err(super::try_again());
        }
        let confirms = match leads {
            true => !strong.reads_locally(),
            false => settings.number(ids::CLUSTER_REPLICA_READS) == READS_READINDEX,
        };
        let confirmed = &mut self.again.confirmed;
        let is_confirmed = confirmed.group == group && confirmed.reads > 0;
        if confirms && is_confirmed {
            confirmed.reads -= 1;
        }
        let runs_at_once = !confirms || is_confirmed || relaxed;
        let leased = !runs_at_once && leads && strong.holds_lease(group);
        if runs_at_once || leased {
            // Its slot may leave before it has run.
            self.again.read = Some(AgreedRead { group, slot, leased });
            return Ok(None);
        }
        Ok(Some(Agreement::Confirm(group, Confirmed { group, reads: 1 })))
    }

    /// Adds a further request of the same read from the socket to an agreement, if it can wait for the same.
    pub fn joins(
        &mut self,
        agreement: &mut Agreement,
        resolved: &Resolved,
        args: &[&[u8]],
    ) -> bool {
        let Some(strong) = self.shared.strong.get() else { return false };
        if !self.session.is_plain() || !self.session.identity.permits(resolved.id) {
            return false;
        }
        let Some(slot) = first_slot(resolved, args) else { return false };
        let Ok(need) = need(resolved) else { return false };
        let routed = crate::cluster::route::is_here(self, resolved, args);
        if !routed || strong.is_blocking(resolved) {
            return false;
        }
        match agreement {
            Agreement::Confirm(group, confirmed) => {
                let joins = need == Need::Read && strong.group_of(slot) == Some(*group);
                confirmed.reads += u32::from(joins);
                joins
            }
            Agreement::Propose(group, request, slots) => {
                // A read between writes sees those before it, as one of them.
                let fits = matches!(need, Need::Write | Need::Read)
                    && strong.group_of(slot) == Some(*group)
                    && self.check_room(resolved).is_ok()
                    && request.id.client == 0
                    && request_bytes(request) < GATHERED_BYTES_MAX
                    && !is_multi(request);
                let call = if fits { self.owned(resolved, args).ok() } else { None };
                let Some(call) = call else { return false };
                request.calls.push(call);
                slots.push(slot);
                true
            }
            Agreement::Flush(..) => false,
        }
    }

    fn check_room(&self, resolved: &Resolved) -> Result<(), Error> {
        let grows = resolved.command.flags.contains(Flags::DENYOOM);
        let full = grows
            && self.shared.settings.number(ids::MAXMEMORY) != 0
            && !memory::has_room(self.shared);
        if full { Err(Error::OutOfMemory) } else { Ok(()) }
    }

    fn request_of(&self, calls: Vec<OwnedCall>) -> Request {
        Request {
            id: self.session.request_id.take(),
            protocol: self.session.protocol,
            stamp: Stamp { site: 0, ..self.stamp },
            conditions: Vec::new(),
            calls,
        }
    }

    /// What EXEC waits for.
    fn transaction(&mut self) -> Result<Option<Agreement>, Error> {
        let Some(strong) = self.shared.strong.get() else { return Ok(None) };
        let Some(multi) = self.session.multi.as_ref().filter(|multi| !multi.aborted) else {
            return Ok(None);
        };
        let (mut slot, mut writes) = (None, false);
        for queued in &multi.queue {
            let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
            slot = slot.or(first_slot(&queued.resolved, &args));
            match need(&queued.resolved)? {
                Need::Write => writes = true,
                Need::Flush => {
                    return Err(Error::text(
                        "ERR FLUSHALL and FLUSHDB can't be part of a transaction in a cluster",
                    ));
                }
                Need::Read | Need::Nothing => {}
            }
        }
        let Some(slot) = slot else { return Ok(None) };
        if !writes {
            return self.read_in(slot, None);
        }
        let group = strong.group_of(slot).ok_or_else(super::try_again)?;
        let Some(multi) = self.session.multi.take() else { return Ok(None) };
        let spoiled = crate::commands::transactions::is_spoiled(self);
        let mut conditions = Vec::new();
        for (db, key) in self.session.watched.keys() {
            let digest = self.exec.value_digest(*db, key, self.stamp.now_ms);
            conditions.push(Condition { db: *db, key: key.to_vec(), digest });
        }
        self.exec.release();
        crate::commands::connection::unwatch(self.exec, self.session);
        if spoiled {
            // Nothing is proposed; EXEC itself says so.
            self.session.multi = Some(multi);
            self.session.watch_token.set_dirty();
            return Ok(None);
        }
        let mut calls = vec![OwnedCall { db: 0, args: vec![b"MULTI".to_vec()] }];
        for queued in &multi.queue {
            let args: Vec<&[u8]> = queued.args.iter().map(|arg| &**arg).collect();
            calls.push(self.owned(&queued.resolved, &args)?);
        }
        let request = Request { conditions, ..self.request_of(calls) };
        Ok(Some(Agreement::Propose(group, Box::new(request), SmallVec::from_slice(&[slot]))))
    }
}

fn is_multi(request: &Request) -> bool {
    request.calls.first().is_some_and(|call| call.args.len() == 1 && call.args[0] == b"MULTI")
}

fn request_bytes(request: &Request) -> usize {
    request.calls.iter().flat_map(|call| &call.args).map(Vec::len).sum()
}

/// The slot of a command's first key.
fn first_slot(resolved: &Resolved, args: &[&[u8]]) -> Option<u16> {
    let mut keys = KeyList::new();
    resolved.command.keys.positions(args, &mut keys);
    keys.first().and_then(|at| args.get(*at)).map(|key| slot_of(key))
}

fn need(resolved: &Resolved) -> Result<Need, Error> {
    let command = resolved.command;
    if matches!(command.name, "FLUSHALL" | "FLUSHDB") {
        return Ok(Need::Flush);
    }
    // Keys of host commands are keys only where they read or write data.
    let is_data =
        resolved.host.is_none() || command.group == Group::Scripting || command.name == "WATCH";
    if !is_data || command.name == "DEBUG" {
        return Ok(Need::Nothing);
    }
    Ok(match only_reads(command) {
        true => Need::Read,
        false => Need::Write,
    })
}

/// The reply to a request that was not agreed on.
pub fn refusal(shared: &Shared, slot: u16, answer: &Answer) -> Error {
    match answer {
        Answer::NotLeader(leader) => moved(shared, slot, *leader),
        Answer::SiteLost => Error::text(
            "NOREPLICAS Only one site is left, and site-loss is refuse: the write was not made",
        ),
        Answer::Busy => Error::text("TRYAGAIN Too many requests wait for their group"),
        Answer::AppliedBefore => {
            Error::text("ERR The request was applied before, and its reply is not kept any more")
        }
        Answer::Forgotten => {
            Error::text("UNCERTAIN The request is too old to tell whether it was applied")
        }
        Answer::Unknown | Answer::Refused | Answer::Reply(_) => Error::text(
            "UNCERTAIN The request may or may not be applied. Repeat it with the same id to find out",
        ),
    }
}

fn moved(shared: &Shared, slot: u16, leader: Option<u64>) -> Error {
    let down = Error::text("CLUSTERDOWN The cluster is down");
    let Some(member) = shared.cluster.get() else { return down };
    let topology = member.topology();
    let leader = leader.or_else(|| member.leader(topology.group_of(slot)?));
    let leader = leader.filter(|leader| *leader != member.me());
    let Some(node) = leader.and_then(|leader| topology.nodes.get(&leader)) else { return down };
    crate::cluster::route::moved_to(shared, slot, node)
}

/// The replies to all requests of an agreement that did not come about.
pub fn refusals(shared: &Shared, slots: &[u16], answer: &Answer, protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    for slot in slots {
        Reply::new(&mut out, protocol).error(&refusal(shared, *slot, answer));
    }
    out
}
