"""redis-py's Sentinel client, on a cluster of one group whose nodes answer as replicas do.

    python sentinel.py STOP_FILE PORT...
"""

import os
import sys
import time

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

STOP = sys.argv[1]
PORTS = [int(port) for port in sys.argv[2:]]

sentinel = Sentinel([("127.0.0.1", port) for port in PORTS], socket_timeout=5)
host, port = sentinel.discover_master("mymaster")
assert port in PORTS
replicas = sentinel.discover_slaves("mymaster")
assert sorted([port, *(port for _, port in replicas)]) == sorted(PORTS), replicas
retry = Retry(ConstantBackoff(0.1), 100)
options = {"decode_responses": True, "socket_timeout": 5, "retry": retry}
master = sentinel.master_for("mymaster", **options)
replica = sentinel.slave_for("mymaster", **options)
assert master.set("k", "v") is True
end = time.monotonic() + 10
while replica.get("k") != "v":
    assert time.monotonic() < end, "the replica stays behind"
try:
    replica.set("k", "x")
    raise AssertionError("a replica took a write")
except (redis.ReadOnlyError, MasterNotFoundError, redis.ConnectionError):
    pass
print("ready", flush=True)
acknowledged, nth = {}, 0
while not os.path.exists(STOP):
    key = f"w:{nth % 500}"
    end = time.monotonic() + 30
    while True:
        try:
            master.set(key, nth)
            break
        except (redis.RedisError, MasterNotFoundError):
            # The old leader is gone, or has become a replica; the next call asks who leads.
            assert time.monotonic() < end, "no master takes writes"
            time.sleep(0.05)
    acknowledged[key] = str(nth)
    nth += 1
for key, value in acknowledged.items():
    assert master.get(key) == value, (key, value)
print(nth, "writes", flush=True)
