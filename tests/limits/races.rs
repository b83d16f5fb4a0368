//! What goes wrong only between threads: nothing is lost or served twice, whoever blocks, gives up,
//! is unblocked or is killed at the same moment, and messages keep their order.

use crate::{ask, text};
use ashlar_tests::process::Server;
use ashlar_tests::random::Random;
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PRODUCERS: usize = 3;
const ELEMENTS: usize = 1_500;
const QUEUES: usize = 4;

/// Pushes its elements in every way that wakes a blocked client.
fn produce(server: &Server, me: usize) {
    let mut client = server.client();
    let mut random = Random::new(me as u64);
    let mut pipeline: Vec<Argv> = Vec::new();
    for nth in 0..ELEMENTS {
        let (queue, element) = (random.below(QUEUES), format!("{me}:{nth}"));
        let lines = match random.below(5) {
            0 => vec![format!("LPUSH q{queue} {element}")],
            1 => vec!["MULTI".into(), format!("RPUSH q{queue} {element}"), "EXEC".into()],
            2 => vec![format!("RPUSH s{me} {element}"), format!("LMOVE s{me} q{queue} LEFT LEFT")],
            3 => vec![format!("ZADD z {nth} {element}")],
            _ => vec![format!("RPUSH q{queue} {element}")],
        };
        pipeline.extend(lines.iter().map(|line| words(line)));
        if random.below(20) == 0 {
            let replies = client.pipeline(&std::mem::take(&mut pipeline)).unwrap();
            assert!(!replies.iter().any(Value::is_error), "{replies:?}");
        }
    }
    client.pipeline(&pipeline).unwrap();
}

/// Takes elements until told that there will be no more, and gives up now and then.
fn consume(server: &Server, me: usize, over: &AtomicBool) -> Vec<String> {
    let mut client = server.client();
    let mut random = Random::new(100 + me as u64);
    let mut taken = Vec::new();
    loop {
        let last = over.load(Ordering::Acquire);
        let timeout = ["0.001", "0.01", "0.05"][random.below(3)];
        let (a, b) = (random.below(QUEUES), random.below(QUEUES));
        let line = match random.below(4) {
            0 => format!("BRPOP q{a} {timeout}"),
            1 => format!("BLMPOP {timeout} 2 q{a} q{b} LEFT COUNT 2"),
            2 => format!("BZPOPMIN z {timeout}"),
            _ => format!("BLPOP q0 q1 q2 q3 {timeout}"),
        };
        let reply = client.line(&line).unwrap();
        let found = match reply.items() {
            None => Vec::new(),
            Some([_, Value::Array(many)]) => many.iter().map(Value::text).collect(),
            Some([_, one, ..]) => vec![one.text()],
            Some(other) => panic!("{other:?}"),
        };
        if found.is_empty() && last {
            return taken;
        }
        taken.extend(found);
    }
}

/// Moves elements and is killed while it does: what it moved is in a list, answered or not.
fn be_killed(server: &Server, over: &AtomicBool, killed: &AtomicUsize) {
    let mut client = server.client();
    while !over.load(Ordering::Acquire) {
        if client.line("BLMOVE q0 moved RIGHT LEFT 0.02").is_err() {
            killed.fetch_add(1, Ordering::Relaxed);
            client = server.client();
        }
    }
}

/// Unblocks clients, and kills those that move.
fn disturb(server: &Server, over: &AtomicBool) {
    let mut client = server.client();
    let mut random = Random::new(7);
    while !over.load(Ordering::Acquire) {
        for line in text(&mut client, "CLIENT LIST").lines() {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
            let (Some(id), Some(command)) = (field("id="), field("cmd=")) else { continue };
            match command {
                "blmove" if random.below(3) == 0 => {
                    ask(&mut client, &format!("CLIENT KILL ID {id}"));
                }
                "blpop" | "brpop" | "blmpop" | "bzpopmin" | "blmove" if random.below(3) == 0 => {
                    ask(&mut client, &format!("CLIENT UNBLOCK {id}"));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_element_is_taken_exactly_once() {
    let server = Server::ashlar(&["--io-threads", "4"]);
    let (over, killed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut taken: Vec<String> = std::thread::scope(|scope| {
        let (server, over, killed) = (&server, &over, &killed);
        let consumers: Vec<_> =
            (0..4).map(|me| scope.spawn(move || consume(server, me, over))).collect();
        for _ in 0..2 {
            scope.spawn(move || be_killed(server, over, killed));
        }
        scope.spawn(move || disturb(server, over));
        let producers: Vec<_> =
            (0..PRODUCERS).map(|me| scope.spawn(move || produce(server, me))).collect();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        over.store(true, Ordering::Release);
        consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect()
    });
    let mut client = server.client();
    for list in ["moved", "q0", "q1", "q2", "q3"] {
        let left = ask(&mut client, &format!("LRANGE {list} 0 -1"));
        taken.extend(left.items().unwrap().iter().map(Value::text));
    }
    let left = ask(&mut client, "ZRANGE z 0 -1");
    taken.extend(left.items().unwrap().iter().map(Value::text));
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    taken.into_iter().for_each(|element| *counts.entry(element).or_default() += 1);
    for (me, nth) in (0..PRODUCERS).flat_map(|me| (0..ELEMENTS).map(move |nth| (me, nth))) {
        *counts.entry(format!("{me}:{nth}")).or_default() -= 1;
    }
    counts.retain(|_, count| *count != 0);
    assert!(counts.is_empty(), "lost (-1) or taken twice (1): {counts:?}");
    assert!(text(&mut client, "INFO clients").contains("blocked_clients:0"));
    // Nothing of those who gave up or were killed is left behind.
    let mut waiting = server.client();
    waiting.send_raw(b"BLPOP q0 0\r\n").unwrap();
    ask(&mut client, "RPUSH q0 last");
    assert_eq!(waiting.reply().unwrap().items().unwrap()[1].text(), "last");
}

#[test]
fn messages_of_each_publisher_arrive_in_order() {
    const MESSAGES: usize = 3_000;
    const PUBLISHERS: usize = 3;
    let server = Server::ashlar(&["--io-threads", "4"]);
    let mut subscribers: Vec<Client> =
        (0..4).map(|nth| server.client_of(2 + (nth % 2) as u8)).collect();
    for (nth, subscriber) in subscribers.iter_mut().enumerate() {
        let line = if nth < 2 { "SUBSCRIBE news" } else { "PSUBSCRIBE n?ws" };
        subscriber.send(&words(line)).unwrap();
        subscriber.value().unwrap();
    }
    std::thread::scope(|scope| {
        let server = &server;
        for me in 0..PUBLISHERS {
            scope.spawn(move || {
                let mut client = server.client();
                let all: Vec<Argv> =
                    (0..MESSAGES).map(|nth| words(&format!("PUBLISH news {me}:{nth}"))).collect();
                for some in all.chunks(100) {
                    let replies = client.pipeline(some).unwrap();
                    assert!(replies.iter().all(|reply| *reply == Value::Int(4)), "{replies:?}");
                }
            });
        }
        // Others come and go meanwhile.
        scope.spawn(move || {
            let mut client = server.client();
            for nth in 0..300 {
                ask(&mut client, &format!("SUBSCRIBE other:{nth}"));
                ask(&mut client, &format!("UNSUBSCRIBE other:{nth}"));
            }
        });
        for mut subscriber in subscribers {
            scope.spawn(move || {
                let mut next = [0; PUBLISHERS];
                for _ in 0..PUBLISHERS * MESSAGES {
                    let message = subscriber.value().unwrap();
                    let payload = message.items().unwrap().last().unwrap().text();
                    let (publisher, nth) = payload.split_once(':').unwrap();
                    let expected = &mut next[publisher.parse::<usize>().unwrap()];
                    assert_eq!(nth.parse(), Ok(*expected), "{payload}");
                    *expected += 1;
                }
            });
        }
    });
}

#[test]
fn a_publisher_waits_for_a_worker_that_is_behind() {
    let server = Server::ashlar(&["--io-threads", "2", "--enable-debug-command", "local"]);
    let mut client = server.client();
    let unbounded = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"];
    let unbounded: Argv = unbounded.iter().map(|word| word.as_bytes().to_vec()).collect();
    assert_eq!(client.pipeline(&[unbounded]).unwrap()[0].text(), "OK");
    let mut subscribers: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for subscriber in &mut subscribers {
        ask(subscriber, "SUBSCRIBE news");
    }
    // Two clients, so that most likely each worker sleeps once while the other one publishes.
    let mut sleepers = [server.client(), server.client()];
    for sleeper in &mut sleepers {
        sleeper.send_raw(b"DEBUG SLEEP 0.3\r\n").unwrap();
    }
    std::thread::scope(|scope| {
        for mut subscriber in subscribers {
            scope.spawn(move || {
                for nth in 0..400 {
                    let message = subscriber.reply().unwrap();
                    let payload = message.items().unwrap()[2].text();
                    assert!(payload.starts_with(&format!("{nth}:")), "{nth}");
                }
            });
        }
        let body = "x".repeat(256 << 10);
        let publishes: Vec<Argv> =
            (0..400).map(|nth| words(&format!("PUBLISH news {nth}:{body}"))).collect();
        for some in publishes.chunks(50) {
            client.pipeline(some).unwrap();
        }
    });
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.reply().unwrap().text(), "OK");
    }
}
