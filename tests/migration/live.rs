//! Live migration: this server follows a redis-server, and a redis-server follows this one, while
//! clients go on writing. In the end no key differs.

use crate::content::{assert_equal, assert_equal_without, fill, run};
use ashlar_tests::process::{Server, ashlar_binary};
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Argv, Client, Value, words};
use std::process::Command;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Lets a redis-server load files from anywhere.
pub const UNPROTECTED: [&str; 4] =
    ["--enable-debug-command", "yes", "--enable-protected-configs", "yes"];
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` holds.
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    let since = Instant::now();
    while !check() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10));
    }
}

fn info(client: &mut Client, field: &str) -> String {
    let text = client.line("INFO replication").expect("a reply").text();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_default().to_string()
}

pub fn follow(replica: &mut Client, primary: &Server) {
    let reply = replica.line(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).expect("a reply");
    assert_eq!(reply.text(), "OK");
}

/// Waits until the replica has everything that the primary has done so far.
pub fn caught_up(primary: &mut Client, replica: &mut Client) {
    until("the replica is connected", || info(replica, "master_link_status") == "up");
    let offset: i64 = info(primary, "master_repl_offset").parse().expect("an offset");
    until("the replica catches up", || {
        info(replica, "slave_repl_offset").parse::<i64>().is_ok_and(|has| has >= offset)
    });
}

/// Calls whose effect depends on the moment, on chance or on how a server stores its data.
fn writes(random: &mut Random, n: usize) -> Argv {
    let key = |kind: &str, random: &mut Random| format!("{kind}:w{}", random.below(5));
    let value = random.below(1000);
    let line = match random.below(34) {
        0 => format!("SET {} {value}", key("string", random)),
        1 => format!("SET {} {value} PX {}", key("short", random), 1 + random.below(300)),
        2 => format!("SETEX {} 100 {value}", key("string", random)),
        3 => format!("EXPIRE {} {}", key("string", random), 50 + random.below(1000)),
        4 => format!("PEXPIRE {} {}", key("short", random), 1 + random.below(200)),
        5 => format!("PERSIST {}", key("short", random)),
        6 => format!("INCRBY {} {value}", key("counter", random)),
        7 => format!("INCRBYFLOAT {} 0.{value}", key("float", random)),
        8 => format!("APPEND {} x{value}", key("text", random)),
        9 => format!("GETEX {} EX {}", key("text", random), 100 + value),
        10 => format!("GETDEL {}", key("text", random)),
        11 => format!("SADD {} {n} {value} a{value}", key("set", random)),
        12 => format!("SPOP {}", key("set", random)),
        13 => format!("SPOP {} {}", key("set", random), 1 + random.below(4)),
        14 => format!("SMOVE {} {} {value}", key("set", random), key("set", random)),
        15 => format!("HSET {} f{} {value}", key("hash", random), random.below(50)),
        16 => format!("HINCRBYFLOAT {} n 1.{value}", key("hash", random)),
        17 => format!("HDEL {} f{}", key("hash", random), random.below(50)),
        18 => format!("RPUSH {} {value} {n}", key("list", random)),
        19 => format!("BLPOP {} {} 0.01", key("list", random), key("list", random)),
        20 => format!("BLMOVE {} {} LEFT RIGHT 0.01", key("list", random), key("list", random)),
        21 => format!("LMPOP 2 {} {} RIGHT COUNT 2", key("list", random), key("list", random)),
        22 => format!("ZADD {} {value} m{}", key("zset", random), random.below(40)),
        23 => format!("ZINCRBY {} 1.5 m{}", key("zset", random), random.below(40)),
        24 => format!("BZPOPMIN {} 0.01", key("zset", random)),
        25 => format!("XADD {} MAXLEN ~ 30 * f {value}", key("stream", random)),
        26 => format!("XADD {} * f {value} g {n}", key("stream", random)),
        27 => format!("XTRIM {} MAXLEN ~ 20", key("stream", random)),
        28 => format!("XGROUP CREATE {} g $ MKSTREAM", key("stream", random)),
        29 => {
            format!("XREADGROUP GROUP g c{} COUNT 3 STREAMS {} >", value % 3, key("stream", random))
        }
        30 => format!("XAUTOCLAIM {} g c{} 0 0 COUNT 2", key("stream", random), value % 3),
        31 => format!("SORT {} BY nosort STORE sorted:w{}", key("set", random), value % 3),
        32 => format!("PFADD {} {value}", key("hll", random)),
        _ => format!("DEL {}", key("string", random)),
    };
    words(&line)
}

/// Writes in a thread of its own.
fn load(server: &Server, seed: u64, batches: usize) -> JoinHandle<()> {
    let mut client = server.client();
    std::thread::spawn(move || {
        let mut random = Random::new(seed);
        for n in 0..batches {
            let mut batch: Vec<Argv> = Vec::new();
            for _ in 0..50 {
                if random.below(10) == 0 {
                    batch.push(vec![b"MULTI".to_vec()]);
                    batch.extend((0..3).map(|_| writes(&mut random, n)));
                    batch.push(vec![b"EXEC".to_vec()]);
                } else {
                    batch.push(writes(&mut random, n));
                }
            }
            client.pipeline(&batch).expect("replies");
        }
    })
}

/// Starts following under load, and compares all keys in the end.
fn migrates(from: &Server, to: &Server, seed: u64) -> (Client, Client) {
    let (mut primary, mut replica) = (from.client(), to.client());
    run(&mut primary, &fill(&mut Random::new(seed)));
    run(&mut primary, &[words("SELECT 3"), words("SET other 3"), words("SELECT 0")]);
    let before = load(from, seed, 40);
    follow(&mut replica, from);
    before.join().expect("the load runs");
    caught_up(&mut primary, &mut replica);
    let after = load(from, seed + 100, 40);
    after.join().expect("the load runs");
    // What expires is told by the primary, which finds out in its own time.
    until("short-lived keys are gone", || {
        let short = primary.line("KEYS short:*").expect("a reply");
        let keys: Vec<Argv> = short
            .items()
            .expect("keys")
            .iter()
            .map(|key| vec![b"PTTL".to_vec(), key.text().into_bytes()])
            .collect();
        let ttls = primary.pipeline(&keys).expect("replies");
        ttls.iter().all(|ttl| *ttl == Value::Int(-1))
    });
    caught_up(&mut primary, &mut replica);
    // A primary of version 7.0 does not tell its replicas how many entries a group has read.
    let left_out = ["entries-read", "lag"];
    assert!(assert_equal_without(&mut primary, &mut replica, &left_out) > 90);
    run(&mut primary, &[words("SELECT 3")]);
    run(&mut replica, &[words("SELECT 3")]);
    assert_equal(&mut primary, &mut replica);
    run(&mut primary, &[words("SELECT 0")]);
    run(&mut replica, &[words("SELECT 0")]);
    (primary, replica)
}

#[test]
fn ashlar_follows_redis_under_load() {
    for seed in seeds(&[1]) {
        println!("ASHLAR_SEED={seed}");
        for diskless in ["yes", "no"] {
            let settings = ["--repl-diskless-sync", diskless, "--repl-diskless-sync-delay", "0"];
            let (redis, ashlar) =
                (Server::redis(&settings), Server::ashlar(&["--io-threads", "2"]));
            let (mut primary, mut replica) = migrates(&redis, &ashlar, seed);
            let reply = replica.line("SET k v").expect("a reply").text();
            assert_eq!(reply, "READONLY You can't write against a read only replica.");
            let role = replica.line("ROLE").expect("a reply");
            assert_eq!(role.items().expect("a role")[3].text(), "connected");
            assert_eq!(primary.line("WAIT 1 5000").expect("a reply"), Value::Int(1));
            // The cut-over.
            assert_eq!(replica.line("REPLICAOF NO ONE").expect("a reply").text(), "OK");
            assert_eq!(replica.line("SET k v").expect("a reply").text(), "OK");
        }
    }
}

#[test]
fn redis_follows_ashlar_under_load() {
    for seed in seeds(&[2]) {
        println!("ASHLAR_SEED={seed}");
        for threads in ["1", "2"] {
            let ashlar = Server::ashlar(&["--io-threads", threads]);
            let redis = Server::redis(&["--repl-diskless-load", "disabled"]);
            let (mut primary, mut replica) = migrates(&ashlar, &redis, seed);
            assert_eq!(info(&mut primary, "connected_slaves"), "1");
            primary.line("SET k v").expect("a reply");
            assert_eq!(primary.line("WAIT 1 5000").expect("a reply"), Value::Int(1));
            assert_eq!(replica.line("GET k").expect("a reply").text(), "v");
            assert_eq!(primary.line("WAIT 2 50").expect("a reply"), Value::Int(1));
            let errors = redis.log().matches("== CRITICAL ==").count();
            assert_eq!(errors, 0, "the replica could repeat everything");
        }
    }
}

/// `min-replicas-to-write` on either server: what is refused, in which words, and when no more.
#[test]
fn writes_want_replicas() {
    let wanting = |server: &Server, follower: &Server| {
        let (mut client, mut replica) = (server.client(), follower.client());
        let mut seen = Vec::new();
        let mut ask = |args: &[&str]| {
            seen.push(client.call(args).expect("a reply").text());
        };
        let script = "return redis.call('SET', 'k', 'script')";
        ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        for args in [&["SET", "k", "v"][..], &["GET", "k"], &["EVAL", "return 'reads'", "0"]] {
            ask(args);
        }
        ask(&["MULTI"]);
        ask(&["SET", "k", "v"]);
        ask(&["EXEC"]);
        follow(&mut replica, server);
        caught_up(&mut server.client(), &mut replica);
        until("the replica counts", || {
            server.client().line("SET k v").expect("a reply").text() == "OK"
        });
        ask(&["EVAL", script, "0"]);
        ask(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
        ask(&["SET", "k", "v"]);
        ask(&["CONFIG", "SET", "min-replicas-max-lag", "0"]);
        ask(&["SET", "k", "v"]);
        ask(&["CONFIG", "SET", "min-replicas-max-lag", "10", "min-replicas-to-write", "1"]);
        replica.line("REPLICAOF NO ONE").expect("a reply");
        until("the replica is missed", || {
            server.client().line("SET k v").expect("a reply").text().starts_with("NOREPLICAS")
        });
        ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        ask(&["SET", "k", "v"]);
        // What a script is told has its place and digest behind it.
        let refused = client.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        assert_eq!(refused.expect("a reply").text(), "OK");
        let refused = client.call(&["EVAL", script, "0"]).expect("a reply").text();
        assert!(refused.starts_with("NOREPLICAS Not enough good replicas to write"), "{refused}");
        seen
    };
    let fast = ["--repl-diskless-sync-delay", "0"];
    let on_redis = wanting(&Server::redis(&fast), &Server::redis(&fast));
    let on_ashlar = wanting(&Server::ashlar(&[]), &Server::redis(&fast));
    assert_eq!(on_ashlar, on_redis);
}

/// A broken connection costs no second copy while the stream is still there.
#[test]
fn a_broken_link_goes_on_where_it_was() {
    let (redis, ashlar) =
        (Server::redis(&["--repl-diskless-sync-delay", "0"]), Server::ashlar(&[]));
    let (mut primary, mut replica) = (redis.client(), ashlar.client());
    follow(&mut replica, &redis);
    caught_up(&mut primary, &mut replica);
    for n in 0..3 {
        primary.line(&format!("SET before:{n} v")).expect("a reply");
        primary.line("CLIENT KILL TYPE replica").expect("a reply");
        primary.line(&format!("SET after:{n} v")).expect("a reply");
        until("the key arrives", || {
            replica.line(&format!("EXISTS after:{n}")).expect("a reply") == Value::Int(1)
        });
    }
    let stats = primary.line("INFO stats").expect("a reply").text();
    assert!(stats.contains("sync_full:1\r\n"), "{stats}");
    assert!(stats.contains("sync_partial_ok:3\r\n"), "{stats}");
    assert_equal(&mut primary, &mut replica);
}

#[test]
fn redis_cli_makes_a_copy() {
    let (ashlar, target) = (Server::ashlar(&[]), Server::redis(&UNPROTECTED));
    let mut from = ashlar.client();
    run(&mut from, &fill(&mut Random::new(7)));
    let library = b"#!lua name=mine\nredis.register_function('answer', function() return 42 end)";
    run(&mut from, &[vec![b"FUNCTION".to_vec(), b"LOAD".to_vec(), library.to_vec()]]);
    let file = ashlar.dir().join("copy.rdb");
    let port = ashlar.port().to_string();
    let status = Command::new("redis-cli").args(["-p", &port, "--rdb"]).arg(&file).output();
    let output = status.expect("redis-cli runs");
    assert!(output.status.success(), "{output:?}");
    let mut to = target.client();
    let dir = ashlar.dir().display().to_string();
    run(
        &mut to,
        &[words(&format!("CONFIG SET dir {dir}")), words("CONFIG SET dbfilename copy.rdb")],
    );
    run(&mut to, &[words("DEBUG RELOAD NOSAVE")]);
    assert_equal(&mut from, &mut to);
    assert_eq!(to.line("FCALL answer 0").expect("a reply"), Value::Int(42));
}

#[test]
fn files_are_imported_and_exported() {
    let redis = Server::redis(&crate::content::REDIS_THRESHOLDS);
    let (ashlar, back) = (Server::ashlar(&[]), Server::redis(&UNPROTECTED));
    let (mut from, mut to, mut back_client) = (redis.client(), ashlar.client(), back.client());
    run(&mut from, &fill(&mut Random::new(8)));
    run(&mut from, &[words("SELECT 2"), words("SET two 2"), words("SELECT 0"), words("SAVE")]);
    let tool = |what: &str, server: &Server, file: &std::path::Path, more: &[&str]| {
        let port = server.port().to_string();
        let mut command = Command::new(ashlar_binary());
        command.arg(what).arg(file).args(["--quiet", "--port", &port]).args(more);
        let output = command.output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let dump = redis.dir().join("dump.rdb");
    assert_eq!(tool("import", &ashlar, &dump, &[]), (true, String::new()));
    assert_equal(&mut from, &mut to);
    // Keys that are there stay, or are replaced.
    run(&mut to, &[words("SET string:1 changed")]);
    assert_eq!(tool("import", &ashlar, &dump, &[]), (true, String::new()));
    assert_eq!(to.line("GET string:1").expect("a reply").text(), "changed");
    assert_eq!(tool("import", &ashlar, &dump, &["--replace"]), (true, String::new()));
    assert_equal(&mut from, &mut to);
    let out = back.dir().join("out.rdb");
    assert_eq!(tool("export", &ashlar, &out, &[]), (true, String::new()));
    run(&mut back_client, &[words("CONFIG SET dbfilename out.rdb"), words("DEBUG RELOAD NOSAVE")]);
    assert_equal(&mut to, &mut back_client);
    // A damaged file says so, and a server that is not there too.
    let mut bytes = std::fs::read(&dump).expect("the file");
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    std::fs::write(&dump, &bytes).expect("the file");
    let (ok, message) = tool("import", &ashlar, &dump, &["--replace"]);
    assert!(!ok && message.contains("ends too early"), "{message}");
}

/// MIGRATE in both directions, while the client that waits holds up nobody else.
#[test]
fn keys_migrate_to_redis_and_back() {
    let (ashlar, redis) = (Server::ashlar(&[]), Server::redis(&["--requirepass", "pw"]));
    let (mut client, mut other) = (ashlar.client(), redis.client());
    run(&mut other, &[words("AUTH pw")]);
    run(&mut client, &fill(&mut Random::new(9)));
    // The time to live is sent, since clocks differ: it is a little longer there.
    let persist = (0..8).map(|n| words(&format!("PERSIST string:{n}")));
    run(&mut client, &persist.collect::<Vec<_>>());
    let before = crate::content::keys(&mut client);
    let port = redis.port();
    let reply = client.line(&format!("MIGRATE 127.0.0.1 {port} nokey 0 1000")).expect("a reply");
    assert_eq!(reply.text(), "NOKEY");
    let reply = client.line(&format!("MIGRATE 127.0.0.1 {port} string:1 0 1000")).expect("a reply");
    assert!(
        reply.text().starts_with("ERR Target instance replied with error: NOAUTH"),
        "{reply:?}"
    );
    let mut all = words(&format!("MIGRATE 127.0.0.1 {port} KEY 0 5000 AUTH pw KEYS"));
    all[3].clear();
    let copy = [all[..6].to_vec(), words("COPY"), all[6..].to_vec(), before.clone()].concat();
    assert_eq!(client.call(&copy).expect("a reply").text(), "OK");
    assert_equal(&mut client, &mut other);
    let again = client.call(&copy).expect("a reply").text();
    assert!(again.contains("BUSYKEY"), "{again}");
    let moved = [all[..6].to_vec(), words("REPLACE"), all[6..].to_vec(), before.clone()].concat();
    assert_eq!(client.call(&moved).expect("a reply").text(), "OK");
    assert_eq!(client.line("DBSIZE").expect("a reply"), Value::Int(0));
    assert_eq!(crate::content::keys(&mut other), before);
    // And back, by Redis's own MIGRATE.
    let port = ashlar.port();
    let mut back = words(&format!("MIGRATE 127.0.0.1 {port} KEY 0 5000 KEYS"));
    back[3].clear();
    back.extend(before.clone());
    assert_eq!(other.call(&back).expect("a reply").text(), "OK");
    assert_eq!(crate::content::keys(&mut client), before);
    // A target that never answers: others are served meanwhile.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("its address").port();
    client.send(&words(&format!("MIGRATE 127.0.0.1 {port} string:1 0 2000"))).expect("sent");
    let mut meanwhile = ashlar.client();
    let since = Instant::now();
    assert_eq!(meanwhile.line("EXISTS string:1").expect("a reply"), Value::Int(1));
    assert!(since.elapsed() < Duration::from_millis(1900));
    let reply = client.reply().expect("a reply").text();
    assert!(reply.starts_with("IOERR error or timeout"), "{reply}");
}
