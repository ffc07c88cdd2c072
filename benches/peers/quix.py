#!/usr/bin/env python3
"""Quix Streams with a sink for Delta: the topic, from the first record to the last, into a Delta table.

Its sinks have none for Delta: this is one, by its documented BaseSink. Quix Streams polls, hands on each record and makes
checkpoints; `rows.py` does the rest. The framework commits offsets to the group after the sink has flushed; the sink drops what
its table already has, so that a record which comes again after a crash is not written twice.
"""
import time

from quixstreams import Application
from quixstreams.sinks import BaseSink

import peer
from rows import Rows, Table

# As the worker's commits under load: about a second of its records.
RECORDS_PER_COMMIT = 100_000


class DeltaSink(BaseSink):
    def __init__(self, table, columns):
        super().__init__()
        self.table, self.rows, self.first, self.commits = table, Rows(columns), {}, 0

    def setup(self):
        pass

    def add(self, value, key, timestamp, headers, topic, partition, offset):
        first = self.first.get(partition)
        if first is None:
            first = self.first[partition] = self.table.next_offset(partition)
        if offset >= first:
            self.rows.add(value, headers, partition, offset)

    def flush(self):
        self.commits += bool(len(self.rows))
        self.table.commit(self.rows)

    def on_paused(self):
        self.rows.clear()
        self.first.clear()


def main():
    a = peer.arguments()
    sink = DeltaSink(Table(a.folder, a.topic), a.columns)
    app = Application(
        broker_address=a.bootstrap, consumer_group=f"quix-{time.time_ns()}", auto_offset_reset="earliest", auto_create_topics=False,
        commit_interval=3600, commit_every=RECORDS_PER_COMMIT, state_dir=a.folder, loglevel="ERROR")
    # Bytes: the framework's own JSON reader stops at what is no JSON, and orjson is faster.
    stream = app.dataframe(app.topic(a.topic, value_deserializer="bytes", key_deserializer="bytes"))
    stream.sink(sink)
    peer.ready()
    started = time.monotonic()
    app.run(count=a.records, collect=False)
    peer.done({"seconds": time.monotonic() - started, "commits": sink.commits})


main()
