//! Sites that are taken out, that are full, whose values are on disk, that come back from a snapshot, that have
//! lost something, and that have a clock which is wrong.

use crate::{Sites, WAIT, line, number, settings, start, write};
use ashlar_replication::sites::codec::{Batch, Item};
use ashlar_replication::sites::element::Element;
use ashlar_server::sites::link::VERSION;
use ashlar_tests::ask::info;
use ashlar_tests::ask::wait_within;
use ashlar_tests::process::{Server, free_port, temporary_dir};
use ashlar_tests::resp::{Client, Value};
use std::path::Path;
use std::time::Duration;

fn wait_for(what: &str, is: impl FnMut() -> bool) {
    wait_within(WAIT, what, is);
}

fn words(client: &mut Client, words: &[&[u8]]) -> Value {
    client.call(words).expect("a reply")
}

impl Sites {
    fn all_same(&self) -> bool {
        let digests: Vec<String> =
            (0..self.servers.len()).map(|site| self.field(site, "site_digest")).collect();
        digests.iter().all(|digest| *digest == digests[0])
    }

    fn kill_and_restart(&mut self, site: usize, more: &[&str]) {
        let settings = settings(site);
        let settings: Vec<&str> =
            settings.iter().map(String::as_str).chain(more.to_vec()).collect();
        self.servers[site].signal("KILL");
        self.servers[site].reap();
        self.servers[site].restart(&settings);
    }

    /// Tells the others where a site listens since it was restarted.
    fn move_to(&self, site: usize) {
        let port = self.servers[site].port();
        for (from, _, _) in self.links.iter().filter(|(from, to, _)| *to == site && *from != site) {
            let mut client = self.servers[*from].client();
            line(&mut client, &format!("SITE ADD site{site} 127.0.0.1 {port}"));
        }
    }
}

/// What is removed is remembered for a site that is away; once that is taken out, nobody waits for it.
#[test]
fn nobody_waits_for_a_site_that_was_taken_out() {
    let sites = start(3);
    sites.settle();
    let mut client = sites.servers[0].client();
    for nth in 0..50 {
        line(&mut client, &format!("SADD g:s {nth}"));
    }
    sites.settle();
    sites.cut(2, true);
    for nth in 0..50 {
        line(&mut client, &format!("SREM g:s {nth}"));
    }
    wait_for("the second site hears of the removals", || {
        number(&line(&mut sites.servers[1].client(), "SCARD g:s")) == 0
    });
    // Beats and rounds of forgetting pass, and the removals are still remembered.
    let beats = || sites.field(0, "site_link0").contains("state=up");
    wait_for("the other link is up", beats);
    std::thread::sleep(Duration::from_secs(1));
    assert_ne!(sites.field(0, "site_keys_to_forget"), "0", "one site has not heard of them");
    for site in 0..2 {
        line(&mut sites.servers[site].client(), "SITE REMOVE site2");
    }
    for site in 0..2 {
        wait_for("the removals are forgotten", || {
            sites.field(site, "site_keys_to_forget") == "0" && sites.field(site, "site_keys") == "0"
        });
        assert_eq!(sites.field(site, "site_links"), "1");
    }
    // The two that are left go on.
    line(&mut client, "SADD g:s again");
    wait_for("they go on", || number(&line(&mut sites.servers[1].client(), "SCARD g:s")) == 1);
}

/// A site whose memory is full takes what the others send, and evicts no key that they have.
#[test]
fn a_site_that_is_full_takes_what_others_send_and_evicts_none_of_it() {
    let sites = start(2);
    sites.settle();
    let mut clients: Vec<Client> = sites.servers.iter().map(Server::client).collect();
    for nth in 0..200 {
        line(&mut clients[1], &format!("SET g:k{nth} {nth}"));
        line(&mut clients[1], &format!("SET local:{nth} {nth}"));
    }
    sites.settle();
    line(&mut clients[1], "CONFIG SET maxmemory-policy allkeys-random");
    line(&mut clients[1], "CONFIG SET maxmemory 1");
    // There is never enough: local keys go until none is left, then writes are refused.
    wait_for("writes are refused", || {
        let reply = clients[1].line("SET local:more 1").expect("a reply");
        reply.text().starts_with("OOM")
    });
    let keys = line(&mut clients[1], "KEYS g:*");
    assert_eq!(keys.items().map(<[Value]>::len), Some(200), "global keys stay");
    // The choice is by samples: a few that are hard to find may be left.
    let left = line(&mut clients[1], "KEYS local:*").items().map_or(0, <[Value]>::len);
    assert!(left < 100, "{left} keys of this site alone are left");
    for nth in 0..200 {
        line(&mut clients[0], &format!("SET g:new{nth} {nth}"));
        line(&mut clients[0], "INCR g:n");
    }
    sites.settle();
    assert_eq!(line(&mut clients[1], "GET g:n").text(), "200");
    assert_eq!(line(&mut clients[1], "GET g:new7").text(), "7");
    assert_eq!(line(&mut clients[0], "GET g:k7").text(), "7", "nothing was removed elsewhere");
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        line(&mut clients[1], &format!("CONFIG SET maxmemory-policy {policy}"));
        for nth in 0..10 {
            // It takes the place of another local key, or there is none.
            let reply = clients[1].line(&format!("SET local:more{nth} 1")).expect("a reply");
            assert!(["OK", "OOM"].iter().any(|start| reply.text().starts_with(start)), "{reply:?}");
        }
        let keys = line(&mut clients[1], "KEYS g:*");
        assert_eq!(keys.items().map(<[Value]>::len), Some(401), "{policy}: global keys stay");
    }
    line(&mut clients[1], "CONFIG SET maxmemory 0");
    line(&mut clients[1], "SET g:last 1");
    sites.settle();
    sites.check();
}

/// Values that have left memory are merged as any other.
#[test]
fn a_key_whose_value_is_on_disk_is_merged() {
    let mut sites = start(2);
    let cold = ["--cold-store", "sled", "--cold-threshold", "1"];
    sites.kill_and_restart(1, &cold);
    sites.move_to(1);
    sites.settle();
    let mut clients: Vec<Client> = sites.servers.iter().map(Server::client).collect();
    let long = "v".repeat(3_000);
    for nth in 0..20 {
        line(&mut clients[1], &format!("HSET g:h{nth} f {long} n 1"));
        line(&mut clients[1], &format!("SET g:t{nth} {long}"));
    }
    sites.settle();
    let cold_keys = |client: &mut Client| {
        let text = line(client, "INFO tiers").text();
        let found = text.lines().find_map(|line| line.strip_prefix("tier_cold_keys:"));
        found.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    wait_for("values leave memory", || cold_keys(&mut clients[1]) >= 40);
    for nth in 0..20 {
        line(&mut clients[0], &format!("HINCRBY g:h{nth} n 2"));
        line(&mut clients[0], &format!("HSET g:h{nth} other {nth}"));
        line(&mut clients[0], &format!("APPEND g:t{nth} !"));
    }
    sites.settle();
    for client in &mut clients {
        for nth in 0..20 {
            assert_eq!(line(client, &format!("HGET g:h{nth} n")).text(), "3");
            assert_eq!(line(client, &format!("HGET g:h{nth} f")).text(), long);
            assert_eq!(line(client, &format!("HGET g:h{nth} other")).text(), nth.to_string());
            assert_eq!(line(client, &format!("STRLEN g:t{nth}")), Value::Int(3_001));
        }
    }
}

/// What a site knows of its keys outlives a snapshot that lets go of the log before it, and a kill; a
/// removal that it knows of is not undone by a site that has not heard of it.
#[test]
fn a_snapshot_keeps_what_sites_know() {
    let mut sites = start(2);
    sites.settle();
    let mut clients: Vec<Client> = sites.servers.iter().map(Server::client).collect();
    for round in 0..20 {
        for (site, client) in clients.iter_mut().enumerate() {
            write(client, site, round);
        }
    }
    line(&mut clients[0], "SADD g:members a b c");
    sites.settle();
    sites.cut(1, true);
    line(&mut clients[0], "SREM g:members a");
    line(&mut clients[0], "INCRBY g:count 1000");
    line(&mut clients[1], "INCRBY g:count 500");
    line(&mut clients[0], "SAVE");
    line(&mut clients[0], "HINCRBY g:counts f 7");
    let before = sites.field(0, "site_digest");
    drop(clients);
    sites.kill_and_restart(0, &[]);
    assert_eq!(sites.field(0, "site_digest"), before, "it knows what it knew");
    sites.move_to(0);
    sites.cut(1, false);
    sites.settle();
    sites.check();
    for server in &sites.servers {
        let mut client = server.client();
        assert_eq!(number(&line(&mut client, "GET g:count")), 20 * 2 * 3 + 1_500);
        assert_eq!(number(&line(&mut client, "HGET g:counts f")), 20 * 2 * 2 + 7);
        assert_eq!(line(&mut client, "SISMEMBER g:members a"), Value::Int(0), "it stays removed");
    }
}

/// A site of the other's list, played by the test: what it sends is merged.
struct Impostor {
    client: Client,
    session: Vec<u8>,
    known: u64,
}

const IMPOSTOR: u16 = 9;

impl Impostor {
    fn at(server: &Server) -> Impostor {
        // The server learns the number of a site from that site itself.
        let real = Server::ashlar(&["--appendonly", "yes", "--site-id", "9"]);
        let mut client = server.client();
        line(&mut client, &format!("SITE ADD impostor 127.0.0.1 {}", real.port()));
        let id = format!("{:?}", Value::Int(IMPOSTOR.into()));
        wait_for("it is known", || format!("{:?}", line(&mut client, "SITE LIST")).contains(&id));
        drop(real);
        let hello = line(&mut client, &format!("SITE HELLO {VERSION} {IMPOSTOR} impostor")).text();
        let words: Vec<&str> = hello.split(' ').collect();
        let known = words[2].parse().expect("a stamp");
        Impostor { client, session: words[1].as_bytes().to_vec(), known }
    }

    fn send(&mut self, to: u64, items: Vec<Item>) -> Value {
        let batch = Batch { from: self.known, to, items, ..Batch::default() };
        let id = IMPOSTOR.to_string();
        let bytes = batch.encode();
        let merge: [&[u8]; 5] = [b"SITE", b"MERGE", id.as_bytes(), &self.session, &bytes];
        let reply = words(&mut self.client, &merge);
        if !reply.is_error() {
            self.known = self.known.max(to);
        }
        reply
    }
}

fn string(key: &[u8], site: u16, stamp: u64, value: &[u8]) -> Item {
    let element = Element::written(site, stamp, Some(value.into()));
    Item { key: key.to_vec(), name: vec![0], element }
}

/// One site knows of a write that the other, which made it, has lost: nothing that is sent in the
/// ordinary way would tell. The digests do, and it is sent again.
#[test]
fn what_differs_is_found_by_digests_and_sent_again() {
    let sites = start(2);
    let mut client = sites.servers[0].client();
    line(&mut client, "SET g:other 1");
    sites.settle();
    let mut impostor = Impostor::at(&sites.servers[0]);
    let stamp = 1_000 << 16;
    // What it sends first, as a site that is new there, would be taken for something that was removed and forgotten.
    assert_eq!(impostor.send(1, Vec::new()), Value::Simple(b"OK".to_vec()));
    let lost = string(b"g:lost", 2, stamp, b"found");
    assert_eq!(impostor.send(impostor.known, vec![lost]), Value::Simple(b"OK".to_vec()));
    assert_eq!(line(&mut client, "GET g:lost").text(), "found");
    assert!(!sites.all_same(), "the other one lacks it");
    assert_eq!(line(&mut sites.servers[1].client(), "EXISTS g:lost"), Value::Int(0));
    let took = sites.settle();
    println!("repaired after {took:?}");
    assert_eq!(line(&mut sites.servers[1].client(), "GET g:lost").text(), "found");
    let repairs = |site: usize| {
        let links = (0..2).map(|link| sites.field(site, &format!("site_link{link}")));
        links.filter(|link| link.contains("repairs=") && !link.contains("repairs=0")).count()
    };
    assert!(repairs(0) + repairs(1) > 0, "it was sent again as digests differed");
}

/// What a site stamps whose clock is far ahead is refused by name, and taken once the bound allows it.
#[test]
fn a_clock_that_is_far_ahead_is_refused_by_name() {
    let sites = start(1);
    let mut client = sites.servers[0].client();
    line(&mut client, "SET g:k now");
    let mut impostor = Impostor::at(&sites.servers[0]);
    let now_s = number(&line(&mut client, "TIME").items().expect("two numbers")[0]) as u64;
    let stamp_in = |seconds: u64| ((now_s + seconds) * 1_000) << 16;
    let far = |impostor: &mut Impostor, seconds: u64| {
        let stamp = stamp_in(seconds);
        let at = impostor.known;
        impostor.send(at, vec![string(b"g:k", IMPOSTOR, stamp, b"then")])
    };
    let refused = far(&mut impostor, 3 * 86_400);
    assert!(refused.text().starts_with("SITECLOCK"), "{refused:?}");
    let refused = impostor.send(stamp_in(3 * 86_400), Vec::new());
    assert!(refused.text().starts_with("SITECLOCK"), "{refused:?}");
    assert_eq!(sites.field(0, "site_clock_refused"), "2");
    assert_eq!(line(&mut client, "GET g:k").text(), "now");
    line(&mut client, "SET g:k later");
    let ahead_ms: u64 = sites.field(0, "site_clock_ahead_ms").parse().expect("a number");
    assert!(ahead_ms < 60_000, "the clock here was not taken along");
    line(&mut client, "CONFIG SET site-clock-drift 864000");
    assert!(!far(&mut impostor, 3 * 86_400).is_error());
    assert_eq!(line(&mut client, "GET g:k").text(), "then");
}

/// A site of another release is told so by name, instead of digests that never agree.
#[test]
fn a_site_that_speaks_another_version_is_refused_by_name() {
    let server = Server::ashlar(&["--appendonly", "yes", "--site-id", "1"]);
    let mut client = server.client();
    let refused = client.line(&format!("SITE HELLO {} 2 old", VERSION - 1)).expect("a reply");
    assert!(refused.is_error() && refused.text().contains("of one release"), "{refused:?}");
}

/// Copies a directory with all that is in it.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_dir(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("a file");
        }
    }
}

/// A site whose machine is gone comes back from a copy of its files that was made while it ran, under another number:
/// it gets what it had done since, all sites are the same, no sum is wrong anywhere, and what was removed since, and is
/// forgotten by the others, is not there again.
#[test]
fn a_site_comes_back_from_a_copy_of_its_files() {
    let mut sites = start(2);
    let write_rounds = |sites: &Sites, rounds: std::ops::Range<usize>| {
        for round in rounds {
            for site in 0..2 {
                write(&mut sites.servers[site].client(), site, round);
            }
        }
        sites.settle();
    };
    write_rounds(&sites, 0..12);
    for site in 0..2 {
        let mut client = sites.servers[site].client();
        line(&mut client, &format!("SET g:gone{site} x"));
        line(&mut client, &format!("SADD g:members stays{site} goes{site}"));
    }
    sites.settle();
    line(&mut sites.servers[0].client(), "SAVE");
    let copy = temporary_dir().expect("a directory");
    copy_dir(sites.servers[0].dir(), &copy);
    // What the copy does not have.
    line(&mut sites.servers[0].client(), "SET g:late x");
    line(&mut sites.servers[0].client(), "SET local:late x");
    write_rounds(&sites, 12..20);
    line(&mut sites.servers[1].client(), "DEL g:gone0 g:gone1");
    line(&mut sites.servers[0].client(), "SREM g:members goes0 goes1");
    sites.settle();
    wait_for("removals are forgotten", || {
        let keys = |server: &Server| info(&mut server.client(), "site_keys_to_forget");
        sites.servers.iter().all(|server| keys(server) == "0")
    });

    let old = sites.servers.remove(0);
    drop(old);
    let settings = ["--appendonly", "yes", "--site-id", "3"];
    let port = free_port().expect("a port");
    let restored = Server::ashlar_at(port, copy, &settings).expect("it starts on the copy");
    line(&mut sites.servers[0].client(), "SITE REMOVE site0");
    line(&mut sites.servers[0].client(), &format!("SITE ADD site2 127.0.0.1 {port}"));
    sites.servers.push(restored);
    sites.settle();
    sites.check();
    for site in 0..2 {
        write(&mut sites.servers[site].client(), site, 20);
    }
    sites.settle();
    sites.check();
    for server in &sites.servers {
        let mut client = server.client();
        assert_eq!(number(&line(&mut client, "GET g:count")), 21 * 2 * 3);
        assert_eq!(number(&line(&mut client, "HGET g:counts f")), 21 * 2 * 2);
        assert_eq!(line(&mut client, "GET g:late").text(), "x", "the others had it");
        assert_eq!(number(&line(&mut client, "EXISTS g:gone0 g:gone1")), 0);
        let members = line(&mut client, "SMISMEMBER g:members stays0 stays1 goes0 goes1");
        assert_eq!(format!("{members:?}"), "Array([Int(1), Int(1), Int(0), Int(0)])");
    }
    let mut client = sites.servers[1].client();
    assert_eq!(line(&mut client, "GET local:0").text(), "0", "keys of its own came with the copy");
    assert_eq!(line(&mut client, "EXISTS local:late"), Value::Int(0), "or are lost with the site");
}
