//! A cluster whose links are encrypted: nodes without a good certificate are not part of it.

use ashlar_tests::ask::wait_for;
use ashlar_tests::authority::Authority;
use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::Value;

fn started(authority: &Authority) -> Cluster {
    let files = authority.settings();
    let mut settings = vec!["--tls-cluster", "yes"];
    settings.extend(files.iter().map(String::as_str));
    let cluster = Cluster::created(3, 1, 2, &settings);
    cluster.wait_ok();
    cluster
}

fn client(cluster: &Cluster) -> ClusterClient {
    let running = cluster.nodes().iter().filter(|node| node.is_running());
    ClusterClient::new(running.map(|node| node.port()))
}

fn push(cluster: &Cluster, count: usize) {
    let mut client = client(cluster);
    for nth in 0..count {
        // More than one record of TLS, now and then.
        let len = if nth.is_multiple_of(50) { 200_000 } else { 10 };
        client.line(&format!("RPUSH {{list}} {}", "x".repeat(len))).expect("a reply");
    }
}

fn len(cluster: &Cluster) -> Value {
    client(cluster).line("LLEN {list}").expect("a reply")
}

#[test]
fn a_leader_is_replaced_over_encrypted_links() {
    let authority = Authority::new();
    authority.write("first");
    let mut cluster = started(&authority);
    push(&cluster, 200);
    // What runs goes on with the old certificate, and new links have the new one.
    authority.write("second, with another length");
    wait_for("all nodes have read the new certificate", || {
        cluster.nodes().iter().all(|node| node.server().log().contains("were read again"))
    });
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let other = (leader + 1) % 3;
    cluster.kill(leader);
    cluster.wait_until("another node leads", |cluster| {
        cluster.leader_of(0, other).is_some_and(|new| new != leader)
    });
    assert_eq!(len(&cluster), Value::Int(200));
    push(&cluster, 100);
    cluster.restart(leader);
    cluster.wait_ok();
    assert_eq!(len(&cluster), Value::Int(300));
    let log = cluster.node(other).server().log();
    assert!(!log.contains("no link of the cluster"), "{log}");
}

#[test]
fn nodes_without_a_good_certificate_are_left_out() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write("node");
    stranger.write("stranger");
    let mut cluster = started(&authority);
    push(&cluster, 10);
    let (theirs, ours) = (stranger.settings(), authority.settings());
    let words = |files: &[String]| files.iter().map(String::clone).collect::<Vec<_>>();
    let wrong = [vec!["--tls-cluster".into(), "no".into()], words(&theirs)];
    let says = ["does not begin to encrypt", "invalid peer certificate"];
    for (settings, says) in wrong.iter().zip(says) {
        cluster.stop(2);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        cluster.reconfigure(2, &["--tls-cluster", "yes"]);
        cluster.reconfigure(2, &settings);
        cluster.restart(2);
        wait_for("the one that leads says that it refuses it", || {
            // Who follows only has nothing to send to it, and hears no more than that it is refused itself.
            let Some(leader) = cluster.leader_of(0, 0).filter(|leader| *leader != 2) else {
                return false;
            };
            let log = cluster.node(leader).server().log();
            log.lines().any(|line| line.contains("no link of the cluster") && line.contains(says))
        });
        // It hears of nobody, and the others go on without it.
        let heard = cluster.node(2).text("CLUSTER INFO");
        assert!(!heard.contains("cluster_state:ok"), "{heard}");
        push(&cluster, 10);
    }
    cluster.stop(2);
    cluster.reconfigure(2, &words(&ours).iter().map(String::as_str).collect::<Vec<_>>());
    cluster.restart(2);
    cluster.wait_ok();
    assert_eq!(len(&cluster), Value::Int(30));
}
