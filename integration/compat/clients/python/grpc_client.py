"""grpcio's client of compat.Echo: all kinds of calls, deadlines, cancellation, many streams, quiet streams."""
import queue
import time
from concurrent import futures

import grpc

from compat import AT, MIB, PATIENCE, QUIET, expect, passed, together, until, version

version("grpcio", grpc.__version__)
channel = grpc.insecure_channel(AT)
path = "/compat.Echo/{}".format
unary, fail, slow, cancelled = (channel.unary_unary(path(name)) for name in ("Unary", "Fail", "Slow", "Cancelled"))
listing, pieces, quiet = (channel.unary_stream(path(name)) for name in ("List", "Pieces", "Quiet"))
collect = channel.stream_unary(path("Collect"))
chat = channel.stream_stream(path("Chat"))


class Chat:
    """One bidirectional stream that is fed message by message."""

    def __init__(self):
        self.say = queue.Queue()
        self.call = chat(iter(self.say.get, None), timeout=PATIENCE * 2)

    def echo(self, text):
        self.say.put(text)
        expect(next(self.call), text, "echo in a stream")

    def end(self):
        self.say.put(None)
        expect(list(self.call), [], "the end of a stream")


def count():
    return int(cancelled(b"", timeout=PATIENCE))


for text in (b"word", b"", b"x" * MIB):
    expect(unary(text, timeout=PATIENCE) == text, True, "unary call")
try:
    fail(b"", timeout=PATIENCE)
    raise AssertionError("a call that must fail did not")
except grpc.RpcError as status:
    expect((status.code(), status.details()), (grpc.StatusCode.NOT_FOUND, "no such thing: größer"), "status")
    trailers = {key: value for key, value in status.trailing_metadata()}
    expect((trailers["x-detail"], trailers["x-detail-bin"]), ("some detail", b"\x00\xff"), "trailers")
expect([int(at) for at in listing(b"1000", timeout=PATIENCE)], list(range(1000)), "server's stream")
expect(collect((b"x" * 1000 for _ in range(1000)), timeout=PATIENCE), b"1000000", "client's stream")
talk = Chat()
for at in range(100):
    talk.echo(str(at).encode())
talk.end()

before = count()
try:
    slow(b"100000", timeout=0.5)
    raise AssertionError("no deadline")
except grpc.RpcError as status:
    expect(status.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")
until("the server learns of the deadline", lambda: count() > before)
before = count()
talk = Chat()
talk.echo(b"to be cancelled")
talk.call.cancel()
until("the server learns of the cancellation", lambda: count() > before)
call = slow.future(b"100000")
before = count()
time.sleep(0.2)
call.cancel()
until("the server learns that a unary call was cancelled", lambda: count() > before)
passed("short")


def many():
    # More at once than one connection's limit.
    calls = [slow.future(b"1000", timeout=PATIENCE) for _ in range(150)]
    expect([call.result(PATIENCE) for call in calls], [b"1000"] * 150, "150 calls at once")


def chat_pauses():
    talk = Chat()
    talk.echo(b"before")
    time.sleep(QUIET)
    talk.echo(b"after")
    talk.end()


def server_pauses():
    call = quiet(str(int(QUIET * 1000)).encode(), timeout=PATIENCE * 2)
    expect(list(call), [b"begin", b"end"], "a server's stream that pauses")


def late():
    expect(slow(str(int(QUIET * 1000)).encode(), timeout=PATIENCE * 2), str(int(QUIET * 1000)).encode(), "a late answer")


together(many, chat_pauses, server_pauses, late)
passed("quiet")


def steady():
    for at in range(1000):
        expect(unary(str(at).encode(), timeout=PATIENCE), str(at).encode(), "one of many calls")


def bulk():
    expect(sum(len(piece) for piece in pieces(b"32", timeout=PATIENCE)), 32 * MIB, "a stream of 32 MiB")
    expect(collect((b"x" * 65536 for _ in range(512)), timeout=PATIENCE), str(32 * MIB).encode(), "32 MiB up")


together(steady, steady, bulk)
channel.close()
passed("long")
