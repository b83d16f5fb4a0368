//! The whole server, over its socket.

use ashlar_tests::differential::{Live, Pair, run, specs};
use ashlar_tests::process::Server;
use ashlar_tests::random::seeds;

#[test]
fn the_server_answers_as_redis_does() {
    let (oracle, subject) = (Server::redis(&[]), Server::ashlar(&[]));
    let specs = specs(&mut oracle.client()).expect("the oracle's commands");
    for seed in seeds(&[10, 11]) {
        println!("ASHLAR_SEED={seed}");
        let (oracle, subject) = (Live::new(&oracle), Live::new(&subject));
        let mut pair = Pair { oracle, subject, protocol: 2 };
        run(&mut pair, &specs, seed, super::commands(100_000)).finish();
    }
}
