//! Whole nodes in one thread: the product's driver with its files, topology, steward and moves of slots, on
//! simulated disks, connections and clocks, under one seed.

use super::client::{Client, Outcome};
use super::links::{Act, Shared, SimLinks};
use super::machine::{self, ShardMachine, SimHost};
use crate::invariants::{ElectionSafety, StateMachineSafety};
use ashlar_engine::disk::SimDisk;
use ashlar_engine::disk::sim::Loss;
use ashlar_engine::stamp::Stamp;
use ashlar_replication::known_bugs::{self, Bug};
use ashlar_replication::raft::{Answer, Group, GroupId, Settings};
use ashlar_replication::runtime::{
    Driver, DriverOptions, Event as Ask, FileSizes, Handle, Incoming, State,
};
use ashlar_replication::topology::{Change, GroupInfo, NodeInfo, Release, SLOTS, Topology};
use ashlar_tests::history::Event;
use ashlar_tests::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Nodes, of which some wait to be added.
pub const NODES: usize = 5;
/// Members of the cluster at the start.
const MEMBERS: usize = 3;
/// Groups with data.
pub const GROUPS: GroupId = 3;
/// Clients.
pub const CLIENTS: usize = 5;
/// Bytes of a disk that is not full.
const ROOM: u64 = 1 << 40;

/// Something that happens at a time.
#[derive(Debug)]
pub enum What {
    /// A node has a turn: its process, and the time that was meant.
    Turn(usize, u64, u64),
    /// A node that dialled another is heard there.
    Dial { from: usize, incarnation: u64, to: u64, port: u16 },
    /// Something arrives on a connection.
    Arrive(u64, Box<Incoming>),
    /// A node learns what became of a snapshot.
    Sent(usize, u64, Box<Incoming>),
    /// The end that dialled learns that a connection broke.
    Broken(u64),
    /// A client's request arrives at a node.
    Request { client: usize, attempt: u64, node: usize },
    /// An answer arrives at a client.
    Answer(Outcome),
    /// A client looks whether it still waits for an attempt.
    Timeout { client: usize, attempt: u64 },
    /// A client does the next thing.
    Step(usize),
    /// The next fault.
    Fault,
    /// A node starts.
    Start(usize),
}

/// A node's process.
pub struct Process {
    /// The node.
    pub driver: Driver<SimHost>,
    /// As other threads see it.
    pub handle: Arc<Handle>,
    links: Arc<Mutex<Shared>>,
    failure: Arc<Mutex<Option<String>>>,
}

/// A node with what outlives its process.
pub struct SimNode {
    /// The process, while it runs.
    pub process: Option<Process>,
    /// Number of the process.
    pub incarnation: u64,
    /// Its disk.
    pub disk: SimDisk,
    /// Microseconds that a write takes, at most.
    pub disk_us: i64,
    /// How fast its clock goes, in thousandths, since when, and what it said then.
    clock: (u64, u64, u64),
    /// How far its wall clock is off, milliseconds.
    pub wall_offset_ms: i64,
    /// When its next turn is.
    turn_at: Option<u64>,
    /// Until when it waits for its disk.
    busy_until: u64,
}

struct Connection {
    from: usize,
    from_id: u64,
    to: usize,
    /// When the last frame arrives: the next one is later.
    last: u64,
    /// Whether what is under way is lost.
    broken: bool,
}

/// How bad the network is.
pub struct Net {
    /// Microseconds that a frame takes, at most.
    pub delay_us: i64,
    /// Of a thousand frames, those with which a connection breaks.
    pub breaks: usize,
    /// Links that are down, one way.
    pub down: BTreeSet<(usize, usize)>,
}

impl Default for Net {
    fn default() -> Net {
        Net { delay_us: 2_000, breaks: 0, down: BTreeSet::new() }
    }
}

/// The world.
pub struct World {
    /// Decides everything.
    pub random: Random,
    /// Virtual microseconds.
    pub now: u64,
    queue: BTreeMap<(u64, u64), What>,
    next_event: u64,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// The network.
    pub net: Net,
    /// The clients.
    pub clients: Vec<Client>,
    /// What they did.
    pub history: Vec<Event>,
    /// Answers that nodes gave in this turn.
    pub outcomes: Arc<Mutex<Vec<Outcome>>>,
    /// At most one leader a term.
    pub elections: ElectionSafety,
    /// One history of entries.
    pub entries: StateMachineSafety,
    trace: u64,
    /// Whether faults still happen.
    pub faulty: bool,
    /// Whether reads trust a lease.
    pub lease: bool,
    /// Moves of slots that were under way at some time.
    moves: BTreeSet<u64>,
}

impl World {
    /// A world with all nodes started; the first one founds the cluster.
    pub fn new(seed: u64, lease: bool, bug: Option<Bug>) -> World {
        known_bugs::switch_on(bug);
        let mut random = Random::new(seed);
        let node = |random: &mut Random| SimNode {
            process: None,
            incarnation: 0,
            disk: SimDisk::new(random.bits()),
            disk_us: 500,
            clock: (1_000, 0, 0),
            wall_offset_ms: 0,
            turn_at: None,
            busy_until: 0,
        };
        let mut world = World {
            nodes: (0..NODES).map(|_| node(&mut random)).collect(),
            random,
            now: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            net: Net::default(),
            clients: (0..CLIENTS).map(Client::new).collect(),
            history: Vec::new(),
            outcomes: Arc::default(),
            elections: ElectionSafety::default(),
            entries: StateMachineSafety::default(),
            trace: 0,
            faulty: true,
            lease,
            moves: BTreeSet::new(),
        };
        for node in 0..NODES {
            world.start(node).expect("an empty disk is no trouble");
        }
        world.ask(0, create());
        for client in 0..CLIENTS {
            world.at(1_500_000, What::Step(client));
        }
        world.at(1_600_000, What::Fault);
        world
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
            What::Turn(node, incarnation, at) => {
                let one = &self.nodes[node];
                if one.incarnation == incarnation && one.turn_at == Some(at) {
                    self.nodes[node].turn_at = None;
                    return self.turn(node);
                }
            }
            What::Dial { from, incarnation, to, port } => {
                if self.nodes[from].incarnation == incarnation {
                    self.dial(from, to, port);
                }
            }
            What::Arrive(connection, incoming) => self.arrive(connection, *incoming),
            What::Sent(node, incarnation, incoming) => {
                if self.nodes[node].incarnation == incarnation
                    && let Some(process) = &self.nodes[node].process
                {
                    process.links.lock().expect("no panic").incoming.push(*incoming);
                    self.wake(node, self.now);
                }
            }
            What::Broken(connection) => self.notice(connection),
            What::Request { client, attempt, node } => self.request(client, attempt, node),
            What::Answer(outcome) => self.answered(outcome),
            What::Timeout { client, attempt } => self.timed_out(client, attempt),
            What::Step(client) => self.step(client),
            What::Fault => self.fault(),
            What::Start(node) => return self.start(node),
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            tick_us: 10_000,
            election_ticks: 10,
            heartbeat_ticks: 2,
            lease_drift_percent: self.lease.then_some(20),
            snapshot_bytes: 2_500,
            uncommitted_bytes_max: 1 << 20,
        }
    }

    /// Starts a node from its disk.
    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].process.is_some() {
            return Ok(());
        }
        let settings = self.settings();
        let one = &mut self.nodes[node];
        one.disk.set_capacity(ROOM);
        one.incarnation += 1;
        one.clock = (one.clock.0, self.now, 0);
        one.turn_at = None;
        one.busy_until = 0;
        let handle = Arc::new(Handle::without_thread(node as u16 + 1));
        let links = Arc::new(Mutex::new(Shared::default()));
        let failure = Arc::new(Mutex::new(None));
        let host = SimHost { engine: machine::engine(), failure: failure.clone() };
        let options = DriverOptions {
            disk: Arc::new(one.disk.clone()),
            dir: PathBuf::from("/node"),
            name: [node as u8 + 1; 20],
            settings,
            seed: self.random.bits(),
            sizes: FileSizes { segment_bytes: 32 << 10, checkpoint_bytes: 24 << 10 },
        };
        let opened = Driver::open(host, options, Box::new(SimLinks(links.clone())), handle.clone());
        let mut driver = match opened {
            Ok(driver) => driver,
            Err(_) if one.disk.is_stopped() => {
                self.crash(node, 10_000);
                return Ok(());
            }
            Err(error) => return Err(format!("node {} does not start: {error}", node + 1)),
        };
        driver.watch_applied();
        one.process = Some(Process { driver, handle, links, failure });
        self.wake(node, self.now);
        Ok(())
    }

    /// Kills a node's process; it starts again after a while.
    pub fn crash(&mut self, node: usize, down_us: u64) {
        let loss = *self.random.pick(&[Loss::Nothing, Loss::Some, Loss::Some, Loss::Everything]);
        let seed = self.random.bits();
        let one = &mut self.nodes[node];
        one.disk.stop();
        one.process = None;
        one.disk = one.disk.reboot(loss, seed);
        for (number, connection) in &mut self.connections {
            if connection.from == node || connection.to == node {
                connection.broken = true;
                let event = (self.now + 5_000, self.next_event);
                self.next_event += 1;
                self.queue.insert(event, What::Broken(*number));
            }
        }
        self.at(down_us, What::Start(node));
    }

    /// What a node's clock says.
    fn clock_us(&self, node: usize) -> u64 {
        let (rate, since, then) = self.nodes[node].clock;
        then + (self.now - since) * rate / 1_000
    }

    /// From now on a node's clock goes at another rate.
    pub fn set_rate(&mut self, node: usize, rate: u64) {
        self.nodes[node].clock = (rate, self.now, self.clock_us(node));
    }

    /// The stamp that a node gives.
    pub fn stamp(&mut self, node: usize) -> Stamp {
        let offset = self.nodes[node].wall_offset_ms;
        Stamp::new(1_700_000_000_000 + (self.now / 1_000) as i64 + offset, self.random.bits())
    }

    /// A node is to have a turn at a time, or earlier.
    pub fn wake(&mut self, node: usize, at: u64) {
        let one = &mut self.nodes[node];
        let at = at.max(one.busy_until).max(self.now);
        if one.process.is_some() && one.turn_at.is_none_or(|turn| at < turn) {
            one.turn_at = Some(at);
            let incarnation = one.incarnation;
            self.at(at - self.now, What::Turn(node, incarnation, at));
        }
    }

    /// Asks a node for something, if it runs.
    pub fn ask(&mut self, node: usize, event: Ask) {
        if let Some(process) = &self.nodes[node].process {
            process.handle.ask_or_refuse(event);
            self.wake(node, self.now);
        }
    }

    fn turn(&mut self, node: usize) -> Result<(), String> {
        let clock_us = self.clock_us(node);
        let one = &mut self.nodes[node];
        let Some(process) = &mut one.process else { return Ok(()) };
        let before = one.disk.operations();
        process.handle.set_now_us(clock_us);
        let goes_on = process.driver.turn(clock_us);
        let writes = one.disk.operations() - before;
        let acts = std::mem::take(&mut process.links.lock().expect("no panic").acts);
        let outcomes = std::mem::take(&mut *self.outcomes.lock().expect("no panic"));
        if !goes_on || one.disk.is_stopped() {
            let reason = process.failure.lock().expect("no panic").clone();
            if !one.disk.is_stopped() {
                return Err(format!("node {} failed: {}", node + 1, reason.unwrap_or_default()));
            }
            let down_us = self.random.between(1_000, 700_000) as u64;
            self.crash(node, down_us);
            return Ok(());
        }
        self.moves.extend(process.handle.topology().moves.keys());
        let due_us = process.driver.due_us();
        let applied = process.driver.watch_applied();
        let mut took = 0;
        if writes > 0 {
            took = self.random.between(50, one.disk_us) as u64;
            one.busy_until = self.now + took;
        }
        for (group, index, sum) in applied {
            self.entries.applied(node as u64 + 1, group, index, sum)?;
        }
        self.check_groups(node)?;
        for act in acts {
            self.act(node, took, act);
        }
        for outcome in outcomes {
            self.outcome(node, took, outcome);
        }
        let rate = self.nodes[node].clock.0;
        let after = due_us.saturating_sub(clock_us) * 1_000 / rate + 1;
        self.wake(node, self.now + after);
        Ok(())
    }

    fn check_groups(&mut self, node: usize) -> Result<(), String> {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        let Some(running) = process.driver.node() else { return Ok(()) };
        for group in running.groups() {
            if group.failed {
                return Err(format!("node {} cannot go on with group {}", node + 1, group.id()));
            }
            if group.is_leader() {
                self.elections.leads(group.id(), group.term(), running.id())?;
            }
        }
        Ok(())
    }

    fn delay(&mut self) -> u64 {
        self.random.between(100, self.net.delay_us) as u64
    }

    /// When something between a client and a node arrives, if it does.
    pub fn client_delay(&mut self) -> Option<u64> {
        let lost = self.net.breaks > 0 && self.random.chance(2);
        let delay = self.delay();
        (!lost).then_some(delay)
    }

    fn act(&mut self, node: usize, took: u64, act: Act) {
        match act {
            Act::Dial(to, port) => {
                let after = took + self.delay();
                let incarnation = self.nodes[node].incarnation;
                self.at(after, What::Dial { from: node, incarnation, to, port });
            }
            Act::Send(connection, kind, payload) => {
                let from = self.connections.get(&connection).map_or(0, |one| one.from_id);
                self.send(connection, took, Incoming::Frame(from, kind, payload));
            }
            Act::Snapshot(connection, group, message, data) => {
                let to = message.to;
                let from = self.connections.get(&connection).map_or(0, |one| one.from_id);
                let snapshot = Incoming::Snapshot(from, group, Box::new(message), data);
                let whole = self.send(connection, took, snapshot);
                let sent = Box::new(Incoming::SnapshotSent(to, group, whole));
                let incarnation = self.nodes[node].incarnation;
                self.at(took + 10_000, What::Sent(node, incarnation, sent));
            }
        }
    }

    /// Sends on a connection; whether it is not known to be broken.
    fn send(&mut self, connection: u64, took: u64, incoming: Incoming) -> bool {
        let breaks = self.random.below(1_000) < self.net.breaks;
        let after = self.delay();
        let Some(one) = self.connections.get_mut(&connection) else { return false };
        if breaks {
            self.break_connection(connection);
            return false;
        }
        one.last = (self.now + took + after).max(one.last + 1);
        let (at, whole) = (one.last - self.now, !one.broken);
        if whole {
            self.at(at, What::Arrive(connection, Box::new(incoming)));
        }
        whole
    }

    /// Breaks a connection; whoever dialled it learns of it later.
    pub fn break_connection(&mut self, connection: u64) {
        let later = self.random.between(5_000, 400_000) as u64;
        if let Some(one) = self.connections.get_mut(&connection)
            && !one.broken
        {
            one.broken = true;
            self.at(later, What::Broken(connection));
        }
    }

    fn notice(&mut self, connection: u64) {
        let Some(one) = self.connections.remove(&connection) else { return };
        if let Some(process) = &self.nodes[one.from].process {
            process.links.lock().expect("no panic").broken(connection);
            self.wake(one.from, self.now);
        }
    }

    fn arrive(&mut self, connection: u64, incoming: Incoming) {
        let Some(one) = self.connections.get(&connection) else { return };
        let (from, to, from_id) = (one.from, one.to, one.from_id);
        if one.broken {
            return;
        }
        if self.net.down.contains(&(from, to)) {
            return self.break_connection(connection);
        }
        let clock_us = self.clock_us(to);
        let Some(process) = &self.nodes[to].process else { return };
        {
            let mut links = process.links.lock().expect("no panic");
            links.heard(from_id, clock_us);
            let is_alive =
                matches!(incoming, Incoming::Frame(_, ashlar_replication::runtime::wire::ALIVE, _));
            if is_alive {
                return;
            }
            links.incoming.push(incoming);
        }
        self.wake(to, self.now);
    }

    fn dial(&mut self, from: usize, to_id: u64, port: u16) {
        let to = usize::from(port) - 1;
        let cut = |a, b| self.net.down.contains(&(a, b));
        if to >= NODES || cut(from, to) || cut(to, from) {
            return;
        }
        let (Some(dialler), Some(acceptor)) = (&self.nodes[from].process, &self.nodes[to].process)
        else {
            return;
        };
        let (me, cluster) = {
            let links = dialler.links.lock().expect("no panic");
            (links.me, links.cluster)
        };
        let port = from as u16 + 1;
        if !acceptor.links.lock().expect("no panic").greet(to_id, cluster, me, port) {
            return;
        }
        let number = self.next_connection;
        self.next_connection += 1;
        dialler.links.lock().expect("no panic").connected(to_id, number);
        let one = Connection { from, from_id: me, to, last: self.now, broken: false };
        self.connections.insert(number, one);
        self.wake(to, self.now);
    }

    /// The newest topology that any node knows.
    pub fn topology(&self) -> Arc<Topology> {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let all = running.map(|process| process.handle.topology());
        all.max_by_key(|topology| topology.version).unwrap_or_default()
    }

    /// Moves of slots that were seen.
    pub fn moved(&self) -> u64 {
        self.moves.len() as u64
    }

    /// A group's replica on a node.
    pub fn replica(&self, node: usize, group: GroupId) -> Option<&Group<State<ShardMachine>>> {
        self.nodes[node].process.as_ref()?.driver.node()?.group(group)
    }

    /// The node that leads a group, if one does.
    pub fn leader_of(&self, group: GroupId) -> Option<usize> {
        let leads = |node: &usize| self.replica(*node, group).is_some_and(Group::is_leader);
        let term = |node: &usize| self.replica(*node, group).map(Group::term);
        (0..NODES).filter(leads).max_by_key(term)
    }
}

/// What is known of a node.
pub fn info(node: usize, id: u64) -> NodeInfo {
    let port = node as u16 + 1;
    let (name, host) = ([node as u8 + 1; 20], format!("n{port}"));
    let version = Release::own().to_string();
    NodeInfo { id, name, host, port, peer_port: port, version, ..NodeInfo::default() }
}

fn create() -> Ask {
    let members: Vec<u64> = (1..=MEMBERS as u64).collect();
    let group = |id: GroupId| GroupInfo {
        id,
        members: members.clone(),
        preferred: u64::from(id - 1) % MEMBERS as u64 + 1,
        ..GroupInfo::default()
    };
    let share = SLOTS as u32 / GROUPS;
    let slots = |id: GroupId| {
        let last = if id == GROUPS { SLOTS as u32 } else { id * share };
        ((((id - 1) * share) as u16, (last - 1) as u16), id)
    };
    let change = Change::Create {
        cluster_id: [7; 20],
        nodes: (0..MEMBERS).map(|node| info(node, node as u64 + 1)).collect(),
        groups: (1..=GROUPS).map(group).collect(),
        slots: (1..=GROUPS).map(slots).collect(),
    };
    Ask::Change(Box::new(change), Box::new(|_| {}))
}

/// Nobody waits for the answer.
pub fn nobody() -> Box<dyn FnOnce(Answer) + Send> {
    Box::new(|_| {})
}
