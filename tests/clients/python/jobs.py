"""Job queues, locks, rate limits and caches of Python's libraries, doing their ordinary work.

    python jobs.py PORT LIBRARY...

Prints what came of each as a line of JSON, so that two servers can be compared by it. What must be
so with any server is asserted here.
"""

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from datetime import timedelta

import redis

import jobs_tasks

PORT = int(sys.argv[1])
URL = f"redis://127.0.0.1:{PORT}"
SECONDS = 20


def outcome(call, *args, **options):
    """What a call returns, or the name of the error that it raises."""
    try:
        return call(*args, **options)
    except Exception as error:
        return type(error).__name__


def celery_jobs():
    from celery import Celery, chain, chord, group
    from celery.contrib.testing.worker import start_worker

    app = Celery("jobs", broker=f"{URL}/1", backend=f"{URL}/1", set_as_current=False)
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)

    @app.task(name="add")
    def add(a, b):
        return a + b

    @app.task(name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="flaky", bind=True, max_retries=3)
    def flaky(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0.1)
        return self.request.retries

    @app.task(name="fails")
    def fails():
        raise ValueError("broken")

    @app.task(name="limited", rate_limit="20/s")
    def limited():
        return time.monotonic()

    def get(result):
        return outcome(result.get, timeout=SECONDS)

    options = dict(pool="threads", concurrency=2, perform_ping_check=False, loglevel="CRITICAL")
    with start_worker(app, shutdown_timeout=SECONDS, **options):
        since = time.monotonic()
        late = add.apply_async((1, 2), countdown=0.3)
        revoked = add.apply_async((1, 1), countdown=0.6)
        revoked.revoke()
        squares = get(group(add.s(n, n) for n in range(20))())
        seen = {
            "group": squares,
            "chain": get(chain(add.s(1, 2), add.s(10), add.s(100))()),
            "chord": get(chord((add.s(n, 1) for n in range(10)), total.s())()),
            "retries": get(flaky.delay()),
            "fails": get(fails.delay()),
            "late": get(late),
            "revoked": get(revoked),
        }
        assert time.monotonic() - since >= 0.3
        moments = [get(result) for result in [limited.delay() for _ in range(5)]]
        assert max(moments) - min(moments) >= 0.15, "five jobs at 20 a second"
        result = add.delay(5, 5)
        seen["state"] = [get(result), result.state]
        result.forget()
        seen["forgotten"] = app.AsyncResult(result.id).state
    return seen


def rq_jobs():
    from rq import Queue, Retry, SimpleWorker
    from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
    from rq.scheduler import RQScheduler

    connection = redis.Redis(port=PORT, db=2)
    queue = Queue("plain", connection=connection)
    worker = SimpleWorker([queue], connection=connection)

    def work(**options):
        worker.work(logging_level="CRITICAL", **options)

    jobs = [queue.enqueue(jobs_tasks.square, n) for n in range(10)]
    second = queue.enqueue(jobs_tasks.square, 12, depends_on=jobs[-1])
    urgent = queue.enqueue(jobs_tasks.square, 11, at_front=True)
    waiting = queue.count
    work(burst=True)
    seen = {
        "waiting": waiting,
        "squares": [job.return_value() for job in [*jobs, second, urgent]],
        "finished": FinishedJobRegistry(queue=queue).count,
    }
    flaky = queue.enqueue(jobs_tasks.flaky, retry=Retry(max=3))
    failed = queue.enqueue(jobs_tasks.fails)
    work(burst=True)
    seen["retries"] = [flaky.return_value(), flaky.get_status(refresh=True).value]
    seen["failed"] = [failed.get_status(refresh=True).value, FailedJobRegistry(queue=queue).count]
    later = queue.enqueue_in(timedelta(milliseconds=50), jobs_tasks.square, 7)
    seen["scheduled"] = ScheduledJobRegistry(queue=queue).count
    time.sleep(1.1)
    scheduler = RQScheduler([queue], connection=connection)
    scheduler.acquire_locks()
    scheduler.enqueue_scheduled_jobs()
    scheduler.release_locks()
    work(burst=True)
    seen["later"] = later.return_value()
    # A worker that waits gets what comes.
    timer = threading.Timer(0.2, queue.enqueue, (jobs_tasks.square, 9))
    timer.start()
    work(max_jobs=1)
    timer.join()
    seen["waited"] = len(FinishedJobRegistry(queue=queue).get_job_ids())
    return seen


def arq_jobs():
    from arq import Retry, create_pool
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    async def square(ctx, n):
        return n * n

    async def flaky(ctx):
        if ctx["job_try"] < 3:
            raise Retry(defer=0.1)
        return ctx["job_try"]

    async def fails(ctx):
        raise ValueError("broken")

    async def run():
        settings = RedisSettings(port=PORT, database=3)
        pool = await create_pool(settings)
        jobs = [await pool.enqueue_job("square", n) for n in range(10)]
        late = await pool.enqueue_job("square", 12, _defer_by=0.3)
        only = await pool.enqueue_job("square", 1, _job_id="only")
        twice = await pool.enqueue_job("square", 1, _job_id="only")
        flaky_job = await pool.enqueue_job("flaky")
        failed = await pool.enqueue_job("fails")
        aborted = await pool.enqueue_job("square", 5, _defer_by=30)
        queued = len(await pool.queued_jobs())
        await pool.zrem("arq:queue", aborted.job_id)
        functions = [
            func(square, name="square"),
            func(flaky, name="flaky"),
            func(fails, name="fails", max_tries=1),
        ]
        options = dict(burst=True, poll_delay=0.05, handle_signals=False, max_jobs=4)
        worker = Worker(functions, redis_settings=settings, **options)
        await worker.async_run()

        async def result(job):
            try:
                return await job.result(timeout=SECONDS, poll_delay=0.05)
            except Exception as error:
                return type(error).__name__

        seen = {
            "queued": queued,
            "squares": [await result(job) for job in [*jobs, late, only]],
            "twice": twice,
            "retries": await result(flaky_job),
            "failed": await result(failed),
            "counts": [worker.jobs_complete, worker.jobs_retried, worker.jobs_failed],
        }
        await worker.close()
        await pool.aclose()
        return seen

    return asyncio.run(run())


def dramatiq_jobs():
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.rate_limits import (
        BucketRateLimiter,
        ConcurrentRateLimiter,
        WindowRateLimiter,
    )
    from dramatiq.rate_limits.backends import RedisBackend as Limits
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend as ResultsOf

    broker = RedisBroker(url=f"{URL}/4")
    broker.add_middleware(Results(backend=ResultsOf(url=f"{URL}/4")))
    dramatiq.set_broker(broker)
    tries, lock = [], threading.Lock()

    @dramatiq.actor(store_results=True)
    def square(n):
        return n * n

    @dramatiq.actor(store_results=True, max_retries=3, min_backoff=50, max_backoff=100)
    def flaky():
        with lock:
            tries.append(None)
        if len(tries) < 3:
            raise RuntimeError("again")
        return len(tries)

    @dramatiq.actor(store_results=True, max_retries=0)
    def fails():
        raise ValueError("broken")

    def get(message):
        return outcome(message.get_result, block=True, timeout=SECONDS * 1000)

    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    try:
        since = time.monotonic()
        late = square.send_with_options(args=(9,), delay=300)
        batch = dramatiq.group([square.message(n) for n in range(10)]).run()
        seen = {
            "group": list(batch.get_results(block=True, timeout=SECONDS * 1000)),
            "pipeline": get((square.message(2) | square.message()).run()),
            "retries": get(flaky.send()),
            "failed": get(fails.send()),
            "late": get(late),
        }
        assert time.monotonic() - since >= 0.3
        broker.join("default")
    finally:
        worker.stop()
    limits = Limits(url=f"{URL}/4")
    mutex = ConcurrentRateLimiter(limits, "mutex", limit=1)
    with mutex.acquire():
        with mutex.acquire(raise_on_failure=False) as entered:
            seen["mutex"] = entered
    with mutex.acquire(raise_on_failure=False) as entered:
        seen["mutex again"] = entered
    for limiter in [
        WindowRateLimiter(limits, "window", limit=3, window=600),
        BucketRateLimiter(limits, "bucket", limit=3, bucket=36_000_000),
    ]:
        name, entries = type(limiter).__name__, []
        for _ in range(5):
            with limiter.acquire(raise_on_failure=False) as entered:
                entries.append(bool(entered))
        seen[name] = entries
    broker.close()
    return seen


def django_jobs():
    import django
    from django.conf import settings

    backend = "django.core.cache.backends.redis.RedisCache"
    settings.configure(
        CACHES={"default": {"BACKEND": backend, "LOCATION": f"{URL}/5"}},
        SECRET_KEY="for the test only",
        SESSION_ENGINE="django.contrib.sessions.backends.cache",
    )
    django.setup()
    from django.contrib.sessions.backends.cache import SessionStore
    from django.core.cache import cache

    cache.set("short", "gone", timeout=0.05)
    cache.set("page", {"title": "home", "rows": list(range(50))}, timeout=60)
    seen = {
        "page": cache.get("page"),
        "add": [cache.add("once", 1), cache.add("once", 2), cache.get("once")],
        "missing": cache.get("nothing", "default"),
        "made": cache.get_or_set("made", lambda: 42, 60),
        "counts": [cache.incr("once"), cache.decr("once", 5), outcome(cache.incr, "none")],
        "many": [cache.set_many({"a": 1, "b": 2}, 60), cache.get_many(["a", "b", "c"])],
        "touch": [cache.touch("a", 100), cache.touch("none", 100)],
        "delete": [cache.delete("a"), cache.delete("a"), cache.has_key("b")],
        "version": [cache.set("v", 1), cache.incr_version("v"), cache.get("v", version=2)],
    }
    cache.delete_many(["b", "made"])
    seen["deleted"] = cache.get_many(["b", "made"])
    session = SessionStore()
    session["user"] = 7
    session.save()
    seen["session"] = SessionStore(session.session_key).get("user")
    session.flush()
    seen["flushed"] = SessionStore(session.session_key).get("user")
    time.sleep(0.1)
    seen["short"] = cache.get("short")
    cache.clear()
    seen["cleared"] = cache.get("page")
    return seen


def main():
    logging.disable(logging.CRITICAL)
    failed = 0
    for name in sys.argv[2:]:
        jobs = globals()[f"{name}_jobs"]
        redis.Redis(port=PORT).flushall()
        since = time.monotonic()
        try:
            print(name, json.dumps(jobs(), default=str, sort_keys=True), flush=True)
        except Exception:
            failed += 1
            print(f"--- {name}\n{traceback.format_exc()}", flush=True)
        print(f"{name}: {time.monotonic() - since:.1f} s", file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
