//! No statement, route, plan or error shows a row of another organisation.
//!
//! Each probe runs three times as each organisation, and once without the fence: there it must show foreign rows, or it
//! would not notice if the fence were gone.

use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use schemas::{EVENTS, rollup::ROLLUP_DAILY};

use super::world::{ORGS, World, org};
use crate::{Access, formats::Format, routes, sql};

/// How the names of data files begin.
pub(super) const FILE: &str = "part-";

/// Statements that show foreign rows unless something stops them.
pub(super) const PROBES: &[&str] = &[
    "SELECT * FROM rollup_daily",
    "SELECT * FROM events",
    "SELECT user_key FROM daybook.public.events",
    "SELECT * FROM events WHERE org_id = 'globex' OR org_id = 'acme' OR org_id = 'initech'",
    "SELECT * FROM events WHERE org_id <> 'acme' OR org_id <> 'globex'",
    "SELECT * FROM events WHERE true OR org_id = 'nobody'",
    "SELECT DISTINCT org_id FROM rollup_daily",
    "SELECT min(org_id), max(org_id), min(user_key), max(user_key) FROM events",
    "SELECT max(user_key) FROM rollup_daily",
    "SELECT array_agg(user_key) FROM events",
    "SELECT string_agg(user_key, ',') FROM events",
    "SELECT count(*), count(DISTINCT org_id), string_agg(DISTINCT org_id, ',') FROM events",
    "SELECT a.user_key, b.user_key FROM events a JOIN rollup_daily b ON a.user_key = b.user_key",
    "SELECT a.user_key, b.user_key FROM events a CROSS JOIN rollup_daily b",
    "SELECT a.user_key, b.user_key FROM events a FULL OUTER JOIN rollup_daily b ON a.org_id < b.org_id",
    "SELECT b.user_key FROM events a RIGHT JOIN rollup_daily b ON a.user_key = 'nobody'",
    "SELECT user_key FROM events WHERE org_id IN (SELECT org_id FROM rollup_daily)",
    "SELECT user_key FROM events e WHERE EXISTS (SELECT 1 FROM rollup_daily r WHERE r.user_key = e.user_key)",
    "SELECT (SELECT max(user_key) FROM events), (SELECT min(user_key) FROM events)",
    "SELECT user_key FROM events UNION ALL SELECT user_key FROM rollup_daily",
    "SELECT user_key FROM events EXCEPT SELECT 'nobody'",
    "SELECT user_key FROM events INTERSECT SELECT user_key FROM rollup_daily",
    "WITH all_rows AS (SELECT * FROM events) SELECT user_key, org_id FROM all_rows ORDER BY org_id DESC LIMIT 100",
    "WITH RECURSIVE r(u, n) AS (SELECT user_key, 1 FROM events UNION ALL SELECT u, n + 1 FROM r WHERE n < 2) SELECT * FROM r",
    "SELECT user_key, row_number() OVER (PARTITION BY org_id ORDER BY user_key) FROM events",
    "SELECT lag(user_key) OVER (ORDER BY org_id), lead(user_key) OVER (ORDER BY org_id) FROM events",
    "SELECT first_value(user_key) OVER (ORDER BY org_id DESC) FROM events",
    "SELECT org_id, count(*) FROM events GROUP BY ROLLUP (org_id)",
    "SELECT user_key FROM events ORDER BY org_id DESC LIMIT 1000",
    "SELECT user_key FROM events OFFSET 1",
    "SELECT upper(user_key) FROM events",
    "SELECT reverse(reverse(user_key)) FROM events",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM events) x) y WHERE y.org_id LIKE '%'",
    "SELECT e.* FROM events e, rollup_daily r WHERE e.org_id = r.org_id",
    "SELECT user_key FROM events WHERE user_key LIKE '%canary%'",
    "SELECT user_key FROM events WHERE user_key > 'a' AND user_key < 'z'",
    "SELECT user_key FROM events WHERE event_date BETWEEN '2026-03-01' AND '2026-03-31'",
    "SELECT user_key FROM events WHERE NOT (org_id = 'nobody')",
    "SELECT CASE WHEN org_id = 'acme' THEN user_key ELSE user_key END FROM events",
    // Errors that quote the value they failed on; without the fence the first value met may be anyone's.
    "SELECT CAST(user_key AS INT) FROM events WHERE org_id = 'acme'",
    "SELECT CAST(user_key AS INT) FROM events WHERE org_id = 'globex'",
    "SELECT CAST(user_key AS INT) FROM events WHERE org_id = 'initech'",
    "SELECT count(*) FROM events WHERE CAST(user_key AS INT) = 1 AND org_id = 'acme'",
    "SELECT count(*) FROM rollup_daily WHERE CAST(user_key AS DATE) = '2026-03-01' AND org_id > 'b'",
    "SELECT min(arrow_cast(user_key, 'Timestamp(Nanosecond, None)')) FROM events",
    // Numbers begin with the organisation's digits.
    "SELECT max(log_offset), min(log_offset) FROM events",
    "SELECT sum(prompts), avg(prompts), max(prompts) FROM rollup_daily",
    "SELECT approx_distinct(user_key), max(payload_hash) FROM events",
    "EXPLAIN ANALYZE SELECT user_key FROM events WHERE org_id = 'acme' AND user_key <> 'canary-acme'",
];

/// Statements that show nothing foreign with the fence; what they would show without it is not theirs to say.
pub(super) const OTHERS: &[&str] = &[
    "EXPLAIN SELECT * FROM events",
    "EXPLAIN VERBOSE SELECT max(user_key) FROM events",
    "EXPLAIN ANALYZE VERBOSE SELECT count(*) FROM events",
    "EXPLAIN FORMAT TREE SELECT count(*) FROM events WHERE user_key > 'b'",
    "EXPLAIN FORMAT PGJSON SELECT count(*) FROM rollup_daily",
    "DESCRIBE events",
    "SHOW TABLES",
    "SHOW COLUMNS FROM events",
    "SHOW ALL",
    "SHOW FUNCTIONS",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM information_schema.views",
    "SELECT * FROM information_schema.schemata",
    "SELECT * FROM information_schema.df_settings",
    "SELECT * FROM information_schema.routines",
    "SELECT * FROM column_comments",
    "SELECT * FROM dead_letters",
    "SELECT * FROM daybook.public.dead_letters",
    "SELECT no_such_column FROM events",
    "SELECT * FROM events WHERE org_id = 1 / 0",
    "SELECT 1 / (CASE WHEN org_id <> 'acme' AND org_id <> 'globex' AND org_id <> 'initech' THEN 0 ELSE 1 END) FROM events",
    "SELECT * FROM events WHERE user_key = (SELECT user_key FROM rollup_daily)",
    "SELECT * FROM 'memory:///events'",
    "SELECT * FROM 'memory:///rollup_daily/*.parquet'",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'file:///etc/passwd'",
    "TABLE events",
    "VALUES (1), (2)",
];

/// What a person sees who runs `text`: rows, or the error with all its causes.
pub(super) async fn shown(ctx: &SessionContext, text: &str) -> String {
    let answer = match sql(ctx, text).await {
        Ok(rows) => rows.try_collect::<Vec<_>>().await.map_err(crate::Error::engine),
        Err(error) => Err(error),
    };
    match answer {
        Ok(batches) => pretty_format_batches(&batches).expect("printable").to_string(),
        Err(error) => format!("{error:?}\n{error}\n{}", causes(&error)),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!("{cause}\n");
        next = cause.source();
    }
    text
}

/// The organisations other than `own` that `text` shows something of. What the statement itself says shows nothing.
pub(super) fn foreign(text: &str, statement: &str, own: &str) -> Vec<&'static str> {
    let others = ORGS.iter().filter(|(org, _)| *org != own);
    let shows = |(org, digits): &&(&'static str, i64)| {
        let (digits, name) = (digits.to_string(), format!("canary-{org}"));
        (text.contains(&name) && !statement.contains(&name))
            || text.contains(&digits)
            || (text.contains(org) && !statement.contains(org))
            || (text.contains(&name.to_uppercase()) && !statement.contains(&name))
    };
    others.filter(shows).map(|(org, _)| *org).collect()
}

#[tokio::test]
async fn no_sql_shows_foreign_rows() {
    let world = World::filled().await;
    for (own, _) in ORGS {
        let ctx = world.query.catalog().session(&Access::Org(org(own))).await.expect("a session");
        for statement in PROBES.iter().chain(OTHERS) {
            let text = shown(&ctx, statement).await;
            let found = foreign(&text, statement, own);
            assert!(found.is_empty(), "as {own}, `{statement}` shows {found:?}:\n{text}");
            assert!(!text.contains(FILE), "as {own}, `{statement}` shows a file:\n{text}");
        }
    }
}

/// The probes can fail: each shows foreign rows as soon as the fence is not there.
#[tokio::test]
async fn without_the_fence_the_probes_turn_red() {
    let world = World::filled().await;
    let ctx = world.query.catalog().session(&Access::Operator).await.expect("a session");
    for statement in PROBES {
        let text = shown(&ctx, statement).await;
        let red = ORGS.iter().any(|(own, _)| !foreign(&text, statement, own).is_empty()) || text.contains(FILE);
        assert!(red, "`{statement}` would not notice a missing fence:\n{text}");
    }
}

#[tokio::test]
async fn own_rows_are_all_there() {
    let world = World::filled().await;
    for (own, digits) in ORGS {
        let ctx = world.query.catalog().session(&Access::Org(org(own))).await.expect("a session");
        let operator = world.query.catalog().session(&Access::Operator).await.expect("a session");
        for (fenced, unfenced) in [
            ("SELECT count(*) AS n FROM events", format!("SELECT count(*) AS n FROM events WHERE org_id = '{own}'")),
            (
                "SELECT user_key, sum(prompts) AS n FROM rollup_daily WHERE activity_date > '2026-03-02' GROUP BY 1 ORDER BY 1",
                format!(
                    "SELECT user_key, sum(prompts) AS n FROM rollup_daily WHERE activity_date > '2026-03-02' AND org_id = '{own}' GROUP BY 1 ORDER BY 1"
                ),
            ),
            (
                "SELECT * FROM rollup_daily ORDER BY activity_date, user_key, client_type LIMIT 3",
                format!(
                    "SELECT * FROM rollup_daily WHERE org_id = '{own}' ORDER BY activity_date, user_key, client_type LIMIT 3"
                ),
            ),
        ] {
            assert_eq!(shown(&ctx, fenced).await, shown(&operator, &unfenced).await, "{fenced}");
        }
        assert!(shown(&ctx, "SELECT max(prompts) FROM rollup_daily").await.contains(&digits.to_string()));
    }
}

#[tokio::test]
async fn no_sql_over_http_shows_foreign_rows() {
    let world = World::filled().await;
    for (own, _) in ORGS {
        for statement in PROBES.iter().chain(OTHERS) {
            for format in [Format::Json, Format::Csv] {
                let answer = world.ask(own, statement, format).await;
                let text = answer.text();
                let found = foreign(&text, statement, own);
                assert!(found.is_empty(), "as {own}, `{statement}` shows {found:?}:\n{text}");
                assert!(!text.contains(FILE), "as {own}, `{statement}` shows a file:\n{text}");
            }
        }
    }
}

#[tokio::test]
async fn no_route_shows_foreign_rows() {
    let world = World::filled().await;
    let queries = [
        "",
        "from=2026-03-01&to=2026-03-31",
        "user=email:canary-globex-1@example.org",
        "user=email:canary-acme-1@example.org,email:canary-initech-2@example.org",
        "user=%27%20OR%20org_id%20%3C%3E%20%27",
        "columns=org_id,user_key&limit=10000",
        "org_id=globex",
        "cursor=AAAA",
        "limit=3",
    ];
    for path in routes() {
        for (own, _) in ORGS {
            for query in queries {
                for format in [Format::Json, Format::Ndjson, Format::Csv, Format::Arrow] {
                    let answer = world.get(own, &format!("{path}?{query}&format={format}")).await;
                    let text = answer.text();
                    let found = foreign(&text, query, own);
                    assert!(found.is_empty(), "as {own}, {path}?{query} shows {found:?}:\n{text}");
                    let head = format!("{:?}", answer.headers);
                    assert!(foreign(&head, query, own).is_empty(), "{head}");
                }
            }
        }
    }
}

/// The routes' providers are fenced too: the same read without the fence is red.
#[tokio::test]
async fn the_fence_is_below_the_provider() {
    let world = World::filled().await;
    let catalog = world.query.catalog();
    for spec in [&ROLLUP_DAILY, &EVENTS] {
        let pinned = catalog.current(spec).await.expect("readable");
        let read = async |access: &Access| {
            let frame = catalog.empty_session().read_table(pinned.provider(access)).expect("a table");
            pretty_format_batches(&frame.collect().await.expect("rows")).expect("printable").to_string()
        };
        assert!(foreign(&read(&Access::Org(org("acme"))).await, "", "acme").is_empty());
        assert_eq!(foreign(&read(&Access::Operator).await, "", "acme"), ["globex", "initech"]);
    }
}
