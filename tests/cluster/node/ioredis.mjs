// ioredis's cluster client: ordinary work, and the same while nodes go.
//
//   node ioredis.mjs STOP_FILE PORT...
//
// The libraries are those of tests/clients/node.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../clients/node/package.json", import.meta.url));
const Redis = require("ioredis");

const [stop, ...ports] = process.argv.slice(2);
const cluster = new Redis.Cluster(
  ports.map((port) => ({ host: "127.0.0.1", port: Number(port) })),
  {
    retryDelayOnFailover: 50,
    retryDelayOnClusterDown: 50,
    retryDelayOnTryAgain: 50,
    clusterRetryStrategy: () => 50,
    maxRedirections: 200,
    redisOptions: { connectTimeout: 5000, maxRetriesPerRequest: 100 },
  },
);
// Nodes that go are told here; the commands that fail are what counts.
cluster.on("error", () => {});
cluster.on("node error", () => {});

for (let i = 0; i < 200; i++) assert.equal(await cluster.set(`key:${i}`, i), "OK");
for (let i = 0; i < 200; i++) assert.equal(await cluster.get(`key:${i}`), String(i));
assert.equal(await cluster.mset("{tag}a", 1, "{tag}b", 2), "OK");
assert.deepEqual(await cluster.mget("{tag}a", "{tag}b"), ["1", "2"]);
const replies = await cluster.multi().incr("{tag}n").incr("{tag}n").exec();
assert.deepEqual(replies, [[null, 1], [null, 2]]);
assert.equal(await cluster.eval("return redis.call('incr', KEYS[1])", 1, "scripted"), 1);
assert.ok(cluster.nodes("master").length >= 1);
console.log("ready");

const acknowledged = new Map();
let count = 0;
while (!existsSync(stop)) {
  const key = `w:${count % 500}`;
  await cluster.set(key, count);
  acknowledged.set(key, String(count));
  count += 1;
}
for (const [key, value] of acknowledged) assert.equal(await cluster.get(key), value);
console.log(`${count} writes`);
process.exit(0);
