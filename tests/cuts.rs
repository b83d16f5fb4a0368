//! A cut has the state of the moment at which it began, whatever runs while it is read: random
//! calls of all families, flushes, swapped databases, expiry and eviction. That the test would
//! notice otherwise is shown with each hand-over forgotten on purpose.

use ashlar_engine::cut::{Cut, Rows};
use ashlar_engine::engine::EngineOptions;
use ashlar_engine::image::image_of_rows;
use ashlar_engine::keyspace::{EvictionPolicy, HandOver};
use ashlar_engine::prelude::*;
use ashlar_engine::stamp::Stamp;
use ashlar_tests::cli::join;
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::host::InProcess;
use ashlar_tests::random::seeds;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cuts of each sequence.
const CUTS: usize = 12;
/// Calls between two cuts.
const CALLS: usize = 150;
/// Keys besides those of the random calls, so that there is something left to read for a while.
const KEYS: usize = 1_200;

/// A run of random calls.
struct Run {
    host: InProcess,
    generator: Generator,
    specs: Vec<Spec>,
}

impl Run {
    fn new(shards: usize, seed: u64) -> Run {
        let options = EngineOptions { shards, hash_seed: seed, ..Default::default() };
        let mut host = InProcess::new(options);
        // Reads would change the access data of what is not saved yet.
        host.no_touch = true;
        let specs = table().into_iter().filter(is_data).collect();
        Run { host, generator: Generator::new(seed), specs }
    }

    fn line(&mut self, line: &str) {
        let argv = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        self.host.run(&argv);
    }

    /// Keys of which many exist, of several types, some with an expiry that passes.
    fn fill(&mut self) {
        for number in 0..KEYS {
            let key = format!("fill{number}");
            self.line(&format!("SELECT {}", number % 3));
            match number % 5 {
                0 => self.line(&format!("SET {key} {number}")),
                1 => self.line(&format!("SET {key} text{number} PX {}", 1 + number * 7)),
                2 => self.line(&format!("RPUSH {key} a b {number}")),
                3 => self.line(&format!("HSET {key} f {number} g {key}")),
                _ => self.line(&format!("ZADD {key} {number} m 2 n")),
            }
        }
        self.line("SELECT 0");
    }

    /// One call, or something else that changes the data.
    fn act(&mut self) {
        let random = &mut self.generator.random;
        let key = format!("fill{}", random.below(KEYS));
        match random.below(100) {
            0 => {
                let (a, b) = (random.below(4), random.below(4));
                self.line(&format!("SWAPDB {a} {b}"));
            }
            1 if random.chance(30) => self.line("FLUSHDB"),
            1 if random.chance(10) => self.line("FLUSHALL"),
            2..6 => {
                let db = random.below(4);
                self.line(&format!("SELECT {db}"));
            }
            6 => {
                self.host.now_ms += 40;
                let stamp = Stamp::new(self.host.now_ms, random.bits());
                self.host.engine.executor().expire_cycle(&stamp, 5, 200);
            }
            7..9 => {
                let stamp = Stamp::new(self.host.now_ms, random.bits());
                self.host.engine.executor().evict(EvictionPolicy::AllKeysRandom, 5, &stamp);
            }
            9..13 => self.line(&format!("MOVE {key} 3")),
            13..17 => self.line(&format!("RENAME {key} fill{KEYS}")),
            17..24 => self.line(&format!("APPEND {key} more")),
            24..28 => self.line(&format!("PEXPIRE {key} 100000")),
            28..31 => self.line(&format!("PERSIST {key}")),
            31..35 => self.line(&format!("SET {key} other KEEPTTL")),
            35..38 => self.line(&format!("DEL {key}")),
            38..41 => self.line(&format!("RPUSH {key} c")),
            41..44 => self.line(&format!("HSET {key} h 1")),
            _ => {
                let spec = self.specs[random.below(self.specs.len())].clone();
                let argv = self.generator.call(&spec);
                let reply = format!("{:?}", self.host.run(&argv));
                assert!(!reply.contains("PANIC"), "{}: {reply}", join(&argv));
            }
        }
    }

    /// Takes a cut while calls run; returns whether it has the state of its beginning.
    fn cut(&mut self, flaw: Option<HandOver>) -> bool {
        let engine = self.host.engine.clone();
        let before = engine.image();
        let mut cut: Cut<'_> = match flaw {
            None => engine.begin_cut(|| ()).expect("no other cut is running").0,
            Some(flaw) => engine.begin_flawed_cut(flaw).expect("no other cut is running"),
        };
        assert!(engine.begin_cut(|| ()).is_none(), "there is one cut at a time");
        let keys: usize = cut.dbs().iter().map(|db| db.keys).sum();
        let mut rows = Rows::default();
        while cut.step(&mut rows) {
            for _ in 0..self.generator.random.below(20) {
                self.act();
            }
        }
        assert!(flaw.is_some() || rows.len() == keys, "{} rows of {keys} keys", rows.len());
        image_of_rows(rows.iter()) == before
    }
}

fn check(shards: usize, seed: u64, flaw: Option<HandOver>) -> bool {
    let mut run = Run::new(shards, seed);
    (0..CUTS).all(|_| {
        run.fill();
        (0..CALLS).for_each(|_| run.act());
        run.cut(flaw)
    })
}

#[test]
fn a_cut_has_the_state_of_its_beginning() {
    for seed in seeds(&[1, 2, 3, 4]) {
        for shards in [1, 7] {
            println!("ASHLAR_SEED={seed}, {shards} shards");
            assert!(check(shards, seed, None), "ASHLAR_SEED={seed}, {shards} shards");
        }
    }
}

#[test]
fn a_hand_over_that_is_forgotten_is_noticed() {
    use HandOver::{Edit, Flush, Put, Remove, Swap};
    for flaw in [Put, Edit, Remove, Flush, Swap] {
        for shards in [1, 7] {
            assert!(!check(shards, 1, Some(flaw)), "{flaw:?} with {shards} shards");
        }
    }
}

/// What is left of a cut that is given up does not spoil the next one.
#[test]
fn a_cut_that_is_given_up_leaves_nothing_behind() {
    let mut run = Run::new(3, 5);
    for steps in [0, 1, 20] {
        run.fill();
        let engine = run.host.engine.clone();
        let (mut cut, ()) = engine.begin_cut(|| ()).expect("no other cut is running");
        let mut rows = Rows::default();
        for _ in 0..steps {
            cut.step(&mut rows);
            run.act();
        }
        drop(cut);
        assert!(run.cut(None), "after {steps} steps");
    }
}

/// With threads at work: keys that are always written together are together in a cut, too.
#[test]
fn keys_written_together_are_together_in_a_cut() {
    const KEYS: usize = 40;
    let store = Store::builder().shards(16).open();
    let stop = AtomicBool::new(false);
    let write = |value: &str| {
        let mut args = vec!["MSET".to_owned()];
        (0..KEYS).for_each(|key| args.extend([format!("key{key}"), value.to_owned()]));
        let args: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
        store.call(&args).expect("MSET runs");
    };
    write("0");
    for n in 0..2_000 {
        store.set(format!("other{n}"), "x").expect("SET runs");
    }
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (write, stop) = (&write, &stop);
            scope.spawn(move || {
                (0u64..)
                    .take_while(|_| !stop.load(Ordering::Relaxed))
                    .for_each(|n| write(&format!("{thread}-{n}")));
            });
        }
        for _ in 0..30 {
            let (mut cut, ()) = store.engine().begin_cut(|| ()).expect("no other cut is running");
            let mut rows = Rows::default();
            while cut.step(&mut rows) {}
            assert_eq!(rows.len(), KEYS + 2_000);
            let mut values: Vec<&[u8]> = rows
                .iter()
                .filter(|row| row.key.starts_with(b"key"))
                .map(|row| row.value)
                .collect();
            values.dedup();
            assert_eq!(values.len(), 1, "{values:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
