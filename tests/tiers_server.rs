//! The server with data larger than `maxmemory`: nothing is lost, memory stays within its bound, and
//! connections wait for the disk without disturbing others.
//!
//! `ASHLAR_TIER_MINUTES=30 cargo test --release -p ashlar-tests --test tiers_server memory` runs the mixed
//! load for that long.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MAXMEMORY: u64 = 80 << 20;
const KEYS: usize = 60_000;
const VALUE: usize = 2_000;
/// Resident memory may be above `maxmemory` by this: what arrives between two looks at it.
const BOUND: u64 = 32 << 20;

fn server(store: &str, threads: &str) -> Server {
    let max = MAXMEMORY.to_string();
    let settings = ["--maxmemory", &max, "--maxmemory-policy", "tier", "--cold-store", store];
    let memory = ["--cold-memory", "8388608", "--io-threads", threads];
    Server::ashlar(&[&settings[..], &memory].concat())
}

fn ask(client: &mut Client, line: &str) -> Value {
    client.line(line).unwrap()
}

fn info(client: &mut Client, field: &str) -> u64 {
    let text = ask(client, "INFO tiers").text();
    let prefix = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{field} in {text}"))
}

fn resident(server: &Server) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
    let pages: Vec<u64> =
        statm.split_ascii_whitespace().map(|pages| pages.parse().unwrap()).collect();
    // Without the program file's pages: they are many in a debug build.
    (pages[1] - pages[2]) * 4096
}

fn value(key: usize, version: usize) -> String {
    let text = format!("{key}.{version}.");
    text.repeat(VALUE / text.len() + 1)
}

fn get(client: &mut Client, key: usize) -> Option<Vec<u8>> {
    ask(client, &format!("GET key:{key}")).bytes().map(<[u8]>::to_vec)
}

#[test]
fn data_larger_than_memory_is_all_there() {
    for (store, threads) in [("sled", "1"), ("fjall", "2")] {
        let server = server(store, threads);
        let mut client = server.client();
        client.set_timeout(Duration::from_secs(60)).unwrap();
        let mut peak = 0;
        fill_large(&mut client);
        for keys in (0..KEYS).collect::<Vec<_>>().chunks(200) {
            let sets: Vec<Argv> = keys
                .iter()
                .map(|key| words(&format!("SET key:{key} {}", value(*key, 0))))
                .collect();
            let replies = client.pipeline(&sets).unwrap();
            let refused = replies.iter().find(|reply| reply.text() != "OK");
            assert!(refused.is_none(), "{store}: {refused:?}");
            peak = peak.max(resident(&server));
        }
        println!("{store}: peak of the ingest {} MiB of {}", peak >> 20, MAXMEMORY >> 20);
        assert!(peak < MAXMEMORY + BOUND, "{store}: {peak} bytes of {MAXMEMORY}");
        assert_eq!(ask(&mut client, "DBSIZE"), Value::Int(KEYS as i64 + 2));
        // What has no room in memory is on disk.
        let cold = info(&mut client, "tier_cold_keys");
        let least = ((KEYS * VALUE) as u64 - MAXMEMORY) / VALUE as u64;
        assert!(cold >= least, "{store}: {cold} keys are cold, {least} have no room");
        assert!(info(&mut client, "tier_index_bytes") <= 16 * info(&mut client, "tier_cold_keys"));
        // Everything can be read, from two connections at once, whose replies keep their order.
        let mut other = server.client();
        other.set_timeout(Duration::from_secs(60)).unwrap();
        for keys in (0..KEYS).step_by(17).collect::<Vec<_>>().chunks(64) {
            let gets = |shift: usize| -> Vec<Argv> {
                let key = |key: &usize| words(&format!("GET key:{}", (key + shift) % KEYS));
                keys.iter().map(key).chain([words("PING")]).collect()
            };
            for (client, shift) in [(&mut client, 0), (&mut other, 3)] {
                let replies = client.pipeline(&gets(shift)).unwrap();
                for (key, reply) in keys.iter().zip(&replies) {
                    let key = (key + shift) % KEYS;
                    assert_eq!(reply.bytes(), Some(value(key, 0).as_bytes()), "key {key}");
                }
                assert_eq!(replies.last().unwrap().text(), "PONG");
            }
            peak = peak.max(resident(&server));
        }
        assert!(peak < MAXMEMORY + BOUND, "{store}: {peak} bytes of {MAXMEMORY}");
        parts_of_large(&mut client, &mut other);
        every_kind_of_request(&mut client, &server);
    }
}

/// Fields of a large hash.
const FIELDS: usize = 30_000;

/// A large hash and a large list, which are not used for long.
fn fill_large(client: &mut Client) {
    for fields in (0..FIELDS).collect::<Vec<_>>().chunks(500) {
        let (mut hash, mut list) = ("HSET large:hash".to_owned(), "RPUSH large:list".to_owned());
        for field in fields {
            hash += &format!(" field{field} value{field}");
            list += &format!(" element{field}");
        }
        client.pipeline(&[words(&hash), words(&list)]).unwrap();
    }
}

/// Pipelines of several connections read parts of large values, which stay on disk; a transaction and a script too.
fn parts_of_large(client: &mut Client, other: &mut Client) {
    let tier = |client: &mut Client| ask(client, "OBJECT TIER large:hash").text();
    // Which values leave is drawn from samples: others are written until it was their turn. What is only read would
    // leave before them, since its row is there.
    let is_cold = |client: &mut Client, name: &str| {
        ask(client, &format!("OBJECT TIER large:{name}")).text() == "cold"
    };
    // Up to 53,000 writes were seen on a busy machine: many times that are enough.
    for key in (0..KEYS).cycle().take(10 * KEYS) {
        if is_cold(client, "hash") && is_cold(client, "list") {
            break;
        }
        let set = format!("SET key:{key} {}", value(key, 0));
        assert_eq!(ask(client, &set).text(), "OK");
    }
    assert_eq!(tier(client), "cold");
    let (parts, misses) = (info(client, "tier_parts"), info(client, "tier_misses"));
    for at in [0, 7_000] {
        let gets: Vec<Argv> = (at..at + 10)
            .flat_map(|nth| {
                let from = nth + 3;
                [
                    format!("HGET large:hash field{nth}"),
                    format!("LRANGE large:list {nth} {from}"),
                    "HLEN large:hash".to_owned(),
                ]
            })
            .map(|line| words(&line))
            .collect();
        for client in [&mut *client, &mut *other] {
            let replies = client.pipeline(&gets).unwrap();
            for (nth, replies) in (at..).zip(replies.chunks(3)) {
                assert_eq!(replies[0].text(), format!("value{nth}"));
                let Value::Array(elements) = &replies[1] else { panic!("{:?}", replies[1]) };
                assert_eq!(elements[3].text(), format!("element{}", nth + 3));
                assert_eq!(replies[2], Value::Int(FIELDS as i64));
            }
        }
    }
    assert_eq!(tier(client), "cold");
    assert_eq!(info(client, "tier_misses"), misses, "nothing was brought in as a whole");
    assert!(info(client, "tier_parts") >= parts + 50);
    scripts_wait_for_the_disk(client);
    assert_eq!(tier(client), "cold");
    ask(client, "MULTI");
    ask(client, "HSET large:hash field9 changed");
    ask(client, "HGET large:hash field9");
    let Value::Array(replies) = ask(client, "EXEC") else { panic!("EXEC replies an array") };
    assert_eq!(replies[1].text(), "changed");
    assert_eq!(tier(client), "hot");
}

/// A script is given up where it meets something on disk, and run again with that, as long as it has changed nothing: what
/// it catches and draws then does not show. After its first write it reads with all shards locked, which is counted.
fn scripts_wait_for_the_disk(client: &mut Client) {
    let keys = cold_keys(client, 12);
    let locked = info(client, "tier_locked_loads");
    let waits = info(client, "tier_waits") + info(client, "tier_ready_loads");
    let eval = |client: &mut Client, script: &str, declared: &[usize], args: &[String]| {
        let mut call = vec!["EVAL".to_owned(), script.to_owned(), declared.len().to_string()];
        call.extend(declared.iter().map(|key| format!("key:{key}")));
        call.extend_from_slice(args);
        client.call(&call).unwrap()
    };
    let undeclared =
        |keys: &[usize]| keys.iter().map(|key| format!("key:{key}")).collect::<Vec<_>>();
    let part = "return redis.call('HGET', 'large:' .. ARGV[1], 'field9')";
    assert_eq!(eval(client, part, &[], &["hash".to_owned()]).text(), "value9");
    // Several, each met only after the one before, with errors that are caught.
    let sum = "local n = 0 for _, key in ipairs(ARGV) do local r = redis.pcall('STRLEN', key) \
               if type(r) == 'number' then n = n + r else n = n + 1000000 end end \
               redis.call('SET', 'sum', n) return n";
    let expected: usize = keys[..4].iter().map(|key| value(*key, 0).len()).sum();
    assert_eq!(eval(client, sum, &[], &undeclared(&keys[..4])), Value::Int(expected as i64));
    // Declared ones are there before it begins, so that it may write first.
    let write_first = "redis.call('SET', 'sum', '0') return #redis.call('GET', KEYS[1] or ARGV[1])";
    let len = |key: usize| Value::Int(value(key, 0).len() as i64);
    assert_eq!(info(client, "tier_locked_loads"), locked);
    assert!(info(client, "tier_waits") + info(client, "tier_ready_loads") >= waits + 3);
    let mut is_there = |key: usize| {
        let before = ["tier_locked_loads", "tier_waits"].map(|field| info(client, field));
        assert_eq!(eval(client, write_first, &[key], &[]), len(key));
        assert!(info(client, "tier_waits") > before[1], "key:{key} was on disk");
        info(client, "tier_locked_loads") == before[0]
    };
    // Memory is short: a value may leave between its reader and its script, and is read again then.
    assert!([5, 9, 10, 11].iter().any(|nth| is_there(keys[*nth])), "none was there");
    let locked = info(client, "tier_locked_loads");
    assert_eq!(eval(client, write_first, &[], &undeclared(&keys[6..7])), len(keys[6]));
    assert_eq!(info(client, "tier_locked_loads"), locked + 1);
    // A write is not made twice, whatever comes before and after it.
    let append = "redis.call('GET', ARGV[1]) redis.call('APPEND', ARGV[2], '!') \
                  return redis.call('STRLEN', ARGV[2])";
    let longer = Value::Int(value(keys[8], 0).len() as i64 + 1);
    assert_eq!(eval(client, append, &[], &undeclared(&keys[7..9])), longer);
    ask(client, &format!("SET key:{} {}", keys[8], value(keys[8], 0)));
    ask(client, "DEL sum");
}

/// What pipelines ask for together is many times what may be above `maxmemory`.
#[test]
fn reads_of_large_values_wait_for_room() {
    const LARGE: usize = 1 << 20;
    const LARGE_KEYS: usize = 150;
    let server = server("fjall", "1");
    let large = |key: usize| format!("{key}.").repeat(LARGE / format!("{key}.").len());
    let mut client = server.client();
    client.set_timeout(Duration::from_secs(60)).unwrap();
    for key in 0..LARGE_KEYS {
        assert_eq!(ask(&mut client, &format!("SET large:{key} {}", large(key))).text(), "OK");
    }
    let stop = AtomicBool::new(false);
    let peak = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !stop.load(Ordering::Relaxed) {
                peak = peak.max(resident(&server));
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let readers = (0..4).map(|nth| {
            let mut client = server.client();
            scope.spawn(move || {
                client.set_timeout(Duration::from_secs(60)).unwrap();
                for round in 0..3 {
                    let keys: Vec<usize> =
                        (0..32).map(|at| (at * 4 + nth + round * 40) % LARGE_KEYS).collect();
                    // A command that brings all of it in, and has a short reply: those that a client has not read yet
                    // are not what is looked at.
                    let bit = |key: &usize| words(&format!("GETBIT large:{key} 1004"));
                    let replies = client.pipeline(&keys.iter().map(bit).collect::<Vec<_>>());
                    for (key, reply) in keys.iter().zip(replies.unwrap()) {
                        let expected = large(*key).as_bytes()[125] >> 3 & 1;
                        assert_eq!(reply, Value::Int(i64::from(expected)), "key {key}");
                    }
                }
            })
        });
        readers.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        watch.join().unwrap()
    });
    println!("peak {} MiB of {} MiB", peak >> 20, MAXMEMORY >> 20);
    assert!(peak < MAXMEMORY + BOUND, "{peak} bytes of {MAXMEMORY}");
    assert!(info(&mut client, "tier_misses") > 0);
}

/// Keys that are cold now.
fn cold_keys(client: &mut Client, count: usize) -> Vec<usize> {
    let cold = |key: &usize| ask(client, &format!("OBJECT TIER key:{key}")).text() == "cold";
    let keys: Vec<usize> = (0..KEYS).filter(cold).take(count).collect();
    assert_eq!(keys.len(), count);
    keys
}

fn every_kind_of_request(client: &mut Client, server: &Server) {
    let keys = cold_keys(client, 40);
    let key = |nth: usize| keys[nth];
    // A transaction, with a watched key that is read in meanwhile.
    ask(client, &format!("WATCH key:{}", key(0)));
    ask(client, "MULTI");
    ask(client, &format!("STRLEN key:{}", key(0)));
    ask(client, &format!("APPEND key:{} x", key(1)));
    ask(client, &format!("DEL key:{}", key(2)));
    let len = |nth: usize| value(key(nth), 0).len() as i64;
    let reply = ask(client, "EXEC");
    let expected = [len(0), len(1) + 1, 1].map(Value::Int).to_vec();
    assert_eq!(reply, Value::Array(expected));
    // An inline request, a command with several keys, one that asks for names.
    let inline = format!("STRLEN key:{}\r\n", key(3));
    client.send_raw(inline.as_bytes()).unwrap();
    assert_eq!(client.reply().unwrap(), Value::Int(len(3)));
    let reply = ask(client, &format!("MGET key:{} nothing key:{}", key(4), key(5)));
    let items = reply.items().unwrap();
    assert_eq!(items[0].bytes(), Some(value(key(4), 0).as_bytes()));
    assert_eq!(items[2].bytes(), Some(value(key(5), 0).as_bytes()));
    assert!(!ask(client, "SCAN 0 COUNT 50").is_error());
    // INFO of everything, alone and behind others whose locks are still held.
    assert!(ask(client, "INFO").text().contains("tier_cold_keys:"));
    let lines = ["GET other", "INFO tiers", "MULTI", "GET other", "INFO everything", "EXEC"];
    let replies = client.pipeline(&lines.map(words)).unwrap();
    for text in [replies[1].text(), replies[5].items().unwrap()[1].text()] {
        assert!(text.contains("tier_cold_keys:"), "{text}");
    }
    assert!(ask(client, "RANDOMKEY").text().starts_with("key:"));
    // Deleting and overwriting.
    assert_eq!(ask(client, &format!("SET key:{} new", key(6))).text(), "OK");
    assert_eq!(ask(client, &format!("GET key:{}", key(6))).text(), "new");
    assert_eq!(ask(client, &format!("EXISTS key:{} key:{}", key(7), key(2))), Value::Int(1));
    // An error of a command on a cold key, and a blocked client that waits for another key.
    let reply = ask(client, &format!("LPUSH key:{} x", key(8)));
    assert!(reply.text().starts_with("WRONGTYPE"), "{reply:?}");
    let mut blocked = server.client();
    blocked.send(&words("BLPOP list 0")).unwrap();
    while ask(client, "INFO clients").text().contains("blocked_clients:0") {}
    ask(client, "RPUSH list element");
    assert_eq!(blocked.reply().unwrap().items().unwrap()[1].text(), "element");
    assert_eq!(ask(client, "FLUSHALL").text(), "OK");
    assert_eq!(info(client, "tier_cold_keys"), 0);
}

/// A mixed load over data three times as large as memory: every value is the last one that was written,
/// and resident memory never leaves its bound.
#[test]
fn memory_keeps_its_bound_under_a_mixed_load() {
    let minutes = std::env::var("ASHLAR_TIER_MINUTES").ok().and_then(|text| text.parse().ok());
    let time =
        minutes.map_or(Duration::from_secs(4), |minutes: u64| Duration::from_secs(minutes * 60));
    let seed = seeds(&[1])[0];
    let stores = std::env::var("ASHLAR_TIER_STORES").unwrap_or_else(|_| "sled,fjall".to_owned());
    for store in stores.split(',') {
        println!("ASHLAR_SEED={seed} {store}");
        mixed_load(store, time, seed);
    }
}

fn mixed_load(store: &str, time: Duration, seed: u64) {
    let server = server(store, "1");
    let mut client = server.client();
    client.set_timeout(Duration::from_secs(60)).unwrap();
    let (mut random, mut versions) = (Random::new(seed), vec![0; KEYS]);
    let (start, mut peak, mut steps) = (Instant::now(), 0, 0u64);
    while start.elapsed() < time || steps < 20 {
        let mut model = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..200 {
            // A few keys are used much more than the others.
            let below = if random.chance(70) { KEYS / 20 } else { KEYS };
            let key = random.below(below);
            match random.below(10) {
                0..5 => {
                    versions[key] += 1;
                    calls.push(words(&format!("SET key:{key} {}", value(key, versions[key]))));
                    model.push(None);
                }
                5 => {
                    versions[key] = 0;
                    calls.push(words(&format!("DEL key:{key}")));
                    model.push(None);
                }
                _ => {
                    calls.push(words(&format!("GET key:{key}")));
                    let version = versions[key];
                    model.push(Some((version > 0).then(|| value(key, version))));
                }
            }
        }
        for (reply, expected) in client.pipeline(&calls).unwrap().iter().zip(model) {
            assert!(!reply.is_error(), "{reply:?}");
            if let Some(expected) = expected {
                let expected = expected.as_deref().map(str::as_bytes);
                assert_eq!(reply.bytes(), expected, "step {steps}");
            }
        }
        steps += 1;
        peak = peak.max(resident(&server));
        assert!(peak < MAXMEMORY + BOUND, "{peak} bytes of {MAXMEMORY}");
    }
    println!(
        "{store}: {steps} steps of 200 calls, peak {} MiB of {} MiB",
        peak >> 20,
        MAXMEMORY >> 20
    );
    let live = versions.iter().filter(|&&version| version > 0).count();
    assert_eq!(ask(&mut client, "DBSIZE"), Value::Int(live as i64));
    assert_eq!(info(&mut client, "tier_faults"), 0);
    let key = versions.iter().position(|&version| version > 0).unwrap();
    assert_eq!(get(&mut client, key), Some(value(key, versions[key]).into_bytes()));
}
