//! Outages: whatever fails and comes back, the replica goes on from where it was.

use super::{Load, PATIENCE, Server, ask, equal, follow, info, load_for, node, syncs, wait_for};
use ashlar_tests::proxy::Proxy;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Argv, Value, words};
use std::thread::sleep;
use std::time::Duration;

const LOG: [&str; 4] = ["--appendonly", "yes", "--log-segment-size", "1mb"];

#[test]
fn a_link_that_breaks_is_taken_up_from_the_ring() {
    let primary = node(&["--repl-backlog-size", "64mb"]);
    let replica = node(&["--io-threads", "2"]);
    load_for(&primary, 1, Duration::from_millis(300));
    let proxy = Proxy::to(primary.port());
    follow(&replica, proxy.port);
    let load = Load::start(&primary, 2);
    for _ in 0..3 {
        sleep(Duration::from_millis(300));
        proxy.interrupt();
    }
    proxy.shut();
    sleep(Duration::from_millis(300));
    proxy.interrupt();
    load.stop();
    equal(&primary, &[&replica]);
    let (full, resumed) = syncs(&primary);
    assert_eq!(full, "1", "one copy");
    assert!(resumed.parse::<u32>().unwrap() >= 1, "{resumed} resumptions");
}

/// Kills at random moments: of the replica, of the primary, and of both, each with its log.
/// A primary without a log counts from its first replica on: the copy is all that it has so far.
#[test]
fn a_replica_goes_on_from_a_copy_behind_which_nothing_was_written() {
    let (primary, replica) = (node(&[]), node(&[]));
    ask(&mut primary.client(), "SET key value");
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    assert_eq!(info(&mut replica.client(), "history_position"), "0");
    ask(&mut primary.client(), "CLIENT KILL TYPE replica");
    wait_for("the replica is back", || {
        let (copies, resumed) = syncs(&primary);
        copies != "1" || resumed != "0"
    });
    assert_eq!(syncs(&primary), ("1".to_owned(), "1".to_owned()));
    ask(&mut primary.client(), "APPEND key s");
    equal(&primary, &[&replica]);
    assert_eq!(syncs(&primary), ("1".to_owned(), "1".to_owned()));
}

#[test]
fn killed_nodes_go_on_without_a_copy() {
    for seed in seeds(&[1]) {
        println!("ASHLAR_SEED={seed}");
        let mut random = Random::new(seed);
        let mut primary = node(&LOG);
        let proxy = Proxy::to(primary.port());
        let port = proxy.port.to_string();
        let followed = ["--replicaof", "127.0.0.1", &port];
        let settings = [&super::DEBUG[..], &["--save", ""], &LOG].concat();
        let with_primary = [&settings[..], &followed].concat();
        let mut replica = node(&[&LOG[..], &followed].concat());
        load_for(&primary, seed, Duration::from_millis(200));
        equal(&primary, &[&replica]);
        assert_eq!(syncs(&primary).0, "1");
        for round in 0..6 {
            let load = Load::start(&primary, seed * 100 + round);
            sleep(Duration::from_millis(50 + random.below(250) as u64));
            if round % 3 != 1 {
                replica.restart(&with_primary);
            }
            if round % 3 != 0 {
                primary.restart(&settings);
                proxy.lead_to(primary.port());
            }
            load.stop();
            load_for(&primary, seed * 100 + 50 + round, Duration::from_millis(50));
            equal(&primary, &[&replica]);
            if round % 3 != 0 {
                assert_eq!(syncs(&primary).0, "0", "round {round}: nothing is copied anew");
            }
        }
    }
}

#[test]
fn a_replica_that_stands_still_is_served_from_the_log() {
    let primary = node(&[&LOG[..], &["--repl-backlog-size", "100kb"]].concat());
    let replica = node(&[]);
    follow(&replica, primary.port());
    load_for(&primary, 5, Duration::from_millis(100));
    equal(&primary, &[&replica]);
    replica.signal("STOP");
    let mut client = primary.client();
    let value = "v".repeat(2_000);
    for n in 0..20_000 {
        ask(&mut client, &format!("SET key{} {value}", n % 500));
    }
    let lag = ask(&mut client, "REPLICATION LAG");
    replica.signal("CONT");
    equal(&primary, &[&replica]);
    assert_eq!(syncs(&primary).0, "1", "{lag}");
    // The stream of 40 MB was never in memory.
    let rss = primary.peak_rss() >> 20;
    assert!(rss < 150, "{rss} MiB");
}

#[test]
fn without_a_log_a_replica_that_is_too_slow_gets_a_copy() {
    let limits = ["--repl-backlog-size", "100kb", "--client-output-buffer-limit"];
    let primary = node(&[&limits[..], &["replica 1mb 0 0"]].concat());
    let replica = node(&[]);
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    replica.signal("STOP");
    let mut client = primary.client();
    let value = "v".repeat(2_000);
    for n in 0..10_000 {
        ask(&mut client, &format!("SET key{} {value}", n % 500));
    }
    replica.signal("CONT");
    wait_for("a second copy", || info(&mut client, "sync_full") == "2");
    equal(&primary, &[&replica]);
    let rss = primary.peak_rss() >> 20;
    assert!(rss < 150, "{rss} MiB after {PATIENCE:?} at most");
}

/// A call that leaves a string as it is may still give it the form of one that is edited: replicas get that too.
#[test]
fn what_changes_only_the_form_of_a_string_is_shipped() {
    let (primary, replica) = (node(&[]), node(&[]));
    follow(&replica, primary.port());
    wait_for("the replica follows", || info(&mut replica.client(), "master_link_status") == "up");
    let mut client = primary.client();
    ask(&mut client, "SET kept-bit abc");
    ask(&mut client, "SET kept-number 12");
    ask(&mut client, "SET kept-field abc");
    ask(&mut client, "PFADD source element");
    let registers = client.call(&[b"GET".to_vec(), b"source".to_vec()]).expect("a reply");
    let Value::Bulk(registers) = registers else { panic!("{registers:?}") };
    let set = [b"SET".to_vec(), b"kept-registers".to_vec(), registers];
    assert_eq!(client.call(&set).expect("a reply").text(), "OK");
    for (line, answer) in [
        ("SETBIT kept-bit 0 0", Value::Int(0)),
        ("SETBIT kept-number 0 0", Value::Int(0)),
        ("BITFIELD kept-field SET u8 0 97", Value::Array(vec![Value::Int(97)])),
        ("PFADD kept-registers element", Value::Int(0)),
    ] {
        assert_eq!(client.line(line).expect("a reply"), answer, "{line}");
        let key = line.split(' ').nth(1).expect("a key");
        assert_eq!(ask(&mut client, &format!("OBJECT ENCODING {key}")), "raw", "{line}");
    }
    equal(&primary, &[&replica]);
}

/// Writes of one key each, with others between them now and then, a thousand at a time.
fn write_many(server: &Server, rounds: u64) {
    let mut client = server.client();
    for round in 0..rounds {
        let line = |n: u64| match (n % 997, (n * 7 + round) % 8) {
            (500, _) => format!("MSET key:{n} a key:{} b", n + 1),
            (501, _) => format!("RENAME key:{} key:{n}", n - 3),
            (502, _) => format!("COPY key:{} key:{n} REPLACE", n - 5),
            (_, 0) => format!("SET key:{n} value{round}"),
            (_, 1) => format!("SET key:{n} value{round} PX 60000"),
            (_, 2) => format!("DEL key:{}", n / 2),
            (_, 3) => format!("HSET hash:{n} field{round} {n} other {round}"),
            (_, 4) => format!("SADD set:{} {n}", n % 50),
            (_, 5) => format!("SPOP set:{}", n % 50),
            (_, 6) => format!("INCR count:{n}"),
            _ => format!("LPUSH list:{} {n}", n % 300),
        };
        let mut batch: Vec<Argv> = (0..1000).map(|n| words(&line(n))).collect();
        if round % 10 == 0 {
            batch.insert(300, words("MULTI"));
            batch.insert(305, words("EXEC"));
        }
        client.pipeline(&batch).unwrap();
    }
}

#[test]
fn a_replica_that_is_far_behind_comes_to_the_same_data_and_log() {
    for workers in ["1", "2"] {
        let primary = node(&LOG);
        let own = [&LOG[..], &["--io-threads", workers]].concat();
        let mut replica = node(&own);
        follow(&replica, primary.port());
        write_many(&primary, 5);
        equal(&primary, &[&replica]);
        replica.signal("STOP");
        write_many(&primary, 120);
        replica.signal("CONT");
        equal(&primary, &[&replica]);
        // Who waits for a key is served although the stream is long, and watched keys are seen to change.
        let mut waiting = replica.client();
        waiting.send(&words("XREAD BLOCK 0 STREAMS woken $")).unwrap();
        wait_for("it waits", || info(&mut replica.client(), "blocked_clients") == "1");
        replica.signal("STOP");
        write_many(&primary, 60);
        ask(&mut primary.client(), "XADD woken 1-1 a b");
        write_many(&primary, 10);
        replica.signal("CONT");
        let woken = ashlar_tests::cli::show(&waiting.reply().unwrap());
        assert!(woken.contains("1-1"), "{woken}");
        equal(&primary, &[&replica]);
        // Its own log has what it was sent, record by record.
        let (debug, port) = (super::DEBUG, primary.port().to_string());
        replica.restart(&[&debug[..], &own, &["--replicaof", "127.0.0.1", &port]].concat());
        equal(&primary, &[&replica]);
        assert_eq!(syncs(&primary).0, "1");
    }
}
