//! `kill -9` of a daemon whose data is larger than its memory: what was acknowledged is there,
//! what was deleted stays deleted, wherever the values were.

use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Argv, Client, words};
use std::collections::BTreeMap;
use std::thread::{scope, sleep};
use std::time::Duration;

/// Kills for each store, where nothing else is asked for.
const CYCLES: usize = 4;
const KEYS: usize = 16_000;
const VALUE: usize = 3_000;
const BATCH: usize = 60;
const LOAD_MS_MAX: usize = 900;

/// What the client knows.
#[derive(Default)]
struct Model {
    /// What was acknowledged: a key's value.
    known: BTreeMap<usize, String>,
    /// Calls on their way when the server ended, in order: a first part of them took effect.
    pending: Vec<(usize, Change)>,
}

#[derive(Clone)]
enum Change {
    Set(String),
    Append,
    Delete,
    Read,
}

impl Change {
    fn call(&self, key: usize) -> Argv {
        match self {
            Change::Set(value) => words(&format!("SET key:{key} {value}")),
            Change::Append => words(&format!("APPEND key:{key} +")),
            Change::Delete => words(&format!("DEL key:{key}")),
            Change::Read => words(&format!("GET key:{key}")),
        }
    }

    fn apply(&self, state: Option<String>) -> Option<String> {
        match self {
            Change::Set(value) => Some(value.clone()),
            Change::Append => Some(state.unwrap_or_default() + "+"),
            Change::Delete => None,
            Change::Read => state,
        }
    }
}

impl Model {
    fn change(&mut self, key: usize, change: &Change) {
        let state = change.apply(self.known.remove(&key));
        self.known.extend(state.map(|state| (key, state)));
    }

    /// Sends batches until the server is gone.
    fn work(&mut self, mut client: Client, random: &mut Random, version: &mut usize) {
        loop {
            let batch: Vec<(usize, Change)> = (0..BATCH)
                .map(|_| {
                    *version += 1;
                    let text = format!("{version}.");
                    let key = random.below(KEYS);
                    let change = match random.below(10) {
                        0..6 => Change::Set(text.repeat(VALUE / text.len())),
                        6 => Change::Append,
                        7 => Change::Delete,
                        _ => Change::Read,
                    };
                    (key, change)
                })
                .collect();
            for (key, change) in &batch {
                if client.send(&change.call(*key)).is_err() {
                    self.pending = batch.clone();
                    return;
                }
            }
            for (done, (key, change)) in batch.iter().enumerate() {
                let Ok(reply) = client.reply() else {
                    self.pending = batch[done..].to_vec();
                    return;
                };
                if let (Change::Read, Some(value)) = (change, reply.bytes()) {
                    let known = self.known.get(key).map(String::as_bytes);
                    assert_eq!(Some(value), known, "key {key}");
                }
                // One that is refused as memory is short changed nothing.
                assert!(!reply.is_error() || reply.text().starts_with("OOM"), "{reply:?}");
                if !reply.is_error() {
                    self.change(*key, change);
                }
            }
        }
    }

    /// Compares every key; what was pending may have taken effect.
    fn check(&mut self, client: &mut Client, here: &str) {
        let mut possible: BTreeMap<usize, Vec<Option<String>>> = BTreeMap::new();
        for (key, change) in std::mem::take(&mut self.pending) {
            let first = || vec![self.known.get(&key).cloned()];
            let states = possible.entry(key).or_insert_with(first);
            let next = change.apply(states[states.len() - 1].clone());
            states.push(next);
        }
        for keys in (0..KEYS).collect::<Vec<_>>().chunks(200) {
            let gets: Vec<Argv> = keys.iter().map(|key| Change::Read.call(*key)).collect();
            let replies = client.pipeline(&gets).expect("the server answers");
            for (key, reply) in keys.iter().zip(replies) {
                assert!(!reply.is_error(), "{here}: key {key}: {reply:?}");
                let value = reply.bytes().map(|value| String::from_utf8_lossy(value).into_owned());
                match possible.get(key) {
                    Some(states) => assert!(states.contains(&value), "{here}: key {key}"),
                    None => assert!(
                        value.as_ref() == self.known.get(key),
                        "{here}: key {key} is {:.40?}, not {:.40?}",
                        value,
                        self.known.get(key)
                    ),
                }
                self.known.remove(key);
                self.known.extend(value.map(|value| (*key, value)));
            }
        }
    }
}

fn tiers(client: &mut Client, field: &str) -> u64 {
    let text = client.line("INFO tiers").expect("an answer").text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{field} in {text}"))
}

#[test]
fn nothing_acknowledged_is_lost_with_a_cold_tier() {
    let cycles = std::env::var("ASHLAR_KILL_CYCLES").ok().and_then(|text| text.parse().ok());
    for seed in seeds(&[1]) {
        for (store, policy) in [("fjall", "always"), ("sled", "everysec")] {
            println!("ASHLAR_SEED={seed} {store}");
            let settings = [
                ["--save", ""],
                ["--appendonly", "yes"],
                ["--appendfsync", policy],
                ["--log-segment-size", "4mb"],
                ["--auto-aof-rewrite-min-size", "8mb"],
                ["--maxmemory", "40mb"],
                ["--maxmemory-policy", "tier"],
                ["--cold-store", store],
                ["--cold-memory", "8mb"],
            ];
            let settings = settings.concat();
            let mut server = Server::ashlar(&settings);
            let (mut model, mut random) = (Model::default(), Random::new(seed));
            let (mut version, mut cold, mut saves) = (0, 0, 0);
            for cycle in 0..cycles.unwrap_or(CYCLES) {
                let client = server.client();
                scope(|scope| {
                    scope.spawn(|| model.work(client, &mut random, &mut version));
                    sleep(Duration::from_millis(300 + (cycle * 377) as u64 % LOAD_MS_MAX as u64));
                    if cycle % 2 == 0 {
                        let started = server.client().line("BGREWRITEAOF");
                        drop(started.expect("an answer"));
                        sleep(Duration::from_millis(400));
                    }
                    let mut client = server.client();
                    cold = cold.max(tiers(&mut client, "tier_cold_keys"));
                    let text = client.line("INFO persistence").expect("an answer").text();
                    saves += u64::from(!text.contains("rdb_saves:0"));
                    server.signal("KILL");
                });
                server.reap();
                server.restart(&settings);
                let mut client = server.client();
                client.set_timeout(Duration::from_secs(60)).expect("a timeout");
                while client.line("PING").expect("an answer").text().starts_with("LOADING") {
                    sleep(Duration::from_millis(5));
                }
                model.check(&mut client, &format!("{store} cycle {cycle}: {}", server.log()));
                assert_eq!(tiers(&mut client, "tier_faults"), 0);
            }
            println!(
                "{version} calls, {} keys, at most {cold} cold, {saves} snapshots",
                model.known.len()
            );
            assert!(cold > 100 && saves > 0, "{cold} cold keys, {saves} snapshots");
        }
    }
}
