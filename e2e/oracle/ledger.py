#!/usr/bin/env python3
"""Balances the tables against the log: every record stands in one place, and every commit says truly which records it covers.

usage: ledger.py LAKE_DIR RECORDS_NDJSON

RECORDS_NDJSON has a line for each record of the log: partition, offset, org, source, id, digest of what makes its payload.
Reads the JSON entries of the Delta logs, all of them, and each data file that a commit ever added, also those that were
merged since. Prints what it counts as JSON; exit 1 and `faults` where anything is wrong:

- next_offset of each partition only grows, from version to version; so the intervals [before, next_offset) join up;
- the rows of a commit lie in its intervals; rows and dead letters together are the records of the log, each once, and so
  fill each interval;
- rows and dead letters are of the record that stands at their offset; an id has one payload in `events`; a dead letter of
  cause `conflict` has the id of a row with another payload;
- dead letters of other causes lie in the intervals of their commits; claims move by one.
"""
import json, os, re, sys
from urllib.parse import unquote

import duckdb

lake, records = sys.argv[1:]
faults, con = {}, duckdb.connect()
con.execute("set threads=2")


def check(name, found):
    if found:
        faults[name] = found[:5] if isinstance(found, list) else found


def commits(table):
    """Intervals (version, partition, first, next) and added files (file, version), from the entries of the log."""
    folder = os.path.join(lake, table, "_delta_log")
    names = sorted(n for n in os.listdir(folder) if re.fullmatch(r"\d{20}\.json", n))
    check(f"{table}: versions missing", [n for i, n in enumerate(names) if int(n[:20]) != i])
    at, intervals, files, moved = {}, [], [], []
    for name in names:
        version = int(name[:20])
        actions = [json.loads(line) for line in open(os.path.join(folder, name)) if line.strip()]
        txns = [a["txn"] for a in actions if "txn" in a]
        adds = [a["add"] for a in actions if "add" in a and a["add"]["dataChange"]]
        check(f"{table}: rows removed", [a["remove"]["path"] for a in actions if "remove" in a and a["remove"]["dataChange"]])
        if adds and not txns:
            check(f"{table}: rows without offsets", [version])
        for txn in txns:
            kind, partition = txn["appId"].split("/", 1)[0], int(txn["appId"].rsplit("/", 1)[1])
            before = at.get(txn["appId"], 0)
            if txn["version"] <= before or (kind == "daybook-claims" and txn["version"] != before + 1):
                moved.append([version, txn["appId"], before, txn["version"]])
            at[txn["appId"]] = txn["version"]
            if kind == "daybook":
                intervals.append((version, partition, before, txn["version"]))
        files += [(os.path.join(lake, table, unquote(a["path"])), version) for a in adds]
    check(f"{table}: offsets that did not grow", moved)
    check(f"{table}: logs of other identities", [] if len({a.rsplit("/", 1)[0] for a in at}) <= 2 else sorted(at))
    return len(names), intervals, files


def load(table, columns):
    versions, intervals, files = commits(table)
    con.execute(f"create table {table}_intervals(version bigint, p int, first bigint, next bigint)")
    con.execute(f"create table {table}_files(file varchar, version bigint)")
    for name, rows in ((f"{table}_intervals", intervals), (f"{table}_files", files)):
        for start in range(0, len(rows), 10_000):
            values = ",".join("(" + ",".join(json.dumps(v).replace('"', "'") for v in row) + ")" for row in rows[start:start + 10_000])
            con.execute(f"insert into {name} values {values}")
    names = json.dumps([f for f, _ in files]).replace('"', "'")
    con.execute(f"""create table {table} as select f.version, log_partition as p, log_offset as o, {columns}
        from read_parquet({names}, filename=true) r join {table}_files f on r.filename = f.file""")
    return versions


con.execute(f"""create table log as select * from read_json('{records}', format='newline_delimited', columns={{
    partition: 'int', "offset": 'bigint', org: 'varchar', source: 'varchar', id: 'varchar', digest: 'varchar'}})""")
con.execute("alter table log rename column partition to p")
con.execute('alter table log rename column "offset" to o')
versions = load("events", "org_id, source, hex(event_id) as id, payload_hash")
load("dead_letters", "cause, topic, org_id")


def ask(name, sql):
    check(name, [list(map(str, row)) for row in con.sql(sql + " limit 5").fetchall()])


OUTSIDE = "left join {0}_intervals i on i.version = r.version and i.p = r.p where (i.p is null or r.o < i.first or r.o >= i.next)"
ask("rows outside of their commit's intervals", "select r.version, r.p, r.o, i.first, i.next from events r " + OUTSIDE.format("events"))
ask("dead letters outside of their commit's intervals",
    "select r.version, r.p, r.o, i.first, i.next from dead_letters r " + OUTSIDE.format("dead_letters") + " and r.cause <> 'conflict'")
con.execute("create view account as select p, o, 'events' as place from events union all select p, o, 'dead_letters' from dead_letters")
ask("records in two places", "select p, o, list(place) from account group by all having count(*) > 1")
ask("records in no place", "select p, o, id from log anti join account using (p, o)")
ask("rows of no record", "select p, o, place from account anti join log using (p, o)")
ask("intervals end elsewhere than the log", """select p, max(next), any_value(n) from events_intervals
    right join (select p, max(o) + 1 as n from log group by p) using (p) group by p having max(next) is distinct from any_value(n)""")
con.execute("""create view known as select log.*, case when regexp_full_match(id, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
    then upper(replace(id, '-', '')) else 'FF' || hex(encode(id)) end as hex from log""")
ask("rows of another record", """select p, o, e.id, k.hex from events e join known k using (p, o)
    where e.id is distinct from k.hex or e.org_id is distinct from k.org or e.source is distinct from k.source""")
con.execute("""create table payloads as select org, source, id, min(digest) as digest, count(distinct digest) as digests, count(*) as copies
    from log semi join events using (p, o) group by all""")
ask("ids with two payloads", "select org, source, id, digests from payloads where digests > 1")
ask("ids with two hashes", "select org_id, source, id from events group by all having count(distinct payload_hash) > 1")
ask("conflicts with nothing", """select l.p, l.o, l.id, q.digest from dead_letters d join log l using (p, o)
    left join payloads q on q.org = l.org and q.source = l.source and q.id = l.id
    where d.cause = 'conflict' and (q.digest is null or q.digest = l.digest)""")
one = lambda sql: con.sql(sql).fetchall()[0][0]
causes = dict(con.sql("select cause, count(*) from dead_letters group by 1 order by 1").fetchall())
found = {"commits": versions, "rows": one("select count(*) from events"), "copies": one("select coalesce(sum(copies - 1), 0)::bigint from payloads"),
         "dead_letters": causes, "faults": faults}
print(json.dumps(found, indent=1))
sys.exit(1 if faults else 0)
