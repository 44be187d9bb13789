"""requests: keep-alive, streams up and down, answers that pause or come late."""
import time

import requests

from compat import MIB, PATIENCE, PROTOCOL, QUIET, URL, Pattern, digest, expect, passed, together, version

version("requests", requests.__version__)


def session():
    opened = requests.Session()
    opened.trust_env = False
    return opened


with session() as web:
    for _ in range(20):
        expect(web.get(f"{URL}/hello", timeout=PATIENCE).text, "hello", "GET")
    expect(web.head(f"{URL}/hello", timeout=PATIENCE).headers["content-length"], "5", "HEAD")
    body = b"".join(Pattern.pieces(MIB))
    expect(digest([web.post(f"{URL}/echo", data=body, timeout=PATIENCE).content]), Pattern.digest(MIB), "POST of 1 MiB")
    expect(web.get(f"{URL}/nowhere", timeout=PATIENCE).status_code, 404, "status")
    app = web.get(f"{URL}/hello", timeout=PATIENCE).headers.get("server")
    if app:
        version("server of the app", app)
passed("short")


def pauses():
    with session().get(f"{URL}/quiet", params={"seconds": QUIET}, stream=True, timeout=PATIENCE) as answer:
        expect(b"".join(answer.iter_content(None)), b"begin\nend\n", "an answer that pauses")


def comes_late():
    expect(session().get(f"{URL}/late", params={"seconds": QUIET}, timeout=PATIENCE).text, "late", "a late answer")


def idles():
    with session() as web:
        expect(web.get(f"{URL}/hello", timeout=PATIENCE).text, "hello", "before the pause")
        time.sleep(QUIET)
        expect(web.get(f"{URL}/hello", timeout=PATIENCE).text, "hello", "after the pause")


def at_the_keep_alive_limit():
    # The app closes idle connections after 2 seconds (gunicorn's default): each request meets that moment. requests
    # itself fails then; over `http` the sidecar tries again on another connection.
    if PROTOCOL == "tcp":
        return
    with session() as web:
        for _ in range(10):
            expect(web.get(f"{URL}/hello", timeout=PATIENCE).status_code, 200, "a request at the app's keep-alive limit")
            time.sleep(2)


together(pauses, comes_late, idles, at_the_keep_alive_limit)
passed("quiet")

with session() as web:
    # requests sends all before it reads, so the app must not answer meanwhile.
    up = web.post(f"{URL}/digest", data=Pattern.pieces(32 * MIB), timeout=PATIENCE)
    expect(up.text, Pattern.digest(32 * MIB), "32 MiB up, chunked")
    with web.get(f"{URL}/bytes", params={"count": 32 * MIB}, stream=True, timeout=PATIENCE) as down:
        expect(digest(down.iter_content(65536)), Pattern.digest(32 * MIB), "32 MiB down, chunked")
    with web.get(f"{URL}/events", params={"count": 200, "gap_ms": 50}, stream=True, timeout=PATIENCE) as answer:
        data = [line for line in answer.iter_lines() if line.startswith(b"data:")]
        expect(data, [f"data: event {at}".encode() for at in range(200)], "server-sent events")
passed("long")
