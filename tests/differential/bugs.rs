//! The comparison is tested with bugs of this engine, put back one by one: it must find each.

use ashlar_engine::engine::EngineOptions;
use ashlar_engine::known_bugs::{Bug, put_back};
use ashlar_tests::differential::{Live, Pair, run, specs};
use ashlar_tests::host::InProcess;
use ashlar_tests::process::Server;

/// Bugs, and the family in which each shows.
const BUGS: [(Bug, &str); 5] = [
    (Bug::GeoEdges, "geo"),
    (Bug::LremFromHead, "list"),
    (Bug::InclusiveScores, "sorted-set"),
    (Bug::SetrangeEmpty, "string"),
    (Bug::IncrWraps, "string"),
];
/// Commands of a family after which a bug that is there has to have shown.
const COMMANDS: usize = 30_000;

#[test]
fn bugs_put_back_are_found() {
    let oracle = Server::redis(&[]);
    let all = specs(&mut oracle.client()).expect("the oracle's commands");
    for (bug, family) in BUGS {
        let specs: Vec<_> = all.iter().filter(|spec| spec.family == family).cloned().collect();
        let subject = InProcess::new(EngineOptions { shards: 3, ..Default::default() });
        let mut pair = Pair { oracle: Live::new(&oracle), subject, protocol: 2 };
        put_back(Some(bug));
        let mut commands = 0;
        let mut findings = 0;
        // In pieces, so that no more is run than it takes.
        for seed in 1.. {
            let found = run(&mut pair, &specs, seed, 1_000);
            (commands, findings) = (commands + found.commands, found.reports.len());
            if findings > 0 || commands > COMMANDS {
                break;
            }
        }
        put_back(None);
        assert!(findings > 0, "{bug:?} was not found in {commands} commands");
        println!("{bug:?}: after {commands} commands");
    }
}
