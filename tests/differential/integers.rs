//! Every integer that the command table has a place for, at its bounds: found in the syntax lines, so
//! that a new command is in without being named.

use ashlar_server::commands::FAMILIES;
use ashlar_server::registry::HostCommand;
use ashlar_tests::cli::join;
use ashlar_tests::differential::sequence::{Step, sequence, step};
use ashlar_tests::differential::{Findings, Live, Pair, specs};
use ashlar_tests::grammar::{Generator, Spec, integers, table};
use ashlar_tests::process::Server;
use ashlar_tests::random::seeds;
use ashlar_tests::resp::{Argv, Value, words};
use std::collections::{BTreeMap, HashSet};

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

/// Commands that may wait, or whose connection becomes something else than a client's: nobody waits
/// for their replies, but the server must go on.
const WAIT: [&str; 4] = ["WAIT", "WAITAOF", "PSYNC", "ASHLAR.FOLLOW"];
/// Commands that reach out to whatever host the generator names, or let all clients wait.
const LEFT_OUT: [&str; 2] = ["MIGRATE", "CLIENT PAUSE"];
/// They, with a place where nobody listens, and for the writes of others.
const INSTEAD: [&str; 3] =
    ["MIGRATE 127.0.0.1 1 k N 1", "MIGRATE 127.0.0.1 1 k 0 N", "CLIENT PAUSE N WRITE"];

/// The commands of the server, subcommands in place of their containers.
fn commands_of_the_server() -> Vec<Spec> {
    fn add(prefix: &str, commands: &[HostCommand], specs: &mut Vec<Spec>) {
        for command in commands {
            let name = format!("{prefix}{}", command.command.name);
            if command.run.is_some() {
                specs.push(Spec::new("server", &name, command.command.syntax));
            }
            add(&format!("{name} "), command.subcommands, specs);
        }
    }
    let mut specs = Vec::new();
    FAMILIES.iter().for_each(|commands| add("", commands, &mut specs));
    specs
}

/// Sends a call on a connection of its own; its reply, unless nobody waits for it.
fn reply_of(server: &Server, name: &str, argv: &Argv) -> Option<Value> {
    let mut client = server.client();
    if WAIT.contains(&name) {
        client.send(argv).expect("it is sent");
        return None;
    }
    let reply = client.call(argv);
    Some(reply.unwrap_or_else(|error| panic!("{}: {error}\n{}", join(argv), server.log())))
}

/// The integers of those commands that random sequences do not compare: of the server, and of the
/// engine where Redis 7.0 has no such command. What Redis has has to be refused as there.
#[test]
fn every_other_integer_at_its_bounds() {
    let (redis, ashlar) = (Server::redis(&[]), Server::ashlar(&[]));
    let compared = specs(&mut redis.client()).expect("the commands that Redis knows");
    let compared: HashSet<String> = compared.into_iter().map(|spec| spec.name).collect();
    let mut others = commands_of_the_server();
    others.extend(table().into_iter().filter(|spec| !compared.contains(&spec.name)));
    others.retain(|spec| !LEFT_OUT.contains(&spec.name.as_str()));
    let mut generator = Generator { mutated_percent: 0, ..Generator::new(1) };
    let mut cases: Vec<(String, Argv, usize)> = Vec::new();
    for spec in &others {
        let calls = calls(&mut generator, spec).into_values();
        cases.extend(calls.map(|(argv, at)| (spec.name.clone(), argv, at)));
    }
    for line in INSTEAD {
        let argv = words(line);
        let at = argv.iter().position(|arg| arg == b"N").expect("the place of the integer");
        cases.push((line.into(), argv, at));
    }
    let mut failures = Vec::new();
    for (name, argv, at) in &cases {
        for bound in BOUNDS {
            let mut argv = argv.clone();
            argv[*at] = bound.as_bytes().to_vec();
            let (ours, theirs) = (reply_of(&ashlar, name, &argv), reply_of(&redis, name, &argv));
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            let is_known = !theirs.text().starts_with("ERR unknown ");
            if is_known && ours.is_error() != theirs.is_error() {
                failures.push(format!("{}\n  {ours:?}\n  {theirs:?}", join(&argv)));
            }
        }
        let alive = ashlar.client().line("PING");
        assert!(alive.is_ok(), "after {name}: {alive:?}\n{}", ashlar.log());
    }
    assert!(!ashlar.log().contains("panicked"), "a thread has failed:\n{}", ashlar.log());
    println!("{} integers of {} commands", cases.len(), others.len());
    assert!(cases.len() > 30, "{}", cases.len());
    assert!(failures.is_empty(), "command, ashlar's reply, Redis's:\n{}", failures.join("\n"));
    assert!(ashlar.peak_rss() < 300 << 20, "{} bytes", ashlar.peak_rss());
}
