"""redis-py where a reply comes later: pub/sub, blocking commands, streams, notifications."""

import threading
import time

import redis

from harness import connect, eventually, main, refused


def soon(work):
    """Runs the work a little later in another thread."""

    def later():
        time.sleep(0.1)
        with connect(decode_responses=True) as client:
            work(client)

    thread = threading.Thread(target=later)
    thread.start()
    return thread


def messages(pubsub, count):
    found = []

    def take():
        message = pubsub.get_message(timeout=0.05)
        if message:
            found.append((message["type"], message["pattern"], message["channel"], message["data"]))
        return len(found) >= count

    eventually(take)
    return found


def test_publish_and_subscribe(client):
    pubsub = client.pubsub()
    pubsub.subscribe("news")
    pubsub.psubscribe("n*")
    assert messages(pubsub, 2) == [
        ("subscribe", None, "news", 1),
        ("psubscribe", None, "n*", 2),
    ]
    assert client.publish("news", "hello") == 2
    assert messages(pubsub, 2) == [
        ("message", None, "news", "hello"),
        ("pmessage", "n*", "news", "hello"),
    ]
    assert client.pubsub_channels() == ["news"]
    assert client.pubsub_numsub("news") == [("news", 1)]
    assert client.pubsub_numpat() == 1
    pubsub.unsubscribe("news")
    pubsub.punsubscribe()
    assert [kind for kind, *_ in messages(pubsub, 2)] == ["unsubscribe", "punsubscribe"]
    assert client.publish("news", "nobody") == 0
    pubsub.close()


def test_a_subscriber_can_ping(client):
    pubsub = client.pubsub()
    pubsub.subscribe("c")
    messages(pubsub, 1)
    pubsub.ping("are you there")
    kind, _, _, data = messages(pubsub, 1)[0]
    # In RESP3 the reply is an ordinary one, of which this client makes nothing sensible.
    if client.get_connection_kwargs()["protocol"] == 2:
        assert (kind, data) == ("pong", "are you there")
    pubsub.close()


def test_sharded_channels(client):
    pubsub = client.pubsub()
    pubsub.ssubscribe("orders")
    assert messages(pubsub, 1) == [("ssubscribe", None, "orders", 1)]
    assert client.spublish("orders", "one") == 1
    assert messages(pubsub, 1) == [("smessage", None, "orders", "one")]
    pubsub.close()


def test_keyspace_notifications(client):
    client.config_set("notify-keyspace-events", "KEA")
    try:
        pubsub = client.pubsub()
        pubsub.psubscribe("__key*@0__:*")
        messages(pubsub, 1)
        client.set("k", 1)
        client.pexpire("k", 1)
        found = [(channel, data) for _, _, channel, data in messages(pubsub, 6)]
        assert ("__keyspace@0__:k", "set") in found
        assert ("__keyevent@0__:expire", "k") in found
        assert ("__keyevent@0__:expired", "k") in found
        pubsub.close()
    finally:
        client.config_set("notify-keyspace-events", "")


def test_blocking_pops(client):
    assert client.blpop(["empty"], timeout=0.05) is None
    thread = soon(lambda other: other.rpush("l", "a", "b"))
    assert client.blpop(["x", "l"], timeout=10) in (("l", "a"), ["l", "a"])
    thread.join()
    assert client.brpop("l", timeout=10) in (("l", "b"), ["l", "b"])
    thread = soon(lambda other: other.lpush("from", "moved"))
    assert client.blmove("from", "to", 10, "LEFT", "RIGHT") == "moved"
    thread.join()
    assert client.lrange("to", 0, -1) == ["moved"]
    thread = soon(lambda other: other.zadd("z", {"m": 1.5}))
    key, member, score = client.bzpopmin(["z"], timeout=10)
    assert (key, member, float(score)) == ("z", "m", 1.5)
    thread.join()


def test_those_who_wait_longest_are_served_first(client):
    served = []

    def wait(number):
        with connect(decode_responses=True) as other:
            served.append((number, other.blpop(["queue"], timeout=10)[1]))

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        eventually(lambda: client.info("clients")["blocked_clients"] == number + 1)
    client.rpush("queue", "a", "b", "c")
    for thread in threads:
        thread.join()
    assert sorted(served) == [(0, "a"), (1, "b"), (2, "c")]


def test_a_blocked_client_can_be_woken(client):
    with connect(decode_responses=True) as other:
        number = other.client_id()
        refusals = []

        def wait():
            try:
                other.blpop(["never"], timeout=10)
            except redis.ResponseError as error:
                refusals.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: client.client_unblock(number, error=True))
        thread.join()
        assert refusals and "UNBLOCKED" in refusals[0]


def test_streams(client):
    first = client.xadd("x", {"n": 1})
    second = client.xadd("x", {"n": 2})
    assert client.xlen("x") == 2
    assert client.xrange("x") == [(first, {"n": "1"}), (second, {"n": "2"})]
    assert client.xrevrange("x", count=1)[0][0] == second
    assert client.xgroup_create("x", "g", id="0") is True
    refused(redis.ResponseError, "BUSYGROUP", client.xgroup_create, "x", "g", id="0")
    read = client.xreadgroup("g", "alice", {"x": ">"}, count=1)
    entries = dict(read)["x"]
    entries = entries[0] if isinstance(entries[0], list) else entries
    assert entries == [(first, {"n": "1"})]
    assert client.xpending("x", "g")["pending"] == 1
    assert client.xack("x", "g", first) == 1
    assert client.xinfo_stream("x")["length"] == 2
    assert client.xinfo_groups("x")[0]["name"] == "g"
    client.xreadgroup("g", "bob", {"x": ">"})
    assert client.xclaim("x", "g", "alice", 0, [second])[0][0] == second
    assert client.xautoclaim("x", "g", "bob", 0)[1][0][0] == second
    assert client.xtrim("x", maxlen=1, approximate=False) == 1
    assert client.xdel("x", second) == 1


def test_reading_a_stream_waits(client):
    assert not client.xread({"x": "$"}, block=20)
    thread = soon(lambda other: other.xadd("x", {"n": 1}))
    read = client.xread({"x": "$"}, block=10_000)
    assert dict(read)["x"]
    thread.join()


def test_monitor(client):
    with client.monitor() as monitor:
        with connect() as other:
            other.set("watched", "by monitor")
        seen = ""
        while "watched" not in seen:
            seen = monitor.next_command()["command"]
    assert seen == "SET watched by monitor"


def test_many_clients(client):
    clients = [connect(decode_responses=True) for _ in range(100)]
    for number, other in enumerate(clients):
        other.rpush("all", number)
    assert client.llen("all") == 100
    assert client.info("clients")["connected_clients"] >= 100
    for other in clients:
        other.close()


if __name__ == "__main__":
    main(globals())
