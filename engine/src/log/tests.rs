//! The log over a disk in memory: what comes back, what is cut, what is refused.

use super::check::{check, repair};
use super::scan::Place;
use super::*;
use crate::disk::sim::Loss;
use crate::disk::{Mode, SimDisk};
use crate::engine::EngineOptions;
use crate::journal::Record;
use crate::stamp::Stamp;
use std::path::Path;
use std::sync::Arc;

pub(super) const DIR: &str = "/data/log";
pub(super) const SEGMENT: u64 = 4096;

pub(super) fn open_with(
    disk: &SimDisk,
    seed: u64,
    floor: u64,
) -> Result<(Log, Recovered), LogError> {
    // Both ways are to pass all tests.
    let zeroed = seed.is_multiple_of(2);
    let options = LogOptions { segment_bytes: SEGMENT, floor, salt_seed: seed, zeroed };
    Log::open(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn open(disk: &SimDisk) -> (Log, Recovered) {
    open_with(disk, disk.operations() + 1, 0).unwrap()
}

/// Appends a record whose size and content follow from `n`.
pub(super) fn append(log: &Log, n: u64, bytes: usize) -> u64 {
    let (stamp, value) = (Stamp::new(n as i64, n), vec![n as u8; bytes]);
    log.append(&[Record { stamp: &stamp, db: 0, args: &[b"SET", &n.to_le_bytes(), &value] }])
}

/// Index, number and length of value of each record.
pub(super) fn contents(log: &Log, from: u64) -> Vec<(u64, u64, usize)> {
    let mut reader = log.read_from(from);
    let mut found = Vec::new();
    while let Some(mut batch) = reader.next().unwrap() {
        let call = batch.calls.next().unwrap();
        assert!(call.args[2].iter().all(|byte| *byte == call.stamp.seed as u8));
        found.push((batch.index, call.stamp.seed, call.args[2].len()));
    }
    found
}

fn filled(count: u64) -> (SimDisk, Vec<(u64, u64, usize)>) {
    let disk = SimDisk::new(1);
    let (log, recovered) = open(&disk);
    assert_eq!(recovered, Recovered { first: 1, last: 0, cut: None });
    let mut all = Vec::new();
    for n in 1..=count {
        let bytes = usize::try_from(n * 37 % 300).unwrap();
        assert_eq!(append(&log, n, bytes), n);
        all.push((n, n, bytes));
        if n % 3 == 0 {
            log.sync().unwrap();
            log.tend().unwrap();
        }
    }
    log.close().unwrap();
    assert_eq!(contents(&log, 1), all);
    assert_eq!((log.appended(), log.written(), log.durable()), (count, count, count));
    (disk, all)
}

#[test]
fn records_come_back() {
    let (disk, mut all) = filled(200);
    for life in 0..3 {
        let disk = disk.reboot(Loss::Everything, life);
        let (log, recovered) = open(&disk);
        assert_eq!(recovered, Recovered { first: 1, last: 200, cut: None });
        assert!(log.stats().segments > 5, "{:?}", log.stats());
        assert_eq!(contents(&log, 1), all);
        assert_eq!(contents(&log, 150), all[149..]);
    }
    let (log, _) = open(&disk);
    assert_eq!(append(&log, 201, 5), 201);
    log.close().unwrap();
    all.push((201, 201, 5));
    assert_eq!(contents(&open(&disk).0, 1), all);
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let (disk, mut all) = filled(10);
    let (log, _) = open(&disk);
    append(&log, 11, 100);
    assert_eq!(log.write().unwrap(), 11);
    append(&log, 12, 100);
    let disk = disk.reboot(Loss::Nothing, 1);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.cut.clone()), (11, None));
    all.push((11, 11, 100));
    assert_eq!(contents(&log, 1), all);
    // It is durable from here on, although no sync of the first process ran.
    assert_eq!(log.durable(), 11);
    assert_eq!(contents(&open(&disk.reboot(Loss::Everything, 2)).0, 1), all);
}

/// The segment of a record and its offset there.
fn place_of(disk: &SimDisk, index: u64) -> Place {
    let mut reader = open(&disk.reboot(Loss::Nothing, 9)).0.read_from(1);
    while let Some(batch) = reader.next().unwrap() {
        if batch.index == index {
            return batch.place;
        }
    }
    panic!("record {index} is not there");
}

fn flip(disk: &SimDisk, place: Place, byte: usize) {
    let at = usize::try_from(place.offset).unwrap() + byte;
    disk.flip_bit(&segment::path(Path::new(DIR), place.segment), at, 3);
}

#[test]
fn damage_is_named_and_a_repair_says_what_it_drops() {
    let (disk, all) = filled(200);
    let place = place_of(&disk, 77);
    flip(&disk, place, 40);
    let error = open_with(&disk, 5, 0).unwrap_err();
    assert_eq!(error, LogError::Damaged { place, durable: 200 });
    let expected = format!(
        "segment {:016}.log of the log is damaged at offset {}: record 77 is not there, though \
         records up to 200 were acknowledged",
        place.segment, place.offset
    );
    assert_eq!(error.to_string(), expected);

    let before = disk.operations();
    let report = check(&disk, Path::new(DIR), 0).unwrap();
    assert_eq!(disk.operations(), before);
    assert!(!report.is_whole);
    assert!(report.lines.contains(&format!("DAMAGED: {expected}")), "{report:#?}");
    let would = report.lines.last().unwrap();
    assert!(would.starts_with("a repair would drop everything from record 77 on"), "{would}");
    assert!(would.ends_with("; 123 whole records are among it"), "{would}");

    let report = repair(&disk, Path::new(DIR), 0).unwrap();
    assert!(report.is_whole && report.lines[1].contains("from record 77 on"), "{report:#?}");
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(names.iter().any(|name| name.ends_with(".bad")), "{names:?}");
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.first, recovered.last), (1, 76));
    assert_eq!(contents(&log, 1), all[..76]);
    let report = repair(&disk, Path::new(DIR), 0).unwrap();
    assert_eq!(report.lines.last().unwrap(), "nothing to repair");
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let (disk, mut all) = filled(30);
    let (log, _) = open(&disk);
    for n in 31..=40 {
        append(&log, n, 200);
    }
    log.write().unwrap();
    // Of ten records that nobody acknowledged the fourth is lost.
    let disk = disk.reboot(Loss::Nothing, 1);
    let place = place_of(&disk, 34);
    flip(&disk, place, 50);
    let report = check(&disk, Path::new(DIR), 0).unwrap();
    assert!(report.is_whole && report.lines.iter().any(|line| line.starts_with("torn tail: ")));
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.last, 33);
    assert_eq!(recovered.cut, Some(Cut { place, records: 6 }));
    for n in 34..=36 {
        append(&log, n + 100, 200);
    }
    log.close().unwrap();
    all.extend((31..=33).map(|n| (n, n, 200)));
    all.extend((34..=36).map(|n| (n, n + 100, 200)));
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.cut), (36, None));
    assert_eq!(contents(&log, 1), all);
}

#[test]
fn no_flipped_bit_is_served() {
    let (disk, all) = filled(60);
    let names = disk.list(Path::new(DIR)).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        let path = Path::new(DIR).join(name);
        let bytes = disk.open(&path, Mode::Read).unwrap().len().unwrap();
        for byte in 0..usize::try_from(bytes).unwrap() {
            let damaged = disk.reboot(Loss::Nothing, 1);
            damaged.flip_bit(&path, byte, (byte % 8) as u32);
            match open_with(&damaged, 3, 0) {
                Err(LogError::Damaged { .. } | LogError::Header { .. }) => refused += 1,
                Err(error) => panic!("byte {byte} of {name}: {error}"),
                Ok((log, _)) => {
                    assert_eq!(contents(&log, 1), all, "byte {byte} of {name}");
                    harmless += 1;
                }
            }
        }
    }
    // Every byte of every record but the closing mark, and of every header; the rest is not used.
    let used = all.iter().map(|(_, _, bytes)| *bytes).sum::<usize>();
    assert!(refused > used && harmless > 0, "{refused} of {used}, {harmless}");
}

#[test]
fn a_full_disk_blocks_and_passes() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    disk.set_capacity(SEGMENT + 100);
    let mut n = 0;
    while log.is_well() {
        n += 1;
        append(&log, n, 100);
        log.sync().unwrap();
        // The refusal comes while there is room for what is under way.
        log.tend().ok();
        assert!(n < 100);
    }
    let reason = "can't make a segment of the log: no storage space";
    assert_eq!(log.health(), Health::Blocked(reason.into()));
    let acknowledged = n;
    for _ in 0..20 {
        n += 1;
        append(&log, n, 100);
    }
    assert!(log.sync().unwrap_err().passes());
    let before = disk.reboot(Loss::Everything, 1);
    before.set_capacity(u64::MAX);
    assert!(open(&before).1.last >= acknowledged);
    // The disk gets room: nobody has to do anything.
    disk.set_capacity(u64::MAX);
    log.tend().unwrap();
    assert!(log.is_well());
    assert_eq!(log.sync().unwrap(), n);
    let (log, recovered) = open(&disk.reboot(Loss::Everything, 1));
    assert_eq!((recovered.last, contents(&log, 1).len() as u64), (n, n));
}

#[test]
fn a_read_only_disk_blocks_and_passes() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, 1, 10);
    log.sync().unwrap();
    disk.set_read_only(true);
    append(&log, 2, 10);
    assert!(log.write().unwrap_err().passes());
    assert!(!log.is_well() && !log.is_failed() && log.tend().is_err());
    disk.set_read_only(false);
    log.tend().unwrap();
    assert!(log.is_well());
    assert_eq!(log.written(), 2);
}

#[test]
fn a_failed_sync_is_final() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, 1, 10);
    log.sync().unwrap();
    append(&log, 2, 10);
    disk.fail_syncs(1);
    assert!(matches!(log.sync(), Err(LogError::Failed(_))));
    append(&log, 3, 10);
    for _ in 0..3 {
        assert!(matches!(log.sync(), Err(LogError::Failed(_))));
        assert!(matches!(log.write(), Err(LogError::Failed(_))));
        assert!(log.tend().is_err() && log.close().is_err() && !log.is_well());
    }
    assert_eq!(log.durable(), 1);
    // The next process finds what the page cache has, and makes it durable for real.
    let next = disk.reboot(Loss::Nothing, 1);
    let (log, recovered) = open(&next);
    assert_eq!((recovered.last, log.durable()), (2, 2));
    assert_eq!(open(&next.reboot(Loss::Everything, 1)).1.last, 2);
}

#[test]
fn segments_are_used_again() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    for n in 1..=300 {
        append(&log, n, 100);
        log.sync().unwrap();
        log.tend().unwrap();
        if n > 60 {
            let reader = log.read_from(n - 60);
            log.release_before(n - 50).unwrap();
            // What is being read stays.
            drop(reader);
        }
    }
    let files = disk.list(Path::new(DIR)).unwrap().len();
    // Those that hold the last 60 records, one that is ready, and two spares; a dozen were filled.
    assert!(files <= 7, "{files}");
    log.close().unwrap();
    let (log, recovered) = open_with(&disk, 77, 250).unwrap();
    assert!((200..=250).contains(&recovered.first) && recovered.last == 300, "{recovered:?}");
    let expected: Vec<_> = (251..=300).map(|n| (n, n, 100)).collect();
    assert_eq!(contents(&log, 251), expected);
    // Without the snapshot the beginning is missed.
    drop(log);
    assert!(matches!(open_with(&disk, 78, 0), Err(LogError::Damaged { .. })));
}

#[test]
fn a_log_before_its_snapshot_starts_anew() {
    let (disk, _) = filled(30);
    let (log, recovered) = open_with(&disk, 5, 40).unwrap();
    assert_eq!((recovered.first, recovered.last), (41, 40));
    assert_eq!(append(&log, 41, 3), 41);
    log.close().unwrap();
    let (log, _) = open_with(&disk, 6, 40).unwrap();
    assert_eq!(contents(&log, 41), [(41, 41, 3)]);
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    let mut all = Vec::new();
    for n in 1..=30 {
        let bytes = if n % 10 == 5 { 3 * SEGMENT as usize } else { 200 };
        append(&log, n, bytes);
        all.push((n, n, bytes));
        log.sync().unwrap();
        log.tend().unwrap();
    }
    assert_eq!(contents(&log, 1), all);
    let (log, _) = open(&disk.reboot(Loss::Everything, 1));
    assert_eq!(contents(&log, 1), all);
}

#[test]
fn a_replay_leads_to_the_same_state() {
    use crate::embedded::{Call, Store};
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    let log = Arc::new(log);
    let store = Store::builder().shards(4).journal(log.clone()).open();
    for n in 0..200 {
        let key = format!("k{}", n % 7);
        store.call(&[b"SADD", b"set", key.as_bytes(), n.to_string().as_bytes()]).unwrap();
        store.call(&[b"SPOP", b"set"]).unwrap();
        let done = store.transaction(&["a", "b"], |tx| {
            tx.call(&[b"INCR", b"a"])?;
            tx.call(&[b"APPEND", b"b", b"xyz"])?;
            if n % 3 == 0 { Err(crate::Error::text("ERR no")) } else { Ok(()) }
        });
        assert_eq!(done.is_err(), n % 3 == 0);
        store.call(&[b"GET", b"a"]).unwrap();
    }
    // Two calls each, and one transaction: reads and failed calls leave nothing.
    assert_eq!(log.appended(), 600);
    store.call(&[b"INCR", b"set"]).unwrap_err();
    assert_eq!(log.appended(), 600);
    log.close().unwrap();
    let (log, _) = open(&disk.reboot(Loss::Everything, 1));
    let engine = crate::Engine::with_options(EngineOptions { shards: 2, ..Default::default() });
    let replayed = replay_by(&engine, log.read_from(1), 1);
    assert_eq!((replayed.batches, replayed.calls), (600, 800));
    assert_eq!(engine.digest(), store.engine().digest());
    assert_eq!(engine.image(), store.engine().image());
}

fn replay_by(engine: &crate::Engine, reader: Reader, threads: usize) -> Replayed {
    let how = Replaying {
        threads,
        together_min: crate::lanes::TOGETHER_MIN,
        progress: &mut |_| (),
        relieve: &|| (),
    };
    replay(engine, reader, how).unwrap()
}

#[test]
fn a_replay_sees_the_settings_of_each_time() {
    use crate::embedded::{Call, Store};
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    let log = Arc::new(log);
    let store = Store::builder().shards(2).journal(log.clone()).open();
    for n in 0..300u32 {
        if n % 50 == 0 {
            // Sets of numbers are sorted up to that size: another member is taken.
            let entries = if n % 100 == 0 { 2 } else { 512 };
            store.engine().update_config(|config| config.set_max_intset_entries = entries);
        }
        let number = (n * 7919 % 1009).to_string();
        store.call(&[b"SADD", b"set", number.as_bytes()]).unwrap();
        if n % 3 == 0 {
            store.call(&[b"SPOP", b"set"]).unwrap();
        }
        if n % 40 == 39 {
            store.call(&[b"DEL", b"set"]).unwrap();
        }
    }
    log.close().unwrap();
    let (log, _) = open(&disk);
    let engine = crate::Engine::with_options(EngineOptions::default());
    let config = engine.config();
    replay_by(&engine, log.read_from(1), 1);
    assert_eq!(engine.digest(), store.engine().digest());
    assert_eq!(engine.config(), config);
}

/// The calls of the fixture.
fn fixture_calls() -> Vec<(Stamp, u32, Vec<Vec<u8>>)> {
    let plain = Stamp::new(1_700_000_000_000, 42);
    let remote = Stamp { now_ms: 1_700_000_000_001, seed: u64::MAX, site: 7, clock: 123_456_789 };
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    vec![
        (plain, 0, words("SET greeting hello")),
        (plain, 3, words("RPUSH list a b c")),
        (remote, 0, words("APPEND greeting !")),
        (plain, 0, vec![b"SET".to_vec(), b"long".to_vec(), vec![0xFF; 300]]),
    ]
}

/// The log of version 1 as it has to be read for ever: three records, of one, two and one call,
/// and a mark.
#[test]
fn the_fixture_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/log/fixtures/v1.log");
    let calls = fixture_calls();
    if std::env::var_os("ASHLAR_WRITE_FIXTURES").is_some() {
        let disk = SimDisk::new(1);
        let (log, _) = open(&disk);
        let args: Vec<Vec<&[u8]>> =
            calls.iter().map(|(_, _, args)| args.iter().map(Vec::as_slice).collect()).collect();
        let record = |n: usize| Record { stamp: &calls[n].0, db: calls[n].1, args: &args[n] };
        log.append(&[record(0)]);
        log.append(&[record(1), record(2)]);
        log.sync().unwrap();
        log.append(&[record(3)]);
        log.close().unwrap();
        let file = disk.open(&segment::path(Path::new(DIR), 1), Mode::Read).unwrap();
        std::fs::write(path, &file.map().unwrap()[..1024]).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new(DIR)).unwrap();
    let file = disk.open(&segment::path(Path::new(DIR), 1), Mode::CreateNew).unwrap();
    file.write_at(&bytes, 0).unwrap();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered, Recovered { first: 1, last: 3, cut: None });
    let mut reader = log.read_from(1);
    let mut found = Vec::new();
    let mut sizes = Vec::new();
    while let Some(mut batch) = reader.next().unwrap() {
        sizes.push(batch.calls.left());
        for call in batch.calls.by_ref() {
            let args = call.args.iter().map(|arg| arg.to_vec()).collect();
            found.push((call.stamp, call.db, args));
        }
    }
    assert_eq!((sizes, found), (vec![1, 2, 1], calls));
}
