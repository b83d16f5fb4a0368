//! A stop and a start of either side: replicas of both kinds go on from where they were, with a log and with
//! snapshots only.

use super::{DEBUG, ask, equal, follow, info, node, syncs, wait_for};
use ashlar_tests::process::Server;

const KINDS: [&[&str]; 2] = [&["--appendonly", "yes", "--save", ""], &["--save", "3600 1"]];

/// Stops a server as its user would, does something, and starts it again on its port and directory.
fn restarted(server: Server, settings: &[&str], meanwhile: impl FnOnce()) -> Server {
    let port = server.port();
    server.signal("TERM");
    let dir = server.ended();
    meanwhile();
    Server::ashlar_at(port, dir, &[&DEBUG[..], settings].concat()).unwrap()
}

fn counted(server: &Server) -> (String, String) {
    syncs(server)
}

fn pair(full: u64, partial: u64) -> (String, String) {
    (full.to_string(), partial.to_string())
}

/// Writes arrive from one at the other, and all that was there before is.
fn arrives(from: &Server, to: &Server) {
    ask(&mut from.client(), "INCR arrives");
    let count = ask(&mut from.client(), "GET arrives");
    wait_for("a write arrives", || ask(&mut to.client(), "GET arrives") == count);
    for line in ["DBSIZE", "GET before", "STRLEN text", "LRANGE list 0 -1"] {
        assert_eq!(ask(&mut from.client(), line), ask(&mut to.client(), line), "{line}");
    }
}

fn fill(server: &Server) {
    let mut client = server.client();
    ask(&mut client, "SET before 1");
    ask(&mut client, &format!("SET text {}", "x".repeat(100_000)));
    for nth in 0..500 {
        ask(&mut client, &format!("RPUSH list {nth}"));
    }
}

#[test]
fn a_redis_goes_on_behind_a_node_that_was_restarted() {
    for settings in KINDS {
        let (primary, replica) = (node(settings), Server::redis(&[]));
        fill(&primary);
        follow(&replica, primary.port());
        arrives(&primary, &replica);
        // The last writes are on their way when it stops.
        fill(&primary);
        let primary = restarted(primary, settings, || ());
        wait_for("it is back", || info(&mut replica.client(), "master_link_status") == "up");
        arrives(&primary, &replica);
        assert_eq!(counted(&primary), pair(0, 1), "{settings:?}");
        // What was noted counts once: after a crash nobody knows.
        let port = primary.port();
        let dir = primary.kill();
        let primary = Server::ashlar_at(port, dir, &[&DEBUG[..], settings].concat()).unwrap();
        wait_for("a copy is made", || counted(&primary).0 == "1");
        wait_for("it is back", || info(&mut replica.client(), "master_link_status") == "up");
        arrives(&primary, &replica);
    }
}

#[test]
fn a_node_goes_on_behind_a_redis_when_it_is_restarted() {
    for settings in KINDS {
        let primary = Server::redis(&[]);
        let port = primary.port().to_string();
        let own = [settings, &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = node(&own);
        fill(&primary);
        wait_for("it follows", || info(&mut replica.client(), "master_link_status") == "up");
        arrives(&primary, &replica);
        let replica = restarted(replica, &own, || fill(&primary));
        wait_for("it is back", || info(&mut replica.client(), "master_link_status") == "up");
        arrives(&primary, &replica);
        assert_eq!(counted(&primary), pair(1, 1), "{settings:?}");
    }
}

#[test]
fn nodes_go_on_whichever_is_restarted() {
    for settings in KINDS {
        let primary = node(settings);
        let port = primary.port().to_string();
        let own = [settings, &["--replicaof", "127.0.0.1", &port]].concat();
        fill(&primary);
        let replica = node(&own);
        equal(&primary, &[&replica]);
        fill(&primary);
        let primary = restarted(primary, settings, || ());
        equal(&primary, &[&replica]);
        arrives(&primary, &replica);
        assert_eq!(counted(&primary), pair(0, 1), "{settings:?}");
        let replica = restarted(replica, &own, || fill(&primary));
        equal(&primary, &[&replica]);
        arrives(&primary, &replica);
        assert_eq!(counted(&primary), pair(0, 2), "{settings:?}");
    }
}
