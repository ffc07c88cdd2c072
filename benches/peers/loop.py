#!/usr/bin/env python3
"""A consumer written by hand, as many teams have one: confluent-kafka, orjson, pyarrow and deltalake in one loop.

`rows.py` makes rows and commits. Positions come from the table, by assignment; there is no group to rebalance.
"""
import time

from confluent_kafka import Consumer, TopicPartition

import peer
from rows import Rows, Table

# As the worker's commits under load: about a second of its records.
RECORDS_PER_COMMIT = 100_000


def main():
    a = peer.arguments()
    table, rows = Table(a.folder, a.topic), Rows(a.columns)
    consumer = Consumer({"bootstrap.servers": a.bootstrap, "group.id": "loop", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "check.crcs": False})
    partitions = consumer.list_topics(a.topic, timeout=30).topics[a.topic].partitions
    peer.ready()
    started = time.monotonic()
    consumer.assign([TopicPartition(a.topic, p, table.next_offset(p)) for p in partitions])
    seen, commits = 0, 0
    while seen < a.records:
        for message in consumer.consume(10_000, timeout=0.2):
            if message.error():
                raise RuntimeError(message.error())
            rows.add(message.value(), message.headers(), message.partition(), message.offset())
            seen += 1
        if len(rows) >= RECORDS_PER_COMMIT or seen >= a.records:
            table.commit(rows)
            commits += 1
    peer.done({"seconds": time.monotonic() - started, "commits": commits})
    consumer.close()


main()
