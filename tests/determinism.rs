//! The ground that replication stands on: the same calls with the same stamps lead to the same state
//! and the same replies, whatever the number of shards, the seed of the hash tables, and whether the
//! engine was written out and read again on the way.

use ashlar_engine::engine::EngineOptions;
use ashlar_tests::cli::{join, show};
use ashlar_tests::differential::sequence::is_data;
use ashlar_tests::golden::Host;
use ashlar_tests::grammar::{Generator, Spec, table};
use ashlar_tests::host::InProcess;
use ashlar_tests::random::seeds;

/// Calls of each sequence.
const CALLS: usize = 2_000;
/// Calls between two comparisons of the whole state.
const COMPARED_EVERY: usize = 50;

/// Commands whose replies follow the order of the hash table, which is no part of the state.
const BY_TABLE_ORDER: &[&str] = &["KEYS", "SCAN", "RANDOMKEY"];

fn options(shards: usize, hash_seed: u64) -> EngineOptions {
    EngineOptions { shards, hash_seed, ..Default::default() }
}

/// Engines that must stay equal.
fn engines() -> Vec<InProcess> {
    vec![
        InProcess::new(options(1, 1)),
        InProcess::new(options(1, 1)),
        InProcess::new(options(1, 77)),
        InProcess::new(options(16, 5)),
    ]
}

fn check(family: &str, specs: &[Spec], seed: u64) {
    let mut generator = Generator::new(seed);
    let own: Vec<&Spec> = specs.iter().filter(|spec| spec.family == family).collect();
    let generic: Vec<&Spec> = specs.iter().filter(|spec| spec.family == "generic").collect();
    let mut engines = engines();
    for index in 0..CALLS {
        let pool = if generator.random.chance(15) && !generic.is_empty() { &generic } else { &own };
        let spec = *generator.random.pick(pool);
        let argv = generator.call(spec);
        let step = generator.random.between(0, 40);
        if index % 500 == 250 {
            // Through bytes, into other numbers of shards.
            engines[1].through_image(options(3, 9));
            engines[3].through_image(options(1, 2));
        }
        let mut replies = Vec::new();
        for engine in &mut engines {
            engine.advance(step * step);
            replies.push(show(&engine.run(&argv)));
        }
        let here = || format!("call {index} of ASHLAR_SEED={seed}, {family}: {}", join(&argv));
        assert!(!replies[0].contains("(error) PANIC"), "{}\n{}", here(), replies[0]);
        assert!(!replies[0].contains("(error) MALFORMED"), "{}\n{}", here(), replies[0]);
        if !BY_TABLE_ORDER.contains(&spec.name.as_str()) {
            assert!(replies.iter().all(|reply| *reply == replies[0]), "{}\n{replies:?}", here());
        }
        if index % COMPARED_EVERY == 0 || index + 1 == CALLS {
            let digests: Vec<u64> = engines.iter().map(|engine| engine.engine.digest()).collect();
            assert!(digests.iter().all(|digest| *digest == digests[0]), "{}", here());
        }
    }
}

#[test]
fn equal_calls_lead_to_equal_states() {
    let specs: Vec<Spec> = table().into_iter().filter(is_data).collect();
    let mut families: Vec<&str> = specs.iter().map(|spec| spec.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    assert!(!families.is_empty());
    for seed in seeds(&[1, 2, 3]) {
        println!("ASHLAR_SEED={seed}");
        families.iter().for_each(|family| check(family, &specs, seed));
    }
}
