//! Random sequences of steps. A step is one command, or a few that only make sense together: a
//! transaction, or a command with a random outcome between a look at what it may choose from and
//! the removal of what it left behind.

use super::compare::{Policy, policy};
use crate::grammar::{Generator, Spec};
use crate::resp::{Argv, words};

/// Commands that are kept together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step(pub Vec<Argv>);

/// Commands that the differential does not send, with the reason beside each group.
const LEFT_OUT: &[&str] = &[
    // Which integers are shared objects depends on how they were made.
    "OBJECT REFCOUNT",
    // They answer from the server's version, build, clock or memory.
    "DUMP",
    "RESTORE",
    "RESTORE-ASKING",
    "OBJECT FREQ",
    // Redis has no tiers.
    "OBJECT TIER",
    "OBJECT IDLETIME",
    "OBJECT HELP",
    "MEMORY USAGE",
    "TIME",
    "LOLWUT",
    "XINFO HELP",
    // They depend on what active expiry has already removed, or on shared objects.
    "DBSIZE",
    "OBJECT REFCOUNT",
    "XGROUP HELP",
    // They need another server or change the connection.
    "MIGRATE",
    "WAIT",
    "WAITAOF",
    "SELECT",
    "SWAPDB",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    // They would empty the state too often for anything to build up.
    "FLUSHALL",
    "FLUSHDB",
    // 7.4 checks the id against that of the last deleted entry, 7.0 does not.
    "XSETID",
    // A test of its own.
    "PFDEBUG",
    "PFSELFTEST",
];

/// True for commands that work on the data of one server alone.
pub fn is_data(spec: &Spec) -> bool {
    let families = [
        "string",
        "hash",
        "list",
        "set",
        "sorted-set",
        "stream",
        "bitmap",
        "hyperloglog",
        "geo",
        "generic",
    ];
    families.contains(&spec.family.as_str())
}

/// True for commands of the table that a differential can send.
pub fn is_comparable(spec: &Spec) -> bool {
    is_data(spec) && !LEFT_OUT.contains(&spec.name.as_str())
}

/// True for calls that 7.0 does not know yet, or answers in another way than 7.4 by accident.
fn is_newer(argv: &Argv) -> bool {
    let has = |word: &[u8]| argv.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    let name = argv[0].to_ascii_uppercase();
    match name.as_slice() {
        b"HSCAN" if has(b"NOVALUES") => true,
        // A cursor with a NUL in it is read as a C string.
        name if name.ends_with(b"SCAN") => argv.iter().any(|arg| arg.contains(&0)),
        b"ZRANK" | b"ZREVRANK" => argv.len() > 3,
        // An overflow that 7.0 did not notice; the last entry of a stream by the id `+`.
        b"XREAD" | b"XREADGROUP" => (has(b"BLOCK") && has(b"9223372036854775807")) || has(b"+"),
        _ => false,
    }
}

/// A sequence of `len` steps, most of them of one family.
pub fn sequence(generator: &mut Generator, specs: &[Spec], family: &str, len: usize) -> Vec<Step> {
    let of = |family: &str| specs.iter().filter(|spec| spec.family == family).collect::<Vec<_>>();
    let (own, generic, all) = (of(family), of("generic"), specs.iter().collect::<Vec<_>>());
    let mut pick = |generator: &mut Generator| {
        let pool = match generator.random.below(100) {
            0..75 if !own.is_empty() => &own,
            75..90 if !generic.is_empty() => &generic,
            _ => &all,
        };
        (*generator.random.pick(pool)).clone()
    };
    (0..len)
        .map(|_| {
            let spec = pick(generator);
            if generator.random.chance(2) {
                transaction(generator, &mut pick)
            } else {
                step(call(generator, &spec))
            }
        })
        .collect()
}

fn call(generator: &mut Generator, spec: &Spec) -> Argv {
    loop {
        let mut argv = generator.call(spec);
        if is_newer(&argv) {
            continue;
        }
        if spec.name == "XADD" {
            // `*` would take the time of the server that runs it.
            let ms = generator.random.below(40);
            let auto = |arg: &&mut Vec<u8>| arg.as_slice() == b"*";
            argv.iter_mut().filter(auto).for_each(|arg| *arg = format!("{ms}-*").into_bytes());
        }
        return argv;
    }
}

fn transaction(generator: &mut Generator, pick: &mut impl FnMut(&mut Generator) -> Spec) -> Step {
    let mut commands = vec![words("MULTI")];
    for _ in 0..1 + generator.random.below(4) {
        let spec = pick(generator);
        let argv = call(generator, &spec);
        if !matches!(policy(&argv), Policy::Random) && step(argv.clone()).0.len() == 1 {
            commands.push(argv);
        }
    }
    commands.push(words("EXEC"));
    Step(commands)
}

/// The step that a call needs.
pub fn step(mut argv: Argv) -> Step {
    let name = String::from_utf8_lossy(&argv[0]).to_ascii_uppercase();
    let has =
        |argv: &Argv, word: &str| argv.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    if name.ends_with("SCAN") && !has(&argv, "COUNT") {
        // All in one go: what a cursor passes in which call is the server's own affair.
        argv.extend(words("COUNT 100000"));
    }
    if blocks(&name, &argv) {
        return Step(vec![words("MULTI"), argv, words("EXEC")]);
    }
    let key = argv.get(1).cloned().unwrap_or_default();
    let look = |line: &str| {
        let mut look = words(line);
        look.insert(1, key.clone());
        look
    };
    let delete = |key: &[u8]| vec![b"DEL".to_vec(), key.to_vec()];
    match name.as_str() {
        // Only where all scores are equal is there an order of members.
        _ if name.starts_with('Z') && (name.contains("LEX") || has(&argv, "BYLEX")) => {
            let at = if name == "ZRANGESTORE" { 2 } else { 1 };
            argv.iter_mut().skip(at).take(1).for_each(|key| *key = b"lex".to_vec());
            let fill = words("ZADD lex 0 a 0 b 0 c 0 d 0 aa 0 ab 0 B 0 1 0 e 0 f");
            Step(vec![delete(b"lex"), fill, argv, words("ZRANGE lex 0 -1"), delete(b"lex")])
        }
        "SPOP" => Step(vec![look("SMEMBERS"), argv, delete(&key)]),
        "SRANDMEMBER" => Step(vec![look("SMEMBERS"), argv]),
        "HRANDFIELD" => Step(vec![look("HGETALL"), argv]),
        "ZRANDMEMBER" => Step(vec![look("ZRANGE 0 -1 WITHSCORES"), argv]),
        "RANDOMKEY" => Step(vec![words("KEYS *"), argv]),
        // What is stored depends on the order of a set, or on which elements were found first.
        "SORT" if has(&argv, "STORE") && has(&argv, "BY") => {
            let stores = |arg: &Vec<u8>| arg.eq_ignore_ascii_case(b"STORE");
            let at = argv.iter().rposition(stores).map_or(0, |at| at + 1);
            let stored = argv.iter().skip(at).map(|key| delete(key)).collect::<Vec<_>>();
            Step([vec![argv], stored].concat())
        }
        // 7.0 lets XSETID go below ids that were deleted.
        "XSETID" => Step(vec![argv, delete(&key)]),
        // The id is the time of the server.
        "XADD" if has(&argv, "*") => Step(vec![argv, delete(&key)]),
        name if name.starts_with("GEO") && has(&argv, "ANY") => {
            let stored: Vec<Argv> = argv[1..].iter().map(|key| delete(key)).collect();
            Step([vec![argv], stored].concat())
        }
        _ => Step(vec![argv]),
    }
}

/// True for a call that may wait for longer than a moment: it goes into a transaction, where it
/// doesn't wait.
fn blocks(name: &str, argv: &Argv) -> bool {
    let timeout = match name {
        "BLPOP" | "BRPOP" | "BLMOVE" | "BRPOPLPUSH" | "BZPOPMIN" | "BZPOPMAX" => argv.last(),
        "BLMPOP" | "BZMPOP" => argv.get(1),
        "XREAD" | "XREADGROUP" => {
            return argv.iter().any(|arg| arg.eq_ignore_ascii_case(b"BLOCK"));
        }
        _ => return false,
    };
    timeout.is_none_or(|timeout| timeout != b"0.001")
}

/// The command that reads all of a key of this type.
pub fn read_all(key: &[u8], key_type: &str) -> Option<Argv> {
    let mut argv = words(match key_type {
        "string" => "GET",
        "list" => "LRANGE 0 -1",
        "hash" => "HGETALL",
        "set" => "SMEMBERS",
        "zset" => "ZRANGE 0 -1 WITHSCORES",
        "stream" => "XRANGE - +",
        _ => return None,
    });
    argv.insert(1, key.to_vec());
    Some(argv)
}
