//! redis-cli as it is.

use super::succeed;
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, Value, encode, words};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn cli(server: &Server) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &server.port().to_string()]);
    command
}

#[test]
fn commands_from_the_standard_input() {
    let server = Server::subject(&[]);
    let input = b"SET k \"a b\"\nGET k\nLPUSH l 1 2\nLRANGE l 0 -1\nINCR k\nSELECT 3\nDBSIZE\n";
    let wanted = "OK\n\"a b\"\n(integer) 2\n1) \"2\"\n2) \"1\"\n\
                  (error) ERR value is not an integer or out of range\nOK\n(integer) 0\n";
    assert_eq!(succeed(cli(&server).arg("--no-raw"), input), wanted);
    let input = b"HSET h a 1\nHGETALL h\nSADD s x\nSMEMBERS s\nZADD z 1.5 m\nZSCORE z m\n";
    let wanted =
        "(integer) 1\n1# \"a\" => \"1\"\n(integer) 1\n1~ \"x\"\n(integer) 1\n(double) 1.5\n";
    assert_eq!(succeed(cli(&server).args(["-3", "--no-raw"]), input), wanted);
    let input = b"MULTI\nSET a 1\nINCR a\nEXEC\n";
    let wanted = "OK\nQUEUED\nQUEUED\n1) OK\n2) (integer) 2\n";
    assert_eq!(succeed(cli(&server).arg("--no-raw"), input), wanted);
}

#[test]
fn mass_insertion_through_a_pipe() {
    const KEYS: usize = 200_000;
    let server = Server::subject(&[]);
    let mut input = Vec::new();
    for key in 0..KEYS {
        encode(&["SET", &format!("key:{key}"), &key.to_string()], &mut input);
    }
    let text = succeed(cli(&server).arg("--pipe"), &input);
    assert!(text.contains(&format!("errors: 0, replies: {KEYS}")), "{text}");
    assert_eq!(server.client().line("DBSIZE").expect("a reply"), Value::Int(KEYS as i64));
}

/// A protocol error ends the connection, but not before the commands in front of it have run.
#[test]
fn commands_before_a_protocol_error_are_run() {
    let server = Server::subject(&[]);
    for valid in [1, 31, 32, 33, 1000] {
        let mut client = server.client();
        client.line("FLUSHALL").expect("a reply");
        let mut input = Vec::new();
        for key in 0..valid {
            encode(&["SET", &format!("key:{key}"), "x"], &mut input);
        }
        input.extend_from_slice(b"*1\r\n+PING\r\n");
        client.send_raw(&input).expect("sent");
        for _ in 0..valid {
            assert_eq!(client.reply().expect("a reply"), Value::Simple(b"OK".to_vec()));
        }
        let error = client.reply().expect("a reply").text();
        assert_eq!(error, "ERR Protocol error: expected '$', got '+'");
        assert!(client.reply().is_err(), "the connection is closed");
        assert_eq!(server.client().line("DBSIZE").expect("a reply"), Value::Int(valid));
    }
}

#[test]
fn reports_over_all_keys() {
    let server = Server::subject(&[]);
    let mut fill: Vec<Argv> = (0..2_000).map(|n| words(&format!("SET key:{n} x"))).collect();
    fill.push(words("RPUSH biggest-list a b c"));
    fill.push(words("HSET biggest-hash a 1"));
    server.client().pipeline(&fill).expect("replies");
    let keys = succeed(cli(&server).args(["--scan", "--pattern", "key:*"]), b"");
    assert_eq!(keys.lines().count(), 2_000);
    let text = succeed(cli(&server).arg("--bigkeys"), b"");
    assert!(text.contains("Biggest   list found '\"biggest-list\"' has 3 items"), "{text}");
    assert!(text.contains("Sampled 2002 keys in the keyspace!"), "{text}");
    let text = succeed(cli(&server).arg("--memkeys"), b"");
    assert!(text.contains("Sampled 2002 keys in the keyspace!"), "{text}");
    let text = succeed(cli(&server).args(["-r", "2", "-i", "0.01", "INFO", "server"]), b"");
    assert_eq!(text.matches("redis_version:").count(), 2, "{text}");
}

#[test]
fn monitor() {
    let server = Server::subject(&[]);
    let mut monitor =
        cli(&server).arg("MONITOR").stdout(Stdio::piped()).spawn().expect("redis-cli");
    let mut lines = BufReader::new(monitor.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "OK");
    server.client().line("SET seen by-monitor").expect("a reply");
    let seen = lines.next().expect("a line").expect("text");
    monitor.kill().expect("redis-cli is stopped");
    monitor.wait().expect("redis-cli has stopped");
    assert!(seen.contains("[0 127.0.0.1:"), "{seen}");
    assert!(seen.ends_with("\"SET\" \"seen\" \"by-monitor\""), "{seen}");
}
