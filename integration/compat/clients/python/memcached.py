"""memcached: values small and large, and a connection that is kept."""
import time

import pymemcache
from pymemcache.client.base import Client

from compat import HOST, PATIENCE, PORT, QUIET, Pattern, expect, passed, version

cache = Client((HOST, PORT), connect_timeout=PATIENCE, timeout=PATIENCE)
version("memcached", cache.version().decode())
version("pymemcache", pymemcache.__version__)
cache.set("key", b"value", noreply=False)
expect(cache.get("key"), b"value", "get")
expect(cache.incr("none", 1, noreply=False), None, "incr of nothing")
passed("short")

time.sleep(QUIET)
expect(cache.get("key"), b"value", "get after the pause, over the same connection")
passed("quiet")

large = b"".join(Pattern.pieces(1_000_000))
for at in range(64):
    cache.set(f"large {at % 8}".replace(" ", "-"), large, noreply=False)
    expect(cache.get(f"large-{at % 8}") == large, True, "a value of 1 MB")
values = {f"many-{at}": str(at).encode() for at in range(10_000)}
expect(cache.set_many(values, noreply=False), [], "set of 10,000")
expect(cache.get_many(values), values, "get of 10,000")
passed("long")
