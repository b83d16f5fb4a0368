//! Brings about what the topology asks for: groups, their members, their leaders.
//!
//! Each leader looks after its own group, one change of membership at a time: a node learns first and
//! votes once it has caught up. Nobody else does, so there is nobody to agree with.

use super::driver::Driver;
use super::handle::Done;
use super::requests::FOUNDER;
use super::state::State;
use super::{Data, Host};
use crate::node::NodeId;
use crate::raft::GroupId;
use crate::topology::{Change, GroupInfo, META_GROUP, RELEASE_SETTING, Role};
use raft::eraftpb::ConfChangeType;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Members of the meta group that vote; all other nodes learn.
const META_VOTERS: usize = 7;
/// Microseconds between two tries to hand over a group's leadership, or to raise the release.
const TRANSFER_US: u64 = 3_000_000;
/// Microseconds after which a group that has not taken a newer table over is told again.
const TABLES_US: u64 = 1_000_000;
/// Microseconds after which a change of membership without an answer is tried again.
const CHANGE_US: u64 = 10_000_000;

#[derive(Default)]
pub(super) struct Steward {
    /// The change that founds the cluster, once the meta group has a leader.
    pub founding: Option<(Change, Done)>,
    /// Changes of membership under way: since when, and whether they are over.
    changing: BTreeMap<GroupId, (u64, Arc<AtomicBool>)>,
    transferred_us: BTreeMap<GroupId, u64>,
    /// When the cluster was last to be raised to a release.
    raised_us: Option<u64>,
    /// When groups were last told of a newer table of sites.
    sites_us: BTreeMap<GroupId, u64>,
    /// When groups were last told of newer classes of keys.
    policies_us: BTreeMap<GroupId, u64>,
}

/// Who shall be in a group.
struct Wanted {
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    preferred: NodeId,
}

impl Steward {
    pub fn look<H: Host>(&mut self, driver: &mut Driver<H>) {
        let Some(node) = &driver.node else { return };
        let led: Vec<GroupId> =
            node.groups().filter(|group| group.is_leader()).map(|group| group.id()).collect();
        if led.contains(&META_GROUP)
            && let Some((change, done)) = self.founding.take()
        {
            let request = super::requests::bare(vec![crate::topology::request(&change)]);
            return driver.propose(META_GROUP, &request, done);
        }
        if !driver.topology.is_created() {
            return;
        }
        if led.contains(&META_GROUP) {
            self.raise_release(driver);
        }
        self.found_groups(driver);
        for group in led {
            self.bring_tables(driver, group);
            if let Some(wanted) = wanted(driver, group) {
                self.tend(driver, group, &wanted);
            }
        }
    }

    /// Lets a group agree on the table of sites and on the classes of keys, if it has older ones than the
    /// topology. The classes come behind: without a number among the sites, a write to a `global` key would be one
    /// that no other site hears of.
    fn bring_tables<H: Host>(&mut self, driver: &mut Driver<H>, id: GroupId) {
        let group = driver.node.as_ref().and_then(|node| node.group(id));
        let Some(State::Data(data)) = group.map(|group| group.machine()) else { return };
        let (topology, now_us) = (&driver.topology, driver.now_us);
        let (request, told_us) = if data.sites_version() < topology.sites.version {
            (super::sites_request(&topology.sites), &mut self.sites_us)
        } else if data.policies().version() < topology.policies.version() {
            (super::policies_request(&topology.policies), &mut self.policies_us)
        } else {
            return;
        };
        let last_us = told_us.get(&id).copied();
        if last_us.is_none_or(|last_us| now_us >= last_us + TABLES_US) {
            told_us.insert(id, now_us);
            driver.propose(id, &request, Box::new(|_| {}));
        }
    }

    /// Raises the cluster to the release that all of its nodes have by now.
    fn raise_release<H: Host>(&mut self, driver: &mut Driver<H>) {
        let (all, now_us) = (driver.topology.common_release(), driver.now_us);
        let due = self.raised_us.is_none_or(|last_us| now_us >= last_us + TRANSFER_US);
        if all > driver.topology.release() && due {
            self.raised_us = Some(now_us);
            driver.change_quietly(&Change::Set(RELEASE_SETTING.to_owned(), all.to_string()));
        }
    }

    /// Starts the groups that have never been and that this node is to start.
    fn found_groups<H: Host>(&mut self, driver: &mut Driver<H>) {
        let me = driver.handle.me();
        let topology = driver.topology.clone();
        let founder = topology.settings.get(FOUNDER).and_then(|text| text.split_once(':'));
        let founder = founder.and_then(|(node, last)| {
            Some((node.parse::<NodeId>().ok()?, last.parse::<GroupId>().ok()?))
        });
        let starts = |group: &GroupInfo| match founder {
            Some((node, last)) if group.id <= last && topology.nodes.contains_key(&node) => node,
            _ => group.preferred,
        };
        for group in topology.groups.values().filter(|group| !group.born && starts(group) == me) {
            let here = driver.node.as_ref().and_then(|node| node.group(group.id));
            match here {
                None => driver.found_group(group.id),
                Some(here) if here.is_leader() => driver.change_quietly(&Change::Born(group.id)),
                Some(_) => {}
            }
        }
    }

    fn tend<H: Host>(&mut self, driver: &mut Driver<H>, id: GroupId, wanted: &Wanted) {
        let Some(group) = driver.node.as_ref().and_then(|node| node.group(id)) else { return };
        let conf = group.members();
        let joint = !conf.get_voters_outgoing().is_empty();
        let (voters, learners) = (conf.get_voters().to_vec(), conf.get_learners().to_vec());
        let linked = |node: &NodeId| *node == driver.handle.me() || driver.links.is_linked(*node);
        let mut changes: Vec<(ConfChangeType, NodeId)> = Vec::new();
        for node in wanted.voters.iter().chain(&wanted.learners) {
            let votes = wanted.voters.contains(node);
            if !voters.contains(node) && !learners.contains(node) && linked(node) {
                changes.push((ConfChangeType::AddLearnerNode, *node));
            } else if votes && learners.contains(node) && group.is_caught_up(*node) {
                changes.push((ConfChangeType::AddNode, *node));
            }
        }
        // Nobody leaves before all who come are there.
        let complete = wanted.voters.iter().all(|node| voters.contains(node));
        if complete {
            let strays = voters.iter().chain(&learners);
            let strays = strays
                .filter(|node| !wanted.voters.contains(node) && !wanted.learners.contains(node));
            changes.extend(strays.map(|node| (ConfChangeType::RemoveNode, *node)));
            let demoted = voters.iter().filter(|node| wanted.learners.contains(node));
            changes.extend(demoted.map(|node| (ConfChangeType::AddLearnerNode, *node)));
        }
        let settled = complete && changes.is_empty() && !joint;
        let me = driver.handle.me();
        // A leader that is to leave hands over first.
        let leaves =
            changes.iter().any(|(kind, node)| *node == me && *kind != ConfChangeType::AddNode);
        // It is settled once whoever shall lead it does, if that one can.
        let handed_over = (leaves || settled) && self.hand_over(driver, id, wanted, leaves);
        if let Some(status) = driver.handle.group(id) {
            let epoch = driver.topology.groups.get(&id).map_or(0, |group| group.config_epoch);
            let epoch = if settled && !handed_over { epoch } else { 0 };
            status.settled_epoch.store(epoch, Ordering::Release);
        }
        if leaves || settled {
            return;
        }
        let (since_us, over) =
            self.changing.entry(id).or_insert_with(|| (0, Arc::new(true.into())));
        let busy = !over.load(Ordering::Acquire) && driver.now_us < *since_us + CHANGE_US;
        if joint || busy || changes.is_empty() {
            return;
        }
        (*since_us, *over) = (driver.now_us, Arc::new(false.into()));
        let over = over.clone();
        let ticket = driver.ticket(Box::new(move |_| over.store(true, Ordering::Release)));
        let mut out = std::mem::take(driver.out());
        if let Some(node) = &mut driver.node {
            node.propose_change(id, ticket, &changes, &mut out);
        }
        *driver.out() = out;
    }

    /// Gives the leadership to whoever shall have it; whether that is somebody else.
    fn hand_over<H: Host>(
        &mut self,
        driver: &mut Driver<H>,
        id: GroupId,
        wanted: &Wanted,
        leaves: bool,
    ) -> bool {
        let Some(group) = driver.node.as_ref().and_then(|node| node.group(id)) else {
            return false;
        };
        let me = driver.handle.me();
        let topology = &driver.topology;
        let drains = |node: NodeId| topology.nodes.get(&node).is_none_or(|node| node.draining);
        let leads = |node: NodeId| {
            let role = topology.nodes.get(&node).map(|node| node.role);
            node != me
                && role == Some(Role::Data)
                && !drains(node)
                && group.members().get_voters().contains(&node)
                && group.is_caught_up(node)
                && driver.links.is_linked(node)
                && driver.handle.silent_ms(node).is_some_and(|silent| silent < 500)
        };
        let to = match wanted.preferred {
            preferred
                if preferred != me && leads(preferred) && wanted.voters.contains(&preferred) =>
            {
                Some(preferred)
            }
            _ if leaves || drains(me) => wanted.voters.iter().copied().find(|node| leads(*node)),
            _ => None,
        };
        let now_us = driver.now_us;
        let last = self.transferred_us.get(&id);
        if let Some(to) = to
            && !group.is_transferring()
            && last.is_none_or(|last_us| now_us >= last_us + TRANSFER_US)
        {
            self.transferred_us.insert(id, now_us);
            driver.transfer(id, to);
        }
        to.is_some()
    }
}

fn wanted<H: Host>(driver: &Driver<H>, group: GroupId) -> Option<Wanted> {
    if group == META_GROUP {
        let nodes: Vec<NodeId> = driver.topology.nodes.keys().copied().collect();
        let (voters, learners) = nodes.split_at(nodes.len().min(META_VOTERS));
        let (voters, learners) = (voters.to_vec(), learners.to_vec());
        return Some(Wanted { voters, learners, preferred: 0 });
    }
    let group = driver.topology.groups.get(&group)?;
    if !group.born {
        return None;
    }
    let (voters, learners) = (group.members.clone(), group.learners.clone());
    Some(Wanted { voters, learners, preferred: group.preferred })
}
