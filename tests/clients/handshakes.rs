//! What client libraries send as they connect, byte by byte as they do, in one write: for those that
//! are not installed here (go-redis, Jedis, Lettuce, redis-benchmark).

use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, Client, Value, words};

/// The replies to one pipeline on a fresh connection.
fn send(client: &mut Client, lines: &[&str]) -> Vec<Value> {
    let commands: Vec<Argv> = lines.iter().map(|line| words(line)).collect();
    client.pipeline(&commands).expect("replies")
}

fn field(map: &Value, name: &str) -> Option<Value> {
    let Value::Map(pairs) = map else { return None };
    pairs.iter().find(|(key, _)| key.text() == name).map(|(_, value)| value.clone())
}

#[test]
fn go_redis() {
    let server = Server::subject(&[]);
    let mut client = server.client();
    let replies = send(
        &mut client,
        &[
            "hello 3 setname worker",
            "client maint_notifications on moving-endpoint-type none",
            "client setinfo LIB-NAME go-redis(,go1.24)",
            "client setinfo LIB-VER 9.12.0",
            "command",
            "cluster slots",
            "asking",
            "ping",
        ],
    );
    let [hello, maintenance, lib_name, lib_ver, command, slots, asking, ping] = &replies[..] else {
        panic!("{replies:?}")
    };
    assert_eq!(field(hello, "server"), Some(Value::bulk("redis")));
    assert_eq!(field(hello, "proto"), Some(Value::Int(3)));
    assert_eq!(field(hello, "mode"), Some(Value::bulk("standalone")));
    assert_eq!(field(hello, "role"), Some(Value::bulk("master")));
    assert!(maintenance.is_error(), "{maintenance:?}");
    // Redis 7.0 has no SETINFO, and clients do not mind.
    for reply in [lib_name, lib_ver] {
        assert!(reply.text() == "OK" || reply.is_error(), "{reply:?}");
    }
    let commands = command.items().expect("an array");
    let get = commands.iter().filter_map(Value::items).find(|info| info[0].text() == "get");
    let get = get.expect("GET is described");
    assert_eq!(get[1..6].iter().filter(|value| matches!(value, Value::Int(_))).count(), 4);
    assert_eq!(slots.text(), "ERR This instance has cluster support disabled");
    assert_eq!(asking.text(), "ERR This instance has cluster support disabled");
    assert_eq!(ping.text(), "PONG");
    assert_eq!(send(&mut client, &["client getname"])[0].text(), "worker");
}

#[test]
fn jedis_and_lettuce() {
    let server = Server::subject(&["--requirepass", "secret"]);
    let mut client = server.client();
    // Lettuce tries RESP3 with the password in HELLO, and reads the fields of the reply.
    let replies = send(
        &mut client,
        &["PING", "HELLO 3 AUTH default secret SETNAME app", "CLIENT ID", "SELECT 1", "INFO"],
    );
    assert!(replies[0].text().starts_with("NOAUTH"), "{replies:?}");
    let version = field(&replies[1], "version").expect("a version").text();
    assert!(version.starts_with("7."), "{version}");
    assert!(matches!(field(&replies[1], "id"), Some(Value::Int(1..))));
    assert_eq!(field(&replies[1], "id"), Some(replies[2].clone()));
    assert_eq!(replies[3].text(), "OK");
    for line in ["loading:0", "role:master", "redis_mode:standalone", "cluster_enabled:0"] {
        assert!(replies[4].text().contains(&format!("{line}\r\n")), "{line}");
    }
    // Jedis speaks RESP2 and sends AUTH by itself; what it cannot do must be an error at once.
    let mut jedis = server.client();
    let replies =
        send(&mut jedis, &["AUTH secret", "HELLO 4", "CLUSTER NODES", "READONLY", "PING"]);
    assert_eq!(replies[0].text(), "OK");
    assert!(replies[1].text().starts_with("NOPROTO"), "{replies:?}");
    assert_eq!(replies[2].text(), "ERR This instance has cluster support disabled");
    assert_eq!(replies[3].text(), "ERR This instance has cluster support disabled");
    assert_eq!(replies[4].text(), "PONG");
}

#[test]
fn redis_cli_and_redis_benchmark() {
    let server = Server::subject(&[]);
    let mut client = server.client();
    let lines = ["CONFIG GET save", "CONFIG GET appendonly", "COMMAND DOCS", "INFO server"];
    let replies = send(&mut client, &lines);
    assert_eq!(replies[0].items().map(<[Value]>::len), Some(2));
    assert_eq!(replies[1].items().expect("a pair")[1].text(), "no");
    let docs = replies[2].items().expect("pairs");
    let at = docs.iter().position(|name| name.text() == "getex").expect("GETEX");
    let fields: Vec<String> =
        docs[at + 1].items().expect("fields").iter().step_by(2).map(Value::text).collect();
    for wanted in ["summary", "since", "group", "arguments"] {
        assert!(fields.iter().any(|field| field == wanted), "{wanted} is not in {fields:?}");
    }
    assert!(replies[3].text().contains("redis_version:"));
    // An inline PING is one of redis-benchmark's tests; an empty line ends redis-cli --pipe.
    client.send_raw(b"PING\r\n\r\n*1\r\n$4\r\nPING\r\n").expect("sent");
    assert_eq!(client.reply().expect("a reply").text(), "PONG");
    assert_eq!(client.reply().expect("a reply").text(), "PONG");
}
