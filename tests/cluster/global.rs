//! A cluster as one site among others: its number, the other sites, keys of the class `global`.

use super::policies::{client, explain};
use ashlar_tests::cluster::Cluster;
use ashlar_tests::process::{ashlar_binary, free_port, temporary_dir};
use ashlar_tests::resp::Value;
use std::process::Command;

/// A reply on one line.
fn flat(reply: &Value) -> String {
    match reply {
        Value::Int(number) => number.to_string(),
        Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(" "),
        other => other.text(),
    }
}

fn ask(cluster: &Cluster, node: usize, line: &str) -> String {
    flat(&cluster.node(node).client().line(line).expect("a reply"))
}

fn assert_refused(cluster: &Cluster, refusals: &[(&str, &str)]) {
    for (line, reason) in refusals {
        let refused = ask(cluster, 1, line);
        assert!(refused.starts_with("ERR ") && refused.contains(reason), "{line}: {refused}");
    }
}

/// Keys are `global` only once the cluster has a number among the sites, which it keeps. EXPLAIN tells where their
/// requests go.
#[test]
fn keys_are_global_once_the_cluster_has_a_number() {
    let cluster = Cluster::created(3, 3, 2, &["--cluster-site", "east"]);
    cluster.wait_ok();
    assert_refused(
        &cluster,
        &[
            ("POLICY SET g:* global", "CLUSTER ASHLAR SET site-id"),
            ("SITE ID", "CLUSTER ASHLAR SET site-id"),
            ("SITE GROUPS", "CLUSTER ASHLAR SET site-id"),
            ("SITE ADD west 127.0.0.1 1", "CLUSTER ASHLAR SET site-id"),
            ("CLUSTER ASHLAR SET site-id 0", "from 1 to 255"),
            ("CLUSTER ASHLAR SET site-id 256", "from 1 to 255"),
            ("CLUSTER ASHLAR SET site-id x", "from 1 to 255"),
        ],
    );
    assert_eq!(ask(&cluster, 0, "CLUSTER ASHLAR SET site-id 7"), "OK");
    assert_eq!(ask(&cluster, 1, "POLICY SET g:* global TTL 500"), "OK");
    assert_refused(
        &cluster,
        &[
            ("CLUSTER ASHLAR SET site-id 8", "is site 7 for good"),
            ("POLICY SET h:* global TIER cold", "no tier cold"),
        ],
    );
    let port = free_port().expect("a port");
    assert_eq!(ask(&cluster, 2, &format!("SITE ADD west 127.0.0.1 {port}")), "OK");
    let mut client = client(&cluster);
    for nth in 0..20 {
        client.line(&format!("SET g:{nth} {nth}")).expect("a reply");
        assert_eq!(
            client.line(&format!("GET g:{nth}")).expect("a reply"),
            Value::bulk(nth.to_string())
        );
    }
    let leader = cluster.leader_of(ashlar_engine::slot::slot_of(b"g:1"), 0).expect("a leader");
    let follower = (0..3).find(|node| *node != leader).expect("there are three");
    assert!(ask(&cluster, follower, "GET g:1").starts_with("MOVED"));
    cluster.wait_until("all nodes know the site", |cluster| {
        (0..3).all(|node| ask(cluster, node, "SITE LIST").contains("west"))
    });
    let place = format!("127.0.0.1:{}", cluster.node(leader).port());
    for node in 0..3 {
        let told = |name| explain(&cluster, node, "g:1", name);
        assert_eq!((told("class"), told("sites")), ("global".into(), "west".into()));
        assert_eq!((told("quorum"), told("applied")), ("2".into(), "1".into()));
        assert_eq!(told("members").split(' ').count(), 3);
        assert!(["1", "2", "3"].contains(&told("group").as_str()));
        assert_eq!(
            (told("write"), told("read")),
            (place.clone(), format!("{place}, which asks nobody"))
        );
        assert_eq!(explain(&cluster, node, "other", "sites"), "east");
    }
}

/// All nodes have the same sites, also after a restart of each; a site that is taken out is gone everywhere.
#[test]
fn all_nodes_have_the_same_sites() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    for line in [
        "CLUSTER ASHLAR SET site-name east",
        "CLUSTER ASHLAR SET site-backup yes",
        "CLUSTER ASHLAR SET site-id 7",
        "SITE ADD west 127.0.0.1 1",
        "SITE ADD north 127.0.0.1 2",
    ] {
        assert_eq!(ask(&cluster, 0, line), "OK", "{line}");
    }
    assert_refused(
        &cluster,
        &[
            ("CLUSTER ASHLAR SET site-name west", "named east already"),
            ("CLUSTER ASHLAR SET site-backup maybe", "yes or no"),
            ("CLUSTER ASHLAR SET site-color blue", "site-writes, site-loss, site-id"),
            ("SITE ADD a,b 127.0.0.1 1", "commas"),
            ("SITE ADD south 127.0.0.1 65536", "Invalid port"),
            ("SITE REMOVE south", "no such site"),
        ],
    );
    let list = |sites: &[(&str, u16)]| {
        let entry =
            |(name, port): &(&str, u16)| format!("name {name} id 0 host 127.0.0.1 port {port}");
        sites.iter().map(entry).collect::<Vec<_>>().join(" ")
    };
    let agree = |cluster: &Cluster, sites: &[(&str, u16)], backup: &str| {
        let settings = [
            "setting=site-id value=7\n".to_owned(),
            "setting=site-name value=east\n".to_owned(),
            format!("setting=site-backup value={backup}\n"),
        ];
        cluster.wait_until("all nodes have the sites", |cluster| {
            (0..3).all(|node| {
                let status = ask(cluster, node, "CLUSTER ASHLAR STATUS");
                ask(cluster, node, "SITE LIST") == list(sites)
                    && ask(cluster, node, "SITE ID") == "7"
                    && settings.iter().all(|setting| status.contains(setting))
            })
        });
    };
    agree(&cluster, &[("north", 2), ("west", 1)], "yes");
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster.wait_ok();
    agree(&cluster, &[("north", 2), ("west", 1)], "yes");
    assert_eq!(ask(&cluster, 2, "SITE PROMOTE"), "OK");
    assert_eq!(ask(&cluster, 1, "SITE REMOVE north"), "OK");
    agree(&cluster, &[("west", 1)], "no");
    // Each group is a site: its number, and its leader.
    cluster.wait_until("the leaders are told", |cluster| {
        let groups = ask(cluster, 0, "SITE GROUPS");
        let slots = ["1", "2", "3"].map(|group| {
            let status = ask(cluster, 0, "CLUSTER ASHLAR STATUS");
            let line = status.lines().find(|line| line.starts_with(&format!("group={group} ")));
            let leader = line.and_then(|line| line.split("leader=").nth(1)?.split(' ').next());
            leader.and_then(|leader| leader.parse::<usize>().ok())
        });
        let wanted: Option<Vec<String>> = (1..4)
            .zip(slots)
            .map(|(group, leader)| {
                let port = cluster.node(leader? - 1).port();
                Some(format!("{} 127.0.0.1 {port}", 256 * group + 7))
            })
            .collect();
        wanted.is_some_and(|wanted| wanted.join(" ") == groups)
    });
}

/// A backup takes no writes on global keys, whichever way they come, until it is promoted; all others it does.
#[test]
fn a_backup_takes_no_writes_on_global_keys() {
    let cluster = Cluster::created(3, 1, 2, &[]);
    cluster.wait_ok();
    for line in [
        "CLUSTER ASHLAR SET site-id 7",
        "CLUSTER ASHLAR SET site-backup yes",
        "POLICY SET g:* global",
    ] {
        assert_eq!(ask(&cluster, 0, line), "OK", "{line}");
    }
    let mut client = cluster.node(cluster.leader_of(0, 0).expect("a leader")).client();
    let mut say = |line: &str| flat(&client.line(line).expect("a reply"));
    let refused = "READONLY This site is a backup";
    for line in [
        "SET g:1 x",
        "BLPOP g:list 0.01",
        "EVAL return{redis.call('SET',KEYS[1],1)} 1 g:1",
        "FLUSHALL",
    ] {
        let reply = say(line);
        assert!(reply.contains(refused), "{line}: {reply}");
    }
    assert_eq!((say("MULTI"), say("INCR g:1")), ("OK".into(), "QUEUED".into()));
    let reply = say("EXEC");
    assert!(reply.contains(refused), "{reply}");
    assert_eq!((say("EXISTS g:1"), say("SET other 1")), ("0".into(), "OK".into()));
    assert_eq!(say("SITE PROMOTE"), "OK");
    assert_eq!((say("SET g:1 x"), say("FLUSHALL")), ("OK".into(), "OK".into()));
}

/// A group that has no leader while the cluster becomes a site takes the table of sites and the rules once it has
/// one; the answers name it.
#[test]
fn a_group_that_is_away_becomes_a_site_later() {
    let mut cluster = Cluster::created(3, 3, 0, &[]);
    cluster.wait_ok();
    let away = cluster.leader_of(16_383, 0).expect("a leader");
    let asked = (0..3).find(|node| *node != away).expect("there are three");
    cluster.kill(away);
    for line in ["CLUSTER ASHLAR SET site-id 7", "POLICY SET g:* global"] {
        let answer = ask(&cluster, asked, line);
        let refused = "TRYAGAIN the cluster has made the change, but these groups have not taken it over yet: 3.";
        assert!(answer.starts_with(refused), "{line}: {answer}");
    }
    cluster.wait_until("its leader counts as silent", |cluster| {
        ask(cluster, asked, "SITE GROUPS").ends_with("775  0")
    });
    cluster.restart(away);
    cluster.wait_ok();
    let key = (0..).map(|nth| format!("g:{nth}"));
    let mut key = key.filter(|key| ashlar_engine::slot::slot_of(key.as_bytes()) > 16_000);
    let key = key.next().expect("a key of the group");
    cluster.wait_until("the group has the rules", |cluster| {
        explain(cluster, away, &key, "applied") == "1"
    });
    assert_eq!(ask(&cluster, away, &format!("SET {key} x")), "OK");
}

/// A node is no site by itself: its configuration is refused at the start, with the command to use. So is that of a
/// single server that was one.
#[test]
fn a_node_is_no_site_by_itself() {
    for (setting, value) in [("site-id", "3"), ("site-name", "east"), ("site-backup", "yes")] {
        let dir = temporary_dir().expect("a directory");
        let (name, port) = (format!("--{setting}"), free_port().expect("a port").to_string());
        let mut command = Command::new(ashlar_binary());
        command.arg("--dir").arg(&dir).args(["--port", &port, "--cluster-enabled", "yes"]);
        let output = command.args([&name, value, "--appendonly", "yes"]).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&format!("CLUSTER ASHLAR SET {setting}")), "{said}");
        drop(std::fs::remove_dir_all(dir));
    }
}
