#!/usr/bin/env python3
"""Opens every table with two other engines, Python deltalake and DuckDB, reads all of it, and prints what they count, as JSON.

usage: read_tables.py LAKE_URL [--local-root DIR]

`log` has one row for each partition of the log, over `events` and `dead_letters` together:
[partition, rows, distinct offsets, first offset, last offset].
"""
import argparse, json, os, sys

import duckdb
from deltalake import DeltaTable

p = argparse.ArgumentParser()
p.add_argument("lake"); p.add_argument("--local-root")
a = p.parse_args()
options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
out, log = {}, []
DERIVED = ("org_daily", "client_mix", "acceptance", "data_health", "active_users", "trend", "cohort_activity", "cohort_retention",
           "licence_state", "adoption_funnel")
for table in ("events", "dead_letters", "rollup_daily") + DERIVED:
    t = DeltaTable(f"{a.lake}/{table}", storage_options=options)
    uris = t.file_uris()
    if a.local_root:
        uris = [os.path.join(a.local_root, u.removeprefix("s3://")) for u in uris]
    uris = [u.removeprefix("file://") for u in uris]
    source = "read_parquet(" + json.dumps(uris).replace('"', "'") + ")"
    rows = duckdb.sql(f"select count(*) from {source}").fetchall()[0][0] if uris else 0
    out[table] = {"version": t.version(), "files": len(uris), "duckdb_rows": rows,
                  "deltalake_rows": sum(batch.num_rows for batch in t.to_pyarrow_dataset().to_batches()),
                  "columns": len(t.schema().fields), "comments": sum(1 for f in t.schema().fields if f.metadata.get("comment"))}
    if uris and table in ("events", "dead_letters"):
        log.append(f"select log_partition, log_offset from {source}")
if log:
    rows = duckdb.sql("select log_partition, count(*), count(distinct log_offset), min(log_offset), max(log_offset) from ("
                      + " union all ".join(log) + ") group by 1 order by 1").fetchall()
    out["log"] = [list(map(int, row)) for row in rows]
print(json.dumps(out, indent=1))
sys.stdout.flush()
# deltalake's threads may still run, which the interpreter's own end does not survive.
os._exit(0)
