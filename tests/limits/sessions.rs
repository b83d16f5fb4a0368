//! Connections and the process as a whole: who may connect, who is cut off, how it stops.

use crate::{ask, text};
use ashlar_tests::process::{Server, ashlar_binary, temporary_dir};
use ashlar_tests::resp::{Client, Value};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Asks until the answer is this; the timeout only ends a test that has failed.
fn wait_for(client: &mut Client, line: &str, expected: &str) {
    let since = Instant::now();
    while text(client, line) != expected {
        assert!(since.elapsed() < Duration::from_secs(20), "{line} is not {expected}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_blocked(client: &mut Client, count: usize) {
    let since = Instant::now();
    while !text(client, "INFO clients").contains(&format!("blocked_clients:{count}\r\n")) {
        assert!(since.elapsed() < Duration::from_secs(20), "{count} clients are not blocked");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_stops_the_process_cleanly_while_clients_are_connected() {
    for name in ["TERM", "INT"] {
        let server = Server::ashlar(&["--io-threads", "2"]);
        let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
        ask(&mut clients[0], "SET k v");
        ask(&mut clients[1], "SUBSCRIBE c");
        clients[2].send(&["BLPOP", "none", "0"]).unwrap();
        ask(&mut clients[3], "MULTI");
        wait_for_blocked(&mut server.client(), 1);
        server.signal(name);
        assert_eq!(server.wait(), Some(0), "SIG{name}");
    }
}

#[test]
fn what_hinders_the_start_is_named() {
    let server = Server::ashlar(&[]);
    let dir = temporary_dir().unwrap();
    let config = dir.join("redis.conf");
    std::fs::write(&config, "maxmemory 1gb\n\nbogus yes\n").unwrap();
    let port = server.port().to_string();
    let config = config.to_str().unwrap();
    for (args, named) in [
        (["server", "--port", &port], [port.as_str(), "taken"]),
        (["server", "--bogus", "1"], ["bogus", "unknown setting"]),
        (["server", "--maxmemory", "lots"], ["maxmemory", "lots"]),
        (["server", config, "--appendonly"], ["line 3", "bogus"]),
    ] {
        let args = if named[0] == "line 3" { &args[..2] } else { &args[..] };
        let output = Command::new(ashlar_binary()).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(named.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn too_many_and_idle_clients_are_turned_away() {
    let server = Server::ashlar(&["--maxclients", "2"]);
    let mut first = server.client();
    let mut second = server.client();
    let mut answer = Value::Null;
    // The connection that waited for the start may not have been let go yet.
    for _ in 0..1000 {
        answer = second.line("PING").unwrap_or(Value::Null);
        if answer.text() == "PONG" {
            break;
        }
        second = server.client();
    }
    assert_eq!(answer.text(), "PONG");
    let mut refusal = Vec::new();
    let _ = server.client().stream().read_to_end(&mut refusal);
    assert_eq!(String::from_utf8_lossy(&refusal), "-ERR max number of clients reached\r\n");
    // Subscribers and blocked clients are not idle.
    ask(&mut first, "SUBSCRIBE c");
    assert_eq!(text(&mut second, "CONFIG SET timeout 1"), "OK");
    assert_eq!(second.stream().read(&mut [0]).unwrap(), 0, "the idle client is closed");
    assert_eq!(text(&mut server.client(), "PUBLISH c m"), "1");
}

/// The end of what a client sends comes as an event only once. Here it comes together with the last
/// bytes, as the only worker was asleep meanwhile.
#[test]
fn a_client_that_hangs_up_behind_its_last_bytes_is_let_go() {
    let server = Server::ashlar(&["--io-threads", "1", "--enable-debug-command", "yes"]);
    let mut sleeper = server.client();
    for (sent, expected) in [
        ("PING\r\n", "+PONG\r\n"),
        ("PING\r\nECHO x\r\nPI", "+PONG\r\n$1\r\nx\r\n"),
        ("SUBSCRIBE c\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"),
        ("BLPOP none 0\r\n", ""),
        ("", ""),
    ] {
        sleeper.send(&["DEBUG", "SLEEP", "0.1"]).unwrap();
        let mut client = server.client();
        client.send_raw(sent.as_bytes()).unwrap();
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(crate::read_until(&client, b""), expected.as_bytes(), "{sent:?}");
        assert_eq!(sleeper.reply().unwrap().text(), "OK");
    }
    wait_for_blocked(&mut sleeper, 0);
    let left = text(&mut sleeper, "CLIENT LIST");
    assert_eq!(left.lines().count(), 1, "{left}");
}

#[test]
fn slow_readers_are_cut_off() {
    let server = Server::ashlar(&["--client-output-buffer-limit", "normal 2mb 0 0 pubsub 2mb 0 0"]);
    let mut client = server.client();
    let large = "x".repeat(100_000);
    client.call(&["SET", "k", &large]).unwrap();
    let mut subscriber = server.client();
    ask(&mut subscriber, "SUBSCRIBE c");
    let cut = (0..1_000).any(|_| client.call(&["PUBLISH", "c", &large]).unwrap() == Value::Int(0));
    assert!(cut, "the subscriber is not cut off");
    let reader = server.client();
    let mut writer = reader.stream().try_clone().unwrap();
    let gets = b"GET k\r\n".repeat(2_000);
    while writer.write_all(&gets).is_ok() {}
    assert_eq!(text(&mut client, "PING"), "PONG");
    assert!(server.peak_rss() < 200 << 20, "{} bytes", server.peak_rss());
}

#[test]
fn a_request_larger_than_the_query_buffer_limit_closes_the_connection() {
    let server = Server::ashlar(&["--client-query-buffer-limit", "1mb"]);
    let client = server.client();
    let mut writer = client.stream().try_clone().unwrap();
    writer.write_all(b"*2\r\n$4\r\nECHO\r\n$400000000\r\n").unwrap();
    let piece = vec![b'x'; 1 << 20];
    assert!((0..380).any(|_| writer.write_all(&piece).is_err()), "all of it was taken");
    assert_eq!(text(&mut server.client(), "PING"), "PONG");
    assert!(server.peak_rss() < 100 << 20, "{} bytes", server.peak_rss());
}

/// An address of this machine that is not the loopback one, if it has any. Nothing is sent.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn protected_mode_lets_only_this_machine_in() {
    let server = Server::ashlar(&[]);
    let Some(ip) = outer_address() else { return };
    let connect = || {
        let mut stream = TcpStream::connect((ip, server.port())).unwrap();
        let _ = stream.write_all(b"PING\r\nQUIT\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(connect().starts_with("-DENIED "));
    ask(&mut server.client(), "CONFIG SET protected-mode no");
    assert_eq!(connect(), "+PONG\r\n+OK\r\n");
    ask(&mut server.client(), "CONFIG SET protected-mode yes");
    ask(&mut server.client(), "CONFIG SET requirepass secret");
    assert!(connect().starts_with("-NOAUTH "));
}

#[test]
fn clients_are_paused_killed_and_silenced() {
    let server = Server::ashlar(&[]);
    let (mut client, mut other) = (server.client(), server.client());
    other
        .send_raw(b"CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nPING\r\nECHO a\r\n")
        .unwrap();
    assert_eq!(other.reply().unwrap().text(), "OK");
    assert_eq!(other.reply().unwrap().text(), "a");
    assert_eq!(text(&mut client, "CLIENT PAUSE 1000000 WRITE"), "OK");
    assert_eq!(ask(&mut other, "GET k"), Value::Null);
    other.send(&["SET", "k", "v"]).unwrap();
    assert_eq!(ask(&mut client, "GET k"), Value::Null);
    assert_eq!(text(&mut client, "CLIENT UNPAUSE"), "OK");
    assert_eq!(other.reply().unwrap().text(), "OK");
    for close in [true, false] {
        let mut blocked = server.client();
        let id = text(&mut blocked, "CLIENT ID");
        blocked.send(&["BLPOP", "queue", "0"]).unwrap();
        wait_for_blocked(&mut client, 1);
        if close {
            drop(blocked);
        } else {
            assert_eq!(text(&mut client, &format!("CLIENT KILL ID {id}")), "1");
            assert!(blocked.reply().is_err());
        }
        wait_for_blocked(&mut client, 0);
        ask(&mut client, "DEL queue");
        assert_eq!(text(&mut client, "RPUSH queue a"), "1");
        assert_eq!(text(&mut client, "LLEN queue"), "1");
        ask(&mut client, "DEL queue");
    }
    ask(&mut other, "HELLO 3");
    ask(&mut other, "MULTI");
    assert_eq!(text(&mut other, "RESET"), "RESET");
    assert_eq!(text(&mut other, "EXEC"), "ERR EXEC without MULTI");
    let mut monitor = server.client();
    ask(&mut monitor, "MONITOR");
    ask(&mut client, "SET a \u{e9}");
    assert!(monitor.reply().unwrap().text().ends_with("\"SET\" \"a\" \"\\xc3\\xa9\""));
}

#[test]
fn keyspace_notifications_arrive_while_a_resp3_client_works() {
    let server = Server::ashlar(&["--notify-keyspace-events", "KEAn"]);
    let mut client = server.client_of(3);
    client.send(&["PSUBSCRIBE", "__keyevent@0__:*"]).unwrap();
    assert!(matches!(client.push().unwrap(), Value::Push(_)));
    ask(&mut client, "SET k v");
    ask(&mut client, "HSET h f v");
    ask(&mut client, "DEL h");
    ask(&mut client, "PEXPIRE k 1");
    let mut events = Vec::new();
    while events.last().is_none_or(|event| event != "expired") {
        let push = client.push().unwrap();
        let items = push.items().unwrap();
        let event = items[2].text();
        events.push(event.trim_start_matches("__keyevent@0__:").to_string());
    }
    assert_eq!(events, ["new", "set", "new", "hset", "del", "expire", "expired"]);
}

#[test]
fn transactions_fail_as_they_should() {
    let (ashlar, redis) = (Server::ashlar(&[]), Server::redis(&[]));
    let script = b"SET s x\r\nMULTI\r\nLPUSH s a\r\nSET t 1\r\nINCR t\r\nEXEC\r\nMULTI\r\nGET\r\nSET u 1\r\nEXEC\r\n\
        MULTI\r\nnonsense\r\nEXEC\r\nMULTI\r\nMULTI\r\nWATCH s\r\nDISCARD\r\nDISCARD\r\nEXEC\r\n\
        WATCH s\r\nSET s y\r\nMULTI\r\nGET s\r\nEXEC\r\nWATCH s\r\nSELECT 1\r\nSET s z\r\nMULTI\r\nGET s\r\nEXEC\r\n\
        WATCH s\r\nSWAPDB 0 1\r\nMULTI\r\nGET s\r\nEXEC\r\nMOVE s 0\r\nMOVE s 1\r\nMOVE s 99\r\nSWAPDB 0 99\r\n\
        SELECT 0\r\nWATCH s\r\nUNWATCH\r\nSET s q\r\nMULTI\r\nGET s\r\nEXEC\r\nWATCH none\r\nFLUSHALL\r\nMULTI\r\nEXEC\r\n";
    let (ours, theirs) = (crate::exchange(&ashlar, script), crate::exchange(&redis, script));
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
    let mut client = ashlar.client();
    ask(&mut client, "SET w 1 PX 200");
    ask(&mut client, "WATCH w");
    wait_for(&mut ashlar.client(), "EXISTS w", "0");
    ask(&mut client, "MULTI");
    ask(&mut client, "PING");
    assert_eq!(ask(&mut client, "EXEC"), Value::NullArray);
}

#[test]
fn a_key_of_another_type_does_not_disturb_who_waits_for_it() {
    let server = Server::subject(&[]);
    let mut client = server.client();
    for (waits, others, then, found) in [
        ("BLPOP k 0", ["SET k v", "DEL k"], "LPUSH k 1", "1"),
        ("BLMPOP 0 1 k LEFT", ["ZADD k 1 a", "DEL k"], "RPUSH k 2", "2"),
        ("BZPOPMIN k 0", ["LPUSH k 1", "DEL k"], "ZADD k 1 b", "b"),
        ("XREAD BLOCK 0 STREAMS k 0", ["SADD k 1", "DEL k"], "XADD k 1-1 f v", "1-1"),
    ] {
        let mut waiting = server.client();
        waiting.send_raw(format!("{waits}\r\n").as_bytes()).unwrap();
        while !text(&mut client, "INFO clients").contains("blocked_clients:1") {}
        others.iter().for_each(|line| drop(ask(&mut client, line)));
        assert!(text(&mut client, "INFO clients").contains("blocked_clients:1"), "{waits}");
        ask(&mut client, then);
        let reply = format!("{:?}", waiting.reply().unwrap());
        let found = format!("{:?}", Value::bulk(found));
        assert!(reply.contains(&found), "{waits}: {reply}");
        ask(&mut client, "DEL k");
    }
}

#[test]
fn the_greediest_clients_are_evicted() {
    let server = Server::ashlar(&["--maxmemory-clients", "4mb"]);
    let mut client = server.client();
    let mut spared = server.client();
    ask(&mut spared, "CLIENT NO-EVICT on");
    let half = vec![b'x'; 3 << 20];
    let start = format!("*2\r\n$4\r\nECHO\r\n${}\r\n", 7 << 19);
    // One may hold as much as it likes: it is spared, and with the small ones not above the limit.
    spared.send_raw(&[start.as_bytes(), &half].concat()).unwrap();
    let mut greedy = server.client();
    // The server may close before it has read all.
    let _ = greedy.send_raw(&[start.as_bytes(), &half].concat());
    assert!(greedy.reply().is_err(), "it is disconnected");
    let mut queues = server.client();
    ask(&mut queues, "MULTI");
    let big = format!("SET k {}", "x".repeat(1 << 20));
    assert!((0..8).any(|_| queues.line(&big).is_err()), "queued commands count too");
    assert_eq!(text(&mut client, "PING"), "PONG");
    let stats = text(&mut client, "INFO stats");
    assert!(stats.contains("evicted_clients:2"), "{stats}");
    spared.send_raw(&[&vec![b'y'; 1 << 19][..], b"\r\n"].concat()).unwrap();
    assert_eq!(spared.reply().unwrap().text().len(), 7 << 19);
    assert_eq!(text(&mut client, "CONFIG SET maxmemory-clients 5%"), "OK");
}

#[test]
fn what_a_session_holds_is_bounded() {
    const MAX: usize = 1 << 20;
    let server = Server::ashlar(&[]);
    let numbered = |name: &str| {
        let mut args = vec![name.to_string()];
        args.extend((0..=MAX).map(|n| n.to_string()));
        args
    };
    let mut client = server.client();
    assert_eq!(client.call(&numbered("WATCH")).unwrap().text(), "ERR too many watched keys");
    assert_eq!(text(&mut client, "UNWATCH"), "OK");
    ask(&mut client, "MULTI");
    client.send_raw(&b"PING\r\n".repeat(MAX + 1)).unwrap();
    for _ in 0..MAX {
        assert_eq!(client.reply().unwrap(), Value::Simple(b"QUEUED".to_vec()));
    }
    assert_eq!(client.reply().unwrap().text(), "ERR too many commands in the transaction");
    assert!(text(&mut client, "EXEC").starts_with("EXECABORT"));
    let refused = client.call(&numbered("SUBSCRIBE")).unwrap();
    assert_eq!(refused.text(), "ERR too many subscriptions");
    assert_eq!(text(&mut server.client(), "PING"), "PONG");
}
