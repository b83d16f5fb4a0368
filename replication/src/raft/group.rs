//! One replica of one group: raft, the state it agrees on, and who waits for answers.
//!
//! ```text
//! propose -> raft -> entries -> (persisted here and by a majority) -> committed -> apply -> answer
//! read    -> a round of heartbeats proves leadership -> applied as far as then -> answer
//!         -> or the lease of the last round still holds -> answer
//! ```
//! Time is a monotonic clock in microseconds that the node brings; the lease compares only times of
//! this one clock. A round that a majority answered proves that until an election timeout after its
//! start nobody else is elected (voters ignore candidates while they hear from a leader), less the
//! share by which two clocks may run apart, which is a setting.

use super::codec;
use super::machine::{Capture, Machine};
use super::request::Request;
use super::sessions::{Known, Mark, Sessions, TAKE_OVER};
use super::storage::{GroupId, GroupLog, LogRecord};
use crate::bug;
use crate::bytes::{Malformed, Reader};
use crate::node::{CaptureSnapshot, NodeId, Outbox};
use ashlar_engine::stamp::Rng;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, Message, MessageType, SnapshotMetadata,
};
use raft::{Config, RawNode, SnapshotStatus, StateRole, Storage};
use std::collections::{BTreeMap, VecDeque};

/// Names a proposal or read to the one who made it.
pub type Ticket = u64;

/// Upper end of raft's own choice of election timeouts, which is always replaced by one from the
/// node's seed: it has to be recognised, so it is drawn from where the node never draws.
const TIMEOUT_TICKS_MAX: usize = 1 << 40;
/// Rounds of raft's work in one call.
const READIES_MAX: usize = 64;
/// Proposals that wait in one group.
pub const PROPOSALS_MAX: usize = 65_536;
/// Reads that wait in one group.
pub const READS_MAX: usize = 65_536;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was applied, or read; the replies.
    Reply(Vec<u8>),
    /// It was not proposed, and will not be applied: another node leads, as far as is known.
    NotLeader(Option<NodeId>),
    /// It was not proposed: too much waits already.
    Busy,
    /// It may have been applied, or may be yet. Repeat it under the same id to find out.
    Unknown,
    /// It was applied before, and its reply is not kept any more.
    AppliedBefore,
    /// The id is so old that it cannot be told whether the request was applied.
    Forgotten,
    /// The change of membership was refused.
    Refused,
    /// It was not proposed: only one site is left, and writes are to reach two.
    SiteLost,
}

/// Settings of a group, the same on all nodes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Microseconds between two calls of [`Group::tick`].
    pub tick_us: u64,
    /// Ticks without a leader after which an election starts; up to twice as many.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Whether reads trust the lease, and by how many percent two clocks may run apart then.
    pub lease_drift_percent: Option<u32>,
    /// Bytes of entries after which a snapshot takes their place.
    pub snapshot_bytes: usize,
    /// Bytes of entries that a leader accepts before they are committed.
    pub uncommitted_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tick_us: 100_000,
            election_ticks: 10,
            heartbeat_ticks: 2,
            lease_drift_percent: None,
            snapshot_bytes: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
        }
    }
}

impl Settings {
    /// Microseconds without a leader after which an election starts at the earliest.
    pub fn election_us(&self) -> u64 {
        self.tick_us * self.election_ticks as u64
    }
}

struct Read {
    ticket: Ticket,
    request: Request,
}

/// A round of heartbeats that proves leadership for the reads that wait for it.
struct Round {
    context: u64,
    started_us: u64,
    reads: Vec<Read>,
}

/// A replica of a group.
pub struct Group<M> {
    id: GroupId,
    settings: Settings,
    raft: RawNode<GroupLog>,
    machine: M,
    sessions: Sessions,
    /// Votes and counts, but keeps no data and never leads.
    witness: bool,
    applied: u64,
    /// Where election timeouts come from.
    rng: Rng,
    election_ticks: usize,
    /// Proposals by index: their term and ticket.
    proposals: BTreeMap<u64, (u64, Ticket)>,
    /// Reads that no round was started for yet.
    reads: Vec<Read>,
    rounds: VecDeque<Round>,
    next_context: u64,
    /// Reads that wait until as much is applied.
    confirmed: Vec<(u64, Read)>,
    /// Who led when those reads came, 0 for nobody: another leader knows nothing of their rounds.
    reads_of: NodeId,
    lease_until_us: u64,
    /// When the leadership was last given up: rounds from before prove nothing.
    lease_from_us: u64,
    /// What is sent once the batch of this ready is durable: (ready, messages).
    held: VecDeque<(u64, Vec<Message>)>,
    /// A snapshot that came in and that raft has not taken yet.
    incoming: Option<(SnapshotMetadata, Vec<u8>)>,
    /// The ready with which a snapshot from elsewhere becomes durable. Until then raft's own idea of
    /// what is applied and what the log still has do not fit: messages are as good as lost.
    installing: Option<u64>,
    /// Bytes of the last snapshot.
    snapshot_bytes: usize,
    /// A snapshot of our own on its way to the disk.
    outgoing: Option<SnapshotMetadata>,
    /// Whether another node needs a snapshot that there is none of yet.
    snapshot_wanted: bool,
    /// Whether proposals are refused, since only one site is left.
    site_lost: bool,
    /// The site of each voter, as raft was told.
    sites: Vec<(NodeId, u64)>,
    /// Index that is to be applied before the next snapshot is tried, after one that failed.
    snapshot_from: u64,
    /// Whether the state is damaged; nothing is served then.
    pub failed: bool,
}

impl<M: Machine> Group<M> {
    /// A replica with what it remembers, and the data of its newest snapshot.
    ///
    /// # Errors
    /// If the snapshot cannot be read or is older than the log.
    pub fn new(
        (node, id): (NodeId, GroupId),
        settings: &Settings,
        mut log: GroupLog,
        mut machine: M,
        snapshot: &[u8],
        seed: u64,
    ) -> Result<Group<M>, Malformed> {
        let mut sessions = Sessions::default();
        if !snapshot.is_empty() {
            let (metadata, decoded, state) = open_snapshot(snapshot)?;
            if metadata.index < log.snapshot_metadata().index {
                return Err(Malformed);
            }
            if !bug!(AppliedTwiceAfterRestart) {
                // The process may have died between the snapshot and the record that names it.
                log.recover_snapshot(metadata);
            }
            sessions = decoded;
            machine.restore(state)?;
        } else if log.snapshot_metadata().index > 1 {
            return Err(Malformed);
        }
        let applied = log.snapshot_metadata().index;
        let config = Config {
            id: node,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            min_election_tick: settings.election_ticks,
            max_election_tick: TIMEOUT_TICKS_MAX,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: settings.uncommitted_bytes_max,
            max_committed_size_per_ready: 8 << 20,
            applied,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, log, &logger).map_err(|_| Malformed)?;
        let mut group = Group {
            id,
            settings: settings.clone(),
            raft,
            machine,
            sessions,
            witness: false,
            applied,
            rng: Rng::new(seed),
            election_ticks: 0,
            proposals: BTreeMap::new(),
            reads: Vec::new(),
            rounds: VecDeque::new(),
            next_context: 0,
            confirmed: Vec::new(),
            reads_of: 0,
            lease_until_us: 0,
            lease_from_us: 0,
            held: VecDeque::new(),
            incoming: None,
            installing: None,
            snapshot_bytes: snapshot.len(),
            outgoing: None,
            snapshot_wanted: false,
            site_lost: false,
            sites: Vec::new(),
            snapshot_from: 0,
            failed: false,
        };
        group.next_context = group.rng.next_u64();
        group.choose_timeout();
        Ok(group)
    }

    /// Makes this replica a witness.
    pub fn set_witness(&mut self) {
        self.witness = true;
        self.election_ticks = 0;
        self.choose_timeout();
    }

    /// The group's number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether this node leads the group.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.raft.raft.leader_id).filter(|id| *id != 0)
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raft.raft.term
    }

    /// Index of the last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The state, to be looked at.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What the group remembers.
    pub fn log(&self) -> &GroupLog {
        self.raft.store()
    }

    /// A digest of state and sessions.
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        self.sessions.encode(&mut bytes);
        self.machine.digest().wrapping_mul(31).wrapping_add(u64::from(crc32c::crc32c(&bytes)))
    }

    /// The requests of clients that were applied after a mark: see [`Sessions::used_after`].
    pub fn sessions_after(&self, mark: Mark, bytes: usize) -> (Vec<u8>, Mark, bool) {
        self.sessions.used_after(mark, bytes)
    }

    /// One tick of the clock.
    pub fn tick(&mut self) {
        if self.installing.is_some() {
            return;
        }
        self.raft.tick();
        self.choose_timeout();
    }

    /// A message from another node.
    pub fn receive(&mut self, message: Message) {
        // A witness cannot lead, whoever asks it to.
        let asks_witness = self.witness && message.get_msg_type() == MessageType::MsgTimeoutNow;
        // Who has forgotten what it acknowledged has no vote: a member that does not know of its leaving yet could
        // be elected by it without entries that are decided.
        let vote = [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote];
        let asks_retired =
            self.is_retired() && vote.contains(&message.get_msg_type()) && !bug!(RetiredVotes);
        // Whoever follows would hand it on to its own leader, in the name of the one that asks: a message that no
        // node takes.
        let asks_follower =
            message.get_msg_type() == MessageType::MsgReadIndex && !self.is_leader();
        let asks_wrong = asks_witness || asks_retired || asks_follower;
        if !is_whole(&message) || asks_wrong || self.installing.is_some() {
            return;
        }
        // Errors are of messages that come too late or from nodes that have left: they are no
        // concern of a receiver.
        drop(self.raft.step(message));
        self.choose_timeout();
    }

    /// A snapshot from the leader, with the message that announced it.
    pub fn receive_snapshot(&mut self, message: Message, data: Vec<u8>) {
        self.incoming = Some((message.get_snapshot().get_metadata().clone(), data));
        self.receive(message);
    }

    /// What became of a snapshot that was sent to a node.
    pub fn snapshot_sent(&mut self, to: NodeId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(to, status);
    }

    /// A node cannot be reached.
    pub fn unreachable(&mut self, node: NodeId) {
        self.raft.report_unreachable(node);
    }

    /// Proposes a request; the answer comes through the outbox, sooner or later.
    pub fn propose(&mut self, ticket: Ticket, request: &Request, out: &mut Outbox) {
        let refusal = match self.is_leader() {
            false => Some(Answer::NotLeader(self.leader())),
            true if self.site_lost => Some(Answer::SiteLost),
            true if self.raft.raft.lead_transferee.is_some() => Some(Answer::Busy),
            true if self.proposals.len() >= PROPOSALS_MAX => Some(Answer::Busy),
            true => self.raft.propose(Vec::new(), request.encode()).err().map(|_| Answer::Busy),
        };
        match refusal {
            Some(answer) => out.answer(ticket, answer),
            None if bug!(AcknowledgeBeforeCommit) => {
                out.answer(ticket, Answer::Reply(b"+OK\r\n".to_vec()));
            }
            None => self.expect(ticket),
        }
    }

    /// The entry that was just appended is of this ticket.
    fn expect(&mut self, ticket: Ticket) {
        let raft = &self.raft.raft;
        self.proposals.insert(raft.raft_log.last_index(), (raft.term, ticket));
    }

    /// Proposes a change of membership: several nodes at once go through a joint configuration, which
    /// is left by itself.
    pub fn propose_change(
        &mut self,
        ticket: Ticket,
        changes: &[(ConfChangeType, NodeId)],
        out: &mut Outbox,
    ) {
        let mut change = ConfChangeV2::default();
        change.set_transition(ConfChangeTransition::Auto);
        for (kind, node) in changes.iter().take(codec::CHANGES_MAX) {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(*kind);
            single.node_id = *node;
            change.changes.push(single);
        }
        if !self.is_leader() {
            return out.answer(ticket, Answer::NotLeader(self.leader()));
        }
        match self.raft.propose_conf_change(Vec::new(), change) {
            Ok(()) => self.expect(ticket),
            Err(_) => out.answer(ticket, Answer::Busy),
        }
    }

    /// Hands leadership over, if this node has it.
    pub fn transfer(&mut self, to: NodeId, now_us: u64) {
        if !self.is_leader() {
            return;
        }
        if !bug!(LeaseKeptOnTransfer) {
            // The one who takes over does not wait for an election timeout.
            self.lease_until_us = 0;
            self.lease_from_us = now_us + 1;
        }
        self.raft.transfer_leader(to);
    }

    /// Says in which site each voter stands, 0 for one that counts for none, and whether an entry is
    /// committed only once voters in two sites have it.
    pub fn set_sites(&mut self, sites: &[(NodeId, u64)], waits: bool) {
        let raft = &mut self.raft.raft;
        if self.sites != sites {
            let named: Vec<(NodeId, u64)> =
                sites.iter().copied().filter(|(_, site)| *site > 0).collect();
            raft.clear_commit_group();
            raft.assign_commit_groups(&named);
            self.sites = sites.to_vec();
        }
        if raft.group_commit() != waits {
            raft.enable_group_commit(waits);
        }
    }

    /// Says whether proposals are refused, since only one site is left. Those who wait already are told
    /// that nobody knows what becomes of theirs.
    pub fn set_site_lost(&mut self, lost: bool, out: &mut Outbox) {
        if !std::mem::replace(&mut self.site_lost, lost) && lost {
            self.give_up(out);
        }
    }

    /// Whether nothing of the group is kept here any more.
    pub fn is_retired(&self) -> bool {
        self.raft.store().is_retired()
    }

    /// Gives up all that somebody waits for, and the state; what is to be kept of the rest.
    pub(crate) fn retire(&mut self, out: &mut Outbox) -> GroupLog {
        self.give_up(out);
        let rounds = std::mem::take(&mut self.rounds).into_iter().flat_map(|round| round.reads);
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().map(|(_, read)| read);
        let waiting = std::mem::take(&mut self.reads).into_iter().chain(rounds).chain(confirmed);
        waiting.for_each(|read| out.answer(read.ticket, Answer::NotLeader(None)));
        // No bytes are the empty state, which every machine takes.
        self.failed |= self.machine.restore(&[]).is_err();
        GroupLog::retired(self.raft.store().hard())
    }

    fn give_up(&mut self, out: &mut Outbox) {
        for (_, (_, ticket)) in std::mem::take(&mut self.proposals) {
            out.answer(ticket, Answer::Unknown);
        }
    }

    /// Reads; the answer is as new as any that was given before the call. A follower asks its leader how far
    /// the log is committed, and waits until it has applied as much (section 6.4 of Ongaro's thesis on Raft).
    pub fn read(&mut self, ticket: Ticket, request: Request, now_us: u64, out: &mut Outbox) {
        self.check_reads(out);
        if self.leader().is_none() || self.witness {
            return out.answer(ticket, Answer::NotLeader(self.leader()));
        }
        if self.reads.len() + self.confirmed.len() >= READS_MAX {
            return out.answer(ticket, Answer::Busy);
        }
        let read = Read { ticket, request };
        let careless = match self.is_leader() {
            true => bug!(ReadWithoutQuorum),
            false => bug!(FollowerReadsAtOnce),
        };
        if self.holds_lease(now_us) || careless {
            return self.answer_read(read, out);
        }
        self.reads.push(read);
    }

    /// Whether nobody else can lead yet.
    fn holds_lease(&self, now_us: u64) -> bool {
        self.settings.lease_drift_percent.is_some()
            && self.is_leader()
            && now_us < self.lease_until_us
            && (self.raft.raft.lead_transferee.is_none() || bug!(LeaseKeptOnTransfer))
    }

    fn answer_read(&mut self, read: Read, out: &mut Outbox) {
        let mut reply = Vec::new();
        self.machine.read(&read.request, &mut reply);
        out.answer(read.ticket, Answer::Reply(reply));
    }

    /// Does what there is to do, and says in `out` what is to be sent, persisted and answered.
    pub fn work(&mut self, now_us: u64, out: &mut Outbox) {
        self.start_round(now_us, out);
        for _ in 0..READIES_MAX {
            if !self.raft.has_ready() {
                break;
            }
            self.ready(out);
            self.choose_timeout();
        }
        self.check_reads(out);
        self.serve_confirmed(out);
        self.consider_snapshot(out);
    }

    /// All reads that wait share one round. One that got lost (a leader drops rounds until it has
    /// committed in its term) is started again after an election timeout; those of a follower are refused
    /// then, as it may have left the group without knowing.
    fn start_round(&mut self, now_us: u64, out: &mut Outbox) {
        let leads = self.is_leader();
        let overdue = |round: &Round| now_us - round.started_us > self.settings.election_us();
        if self.rounds.front().is_some_and(overdue) {
            let leader = self.leader();
            let lost = self.rounds.drain(..).flat_map(|round| round.reads);
            match leads {
                true => self.reads.extend(lost),
                false => lost.for_each(|read| out.answer(read.ticket, Answer::NotLeader(leader))),
            }
        }
        let wants_lease = self.settings.lease_drift_percent.is_some()
            && leads
            && self.rounds.is_empty()
            && now_us + self.settings.election_us() / 2 > self.lease_until_us;
        let idle = self.reads.is_empty() && !wants_lease;
        let can = match leads {
            true => self.raft.raft.commit_to_current_term(),
            false => self.leader().is_some(),
        };
        if idle || !can {
            return;
        }
        /// Rounds under way at once.
        const ROUNDS_MAX: usize = 16;
        if self.rounds.len() >= ROUNDS_MAX {
            return;
        }
        self.next_context = self.next_context.wrapping_add(1);
        let reads = std::mem::take(&mut self.reads);
        self.rounds.push_back(Round { context: self.next_context, started_us: now_us, reads });
        // The leader keeps rounds of all nodes by their contexts.
        let context = [self.raft.raft.id, self.next_context].map(u64::to_le_bytes).concat();
        self.raft.read_index(context);
    }

    fn ready(&mut self, out: &mut Outbox) {
        let mut ready = self.raft.ready();
        self.send(ready.take_messages(), out);
        for state in ready.take_read_states() {
            self.round_confirmed(&state.request_ctx, state.index);
        }
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot().get_metadata().clone(), out);
            self.installing = Some(ready.number());
        }
        self.apply(ready.take_committed_entries(), out);
        let entries = ready.take_entries();
        if !entries.is_empty() {
            let entries =
                if self.witness { entries.iter().map(stripped).collect() } else { entries };
            out.record(LogRecord::entries(self.id, &entries));
            self.raft.mut_store().append(entries);
        }
        if let Some(hard) = ready.hs() {
            out.record(LogRecord::hard_state(self.id, hard));
            let hard = hard.clone();
            self.raft.mut_store().set_hard_state(hard);
        }
        let number = ready.number();
        let held = ready.take_persisted_messages();
        if bug!(AcknowledgeBeforePersist) {
            self.send(held, out);
        } else {
            self.held.push_back((number, held));
        }
        self.raft.advance_append_async(ready);
        self.tell_applied();
        out.persist(self.id, number);
    }

    /// All that was handed out up to this ready is durable.
    pub fn persisted(&mut self, ready: u64, out: &mut Outbox) {
        while self.held.front().is_some_and(|(number, _)| *number <= ready) {
            let (_, messages) = self.held.pop_front().expect("the front was just looked at");
            self.send(messages, out);
        }
        self.raft.on_persist_ready(ready);
        self.tell_applied();
        self.installing = self.installing.filter(|installing| *installing > ready);
    }

    /// Tells raft how far the state is: no further than raft itself knows the log to be durable,
    /// though a snapshot may be ahead of that.
    fn tell_applied(&mut self) {
        let log = &self.raft.raft.raft_log;
        let applied = self.applied.min(log.committed).min(log.persisted);
        if applied > log.applied {
            self.raft.advance_apply_to(applied);
        }
    }

    fn send(&mut self, messages: Vec<Message>, out: &mut Outbox) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                out.send_snapshot(self.id, message);
            } else if is_whole(&message) {
                out.send(self.id, &message);
            }
        }
    }

    /// A majority has answered a round, and so all rounds before it.
    fn round_confirmed(&mut self, context: &[u8], index: u64) {
        let Some((_, context)) = context.split_last_chunk() else { return };
        let (context, leads) = (u64::from_le_bytes(*context), self.is_leader());
        let Some(at) = self.rounds.iter().position(|round| round.context == context) else {
            return;
        };
        for round in self.rounds.drain(..=at) {
            let counts = round.started_us >= self.lease_from_us || bug!(LeaseKeptOnTransfer);
            if leads && counts {
                let drift = u64::from(self.settings.lease_drift_percent.unwrap_or(100).min(100));
                let mut lease_us = self.settings.election_us() * (100 - drift) / 100;
                if bug!(LeaseTooLong) {
                    lease_us *= 20;
                }
                self.lease_until_us = self.lease_until_us.max(round.started_us + lease_us);
            }
            self.confirmed.extend(round.reads.into_iter().map(|read| (index, read)));
        }
    }

    fn serve_confirmed(&mut self, out: &mut Outbox) {
        if self.confirmed.is_empty() {
            return;
        }
        let (served, waiting) = std::mem::take(&mut self.confirmed)
            .into_iter()
            .partition(|(index, _)| *index <= self.applied);
        self.confirmed = waiting;
        let served: Vec<(u64, Read)> = served;
        served.into_iter().for_each(|(_, read)| self.answer_read(read, out));
    }

    /// Refuses the reads that wait for a leader who leads no more.
    fn check_reads(&mut self, out: &mut Outbox) {
        let leader = self.raft.raft.leader_id;
        if leader != self.reads_of {
            self.reads_of = leader;
            self.fail_reads(out);
        }
    }

    /// Reads do no harm, so they are surely refused.
    fn fail_reads(&mut self, out: &mut Outbox) {
        self.lease_until_us = 0;
        let leader = self.leader();
        let rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        let all = self.reads.drain(..).chain(rounds).chain(self.confirmed.drain(..).map(|c| c.1));
        for read in all {
            out.answer(read.ticket, Answer::NotLeader(leader));
        }
        if bug!(AmbiguousCalledRefused) {
            for (_, (_, ticket)) in std::mem::take(&mut self.proposals) {
                out.answer(ticket, Answer::NotLeader(leader));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>, out: &mut Outbox) {
        for entry in entries {
            let answer = match entry.get_entry_type() {
                _ if entry.index <= self.applied => continue,
                EntryType::EntryNormal if self.witness || entry.data.is_empty() => Answer::Refused,
                EntryType::EntryNormal => self.apply_request(entry.index, &entry.data),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.apply_change(&entry.data, out)
                }
            };
            self.applied = self.applied.max(entry.index);
            out.applied(self.id, &entry);
            if let Some((term, ticket)) = self.proposals.remove(&entry.index) {
                // Another leader's entry has the place: the proposal is lost for good.
                let lost = term != entry.term;
                out.answer(ticket, if lost { Answer::NotLeader(self.leader()) } else { answer });
            }
        }
    }

    fn apply_request(&mut self, index: u64, data: &[u8]) -> Answer {
        let Ok(request) = Request::decode(data) else {
            // All replicas fail alike; a version that cannot read it must not go on without it.
            self.failed = true;
            return Answer::Unknown;
        };
        let known =
            if bug!(RetryAppliedTwice) { Known::New } else { self.sessions.known(request.id) };
        match known {
            Known::Applied(Some(reply)) => Answer::Reply(reply),
            Known::Applied(None) => Answer::AppliedBefore,
            Known::Forgotten => Answer::Forgotten,
            Known::New => {
                if let [call] = request.calls.as_slice()
                    && let [name, sessions] = call.args.as_slice()
                    && name == TAKE_OVER
                {
                    let taken = self.sessions.take_over(sessions, index);
                    let reply: &[u8] = taken.map_or(b"-ERR no sessions\r\n", |()| b"+OK\r\n");
                    return Answer::Reply(reply.to_vec());
                }
                let mut reply = Vec::new();
                let refused = self.machine.refuses(&request) && !bug!(RefusalRemembered);
                self.machine.apply(&request, &mut reply);
                if !refused {
                    self.sessions.applied(request.id, index, &reply);
                }
                Answer::Reply(reply)
            }
        }
    }

    fn apply_change(&mut self, data: &[u8], out: &mut Outbox) -> Answer {
        let Some(change) = codec::read_conf_change(data) else {
            self.failed = true;
            return Answer::Unknown;
        };
        match self.raft.apply_conf_change(&change) {
            Ok(conf) => {
                // Raft knows no site of who is new.
                self.sites.clear();
                let me = self.raft.raft.id;
                let votes =
                    conf.get_voters().contains(&me) || conf.get_voters_outgoing().contains(&me);
                self.raft.mut_store().set_conf_state(conf);
                if self.is_leader() && !votes {
                    // A leader that was removed goes on by itself in the raft crate (0.7.0), which panics
                    // once it counts what it has itself. It hears no more of what waits.
                    let term = self.term();
                    self.raft.raft.become_follower(term, 0);
                    self.give_up(out);
                }
                Answer::Reply(b"+OK\r\n".to_vec())
            }
            Err(_) => Answer::Refused,
        }
    }

    /// Raft has taken the snapshot that came in: the state is what it holds.
    fn install(&mut self, metadata: SnapshotMetadata, out: &mut Outbox) {
        let data = match self.incoming.take() {
            Some((incoming, data)) if incoming == metadata => data,
            // Raft takes a snapshot in the step that brings it, so its data is at hand.
            _ => {
                self.failed = true;
                return;
            }
        };
        let installed = match data.is_empty() || self.witness {
            true => self.machine.restore(&[]).map(|()| Sessions::default()),
            false => open_snapshot(&data)
                .and_then(|(_, sessions, state)| self.machine.restore(state).map(|()| sessions)),
        };
        match installed {
            Ok(sessions) => self.sessions = sessions,
            Err(Malformed) => self.failed = true,
        }
        self.applied = metadata.index;
        // What waited at or before it was decided without us.
        let later = self.proposals.split_off(&(metadata.index + 1));
        for (_, (_, ticket)) in std::mem::replace(&mut self.proposals, later) {
            out.answer(ticket, Answer::Unknown);
        }
        self.outgoing = None;
        // Raft has new members, without sites.
        self.sites.clear();
        out.store_snapshot(self.id, &metadata, data);
        out.record(LogRecord::snapshot(self.id, &metadata));
        self.raft.mut_store().set_snapshot(metadata);
    }

    /// Asks for a snapshot, however small the log is.
    pub fn want_snapshot(&mut self) {
        self.snapshot_wanted = true;
    }

    /// Takes a snapshot once the log is large, or where another node needs one.
    fn consider_snapshot(&mut self, out: &mut Outbox) {
        let log = self.raft.store();
        self.snapshot_wanted |= log.take_snapshot_wanted();
        // A large state is not written anew for little.
        let enough = self.settings.snapshot_bytes.max(self.snapshot_bytes);
        let due = log.bytes() >= enough || self.snapshot_wanted;
        if !due || self.outgoing.is_some() || self.applied < self.snapshot_from {
            return;
        }
        let Some(metadata) = log.metadata_at(self.applied) else { return };
        if metadata.index <= log.snapshot_metadata().index {
            self.snapshot_wanted = false;
            return;
        }
        let capture = match self.witness {
            true => Some(Capture::Bytes(Vec::new())),
            false => self.machine.capture(),
        };
        let Some(capture) = capture else { return };
        self.snapshot_wanted = false;
        let mut head = Vec::new();
        codec::push_metadata(&mut head, &metadata);
        let sessions = Sessions::default();
        let sessions = if bug!(SessionsLostInSnapshot) { &sessions } else { &self.sessions };
        sessions.encode(&mut head);
        match capture {
            Capture::Bytes(state) => {
                head.extend_from_slice(&state);
                self.snapshot_bytes = head.len();
                out.store_snapshot(self.id, &metadata, head);
                out.record(LogRecord::snapshot(self.id, &metadata));
            }
            Capture::Job(job) => {
                let (group, index) = (self.id, metadata.index);
                out.capture(CaptureSnapshot { group, index, head, job });
            }
        }
        self.outgoing = Some(metadata);
    }

    /// The snapshot of another thread is durable, or could not be written (no `bytes`). Returns whether it
    /// is still wanted.
    pub(crate) fn snapshot_written(
        &mut self,
        index: u64,
        bytes: Option<u64>,
        out: &mut Outbox,
    ) -> bool {
        /// Entries until a snapshot is tried again.
        const PAUSE: u64 = 1_000;
        let Some(metadata) = self.outgoing.as_ref().filter(|one| one.index == index) else {
            return false;
        };
        let Some(bytes) = bytes else {
            self.outgoing = None;
            self.snapshot_from = self.applied + PAUSE;
            return false;
        };
        self.snapshot_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        out.snapshot_written(self.id, index);
        out.record(LogRecord::snapshot(self.id, metadata));
        true
    }

    /// The snapshot on its way is durable, and so is the record that names it.
    pub fn snapshot_stored(&mut self) {
        if let Some(metadata) = self.outgoing.take() {
            self.raft.mut_store().set_snapshot(metadata);
        }
    }

    /// Replaces raft's own choice of the election timeout, which nobody could repeat.
    fn choose_timeout(&mut self) {
        let raft = &mut self.raft.raft;
        if raft.randomized_election_timeout() == self.election_ticks {
            return;
        }
        let least = self.settings.election_ticks;
        self.election_ticks = match self.witness {
            true => TIMEOUT_TICKS_MAX - 1,
            false => least + self.rng.below(least),
        };
        raft.set_randomized_election_timeout(self.election_ticks);
    }

    /// Until when this node alone can lead, on the node's clock, so that what it has applied is as new as
    /// anything that was answered; 0 where that is not known. See [`Settings::lease_drift_percent`].
    pub fn lease_until_us(&self) -> u64 {
        let log = &self.raft.raft.raft_log;
        let current = self.raft.raft.commit_to_current_term() && self.applied >= log.committed;
        match current && self.holds_lease(self.lease_until_us.saturating_sub(1)) {
            true => self.lease_until_us,
            false => 0,
        }
    }

    /// Whether a member has nearly all that the leader has; only the leader knows.
    pub fn is_caught_up(&self, node: NodeId) -> bool {
        /// Entries that one may be behind.
        const BEHIND_MAX: u64 = 1_000;
        let raft = &self.raft.raft;
        let matched = raft.prs().get(node).map_or(0, |progress| progress.matched);
        matched != 0 && matched + BEHIND_MAX >= raft.raft_log.last_index()
    }

    /// Whether leadership is being handed over.
    pub fn is_transferring(&self) -> bool {
        self.raft.raft.lead_transferee.is_some()
    }

    /// The state, to be asked for what only its host knows.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Whether this replica is a witness.
    pub fn is_witness(&self) -> bool {
        self.witness
    }

    /// Gives up waiting for the answer of a proposal.
    pub fn forget(&mut self, ticket: Ticket) {
        self.proposals.retain(|_, (_, waiting)| *waiting != ticket);
    }

    /// The members as of the last applied change.
    pub fn members(&self) -> ConfState {
        self.raft.store().conf_state().clone()
    }

    /// The entry at an index, if it is still there.
    pub fn entry(&self, index: u64) -> Option<Entry> {
        let context = raft::GetEntriesContext::empty(false);
        let store = self.raft.store();
        let there = index > store.snapshot_metadata().index && index <= store.last();
        let entries = there.then(|| store.entries(index, index + 1, None, context).ok())?;
        entries?.pop()
    }
}

/// Whether the entries of a message follow the one that it names. The raft crate (0.7.0, with
/// `batch_append`) adds entries to a message that waits to be sent without a look at where that
/// one starts, if it has none yet; a rejection in between makes them others than it says. The
/// receiver would acknowledge what it does not have. Dropped, such a message is one that got lost.
fn is_whole(message: &Message) -> bool {
    let entries = message.get_entries().iter();
    let first = message.index.wrapping_add(1);
    message.get_msg_type() != MessageType::MsgAppend
        || entries.zip(first..).all(|(entry, index)| entry.index == index)
}

/// An entry as a witness keeps it.
fn stripped(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    if entry.get_entry_type() == EntryType::EntryNormal {
        entry.data = Default::default();
    }
    entry
}

/// The snapshot of a group that starts with a state.
pub(crate) fn first_snapshot(metadata: &SnapshotMetadata, state: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    codec::push_metadata(&mut data, metadata);
    Sessions::default().encode(&mut data);
    data.extend_from_slice(state);
    data
}

/// Index of the last entry in a snapshot.
pub(crate) fn snapshot_index(data: &[u8]) -> Option<u64> {
    open_snapshot(data).ok().map(|(metadata, ..)| metadata.index)
}

fn open_snapshot(data: &[u8]) -> Result<(SnapshotMetadata, Sessions, &[u8]), Malformed> {
    let mut reader = Reader(data);
    let metadata = codec::read_metadata(&mut reader)?;
    let sessions = Sessions::decode(&mut reader)?;
    Ok((metadata, sessions, reader.0))
}
