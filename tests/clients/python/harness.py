"""Runs the functions of a script whose names start with `test_`, each on an empty server.

    python SCRIPT PORT
"""

import sys
import time
import traceback

import redis

PORT = int(sys.argv[1])


def connect(**options):
    return redis.Redis(port=PORT, socket_timeout=20, **options)


def refused(error, text, call, *args, **options):
    """The call must be refused with this class and a message that holds this text."""
    try:
        result = call(*args, **options)
    except error as refusal:
        assert text in str(refusal), f"{text!r} is not in {str(refusal)!r}"
        return
    raise AssertionError(f"expected {error.__name__}, got {result!r}")


def eventually(condition, seconds=10):
    """The condition must become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not become true in time"
        time.sleep(0.01)


def main(tests):
    failed = 0
    tests = [(name, test) for name, test in tests.items() if name.startswith("test_")]
    for protocol in (2, 3):
        for name, test in tests:
            with connect(protocol=protocol, decode_responses=True) as client:
                client.flushall()
                try:
                    test(client)
                except Exception:
                    failed += 1
                    print(f"--- {name}, RESP{protocol}\n{traceback.format_exc()}")
    print(f"{2 * len(tests) - failed} of {2 * len(tests)} passed")
    sys.exit(1 if failed else 0)
