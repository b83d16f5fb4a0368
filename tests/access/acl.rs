//! Users and their permissions, at work.

use crate::{ask, ok};
use ashlar_engine::known_bugs::Bug;
use ashlar_tests::ask::wait_within;
use ashlar_tests::faults::prove;
use ashlar_tests::process::{Server, temporary_dir};
use ashlar_tests::resp::{Client, Value};
use std::fs;
use std::time::Duration;

const NO_COMMAND: &str = "NOPERM this user has no permissions to run the";
const NO_KEY: &str =
    "NOPERM this user has no permissions to access one of the keys used as arguments";
const NO_CHANNEL: &str =
    "NOPERM this user has no permissions to access one of the channels used as arguments";

/// Sends a line that must be refused with a text that starts like this.
fn refused(client: &mut Client, line: &str, text: &str) {
    let reply = ask(client, line);
    assert!(reply.is_error() && reply.text().starts_with(text), "{line}: {reply:?}");
}

/// A server, an administrator's connection, and one of a user with these rules.
fn user(rules: &str) -> (Server, Client, Client) {
    let server = Server::subject(&[]);
    let mut admin = server.client();
    ok(&mut admin, &format!("ACL SETUSER u on >secret {rules}"));
    let mut client = server.client();
    ok(&mut client, "AUTH u secret");
    (server, admin, client)
}

#[test]
fn commands_and_keys() {
    let (_server, mut admin, mut client) = user("+@all -flushall -config|set ~k* %R~r* &c*");
    ok(&mut client, "SET k1 v");
    refused(&mut client, "SET r1 v", NO_KEY);
    assert_eq!(ask(&mut client, "GET r1"), Value::Null);
    refused(&mut client, "MGET k1 z", NO_KEY);
    refused(&mut client, "FLUSHALL", NO_COMMAND);
    refused(
        &mut client,
        "CONFIG SET hz 10",
        "NOPERM this user has no permissions to run the 'config|set' command",
    );
    refused(&mut client, "CONFIG SET hz", "ERR wrong number of arguments");
    refused(&mut client, "NOSUCH", "ERR unknown command");
    refused(&mut client, "PUBLISH d x", NO_CHANNEL);
    assert_eq!(ask(&mut client, "PUBLISH c1 x"), Value::Int(0));
    // A change concerns connections that are there.
    ok(&mut admin, "ACL SETUSER u -get ~r1");
    refused(&mut client, "GET k1", NO_COMMAND);
    ok(&mut client, "SET r1 v");
    ok(&mut admin, "ACL SETUSER u reset");
    refused(&mut client, "PING", NO_COMMAND);
    ok(&mut client, "AUTH default x");
    ok(&mut client, "SET z v");
}

#[test]
fn pipelines_and_plain_commands_are_checked_too() {
    let (_server, mut admin, mut client) = user("+get +set allkeys");
    let pipeline = ["SET a 1", "GET a", "DEL a", "GET a"].map(ashlar_tests::resp::words);
    let replies = client.pipeline(&pipeline).expect("replies");
    assert!(replies[2].is_error() && replies[3] == Value::bulk("1"), "{replies:?}");
    ok(&mut admin, "ACL SETUSER u resetkeys ~b");
    refused(&mut client, "GET a", NO_KEY);
    ok(&mut admin, "ACL SETUSER u on nopass +@all ~* &*");
    assert_eq!(ask(&mut client, "DEL a"), Value::Int(1));
}

#[test]
fn transactions_are_checked_when_queued_and_when_run() {
    let (_server, mut admin, mut client) = user("+@all ~k*");
    ok(&mut client, "MULTI");
    refused(&mut client, "SET z v", NO_KEY);
    assert_eq!(ask(&mut client, "SET k v").text(), "QUEUED");
    refused(&mut client, "EXEC", "EXECABORT");
    ok(&mut client, "MULTI");
    assert_eq!(ask(&mut client, "SET k v").text(), "QUEUED");
    assert_eq!(ask(&mut client, "GET k").text(), "QUEUED");
    ok(&mut admin, "ACL SETUSER u -set");
    let Value::Array(replies) = ask(&mut client, "EXEC") else { panic!("an array") };
    let text = "NOPERM ACLs rules changed between the moment the transaction was accumulated and \
                the EXEC call. This command is no longer allowed for the following reason: no \
                permission to execute the command or subcommand";
    assert_eq!(replies, [Value::Error(text.into()), Value::Null]);
    let log = format!("{:?}", ask(&mut admin, "ACL LOG"));
    assert!(log.contains(&format!("{:?}", Value::bulk("multi"))), "{log}");
}

/// CVE class: SORT's BY and GET name keys that no check of arguments sees.
#[test]
fn sort_with_by_and_get_does_not_get_past_the_acl() {
    let (_server, mut admin, mut client) = user("+@all ~k*");
    ask(&mut admin, "RPUSH k 1 2");
    ask(&mut admin, "MSET secret1 a secret2 b");
    let denied = "option of SORT denied due to insufficient ACL permissions.";
    refused(&mut client, "SORT k BY nosort GET secret*", &format!("ERR GET {denied}"));
    refused(&mut client, "SORT k BY secret*", &format!("ERR BY {denied}"));
    refused(&mut client, "SORT_RO k BY secret* ALPHA", &format!("ERR BY {denied}"));
    refused(&mut client, "SORT k GET # STORE k2", &format!("ERR GET {denied}"));
    refused(&mut client, "SORT k STORE other", NO_KEY);
    let plain = ask(&mut client, "SORT k DESC");
    assert_eq!(plain, Value::Array(vec![Value::bulk("2"), Value::bulk("1")]));
    ok(&mut admin, "ACL SETUSER u %R~*");
    let got = ask(&mut client, "SORT k BY nosort GET secret*");
    assert_eq!(got, Value::Array(vec![Value::bulk("a"), Value::bulk("b")]));
    ok(&mut client, "MULTI");
    assert_eq!(ask(&mut client, "SORT k GET secret*").text(), "QUEUED");
    ok(&mut admin, "ACL SETUSER u resetkeys ~k*");
    let replies = format!("{:?}", ask(&mut client, "EXEC"));
    assert!(!replies.contains(&format!("{:?}", Value::bulk("a"))), "{replies}");
}

#[test]
fn subscribers_lose_their_connection_with_their_channels() {
    let (server, mut admin, mut client) = user("+@all &news &other");
    ask(&mut client, "SUBSCRIBE news");
    let mut second = server.client();
    ok(&mut second, "AUTH u secret");
    ask(&mut second, "SUBSCRIBE other");
    ok(&mut admin, "ACL SETUSER u resetchannels &other");
    assert!(client.value().is_err(), "the connection is closed");
    assert_eq!(ask(&mut admin, "PUBLISH other x"), Value::Int(1));
    assert_eq!(second.value().expect("a message").items().map(<[_]>::len), Some(3));
    assert_eq!(ask(&mut admin, "ACL DELUSER u nobody"), Value::Int(1));
    assert!(second.value().is_err(), "users that are gone are disconnected");
    refused(&mut server.client(), "AUTH u secret", "WRONGPASS");
}

#[test]
fn passwords_of_the_default_user() {
    let server = Server::subject(&["--requirepass", "first"]);
    let mut admin = server.client();
    refused(&mut admin, "GET a", "NOAUTH Authentication required.");
    refused(&mut admin, "AUTH wrong", "WRONGPASS");
    refused(&mut admin, "HELLO 3 AUTH default wrong", "WRONGPASS");
    ok(&mut admin, "AUTH first");
    ok(&mut admin, "ACL SETUSER default >second");
    ok(&mut server.client(), "AUTH second");
    ok(&mut server.client(), "AUTH default first");
    ok(&mut admin, "CONFIG SET requirepass third");
    for old in ["first", "second"] {
        refused(&mut server.client(), &format!("AUTH {old}"), "WRONGPASS");
    }
    ok(&mut server.client(), "AUTH third");
    assert_eq!(admin.call(&["CONFIG", "SET", "requirepass", ""]).expect("a reply").text(), "OK");
    let log = format!("{:?}", ask(&mut admin, "ACL LOG"));
    for secret in ["wrong", "first", "third"] {
        assert!(!log.contains(&format!("{:?}", Value::bulk(secret))), "{secret}: {log}");
    }
}

#[test]
fn refusals_are_logged_and_alike_ones_counted() {
    let (_server, mut admin, mut client) = user("+@all -get ~k*");
    for _ in 0..3 {
        refused(&mut client, "GET k", NO_COMMAND);
    }
    refused(&mut client, "SET z 1", NO_KEY);
    refused(&mut client, "AUTH u bad", "WRONGPASS");
    let Value::Array(entries) = ask(&mut admin, "ACL LOG") else { panic!("an array") };
    let field = |entry: &Value, name: &str| {
        let items = entry.items().expect("an entry");
        let at = items.iter().position(|item| item.text() == name).expect("the field");
        items[at + 1].clone()
    };
    let shown: Vec<(String, String)> = entries
        .iter()
        .map(|entry| (field(entry, "reason").text(), field(entry, "object").text()))
        .collect();
    let expected = [("auth", "AUTH"), ("key", "z"), ("command", "get")];
    assert_eq!(shown, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(field(&entries[2], "count"), Value::Int(3));
    assert_eq!(field(&entries[0], "username").text(), "u");
    ok(&mut admin, "ACL LOG RESET");
    assert_eq!(ask(&mut admin, "ACL LOG"), Value::Array(vec![]));
    ok(&mut admin, "CONFIG SET acllog-max-len 2");
    for key in ["x1", "x2", "x3"] {
        refused(&mut client, &format!("SET {key} 1"), NO_KEY);
    }
    assert_eq!(ask(&mut admin, "ACL LOG").items().map(<[_]>::len), Some(2));
}

#[test]
fn users_survive_in_a_file() {
    let dir = temporary_dir().expect("a directory");
    let file = dir.join("users.acl");
    fs::write(&file, "user u on >secret ~k* +@all\nuser default on nopass ~* &* +@all\n")
        .expect("the file");
    let server = Server::subject(&["--aclfile", file.to_str().expect("a path")]);
    let mut admin = server.client();
    ok(&mut server.client(), "AUTH u secret");
    ok(&mut admin, "ACL SETUSER v on nopass +ping");
    ok(&mut admin, "ACL SAVE");
    let text = fs::read_to_string(&file).expect("the file");
    assert!(text.contains("user v on nopass") && !text.contains("secret"), "{text}");
    ok(&mut admin, "ACL LOAD");
    ok(&mut server.client(), "AUTH v any");
    fs::write(&file, "user u on +nosuch\nuser w on\nsomething\n").expect("the file");
    let reply = ask(&mut admin, "ACL LOAD").text();
    for part in ["users.acl:1", "users.acl:3", "no change to the previously active ACL rules"] {
        assert!(reply.contains(part), "{part}: {reply}");
    }
    ok(&mut server.client(), "AUTH u secret");
    let mut gone = server.client();
    ok(&mut gone, "AUTH v any");
    fs::write(&file, "user u on nopass +@all ~*\n").expect("the file");
    ok(&mut admin, "ACL LOAD");
    assert!(gone.value().is_err(), "users that are gone are disconnected");
    fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn users_in_the_configuration() {
    let dir = temporary_dir().expect("a directory");
    let file = dir.join("redis.conf");
    fs::write(&file, "user u on >secret ~k* +@all\nmaxclients 100\n").expect("the file");
    let server = Server::subject(&[file.to_str().expect("a path")]);
    let mut admin = server.client();
    ok(&mut server.client(), "AUTH u secret");
    ok(&mut admin, "ACL SETUSER v on nopass +ping");
    ok(&mut admin, "CONFIG REWRITE");
    let text = fs::read_to_string(&file).expect("the file");
    assert!(text.contains("user v on nopass") && text.contains("user u on #"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    drop(server);
    let server = Server::subject(&[file.to_str().expect("a path")]);
    ok(&mut server.client(), "AUTH u secret");
    ok(&mut server.client(), "AUTH v any");
    fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn secrets_do_not_show() {
    let server = Server::subject(&["--slowlog-log-slower-than", "0"]);
    let mut monitor = server.client();
    ok(&mut monitor, "MONITOR");
    let mut admin = server.client();
    ok(&mut admin, "ACL SETUSER u on >hidden1 +@all ~*");
    ok(&mut admin, "AUTH u hidden1");
    ask(&mut admin, "AUTH u hidden2");
    ask(&mut admin, "HELLO 3 AUTH u hidden1");
    ask(&mut admin, "CONFIG SET requirepass hidden3");
    ask(&mut admin, "MIGRATE 127.0.0.1 1 k 0 1 AUTH hidden4");
    ok(&mut admin, "SET last 1");
    let mut seen = String::new();
    while !seen.contains("last") {
        seen.push_str(&monitor.value().expect("a line").text());
    }
    let slow = format!("{:?}", ask(&mut admin, "SLOWLOG GET 100"));
    let in_bytes = format!("{:?}", b"hidden".to_vec());
    let in_bytes = in_bytes.trim_matches(['[', ']']);
    assert!(!seen.contains("hidden") && !slow.contains(in_bytes), "{seen}\n{slow}");
}

/// CVE class: a client that is blocked is killed in the middle of what would wake it.
#[test]
fn blocked_clients_are_killed_in_the_middle() {
    let server = Server::subject(&[]);
    let mut admin = server.client();
    ok(&mut admin, "ACL SETUSER u on nopass +@all ~*");
    for round in 0..40 {
        let mut blocked = server.client();
        ok(&mut blocked, "AUTH u x");
        let Value::Int(id) = ask(&mut blocked, "CLIENT ID") else { panic!("an id") };
        let wait =
            ["BLPOP q 0", "BLMOVE q r LEFT LEFT 0", "BZPOPMIN z 0", "XREAD BLOCK 0 STREAMS s $"];
        blocked.send(&ashlar_tests::resp::words(wait[round % 4])).expect("sent");
        let is_blocked = |client: &mut Client| {
            ask(client, "INFO clients").text().contains("blocked_clients:1\r\n")
        };
        while !is_blocked(&mut admin) {}
        // It goes and is served in one step, in both orders.
        let kill =
            if round % 8 < 4 { format!("CLIENT KILL ID {id}") } else { "ACL DELUSER u".into() };
        let wake = ["RPUSH q a", "RPUSH q a", "ZADD z 1 a", "XADD s * f v"][round % 4];
        ask(&mut admin, "MULTI");
        let order = if round % 2 == 0 { [kill.as_str(), wake] } else { [wake, kill.as_str()] };
        order.iter().for_each(|line| drop(ask(&mut admin, line)));
        assert_eq!(ask(&mut admin, "EXEC").items().map(<[_]>::len), Some(2));
        while blocked.value().is_ok() {}
        let gone = "a client that was killed waits no more";
        wait_within(Duration::from_secs(5), gone, || !is_blocked(&mut admin));
        ok(&mut admin, "FLUSHALL");
        ok(&mut admin, "ACL SETUSER u on nopass +@all ~*");
    }
    // One that is gone before anything comes takes nothing.
    let mut blocked = server.client();
    let Value::Int(id) = ask(&mut blocked, "CLIENT ID") else { panic!("an id") };
    blocked.send(&ashlar_tests::resp::words("BLPOP q 0")).expect("sent");
    let mut is_blocked =
        || ask(&mut admin, "INFO clients").text().contains("blocked_clients:1\r\n");
    while !is_blocked() {}
    ask(&mut server.client(), &format!("CLIENT KILL ID {id}"));
    wait_within(Duration::from_secs(5), "a client that was killed waits no more", || !is_blocked());
    assert_eq!(ask(&mut admin, "RPUSH q a"), Value::Int(1));
    let left = ask(&mut admin, "LLEN q");
    assert_eq!(left, Value::Int(1), "a client that was killed takes nothing");
}

#[test]
fn faults_put_back_are_found() {
    prove(
        env!("CARGO_BIN_EXE_faulty"),
        &[
            (
                Bug::KilledWaiterStays,
                blocked_clients_are_killed_in_the_middle,
                "a client that was killed",
            ),
            (Bug::SortIgnoresAcl, sort_with_by_and_get_does_not_get_past_the_acl, "SORT"),
        ],
    );
}
