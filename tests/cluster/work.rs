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
