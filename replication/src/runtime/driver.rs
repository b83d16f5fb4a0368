//! What a node does in one turn: pure, given the time, what its links brought and what its disk says.
//!
//! The thread that owns it (`thread`) gives it turns; a simulation gives them itself.

use super::disk::{NodeDisk, Remembered};
use super::handle::{Done, Event, Handle};
use super::identity::Identity;
use super::links::{Links, PeerAddress};
use super::moves::Moves;
use super::sites::Sites;
use super::state::State;
use super::steward::Steward;
use super::wire;
use super::{DriverOptions, Host};
use crate::node::{CaptureSnapshot, Node, NodeId, Outbox};
use crate::raft::group::snapshot_index;
use crate::raft::{Answer, GroupId, Settings, Ticket};
use crate::topology::{META_GROUP, Role, Topology};
use ashlar_engine::disk::Disk;
use ashlar_engine::log::LogError;
use ashlar_engine::stamp::Rng;
use slab::Slab;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Ticks that are made up for after a pause.
const TICKS_MAX: u64 = 3;
/// Microseconds between looks at what is to be brought about.
const STEWARD_US: u64 = 100_000;

/// A request that another node was asked to propose.
pub(super) struct Forward {
    pub done: Done,
    pub group: GroupId,
    pub to: NodeId,
    pub until_us: u64,
}

/// A node without its thread and its sockets.
pub struct Driver<H: Host> {
    pub(super) host: Arc<H>,
    pub(super) handle: Arc<Handle>,
    pub(super) settings: Settings,
    pub(super) links: Box<dyn Links>,
    /// `None` until the node belongs to a cluster.
    pub(super) node: Option<Node<State<H::Data>>>,
    pub(super) topology: Arc<Topology>,
    pub(super) now_us: u64,
    pub(super) identity: Identity,
    files: NodeDisk,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    pub(super) out: Outbox,
    /// Those who wait for an answer, by ticket.
    pub(super) origins: Slab<Done>,
    pub(super) forwards: BTreeMap<u64, Forward>,
    /// Who leads groups that this node is no member of, as those said who were asked and do not.
    pub(super) told_leaders: BTreeMap<GroupId, NodeId>,
    pub(super) next_forward: u64,
    rng: Rng,
    /// The last batch that the disk had no room for.
    blocked: Option<u64>,
    /// Who this node is to be, once the disk has room to remember it.
    unadopted: Option<Identity>,
    pub(super) steward: Steward,
    moves: Moves,
    sites: Sites,
    /// Threads that write snapshots, and what tells them to end. A machine that gives no capture needs
    /// none: those of a simulation do not.
    writers: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    next_tick_us: u64,
    next_look_us: u64,
    /// When it is next looked for groups that the node has left.
    pub(super) left_due_us: u64,
    /// Entries that were applied, for those who check; see [`Driver::watch_applied`].
    applied: Vec<(GroupId, u64, u32)>,
    /// Whether the node has failed or was told to stop.
    ended: bool,
}

impl<H: Host> Driver<H> {
    /// Opens a node's files and takes up what it remembers.
    ///
    /// # Errors
    /// If its files are damaged, or those of the disk.
    pub fn open(
        host: H,
        options: DriverOptions,
        links: Box<dyn Links>,
        handle: Arc<Handle>,
    ) -> io::Result<Driver<H>> {
        let DriverOptions { disk, dir, name, settings, seed, sizes } = options;
        disk.create_dir(&dir)?;
        let (files, remembered) = NodeDisk::open(disk.clone(), &dir, sizes, seed)?;
        let identity = match Identity::read(&*disk, &dir.join("node"))? {
            Some(identity) => identity,
            None => {
                let identity = Identity { name, ..Identity::default() };
                identity.write(&*disk, &dir)?;
                identity
            }
        };
        handle.set_name(identity.name);
        let now_us = handle.now_us();
        let mut driver = Driver {
            host: Arc::new(host),
            handle,
            settings,
            links,
            node: None,
            topology: Arc::default(),
            now_us,
            identity,
            files,
            disk,
            dir,
            out: Outbox::default(),
            origins: Slab::new(),
            forwards: BTreeMap::new(),
            told_leaders: BTreeMap::new(),
            next_forward: 1,
            rng: Rng::new(seed),
            unadopted: None,
            blocked: None,
            steward: Steward::default(),
            moves: Moves::default(),
            sites: Sites::default(),
            writers: Vec::new(),
            stopping: Arc::default(),
            next_tick_us: now_us,
            next_look_us: now_us,
            left_due_us: now_us,
            applied: Vec::new(),
            ended: false,
        };
        driver.take_up(remembered)?;
        Ok(driver)
    }

    /// Takes up what the node remembers.
    fn take_up(&mut self, remembered: Remembered) -> io::Result<()> {
        if self.identity.me == 0 {
            return Ok(());
        }
        self.join();
        let Some(node) = &mut self.node else { return Ok(()) };
        let snapshot = |group| remembered.snapshots.get(&group).cloned().unwrap_or_default();
        let missing = node.recover(&remembered.records, snapshot).map_err(|error| {
            io::Error::other(format!("what the node remembers of its groups is damaged: {error}"))
        })?;
        self.out.batch.records.extend(missing);
        self.note_witness();
        self.look_at_topology();
        self.publish();
        Ok(())
    }

    /// When it is to have its next turn at the latest, if nothing happens before.
    pub fn due_us(&self) -> u64 {
        let due_us = self.next_tick_us.min(self.next_look_us);
        self.moves.due_us().map_or(due_us, |move_us| due_us.min(move_us))
    }

    /// The groups of the node, once it belongs to a cluster.
    pub fn node(&self) -> Option<&Node<State<H::Data>>> {
        self.node.as_ref()
    }

    /// From now on it keeps which entries were applied, until they are taken: (group, index, checksum).
    pub fn watch_applied(&mut self) -> Vec<(GroupId, u64, u32)> {
        self.out.watch_applied = true;
        std::mem::take(&mut self.applied)
    }

    /// Does what there is to do at a time. Whether the node goes on.
    pub fn turn(&mut self, now_us: u64) -> bool {
        self.now_us = now_us;
        if let Some(node) = &mut self.node {
            node.set_time(now_us);
        }
        let mut incoming = Vec::new();
        self.links.receive(now_us, &mut incoming);
        self.take_in(&mut incoming);
        let mut asked = Vec::new();
        self.handle.take(&mut asked);
        for event in asked {
            if let Event::Stop = event {
                self.end();
                return false;
            }
            self.serve(event);
        }
        if let Err(error) = self.turn_clock().and_then(|()| self.work()) {
            self.fail(&error.to_string());
        }
        if !self.topology.moves.is_empty() {
            // A step follows the one before at once: slots stand still meanwhile.
            self.look_at_moves();
        }
        self.links.work(now_us, &mut incoming);
        self.take_in(&mut incoming);
        !self.ended
    }

    /// What is done at its times.
    fn turn_clock(&mut self) -> Result<(), LogError> {
        if self.now_us >= self.next_tick_us {
            let tick_us = self.settings.tick_us;
            let due = (self.now_us - self.next_tick_us) / tick_us + 1;
            self.next_tick_us += due * tick_us;
            self.tick(due.min(TICKS_MAX));
        }
        if self.now_us >= self.next_look_us {
            self.next_look_us = self.now_us + STEWARD_US;
            self.look_around();
            self.tend_disk()?;
        }
        Ok(())
    }

    fn look_at_moves(&mut self) {
        let mut moves = std::mem::take(&mut self.moves);
        moves.look(self);
        self.moves = moves;
    }

    /// From now on the node belongs to a cluster.
    pub(super) fn join(&mut self) {
        let me = self.identity.me;
        self.handle.set_me(me);
        self.links.set_identity(me, self.identity.cluster);
        let host = self.host.clone();
        let make = move |_, group| match group {
            META_GROUP => State::Meta(Box::default()),
            group => State::Data(host.machine(group)),
        };
        self.node = Some(Node::new(me, self.settings.clone(), make, self.rng.next_u64()));
    }

    pub(super) fn adopt(&mut self, identity: Identity) -> io::Result<()> {
        identity.write(&*self.disk, &self.dir)?;
        self.identity = identity;
        if self.node.is_none() {
            self.join();
        }
        Ok(())
    }

    /// The same as soon as the disk has room for it.
    pub(super) fn adopt_in_time(&mut self, identity: Identity) {
        match self.adopt(identity) {
            Ok(()) => self.unadopted = None,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.unadopted = Some(identity);
            }
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn tick(&mut self, ticks: u64) {
        if let Some(node) = &mut self.node {
            (0..ticks).for_each(|_| node.tick());
        }
        for node in self.topology.nodes.keys().copied() {
            self.links.send(node, wire::ALIVE, &[]);
        }
    }

    /// Ten times a second: what is to be brought about, and what has taken too long.
    fn look_around(&mut self) {
        if let Some(identity) = self.unadopted {
            self.adopt_in_time(identity);
        }
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
            if let Some(heard_us) = self.links.heard_us(*node) {
                heard.insert(*node, heard_us);
            }
        }
        drop(heard);
        let mut steward = std::mem::take(&mut self.steward);
        steward.look(self);
        self.steward = steward;
        self.look_at_moves();
        self.look_for_left();
        let mut sites = std::mem::take(&mut self.sites);
        sites.look(self);
        self.sites = sites;
    }

    pub(super) fn each_group(
        &mut self,
        mut each: impl FnMut(&mut crate::raft::Group<State<H::Data>>),
    ) {
        let Some(node) = &mut self.node else { return };
        let ids: Vec<GroupId> = node.groups().map(crate::raft::Group::id).collect();
        for id in ids {
            if let Some(group) = node.group_mut(id) {
                each(group);
            }
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
            if !self.links.send(to, wire::RAFT, &[&frame]) {
                self.each_group(|group| group.unreachable(to));
            }
        }
        for one in std::mem::take(&mut self.out.snapshots) {
            let (to, group) = (one.message.to, one.group);
            let index = one.message.get_snapshot().get_metadata().index;
            let sent = match self.files.read_snapshot(group) {
                // A newer one than raft knows of yet: it asks again.
                Ok(data) if data.is_empty() => self.links.send_snapshot(group, one.message, data),
                Ok(data) if snapshot_index(&data) != Some(index) => false,
                Ok(data) => self.links.send_snapshot(group, one.message, data),
                // There is none before the first: the group has its members and nothing else.
                Err(_) => self.links.send_snapshot(group, one.message, Vec::new()),
            };
            if !sent && let Some(group) = self.node.as_mut().and_then(|node| node.group_mut(group))
            {
                group.snapshot_sent(to, false);
            }
        }
        self.applied.append(&mut self.out.applied);
        for (ticket, answer) in std::mem::take(&mut self.out.answers) {
            self.answer(ticket, answer);
        }
        for one in std::mem::take(&mut self.out.captures) {
            self.capture(one);
        }
        let mut incoming = Vec::new();
        self.links.work(self.now_us, &mut incoming);
        self.take_in(&mut incoming);
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

    pub(super) fn snapshot_written(&mut self, group: GroupId, index: u64, bytes: Option<u64>) {
        let Some(node) = &mut self.node else { return };
        if !node.snapshot_written(group, index, bytes, &mut self.out) {
            self.files.forget_part(group, index);
        }
    }

    /// Waits for the threads that write snapshots, which are told to end.
    pub(super) fn join_writers(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            // One that panicked has said so.
            drop(writer.join());
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let at = usize::try_from(ticket).unwrap_or(usize::MAX);
        if let Some(done) = self.origins.try_remove(at) {
            done(answer);
        }
    }

    /// Whoever waits for what a closure of the steward or the moves asked for.
    pub(super) fn ticket(&mut self, done: Done) -> Ticket {
        self.origins.insert(done) as Ticket
    }

    pub(super) fn out(&mut self) -> &mut Outbox {
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
        self.links.set_peers(&addresses);
        self.handle.set_topology(self.topology.clone());
        let me = self.topology.nodes.get(&self.identity.me);
        let witness = me.is_some_and(|node| node.role == Role::Witness);
        if witness != self.identity.witness {
            let identity = Identity { witness, ..self.identity };
            self.adopt_in_time(identity);
        }
        self.note_witness();
        self.host.topology_changed(&self.topology);
    }

    /// A witness keeps no data and never leads.
    pub(super) fn note_witness(&mut self) {
        if self.identity.witness {
            self.each_group(|group| {
                if !group.is_witness() {
                    group.set_witness();
                }
            });
        }
    }

    /// Lets other threads see what has changed.
    pub(super) fn publish(&mut self) {
        let Some(node) = &self.node else { return };
        let mut changed = Vec::new();
        for group in node.groups() {
            let Some(status) = self.handle.group(group.id()) else { continue };
            let leader = if group.failed { 0 } else { group.leader().unwrap_or(0) };
            status.term.store(group.term(), Ordering::Relaxed);
            status.applied.store(group.applied(), Ordering::Release);
            status.here.store(!group.is_retired(), Ordering::Relaxed);
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

    pub(super) fn fail(&mut self, reason: &str) {
        self.handle.end();
        self.end();
        self.ended = true;
        self.node = None;
        self.host.failed(reason);
    }
}
