//! A whole cluster in one thread: real nodes with real engines, a simulated disk, network and clock,
//! and one seed that decides everything. Two runs of a seed are the same, event by event.

use crate::client::{Client, Wanted};
use crate::disk::Disk;
use crate::invariants::{ElectionSafety, StateMachineSafety};
use crate::net::Net;
use ashlar_engine::engine::EngineOptions;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::known_bugs::{self, Bug};
use ashlar_replication::node::{Node, Outbox};
use ashlar_replication::raft::{Answer, EngineMachine, Group, GroupId, Request, Settings, Ticket};
use ashlar_tests::history::Event;
use ashlar_tests::random::Random;
use raft::eraftpb::{ConfState, Message};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Microseconds between ticks of a node.
pub const TICK_US: u64 = 10_000;
/// The clients' addresses start here.
const CLIENTS: u64 = 1_000;
/// Records after which a node's log starts anew from what it has to hold.
const LOG_RECORDS_MAX: usize = 60;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes, numbered from 1.
    pub nodes: u64,
    /// Of these, the members of the groups at the start.
    pub members: u64,
    /// A member that votes but keeps no data.
    pub witness: Option<u64>,
    /// Groups.
    pub groups: GroupId,
    /// Clients.
    pub clients: usize,
    /// Of these, the ones that do not name their requests and so cannot repeat them.
    pub unnamed: usize,
    /// Operations of each client.
    pub operations: usize,
    /// Whether reads trust a lease.
    pub lease: bool,
    /// Whether faults happen.
    pub faults: bool,
    /// Whether faults only concern who leads, and clients only values that are replaced.
    pub contested: bool,
    /// Whether nodes do nothing but stop for a moment and start again, on a slow network.
    pub restless: bool,
    /// Microseconds that a batch takes on a disk that nothing is wrong with, at most.
    pub disk_us: i64,
    /// How fast monotonic clocks may go, in thousandths.
    pub rates: (i64, i64),
    /// Microseconds that a node stays down, at most.
    pub down_us: i64,
    /// Microseconds between two operations of a client, at most.
    pub pause_us: i64,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            nodes: 5,
            members: 3,
            witness: None,
            groups: 2,
            clients: 5,
            unnamed: 1,
            operations: 24,
            lease: false,
            faults: true,
            contested: false,
            restless: false,
            disk_us: 1_000,
            rates: (950, 1_050),
            down_us: 700_000,
            pause_us: 60_000,
        }
    }
}

impl Shape {
    /// Few nodes and many operations, so that much happens in the moments in which two nodes
    /// believe that they lead. With leases, clocks keep to what the leases allow for.
    pub fn busy(lease: bool) -> Shape {
        Shape {
            lease,
            nodes: 3,
            groups: 1,
            clients: 8,
            unnamed: 0,
            operations: 80,
            contested: true,
            rates: if lease { (950, 1_050) } else { (300, 2_000) },
            down_us: 60_000,
            pause_us: 12_000,
            ..Shape::default()
        }
    }

    /// Elections all the time: whoever forgets what it promised is found out.
    pub fn restless() -> Shape {
        let shape = Shape { restless: true, members: 5, groups: 1, ..Shape::default() };
        Shape { down_us: 4_000, ..shape }
    }
}

/// Something that happens at a time.
#[derive(Debug)]
pub enum What {
    /// A tick of a node's clock, of its process number.
    Tick(u64, u64),
    /// A frame arrives.
    Frame { from: u64, to: u64, bytes: Vec<u8> },
    /// A snapshot arrives.
    Snapshot { group: GroupId, message: Box<Message>, data: Vec<u8> },
    /// The sender learns what became of a snapshot.
    SnapshotSent { group: GroupId, from: u64, to: u64, arrived: bool },
    /// A node's batch is durable, of its process number.
    Persisted(u64, u64, u64),
    /// A client's request arrives at a node.
    Request { client: usize, attempt: u64, node: u64 },
    /// An answer arrives at a client.
    Answer { client: usize, attempt: u64, answer: Answer },
    /// A client looks whether it still waits for an attempt.
    Timeout { client: usize, attempt: u64 },
    /// A client does the next thing.
    Step(usize),
    /// The next fault.
    Fault,
    /// A node starts.
    Start(u64),
}

/// A node with what outlives its process.
pub struct SimNode {
    /// Its number.
    pub id: u64,
    /// The process, while it runs.
    pub process: Option<Node<EngineMachine>>,
    /// Number of the process.
    pub incarnation: u64,
    /// Its disk.
    pub disk: Disk,
    /// How fast its monotonic clock goes, in thousandths.
    pub rate: u64,
    /// How far its wall clock is off, milliseconds.
    pub wall_offset_ms: i64,
    /// Microseconds that a batch takes, at most.
    pub disk_us: i64,
}

/// The world.
pub struct World {
    /// What it is made of.
    pub shape: Shape,
    /// Decides everything.
    pub random: Random,
    /// Virtual microseconds.
    pub now: u64,
    queue: BTreeMap<(u64, u64), What>,
    next_event: u64,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// The network.
    pub net: Net,
    /// The clients.
    pub clients: Vec<Client>,
    /// What they did.
    pub history: Vec<Event>,
    tickets: BTreeMap<Ticket, (usize, u64)>,
    next_ticket: Ticket,
    /// At most one leader a term.
    pub elections: ElectionSafety,
    /// One history of entries.
    pub entries: StateMachineSafety,
    trace: u64,
    /// Whether faults still happen.
    pub faulty: bool,
    bug: Option<Bug>,
}

impl World {
    /// A world at its start.
    pub fn new(shape: Shape, seed: u64, bug: Option<Bug>) -> World {
        known_bugs::switch_on(bug);
        let mut random = Random::new(seed);
        let nodes = (1..=shape.nodes).map(|id| SimNode {
            id,
            process: None,
            incarnation: 0,
            disk: Disk::default(),
            rate: random.between(shape.rates.0, shape.rates.1) as u64,
            wall_offset_ms: random.between(-500, 500),
            disk_us: shape.disk_us,
        });
        let nodes = nodes.collect();
        let mut world = World {
            random,
            now: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            nodes,
            net: Net::default(),
            clients: Vec::new(),
            history: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            elections: ElectionSafety::default(),
            entries: StateMachineSafety::default(),
            trace: 0,
            faulty: shape.faults,
            bug,
            shape,
        };
        world.found();
        world
    }

    /// Starts the members with their groups, the others without any.
    fn found(&mut self) {
        let members: Vec<u64> = (1..=self.shape.members).collect();
        for id in 1..=self.shape.nodes {
            if members.contains(&id) {
                let mut node = self.make_node(id);
                for group in 0..self.shape.groups {
                    let conf = ConfState::from((members.clone(), vec![]));
                    let records = node.create_group(group, conf);
                    self.nodes[id as usize - 1].disk.records.extend(records);
                }
            }
            self.at(0, What::Start(id));
        }
        for client in 0..self.shape.clients {
            self.clients.push(Client::new(client));
            self.at(500_000, What::Step(client));
        }
        if self.shape.faults {
            self.at(600_000, What::Fault);
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            tick_us: TICK_US,
            election_ticks: 10,
            heartbeat_ticks: if self.shape.contested { 4 } else { 2 },
            lease_drift_percent: self.shape.lease.then_some(20),
            snapshot_bytes: 1_500,
            uncommitted_bytes_max: 1 << 20,
        }
    }

    fn make_node(&mut self, id: u64) -> Node<EngineMachine> {
        let seed = self.random.bits();
        let machine = |node, _| EngineMachine::new(node, EngineOptions::default());
        Node::new(id, self.settings(), machine, seed)
    }

    /// Lets something happen in `after` microseconds.
    pub fn at(&mut self, after: u64, what: What) {
        self.queue.insert((self.now + after, self.next_event), what);
        self.next_event += 1;
    }

    /// A digest of all that has happened so far.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Runs until a time.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((now, _), what) = entry.remove_entry();
            self.now = now;
            let mut hasher = DefaultHasher::new();
            (self.trace, now, format!("{what:?}")).hash(&mut hasher);
            self.trace = hasher.finish();
            self.happen(what)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Tick(id, incarnation) => return self.tick(id, incarnation),
            What::Frame { from, to, bytes } => {
                return self.drive(to, |node, _| {
                    node.receive(from, &bytes).expect("frames are whole");
                });
            }
            What::Snapshot { group, message, data } => {
                return self.drive(message.to, |node, _| {
                    node.receive_snapshot(group, *message, data).expect("it is for this node");
                });
            }
            What::SnapshotSent { group, from, to, arrived } => {
                return self.drive(from, |node, _| {
                    if let Some(group) = node.group_mut(group) {
                        group.snapshot_sent(to, arrived);
                    }
                });
            }
            What::Persisted(id, incarnation, number) => {
                return self.persisted(id, incarnation, number);
            }
            What::Request { client, attempt, node } => return self.request(client, attempt, node),
            What::Answer { client, attempt, answer } => self.answered(client, attempt, answer),
            What::Timeout { client, attempt } => self.timed_out(client, attempt),
            What::Step(client) => self.step(client),
            What::Fault => return self.fault(),
            What::Start(id) => return self.start(id),
        }
        Ok(())
    }

    fn tick(&mut self, id: u64, incarnation: u64) -> Result<(), String> {
        let node = &self.nodes[id as usize - 1];
        if node.incarnation != incarnation || node.process.is_none() {
            return Ok(());
        }
        let step = TICK_US * 1_000 / node.rate;
        self.at(step, What::Tick(id, incarnation));
        self.drive(id, |node, _| node.tick())?;
        self.shorten_log(id);
        Ok(())
    }

    fn shorten_log(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        let long = node.disk.records.len() > LOG_RECORDS_MAX && !node.disk.is_writing();
        if let (true, Some(process)) = (long, &node.process) {
            node.disk.records = process.checkpoint();
        }
    }

    fn persisted(&mut self, id: u64, incarnation: u64, number: u64) -> Result<(), String> {
        let node = &mut self.nodes[id as usize - 1];
        if node.incarnation != incarnation || node.process.is_none() {
            return Ok(());
        }
        if node.disk.full {
            self.at(20_000, What::Persisted(id, incarnation, number));
            return Ok(());
        }
        node.disk.complete(number);
        self.drive(id, |node, out| node.persisted(number, out))
    }

    /// Starts a node from its disk.
    fn start(&mut self, id: u64) -> Result<(), String> {
        if self.nodes[id as usize - 1].process.is_some() {
            return Ok(());
        }
        let mut process = self.make_node(id);
        let node = &mut self.nodes[id as usize - 1];
        let snapshots = &node.disk.snapshots;
        let newest =
            |group| snapshots.get(&group).map_or(Vec::new(), |snapshot| snapshot.1.clone());
        let recovered = process.recover(&node.disk.records, newest);
        let missing = recovered.map_err(|error| format!("node {id} does not start: {error}"))?;
        node.disk.records.extend(missing);
        if self.shape.witness == Some(id) {
            for group in 0..self.shape.groups {
                process.group_mut(group).into_iter().for_each(Group::set_witness);
            }
        }
        node.process = Some(process);
        node.incarnation += 1;
        let incarnation = node.incarnation;
        self.at(0, What::Tick(id, incarnation));
        Ok(())
    }

    /// Kills a node's process.
    pub fn crash(&mut self, id: u64) {
        let accept_torn = self.bug == Some(Bug::TornRecordAccepted);
        let node = &mut self.nodes[id as usize - 1];
        node.process = None;
        node.disk.crash(&mut self.random, accept_torn);
    }

    /// Lets something happen in a node, and does what the node then asks for.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn drive(
        &mut self,
        id: u64,
        act: impl FnOnce(&mut Node<EngineMachine>, &mut Outbox),
    ) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[id as usize - 1];
        let Some(process) = &mut node.process else { return Ok(()) };
        let mut out = Outbox::default();
        out.watch_applied = true;
        process.set_time(now * node.rate / 1_000);
        act(process, &mut out);
        process.work(&mut out);
        for group in process.groups() {
            if group.failed {
                return Err(format!("node {id} cannot go on with group {}", group.id()));
            }
            if group.is_leader() {
                self.elections.leads(group.id(), group.term(), id)?;
            }
        }
        for (group, index, sum) in std::mem::take(&mut out.applied) {
            if self.shape.witness != Some(id) {
                self.entries.applied(id, group, index, sum)?;
            }
        }
        self.carry_out(id, out);
        Ok(())
    }

    fn carry_out(&mut self, id: u64, out: Outbox) {
        for (to, bytes) in out.frames {
            for after in self.net.arrivals(&mut self.random, id, to) {
                self.at(after, What::Frame { from: id, to, bytes: bytes.clone() });
            }
        }
        for send in out.snapshots {
            self.send_snapshot(id, send.group, send.message);
        }
        for (ticket, answer) in out.answers {
            if let Some((client, attempt)) = self.tickets.remove(&ticket) {
                let to = CLIENTS + client as u64;
                if let Some(after) = self.net.arrivals(&mut self.random, id, to).first() {
                    self.at(*after, What::Answer { client, attempt, answer });
                }
            }
        }
        if out.batch.number > 0 {
            let node = &mut self.nodes[id as usize - 1];
            let after = self.random.between(100, node.disk_us) as u64;
            let (number, incarnation) = (out.batch.number, node.incarnation);
            node.disk.write(out.batch);
            self.at(after, What::Persisted(id, incarnation, number));
        }
    }

    fn send_snapshot(&mut self, from: u64, group: GroupId, message: Message) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        let stored = self.nodes[from as usize - 1].disk.snapshots.get(&group);
        let data = match stored {
            Some((stored, data)) if *stored == index => Some(data.clone()),
            // The start of a group needs no data.
            _ => (index == 1).then(Vec::new),
        };
        let arrival = self.net.arrivals(&mut self.random, from, to).first().copied();
        let arrived = data.is_some() && arrival.is_some();
        if let (Some(data), Some(after)) = (data, arrival) {
            self.at(after * 3, What::Snapshot { group, message: Box::new(message), data });
        }
        self.at(20_000, What::SnapshotSent { group, from, to, arrived });
    }

    fn request(&mut self, client: usize, attempt: u64, node: u64) -> Result<(), String> {
        let wanted = self.clients[client].request_of(attempt);
        let Some(Wanted { group, reads, request, .. }) = wanted.cloned() else { return Ok(()) };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let request = Request { stamp: self.stamp(node), ..request };
        self.tickets.insert(ticket, (client, attempt));
        self.drive(node, |process, out| match reads {
            true => process.read(group, ticket, request, out),
            false => process.propose(group, ticket, &request, out),
        })
    }

    /// The stamp that a node gives.
    fn stamp(&mut self, node: u64) -> Stamp {
        let offset = self.nodes[node as usize - 1].wall_offset_ms;
        Stamp::new(1_700_000_000_000 + (self.now / 1_000) as i64 + offset, self.random.bits())
    }

    /// Sends a client's attempt to a node.
    pub fn send_request(&mut self, client: usize, attempt: u64, node: u64) {
        let from = CLIENTS + client as u64;
        if let Some(after) = self.net.arrivals(&mut self.random, from, node).first() {
            self.at(*after, What::Request { client, attempt, node });
        }
        self.at(400_000, What::Timeout { client, attempt });
    }

    /// The node that leads a group, if one does.
    pub fn leader_of(&self, group: GroupId) -> Option<u64> {
        let leads = |node: &&SimNode| {
            let group = node.process.as_ref().and_then(|process| process.group(group));
            group.is_some_and(Group::is_leader)
        };
        let leaders = self.nodes.iter().filter(leads);
        let term = |node: &&SimNode| node.process.as_ref()?.group(group).map(Group::term);
        leaders.max_by_key(term).map(|node| node.id)
    }
}
