// BullMQ against the server on the port of the first argument: its queues are Lua scripts.

import assert from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import { run } from "./harness.mjs";

const connection = { host: "127.0.0.1", port: Number(process.argv[2]), maxRetriesPerRequest: null };

/** Resolves with the arguments of the event's `count`-th occurrence and those before. */
function heard(emitter, event, count) {
  return new Promise((resolve) => {
    const all = [];
    emitter.on(event, (...args) => {
      all.push(args);
      if (all.length === count) resolve(all);
    });
  });
}

await run({
  async jobsAreDoneInOrderAndReported() {
    const queue = new Queue("plain", { connection });
    const events = new QueueEvents("plain", { connection });
    await events.waitUntilReady();
    await queue.addBulk([1, 2, 3, 4, 5].map((n) => ({ name: "square", data: { n } })));
    const order = [];
    const worker = new Worker(
      "plain",
      async (job) => {
        order.push(job.data.n);
        await job.updateProgress(50);
        return job.data.n ** 2;
      },
      { connection },
    );
    const done = await heard(worker, "completed", 5);
    assert.deepEqual(order, [1, 2, 3, 4, 5]);
    assert.deepEqual(
      done.map(([, result]) => result),
      [1, 4, 9, 16, 25],
    );
    const job = await queue.add("square", { n: 6 });
    assert.equal(await job.waitUntilFinished(events), 36);
    assert.equal((await queue.getJobCounts()).completed, 6);
    await Promise.all([worker.close(), events.close()]);
    await queue.obliterate({ force: true });
    await queue.close();
  },

  async failedJobsAreTriedAgainAfterADelay() {
    const queue = new Queue("retries", { connection });
    let tries = 0;
    const worker = new Worker(
      "retries",
      async () => {
        tries += 1;
        if (tries < 3) throw new Error(`try ${tries} fails`);
        return "done";
      },
      { connection },
    );
    const done = heard(worker, "completed", 1);
    await queue.add("job", {}, { attempts: 5, backoff: { type: "exponential", delay: 20 } });
    const [[job, result]] = await done;
    assert.deepEqual([result, tries, job.attemptsMade], ["done", 3, 3]);
    const failed = heard(worker, "failed", 1);
    tries = -100;
    await queue.add("job", {}, { attempts: 1 });
    await failed;
    assert.equal(await queue.getFailedCount(), 1);
    await worker.close();
    await queue.close();
  },

  async delaysPrioritiesAndRepeats() {
    const queue = new Queue("delays", { connection });
    await queue.add("late", {}, { delay: 200 });
    await queue.add("low", {}, { priority: 10 });
    await queue.add("high", {}, { priority: 1 });
    await queue.add("plain", {});
    assert.equal(await queue.getDelayedCount(), 1);
    const names = [];
    const worker = new Worker("delays", async (job) => void names.push(job.name), { connection });
    await heard(worker, "completed", 4);
    assert.deepEqual(names, ["plain", "high", "low", "late"]);
    await queue.upsertJobScheduler("each", { every: 100 }, { name: "again" });
    await heard(worker, "completed", 2);
    assert.equal(await queue.removeJobScheduler("each"), true);
    await worker.close();
    await queue.close();
  },

  async rateLimitsPausesAndDuplicates() {
    const queue = new Queue("limits", { connection });
    await queue.pause();
    for (const jobId of ["a", "a", "b", "c"]) await queue.add("job", {}, { jobId });
    assert.equal((await queue.getJobCounts("paused")).paused, 3);
    const options = { connection, limiter: { max: 1, duration: 100 }, concurrency: 3 };
    const worker = new Worker("limits", async () => {}, options);
    const done = heard(worker, "completed", 3);
    const since = Date.now();
    await queue.resume();
    await done;
    assert.ok(Date.now() - since >= 190, "three jobs at one in 100 ms");
    await worker.close();
    await queue.close();
  },

  async flowsWaitForTheirChildren() {
    const flow = new FlowProducer({ connection });
    const worker = new Worker(
      "flow",
      async (job) => {
        if (job.name === "child") return job.data.n;
        const values = Object.values(await job.getChildrenValues());
        return values.reduce((sum, n) => sum + n, 0);
      },
      { connection },
    );
    const done = heard(worker, "completed", 4);
    const child = (n) => ({ name: "child", queueName: "flow", data: { n } });
    const children = [child(1), child(2), child(3)];
    await flow.add({ name: "parent", queueName: "flow", children });
    const [job, result] = (await done).at(-1);
    assert.deepEqual([job.name, result], ["parent", 6]);
    await worker.close();
    await flow.close();
  },
});
