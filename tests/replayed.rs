//! A log that several threads replay leads to the state that one thread comes to, to the byte: random calls
//! of all commands, several at once as of a transaction, keys that expire, several databases.

use ashlar_engine::config::EngineConfig;
use ashlar_engine::disk::{Disk, SimDisk};
use ashlar_engine::engine::{Engine, EngineOptions};
use ashlar_engine::executor::{Call, Prefetched};
use ashlar_engine::keyspace::access::AccessScheme;
use ashlar_engine::known_bugs::{Bug, put_back};
use ashlar_engine::log::{Log, LogOptions, Replayed, Replaying, replay};
use ashlar_engine::reply::{Protocol, Reply};
use ashlar_engine::stamp::Stamp;
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::golden::Host;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::host::InProcess;
use ashlar_tests::random::seeds;
use ashlar_tests::resp::{Argv, words};
use std::path::Path;
use std::sync::Arc;

/// Calls of each history.
const CALLS: usize = 8_000;
/// Records in a row that run together here: few, since there are many others between them.
const TOGETHER_MIN: usize = 3;

fn open(disk: &SimDisk) -> Log {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(disk, Path::new("/log"), LogOptions::default()).expect("the log is whole").0
}

fn config(access: AccessScheme) -> EngineConfig {
    EngineConfig { access, ..EngineConfig::default() }
}

/// Runs calls as one record, as EXEC and scripts do.
fn run_as_one(host: &mut InProcess, calls: &[Argv]) {
    let mut executor = host.engine.executor();
    executor.lock_all();
    executor.begin_batch();
    for argv in calls {
        let args: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let Some(command) = Engine::find_command(&args) else { continue };
        if !command.accepts(args.len()) {
            continue;
        }
        host.calls += 1;
        let stamp = Stamp::new(host.now_ms, host.calls);
        let (may_block, no_touch) = (false, false);
        let call = Call { command, args: &args, db: 0, stamp: &stamp, may_block, no_touch };
        let mut out = Vec::new();
        executor.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
    }
    executor.commit_batch();
    executor.release();
}

/// A random history in a log, and the digest of the engine that had it.
fn history(seed: u64, access: AccessScheme) -> (SimDisk, u64) {
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    let disk = SimDisk::new(seed);
    let log = Arc::new(open(&disk));
    let options = EngineOptions { config: config(access), ..Default::default() };
    let mut host = InProcess::new(options.clone());
    assert!(host.engine.set_journal(log.clone()), "it has none yet");
    let mut generator = Generator::new(seed);
    for _ in 0..CALLS {
        let step = generator.random.between(0, 40);
        host.advance(step * step);
        match generator.random.between(0, 99) {
            0 => {
                let lines = ["SELECT 0", "SELECT 0", "SELECT 1", "SELECT 3", "SWAPDB 0 1"];
                let line: &str = generator.random.pick::<&str>(&lines);
                host.run(&words(line));
            }
            1..=5 => {
                let calls = generator.random.between(1, 5);
                let calls: Vec<Argv> = (0..calls)
                    .map(|_| {
                        let spec = generator.random.pick(&specs).clone();
                        generator.call(&spec)
                    })
                    .collect();
                run_as_one(&mut host, &calls);
            }
            // What most logs are full of.
            6..=40 => {
                let key = generator.random.between(0, 300);
                let number = generator.random.between(0, 9);
                let line = match generator.random.between(0, 9) {
                    0 => format!("DEL many:{key}"),
                    1 => format!("PEXPIRE many:{key} {}", 1 + 100 * number),
                    2 => format!("INCRBY many:{key} {number}"),
                    3 => format!("APPEND many:{key} {number}"),
                    4 => format!("GETDEL many:{key}"),
                    _ => format!("SET many:{key} value{number}"),
                };
                host.run(&words(&line));
            }
            _ => {
                let spec = generator.random.pick(&specs).clone();
                let argv = generator.call(&spec);
                host.run(&argv);
            }
        }
    }
    let digest = host.engine.digest();
    log.close().expect("a disk that works");
    (disk, digest)
}

fn replayed(
    disk: &SimDisk,
    access: AccessScheme,
    shards: usize,
    threads: usize,
) -> (Engine, Replayed) {
    let config = config(access);
    let engine = Engine::with_options(EngineOptions { config, shards, ..Default::default() });
    let how =
        Replaying { threads, together_min: TOGETHER_MIN, progress: &mut |_| (), relieve: &|| () };
    let done = replay(&engine, open(disk).read_from(1), how).expect("a log that is whole");
    (engine, done)
}

#[test]
fn several_threads_come_to_the_state_of_one() {
    for seed in seeds(&[1, 2, 3, 4]) {
        println!("ASHLAR_SEED={seed}");
        let access = match seed % 2 {
            0 => AccessScheme::Frequency,
            _ => AccessScheme::Recency,
        };
        let (disk, digest) = history(seed, access);
        let (one, _) = replayed(&disk, access, 1, 1);
        assert_eq!(one.digest(), digest, "ASHLAR_SEED={seed}");
        let image = one.image();
        for (shards, threads) in [(1, 2), (1, 5), (4, 2), (16, 3)] {
            let (engine, done) = replayed(&disk, access, shards, threads);
            let here = format!("ASHLAR_SEED={seed}, {shards} shards, {threads} threads");
            assert_eq!(engine.digest(), digest, "{here}");
            // Access data is part of it, as of a snapshot.
            assert!(engine.image() == image, "{here}");
            let share = done.together * 100 / done.batches;
            assert!((25..100).contains(&share), "{here}: {share} % ran together");
        }
    }
}

#[test]
fn a_barrier_that_does_not_hold_is_found() {
    let found = [1, 2, 3].map(|seed| {
        let (disk, digest) = history(seed, AccessScheme::Recency);
        put_back(Some(Bug::BarriersComeLate));
        let (engine, _) = replayed(&disk, AccessScheme::Recency, 1, 2);
        put_back(None);
        engine.digest() != digest
    });
    assert_eq!(found, [true; 3]);
}
