//! A large hash on disk: what one field costs against the whole, and how long others wait while it leaves memory.
//!
//! ```sh
//! cargo bench -p ashlar-benches --bench large
//! ```
//! A call on another key of the hash's shard is made again and again meanwhile; the longest one tells for how long the
//! shard was locked. `DEBUG DIGEST-VALUE` makes the whole byte form under that lock, as demotion once did.

#![allow(clippy::unwrap_used, reason = "this is a benchmark")]

use ashlar_engine::config::EngineConfig;
use ashlar_engine::embedded::Call;
use ashlar_engine::prelude::*;
use ashlar_engine::tier::Tier;
use ashlar_engine::tier::store::{StoreKind, open};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FIELDS: usize = 1_000_000;
const READS: usize = 5_000;
const STORE_BYTES: u64 = 16 << 20;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The longest of the calls on another key of the shard that `work` lets wait, and its own time.
fn watch(store: &Store, work: impl FnOnce()) -> (Duration, Duration) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                store.exists("{h}other").unwrap();
                longest = longest.max(begun.elapsed());
                // Both cores are needed for the work.
                std::thread::sleep(Duration::from_micros(50));
            }
            longest
        });
        let begun = Instant::now();
        work();
        let time = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        (watcher.join().unwrap(), time)
    })
}

fn tier_of(store: &Store) -> Vec<u8> {
    let tier = store.call(&[b"OBJECT", b"TIER", b"{h}hash"]).unwrap();
    tier.into_bytes().unwrap().unwrap_or_default()
}

fn measure(kind: StoreKind) {
    let folder = std::env::temp_dir().join(format!("ashlar-large-{}", std::process::id()));
    let rows = open(kind, &folder.join(kind.name()), STORE_BYTES).unwrap().store;
    let tier = Tier::new(rows, kind.name(), 5);
    let config = EngineConfig { hot_threshold: 1_000, ..EngineConfig::default() };
    let store = Store::builder().shards(4).seed(5).config(config).tier(tier.clone()).open();
    store.set("{h}other", "value").unwrap();
    for fields in (0..FIELDS).collect::<Vec<_>>().chunks(1_000) {
        let pairs: Vec<_> =
            fields.iter().map(|nth| (format!("field:{nth}"), format!("{nth:050}"))).collect();
        store.hset("{h}hash", &pairs).unwrap();
    }
    let demote = || {
        // As if the hash had not been used for a minute.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        while tier_of(&store) != b"cold" {
            tier.age(store.engine(), now + 60_000, 30_000, 1_000).unwrap();
        }
    };
    let (waited, time) = watch(&store, || {
        store.call(&[b"DEBUG", b"DIGEST-VALUE", b"{h}hash"]).unwrap();
    });
    println!(
        "{}: the byte form as a whole, {:.0} ms, longest wait {:.2} ms",
        kind.name(),
        ms(time),
        ms(waited)
    );
    let (waited, time) = watch(&store, demote);
    println!("{}: demotion {:.0} ms, longest wait {:.2} ms", kind.name(), ms(time), ms(waited));
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut times: Vec<Duration> = (0..READS)
        .map(|nth| {
            let field = format!("field:{}", nth * 7_919 % FIELDS);
            let begun = Instant::now();
            assert!(store.hget("{h}hash", &field).unwrap().is_some());
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let bytes = count(&tier.stats.part_bytes) / count(&tier.stats.parts);
    println!(
        "{}: HGET {:.3} ms, p99 {:.3} ms, {bytes} bytes of rows",
        kind.name(),
        ms(times[READS / 2]),
        ms(times[READS * 99 / 100])
    );
    assert_eq!(tier_of(&store), b"cold");
    let (waited, time) = watch(&store, || {
        store.engine().executor().load_keys(0, &[b"{h}hash"]).unwrap();
    });
    println!(
        "{}: the whole {:.0} ms, longest wait {:.2} ms, {} bytes",
        kind.name(),
        ms(time),
        ms(waited),
        count(&tier.stats.load_bytes)
    );
    drop(store);
    std::fs::remove_dir_all(&folder).ok();
}

fn main() {
    StoreKind::ALL.into_iter().for_each(measure);
}
