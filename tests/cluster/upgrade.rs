//! Nodes of two releases side by side: a cluster is upgraded one node after the other while clients write.

use crate::growth::{check, count_through_kills, ports};
use ashlar_tests::cluster::Cluster;
use ashlar_tests::process::ashlar_binary;
use ashlar_tests::release::old_ashlar_binary;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The slots that move.
const SLOTS: (u16, u16) = (100, 1100);

/// Moves the slots, and waits until they are there.
fn move_slots(cluster: &Cluster, to: u32) {
    let (first, last) = SLOTS;
    let reply = cluster.node(0).text(&format!("CLUSTER ASHLAR MOVE {first} {last} {to}"));
    assert!(!reply.contains("ERR"), "{reply}");
    cluster.wait_until("the slots have moved", |cluster| {
        let status = cluster.node(0).text("CLUSTER ASHLAR STATUS");
        let group = status.lines().find(|line| line.starts_with(&format!("group={to} ")));
        let ranges = group.and_then(|line| line.rsplit_once("ranges="));
        let has = ranges.is_some_and(|(_, ranges)| {
            ranges.split(',').any(|range| {
                let (low, high) = range.split_once('-').unwrap_or((range, range));
                low.parse().is_ok_and(|low: u16| low <= first)
                    && high.parse().is_ok_and(|high: u16| high >= last)
            })
        });
        status.contains(" moves=0") && has
    });
}

/// The release that a node takes the cluster for; nothing where the node is older than that.
fn release(cluster: &Cluster, at: usize) -> Option<String> {
    let status = cluster.node(at).text("CLUSTER ASHLAR STATUS");
    let head = status.lines().next()?;
    head.split(' ').find_map(|word| word.strip_prefix("release=")).map(str::to_owned)
}

/// Node after node is drained, stopped, and started with the new binary; in between slots move both ways,
/// leaders change, and one node is killed. Every write is there once. Once the last one is new, the cluster
/// is of the new release by itself, and takes no node of the old one any more.
#[test]
fn a_cluster_is_upgraded_node_by_node_under_writes() {
    let Some(old) = old_ashlar_binary() else { return };
    let mut cluster = Cluster::start_program(old, 3, &[]);
    cluster.create(3, 2);
    cluster.wait_ok();
    let stop = Arc::new(AtomicBool::new(false));
    let work = count_through_kills(ports(&cluster), stop.clone(), Arc::default());
    for at in 0..3 {
        let (other, node) = ((at + 1) % 3, at + 1);
        let drain = |state: &str| format!("CLUSTER ASHLAR DRAIN {node} {state}");
        assert_eq!(cluster.node(other).text(&drain("ON")), "OK");
        cluster.wait_until("the node leads nothing", |cluster| {
            let status = cluster.node(other).text("CLUSTER ASHLAR STATUS");
            let line = status.lines().find(|line| line.starts_with(&format!("node={node} ")));
            line.is_some_and(|line| line.contains(" leads=- "))
        });
        cluster.stop(at);
        cluster.replace(at, ashlar_binary());
        cluster.restart(at);
        assert_eq!(cluster.node(other).text(&drain("OFF")), "OK");
        cluster.wait_ok();
        move_slots(&cluster, 2);
        if at < 2 {
            assert_eq!(release(&cluster, 0).as_deref(), Some("0.1"), "an old node is left");
            // A leader of the new release, then followers of both.
            cluster.kill(at);
            cluster.restart(at);
            cluster.wait_ok();
        }
        move_slots(&cluster, 1);
    }
    let own = env!("CARGO_PKG_VERSION").rsplit_once('.').expect("three numbers").0;
    cluster.wait_until("the cluster is of the new release", |cluster| {
        (0..3).all(|at| release(cluster, at).as_deref() == Some(own))
    });
    move_slots(&cluster, 3);
    let leader = cluster.leader_of(SLOTS.0, 0).expect("a leader");
    cluster.kill(leader);
    cluster.restart(leader);
    cluster.wait_ok();
    stop.store(true, Ordering::Relaxed);
    let counts = work.join().expect("no write is lost or doubled");
    check(ports(&cluster), &counts);
    let late = cluster.add(&[]);
    let addresses = cluster.addresses();
    let refused = cluster.manage(&["add-node", &addresses[0], &addresses[late]]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "a node of the old release is refused");
    assert!(text.contains("the node of 0.1"), "{text}");
}
