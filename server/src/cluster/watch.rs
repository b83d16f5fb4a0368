//! Looks after leaders and silent nodes, and publishes what Sentinel clients wait for.
//!
//! Ten times a second each node compares what it knows with what it knew; so the messages come from
//! every node by itself, as soon as it has heard.

use super::sentinel::{on_leader_change, on_node_state};
use super::{Member, functions, own};
use crate::config::ids;
use crate::shared::Shared;
use ashlar_replication::node::NodeId;
use ashlar_replication::raft::GroupId;
use ashlar_replication::topology::{Change, answer};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};

/// How often this node tells the cluster what it knows wrongly of it, until that has arrived.
const CORRECT_MS: i64 = 5_000;

/// What was known when it was last looked.
#[derive(Debug, Default)]
pub struct Seen {
    known: Mutex<(BTreeMap<GroupId, NodeId>, BTreeSet<NodeId>)>,
    /// When the cluster was last corrected, Unix milliseconds.
    corrected_ms: AtomicI64,
    /// The libraries of functions.
    pub(super) libraries: functions::Seen,
}

/// Looks once. A group that was not known before is taken as led by the node that shall lead it.
pub fn look(shared: &Shared) {
    let Some(member) = shared.cluster.get() else { return };
    let topology = member.topology();
    let down_ms = shared.settings.count(ids::DOWN_AFTER_MILLISECONDS);
    let (mut changed, mut turned) = (Vec::new(), Vec::new());
    {
        let mut seen = shared.cluster_seen.known.lock();
        let (leaders, down) = &mut *seen;
        leaders.retain(|group, _| topology.groups.contains_key(group));
        down.retain(|node| topology.nodes.contains_key(node));
        for group in topology.groups.values() {
            // While there is none, the last one counts: the next one is what clients wait for.
            let Some(leader) = member.leader(group.id) else { continue };
            let old = leaders.insert(group.id, leader).unwrap_or(group.preferred);
            if old != leader {
                changed.push((group.id, old, leader));
            }
        }
        for node in topology.nodes.keys().copied().filter(|node| *node != member.me()) {
            let is_down = member.silent_ms(node).is_some_and(|silent_ms| silent_ms > down_ms);
            let was_down = if is_down { !down.insert(node) } else { down.remove(&node) };
            if is_down != was_down {
                turned.push((node, is_down));
            }
        }
    }
    correct(shared, &**member);
    functions::offer(shared, &**member);
    for (node, is_down) in turned {
        on_node_state(shared, node, is_down);
    }
    for (group, old, new) in changed {
        on_leader_change(shared, group, Some(old), new);
    }
}

/// Tells the cluster of this node's address and version where they have changed.
fn correct(shared: &Shared, member: &dyn Member) {
    let (now_ms, last_ms) = (crate::clock::now_ms(), &shared.cluster_seen.corrected_ms);
    if now_ms - last_ms.load(Ordering::Relaxed) < CORRECT_MS {
        return;
    }
    let Some(node) = own::correction(shared, member) else { return };
    last_ms.store(now_ms, Ordering::Relaxed);
    tracing::info!("telling the cluster that this node is {}", own::describe(&node));
    let done = |result: Result<Vec<u8>, String>| {
        if let Err(text) = result.and_then(|reply| answer(&reply)) {
            tracing::warn!("the cluster does not know yet what has changed of this node: {text}");
        }
    };
    member.change(Change::UpdateNode(node), Box::new(done));
}
