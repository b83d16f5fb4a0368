//! Clusters as sites: two of them and a single server write the same keys at once, while nodes die, the sites are cut
//! apart and slots move. Soon after the last write all show the same, and counters are exact.

use super::policies::client;
use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::{ClusterClient, Outcome};
use ashlar_tests::process::Server;
use ashlar_tests::proxy::Proxy;
use ashlar_tests::resp::{Client, Value, words};
use std::time::{Duration, Instant};

/// Longest wait until sites show the same; far more than it takes.
const WAIT: Duration = Duration::from_secs(60);

/// A client of one site.
enum At {
    Cluster(ClusterClient),
    Server(Client),
}

impl At {
    /// Runs a line until it is known to have run; of a line that may have run already, once more.
    fn line(&mut self, line: &str) -> Value {
        let reply = match self {
            At::Cluster(client) => loop {
                match client.call(&words(line)) {
                    Outcome::Reply(Value::Error(text)) if text.starts_with(b"UNCERTAIN") => {}
                    Outcome::Reply(reply) => break reply,
                    Outcome::Unknown => {}
                    Outcome::NotRun => panic!("{line}: nobody runs it"),
                }
            },
            At::Server(client) => client.line(line).expect("a reply"),
        };
        assert!(!reply.is_error(), "{line}: {reply:?}");
        reply
    }

    fn text(&mut self, line: &str) -> String {
        format!("{:?}", self.line(line))
    }
}

fn ok(client: &mut Client, line: &str) {
    let reply = client.line(line).expect("a reply");
    assert!(!reply.is_error(), "{line}: {reply:?}");
}

/// Every type, on keys that all sites write; with counters, whose lines are not to be run twice.
fn write(at: &mut At, site: usize, round: usize) {
    for line in [
        format!("SET g:k{} {site}-{round}", round % 7),
        format!("HSET g:h f{} {site} own{site} {round}", round % 5),
        format!("SADD g:s {site}-{round}"),
        format!("SREM g:s {site}-{}", round / 2),
        format!("ZADD g:z {round} m{}", round % 5),
        format!("SET local:{round} {site}"),
    ] {
        at.line(&line);
    }
    if round.is_multiple_of(11) {
        at.line(&format!("DEL g:k{}", round % 7));
    }
}

/// Those that count: only while nobody dies, as a line that may have run is run again.
fn count(at: &mut At, site: usize, round: usize) {
    for line in [
        "INCRBY g:count 3".to_string(),
        "HINCRBY g:counts f 2".to_string(),
        "ZINCRBY g:scores 1 m".to_string(),
        format!("RPUSH g:l {site}-{round}"),
        format!("XADD g:x * site {site}"),
        format!("PFADD g:p {site}-{round}"),
    ] {
        at.line(&line);
    }
}

const LOOKS: [&str; 15] = [
    "GET g:k0",
    "GET g:k1",
    "GET g:k2",
    "GET g:k3",
    "GET g:k4",
    "GET g:count",
    "HGET g:counts f",
    "ZSCORE g:scores m",
    "LRANGE g:l 0 -1",
    "XRANGE g:x - +",
    "ZRANGE g:z 0 -1 WITHSCORES",
    "PFCOUNT g:p",
    "SCARD g:s",
    "HLEN g:h",
    "HGET g:h own0",
];

/// Waits until all sites show the same.
fn settle(sites: &mut [At]) {
    let since = Instant::now();
    loop {
        let shown: Vec<Vec<String>> = sites
            .iter_mut()
            .map(|site| {
                let mut members: Vec<String> = match site.line("SMEMBERS g:s") {
                    Value::Array(members) => members.iter().map(Value::text).collect(),
                    other => vec![other.text()],
                };
                members.sort_unstable();
                LOOKS.iter().map(|look| site.text(look)).chain([members.join(" ")]).collect()
            })
            .collect();
        if shown.iter().all(|one| *one == shown[0]) {
            return;
        }
        let differ =
            (0..shown[0].len()).find(|at| shown.iter().any(|one| one[*at] != shown[0][*at]));
        let of: Vec<&String> = shown.iter().map(|one| &one[differ.unwrap_or(0)]).collect();
        assert!(since.elapsed() < WAIT, "look {differ:?} is not the same: {of:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < WAIT, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn info(client: &mut Client, name: &str) -> String {
    let info = client.line("INFO sites").expect("a reply").text();
    let found = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    found.unwrap_or_default().to_string()
}

/// Tells each cluster of the others. Links to the single server go through proxies.
fn introduce(clusters: &[Cluster], server: &Server) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    let mut here = server.client();
    ok(&mut here, "POLICY SET g:* global");
    for (nth, cluster) in clusters.iter().enumerate() {
        cluster.wait_ok();
        let mut node = cluster.node(0).client();
        // A key from before.
        let mut writer = client(cluster);
        writer.line(&format!("SADD g:s early{nth}")).expect("a reply");
        ok(&mut node, &format!("CLUSTER ASHLAR SET site-id {}", nth + 1));
        ok(&mut node, "POLICY SET g:* global");
        ok(&mut node, "POLICY SET session:* local");
        ok(&mut node, "POLICY SET log:* async");
        let proxy = Proxy::to(server.port());
        ok(&mut node, &format!("SITE ADD single 127.0.0.1 {}", proxy.port));
        proxies.push(proxy);
        for (other, peer) in clusters.iter().enumerate().filter(|(other, _)| *other != nth) {
            ok(&mut node, &format!("SITE ADD c{other} 127.0.0.1 {}", peer.node(1).port()));
        }
        ok(&mut here, &format!("SITE ADD c{nth} 127.0.0.1 {}", cluster.node(1).port()));
    }
    proxies
}

/// One system with all four classes: strong, local, async and global keys in the same clusters; and the single server
/// beside them.
#[test]
fn clusters_and_a_server_are_the_same_soon_after_the_last_write() {
    let mut clusters = vec![
        Cluster::created(3, 2, 2, &["--down-after-milliseconds", "2500"]),
        Cluster::created(3, 3, 2, &["--down-after-milliseconds", "2500"]),
    ];
    let server = Server::ashlar(&["--appendonly", "yes", "--site-id", "3"]);
    let proxies = introduce(&clusters, &server);
    let mut sites: Vec<At> = clusters.iter().map(|cluster| At::Cluster(client(cluster))).collect();
    sites.push(At::Server(server.client()));
    let mut rounds = 0;
    let mut some = |sites: &mut [At], counts: bool| {
        for _ in 0..40 {
            rounds += 1;
            for (nth, site) in sites.iter_mut().enumerate() {
                write(site, nth, rounds);
                if counts {
                    count(site, nth, rounds);
                }
            }
        }
    };
    some(&mut sites, true);
    settle(&mut sites);
    assert_eq!(sites[0].line("GET g:count").text(), (3 * 3 * 40).to_string());
    assert_eq!(sites[0].line("SISMEMBER g:s early1"), Value::Int(1));
    assert_eq!(sites[2].line("SISMEMBER g:s early0"), Value::Int(1));
    // Keys of other classes stay where they are.
    for (nth, site) in sites[..2].iter_mut().enumerate() {
        for key in ["session:1", "log:1", "stock:1"] {
            site.line(&format!("SET {key} {nth}"));
        }
    }
    for key in ["session:1", "log:1", "stock:1", "local:1"] {
        assert_ne!(
            sites[0].text(&format!("GET {key}")),
            sites[1].text(&format!("GET {key}")),
            "{key}"
        );
    }

    // The server is cut off, and slots of both clusters move meanwhile.
    proxies.iter().for_each(Proxy::shut);
    let mut moved = 0;
    for cluster in &clusters {
        let mut node = cluster.node(0).client();
        for key in ["g:s", "g:count", "g:l"] {
            let slot = ashlar_engine::slot::slot_of(key.as_bytes());
            let status = node.line("CLUSTER ASHLAR STATUS").expect("a reply").text();
            let groups = status.lines().filter(|line| line.starts_with("group=")).count().max(2);
            for group in 1..=groups {
                // To one of them, where it is not yet.
                let reply = node.line(&format!("CLUSTER ASHLAR MOVE {slot} {slot} {group}"));
                if !reply.expect("a reply").is_error() {
                    moved += 1;
                    break;
                }
            }
        }
    }
    assert_eq!(moved, 6, "each cluster moves three slots");
    some(&mut sites, true);
    for cluster in &clusters {
        cluster.wait_until("the moves end", |cluster| {
            let status =
                cluster.node(0).client().line("CLUSTER ASHLAR STATUS").expect("a reply").text();
            !status.lines().any(|line| line.starts_with("move"))
        });
    }
    some(&mut sites, true);
    proxies.iter().for_each(Proxy::open);
    settle(&mut sites);
    assert_eq!(sites[2].line("GET g:count").text(), (3 * 3 * 120).to_string());

    // A node dies, and comes back.
    for (nth, victim) in [(0, 1), (1, 2)] {
        clusters[nth].kill(victim);
        some(&mut sites, false);
        settle(&mut sites);
        clusters[nth].restart(victim);
        clusters[nth].wait_ok();
    }
    some(&mut sites, true);
    settle(&mut sites);
    assert_eq!(sites[1].line("GET g:count").text(), (3 * 3 * 160).to_string());

    // What was removed is forgotten once all know it.
    let node_of = |clusters: &[Cluster], at: usize, node: usize| clusters[at].node(node).client();
    wait("removals are forgotten", || {
        let of =
            |at: usize, node: usize| info(&mut node_of(&clusters, at, node), "site_keys_to_forget");
        (0..2).all(|at| (0..3).all(|node| of(at, node) == "0"))
            && info(&mut server.client(), "site_keys_to_forget") == "0"
    });
    // All nodes of a cluster start again, from their logs and snapshots.
    for node in 0..3 {
        clusters[0].stop(node);
    }
    for node in 0..3 {
        clusters[0].restart(node);
    }
    clusters[0].wait_ok();
    some(&mut sites, true);
    settle(&mut sites);
    assert_eq!(sites[0].line("GET g:count").text(), (3 * 3 * 200).to_string());
}
