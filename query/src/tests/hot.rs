//! Pages out of memory are those of the engine, byte by byte; memory stays within its bound.

use std::time::{Duration, Instant};

use arrow::{array::RecordBatch, compute::cast};
use bytesize::ByteSize;
use jiff::SignedDuration;
use rows::Packed;
use schemas::rollup::ROLLUP_DAILY;

use super::world::{Answer, ORGS, Row, USERS, World, batch, day, rows, settings};
use crate::{Settings, http::resources::resources};

fn without_memory() -> Settings {
    Settings { hot_memory: ByteSize(0), ..same_cursors() }
}

/// Two services that take each other's cursors.
fn same_cursors() -> Settings {
    Settings { cursor_key: Some("k".repeat(32)), ..settings() }
}

/// Pages so far, by the engine or out of memory.
fn pages(world: &World, source: &str) -> f64 {
    let families = world.registry.gather();
    let family = families.iter().find(|family| family.name() == "daybook_query_pages_total");
    let mut metrics = family.into_iter().flat_map(|family| family.get_metric());
    let metric = metrics.find(|metric| metric.get_label().iter().any(|label| label.value() == source));
    metric.map_or(0.0, |metric| metric.get_counter().get_value())
}

fn link(answer: &Answer) -> Option<String> {
    let path = answer.header("link").strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
    Some(path.to_owned())
}

#[tokio::test]
async fn pages_out_of_memory_are_those_of_the_engine() {
    let hot = World::filled_with(same_cursors()).await;
    // A day in two files, whose rows lie between each other.
    let first = hot.lake.table(&ROLLUP_DAILY).snapshot().await.expect("readable").files_of(day(0));
    let (even, odd): (Vec<_>, Vec<_>) = rows(0, 3).into_iter().partition(|row| row.user % 2 == 0);
    hot.put(&ROLLUP_DAILY, 0, &even, first).await;
    hot.put(&ROLLUP_DAILY, 0, &odd, vec![]).await;
    // The fifth file is more than a request waits for.
    let _ = hot.get("acme", "/v1/rollups/daily?to=2026-03-02").await;
    let cold = hot.beside(without_memory()).await;
    let user = |org: &str, number: usize| format!("email:canary-{org}-{number}@example.org");
    let mut compared = 0;
    for resource in resources() {
        let by_engine = pages(&hot, "engine");
        for (org, _) in ORGS {
            let mut questions = vec![
                String::new(),
                "from=2026-03-02&to=2026-03-03".to_owned(),
                "from=2026-03-05".to_owned(),
                "from=2027-01-01&to=2027-02-01".to_owned(),
                "to=2026-03-03".to_owned(),
            ];
            let filters = resource.filters.iter().map(|filter| filter.name).collect::<Vec<_>>();
            if filters.contains(&"user") {
                questions.push(format!("user={}", user(org, 1)));
                questions.push(format!("user={},{}&from=2026-03-02", user(org, 0), user(org, 3)));
                questions.push(format!("user={}", user("globex", 1)));
            }
            if filters.contains(&"product") {
                questions.push("product=kiro".to_owned());
                questions.push(format!("product=kiro,none&client_type=ide,cli&columns={}", resource.key[0]));
            }
            for question in questions {
                for (limit, format) in [
                    (1000, "json"),
                    (3, "json"),
                    (4, "ndjson"),
                    (5, "csv"),
                    (1000, "arrow"),
                    (5, "arrow"),
                    (6, "parquet"),
                ] {
                    let path = format!("{}?{question}&limit={limit}&format={format}", resource.path).replace("?&", "?");
                    let mut next = Some(path);
                    while let Some(path) = next {
                        let (ours, theirs) = (hot.get(org, &path).await, cold.get(org, &path).await);
                        assert_eq!(ours.status, 200, "{path}: {}", ours.text());
                        assert!(ours.body == theirs.body, "{path}:\n{}\n{}", ours.text(), theirs.text());
                        for header in ["etag", "link", "daybook-table-version", "content-type"] {
                            assert_eq!(ours.header(header), theirs.header(header), "{path}");
                        }
                        compared += 1;
                        next = link(&ours);
                    }
                }
            }
        }
        assert_eq!(pages(&hot, "engine"), by_engine, "{} is not in memory", resource.path);
    }
    assert!(compared > 1000, "{compared}");
    assert_eq!(pages(&cold, "memory"), 0.0);
}

#[tokio::test]
async fn many_files_are_read_by_the_engine_first_and_are_in_memory_then() {
    let world = World::empty().await;
    for offset in 0..30 {
        world.put(&ROLLUP_DAILY, offset, &rows(offset, 0), vec![]).await;
    }
    let path = "/v1/rollups/daily?from=2026-03-01&to=2026-03-30&limit=10000";
    let first = world.get("acme", path).await;
    assert_eq!(first.json()["data"].as_array().expect("rows").len(), 30 * USERS * 2);
    assert_eq!(pages(&world, "engine"), 1.0);
    let mut answers = 0;
    while pages(&world, "memory") == 0.0 {
        assert_eq!(world.get("acme", path).await.text(), first.text());
        answers += 1;
        assert!(answers < 1000, "never in memory");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // A version more brings one file more.
    world.put(&ROLLUP_DAILY, 30, &rows(30, 0), vec![]).await;
    let engine = pages(&world, "engine");
    let more = world.get("acme", "/v1/rollups/daily?from=2026-03-01&to=2026-03-31&limit=10000").await;
    assert_eq!(more.json()["data"].as_array().expect("rows").len(), 31 * USERS * 2);
    assert_eq!(pages(&world, "engine"), engine);
}

/// However fast versions follow each other, each answer is of one version, and the newest comes.
#[tokio::test]
async fn each_answer_is_of_one_version_and_the_newest_comes() {
    let age = Duration::from_millis(50);
    let wait = SignedDuration::try_from(age).expect("short");
    let world = World::filled_with(Settings { snapshot_age_max: wait, ..settings() }).await;
    let path = "/v1/rollups/daily";
    let mut seen = world.get("acme", path).await;
    for salt in 1..=20 {
        let table = world.lake.table(&ROLLUP_DAILY);
        let old = table.snapshot().await.expect("readable").files_of(day(3));
        world.put(&ROLLUP_DAILY, 3, &rows(3, salt), old).await;
        let committed = Instant::now();
        let newer = loop {
            let answer = world.get("acme", path).await;
            assert_eq!(answer.status, 200);
            if answer.header("daybook-table-version") != seen.header("daybook-table-version") {
                break answer;
            }
            assert_eq!(answer.text(), seen.text(), "one version, one answer");
            // Known at one age, shown one later; the machine may be busy.
            assert!(committed.elapsed() < 2 * age + Duration::from_secs(5), "never shown");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert_ne!(newer.json()["data"], seen.json()["data"]);
        seen = newer;
    }
    assert_eq!(pages(&world, "engine"), 0.0);
}

/// Whoever asks after a quiet time must not get what was shown before it.
#[tokio::test]
async fn after_a_quiet_time_the_newest_version_is_shown() {
    let wait = SignedDuration::from_millis(100);
    let world = World::filled_with(Settings { snapshot_age_max: wait, ..settings() }).await;
    let before = world.get("acme", "/v1/rollups/daily").await;
    let old = world.lake.table(&ROLLUP_DAILY).snapshot().await.expect("readable").files_of(day(3));
    world.put(&ROLLUP_DAILY, 3, &rows(3, 1), old).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = world.get("acme", "/v1/rollups/daily").await;
    assert_ne!(after.header("daybook-table-version"), before.header("daybook-table-version"));
}

/// Superseded files make room: with little of it, each new version is still in memory when it is shown.
#[tokio::test]
async fn versions_do_not_fill_the_memory() {
    let wait = SignedDuration::from_millis(200);
    let world = World::filled_with(Settings { snapshot_age_max: wait, ..settings() }).await;
    let _ = world.get("acme", "/v1/rollups/daily").await;
    let mut held = 0;
    for salt in 1..=10 {
        let old = world.lake.table(&ROLLUP_DAILY).snapshot().await.expect("readable").files_of(day(3));
        let before = world.get("acme", "/v1/rollups/daily").await.header("daybook-table-version").to_owned();
        world.put(&ROLLUP_DAILY, 3, &rows(3, salt), old).await;
        while world.get("acme", "/v1/rollups/daily").await.header("daybook-table-version") == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if salt == 1 {
            held = world.query.hot().bytes();
        }
    }
    let now = world.query.hot().bytes();
    assert!(now < held + held / 4, "{held} bytes after one version, {now} after ten");
}

#[tokio::test]
async fn memory_stays_within_its_bound() {
    let bound = 512 << 10;
    let world = World::empty_with(Settings { hot_memory: ByteSize(bound), ..settings() }).await;
    for offset in 0..30 {
        world.put(&ROLLUP_DAILY, offset, &rows(offset, 0), vec![]).await;
    }
    let mut most = 0;
    for day in (1..=30).cycle().take(90) {
        let path = format!("/v1/rollups/daily?from=2026-03-{day:02}&to=2026-03-{day:02}");
        assert_eq!(world.get("acme", &path).await.json()["data"].as_array().expect("rows").len(), USERS * 2);
        most = most.max(world.query.hot().bytes());
        assert!(most <= bound, "{most} bytes");
    }
    assert!(most > bound / 4, "nothing was kept: {most} bytes");
}

/// As another engine's OPTIMIZE could leave a file.
#[test]
fn a_file_in_another_order_is_left_to_the_engine() {
    let is_searchable = |rows: &[Row]| {
        let (rows, schema) = (batch(&ROLLUP_DAILY, rows), lake::read_schema(&ROLLUP_DAILY));
        let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
        let rows =
            RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>().expect("texts")).expect("rows");
        Packed::pack(&rows).expect("packed").ascend(ROLLUP_DAILY.sort_columns)
    };
    let ordered = rows(0, 0);
    assert!(is_searchable(&ordered));
    for at in 1..ordered.len() {
        let mut turned = ordered.clone();
        turned.swap(at - 1, at);
        assert!(!is_searchable(&turned), "rows {} and {at}", at - 1);
    }
}
