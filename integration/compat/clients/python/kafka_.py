"""Kafka's protocol by kafka-python: records, a consumer that waits in long polls, many records."""
import time

import kafka
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from compat import AT, PATIENCE, QUIET, Pattern, expect, passed, version

version("kafka-python", kafka.__version__)
COUNT = 20_000
admin = KafkaAdminClient(bootstrap_servers=AT)
admin.create_topics([NewTopic("news-python", 1, 1), NewTopic("cargo-python", 3, 1)])
producer = KafkaProducer(bootstrap_servers=AT, linger_ms=5, acks="all")


def consumer(topic, group):
    return KafkaConsumer(topic, bootstrap_servers=AT, group_id=group, auto_offset_reset="earliest",
                         consumer_timeout_ms=PATIENCE * 1000)


news = consumer("news-python", "readers-python")
producer.send("news-python", b"one").get(PATIENCE)
expect(next(news).value, b"one", "a record")
passed("short")

# The group's heartbeats and long polls go on while no record comes.
end = time.monotonic() + QUIET
while time.monotonic() < end:
    expect(news.poll(timeout_ms=1000), {}, "nothing meanwhile")
producer.send("news-python", b"after the pause").get(PATIENCE)
expect(next(news).value, b"after the pause", "a record after the pause")
passed("quiet")

piece = b"".join(Pattern.pieces(1000))
for at in range(COUNT):
    producer.send("cargo-python", piece, key=str(at).encode())
producer.flush(PATIENCE)
cargo = consumer("cargo-python", "carriers-python")
keys = set()
for record in cargo:
    expect(record.value == piece, True, "a record's value")
    keys.add(record.key)
    if len(keys) == COUNT:
        break
expect(len(keys), COUNT, "records")
for client in (news, cargo, producer, admin):
    client.close()
passed("long")
