"""An ASGI app, for uvicorn."""
import asyncio
from urllib.parse import parse_qs

from compat import Pattern


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        return await echo_messages(receive, send)
    path, query = scope["path"], parse_qs(scope["query_string"].decode())
    number = lambda key: float(query[key][0])

    async def begin(status=200, kind=b"text/plain", length=None):
        headers = [(b"content-type", kind)]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/hello":
        await begin(length=5)
        await body(b"hello")
    elif path == "/echo":
        await begin(kind=b"application/octet-stream")
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await body(message.get("body", b""), True)
        await body(b"")
    elif path == "/bytes":
        await begin(kind=b"application/octet-stream")
        for piece in Pattern.pieces(int(number("count"))):
            await body(piece, True)
        await body(b"")
    elif path == "/late":
        await asyncio.sleep(number("seconds"))
        await begin(length=4)
        await body(b"late")
    elif path == "/quiet":
        await begin()
        await body(b"begin\n", True)
        await asyncio.sleep(number("seconds"))
        await body(b"end\n")
    elif path == "/events":
        await begin(kind=b"text/event-stream")
        for at in range(int(number("count"))):
            await body(f"id: {at}\ndata: event {at}\n\n".encode(), True)
            await asyncio.sleep(number("gap_ms") / 1000)
        await body(b"")
    else:
        await begin(404)
        await body(b"no such path")


async def echo_messages(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
