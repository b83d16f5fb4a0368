//! A node: all groups that it has a replica of, on one log and one connection to each other node.
//!
//! Told what happened ([`Node::tick`], [`Node::receive`], [`Node::persisted`], ...), it gathers in
//! an [`Outbox`] what the host is to do: make the batch durable and say so, send, answer.

use crate::bytes::{Malformed, Reader, push_bytes};
use crate::raft::codec;
use crate::raft::group::first_snapshot;
use crate::raft::{
    Answer, CaptureJob, Group, GroupId, GroupLog, LogRecord, Machine, Request, Settings, Ticket,
};
use ashlar_engine::stamp::Rng;
use raft::eraftpb::{ConfChangeType, ConfState, Entry, Message, SnapshotMetadata};
use std::collections::BTreeMap;

/// Number of a node, above 0.
pub type NodeId = u64;

/// Groups that messages from other nodes can make a node take part in.
pub const GROUPS_MAX: usize = 16_384;

/// A snapshot that is to be made durable.
#[derive(Clone, Debug)]
pub struct StoreSnapshot {
    /// Its group.
    pub group: GroupId,
    /// Index of the last entry in it.
    pub index: u64,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A snapshot that is to be written on another thread; [`Node::snapshot_written`] says how that ended.
pub struct CaptureSnapshot {
    /// Its group.
    pub group: GroupId,
    /// Index of the last entry in it.
    pub index: u64,
    /// Its first bytes.
    pub head: Vec<u8>,
    /// The others.
    pub job: CaptureJob,
}

/// A snapshot that is to be sent: the host adds the data that it stored last.
#[derive(Clone, Debug)]
pub struct SendSnapshot {
    /// Its group.
    pub group: GroupId,
    /// The message that goes before the data.
    pub message: Message,
}

/// What is to be made durable together: first the snapshots, then the records in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Number, to be told to [`Node::persisted`].
    pub number: u64,
    /// Snapshots, before the records that name them.
    pub snapshots: Vec<StoreSnapshot>,
    /// Snapshots that are written already and take the place of the ones before: (group, index).
    pub written: Vec<(GroupId, u64)>,
    /// Records for the node's log.
    pub records: Vec<LogRecord>,
    /// Groups whose snapshots are not needed once all of this is durable.
    pub retired: Vec<GroupId>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.written.is_empty() && self.records.is_empty()
    }
}

/// What the host is to do.
#[derive(Default)]
pub struct Outbox {
    /// Frames to other nodes.
    pub frames: BTreeMap<NodeId, Vec<u8>>,
    /// Snapshots to other nodes.
    pub snapshots: Vec<SendSnapshot>,
    /// Snapshots to be written on other threads.
    pub captures: Vec<CaptureSnapshot>,
    /// Answers to those who asked.
    pub answers: Vec<(Ticket, Answer)>,
    /// What is to be made durable.
    pub batch: Batch,
    /// Entries that were applied, for those who check: (group, index, checksum of the entry).
    pub applied: Vec<(GroupId, u64, u32)>,
    /// Whether `applied` is wanted.
    pub watch_applied: bool,
    /// Readies whose writes are in the batch.
    readies: Vec<(GroupId, u64)>,
}

impl Outbox {
    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
    }

    /// A frame is `group u32 | length u32 | message`, one after the other.
    pub(crate) fn send(&mut self, group: GroupId, message: &Message) {
        let frame = self.frames.entry(message.to).or_default();
        frame.extend_from_slice(&group.to_le_bytes());
        let mut bytes = Vec::new();
        codec::push_message(&mut bytes, message);
        push_bytes(frame, &bytes);
    }

    pub(crate) fn send_snapshot(&mut self, group: GroupId, message: Message) {
        self.snapshots.push(SendSnapshot { group, message });
    }

    pub(crate) fn record(&mut self, record: LogRecord) {
        self.batch.records.push(record);
    }

    pub(crate) fn store_snapshot(
        &mut self,
        group: GroupId,
        metadata: &SnapshotMetadata,
        data: Vec<u8>,
    ) {
        self.batch.snapshots.push(StoreSnapshot { group, index: metadata.index, data });
    }

    pub(crate) fn capture(&mut self, capture: CaptureSnapshot) {
        self.captures.push(capture);
    }

    pub(crate) fn snapshot_written(&mut self, group: GroupId, index: u64) {
        self.batch.written.push((group, index));
    }

    pub(crate) fn persist(&mut self, group: GroupId, ready: u64) {
        self.readies.push((group, ready));
    }

    pub(crate) fn applied(&mut self, group: GroupId, entry: &Entry) {
        if self.watch_applied {
            let sum = crc32c::crc32c(&entry.data);
            let sum = crc32c::crc32c_append(sum, &entry.term.to_le_bytes());
            self.applied.push((group, entry.index, sum));
        }
    }
}

/// What a batch is of: readies of groups, and groups with a snapshot in it.
type Written = (Vec<(GroupId, u64)>, Vec<GroupId>);

/// A node.
pub struct Node<M> {
    id: NodeId,
    settings: Settings,
    groups: BTreeMap<GroupId, Group<M>>,
    make_machine: Box<dyn Fn(NodeId, GroupId) -> M>,
    rng: Rng,
    now_us: u64,
    next_batch: u64,
    /// Batches that are not durable yet: (number, readies, groups with a snapshot in it).
    batches: BTreeMap<u64, Written>,
}

impl<M: Machine> Node<M> {
    /// A node with its number; `make_machine` gives each group its empty state.
    pub fn new(
        id: NodeId,
        settings: Settings,
        make_machine: impl Fn(NodeId, GroupId) -> M + 'static,
        seed: u64,
    ) -> Node<M> {
        Node {
            id,
            settings,
            groups: BTreeMap::new(),
            make_machine: Box::new(make_machine),
            rng: Rng::new(seed),
            now_us: 0,
            next_batch: 1,
            batches: BTreeMap::new(),
        }
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Starts a group that has never been, with these members; on each of them.
    pub fn create_group(&mut self, id: GroupId, members: ConfState) -> Vec<LogRecord> {
        let log = GroupLog::new(members);
        let records = log.records(id);
        self.add_group(id, log, &[]).expect("a new group has no snapshot that could be damaged");
        records
    }

    /// Starts a group that has never been with a state that its machine gave as a snapshot. Returns
    /// also the snapshot that is to be stored before the records.
    ///
    /// # Errors
    /// If the machine does not take the state.
    pub fn create_group_with(
        &mut self,
        id: GroupId,
        members: ConfState,
        state: &[u8],
    ) -> Result<(StoreSnapshot, Vec<LogRecord>), Malformed> {
        let log = GroupLog::new(members);
        let records = log.records(id);
        let data = first_snapshot(log.snapshot_metadata(), state);
        self.add_group(id, log, &data)?;
        Ok((StoreSnapshot { group: id, index: 1, data }, records))
    }

    /// Takes up the groups that the node's log tells of; `snapshot` gives the newest data of each. Returns
    /// records that the log lacks: a snapshot whose record the process did not live to write. They have to come before
    /// any other, for entries that follow the snapshot have a gap before them otherwise.
    ///
    /// # Errors
    /// If the log or a snapshot is damaged.
    pub fn recover<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a LogRecord>,
        snapshot: impl Fn(GroupId) -> Vec<u8>,
    ) -> Result<Vec<LogRecord>, Malformed> {
        let mut logs: BTreeMap<GroupId, GroupLog> = BTreeMap::new();
        for record in records {
            logs.entry(record.group()?).or_default().replay(record)?;
        }
        let mut missing = Vec::new();
        for (id, log) in logs {
            let recorded = log.snapshot_metadata().index;
            // One from before the node left the group may still be there.
            let data = if log.is_retired() { Vec::new() } else { snapshot(id) };
            self.add_group(id, log, &data)?;
            if self.groups.get(&id).is_some_and(Group::is_retired) {
                continue;
            }
            let newest = self.groups.get(&id).map(|group| group.log().snapshot_metadata());
            if let Some(newest) = newest.filter(|newest| newest.index > recorded) {
                missing.push(LogRecord::snapshot(id, newest));
            }
        }
        Ok(missing)
    }

    fn add_group(&mut self, id: GroupId, log: GroupLog, snapshot: &[u8]) -> Result<(), Malformed> {
        let (machine, seed) = ((self.make_machine)(self.id, id), self.rng.next_u64());
        let group = Group::new((self.id, id), &self.settings, log, machine, snapshot, seed)?;
        self.groups.insert(id, group);
        Ok(())
    }

    /// A group, if the node has a replica of it.
    pub fn group(&self, id: GroupId) -> Option<&Group<M>> {
        self.groups.get(&id)
    }

    /// A group, to be changed.
    pub fn group_mut(&mut self, id: GroupId) -> Option<&mut Group<M>> {
        self.groups.get_mut(&id)
    }

    /// The groups.
    pub fn groups(&self) -> impl Iterator<Item = &Group<M>> {
        self.groups.values()
    }

    /// Keeps nothing of a group any more but its vote: this node is no member, or there is no such group. Whether
    /// that is done; it is not while the group still writes.
    pub fn retire(&mut self, id: GroupId, out: &mut Outbox) -> bool {
        let writes = |(readies, stored): &Written| {
            readies.iter().any(|(group, _)| *group == id) || stored.contains(&id)
        };
        if out.readies.iter().any(|(group, _)| *group == id) || self.batches.values().any(writes) {
            return false;
        }
        let Some(group) = self.groups.get_mut(&id).filter(|group| !group.is_retired()) else {
            return false;
        };
        let log = group.retire(out);
        out.batch.records.extend(log.records(id));
        out.batch.retired.push(id);
        self.add_group(id, log, &[]).expect("a group without a snapshot has none that is damaged");
        true
    }

    /// The time, monotonic microseconds, which never goes back.
    pub fn set_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// One tick of the clock for every group.
    pub fn tick(&mut self) {
        self.groups.values_mut().for_each(Group::tick);
    }

    /// A frame from another node.
    ///
    /// # Errors
    /// If it is none; the connection is then to be closed.
    pub fn receive(&mut self, from: NodeId, frame: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader(frame);
        while !reader.0.is_empty() {
            let group = reader.u32()?;
            let mut bytes = Reader(reader.bytes()?);
            let message = codec::read_message(&mut bytes)?;
            bytes.end()?;
            if message.from != from || message.to != self.id {
                return Err(Malformed);
            }
            if let Some(group) = self.group_for(group) {
                group.receive(message);
            }
        }
        Ok(())
    }

    /// The group of a message; one that is not known yet starts empty and waits for a snapshot.
    fn group_for(&mut self, id: GroupId) -> Option<&mut Group<M>> {
        if !self.groups.contains_key(&id) {
            if self.groups.len() >= GROUPS_MAX {
                return None;
            }
            self.add_group(id, GroupLog::default(), &[]).ok()?;
        }
        self.groups.get_mut(&id)
    }

    /// A whole snapshot from another node.
    ///
    /// # Errors
    /// If the message is not for this node.
    pub fn receive_snapshot(
        &mut self,
        group: GroupId,
        message: Message,
        data: Vec<u8>,
    ) -> Result<(), Malformed> {
        if message.to != self.id {
            return Err(Malformed);
        }
        if let Some(group) = self.group_for(group) {
            group.receive_snapshot(message, data);
        }
        Ok(())
    }

    /// Proposes a request to a group.
    pub fn propose(&mut self, group: GroupId, ticket: Ticket, request: &Request, out: &mut Outbox) {
        match self.groups.get_mut(&group).filter(|group| !group.failed) {
            Some(group) => group.propose(ticket, request, out),
            None => out.answer(ticket, Answer::NotLeader(None)),
        }
    }

    /// Reads from a group.
    pub fn read(&mut self, group: GroupId, ticket: Ticket, request: Request, out: &mut Outbox) {
        let now_us = self.now_us;
        match self.groups.get_mut(&group).filter(|group| !group.failed) {
            Some(group) => group.read(ticket, request, now_us, out),
            None => out.answer(ticket, Answer::NotLeader(None)),
        }
    }

    /// Proposes a change of a group's membership.
    pub fn propose_change(
        &mut self,
        group: GroupId,
        ticket: Ticket,
        changes: &[(ConfChangeType, NodeId)],
        out: &mut Outbox,
    ) {
        match self.groups.get_mut(&group) {
            Some(group) => group.propose_change(ticket, changes, out),
            None => out.answer(ticket, Answer::NotLeader(None)),
        }
    }

    /// Lets all groups take snapshots, each as soon as it can.
    pub fn want_snapshots(&mut self) {
        self.groups.values_mut().for_each(Group::want_snapshot);
    }

    /// Hands the leadership of a group over, if this node has it.
    pub fn transfer(&mut self, group: GroupId, to: NodeId) {
        let now_us = self.now_us;
        if let Some(group) = self.groups.get_mut(&group) {
            group.transfer(to, now_us);
        }
    }

    /// Lets every group do what there is to do. The batch of the outbox, where it is not empty, is
    /// to be made durable in order of the batches' numbers; [`Node::persisted`] tells that it is.
    pub fn work(&mut self, out: &mut Outbox) {
        loop {
            for group in self.groups.values_mut().filter(|group| !group.failed) {
                group.work(self.now_us, out);
            }
            if out.readies.is_empty() && out.batch.is_empty() {
                return;
            }
            let number = self.next_batch;
            self.next_batch += 1;
            let stored = out.batch.snapshots.iter().map(|snapshot| snapshot.group);
            let stored = stored.chain(out.batch.written.iter().map(|(group, _)| *group)).collect();
            self.batches.insert(number, (std::mem::take(&mut out.readies), stored));
            if !out.batch.is_empty() || self.batches.len() > 1 {
                out.batch.number = number;
                return;
            }
            // Nothing to write, and nothing before it is still being written.
            self.persisted(number, out);
        }
    }

    /// A batch is durable, and so are all before it.
    pub fn persisted(&mut self, number: u64, out: &mut Outbox) {
        let later = self.batches.split_off(&(number + 1));
        for (_, (readies, stored)) in std::mem::replace(&mut self.batches, later) {
            for (id, ready) in readies {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.persisted(ready, out);
                }
            }
            for id in stored {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.snapshot_stored();
                }
            }
        }
    }

    /// A snapshot that was to be written is durable, with so many bytes, or could not be written. Returns whether
    /// it is still wanted: the next batch says when it takes the place of the one before.
    pub fn snapshot_written(
        &mut self,
        group: GroupId,
        index: u64,
        bytes: Option<u64>,
        out: &mut Outbox,
    ) -> bool {
        let group = self.groups.get_mut(&group);
        group.is_some_and(|group| group.snapshot_written(index, bytes, out))
    }

    /// All that the node's log has to hold, without the history that led to it.
    pub fn checkpoint(&self) -> Vec<LogRecord> {
        self.groups.values().flat_map(|group| group.log().records(group.id())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::EngineMachine;
    use ashlar_engine::engine::EngineOptions;

    fn node() -> Node<EngineMachine> {
        Node::new(1, Settings::default(), |_, _| machine(), 1)
    }

    fn machine() -> EngineMachine {
        EngineMachine::new(1, EngineOptions::default())
    }

    /// A process that died between a snapshot from elsewhere and the record that names it goes on behind that
    /// snapshot: its next start must not find a gap.
    #[test]
    fn a_snapshot_whose_record_was_lost_is_recorded_at_the_next_start() {
        const GROUP: GroupId = 5;
        let members = ConfState::from((vec![1], vec![]));
        let mut records = GroupLog::new(members.clone()).records(GROUP);
        let mut metadata = SnapshotMetadata { index: 50, term: 2, ..Default::default() };
        metadata.set_conf_state(members);
        let snapshot = first_snapshot(&metadata, &machine().snapshot());
        let missing = node().recover(&records, |_| snapshot.clone()).unwrap();
        assert_eq!(missing.len(), 1);
        records.extend(missing);
        let next = Entry { index: 51, term: 2, ..Default::default() };
        records.push(LogRecord::entries(GROUP, std::slice::from_ref(&next)));
        let mut again = node();
        assert!(again.recover(&records, |_| snapshot.clone()).unwrap().is_empty());
        assert_eq!(again.group(GROUP).unwrap().log().last(), 51);
    }
}
