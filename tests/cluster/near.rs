//! The near cache of a cluster: fail-overs and slots that move leave nothing stale in it.

use crate::growth::ports;
use ashlar_client::{ClusterNearCache, Error, Options};
use ashlar_engine::slot::slot_of;
use ashlar_tests::cluster::Cluster;
use ashlar_tests::cluster::client::ClusterClient;
use ashlar_tests::resp::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const KEYS: usize = 60;

fn connect(cluster: &Cluster) -> ClusterNearCache {
    let addresses = cluster.addresses();
    let seeds: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let options = Options { retry_for: Duration::from_secs(20), ..Options::default() };
    ClusterNearCache::connect(&seeds, options).expect("a connection")
}

fn key(nth: usize) -> String {
    format!("near:{nth}")
}

/// The number in a key, as the cache has it.
fn cached(cache: &ClusterNearCache, nth: usize) -> u64 {
    let value = cache.get(key(nth).as_bytes()).unwrap_or_else(|error| panic!("{nth}: {error}"));
    value.map_or(0, |value| std::str::from_utf8(&value).expect("text").parse().expect("a number"))
}

fn set(client: &mut ClusterClient, nth: usize, value: u64) {
    let reply = client.line(&format!("SET {} {value}", key(nth))).expect("a reply");
    assert_eq!(reply, Value::Simple(b"OK".to_vec()));
}

/// Reads all keys into the cache, and once more from it.
fn warm(cache: &ClusterNearCache, value: u64) {
    let hits = cache.stats().hits;
    for _ in 0..2 {
        for nth in 0..KEYS {
            assert_eq!(cached(cache, nth), value, "{nth}");
        }
    }
    assert!(cache.stats().hits >= hits + KEYS as u64, "{:?}", cache.stats());
}

/// Waits until the cache has the new values. What has been new once stays so.
fn becomes(cluster: &Cluster, cache: &ClusterNearCache, what: &str, value: u64) {
    for nth in 0..KEYS {
        cluster.wait_until(&format!("{what}: key {nth} is new"), |_| cached(cache, nth) == value);
    }
    for nth in 0..KEYS {
        assert_eq!(cached(cache, nth), value, "{what}: {nth}");
    }
}

#[test]
fn a_near_cache_follows_fail_overs() {
    let mut cluster = Cluster::created(3, 3, 2, &[]);
    cluster.wait_ok();
    let cache = connect(&cluster);
    let mut client = ClusterClient::new(ports(&cluster));
    for nth in 0..KEYS {
        cache.set(key(nth).as_bytes(), b"1").expect("set");
    }
    warm(&cache, 1);
    for nth in 0..KEYS {
        set(&mut client, nth, 2);
    }
    becomes(&cluster, &cache, "written by others", 2);
    assert!(matches!(
        cache.call(&[b"LPUSH", b"near:0", b"x"], &[b"near:0"]),
        Err(Error::Refused(_))
    ));

    warm(&cache, 2);
    let lost = cache.stats().disconnections;
    cluster.kill(1);
    // Once a write of the new leader is answered, what the old one said is gone.
    for nth in 0..KEYS {
        set(&mut client, nth, 3);
    }
    cluster.wait_until("the loss is noticed", |_| cache.stats().disconnections > lost);
    becomes(&cluster, &cache, "a leader was killed", 3);
    cluster.restart(1);
    cluster.wait_ok();

    // A leader that hands over goes on, and its connections too.
    warm(&cache, 3);
    assert!(!cluster.node(0).text("CLUSTER ASHLAR DRAIN 1 ON").contains("ERR"));
    cluster.wait_until("it leads nothing", |cluster| {
        (0..16_384).step_by(512).all(|slot| cluster.leader_of(slot, 0) != Some(0))
    });
    for nth in 0..KEYS {
        set(&mut client, nth, 4);
    }
    becomes(&cluster, &cache, "a leader handed over", 4);
    assert!(!cluster.node(0).text("CLUSTER ASHLAR DRAIN 1 OFF").contains("ERR"));

    // One that is cut off from the others, but not from the cache, does not know what they write.
    warm(&cache, 4);
    // The one that comes first in the order of addresses: it must not be asked again and again who leads.
    let addresses = cluster.addresses();
    let leads = |nth: usize| Some((cluster.leader_of(slot_of(key(nth).as_bytes()), 0)?, nth));
    let first = (0..KEYS).filter_map(leads).min_by_key(|(node, _)| &addresses[*node]);
    let (away, nth) = first.expect("a leader");
    cluster.isolate(away);
    let others = (0..3).filter(|node| *node != away).map(|node| cluster.node(node).port());
    let mut client = ClusterClient::new(others);
    // While they elect a leader a write may come to nothing, or to who knows what.
    cluster.wait_until("the others write", |_| {
        client
            .line(&format!("SET {} 5", key(nth)))
            .is_ok_and(|reply| reply == Value::Simple(b"OK".to_vec()))
    });
    cluster.wait_until("the one that is cut off has noticed", |_| cached(&cache, nth) == 5);
    cluster.heal();
    cluster.wait_ok();
    assert_eq!(cached(&cache, nth), 5);
}

/// Slots move back and forth under writes, between nodes that keep nothing of each other's groups.
#[test]
fn a_near_cache_follows_slots_that_move() {
    let cluster = Cluster::created(3, 3, 0, &[]);
    cluster.wait_ok();
    let cache = Arc::new(connect(&cluster));
    let written: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (written, stop, ports) = (written.clone(), stop.clone(), ports(&cluster));
        std::thread::spawn(move || {
            let mut client = ClusterClient::new(ports);
            while !stop.load(Ordering::Acquire) {
                for nth in 0..KEYS {
                    let next = written[nth].load(Ordering::Acquire) + 1;
                    set(&mut client, nth, next);
                    written[nth].store(next, Ordering::Release);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    // A reader never sees a value go back.
    let reader = {
        let (cache, stop) = (cache.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut seen = [0; KEYS];
            while !stop.load(Ordering::Acquire) {
                for (nth, seen) in seen.iter_mut().enumerate() {
                    let now = cached(&cache, nth);
                    assert!(now >= *seen, "key {nth}: {now} after {seen}");
                    *seen = now;
                }
            }
        })
    };
    for round in 0..4 {
        for nth in 0..KEYS {
            let slot = slot_of(key(nth).as_bytes());
            let to = 1 + (nth + round) % 3;
            // To where it is already it does not go.
            drop(cluster.node(0).text(&format!("CLUSTER ASHLAR MOVE {slot} {slot} {to}")));
        }
        cluster.wait_until("the moves are over", |cluster| {
            cluster.node(0).text("CLUSTER ASHLAR STATUS").contains(" moves=0")
        });
    }
    stop.store(true, Ordering::Release);
    writer.join().expect("the writer");
    reader.join().expect("the reader");
    for (nth, written) in written.iter().enumerate() {
        let last = written.load(Ordering::Acquire);
        cluster.wait_until("the last value", |_| cached(&cache, nth) == last);
    }
    // While all keys change again and again, a slow reader may find none of them in the cache.
    for nth in (0..KEYS).chain(0..KEYS) {
        assert_eq!(cached(&cache, nth), written[nth].load(Ordering::Acquire), "{nth}");
    }
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.invalidated_entries > 0, "{stats:?}");
}
