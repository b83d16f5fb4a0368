"""redis-py's cluster client: ordinary work, and the same while nodes go.

    python cluster.py STOP_FILE PORT...

Says `ready` once it works, goes on until STOP_FILE is there, and checks then that everything that was
acknowledged is so.
"""

import os
import sys
import time

import redis
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster
from redis.retry import Retry

STOP = sys.argv[1]
NODES = [ClusterNode("127.0.0.1", int(port)) for port in sys.argv[2:]]


def connect(**options):
    return RedisCluster(
        startup_nodes=NODES,
        decode_responses=True,
        socket_timeout=10,
        retry=Retry(ConstantBackoff(0.1), 3),
        **options,
    )


def ordinary(client):
    for nth in range(200):
        assert client.set(f"key:{nth}", nth) is True
    assert [client.get(f"key:{nth}") for nth in range(200)] == [str(nth) for nth in range(200)]
    client.mset({"{tag}a": 1, "{tag}b": 2})
    assert client.mget("{tag}a", "{tag}b") == ["1", "2"]
    with client.pipeline() as pipe:
        for nth in range(100):
            pipe.incr(f"n:{nth % 10}")
        assert len(pipe.execute()) == 100
    assert client.eval("return redis.call('incrby', KEYS[1], ARGV[1])", 1, "scripted", 5) == 5
    try:
        client.execute_command("MSET", "a", 1, "b", 2, target_nodes=client.get_default_node())
        raise AssertionError("keys of several slots were taken")
    except redis.RedisError as error:
        assert "hash to the same slot" in str(error) or "MOVED" in str(error), error
    assert len(client.get_primaries()) >= 1
    assert client.cluster_info()["cluster_state"] == "ok"
    assert sum(client.dbsize(target_nodes=node) for node in client.get_primaries()) > 0


def reads_of_replicas():
    client = connect(load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    client.set("replicated", "value")
    end = time.monotonic() + 10
    # A replica may be behind for a moment.
    while [client.get("replicated") for _ in range(6)] != ["value"] * 6:
        assert time.monotonic() < end, "a replica stays behind"
    client.close()


def insist(work):
    """While a leader is being replaced, redis-py runs out of tries in no time, as with any Redis."""
    end = time.monotonic() + 30
    while True:
        try:
            return work()
        except redis.RedisError:
            assert time.monotonic() < end, "no node takes writes"
            time.sleep(0.05)


def through_changes(client):
    """Each write once acknowledged is there in the end; a counter may have counted a retry twice."""
    acknowledged, counts = {}, {}
    nth = 0
    while not os.path.exists(STOP):
        key, counter = f"w:{nth % 500}", f"c:{nth % 20}"
        insist(lambda: client.set(key, nth))
        acknowledged[key] = str(nth)
        insist(lambda: client.incr(counter))
        counts[counter] = counts.get(counter, 0) + 1
        nth += 1
    for key, value in acknowledged.items():
        found = insist(lambda: client.get(key))
        assert found == value, (key, value, found)
    for counter, count in counts.items():
        assert int(insist(lambda: client.get(counter))) >= count, (counter, count)
    return nth


client = connect()
ordinary(client)
reads_of_replicas()
print("ready", flush=True)
print(through_changes(client), "writes", flush=True)
