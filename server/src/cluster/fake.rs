//! A member of a cluster that exists in this value only: for tests of the protocol.

use super::{Done, Member};
use ashlar_engine::slot::slot_of;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::{GroupId, Machine, Request, RequestId};
use ashlar_replication::runtime::SiteWrites;
use ashlar_replication::topology::{Change, META_GROUP, NodeInfo, Topology, plan, request};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the fake says; tests change it as they like.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The topology.
    pub topology: Topology,
    /// Leaders that are not the preferred ones; `None` for a group that has none.
    pub leaders: BTreeMap<GroupId, Option<NodeId>>,
    /// Nodes that are silent, and for how many milliseconds.
    pub silent_ms: BTreeMap<NodeId, u64>,
    /// Groups without a majority; 0 is the meta group.
    pub no_quorum: BTreeSet<GroupId>,
    /// Groups whose replicas are not those that the topology names.
    pub unsettled: BTreeSet<GroupId>,
    /// Keys of the node, for those that count them.
    pub keys: Vec<Vec<u8>>,
    /// Messages that were sent to other nodes.
    pub published: Vec<(Option<GroupId>, Vec<u8>, Vec<u8>)>,
}

/// Node 1 of a cluster without any other process. Changes are made at once, leadership is handed over
/// at once, and every other node was heard of just now unless the state says otherwise.
#[derive(Debug, Default)]
pub struct Fake {
    /// What it says.
    pub state: Mutex<State>,
}

impl Fake {
    /// A node that is in no cluster.
    pub fn alone() -> Arc<Fake> {
        Arc::new(Fake::default())
    }

    /// Node 1 of `nodes` on ports 7001, 7002, ... with as many groups, two replicas each where there
    /// are enough nodes.
    pub fn cluster(nodes: u16, groups: usize) -> Arc<Fake> {
        let node = |id: u16| NodeInfo {
            id: id.into(),
            name: [id as u8; 20],
            host: format!("10.0.0.{id}"),
            port: 7000 + id,
            peer_port: 17000 + id,
            version: crate::info::ASHLAR_VERSION.into(),
            ..NodeInfo::default()
        };
        let nodes: Vec<NodeInfo> = (1..=nodes).map(node).collect();
        let replicas = 2.min(nodes.len().saturating_sub(1));
        let (groups, slots) = plan::place(&nodes, groups, replicas).unwrap_or_default();
        let fake = Fake::default();
        let create = Change::Create { cluster_id: [0xC1; 20], nodes, groups, slots };
        fake.apply(&create).unwrap_or_default();
        Arc::new(fake)
    }

    /// Makes a change, as the meta group would.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn apply(&self, change: &Change) -> Result<u64, String> {
        self.state.lock().topology.apply(change)
    }
}

impl Member for Fake {
    fn me(&self) -> NodeId {
        NodeId::from(self.state.lock().topology.is_created())
    }

    fn name(&self) -> [u8; 20] {
        [1; 20]
    }

    fn peer_port(&self) -> u16 {
        17001
    }

    fn topology(&self) -> Arc<Topology> {
        Arc::new(self.state.lock().topology.clone())
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        let state = self.state.lock();
        let preferred = match group {
            META_GROUP => state.topology.nodes.keys().next().copied(),
            group => state.topology.groups.get(&group).map(|group| group.preferred),
        };
        state.leaders.get(&group).copied().unwrap_or(preferred)
    }

    fn term(&self, _: GroupId) -> u64 {
        5
    }

    fn applied(&self, group: GroupId) -> u64 {
        100 * u64::from(group)
    }

    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        Some(self.state.lock().silent_ms.get(&node).copied().unwrap_or(0))
    }

    fn has_quorum(&self, group: GroupId) -> bool {
        !self.state.lock().no_quorum.contains(&group)
    }

    fn site_writes(&self, _: GroupId) -> SiteWrites {
        SiteWrites::default()
    }

    fn is_settled(&self, group: GroupId) -> bool {
        !self.state.lock().unsettled.contains(&group)
    }

    fn change(&self, change: Change, done: Done) {
        let stamp = ashlar_engine::stamp::Stamp::new(0, 0);
        let mut asked = Request::one(RequestId::default(), stamp, &[]);
        asked.calls = vec![request(&change)];
        let mut out = Vec::new();
        Machine::apply(&mut self.state.lock().topology, &asked, &mut out);
        done(Ok(out));
    }

    fn transfer(&self, group: GroupId, to: NodeId) {
        self.state.lock().leaders.insert(group, Some(to));
    }

    fn count_keys(&self, slot: u16) -> usize {
        self.keys_in_slot(slot, usize::MAX).len()
    }

    fn keys_in_slot(&self, slot: u16, max: usize) -> Vec<Vec<u8>> {
        let state = self.state.lock();
        state.keys.iter().filter(|key| slot_of(key) == slot).take(max).cloned().collect()
    }

    fn publish(&self, group: Option<GroupId>, channel: &[u8], message: &[u8]) {
        self.state.lock().published.push((group, channel.to_vec(), message.to_vec()));
    }
}
