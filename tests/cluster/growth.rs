//! Nodes come and go, slots move, and clients notice nothing but redirections.

use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::{Value, words};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

pub fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.nodes().iter().map(|node| node.port()).collect()
}

/// Keys that are counted up.
const KEYS: usize = 200;

/// Counts keys up until it is told to stop; what each has been counted to. `writes` says how far it is.
fn count_up(
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
) -> JoinHandle<Vec<i64>> {
    count(ports, stop, writes, |_, nth, error| panic!("INCR n:{nth}: a reply: {error}"))
}

/// The same while nodes are killed: where it is not known what became of a write, the key says so.
pub fn count_through_kills(
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
) -> JoinHandle<Vec<i64>> {
    count(ports, stop, writes, |client, nth, _| read_count(client, nth))
}

/// `unknown` finds out what a key has been counted to after a write without a reply.
fn count(
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
    unknown: fn(&mut ClusterClient, usize, std::io::Error) -> i64,
) -> JoinHandle<Vec<i64>> {
    std::thread::spawn(move || {
        let mut client = ClusterClient::new(ports);
        let mut counts = vec![0; KEYS];
        for nth in (0..KEYS).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let next = counts[nth] + 1;
            counts[nth] = match client.line(&format!("INCR n:{nth}")) {
                Ok(reply) => {
                    assert_eq!(reply, Value::Int(next), "n:{nth}");
                    next
                }
                Err(error) => {
                    let count = unknown(&mut client, nth, error);
                    assert!([next - 1, next].contains(&count), "n:{nth} is {count}, not {next}");
                    count
                }
            };
            writes.fetch_add(1, Ordering::Relaxed);
        }
        counts
    })
}

fn read_count(client: &mut ClusterClient, nth: usize) -> i64 {
    loop {
        match client.line(&format!("GET n:{nth}")) {
            Ok(Value::Null) => return 0,
            Ok(value) => return value.text().parse().expect("a number"),
            // Killed again.
            Err(_) => {}
        }
    }
}

pub fn check(ports: Vec<u16>, counts: &[i64]) {
    let mut client = ClusterClient::new(ports);
    for (nth, count) in counts.iter().enumerate() {
        let reply = client.line(&format!("GET n:{nth}")).expect("a reply");
        let wanted = if *count == 0 { Value::Null } else { Value::bulk(count.to_string()) };
        assert_eq!(reply, wanted, "n:{nth}");
    }
}

/// A cluster of three gets a fourth node and more groups, then loses one node, all under writes: every
/// write is there once.
#[test]
fn a_cluster_grows_and_shrinks_under_writes() {
    let mut cluster = Cluster::created(3, 2, 2, &[]);
    cluster.wait_ok();
    let stop = Arc::new(AtomicBool::new(false));
    let work = count_through_kills(ports(&cluster), stop.clone(), Arc::default());
    cluster.add(&[]);
    let addresses = cluster.addresses();
    cluster.manage_ok(&["add-node", &addresses[0], &addresses[3], "--rebalance"]);
    let status = cluster.node(3).text("CLUSTER ASHLAR STATUS");
    assert!(!status.contains("keeps=- "), "every node keeps something:\n{status}");
    let replies = ["CLUSTER ASHLAR ADDGROUP 2"].map(|line| cluster.node(1).text(line));
    assert_eq!(replies, ["OK"]);
    cluster.wait_until("node 2 knows the new groups", |cluster| {
        cluster.node(1).text("CLUSTER INFO").contains("ashlar_groups:4\r\n")
    });
    cluster.manage_ok(&["rebalance", &addresses[1]]);
    let info = cluster.node(1).text("CLUSTER INFO");
    assert!(info.contains("ashlar_moves:0\r\n"), "{info}");
    cluster.manage_ok(&["remove-node", &addresses[1], "1"]);
    cluster.kill(0);
    cluster.wait_until("the others form a whole cluster", |cluster| {
        (1..4).all(|node| cluster.node(node).text("CLUSTER INFO").contains("cluster_state:ok"))
    });
    stop.store(true, Ordering::Relaxed);
    let counts = work.join().expect("no write is lost or doubled");
    check(ports(&cluster)[1..].to_vec(), &counts);
}

/// Keys move with their slots while they are written.
#[test]
fn slots_move_under_writes() {
    let cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let stop = Arc::new(AtomicBool::new(false));
    let work = count_up(ports(&cluster), stop.clone(), Arc::default());
    for (first, last, to) in [(0, 3000, 2), (0, 3000, 3), (6000, 9000, 1)] {
        let line = format!("CLUSTER ASHLAR MOVE {first} {last} {to}");
        let reply = cluster.node(0).client().line(&line).expect("a reply");
        assert!(matches!(reply, Value::Int(1..)), "{reply:?}");
        let wanted = format!("{first}-{last}");
        cluster.wait_until("the slots have moved", |cluster| {
            let status = cluster.node(0).text("CLUSTER ASHLAR STATUS");
            let group = status.lines().find(|line| line.starts_with(&format!("group={to} ")));
            status.contains(" moves=0") && group.is_some_and(|group| group.contains(&wanted))
        });
    }
    stop.store(true, Ordering::Relaxed);
    let counts = work.join().expect("no write is lost or doubled");
    check(ports(&cluster), &counts);
}

/// A client that waits for a key is told when its slot moves, and clients that read and write see a
/// large number of keys move as a whole, each with its value, its expiry, or gone if it was deleted meanwhile.
#[test]
fn keys_move_with_all_that_happens_to_them() {
    const MOVED: usize = 20_000;
    let cluster = Cluster::created(3, 2, 2, &[]);
    cluster.wait_ok();
    let mut client = ClusterClient::new(ports(&cluster));
    // All of one slot, so of one group.
    let key = |nth: usize| format!("{{06S}}:{nth}");
    for batch in 0..MOVED / 500 {
        let pairs: Vec<String> =
            (0..500).map(|nth| format!("{} {}", key(batch * 500 + nth), "x".repeat(100))).collect();
        client.call(&words(&format!("MSET {}", pairs.join(" "))));
    }
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let mut waiting = cluster.node(leader).client();
    waiting.send(&words("BLPOP {06S}:list 0")).expect("sent");
    cluster.wait_until("the client waits", |cluster| {
        cluster.node(leader).text("INFO clients").contains("blocked_clients:1\r\n")
    });
    assert!(!cluster.node(0).text("CLUSTER ASHLAR MOVE 0 100 2").contains("ERR"));
    // While they move: some are deleted, some get an expiry, some are lists from now on.
    for nth in (0..MOVED).step_by(97) {
        client.line(&format!("DEL {}", key(nth))).expect("a reply");
        client.line(&format!("EXPIRE {} 1000", key(nth + 1))).expect("a reply");
        client.line(&format!("DEL {}", key(nth + 2))).expect("a reply");
        client.line(&format!("RPUSH {} a b", key(nth + 2))).expect("a reply");
        let read = client.line(&format!("GET {}", key(nth + 1))).expect("a reply");
        assert_eq!(read, Value::bulk("x".repeat(100)));
    }
    cluster.wait_until("the slots have moved", |cluster| {
        let status = cluster.node(0).text("CLUSTER ASHLAR STATUS");
        let group = status.lines().find(|line| line.starts_with("group=2 "));
        group.is_some_and(|group| group.contains("0-100,"))
    });
    let told = waiting.reply().expect("a reply").text();
    assert!(told.starts_with("MOVED 0 ") || told.starts_with("TRYAGAIN "), "{told}");
    for nth in (0..MOVED - 97).step_by(97) {
        assert_eq!(client.line(&format!("EXISTS {}", key(nth))).expect("a reply"), Value::Int(0));
        let ttl = client.line(&format!("TTL {}", key(nth + 1))).expect("a reply");
        assert!(matches!(ttl, Value::Int(900..=1000)), "{ttl:?}");
        let list = client.line(&format!("LLEN {}", key(nth + 2))).expect("a reply");
        assert_eq!(list, Value::Int(2));
        assert_eq!(client.line(&format!("STRLEN {}", key(nth + 3))).expect("it"), Value::Int(100));
    }
    let count = client.line("EXISTS {06S}:list").expect("a reply");
    assert_eq!(count, Value::Int(0));
}

/// Each node is drained, stopped and started again, one after the other: no write fails.
#[test]
fn a_rolling_restart_is_not_noticed() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let work = count_through_kills(ports(&cluster), stop.clone(), writes.clone());
    for node in 0..3 {
        let (id, other) = (node + 1, (node + 1) % 3);
        assert_eq!(cluster.node(other).text(&format!("CLUSTER ASHLAR DRAIN {id} ON")), "OK");
        cluster.wait_until("the node leads nothing", |cluster| {
            let status = cluster.node(other).text("CLUSTER ASHLAR STATUS");
            let line = status.lines().find(|line| line.starts_with(&format!("node={id} ")));
            line.is_some_and(|line| line.contains(" leads=- "))
        });
        // By then the client has asked for every key again and knows where it is.
        let before = writes.load(Ordering::Relaxed);
        cluster.wait_until("the client goes on", |_| {
            writes.load(Ordering::Relaxed) > before + 2 * KEYS
        });
        cluster.restart(node);
        cluster.wait_ok();
        assert_eq!(cluster.node(other).text(&format!("CLUSTER ASHLAR DRAIN {id} OFF")), "OK");
    }
    stop.store(true, Ordering::Relaxed);
    let counts = work.join().expect("no write is lost or doubled");
    check(ports(&cluster), &counts);
}

/// A node without a replica of a group knows who leads it after a fail-over.
#[test]
fn nodes_know_the_leaders_of_groups_that_they_do_not_keep() {
    let mut cluster = Cluster::created(4, 4, 1, &[]);
    cluster.wait_ok();
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let status = cluster.node(0).text("CLUSTER ASHLAR STATUS");
    let keeps = |node: usize| {
        let line = status.lines().find(|line| line.starts_with(&format!("node={} ", node + 1)));
        let line = line.expect("the node's line").to_owned();
        let groups = line.split(" keeps=").nth(1).and_then(|rest| rest.split(' ').next());
        groups.is_some_and(|groups| groups.split(',').any(|group| group == "1"))
    };
    let stranger = (0..4).find(|node| !keeps(*node)).expect("a node without the first group");
    // Two of two cannot elect: the leadership is handed over instead.
    let member = (0..4).find(|node| *node != leader && keeps(*node)).expect("the other member");
    let line = format!("CLUSTER ASHLAR LEADER 1 {}", member + 1);
    assert_eq!(cluster.node(stranger).text(&line), "OK");
    cluster.wait_until("the stranger knows the new leader", |cluster| {
        cluster.leader_of(0, stranger) == Some(member)
    });
    let mut client = cluster.node(stranger).client();
    let moved = client.call(&words("GET {06S}")).expect("a reply").text();
    let port = cluster.node(member).port();
    assert_eq!(moved, format!("MOVED 0 127.0.0.1:{port}"));
    cluster.restart(member);
    cluster.wait_ok();
}
