// node-redis against the server on the port of the first argument, in RESP2 and RESP3.

import assert from "node:assert/strict";
import { createClient } from "redis";
import { run } from "./harness.mjs";

const port = Number(process.argv[2]);

async function connect(RESP) {
  // The library gives the replies of some commands in RESP3 only as they come, and only so.
  const client = createClient({ socket: { port, reconnectStrategy: false }, RESP, unstableResp3: true });
  client.on("error", () => {});
  await client.connect();
  return client;
}

const tests = {
  async ordinaryWork(client) {
    assert.equal(await client.set("k", "v", { expiration: { type: "EX", value: 100 } }), "OK");
    assert.equal(await client.get("k"), "v");
    assert.equal(await client.get("missing"), null);
    assert.equal(await client.incrBy("n", 5), 5);
    await client.hSet("h", { a: "1", b: "2" });
    assert.deepEqual({ ...(await client.hGetAll("h")) }, { a: "1", b: "2" });
    await client.zAdd("z", [
      { score: 1, value: "a" },
      { score: 2.5, value: "b" },
    ]);
    assert.deepEqual(await client.zRangeWithScores("z", 0, -1), [
      { value: "a", score: 1 },
      { value: "b", score: 2.5 },
    ]);
    await client.sAdd("s", ["x", "y"]);
    assert.deepEqual([...(await client.sMembers("s"))].sort(), ["x", "y"]);
    await assert.rejects(client.lPush("k", "x"), /WRONGTYPE/);
  },

  async manyAtOnce(client) {
    const replies = await Promise.all(
      Array.from({ length: 5000 }, (_, i) => client.set(`key:${i}`, String(i))),
    );
    assert.ok(replies.every((reply) => reply === "OK"));
    const found = new Set();
    for await (const keys of client.scanIterator({ MATCH: "key:*", COUNT: 100 })) {
      [keys].flat().forEach((key) => found.add(key));
    }
    assert.equal(found.size, 5000);
  },

  async transactions(client) {
    assert.deepEqual(await client.multi().set("a", "1").incr("a").get("a").exec(), ["OK", 2, "2"]);
    await client.watch("a");
    const other = await connect(2);
    await other.set("a", "changed");
    await assert.rejects(client.multi().set("a", "mine").exec(), /One \(or more\) of the watched keys/);
    other.destroy();
  },

  async publishAndSubscribe(client, RESP) {
    const subscriber = await connect(RESP);
    let tell;
    const heard = new Promise((resolve) => (tell = resolve));
    await subscriber.subscribe("news", (message, channel) => tell([channel, message]));
    assert.equal(await client.publish("news", "hello"), 1);
    assert.deepEqual(await heard, ["news", "hello"]);
    await subscriber.unsubscribe("news");
    assert.equal(String(await subscriber.ping()), "PONG");
    subscriber.destroy();
  },

  async blocking(client, RESP) {
    const waiting = await connect(RESP);
    assert.equal(await waiting.blPop("queue", 0.05), null);
    const popped = waiting.blPop("queue", 10);
    await client.rPush("queue", "x");
    assert.deepEqual({ ...(await popped) }, { key: "queue", element: "x" });
    waiting.destroy();
  },

  async streams(client) {
    const id = await client.xAdd("stream", "*", { a: "1" });
    await client.xGroupCreate("stream", "g", "0");
    const [entry] = (await client.xRange("stream", "-", "+")).map(({ id, message }) => [id, { ...message }]);
    assert.deepEqual(entry, [id, { a: "1" }]);
    assert.equal(await client.xAck("stream", "g", id), 0);
  },

  async groupReads(client, RESP) {
    const blocked = await connect(RESP);
    await client.xGroupCreate("jobs", "workers", "$", { MKSTREAM: true });
    await assert.rejects(client.xGroupCreate("jobs", "workers", "$"), /BUSYGROUP/);
    const read = (reader, consumer, id, options) =>
      reader.xReadGroup("workers", consumer, { key: "jobs", id }, options);
    // In RESP3 a map of streams with their entries as they come; in RESP2 what the library makes of it.
    const contents = (streams) =>
      RESP === 3
        ? streams.jobs.map(([id, [field, value]]) => [id, { [field]: value }])
        : streams.flatMap(({ messages }) => messages.map(({ id, message }) => [id, { ...message }]));
    assert.equal(await read(client, "one", ">"), null);
    const waits = read(blocked, "one", ">", { COUNT: 2, BLOCK: 10_000 });
    const ids = [];
    for (const n of ["1", "2", "3"]) ids.push(await client.xAdd("jobs", "*", { n }));
    const first = contents(await waits);
    assert.deepEqual(first[0], [ids[0], { n: "1" }]);
    const rest = contents(await read(client, "two", ">", { COUNT: 10 }));
    assert.deepEqual([...first, ...rest].map(([id]) => id), ids);
    const summary = await client.xPending("jobs", "workers");
    assert.deepEqual([summary.pending, summary.firstId, summary.lastId], [3, ids[0], ids[2]]);
    assert.equal(await client.xAck("jobs", "workers", ids[1]), 1);
    const taken = await client.xAutoClaim("jobs", "workers", "three", 0, "0");
    assert.deepEqual([taken.nextId, taken.messages.map(({ id }) => id)], ["0-0", [ids[0], ids[2]]]);
    const pending = await client.xPendingRange("jobs", "workers", "-", "+", 10);
    assert.deepEqual(pending.map(({ id, consumer, deliveriesCounter }) => [id, consumer, deliveriesCounter]), [
      [ids[0], "three", 2],
      [ids[2], "three", 2],
    ]);
    const again = await client.xClaim("jobs", "workers", "four", 0, ids[2]);
    assert.deepEqual(again.map(({ id, message }) => [id, { ...message }]), [[ids[2], { n: "3" }]]);
    assert.deepEqual(contents(await read(client, "three", "0")), [[ids[0], { n: "1" }]]);
    assert.equal(await client.xAck("jobs", "workers", ids), 2);
    const [info] = await client.xInfoGroups("jobs");
    assert.deepEqual([info.name, info.consumers, info.pending], ["workers", 4, 0]);
    assert.equal(await client.xGroupDestroy("jobs", "workers"), 1);
    await assert.rejects(read(client, "one", ">"), /NOGROUP/);
    blocked.destroy();
  },
};

const named = {};
for (const RESP of [2, 3]) {
  for (const [name, test] of Object.entries(tests)) {
    named[`${name}, RESP${RESP}`] = async () => {
      const client = await connect(RESP);
      await client.flushAll();
      await test(client, RESP);
      client.destroy();
    };
  }
}
await run(named);
