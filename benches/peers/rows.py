"""Records of the log to rows of `events`, and rows to one Delta commit that also holds the offsets: for the peers in Python.

orjson reads a record, pyarrow makes typed columns of the dictionaries (as one struct: a list for each column took five times as
long), and deltalake (delta-rs) writes Parquet by day and commits. As in the worker, a commit names each partition's next offset,
so that a restart repeats nothing. Left out, as for Spark: sorting, `ext`, duplicate ids, refusal of content, and the table of
dead letters: what is no event is kept in the column `corrupt`. A value of a wrong type within `data` ends the program.
"""
import os

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake

UTC = pa.timestamp("us", "UTC")
TYPES = {"text": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "time": UTC, "decimal": pa.decimal128(20, 6)}
TEXTS = ("id", "source", "type", "time", "subject")
INTEGERS = ("sequence", "tzoffset")


class Rows:
    """Records that wait for the next commit, column by column."""

    def __init__(self, columns):
        self.columns, self.known = columns["columns"], frozenset(columns["client_types"])
        self.client_types = {}
        # A decimal is a number or a text, and a time is a text: they are cast later.
        kind = lambda column: pa.string() if column["type"] == "time" else TYPES[column["type"]]
        fields = {True: {}, False: {name: pa.string() for name in TEXTS}}
        for column in self.columns:
            if column["type"] != "decimal":
                fields[column["in_data"]].update((name, kind(column)) for name in column["from"])
        self.type = pa.struct([*fields[False].items(), ("data", pa.struct(list(fields[True].items())))])
        self.clear()

    def clear(self):
        self.events, self.values, self.headers, self.offsets, self.partitions, self.next = [], [], [], [], [], {}

    def __len__(self):
        return len(self.offsets)

    def add(self, value, headers, partition, offset):
        self.values.append(value)
        self.headers.append(headers)
        self.offsets.append(offset)
        self.partitions.append(partition)
        self.next[partition] = offset + 1
        self.events.append(event(value))

    def client_type(self, raw):
        known = self.client_types.get(raw)
        if known is None:
            name = (raw or "unknown").lower().replace("-", "_")
            known = self.client_types[raw] = name if name in self.known else "unknown"
        return known

    def table(self):
        """All of them as Arrow."""
        events = [e or NOTHING for e in self.events]
        data = [e.get("data") or NOTHING for e in events]
        envelope = pa.array(events, self.type)
        inner = envelope.field("data")
        headers = [dict(h) for h in self.headers]
        header = lambda name: pa.array([h.get(name) for h in headers], pa.string())
        recorded, time = times(header("daybook-recorded-time")), times(envelope.field("time"))
        out = {
            "event_date": pc.cast(pc.coalesce(time, recorded), pa.date32()),
            "org_id": header("daybook-org"), "user_key": envelope.field("subject"),
            "client_type": pa.array([self.client_type(e.get("clienttype")) for e in events], pa.string()),
            "event_time": time, "event_id": pa.array([event_id(e.get("id")) for e in events], pa.binary()),
            "source": envelope.field("source"), "event_type": envelope.field("type"),
            "recorded_time": recorded, "vantage": header("daybook-vantage"),
            "log_partition": pa.array(self.partitions, pa.int32()), "log_offset": pa.array(self.offsets, pa.int64()),
            "payload_hash": pa.array([xxhash.xxh3_64_intdigest(v) - (1 << 63) for v in self.values], pa.int64()),
        }
        for column in self.columns:
            names, place = column["from"], inner if column["in_data"] else envelope
            if column["type"] == "decimal":
                made = decimals(data, names)
            else:
                made = pc.coalesce(*(place.field(name) for name in names))
            out[column["column"]] = times(made) if column["type"] == "time" else made
        out["corrupt"] = pa.array([None if e else v for e, v in zip(self.events, self.values)], pa.binary())
        return pa.table(out)


NOTHING = {}


def event(value):
    """The record's event, or None where it is none."""
    try:
        e = orjson.loads(value)
        if e["specversion"] == "1.0" and all(type(e[name]) is str and e[name] for name in TEXTS):
            if all(type(e.get(name, 0)) is int for name in INTEGERS) and type(e.get("data", NOTHING)) is dict:
                return e
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    return None


def event_id(text):
    if text is None:
        return None
    return bytes.fromhex(text.replace("-", "")) if len(text) == 36 else b"\xff" + text.encode()


def times(texts):
    return pc.cast(texts, UTC)


def decimals(objects, names):
    found = (next((o[name] for name in names if name in o), None) for o in objects)
    return pc.cast(pa.array([None if v is None else str(v) for v in found], pa.string()), TYPES["decimal"])


class Table:
    """The Delta table, and how far each partition is in it."""

    def __init__(self, folder, topic):
        self.folder, self.topic = os.path.join(folder, "events"), topic
        self.properties = WriterProperties(compression="ZSTD", compression_level=1)

    def next_offset(self, partition):
        if not DeltaTable.is_deltatable(self.folder):
            return 0
        return DeltaTable(self.folder).transaction_version(self.app_id(partition)) or 0

    def app_id(self, partition):
        return f"{self.topic}/{partition}"

    def commit(self, rows):
        if len(rows):
            transactions = [Transaction(self.app_id(p), offset) for p, offset in rows.next.items()]
            write_deltalake(self.folder, rows.table(), mode="append", partition_by=["event_date"],
                            writer_properties=self.properties, commit_properties=CommitProperties(app_transactions=transactions))
        rows.clear()
