//! Every integer that the command table has a place for, at its bounds: found in the syntax lines, so
//! that a new command is in without being named.

use ashlar_tests::cli::join;
use ashlar_tests::differential::sequence::{Step, sequence, step};
use ashlar_tests::differential::{Findings, Live, Pair, specs};
use ashlar_tests::grammar::{Generator, Spec, integers};
use ashlar_tests::process::Server;
use ashlar_tests::random::seeds;
use ashlar_tests::resp::Argv;
use std::collections::BTreeMap;

const BOUNDS: [&str; 13] = [
    "0",
    "1",
    "-1",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
];
/// Calls that are made up until one has each integer of its command.
const TRIES_MAX: usize = 5_000;
/// Steps before each call, for it to find something.
const STEPS_BEFORE: usize = 12;

/// Calls of a command, one for each of its integers, with the place where it is.
fn calls(generator: &mut Generator, spec: &Spec) -> BTreeMap<String, (Argv, usize)> {
    let wanted = integers(&spec.args);
    let mut found = BTreeMap::new();
    for _ in 0..TRIES_MAX {
        if wanted.iter().all(|name| found.contains_key(name)) {
            return found;
        }
        let (argv, marks) = generator.marked_call(spec);
        for (at, name) in marks {
            found.entry(name).or_insert((argv.clone(), at));
        }
    }
    panic!("{} takes {wanted:?}, but only {:?} came up", spec.name, found.keys());
}

/// Whether Redis 7.0 is no judge: it would answer with gigabytes, its own numbers overflow, or 7.4
/// answers in another way.
fn is_unjudged(argv: &Argv, bound: &str) -> bool {
    let line = join(argv);
    let starts = |names: &[&str]| names.iter().any(|name| line.starts_with(name));
    let is_far = bound.len() > 2;
    let is_below = is_far && bound.starts_with('-');
    (starts(&["SRANDMEMBER", "HRANDFIELD", "ZRANDMEMBER"]) && is_below)
        || (starts(&["XREAD"]) && line.contains("BLOCK") && is_far)
        // 7.4 refuses a rank that has no opposite.
        || (starts(&["LPOS"]) && line.contains("RANK -9223372036854775808"))
}

#[test]
fn every_integer_at_its_bounds() {
    let settings = ["--proto-max-bulk-len", "1mb"];
    let (redis, ashlar) = (Server::redis(&settings), Server::ashlar(&settings));
    let specs = specs(&mut redis.client()).expect("the commands that Redis knows");
    for seed in seeds(&[1]) {
        println!("ASHLAR_SEED={seed}");
        let (mut findings, mut places) = (Findings::default(), 0);
        let mut pair = Pair { oracle: Live::new(&redis), subject: Live::new(&ashlar), protocol: 2 };
        let mut generator = Generator { mutated_percent: 0, ..Generator::new(seed) };
        for spec in &specs {
            let before = sequence(&mut generator, &specs, &spec.family, STEPS_BEFORE);
            for (argv, at) in calls(&mut generator, spec).into_values() {
                places += 1;
                let mut steps: Vec<Step> = Vec::new();
                for bound in BOUNDS {
                    let mut argv = argv.clone();
                    argv[at] = bound.as_bytes().to_vec();
                    if !is_unjudged(&argv, bound) {
                        steps.extend(before.iter().cloned());
                        steps.push(step(argv));
                    }
                }
                findings.check(&mut pair, steps, seed);
            }
        }
        println!("{places} integers, {} commands", findings.commands);
        assert!(places > 100, "{places}");
        findings.finish();
    }
    assert!(ashlar.peak_rss() < 300 << 20, "{} bytes", ashlar.peak_rss());
}
