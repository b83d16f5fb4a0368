//! Two tiers are one store: the same calls give the same replies whether values are in memory or on
//! disk, with demotion and promotion forced between any two calls.

use ashlar_engine::config::EngineConfig;
use ashlar_engine::engine::EngineOptions;
use ashlar_engine::stamp::Stamp;
use ashlar_engine::tier::Tier;
use ashlar_engine::tier::memory::MemoryStore;
use ashlar_engine::tier::store::{ColdStore, StoreKind, open};
use ashlar_tests::cli::{join, show};
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::golden::Host;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::host::InProcess;
use ashlar_tests::random::seeds;
use ashlar_tests::resp::{Argv, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Calls of each sequence.
const CALLS: usize = 1_500;
/// Calls between two comparisons of the whole state.
const COMPARED_EVERY: usize = 100;
const DATABASES: u32 = 16;

/// Commands whose replies follow from where values are, or from when expired keys are deleted.
const NOT_COMPARED: &[&str] = &["KEYS", "SCAN", "RANDOMKEY", "DBSIZE", "MEMORY", "DEBUG"];

fn tiered(store: Box<dyn ColdStore>, shards: usize, hash_seed: u64) -> (InProcess, Arc<Tier>) {
    tiered_with(store, shards, hash_seed, EngineConfig::default())
}

fn tiered_with(
    store: Box<dyn ColdStore>,
    shards: usize,
    hash_seed: u64,
    config: EngineConfig,
) -> (InProcess, Arc<Tier>) {
    let tier = Tier::new(store, "test", hash_seed);
    let tier_of_engine = Some(tier.clone());
    let options =
        EngineOptions { shards, hash_seed, config, tier: tier_of_engine, ..Default::default() };
    (InProcess::new(options), tier)
}

fn plain() -> InProcess {
    InProcess::new(EngineOptions::default())
}

/// Settings with which few elements make a collection one with a structure of its own, so that it is written to disk
/// as a large one where [`Tier::set_large_bytes`] says so.
fn small_limits() -> EngineConfig {
    EngineConfig {
        hash_max_listpack_entries: 2,
        set_max_intset_entries: 1,
        set_max_listpack_entries: 2,
        zset_max_listpack_entries: 2,
        list_max_listpack_size: 2,
        ..EngineConfig::default()
    }
}

fn argv(line: &str) -> Argv {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Takes everything out of memory that may go.
fn demote_all(host: &InProcess, tier: &Tier, seed: u64) {
    let done = tier.make_room(&host.engine, host.now_ms, seed, usize::MAX, &|| usize::MAX / 2);
    done.expect("the store works");
}

/// Takes some out of memory.
fn demote_some(host: &InProcess, tier: &Tier, seed: u64) {
    tier.make_room(&host.engine, host.now_ms, seed, 400, &|| 1).expect("the store works");
}

fn tidy(host: &InProcess, tier: &Tier) {
    let stamp = Stamp::new(host.now_ms, 1);
    tier.tidy(&mut host.engine.executor(), &stamp).expect("the store works");
}

fn keys(host: &mut InProcess) -> Vec<Vec<u8>> {
    let Value::Array(keys) = host.run(&argv("KEYS *")) else { panic!("KEYS replies an array") };
    let mut keys: Vec<Vec<u8>> = keys
        .into_iter()
        .map(|key| match key {
            Value::Bulk(key) => key,
            other => panic!("a key is a string: {other:?}"),
        })
        .collect();
    keys.sort_unstable();
    keys
}

/// The whole state is the same: every key with its value and expiry.
fn compare(one: &mut InProcess, two: &mut InProcess, here: &dyn Fn() -> String) {
    for db in 0..DATABASES {
        for host in [&mut *one, &mut *two] {
            host.run(&argv(&format!("SELECT {db}")));
        }
        let (a, b) = (keys(one), keys(two));
        assert_eq!(a.len(), b.len(), "keys of database {db}, {}", here());
        assert!(a == b, "keys of database {db}, {}", here());
        let keys: Vec<&[u8]> = a.iter().map(Vec::as_slice).collect();
        two.engine.executor().load_keys(db, &keys).expect("the store works");
        for key in keys {
            for command in ["PEXPIRETIME", "DEBUG"] {
                let mut call = vec![command.as_bytes().to_vec(), key.to_vec()];
                if command == "DEBUG" {
                    call.insert(1, b"DIGEST-VALUE".to_vec());
                }
                assert_eq!(one.run(&call), two.run(&call), "{} {}", join(&call), here());
            }
        }
    }
    for host in [one, two] {
        host.run(&argv("SELECT 0"));
    }
}

struct Pair {
    plain: InProcess,
    tiered: InProcess,
    tier: Arc<Tier>,
}

/// Runs calls of a family with and without a tier, where collections of a few elements count as large if `is_large`.
/// Returns how many values were written, were read, and were read in part.
fn check(
    family: &str,
    specs: &[Spec],
    seed: u64,
    (shards, is_large): (usize, bool),
    store: Box<dyn ColdStore>,
) -> [u64; 4] {
    let mut generator = Generator::new(seed);
    let own: Vec<&Spec> = specs.iter().filter(|spec| spec.family == family).collect();
    let generic: Vec<&Spec> = specs.iter().filter(|spec| spec.family == "generic").collect();
    let config = if is_large { small_limits() } else { EngineConfig::default() };
    let (host, tier) = tiered_with(store, shards, seed, config.clone());
    if is_large {
        tier.set_large_bytes(0);
    }
    let plain = InProcess::new(EngineOptions { config, ..EngineOptions::default() });
    let mut pair = Pair { plain, tiered: host, tier };
    pair.tiered.loads_elsewhere = seed.is_multiple_of(2);
    for index in 0..CALLS {
        let pool = if generator.random.chance(20) && !generic.is_empty() { &generic } else { &own };
        let spec = *generator.random.pick(pool);
        let call = generator.call(spec);
        let step = generator.random.between(0, 30);
        let here = || {
            let how = format!("with {shards} shards, {is_large}");
            format!("call {index} of ASHLAR_SEED={seed}, {family}, {how}: {}", join(&call))
        };
        match generator.random.below(20) {
            0..3 => demote_all(&pair.tiered, &pair.tier, index as u64),
            3..8 => demote_some(&pair.tiered, &pair.tier, index as u64),
            8 => tidy(&pair.tiered, &pair.tier),
            _ => {}
        }
        let replies = [&mut pair.plain, &mut pair.tiered].map(|host| {
            host.advance(step * step);
            show(&host.run(&call))
        });
        assert!(!replies[1].contains("(error) PANIC"), "{}\n{}", here(), replies[1]);
        // Where a value is, and access data: what was used while it was cached is forgotten with it.
        let second = call.get(1).is_some_and(|arg| {
            [&b"TIER"[..], b"IDLETIME", b"FREQ"].iter().any(|word| arg.eq_ignore_ascii_case(word))
        });
        let compared = !NOT_COMPARED.iter().any(|name| spec.name.starts_with(name)) && !second;
        if compared {
            assert_eq!(replies[0], replies[1], "{}", here());
        }
        if index % COMPARED_EVERY == COMPARED_EVERY - 1 {
            compare(&mut pair.plain, &mut pair.tiered, &here);
        }
    }
    let stats = &pair.tier.stats;
    let count =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    [&stats.demotions, &stats.loads, &stats.parts, &stats.ready_loads].map(count)
}

fn families(specs: &[Spec]) -> Vec<&str> {
    let mut families: Vec<&str> = specs.iter().map(|spec| spec.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    assert!(!families.is_empty());
    families
}

#[test]
fn tiers_give_the_replies_of_memory() {
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    let mut moved = [0; 4];
    for seed in seeds(&[1, 2]) {
        println!("ASHLAR_SEED={seed}");
        for family in families(&specs) {
            for is_large in [false, true] {
                let shards = if seed % 3 == 1 { 1 } else { 5 };
                let store = MemoryStore::default();
                store.set_ready();
                let store = Box::new(store);
                let counts = check(family, &specs, seed, (shards, is_large), store);
                moved.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
    }
    let [demotions, loads, parts, ready] = moved;
    assert!(demotions > 2_000 && loads > 2_000 && parts > 200, "{moved:?} values moved");
    assert!(ready > 200 && loads > ready + 200, "{moved:?} values moved");
}

#[test]
fn stores_on_disk_give_the_replies_of_memory() {
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    for kind in StoreKind::ALL {
        let folder = std::env::temp_dir().join(format!("ashlar-tiers-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        let store =
            open(kind, &folder.join(kind.name()), 8 << 20).expect("a new store opens").store;
        let [moved @ .., _] = check("hash", &specs, 3, (3, true), store);
        assert!(moved.iter().all(|count| *count > 0), "nothing moved: {moved:?}");
        std::fs::remove_dir_all(&folder).ok();
    }
}

/// A scan meets every key that is there all along, whatever moves meanwhile, and KEYS, DBSIZE and
/// RANDOMKEY know both tiers.
#[test]
fn walks_see_both_tiers() {
    for seed in seeds(&[1, 2, 3]) {
        let (mut host, tier) = tiered(Box::new(MemoryStore::default()), 1 + seed as usize, seed);
        host.loads_elsewhere = seed.is_multiple_of(2);
        let mut stays = BTreeSet::new();
        for nth in 0..600 {
            let key = format!("key{nth}");
            let value = if nth % 3 == 0 { "RPUSH" } else { "SET" };
            host.run(&argv(&format!("{value} {key} value")));
            stays.insert(key.into_bytes());
        }
        demote_all(&host, &tier, seed);
        let mut random = ashlar_tests::random::Random::new(seed);
        for round in 0..6 {
            let (mut cursor, mut seen, mut steps) = (b"0".to_vec(), Vec::new(), 0);
            loop {
                let call = [b"SCAN".to_vec(), cursor, b"COUNT".to_vec(), b"20".to_vec()];
                let Value::Array(reply) = host.run(&call.to_vec()) else { panic!("an array") };
                let [Value::Bulk(next), Value::Array(found)] = &reply[..] else {
                    panic!("{reply:?}")
                };
                seen.extend(found.iter().map(|key| match key {
                    Value::Bulk(key) => key.clone(),
                    other => panic!("{other:?}"),
                }));
                cursor = next.clone();
                steps += 1;
                if cursor == b"0" {
                    break;
                }
                for _ in 0..20 {
                    let nth = random.below(600);
                    match random.below(4) {
                        0 => drop(host.run(&argv(&format!("TYPE key{nth}")))),
                        1 if nth.is_multiple_of(3) => {
                            drop(host.run(&argv(&format!("LSET key{nth} 0 x"))))
                        }
                        1 => drop(host.run(&argv(&format!("SET key{nth} {round}")))),
                        2 => drop(host.run(&argv(&format!("SET other{nth} x PX 1")))),
                        _ => demote_some(&host, &tier, random.bits()),
                    }
                }
            }
            assert!(steps > 5, "a step is small");
            let found: BTreeSet<Vec<u8>> = seen.iter().cloned().collect();
            assert!(stays.is_subset(&found), "ASHLAR_SEED={seed} round {round}");
            host.advance(10);
            demote_some(&host, &tier, round);
        }
        let lists = [b"SCAN".to_vec(), b"0".to_vec(), b"TYPE".to_vec(), b"list".to_vec()];
        let call = [&lists[..], &[b"COUNT".to_vec(), b"100000".to_vec()]].concat();
        let Value::Array(reply) = host.run(&call) else { panic!("an array") };
        assert!(matches!(&reply[1], Value::Array(found) if found.len() == 200), "{reply:?}");
        host.advance(1_000);
        tidy(&host, &tier);
        host.engine.executor().expire_cycle(&Stamp::new(host.now_ms, 1), 10, 100_000);
        assert_eq!(keys(&mut host), stays.iter().cloned().collect::<Vec<_>>());
        assert_eq!(host.run(&argv("DBSIZE")), Value::Int(600));
        for demoted in [false, true] {
            if demoted {
                demote_all(&host, &tier, 7);
            }
            let mut chosen = BTreeSet::new();
            for _ in 0..200 {
                let Value::Bulk(key) = host.run(&argv("RANDOMKEY")) else { panic!("a key") };
                assert!(stays.contains(&key));
                chosen.insert(key);
            }
            assert!(chosen.len() > 60, "{} of 600 keys were chosen", chosen.len());
        }
    }
}

/// A cut has the state of the moment at which it began, wherever values are and go while it is read.
#[test]
fn cuts_have_both_tiers() {
    use ashlar_engine::cut::Rows;
    use ashlar_engine::image::image_of_rows;
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    for seed in seeds(&[1, 2, 3, 4]) {
        let (mut host, tier) =
            tiered(Box::new(MemoryStore::default()), 1 + seed as usize % 4, seed);
        let mut plain = plain();
        let mut generator = Generator::new(seed);
        for host in [&mut host, &mut plain] {
            host.no_touch = true;
            for nth in 0..700 {
                host.run(&argv(&format!("SELECT {}", nth % 3)));
                let ttl = if nth % 5 == 0 { " PX 100000" } else { "" };
                host.run(&argv(&format!("SET fill{nth} value{nth}{ttl}")));
            }
            host.run(&argv("SELECT 0"));
        }
        for cut_number in 0..6 {
            let here = format!("ASHLAR_SEED={seed} cut {cut_number}");
            demote_some(&host, &tier, cut_number);
            let engine = host.engine.clone();
            let (mut cut, expected) =
                engine.begin_cut(|| plain.engine.image()).expect("no other cut is running");
            let (mut rows, mut all) = (Rows::default(), Rows::default());
            let mut more = true;
            while more {
                for _ in 0..6 {
                    let spec = generator.random.pick(&specs);
                    let call = generator.call(spec);
                    let flush = call[0].eq_ignore_ascii_case(b"FLUSHALL");
                    if flush && generator.random.chance(80) {
                        continue;
                    }
                    host.run(&call);
                    plain.run(&call);
                    let line = match generator.random.below(4) {
                        0 => format!("DEL fill{}", generator.random.below(700)),
                        1 => format!("APPEND fill{} x", generator.random.below(700)),
                        2 => format!("PEXPIRE fill{} 50000", generator.random.below(700)),
                        _ => format!("STRLEN fill{}", generator.random.below(700)),
                    };
                    host.run(&argv(&line));
                    plain.run(&argv(&line));
                }
                match generator.random.below(6) {
                    0 => demote_all(&host, &tier, generator.random.bits()),
                    1..4 => demote_some(&host, &tier, generator.random.bits()),
                    4 => drop(tier.tidy(&mut host.engine.executor(), &Stamp::new(0, 1))),
                    _ => {}
                }
                more = cut.step(&mut rows);
                all.append(&mut rows);
            }
            assert_eq!(cut.fault(), None, "{here}");
            let image = image_of_rows(all.iter());
            assert!(image == expected, "{here}: another state");
        }
    }
}
