//! Who follows whom, and what travels with the data.

use super::{Load, ask, equal, follow, info, load_for, node, syncs, wait_for};
use ashlar_tests::process::Server;
use ashlar_tests::resp::Value;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_promoted_replica_keeps_its_history() {
    let log = ["--appendonly", "yes"];
    let primary = node(&log);
    let (first, second) = (node(&log), node(&[]));
    follow(&first, primary.port());
    follow(&second, primary.port());
    load_for(&primary, 11, Duration::from_millis(200));
    equal(&primary, &[&first, &second]);
    // A replica of a replica gets the same records.
    let third = node(&[]);
    follow(&third, first.port());
    load_for(&primary, 12, Duration::from_millis(200));
    equal(&primary, &[&first, &second, &third]);
    assert_eq!(syncs(&first).0, "1");

    assert_eq!(ask(&mut first.client(), "REPLICAOF NO ONE"), "OK");
    follow(&second, first.port());
    let load = Load::start(&first, 13);
    sleep(Duration::from_millis(200));
    follow(&primary, first.port());
    load.stop();
    equal(&first, &[&primary, &second, &third]);
    assert_eq!(syncs(&first).0, "1", "only the replica's replica was ever copied from it");
    let refused = ask(&mut second.client(), "SET k v");
    assert!(refused.starts_with("READONLY"), "{refused}");
}

#[test]
fn writes_of_its_own_cost_a_node_its_history() {
    let (primary, replica) = (node(&[]), node(&[]));
    follow(&replica, primary.port());
    load_for(&primary, 21, Duration::from_millis(100));
    equal(&primary, &[&replica]);
    ask(&mut replica.client(), "REPLICAOF NO ONE");
    ask(&mut replica.client(), "SET mine 1");
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    assert_eq!(syncs(&primary).0, "2");
    assert_eq!(ask(&mut replica.client(), "EXISTS mine"), "0");
}

#[test]
fn a_replica_dials_from_the_address_that_it_is_given() {
    let primary = node(&[]);
    let replica = node(&["--bind-source-addr", "127.0.0.9"]);
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    let replicas = || ask(&mut primary.client(), "CLIENT LIST TYPE replica");
    assert!(replicas().contains(" addr=127.0.0.9:"), "{}", replicas());
    // An address that this machine does not have is none, as with Redis.
    let mut client = replica.client();
    assert_eq!(ask(&mut client, "CONFIG SET bind-source-addr 192.0.2.1"), "OK");
    let refused = ask(&mut client, "CONFIG SET bind-source-addr nowhere");
    assert!(refused.contains("'nowhere' is no IP address"), "{refused}");
    ask(&mut primary.client(), "CLIENT KILL TYPE replica");
    wait_for("the replica is there again", || replicas().contains(" addr=127.0.0.1:"));
}

#[test]
fn wait_and_waitaof_tell_the_truth() {
    let log = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let (primary, replica) = (node(&log), node(&log));
    let mut client = primary.client();
    ask(&mut client, "SET k 1");
    assert_eq!(ask(&mut client, "WAIT 1 50"), "0");
    assert_eq!(client.line("WAITAOF 1 0 10000").unwrap().items().unwrap().len(), 2);
    follow(&replica, primary.port());
    wait_for("the replica is there", || ask(&mut client, "WAIT 1 100") == "1");
    for n in 0..20 {
        ask(&mut client, &format!("SET k {n}"));
        assert_eq!(ask(&mut client, "WAIT 1 10000"), "1");
        assert_eq!(ask(&mut replica.client(), "GET k"), n.to_string());
    }
    ask(&mut client, "SET k durable");
    let both = client.line("WAITAOF 1 1 10000").unwrap();
    let both: Vec<String> = both.items().unwrap().iter().map(|item| format!("{item:?}")).collect();
    assert_eq!(both, ["Int(1)", "Int(1)"]);
    replica.signal("STOP");
    ask(&mut client, "SET k late");
    assert_eq!(ask(&mut client, "WAIT 1 300"), "0");
    let lag = client.line("REPLICATION LAG").unwrap();
    let lag = lag.items().unwrap()[0].items().unwrap();
    let at = lag.iter().position(|item| item.text() == "lag_records").unwrap();
    assert_eq!(lag[at + 1], Value::Int(1));
    let shown = info(&mut client, "slave0");
    assert!(shown.contains("kind=ashlar") && shown.contains("lag_records=1"), "{shown}");
    replica.signal("CONT");
    assert_eq!(ask(&mut client, "WAIT 1 10000"), "1");
    let refused = ask(&mut replica.client(), "WAITAOF 0 0 0");
    assert!(refused.starts_with("ERR WAITAOF cannot be used with replica"), "{refused}");
}

#[test]
fn settings_policies_and_functions_travel_too() {
    let primary = node(&["--list-max-listpack-size", "4"]);
    let replica = node(&[]);
    let mut client = primary.client();
    let answer = ask(&mut client, "POLICY SET session:* local TTL 1800");
    assert_eq!(answer, "OK");
    let code = "#!lua name=lib\nredis.register_function('f', function() return 'it' end)";
    let answer = client.call(&[&b"FUNCTION"[..], b"LOAD", code.as_bytes()]).unwrap();
    assert!(!answer.is_error(), "{answer:?}");
    ask(&mut client, "RPUSH list a b c d e f g");
    follow(&replica, primary.port());
    equal(&primary, &[&replica]);
    ask(&mut client, "CONFIG SET set-max-intset-entries 2");
    ask(&mut client, "SADD set 3 1 2 7 5");
    ask(&mut client, "SPOP set 2");
    ask(&mut client, "POLICY SET log:* async");
    for n in 0..2_000 {
        ask(&mut client, &format!("RPUSH log:1 line-{n}"));
    }
    ask(&mut client, "SET session:1 v");
    equal(&primary, &[&replica]);
    let mut other = replica.client();
    let list =
        |client: &mut ashlar_tests::resp::Client| format!("{:?}", client.line("POLICY LIST"));
    assert_eq!(list(&mut other), list(&mut client));
    assert_eq!(ask(&mut other, "POLICY VERSION"), "2");
    assert_eq!(ask(&mut other, "FCALL_RO f 0").len(), ask(&mut client, "FCALL_RO f 0").len());
    assert_ne!(ask(&mut other, "TTL session:1"), "-1");
}

/// Data that came before there was a history, and a restart in between.
#[test]
fn policies_of_the_configuration_survive_and_can_be_rewritten() {
    let mut server = node(&["--appendonly", "yes", "--policy", "cart:*", "global"]);
    let mut client = server.client();
    assert!(ask(&mut client, "POLICY EXPLAIN cart:1").len() < 4096);
    assert_eq!(ask(&mut client, "POLICY VERSION"), "1");
    ask(&mut client, "POLICY SET log:* async TTL 60");
    ask(&mut client, "SET log:1 x");
    server.restart(&[&super::DEBUG[..], &["--save", "", "--appendonly", "yes"]].concat());
    let mut client = server.client();
    assert_eq!(ask(&mut client, "POLICY VERSION"), "2");
    assert_ne!(ask(&mut client, "TTL log:1"), "-1");
    let _: &Server = &server;
}
