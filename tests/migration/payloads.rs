//! DUMP and RESTORE: every type and representation, from redis-server and back to it.

use crate::content::{REDIS_THRESHOLDS, assert_equal, content, fill, keys, run};
use ashlar_engine::known_bugs::Bug;
use ashlar_tests::faults::prove;
use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Client, Value};

fn copy(from: &mut Client, to: &mut Client, key: &[u8]) {
    let dump = from.call(&[b"DUMP", key]).expect("a reply");
    let ttl = from.call(&[b"PEXPIRETIME", key]).expect("a reply");
    let Value::Int(at_ms) = ttl else { panic!("no time: {ttl:?}") };
    let at_ms = at_ms.max(0).to_string();
    let payload = dump.bytes().expect("a dump");
    let restore = [b"RESTORE", key, at_ms.as_bytes(), payload, b"ABSTTL", b"REPLACE"];
    let reply = to.call(&restore).expect("a reply");
    let name = String::from_utf8_lossy(key);
    assert_eq!(reply.text(), "OK", "{name}, type {}", payload[0]);
}

#[test]
fn values_of_all_forms_go_from_redis_to_ashlar_and_back() {
    for seed in seeds(&[1, 2]) {
        println!("ASHLAR_SEED={seed}");
        let redis = Server::redis(&REDIS_THRESHOLDS);
        let (ashlar, back) = (Server::ashlar(&[]), Server::redis(&[]));
        let (mut from, mut to, mut back) = (redis.client(), ashlar.client(), back.client());
        run(&mut from, &fill(&mut Random::new(seed)));
        for key in keys(&mut from) {
            copy(&mut from, &mut to, &key);
            let name = String::from_utf8_lossy(&key).into_owned();
            assert!(content(&mut from, &key) == content(&mut to, &key), "{name} differs");
            copy(&mut to, &mut back, &key);
        }
        assert!(assert_equal(&mut from, &mut to) > 80);
        assert_equal(&mut to, &mut back);
    }
}

#[test]
fn lists_of_plain_nodes_are_read() {
    let redis = Server::redis(&["--enable-debug-command", "yes"]);
    let (ashlar, mut from) = (Server::ashlar(&[]), redis.client());
    from.line("DEBUG QUICKLIST-PACKED-THRESHOLD 100b").expect("a reply");
    let calls = [vec![b"RPUSH".to_vec(), b"l".to_vec(), b"a".to_vec(), vec![b'x'; 500]]];
    run(&mut from, &calls);
    let mut to = ashlar.client();
    copy(&mut from, &mut to, b"l");
    assert_equal(&mut from, &mut to);
}

#[test]
fn errors_are_those_of_redis() {
    let (redis, ashlar) = (Server::redis(&[]), Server::ashlar(&[]));
    let (mut one, mut other) = (redis.client(), ashlar.client());
    let mut both = |argv: &[&[u8]]| {
        let replies = (one.call(argv).expect("a reply"), other.call(argv).expect("a reply"));
        assert_eq!(replies.0, replies.1, "{argv:?}");
        replies.0
    };
    both(&[b"SET", b"k", b"hello"]);
    let dump = both(&[b"DUMP", b"k"]).bytes().expect("a dump").to_vec();
    let mut damaged = vec![2, 1];
    ashlar_engine::rdb::seal(&mut damaged);
    both(&[b"RESTORE", b"k", b"0", &dump]);
    both(&[b"RESTORE", b"n", b"0", &dump[1..]]);
    both(&[b"RESTORE", b"n", b"0", b"short"]);
    both(&[b"RESTORE", b"n", b"0", &damaged]);
    both(&[b"RESTORE", b"n", b"-1", &dump]);
    both(&[b"RESTORE", b"n", b"x", &dump]);
    both(&[b"RESTORE", b"n", b"0", &dump, b"IDLETIME", b"-1"]);
    both(&[b"RESTORE", b"n", b"0", &dump, b"FREQ", b"300"]);
    both(&[b"RESTORE", b"n", b"0", &dump, b"FREQ"]);
    both(&[b"RESTORE", b"n", b"1", &dump, b"ABSTTL"]);
    both(&[b"EXISTS", b"n"]);
    both(&[b"RESTORE", b"n", b"0", &dump, b"replace", b"idletime", b"7"]);
    both(&[b"GET", b"n"]);
}

/// A HyperLogLog whose bytes lie about themselves is refused by the commands that read it.
#[test]
fn forged_hyperloglogs_are_refused() {
    let ashlar = Server::ashlar(&[]);
    let mut client = ashlar.client();
    let sparse = |body: &[u8]| [&b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80"[..], body].concat();
    let forged = [
        sparse(&[]),
        sparse(&[0x7F, 0xFE]),
        sparse(&[0x7F, 0xFF, 0x7F, 0xFF, 0x80]),
        sparse(&[0xFF; 3000]),
        sparse(&[0x40]),
        [&b"HYLL\0\0\0\0\0\0\0\0\0\0\0\x80"[..], &[0xFF; 100]].concat(),
        [&b"HYLL\x02\0\0\0\0\0\0\0\0\0\0\x80"[..], &[0; 12288]].concat(),
        b"HYLL".to_vec(),
    ];
    for (nth, bytes) in forged.iter().enumerate() {
        let mut payload = vec![0];
        let len = bytes.len() as u16;
        payload.extend_from_slice(&(0x4000 | len).to_be_bytes());
        payload.extend_from_slice(bytes);
        ashlar_engine::rdb::seal(&mut payload);
        let key = format!("hll{nth}").into_bytes();
        let restored = client.call(&[&b"RESTORE"[..], &key, b"0", &payload]).expect("a reply");
        assert_eq!(restored.text(), "OK");
        for argv in [
            vec![&b"PFCOUNT"[..], &key],
            vec![b"PFCOUNT", &key, b"missing"],
            vec![b"PFADD", &key, b"element"],
            vec![b"PFMERGE", b"merged", &key],
        ] {
            let reply = client.call(&argv).expect("the server lives");
            // PFADD may be done before it comes to what is wrong.
            let refused = reply.is_error() || argv[0] == b"PFADD";
            assert!(refused, "{nth}: {:?} gives {reply:?}", argv[0]);
        }
    }
}

#[test]
fn a_fault_put_back_is_found() {
    let proof = (Bug::HyperLogLogRunsOn, forged_hyperloglogs_are_refused as fn(), "");
    prove(env!("CARGO_BIN_EXE_faulty"), &[proof]);
}

/// Writes the seeds of the fuzz targets: `cargo test -p ashlar-tests --test migration -- --ignored`.
#[test]
#[ignore = "it writes files"]
fn write_seeds() {
    use ashlar_tests::process::workspace;
    let keep = |target: &str, name: &str, bytes: &[u8]| {
        let dir = workspace().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&dir).expect("the directory");
        std::fs::write(dir.join(name), bytes).expect("the file");
    };
    let redis = Server::redis(&REDIS_THRESHOLDS);
    let mut client = redis.client();
    run(&mut client, &fill(&mut Random::new(1)));
    for key in keys(&mut client) {
        let name = String::from_utf8_lossy(&key).replace(':', "-");
        let dump = client.call(&[&b"DUMP"[..], &key]).expect("a reply");
        let bytes = dump.bytes().expect("a dump");
        if bytes.len() < 700 && !name.ends_with("-0") && !name.ends_with("-1") {
            keep("payload", &name, &bytes[..bytes.len() - 10]);
        } else {
            client.call(&[&b"DEL"[..], &key]).expect("a reply");
        }
    }
    let ziplist = b"\x11\0\0\0\x0e\0\0\0\x02\0\0\x02ab\x04\xf6\xff";
    keep("payload", "hash-ziplist", &[&[13, 17], &ziplist[..]].concat());
    keep("payload", "zset-ziplist", &[&[12, 17], &ziplist[..]].concat());
    keep("payload", "list-ziplist", &[&[10, 17], &ziplist[..]].concat());
    keep("payload", "quicklist-1", &[&[14, 1, 17], &ziplist[..]].concat());
    keep("payload", "zipmap", b"\x09\x0a\x01\x01a\x01\x02bxx\xff");
    let times = [&[24][..], &1000i64.to_le_bytes(), b"\x02\0\x01a\x01b\x05\x01c\x01d"].concat();
    keep("payload", "hash-times", &times);
    client.line("SAVE").expect("a reply");
    let file = std::fs::read(redis.dir().join("dump.rdb")).expect("the file");
    keep("rdb_file", "small", &file);
}
