//! One look at the cluster: the topology with who leads at this moment, in the terms of Redis's
//! protocol.
//!
//! Redis knows primaries, each with slots and replicas. Here a node may lead some groups and follow in
//! others. It is shown as the primary of all slots of the groups that it leads; one that leads none is
//! a replica of the leader of its first group. A group whose leader is not known is shown with the one
//! it is meant to have, or with a member that is up, so that no slot is without an owner.

use super::Member;
use crate::clock;
use crate::config::{Settings, ids};
use crate::shared::Shared;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{GroupInfo, META_GROUP, NodeInfo, Role, SlotRange, Topology};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `cluster-preferred-endpoint-type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Nodes are named by their address.
    Ip,
    /// By their host name.
    Hostname,
    /// Not at all: clients know by which address they reached this node.
    Unknown,
}

impl Endpoint {
    /// As the settings have it.
    pub fn of(settings: &Settings) -> Endpoint {
        match settings.number(ids::CLUSTER_PREFERRED_ENDPOINT_TYPE) {
            0 => Endpoint::Ip,
            1 => Endpoint::Hostname,
            _ => Endpoint::Unknown,
        }
    }

    /// What a node is named by; `None` for nothing.
    pub fn name(self, node: &NodeInfo) -> Option<&str> {
        match self {
            Endpoint::Ip => Some(&node.host),
            Endpoint::Hostname if node.hostname.is_empty() => Some("?"),
            Endpoint::Hostname => Some(&node.hostname),
            Endpoint::Unknown => None,
        }
    }
}

/// How a node does, by what this node hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is heard of.
    Online,
    /// It is silent, and this node may be the one that is cut off.
    Suspected,
    /// It is silent, and a majority is reached without it.
    Failed,
}

/// The cluster at one moment.
pub struct View<'a> {
    /// Where it comes from.
    pub member: &'a dyn Member,
    /// The topology.
    pub topology: Arc<Topology>,
    /// This node.
    pub me: NodeId,
    /// The time, Unix milliseconds.
    pub now_ms: i64,
    /// How nodes are named.
    pub endpoint: Endpoint,
    /// Silence above which a node is failing, milliseconds.
    timeout_ms: u64,
    /// The leader of each group, and whether it is the one that leads, not the one that shall.
    leaders: BTreeMap<GroupId, (NodeId, bool)>,
    /// The groups that each node leads.
    led: BTreeMap<NodeId, Vec<GroupId>>,
}

impl<'a> View<'a> {
    /// The cluster as it is now.
    pub fn new(shared: &Shared, member: &'a dyn Member) -> View<'a> {
        let settings = &shared.settings;
        let timeout_ms = settings.count(ids::CLUSTER_NODE_TIMEOUT);
        let limit_ms = super::election_timeout_ms(settings);
        View::of(member, clock::now_ms(), (timeout_ms, limit_ms), Endpoint::of(settings))
    }

    /// The same without a server: with the silence above which a node is failing, and above which a
    /// leader counts as none, milliseconds.
    pub fn of(
        member: &'a dyn Member,
        now_ms: i64,
        (timeout_ms, limit_ms): (u64, u64),
        endpoint: Endpoint,
    ) -> View<'a> {
        let topology = member.topology();
        let live = |node: &NodeId| super::is_live(member, *node, limit_ms);
        let keeps_data =
            |node: &NodeId| topology.nodes.get(node).is_some_and(|node| node.role == Role::Data);
        let (mut leaders, mut led) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        for group in topology.groups.values() {
            // Who was removed from the cluster leads nothing in it.
            let leader = member.leader(group.id).filter(|node| keeps_data(node) && live(node));
            // Clients that ask a member that is up are told to wait.
            let shown = leader.or_else(|| {
                let members = std::iter::once(group.preferred).chain(group.members.iter().copied());
                members.filter(keeps_data).find(live)
            });
            let shown = shown.unwrap_or(group.preferred);
            leaders.insert(group.id, (shown, leader.is_some()));
            led.entry(shown).or_default().push(group.id);
        }
        let me = member.me();
        View { member, topology, me, now_ms, endpoint, timeout_ms, leaders, led }
    }

    /// The node that is shown as the primary of a group.
    pub fn leader(&self, group: GroupId) -> NodeId {
        self.leaders.get(&group).map_or(0, |(node, _)| *node)
    }

    /// The node that leads a group, if one is known to.
    pub fn known_leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).filter(|(_, known)| *known).map(|(node, _)| *node)
    }

    /// The groups that a node leads.
    pub fn led_by(&self, node: NodeId) -> &[GroupId] {
        self.led.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The node that another one is a replica of: `None` for one that leads a group, and for one that
    /// has no replica of any.
    pub fn primary_of(&self, node: NodeId) -> Option<NodeId> {
        if !self.led_by(node).is_empty() || self.is_witness(node) {
            return None;
        }
        self.topology.groups_of(node).next().map(|group| self.leader(group.id))
    }

    /// Whether a node keeps no data.
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.topology.nodes.get(&node).is_some_and(|node| node.role == Role::Witness)
    }

    /// The nodes that are shown as replicas of a primary.
    pub fn replicas_of(&self, primary: NodeId) -> impl Iterator<Item = &NodeInfo> {
        self.topology.nodes.values().filter(move |node| self.primary_of(node.id) == Some(primary))
    }

    /// The nodes that keep the data of a group, besides its leader.
    pub fn followers<'s>(&'s self, group: &'s GroupInfo) -> impl Iterator<Item = &'s NodeInfo> {
        let leader = self.leader(group.id);
        let others = group.replicas().filter(move |node| *node != leader);
        others
            .filter_map(|node| self.topology.nodes.get(&node))
            .filter(|node| node.role == Role::Data)
    }

    /// The slots of the groups that a node leads, in ascending order.
    pub fn slots_of(&self, node: NodeId) -> Vec<SlotRange> {
        let mut all: Vec<SlotRange> = Vec::new();
        for ((first, last), group) in self.topology.all_ranges() {
            if self.leader(group) != node {
                continue;
            }
            match all.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
                _ => all.push((first, last)),
            }
        }
        all
    }

    /// The epoch of a node: of the groups that it leads, or of its primary. It rises with every change
    /// of a group's slots and with every election, so whoever has seen more wins.
    pub fn epoch_of(&self, node: NodeId) -> u64 {
        let primary = self.primary_of(node).unwrap_or(node);
        self.led_by(primary).iter().map(|group| self.epoch(*group)).max().unwrap_or(0)
    }

    fn epoch(&self, group: GroupId) -> u64 {
        let config = self.topology.groups.get(&group).map_or(0, |group| group.config_epoch);
        config + self.member.term(group)
    }

    /// The largest epoch.
    pub fn current_epoch(&self) -> u64 {
        self.topology.groups.keys().map(|group| self.epoch(*group)).max().unwrap_or(0)
    }

    /// How a node does.
    pub fn health(&self, node: NodeId) -> Health {
        let silent_ms = if node == self.me { Some(0) } else { self.member.silent_ms(node) };
        match silent_ms {
            Some(silent_ms) if silent_ms <= self.timeout_ms => Health::Online,
            Some(_) if self.member.has_quorum(META_GROUP) => Health::Failed,
            _ => Health::Suspected,
        }
    }

    /// When a node was last heard of, Unix milliseconds; 0 for this node and for one that never was.
    pub fn heard_ms(&self, node: NodeId) -> i64 {
        let silent_ms = self.member.silent_ms(node).filter(|_| node != self.me);
        silent_ms.map_or(0, |silent_ms| self.now_ms.saturating_sub_unsigned(silent_ms))
    }

    /// The index up to which a node has the entries of a group, as far as this node knows: its own.
    pub fn offset(&self, group: GroupId) -> u64 {
        self.member.applied(group)
    }

    /// Whether keys of a group are answered for.
    pub fn is_served(&self, group: GroupId) -> bool {
        self.known_leader(group).is_some() && self.member.has_quorum(group)
    }

    /// Slots whose group is served, and slots whose group has no leader, or no majority.
    pub fn served_slots(&self) -> (usize, usize) {
        let (mut served, mut lost) = (0, 0);
        for ((first, last), group) in self.topology.all_ranges() {
            let count = usize::from(last - first) + 1;
            *(if self.is_served(group) { &mut served } else { &mut lost }) += count;
        }
        (served, lost)
    }
}
