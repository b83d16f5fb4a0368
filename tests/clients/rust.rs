//! The `redis` crate.

use ashlar_tests::process::Server;
use redis::{Commands, Connection, ProtocolVersion, RedisResult, Value};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

fn connect(server: &Server, protocol: ProtocolVersion) -> Connection {
    let address = format!("redis://127.0.0.1:{}/", server.port());
    let info = redis::IntoConnectionInfo::into_connection_info(address).expect("an address");
    let settings = info.redis_settings().clone().set_protocol(protocol);
    let client = redis::Client::open(info.set_redis_settings(settings)).expect("a client");
    let connection = client.get_connection().expect("a connection");
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    connection
}

/// Runs a test in both protocols, each time on an empty server.
fn in_both_protocols(test: impl Fn(&Server, &mut Connection, ProtocolVersion) -> RedisResult<()>) {
    let server = Server::subject(&[]);
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        let mut connection = connect(&server, protocol);
        redis::cmd("FLUSHALL").exec(&mut connection).expect("FLUSHALL");
        test(&server, &mut connection, protocol).expect("no error");
    }
}

#[test]
fn ordinary_work() {
    in_both_protocols(|_, redis, _| {
        let () = redis.set("k", "v")?;
        assert_eq!(redis.get::<_, String>("k")?, "v");
        assert_eq!(redis.get::<_, Option<String>>("missing")?, None);
        let bytes: Vec<u8> = (0..=255).collect();
        let () = redis.set(&bytes, &bytes)?;
        assert_eq!(redis.get::<_, Vec<u8>>(&bytes)?, bytes);
        assert_eq!(redis.incr::<_, _, i64>("n", 5)?, 5);
        let () = redis.hset_multiple("h", &[("a", 1), ("b", 2)])?;
        let wanted = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(redis.hgetall::<_, HashMap<String, i64>>("h")?, wanted);
        let () = redis.sadd("s", &["x", "y"])?;
        let members: HashSet<String> = redis.smembers("s")?;
        assert_eq!(members.len(), 2);
        let () = redis.zadd("z", "a", 1.5)?;
        assert_eq!(redis.zscore::<_, _, f64>("z", "a")?, 1.5);
        let wrong = redis.lpush::<_, _, i64>("k", 1).expect_err("the wrong type");
        assert_eq!(wrong.code(), Some("WRONGTYPE"));
        let refused = redis::cmd("NOSUCH").query::<Value>(redis).expect_err("no such command");
        assert!(refused.to_string().contains("unknown command"), "{refused}");
        Ok(())
    });
}

#[test]
fn pipelines_scans_and_transactions() {
    in_both_protocols(|server, redis, protocol| {
        let mut pipe = redis::pipe();
        for n in 0..2_000 {
            pipe.set(format!("key:{n}"), n).ignore();
        }
        let () = pipe.query(redis)?;
        let keys: HashSet<String> = redis.scan_match("key:*")?.collect::<RedisResult<_>>()?;
        assert_eq!(keys.len(), 2_000);
        let (old, new): (i64, i64) =
            redis::pipe().atomic().get("key:7").incr("key:7", 1).query(redis)?;
        assert_eq!((old, new), (7, 8));
        let mut other = connect(server, protocol);
        let mut interfered = false;
        let (doubled,): (i64,) = redis::transaction(redis, &["key:7"], |redis, pipe| {
            let value: i64 = redis.get("key:7")?;
            if !std::mem::replace(&mut interfered, true) {
                let () = other.set("key:7", 100)?;
            }
            pipe.set("key:7", value * 2).ignore().get("key:7").query(redis)
        })?;
        assert_eq!(doubled, 200);
        Ok(())
    });
}

#[test]
fn publish_subscribe_and_blocking() {
    in_both_protocols(|server, redis, protocol| {
        let mut listening = connect(server, ProtocolVersion::RESP2);
        let mut pubsub = listening.as_pubsub();
        pubsub.subscribe("news")?;
        pubsub.psubscribe("n*")?;
        assert_eq!(redis.publish::<_, _, i64>("news", "hello")?, 2);
        for pattern in [false, true] {
            let message = pubsub.get_message()?;
            assert_eq!(message.get_payload::<String>()?, "hello");
            assert_eq!(message.from_pattern(), pattern);
        }
        let mut waiting = connect(server, protocol);
        let popped =
            std::thread::spawn(move || waiting.blpop::<_, (String, String)>("queue", 10.0));
        let () = redis.rpush("queue", "x")?;
        let popped = popped.join().expect("the thread ended")?;
        assert_eq!(popped, ("queue".to_owned(), "x".to_owned()));
        Ok(())
    });
}

#[test]
fn client_side_caching() {
    use redis::caching::CacheConfig;
    let server = Server::subject(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let address = format!("redis://127.0.0.1:{}/?protocol=resp3", server.port());
        let client = redis::Client::open(address).expect("a client");
        let config = redis::AsyncConnectionConfig::new().set_cache_config(CacheConfig::new());
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut cached = connected.expect("a connection");
        let mut other = connect(&server, ProtocolVersion::RESP2);
        let () = other.set("k", 1).expect("set");
        for _ in 0..10 {
            let value: i64 =
                redis::cmd("GET").arg("k").query_async(&mut cached).await.expect("a value");
            assert_eq!(value, 1);
        }
        let statistics = cached.get_cache_statistics().expect("statistics");
        assert_eq!((statistics.hit, statistics.miss), (9, 1));
        let () = other.set("k", 2).expect("set");
        let since = std::time::Instant::now();
        loop {
            let value: i64 =
                redis::cmd("GET").arg("k").query_async(&mut cached).await.expect("a value");
            if value == 2 {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "the change does not arrive");
            // The connection's own task has to get its turn.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let () = redis::cmd("FLUSHALL").query_async(&mut cached).await.expect("flushed");
        while redis::cmd("GET").arg("k").query_async::<Option<i64>>(&mut cached).await != Ok(None) {
            assert!(since.elapsed() < Duration::from_secs(20), "the flush does not arrive");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
