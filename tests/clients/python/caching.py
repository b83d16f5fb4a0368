"""redis-py's client-side caching, ACL users and their errors."""

import redis
from redis.cache import CacheConfig

from harness import PORT, connect, eventually, main, refused


def caching():
    return redis.Redis(
        port=PORT, socket_timeout=20, protocol=3, cache_config=CacheConfig(), decode_responses=True
    )


def test_values_are_cached_until_they_change(client):
    with caching() as cached:
        client.set("k", "1")
        client.hset("h", "f", "v")
        assert cached.get("k") == "1"
        assert cached.hget("h", "f") == "v"
        assert cached.get_cache().size == 2
        hits = client.info("commandstats").get("cmdstat_get", {}).get("calls")
        for _ in range(10):
            assert cached.get("k") == "1"
        assert client.info("commandstats")["cmdstat_get"]["calls"] == hits
        client.set("k", "2")
        eventually(lambda: cached.get("k") == "2")
        client.delete("h")
        eventually(lambda: cached.hget("h", "f") is None)
        client.set("e", "x", px=50)
        assert cached.get("e") == "x"
        eventually(lambda: cached.get("e") is None)
        assert cached.get("k") == "2"
        client.flushall()
        eventually(lambda: cached.get("k") is None)


def test_pipelines_and_transactions_with_a_cache(client):
    with caching() as cached:
        client.mset({"a": 1, "b": 2})
        for transaction in (True, False):
            with cached.pipeline(transaction=transaction) as pipe:
                pipe.get("a").get("b").incr("a")
                assert pipe.execute()[1] == "2"
        eventually(lambda: cached.get("a") == "3")


def test_users(client):
    assert client.acl_setuser(
        "alice",
        enabled=True,
        passwords=["+secret"],
        categories=["+@read"],
        commands=["+set"],
        keys=["user:*"],
        reset=True,
    )
    user = client.acl_getuser("alice")
    assert user["enabled"] and "on" in user["flags"] and user["keys"] == ["~user:*"], user
    assert "+@read" in user["categories"] and "+set" in user["commands"], user
    assert client.acl_whoami() == "default"
    assert set(client.acl_users()) == {"alice", "default"}
    protocol = client.get_connection_kwargs()["protocol"]
    with connect(
        protocol=protocol, username="alice", password="secret", decode_responses=True
    ) as alice:
        assert alice.acl_whoami is not None
        assert alice.set("user:1", "x") and alice.get("user:1") == "x"
        refused(redis.exceptions.NoPermissionError, "", alice.get, "other")
        refused(redis.exceptions.NoPermissionError, "", alice.delete, "user:1")
    with connect(username="alice", password="wrong") as alice:
        refused(redis.exceptions.AuthenticationError, "", alice.ping)
    reasons = [entry["reason"] for entry in client.acl_log()]
    assert reasons[:3] == ["auth", "command", "key"], reasons
    assert client.acl_log_reset()
    assert client.acl_dryrun("alice", "get", "user:1") in ("OK", b"OK", True)
    assert len(client.acl_genpass()) == 64
    assert client.acl_deluser("alice") == 1


if __name__ == "__main__":
    main(globals())
