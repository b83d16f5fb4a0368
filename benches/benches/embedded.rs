//! The embedded API beside a concurrent map (dashmap), a cache (moka) and a store on disk (sled):
//! GET and SET of 32-byte values under 16-byte keys, one thread.

use ashlar_engine::prelude::*;
use ashlar_engine::stamp::Rng;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

/// Keys to choose from.
const COUNT: usize = 100_000;
const VALUE: &[u8] = b"0123456789abcdef0123456789abcdef";

struct Keys {
    keys: Vec<Vec<u8>>,
    next: usize,
}

impl Keys {
    fn new() -> Keys {
        let mut rng = Rng::new(3);
        let keys = (0..COUNT).map(|_| format!("key:{:012}", rng.below(COUNT)).into_bytes());
        Keys { keys: keys.collect(), next: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.next = (self.next + 1) % COUNT;
        &self.keys[self.next]
    }
}

fn all_keys() -> impl Iterator<Item = Vec<u8>> {
    (0..COUNT).map(|number| format!("key:{number:012}").into_bytes())
}

/// GET and SET of one store; the first argument of each is the key.
fn pair(
    c: &mut Criterion,
    name: &str,
    mut get: impl FnMut(&[u8]) -> usize,
    mut set: impl FnMut(&[u8]),
) {
    all_keys().for_each(|key| set(&key));
    let mut keys = Keys::new();
    for operation in ["get", "get of one hot key", "set"] {
        let mut group = c.benchmark_group(operation);
        group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(3));
        group.bench_function(name, |b| match operation {
            "get" => b.iter(|| assert_eq!(get(keys.next()), VALUE.len())),
            "set" => b.iter(|| set(keys.next())),
            _ => b.iter(|| assert_eq!(get(black_box(b"key:000000000042")), VALUE.len())),
        });
        group.finish();
    }
}

fn stores(c: &mut Criterion) {
    for (name, shards) in [("ashlar", 1), ("ashlar, 64 shards", 64)] {
        let store = Store::builder().shards(shards).open();
        let get = |key: &[u8]| store.get(key).ok().flatten().map_or(0, |value| value.len());
        pair(c, name, get, |key| store.set(key, VALUE).expect("a string can be set"));
        let get = |key: &[u8]| {
            store.get_with(key, |value| black_box(value).len()).ok().flatten().unwrap_or(0)
        };
        let name = format!("{name}, without a copy");
        pair(c, &name, get, |key| store.set(key, VALUE).expect("a string can be set"));
    }
    let map = dashmap::DashMap::<Vec<u8>, Vec<u8>>::new();
    let get = |key: &[u8]| map.get(key).map(|value| value.clone()).map_or(0, |value| value.len());
    pair(c, "dashmap", get, |key| {
        map.insert(key.to_vec(), VALUE.to_vec());
    });
    let cache = moka::sync::Cache::<Vec<u8>, Vec<u8>>::new(2 * COUNT as u64);
    let get = |key: &[u8]| cache.get(key).map_or(0, |value| value.len());
    pair(c, "moka", get, |key| cache.insert(key.to_vec(), VALUE.to_vec()));
    let dir = std::env::temp_dir().join(format!("ashlar-bench-sled-{}", std::process::id()));
    let tree = sled::open(&dir).expect("the temporary directory can be written");
    let get = |key: &[u8]| tree.get(key).ok().flatten().map_or(0, |value| value.len());
    pair(c, "sled", get, |key| {
        tree.insert(key, VALUE).expect("sled can write");
    });
    drop(tree);
    std::fs::remove_dir_all(&dir).expect("the directory is ours");
}

criterion_group!(benches, stores);
criterion_main!(benches);
