//! Policies in a cluster: one set of rules for all nodes, taken over by each group at one place of its log.

use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub fn client(cluster: &Cluster) -> ClusterClient {
    ClusterClient::new(cluster.nodes().iter().map(|node| node.port()))
}

/// A field of POLICY EXPLAIN, as text.
pub fn explain(cluster: &Cluster, node: usize, key: &str, name: &str) -> String {
    let told = cluster.node(node).client().line(&format!("POLICY EXPLAIN {key}")).expect("a reply");
    let items = told.items().expect("a map").to_vec();
    let at = items.iter().step_by(2).position(|item| item.text() == name);
    match &items[2 * at.expect("the field is there") + 1] {
        Value::Int(number) => number.to_string(),
        Value::Array(members) => members.iter().map(Value::text).collect::<Vec<_>>().join(" "),
        other => other.text(),
    }
}

fn number(reply: &Value) -> i64 {
    match reply {
        Value::Int(number) => *number,
        other => panic!("no number: {other:?}"),
    }
}

/// A rule counts for every write in every group once POLICY SET has answered, whichever node it was sent to, and
/// is there after a restart of all. What a cluster cannot promise is refused by name.
#[test]
fn a_rule_holds_in_all_groups_once_it_is_set() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let mut client = client(&cluster);
    assert_eq!(cluster.node(2).text("POLICY SET session:* local TTL 500"), "OK");
    for nth in 0..60 {
        client.line(&format!("SET session:{nth} x")).expect("a reply");
        client.line(&format!("SET other:{nth} x")).expect("a reply");
        let ttl = number(&client.line(&format!("TTL session:{nth}")).expect("a reply"));
        assert!((490..=500).contains(&ttl), "session:{nth} lives for {ttl}");
        assert_eq!(client.line(&format!("TTL other:{nth}")).expect("a reply"), Value::Int(-1));
    }
    for (line, reason) in [
        (
            "POLICY SET a global",
            "ERR the class global is for sites: give the cluster a number among them first",
        ),
        ("POLICY SET a async TIER cold", "ERR a cluster keeps all keys in memory"),
        ("POLICY SET a nothing", "ERR the class of a policy is one of"),
    ] {
        let refused = cluster.node(1).text(line);
        assert!(refused.starts_with(reason), "{line}: {refused}");
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster.wait_ok();
    cluster.wait_until("all nodes have the rule", |cluster| {
        (0..3).all(|node| {
            cluster.node(node).client().line("POLICY VERSION").ok() == Some(Value::Int(1))
        })
    });
    let mut client = self::client(&cluster);
    client.line("SET session:new x").expect("a reply");
    let ttl = number(&client.line("TTL session:new").expect("a reply"));
    assert!((490..=500).contains(&ttl), "it lives for {ttl}");
    assert_eq!(
        cluster.node(0).client().line("POLICY DEL session:* a").expect("a reply"),
        Value::Int(1)
    );
    client.line("SET session:late x").expect("a reply");
    assert_eq!(client.line("TTL session:late").expect("a reply"), Value::Int(-1));
    let ttls: Vec<Value> = (0..3)
        .map(|node| {
            let mut replica = cluster.node(node).client();
            replica.line("READONLY").expect("a reply");
            replica.line("PEXPIRETIME session:new").expect("a reply")
        })
        .collect();
    assert!(ttls.iter().all(|ttl| *ttl == ttls[0]), "replicas differ: {ttls:?}");
}

/// Keys of two classes in one transaction, script or command are refused by name, and nothing of it is done. Keys
/// that no rule matches are strong.
#[test]
fn what_runs_as_one_is_of_one_class() {
    let cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    assert_eq!(cluster.node(0).text("POLICY SET log:* async"), "OK");
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let mut client = cluster.node(leader).client();
    let crossing =
        "CROSSPOLICY Keys of two classes in one request: 'log:{x}' is async, 'stock:{x}' is strong";
    for line in [
        "MSET log:{x} 1 stock:{x} 2",
        "EVAL return{redis.call('SET',KEYS[1],1)} 2 log:{x} stock:{x}",
    ] {
        let refused = client.line(line).expect("a reply").text();
        assert!(refused.contains(crossing), "{line}: {refused}");
    }
    for line in ["MULTI", "INCR log:{x}", "INCR stock:{x}"] {
        client.line(line).expect("a reply");
    }
    let refused = client.line("EXEC").expect("a reply").text();
    assert!(refused.contains(crossing), "{refused}");
    assert_eq!(client.line("EXISTS log:{x}").expect("a reply"), Value::Int(0));
    assert_eq!(client.line("EXISTS stock:{x}").expect("a reply"), Value::Int(0));
    for line in ["MULTI", "INCR log:{x}", "INCR log:{x}2"] {
        client.line(line).expect("a reply");
    }
    assert!(!client.line("EXEC").expect("a reply").is_error());
}

/// While the class of keys goes to and fro, no write to them is lost, doubled or taken out of its order.
#[test]
fn writes_stand_changes_of_their_class() {
    const KEYS: usize = 4;
    let cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let done = AtomicBool::new(false);
    let written: Vec<usize> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..KEYS)
            .map(|key| {
                let (cluster, done) = (&cluster, &done);
                scope.spawn(move || {
                    let mut client = client(cluster);
                    let mut nth = 0;
                    while !done.load(Ordering::Relaxed) {
                        let len = client.line(&format!("RPUSH w:{key} {nth}")).expect("a reply");
                        nth += 1;
                        assert_eq!(len, Value::Int(nth as i64), "w:{key}");
                    }
                    nth
                })
            })
            .collect();
        let answers: Vec<(&str, Value)> = (0..24)
            .map(|round| {
                let lines =
                    ["SET w:* async TTL 9000", "SET w:* local", "SET w:* strong", "DEL w:*"];
                let line = lines[round % lines.len()];
                let mut client = cluster.node(round % 3).client();
                (line, client.line(&format!("POLICY {line}")).expect("a reply"))
            })
            .collect();
        // The writers end before anything is looked at.
        done.store(true, Ordering::Relaxed);
        let written: Vec<usize> =
            writers.into_iter().map(|writer| writer.join().expect("it ends")).collect();
        assert!(answers.iter().all(|(_, answer)| !answer.is_error()), "{answers:?}");
        written
    });
    let mut client = client(&cluster);
    for (key, count) in written.into_iter().enumerate() {
        let items = client.line(&format!("LRANGE w:{key} 0 -1")).expect("a reply");
        let items: Vec<String> = items.items().expect("a list").iter().map(Value::text).collect();
        assert!(count > 0 && items == (0..count).map(|nth| nth.to_string()).collect::<Vec<_>>());
    }
}

/// Reads of `async` keys are answered by whichever member is asked, also while there is no leader; a member that
/// is cut off sends them on. Strong keys are the leader's.
#[test]
fn async_keys_are_read_where_the_client_is() {
    let mut cluster = Cluster::start(0, &[]);
    for site in ["east", "west", "north"] {
        cluster.add(&["--cluster-site", site]);
    }
    cluster.create(1, 2);
    cluster.wait_ok();
    let refused = cluster.node(0).text("POLICY SET session:* local");
    assert!(refused.contains("several sites (east north west)"), "{refused}");
    assert_eq!(cluster.node(0).text("POLICY SET log:* async"), "OK");
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let mut writer = client(&cluster);
    writer.line("SET log:1 a").expect("a reply");
    writer.line("SET stock:1 a").expect("a reply");
    let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for &node in &followers {
        cluster.wait_until("the replica answers", |cluster| {
            cluster.node(node).text("GET log:1") == "a"
        });
        assert!(cluster.node(node).text("GET stock:1").starts_with("MOVED"));
        assert!(cluster.node(node).text("SET log:1 b").starts_with("MOVED"));
        assert!(cluster.node(node).text("MGET log:1 stock:1").starts_with("CROSSSLOT"));
        assert!(cluster.node(node).text("MGET log:{a}1 stock:{a}1").starts_with("MOVED"));
        assert_eq!(explain(&cluster, node, "log:1", "class"), "async");
        assert_eq!(explain(&cluster, node, "log:1", "applied"), "1");
        assert!(explain(&cluster, node, "log:1", "read").starts_with("any member"));
        assert_eq!(explain(&cluster, node, "stock:1", "class"), "strong");
        assert_eq!(explain(&cluster, node, "stock:1", "group"), "1");
        assert_eq!(explain(&cluster, node, "stock:1", "quorum"), "2");
        assert_eq!(explain(&cluster, node, "stock:1", "sites"), "east north west");
        assert_eq!(explain(&cluster, node, "stock:1", "members").split(' ').count(), 3);
        let port = format!(":{}", cluster.node(leader).port());
        assert!(explain(&cluster, node, "stock:1", "write").ends_with(&port));
        let info = cluster.node(node).text("CLUSTER INFO");
        assert!(!info.contains("ashlar_nearest_reads:0\r"), "{info}");
    }
    // By setting they are all the leader's.
    let one = followers[0];
    assert_eq!(cluster.node(one).text("CONFIG SET cluster-async-reads leader"), "OK");
    assert!(cluster.node(one).text("GET log:1").starts_with("MOVED"));
    assert_eq!(cluster.node(one).text("CONFIG SET cluster-async-reads nearest"), "OK");
    // From the moment that the leader is gone until another one is there, and after it.
    cluster.kill(leader);
    let since = Instant::now();
    let mut reads = 0;
    loop {
        for &node in &followers {
            assert_eq!(cluster.node(node).text("GET log:1"), "a", "after {:?}", since.elapsed());
        }
        reads += 1;
        let new = cluster.leader_of(0, one);
        if new.is_some_and(|new| new != leader) {
            break;
        }
        assert!(since.elapsed().as_secs() < 30, "nobody leads");
    }
    assert!(reads > 1);
    cluster.restart(leader);
    cluster.wait_ok();
    let leader = cluster.leader_of(0, 0).expect("a leader");
    let one = (0..3).find(|node| *node != leader).expect("there are three");
    cluster.wait_until("the replica answers", |cluster| cluster.node(one).text("GET log:1") == "a");
    cluster.isolate(one);
    cluster.wait_until("the node that is cut off answers no more", |cluster| {
        let answer = cluster.node(one).text("GET log:1");
        assert!(answer == "a" || answer.starts_with("MOVED") || answer.starts_with("CLUSTERDOWN"));
        answer != "a"
    });
    let info = cluster.node(one).text("CLUSTER INFO");
    assert!(!info.contains("ashlar_nearest_reads_sent_on:0\r"), "{info}");
    cluster.heal();
    cluster.wait_until("it does again", |cluster| cluster.node(one).text("GET log:1") == "a");
}
