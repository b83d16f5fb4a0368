//! What a node is asked for: by other threads through its inbox, and by other nodes.

use super::driver::{Driver, Forward};
use super::handle::{Done, Event};
use super::identity::Identity;
use super::links::Incoming;
use super::{DATA_GROUPS_MAX, Host, wire};
use crate::bytes::{Malformed, Reader};
use crate::node::NodeId;
use crate::raft::{Answer, GroupId, OwnedCall, Request, RequestId, Ticket};
use crate::topology::{self, Change, META_GROUP};
use ashlar_engine::reply::Protocol;
use ashlar_engine::stamp::Stamp;
use raft::eraftpb::ConfState;
use std::sync::Arc;

/// Microseconds after which a request that was sent to another node is given up.
const FORWARD_US: u64 = 10_000_000;
/// Requests to other nodes that are under way.
const FORWARDS_MAX: usize = 65_536;

impl<H: Host> Driver<H> {
    pub(super) fn take_in(&mut self, incoming: &mut Vec<Incoming>) {
        for one in incoming.drain(..) {
            match one {
                Incoming::Hello(to, cluster) => {
                    if self.identity.me == 0 {
                        let identity = Identity { me: to, cluster, ..self.identity };
                        self.adopt_in_time(identity);
                    }
                }
                Incoming::Frame(from, kind, payload) => self.take_frame(from, kind, &payload),
                Incoming::Snapshot(from, group, message, data) => {
                    if let Some(node) = &mut self.node
                        && message.from == from
                    {
                        // One that is not for this node is nothing to act on.
                        let _ = node.receive_snapshot(group, *message, data);
                        self.note_witness();
                    }
                }
                Incoming::Unreachable(to) => {
                    self.told_leaders.retain(|_, leader| *leader != to);
                    let numbers: Vec<u64> = self
                        .forwards
                        .iter()
                        .filter(|(_, one)| one.to == to)
                        .map(|(number, _)| *number)
                        .collect();
                    for number in numbers {
                        if let Some(forward) = self.forwards.remove(&number) {
                            (forward.done)(Answer::Unknown);
                        }
                    }
                    self.each_group(|group| group.unreachable(to));
                }
                Incoming::SnapshotSent(to, group, arrived) => {
                    if let Some(group) = self.node.as_mut().and_then(|node| node.group_mut(group)) {
                        group.snapshot_sent(to, arrived);
                    }
                }
            }
        }
    }

    fn take_frame(&mut self, from: NodeId, kind: u8, payload: &[u8]) {
        match kind {
            wire::RAFT => {
                let Some(node) = &mut self.node else { return };
                let groups = node.groups().count();
                // Malformed messages are dropped, as if they got lost.
                let _ = node.receive(from, payload);
                if node.groups().count() != groups {
                    self.note_witness();
                }
            }
            wire::FORWARD => {
                let mut reader = Reader(payload);
                let Ok((ticket, group)) = wire::read_forward(&mut reader) else { return };
                let Ok(request) = Request::decode(reader.0) else { return };
                self.propose_for(from, ticket, group, request);
            }
            wire::FORWARDED => {
                let mut reader = Reader(payload);
                let Ok(ticket) = reader.u64() else { return };
                let Ok(answer) = wire::read_answer(&mut reader) else { return };
                if let Some(forward) = self.forwards.remove(&ticket) {
                    match answer {
                        Answer::NotLeader(Some(leader)) => {
                            self.told_leaders.insert(forward.group, leader);
                        }
                        Answer::NotLeader(None) => {
                            self.told_leaders.remove(&forward.group);
                        }
                        _ => {}
                    }
                    (forward.done)(answer);
                }
            }
            wire::HOST => self.host.message(from, payload),
            wire::ASK_MEMBER => self.tell_member(from, payload),
            wire::MEMBER => self.told_member(payload),
            _ => {}
        }
    }

    /// Proposes what another node asked for; its answer goes back through the inbox, as this node's
    /// sockets are at hand there.
    fn propose_for(&mut self, from: NodeId, ticket: u64, group: GroupId, request: Request) {
        let handle = Arc::downgrade(&self.handle);
        let done: Done = Box::new(move |answer| {
            let mut payload = ticket.to_le_bytes().to_vec();
            wire::push_answer(&mut payload, &answer);
            payload.insert(0, wire::FORWARDED);
            if let Some(handle) = handle.upgrade() {
                drop(handle.ask(Event::Message(vec![from], payload)));
            }
        });
        self.propose(group, &request, done);
    }

    pub(super) fn serve(&mut self, event: Event) {
        match event {
            Event::Propose(group, request, done) => self.propose(group, &request, done),
            Event::Submit(group, request, done) => self.submit(group, *request, done),
            Event::Confirm(group, done) => {
                let request = bare(Vec::new());
                let ticket = self.origins.insert(done) as Ticket;
                match &mut self.node {
                    Some(node) => node.read(group, ticket, request, &mut self.out),
                    None => self.answer(ticket, Answer::NotLeader(None)),
                }
            }
            Event::Change(change, done) => self.change(*change, done),
            Event::Transfer(group, to) => self.transfer(group, to),
            Event::SaveAll => {
                if let Some(node) = &mut self.node {
                    node.want_snapshots();
                }
            }
            Event::Message(to, payload) => {
                let (kind, payload) = match payload.split_first() {
                    Some((&kind, payload)) => (kind, payload),
                    None => return,
                };
                let all: Vec<NodeId> = match to.is_empty() {
                    true => self.topology.nodes.keys().copied().collect(),
                    false => to,
                };
                for node in all {
                    self.links.send(node, kind, &[payload]);
                }
            }
            Event::SnapshotWritten(group, index, bytes) => {
                self.snapshot_written(group, index, bytes);
            }
            Event::Stop => {}
        }
    }

    pub(super) fn transfer(&mut self, group: GroupId, to: NodeId) {
        if let Some(node) = &mut self.node {
            node.transfer(group, to);
        }
        // Nobody may trust the lease from before the first message on.
        self.publish();
    }

    /// Proposes to a group that this node leads.
    pub(super) fn propose(&mut self, group: GroupId, request: &Request, done: Done) {
        let ticket = self.origins.insert(done) as Ticket;
        match &mut self.node {
            Some(node) => node.propose(group, ticket, request, &mut self.out),
            None => self.answer(ticket, Answer::NotLeader(None)),
        }
    }

    /// Proposes wherever the leader is, as far as known.
    pub(super) fn submit(&mut self, group: GroupId, request: Request, done: Done) {
        let leader = self.leader(group);
        if leader.is_none() || leader == Some(self.identity.me) {
            return self.propose(group, &request, done);
        }
        let (Some(to), number) = (leader, self.next_forward) else { return };
        let mut head = number.to_le_bytes().to_vec();
        head.extend_from_slice(&group.to_le_bytes());
        let sent = self.forwards.len() < FORWARDS_MAX
            && self.links.send(to, wire::FORWARD, &[&head, &request.encode()]);
        if !sent {
            return done(Answer::NotLeader(None));
        }
        self.next_forward += 1;
        let until_us = self.now_us + FORWARD_US;
        self.forwards.insert(number, Forward { done, group, to, until_us });
    }

    /// Who leads a group: as its replica here says, or else as its members would have it.
    fn leader(&self, group: GroupId) -> Option<NodeId> {
        let wanted = self.topology.groups.get(&group);
        // The replica of a group that this node has left hears of no leader any more.
        let here = self.node.as_ref().and_then(|node| node.group(group));
        let here = here.filter(|_| wanted.is_none_or(|group| group.has(self.identity.me)));
        let known = here.and_then(|here| here.leader());
        let told = || self.told_leaders.get(&group).copied();
        known.or_else(told).or_else(|| wanted.map(|group| group.preferred))
    }

    fn change(&mut self, change: Change, done: Done) {
        if let Change::Create { cluster_id, nodes, groups, .. } = &change
            && self.node.is_none()
        {
            let me = nodes.iter().find(|node| node.name == self.identity.name);
            let fits = groups.iter().all(|group| group.id as usize <= DATA_GROUPS_MAX);
            let Some(me) = me.filter(|_| fits) else { return done(Answer::Refused) };
            let identity = Identity { me: me.id, cluster: *cluster_id, ..self.identity };
            if self.adopt(identity).is_err() {
                return done(Answer::Refused);
            }
            let members = ConfState::from((vec![me.id], vec![]));
            if let Some(node) = &mut self.node {
                self.out.batch.records.extend(node.create_group(META_GROUP, members));
            }
            // Whoever founds the cluster starts the groups that it begins with: only it can have keys.
            let last = groups_of(&change);
            let founder = Change::Set(FOUNDER.into(), format!("{}:{last}", self.identity.me));
            let change = Change::Batch { version: 0, changes: vec![change, founder] };
            self.steward.founding = Some((change, done));
            return;
        }
        self.submit(META_GROUP, bare(vec![topology::request(&change)]), done);
    }

    /// Changes the topology for the node's own ends.
    pub(super) fn change_quietly(&mut self, change: &Change) {
        let request = bare(vec![topology::request(change)]);
        self.submit(META_GROUP, request, Box::new(|_| {}));
    }

    /// Starts a group that has never been, with this node as its one member.
    pub(super) fn found_group(&mut self, group: GroupId) {
        let members = ConfState::from((vec![self.identity.me], vec![]));
        let slots = self.topology.ranges_of(group);
        let state = if slots.is_empty() { Vec::new() } else { self.host.first_state(&slots) };
        let Some(node) = &mut self.node else { return };
        if state.is_empty() {
            self.out.batch.records.extend(node.create_group(group, members));
            return;
        }
        match node.create_group_with(group, members, &state) {
            Ok((snapshot, records)) => {
                self.out.batch.snapshots.push(snapshot);
                self.out.batch.records.extend(records);
            }
            Err(Malformed) => self.fail("the keys from before the cluster can't be taken over"),
        }
    }
}

/// The setting of the cluster that says who started its first groups, and the last one of these.
pub(super) const FOUNDER: &str = "founder";

/// The highest number of a group that a change creates.
fn groups_of(change: &Change) -> GroupId {
    match change {
        Change::Create { groups, .. } => groups.iter().map(|group| group.id).max().unwrap_or(0),
        _ => 0,
    }
}

/// Calls that are made by nodes for their own ends.
pub(super) fn bare(calls: Vec<OwnedCall>) -> Request {
    Request {
        id: RequestId::default(),
        protocol: Protocol::Resp2,
        stamp: Stamp::default(),
        conditions: Vec::new(),
        calls,
    }
}
