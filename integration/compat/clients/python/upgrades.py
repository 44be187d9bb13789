"""Upgrades: offers that nobody takes mean nothing, the others are carried with the body that came before them."""
import socket
import threading
import time

from compat import AT, HOST, MIB, PATIENCE, PORT, QUIET, Pattern, digest, expect, passed

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
TLS = "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n"


class Wire:
    def __init__(self):
        self.socket = socket.create_connection((HOST, PORT), PATIENCE)
        self.reader = self.socket.makefile("rb")

    def send(self, method, path, fields="", body=b""):
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: {AT}\r\n{fields}\r\n".encode() + body)

    def head(self):
        line, fields = self.reader.readline().decode("latin-1").strip(), {}
        while (field := self.reader.readline().strip()):
            name, value = field.decode("latin-1").split(":", 1)
            fields[name.lower()] = value.strip()
        return line, fields

    def answer(self):
        line, fields = self.head()
        return line, fields, self.reader.read(int(fields["content-length"]))


wire = Wire()
for offer in (H2C, TLS):
    wire.send("GET", "/plain", offer)
    line, _, body = wire.answer()
    expect((line, body), ("HTTP/1.1 200 OK", b"GET upgrade=None body="), f"GET with {offer!r}")
    wire.send("POST", "/plain", offer + "Content-Length: 3\r\n", b"abc")
    expect(wire.answer()[2], b"POST upgrade=None body=abc", f"POST with {offer!r}")
    wire.send("POST", "/plain", offer + "Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n")
    expect(wire.answer()[2], b"POST upgrade=None body=abc", f"chunked POST with {offer!r}")
wire.send("GET", "/offers")
line, fields, _ = wire.answer()
expect(line, "HTTP/1.1 200 OK", "an answer that offers an upgrade")
wire.send("GET", "/required")
expect(wire.answer()[0].split()[1], "426", "an answer that requires an upgrade")
wire.send("GET", "/plain")
expect(wire.answer()[2], b"GET upgrade=None body=", "the connection is still good")
passed("short")


def upgrade(protocol, pause=0.0, size=MIB):
    wire = Wire()
    command = b"what the app is to do, first\n"
    wire.send("POST", "/exec", f"Connection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: {len(command)}\r\n", command)
    line, fields = wire.head()
    expect((line.split()[1], fields["upgrade"]), ("101", protocol), "the answer to an upgrade")
    expect(wire.reader.readline() + wire.reader.readline(), b"got " + command + b"\n", "the body that came first, once")
    time.sleep(pause)

    def sends():
        for piece in Pattern.pieces(size):
            wire.socket.sendall(piece)
        wire.socket.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=sends)
    sender.start()
    whole = wire.reader.read()
    sender.join()
    expect(whole.endswith(b"the end"), True, "what the app says after the caller's end")
    expect(digest([whole[:-len(b"the end")]]), Pattern.digest(size), "bytes both ways")


upgrade("tcp", pause=QUIET)
passed("quiet")
for protocol in ("tcp", "SPDY/3.1"):
    upgrade(protocol)
    upgrade(protocol, size=16 * MIB)
passed("long")
