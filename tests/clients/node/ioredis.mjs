// ioredis against the server on the port of the first argument.

import assert from "node:assert/strict";
import Redis from "ioredis";
import { run } from "./harness.mjs";

const port = Number(process.argv[2]);
const connect = (options = {}) => new Redis({ port, maxRetriesPerRequest: 1, ...options });

await run({
  async ordinaryWork() {
    const redis = connect();
    await redis.flushall();
    assert.equal(await redis.set("k", "v", "EX", 100), "OK");
    assert.equal(await redis.get("k"), "v");
    assert.equal(await redis.get("missing"), null);
    assert.equal(await redis.incr("n"), 1);
    await redis.hset("h", { a: 1, b: 2 });
    assert.deepEqual(await redis.hgetall("h"), { a: "1", b: "2" });
    await redis.zadd("z", 1, "a", 2.5, "b");
    assert.deepEqual(await redis.zrange("z", 0, -1, "WITHSCORES"), ["a", "1", "b", "2.5"]);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await redis.set(bytes, bytes);
    assert.deepEqual(await redis.getBuffer(bytes), bytes);
    await assert.rejects(redis.lpush("k", "x"), /WRONGTYPE/);
    redis.disconnect();
  },

  async pipelinesAndTransactions() {
    const redis = connect();
    await redis.flushall();
    const pipeline = redis.pipeline();
    for (let i = 0; i < 5000; i++) pipeline.set(`key:${i}`, i);
    const replies = await pipeline.exec();
    assert.ok(replies.every(([error, reply]) => error === null && reply === "OK"));
    const [[, set], [error], [, got]] = await redis
      .multi()
      .set("a", 1)
      .lpush("a", 2)
      .get("a")
      .exec();
    assert.equal(set, "OK");
    assert.match(error.message, /WRONGTYPE/);
    assert.equal(got, "1");
    await redis.watch("a");
    const other = connect();
    await other.set("a", "changed");
    assert.equal(await redis.multi().set("a", "mine").exec(), null);
    other.disconnect();
    redis.disconnect();
  },

  async scanStream() {
    const redis = connect();
    const found = new Set();
    for await (const keys of redis.scanStream({ match: "key:*", count: 100 })) {
      keys.forEach((key) => found.add(key));
    }
    assert.equal(found.size, 5000);
    redis.disconnect();
  },

  async publishAndSubscribe() {
    const [subscriber, redis] = [connect(), connect()];
    const heard = new Promise((resolve) => {
      const messages = [];
      const add = (...message) => {
        messages.push(message);
        if (messages.length === 2) resolve(messages);
      };
      subscriber.on("message", add);
      subscriber.on("pmessage", add);
    });
    assert.equal(await subscriber.subscribe("news"), 1);
    assert.equal(await subscriber.psubscribe("n*"), 2);
    assert.equal(await redis.publish("news", "hello"), 2);
    assert.deepEqual(await heard, [
      ["news", "hello"],
      ["n*", "news", "hello"],
    ]);
    await subscriber.unsubscribe("news");
    await subscriber.punsubscribe("n*");
    assert.equal(await subscriber.ping(), "PONG");
    subscriber.disconnect();
    redis.disconnect();
  },

  async blocking() {
    const [waiting, redis] = [connect(), connect()];
    assert.equal(await waiting.blpop("queue", 0.05), null);
    const popped = waiting.blpop("queue", 10);
    await redis.rpush("queue", "x");
    assert.deepEqual(await popped, ["queue", "x"]);
    const read = waiting.xread("BLOCK", 10000, "STREAMS", "stream", "$");
    await new Promise((resolve) => setTimeout(resolve, 100));
    await redis.xadd("stream", "*", "a", "1");
    assert.deepEqual((await read)[0][1][0][1], ["a", "1"]);
    waiting.disconnect();
    redis.disconnect();
  },

  async consumerGroups() {
    const [redis, blocked] = [connect(), connect()];
    await redis.flushall();
    await redis.xgroup("CREATE", "jobs", "workers", "$", "MKSTREAM");
    await assert.rejects(redis.xgroup("CREATE", "jobs", "workers", "$"), /BUSYGROUP/);
    const group = (consumer, ...options) => ["GROUP", "workers", consumer, ...options, "STREAMS", "jobs"];
    assert.equal(await redis.xreadgroup(...group("one"), ">"), null);
    const waits = blocked.xreadgroup(...group("one", "COUNT", 2, "BLOCK", 10_000), ">");
    const ids = [];
    for (const n of [1, 2, 3]) ids.push(await redis.xadd("jobs", "*", "n", n));
    const [[name, first]] = await waits;
    assert.deepEqual([name, first[0]], ["jobs", [ids[0], ["n", "1"]]]);
    // What is left goes to another consumer, each entry to one of them.
    const [[, rest]] = await redis.xreadgroup(...group("two", "COUNT", 10), ">");
    assert.deepEqual([...first, ...rest].map(([id]) => id), ids);
    assert.equal(await redis.xreadgroup(...group("two"), ">"), null);
    const [pending, lowest, highest, consumers] = await redis.xpending("jobs", "workers");
    assert.deepEqual([pending, lowest, highest], [3, ids[0], ids[2]]);
    assert.deepEqual(consumers, [["one", String(first.length)], ["two", String(rest.length)]]);
    assert.equal(await redis.xack("jobs", "workers", ids[1]), 1);
    // One dies: another takes over what it had.
    const [next, claimed] = await redis.xautoclaim("jobs", "workers", "three", 0, "0");
    assert.deepEqual([next, claimed.map(([id]) => id)], ["0-0", [ids[0], ids[2]]]);
    const details = await redis.xpending("jobs", "workers", "-", "+", 10);
    assert.deepEqual(details.map(([id, consumer, , times]) => [id, consumer, times]), [
      [ids[0], "three", 2],
      [ids[2], "three", 2],
    ]);
    const again = await redis.xclaim("jobs", "workers", "four", 0, ids[2], "JUSTID");
    assert.deepEqual(again, [ids[2]]);
    const own = await redis.xreadgroup(...group("three"), "0");
    assert.deepEqual(own, [["jobs", [[ids[0], ["n", "1"]]]]]);
    assert.equal(await redis.xack("jobs", "workers", ...ids), 2);
    const groups = await redis.xinfo("GROUPS", "jobs");
    assert.deepEqual(groups[0].slice(0, 6), ["name", "workers", "consumers", 4, "pending", 0]);
    assert.equal(await redis.xgroup("DELCONSUMER", "jobs", "workers", "four"), 0);
    assert.equal(await redis.xgroup("DESTROY", "jobs", "workers"), 1);
    await assert.rejects(redis.xreadgroup(...group("one"), ">"), /NOGROUP/);
    blocked.disconnect();
    redis.disconnect();
  },

  async selectsAndNames() {
    const redis = connect({ db: 5, connectionName: "named", autoPipeliningIgnoredCommands: [] });
    await redis.set("in5", 1);
    assert.match(await redis.client("LIST"), /name=named .*db=5/);
    const [first, second] = await Promise.all([redis.get("in5"), redis.exists("in5")]);
    assert.deepEqual([first, second], ["1", 1]);
    redis.disconnect();
  },
});
