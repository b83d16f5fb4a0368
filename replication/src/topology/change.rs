//! Changes of the topology, and what each of them asks for.

use super::{
    CLUSTER_SITE_MAX, GROUPS_MAX, GroupInfo, LibraryChange, MEMBERS_MAX, META_GROUP, MOVES_MAX,
    MoveState, NODES_MAX, NodeInfo, RELEASE_SETTING, Release, Role, SETTINGS_MAX, SLOTS,
    SiteChange, SlotMove, SlotRange, TEXT_BYTES_MAX, Topology,
};
use crate::node::NodeId;
use crate::raft::GroupId;
use ashlar_engine::policy::Rule;

/// A change that the meta group decides on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the cluster. Nodes and groups have their numbers already.
    Create {
        /// A random name.
        cluster_id: [u8; 20],
        /// The nodes.
        nodes: Vec<NodeInfo>,
        /// The groups.
        groups: Vec<GroupInfo>,
        /// Who has which slots.
        slots: Vec<(SlotRange, GroupId)>,
    },
    /// Adds a node; with number 0 it gets the next one. Made: its number.
    AddNode(NodeInfo),
    /// Replaces what is known of a node, found by its number; its name stays.
    UpdateNode(NodeInfo),
    /// Removes a node that is in no group any more.
    RemoveNode(NodeId),
    /// Adds a group without slots; with number 0 it gets the next one. Made: its number.
    AddGroup(GroupInfo),
    /// A group has been started, so nobody may start it again.
    Born(GroupId),
    /// Removes a group that has no slots and takes part in no move.
    RemoveGroup(GroupId),
    /// Says which nodes shall keep a group. A preferred leader who leaves it is replaced by the
    /// first member that may lead.
    SetMembers {
        /// The group.
        group: GroupId,
        /// Who votes.
        members: Vec<NodeId>,
        /// Who only learns.
        learners: Vec<NodeId>,
    },
    /// Gives slots that nobody has to a group; with group 0, takes slots from whoever has them.
    Assign {
        /// The slots.
        slots: Vec<SlotRange>,
        /// The group.
        group: GroupId,
    },
    /// Starts to move slots. Made: the number of the move.
    StartMove {
        /// The slots, all of them `from`'s and in no other move.
        slots: Vec<SlotRange>,
        /// Who has them.
        from: GroupId,
        /// Who is to have them.
        to: GroupId,
    },
    /// Says how far a move is.
    SetMoveState(u64, MoveState),
    /// Ends a move: the slots belong to the new group.
    FinishMove(u64),
    /// Ends a move: the slots stay where they are.
    AbortMove(u64),
    /// Says which member shall lead a group.
    SetPreferred(GroupId, NodeId),
    /// Says whether a node is to lead nothing.
    Drain(NodeId, bool),
    /// Sets a setting of the cluster; an empty value removes it.
    Set(String, String),
    /// Gives a group a new epoch (CLUSTER BUMPEPOCH). Made: the epoch.
    BumpEpoch(GroupId),
    /// Sets a rule of the classes of keys. Made: see [`policies_made`](super::policies_made).
    SetPolicy(Rule),
    /// Removes rules, by their patterns. Made: the same.
    RemovePolicies(Vec<Vec<u8>>),
    /// Changes the libraries of functions.
    Libraries(LibraryChange),
    /// Changes what the cluster is among the sites. Made: the version of the table.
    Sites(SiteChange),
    /// Several changes, all of them or none, if the topology still has the version that they were
    /// planned on.
    Batch {
        /// That version; 0 where it does not matter.
        version: u64,
        /// The changes, none of them a batch.
        changes: Vec<Change>,
    },
}

/// Changes in a batch at most.
pub const BATCH_MAX: usize = 8 * GROUPS_MAX;

pub(super) type Done = Result<(), String>;

pub(super) fn ensure(holds: bool, text: impl FnOnce() -> String) -> Done {
    if holds { Ok(()) } else { Err(text()) }
}

impl Topology {
    pub(super) fn perform(&mut self, change: &Change) -> Result<u64, String> {
        match change {
            Change::Batch { version, changes } => return self.batch(*version, changes),
            Change::Create { cluster_id, nodes, groups, slots } => {
                let created = create(*cluster_id, nodes, groups, slots)?;
                ensure(!self.is_created(), || "the cluster exists already".into())?;
                *self = Topology { version: self.version, ..created };
            }
            Change::AddNode(node) => return self.add_node(node),
            Change::UpdateNode(node) => self.update_node(node)?,
            Change::RemoveNode(node) => self.remove_node(*node)?,
            Change::AddGroup(group) => return self.add_group(group),
            Change::Born(group) => {
                self.a_group(*group)?;
                if let Some(group) = self.groups.get_mut(group) {
                    group.born = true;
                }
            }
            Change::RemoveGroup(group) => self.remove_group(*group)?,
            Change::SetMembers { group, members, learners } => {
                self.set_members(*group, members, learners)?;
            }
            Change::Assign { slots, group } => self.assign(slots, *group)?,
            Change::StartMove { slots, from, to } => return self.start_move(slots, *from, *to),
            Change::SetMoveState(id, state) => self.a_move(*id)?.state = *state,
            Change::FinishMove(id) => {
                let (slots, from, to) =
                    self.a_move(*id).map(|one| (one.slots.clone(), one.from, one.to))?;
                self.give(&slots, to);
                self.moves.remove(id);
                self.touch(from);
                self.touch(to);
            }
            Change::AbortMove(id) => {
                self.a_move(*id)?;
                self.moves.remove(id);
            }
            Change::SetPreferred(group, node) => self.set_preferred(*group, *node)?,
            Change::Drain(node, draining) => self.a_node(*node)?.draining = *draining,
            Change::Set(name, value) => self.set(name, value)?,
            Change::Libraries(change) => self.change_libraries(change)?,
            Change::BumpEpoch(group) => {
                self.a_group(*group)?;
                return Ok(self.touch(*group));
            }
            Change::Sites(change) => return self.change_sites(change),
            Change::SetPolicy(rule) => return self.set_policy(rule),
            Change::RemovePolicies(patterns) => return self.remove_policies(patterns),
        }
        Ok(0)
    }

    fn batch(&mut self, version: u64, changes: &[Change]) -> Result<u64, String> {
        let fits = version == 0 || version == self.version;
        ensure(fits, || "the topology has changed meanwhile; try again".into())?;
        ensure(changes.len() <= BATCH_MAX, || "too many changes at once".into())?;
        let mut next = self.clone();
        let mut made = 0;
        for change in changes {
            ensure(!matches!(change, Change::Batch { .. }), || "a batch holds no batch".into())?;
            made = next.perform(change)?;
        }
        *self = next;
        Ok(made)
    }

    fn a_node(&mut self, id: NodeId) -> Result<&mut NodeInfo, String> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}"))
    }

    fn a_group(&mut self, id: GroupId) -> Result<&mut GroupInfo, String> {
        self.groups.get_mut(&id).ok_or_else(|| format!("there is no group {id}"))
    }

    fn a_move(&mut self, id: u64) -> Result<&mut SlotMove, String> {
        self.moves.get_mut(&id).ok_or_else(|| format!("there is no move {id}"))
    }

    /// Gives a group a new epoch.
    fn touch(&mut self, group: GroupId) -> u64 {
        if let Some(group) = self.groups.get_mut(&group) {
            self.current_epoch += 1;
            group.config_epoch = self.current_epoch;
        }
        self.current_epoch
    }

    fn give(&mut self, slots: &[SlotRange], group: GroupId) {
        for (first, last) in slots {
            self.slots[usize::from(*first)..=usize::from(*last)].fill(group);
        }
        self.count_assigned();
    }

    fn add_node(&mut self, node: &NodeInfo) -> Result<u64, String> {
        let id = if node.id == 0 { self.next_node } else { node.id };
        let node = NodeInfo { id, ..node.clone() };
        check_node(&node)?;
        self.check_release(&node)?;
        ensure(self.nodes.len() < NODES_MAX, || format!("there are {NODES_MAX} nodes already"))?;
        // Votes of a node that was removed must not be taken for those of another.
        ensure(id >= self.next_node && id < u64::MAX, || {
            format!("number {id} was a node's before")
        })?;
        self.check_distinct(&node)?;
        self.check_local(&node)?;
        self.nodes.insert(id, node);
        self.next_node = id + 1;
        Ok(id)
    }

    /// No other node may have its name or its address.
    fn check_distinct(&self, node: &NodeInfo) -> Done {
        for other in self.nodes.values().filter(|other| other.id != node.id) {
            let id = other.id;
            ensure(other.name != node.name, || format!("node {id} has this name"))?;
            let same_peer = other.host == node.host && other.peer_port == node.peer_port;
            ensure(!same_peer, || format!("node {id} has this address"))?;
        }
        Ok(())
    }

    /// What a node does not understand may be in the logs already.
    fn check_release(&self, node: &NodeInfo) -> Done {
        let (own, all) = (Release::parse(&node.version).unwrap_or(Release::FIRST), self.release());
        ensure(own >= all, || format!("the cluster is of release {all}, the node of {own}"))
    }

    fn update_node(&mut self, node: &NodeInfo) -> Done {
        check_node(node)?;
        self.check_release(node)?;
        self.check_distinct(node)?;
        self.check_local(node)?;
        let known = self.a_node(node.id)?;
        ensure(known.name == node.name, || "a node keeps its name".into())?;
        ensure(known.role == node.role, || "a node keeps its role".into())?;
        *known = node.clone();
        Ok(())
    }

    fn remove_node(&mut self, id: NodeId) -> Done {
        self.a_node(id)?;
        let groups: Vec<String> = self.groups_of(id).map(|group| group.id.to_string()).collect();
        ensure(groups.is_empty(), || {
            format!("node {id} still has replicas of these groups: {}", groups.join(", "))
        })?;
        ensure(self.nodes.len() > 1, || "it is the last node".into())?;
        self.nodes.remove(&id);
        Ok(())
    }

    fn add_group(&mut self, group: &GroupInfo) -> Result<u64, String> {
        let id = if group.id == META_GROUP { self.next_group } else { group.id };
        ensure(self.groups.len() < GROUPS_MAX, || {
            format!("there are {GROUPS_MAX} groups already")
        })?;
        ensure(id >= self.next_group, || format!("number {id} was a group's before"))?;
        let most = if self.sites.id == 0 { GROUPS_MAX } else { usize::from(CLUSTER_SITE_MAX) };
        ensure(id as usize <= most, || format!("groups are numbered up to {most}"))?;
        let mut group = GroupInfo { id, born: false, ..group.clone() };
        tidy(&mut group);
        self.check_group(&group)?;
        self.groups.insert(id, group);
        self.next_group = id + 1;
        self.touch(id);
        Ok(u64::from(id))
    }

    fn remove_group(&mut self, id: GroupId) -> Done {
        self.a_group(id)?;
        ensure(self.slots_of(id).next().is_none(), || format!("group {id} still has slots"))?;
        let moves = self.moves.values().any(|one| one.from == id || one.to == id);
        ensure(!moves, || format!("slots are moving from or to group {id}"))?;
        self.groups.remove(&id);
        Ok(())
    }

    fn set_members(&mut self, id: GroupId, members: &[NodeId], learners: &[NodeId]) -> Done {
        let mut group = self.a_group(id)?.clone();
        (group.members, group.learners) = (members.to_vec(), learners.to_vec());
        if !members.contains(&group.preferred) {
            let leads =
                |node: &&NodeId| self.nodes.get(node).is_some_and(|node| node.role == Role::Data);
            group.preferred = members.iter().find(leads).copied().unwrap_or(0);
        }
        tidy(&mut group);
        self.check_group(&group)?;
        self.groups.insert(id, group);
        self.touch(id);
        Ok(())
    }

    /// Whether the nodes of a group are there and can be what they are to be.
    pub(super) fn check_group(&self, group: &GroupInfo) -> Done {
        let id = group.id;
        ensure(id != META_GROUP, || "group 0 keeps the topology".into())?;
        ensure(!group.members.is_empty(), || format!("group {id} needs a member"))?;
        let count = group.members.len() + group.learners.len();
        ensure(count <= MEMBERS_MAX, || {
            format!("group {id} has more than {MEMBERS_MAX} replicas")
        })?;
        let twice = |list: &[NodeId]| list.windows(2).any(|pair| pair[0] >= pair[1]);
        let both = group.members.iter().any(|node| group.learners.contains(node));
        ensure(!both && !twice(&group.members) && !twice(&group.learners), || {
            format!("group {id} names a node twice")
        })?;
        for node in group.replicas() {
            let role = self.nodes.get(&node).map(|node| node.role);
            let role = role.ok_or_else(|| format!("there is no node {node}"))?;
            let learns = group.learners.contains(&node);
            ensure(role == Role::Data || !learns, || {
                format!("node {node} is a witness and keeps no data")
            })?;
        }
        let leads = self.nodes.get(&group.preferred).is_some_and(|node| node.role == Role::Data);
        ensure(leads && group.members.contains(&group.preferred), || {
            format!("group {id} needs a member that keeps data to lead it")
        })
    }

    fn assign(&mut self, slots: &[SlotRange], group: GroupId) -> Done {
        check_slots(slots)?;
        if group != META_GROUP {
            self.a_group(group)?;
        }
        for slot in slots.iter().flat_map(|(first, last)| *first..=*last) {
            ensure(self.move_of(slot).is_none(), || format!("slot {slot} is moving"))?;
            let owner = self.group_of(slot);
            if group == META_GROUP {
                ensure(owner.is_some(), || format!("Slot {slot} is already unassigned"))?;
            } else {
                ensure(owner.is_none(), || format!("Slot {slot} is already busy"))?;
            }
        }
        self.give(slots, group);
        self.touch(group);
        Ok(())
    }

    fn start_move(
        &mut self,
        slots: &[SlotRange],
        from: GroupId,
        to: GroupId,
    ) -> Result<u64, String> {
        check_slots(slots)?;
        self.a_group(from)?;
        self.a_group(to)?;
        ensure(from != to, || "the slots are there already".into())?;
        ensure(self.moves.len() < MOVES_MAX, || format!("{MOVES_MAX} moves are under way"))?;
        for slot in slots.iter().flat_map(|(first, last)| *first..=*last) {
            ensure(self.group_of(slot) == Some(from), || {
                format!("slot {slot} is not group {from}'s")
            })?;
            ensure(self.move_of(slot).is_none(), || format!("slot {slot} is moving already"))?;
        }
        let id = self.next_move;
        self.next_move += 1;
        let state = MoveState::Copying;
        self.moves.insert(id, SlotMove { id, slots: slots.to_vec(), from, to, state });
        Ok(id)
    }

    fn set_preferred(&mut self, group: GroupId, node: NodeId) -> Done {
        let mut changed = self.a_group(group)?.clone();
        changed.preferred = node;
        self.check_group(&changed)?;
        self.groups.insert(group, changed);
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Done {
        ensure(!name.is_empty(), || "a setting has a name".into())?;
        check_text(name)?;
        check_text(value)?;
        if name == RELEASE_SETTING {
            let release = Release::parse(value);
            let fits =
                release.is_some_and(|it| it >= self.release() && it <= self.common_release());
            ensure(fits, || format!("the cluster cannot be of release {value}"))?;
        }
        if value.is_empty() {
            self.settings.remove(name);
            return Ok(());
        }
        let is_new = !self.settings.contains_key(name);
        ensure(!is_new || self.settings.len() < SETTINGS_MAX, || "too many settings".into())?;
        self.settings.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Whether it is one that changes can lead to: for what comes from outside.
    pub(super) fn check(&self) -> Done {
        ensure(self.nodes.len() <= NODES_MAX, || "too many nodes".into())?;
        ensure(self.groups.len() <= GROUPS_MAX, || "too many groups".into())?;
        ensure(self.moves.len() <= MOVES_MAX, || "too many moves".into())?;
        ensure(self.settings.len() <= SETTINGS_MAX, || "too many settings".into())?;
        super::libraries::check(&self.libraries.by_name)?;
        self.sites.check()?;
        for node in self.nodes.values() {
            check_node(node)?;
            self.check_distinct(node)?;
            ensure(node.id < self.next_node, || "a node's number is not given yet".into())?;
        }
        for group in self.groups.values() {
            self.check_group(group)?;
            ensure(group.id < self.next_group, || "a group's number is not given yet".into())?;
            ensure(group.id as usize <= GROUPS_MAX, || "a group's number is too large".into())?;
        }
        let known = |group: &GroupId| *group == META_GROUP || self.groups.contains_key(group);
        ensure(self.slots.iter().all(known), || "a slot of no group".into())?;
        for one in self.moves.values() {
            check_slots(&one.slots)?;
            let groups = [one.from, one.to].iter().all(|group| self.groups.contains_key(group));
            ensure(groups && one.id < self.next_move, || "a move of no group".into())?;
        }
        self.policies.rules().iter().try_for_each(|rule| self.check_rule(rule))
    }
}

fn create(
    cluster_id: [u8; 20],
    nodes: &[NodeInfo],
    groups: &[GroupInfo],
    slots: &[(SlotRange, GroupId)],
) -> Result<Topology, String> {
    let mut made = Topology { cluster_id, ..Topology::default() };
    ensure(!nodes.is_empty(), || "a cluster has nodes".into())?;
    for node in nodes {
        ensure(node.id != 0, || "a node has a number".into())?;
        made.add_node(node)?;
    }
    for group in groups {
        ensure(group.id != META_GROUP, || "a group has a number".into())?;
        made.add_group(group)?;
    }
    for (range, group) in slots {
        ensure(*group != META_GROUP, || "slots belong to a group".into())?;
        made.assign(&[*range], *group)?;
    }
    let release = made.common_release();
    if release > Release::FIRST {
        made.settings.insert(RELEASE_SETTING.to_owned(), release.to_string());
    }
    Ok(made)
}

/// Brings a group's nodes into their order.
fn tidy(group: &mut GroupInfo) {
    group.members.sort_unstable();
    group.learners.sort_unstable();
}

pub(super) fn check_text(text: &str) -> Done {
    ensure(text.len() <= TEXT_BYTES_MAX, || {
        format!("a text is longer than {TEXT_BYTES_MAX} bytes")
    })?;
    // They stand in lines with blanks and commas between them.
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    ensure(plain, || "a name has blanks, commas or other characters that cannot be".into())
}

fn check_node(node: &NodeInfo) -> Done {
    for text in [&node.host, &node.hostname, &node.site, &node.version] {
        check_text(text)?;
    }
    ensure(node.id != 0, || "a node has a number".into())?;
    ensure(!node.host.is_empty(), || "a node has an address".into())
}

/// Ranges that are in order and apart from each other.
pub(super) fn check_slots(slots: &[SlotRange]) -> Done {
    let valid = |(first, last): &SlotRange| first <= last && usize::from(*last) < SLOTS;
    ensure(!slots.is_empty() && slots.iter().all(valid), || "Invalid or out of range slot".into())?;
    let apart = slots.windows(2).all(|pair| pair[0].1 < pair[1].0);
    ensure(apart, || "slots are named twice or out of order".into())
}
