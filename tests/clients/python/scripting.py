"""Scripts as redis-py's users have them: locks, registered scripts, functions, and the scripts of
queues such as Sidekiq's."""

import threading
import time

import redis

from harness import connect, main, refused


def test_scripts_are_registered_and_run(client):
    multiply = client.register_script("return redis.call('get', KEYS[1]) * ARGV[1]")
    client.set("n", 6)
    assert multiply(keys=["n"], args=[7]) == 42
    # The client loads it again where the server has forgotten it.
    client.script_flush()
    assert client.script_exists(multiply.sha) == [False]
    assert multiply(keys=["n"], args=[2]) == 12
    pipe = client.pipeline()
    multiply(keys=["n"], args=[3], client=pipe)
    pipe.incr("n")
    assert pipe.execute() == [18, 7]
    sha = client.script_load("return {1, 'two', {3}}")
    assert client.evalsha(sha, 0) == [1, "two", [3]]
    refused(redis.exceptions.NoScriptError, "No matching", client.evalsha, "0" * 40, 0)
    refused(redis.ResponseError, "boom", client.eval, "error('boom')", 0)


def test_locks(client):
    lock = client.lock("lock", timeout=10)
    assert lock.acquire(blocking=False)
    assert not client.lock("lock", timeout=10).acquire(blocking=False)
    assert lock.extend(5, replace_ttl=True) and lock.reacquire()
    lock.release()
    assert client.get("lock") is None
    refused(redis.exceptions.LockError, "unlocked", lock.release)
    done = []

    def work(number):
        own = connect(decode_responses=True)
        with own.lock("shared", timeout=10, sleep=0.01):
            inside = own.incr("inside")
            time.sleep(0.01)
            own.decr("inside")
            done.append((number, inside))
        own.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(done) == 5 and all(inside == 1 for _, inside in done)


def test_scheduled_jobs_move_to_their_queue_once(client):
    # The pattern of Sidekiq's poller: the due members of a sorted set, one by one.
    due = client.register_script(
        """
        local key, now = KEYS[1], ARGV[1]
        local jobs = redis.call("zrange", key, "-inf", now, "byscore", "limit", 0, 1)
        if jobs[1] then
          redis.call("zrem", key, jobs[1])
          return jobs[1]
        end
        """
    )
    for n in range(5):
        client.zadd("schedule", {f"job:{n}": n * 10})
    taken = []
    while (job := due(keys=["schedule"], args=[25])) is not None:
        client.lpush("queue:default", job)
        taken.append(job)
    assert taken == ["job:0", "job:1", "job:2"]
    assert client.zcard("schedule") == 2


def test_rate_limits(client):
    window = client.register_script(
        """
        local now = redis.call("TIME")
        local ms = now[1] * 1000 + math.floor(now[2] / 1000)
        redis.call("ZREMRANGEBYSCORE", KEYS[1], 0, ms - ARGV[1])
        if redis.call("ZCARD", KEYS[1]) < tonumber(ARGV[2]) then
          redis.call("ZADD", KEYS[1], ms, ms .. ":" .. redis.call("INCR", KEYS[1] .. ":n"))
          redis.call("PEXPIRE", KEYS[1], ARGV[1])
          return 1
        end
        return 0
        """
    )
    passed = [window(keys=["window"], args=[60000, 3]) for _ in range(5)]
    assert passed == [1, 1, 1, 0, 0]


def test_transfers_are_atomic(client):
    client.mset({"from": 100, "to": 0})
    code = """
        local have = tonumber(redis.call("get", KEYS[1]))
        if have < tonumber(ARGV[1]) then return redis.error_reply("FUNDS not enough") end
        redis.call("decrby", KEYS[1], ARGV[1])
        redis.call("incrby", KEYS[2], ARGV[1])
        return have - ARGV[1]
    """

    def work():
        own = connect(decode_responses=True)
        transfer = own.register_script(code)
        for _ in range(20):
            transfer(keys=["from", "to"], args=[1])
            values = own.mget("from", "to")
            assert sum(int(value) for value in values) == 100
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert client.mget("from", "to") == ["20", "80"]
    refused(redis.ResponseError, "FUNDS", client.eval, code, 2, "from", "to", 21)


def test_functions(client):
    code = "#!lua name=lib\nredis.register_function('greet', function(keys, args) return 'hello ' .. args[1] end)"
    assert client.function_load(code, replace=True) == "lib"
    assert client.fcall("greet", 0, "you") == "hello you"
    dump = connect(decode_responses=False).function_dump()
    client.function_flush()
    refused(redis.ResponseError, "not found", client.fcall, "greet", 0, "you")
    assert client.function_restore(dump)
    assert client.fcall("greet", 0, "me") == "hello me"
    assert client.function_delete("lib")


if __name__ == "__main__":
    main(globals())
