//! Replication over TLS, where both sides show a certificate: between nodes, and with redis-server.

use ashlar_tests::ask::{ask, info, wait_for};
use ashlar_tests::authority::Authority;
use ashlar_tests::process::{Server, ashlar_binary, free_port};
use ashlar_tests::resp::Value;
use std::process::Command;

const MUTUAL: [&str; 4] = ["--tls-replication", "yes", "--enable-debug-command", "yes"];

/// A redis-server that speaks TLS on the port that is returned; its own port is there for the test.
fn redis(authority: &Authority) -> (Server, u16) {
    let port = free_port().expect("a port");
    let (number, files) = (port.to_string(), authority.settings());
    let mut all = vec!["--tls-port", &number, "--tls-replication", "yes"];
    all.extend(files.iter().map(String::as_str));
    (Server::redis(&all), port)
}

fn fill(server: &Server, prefix: &str) {
    let mut client = server.client();
    for nth in 0..200 {
        ask(&mut client, &format!("SET {prefix}:{nth} {}", "x".repeat(nth * 10)));
    }
    // More than a socket takes at once.
    ask(&mut client, &format!("SETRANGE {prefix}:large 3000000 end"));
}

/// Follows, and waits until all keys are there and writes arrive.
fn follows(replica: &Server, primary: &Server, tls_port: u16, prefix: &str) {
    assert_eq!(ask(&mut replica.client(), &format!("REPLICAOF 127.0.0.1 {tls_port}")), "OK");
    arrives(replica, primary, prefix);
}

fn arrives(replica: &Server, primary: &Server, prefix: &str) {
    let (mut from, mut to) = (primary.client(), replica.client());
    ask(&mut from, &format!("INCR {prefix}:count"));
    let count = ask(&mut from, &format!("GET {prefix}:count"));
    let key = format!("GET {prefix}:count");
    wait_for("writes arrive at the replica", || ask(&mut to, &key) == count);
    assert_eq!(ask(&mut to, "DBSIZE"), ask(&mut from, "DBSIZE"));
    assert_eq!(ask(&mut to, &format!("STRLEN {prefix}:large")), "3000003");
    assert_eq!(info(&mut to, "master_link_status"), "up");
}

/// A primary with data, and a replica that follows it, with its port for TLS.
fn pair(authority: &Authority) -> (Server, (Server, u16)) {
    authority.write("one");
    let ((primary, port), replica) = (authority.daemon(&MUTUAL), authority.daemon(&MUTUAL));
    fill(&primary, "k");
    follows(&replica.0, &primary, port, "k");
    (primary, replica)
}

#[test]
fn nodes_follow_each_other_with_certificates() {
    let authority = Authority::new();
    let (primary, (replica, _)) = pair(&authority);
    let digest = ask(&mut primary.client(), "DEBUG DIGEST");
    assert_eq!(ask(&mut replica.client(), "DEBUG DIGEST"), digest);
    // New certificates are for new connections; what was there goes on from where it was.
    authority.write("two");
    for server in [&primary, &replica] {
        let cert = authority.path("cert.pem");
        assert_eq!(ask(&mut server.client(), &format!("CONFIG SET tls-cert-file {cert}")), "OK");
    }
    ask(&mut primary.client(), "CLIENT KILL TYPE replica");
    wait_for("the replica is back", || {
        info(&mut primary.client(), "sync_partial_ok") == "1"
            && info(&mut replica.client(), "master_link_status") == "up"
    });
    arrives(&replica, &primary, "k");
    assert_eq!(info(&mut primary.client(), "sync_full"), "1");
}

#[test]
fn replicas_without_a_good_certificate_are_refused() {
    let authority = Authority::new();
    authority.write("one");
    let (primary, port) = authority.daemon(&[&MUTUAL[..], &["--tls-auth-clients", "no"]].concat());
    fill(&primary, "k");
    // One that speaks no TLS, to the plain port; and a tool that only wants the keys.
    let plain = Server::ashlar(&[]);
    let own = primary.port();
    assert_eq!(ask(&mut plain.client(), &format!("REPLICAOF 127.0.0.1 {own}")), "OK");
    wait_for("the primary says that it refuses", || {
        primary.log().contains("wants to be a replica without a certificate")
    });
    let refused = ask(&mut primary.client(), "PSYNC ? -1");
    assert!(refused.contains("tls-replication asks replicas for TLS"), "{refused}");
    // One whose certificate comes from somebody else: neither side believes the other.
    let other = Authority::new();
    other.write("stranger");
    let (stranger, _) = other.daemon(&MUTUAL);
    assert_eq!(ask(&mut stranger.client(), &format!("REPLICAOF 127.0.0.1 {port}")), "OK");
    wait_for("the stranger does not believe it", || {
        stranger.log().contains("invalid peer certificate")
    });
    for server in [&plain, &stranger] {
        assert_eq!(ask(&mut server.client(), "DBSIZE"), "0");
    }
    assert_eq!(info(&mut primary.client(), "connected_slaves"), "0");
    assert_eq!(info(&mut primary.client(), "sync_full"), "0");
}

#[test]
fn a_redis_is_followed_and_follows_with_certificates() {
    let authority = Authority::new();
    authority.write("one");
    let ((primary, port), (middle, middle_port)) = (redis(&authority), authority.daemon(&MUTUAL));
    fill(&primary, "k");
    follows(&middle, &primary, port, "k");
    assert_eq!(ask(&mut middle.client(), "REPLICAOF NO ONE"), "OK");
    let (last, _) = redis(&authority);
    follows(&last, &middle, middle_port, "k");
}

#[test]
fn what_is_missing_is_named() {
    let server = Server::ashlar(&[]);
    for setting in ["tls-replication", "tls-cluster"] {
        let refused = ask(&mut server.client(), &format!("CONFIG SET {setting} yes"));
        assert!(refused.contains(&format!("{setting} needs tls-ca-cert-file")), "{refused}");
        let shown = server.client().line(&format!("CONFIG GET {setting}")).expect("a reply");
        assert_eq!(shown.items().and_then(|pair| pair.get(1)).map(Value::text), Some("no".into()));
    }
}

/// The replica is told at its encrypted port that it is to take over, and followed there.
#[test]
fn a_role_is_handed_over_with_certificates() {
    let authority = Authority::new();
    let (primary, (replica, to)) = pair(&authority);
    let refused = ask(&mut replica.client(), "REPLICATION TAKEOVER 1 ANY x");
    assert!(refused.contains("tls-replication asks nodes for TLS"), "{refused}");
    assert_eq!(ask(&mut primary.client(), &format!("FAILOVER TO 127.0.0.1 {to}")), "OK");
    wait_for("the role is handed over", || {
        info(&mut primary.client(), "master_failover_state") == "no-failover"
            && info(&mut primary.client(), "role") == "slave"
    });
    arrives(&primary, &replica, "k");
}

/// `tls-cluster` is what Redis looks at here, in a cluster or not.
#[test]
fn migrate_goes_to_tls_ports() {
    let authority = Authority::new();
    authority.write("one");
    let (from, _) = authority.daemon(&["--tls-cluster", "yes"]);
    let ((to, to_port), (redis, redis_port)) = (authority.daemon(&[]), redis(&authority));
    let mut client = from.client();
    let value = "x".repeat(300_000);
    ask(&mut client, &format!("MSET a {value} b {value}"));
    for (key, server, port) in [("a", &to, to_port), ("b", &redis, redis_port)] {
        let moved = ask(&mut client, &format!("MIGRATE 127.0.0.1 {port} {key} 0 20000"));
        assert_eq!(moved, "OK");
        assert_eq!(ask(&mut server.client(), &format!("STRLEN {key}")), "300000");
        assert_eq!(ask(&mut client, &format!("EXISTS {key}")), "0");
    }
    // A port that speaks no TLS is none that it goes to.
    ask(&mut client, "SET c 1");
    let refused = ask(&mut client, &format!("MIGRATE 127.0.0.1 {} c 0 20000", to.port()));
    assert_eq!(refused, "IOERR error or timeout connecting to the client");
    assert_eq!(ask(&mut client, "GET c"), "1");
}

/// The tools speak TLS with the options of redis-cli.
#[test]
fn tools_use_tls_ports() {
    let authority = Authority::new();
    authority.write("one");
    let (server, port) = authority.daemon(&[]);
    ask(&mut server.client(), "SET key value");
    let (cert, key) = authority.write_client();
    let (ca, file) = (authority.path("ca.pem"), authority.path("dump.rdb"));
    let port = port.to_string();
    let run = |words: &[&str], own: bool| {
        let mut command = Command::new(ashlar_binary());
        command.args(words).args(["--tls", "--cacert", &ca]);
        if own {
            command.args(["--cert", &cert, "--key", &key]);
        }
        command.output().expect("ashlar runs")
    };
    let export = ["export", &file, "--port", &port, "--quiet"];
    assert!(!run(&export, false).status.success(), "a certificate is asked for");
    let (redis, redis_port) = redis(&authority);
    ask(&mut redis.client(), "SET key of-redis");
    let from_redis = ["export", &file, "--port", &redis_port.to_string(), "--quiet"];
    assert!(run(&from_redis, true).status.success());
    assert!(
        run(&["import", &file, "--port", &port, "--quiet", "--replace"], true).status.success()
    );
    assert_eq!(ask(&mut server.client(), "GET key"), "of-redis");
    ask(&mut server.client(), "SET key value");
    assert!(run(&export, true).status.success());
    ask(&mut server.client(), "FLUSHALL");
    assert!(run(&["import", &file, "--port", &port, "--quiet"], true).status.success());
    assert_eq!(ask(&mut server.client(), "GET key"), "value");
    let status = run(&["cluster", "status", &format!("127.0.0.1:{port}")], true);
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(said.contains("cluster"), "the node answers that it is in no cluster: {said}");
}
