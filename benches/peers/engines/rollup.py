#!/usr/bin/env python3
"""Measures of rollup_daily from the Parquet files of `events`, by another engine: one measured run, or a comparison.

usage: rollup.py duckdb|chdb|polars LAKE ZONES_JSON OUT.parquet [--dedupe]
       rollup.py compare LAKE OURS OUT.parquet...

A run says `ready` when all is imported and the files are known, computes on two threads, writes OUT, says `done {...}`, and ends with its
standard input. It takes over what is cheap to leave out, always to the engine's advantage: no plans, first days, completeness, late events,
instrumented families or rule of nulls, and with --dedupe any copy of an event instead of the first. Each engine has the form that was
fastest here: see the comments. A comparison says where an engine's table differs from Daybook's.
"""
import argparse
import json
import os
import sys

THREADS = 2
os.environ["POLARS_MAX_THREADS"] = str(THREADS)
KEY = ["org_id", "activity_date", "user_key", "product", "client_type"]
IDENTITY = ["org_id", "source", "event_id"]
MINUTE_US = 60_000_000

# Name, count | sum | distinct, column, event types, values of columns (None: null counts, too).
CREDITS = {"meter": ["credits"]}
BILLED, NOT_BILLED = {"billable": [True]}, {"billable": [False, None]}
TAKEN = {"outcome": ["accepted", "modified"]}
MEASURES = [
    ("sessions", "distinct", "session_id", None, {}), ("turns", "distinct", "turn_id", None, {}),
    *[(c, "sum", c, ["activity.ticked"], {}) for c in ("active_user_ms", "active_agent_ms")],
    ("conversations", "count", None, ["conversation.started"], {}), ("prompts", "count", None, ["prompt.submitted"], {}),
    ("responses", "count", None, ["model.completed"], {"status": ["success"], "query_source": ["main", None]}),
    ("model_requests", "count", None, ["model.completed"], {}), ("model_errors", "count", None, ["model.completed"], {"status": ["error"]}),
    ("model_refusals", "count", None, ["model.completed"], {"status": ["refused"]}), ("latency_ms_sum", "sum", "duration_ms", ["model.completed"], {}),
    ("ttft_ms_sum", "sum", "ttft_ms", ["model.completed"], {}),
    *[(c, "sum", c, ["model.completed"], {}) for c in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "reasoning_tokens")],
    ("tool_calls", "count", None, ["tool.completed"], {}), ("tool_failures", "count", None, ["tool.completed"], {"status": ["error"]}),
    ("mcp_tool_calls", "count", None, ["tool.completed"], {"tool_type": ["mcp"]}),
    *[(f"tool_{d}s" if d != "modify" else "tool_modifies", "count", None, ["tool.decided"], {"decision": [d]}) for d in ("accept", "auto_accept", "reject", "modify")],
    ("agent_runs", "count", None, ["agent.run_started"], {}),
    *[(f"{k}_runs", "count", None, ["agent.run_started"], {"kind": [v]}) for k, v in (("subagent", "subagent"), ("cloud_agent", "cloud"))],
    ("shown", "count", None, ["suggestion.shown"], {}),
    *[(o, "count", None, ["suggestion.resolved"], {"outcome": [o]}) for o in ("accepted", "rejected", "dismissed")],
    *[(f"lines_suggested_{w}", "sum", f"lines_{w}", ["suggestion.shown"], {}) for w in ("add", "del")],
    *[(f"lines_accepted_{w}", "sum", f"lines_{w}", ["suggestion.resolved"], TAKEN) for w in ("add", "del")],
    *[(f"lines_total_{w}", "sum", f"lines_{w}", ["code.changed"], {}) for w in ("add", "del")],
    ("commits_ai", "count", None, ["vcs.commit_created"], {"origin": ["ai", "mixed"]}),
    ("prs_ai", "count", None, ["vcs.pull_request_changed"], {"origin": ["ai", "mixed"], "action": ["opened", None]}),
    ("credits_used", "sum", "quantity", ["usage.metered"], CREDITS), ("credits_used+", "sum", "delta", ["usage.corrected"], CREDITS),
    ("credits_included_used", "sum", "quantity", ["usage.metered"], {**CREDITS, "included": [True]}),
    ("credits_overage_used", "sum", "quantity", ["usage.metered"], {**CREDITS, "overage": [True]}),
    ("cost_estimated_micro_usd", "sum", "cost_micro_usd", ["usage.metered"], NOT_BILLED),
    ("cost_estimated_micro_usd+", "sum", "cost_delta_micro_usd", ["usage.corrected"], NOT_BILLED),
    ("cost_charged_micro_usd", "sum", "cost_micro_usd", ["usage.metered"], BILLED),
    ("cost_charged_micro_usd+", "sum", "cost_delta_micro_usd", ["usage.corrected"], BILLED),
    ("corrections", "count", None, ["usage.corrected"], {}),
]
USED = sorted({c for _, _, column, _, where in MEASURES for c in [column, *where] if c})
COLUMNS = ["org_id", "user_key", "product", "client_type", "event_type", "event_time", *USED]


def literal(value):
    return str(value).lower() if isinstance(value, bool) else f"'{value}'"


def sql_where(types, where):
    parts = [f"event_type in ({', '.join(literal(f'dev.daybook.{t}.v1') for t in types)})"] if types else []
    for column, values in where.items():
        known = f"{column} in ({', '.join(literal(v) for v in values if v is not None)})"
        parts.append(f"({known} or {column} is null)" if None in values else known)
    return " and ".join(parts)


def sql(source, day, minute):
    """The rollup in the words that DuckDB and ClickHouse share."""
    aggregates = ["count(*) as events_received", "min(event_time) as first_event_time", "max(event_time) as last_event_time", f"count(distinct {minute}) as active_minutes"]
    for name, kind, column, types, where in MEASURES:
        call = {"count": "count(*)", "sum": f"sum({column})", "distinct": f"count(distinct {column})"}[kind]
        only = sql_where(types, where)
        aggregates.append(f'{call}{f" filter (where {only})" if only else ""} as "{name}"')
    return f"""select org_id, {day} as activity_date, user_key, coalesce(product, 'unknown') as product, client_type, {", ".join(aggregates)}
        from {source} group by 1, 2, 3, 4, 5"""


def duckdb_run(files, zones, out, dedupe):
    import duckdb
    con = duckdb.connect()
    con.execute(f"set threads = {THREADS}; set preserve_insertion_order = false; set TimeZone = 'UTC'")
    yield {"version": duckdb.__version__}
    columns = ", ".join(dict.fromkeys([*COLUMNS, *(IDENTITY if dedupe else [])]))
    distinct = f"distinct on ({', '.join(IDENTITY)}) " if dedupe else ""
    source = f"(select {distinct}{columns} from read_parquet({files!r}, hive_partitioning = false))"
    # A zone by organisation: a join with days, as e2e/oracle/rollup.py has it, is slower.
    day = "case org_id " + " ".join(f"when '{org}' then (event_time at time zone '{zone}')::date" for org, zone in zones.items()) + " end"
    con.execute(f"copy ({sql(source, day, f'epoch_us(event_time) // {MINUTE_US}')}) to '{out}' (format parquet, compression zstd)")
    yield {"rows": con.sql(f"select count(*) from '{out}'").fetchall()[0][0]}


def chdb_run(files, zones, out, dedupe):
    import chdb
    from chdb import session
    yield {"version": chdb.__version__}
    columns = ", ".join(dict.fromkeys([*COLUMNS, *(IDENTITY if dedupe else [])]))
    # The files of a table of ours lie in one folder, those that were replaced, too.
    folder = os.path.dirname(os.path.dirname(files[0]))
    names = ",".join(os.path.relpath(name, folder) for name in files)
    source = f"(select {columns} from file('{folder}/{{{names}}}', Parquet){f' limit 1 by {chr(44).join(IDENTITY)}' if dedupe else ''})"
    day = "multiIf(" + ", ".join(f"org_id = '{org}', toDate(event_time, '{zone}')" for org, zone in zones.items()) + ", null)"
    question = sql(source, day, f"intDiv(toUnixTimestamp64Micro(event_time), {MINUTE_US})").replace("count(distinct ", "uniqExact(")
    settings = f"max_threads = {THREADS}, max_insert_threads = {THREADS}, session_timezone = 'UTC', output_format_parquet_compression_method = 'zstd', engine_file_truncate_on_insert = 1, use_hive_partitioning = 0, aggregate_functions_null_for_empty = 1"
    with session.Session() as chosen:
        chosen.query(f"insert into function file('{out}', Parquet) {question} settings {settings}")
        yield {"rows": int(str(chosen.query(f"select count() from file('{out}', Parquet)")).strip())}


def polars_run(files, zones, out, dedupe):
    import polars as pl
    yield {"version": pl.__version__}
    frame = pl.scan_parquet(files, hive_partitioning=False)
    if dedupe:
        frame = frame.unique(subset=IDENTITY, keep="any", maintain_order=False)
    time = pl.col("event_time")
    day = pl.lit(None, dtype=pl.Date)
    for org, zone in zones.items():
        day = pl.when(pl.col("org_id") == org).then(time.dt.convert_time_zone(zone).dt.date()).otherwise(day)

    def chosen(types, where):
        only = pl.col("event_type").is_in([f"dev.daybook.{t}.v1" for t in types]) if types else None
        for column, values in where.items():
            one = pl.col(column).is_in([v for v in values if v is not None])
            one = one.fill_null(None in values)
            only = one if only is None else only & one
        return only

    def measure(name, kind, column, types, where):
        only = chosen(types, where)
        if kind == "count":
            return only.sum().alias(name)
        values = pl.col(column) if only is None else pl.when(only).then(pl.col(column))
        return (values.sum() if kind == "sum" else values.drop_nulls().n_unique()).alias(name)

    minute = time.dt.epoch("us") // MINUTE_US
    rows = frame.group_by("org_id", day.alias("activity_date"), "user_key", pl.col("product").fill_null("unknown"), "client_type").agg(
        pl.len().alias("events_received"), time.min().alias("first_event_time"), time.max().alias("last_event_time"), minute.n_unique().alias("active_minutes"),
        *[measure(*m) for m in MEASURES])
    rows.sink_parquet(out, compression="zstd", engine="streaming")
    yield {"rows": pl.scan_parquet(out).select(pl.len()).collect().item()}


def run(engine, lake, zones, out, dedupe):
    from deltalake import DeltaTable
    files = [uri.removeprefix("file://") for uri in DeltaTable(f"{lake}/events").file_uris()]
    steps = {"duckdb": duckdb_run, "chdb": chdb_run, "polars": polars_run}[engine](files, json.load(open(zones)), out, dedupe)
    print("ready", json.dumps(next(steps)), flush=True)
    print("done", json.dumps(next(steps)), flush=True)
    sys.stdin.read()


def compare(lake, table, theirs):
    import duckdb
    from deltalake import DeltaTable
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    files = [uri.removeprefix("file://") for uri in DeltaTable(f"{lake}/{table}").file_uris()]
    con.execute(f"create view ours as select * from read_parquet({files!r}, hive_partitioning = true)")
    plain = [m[0] for m in MEASURES if not m[0].endswith("+")]
    added = {m[0][:-1] for m in MEASURES if m[0].endswith("+")}
    found = {}
    for path in theirs:
        con.execute(f"create or replace view theirs as select * from '{path}'")
        # ClickHouse writes text as bytes, days as numbers of days and sums of nothing as 0 or null.
        key = {k: f"t.{k}::varchar" for k in KEY}
        day = con.sql("select typeof(activity_date) from theirs limit 1").fetchall()[0][0]
        key["activity_date"] = "t.activity_date::date" if day == "DATE" else "(date '1970-01-01' + t.activity_date::int)"
        on = " and ".join(f"o.{k} = {expression}" for k, expression in key.items())
        values = {c: f't."{c}"' for c in ["events_received", "active_minutes", *plain]}
        values.update({c: f'coalesce(t."{c}", 0) + coalesce(t."{c}+", 0)' for c in added})
        # Where a client reports nothing of a kind, ours is null and theirs counts none; but turns and sessions of other events.
        distinct = [m[0] for m in MEASURES if m[1] == "distinct"]
        ours = {c: f'o."{c}"' if c in distinct else f'coalesce(o."{c}", 0)' for c in values}
        differs = ", ".join(f'count(*) filter (where {ours[c]} <> coalesce({v}, 0)) as "{c}"' for c, v in values.items())
        counts = con.sql(f"select count(*) filter (where o.org_id is null or t.org_id is null) as rows, {differs} from ours o full join theirs t on {on}").fetchall()[0]
        found[os.path.basename(path)] = {name: count for name, count in zip(["rows", *values], counts) if count}
    print(json.dumps(found))
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        compare(sys.argv[2], sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].removeprefix("usage: "))
    parser.add_argument("engine", choices=["duckdb", "chdb", "polars"])
    parser.add_argument("lake"), parser.add_argument("zones"), parser.add_argument("out")
    parser.add_argument("--dedupe", action="store_true")
    chosen = parser.parse_args()
    run(chosen.engine, chosen.lake, chosen.zones, chosen.out, chosen.dedupe)
