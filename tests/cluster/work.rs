//! Ordinary work on a cluster, and the same while nodes go.

use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::Value;

fn client(cluster: &Cluster) -> ClusterClient {
    ClusterClient::new(cluster.nodes().iter().map(|node| node.port()))
}

/// Keys in all groups are written and read, and each slot has one owner that all nodes name.
#[test]
fn keys_are_spread_over_the_groups() {
    let cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let mut client = client(&cluster);
    for nth in 0..300 {
        let reply = client.line(&format!("SET key:{nth} {nth}")).expect("a reply");
        assert_eq!(reply, Value::Simple(b"OK".to_vec()));
    }
    for nth in 0..300 {
        let reply = client.line(&format!("GET key:{nth}")).expect("a reply");
        assert_eq!(reply, Value::bulk(nth.to_string()));
    }
    for node in cluster.nodes() {
        let refusal = node.text("MSET a 1 b 2");
        assert_eq!(refusal, "CROSSSLOT Keys in request don't hash to the same slot");
    }
    for slot in [0, 5461, 16383] {
        let leaders: Vec<_> = (0..3).map(|node| cluster.leader_of(slot, node)).collect();
        assert!(
            leaders[0].is_some() && leaders.iter().all(|leader| *leader == leaders[0]),
            "{leaders:?}"
        );
    }
}

/// What was acknowledged is there when its leader is killed, and writes go on.
#[test]
fn a_killed_leader_is_replaced() {
    let mut cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    let mut client = client(&cluster);
    for nth in 0..100 {
        client.line(&format!("RPUSH {{list}} {nth}")).expect("a reply");
    }
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let other = (leader + 1) % 3;
    cluster.kill(leader);
    cluster.wait_until("another node leads", |cluster| {
        cluster.leader_of(0, other).is_some_and(|new| new != leader)
    });
    // Its first use of the broken connection fails.
    let mut client = self::client(&cluster);
    assert_eq!(client.line("LLEN {list}").expect("a reply"), Value::Int(100));
    client.line("RPUSH {list} last").expect("a reply");
    cluster.restart(leader);
    cluster.wait_ok();
    assert_eq!(client.line("LLEN {list}").expect("a reply"), Value::Int(101));
}

/// Fields of hashes that have expired are deleted by the group, without anybody asking for them.
#[test]
fn expired_fields_go_by_themselves() {
    let cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    let mut client = client(&cluster);
    client.line("HSET h stays 1 goes 1").expect("a reply");
    client.line("HPEXPIRE h 50 FIELDS 1 goes").expect("a reply");
    client.line("HSET whole goes 1").expect("a reply");
    client.line("HPEXPIRE whole 50 FIELDS 1 goes").expect("a reply");
    // HLEN counts what is there, expired or not.
    cluster.wait_until("all replicas have deleted them", |cluster| {
        cluster.nodes().iter().all(|node| {
            let mut client = node.client();
            client.line("READONLY").expect("a reply");
            let (hash, whole) = (client.line("HLEN h"), client.line("EXISTS whole"));
            hash.is_ok_and(|len| len == Value::Int(1)) && whole.is_ok_and(|n| n == Value::Int(0))
        })
    });
}

/// A group writes a snapshot while its clients go on; a node that was killed comes back from it, and one that is new
/// gets it from the leader.
#[test]
fn snapshots_are_written_while_writes_go_on() {
    /// A value: 150 of them make the log long enough for a snapshot, twice.
    const VALUE: usize = 1 << 20;
    let mut cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    let mut client = client(&cluster);
    let value = "v".repeat(VALUE);
    for nth in 0..20_000 {
        client.line(&format!("SET {{a}}small:{} {nth}", nth % 5_000)).expect("a reply");
        if nth % 133 == 0 {
            client.line(&format!("SET {{a}}large:{} {value}", nth / 133 % 7)).expect("a reply");
        }
    }
    cluster.wait_until("each node has a snapshot", |cluster| {
        cluster.nodes().iter().all(|node| {
            let path = node.server().dir().join("ashlar-data/node/snapshots/1.snap");
            std::fs::metadata(path).is_ok_and(|file| file.len() > VALUE as u64)
        })
    });
    let follower = (cluster.leader_of(0, 0).expect("a leader") + 1) % 3;
    cluster.kill(follower);
    client.line("SET {a}last 1").expect("a reply");
    cluster.restart(follower);
    cluster.wait_ok();
    // The others leave, one after the other: what is left came from snapshots.
    cluster.add(&[]);
    let addresses = cluster.addresses();
    cluster.manage_ok(&["add-node", &addresses[0], &addresses[3]]);
    let others: Vec<usize> = (0..3).filter(|node| *node != follower).collect();
    let asked = &addresses[follower];
    cluster.wait_until("the new node is known", |cluster| {
        cluster.node(follower).text("CLUSTER INFO").contains("cluster_known_nodes:4\r\n")
    });
    cluster.manage_ok(&["remove-node", asked, &(others[0] + 1).to_string()]);
    cluster.kill(others[0]);
    let mut client = self::client_of(&cluster, &[follower, 3]);
    for nth in 0..5_000 {
        let reply = client.line(&format!("GET {{a}}small:{nth}")).expect("a reply");
        assert_eq!(reply, Value::bulk((15_000 + nth).to_string()), "small:{nth}");
    }
    for nth in 0..7 {
        let reply = client.line(&format!("STRLEN {{a}}large:{nth}")).expect("a reply");
        assert_eq!(reply, Value::Int(VALUE as i64), "large:{nth}");
    }
    assert_eq!(client.line("GET {a}last").expect("a reply"), Value::bulk("1"));
}

fn client_of(cluster: &Cluster, nodes: &[usize]) -> ClusterClient {
    ClusterClient::new(nodes.iter().map(|node| cluster.node(*node).port()))
}

/// What a node keeps is its groups' business: `save` stops nobody, and who asks for a snapshot gets some.
#[test]
fn save_points_stop_no_writes() {
    let mut cluster = Cluster::created(3, 3, 2, &["--save", "1 1"]);
    cluster.wait_ok();
    // When the newest one was written.
    let newest = |cluster: &Cluster| {
        let dir = cluster.node(0).dir().join("ashlar-data/node/snapshots");
        let files = std::fs::read_dir(dir).expect("the node's files");
        let written = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok());
        written.max()
    };
    let mut client = client(&cluster);
    for nth in 0..300 {
        client.line(&format!("SET key:{nth} {nth}")).expect("a reply");
    }
    let before = newest(&cluster);
    // Longer than `save` waits, and the time after which a failure would show.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for nth in 0..300 {
        let reply = client.line(&format!("SET key:{nth} new")).expect("a reply");
        assert_eq!(reply.text(), "OK");
    }
    assert!(cluster.node(0).text("INFO persistence").contains("rdb_last_bgsave_status:ok"));
    assert_eq!(newest(&cluster), before);
    for line in ["SAVE", "BGSAVE", "BGREWRITEAOF"] {
        let reply = cluster.node(0).text(line);
        assert!(reply.starts_with("OK") || reply.contains("started"), "{line}: {reply}");
    }
    cluster.wait_until("there are snapshots", |cluster| newest(cluster) > before);
    // A replica may still be at the last writes.
    cluster.wait_until("nothing has changed since", |cluster| {
        assert_eq!(cluster.node(0).text("SAVE"), "OK");
        cluster.node(0).text("INFO persistence").contains("rdb_changes_since_last_save:0")
    });
    // An orderly end saves nothing that is not there, and a start has all of it.
    for at in 0..3 {
        cluster.stop(at);
    }
    for at in 0..3 {
        cluster.restart(at);
    }
    cluster.wait_ok();
    for nth in 0..300 {
        assert_eq!(client.line(&format!("GET key:{nth}")).expect("a reply").text(), "new");
    }
}
