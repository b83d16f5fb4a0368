//! Libraries of functions in a cluster: every node has the same ones, which the meta group decides on.
//!
//! ```text
//! FUNCTION LOAD, DELETE, RESTORE, FLUSH -> looked at here -> Change::Libraries -> topology of every node
//! topology -> the engine's libraries -> the workers' interpreters -> FCALL_RO, FUNCTION LIST, DUMP
//! FCALL -> the library's text goes with the call: all replicas of the group run the same
//! ```
//! A node that had libraries before it was one of a cluster gives them to it, unless the cluster has, or had,
//! some already.

use super::Member;
use super::propose::propose_then;
use crate::config::ids;
use crate::host::Host;
use crate::shared::Shared;
use ashlar_engine::error::CmdResult;
use ashlar_replication::node::NodeId;
use ashlar_replication::topology::{Change, LibraryChange, Release, Topology, answer};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// How often a node offers its libraries until the cluster has some.
const OFFER_MS: i64 = 5_000;

/// What of the cluster's libraries the engine has.
#[derive(Debug, Default)]
pub struct Seen {
    version: AtomicU64,
    offered_ms: AtomicI64,
}

/// The version of the libraries that the engine has.
pub fn version(shared: &Shared) -> u64 {
    shared.cluster_seen.libraries.version.load(Ordering::Acquire)
}

/// The engine gets the libraries of a topology, where they are others than it has.
pub fn take(shared: &Shared, topology: &Topology) {
    let (seen, libraries) = (&shared.cluster_seen.libraries.version, &topology.libraries);
    if seen.load(Ordering::Acquire) == libraries.version {
        return;
    }
    let all = libraries.by_name.iter().map(|(name, text)| (name.as_slice(), &**text));
    shared.engine.libraries().replace_all(all);
    // Whoever reads the version first, and the libraries then, has them at least as new.
    seen.store(libraries.version, Ordering::Release);
}

/// Proposes a change that was planned on what the engine had; it answers with `reply` once it is made and
/// all nodes that are heard of have it.
///
/// # Errors
/// Always, as a command that blocks does; or as the cluster has not answered in time.
pub fn change(host: &mut Host<'_, '_>, change: LibraryChange, reply: Vec<u8>) -> CmdResult {
    host.exec.release();
    let version = change.version + 1;
    // The other half is the meta group's: the client itself waits for `failover-timeout`.
    let wait_us = host.shared.settings.count(ids::FAILOVER_TIMEOUT).saturating_mul(1000 / 2);
    propose_then(host, Change::Libraries(change), move |shared, _, answer| {
        let Some(strong) = shared.strong.get() else { return answer(shared, reply) };
        let weak = Arc::downgrade(shared);
        let done = move |left: Vec<NodeId>| {
            let Some(shared) = weak.upgrade() else { return };
            answer(&shared, if left.is_empty() { reply } else { not_yet(&left) });
        };
        strong.await_libraries(version, wait_us, Box::new(done));
    })
}

/// What is said of a change that the cluster has made, but of which these nodes have not been heard yet.
fn not_yet(nodes: &[NodeId]) -> Vec<u8> {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    let text = format!(
        "-TRYAGAIN the cluster has made the change, but these nodes have not said yet that they have it: {}\r\n",
        nodes.join(" ")
    );
    text.into_bytes()
}

/// Gives the cluster the libraries that this node had before, where it never had any.
pub(super) fn offer(shared: &Shared, member: &dyn Member) {
    let (topology, seen) = (member.topology(), &shared.cluster_seen.libraries);
    let wants = topology.is_created() && topology.libraries.version == 0;
    if !wants || topology.release() < Release::FUNCTIONS {
        return;
    }
    let now_ms = crate::clock::now_ms();
    let libraries = shared.engine.libraries().all().0;
    if libraries.is_empty() || now_ms - seen.offered_ms.load(Ordering::Relaxed) < OFFER_MS {
        return;
    }
    seen.offered_ms.store(now_ms, Ordering::Relaxed);
    let set = libraries.iter().map(|(name, text)| (name.to_vec(), text.to_vec())).collect();
    let done = |result: Result<Vec<u8>, String>| {
        if let Err(text) = result.and_then(|reply| answer(&reply)) {
            tracing::warn!("the cluster does not have this node's functions: {text}");
        }
    };
    let offered = LibraryChange { set, ..LibraryChange::default() };
    member.change(Change::Libraries(offered), Box::new(done));
}
