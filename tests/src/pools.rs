//! The keys and values that random calls are made of: small pools, so that calls meet each other,
//! with the edges that matter to each kind of argument.
//!
//! What is left out on purpose: lifetimes that could end while a test runs (they would make the
//! outcome depend on the machine's load), and sizes that are valid but would allocate hundreds of
//! megabytes.

use crate::random::Random;
use ashlar_engine::commands::syntax::ArgKind;

/// Families with a pool of keys, the prefix of its keys, and whose calls the key is good for.
const KEYS: [(&str, &str); 9] = [
    ("string", "s"),
    ("hash", "h"),
    ("list", "l"),
    ("set", "t"),
    ("sorted-set", "z"),
    ("stream", "x"),
    ("bitmap", "b"),
    ("hyperloglog", "p"),
    ("geo", "g"),
];
/// Keys a pool.
const KEYS_EACH: usize = 3;

const INTEGERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "5",
    "10",
    "-2",
    "-5",
    "100",
    "127",
    "128",
    "255",
    "256",
    "-128",
    "32767",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "01",
    "+1",
    " 1",
    "1 ",
    "1.0",
    "",
    "abc",
    "-0",
    "0x10",
];
const DOUBLES: &[&str] = &[
    "0",
    "1",
    "-1",
    "1.5",
    "-2.5",
    "3",
    "10",
    "0.1",
    "0.2",
    "1e3",
    "-1e-3",
    "1e308",
    "5e-324",
    "3.0",
    "inf",
    "-inf",
    "+inf",
    "Infinity",
    "9007199254740993",
    "123456789.123456789",
];
const BAD_DOUBLES: &[&str] = &["nan", "abc", "", "1e400", "1.5x", " 1", "0x10", "1,5"];
const TEXTS: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"hello",
    b"world",
    b"10",
    b"-5",
    b"0",
    b"3.5",
    b"12345678901234567890",
    b"9223372036854775807",
    b"",
    b"\x00\xff\x80",
    b"with space",
    b"\"quoted\"",
    b"line\r\nbreak",
    b"nan",
    b"1e2",
    b"00",
    b"foobar",
];
const MEMBERS: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b"1",
    b"2",
    b"3",
    b"-7",
    b"100",
    b"70000",
    b"5000000000",
    b"",
    b"a\x00b",
    b"aa",
    b"ab",
    b"B",
    b"1.5",
];
const LEX_BOUNDS: &[&[u8]] =
    &[b"-", b"+", b"[a", b"(a", b"[c", b"(d", b"[", b"(", b"[aa", b"a", b"", b"(\xff"];
const SCORE_BOUNDS: &[&str] = &[
    "-inf", "+inf", "inf", "0", "1", "(1", "2", "(2.5", "-1", "(-inf", "3", "10", "(", "nan", "a",
];
const STREAM_IDS: &[&str] = &[
    "0",
    "0-0",
    "0-1",
    "1-1",
    "1-2",
    "2-1",
    "3",
    "5-5",
    "7-0",
    "10-1",
    "100-1",
    "1-*",
    "20-*",
    "18446744073709551615-18446744073709551615",
    "1-",
    "-1",
    "abc",
    "1-1-1",
    "01-1",
];
const STREAM_BOUNDS: &[&str] = &["-", "+", "(1-1", "(2-1", "(0", "(-", "$", ">"];
const PATTERNS: &[&[u8]] =
    &[b"*", b"s*", b"?", b"[a-c]", b"*1", b"h[^1]", b"a\\*", b"[", b"", b"t?", b"**a"];
/// In seconds or milliseconds; none ends while a test runs.
const LIFETIMES: &[&str] = &[
    "1000",
    "100000",
    "1000000",
    "123456789",
    "0",
    "-1",
    "-1000",
    "9223372036854775807",
    "9223372036854775",
    "-9223372036854775808",
    "abc",
    "1.5",
];
const TIMES_S: &[&str] =
    &["4102444800", "4102444801", "99999999999", "1", "0", "-1", "9223372036854775807", "x"];
const TIMES_MS: &[&str] = &[
    "4102444800000",
    "4102444800123",
    "99999999999999",
    "1",
    "0",
    "-1",
    "9223372036854775807",
    "x",
];
/// Valid offsets up to a few kilobytes, and ones that are always refused.
const OFFSETS: &[&str] =
    &["0", "1", "5", "7", "8", "9", "100", "1000", "-1", "-5", "536870912", "4294967296", "a"];
const SINGLE_BIT_OFFSETS: &[&str] =
    &["0", "1", "5", "7", "8", "9", "100", "20000", "-1", "#1", "4294967296", "a"];
const BIT_OFFSETS: &[&str] =
    &["0", "1", "7", "8", "100", "2000", "#0", "#1", "#20", "-1", "#-1", "4294967296", "a", "#"];
const BIT_TYPES: &[&str] =
    &["u1", "u8", "i8", "u4", "i16", "u63", "i64", "i1", "u64", "i65", "u0", "x8", "i", "u2", "i5"];
const LONGITUDES: &[&str] = &[
    "13.361389",
    "15.087269",
    "-122.27",
    "0",
    "179.9",
    "-179.9",
    "180",
    "-180",
    "181",
    "2.3522",
    "13.583333",
    "abc",
];
const LATITUDES: &[&str] = &[
    "38.115556",
    "37.502669",
    "37.80",
    "0",
    "85.05",
    "-85.05",
    "85.05112878",
    "-85.05112878",
    "86",
    "48.8566",
    "37.316667",
    "x",
];
const RADII: &[&str] = &["0", "1", "100", "200.5", "1000", "400", "20000", "-1", "abc", "1e7"];
const COUNTS: &[&str] = &["0", "1", "2", "3", "5", "10", "-1", "-2", "-5", "100", "abc", "1.5", ""];
const SMALL: &[&str] = &["0", "1", "2", "3", "5", "10", "-1", "-2", "100"];

/// All keys of all pools.
pub fn keys() -> Vec<String> {
    let each = |prefix: &'static str| (1..=KEYS_EACH).map(move |n| format!("{prefix}{n}"));
    KEYS.iter().flat_map(|&(_, prefix)| each(prefix)).collect()
}

/// A key for a call of `family`: mostly of the family's own pool.
pub fn key(random: &mut Random, family: &str, command: &str) -> Vec<u8> {
    let own = KEYS.iter().find(|(name, _)| *name == family).map(|&(_, prefix)| prefix);
    // Commands that take the keys of another family.
    let own = match (own, command) {
        (Some("s" | "b"), _) if random.chance(8) => Some("p"),
        (Some("z"), _) if random.chance(10) => Some("t"),
        (Some("g"), _) if random.chance(10) => Some("z"),
        (own, _) => own,
    };
    let prefix = match own {
        Some(prefix) if !random.chance(4) => prefix,
        _ => random.pick(&KEYS).1,
    };
    format!("{prefix}{}", 1 + random.below(KEYS_EACH)).into_bytes()
}

/// Anything at all, for an argument that is to be wrong.
pub fn junk(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => random.pick(TEXTS).to_vec(),
        1 => one(random, INTEGERS),
        2 => one(random, BAD_DOUBLES),
        3 => one(random, &["NX", "XX", "GET", "LIMIT", "COUNT", "WITHSCORES", "ASC", "STORE"]),
        4 => key(random, "", ""),
        _ => (0..random.below(12)).map(|_| random.bits() as u8).collect(),
    }
}

fn one(random: &mut Random, pool: &[&str]) -> Vec<u8> {
    random.pick(pool).as_bytes().to_vec()
}

/// A value for the argument `name` of `command`.
pub fn value(random: &mut Random, command: &str, name: &str, kind: &ArgKind) -> Vec<u8> {
    if let Some(value) = by_name(random, command, name) {
        return value;
    }
    match kind {
        ArgKind::Integer => match random.chance(75) {
            true => one(random, SMALL),
            false => one(random, INTEGERS),
        },
        ArgKind::Double => double(random),
        ArgKind::Pattern => random.pick(PATTERNS).to_vec(),
        ArgKind::UnixTime => one(random, TIMES_S),
        _ => string(random),
    }
}

fn double(random: &mut Random) -> Vec<u8> {
    match random.below(20) {
        0 => one(random, BAD_DOUBLES),
        1..8 => one(random, DOUBLES),
        _ => one(random, &DOUBLES[..9]),
    }
}

fn string(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => vec![b'x'; 20 + random.below(60)],
        1 => vec![b'y'; 500 + random.below(5_000)],
        2 => (0..random.below(40)).map(|_| random.bits() as u8).collect(),
        3..7 => one(random, INTEGERS),
        _ => random.pick(TEXTS).to_vec(),
    }
}

fn member(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => vec![b'm'; 65 + random.below(3)],
        1..20 => random.pick(MEMBERS).to_vec(),
        20..36 => format!("m{}", random.below(12)).into_bytes(),
        _ => format!("{}", random.below(300)).into_bytes(),
    }
}

/// The pools of arguments whose name says more than their type.
fn by_name(random: &mut Random, command: &str, name: &str) -> Option<Vec<u8>> {
    let pool: &[&str] = match name {
        // So few that a list has some of them twice: from which end one is removed shows only then.
        "element" | "pivot" if command.starts_with(['L', 'R']) && random.chance(70) => {
            &["a", "b", "c"]
        }
        "field" | "member" | "element" | "pivot" => return Some(member(random)),
        "score" | "increment" if command.starts_with('Z') => return Some(double(random)),
        "start" | "stop" | "min" | "max" | "end" => return Some(bound(random, command, name)),
        "id" | "lastid" | "last-id" | "threshold" | "entries-read" | "last-delivered-id" => {
            return Some(stream_id(random, command));
        }
        "group" => &["g1", "g2", "nogroup"],
        "consumer" => &["alice", "bob"],
        "offset" if command.starts_with("BITFIELD") => BIT_OFFSETS,
        "offset" if matches!(command, "SETBIT" | "GETBIT") => SINGLE_BIT_OFFSETS,
        "offset" if command == "SETRANGE" => OFFSETS,
        "encoding" | "type" if command.starts_with("BITFIELD") => BIT_TYPES,
        "bit" => &["0", "1", "0", "1", "0", "1", "2", "-1", "a"],
        "seconds" | "milliseconds" => LIFETIMES,
        name if name.starts_with("unix-time-milli") => TIMES_MS,
        name if name.starts_with("unix-time") => TIMES_S,
        "timeout" => &["0.01", "0", "1", "0.5", "0.01", "0.001", "-1", "abc"],
        "count" if command.ends_with("SCAN") => &["1000", "100000", "1000", "1000", "0", "a"],
        "count" | "len" | "rank" | "maxlen" | "num-matches" => COUNTS,
        "cursor" => &["0", "0", "0", "0", "0", "0", "abc", "-1", "1x"],
        "longitude" => LONGITUDES,
        "latitude" => LATITUDES,
        "radius" | "width" | "height" => RADII,
        "db" | "destination-db" | "index" if is_database(command) => &["0", "1", "2", "16", "a"],
        "encoding-type" | "type" => &["string", "list", "set", "zset", "hash", "stream", "x"],
        _ => return None,
    };
    Some(one(random, pool))
}

fn is_database(command: &str) -> bool {
    matches!(command, "MOVE" | "COPY" | "SELECT" | "SWAPDB")
}

fn bound(random: &mut Random, command: &str, name: &str) -> Vec<u8> {
    let lex = command.contains("LEX") || (command.starts_with("ZRANGE") && random.chance(15));
    let by_score = name == "min" || name == "max" || random.chance(20);
    match command.as_bytes() {
        [b'X', ..] => match random.chance(50) {
            true => one(random, &STREAM_BOUNDS[..4]),
            false => stream_id(random, command),
        },
        [b'Z', ..] if lex => random.pick(LEX_BOUNDS).to_vec(),
        [b'Z', ..] if by_score => one(random, SCORE_BOUNDS),
        _ => match random.chance(80) {
            true => one(random, &["0", "-1", "1", "2", "3", "-2", "-3", "5", "10", "100"]),
            false => one(random, INTEGERS),
        },
    }
}

/// Never `*` alone: it would take the time of the server that runs it.
fn stream_id(random: &mut Random, command: &str) -> Vec<u8> {
    match random.below(10) {
        // `+` is new in 7.4 there.
        0 if command.starts_with("XREAD") => one(random, &["-", "(1-1", "$", ">"]),
        0 => one(random, STREAM_BOUNDS),
        1 | 2 => one(random, STREAM_IDS),
        3..6 if command == "XREADGROUP" => b">".to_vec(),
        _ => format!("{}-{}", random.below(40), random.below(3)).into_bytes(),
    }
}

/// A value out of all pools, by number.
pub fn word(chosen: usize) -> Vec<u8> {
    let texts = [INTEGERS, DOUBLES, BAD_DOUBLES, SCORE_BOUNDS, STREAM_IDS, STREAM_BOUNDS, OFFSETS]
        .into_iter()
        .chain([
            LIFETIMES,
            TIMES_S,
            TIMES_MS,
            BIT_OFFSETS,
            BIT_TYPES,
            LONGITUDES,
            LATITUDES,
            RADII,
        ]);
    let texts = texts.flatten().map(|text| text.as_bytes());
    let bytes = [TEXTS, MEMBERS, LEX_BOUNDS, PATTERNS].into_iter().flatten().copied();
    let all: Vec<&[u8]> = texts.chain(bytes).collect();
    all[chosen % all.len()].to_vec()
}
