//! Client-side caching: what is pushed to whom, and when.

use crate::{ask, ok};
use ashlar_tests::process::Server;
use ashlar_tests::random::{Random, seeds};
use ashlar_tests::resp::{Client, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn invalidate(keys: &[&str]) -> Value {
    let keys = Value::Array(keys.iter().map(Value::bulk).collect());
    Value::Push(vec![Value::bulk("invalidate"), keys])
}

fn everything() -> Value {
    Value::Push(vec![Value::bulk("invalidate"), Value::Null])
}

/// The pushes that came before the reply of a PING that is sent now. What was caused before it on
/// another connection has been posted by then.
fn pushes(client: &mut Client) -> Vec<Value> {
    ask(client, "PING");
    client.pushes.drain(..).collect()
}

/// A server, a client that tracks in this way, and one that does not.
fn tracking(how: &str) -> (Server, Client, Client) {
    let server = Server::subject(&[]);
    let mut reader = server.client_of(3);
    ok(&mut reader, how);
    let writer = server.client();
    (server, reader, writer)
}

#[test]
fn what_was_read_is_reported_once() {
    let (_server, mut reader, mut writer) = tracking("CLIENT TRACKING ON");
    ask(&mut writer, "MSET a 1 b 2 c 3");
    assert_eq!(pushes(&mut reader), []);
    ask(&mut reader, "GET a");
    ask(&mut reader, "MGET b none");
    ask(&mut writer, "SET c 4");
    ask(&mut writer, "INCR a");
    ask(&mut writer, "INCR a");
    ask(&mut writer, "SET none x");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"]), invalidate(&["none"])]);
    // Every way to change a key counts, whatever its type.
    for (setup, read, write) in [
        ("SET k v", "GET k", "DEL k"),
        ("SET k v", "STRLEN k", "APPEND k x"),
        ("RPUSH k a b", "LRANGE k 0 -1", "LPOP k"),
        ("HSET k f v", "HGETALL k", "HINCRBY k n 1"),
        ("SADD k a", "SMEMBERS k", "SPOP k"),
        ("ZADD k 1 a", "ZSCORE k a", "ZADD k 2 a"),
        ("XADD k 1-1 f v", "XRANGE k - +", "XADD k 2-1 f v"),
        ("SET k v", "TTL k", "EXPIRE k 100"),
        ("SET k v", "GET k", "RENAME k other"),
        ("SET k v", "GET k", "COPY a k REPLACE"),
        ("RPUSH k b a", "LRANGE k 0 -1", "SORT k ALPHA STORE k"),
    ] {
        ask(&mut writer, "DEL k");
        ask(&mut writer, setup);
        pushes(&mut reader);
        ask(&mut reader, read);
        ask(&mut writer, write);
        assert_eq!(pushes(&mut reader), [invalidate(&["k"])], "{read}, then {write}");
    }
}

#[test]
fn transactions_and_own_writes() {
    let (_server, mut reader, mut writer) = tracking("CLIENT TRACKING ON");
    ask(&mut reader, "GET a");
    ask(&mut reader, "SET a 1");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"])], "one's own change");
    for line in ["MULTI", "GET a", "GET b", "EXEC"] {
        ask(&mut reader, line);
    }
    for line in ["MULTI", "SET b 1", "SET a 2", "EXEC"] {
        ask(&mut writer, line);
    }
    assert_eq!(pushes(&mut reader), [invalidate(&["b"]), invalidate(&["a"])]);
    // The reply that brings a value is there before it is declared invalid.
    let commands = ["GET a", "SET a 3"].map(ashlar_tests::resp::words);
    reader.pipeline(&commands).expect("replies");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"])]);
    ok(&mut reader, "CLIENT TRACKING ON NOLOOP");
    ask(&mut reader, "GET a");
    ask(&mut reader, "SET a 4");
    assert_eq!(pushes(&mut reader), [], "NOLOOP");
    ask(&mut reader, "GET a");
    ask(&mut writer, "SET a 5");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"])]);
}

#[test]
fn expiry_eviction_and_flushes() {
    let (_server, mut reader, mut writer) = tracking("CLIENT TRACKING ON NOLOOP");
    ask(&mut writer, "SET a 1 PX 20");
    ask(&mut reader, "GET a");
    // Nobody asks for it: active expiry reports it.
    assert_eq!(reader.push().expect("a push"), invalidate(&["a"]));
    ask(&mut reader, "GET b");
    ask(&mut writer, "SELECT 3");
    ok(&mut writer, "FLUSHDB");
    assert_eq!(pushes(&mut reader), [everything()]);
    ok(&mut writer, "FLUSHALL");
    assert_eq!(pushes(&mut reader), [everything()]);
    ask(&mut writer, "SET b 1");
    assert_eq!(pushes(&mut reader), [], "what was flushed is not tracked any more");
    ask(&mut writer, "SELECT 0");
    ask(&mut writer, "SET old 1");
    ask(&mut reader, "GET old");
    ok(&mut writer, "CONFIG SET maxmemory-policy allkeys-random");
    ok(&mut writer, "CONFIG SET maxmemory 1");
    ask(&mut writer, "SET new 1");
    assert_eq!(reader.push().expect("a push"), invalidate(&["old"]));
}

#[test]
fn opt_in_and_opt_out() {
    let (_server, mut reader, mut writer) = tracking("CLIENT TRACKING ON OPTIN");
    ask(&mut reader, "GET a");
    ok(&mut reader, "CLIENT CACHING YES");
    ask(&mut reader, "GET b");
    ask(&mut reader, "GET c");
    ask(&mut writer, "MSET a 1 b 1 c 1");
    assert_eq!(pushes(&mut reader), [invalidate(&["b"])]);
    ok(&mut reader, "CLIENT CACHING YES");
    for line in ["MULTI", "GET a", "GET b", "EXEC", "GET c"] {
        ask(&mut reader, line);
    }
    ask(&mut writer, "MSET a 1 b 1 c 1");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"]), invalidate(&["b"])]);
    ok(&mut reader, "CLIENT TRACKING OFF");
    ok(&mut reader, "CLIENT TRACKING ON OPTOUT");
    ok(&mut reader, "CLIENT CACHING NO");
    ask(&mut reader, "GET a");
    ask(&mut reader, "GET b");
    ask(&mut writer, "MSET a 1 b 1 c 1");
    assert_eq!(pushes(&mut reader), [invalidate(&["b"])]);
    ask(&mut reader, "GET a");
    ok(&mut reader, "CLIENT TRACKING OFF");
    ask(&mut writer, "SET a 2");
    assert_eq!(pushes(&mut reader), [], "tracking is off");
}

#[test]
fn broadcasts_by_prefix() {
    let (_server, mut reader, mut writer) =
        tracking("CLIENT TRACKING ON BCAST PREFIX user: PREFIX item:");
    for line in ["SET user:1 x", "SET other x", "SET item:1 x", "SET user: x", "GET user:1"] {
        ask(&mut writer, line);
    }
    assert_eq!(
        pushes(&mut reader),
        [invalidate(&["user:1"]), invalidate(&["item:1"]), invalidate(&["user:"])]
    );
    ask(&mut reader, "SET user:2 x");
    // Redis sends broadcasts before it waits for the next request, so only a later reply is sure to
    // come after it.
    pushes(&mut reader);
    ok(&mut reader, "CLIENT TRACKING ON BCAST NOLOOP PREFIX more:");
    ask(&mut reader, "SET more:1 x");
    ask(&mut writer, "SET more:2 x");
    assert_eq!(pushes(&mut reader), [invalidate(&["more:2"])]);
    ok(&mut reader, "CLIENT TRACKING OFF");
    ok(&mut reader, "CLIENT TRACKING ON BCAST");
    ask(&mut writer, "SET anything x");
    assert_eq!(pushes(&mut reader), [invalidate(&["anything"])]);
}

#[test]
fn another_connection_is_told() {
    let server = Server::subject(&[]);
    let (mut data, mut listener, mut writer) = (server.client(), server.client(), server.client());
    let Value::Int(id) = ask(&mut listener, "CLIENT ID") else { panic!("an id") };
    ask(&mut listener, "SUBSCRIBE __redis__:invalidate");
    ok(&mut data, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    assert_eq!(ask(&mut data, "CLIENT GETREDIR"), Value::Int(id));
    ask(&mut data, "GET a");
    ask(&mut writer, "SET a 1");
    let message = |what: Value| {
        Value::Array(vec![Value::bulk("message"), Value::bulk("__redis__:invalidate"), what])
    };
    let told = listener.value().expect("a message");
    assert_eq!(told, message(Value::Array(vec![Value::bulk("a")])));
    ok(&mut writer, "FLUSHALL");
    assert_eq!(listener.value().expect("a message"), message(Value::Null));
    // RESP3 on the other connection gets pushes, without a subscription.
    let mut listener = server.client_of(3);
    let Value::Int(id) = ask(&mut listener, "CLIENT ID") else { panic!("an id") };
    let mut data = server.client_of(3);
    ok(&mut data, &format!("CLIENT TRACKING ON REDIRECT {id}"));
    ask(&mut data, "GET a");
    ask(&mut writer, "SET a 1");
    assert_eq!(listener.push().expect("a push"), invalidate(&["a"]));
    // Once it is gone, the reader is warned.
    ask(&mut data, "GET a");
    assert_eq!(ask(&mut writer, &format!("CLIENT KILL ID {id}")), Value::Int(1));
    assert!(listener.value().is_err(), "the listener is closed");
    ask(&mut writer, "SET a 2");
    let broken = vec![Value::bulk("tracking-redir-broken"), Value::Int(id)];
    assert_eq!(data.push().expect("a push"), Value::Push(broken));
    let info = format!("{:?}", ask(&mut data, "CLIENT TRACKINGINFO"));
    assert!(info.contains(&format!("{:?}", Value::bulk("broken_redirect"))), "{info}");
}

#[test]
fn blocked_reads_and_other_databases() {
    let (server, mut reader, mut writer) = tracking("CLIENT TRACKING ON");
    ask(&mut writer, "SELECT 5");
    ask(&mut reader, "GET a");
    ask(&mut writer, "SET a 1");
    assert_eq!(pushes(&mut reader), [invalidate(&["a"])], "keys are tracked by name alone");
    ask(&mut reader, "GET a");
    drop(reader);
    ask(&mut writer, "SET a 2");
    assert_eq!(ask(&mut server.client(), "PING").text(), "PONG");
}

#[test]
fn the_table_is_bounded() {
    let server = Server::subject(&["--tracking-table-max-keys", "10"]);
    let mut reader = server.client_of(3);
    ok(&mut reader, "CLIENT TRACKING ON");
    for n in 0..100 {
        ask(&mut reader, &format!("GET key{n}"));
    }
    let told = pushes(&mut reader).len();
    assert!(told >= 85, "{told} keys were given up");
    let info = ask(&mut server.client(), "INFO stats").text();
    let keys = info.lines().find_map(|line| line.strip_prefix("tracking_total_keys:"));
    let keys: usize = keys.expect("the field").parse().expect("a number");
    assert!(keys <= 15, "{keys}");
}

/// The promise of client-side caching, with writers on other connections and on another worker:
/// whatever a reader still holds once all has been said is what the server holds.
#[test]
fn a_cache_that_listens_ends_up_current() {
    const KEYS: usize = 20;
    for seed in seeds(&[1]) {
        let server = Server::ashlar(&["--io-threads", "2"]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let mut client = server.client();
                let mut random = Random::new(seed + writer);
                let stop = &stop;
                scope.spawn(move || {
                    for n in 0..4_000 {
                        let key = random.below(KEYS);
                        let line = match random.below(6) {
                            0 => format!("DEL key{key}"),
                            1 => format!("MSET key{key} {n} key{} {n}", random.below(KEYS)),
                            _ => format!("SET key{key} {writer}:{n}"),
                        };
                        ask(&mut client, &line);
                    }
                    stop.store(true, Ordering::Release);
                });
            }
            let mut reader = server.client_of(3);
            ok(&mut reader, "CLIENT TRACKING ON");
            let mut cache: HashMap<String, Value> = HashMap::new();
            let mut random = Random::new(seed + 9);
            let mut hits = 0;
            while !stop.load(Ordering::Acquire) {
                let key = format!("key{}", random.below(KEYS));
                if cache.contains_key(&key) {
                    hits += 1;
                    drop_invalid(&mut cache, pushes(&mut reader));
                } else {
                    reader.send(&["GET", key.as_str()]).expect("sent");
                    // In the order in which they come: what is pushed before the reply is older.
                    let value = loop {
                        match reader.value().expect("a value") {
                            push @ Value::Push(_) => drop_invalid(&mut cache, vec![push]),
                            value => break value,
                        }
                    };
                    cache.insert(key, value);
                }
            }
            assert!(hits > 0);
            // Twice: a message may be on its way while the first reply is made.
            drop_invalid(&mut cache, pushes(&mut reader));
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop_invalid(&mut cache, pushes(&mut reader));
            let mut plain = server.client();
            for (key, value) in &cache {
                assert_eq!(ask(&mut plain, &format!("GET {key}")), *value, "seed {seed}: {key}");
            }
        });
    }
}

/// What a primary sends changes keys as any client does, and who has read them is told: after a
/// write, an expiry, a removal of everything, and a copy that replaces all there is.
#[test]
fn writes_that_come_from_a_primary() {
    let (primary, server) = (Server::redis(&[]), Server::ashlar(&[]));
    let mut writer = primary.client();
    ask(&mut writer, "MSET a 1 b 2 c 3");
    let mut reader = server.client_of(3);
    ask(&mut reader, "SET old here");
    ok(&mut reader, "CLIENT TRACKING ON");
    ask(&mut reader, "GET old");
    let mut other = server.client();
    ok(&mut other, &format!("REPLICAOF 127.0.0.1 {}", primary.port()));
    // The copy begins with the end of everything that was there.
    assert_eq!(reader.push().expect("a push"), everything());
    let since = std::time::Instant::now();
    while ask(&mut other, "GET c").text() != "3" {
        assert!(since.elapsed().as_secs() < 20, "the copy does not come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    reader.pushes.clear();
    for key in ["a", "b", "c"] {
        ask(&mut reader, &format!("GET {key}"));
    }
    ask(&mut writer, "SET a 2");
    assert_eq!(reader.push().expect("a push"), invalidate(&["a"]));
    ask(&mut writer, "MULTI");
    ask(&mut writer, "PEXPIRE b 1");
    ask(&mut writer, "EXEC");
    assert_eq!(reader.push().expect("a push"), invalidate(&["b"]));
    ask(&mut reader, "GET a");
    let script = ["EVAL", "return redis.call('INCR', KEYS[1])", "1", "a"];
    assert_eq!(writer.call(&script).expect("a reply"), Value::Int(3));
    assert_eq!(reader.push().expect("a push"), invalidate(&["a"]));
    ask(&mut reader, "GET c");
    ask(&mut writer, "FLUSHALL");
    assert_eq!(reader.push().expect("a push"), everything());
}

fn drop_invalid(cache: &mut HashMap<String, Value>, pushes: Vec<Value>) {
    for push in pushes {
        let Value::Push(parts) = push else { continue };
        match parts.get(1) {
            Some(Value::Array(keys)) => keys.iter().for_each(|key| drop(cache.remove(&key.text()))),
            _ => cache.clear(),
        }
    }
}
