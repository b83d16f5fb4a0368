//! Libraries of functions, and what scripts do, on their way between this server and a redis-server.

use crate::content::{assert_equal, run};
use crate::live::{UNPROTECTED, caught_up, follow, until};
use ashlar_tests::process::{Server, ashlar_binary};
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::process::Command;

const COUNTER: &str = "#!lua name=counter
redis.register_function('bump', function(keys, args)
    redis.call('INCRBY', keys[1], args[1])
    return redis.call('SET', keys[1] .. ':seen', redis.call('TIME')[1] > '0' and 'yes' or 'no')
end)
redis.register_function{function_name='look', callback=function(keys) return redis.call('GET', keys[1]) end,
    flags={'no-writes'}, description='reads'}";

/// A library whose text is longer than one that is stored with a short length.
fn long(name: &str) -> String {
    let rest = "-- a comment that makes it long\n".repeat(700);
    format!(
        "#!lua name={name}\n{rest}redis.register_function('of_{name}', function() return '{name}' end)"
    )
}

fn ask(client: &mut Client, args: &[&str]) -> Value {
    client.call(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn load(client: &mut Client, texts: &[&str]) {
    let calls = texts.iter().map(|text| vec!["FUNCTION", "LOAD", "REPLACE", text]);
    let calls: Vec<Argv> =
        calls.map(|call| call.iter().map(|word| word.as_bytes().to_vec()).collect()).collect();
    run(client, &calls);
}

/// What FUNCTION LIST tells, in an order of its own.
fn libraries(client: &mut Client) -> Vec<String> {
    let reply = ask(client, &["FUNCTION", "LIST", "WITHCODE"]);
    let mut libraries: Vec<String> = Vec::new();
    for library in reply.items().expect("libraries") {
        let parts = library.items().expect("a library");
        let mut functions: Vec<String> =
            parts[5].items().expect("functions").iter().map(|one| format!("{one:?}")).collect();
        functions.sort();
        libraries.push(format!("{:?} {functions:?} {:?}", parts[1], parts[7]));
    }
    libraries.sort();
    libraries
}

/// Libraries come with the copy and with the stream, whoever follows whom; what the follower had
/// before is gone.
#[test]
fn followers_have_the_libraries() {
    for redis_leads in [true, false] {
        let (redis, ashlar) =
            (Server::redis(&["--repl-diskless-sync-delay", "0"]), Server::ashlar(&[]));
        let (from, to) = if redis_leads { (&redis, &ashlar) } else { (&ashlar, &redis) };
        let (mut primary, mut replica) = (from.client(), to.client());
        load(&mut primary, &[COUNTER, &long("first"), &long("second")]);
        load(&mut replica, &[&long("old")]);
        follow(&mut replica, from);
        caught_up(&mut primary, &mut replica);
        let there = libraries(&mut primary);
        assert_eq!(there.len(), 3);
        assert_eq!(libraries(&mut replica), there);
        ask(&mut primary, &["FCALL", "bump", "1", "n", "5"]);
        ask(&mut primary, &["FUNCTION", "DELETE", "first"]);
        load(&mut primary, &[&long("second").replace("return 'second'", "return 2")]);
        caught_up(&mut primary, &mut replica);
        assert_eq!(libraries(&mut replica), libraries(&mut primary));
        assert_eq!(libraries(&mut replica).len(), 2);
        assert_equal(&mut primary, &mut replica);
        assert_eq!(ask(&mut replica, &["FCALL", "look", "1", "n"]).text(), "5");
        let refused = ask(&mut replica, &["FCALL", "bump", "1", "n", "5"]).text();
        assert_eq!(refused, "READONLY You can't write against a read only replica.");
        let refused = ask(&mut replica, &["EVAL", "redis.call('SET', 'k', 'v')", "0"]).text();
        assert!(refused.starts_with("READONLY You can't write against a read only"), "{refused}");
        let dump = primary.line("FUNCTION DUMP").expect("a payload");
        let payload = dump.bytes().expect("bytes").to_vec();
        ask(&mut primary, &["FUNCTION", "FLUSH"]);
        caught_up(&mut primary, &mut replica);
        assert_eq!(libraries(&mut replica), Vec::<String>::new());
        let restore: Argv = vec![b"FUNCTION".to_vec(), b"RESTORE".to_vec(), payload];
        run(&mut primary, &[restore]);
        caught_up(&mut primary, &mut replica);
        assert_eq!(libraries(&mut replica).len(), 2);
    }
}

/// What a script changed comes as one transaction; what it changed before it failed comes too.
#[test]
fn what_a_script_does_is_one_for_followers() {
    let (redis, ashlar) = (Server::redis(&[]), Server::ashlar(&["--io-threads", "2"]));
    let (mut primary, mut replica) = (ashlar.client(), redis.client());
    follow(&mut replica, &ashlar);
    caught_up(&mut primary, &mut replica);
    run(&mut replica, &[words("CONFIG RESETSTAT")]);
    let script = "for n = 1, 3 do redis.call('RPUSH', KEYS[1], ARGV[n]) end
                  redis.call('SPOP', KEYS[2]) redis.call('EXPIRE', KEYS[1], 100)
                  return redis.call('TIME')";
    run(&mut primary, &[words("SADD s a b c d e f")]);
    for _ in 0..5 {
        ask(&mut primary, &["EVAL", script, "2", "l", "s", "x", "y", "z"]);
    }
    let failing = "redis.call('SET', 'a', 1) redis.call('SET', 'b', 2) redis.call('LPUSH', 'a', 1)";
    assert!(ask(&mut primary, &["EVAL", failing, "0"]).text().starts_with("WRONGTYPE"));
    ask(&mut primary, &["EVAL", "return redis.call('GET', 'a')", "0"]);
    caught_up(&mut primary, &mut replica);
    assert_equal(&mut primary, &mut replica);
    assert_eq!(ask(&mut replica, &["GET", "b"]).text(), "2");
    let stats = ask(&mut replica, &["INFO", "commandstats"]).text();
    assert!(stats.contains("cmdstat_multi:calls=6,"), "{stats}");
    assert!(stats.contains("cmdstat_exec:calls=6,"), "{stats}");
}

#[test]
fn files_have_the_libraries() {
    let (redis, ashlar) = (Server::redis(&UNPROTECTED), Server::ashlar(&[]));
    let (mut from, mut to) = (redis.client(), ashlar.client());
    load(&mut from, &[COUNTER, &long("first")]);
    run(&mut from, &[words("SET k v"), words("SAVE")]);
    let tool = |what: &str, file: &std::path::Path, more: &[&str]| {
        let mut command = Command::new(ashlar_binary());
        let port = ashlar.port().to_string();
        command.arg(what).arg(file).args(["--quiet", "--port", &port]).args(more);
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    };
    tool("import", &redis.dir().join("dump.rdb"), &[]);
    assert_eq!(libraries(&mut to), libraries(&mut from));
    load(&mut to, &[&long("third")]);
    tool("export", &redis.dir().join("out.rdb"), &[]);
    run(&mut from, &[words("CONFIG SET dbfilename out.rdb"), words("DEBUG RELOAD NOSAVE")]);
    until("the libraries are read", || libraries(&mut from).len() == 3);
    assert_eq!(libraries(&mut to), libraries(&mut from));
}
