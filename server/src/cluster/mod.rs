//! Cluster mode as clients see it: who keeps what, who answers, who is sent elsewhere.
//!
//! The node's runtime is behind the seam [`Member`]: the topology as the meta group has it, who leads
//! which group, who is silent. What is here reads that and speaks Redis's cluster protocol
//! ([`route`], [`view`], the CLUSTER commands) and its sentinel protocol. It keeps no state of its own
//! besides what Sentinel clients set.
//!
//! ```text
//! request -> route: keys -> slot -> group -> Local(group) | MOVED | CLUSTERDOWN | CROSSSLOT
//! CLUSTER NODES, SHARDS, SLOTS, INFO <- View <- Member <- runtime <- meta group
//! CLUSTER ASHLAR ..., CLUSTER ADDSLOTS -> Change -> Member::change -> meta group
//! ```

pub mod admin;
pub mod cli;
pub mod facts;
pub mod fake;
pub mod functions;
pub mod nearest;
pub mod own;
pub mod propose;
pub mod route;
pub mod sentinel;
pub mod show;
pub mod sites;
#[cfg(test)]
mod tests;
pub mod view;
pub mod watch;

use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::runtime::SiteWrites;
use ashlar_replication::topology::{Change, Topology};
use std::sync::Arc;

pub use propose::propose;
pub use route::Route;

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
    /// How far the writes of a group reach that this node leads.
    fn site_writes(&self, group: GroupId) -> SiteWrites;
    /// Whether a group's replicas are those that the topology names, as far as known.
    fn is_settled(&self, group: GroupId) -> bool;
    /// Reads of `async` keys that this node answered without leading them, and those that it sent on.
    fn nearest_reads(&self) -> (u64, u64) {
        (0, 0)
    }
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

/// Milliseconds of a leader's silence until others stand for election, from which the elections of a
/// group take a random time up to twice as much. After a second round, which two candidates at once
/// make necessary now and then, `down-after-milliseconds` is not over yet.
pub fn election_timeout_ms(settings: &crate::config::Settings) -> u64 {
    (settings.count(crate::config::ids::DOWN_AFTER_MILLISECONDS) / 5).max(1)
}

/// Who leads a group and was heard of lately: a leader that is silent for the election time-out is being
/// replaced, and to send clients there would only cost them time.
pub fn live_leader(
    member: &dyn Member,
    settings: &crate::config::Settings,
    group: GroupId,
) -> Option<NodeId> {
    let limit_ms = election_timeout_ms(settings);
    member.leader(group).filter(|leader| is_live(member, *leader, limit_ms))
}

/// Whether a node is this one, or was heard of in the last `limit_ms`.
fn is_live(member: &dyn Member, node: NodeId, limit_ms: u64) -> bool {
    node == member.me() || member.silent_ms(node).is_none_or(|silent_ms| silent_ms <= limit_ms)
}

/// The port that other nodes reach this one at: `cluster-port`, or 10000 above the port for clients.
pub fn peer_port(settings: &crate::config::Settings, port: u16) -> u16 {
    use crate::config::ids;
    let own = u16::try_from(settings.number(ids::CLUSTER_PORT)).unwrap_or(0);
    let tls = u16::try_from(settings.number(ids::TLS_PORT)).unwrap_or(0);
    let port = if port == 0 { tls } else { port };
    // Above the last port it starts over, clear of those that only the system may use.
    if own != 0 { own } else { port.checked_add(10_000).unwrap_or_else(|| port - 40_000) }
}
