"""What every program of the compatibility suite shares: where to dial, how long to be quiet, what to report."""
import hashlib
import os
import subprocess
import threading
import time

AT = os.environ.get("AT", "")  # the caller's outbound: HOST:PORT
HOST, _, _port = AT.rpartition(":")
PORT = int(_port or 0)
URL = f"http://{AT}"
APP_PORT = int(os.environ.get("APP_PORT", "0"))  # where a server listens
DIR = os.environ.get("DIR", "/tmp")  # a folder of this case alone
QUIET = float(os.environ.get("QUIET", "5"))  # seconds without a byte
PROTOCOL = os.environ.get("PROTOCOL", "tcp")
PATIENCE = 240  # seconds that anything may take
MIB = 1024 * 1024


def passed(exchange):
    print(f"passed: {exchange}", flush=True)


def version(name, number):
    print(f"version: {name} {number}", flush=True)


def expect(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: expected {str(wanted)[:300]!r}, found {str(found)[:300]!r}")


def run(*command, stdin=None, env=None):
    """Runs a program to success and returns its standard output."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE,
                          env=dict(os.environ, **(env or {})))
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: "
                             f"{done.stderr[-2000:].decode(errors='replace')}")
    return done.stdout


def together(*tasks):
    """Runs functions in threads, and fails with the first failure."""
    failures = []

    def guarded(task):
        try:
            task()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def until(what, ask):
    """Asks again and again until the answer is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


class Pattern:
    """Bytes that depend on their place, so that a lost or moved piece is noticed."""
    BLOCK = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(2048))

    @classmethod
    def pieces(cls, count):
        while count > 0:
            piece = cls.BLOCK[:count]
            yield piece
            count -= len(piece)

    @classmethod
    def digest(cls, count):
        total = hashlib.sha256()
        for piece in cls.pieces(count):
            total.update(piece)
        return total.hexdigest()


def digest(pieces):
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()
