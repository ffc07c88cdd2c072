#!/usr/bin/env python3
"""Opens every table with two other engines, Python deltalake and DuckDB, reads all of it, and prints what they count, as JSON.

usage: read_tables.py LAKE_URL [--local-root DIR]

`log` has one row for each partition of the log, over `events` and `dead_letters` together:
[partition, rows, distinct offsets, first offset, last offset]. `breakdowns` has, for each table that breaks `rollup_daily` down, how many
people's sums differ between both.
"""
import argparse, json, os, sys

import duckdb
from deltalake import DeltaTable

p = argparse.ArgumentParser()
p.add_argument("lake"); p.add_argument("--local-root")
a = p.parse_args()
options = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
out, log = {}, []
# There after any rollup.
EXPECTED = {"events", "dead_letters", "rollup_daily", "rollup_revisions", "rollup_superseded", "model_daily", "tool_daily",
            "feature_daily", "language_daily", "org_daily", "client_mix", "acceptance", "data_health", "active_users", "trend",
            "cohort_activity", "cohort_retention", "licence_state", "adoption_funnel"}


def tables():
    """Every table of the lake: with a local root by its folders, otherwise those that any lake has."""
    if not a.local_root:
        return ["events", "dead_letters", "rollup_daily"]
    root = os.path.join(a.local_root, a.lake.removeprefix("s3://"))
    found = sorted(name for name in os.listdir(root) if os.path.isdir(os.path.join(root, name, "_delta_log")))
    missing = EXPECTED - set(found)
    if missing:
        sys.exit(f"not there: {', '.join(sorted(missing))}")
    return found


sources, fields = {}, {}
for table in tables():
    t = DeltaTable(f"{a.lake}/{table}", storage_options=options)
    uris = t.file_uris()
    if a.local_root:
        uris = [os.path.join(a.local_root, u.removeprefix("s3://")) for u in uris]
    uris = [u.removeprefix("file://") for u in uris]
    source = "read_parquet(" + json.dumps(uris).replace('"', "'") + ")"
    # Hashes, so that every value is read.
    rows = duckdb.sql(f"select count(*), sum(hash(t)) from {source} t").fetchall()[0][0] if uris else 0
    sources[table], fields[table] = source, [f.name for f in t.schema().fields]
    out[table] = {"version": t.version(), "files": len(uris), "duckdb_rows": rows,
                  "deltalake_rows": sum(batch.num_rows for batch in t.to_pyarrow_dataset().to_batches()),
                  "columns": len(t.schema().fields), "comments": sum(1 for f in t.schema().fields if f.metadata.get("comment"))}
    if uris and table in ("events", "dead_letters"):
        log.append(f"select log_partition, log_offset from {source}")
KEY = ("org_id", "user_key", "product", "client_type")
DAILY = set(KEY) | {"activity_date"}
out["breakdowns"] = {}
for table in (name for name in sources if name not in ("rollup_daily", "rollup_superseded") and DAILY < set(fields[name])):
    shared = [name for name in fields[table] if name in fields["rollup_daily"] and name not in DAILY]
    summed = lambda of: f"select {', '.join(KEY)}, {', '.join(f'sum({m}) as {m}' for m in shared)} from {sources[of]} group by all"
    differ = " or ".join(f"coalesce(r.{m}, 0) <> coalesce(p.{m}, 0)" for m in shared)
    if shared:
        rows = duckdb.sql(f"select count(*) from ({summed('rollup_daily')}) r full join ({summed(table)}) p "
                          f"using ({', '.join(KEY)}) where {differ}").fetchall()[0][0]
        out["breakdowns"][table] = {"measures": len(shared), "people_that_differ": rows}
if log:
    rows = duckdb.sql("select log_partition, count(*), count(distinct log_offset), min(log_offset), max(log_offset) from ("
                      + " union all ".join(log) + ") group by 1 order by 1").fetchall()
    out["log"] = [list(map(int, row)) for row in rows]
print(json.dumps(out, indent=1))
sys.stdout.flush()
# deltalake's threads may still run, which the interpreter's own end does not survive.
os._exit(0)
