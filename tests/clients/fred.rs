//! The `fred` crate: what programs do with it, in both protocols.

use ashlar_tests::process::Server;
use fred::prelude::*;
use fred::types::lists::LMoveDirection;
use fred::types::streams::XReadResponse;
use fred::types::{CustomCommand, ExpireOptions, RespVersion};
use std::collections::HashMap;
use std::time::Duration;

const LOCK_RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
/// Moves jobs that are due from a sorted set to a list; returns how many.
const DUE: &str =
    "local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 10)
    for _, job in ipairs(due) do
        redis.call('ZREM', KEYS[1], job)
        redis.call('RPUSH', KEYS[2], job)
    end
    return #due";
/// Whether one more call is allowed in this window.
const LIMIT: &str = "local count = redis.call('INCR', KEYS[1])
    if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
    return count <= tonumber(ARGV[1]) and 1 or 0";

async fn connect(server: &Server, version: RespVersion) -> Client {
    let address = format!("redis://127.0.0.1:{}", server.port());
    let mut config = Config::from_url(&address).expect("an address");
    config.version = version;
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("a connection");
    client
}

/// Runs a test in both protocols, each time on an empty server.
fn in_both_protocols<F>(test: impl Fn(Client, Client) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let server = Server::subject(&[]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for version in [RespVersion::RESP2, RespVersion::RESP3] {
        runtime.block_on(async {
            let client = connect(&server, version.clone()).await;
            let other = connect(&server, version).await;
            let () = client.flushall(false).await.expect("FLUSHALL");
            let work = test(client.clone(), other.clone());
            let done = tokio::time::timeout(Duration::from_secs(20), work).await;
            done.expect("it comes to its end").expect("no error");
            client.quit().await.expect("QUIT");
            other.quit().await.expect("QUIT");
        });
    }
}

#[test]
fn values_pipelines_and_transactions() {
    in_both_protocols(|client, _| async move {
        let () = client.set("k", "v", Some(Expiration::EX(100)), None, false).await?;
        assert_eq!(client.get::<String, _>("k").await?, "v");
        assert_eq!(client.get::<Option<String>, _>("missing").await?, None);
        assert!((1..=100).contains(&client.ttl::<i64, _>("k").await?));
        assert_eq!(client.incr_by::<i64, _>("n", 5).await?, 5);
        let () = client.hset("h", HashMap::from([("a", 1), ("b", 2)])).await?;
        let hash: HashMap<String, i64> = client.hgetall("h").await?;
        assert_eq!(hash, HashMap::from([("a".into(), 1), ("b".into(), 2)]));
        let wrong = client.lpush::<i64, _, _>("k", "x").await.expect_err("the wrong type");
        assert!(wrong.details().contains("WRONGTYPE"), "{wrong}");
        let pipeline = client.pipeline();
        for n in 0..500 {
            let () = pipeline.set(format!("key:{n}"), n, None, None, false).await?;
        }
        let replies: Vec<String> = pipeline.all().await?;
        assert_eq!(replies, vec!["OK"; 500]);
        let transaction = client.multi();
        let () = transaction.incr("key:7").await?;
        let () = transaction.get("key:7").await?;
        assert_eq!(transaction.exec::<(i64, i64)>(true).await?, (8, 8));
        let _: i64 = client.expire("key:7", 50, Some(ExpireOptions::NX)).await?;
        let unknown = CustomCommand::new_static("NOSUCH", None, false);
        let unknown = client.custom::<Value, Vec<String>>(unknown, vec![]).await;
        assert!(unknown.expect_err("no such command").details().contains("unknown command"));
        Ok(())
    });
}

#[test]
fn queues_with_retries_and_delays() {
    in_both_protocols(|client, worker| async move {
        // Delayed jobs come to the queue when they are due, in order, and once.
        for (due, job) in [(30.0, "late"), (10.0, "first"), (20.0, "second")] {
            let () = client.zadd("{jobs}:delayed", None, None, false, false, (due, job)).await?;
        }
        let keys = vec!["{jobs}:delayed", "{jobs}:queue"];
        assert_eq!(client.eval::<i64, _, _, _>(DUE, keys.clone(), vec![25]).await?, 2);
        assert_eq!(client.eval::<i64, _, _, _>(DUE, keys, vec![25]).await?, 0);
        // A job that fails goes back to the end of the queue until it has failed three times.
        let mut done = Vec::new();
        while done.len() < 2 {
            let job: String = worker
                .lmove("{jobs}:queue", "{jobs}:active", LMoveDirection::Left, LMoveDirection::Right)
                .await?;
            let tries: i64 = worker.hincrby("{jobs}:tries", &job, 1).await?;
            let _: i64 = worker.lrem("{jobs}:active", 1, &job).await?;
            match job == "first" && tries < 3 {
                true => worker.rpush::<(), _, _>("{jobs}:queue", &job).await?,
                false => done.push((job, tries)),
            }
        }
        assert_eq!(done, [("second".to_owned(), 1), ("first".to_owned(), 3)]);
        // A worker that waits gets what comes.
        let waiting =
            tokio::spawn(
                async move { worker.blpop::<(String, String), _>("{jobs}:queue", 10.0).await },
            );
        let () = client.rpush("{jobs}:queue", "woken").await?;
        let popped = waiting.await.expect("the task ended")?;
        assert_eq!(popped, ("{jobs}:queue".to_owned(), "woken".to_owned()));
        Ok(())
    });
}

#[test]
fn locks_and_rate_limits() {
    in_both_protocols(|one, other| async move {
        let lock = |client: Client, token: &'static str| async move {
            let expiry = Some(Expiration::PX(60_000));
            client
                .set::<Option<String>, _, _>("lock", token, expiry, Some(SetOptions::NX), false)
                .await
        };
        assert!(lock(one.clone(), "one").await?.is_some());
        assert!(lock(other.clone(), "other").await?.is_none());
        // Only its owner lets go of it.
        assert_eq!(other.eval::<i64, _, _, _>(LOCK_RELEASE, "lock", "other").await?, 0);
        assert_eq!(one.eval::<i64, _, _, _>(LOCK_RELEASE, "lock", "one").await?, 1);
        assert!(lock(other.clone(), "other").await?.is_some());
        let sha: String = one.script_load(LIMIT).await?;
        let mut allowed = 0;
        for nth in 0..10 {
            let client = if nth % 2 == 0 { &one } else { &other };
            allowed += client.evalsha::<i64, _, _, _>(&sha, "limit", vec![3, 60_000]).await?;
        }
        assert_eq!(allowed, 3);
        let missing = one.evalsha::<i64, _, _, _>("0".repeat(40), "limit", vec![1]).await;
        assert!(missing.expect_err("no script").details().contains("NOSCRIPT"));
        Ok(())
    });
}

#[test]
fn publish_and_subscribe() {
    in_both_protocols(|client, subscriber| async move {
        let mut messages = subscriber.message_rx();
        let () = subscriber.subscribe("news").await?;
        let () = subscriber.psubscribe("n*").await?;
        // fred does not wait for the confirmation.
        while client.publish::<i64, _, _>("news", "hello").await? < 2 {
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let message = messages.recv().await.expect("a message");
            assert_eq!(
                (&*message.channel, message.value.convert::<String>()?),
                ("news", "hello".into())
            );
        }
        let () = subscriber.unsubscribe("news").await?;
        let () = subscriber.punsubscribe("n*").await?;
        while client.publish::<i64, _, _>("news", "somebody yet").await? > 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    });
}

#[test]
fn streams_with_consumer_groups() {
    in_both_protocols(|client, worker| async move {
        let () = client.xgroup_create("log", "group", "$", true).await?;
        let mut ids: Vec<String> = Vec::new();
        for n in 0..5 {
            ids.push(client.xadd("log", false, None, "*", vec![("n", n)]).await?);
        }
        type Entries = XReadResponse<String, String, String, i64>;
        let read: Entries =
            worker.xreadgroup_map("group", "a", Some(3), None, false, "log", ">").await?;
        let seen: Vec<&String> = read["log"].iter().map(|(id, _)| id).collect();
        assert_eq!(seen, [&ids[0], &ids[1], &ids[2]]);
        assert_eq!(read["log"][1].1, HashMap::from([("n".to_owned(), 1)]));
        assert_eq!(worker.xack::<i64, _, _, _>("log", "group", vec![&ids[0], &ids[1]]).await?, 2);
        // What was not acknowledged goes to another consumer.
        type Claimed = (String, Vec<(String, HashMap<String, i64>)>);
        let (_, claimed): Claimed =
            client.xautoclaim_values("log", "group", "b", 0, "0", None, false).await?;
        assert_eq!(claimed, [(ids[2].clone(), HashMap::from([("n".to_owned(), 2)]))]);
        assert_eq!(client.xlen::<i64, _>("log").await?, 5);
        Ok(())
    });
}
