#!/usr/bin/env python3
"""Do a peer's rows hold the same as ours? Joins both tables by partition and offset and compares every column that both have.

usage: compare.py OURS PEER     folders of Delta tables; prints {"rows": …, "columns": …, "different": {column: rows}} as JSON

Ours may lack rows that the peer has: it refuses more. `payload_hash` is left out, since each hashes its own form.
"""
import json, os, sys

import duckdb
from deltalake import DeltaTable


def files(folder):
    uris = [uri.removeprefix("file://") for uri in DeltaTable(folder).file_uris()]
    return "read_parquet(" + json.dumps(uris).replace('"', "'") + ", hive_partitioning = true)"


ours, peer = (files(folder) for folder in sys.argv[1:3])
names = lambda source: [row[0] for row in duckdb.sql(f"describe select * from {source}").fetchall()]
theirs = set(names(peer))
columns = [c for c in names(ours) if c in theirs and c not in ("log_partition", "log_offset", "payload_hash")]
different = ", ".join(f"count(*) filter (where o.{c} is distinct from p.{c})" for c in columns)
found = duckdb.sql(f"select count(*), {different} from {ours} o left join {peer} p using (log_partition, log_offset)").fetchall()[0]
print(json.dumps({"rows": found[0], "columns": len(columns),
                  "different": {c: n for c, n in zip(columns, found[1:]) if n}}))
sys.stdout.flush()
# deltalake's threads may still run, which the interpreter's own end does not survive.
os._exit(0)
