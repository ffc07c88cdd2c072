//! SQL: what is refused, what an operator sees, what is there before anything was ingested.

use arrow::{array::AsArray, datatypes::Int64Type};
use futures::TryStreamExt;

use super::world::{ORGS, USERS, World, org};
use crate::{Access, Error, sql};

/// Statements that do more than read, or are more than one.
const REFUSED: &[&str] = &[
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE events",
    "INSERT INTO events SELECT * FROM events",
    "UPDATE events SET org_id = 'acme'",
    "DELETE FROM events",
    "TRUNCATE TABLE events",
    "MERGE INTO events USING rollup_daily ON true WHEN MATCHED THEN DELETE",
    "CREATE TABLE mine AS SELECT * FROM events",
    "CREATE VIEW mine AS SELECT * FROM events",
    "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE EXTERNAL TABLE mine STORED AS PARQUET LOCATION 'memory:///events'",
    "CREATE FUNCTION f() RETURNS INT RETURN 1",
    "CREATE SCHEMA mine",
    "CREATE DATABASE mine",
    "CREATE INDEX i ON events (org_id)",
    "ALTER TABLE events RENAME TO mine",
    "DROP TABLE events",
    "DROP VIEW events",
    "DROP SCHEMA public",
    "DROP FUNCTION f",
    "COPY events TO '/tmp/events.csv'",
    "COPY (SELECT * FROM events) TO 's3://bucket/x.parquet' STORED AS PARQUET",
    "SELECT * INTO mine FROM events",
    "WITH x AS (INSERT INTO events SELECT * FROM events) SELECT 1",
    "EXPLAIN INSERT INTO events SELECT * FROM events",
    "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events",
    "EXPLAIN ANALYZE CREATE TABLE mine AS SELECT 1",
    "EXPLAIN ANALYZE COPY events TO '/tmp/events.csv'",
    "SET datafusion.execution.batch_size = 1",
    "SET datafusion.catalog.information_schema = false",
    "RESET datafusion.execution.batch_size",
    "BEGIN",
    "COMMIT",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "SHOW CREATE TABLE events",
    "USE daybook",
    "GRANT ALL ON events TO public",
    "KILL 1",
    "VACUUM",
    "ANALYZE TABLE events COMPUTE STATISTICS",
    "LOAD DATA INPATH '/etc/passwd' INTO TABLE events",
    "CALL f()",
];

#[tokio::test]
async fn f40_only_reading_statements_run() {
    let world = World::filled().await;
    for access in [Access::Org(org("acme")), Access::Operator] {
        let ctx = world.query.catalog().session(&access).await.expect("a session");
        for statement in REFUSED {
            match sql(&ctx, statement).await {
                Err(Error::Refused(_) | Error::Sql(_)) => {}
                Err(other) => panic!("`{statement}`: {other:?}"),
                Ok(_) => panic!("`{statement}` ran"),
            }
        }
        let tables = ctx.catalog("daybook").and_then(|catalog| catalog.schema("public")).expect("there").table_names();
        assert!(!tables.contains(&"mine".to_owned()));
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_allowed() {
    let world = World::empty().await;
    let ctx = world.query.catalog().session(&Access::Operator).await.expect("a session");
    let refused = async |text: &str| sql(&ctx, text).await.err().expect("refused").to_string();
    assert_eq!(
        refused("drop table events").await,
        "DROP is not allowed here: one SELECT, EXPLAIN, SHOW or DESCRIBE at a time"
    );
    assert!(refused("SELECT 1; SELECT 2").await.starts_with("more than one statement is not allowed"));
    let deep = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(sql(&ctx, &deep).await.err(), Some(Error::Sql(_))));
    let long = format!("SELECT '{}'", "x".repeat(sql::MAX_SQL_BYTES));
    assert!(matches!(sql(&ctx, &long).await.err(), Some(Error::Refused(_))));
}

async fn number(world: &World, access: &Access, text: &str) -> i64 {
    let ctx = world.query.catalog().session(access).await.expect("a session");
    let rows = sql(&ctx, text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let batches: Vec<_> = rows.try_collect().await.expect("rows");
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn tables_that_are_not_there_are_empty() {
    let world = World::empty().await;
    for table in ["events", "rollup_daily", "dead_letters"] {
        assert_eq!(number(&world, &Access::Operator, &format!("SELECT count(*) FROM {table}")).await, 0);
    }
}

#[tokio::test]
async fn an_operator_sees_all_and_what_it_means() {
    let world = World::filled().await;
    let all = (ORGS.len() * USERS * 2) as i64;
    let operator = async |text: &str| number(&world, &Access::Operator, text).await;
    assert_eq!(operator("SELECT count(*) FROM dead_letters").await, all);
    assert_eq!(operator("SELECT count(*) FROM events WHERE event_date = '2026-03-02'").await, all);
    assert_eq!(operator("SELECT count(DISTINCT org_id) FROM rollup_daily").await, ORGS.len() as i64);
    assert_eq!(operator("SELECT count(*) FROM column_comments WHERE comment = ''").await, 0);
    let comments = "SELECT count(*) FROM column_comments WHERE table_name = 'dead_letters'";
    assert!(operator(comments).await > 0);
    assert_eq!(number(&world, &Access::Org(org("acme")), comments).await, 0);
    // Of one use, without the service.
    let ctx = crate::session(&world.lake, &Access::Operator).await.expect("a session");
    let rows: Vec<_> = sql(&ctx, "SHOW TABLES").await.expect("runs").try_collect().await.expect("rows");
    assert!(rows.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>() >= 4);
}

#[tokio::test]
async fn a_memory_bomb_ends_in_a_budget_error() {
    let world = World::filled().await;
    let ctx = world.query.catalog().session(&Access::Org(org("acme"))).await.expect("a session");
    let bomb = "SELECT a.value, b.value FROM generate_series(1, 20000000) a JOIN generate_series(1, 20000000) b \
                ON a.value = b.value ORDER BY a.value DESC, b.value";
    let answer = match sql(&ctx, bomb).await {
        Ok(rows) => rows.try_for_each(async |_| Ok(())).await.map_err(Error::engine),
        Err(error) => Err(error),
    };
    assert!(matches!(answer, Err(Error::Budget(_))), "{answer:?}");
    assert_eq!(world.get("acme", "/v1/rollups/daily").await.status, 200, "the service goes on");
}
