//! Cluster mode as clients see it: who keeps what, who answers, who is sent elsewhere.
//!
//! The node's runtime is behind the seam [`Member`]: the topology as the meta group has it, who leads
//! which group, who is silent. What is here reads that and speaks Redis's cluster protocol
//! (routing, the CLUSTER commands) and its sentinel protocol. It keeps no state of its own
//! besides what Sentinel clients set.
//!
//! ```text
//! request -> route: keys -> slot -> group -> Local(group) | MOVED | CLUSTERDOWN | CROSSSLOT
//! CLUSTER NODES, SHARDS, SLOTS, INFO <- View <- Member <- runtime <- meta group
//! CLUSTER ASHLAR ..., CLUSTER ADDSLOTS -> Change -> Member::change -> meta group
//! ```

use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{Change, Topology};
use std::sync::Arc;

/// What becomes of a change: the meta group's reply, to be read by
/// [`answer`](ashlar_replication::topology::answer), or why it never got there.
pub type Done = Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>;

/// This node as a member of a cluster: what the runtime knows, and what it can be asked to do. No
/// method waits for another node.
pub trait Member: Send + Sync {
    /// This node's number; 0 while it is in no cluster.
    fn me(&self) -> NodeId;
    /// This node's name, which it has from its first start on.
    fn name(&self) -> [u8; 20];
    /// The port that other nodes reach this one at.
    fn peer_port(&self) -> u16;
    /// The newest topology that is known here.
    fn topology(&self) -> Arc<Topology>;
    /// Who leads a group, as far as known. Group 0 is the meta group.
    fn leader(&self, group: GroupId) -> Option<NodeId>;
    /// The group's term, as far as known.
    fn term(&self, group: GroupId) -> u64;
    /// Index of the last entry of a group that is applied here; 0 where there is no replica.
    fn applied(&self, group: GroupId) -> u64;
    /// Milliseconds since a node was last heard of; `None` if it never was.
    fn silent_ms(&self, node: NodeId) -> Option<u64>;
    /// Whether a majority of a group can be reached, as far as known.
    fn has_quorum(&self, group: GroupId) -> bool;
    /// Whether a group's replicas are those that the topology names, as far as known.
    fn is_settled(&self, group: GroupId) -> bool;
    /// Proposes a change to the meta group, wherever its leader is; `done` may be called by another
    /// thread. On a node without a cluster, [`Change::Create`] founds one.
    fn change(&self, change: Change, done: Done);
    /// Asks for the leadership of a group to go to another of its members.
    fn transfer(&self, group: GroupId, to: NodeId);
    /// Number of keys in a slot that this node has.
    fn count_keys(&self, slot: u16) -> usize;
    /// Keys in a slot that this node has, at most `max`.
    fn keys_in_slot(&self, slot: u16, max: usize) -> Vec<Vec<u8>>;
    /// Sends a message of PUBLISH to the subscribers at all other nodes, or of SPUBLISH to those at
    /// the nodes of one group.
    fn publish(&self, group: Option<GroupId>, channel: &[u8], message: &[u8]);
}
