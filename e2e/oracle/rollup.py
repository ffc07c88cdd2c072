#!/usr/bin/env python3
"""Recomputes rollup_daily in DuckDB from the Parquet files of `events` and compares every measure of every key.

usage: rollup.py LAKE_URL ZONES_JSON CLIENTS_JSON [--local-root DIR] [--threads N] [--time-only]

The SQL is written by hand, from the meaning of the measures, not from Daybook's definitions; day boundaries come from
Python's zoneinfo. Storage options for s3:// are taken from the AWS_* environment. --local-root maps s3://BUCKET/… to
DIR/BUCKET/… where the object store keeps objects as plain files. Exit 0 only where all is equal.
"""
import argparse, datetime as dt, json, os, sys, time
from zoneinfo import ZoneInfo

import duckdb
from deltalake import DeltaTable

p = argparse.ArgumentParser()
p.add_argument("lake"); p.add_argument("zones"); p.add_argument("clients")
p.add_argument("--local-root"); p.add_argument("--threads", type=int, default=2); p.add_argument("--time-only", action="store_true")
a = p.parse_args()

OPTIONS = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}


def files(table):
    t = DeltaTable(f"{a.lake}/{table}", storage_options=OPTIONS)
    uris = t.file_uris()
    if a.local_root:
        uris = [os.path.join(a.local_root, u.removeprefix("s3://")) for u in uris]
    return [u.removeprefix("file://") for u in uris]


con = duckdb.connect()
con.execute(f"set threads={a.threads}")
con.execute("set TimeZone='UTC'")
zones = json.load(open(a.zones))
declared = [(c["product"], c["client_type"], f) for c in json.load(open(a.clients)) for f in c["families"]]
con.execute("create table declared(product varchar, client_type varchar, family varchar)")
con.executemany("insert into declared values (?,?,?)", declared)

started = time.time()
E = files("events")
con.execute("create view raw as select * from read_parquet(?, hive_partitioning=true)".replace("?", json.dumps(E).replace('"', "'")))
first, last = con.sql("select min(event_time), max(event_time) from raw").fetchall()[0]
days = []
for org, zone in zones.items():
    z, d = ZoneInfo(zone), first.date() - dt.timedelta(days=2)
    at = lambda day: dt.datetime(day.year, day.month, day.day, tzinfo=z).astimezone(dt.timezone.utc)
    while d <= last.date() + dt.timedelta(days=2):
        days.append((org, d, at(d), at(d + dt.timedelta(days=1)), zone)); d += dt.timedelta(days=1)
con.execute("create table days(org_id varchar, activity_date date, day_start timestamptz, day_end timestamptz, time_zone varchar)")
con.executemany("insert into days values (?,?,?,?,?)", days)

FAMILIES = ["session", "activity", "conversation", "prompt", "model", "tool", "suggestion", "code", "vcs", "agent", "usage"]
ALL_FAMILIES = FAMILIES + ["feedback", "review", "transform", "subscription", "identity", "auth", "access", "privacy", "telemetry", "report"]
T = lambda *names: "event_type in (" + ",".join(f"'dev.daybook.{n}.v1'" for n in names) + ")"
n = lambda where: f"count(*) filter (where {where})"
s = lambda col, where, typ="bigint": f"coalesce(sum({col}) filter (where {where}), 0)::{typ}"
D = "decimal(20,6)"
credits, cost = f"{T('usage.metered')} and meter='credits'", f"{T('usage.metered')}"
main = f"{T('model.completed')} and status='success' and coalesce(query_source,'main')='main'"
MEASURES = {  # name: (families, SQL)
    "sessions": ("session", "count(distinct session_id)"), "active_user_ms": ("activity", s("active_user_ms", T("activity.ticked"))),
    "active_agent_ms": ("activity", s("active_agent_ms", T("activity.ticked"))), "conversations": ("conversation", n(T("conversation.started"))),
    "turns": ("prompt", "count(distinct turn_id)"), "prompts": ("prompt", n(T("prompt.submitted"))), "responses": ("model", n(main)),
    "messages_total": ("prompt model tool", f"{n(T('prompt.submitted', 'tool.completed'))} + {n(main)}"),
    "model_requests": ("model", n(T("model.completed"))), "model_errors": ("model", n(f"{T('model.completed')} and status='error'")),
    "model_refusals": ("model", n(f"{T('model.completed')} and status='refused'")), "latency_ms_sum": ("model", s("duration_ms", T("model.completed"))),
    "ttft_ms_sum": ("model", s("ttft_ms", T("model.completed"))),
    **{c: ("model", s(c, T("model.completed"))) for c in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "reasoning_tokens")},
    "tool_calls": ("tool", n(T("tool.completed"))), "tool_failures": ("tool", n(f"{T('tool.completed')} and status='error'")),
    "mcp_tool_calls": ("tool", n(f"{T('tool.completed')} and tool_type='mcp'")),
    **{f"tool_{d}s": ("tool", n(f"{T('tool.decided')} and decision='{v}'")) for d, v in (("accept", "accept"), ("auto_accept", "auto_accept"), ("reject", "reject"))},
    "tool_modifies": ("tool", n(f"{T('tool.decided')} and decision='modify'")),
    "agent_runs": ("agent", n(T("agent.run_started"))), "subagent_runs": ("agent", n(f"{T('agent.run_started')} and kind='subagent'")),
    "cloud_agent_runs": ("agent", n(f"{T('agent.run_started')} and kind='cloud'")), "shown": ("suggestion", n(T("suggestion.shown"))),
    **{o: ("suggestion", n(f"{T('suggestion.resolved')} and outcome='{o}'")) for o in ("accepted", "rejected", "dismissed")},
    "lines_suggested_add": ("suggestion", s("lines_add", T("suggestion.shown"))), "lines_suggested_del": ("suggestion", s("lines_del", T("suggestion.shown"))),
    "lines_accepted_add": ("suggestion", s("lines_add", f"{T('suggestion.resolved')} and outcome in ('accepted','modified')")),
    "lines_accepted_del": ("suggestion", s("lines_del", f"{T('suggestion.resolved')} and outcome in ('accepted','modified')")),
    "lines_total_add": ("code", s("lines_add", T("code.changed"))), "lines_total_del": ("code", s("lines_del", T("code.changed"))),
    "commits_ai": ("vcs", n(f"{T('vcs.commit_created')} and origin in ('ai','mixed')")),
    "prs_ai": ("vcs", n(f"{T('vcs.pull_request_changed')} and origin in ('ai','mixed') and coalesce(action,'opened')='opened'")),
    "credits_used": ("usage", f"({s('quantity', credits, D)} + {s('delta', T('usage.corrected') + chr(32) + 'and meter=' + chr(39) + 'credits' + chr(39), D)})::{D}"),
    "credits_included_used": ("usage", s("quantity", f"{credits} and included", D)), "credits_overage_used": ("usage", s("quantity", f"{credits} and overage", D)),
    "cost_estimated_micro_usd": ("usage", f"{s('cost_micro_usd', cost + ' and billable is not true')} + {s('cost_delta_micro_usd', T('usage.corrected') + ' and billable is not true')}"),
    "cost_charged_micro_usd": ("usage", f"{s('cost_micro_usd', cost + ' and billable')} + {s('cost_delta_micro_usd', T('usage.corrected') + ' and billable')}"),
    "corrections": ("usage", n(T("usage.corrected"))),
}
K = "org_id, activity_date, user_key, product, client_type"
seen = ", ".join(f"bool_or(starts_with(event_type,'dev.daybook.{f}.') or (event_type='dev.daybook.telemetry.status.v1' and list_contains(string_split(reports,','),'{f}'))) as seen_{f}" for f in ALL_FAMILIES)
con.execute(f"""
create table grouped as
with numbered as (
  select *, row_number() over w as copy, count(*) over (partition by org_id, source, event_id) as copies
  from raw window w as (partition by org_id, source, event_id order by recorded_time, log_partition, log_offset)),
dated as (
  select e.* exclude (product), coalesce(e.product, 'unknown') as product, d.activity_date, d.day_start, d.day_end, d.time_zone
  from numbered e join days d on e.org_id = d.org_id and e.event_time >= d.day_start and e.event_time < d.day_end
  where copy = 1),
sequences as (
  select {K}, sum(hi - lo + 1)::bigint as events_expected, sum(n)::bigint as with_sequence from (
    select {K}, install_id, max(sequence) as hi, min(sequence) as lo, count(*) as n from dated
    where install_id is not null and sequence is not null group by {K}, install_id) group by {K}),
measured as (
  select {K}, any_value(day_start) as day_start, any_value(day_end) as day_end, any_value(time_zone) as time_zone, count(*) as events_received,
    {n("recorded_time >= day_end")} as late_events, sum(copies - 1)::bigint as duplicates_removed,
    min(event_time) as first_event_time, max(event_time) as last_event_time,
    count(distinct epoch_us(event_time) // 60000000) as active_minutes, {seen},
    {", ".join(f"{sql} as {name}" for name, (_, sql) in MEASURES.items())}
  from dated group by {K})
select m.*, q.events_expected, round(q.with_sequence / q.events_expected, 6)::{D} as completeness from measured m left join sequences q using ({K})""")
for f in ALL_FAMILIES:
    con.execute(f"alter table grouped add column has_{f} boolean")
    con.execute(f"update grouped g set has_{f} = coalesce(seen_{f}, false) or exists (select 1 from declared d where d.product=g.product and d.client_type=g.client_type and d.family='{f}')")
con.execute(f"""
create table expected as
with subs as (
  select distinct r.org_id, r.user_key, r.event_time, r.recorded_time, r.log_partition, r.log_offset, r.state, r.tier, r.overage_enabled, r.overage_cap
  from raw r where {T("subscription.changed")}),
keys as (select distinct org_id, user_key, activity_date, day_end from grouped),
plans as (
  select k.org_id, k.user_key, k.activity_date, s.* exclude (org_id, user_key) from keys k join subs s
    on s.org_id = k.org_id and s.user_key = k.user_key and s.event_time < k.day_end
  qualify row_number() over (partition by k.org_id, k.user_key, k.activity_date
    order by s.event_time desc, s.recorded_time desc, s.log_partition desc, s.log_offset desc) = 1),
firsts as (select org_id, user_key, min(activity_date) as first_active_date from grouped group by all)
select g.org_id, g.activity_date, g.user_key, g.product, g.client_type, g.day_start, g.day_end, g.time_zone, g.events_received, g.events_expected, g.completeness,
  g.late_events, g.duplicates_removed, g.first_event_time, g.last_event_time, g.active_minutes,
  array_to_string(list_sort([f for f in [{", ".join(f"case when has_{f} then '{f}' end" for f in ALL_FAMILIES)}] if f is not null]), ',') as instrumented,
  {", ".join(f"case when {' or '.join('has_' + f for f in fams.split())} then {name} end as {name}" for name, (fams, _) in MEASURES.items())},
  p.state as subscription_state, p.tier as subscription_tier, p.overage_enabled, p.overage_cap,
  f.first_active_date, f.first_active_date = g.activity_date as newly_activated
from grouped g left join plans p using (org_id, user_key, activity_date) join firsts f using (org_id, user_key)""")
seconds = time.time() - started
rows = con.sql("select count(*) from expected").fetchall()[0][0]
if a.time_only:
    print(json.dumps({"rows": rows, "seconds": seconds}))
    sys.exit(0)

con.execute("create view actual as select * from read_parquet(?, hive_partitioning=true)".replace("?", json.dumps(files("rollup_daily")).replace('"', "'")))
columns = [c[0] for c in con.sql("describe expected").fetchall()]
keys = ["org_id", "activity_date", "user_key", "product", "client_type"]
on = " and ".join(f"e.{k} = a.{k}" for k in keys)
faults = con.sql(f"select count(*) filter (where a.org_id is null), count(*) filter (where e.org_id is null) from expected e full join actual a on {on}").fetchall()[0]
bad = {}
if faults[0] or faults[1]:
    bad["rows"] = {"missing": faults[0], "unexpected": faults[1]}
for c in columns:
    if c in keys:
        continue
    differ = f"abs(e.{c} - a.{c}) > 0.000001 or (e.{c} is null) <> (a.{c} is null)" if c == "completeness" else f"e.{c} is distinct from a.{c}"
    count, example = con.sql(f"select count(*), any_value(struct_pack(org_id:=e.org_id, day:=e.activity_date::varchar, usr:=e.user_key, product:=e.product, client:=e.client_type, expected:=e.{c}::varchar, actual:=a.{c}::varchar)) from expected e join actual a on {on} where {differ}").fetchall()[0]
    if count:
        bad[c] = {"rows": count, "example": example}
duplicate_keys = con.sql(f"select count(*) from (select 1 from actual group by {', '.join(keys)} having count(*) > 1)").fetchall()[0][0]
if duplicate_keys:
    bad["duplicate keys"] = duplicate_keys
extra = [c[0] for c in con.sql("describe actual").fetchall() if c[0] not in columns]
print(json.dumps({"rows": rows, "columns": len(columns), "not compared": extra, "differences": bad, "seconds": round(seconds, 2)}, default=str, indent=1))
sys.exit(1 if bad else 0)
