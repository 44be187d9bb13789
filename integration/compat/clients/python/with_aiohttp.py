"""aiohttp's client: keep-alive, duplex streams, WebSocket."""
import asyncio
import hashlib
import sys

import aiohttp

from compat import MIB, QUIET, URL, Pattern, expect, passed, version

# nginx sends nothing more of a request once its answer has begun.
HALF_DUPLEX = "half-duplex" in sys.argv
version("aiohttp", aiohttp.__version__)


async def pieces(count):
    for piece in Pattern.pieces(count):
        yield piece


async def text(web, path):
    async with web.get(URL + path) as answer:
        return await answer.text()


async def pauses(web):
    seen = []
    async with web.get(f"{URL}/quiet?seconds={QUIET}") as answer:
        async for line in answer.content:
            seen.append(line)
    expect(seen, [b"begin\n", b"end\n"], "an answer that pauses")


async def messages_pause(web):
    async with web.ws_connect(f"{URL}/messages", max_msg_size=16 * MIB) as socket:
        await socket.send_str("before")
        expect(await socket.receive_str(), "before", "a message before the pause")
        await asyncio.sleep(QUIET)
        await socket.send_bytes(b"after")
        expect(await socket.receive_bytes(), b"after", "a message after the pause")


async def short(web):
    expect(await asyncio.gather(*(text(web, "/hello") for _ in range(200))), ["hello"] * 200, "200 GETs at once")
    async with web.ws_connect(f"{URL}/messages") as socket:
        for at in range(100):
            await socket.send_str(f"message {at}")
            expect(await socket.receive_str(), f"message {at}", "WebSocket echo")
    passed("short")


async def quiet(web):
    late = text(web, f"/late?seconds={QUIET}")
    found = await asyncio.gather(late, pauses(web), messages_pause(web))
    expect(found[0], "late", "a late answer")
    passed("quiet")


async def long(web):
    async with web.post(f"{URL}/digest", data=pieces(32 * MIB)) as answer:
        expect(await answer.text(), Pattern.digest(32 * MIB), "32 MiB up")
    if not HALF_DUPLEX:
        total = hashlib.sha256()
        async with web.post(f"{URL}/echo", data=pieces(32 * MIB)) as answer:
            async for piece in answer.content.iter_any():
                total.update(piece)
        expect(total.hexdigest(), Pattern.digest(32 * MIB), "duplex echo of 32 MiB")
    message = b"".join(Pattern.pieces(4 * MIB))
    async with web.ws_connect(f"{URL}/messages", max_msg_size=16 * MIB) as socket:
        for _ in range(8):
            await socket.send_bytes(message)
            expect(await socket.receive_bytes() == message, True, "a message of 4 MiB")
    passed("long")


async def main():
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as web:
        await short(web)
        await quiet(web)
        await long(web)


asyncio.run(main())
