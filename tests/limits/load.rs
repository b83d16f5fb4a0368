//! Memory limits, and the same work on several threads.

use crate::{ask, text};
use ashlar_tests::ask::wait_within;
use ashlar_tests::process::Server;
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::time::Duration;

fn used_memory(client: &mut Client) -> u64 {
    let info = text(client, "INFO memory");
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|used| used.trim().parse().ok()).expect("used_memory")
}

/// Free pages go back to the system though nothing happens any more, and with MEMORY PURGE at once
/// where the thread that does so is off.
#[test]
fn memory_that_is_free_goes_back_to_the_system() {
    const KEYS: usize = 4_000;
    const FREED: u64 = 8 << 20;
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    // Values that stay keep what is below them from being one piece with what is free.
    let value = "x".repeat(4_000);
    let sets: Vec<Argv> = (0..KEYS).map(|key| words(&format!("SET key:{key} {value}"))).collect();
    let mut fill_and_empty = || {
        client.pipeline(&sets).unwrap();
        let full = server.rss();
        ask(&mut client, "FLUSHALL SYNC");
        full
    };
    let full = fill_and_empty();
    wait_within(Duration::from_secs(30), "free memory stays with the server", || {
        server.rss() + FREED < full
    });
    ask(&mut server.client(), "CONFIG SET jemalloc-bg-thread no");
    let full = fill_and_empty();
    let mut client = server.client();
    // The values are freed by a thread of their own.
    wait_within(Duration::from_secs(30), "MEMORY PURGE leaves free memory", || {
        ask(&mut client, "MEMORY PURGE");
        server.rss() + FREED < full
    });
}

#[test]
fn every_policy_keeps_memory_near_the_limit() {
    const KEYS: usize = 12_000;
    const ROOM: u64 = 3_000_000;
    let server = Server::ashlar(&[]);
    let mut client = server.client();
    let limit = used_memory(&mut client) + ROOM;
    let value = "x".repeat(400);
    let sets: Vec<Argv> =
        (0..KEYS).map(|key| words(&format!("SET key:{key} {value} EX 1000"))).collect();
    for policy in [
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
        "noeviction",
    ] {
        ask(&mut client, "CONFIG SET maxmemory 0");
        ask(&mut client, "FLUSHALL");
        ask(&mut client, &format!("CONFIG SET maxmemory-policy {policy}"));
        ask(&mut client, &format!("CONFIG SET maxmemory {limit}"));
        let replies = client.pipeline(&sets).unwrap();
        let refused = replies.iter().filter(|reply| reply.is_error()).count();
        assert_eq!(refused > 0, policy == "noeviction", "{policy}: {refused} refused");
        let used = used_memory(&mut client);
        assert!(used < limit + ROOM / 2, "{policy}: {used} of {limit} bytes");
        let kept: usize = text(&mut client, "DBSIZE").parse().unwrap();
        assert!(kept > KEYS / 10 && kept < KEYS, "{policy}: {kept} keys");
    }
    let oom = "OOM command not allowed when used memory > 'maxmemory'.";
    let large = format!("SET large {}", "x".repeat(100_000));
    // The limit is looked at before a command, so one may still fit.
    let refused =
        (0..100).any(|at| text(&mut client, &large.replace("large", &at.to_string())) == oom);
    assert!(refused, "writes go on");
    assert_eq!(text(&mut client, "STRLEN key:0"), "400");
    assert_eq!(text(&mut client, "DEL key:0"), "1");
}

/// One client's part: transactions and commands over many shards, none of which may be seen half
/// done.
fn work(server: &Server, me: usize) {
    let mut client = server.client();
    let commands: Vec<Argv> = [
        "MULTI".to_string(),
        "INCR a".into(),
        "INCR b".into(),
        format!("MSET m1 {me} m2 {me} m3 {me}"),
        "EXEC".into(),
        "MGET m1 m2 m3".into(),
        "MGET a b".into(),
        "RPUSH sent x".into(),
    ]
    .iter()
    .map(|line| words(line))
    .collect();
    for _ in 0..200 {
        let replies = client.pipeline(&commands).unwrap();
        assert!(matches!(&replies[4], Value::Array(items) if items.len() == 3), "{replies:?}");
        for reply in &replies[5..7] {
            let items = reply.items().unwrap();
            assert!(items.iter().all(|item| *item == items[0]), "seen half done: {replies:?}");
        }
    }
    let popped = client.line("BLPOP queue 20").unwrap();
    assert!(matches!(popped, Value::Array(_)), "{popped:?}");
}

#[test]
fn several_workers_do_ordinary_work_consistently() {
    const CLIENTS: usize = 6;
    let server = Server::ashlar(&["--io-threads", "3"]);
    let mut client = server.client();
    let mut subscribers: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    for subscriber in &mut subscribers {
        ask(subscriber, "SUBSCRIBE channel");
    }
    std::thread::scope(|scope| {
        for me in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || work(server, me));
        }
        for _ in 0..CLIENTS {
            ask(&mut client, "RPUSH queue x");
            assert_eq!(text(&mut client, "PUBLISH channel hello"), CLIENTS.to_string());
        }
    });
    for subscriber in &mut subscribers {
        for _ in 0..CLIENTS {
            assert_eq!(subscriber.reply().unwrap().items().unwrap()[2].text(), "hello");
        }
    }
    let done = (CLIENTS * 200).to_string();
    assert_eq!(text(&mut client, "GET a"), done);
    assert_eq!(text(&mut client, "GET b"), done);
    assert_eq!(text(&mut client, "LLEN sent"), done);
    assert_eq!(text(&mut client, "EXISTS queue"), "0");
}

#[test]
fn evicted_keys_are_notified() {
    let server = Server::ashlar(&["--notify-keyspace-events", "Ee"]);
    let (mut client, mut subscriber) = (server.client(), server.client());
    ask(&mut subscriber, "SUBSCRIBE __keyevent@0__:evicted");
    ask(&mut client, "SET first value");
    ask(&mut client, "CONFIG SET maxmemory-policy allkeys-random");
    ask(&mut client, "CONFIG SET maxmemory 1");
    // There is never room enough, so the key goes and the write is refused or not.
    ask(&mut client, "SET second value");
    let message = subscriber.reply().unwrap();
    assert_eq!(message.items().unwrap()[2].text(), "first");
}
