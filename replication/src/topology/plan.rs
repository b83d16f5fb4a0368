//! Plans: which nodes keep which groups, and the least that has to move to even things out.
//!
//! Pure functions of the topology. What they give is proposed as one [`Change::Batch`], so a plan
//! that was made on an older topology is refused as a whole.

use super::{
    Change, GROUPS_MAX, GroupInfo, MEMBERS_MAX, NodeInfo, Role, SLOTS, SlotRange, Topology, ranges,
};
use crate::node::NodeId;
use crate::raft::GroupId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Groups, and who has which slots.
pub type Placed = (Vec<GroupInfo>, Vec<(SlotRange, GroupId)>);

/// The nodes with what there is to know of them for a plan.
struct Nodes<'a> {
    nodes: BTreeMap<NodeId, &'a NodeInfo>,
    /// Groups that each node keeps.
    load: BTreeMap<NodeId, usize>,
}

impl<'a> Nodes<'a> {
    fn new(nodes: impl IntoIterator<Item = &'a NodeInfo>) -> Nodes<'a> {
        let nodes: BTreeMap<NodeId, &NodeInfo> =
            nodes.into_iter().map(|node| (node.id, node)).collect();
        let load = nodes.keys().map(|id| (*id, 0)).collect();
        Nodes { nodes, load }
    }

    fn count(&mut self, groups: impl IntoIterator<Item = &'a GroupInfo>) {
        for node in groups.into_iter().flat_map(GroupInfo::replicas) {
            *self.load.entry(node).or_default() += 1;
        }
    }

    /// The nodes that can take more of the data.
    fn takers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.values().filter(|node| is_taker(node)).map(|node| node.id)
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or(0)
    }

    fn site(&self, node: NodeId) -> &str {
        self.nodes.get(&node).map_or("", |node| &node.site)
    }

    /// Of these nodes the one to join `members`: in a site that has few of them, with little to do.
    fn choose(&self, members: &[NodeId], among: impl Iterator<Item = NodeId>) -> Option<NodeId> {
        let neighbours = |node: NodeId| {
            members.iter().filter(|member| self.site(**member) == self.site(node)).count()
        };
        among
            .filter(|node| !members.contains(node))
            .min_by_key(|node| (neighbours(*node), self.load(*node), *node))
    }

    fn sites(&self, members: impl Iterator<Item = NodeId>) -> usize {
        members.map(|node| self.site(node)).collect::<BTreeSet<_>>().len()
    }
}

fn is_taker(node: &NodeInfo) -> bool {
    node.role == Role::Data && !node.draining
}

/// Places `groups` groups with `replicas` copies besides the leader's on nodes of a new cluster, and
/// shares the slots among them. An even number of copies is joined by a witness where there is one.
///
/// # Errors
/// If there are too few nodes, or the numbers are out of range; a text for people.
pub fn place(nodes: &[NodeInfo], groups: usize, replicas: usize) -> Result<Placed, String> {
    let mut known = Nodes::new(nodes);
    let takers: Vec<NodeId> = known.takers().collect();
    let witnesses: Vec<NodeId> =
        nodes.iter().filter(|node| node.role == Role::Witness).map(|node| node.id).collect();
    let copies = replicas.saturating_add(1);
    if copies > takers.len() || copies >= MEMBERS_MAX {
        let count = takers.len();
        return Err(format!("{replicas} replicas need {copies} nodes that keep data, not {count}"));
    }
    if groups == 0 || groups > GROUPS_MAX.min(SLOTS) {
        return Err(format!("the number of groups is from 1 to {}", GROUPS_MAX.min(SLOTS)));
    }
    let mut placed = Vec::with_capacity(groups);
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for id in 1..=groups as GroupId {
        let mut members = Vec::with_capacity(copies + 1);
        while members.len() < copies {
            let next = known.choose(&members, takers.iter().copied());
            members.push(next.ok_or("too few nodes")?);
        }
        let leads = |node: &&NodeId| (led.get(*node).copied().unwrap_or(0), **node);
        let preferred = members.iter().min_by_key(leads).copied().unwrap_or(0);
        *led.entry(preferred).or_default() += 1;
        if copies.is_multiple_of(2)
            && let Some(witness) = known.choose(&members, witnesses.iter().copied())
        {
            members.push(witness);
        }
        for node in &members {
            *known.load.entry(*node).or_default() += 1;
        }
        members.sort_unstable();
        placed.push(GroupInfo { id, members, preferred, ..GroupInfo::default() });
    }
    for (group, leader) in spread_leaders(&known.nodes, placed.iter()) {
        placed[group as usize - 1].preferred = leader;
    }
    Ok((placed, share_slots(groups)))
}

/// The slots in as many runs of nearly the same length, one for each group.
fn share_slots(groups: usize) -> Vec<(SlotRange, GroupId)> {
    let start = |nth: usize| (nth * SLOTS / groups) as u16;
    let end = |nth: usize| ((nth + 1) * SLOTS / groups - 1) as u16;
    (0..groups).map(|nth| ((start(nth), end(nth)), nth as GroupId + 1)).collect()
}

/// The leaders to be changed so that every node leads as many groups as the others, as far as its
/// groups allow: as long as there is a chain of groups along which the leadership can be handed from a
/// node that leads two more than another to that one, it is.
fn spread_leaders<'a>(
    nodes: &BTreeMap<NodeId, &NodeInfo>,
    groups: impl IntoIterator<Item = &'a GroupInfo>,
) -> BTreeMap<GroupId, NodeId> {
    let groups: Vec<&GroupInfo> = groups.into_iter().collect();
    let can_lead = |node: &NodeId| nodes.get(node).is_some_and(|node| is_taker(node));
    let mut leaders: Vec<NodeId> = groups.iter().map(|group| group.preferred).collect();
    // A node that drains leads nothing.
    for (leader, group) in leaders.iter_mut().zip(&groups) {
        if !can_lead(leader) {
            *leader = group.members.iter().copied().find(can_lead).unwrap_or(*leader);
        }
    }
    let mut led: BTreeMap<NodeId, usize> =
        nodes.keys().filter(|node| can_lead(node)).map(|node| (*node, 0)).collect();
    for leader in &leaders {
        if let Some(count) = led.get_mut(leader) {
            *count += 1;
        }
    }
    while let Some(chain) = chain(&groups, &leaders, &led) {
        for (group, to) in chain {
            if let Some(count) = led.get_mut(&leaders[group]) {
                *count -= 1;
            }
            leaders[group] = to;
            *led.entry(to).or_default() += 1;
        }
    }
    let changed = groups.iter().zip(&leaders).filter(|(group, leader)| group.preferred != **leader);
    changed.map(|(group, leader)| (group.id, *leader)).collect()
}

/// Hand-overs (place of the group, new leader) from a node that leads much to one that leads at
/// least two less.
fn chain(
    groups: &[&GroupInfo],
    leaders: &[NodeId],
    led: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(usize, NodeId)>> {
    let mut sources: Vec<(&NodeId, &usize)> = led.iter().collect();
    sources.sort_by_key(|(node, count)| (Reverse(**count), **node));
    for (source, count) in sources {
        // How each node was reached: from which node, by which group.
        let mut from: BTreeMap<NodeId, (NodeId, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([*source]);
        while let Some(node) = queue.pop_front() {
            if led.get(&node).is_some_and(|other| other + 2 <= *count) {
                return Some(unwind(&from, *source, node));
            }
            for (at, group) in groups.iter().enumerate().filter(|(at, _)| leaders[*at] == node) {
                for next in group.members.iter().filter(|next| led.contains_key(next)) {
                    if next != source && !from.contains_key(next) {
                        from.insert(*next, (node, at));
                        queue.push_back(*next);
                    }
                }
            }
        }
    }
    None
}

fn unwind(
    from: &BTreeMap<NodeId, (NodeId, usize)>,
    source: NodeId,
    target: NodeId,
) -> Vec<(usize, NodeId)> {
    let (mut steps, mut at) = (Vec::new(), target);
    while at != source {
        let Some((before, group)) = from.get(&at) else { break };
        steps.push((*group, at));
        at = *before;
    }
    steps.reverse();
    steps
}

/// The least changes after which replicas, slots and leaders are spread evenly. Slots take their
/// time to move; until they have arrived, there is nothing more to plan.
///
/// # Errors
/// If slots are moving.
pub fn rebalance(topology: &Topology) -> Result<Vec<Change>, String> {
    if !topology.moves.is_empty() {
        return Err(format!("{} moves of slots are under way", topology.moves.len()));
    }
    let mut changes = Vec::new();
    let mut groups = topology.groups.clone();
    let moved = spread_replicas(topology, &mut groups);
    for group in moved.iter().filter_map(|id| groups.get(id)) {
        changes.push(Change::SetMembers {
            group: group.id,
            members: group.members.clone(),
            learners: group.learners.clone(),
        });
    }
    changes.extend(spread_slots(topology));
    let nodes = topology.nodes.values().map(|node| (node.id, node)).collect();
    let leaders = spread_leaders(&nodes, groups.values());
    // SetMembers may have chosen a leader already, who is not always the one that was planned.
    for group in groups.values() {
        let planned = leaders.get(&group.id).copied().unwrap_or(group.preferred);
        if moved.contains(&group.id) || leaders.contains_key(&group.id) {
            changes.push(Change::SetPreferred(group.id, planned));
        }
    }
    Ok(changes)
}

/// Moves replicas from nodes with many to nodes with few; the groups that were changed.
fn spread_replicas(
    topology: &Topology,
    groups: &mut BTreeMap<GroupId, GroupInfo>,
) -> BTreeSet<GroupId> {
    let mut nodes = Nodes::new(topology.nodes.values());
    nodes.count(topology.groups.values());
    let mut moved = BTreeSet::new();
    while let Some((group, from, to)) = next_step(&nodes, groups) {
        let Some(info) = groups.get_mut(&group) else { break };
        replace(info, from, to);
        *nodes.load.entry(from).or_default() -= 1;
        *nodes.load.entry(to).or_default() += 1;
        moved.insert(group);
    }
    moved
}

/// A replica that a node with at least two more has, to be moved to one with less, where the group
/// stays spread over as many sites.
fn next_step(
    nodes: &Nodes<'_>,
    groups: &BTreeMap<GroupId, GroupInfo>,
) -> Option<(GroupId, NodeId, NodeId)> {
    let mut takers: Vec<NodeId> = nodes.takers().collect();
    takers.sort_by_key(|node| (nodes.load(*node), *node));
    for from in takers.iter().rev() {
        for to in takers.iter().take_while(|to| nodes.load(**to) + 2 <= nodes.load(*from)) {
            let fits = |group: &&GroupInfo| {
                let after = group.replicas().map(|node| if node == *from { *to } else { node });
                group.has(*from)
                    && !group.has(*to)
                    && nodes.sites(after) >= nodes.sites(group.replicas())
            };
            if let Some(group) = groups.values().find(fits) {
                return Some((group.id, *from, *to));
            }
        }
    }
    None
}

fn replace(group: &mut GroupInfo, from: NodeId, to: NodeId) {
    for list in [&mut group.members, &mut group.learners] {
        list.iter_mut().filter(|node| **node == from).for_each(|node| *node = to);
        list.sort_unstable();
    }
    if group.preferred == from {
        group.preferred = to;
    }
}

/// Moves of slots from groups with more than their share to those with less; the groups that have
/// most keep the ones that cannot be shared.
fn spread_slots(topology: &Topology) -> Vec<Change> {
    let mut owned: Vec<(GroupId, Vec<u16>)> =
        topology.groups.keys().map(|id| (*id, topology.slots_of(*id).collect())).collect();
    if owned.is_empty() {
        return Vec::new();
    }
    owned.sort_by_key(|(id, slots)| (Reverse(slots.len()), *id));
    let (share, rest) = (topology.assigned() / owned.len(), topology.assigned() % owned.len());
    let target = |nth: usize| share + usize::from(nth < rest);
    let mut wanting: VecDeque<(GroupId, usize)> = VecDeque::new();
    for (nth, (id, slots)) in owned.iter().enumerate() {
        if slots.len() < target(nth) {
            wanting.push_back((*id, target(nth) - slots.len()));
        }
    }
    let mut changes = Vec::new();
    for (nth, (from, slots)) in owned.iter().enumerate() {
        let mut given = slots.get(target(nth)..).unwrap_or_default();
        while !given.is_empty() {
            let Some((to, wants)) = wanting.front_mut() else { break };
            let (now, later) = given.split_at((*wants).min(given.len()));
            changes.push(Change::StartMove {
                slots: ranges(now.iter().copied()),
                from: *from,
                to: *to,
            });
            *wants -= now.len();
            given = later;
            if *wants == 0 {
                wanting.pop_front();
            }
        }
    }
    changes
}

/// The member of a group that can lead and leads least.
fn next_leader(
    nodes: &Nodes<'_>,
    group: &GroupInfo,
    led: &BTreeMap<NodeId, usize>,
) -> Option<NodeId> {
    let can_lead = |node: &&NodeId| nodes.nodes.get(*node).is_some_and(|node| is_taker(node));
    let candidates = group.members.iter().filter(can_lead).copied();
    candidates.min_by_key(|node| (led.get(node).copied().unwrap_or(0), *node))
}

/// What takes all replicas off a node: other nodes take them over. Where there is no other node for a
/// group, it keeps fewer copies if `shrink` allows that.
///
/// # Errors
/// If there is no such node, or no node to take over.
pub fn empty_node(topology: &Topology, node: NodeId, shrink: bool) -> Result<Vec<Change>, String> {
    let leaving = topology.nodes.get(&node).ok_or_else(|| format!("there is no node {node}"))?;
    let mut nodes = Nodes::new(topology.nodes.values().filter(|other| other.id != node));
    nodes.count(topology.groups.values());
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    for group in topology.groups.values() {
        *led.entry(group.preferred).or_default() += 1;
    }
    let mut changes = Vec::new();
    if !leaving.draining {
        changes.push(Change::Drain(node, true));
    }
    for group in topology.groups_of(node) {
        let others: Vec<NodeId> = group.replicas().filter(|other| *other != node).collect();
        let same_role = |other: &&&NodeInfo| other.role == leaving.role && !other.draining;
        let candidates = nodes.nodes.values().filter(same_role).map(|other| other.id);
        let mut changed = group.clone();
        match nodes.choose(&others, candidates) {
            Some(next) => {
                replace(&mut changed, node, next);
                *nodes.load.entry(next).or_default() += 1;
            }
            None if shrink => {
                changed.members.retain(|member| *member != node);
                changed.learners.retain(|member| *member != node);
            }
            None => {
                return Err(format!(
                    "no other node can take over its replica of group {}; add one first, or say SHRINK \
                     to keep fewer copies",
                    group.id
                ));
            }
        }
        let next = next_leader(&nodes, &changed, &led).filter(|_| group.preferred == node);
        let GroupInfo { members, learners, .. } = changed;
        changes.push(Change::SetMembers { group: group.id, members, learners });
        if let Some(next) = next {
            *led.entry(next).or_default() += 1;
            changes.push(Change::SetPreferred(group.id, next));
        }
    }
    Ok(changes)
}
