//! The loop of a node's thread.

use super::disk::{NodeDisk, Remembered};
use super::handle::{Done, Event, Handle};
use super::moves::Moves;
use super::peers::{Incoming, LISTENER, PeerAddress, Peers, WAKER};
use super::sites::Sites;
use super::steward::Steward;
use super::wire;
use super::{DATA_GROUPS_MAX, Data, Host, Options};
use crate::bytes::{Malformed, Reader, push_u64};
use crate::node::{CaptureSnapshot, Node, NodeId, Outbox};
use crate::raft::group::snapshot_index;
use crate::raft::{
    Answer, Capture, GroupId, Machine, OwnedCall, Request, RequestId, Settings, Ticket,
};
use crate::topology::{self, Change, META_GROUP, Role, Topology};
use ashlar_engine::disk::{Disk, Mode};
use ashlar_engine::log::LogError;
use ashlar_engine::reply::Protocol;
use ashlar_engine::stamp::{Rng, Stamp};
use raft::eraftpb::ConfState;
use slab::Slab;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ticks that are made up for after a pause.
const TICKS_MAX: u64 = 3;
/// Microseconds between looks at what is to be brought about.
const STEWARD_US: u64 = 100_000;
/// Microseconds after which a request that was sent to another node is given up.
const FORWARD_US: u64 = 10_000_000;
/// Requests to other nodes that are under way.
const FORWARDS_MAX: usize = 65_536;

/// The state of any group: the topology, or data.
pub enum State<D> {
    /// That of the meta group.
    Meta(Box<Topology>),
    /// That of a group with data.
    Data(D),
}

impl<D: Data> Machine for State<D> {
    fn apply(&mut self, request: &Request, out: &mut Vec<u8>) {
        match self {
            State::Meta(topology) => Machine::apply(&mut **topology, request, out),
            State::Data(data) => data.apply(request, out),
        }
    }

    fn read(&mut self, request: &Request, out: &mut Vec<u8>) {
        match self {
            State::Meta(topology) => topology.read(request, out),
            State::Data(data) => data.read(request, out),
        }
    }

    fn snapshot(&mut self) -> Vec<u8> {
        match self {
            State::Meta(topology) => topology.snapshot(),
            State::Data(data) => data.snapshot(),
        }
    }

    fn capture(&mut self) -> Option<Capture> {
        match self {
            State::Meta(topology) => topology.capture(),
            State::Data(data) => data.capture(),
        }
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        match self {
            State::Meta(topology) => topology.restore(bytes),
            State::Data(data) => data.restore(bytes),
        }
    }

    fn digest(&self) -> u64 {
        match self {
            State::Meta(topology) => topology.digest(),
            State::Data(data) => data.digest(),
        }
    }
}

/// Who a node is: what it has to know before its log can tell it anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Identity {
    name: [u8; 20],
    me: NodeId,
    cluster: [u8; 20],
    witness: bool,
}

impl Identity {
    fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<Identity>> {
        let file = match disk.open(path, Mode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; 53];
        ashlar_engine::disk::read_exact_at(&*file, &mut bytes, 0)?;
        let crc = bytes.split_off(49);
        if crc32c::crc32c(&bytes).to_le_bytes() != *crc {
            return Err(io::Error::other(format!("{} is damaged", path.display())));
        }
        let mut identity = Identity::default();
        identity.name.copy_from_slice(&bytes[..20]);
        identity.cluster.copy_from_slice(&bytes[20..40]);
        let mut me = [0; 8];
        me.copy_from_slice(&bytes[40..48]);
        identity.me = NodeId::from_le_bytes(me);
        identity.witness = bytes[48] != 0;
        Ok(Some(identity))
    }

    fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut bytes = self.name.to_vec();
        bytes.extend_from_slice(&self.cluster);
        push_u64(&mut bytes, self.me);
        bytes.push(u8::from(self.witness));
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let temporary = dir.join("node.tmp");
        let file = disk.open(&temporary, Mode::Create)?;
        file.set_len(0)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        disk.rename(&temporary, &dir.join("node"))?;
        disk.sync_dir(dir)
    }
}

/// A request that another node was asked to propose.
struct Forward {
    done: Done,
    to: NodeId,
    until_us: u64,
}

/// What a node's thread works with.
pub(super) struct Driver<H: Host> {
    pub host: Arc<H>,
    pub handle: Arc<Handle>,
    pub settings: Settings,
    pub peers: Peers,
    /// `None` until the node belongs to a cluster.
    pub node: Option<Node<State<H::Data>>>,
    pub topology: Arc<Topology>,
    pub now_us: u64,
    identity: Identity,
    files: NodeDisk,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    out: Outbox,
    /// Those who wait for an answer, by ticket.
    origins: Slab<Done>,
    forwards: BTreeMap<u64, Forward>,
    next_forward: u64,
    rng: Rng,
    /// The last batch that the disk had no room for.
    blocked: Option<u64>,
    steward: Steward,
    moves: Moves,
    sites: Sites,
    /// Threads that write snapshots, and what tells them to end.
    writers: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

/// Starts a node; its thread ends after [`Event::Stop`].
///
/// # Errors
/// If its files are damaged, or the system gives no thread or socket.
pub fn start<H: Host>(
    host: H,
    options: Options,
    nonce: impl FnMut() -> [u8; 32] + Send + 'static,
) -> io::Result<(Arc<Handle>, JoinHandle<()>)> {
    let Options { disk, dir, name, listener, secret, settings, seed } = options;
    disk.create_dir(&dir)?;
    let (files, remembered) = NodeDisk::open(disk.clone(), &dir, seed)?;
    let identity = match Identity::read(&*disk, &dir.join("node"))? {
        Some(identity) => identity,
        None => {
            let identity = Identity { name, ..Identity::default() };
            identity.write(&*disk, &dir)?;
            identity
        }
    };
    let poll = mio::Poll::new()?;
    let peer_port = listener.local_addr()?.port();
    let waker = mio::Waker::new(poll.registry(), WAKER)?;
    let handle = Arc::new(Handle::new(waker, identity.name, peer_port));
    let registry = poll.registry().try_clone()?;
    let mut peers = Peers::new(registry, listener, secret, Box::new(nonce))?;
    (peers.me, peers.cluster) = (identity.me, identity.cluster);
    let own = handle.clone();
    let (started, wait) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("ashlar-raft".into()).spawn(move || {
        let mut driver = Driver {
            host: Arc::new(host),
            handle: own,
            settings,
            peers,
            node: None,
            topology: Arc::default(),
            now_us: 0,
            identity,
            files,
            disk,
            dir,
            out: Outbox::default(),
            origins: Slab::new(),
            forwards: BTreeMap::new(),
            next_forward: 1,
            rng: Rng::new(seed),
            blocked: None,
            steward: Steward::default(),
            moves: Moves::default(),
            sites: Sites::default(),
            writers: Vec::new(),
            stopping: Arc::default(),
        };
        let opened = driver.open(remembered);
        let ok = opened.is_ok();
        drop(started.send(opened));
        if ok {
            driver.run(poll);
        }
        driver.handle.end();
        driver.stopping.store(true, Ordering::Relaxed);
        for writer in driver.writers.drain(..) {
            // One that panicked has said so.
            drop(writer.join());
        }
    })?;
    wait.recv().map_err(|_| io::Error::other("the node's thread ended"))??;
    Ok((handle, thread))
}

impl<H: Host> Driver<H> {
    /// Takes up what the node remembers.
    fn open(&mut self, remembered: Remembered) -> io::Result<()> {
        if self.identity.me == 0 {
            return Ok(());
        }
        self.join();
        let Some(node) = &mut self.node else { return Ok(()) };
        let snapshot = |group| remembered.snapshots.get(&group).cloned().unwrap_or_default();
        node.recover(&remembered.records, snapshot).map_err(|error| {
            io::Error::other(format!("what the node remembers of its groups is damaged: {error}"))
        })?;
        self.note_witness();
        self.look_at_topology();
        self.publish();
        Ok(())
    }

    /// From now on the node belongs to a cluster.
    fn join(&mut self) {
        let me = self.identity.me;
        self.handle.set_me(me);
        (self.peers.me, self.peers.cluster) = (me, self.identity.cluster);
        let host = self.host.clone();
        let make = move |_, group| match group {
            META_GROUP => State::Meta(Box::default()),
            group => State::Data(host.machine(group)),
        };
        self.node = Some(Node::new(me, self.settings.clone(), make, self.rng.next_u64()));
    }

    fn adopt(&mut self, identity: Identity) -> io::Result<()> {
        identity.write(&*self.disk, &self.dir)?;
        self.identity = identity;
        if self.node.is_none() {
            self.join();
        }
        Ok(())
    }

    fn run(&mut self, mut poll: mio::Poll) {
        let mut events = mio::Events::with_capacity(1024);
        let (mut incoming, mut asked) = (Vec::new(), Vec::new());
        let mut next_tick_us = self.handle.now_us();
        let mut next_look_us = next_tick_us;
        loop {
            let now_us = self.handle.now_us();
            let wait_us = match self.handle.is_waiting() {
                true => 0,
                false => next_tick_us.min(next_look_us).saturating_sub(now_us),
            };
            // Rounded up: a turn that comes too early does nothing.
            let wait = Duration::from_millis(wait_us.div_ceil(1000));
            if let Err(error) = poll.poll(&mut events, Some(wait))
                && error.kind() != io::ErrorKind::Interrupted
            {
                return self.fail(&error.to_string());
            }
            self.now_us = self.handle.now_us();
            for event in events.iter().filter(|event| event.token() != WAKER) {
                debug_assert!(event.token() != LISTENER || event.is_readable());
                self.peers.event(event.token(), self.now_us, &mut incoming);
            }
            if let Some(node) = &mut self.node {
                node.set_time(self.now_us);
            }
            self.take_in(&mut incoming);
            self.handle.take(&mut asked);
            for event in asked.drain(..) {
                if let Event::Stop = event {
                    return self.end();
                }
                self.serve(event);
            }
            if self.now_us >= next_tick_us {
                let tick_us = self.settings.tick_us;
                let due = (self.now_us - next_tick_us) / tick_us + 1;
                next_tick_us += due * tick_us;
                self.tick(due.min(TICKS_MAX));
            }
            if self.now_us >= next_look_us {
                next_look_us = self.now_us + STEWARD_US;
                self.look_around();
                if let Err(error) = self.tend_disk() {
                    return self.fail(&error.to_string());
                }
            }
            if let Err(error) = self.work() {
                return self.fail(&error.to_string());
            }
            if !self.topology.moves.is_empty() {
                // A step follows the one before at once: slots stand still meanwhile.
                let mut moves = std::mem::take(&mut self.moves);
                moves.look(self);
                self.moves = moves;
            }
            self.peers.work(self.now_us, &mut incoming);
            self.take_in(&mut incoming);
        }
    }

    fn tick(&mut self, ticks: u64) {
        if let Some(node) = &mut self.node {
            (0..ticks).for_each(|_| node.tick());
        }
        for node in self.topology.nodes.keys().copied() {
            self.peers.send(node, wire::ALIVE, &[]);
        }
    }

    /// Ten times a second: what is to be brought about, and what has taken too long.
    fn look_around(&mut self) {
        let late: Vec<u64> = self
            .forwards
            .iter()
            .filter(|(_, one)| one.until_us < self.now_us)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            if let Some(forward) = self.forwards.remove(&number) {
                (forward.done)(Answer::Unknown);
            }
        }
        let mut heard = self.handle.heard_us.lock();
        for node in self.topology.nodes.keys() {
            if let Some(heard_us) = self.peers.heard_us(*node) {
                heard.insert(*node, heard_us);
            }
        }
        drop(heard);
        let mut steward = std::mem::take(&mut self.steward);
        steward.look(self);
        self.steward = steward;
        let mut moves = std::mem::take(&mut self.moves);
        moves.look(self);
        self.moves = moves;
        let mut sites = std::mem::take(&mut self.sites);
        sites.look(self);
        self.sites = sites;
    }

    fn take_in(&mut self, incoming: &mut Vec<Incoming>) {
        for one in incoming.drain(..) {
            match one {
                Incoming::Hello(to, cluster) => {
                    if self.identity.me == 0 {
                        let identity = Identity { me: to, cluster, ..self.identity };
                        if let Err(error) = self.adopt(identity) {
                            return self.fail(&error.to_string());
                        }
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

    fn each_group(&mut self, mut each: impl FnMut(&mut crate::raft::Group<State<H::Data>>)) {
        let Some(node) = &mut self.node else { return };
        let ids: Vec<GroupId> = node.groups().map(crate::raft::Group::id).collect();
        for id in ids {
            if let Some(group) = node.group_mut(id) {
                each(group);
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
                    (forward.done)(answer);
                }
            }
            wire::HOST => self.host.message(from, payload),
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

    fn serve(&mut self, event: Event) {
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
                    self.peers.send(node, kind, &[payload]);
                }
            }
            Event::SnapshotWritten(group, index, bytes) => {
                self.snapshot_written(group, index, bytes);
            }
            Event::Stop => {}
        }
    }

    /// Lets a thread of its own write a snapshot.
    fn capture(&mut self, one: CaptureSnapshot) {
        let (group, index) = (one.group, one.index);
        let (file, stop) = (self.files.part_file(group, index), self.stopping.clone());
        let handle = Arc::downgrade(&self.handle);
        let thread = std::thread::Builder::new().name("ashlar-snapshot".into()).spawn(move || {
            let written = file.write(&one.head, one.job, &stop);
            if let Some(handle) = handle.upgrade() {
                // What is refused has ended, and needs no snapshot any more.
                drop(handle.ask(Event::SnapshotWritten(group, index, written.ok())));
            }
        });
        match thread {
            Ok(thread) => {
                self.writers.retain(|thread| !thread.is_finished());
                self.writers.push(thread);
            }
            Err(_) => self.snapshot_written(group, index, None),
        }
    }

    fn snapshot_written(&mut self, group: GroupId, index: u64, bytes: Option<u64>) {
        let Some(node) = &mut self.node else { return };
        if !node.snapshot_written(group, index, bytes, &mut self.out) {
            self.files.forget_part(group, index);
        }
    }

    pub fn transfer(&mut self, group: GroupId, to: NodeId) {
        if let Some(node) = &mut self.node {
            node.transfer(group, to);
        }
        // Nobody may trust the lease from before the first message on.
        self.publish();
    }

    /// Proposes to a group that this node leads.
    pub fn propose(&mut self, group: GroupId, request: &Request, done: Done) {
        let ticket = self.origins.insert(done) as Ticket;
        match &mut self.node {
            Some(node) => node.propose(group, ticket, request, &mut self.out),
            None => self.answer(ticket, Answer::NotLeader(None)),
        }
    }

    /// Proposes wherever the leader is, as far as known.
    pub fn submit(&mut self, group: GroupId, request: Request, done: Done) {
        let leader = self.leader(group);
        if leader.is_none() || leader == Some(self.identity.me) {
            return self.propose(group, &request, done);
        }
        let (Some(to), number) = (leader, self.next_forward) else { return };
        let mut head = number.to_le_bytes().to_vec();
        head.extend_from_slice(&group.to_le_bytes());
        let sent = self.forwards.len() < FORWARDS_MAX
            && self.peers.send(to, wire::FORWARD, &[&head, &request.encode()]);
        if !sent {
            return done(Answer::NotLeader(None));
        }
        self.next_forward += 1;
        let until_us = self.now_us + FORWARD_US;
        self.forwards.insert(number, Forward { done, to, until_us });
    }

    /// Who leads a group: as its replica here says, or else as its members would have it.
    fn leader(&self, group: GroupId) -> Option<NodeId> {
        let here = self.node.as_ref().and_then(|node| node.group(group));
        if let Some(here) = here
            && let Some(leader) = here.leader()
        {
            return Some(leader);
        }
        self.topology.groups.get(&group).map(|group| group.preferred)
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
    pub fn change_quietly(&mut self, change: &Change) {
        let request = bare(vec![topology::request(change)]);
        self.submit(META_GROUP, request, Box::new(|_| {}));
    }

    /// Starts a group that has never been, with this node as its one member.
    pub fn found_group(&mut self, group: GroupId) {
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

    /// Lets the node do what there is to do, and makes durable what has to be.
    fn work(&mut self) -> Result<(), LogError> {
        if let Some(number) = self.blocked {
            match self.files.retry() {
                Ok(()) => {
                    self.blocked = None;
                    self.persisted(number);
                }
                Err(LogError::Blocked(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        loop {
            let Some(node) = &mut self.node else { return Ok(()) };
            node.work(&mut self.out);
            self.hand_out();
            let batch = std::mem::take(&mut self.out.batch);
            if batch.is_empty() {
                break;
            }
            match self.files.write(&batch) {
                Ok(()) => self.persisted(batch.number),
                Err(LogError::Blocked(_)) => {
                    self.blocked = Some(batch.number);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.look_at_topology();
        self.publish();
        Ok(())
    }

    /// Prepares the disk for what will come.
    fn tend_disk(&mut self) -> Result<(), LogError> {
        let Some(node) = self.node.as_ref().filter(|_| self.blocked.is_none()) else {
            return Ok(());
        };
        match self.files.tend(node) {
            Ok(()) | Err(LogError::Blocked(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn persisted(&mut self, number: u64) {
        if let Some(node) = &mut self.node {
            node.persisted(number, &mut self.out);
        }
        self.hand_out();
    }

    /// Sends and answers what the node has to say.
    fn hand_out(&mut self) {
        for (to, frame) in std::mem::take(&mut self.out.frames) {
            if !self.peers.send(to, wire::RAFT, &[&frame]) {
                self.each_group(|group| group.unreachable(to));
            }
        }
        for one in std::mem::take(&mut self.out.snapshots) {
            let (to, group) = (one.message.to, one.group);
            let index = one.message.get_snapshot().get_metadata().index;
            let sent = match self.files.read_snapshot(group) {
                // A newer one than raft knows of yet: it asks again.
                Ok(data) if data.is_empty() => self.peers.send_snapshot(group, one.message, data),
                Ok(data) if snapshot_index(&data) != Some(index) => false,
                Ok(data) => self.peers.send_snapshot(group, one.message, data),
                // There is none before the first: the group has its members and nothing else.
                Err(_) => self.peers.send_snapshot(group, one.message, Vec::new()),
            };
            if !sent && let Some(group) = self.node.as_mut().and_then(|node| node.group_mut(group))
            {
                group.snapshot_sent(to, false);
            }
        }
        for (ticket, answer) in std::mem::take(&mut self.out.answers) {
            self.answer(ticket, answer);
        }
        for one in std::mem::take(&mut self.out.captures) {
            self.capture(one);
        }
        let mut incoming = Vec::new();
        self.peers.work(self.now_us, &mut incoming);
        self.take_in(&mut incoming);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let at = usize::try_from(ticket).unwrap_or(usize::MAX);
        if let Some(done) = self.origins.try_remove(at) {
            done(answer);
        }
    }

    /// Whoever waits for what a closure of the steward or the moves asked for.
    pub fn ticket(&mut self, done: Done) -> Ticket {
        self.origins.insert(done) as Ticket
    }

    pub fn out(&mut self) -> &mut Outbox {
        &mut self.out
    }

    /// Takes notice of a topology that has changed.
    fn look_at_topology(&mut self) {
        let Some(node) = &self.node else { return };
        let Some(group) = node.group(META_GROUP) else { return };
        let State::Meta(topology) = group.machine() else { return };
        if topology.version == self.topology.version
            && topology.cluster_id == self.topology.cluster_id
        {
            return;
        }
        self.topology = Arc::new(Topology::clone(topology));
        let addresses: BTreeMap<NodeId, PeerAddress> = self
            .topology
            .nodes
            .values()
            .map(|node| (node.id, PeerAddress { host: node.host.clone(), port: node.peer_port }))
            .collect();
        self.peers.set_peers(&addresses);
        self.handle.set_topology(self.topology.clone());
        let me = self.topology.nodes.get(&self.identity.me);
        let witness = me.is_some_and(|node| node.role == Role::Witness);
        if witness != self.identity.witness {
            let identity = Identity { witness, ..self.identity };
            if let Err(error) = self.adopt(identity) {
                return self.fail(&error.to_string());
            }
        }
        self.note_witness();
        self.host.topology_changed(&self.topology);
    }

    /// A witness keeps no data and never leads.
    fn note_witness(&mut self) {
        if self.identity.witness {
            self.each_group(|group| {
                if !group.is_witness() {
                    group.set_witness();
                }
            });
        }
    }

    /// Lets other threads see what has changed.
    fn publish(&mut self) {
        let Some(node) = &self.node else { return };
        let mut changed = Vec::new();
        for group in node.groups() {
            let Some(status) = self.handle.group(group.id()) else { continue };
            let leader = if group.failed { 0 } else { group.leader().unwrap_or(0) };
            status.term.store(group.term(), Ordering::Relaxed);
            status.applied.store(group.applied(), Ordering::Release);
            status.here.store(true, Ordering::Relaxed);
            status.lease_until_us.store(group.lease_until_us(), Ordering::Release);
            if status.leader.swap(leader, Ordering::AcqRel) != leader {
                changed.push((group.id(), Some(leader).filter(|leader| *leader != 0)));
            }
        }
        for (group, leader) in changed {
            self.host.leader_changed(group, leader);
        }
    }

    fn end(&mut self) {
        // Whoever waits is told that nobody knows.
        for done in self.origins.drain() {
            done(Answer::Unknown);
        }
        for (_, forward) in std::mem::take(&mut self.forwards) {
            (forward.done)(Answer::Unknown);
        }
    }

    fn fail(&mut self, reason: &str) {
        self.handle.end();
        self.end();
        self.node = None;
        self.host.failed(reason);
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
