"""A raw HTTP/1.1 app: it shows what it was sent, offers upgrades of its own, and upgrades `tcp` and `SPDY/3.1`."""
import socket
import threading

from compat import APP_PORT


def serve(connection):
    reader = connection.makefile("rb")
    while line := reader.readline():
        method, path, _ = line.decode("latin-1").split(" ", 2)
        fields = {}
        while (field := reader.readline().strip()):
            name, value = field.decode("latin-1").split(":", 1)
            fields[name.lower()] = value.strip()
        body = take_body(reader, fields)
        if path == "/offers":
            say(connection, "200 OK", body, "Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n")
        elif path == "/required":
            say(connection, "426 Upgrade Required", b"", "Upgrade: HTTP/3.0\r\nConnection: Upgrade\r\n")
        elif path == "/exec" and fields.get("upgrade"):
            # The app speaks first, right behind its 101.
            connection.sendall(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {fields['upgrade']}\r\n\r\n"
                               .encode() + b"got " + body + b"\n")
            while piece := reader.read1(65536):
                connection.sendall(piece)
            connection.sendall(b"the end")
            connection.close()
            return
        else:
            say(connection, "200 OK", f"{method} upgrade={fields.get('upgrade')} body=".encode() + body)


def take_body(reader, fields):
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
        return body
    return reader.read(int(fields.get("content-length", "0")))


def say(connection, status, body, fields=""):
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)


listener = socket.create_server(("127.0.0.1", APP_PORT), backlog=128)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
