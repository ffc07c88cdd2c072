//! A million events, Kafka to S3, the worker killed ten times on the way; then every record stands in a table exactly
//! once, other engines read the tables, and the rollup, refreshed on the way, is the one that DuckDB computes.

use std::{path::Path, time::Duration};

use daybook::generate::ORGANISATIONS;
use e2e::{
    activity,
    pipeline::{LAKE, Pipeline, counts, exactly_once},
    process::{oracle, query, succeed, wait_for},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RECORDS: u64 = 1_000_000;
const KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_events_survive_ten_kills_and_roll_up_as_duckdb_says() {
    let seed: u64 = rand::random();
    eprintln!("kills at moments of seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pipeline = Pipeline::start();
    let (log, lake) = (pipeline.log(), pipeline.lake());
    let mut generator = activity::generator(RECORDS);
    wait_for("leaders of the partitions", Duration::from_secs(60), async || counts(&lake, &log).await.is_some()).await;
    let chunk = usize::try_from(RECORDS / (KILLS + 1) + 1).expect("it fits");

    for kill in 0..KILLS {
        let (before, _) = counts(&lake, &log).await.expect("both answer");
        let mut worker = pipeline.worker();
        let delay = Duration::from_millis(rng.random_range(0..600));
        let (appended, ()) = tokio::join!(activity::append(&log, generator.by_ref().take(chunk)), async {
            wait_for(&format!("commits before kill {kill}"), Duration::from_secs(60), async || {
                worker.lives();
                counts(&lake, &log).await.expect("both answer").0 > before
            })
            .await;
            tokio::time::sleep(delay).await;
            worker.kill();
        });
        appended.expect("the broker serves");
        // Each reads what is new: the rollup that is compared in the end has grown bit by bit.
        if kill % 3 == 2 {
            let _ = succeed(&["rollup", "run"], &pipeline.environment());
        }
    }
    let mut worker = pipeline.worker();
    activity::append(&log, generator).await.expect("the broker serves");
    wait_for("every record in a commit", Duration::from_secs(120), async || {
        worker.lives();
        let (covered, records) = counts(&lake, &log).await.expect("both answer");
        covered == records
    })
    .await;
    assert_eq!(worker.terminate(), 0, "SIGTERM ends it well");
    let (_, records) = counts(&lake, &log).await.expect("both answer");
    assert_eq!(records, i64::try_from(RECORDS).expect("it fits"), "the producer is idempotent");

    roll_up(&pipeline.environment());
    let _ = succeed(&["rollup", "verify"], &pipeline.environment());
    teams(&pipeline);
    compare(&pipeline, records);
}

/// Every other person of an organisation becomes a team, whose days then are those of its people.
fn teams(pipeline: &Pipeline) {
    let (environment, org) = (pipeline.environment(), ORGANISATIONS[0].id);
    let people =
        query(&format!("SELECT DISTINCT user_key FROM rollup_daily WHERE org_id = '{org}' ORDER BY 1"), &environment);
    let people = people.as_array().expect("rows").iter().step_by(2);
    let people: Vec<&str> = people.map(|row| row["user_key"].as_str().expect("a text")).collect();
    assert!(!people.is_empty(), "the organisation has people");
    let file = pipeline.folder.path().join("members.csv");
    let lines = people.iter().map(|user| format!("core,{user}\n"));
    std::fs::write(&file, format!("team_id,user_key\n{}", lines.collect::<String>()))
        .expect("the folder can be written");
    let _ = succeed(&["team", "import", text(&file), "--org", org], &environment);
    let _ = succeed(&["rollup", "run"], &environment);
    let members = people.iter().map(|user| format!("'{user}'")).collect::<Vec<_>>().join(", ");
    let of_team = "SELECT activity_date, active_users, output_tokens FROM team_daily WHERE membership = 'as_was' AND active_users > 0 ORDER BY 1";
    let of_people = format!(
        "SELECT activity_date, count(DISTINCT user_key) AS active_users, sum(output_tokens) AS output_tokens FROM rollup_daily
         WHERE org_id = '{org}' AND user_key IN ({members}) GROUP BY 1 ORDER BY 1"
    );
    let (found, expected) = (query(of_team, &environment), query(&of_people, &environment));
    assert!(expected.as_array().is_some_and(|days| days.len() > 5), "{expected:#}");
    assert_eq!(found, expected);
}

pub(crate) fn roll_up(environment: &[(String, String)]) {
    let summed = "SELECT count(*) AS n, sum(revision) AS revisions, max(computed_at) AS newest FROM rollup_daily";
    let _ = succeed(&["rollup", "run"], environment);
    let first = query(summed, environment);
    let _ = succeed(&["rollup", "run"], environment);
    assert_eq!(query(summed, environment), first, "a second run changes nothing");
}

fn compare(pipeline: &Pipeline, records: i64) {
    let tables = exactly_once(pipeline, records);
    let rows = |table: &str| tables[table]["duckdb_rows"].as_i64().expect("a number");
    assert!(rows("dead_letters") > 100, "the generator breaks one in a thousand: {tables:#}");
    let zones = pipeline.folder.path().join("zones.json");
    std::fs::write(&zones, activity::zones().to_string()).expect("the folder can be written");
    let clients = e2e::folder().join("../schemas/clients.json");
    let root = pipeline.s3.local_root();
    let arguments = [LAKE, text(&zones), text(&clients), "--local-root", text(&root)];
    let compared = oracle("rollup.py", &arguments, &pipeline.s3.environment());
    let compared = compared.unwrap_or_else(|differences| panic!("{differences}"));
    assert_eq!(compared["rows"].as_i64(), Some(rows("rollup_daily")), "{compared:#}");
    let breakdowns = tables["breakdowns"].as_object().expect("by table");
    assert_eq!(breakdowns.len(), 4, "{tables:#}");
    for table in breakdowns.values() {
        assert_eq!(table["people_that_differ"], 0, "parts add up to the whole: {tables:#}");
    }
    assert!(compared["columns"].as_i64().expect("a number") > 60, "{compared:#}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
