//! A node at work: one thread that has its groups, its sockets and its disk.
//!
//! ```text
//! workers --Event--> inbox --+
//! other nodes --frames--> peers --> Node::work --> frames to others, at once
//! clock --ticks-------------+            |-------> batch -> disk (one sync) -> Node::persisted
//!                                        +-------> answers to those who asked
//! ```
//! Whatever happens in one turn of the loop shares one sync of the log. What this crate does elsewhere is
//! without I/O and without a clock; here is where both come in: `thread` and `peers` have the clock and the
//! sockets, `disk` the files, and the [`Driver`] between them is pure, given what these say.

mod channel;
mod disk;
mod driver;
mod handle;
mod identity;
mod links;
mod moves;
mod peers;
mod requests;
mod retire;
mod sites;
mod state;
mod steward;
mod thread;
pub mod wire;

pub use channel::Security;
pub use disk::{FileSizes, NodeDisk};
pub use driver::Driver;
pub use handle::{Done, Event, GroupStatus, Handle};
pub use links::{Incoming, Links, PeerAddress};
pub use sites::{SITE_LOSS, SITE_WRITES, SiteWrites};
pub use state::State;
pub use thread::start;

use crate::node::NodeId;
use crate::raft::{GroupId, Machine, OwnedCall, Request, Settings};
use crate::topology::{SiteTable, SlotRange, Topology};
use ashlar_engine::disk::Disk;
use ashlar_engine::policy::Table;
use std::path::PathBuf;
use std::sync::Arc;

/// Groups with data at most; each has a shard of the engine.
pub const DATA_GROUPS_MAX: usize = 256;

/// The replicated state of a group with data, as far as moves of slots go.
pub trait Data: Machine {
    /// Slots that take no writes, as they have moved away or are about to.
    fn frozen(&self) -> Vec<SlotRange>;
    /// The version of the topology by which slots were frozen last: an older one knows nothing of the move.
    fn frozen_by(&self) -> u64;
    /// Rises with whatever may bring keys to slots that take no writes: pieces of a move that was given up
    /// since may still come in.
    fn pieces(&self) -> u64;
    /// The moves by which slots came or are coming here, those aside that were given up, and whether all of the
    /// slots' keys came.
    fn arrivals(&self) -> Vec<(u64, Vec<SlotRange>, bool)>;
    /// Begins to note which keys of these slots change, and forgets what was noted before; without slots
    /// nothing is noted any more.
    fn note_changes(&self, slots: &[SlotRange]);
    /// Keys of slots from a position on, about `bytes` of them. A key that is there all the while from
    /// position 0 to 0, and does not change, comes at least once.
    fn copy(&self, slots: &[SlotRange], position: u64, bytes: usize) -> Piece;
    /// Keys that have changed, about `bytes` of them, or `None` if not all were noted: whoever copies starts
    /// over then. `slots` are those whose changes are noted.
    fn changes(&self, slots: &[SlotRange], bytes: usize) -> Option<Piece>;
    /// Whether there is any key in the slots.
    fn has_keys(&self, slots: &[SlotRange]) -> bool;
    /// The classes of keys that the group has agreed on.
    fn policies(&self) -> Arc<Table>;
    /// The version of the table of sites that the group has taken over; 0: none.
    fn sites_version(&self) -> u64;
    /// The slots that it has to the other sites, if the cluster is one.
    fn site_slots(&self) -> Option<Vec<SlotRange>>;
}

/// Keys on their way to another group.
pub struct Piece {
    /// As [`calls::INSTALL`] takes them.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub keys: usize,
    /// Of a copy, the next position, 0 at the end; of changes, how many are left.
    pub next: u64,
}

/// The request by which a group takes a table of classes over.
pub fn policies_request(table: &Table) -> Request {
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    requests::bare(vec![OwnedCall { db: 0, args: vec![calls::POLICIES.to_vec(), bytes] }])
}

/// The request by which a group takes a table of sites over.
pub fn sites_request(table: &SiteTable) -> Request {
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    requests::bare(vec![OwnedCall { db: 0, args: vec![calls::SITES.to_vec(), bytes] }])
}

/// The host of a node. All of it is called on the node's thread.
pub trait Host: Send + 'static {
    /// The state of a group with data.
    type Data: Data + 'static;
    /// The empty state of a group.
    fn machine(&self, group: GroupId) -> Self::Data;
    /// The state that a group starts with, as its machine gives a snapshot; nothing for an empty one.
    /// Keys that this node had before there was a cluster come into their groups so.
    fn first_state(&self, slots: &[SlotRange]) -> Vec<u8>;
    /// The topology has changed.
    fn topology_changed(&self, topology: &Arc<Topology>);
    /// Another node leads a group, or none that is known.
    fn leader_changed(&self, group: GroupId, leader: Option<NodeId>);
    /// Another node's host sent something.
    fn message(&self, from: NodeId, payload: &[u8]);
    /// The node has failed for good: nothing more is durable.
    fn failed(&self, reason: &str);
}

/// How a node is started.
pub struct Options {
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// The directory that has them; its owner has locked it.
    pub dir: PathBuf,
    /// Its name, if it has none yet.
    pub name: [u8; 20],
    /// Where other nodes reach it; bound.
    pub listener: std::net::TcpListener,
    /// What the nodes of the cluster know and others do not.
    pub secret: Vec<u8>,
    /// How its links to other nodes are protected besides.
    pub security: Box<dyn Security>,
    /// Timing of its groups.
    pub settings: Settings,
    /// Random.
    pub seed: u64,
}

/// How a node is opened that its owner gives turns to.
pub struct DriverOptions {
    /// Its files.
    pub disk: Arc<dyn Disk>,
    /// The directory that has them; its owner has locked it.
    pub dir: PathBuf,
    /// Its name, if it has none yet.
    pub name: [u8; 20],
    /// Timing of its groups.
    pub settings: Settings,
    /// Random.
    pub seed: u64,
    /// Sizes of its files.
    pub sizes: FileSizes,
}

/// Names of the calls by which slots move between groups; no client can make them.
pub mod calls {
    /// `FREEZE version first last ...`: these slots take no more writes, by this version of the topology.
    pub const FREEZE: &[u8] = b"ASHLAR.FREEZE";
    /// `THAW first last ...`: they do again.
    pub const THAW: &[u8] = b"ASHLAR.THAW";
    /// `INSTALL move attempt sequence last piece first last ...`: keys of slots that come from another
    /// group. Piece 0 drops what there is of them; the last one thaws them.
    pub const INSTALL: &[u8] = b"ASHLAR.INSTALL";
    /// `GIVEUP move first last ...`: the move has ended without these slots: their keys go, and no more
    /// pieces of it are taken.
    pub const GIVE_UP: &[u8] = b"ASHLAR.GIVEUP";
    /// `ENDMOVE move first last ...`: as GIVEUP, but what later moves have brought stays: whoever asks for it may
    /// not have heard of these. From [`Release::KEEPS_COMING`](crate::topology::Release::KEEPS_COMING) on.
    pub const END_MOVE: &[u8] = b"ASHLAR.ENDMOVE";
    /// `SESSIONS sessions`: what clients have asked of the group that the slots come from.
    pub use crate::raft::sessions::TAKE_OVER as SESSIONS;
    /// `POLICIES table`: the classes of keys, unless there are newer ones. Every write is before it or behind
    /// it, on all replicas alike.
    pub const POLICIES: &[u8] = b"ASHLAR.POLICIES";
    /// `SITES table`: what the cluster is among the sites, unless there is a newer table. A group has it before
    /// classes of keys that were set later.
    pub const SITES: &[u8] = b"ASHLAR.SITES";
    /// `SITESLOTS first last ...`: which slots the group has, as a site; moves change that from then on.
    pub const SITE_SLOTS: &[u8] = b"ASHLAR.SITESLOTS";
    /// `SITEGROUPS cluster group ...`: the groups of another site that is a cluster, by their numbers as sites.
    pub const SITE_GROUPS: &[u8] = b"ASHLAR.SITEGROUPS";
    /// `SITEMERGE site version batch`: what another site has sent to a group with the slots of this version.
    pub const SITE_MERGE: &[u8] = b"ASHLAR.SITEMERGE";
    /// `SITETIDY key`: what all sites know to be gone is forgotten, from a key on.
    pub const SITE_TIDY: &[u8] = b"ASHLAR.SITETIDY";
    /// `SITELOST key name ...`: elements whose values have expired.
    pub const SITE_LOST: &[u8] = b"ASHLAR.SITELOST";
    /// `DROPSLOTS first last ...`: their keys are another group's now.
    pub const DROP: &[u8] = b"ASHLAR.DROPSLOTS";
    /// `DROPGONE first last ...`: as DROPSLOTS, but of slots that take writes, and of those that are coming, the keys
    /// stay. From [`Release::KEEPS_COMING`](crate::topology::Release::KEEPS_COMING) on.
    pub const DROP_GONE: &[u8] = b"ASHLAR.DROPGONE";
}
