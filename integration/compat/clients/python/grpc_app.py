"""grpcio's server of compat.Echo, whose messages are plain bytes."""
import threading
import time
from concurrent import futures

import grpc

from compat import APP_PORT

cancelled = 0
lock = threading.Lock()


def note_cancel():
    global cancelled
    with lock:
        cancelled += 1


def unary(request, _context):
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-detail", "some detail"), ("x-detail-bin", b"\x00\xff")))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: größer")


def slow(request, context):
    """Answers after so many milliseconds, unless the caller has gone."""
    gone = threading.Event()
    context.add_callback(gone.set)
    if gone.wait(int(request) / 1000):
        note_cancel()
    return request


def cancelled_count(_request, _context):
    return str(cancelled).encode()


def listing(request, _context):
    for at in range(int(request)):
        yield str(at).encode()


def pieces(request, _context):
    """So many MiB, in pieces of 64 KiB."""
    for _ in range(int(request) * 16):
        yield b"\x07" * 65536


def quiet(request, _context):
    yield b"begin"
    time.sleep(int(request) / 1000)
    yield b"end"


def collect(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    context.add_callback(lambda: None if context.code() is None and done.is_set() else None)
    done = threading.Event()
    try:
        for request in requests:
            yield request
        done.set()
    except grpc.RpcError:
        pass
    finally:
        if not done.is_set():
            note_cancel()


plain = dict(request_deserializer=None, response_serializer=None)
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, **plain),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, **plain),
    "Slow": grpc.unary_unary_rpc_method_handler(slow, **plain),
    "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled_count, **plain),
    "List": grpc.unary_stream_rpc_method_handler(listing, **plain),
    "Pieces": grpc.unary_stream_rpc_method_handler(pieces, **plain),
    "Quiet": grpc.unary_stream_rpc_method_handler(quiet, **plain),
    "Collect": grpc.stream_unary_rpc_method_handler(collect, **plain),
    "Chat": grpc.stream_stream_rpc_method_handler(chat, **plain),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=400))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("compat.Echo", handlers),))
server.add_insecure_port(f"127.0.0.1:{APP_PORT}")
server.start()
server.wait_for_termination()
