#!/usr/bin/env python3
"""Opens every table with two other engines, Python deltalake and DuckDB, and prints what they count, as JSON.

usage: read_tables.py LAKE_URL [--local-root DIR]
"""
import argparse, json, os

import duckdb
from deltalake import DeltaTable

p = argparse.ArgumentParser()
p.add_argument("lake"); p.add_argument("--local-root")
a = p.parse_args()
options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
out = {}
for table in ("events", "dead_letters", "rollup_daily"):
    t = DeltaTable(f"{a.lake}/{table}", storage_options=options)
    uris = t.file_uris()
    if a.local_root:
        uris = [os.path.join(a.local_root, u.removeprefix("s3://")) for u in uris]
    uris = [u.removeprefix("file://") for u in uris]
    rows = duckdb.sql("select count(*) from read_parquet(" + json.dumps(uris).replace('"', "'") + ")").fetchone()[0] if uris else 0
    read = t.to_pyarrow_table() if rows < 5_000_000 else None
    out[table] = {"version": t.version(), "files": len(uris), "duckdb_rows": rows,
                  "deltalake_rows": read.num_rows if read is not None else None,
                  "columns": len(t.schema().fields), "comments": sum(1 for f in t.schema().fields if f.metadata.get("comment"))}
    if table == "events" and uris:
        out["log"] = [list(map(int, row)) for row in duckdb.sql(
            "select log_partition, count(*), count(distinct log_offset), min(log_offset), max(log_offset) from read_parquet("
            + json.dumps(uris).replace('"', "'") + ") group by 1 order by 1").fetchall()]
print(json.dumps(out, indent=1))
