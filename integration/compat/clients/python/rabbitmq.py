"""RabbitMQ over AMQP 0-9-1: confirmed messages, a consumer that waits, heartbeats."""
import time

import pika

from compat import HOST, PATIENCE, PORT, QUIET, Pattern, expect, passed, version

parameters = pika.ConnectionParameters(HOST, PORT, credentials=pika.PlainCredentials("guest", "guest"),
                                       heartbeat=10, blocked_connection_timeout=PATIENCE)
connection = pika.BlockingConnection(parameters)
version("RabbitMQ", connection._impl.server_properties["version"].decode()
        if isinstance(connection._impl.server_properties["version"], bytes)
        else connection._impl.server_properties["version"])
version("pika", pika.__version__)
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare("work")
channel.basic_publish("", "work", b"one")
expect(channel.basic_get("work", auto_ack=True)[2], b"one", "a message")
passed("short")

# Nothing but heartbeats, then a message to a consumer that waits.
seen = []
channel.basic_consume("work", lambda _channel, _method, _properties, body: seen.append(body), auto_ack=True)
end = time.monotonic() + QUIET
while time.monotonic() < end:
    connection.process_data_events(time_limit=1)
channel.basic_publish("", "work", b"after the pause")
while not seen:
    connection.process_data_events(time_limit=1)
expect(seen, [b"after the pause"], "a message after the pause")
passed("quiet")

seen.clear()
piece = b"".join(Pattern.pieces(8 * 1024))
for at in range(3000):
    channel.basic_publish("", "work", piece)
    if at % 100 == 0:
        connection.process_data_events(time_limit=0)
end = time.monotonic() + PATIENCE
while len(seen) < 3000 and time.monotonic() < end:
    connection.process_data_events(time_limit=1)
expect((len(seen), set(seen) == {piece}), (3000, True), "3,000 confirmed messages")
connection.close()
passed("long")
