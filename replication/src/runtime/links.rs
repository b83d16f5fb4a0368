//! The seam to the other nodes: what a node's driver needs of its connections.
//!
//! [`Peers`](super::peers) is the one over sockets; a simulation has its own, and so decides what
//! arrives, when, and what is lost with a connection.

use crate::node::NodeId;
use crate::raft::GroupId;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name or address.
    pub host: String,
    /// Its port for other nodes.
    pub port: u16,
}

/// What came in.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A node greeted: whom it means to reach, and the cluster.
    Hello(NodeId, [u8; 20]),
    /// A frame: from whom, its kind (see [`wire`](super::wire)), its payload.
    Frame(NodeId, u8, Vec<u8>),
    /// A whole snapshot.
    Snapshot(NodeId, GroupId, Box<Message>, Vec<u8>),
    /// A node cannot be reached.
    Unreachable(NodeId),
    /// A snapshot was sent, or not: (to, group, whether it was).
    SnapshotSent(NodeId, GroupId, bool),
}

/// The connections to the other nodes. Frames to one node arrive in their order, or the connection
/// is lost with those that are under way.
pub trait Links: Send {
    /// This node has a number now, and belongs to a cluster.
    fn set_identity(&mut self, me: NodeId, cluster: [u8; 20]);
    /// The nodes to be reached, and no others.
    fn set_peers(&mut self, peers: &BTreeMap<NodeId, PeerAddress>);
    /// When a node was last heard of, microseconds of the node's clock.
    fn heard_us(&self, node: NodeId) -> Option<u64>;
    /// Whether there is a way to a node.
    fn is_linked(&self, node: NodeId) -> bool;
    /// Sends a frame to a node, or drops it, and says so, where the node cannot be reached.
    fn send(&mut self, node: NodeId, kind: u8, parts: &[&[u8]]) -> bool;
    /// Sends a snapshot with the message that announces it; a newer one of the same group may take
    /// the place of one that has not been begun.
    fn send_snapshot(&mut self, group: GroupId, message: Message, data: Vec<u8>) -> bool;
    /// Waits until something has come in, somebody wakes the node, or the time is over. A simulation
    /// never calls it.
    ///
    /// # Errors
    /// Those of the system.
    fn wait(&mut self, wait: Duration) -> io::Result<()>;
    /// Appends what has come in.
    fn receive(&mut self, now_us: u64, incoming: &mut Vec<Incoming>);
    /// Connects to those that are not connected, and sends what waits.
    fn work(&mut self, now_us: u64, incoming: &mut Vec<Incoming>);
}
