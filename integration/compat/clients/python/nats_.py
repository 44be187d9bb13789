"""NATS: the server speaks first; request and reply, a subscription that waits, many messages."""
import asyncio
from importlib.metadata import version as package_version

import nats

from compat import AT, MIB, PATIENCE, QUIET, Pattern, expect, passed, version


async def main():
    bus = await nats.connect(f"nats://{AT}", ping_interval=10, allow_reconnect=False)
    version("nats-server", str(bus.connected_server_version).strip("<>").split(" v")[-1])
    version("nats-py", package_version("nats-py"))

    async def answer(message):
        await message.respond(message.data)

    await bus.subscribe("echo", cb=answer)
    for at in range(100):
        reply = await bus.request("echo", str(at).encode(), timeout=PATIENCE)
        expect(reply.data, str(at).encode(), "request and reply")
    passed("short")

    news = await bus.subscribe("news")
    await bus.flush()
    await asyncio.sleep(QUIET)
    await bus.publish("news", b"after the pause")
    expect((await news.next_msg(timeout=PATIENCE)).data, b"after the pause", "a message after the pause")
    passed("quiet")

    stream = await bus.subscribe("stream")
    large = b"".join(Pattern.pieces(MIB // 2))
    for at in range(50_000):
        await bus.publish("stream", str(at).encode())
        if at % 1000 == 0:
            await bus.flush(PATIENCE)
    for at in range(50_000):
        expect((await stream.next_msg(timeout=PATIENCE)).data, str(at).encode(), "messages in order")
    for _ in range(50):
        reply = await bus.request("echo", large, timeout=PATIENCE)
        expect(reply.data == large, True, "a message of 512 KiB")
    await bus.drain()
    passed("long")


asyncio.run(main())
