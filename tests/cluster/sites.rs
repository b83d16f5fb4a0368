//! Two sites and a witness at a third place: writes wait for both sites, and a lost site is said, never silent.

use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::Value;

const EAST: usize = 0;
const WEST: usize = 1;

/// East leads all groups.
fn two_sites() -> Cluster {
    let mut cluster = Cluster::start(0, &[]);
    cluster.add(&["--cluster-site", "east"]);
    cluster.add(&["--cluster-site", "west"]);
    cluster.add(&["--cluster-site", "third", "--cluster-witness", "yes"]);
    cluster.create(1, 1);
    cluster.wait_ok();
    assert_eq!(cluster.node(EAST).text("CLUSTER ASHLAR LEADER 1 1"), "OK");
    cluster.wait_until("east leads", |cluster| cluster.leader_of(0, WEST) == Some(EAST));
    wait_for(&cluster, "both");
    cluster
}

fn writes(cluster: &Cluster) -> String {
    let info = cluster.node(EAST).text("CLUSTER INFO");
    let line = info.lines().find_map(|line| line.strip_prefix("ashlar_site_writes:"));
    line.unwrap_or("nothing").trim().to_owned()
}

fn wait_for(cluster: &Cluster, wanted: &str) {
    cluster.wait_until(&format!("writes reach {wanted}"), |cluster| writes(cluster) == wanted);
}

/// What a key holds, as a client learns that knows west; one that is led to a node which does not answer tries
/// again.
fn read(cluster: &Cluster, key: &str) -> Value {
    let mut value = None;
    cluster.wait_until(&format!("{key} is read"), |cluster| {
        let mut client = ClusterClient::new([cluster.node(WEST).port()]);
        value = client.line(&format!("GET {key}")).ok();
        value.is_some()
    });
    value.expect("it was waited for")
}

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// While both sites are there, a write is acknowledged only once both have it. A site that is lost is waited for
/// until it counts as lost: then a majority is enough, and INFO says so. What was acknowledged before is
/// in the other site, and nobody goes on from there without what was acknowledged afterwards.
#[test]
fn a_lost_site_degrades_writes_and_loses_none() {
    let mut cluster = two_sites();
    let mut east = cluster.node(EAST).client();
    assert_eq!(east.line("SET before 1").expect("a reply"), ok());
    cluster.pause(WEST);
    assert_eq!(east.line("SET during 1").expect("a reply"), ok());
    assert_eq!(writes(&cluster), "degraded", "it was acknowledged without the other site");
    assert!(cluster.node(EAST).text("INFO cluster").contains("site_writes:degraded"));
    cluster.resume(WEST);
    wait_for(&cluster, "both");
    cluster.pause(EAST);
    cluster.wait_until("west leads", |cluster| cluster.leader_of(0, WEST) == Some(WEST));
    for key in ["before", "during"] {
        assert_eq!(read(&cluster, key), Value::bulk("1"), "{key}");
    }
    cluster.resume(EAST);
    cluster.wait_ok();
    cluster.wait_until("east leads", |cluster| cluster.leader_of(0, WEST) == Some(EAST));
    wait_for(&cluster, "both");
    // What only east and the witness know: west cannot go on without it.
    cluster.kill(WEST);
    let mut east = cluster.node(EAST).client();
    assert_eq!(east.line("SET alone 1").expect("a reply"), ok());
    assert_eq!(writes(&cluster), "degraded");
    cluster.kill(EAST);
    cluster.restart(WEST);
    cluster.wait_until("west is alone", |cluster| {
        cluster.node(WEST).text("GET alone").starts_with("CLUSTERDOWN")
    });
    let mut west = cluster.node(WEST).client();
    for _ in 0..20 {
        let reply = west.line("GET alone").expect("a reply").text();
        assert!(reply.starts_with("CLUSTERDOWN") || reply.starts_with("MOVED"), "{reply}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    cluster.restart(EAST);
    cluster.wait_ok();
    assert_eq!(read(&cluster, "alone"), Value::bulk("1"));
}

/// With `site-loss refuse` writes are refused by name while a site is lost, and go on when it is back; one that was
/// under way when it was lost is uncertain.
#[test]
fn a_lost_site_can_refuse_writes() {
    let cluster = two_sites();
    assert_eq!(cluster.node(EAST).text("CLUSTER ASHLAR SET site-loss refuse"), "OK");
    let wrong = cluster.node(EAST).text("CLUSTER ASHLAR SET site-loss sometimes");
    assert!(wrong.starts_with("ERR site-loss takes degrade or refuse"), "{wrong}");
    let mut east = cluster.node(EAST).client();
    assert_eq!(east.line("SET a 1").expect("a reply"), ok());
    cluster.pause(WEST);
    let under_way = east.line("SET a 2").expect("a reply").text();
    assert!(under_way.starts_with("UNCERTAIN"), "{under_way}");
    assert_eq!(writes(&cluster), "refused");
    let refused = east.line("SET a 3").expect("a reply").text();
    assert!(refused.starts_with("NOREPLICAS"), "{refused}");
    // What is known to be agreed on is still read.
    assert_eq!(east.line("GET a").expect("a reply"), Value::bulk("1"));
    cluster.resume(WEST);
    wait_for(&cluster, "both");
    assert_eq!(east.line("SET a 4").expect("a reply"), ok());
    assert_eq!(east.line("GET a").expect("a reply"), Value::bulk("4"));
}
