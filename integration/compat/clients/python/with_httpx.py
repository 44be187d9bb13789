"""httpx in HTTP/1.1 and, to an app of both versions, in HTTP/2 with prior knowledge; server-sent events."""
import asyncio
import hashlib
import sys

import httpx

from compat import MIB, QUIET, URL, Pattern, expect, passed, version

HTTP2 = "http2" in sys.argv
version("httpx", httpx.__version__)


async def pieces(count):
    for piece in Pattern.pieces(count):
        yield piece


async def events(web, count, gap):
    found = []
    async with web.stream("GET", f"{URL}/events?count={count}&gap_ms={gap * 1000}") as answer:
        expect(answer.headers["content-type"], "text/event-stream", "type of an event stream")
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                found.append(line)
    expect(found, [f"data: event {at}" for at in range(count)], "server-sent events")


async def main():
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(http1=not HTTP2, http2=HTTP2, timeout=None, limits=limits, trust_env=False) as web:
        answers = await asyncio.gather(*(web.get(f"{URL}/hello") for _ in range(100)))
        expect({(answer.text, answer.http_version) for answer in answers},
               {("hello", "HTTP/2" if HTTP2 else "HTTP/1.1")}, "100 GETs at once")
        await events(web, 20, 0.01)
        passed("short")

        async def late():
            expect((await web.get(f"{URL}/late?seconds={QUIET}")).text, "late", "a late answer")

        async def pauses():
            expect((await web.get(f"{URL}/quiet?seconds={QUIET}")).text, "begin\nend\n", "an answer that pauses")

        await asyncio.gather(late(), pauses(), events(web, 2, QUIET))
        passed("quiet")

        await events(web, 300, 0.05)
        total = hashlib.sha256()
        async with web.stream("GET", f"{URL}/bytes?count={32 * MIB}") as answer:
            async for piece in answer.aiter_raw():
                total.update(piece)
        expect(total.hexdigest(), Pattern.digest(32 * MIB), "32 MiB down")
        up = await web.post(f"{URL}/echo", content=pieces(4 * MIB))
        expect(hashlib.sha256(up.content).hexdigest(), Pattern.digest(4 * MIB), "4 MiB up and back")
        passed("long")


asyncio.run(main())
