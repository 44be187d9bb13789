"""Redis: redis-cli, pipelines, publish and subscribe, blocking reads."""
import time

import redis

from compat import HOST, MIB, PATIENCE, PORT, QUIET, Pattern, expect, passed, run, together, version

store = redis.Redis(host=HOST, port=PORT, socket_timeout=PATIENCE)
version("Redis", store.info()["redis_version"])
version("redis-py", redis.__version__)
expect(run("redis-cli", "-h", HOST, "-p", str(PORT), "PING"), b"PONG\n", "PING by redis-cli")
value = b"".join(Pattern.pieces(MIB))
store.set("large", value)
expect(store.get("large") == value, True, "a value of 1 MiB")
passed("short")


def subscribed(channel):
    listener = store.pubsub()
    listener.subscribe(channel)
    expect(listener.get_message(timeout=PATIENCE)["type"], "subscribe", "subscription")
    return listener


def subscribes():
    listener = subscribed("news")
    time.sleep(QUIET)
    store.publish("news", "after the pause")
    expect(listener.get_message(timeout=PATIENCE)["data"], b"after the pause", "a message after the pause")


def blocks():
    def pushes():
        time.sleep(QUIET)
        store.rpush("queue", "late")
    together(pushes, lambda: expect(store.blpop("queue", timeout=0), (b"queue", b"late"), "a blocking read"))


def idles():
    kept = redis.Redis(host=HOST, port=PORT, single_connection_client=True)
    before = kept.client_id()
    time.sleep(QUIET)
    expect(kept.client_id(), before, "an idle connection is the same afterwards")


together(subscribes, blocks, idles)
passed("quiet")

for _ in range(10):
    pipe = store.pipeline(transaction=False)
    for at in range(5000):
        pipe.set(f"key {at}", at)
        pipe.incr(f"key {at}")
    expect(pipe.execute()[1::2], list(range(1, 5001)), "a pipeline of 10,000")
listener = subscribed("stream")


def publishes():
    for at in range(1_000):
        store.publish("stream", at)


def receives():
    for at in range(1_000):
        expect(listener.get_message(timeout=PATIENCE)["data"], str(at).encode(), "messages in order")


together(publishes, receives)
passed("long")
