//! Keys of every type and representation, and what a client sees of a key, to compare servers by.

use ashlar_tests::random::Random;
use ashlar_tests::resp::{Argv, Client, Value};

/// Settings under which redis-server 7 stores small collections in every form it has.
pub const REDIS_THRESHOLDS: [&str; 10] = [
    "--list-max-listpack-size",
    "16",
    "--list-compress-depth",
    "1",
    "--enable-debug-command",
    "yes",
    "--stream-node-max-entries",
    "7",
    "--set-max-intset-entries",
    "64",
];

/// Texts that dumps store in different ways: integers of all widths, short, long, compressible.
fn text(random: &mut Random) -> Vec<u8> {
    const INTEGERS: [i64; 10] =
        [0, 12, -1, 127, -4096, 40_000, -8_000_000, 1 << 30, i64::MAX, i64::MIN];
    match random.below(8) {
        0 => INTEGERS[random.below(INTEGERS.len())].to_string().into_bytes(),
        1 => random.below(100_000).to_string().into_bytes(),
        2 => Vec::new(),
        3 => (0..random.below(300)).map(|_| random.below(256) as u8).collect(),
        4 => b"compressible ".repeat(random.below(40)),
        5 => format!("0{}", random.below(50)).into_bytes(),
        _ => format!("text:{}", random.below(1_000_000)).into_bytes(),
    }
}

fn score(random: &mut Random) -> String {
    match random.below(6) {
        0 => "inf".into(),
        1 => "-inf".into(),
        2 => format!("{}", random.below(1000) as f64 / 7.0),
        3 => "1e300".into(),
        _ => (random.below(2000) as i64 - 1000).to_string(),
    }
}

fn words(line: &str) -> Argv {
    ashlar_tests::resp::words(line)
}

/// Calls that make keys of all types, each in small and large forms.
pub fn fill(random: &mut Random) -> Vec<Argv> {
    let mut calls = Vec::new();
    for (nth, size) in [1, 2, 5, 17, 60, 130, 600, 3000].into_iter().enumerate() {
        let key = |kind: &str| format!("{kind}:{nth}").into_bytes();
        let mut push = |name: &str, kind: &str, parts: Vec<Vec<u8>>| {
            calls.push([vec![name.as_bytes().to_vec(), key(kind)], parts].concat());
        };
        push("SET", "string", vec![text(random)]);
        push("SET", "long", vec![random.below(1 << 30).to_string().repeat(size).into_bytes()]);
        push("RPUSH", "list", (0..size).map(|_| text(random)).collect());
        push("SADD", "set", (0..size).map(|_| text(random)).collect());
        push("SADD", "ints", (0..size).map(|n| (n * n * n).to_string().into_bytes()).collect());
        let mut wide: Vec<_> = (0..size).map(|n| n.to_string().into_bytes()).collect();
        wide.push(b"-5000000000".to_vec());
        push("SADD", "wide", wide);
        push("HSET", "hash", (0..2 * size).map(|_| text(random)).collect());
        let fields = (0..size).flat_map(|n| [format!("f{n}").into_bytes(), b"v".to_vec()]);
        push("HSET", "fields", fields.collect());
        let elements = (0..size).flat_map(|_| [score(random).into_bytes(), text(random)]);
        push("ZADD", "zset", elements.collect());
        push("PFADD", "hll", (0..size).map(|_| text(random)).collect());
        for n in 0..size {
            let id = format!("{}-{}", 5 + n / 3, 1 + n % 3);
            let mut parts = vec![id.into_bytes(), b"name".to_vec(), text(random)];
            if n % 5 == 0 {
                parts.extend([text(random), text(random)]);
            }
            push("XADD", "stream", parts);
        }
        calls.push(words(&format!("PEXPIREAT string:{nth} {}", 4_000_000_000_000u64 + nth as u64)));
    }
    calls.push(vec![b"RPUSH".to_vec(), b"list:plain".to_vec(), vec![b'p'; 70_000], b"x".to_vec()]);
    calls.extend(
        [
            "SETBIT bits 100000 1",
            "XGROUP CREATE stream:3 g 0",
            "XGROUP CREATE stream:3 other 6-2",
            "XGROUP CREATECONSUMER stream:3 g idle",
            "XREADGROUP GROUP g one COUNT 5 STREAMS stream:3 >",
            "XREADGROUP GROUP g two COUNT 3 STREAMS stream:3 >",
            "XREADGROUP GROUP g one STREAMS stream:3 0",
            "XACK stream:3 g 5-2",
            "XDEL stream:3 5-3 6-1",
            "XDEL stream:4 7-1",
            "XTRIM stream:5 MAXLEN 20",
            "XADD empty 9-9 a b",
            "XTRIM empty MAXLEN 0",
            "XGROUP CREATE empty g $",
            "XGROUP CREATE stream:2 g 0 ENTRIESREAD 2",
        ]
        .map(words),
    );
    calls
}

/// All keys of the selected database.
pub fn keys(client: &mut Client) -> Vec<Vec<u8>> {
    let reply = client.line("KEYS *").expect("a reply");
    let mut keys: Vec<_> =
        reply.items().expect("keys").iter().filter_map(|key| Some(key.bytes()?.to_vec())).collect();
    keys.sort();
    keys
}

/// What a client sees of a key.
pub fn content(client: &mut Client, key: &[u8]) -> Vec<Value> {
    content_without(client, key, &[])
}

/// The same without some fields of XINFO.
fn content_without(client: &mut Client, key: &[u8], left_out: &[&str]) -> Vec<Value> {
    let mut ask = |words: &[&str]| {
        let mut argv: Argv = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let at = argv.iter().position(|word| word == b"KEY").expect("the place of the key");
        argv[at] = key.to_vec();
        client.call(&argv).expect("a reply")
    };
    let kind = ask(&["TYPE", "KEY"]);
    let mut seen = match kind.text().as_str() {
        "string" => vec![ask(&["GET", "KEY"])],
        "list" => vec![ask(&["LRANGE", "KEY", "0", "-1"])],
        "set" => vec![sorted(ask(&["SMEMBERS", "KEY"]), 1)],
        "hash" => vec![sorted(ask(&["HGETALL", "KEY"]), 2)],
        "zset" => vec![with_scores(ask(&["ZRANGE", "KEY", "0", "-1", "WITHSCORES"]))],
        "stream" => {
            let full = ask(&["XINFO", "STREAM", "KEY", "FULL", "COUNT", "0"]);
            vec![ask(&["XRANGE", "KEY", "-", "+"]), without_layout(full, left_out)]
        }
        _ => Vec::new(),
    };
    seen.extend([kind, ask(&["PEXPIRETIME", "KEY"])]);
    seen
}

/// Elements in an order of their own: sets and hashes have none.
fn sorted(reply: Value, width: usize) -> Value {
    let items: Vec<Value> = reply.items().map(<[Value]>::to_vec).unwrap_or_default();
    let mut groups: Vec<Vec<Value>> = items.chunks(width).map(<[Value]>::to_vec).collect();
    groups.sort_by_key(|group| group.iter().map(|value| value.text()).collect::<Vec<_>>());
    groups.sort_by(|a, b| a[0].bytes().cmp(&b[0].bytes()));
    Value::Array(groups.concat())
}

/// Scores as numbers: versions print them with more or fewer digits.
fn with_scores(reply: Value) -> Value {
    let Value::Array(mut items) = reply else { return reply };
    for score in items.iter_mut().skip(1).step_by(2) {
        let number: f64 = score.text().parse().expect("a score");
        *score = Value::Int(number.to_bits() as i64);
    }
    Value::Array(items)
}

/// Leaves out what tells how a server lays out a stream, and what version 7.0 does not know.
fn without_layout(reply: Value, left_out: &[&str]) -> Value {
    const LAYOUT: [&str; 4] = ["radix-tree-keys", "radix-tree-nodes", "active-time", "seen-time"];
    let Value::Array(items) = reply else { return reply };
    let named =
        items.len() % 2 == 0 && items.iter().step_by(2).all(|name| matches!(name, Value::Bulk(_)));
    let mut kept = Vec::new();
    if !named {
        return Value::Array(
            items.into_iter().map(|item| without_layout(item, left_out)).collect(),
        );
    }
    for pair in items.chunks(2) {
        let name = pair[0].text();
        if !LAYOUT.contains(&name.as_str()) && !left_out.contains(&name.as_str()) {
            kept.extend([pair[0].clone(), without_layout(pair[1].clone(), left_out)]);
        }
    }
    Value::Array(kept)
}

/// Sends calls; every one has to succeed.
pub fn run(client: &mut Client, calls: &[Argv]) {
    for (argv, reply) in calls.iter().zip(client.pipeline(calls).expect("replies")) {
        assert!(!reply.is_error(), "{}: {}", ashlar_tests::cli::join(argv), reply.text());
    }
}

/// Fails unless both servers have the same keys with the same contents in this database.
pub fn assert_equal(one: &mut Client, other: &mut Client) -> usize {
    assert_equal_without(one, other, &[])
}

/// The same without some fields of XINFO.
pub fn assert_equal_without(one: &mut Client, other: &mut Client, left_out: &[&str]) -> usize {
    let all = keys(one);
    assert_eq!(all.len(), keys(other).len(), "the number of keys");
    for key in &all {
        let name = String::from_utf8_lossy(key).into_owned();
        let (here, there) =
            (content_without(one, key, left_out), content_without(other, key, left_out));
        assert!(here == there, "the key {name} differs: {}", difference(&here, &there));
    }
    all.len()
}

/// Where two values part.
fn difference(one: &[Value], other: &[Value]) -> String {
    if one.len() != other.len() {
        return format!("{} and {} elements", one.len(), other.len());
    }
    let pairs = one.iter().zip(other).enumerate();
    let Some((nth, (one, other))) = pairs.into_iter().find(|(_, (one, other))| one != other) else {
        return "nowhere".into();
    };
    let inside = match (one, other) {
        (Value::Array(one), Value::Array(other)) => difference(one, other),
        _ => format!("{} and {} ({one:?}, {other:?})", one.text(), other.text()),
    };
    format!("[{nth}] {inside}")
}
