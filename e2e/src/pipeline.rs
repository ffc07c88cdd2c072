//! Kafka, S3 and PostgreSQL with workers between them, and the oracle of exactly once.

use ingest::{
    log::{KafkaLog, KafkaSettings},
    worker::{PartitionProgress, progress},
};
use lake::Lake;
use serde_json::Value;

use crate::{
    activity, free_port,
    parts::{Kafka, Postgres, S3},
    process::{Server, oracle, setting},
};

const PARTITIONS: u32 = 8;
/// Where the tables are.
pub const LAKE: &str = "s3://lake/daybook";

/// Broker, object store, and a folder for the rest.
pub struct Pipeline {
    /// The broker, with the topic `activity`.
    pub kafka: Kafka,
    /// The store, with the bucket `lake`.
    pub s3: S3,
    /// The database of the directory.
    pub postgres: Postgres,
    /// Logs.
    pub folder: tempfile::TempDir,
}

impl Pipeline {
    /// Starts all parts.
    ///
    /// # Panics
    /// Where one does not come up.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pipeline = Self { kafka: Kafka::start(), s3: S3::start(), postgres: Postgres::start(""), folder };
        pipeline.kafka.create_topic("activity", PARTITIONS);
        activity::organise(pipeline.postgres.url());
        pipeline
    }

    /// Settings of its processes.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
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
            setting("directory.url", self.postgres.url()),
        ]);
        environment
    }

    /// A worker process.
    #[must_use]
    pub fn worker(&self) -> Server {
        let listen = format!("127.0.0.1:{}", free_port());
        let arguments = ["serve", "--role", "worker", "--listen", &listen];
        Server::start(&arguments, &self.environment(), &self.folder.path().join("worker.log"))
    }

    /// The log, from within the test.
    ///
    /// # Panics
    /// Never: the settings are sound.
    #[must_use]
    pub fn log(&self) -> KafkaLog {
        let settings = KafkaSettings {
            bootstrap_servers: self.kafka.bootstrap(),
            topic: "activity".into(),
            ..KafkaSettings::default()
        };
        KafkaLog::open(&settings).expect("the settings are sound")
    }

    /// The lake, from within the test; opened by options where the processes read the environment.
    ///
    /// # Panics
    /// Never: the options are known.
    #[must_use]
    pub fn lake(&self) -> Lake {
        let options: Vec<_> =
            self.s3.environment().into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect();
        Lake::open(LAKE, &options).expect("the options are known")
    }
}

/// Offsets in table commits, and offsets of the log; `None` while one of them does not answer.
pub async fn counts(lake: &Lake, log: &KafkaLog) -> Option<(i64, i64)> {
    let progress = progress(lake, log).await.inspect_err(|error| eprintln!("no counts: {error}")).ok()?;
    let sum = |of: fn(&PartitionProgress) -> i64| progress.iter().map(of).sum();
    Some((sum(|partition| partition.next_offset), sum(|partition| partition.high_watermark)))
}

/// Reads every table with two other engines: each offset of the log stands in `events` or `dead_letters`, and once.
/// Gives what they count.
///
/// # Panics
/// Where that is not so.
#[must_use]
pub fn exactly_once(pipeline: &Pipeline, records: i64) -> Value {
    let root = pipeline.s3.local_root();
    let arguments = [LAKE, "--local-root", root.to_str().expect("UTF-8")];
    let tables = oracle("read_tables.py", &arguments, &pipeline.s3.environment()).expect("other engines read");
    for table in tables.as_object().expect("by table").values().filter(|table| table.get("duckdb_rows").is_some()) {
        assert_eq!(table["duckdb_rows"], table["deltalake_rows"], "{tables:#}");
        assert_eq!(table["columns"], table["comments"], "every column is documented: {tables:#}");
    }
    let rows = |table: &str| tables[table]["duckdb_rows"].as_i64().expect("a number");
    assert_eq!(rows("events") + rows("dead_letters"), records, "{tables:#}");
    let log = tables["log"].as_array().expect("rows");
    assert_eq!(log.len(), PARTITIONS as usize, "{tables:#}");
    for row in log {
        let row: Vec<i64> =
            row.as_array().expect("a row").iter().map(|cell| cell.as_i64().expect("a number")).collect();
        let [partition, rows, distinct, first, last] = row[..] else { panic!("five numbers") };
        assert_eq!(
            (rows, first, last),
            (distinct, 0, rows - 1),
            "partition {partition}: each offset once, none left out"
        );
    }
    tables
}
