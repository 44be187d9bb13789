"""An app on aiohttp's server, with WebSocket."""
import asyncio
import hashlib

from aiohttp import web

from compat import APP_PORT, MIB, Pattern


async def begun(request, kind):
    response = web.StreamResponse(headers={"Content-Type": kind})
    await response.prepare(request)
    return response


async def echo(request):
    response = await begun(request, "application/octet-stream")
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response


async def digest(request):
    total = hashlib.sha256()
    async for piece in request.content.iter_any():
        total.update(piece)
    return web.Response(text=total.hexdigest())


async def pattern(request):
    response = await begun(request, "application/octet-stream")
    for piece in Pattern.pieces(int(request.query["count"])):
        await response.write(piece)
    return response


async def late(request):
    await asyncio.sleep(float(request.query["seconds"]))
    return web.Response(text="late")


async def quiet(request):
    response = await begun(request, "text/plain")
    await response.write(b"begin\n")
    await asyncio.sleep(float(request.query["seconds"]))
    await response.write(b"end\n")
    return response


async def events(request):
    response = await begun(request, "text/event-stream")
    for at in range(int(request.query["count"])):
        await response.write(f"id: {at}\ndata: event {at}\n\n".encode())
        await asyncio.sleep(float(request.query["gap_ms"]) / 1000)
    return response


async def messages(request):
    socket = web.WebSocketResponse(max_msg_size=16 * MIB)
    await socket.prepare(request)
    async for message in socket:
        await (socket.send_str if isinstance(message.data, str) else socket.send_bytes)(message.data)
    return socket


async def hello(_request):
    return web.Response(text="hello")


app = web.Application(client_max_size=1 << 40)
app.router.add_get("/hello", hello)
app.router.add_route("*", "/echo", echo)
app.router.add_post("/digest", digest)
app.router.add_get("/bytes", pattern)
app.router.add_get("/late", late)
app.router.add_get("/quiet", quiet)
app.router.add_get("/events", events)
app.router.add_get("/messages", messages)
web.run_app(app, host="127.0.0.1", port=APP_PORT, print=None)
