use super::*;
use crate::disk::{Disk, SimDisk};
use crate::embedded::{Call as _, Store};
use crate::engine::EngineOptions;
use crate::keyspace::Kind;
use crate::log::{Log, LogOptions, Replaying, replay};
use crate::stamp::Rng;
use std::path::Path;
use std::sync::Arc;

fn open(disk: &SimDisk) -> Log {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(disk, Path::new("/log"), LogOptions::default()).unwrap().0
}

/// A log of calls of all kinds, most of them of one key, and the engine that has run them.
fn history(seed: u64, calls: usize) -> (SimDisk, Store) {
    let disk = SimDisk::new(seed);
    let log = Arc::new(open(&disk));
    let store = Store::builder().journal(log.clone()).open();
    let mut rng = Rng::new(seed);
    let keys = 3_000;
    for n in 0..calls {
        let key = format!("key:{}", rng.below(keys));
        let other = format!("key:{}", rng.below(keys));
        let value = format!("value {n}");
        let (key, other, value) = (key.as_str(), other.as_str(), value.as_str());
        let number = rng.below(50).to_string();
        // A barrier in a thousand: there is much to run together between them.
        let line: Vec<&str> = match rng.below(4_000) {
            0 => vec!["FLUSHALL"],
            1 => vec!["MSET", key, value, other, value],
            2 => vec!["RENAME", key, other],
            3 => vec!["MOVE", key, "1"],
            4 => vec!["SWAPDB", "0", "2"],
            n => match n % 12 {
                0 | 1 => vec!["SET", key, value],
                2 => vec!["SET", key, value, "PX", "100000"],
                3 => vec!["DEL", key],
                4 => vec!["HSET", key, "name", value, "country", "none", "email", "a@b"],
                5 => vec!["SADD", key, &number, value],
                6 => vec!["SPOP", key],
                7 => vec!["PERSIST", key],
                8 => vec!["INCR", key],
                9 => vec!["LPUSH", key, value],
                10 => vec!["APPEND", key, value],
                _ => vec!["GETDEL", key],
            },
        };
        let args: Vec<&[u8]> = line.iter().map(|word| word.as_bytes()).collect();
        // Of the wrong type now and then: such a call leaves no record.
        let _ = store.call(&args);
    }
    log.close().unwrap();
    (disk, store)
}

fn replayed(disk: &SimDisk, shards: usize, hash_seed: u64, threads: usize) -> Engine {
    let engine = Engine::with_options(EngineOptions { shards, hash_seed, ..Default::default() });
    let log = open(disk);
    let how =
        Replaying { threads, together_min: TOGETHER_MIN, progress: &mut |_| (), relieve: &|| () };
    let done = replay(&engine, log.read_from(1), how).unwrap();
    let enough = if threads == 1 { 0..=0 } else { CALLS as u64 / 8..=CALLS as u64 };
    assert!(enough.contains(&done.together), "{done:?}");
    engine
}

const CALLS: usize = if cfg!(miri) { 1_500 } else { 60_000 };

#[test]
fn several_threads_reach_the_state_of_one() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let (disk, store) = history(seed, CALLS);
        for (shards, threads) in [(1, 1), (1, 2), (1, 4), (3, 2), (16, 3)] {
            let engine = replayed(&disk, shards, seed, threads);
            assert_eq!(engine.digest(), store.engine().digest(), "{shards} {threads}");
            assert_eq!(engine.image(), store.engine().image(), "{shards} {threads}");
            let stats = engine.db_stats();
            let wanted = store.engine().db_stats();
            for (found, wanted) in stats.iter().zip(&wanted) {
                assert_eq!((found.keys, found.expires), (wanted.keys, wanted.expires));
            }
        }
    }
}

#[test]
fn an_engine_goes_on_after_its_lanes() {
    let (disk, _) = history(9, CALLS);
    let engine = replayed(&disk, 1, 9, 2);
    let mut exec = engine.executor();
    let run = |exec: &mut Executor<'_>, line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let command = Engine::find_command(&args).unwrap();
        let stamp = crate::stamp::Stamp::new(1, 1);
        let call =
            Call { command, args: &args, db: 0, stamp: &stamp, may_block: false, no_touch: false };
        let mut out = Vec::new();
        exec.run(&call, Prefetched::NONE, &mut Reply::new(&mut out, Protocol::Resp2));
        out
    };
    for n in 0..3_000 {
        run(&mut exec, &format!("DEL key:{n}"));
    }
    assert_eq!(run(&mut exec, "DBSIZE"), b":0\r\n");
    // Shapes that a lane has met are known to the database.
    for n in 0..3 {
        run(&mut exec, &format!("HSET after:{n} name a country b email c"));
    }
    exec.release();
    let shard = engine.lock_shard(0);
    let hash = engine.hasher().hash(b"after:0");
    let entry = shard.db(0).find(hash, b"after:0").unwrap();
    assert_eq!(entry.kind(), Kind::ShapedHash);
}

#[test]
fn only_calls_that_keep_to_one_key_run_together() {
    let engine = Engine::with_options(EngineOptions::default());
    let lanes = Lanes::new(&engine, 2).unwrap();
    let is_alone = |calls: &[&str]| {
        let stamp = crate::stamp::Stamp::new(1, 1);
        let calls: Vec<Vec<&[u8]>> =
            calls.iter().map(|call| call.split(' ').map(str::as_bytes).collect()).collect();
        let records: Vec<crate::journal::Record<'_>> = calls
            .iter()
            .map(|args| crate::journal::Record { stamp: &stamp, db: 0, args })
            .collect();
        let mut bytes = Vec::new();
        crate::log::record::push_payload(&mut bytes, &records);
        lanes.look(0, &bytes, 0..bytes.len()).is_alone()
    };
    for line in [
        "SET a 1",
        "DEL a",
        "MSET a 1",
        "ZMPOP 1 a MIN",
        "XGROUP CREATE a g $",
        "ZADD a 1 b",
        "RESTORE a 0 x",
        "SORT a",
    ] {
        assert_eq!(is_alone(&[line]), line.starts_with("SORT"), "{line}");
    }
    for line in [
        "MSET a 1 b 2",
        "FLUSHDB",
        "MOVE a 1",
        "COPY a b",
        "ASHLAR.EXPIRE a",
        "ASHLAR.CONFIG a b",
        "ASHLAR.SITE a b",
        "NO-SUCH a",
        "SET",
        "DEL a b",
    ] {
        assert!(is_alone(&[line]), "{line}");
    }
    assert!(is_alone(&["SET a 1", "SET a 2"]));
}
