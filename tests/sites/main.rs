//! Sites as real daemons: every type written at all of them at once, links cut by a proxy, a site
//! killed. Soon after the last write all are the same, and counters are exact.

mod faults;
mod tls;

use ashlar_tests::process::Server;
use ashlar_tests::proxy::Proxy;
use ashlar_tests::resp::{Client, Value};
use std::time::{Duration, Instant};

/// Longest wait until sites are the same; far more than it takes.
const WAIT: Duration = Duration::from_secs(30);

struct Sites {
    servers: Vec<Server>,
    /// The way from each site to each other.
    links: Vec<(usize, usize, Proxy)>,
}

fn settings(id: usize) -> Vec<String> {
    let id = (id + 1).to_string();
    ["--appendonly", "yes", "--site-id", &id].map(String::from).to_vec()
}

fn start(count: usize) -> Sites {
    let servers: Vec<Server> = (0..count)
        .map(|id| {
            let settings = settings(id);
            Server::ashlar(&settings.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let mut links = Vec::new();
    for from in 0..count {
        let mut client = servers[from].client();
        line(&mut client, "POLICY SET g:* global");
        for to in (0..count).filter(|to| *to != from) {
            let proxy = Proxy::to(servers[to].port());
            line(&mut client, &format!("SITE ADD site{to} 127.0.0.1 {}", proxy.port));
            links.push((from, to, proxy));
        }
    }
    Sites { servers, links }
}

fn line(client: &mut Client, text: &str) -> Value {
    let reply = client.line(text).expect("a reply");
    assert!(!reply.is_error(), "{text}: {reply:?}");
    reply
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Int(int) => *int,
        other => other.text().parse().expect("a number"),
    }
}

/// Writes every type, on keys that all sites write.
fn write(client: &mut Client, site: usize, round: usize) {
    for text in [
        format!("SET g:k{} {site}-{round}", round % 7),
        "INCRBY g:count 3".to_string(),
        "HINCRBY g:counts f 2".to_string(),
        format!("HSET g:h f{} {site} own{site} {round}", round % 5),
        format!("SADD g:s {site}-{round}"),
        format!("SREM g:s {site}-{}", round / 2),
        format!("ZADD g:z {round} m{}", round % 5),
        "ZINCRBY g:scores 1 m".to_string(),
        format!("RPUSH g:l {site}-{round}"),
        format!("XADD g:x * site {site}"),
        format!("PFADD g:p {site}-{round}"),
        format!("SET local:{round} {site}"),
    ] {
        line(client, &text);
    }
    if round.is_multiple_of(3) {
        line(client, "LPOP g:l");
    }
    if round.is_multiple_of(11) {
        line(client, &format!("DEL g:k{}", round % 7));
    }
}

impl Sites {
    fn cut(&self, site: usize, cut: bool) {
        for (from, to, proxy) in &self.links {
            if *from == site || *to == site {
                if cut { proxy.shut() } else { proxy.open() }
            }
        }
    }

    fn field(&self, site: usize, name: &str) -> String {
        let info = line(&mut self.servers[site].client(), "INFO sites").text();
        let found = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        found.unwrap_or_default().to_string()
    }

    /// Waits until all sites know the same, and says how long that took.
    fn settle(&self) -> Duration {
        let since = Instant::now();
        loop {
            let digests: Vec<String> =
                (0..self.servers.len()).map(|site| self.field(site, "site_digest")).collect();
            if digests.iter().all(|digest| *digest == digests[0]) {
                return since.elapsed();
            }
            assert!(
                since.elapsed() < WAIT,
                "not the same: {digests:?}\n{}",
                line(&mut self.servers[0].client(), "INFO sites").text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What clients see is the same too.
    fn check(&self) {
        let looks = [
            "MGET g:k0 g:k1 g:k2 g:k3 g:k4 g:k5 g:k6 g:count",
            "LRANGE g:l 0 -1",
            "XRANGE g:x - +",
            "ZRANGE g:z 0 -1 WITHSCORES",
            "ZSCORE g:scores m",
            "HGET g:counts f",
            "PFCOUNT g:p",
            "SCARD g:s",
            "HLEN g:h",
        ];
        for look in looks {
            let first = line(&mut self.servers[0].client(), look);
            for server in &self.servers[1..] {
                assert_eq!(line(&mut server.client(), look), first, "{look}");
            }
        }
    }
}

#[test]
fn two_sites_that_were_cut_apart_are_the_same_again() {
    let sites = start(2);
    sites.settle();
    let mut clients: Vec<Client> = sites.servers.iter().map(Server::client).collect();
    for round in 0..60 {
        if round == 20 {
            sites.cut(1, true);
        }
        for (site, client) in clients.iter_mut().enumerate() {
            write(client, site, round);
        }
    }
    // A site that is cut off goes on.
    assert!(number(&line(&mut clients[1], "SCARD g:s")) > 0);
    sites.cut(1, false);
    let took = sites.settle();
    println!("the same after {took:?}");
    sites.check();
    assert_eq!(number(&line(&mut clients[0], "GET g:count")), 60 * 2 * 3);
    assert_eq!(number(&line(&mut clients[1], "HGET g:counts f")), 60 * 2 * 2);
    assert_eq!(number(&line(&mut clients[1], "ZSCORE g:scores m")), 60 * 2);
    assert_eq!(number(&line(&mut clients[1], "XLEN g:x")), 60 * 2);
    assert!(number(&line(&mut clients[0], "CONFLICTS COUNT")) > 0, "SETs met each other");
    let listed = line(&mut clients[0], "CONFLICTS LIST 2");
    assert_eq!(listed.items().map(<[Value]>::len), Some(2));
    // Keys of other classes stay where they are, and have no state.
    assert_eq!(line(&mut clients[0], "GET local:0").text(), "0");
    assert_eq!(line(&mut clients[1], "GET local:0").text(), "1");
}

#[test]
fn three_sites_survive_a_kill() {
    let mut sites = start(3);
    sites.settle();
    for round in 0..40 {
        if round == 20 {
            // It comes back under another port: the others reach it through their proxies.
            let settings = settings(2);
            sites.servers[2].signal("KILL");
            sites.servers[2].reap();
            sites.servers[2].restart(&settings.iter().map(String::as_str).collect::<Vec<_>>());
            let port = sites.servers[2].port();
            for from in 0..2 {
                let mut client = sites.servers[from].client();
                line(&mut client, &format!("SITE ADD site2 127.0.0.1 {port}"));
            }
        }
        for site in 0..3 {
            write(&mut sites.servers[site].client(), site, round);
        }
    }
    sites.settle();
    sites.check();
    let mut client = sites.servers[2].client();
    assert_eq!(number(&line(&mut client, "GET g:count")), 40 * 3 * 3);
    assert_eq!(number(&line(&mut client, "ZSCORE g:scores m")), 40 * 3);
    assert_eq!(number(&line(&mut client, "XLEN g:x")), 40 * 3);
}

#[test]
fn a_backup_follows_until_it_is_promoted() {
    let sites = start(1);
    let mut client = sites.servers[0].client();
    line(&mut client, "SET g:k v");
    let backup = Server::ashlar(&["--appendonly", "yes", "--site-id", "9", "--site-backup", "yes"]);
    let mut other = backup.client();
    line(&mut other, "POLICY SET g:* global");
    line(&mut client, &format!("SITE ADD backup 127.0.0.1 {}", backup.port()));
    line(&mut other, &format!("SITE ADD main 127.0.0.1 {}", sites.servers[0].port()));
    let since = Instant::now();
    while line(&mut other, "GET g:k").text() != "v" {
        assert!(since.elapsed() < WAIT, "{}", line(&mut other, "INFO sites").text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = other.line("SET g:k w").expect("a reply");
    assert!(refused.text().starts_with("READONLY"), "{refused:?}");
    line(&mut other, "SET mine w");
    line(&mut other, "SITE PROMOTE");
    line(&mut other, "SET g:k w");
    while line(&mut client, "GET g:k").text() != "w" {
        assert!(since.elapsed() < WAIT, "{}", line(&mut client, "INFO sites").text());
        std::thread::sleep(Duration::from_millis(20));
    }
}
