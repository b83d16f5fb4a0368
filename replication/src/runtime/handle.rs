//! What other threads see of a node, and how they ask it for something.

use super::wire;
use crate::node::NodeId;
use crate::raft::{Answer, GroupId, Request};
use crate::topology::{Change, Topology};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Told what became of a request; on the node's thread, so it has to be quick.
pub type Done = Box<dyn FnOnce(Answer) + Send>;

/// Bytes of requests that wait for the node's thread, above which new ones are refused.
const INBOX_BYTES_MAX: usize = 256 << 20;

/// Something to be done by the node.
pub enum Event {
    /// Propose to a group that this node leads.
    Propose(GroupId, Box<Request>, Done),
    /// Propose wherever the group's leader is.
    Submit(GroupId, Box<Request>, Done),
    /// A round that proves that this node has applied all of a group that was answered.
    Confirm(GroupId, Done),
    /// Change the topology.
    Change(Box<Change>, Done),
    /// Hand over the leadership of a group.
    Transfer(GroupId, NodeId),
    /// Send to the host of other nodes; of all where none is named.
    Message(Vec<NodeId>, Vec<u8>),
    /// Take snapshots of all groups, though their logs are small.
    SaveAll,
    /// A snapshot of a group up to an index is durable, with so many bytes, or could not be written.
    SnapshotWritten(GroupId, u64, Option<u64>),
    /// End.
    Stop,
}

/// What is known of a group.
#[derive(Debug, Default)]
pub struct GroupStatus {
    /// Who leads it; 0 where nobody is known to.
    pub leader: AtomicU64,
    /// Its term.
    pub term: AtomicU64,
    /// Index of the last entry that is applied here.
    pub applied: AtomicU64,
    /// Until when reads need no round, microseconds of [`Handle::now_us`].
    pub lease_until_us: AtomicU64,
    /// The group's epoch in the topology for which its replicas are those that are named there; 0 while
    /// they are not. Only its leader knows.
    pub settled_epoch: AtomicU64,
    /// How far its writes reach, a [`SiteWrites`](super::SiteWrites); only its leader knows.
    pub site_writes: AtomicU8,
    /// Whether this node has a replica of it.
    pub here: AtomicBool,
}

/// Where the time comes from.
enum Clock {
    /// The system, since then.
    System(Instant),
    /// Whoever gives the node its turns.
    Told(AtomicU64),
}

/// A node, as other threads see it.
pub struct Handle {
    inbox: Mutex<Vec<Event>>,
    waiting: AtomicBool,
    bytes: AtomicUsize,
    waker: Option<mio::Waker>,
    status: Box<[GroupStatus]>,
    topology: RwLock<Arc<Topology>>,
    me: AtomicU64,
    pub(super) heard_us: Mutex<BTreeMap<NodeId, u64>>,
    clock: Clock,
    stopped: AtomicBool,
    name: OnceLock<[u8; 20]>,
    /// The port that other nodes reach it at.
    pub peer_port: u16,
}

impl Handle {
    pub(super) fn new(waker: mio::Waker, peer_port: u16) -> Handle {
        Handle::with(Some(waker), Clock::System(Instant::now()), peer_port)
    }

    /// That of a node that is given its turns and told the time: nobody has to be woken.
    pub fn without_thread(peer_port: u16) -> Handle {
        Handle::with(None, Clock::Told(AtomicU64::new(0)), peer_port)
    }

    fn with(waker: Option<mio::Waker>, clock: Clock, peer_port: u16) -> Handle {
        let groups = super::DATA_GROUPS_MAX + 1;
        Handle {
            inbox: Mutex::default(),
            waiting: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
            waker,
            status: (0..groups).map(|_| GroupStatus::default()).collect(),
            topology: RwLock::default(),
            me: AtomicU64::new(0),
            heard_us: Mutex::default(),
            clock,
            stopped: AtomicBool::new(false),
            name: OnceLock::new(),
            peer_port,
        }
    }

    /// Microseconds since the node was started.
    #[inline]
    pub fn now_us(&self) -> u64 {
        match &self.clock {
            Clock::System(started) => started.elapsed().as_micros() as u64,
            Clock::Told(now_us) => now_us.load(Ordering::Acquire),
        }
    }

    /// Tells the time to a node [without a thread](Handle::without_thread); it never goes back.
    pub fn set_now_us(&self, now_us: u64) {
        if let Clock::Told(told) = &self.clock {
            told.fetch_max(now_us, Ordering::AcqRel);
        }
    }

    /// The node's name; zeros before it is open.
    pub fn name(&self) -> [u8; 20] {
        self.name.get().copied().unwrap_or_default()
    }

    pub(super) fn set_name(&self, name: [u8; 20]) {
        // A handle is of one node, which has one name.
        let _ = self.name.set(name);
    }

    /// This node's number; 0 while it is in no cluster.
    #[inline]
    pub fn me(&self) -> NodeId {
        self.me.load(Ordering::Acquire)
    }

    pub(super) fn set_me(&self, me: NodeId) {
        self.me.store(me, Ordering::Release);
    }

    /// The newest topology that is known here.
    pub fn topology(&self) -> Arc<Topology> {
        self.topology.read().clone()
    }

    pub(super) fn set_topology(&self, topology: Arc<Topology>) {
        *self.topology.write() = topology;
    }

    /// What is known of a group; group 0 is the meta group.
    #[inline]
    pub fn group(&self, group: GroupId) -> Option<&GroupStatus> {
        self.status.get(group as usize)
    }

    /// Who leads a group, as far as known.
    #[inline]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.group(group)?.leader.load(Ordering::Acquire);
        Some(leader).filter(|node| *node != 0)
    }

    /// Whether what this node has applied of a group is sure to be as new as anything that was answered,
    /// at this moment: to be asked after a read, before it is answered.
    #[inline]
    pub fn holds_lease(&self, group: GroupId) -> bool {
        let until =
            self.group(group).map_or(0, |group| group.lease_until_us.load(Ordering::Acquire));
        until != 0 && self.now_us() < until
    }

    /// Milliseconds since a node was last heard of; `None` if it never was.
    pub fn silent_ms(&self, node: NodeId) -> Option<u64> {
        let heard_us = self.heard_us.lock().get(&node).copied()?;
        Some(self.now_us().saturating_sub(heard_us) / 1000)
    }

    /// Asks the node for something.
    ///
    /// # Errors
    /// Gives the event back, if too much waits already or the node has ended.
    pub fn ask(&self, event: Event) -> Result<(), Event> {
        let bytes = event.bytes();
        let full = self.bytes.load(Ordering::Relaxed) + bytes > INBOX_BYTES_MAX;
        if self.stopped.load(Ordering::Acquire) || (full && !event.is_own()) {
            return Err(event);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inbox.lock().push(event);
        if !self.waiting.swap(true, Ordering::AcqRel)
            && let Some(waker) = &self.waker
        {
            // A full pipe means that the node is about to wake up anyway.
            waker.wake().ok();
        }
        Ok(())
    }

    /// Asks for something that ends with an answer, which is [`Answer::Busy`] where too much waits.
    pub fn ask_or_refuse(&self, event: Event) {
        if let Err(
            Event::Propose(_, _, done)
            | Event::Submit(_, _, done)
            | Event::Confirm(_, done)
            | Event::Change(_, done),
        ) = self.ask(event)
        {
            done(Answer::Busy);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    pub(super) fn take(&self, out: &mut Vec<Event>) {
        if !self.waiting.swap(false, Ordering::AcqRel) {
            return;
        }
        out.append(&mut self.inbox.lock());
        let bytes = out.iter().map(Event::bytes).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The node has ended: whatever waits is refused.
    pub(super) fn end(&self) {
        self.stopped.store(true, Ordering::Release);
        for event in std::mem::take(&mut *self.inbox.lock()) {
            if let Event::Propose(_, _, done)
            | Event::Submit(_, _, done)
            | Event::Confirm(_, done)
            | Event::Change(_, done) = event
            {
                done(Answer::NotLeader(None));
            }
        }
        for group in &self.status {
            group.leader.store(0, Ordering::Release);
            group.lease_until_us.store(0, Ordering::Release);
        }
    }

    /// Whether the node has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Event {
    /// Whether it has to come through however much waits.
    fn is_own(&self) -> bool {
        matches!(self, Event::Stop | Event::SnapshotWritten(..))
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let request = |request: &Request| {
            let args = request.calls.iter().flat_map(|call| &call.args);
            args.map(|arg| arg.len() + 32).sum()
        };
        let payload = match self {
            Event::Propose(_, one, _) | Event::Submit(_, one, _) => request(one),
            Event::Message(_, payload) => payload.len().min(wire::FRAME_BYTES_MAX),
            _ => 0,
        };
        payload + size_of::<Event>()
    }
}
