//! A million events, Kafka to S3, the worker killed ten times on the way; then every record stands in a table exactly
//! once, other engines read the tables, and the rollup is the one that DuckDB computes.

use std::{collections::BTreeMap, path::Path, time::Duration};

use daybook::generate::ORGANISATIONS;
use e2e::{
    activity,
    parts::{Kafka, S3},
    process::{Server, oracle, query, setting, succeed, wait_for},
};
use ingest::{
    log::{KafkaLog, KafkaSettings},
    worker::progress,
};
use lake::Lake;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RECORDS: u64 = 1_000_000;
const KILLS: u64 = 10;
const PARTITIONS: u32 = 8;
const LAKE: &str = "s3://lake/daybook";

struct World {
    kafka: Kafka,
    s3: S3,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { kafka: Kafka::start(), s3: S3::start(), folder: tempfile::tempdir().expect("a folder") };
        world.kafka.create_topic("activity", PARTITIONS);
        world
    }

    fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.s3.environment();
        environment.extend([
            setting("lake.url", LAKE),
            setting("log.kind", "kafka"),
            setting("log.kafka.topic", "activity"),
            setting("log.kafka.bootstrap-servers", self.kafka.bootstrap()),
            // A killed worker is missed by the group this soon: the least that a broker allows.
            setting("log.kafka.properties.session-timeout-ms", 6000),
            // Many small commits, so that a kill meets every stage of one.
            setting("worker.flush-age", "200ms"),
            setting("worker.flush-bytes", "4MiB"),
            setting("directory.url", format!("sqlite://{}/directory.db", self.folder.path().display())),
        ]);
        environment
    }

    fn worker(&self) -> Server {
        let listen = format!("127.0.0.1:{}", e2e::free_port());
        let arguments = ["serve", "--role", "worker", "--listen", &listen];
        Server::start(&arguments, &self.environment(), &self.folder.path().join("worker.log"))
    }

    fn log(&self) -> KafkaLog {
        let settings = KafkaSettings {
            bootstrap_servers: self.kafka.bootstrap(),
            topic: "activity".into(),
            ..KafkaSettings::default()
        };
        KafkaLog::open(&settings).expect("the settings are sound")
    }

    /// Opened by options where the processes read the environment.
    fn lake(&self) -> Lake {
        let options: Vec<_> =
            self.s3.environment().into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect();
        Lake::open(LAKE, &options).expect("the options are known")
    }
}

/// Records in table commits, and records in the log.
async fn counts(lake: &Lake, log: &KafkaLog) -> (i64, i64) {
    let progress = progress(lake, log).await.expect("table and log can be read");
    let sum = |of: fn(&ingest::worker::PartitionProgress) -> i64| progress.iter().map(of).sum();
    (sum(|partition| partition.next_offset), sum(|partition| partition.high_watermark))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_events_survive_ten_kills_and_roll_up_as_duckdb_says() {
    let seed: u64 = rand::random();
    println!("kills at moments of seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new();
    let (log, lake) = (world.log(), world.lake());
    let mut generator = activity::generator(RECORDS);
    let chunk = usize::try_from(RECORDS / (KILLS + 1) + 1).expect("it fits");

    for kill in 0..KILLS {
        let (before, _) = counts(&lake, &log).await;
        let mut worker = world.worker();
        let delay = Duration::from_millis(rng.random_range(0..600));
        let (_, ()) = tokio::join!(activity::append(&log, generator.by_ref().take(chunk)), async {
            wait_for(&format!("commits before kill {kill}"), Duration::from_secs(60), async || {
                worker.lives();
                counts(&lake, &log).await.0 > before
            })
            .await;
            tokio::time::sleep(delay).await;
            worker.kill();
        });
    }
    let mut worker = world.worker();
    activity::append(&log, generator).await;
    wait_for("every record in a commit", Duration::from_secs(120), async || {
        worker.lives();
        let (covered, records) = counts(&lake, &log).await;
        covered == records
    })
    .await;
    assert_eq!(worker.terminate(), 0, "SIGTERM ends it well");
    let (_, records) = counts(&lake, &log).await;
    assert_eq!(records, i64::try_from(RECORDS).expect("it fits"), "the producer is idempotent");

    roll_up(&world.environment());
    compare(&world, records);
}

fn roll_up(environment: &[(String, String)]) {
    for org in &ORGANISATIONS[..3] {
        let _ = succeed(&["org", "create", org.id, "--time-zone", org.time_zone], environment);
    }
    let summed = "SELECT count(*) AS n, sum(revision) AS revisions, max(computed_at) AS newest FROM rollup_daily";
    let _ = succeed(&["rollup", "run"], environment);
    let first = query(summed, environment);
    let _ = succeed(&["rollup", "run"], environment);
    assert_eq!(query(summed, environment), first, "a second run changes nothing");
}

fn compare(world: &World, records: i64) {
    let environment = world.s3.environment();
    let root = world.s3.local_root();
    let root = root.to_str().expect("UTF-8");
    let tables = oracle("read_tables.py", &[LAKE, "--local-root", root], &environment).expect("other engines read");
    for table in ["events", "dead_letters", "rollup_daily"] {
        let table = &tables[table];
        assert_eq!(table["duckdb_rows"], table["deltalake_rows"], "{tables:#}");
        assert_eq!(table["columns"], table["comments"], "every column is documented: {tables:#}");
    }
    let rows = |table: &str| tables[table]["duckdb_rows"].as_i64().expect("a number");
    assert_eq!(rows("events") + rows("dead_letters"), records, "{tables:#}");
    assert!(rows("dead_letters") > 100, "the generator breaks one in a thousand: {tables:#}");
    let log: BTreeMap<i64, Vec<i64>> = tables["log"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row.as_array().expect("a row").iter().map(|cell| cell.as_i64().expect("a number")).collect())
        .map(|row: Vec<i64>| (row[0], row[1..].to_vec()))
        .collect();
    assert_eq!(log.len(), PARTITIONS as usize, "{tables:#}");
    for (partition, row) in &log {
        let [rows, distinct, first, last] = row[..] else { panic!("four numbers") };
        assert_eq!(
            (rows, first, last),
            (distinct, 0, rows - 1),
            "partition {partition}: each offset once, none left out"
        );
    }

    let zones = world.folder.path().join("zones.json");
    std::fs::write(&zones, activity::zones().to_string()).expect("the folder can be written");
    let (zones, clients) = (text(&zones), text(&e2e::folder().join("../schemas/clients.json")));
    let compared = oracle("rollup.py", &[LAKE, &zones, &clients, "--local-root", root], &environment);
    let compared = compared.unwrap_or_else(|differences| panic!("{differences}"));
    assert_eq!(compared["rows"].as_i64(), Some(rows("rollup_daily")), "{compared:#}");
    assert!(compared["columns"].as_i64().expect("a number") > 60, "{compared:#}");
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
