//! The engine alone, in this process: what it finds needs no server to be looked into.

use ashlar_engine::engine::EngineOptions;
use ashlar_tests::differential::{Live, Pair, run, specs};
use ashlar_tests::host::InProcess;
use ashlar_tests::process::Server;
use ashlar_tests::random::seeds;

#[test]
fn the_engine_answers_as_redis_does() {
    let oracle = Server::redis(&[]);
    let specs = specs(&mut oracle.client()).expect("the oracle's commands");
    for seed in seeds(&[1]) {
        println!("ASHLAR_SEED={seed}");
        let subject = InProcess::new(EngineOptions { shards: 3, ..Default::default() });
        let mut pair = Pair { oracle: Live::new(&oracle), subject, protocol: 2 };
        run(&mut pair, &specs, seed, super::commands(60_000)).finish();
    }
}
