//! Scripts that run long: who waits is told so, SCRIPT KILL ends them while they have not written,
//! and SHUTDOWN NOSAVE does in any case.

use super::{ask, eval, text};
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Client, Value};
use std::thread::JoinHandle;

const SETTINGS: [&str; 2] = ["--busy-reply-threshold", "10"];

/// Runs a command on a connection of its own, which waits for the reply.
fn start(server: &Server, args: &[&str]) -> JoinHandle<std::io::Result<Value>> {
    let mut client = server.client();
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    std::thread::spawn(move || client.call(&args))
}

/// Calls until the reply is of this kind: the script has to have started.
fn until(client: &mut Client, args: &[&str], wanted: &str) -> Value {
    loop {
        let reply = ask(client, args);
        if text(&reply).starts_with(wanted) {
            return reply;
        }
    }
}

/// On one worker and on two: the client that asks may be on the script's worker or on another.
fn on_both(test: impl Fn(&Server)) {
    for workers in ["1", "2"] {
        let settings = [&SETTINGS[..], &["--io-threads", workers]].concat();
        test(&Server::ashlar(&settings));
    }
}

#[test]
fn a_busy_script_is_ended_by_script_kill() {
    on_both(|server| {
        let (mut client, mut other) = (server.client(), server.client());
        assert_eq!(text(&ask(&mut client, &["SCRIPT", "KILL"])), NOT_BUSY);
        let script = start(server, &["EVAL", "redis.call('get', 'k') while true do end", "0"]);
        until(
            &mut client,
            &["PING"],
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL",
        );
        for args in [&["GET", "k"][..], &["EVAL", "return 1", "0"], &["SET", "k", "v"], &["INFO"]] {
            assert!(text(&ask(&mut client, args)).starts_with("BUSY "), "{args:?}");
        }
        // A connection that is new meanwhile is answered as well.
        let mut fresh = server.client();
        assert!(text(&ask(&mut fresh, &["PING"])).starts_with("BUSY "));
        assert!(!ask(&mut fresh, &["HELLO", "3"]).is_error());
        assert!(text(&ask(&mut other, &["FUNCTION", "KILL"])).starts_with("BUSY "));
        assert_eq!(text(&ask(&mut other, &["SCRIPT", "KILL"])), "OK");
        let reply = script.join().unwrap().unwrap();
        assert!(text(&reply).contains("Script killed by user with SCRIPT KILL"), "{reply:?}");
        assert_eq!(text(&until(&mut client, &["PING"], "PONG")), "PONG");
        assert_eq!(text(&eval(&mut fresh, "return 'next'")), "next");
    });
}

const NOT_BUSY: &str = "NOTBUSY No scripts in execution right now.";

#[test]
fn catching_errors_does_not_keep_a_script_alive() {
    let server = Server::ashlar(&SETTINGS);
    let mut client = server.client();
    let scripts = [
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
        // A handler is no place to hide in, whether it runs after the kill or already before.
        "xpcall(function() while true do end end, function() while true do end end)",
        "xpcall(error, function() while true do end end)",
        "while true do xpcall(function() while true do end end, function() return 1 end) end",
        "local function f() return xpcall(f, f) end while true do f() end",
    ];
    for script in scripts {
        let running = start(&server, &["EVAL", script, "0"]);
        until(&mut client, &["PING"], "BUSY");
        assert_eq!(text(&ask(&mut client, &["SCRIPT", "KILL"])), "OK", "{script}");
        assert!(running.join().unwrap().unwrap().is_error(), "{script}");
        until(&mut client, &["PING"], "PONG");
    }
}

/// Whoever waits for a key when a script becomes busy is told as well, also on another worker,
/// which goes on to serve its other clients.
#[test]
fn those_who_wait_already_are_told() {
    let settings = ["--busy-reply-threshold", "300", "--io-threads", "3"];
    let server = Server::ashlar(&settings);
    let mut clients: Vec<Client> = (0..12).map(|_| server.client()).collect();
    let mut blocked: Vec<Client> = (0..6).map(|_| server.client()).collect();
    for client in &mut blocked {
        client.send(&["BLPOP", "nothing", "0.1"]).unwrap();
    }
    let mut watcher = server.client();
    ask(&mut watcher, &["WATCH", "k"]);
    ask(&mut clients[2], &["MULTI"]);
    ask(&mut clients[2], &["GET", "k"]);
    let script = start(&server, &["EVAL", "redis.call('get', 'k') while true do end", "0"]);
    // One that hangs up leaves something in the shards.
    drop(watcher);
    let requests = [&["GET", "k"][..], &["SET", "k", "v"], &["EXEC"], &["DBSIZE"]];
    let request = |nth: usize| requests.get(nth).copied().unwrap_or(&["GET", "k"]);
    clients.iter_mut().enumerate().for_each(|(nth, client)| client.send(request(nth)).unwrap());
    for (nth, client) in clients.iter_mut().enumerate() {
        let mut reply = client.reply().unwrap();
        // It may have come before the script.
        while !text(&reply).contains("BUSY ") {
            reply = ask(client, if nth == 2 { &["GET", "k"] } else { request(nth) });
        }
    }
    assert_eq!(text(&ask(&mut clients[0], &["SCRIPT", "KILL"])), "OK");
    assert!(script.join().unwrap().unwrap().is_error());
    for client in &mut blocked {
        assert_eq!(client.reply().unwrap(), Value::NullArray);
    }
    for client in &mut clients {
        until(client, &["PING"], "PONG");
    }
}

/// A script may start between any two steps of a worker: while waits end and connections close, no
/// worker may be caught waiting for the shards, or its clients hear nothing until the script ends.
#[test]
fn scripts_that_start_while_waits_end_catch_no_worker() {
    let server = Server::ashlar(&["--busy-reply-threshold", "20", "--io-threads", "3"]);
    let mut clients: Vec<Client> = (0..6).map(|_| server.client()).collect();
    let mut killer = server.client();
    for round in 0..40 {
        let mut blocked: Vec<Client> = (0..24).map(|_| server.client()).collect();
        for (nth, client) in blocked.iter_mut().enumerate() {
            let seconds = format!("0.{:03}", 1 + (nth * 7 + round) % 30);
            client.send(&["BLPOP", "nothing", &seconds]).unwrap();
        }
        let script = start(&server, &["EVAL", "while true do end", "0"]);
        // Every other one hangs up.
        let mut nth = 0;
        blocked.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
        for client in &mut clients {
            until(client, &["GET", "k"], "BUSY");
        }
        until(&mut killer, &["SCRIPT", "KILL"], "OK");
        assert!(script.join().unwrap().unwrap().is_error());
        for client in &mut blocked {
            // The command itself may have met the script.
            let reply = client.reply().unwrap();
            assert!(reply == Value::NullArray || text(&reply).starts_with("BUSY"), "{reply:?}");
        }
    }
}

#[test]
fn a_script_that_has_written_cannot_be_killed_but_the_server_can_be_stopped() {
    on_both(|server| {
        let mut client = server.client();
        let script = start(server, &["EVAL", "redis.call('set', 'k', 1) while true do end", "0"]);
        until(&mut client, &["PING"], "BUSY");
        assert!(
            text(&until(&mut client, &["SCRIPT", "KILL"], "UNKILLABLE"))
                .contains("SHUTDOWN NOSAVE")
        );
        assert!(text(&ask(&mut client, &["GET", "k"])).starts_with("BUSY"));
        // The server closes the connection without a reply.
        assert!(client.call(&["SHUTDOWN", "NOSAVE"]).is_err());
        let reply = script.join().unwrap();
        assert!(reply.is_err() || reply.is_ok_and(|reply| reply.is_error()));
    });
}

#[test]
fn requests_that_wait_are_answered_in_order() {
    let server = Server::ashlar(&SETTINGS);
    let (mut client, mut killer) = (server.client(), server.client());
    // The script's own connection has more behind it.
    client.send(&["EVAL", "while true do end", "0"]).unwrap();
    client.send(&["ECHO", "after"]).unwrap();
    until(&mut killer, &["PING"], "BUSY");
    // What cannot be answered meanwhile stays in its place.
    let mut watcher = server.client();
    watcher.send(&["MULTI"]).unwrap();
    watcher.send(&["SET", "k", "v"]).unwrap();
    watcher.send(&["EXEC"]).unwrap();
    assert_eq!(text(&ask(&mut killer, &["SCRIPT", "KILL"])), "OK");
    assert!(client.reply().unwrap().is_error());
    assert_eq!(text(&client.reply().unwrap()), "after");
    assert_eq!(text(&watcher.reply().unwrap()), "OK");
    assert_eq!(text(&watcher.reply().unwrap()), "QUEUED");
    assert!(matches!(watcher.reply().unwrap(), Value::Array(_)));
}

#[test]
fn functions_are_ended_by_function_kill() {
    let server = Server::ashlar(&SETTINGS);
    let (mut client, mut other) = (server.client(), server.client());
    let code = "#!lua name=l\nredis.register_function('loop', function() while true do end end)";
    assert_eq!(text(&ask(&mut client, &["FUNCTION", "LOAD", code])), "l");
    let running = start(&server, &["FCALL", "loop", "1", "key", "arg"]);
    let reply = until(&mut client, &["PING"], "BUSY");
    assert!(text(&reply).contains("FUNCTION KILL"), "{reply:?}");
    let stats = ask(&mut other, &["FUNCTION", "STATS"]);
    let Some([_, Value::Array(script), ..]) = stats.items() else { panic!("{stats:?}") };
    assert_eq!(text(&script[1]), "loop");
    assert_eq!(script[3].items().map(<[Value]>::len), Some(5));
    assert_eq!(text(&ask(&mut other, &["FUNCTION", "KILL"])), "OK");
    assert!(running.join().unwrap().unwrap().is_error());
}

#[test]
fn a_limit_of_zero_never_reports_a_script() {
    let server = Server::ashlar(&["--busy-reply-threshold", "0"]);
    let mut client = server.client();
    let reply = eval(&mut client, "local n = 0 for i = 1, 2e6 do n = n + 1 end return n");
    assert_eq!(text(&reply), "2000000");
}
