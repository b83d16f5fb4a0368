//! Who is in the cluster, and who keeps what: nodes, groups, slots, moves.
//!
//! The state of the meta group (group 0): a [`Change`] that it has committed is applied to the
//! [`Topology`] of every node, checked as a whole first, so all nodes have the same one. It says how
//! things *shall* be (which nodes keep a group, who leads it best); the node's runtime brings that
//! about, and who leads at the moment is no part of it.
//!
//! ```text
//! key -> slot (CRC16) -> slots[slot] = group -> members: nodes, one of them preferred as leader
//! a move: StartMove -> Copying -> Switching -> FinishMove (slots change hands) | AbortMove
//! ```

mod change;
mod codec;
mod libraries;
mod machine;
pub mod plan;
mod policies;
mod release;
mod sites;
#[cfg(test)]
mod tests;

pub use change::Change;
pub use libraries::{LIBRARIES_BYTES_MAX, Libraries, LibraryChange};
pub use machine::{answer, request};
pub use policies::policies_made;
pub use release::{RELEASE_SETTING, Release};
pub use sites::{CLUSTER_SITE_MAX, SITE_BACKUP, SITE_ID, SITE_NAME, SiteChange, SiteTable};

use crate::node::NodeId;
use crate::raft::GroupId;
use ashlar_engine::policy::Table;
use std::collections::BTreeMap;

/// Number of slots.
pub const SLOTS: usize = ashlar_engine::slot::SLOTS as usize;
/// The group that keeps the topology itself; no slot belongs to it.
pub const META_GROUP: GroupId = 0;
/// Nodes of a cluster at most.
pub const NODES_MAX: usize = 1_000;
/// Groups of a cluster at most, the meta group not counted; a group's number is not above it.
pub const GROUPS_MAX: usize = crate::runtime::DATA_GROUPS_MAX;
/// Members and learners of a group at most.
pub const MEMBERS_MAX: usize = 15;
/// Moves at a time at most.
pub const MOVES_MAX: usize = 1_024;
/// Cluster-wide settings at most.
pub const SETTINGS_MAX: usize = 256;
/// Bytes of a host's name, a site's name, a setting's name or value at most.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Slots from the first to the last, both included.
pub type SlotRange = (u16, u16);

/// What a node is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It keeps data and may lead groups.
    #[default]
    Data,
    /// It only votes.
    Witness,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its number, above 0, never used again for another node.
    pub id: NodeId,
    /// Its name, which clients see as 40 hexadecimal digits.
    pub name: [u8; 20],
    /// Address that clients reach it at.
    pub host: String,
    /// Host name, where there is one besides the address.
    pub hostname: String,
    /// Port for clients; 0 where there is none.
    pub port: u16,
    /// Port for encrypted connections of clients; 0 where there is none.
    pub tls_port: u16,
    /// Port for the other nodes.
    pub peer_port: u16,
    /// The site that it stands in; empty where there is only one.
    pub site: String,
    /// What it is there for.
    pub role: Role,
    /// Whether it is to lead nothing, as it is going to be stopped or removed.
    pub draining: bool,
    /// The version of its software.
    pub version: String,
}

impl NodeInfo {
    /// The name as clients see it.
    pub fn hex(&self) -> String {
        hex(&self.name)
    }
}

/// Forty hexadecimal digits.
pub fn hex(name: &[u8; 20]) -> String {
    use std::fmt::Write;
    name.iter().fold(String::with_capacity(40), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The name that 40 hexadecimal digits stand for.
pub fn parse_hex(text: &[u8]) -> Option<[u8; 20]> {
    if text.len() != 40 {
        return None;
    }
    let mut name = [0; 20];
    for (byte, digits) in name.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(name)
}

/// A group: the nodes that keep the same slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its number, above 0, never used again for another group.
    pub id: GroupId,
    /// The nodes that shall vote in it, in ascending order.
    pub members: Vec<NodeId>,
    /// The nodes that shall keep its data without a vote, in ascending order.
    pub learners: Vec<NodeId>,
    /// The member that shall lead it while it can.
    pub preferred: NodeId,
    /// Rises with every change of its members or slots.
    pub config_epoch: u64,
    /// Whether it has ever been started: before, the preferred leader is to start it, afterwards
    /// nobody may, since it could have lost what the others know.
    pub born: bool,
}

impl GroupInfo {
    /// Whether the node votes in it or learns from it.
    pub fn has(&self, node: NodeId) -> bool {
        self.members.contains(&node) || self.learners.contains(&node)
    }

    /// Members, then learners.
    pub fn replicas(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().chain(&self.learners).copied()
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MoveState {
    /// The keys are being copied; the old group answers.
    #[default]
    Copying,
    /// The old group takes no more writes to the slots, so that the new one can catch up.
    Switching,
}

/// Slots on their way from one group to another. They belong to the old one until the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMove {
    /// Its number, never used again.
    pub id: u64,
    /// The slots.
    pub slots: Vec<SlotRange>,
    /// The group that has them.
    pub from: GroupId,
    /// The group that gets them.
    pub to: GroupId,
    /// How far it is.
    pub state: MoveState,
}

/// The whole of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Topology {
    /// Rises with every change.
    pub version: u64,
    /// Chosen when the cluster is created; zeros before.
    pub cluster_id: [u8; 20],
    /// The nodes.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// The groups, without the meta group.
    pub groups: BTreeMap<GroupId, GroupInfo>,
    /// The moves that are under way.
    pub moves: BTreeMap<u64, SlotMove>,
    /// The classes of keys, as the groups shall have them.
    pub policies: Table,
    /// Settings of the cluster as a whole.
    pub settings: BTreeMap<String, String>,
    /// Libraries of functions.
    pub libraries: Libraries,
    /// What the cluster is among the sites, as the groups shall have it.
    pub sites: SiteTable,
    /// Rises whenever a group's epoch does, to whose new value it is then equal.
    pub current_epoch: u64,
    /// The group of each slot; 0 for nobody's.
    slots: Box<[GroupId; SLOTS]>,
    /// How many of them somebody has: asked for by every request.
    assigned: usize,
    next_node: NodeId,
    next_group: GroupId,
    next_move: u64,
}

impl Default for Topology {
    fn default() -> Topology {
        Topology {
            version: 0,
            cluster_id: [0; 20],
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            moves: BTreeMap::new(),
            policies: Table::default(),
            settings: BTreeMap::new(),
            libraries: Libraries::default(),
            sites: SiteTable::default(),
            current_epoch: 0,
            slots: Box::new([META_GROUP; SLOTS]),
            assigned: 0,
            next_node: 1,
            next_group: 1,
            next_move: 1,
        }
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology")
            .field("version", &self.version)
            .field("nodes", &self.nodes)
            .field("groups", &self.groups)
            .field("slots", &self.all_ranges())
            .field("moves", &self.moves)
            .field("policies", &self.policies)
            .field("settings", &self.settings)
            .field("sites", &self.sites)
            .finish_non_exhaustive()
    }
}

impl Topology {
    /// Whether there is a cluster yet.
    pub fn is_created(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The group of a slot; `None` if nobody has it.
    pub fn group_of(&self, slot: u16) -> Option<GroupId> {
        self.slots.get(usize::from(slot)).copied().filter(|group| *group != META_GROUP)
    }

    /// The slots that somebody has.
    pub fn assigned(&self) -> usize {
        self.assigned
    }

    /// To be called when slots have changed hands.
    fn count_assigned(&mut self) {
        self.assigned = self.slots.iter().filter(|group| **group != META_GROUP).count();
    }

    /// The slots of a group, in ascending order.
    pub fn slots_of(&self, group: GroupId) -> impl Iterator<Item = u16> + '_ {
        let all = self.slots.iter().enumerate();
        all.filter(move |(_, owner)| **owner == group).map(|(slot, _)| slot as u16)
    }

    /// The slots of a group as ranges, in ascending order.
    pub fn ranges_of(&self, group: GroupId) -> Vec<SlotRange> {
        ranges(self.slots_of(group))
    }

    /// All slots that somebody has, as ranges in ascending order.
    pub fn all_ranges(&self) -> Vec<(SlotRange, GroupId)> {
        let mut all: Vec<(SlotRange, GroupId)> = Vec::new();
        for (slot, &group) in self.slots.iter().enumerate() {
            let slot = slot as u16;
            match all.last_mut() {
                Some(((_, last), owner)) if *owner == group && *last + 1 == slot => *last = slot,
                _ if group != META_GROUP => all.push(((slot, slot), group)),
                _ => {}
            }
        }
        all
    }

    /// The move that a slot is part of.
    pub fn move_of(&self, slot: u16) -> Option<&SlotMove> {
        let has = |(first, last): &SlotRange| (*first..=*last).contains(&slot);
        self.moves.values().find(|one| one.slots.iter().any(has))
    }

    /// Whether a move was started and is over, as far as this version knows.
    pub fn is_over(&self, id: u64) -> bool {
        id < self.next_move && !self.moves.contains_key(&id)
    }

    /// Whether there was such a group, as far as this version knows, and is none any more.
    pub fn was_removed(&self, group: GroupId) -> bool {
        group != META_GROUP && group < self.next_group && !self.groups.contains_key(&group)
    }

    /// The groups that a node shall keep the data of, or vote in.
    pub fn groups_of(&self, node: NodeId) -> impl Iterator<Item = &GroupInfo> {
        self.groups.values().filter(move |group| group.has(node))
    }

    /// The node of a name.
    pub fn node_named(&self, name: &[u8; 20]) -> Option<&NodeInfo> {
        self.nodes.values().find(|node| node.name == *name)
    }

    /// The node that clients or nodes reach at an address.
    pub fn node_at(&self, host: &str, port: u16) -> Option<&NodeInfo> {
        self.nodes.values().find(|node| {
            (node.host == host || node.hostname == host)
                && [node.port, node.tls_port].contains(&port)
        })
    }

    /// Applies a change, all of it or nothing. Returns the number of what was made, 0 if nothing was.
    ///
    /// # Errors
    /// Why it cannot be; a text for people, without a prefix.
    pub fn apply(&mut self, change: &Change) -> Result<u64, String> {
        let made = self.perform(change)?;
        self.version += 1;
        Ok(made)
    }
}

/// Ascending slots as ranges.
pub fn ranges(slots: impl IntoIterator<Item = u16>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(slot) => *last = slot,
            _ => ranges.push((slot, slot)),
        }
    }
    ranges
}

/// Number of slots in ranges.
pub fn count(ranges: &[SlotRange]) -> usize {
    ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
}
