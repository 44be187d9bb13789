"""A WSGI app, for gunicorn."""
import time
from urllib.parse import parse_qs

from compat import Pattern, digest


def app(environ, start_response):
    path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
    number = lambda key: float(query[key][0])
    plain = [("Content-Type", "text/plain")]
    if path == "/hello":
        start_response("200 OK", plain + [("Content-Length", "5")])
        return [b"hello"] if environ["REQUEST_METHOD"] != "HEAD" else []
    if path == "/echo":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return iter(lambda: environ["wsgi.input"].read(65536), b"")
    if path == "/digest":
        total = digest(iter(lambda: environ["wsgi.input"].read(65536), b"")).encode()
        start_response("200 OK", plain + [("Content-Length", str(len(total)))])
        return [total]
    if path == "/bytes":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return Pattern.pieces(int(number("count")))
    if path == "/late":
        time.sleep(number("seconds"))
        start_response("200 OK", plain + [("Content-Length", "4")])
        return [b"late"]
    if path == "/quiet":
        start_response("200 OK", plain)
        return quiet(number("seconds"))
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events(int(number("count")), number("gap_ms") / 1000)
    start_response("404 Not Found", plain)
    return [b"no such path"]


def quiet(seconds):
    yield b"begin\n"
    time.sleep(seconds)
    yield b"end\n"


def events(count, gap):
    for at in range(count):
        yield f"id: {at}\ndata: event {at}\n\n".encode()
        time.sleep(gap)
