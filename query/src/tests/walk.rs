//! Walking through pages: each row once, whatever happens to the table meanwhile.

use bytesize::ByteSize;
use schemas::rollup::ROLLUP_DAILY;
use serde_json::Value;

use super::world::{Answer, DAYS, USERS, World, rows, settings};
use crate::Settings;

const ROWS: usize = DAYS as usize * USERS * 2;

fn keys(answer: &Answer) -> Vec<String> {
    let document = answer.json();
    let key = |row: &Value| {
        ["activity_date", "user_key", "product", "client_type"].map(|name| row[name].as_str().expect("text")).join("|")
    };
    document["data"].as_array().expect("rows").iter().map(key).collect()
}

fn next(answer: &Answer) -> Option<String> {
    answer.json()["next_cursor"].as_str().map(str::to_owned)
}

/// The path in `Link: <path>; rel="next"`.
fn link(answer: &Answer) -> Option<String> {
    let path = answer.header("link").strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(path.to_owned())
}

#[tokio::test]
async fn each_row_comes_once_while_the_table_changes() {
    for limit in [1, 7, ROWS - 1, ROWS, ROWS + 1] {
        walk(limit).await;
    }
}

async fn walk(limit: usize) {
    let world = World::filled_with(Settings { cursor_versions: 2 * ROWS, ..settings() }).await;
    let base = format!("/v1/rollups/daily?limit={limit}");
    let whole = world.get("acme", "/v1/rollups/daily").await;
    let mut answer = world.get("acme", &base).await;
    let (mut walked, mut pages, mut values) = (keys(&answer), 1, vec![answer.json()["data"].clone()]);
    while let Some(cursor) = next(&answer) {
        // Every page meets a table that has changed: the same keys with other values, and a day more.
        let table = world.lake.table(&ROLLUP_DAILY);
        let old = table.snapshot().await.expect("readable").files;
        let changed = pages as i32 % DAYS;
        world.put(&ROLLUP_DAILY, changed, &rows(changed, pages), old[..1].to_vec()).await;
        world.put(&ROLLUP_DAILY, DAYS + pages as i32, &rows(DAYS + pages as i32, 0), vec![]).await;
        assert_eq!(link(&answer), Some(format!("{base}&cursor={cursor}")));
        answer = world.get("acme", &link(&answer).expect("a next page")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("daybook-table-version"), whole.header("daybook-table-version"));
        walked.extend(keys(&answer));
        values.push(answer.json()["data"].clone());
        pages += 1;
    }
    assert_eq!(walked, keys(&whole));
    assert_eq!(pages as usize, ROWS.div_ceil(limit));
    let values: Vec<Value> = values.into_iter().flat_map(|page| page.as_array().expect("rows").clone()).collect();
    assert_eq!(Value::from(values), whole.json()["data"], "of one version throughout");
}

#[tokio::test]
async fn other_formats_walk_by_link() {
    let world = World::filled().await;
    let mut path = Some("/v1/rollups/daily?format=csv&columns=user_key,activity_date&limit=9".to_owned());
    let mut lines = Vec::new();
    while let Some(here) = path {
        let answer = world.get("acme", &here).await;
        lines.extend(answer.text().lines().skip(1).map(str::to_owned));
        path = link(&answer);
    }
    assert_eq!(lines.len(), ROWS);
}

#[tokio::test]
async fn a_cursor_is_bound_to_its_request() {
    let world = World::filled().await;
    let first = world.get("acme", "/v1/rollups/daily?limit=3&product=kiro").await;
    let cursor = next(&first).expect("more");
    let with = async |org: &str, query: &str| world.get(org, &format!("/v1/rollups/daily?{query}")).await;
    assert_eq!(with("acme", &format!("product=kiro&limit=5&cursor={cursor}")).await.status, 200, "another limit");
    let other_format = with("acme", &format!("product=kiro&format=csv&cursor={cursor}")).await;
    assert_eq!(other_format.status, 200);
    for query in ["product=claude_code", "", "product=kiro&columns=prompts", "product=kiro&to=2026-03-02"] {
        with("acme", &format!("{query}&cursor={cursor}")).await.problem(400, "invalid-cursor");
    }
    with("globex", &format!("product=kiro&cursor={cursor}")).await.problem(400, "invalid-cursor");
    with("acme", &format!("product=kiro&cursor={}", &cursor[1..])).await.problem(400, "invalid-cursor");
}

#[tokio::test]
async fn an_old_version_is_kept_within_the_bound() {
    let world = World::filled().await;
    let page = |cursor: &str| format!("/v1/rollups/daily?limit=3&cursor={cursor}");
    let mut cursors = Vec::new();
    for salt in 1..=4 {
        let first = world.get("acme", "/v1/rollups/daily?limit=3").await;
        cursors.push(next(&first).expect("more"));
        world.put(&ROLLUP_DAILY, DAYS, &rows(DAYS, salt), vec![]).await;
    }
    // Three versions are kept for cursors; the first of the four is not any more.
    world.get("acme", &page(&cursors[0])).await.problem(410, "cursor-expired");
    for cursor in &cursors[1..] {
        assert_eq!(world.get("acme", &page(cursor)).await.status, 200);
    }
}

#[tokio::test]
async fn a_version_without_its_files_is_gone() {
    use futures::TryStreamExt;
    use object_store::{ObjectStore, ObjectStoreExt};

    // What is in memory is still answered; this is about what is not.
    let world = World::filled_with(Settings { hot_memory: ByteSize(0), ..settings() }).await;
    let first = world.get("acme", "/v1/rollups/daily?limit=3").await;
    let cursor = next(&first).expect("more");
    let objects: Vec<_> = world.store.list(None).try_collect().await.expect("in memory");
    for object in objects.iter().filter(|object| object.location.as_ref().ends_with(".parquet")) {
        world.store.delete(&object.location).await.expect("there");
    }
    let gone = world.get("acme", &format!("/v1/rollups/daily?limit=3&cursor={cursor}")).await;
    gone.problem(410, "cursor-expired");
    // Without a cursor it is a fault of the tables, told without naming a file.
    let broken = world.get("acme", "/v1/rollups/daily?limit=4").await;
    broken.problem(503, "unavailable");
    assert!(!broken.text().contains("parquet"), "{}", broken.text());
}
