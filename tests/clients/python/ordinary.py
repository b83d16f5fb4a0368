"""redis-py in ordinary work: every type, pipelines, scans, expiry, transactions."""

import redis

from harness import connect, eventually, main, refused


def test_connects_and_introduces_itself(client):
    assert client.ping() is True
    assert client.echo("hi") == "hi"
    version = client.info("server")["redis_version"]
    assert version.split(".")[0].isdigit()
    named = connect(client_name="worker")
    assert named.client_getname() in ("worker", b"worker")
    assert any(other["name"] == "worker" for other in client.client_list())
    assert client.client_id() > 0
    named.close()


def test_strings(client):
    assert client.set("k", "value") is True
    assert client.get("k") == "value"
    assert client.get("missing") is None
    assert client.set("k", "new", nx=True) is None
    assert client.set("k", "new", xx=True, get=True) == "value"
    assert client.append("k", "er") == 5
    assert client.getrange("k", 0, 2) == "new"
    assert client.incr("n") == 1
    assert client.incrby("n", 9) == 10
    assert client.incrbyfloat("n", 0.5) == 10.5
    assert client.mset({"a": 1, "b": 2}) is True
    assert client.mget("a", "missing", "b") == ["1", None, "2"]
    assert client.getdel("a") == "1"
    assert client.strlen("b") == 1
    refused(redis.ResponseError, "not an integer", client.incr, "k")


def test_bytes_are_kept(client):
    raw = connect()
    value = bytes(range(256)) * 300
    assert raw.set(b"\xff\x00key", value)
    assert raw.get(b"\xff\x00key") == value
    raw.close()


def test_hashes(client):
    assert client.hset("h", mapping={"a": "1", "b": "2"}) == 2
    assert client.hgetall("h") == {"a": "1", "b": "2"}
    assert client.hget("h", "a") == "1"
    assert client.hmget("h", ["a", "x"]) == ["1", None]
    assert client.hincrby("h", "a", 5) == 6
    assert client.hincrbyfloat("h", "b", 0.5) == 2.5
    assert client.hexists("h", "a") is True
    assert client.hdel("h", "a") == 1
    assert client.hkeys("h") == ["b"]
    client.hset("big", mapping={f"f{n}": n for n in range(1000)})
    assert dict(client.hscan_iter("big")) == {f"f{n}": str(n) for n in range(1000)}
    assert client.object("encoding", "big") == "hashtable"


def test_lists(client):
    assert client.rpush("l", *range(5)) == 5
    assert client.lrange("l", 0, -1) == ["0", "1", "2", "3", "4"]
    assert client.lpop("l") == "0"
    assert client.rpop("l", 2) == ["4", "3"]
    assert client.linsert("l", "BEFORE", "2", "x") == 3
    assert client.lpos("l", "2") == 2
    assert client.lmove("l", "m", "LEFT", "RIGHT") == "1"
    client.ltrim("l", 0, 0)
    assert client.llen("l") == 1
    assert client.lindex("l", 0) == "x"
    refused(redis.ResponseError, "WRONGTYPE", client.get, "l")


def test_sets(client):
    assert client.sadd("s", "a", "b", "c") == 3
    assert client.smembers("s") == {"a", "b", "c"}
    assert client.sismember("s", "a")
    assert [bool(there) for there in client.smismember("s", ["a", "x"])] == [True, False]
    client.sadd("t", "b", "c", "d")
    assert set(client.sinter("s", "t")) == {"b", "c"}
    assert set(client.sunion("s", "t")) == {"a", "b", "c", "d"}
    assert client.sdiffstore("d", "s", "t") == 1
    assert client.spop("d") == "a"
    assert client.exists("d") == 0
    client.sadd("ints", *range(600))
    assert {int(member) for member in client.sscan_iter("ints")} == set(range(600))


def test_sorted_sets(client):
    assert client.zadd("z", {"a": 1, "b": 2.5, "c": float("inf")}) == 3
    pairs = client.zrange("z", 0, -1, withscores=True)
    assert [tuple(pair) for pair in pairs] == [("a", 1.0), ("b", 2.5), ("c", float("inf"))]
    assert client.zscore("z", "b") == 2.5
    assert client.zincrby("z", 1.5, "a") == 2.5
    assert client.zrank("z", "c") == 2
    assert client.zrangebyscore("z", 2, 3) == ["a", "b"]
    assert client.zrevrange("z", 0, 0) == ["c"]
    popped = client.zpopmin("z")
    popped = popped[0] if len(popped) == 1 else popped
    assert tuple(popped) == ("a", 2.5)
    assert client.zcount("z", "-inf", "+inf") == 2
    assert client.zadd("z", {"b": 1}, gt=True) == 0
    client.zadd("lex", {name: 0 for name in "abcdef"})
    assert client.zrangebylex("lex", "[b", "(e") == ["b", "c", "d"]
    assert client.zunionstore("u", {"z": 2, "lex": 1}) == 6
    assert len(list(client.zscan_iter("u"))) == 6


def test_geo_bits_and_counts(client):
    assert client.geoadd("g", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")) == 2
    assert 166 < client.geodist("g", "Palermo", "Catania", "km") < 167
    assert client.geosearch("g", longitude=15, latitude=37, radius=200, unit="km", sort="ASC") == [
        "Catania",
        "Palermo",
    ]
    assert client.setbit("bits", 7, 1) == 0
    assert client.bitcount("bits") == 1
    assert client.bitfield("bits").set("u8", 0, 255).get("u4", 0).execute() == [1, 15]
    assert client.pfadd("p", *range(1000)) == 1
    assert 950 < client.pfcount("p") < 1050


def test_keys_and_expiry(client):
    client.set("a", 1, ex=100)
    assert 98 <= client.ttl("a") <= 100
    assert client.persist("a")
    assert client.ttl("a") == -1
    assert client.ttl("missing") == -2
    assert client.expire("a", 100, nx=True)
    assert client.rename("a", "b") is True
    assert client.type("b") == "string"
    assert client.copy("b", "c")
    assert client.touch("b", "c") == 2
    assert client.unlink("b", "c", "missing") == 2
    assert client.dbsize() == 0
    client.psetex("gone", 1, "x")
    eventually(lambda: client.get("gone") is None)
    refused(redis.ResponseError, "no such key", client.rename, "missing", "x")


def test_scan_finds_every_key(client):
    with client.pipeline(transaction=False) as pipe:
        for n in range(3000):
            pipe.set(f"key:{n}", n)
        assert pipe.execute() == [True] * 3000
    found = list(client.scan_iter("key:*", count=50))
    assert set(found) == {f"key:{n}" for n in range(3000)}
    assert set(client.scan_iter(_type="list")) == set()


def test_databases(client):
    client.set("k", "zero")
    other = connect(db=3, decode_responses=True)
    assert other.get("k") is None
    other.set("k", "three")
    assert client.get("k") == "zero"
    assert client.move("k", 4)
    assert client.swapdb(0, 3) is True
    assert client.get("k") == "three"
    other.close()


def test_sort(client):
    client.rpush("l", 3, 1, 2)
    client.mset({"w1": 30, "w2": 20, "w3": 10})
    assert client.sort("l") == ["1", "2", "3"]
    assert client.sort("l", by="w*", get=["#", "w*"]) == ["3", "10", "2", "20", "1", "30"]


def test_pipelines_and_transactions(client):
    with client.pipeline() as pipe:
        pipe.set("a", 1).incr("a").lpush("a", "x").get("a")
        results = pipe.execute(raise_on_error=False)
    assert results[0] is True and results[1] == 2 and results[3] == "2"
    assert isinstance(results[2], redis.ResponseError)
    with client.pipeline() as pipe:
        pipe.execute_command("SET", "only-one-argument")
        refused(redis.ResponseError, "wrong number of arguments", pipe.execute)


def test_watch(client):
    client.set("balance", 10)
    with client.pipeline() as pipe:
        pipe.watch("balance")
        balance = int(pipe.get("balance"))
        client.set("balance", 99)
        pipe.multi()
        pipe.set("balance", balance - 1)
        refused(redis.WatchError, "", pipe.execute)
    assert client.get("balance") == "99"

    def spend(pipe):
        balance = int(pipe.get("balance"))
        pipe.multi()
        pipe.set("balance", balance - 9)

    assert client.transaction(spend, "balance") == [True]
    assert client.get("balance") == "90"


def test_server_commands(client):
    assert client.config_set("maxmemory-samples", 6) is True
    assert client.config_get("maxmemory-samples") == {"maxmemory-samples": "6"}
    assert client.time()[0] > 1_600_000_000
    assert client.slowlog_len() >= 0
    assert client.memory_usage("missing") is None
    assert "get" in client.command() or "GET" in client.command()
    assert client.command_getkeys("MSET", "a", 1, "b", 2) == ["a", "b"]
    refused(redis.ResponseError, "unknown command", client.execute_command, "NOSUCH", "x")


if __name__ == "__main__":
    main(globals())
