//! What was written comes back; what was damaged does not.

use super::*;
use crate::embedded::{Call, Store};
use crate::engine::{Engine, EngineOptions};
use crate::stamp::Rng;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Calls that make values of every representation.
fn fill(store: &Store) {
    let call = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        store.call(&args).unwrap();
    };
    for line in [
        "SET text hello",
        "SET number -12",
        "SET empty x",
        "SETRANGE empty 0 y",
        "APPEND edited abc",
        "SET timed soon PXAT 5000000000000",
        "RPUSH list a b 3",
        "HSET hash f v g w",
        "HSET lapsing f v g w",
        "HPEXPIREAT lapsing 5000000000123 FIELDS 1 f",
        "SADD set a b c",
        "SADD integers 1 2 300",
        "ZADD zset 1 a 2.5 b -inf c",
        "XADD stream 1-1 f v",
        "XADD stream 2-1 f v g w",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group me COUNT 1 STREAMS stream >",
        "PFADD hll a b c",
        "GEOADD geo 13.361389 38.115556 Palermo",
    ] {
        call(line);
    }
    call(&format!("SET long {}", "x".repeat(40_000)));
    for n in 0..600 {
        call(&format!("RPUSH big:list element{n}"));
        call(&format!("HSET big:hash field{n} {n}"));
        call(&format!("SADD big:set member{n}"));
        call(&format!("ZADD big:zset {n} member{n}"));
        call(&format!("XADD big:stream {}-0 n {n}", n + 1));
    }
    call("PEXPIRE big:zset 7000000000000");
    let other = store.db(3).unwrap();
    other.call(&[b"SET", b"text", b"in database 3"]).unwrap();
}

fn store(shards: usize) -> Store {
    let clock = crate::clock::ManualClock::new(1_700_000_000_000);
    Store::builder().shards(shards).seed(7).clock(clock).open()
}

fn write(engine: &Engine, log_index: u64) -> Vec<u8> {
    let (mut cut, ()) = engine.begin_cut(|| ()).unwrap();
    let info = cut.info(log_index, 1_700_000_000_000, 7);
    let mut writer = Writer::new(Vec::new(), 42, &info).unwrap();
    writer.cut(&mut cut, |_, _| true).unwrap();
    writer.cold(b"a part of an index").unwrap();
    writer.finish().unwrap()
}

fn read(bytes: &[u8], shards: usize, threads: usize) -> Result<(Engine, Loaded), SnapshotError> {
    let engine = Engine::with_options(EngineOptions { shards, hash_seed: 7, ..Default::default() });
    let cold = |part: &[u8]| match part {
        b"a part of an index" => Ok(()),
        _ => Err("another part".to_owned()),
    };
    let (len, progress) = (Some(bytes.len() as u64), Progress::default());
    let loaded = load(&engine, bytes, len, threads, &progress, &cold)?;
    assert_eq!(progress.keys.load(Ordering::Relaxed), loaded.keys);
    Ok((engine, loaded))
}

#[test]
fn what_was_written_comes_back() {
    for (from, to) in [(1, 1), (1, 16), (16, 1), (5, 3)] {
        let store = store(from);
        fill(&store);
        for n in 0..5_000 {
            store.call(&[b"SET", format!("key{n}").as_bytes(), b"value"]).unwrap();
        }
        store.call(&[b"SET", b"huge", &vec![b'h'; 3_000_001]]).unwrap();
        store.call(&[b"SET", &vec![b'k'; 1_200_000], &vec![b'v'; (1 << 20) + 17]]).unwrap();
        let bytes = write(store.engine(), 99);
        let (engine, loaded) = read(&bytes, to, 3).unwrap();
        assert_eq!(engine.image(), store.engine().image());
        assert_eq!((loaded.info.log_index, loaded.bytes), (99, bytes.len() as u64));
        let keys: usize = store.engine().db_stats().iter().map(|db| db.keys).sum();
        assert_eq!(loaded.keys, keys as u64);
        // The loaded one works: its indexes of what expires are there, too.
        assert_eq!(engine.db_stats()[0].expires, store.engine().db_stats()[0].expires);
        let again = write(&engine, 99);
        assert_eq!(read(&again, 2, 1).unwrap().0.image(), store.engine().image());
    }
}

#[test]
fn a_reload_changes_nothing() {
    let store = store(5);
    fill(&store);
    let before = store.engine().image();
    let keys = store.engine().reload().unwrap();
    assert_eq!(
        (store.engine().image(), store.engine().digest()),
        (before, store.engine().digest())
    );
    assert!(keys > 20);
    store.call(&[b"DEL", b"timed", b"lapsing"]).unwrap();
    let (cut, ()) = store.engine().begin_cut(|| ()).unwrap();
    assert!(store.engine().reload().is_err());
    drop(cut);
}

#[test]
fn an_empty_engine_has_a_snapshot_too() {
    let bytes = write(store(4).engine(), 0);
    assert_eq!(read(&bytes, 1, 2).unwrap().0.image(), b"");
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let store = store(2);
    fill(&store);
    let bytes = write(store.engine(), 5);
    let mut random = Rng::new(1);
    // All of the first kilobyte and of the last 200 bytes, and one bit of some others.
    for at in 0..bytes.len() {
        let near = at < 1_000 || at + 200 > bytes.len();
        for bit in 0..8 {
            if near || random.below(200) == 0 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged, 1, 1).is_err(), "bit {bit} of byte {at}");
            }
        }
        if near || random.below(50) == 0 {
            assert!(read(&bytes[..at], 1, 1).is_err(), "cut at byte {at}");
        }
    }
    assert!(read(&[&bytes[..], b"x"].concat(), 1, 1).is_err());
}

/// Frames of two valid snapshots do not mix, whatever their checksums say.
#[test]
fn frames_of_another_snapshot_are_not_taken() {
    let store = store(1);
    fill(&store);
    let bytes = write(store.engine(), 5);
    let (mut cut, ()) = store.engine().begin_cut(|| ()).unwrap();
    let info = cut.info(5, 1_700_000_000_000, 7);
    let mut writer = Writer::new(Vec::new(), 43, &info).unwrap();
    writer.cut(&mut cut, |_, _| true).unwrap();
    writer.cold(b"a part of an index").unwrap();
    let other = writer.finish().unwrap();
    assert_eq!(other.len(), bytes.len());
    let half = bytes.len() - 100;
    assert!(read(&[&bytes[..half], &other[half..]].concat(), 1, 1).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let store = store(1);
    fill(&store);
    let bytes = write(store.engine(), 5);
    let config = crate::config::EngineConfig { databases: 3, ..Default::default() };
    let engine = Engine::with_options(EngineOptions { config, ..Default::default() });
    let error = load(&engine, &bytes[..], None, 1, &Progress::default(), &|_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("there are only 3"), "{error}");

    let mut next = bytes.clone();
    next[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&next[0..12]), &next[16..24]);
    next[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(read(&next, 1, 1), Err(SnapshotError::Version(2))));
}

/// The libraries of functions are part of the state: also where they do not fit one frame.
#[test]
fn libraries_come_back() {
    let store = store(3);
    fill(&store);
    store.engine().libraries().set(b"small", b"#!lua name=small");
    let small = write(store.engine(), 1);
    store.engine().libraries().set(b"long", &vec![b'l'; 2_500_000]);
    let long = write(store.engine(), 1);
    for bytes in [&small, &long] {
        let (engine, _) = read(bytes, 2, 3).unwrap();
        assert_eq!(engine.libraries().all().0.len(), if bytes == &small { 1 } else { 2 });
        assert_eq!(read(&write(&engine, 1), 1, 1).unwrap().0.image(), engine.image());
    }
    assert_eq!(read(&long, 2, 2).unwrap().0.image(), store.engine().image());
    store.engine().clear();
    assert_eq!(store.engine().image(), b"");
}

#[test]
fn the_fixture_with_libraries_is_read() {
    let engine = Engine::with_options(EngineOptions { hash_seed: 7, ..Default::default() });
    engine.libraries().set(b"one", b"#!lua name=one\nserver.log(1)");
    engine.libraries().set(b"two", b"");
    let path = "src/snapshot/fixtures/v1-libraries.snap";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("ASHLAR_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, write(&engine, 77)).unwrap();
    }
    let (loaded, _) = read(&std::fs::read(&path).unwrap(), 1, 1).unwrap();
    assert_eq!(loaded.image(), engine.image());
}

/// The format is frozen: a file that an earlier build wrote is read for ever.
#[test]
fn the_fixture_of_version_1_is_read() {
    let store = store(1);
    fill(&store);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/fixtures/v1.snap");
    if std::env::var_os("ASHLAR_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, write(store.engine(), 1234)).unwrap();
    }
    let (engine, loaded) = read(&std::fs::read(&path).unwrap(), 4, 2).unwrap();
    assert_eq!(engine.image(), store.engine().image());
    assert_eq!((loaded.info.log_index, loaded.info.hash_seed), (1234, 7));
    assert_eq!(loaded.info.created_ms, 1_700_000_000_000);
}
