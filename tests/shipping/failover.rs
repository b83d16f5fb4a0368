//! FAILOVER: a primary hands its role over, and what it has acknowledged is there.

use super::{PATIENCE, ask, equal, follow, info, node, syncs, wait_for};
use ashlar_tests::process::Server;
use ashlar_tests::resp::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LOG: [&str; 2] = ["--appendonly", "yes"];
const WRITERS: usize = 4;

fn state(server: &Server) -> String {
    info(&mut server.client(), "master_failover_state")
}

fn role(server: &Server) -> String {
    info(&mut server.client(), "role")
}

/// A primary and its replica, which has all keys.
fn pair(settings: &[&str]) -> (Server, Server) {
    let (primary, replica) = (node(settings), node(settings));
    ask(&mut primary.client(), "SET before 1");
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    // The primary may not have heard yet that the copy is there.
    wait_for("the replica is online", || {
        ask(&mut primary.client(), "INFO replication").contains("state=online")
    });
    (primary, replica)
}

/// Each writer counts a key of its own up until it is told that its server is a replica.
#[test]
fn nothing_acknowledged_is_lost_under_load() {
    for settings in [&[][..], &LOG, &["--io-threads", "2"]] {
        let (primary, replica) = pair(settings);
        let counts: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| 0.into()).collect());
        let writers: Vec<_> = (0..WRITERS)
            .map(|nth| {
                let (mut client, counts) = (primary.client(), counts.clone());
                std::thread::spawn(move || {
                    let since = Instant::now();
                    loop {
                        assert!(since.elapsed() < PATIENCE, "the role is not handed over");
                        // Keys with a short life are about to be deleted all the time.
                        client.line(&format!("SET short:{nth} 1 PX 1")).unwrap();
                        match client.line(&format!("INCR count:{nth}")).unwrap() {
                            Value::Int(_) => counts[nth].fetch_add(1, Ordering::Relaxed),
                            error => return error.text(),
                        };
                    }
                })
            })
            .collect();
        wait_for("all writers write", || {
            counts.iter().all(|count| count.load(Ordering::Relaxed) > 50)
        });
        let port = replica.port();
        let answer = ask(&mut primary.client(), &format!("FAILOVER TO 127.0.0.1 {port}"));
        assert_eq!(answer, "OK");
        for writer in writers {
            let error = writer.join().unwrap();
            assert!(error.starts_with("READONLY"), "{error}");
        }
        wait_for("the fail-over is done", || state(&primary) == "no-failover");
        assert_eq!((role(&primary), role(&replica)), ("slave".into(), "master".into()));
        let mut client = replica.client();
        for (nth, count) in counts.iter().enumerate() {
            let count = count.load(Ordering::Relaxed).to_string();
            assert_eq!(ask(&mut client, &format!("GET count:{nth}")), count);
        }
        ask(&mut client, "SET after 1");
        equal(&replica, &[&primary]);
        // Both have what the other one has: nobody is copied.
        assert_eq!(syncs(&replica), ("0".to_owned(), "1".to_owned()));
        // And back again, to whichever replica there is.
        assert_eq!(ask(&mut client, "FAILOVER"), "OK");
        wait_for("it is the primary again", || {
            state(&replica) == "no-failover" && role(&primary) == "master"
        });
        ask(&mut primary.client(), "SET again 1");
        equal(&primary, &[&replica]);
        assert_eq!(syncs(&primary), ("1".to_owned(), "1".to_owned()));
    }
}

/// A replica that stands still is waited for; meanwhile reads go on and writes wait.
#[test]
fn it_ends_by_abort_and_by_timeout_and_writes_go_on() {
    let (primary, replica) = pair(&LOG);
    replica.signal("STOP");
    let mut client = primary.client();
    ask(&mut client, "SET unsent 1");
    let mut writer = primary.client();
    for ends in ["ABORT", "TIMEOUT 300"] {
        let begins = if ends == "ABORT" { "FAILOVER" } else { "FAILOVER TIMEOUT 300" };
        assert_eq!(ask(&mut client, begins), "OK");
        assert_eq!(ask(&mut client, "GET before"), "1");
        if ends == "ABORT" {
            assert_eq!(state(&primary), "waiting-for-sync");
            let other = ask(&mut client, "FAILOVER");
            assert_eq!(other, "ERR FAILOVER already in progress.");
            let other = ask(&mut client, "REPLICAOF 127.0.0.1 1");
            assert_eq!(other, "ERR REPLICAOF not allowed while failing over.");
            writer.set_timeout(Duration::from_millis(200)).unwrap();
            assert!(writer.line("INCR writes").is_err(), "writes wait");
            writer = primary.client();
            // A pause that clients have begun and ended is another one.
            ask(&mut client, "CLIENT PAUSE 10 WRITE");
            ask(&mut client, "CLIENT UNPAUSE");
            assert_eq!(state(&primary), "waiting-for-sync");
            assert_eq!(ask(&mut client, "FAILOVER ABORT"), "OK");
        }
        // It waits until the time is up, if it has to.
        assert!(matches!(writer.line("INCR writes"), Ok(Value::Int(_))));
        assert_eq!((state(&primary), role(&primary)), ("no-failover".into(), "master".into()));
    }
    assert!(primary.log().contains("Replica never caught up before timeout"));
    assert_eq!(ask(&mut client, "FAILOVER ABORT"), "ERR No failover in progress.");
    replica.signal("CONT");
    equal(&primary, &[&replica]);
    assert_eq!(role(&replica), "slave");
}

/// With FORCE it is the one that says when, and what the replica did not get is lost.
#[test]
fn force_takes_what_the_replica_has() {
    let (primary, replica) = pair(&LOG);
    replica.signal("STOP");
    let mut client = primary.client();
    ask(&mut client, &format!("SET unsent {}", "x".repeat(10)));
    let port = replica.port();
    let line = format!("FAILOVER TO 127.0.0.1 {port} FORCE TIMEOUT 200");
    assert_eq!(ask(&mut client, &line), "OK");
    wait_for("the time is up", || state(&primary) == "failover-in-progress");
    // Its new primary does not answer yet, and until it does nobody can write.
    assert_eq!(role(&primary), "slave");
    replica.signal("CONT");
    wait_for("the fail-over is done", || state(&primary) == "no-failover");
    assert_eq!((role(&primary), role(&replica)), ("slave".into(), "master".into()));
    ask(&mut replica.client(), "SET after 1");
    equal(&replica, &[&primary]);
}

/// A target that refuses leaves everything as it was; one that is gone can be given up.
#[test]
fn a_hand_over_that_fails_can_be_taken_back() {
    let (primary, mut replica) = pair(&[]);
    let mut client = primary.client();
    let port = replica.port();
    replica.signal("STOP");
    ask(&mut client, "SET unsent 1");
    let line = format!("FAILOVER TO 127.0.0.1 {port} TIMEOUT 100 FORCE");
    assert_eq!(ask(&mut client, &line), "OK");
    wait_for("it is handed over", || state(&primary) == "failover-in-progress");
    replica.signal("KILL");
    replica.reap();
    assert_eq!(ask(&mut client, "FAILOVER ABORT"), "OK");
    assert_eq!((state(&primary), role(&primary)), ("no-failover".into(), "master".into()));
    assert_eq!(ask(&mut client, "SET after 1"), "OK");
}

/// A Redis hands its role over to a node that follows it, and follows it from then on.
#[test]
fn a_redis_hands_over_to_a_node() {
    let (primary, replica) = (Server::redis(&[]), node(&LOG));
    ask(&mut primary.client(), "SET before 1");
    follow(&replica, primary.port());
    wait_for("the copy is there", || {
        info(&mut replica.client(), "master_link_status") == "up"
            && ask(&mut primary.client(), "INFO replication").contains("state=online")
    });
    let port = replica.port();
    assert_eq!(ask(&mut primary.client(), &format!("FAILOVER TO 127.0.0.1 {port}")), "OK");
    wait_for("the fail-over is done", || {
        state(&primary) == "no-failover" && role(&replica) == "master"
    });
    assert_eq!(ask(&mut replica.client(), "SET after 1"), "OK");
    wait_for("it follows", || ask(&mut primary.client(), "GET after") == "1");
    assert_eq!(role(&primary), "slave");
}
