//! Replication over TLS, where both sides show a certificate: between nodes, and with redis-server.

use super::tls::Authority;
use ashlar_tests::ask::{ask, info, wait_for};
use ashlar_tests::process::{Server, free_port};

const MUTUAL: [&str; 4] = ["--tls-replication", "yes", "--enable-debug-command", "yes"];

/// A redis-server that speaks TLS on the port that is returned; its own port is there for the test.
fn redis(authority: &Authority) -> (Server, u16) {
    let port = free_port().expect("a port");
    let number = port.to_string();
    let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let ca = authority.path("ca.pem");
    let server = Server::redis(&[
        "--tls-port",
        &number,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-replication",
        "yes",
    ]);
    (server, port)
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

#[test]
fn nodes_follow_each_other_with_certificates() {
    let authority = Authority::new();
    authority.write("one");
    let ((primary, port), (replica, _)) = (authority.daemon(&MUTUAL), authority.daemon(&MUTUAL));
    fill(&primary, "k");
    follows(&replica, &primary, port, "k");
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
    let refused = ask(&mut server.client(), "CONFIG SET tls-replication yes");
    assert!(refused.contains("tls-replication needs tls-ca-cert-file"), "{refused}");
}
