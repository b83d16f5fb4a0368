//! The value log over a disk that ends at any operation, beside rows in memory that lose what was not flushed.

use super::bugs::{Bug, put_back};
use super::store::Separated;
use super::{Place, place, segment};
use crate::disk::sim::{Loss, SimDisk};
use crate::disk::{Disk, Mode};
use crate::stamp::Rng;
use crate::tier::memory::MemoryStore;
use crate::tier::store::{Batch, ColdStore, ROW_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SEGMENT_BYTES: usize = 16 << 10;
/// For places of half of the keys.
const PLACES_BYTES: u64 = 4 * 64;
const DIR: &str = "/cold/values";
const KEYS: usize = 60;
const STEPS: usize = 30;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(disk: &SimDisk, rows: &MemoryStore) -> Separated {
    let (rows, disk) = (Box::new(rows.clone()), Arc::new(disk.clone()));
    Separated::with_segments(rows, disk, Path::new(DIR), PLACES_BYTES, SEGMENT_BYTES).unwrap()
}

fn key(rng: &mut Rng) -> Vec<u8> {
    format!("key {}", rng.below(KEYS)).into_bytes()
}

fn row(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(10) {
        0 => rng.below(8),
        1 => ROW_BYTES_MAX - rng.below(3),
        2..5 => rng.below(128),
        _ => 128 + rng.below(900),
    };
    let mut row = vec![0; len];
    row.fill_with(|| rng.next_u64() as u8);
    row
}

fn contents(store: &Separated) -> Rows {
    let mut rows = Rows::new();
    let each = &mut |key: &[u8], row: &[u8]| {
        rows.insert(key.to_vec(), row.to_vec());
        true
    };
    store.range(&[0], &[0xFF], each).unwrap();
    rows
}

/// One life of a store: what it has, and what of it is durable.
#[derive(Clone, Default)]
struct Model {
    rows: Rows,
    durable: Rows,
    /// Keys that have been written since the last flush.
    touched: BTreeSet<Vec<u8>>,
}

impl Model {
    /// Runs some steps, until one fails. Rows are looked at all the time.
    fn run(&mut self, store: &Separated, rng: &mut Rng, steps: usize) -> bool {
        for _ in 0..steps {
            let mut batch = Batch::default();
            for _ in 0..rng.below(12) {
                let key = key(rng);
                match rng.below(4) {
                    0 => batch.delete(key),
                    _ => batch.put(key, row(rng)),
                }
            }
            self.touched.extend(batch.rows().map(|(key, _)| key.to_vec()));
            if store.apply(&batch).is_err() {
                return false;
            }
            for (key, row) in batch.rows() {
                match row {
                    Some(row) => drop(self.rows.insert(key.to_vec(), row.to_vec())),
                    None => drop(self.rows.remove(key)),
                }
            }
            if rng.below(3) == 0 && store.tidy(rng.below(3 * SEGMENT_BYTES)).is_err() {
                return false;
            }
            if rng.below(5) == 0 {
                if store.flush_durable().is_err() {
                    return false;
                }
                self.durable.clone_from(&self.rows);
                self.touched.clear();
            }
            let key = key(rng);
            match store.get(&key) {
                Ok(found) => assert_eq!(found.as_ref(), self.rows.get(&key)),
                Err(_) => return false,
            }
        }
        true
    }

    /// What is durable must be there after an end, unless it has been written since.
    fn check_durable(&self, store: &Separated) -> Result<(), String> {
        for key in (0..KEYS).map(|nth| format!("key {nth}").into_bytes()) {
            let found = store.get(&key).map_err(|error| error.to_string())?;
            if !self.touched.contains(&key) && found.as_ref() != self.durable.get(&key) {
                return Err(format!("{}: a durable row is gone", String::from_utf8_lossy(&key)));
            }
        }
        Ok(())
    }
}

/// Ends a machine several times, each time at some operation of its disk.
fn lives(seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let (mut disk, rows) = (SimDisk::new(seed), MemoryStore::default());
    let mut model = Model::default();
    for _ in 0..4 {
        let store = open(&disk, &rows);
        model.check_durable(&store)?;
        // What has not been flushed may be anything: it is written again.
        let mut batch = Batch::default();
        for key in std::mem::take(&mut model.touched) {
            let row = row(&mut rng);
            model.durable.insert(key.clone(), row.clone());
            batch.put(key, row);
        }
        store.apply(&batch).map_err(|error| error.to_string())?;
        store.flush_durable().map_err(|error| error.to_string())?;
        model.rows.clone_from(&model.durable);
        disk.stop_at(disk.operations() + 1 + rng.below(120) as u64);
        model.run(&store, &mut rng, STEPS * 4);
        drop(store);
        let loss = [Loss::Nothing, Loss::Everything, Loss::Some][rng.below(3)];
        disk = disk.reboot(loss, rng.next_u64());
        match loss {
            Loss::Nothing => {}
            Loss::Everything if rng.below(2) == 0 => rows.cut_power(),
            _ => rows.cut_power_partly(&mut rng),
        }
        if loss == Loss::Nothing {
            // What is there is what the next start has.
            rows.flush_durable().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("ASHLAR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ASHLAR_SEEDS").unwrap_or(400),
    }
}

#[test]
fn what_was_flushed_is_there_after_any_end() {
    for seed in seeds() {
        if let Err(what) = lives(seed) {
            panic!("seed {seed} (ASHLAR_SEED): {what}");
        }
    }
}

#[test]
fn known_bugs_are_found() {
    for bug in [Bug::MovedRowsUnsynced, Bug::FilesGoEarly, Bug::MovesWin] {
        put_back(Some(bug));
        let found = (0..2_000).any(|seed| {
            std::panic::catch_unwind(|| lives(seed)).map_or(true, |result| result.is_err())
        });
        put_back(None);
        assert!(found, "{bug:?} was not found");
    }
}

#[test]
fn a_store_is_a_map_and_its_files_stay_few() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (disk, rows, mut model) =
            (SimDisk::new(seed), MemoryStore::default(), Model::default());
        for _ in 0..3 {
            let store = open(&disk, &rows);
            assert!(model.run(&store, &mut rng, 200), "seed {seed}");
            assert_eq!(contents(&store), model.rows, "seed {seed}");
            while store.tidy(usize::MAX).unwrap() > 0 {}
            let (bytes, used) = store.log.bytes();
            let expected: usize = (model.rows.iter())
                .filter(|(_, row)| row.len() >= 128 || row.len() == Place::BYTES)
                .map(|(key, row)| segment::record_bytes(key.len(), row.len()))
                .sum();
            assert_eq!(used, expected as u64, "seed {seed}: what is in use is known exactly");
            let max = 2 * used + 2 * SEGMENT_BYTES as u64;
            assert!(bytes <= max, "seed {seed}: {bytes} bytes of files for {used}");
            assert!(!store.log.sealed(&store.writer.lock().end).iter().any(|(_, s)| s.is_damaged));
        }
    }
}

/// A start knows nothing of older files until it has counted; rows go meanwhile.
#[test]
fn files_of_an_earlier_start_are_counted_while_rows_go() {
    let (disk, rows, mut rng) = (SimDisk::new(1), MemoryStore::default(), Rng::new(1));
    let key = |nth: u32| format!("{nth:08}").into_bytes();
    let mut write = |store: &Separated, keys: std::ops::Range<u32>, delete: bool| {
        for nth in keys {
            let mut batch = Batch::default();
            match delete {
                true => batch.delete(key(nth)),
                false => batch.put(key(nth), vec![rng.next_u64() as u8; 150]),
            }
            store.apply(&batch).unwrap();
        }
    };
    write(&open(&disk, &rows), 0..5_000, false);
    let store = open(&disk, &rows);
    assert_eq!(store.log.bytes().1, 0);
    // The first batch counts two thousand places, of which these are the last and the first of the rest.
    write(&store, 1_990..2_010, true);
    write(&store, 4_900..4_950, false);
    write(&store, 0..10, false);
    assert_eq!(store.tidy(0).unwrap(), 0);
    let record = segment::record_bytes(8, 150) as u64;
    assert_eq!(store.log.bytes().1, 4_980 * record);
    write(&store, 10..4_000, true);
    while store.tidy(usize::MAX).unwrap() > 0 {}
    let (bytes, used) = store.log.bytes();
    assert_eq!(used, 1_010 * record);
    assert!(bytes < 3 * used, "{bytes}");
    assert_eq!(contents(&store).len(), 1_010);
}

#[test]
fn writers_keep_up_with_what_they_waste() {
    let (disk, rows, mut rng) = (SimDisk::new(1), MemoryStore::default(), Rng::new(1));
    let store = open(&disk, &rows);
    for _ in 0..3_000 {
        let mut batch = Batch::default();
        for _ in 0..4 {
            batch.put(key(&mut rng), vec![rng.next_u64() as u8; 300]);
        }
        store.apply(&batch).unwrap();
        let (bytes, used) = store.log.bytes();
        assert!(bytes <= 3 * used + 5 * SEGMENT_BYTES as u64, "{bytes} bytes of files for {used}");
    }
}

#[test]
fn a_failed_sync_is_final() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    let store = open(&disk, &rows);
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), vec![1; 500]);
    store.apply(&batch).unwrap();
    disk.fail_syncs(1);
    assert!(store.flush_durable().is_err());
    let error = store.flush_durable().unwrap_err().to_string();
    assert!(error.contains("an earlier sync failed"), "{error}");
    // Reads go on, and so does a start.
    assert_eq!(store.get(b"key").unwrap(), Some(vec![1; 500]));
    put_back(Some(Bug::SyncAgain));
    let store = open(&disk, &rows);
    store.apply(&batch).unwrap();
    disk.fail_syncs(1);
    assert!(store.flush_durable().is_err());
    let again = store.flush_durable();
    put_back(None);
    assert!(again.is_ok(), "the bug shows");
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    disk.set_capacity(40 << 10);
    let store = open(&disk, &rows);
    let (mut kept, mut refused) = (0u8, 0);
    for nth in 0..100u8 {
        let mut batch = Batch::default();
        batch.put(vec![b'k', nth], vec![nth; 1_000]);
        match store.apply(&batch) {
            Ok(()) => kept = nth + 1,
            Err(_) => refused += 1,
        }
    }
    assert!(kept > 20 && refused > 20, "{kept} {refused}");
    disk.set_capacity(1 << 20);
    let mut batch = Batch::default();
    batch.put(b"more".to_vec(), vec![7; 2_000]);
    store.apply(&batch).unwrap();
    assert_eq!(store.get(b"more").unwrap(), Some(vec![7; 2_000]));
    for nth in 0..kept {
        assert_eq!(store.get(&[b'k', nth]).unwrap(), Some(vec![nth; 1_000]));
    }
}

#[test]
fn damage_costs_no_other_row_and_a_file_with_damage_stays() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    let store = open(&disk, &rows);
    let record = segment::record_bytes(2, 500);
    for nth in 0..90u8 {
        let mut batch = Batch::default();
        batch.put(vec![b'k', nth], vec![nth; 500]);
        store.apply(&batch).unwrap();
    }
    // The length in the head of the third record.
    disk.flip_bit(&Path::new(DIR).join(segment::name(0)), 2 * record + 5, 3);
    let mut batch = Batch::default();
    (0..90).filter(|nth| nth % 8 != 2).for_each(|nth| batch.delete(vec![b'k', nth]));
    store.apply(&batch).unwrap();
    while store.tidy(usize::MAX).unwrap() > 0 {}
    assert!(store.log.segment(0).unwrap().is_damaged);
    assert_eq!(store.log.segment(0).unwrap().used, record as u64);
    for nth in (0..90).filter(|nth| nth % 8 == 2) {
        assert_eq!(store.get(&[b'k', nth]).unwrap(), Some(vec![nth; 500]), "{nth}");
    }
}

#[test]
fn a_row_that_is_lost_reads_as_an_empty_one() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    let store = open(&disk, &rows);
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), vec![1; 500]);
    store.apply(&batch).unwrap();
    drop(store);
    let disk = disk.reboot(Loss::Everything, 1);
    let store = open(&disk, &rows);
    assert_eq!(store.get(b"key").unwrap(), Some(vec![]));
    assert_eq!(contents(&store)[&b"key"[..]], b"");
    // Its number is not used again, or another row would be there.
    store.apply(&batch).unwrap();
    assert_eq!(store.get(b"key").unwrap(), Some(vec![1; 500]));
    assert_eq!(store.log.segment(0).unwrap().len, 0);
    assert!(store.log.segment(1).is_some());
}

/// The bytes of files and places: these have to be read for ever.
#[test]
fn files_and_places_keep_their_form() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    let store = open(&disk, &rows);
    let mut batch = Batch::default();
    batch.put(b"one".to_vec(), vec![b'1'; 7]);
    batch.put(b"second".to_vec(), vec![b'2'; 130]);
    batch.put(b"small".to_vec(), vec![b'3'; 127]);
    store.apply(&batch).unwrap();
    let file = disk.open(Path::new("/cold/values/00000000.values"), Mode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    crate::disk::read_exact_at(&*file, &mut bytes, 0).unwrap();
    let mut expected = vec![0; 4];
    expected.extend_from_slice(b"\x03\x00\x07\x00one1111111");
    expected.resize(32, 0);
    expected.extend_from_slice(&[0; 4]);
    expected.extend_from_slice(b"\x06\x00\x82\x00second");
    expected.resize(46 + 130, b'2');
    for (at, end) in [(0, 11), (32, 46)] {
        let crc = crc32c::crc32c(&expected[at + 4..end]);
        expected[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    expected.resize(176, 0);
    assert_eq!(bytes, expected);
    assert_eq!(rows.get(b"one").unwrap().unwrap(), [0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(rows.get(b"second").unwrap().unwrap(), [0, 0, 0, 0, 0, 2 << 5, 130]);
    assert_eq!(rows.get(b"small").unwrap().unwrap(), [b'3'; 127]);
    let last = Place { segment: place::SEGMENT_MAX, offset: (64 << 20) - 16, len: ROW_BYTES_MAX };
    assert_eq!(last.to_bytes(), [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xF0, 0]);
    assert_eq!(Place::read(&last.to_bytes()), Some(last));
    assert_eq!(segment::number("0000001f.values"), Some(31));
    for name in ["1f.values", "0000001f.value", "0020_000.values", "00200000.values"] {
        assert_eq!(segment::number(name), None, "{name}");
    }
}

/// A place that was looked up before its row was replaced is not noted, or the old row would be read for ever.
#[test]
fn a_place_is_not_noted_once_its_row_is_another_one() {
    for bug in [None, Some(Bug::PlacesNotedLate)] {
        let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
        let put = |store: &Separated, with: u8| {
            let mut batch = Batch::default();
            batch.put(b"key".to_vec(), vec![with; 500]);
            store.apply(&batch).unwrap();
        };
        put(&open(&disk, &rows), 1);
        // No place is known after a start.
        let store = Arc::new(open(&disk, &rows));
        let other = store.clone();
        let once = AtomicBool::new(true);
        rows.on_read(move || {
            if once.swap(false, Ordering::AcqRel) {
                put(&other, 2);
            }
        });
        put_back(bug);
        assert_eq!(store.get(b"key").unwrap(), Some(vec![1; 500]), "as of when it was asked");
        put_back(None);
        let expected = if bug.is_none() { 2 } else { 1 };
        assert_eq!(store.get(b"key").unwrap(), Some(vec![expected; 500]), "{bug:?}");
        // It is known without the back end.
        rows.on_read(|| panic!("the back end is read"));
        assert_eq!(store.get(b"key").unwrap(), Some(vec![expected; 500]));
        rows.on_read(|| ());
        put(&store, 3);
        assert_eq!(store.get(b"key").unwrap(), Some(vec![3; 500]));
    }
}

/// Two keys that share a place's slot take it from each other and never get the row of the other one.
#[test]
fn keys_with_one_slot_are_told_apart() {
    for bug in [None, Some(Bug::KeysNotCompared)] {
        let store = open(&SimDisk::new(1), &MemoryStore::default());
        let key = |nth: u32| nth.to_be_bytes();
        let mut seen = BTreeMap::new();
        let (one, two) = (0u32..)
            .find_map(|nth| Some((seen.insert(store.recent.slot_of(&key(nth)), nth)?, nth)))
            .unwrap();
        let put = |nth: u32, with: u8| {
            let mut batch = Batch::default();
            batch.put(key(nth).to_vec(), vec![with; 300]);
            store.apply(&batch).unwrap();
        };
        put(one, 1);
        put(two, 2);
        put_back(bug);
        let (first, second) = (store.get(&key(one)).unwrap(), store.get(&key(two)).unwrap());
        put_back(None);
        let expected = if bug.is_none() { 1 } else { 2 };
        assert_eq!((first, second), (Some(vec![expected; 300]), Some(vec![2; 300])));
        if bug.is_none() {
            put(one, 3);
            assert_eq!(store.get(&key(two)).unwrap(), Some(vec![2; 300]));
            assert_eq!(store.get(&key(one)).unwrap(), Some(vec![3; 300]));
        }
    }
}

/// Readers, a writer and moves at the same time: what was written is read at once, and never anything older.
#[test]
fn readers_beside_a_writer_see_what_it_has_written() {
    let store = open(&SimDisk::new(1), &MemoryStore::default());
    let written: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (store, written, done) = (&store, &written, &done);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !done.load(Ordering::Acquire) {
                    let nth = rng.below(KEYS);
                    let before = written[nth].load(Ordering::Acquire);
                    let row = store.get(format!("key {nth}").as_bytes()).unwrap();
                    let number =
                        row.map_or(0, |row| u64::from_le_bytes(row[..8].try_into().unwrap()));
                    assert!(number >= before, "key {nth}: {number} after {before}");
                }
            });
        }
        let mut rng = Rng::new(9);
        for number in 1..20_000u64 {
            let nth = rng.below(KEYS);
            let mut row = number.to_le_bytes().to_vec();
            row.resize(128 + rng.below(600), 0);
            let mut batch = Batch::default();
            batch.put(format!("key {nth}").into_bytes(), row);
            store.apply(&batch).unwrap();
            written[nth].store(number, Ordering::Release);
            if number.is_multiple_of(50) {
                store.tidy(2 * SEGMENT_BYTES).unwrap();
            }
        }
        done.store(true, Ordering::Release);
    });
}

/// A store of an earlier version has all rows itself.
#[test]
fn rows_of_earlier_versions_are_read_and_replaced() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    let mut batch = Batch::default();
    for nth in 0..3u8 {
        batch.put(vec![b'k', nth], vec![nth; 500]);
    }
    rows.apply(&batch).unwrap();
    let store = open(&disk, &rows);
    assert_eq!(store.get(&[b'k', 0]).unwrap(), Some(vec![0; 500]));
    batch.clear();
    batch.put(vec![b'k', 1], vec![9; 600]);
    batch.delete(vec![b'k', 2]);
    store.apply(&batch).unwrap();
    let expected = [(vec![b'k', 0], vec![0; 500]), (vec![b'k', 1], vec![9; 600])];
    assert_eq!(contents(&store), Rows::from(expected));
    assert_eq!(rows.get(&[b'k', 1]).unwrap().unwrap().len(), Place::BYTES);
}

/// Numbers begin again where they end.
#[test]
fn numbers_of_files_begin_again() {
    let (disk, rows) = (SimDisk::new(1), MemoryStore::default());
    disk.create_dir(Path::new(DIR)).unwrap();
    for number in [0, 2, place::SEGMENT_MAX] {
        disk.open(&Path::new(DIR).join(segment::name(number)), Mode::CreateNew).unwrap();
    }
    let store = open(&disk, &rows);
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), vec![1; 500]);
    store.apply(&batch).unwrap();
    assert_eq!(store.log.segment(1).unwrap().len, segment::record_bytes(3, 500) as u64);
    assert_eq!(store.get(b"key").unwrap(), Some(vec![1; 500]));
}
