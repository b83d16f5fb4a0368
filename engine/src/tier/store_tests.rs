//! What every back end must do.

use super::memory::MemoryStore;
use super::store::*;
use crate::stamp::Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("ashlar-{}-{name}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

const MEMORY_BYTES: u64 = 16 << 20;

fn contents(store: &dyn ColdStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    store
        .range(&[0], &[0xFE], &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            true
        })
        .unwrap();
    rows
}

fn exercise(store: &dyn ColdStore, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, seed: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..60 {
        let mut batch = Batch::default();
        for _ in 0..rng.below(60) {
            let key = vec![1 + rng.below(200) as u8, rng.below(4) as u8];
            if rng.below(3) == 0 {
                model.remove(&key);
                batch.delete(key);
            } else {
                let len = if rng.below(10) == 0 { ROW_BYTES_MAX } else { rng.below(200) };
                let value = vec![rng.next_u64() as u8; len];
                model.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        store.apply(&batch).unwrap();
        let key = vec![1 + rng.below(200) as u8, rng.below(4) as u8];
        assert_eq!(store.get(&key).unwrap(), model.get(&key).cloned());
    }
    assert_eq!(contents(store), *model);
    let mut some = Vec::new();
    let (from, to) = ([50], [90]);
    store
        .range(&from, &to, &mut |key, _| {
            some.push(key.to_vec());
            some.len() < 7
        })
        .unwrap();
    let expected = model.range(from.to_vec()..to.to_vec()).map(|(key, _)| key.clone());
    assert_eq!(some, expected.take(7).collect::<Vec<_>>());
}

#[test]
fn a_store_in_memory_behaves_as_a_map() {
    let (store, mut model) = (MemoryStore::default(), BTreeMap::new());
    exercise(&store, &mut model, 1);
    store.flush_durable().unwrap();
    let kept = model.clone();
    exercise(&store, &mut model, 2);
    store.cut_power();
    assert_eq!(contents(&store), kept);
    store.set_failing(true);
    assert!(store.get(b"k").is_err());
}

#[test]
fn stores_on_disk_behave_as_a_map_and_open_again() {
    for kind in StoreKind::ALL {
        let folder = Folder::new(&format!("map-{}", kind.name()));
        let (dir, mut model) = (folder.0.join(kind.name()), BTreeMap::new());
        for round in 0..3 {
            let opened = open(kind, &dir, MEMORY_BYTES).unwrap();
            assert_eq!(opened.set_aside, None);
            let store = opened.store;
            assert_eq!(contents(&*store), model);
            assert_eq!(store.applied_index().unwrap(), (round > 0).then_some(round));
            exercise(&*store, &mut model, round);
            store.set_applied_index(round + 1).unwrap();
            assert_eq!(store.alarm(), None);
            assert!(store.size() > 0);
        }
        open(kind, &dir, MEMORY_BYTES).unwrap().store.destroy().unwrap();
        assert!(!dir.exists());
    }
}

/// The largest rows there may be, many to a node: sled makes files for nodes above 128 KiB, which
/// it never forces to disk.
#[test]
fn large_rows_make_no_files_of_their_own() {
    let folder = Folder::new("blobs");
    let store = open(StoreKind::Sled, &folder.0.join("sled"), MEMORY_BYTES).unwrap().store;
    for round in 0..4u8 {
        let mut batch = Batch::default();
        for nth in 0..1_000u32 {
            let mut key = vec![b'k'; ROW_KEY_BYTES_MAX - 4];
            key.extend_from_slice(&nth.to_be_bytes());
            batch.put(key, vec![round ^ nth as u8; ROW_BYTES_MAX]);
            if batch.is_full() {
                store.apply(&batch).unwrap();
                batch.clear();
            }
        }
        store.apply(&batch).unwrap();
        store.flush_durable().unwrap();
        assert_eq!(store.alarm(), None);
    }
}

#[test]
#[should_panic(expected = "a row has at most")]
fn a_row_that_is_too_large_is_refused() {
    Batch::default().put(vec![1], vec![0; ROW_BYTES_MAX + 1]);
}

#[test]
#[should_panic(expected = "a row's key has at most")]
fn a_key_that_is_too_long_is_refused() {
    Batch::default().put(vec![1; ROW_KEY_BYTES_MAX + 1], vec![]);
}

#[test]
fn a_snapshot_of_sled_that_was_cut_short_is_removed() {
    let folder = Folder::new("generating");
    let dir = folder.0.join("sled");
    drop(open(StoreKind::Sled, &dir, MEMORY_BYTES).unwrap());
    let half = dir.join("snap.00000000DEADBEEF.generating");
    std::fs::write(&half, b"half of a snapshot").unwrap();
    assert_eq!(open(StoreKind::Sled, &dir, MEMORY_BYTES).unwrap().set_aside, None);
    assert!(!half.exists());
    // A damaged one is made again.
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            std::fs::write(path, b"damaged").unwrap();
        }
    }
    assert_eq!(open(StoreKind::Sled, &dir, MEMORY_BYTES).unwrap().set_aside, None);
}

/// Damage anywhere in the files: the store opens, or is set aside; a row that it still gives out
/// may be wrong as far as the store can tell, which is why rows carry checksums (see `row`).
#[test]
fn damaged_files_are_set_aside_or_give_rows_that_checksums_judge() {
    use super::fingerprint::Fingerprint;
    use super::row::{self, ColdValue, RowId};
    let id = |nth: u64| RowId {
        generation: 1,
        print: Fingerprint { word: nth << 50, tag: 0 },
        epoch: 0,
    };
    let value = |nth: u64| ColdValue {
        expiry: None,
        access: 0,
        body: vec![nth as u8; 200 + nth as usize * 50],
        key_len: 1,
    };
    let (mut aside, mut damaged, mut good) = (0, 0, 0);
    for kind in StoreKind::ALL {
        let folder = Folder::new(&format!("damage-{}", kind.name()));
        let dir = folder.0.join(kind.name());
        let store = open(kind, &dir, MEMORY_BYTES).unwrap().store;
        let mut batch = Batch::default();
        for nth in 0..200 {
            row::write(&*store, &mut batch, id(nth), 1, &value(nth)).unwrap();
        }
        store.apply(&batch).unwrap();
        store.flush_durable().unwrap();
        drop(store);
        let copy = folder.0.join("copy");
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            std::fs::remove_dir_all(&copy).ok();
            copy_folder(&dir, &copy);
            flip(&copy, &mut rng);
            let opened = open(kind, &copy, MEMORY_BYTES).unwrap();
            if opened.set_aside.is_some() {
                aside += 1;
                assert!(contents(&*opened.store).is_empty(), "a store that was set aside is new");
                continue;
            }
            for nth in 0..200 {
                match row::read(&*opened.store, id(nth), usize::MAX) {
                    Ok(Some(found)) => {
                        assert_eq!(found, value(nth), "{} seed {seed}", kind.name());
                        good += 1;
                    }
                    Ok(None) | Err(_) => damaged += 1,
                }
            }
        }
    }
    assert!(good > 0 && aside + damaged > 0, "{good} good, {aside} set aside, {damaged} damaged");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Flips a few bits in one of the files of a folder, where there is something.
fn flip(folder: &std::path::Path, rng: &mut Rng) {
    let mut files = Vec::new();
    list(folder, &mut files);
    files.sort_unstable();
    let path = &files[rng.below(files.len())];
    let mut bytes = std::fs::read(path).unwrap();
    let filled: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    for _ in 0..if filled.is_empty() { 0 } else { 1 + rng.below(4) } {
        bytes[filled[rng.below(filled.len())]] ^= 1 << rng.below(8);
    }
    std::fs::write(path, bytes).unwrap();
}

fn list(folder: &std::path::Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, files),
            false => files.push(path),
        }
    }
}
