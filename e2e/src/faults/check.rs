//! The oracle of a campaign: every record of the log, read from the log itself, against the tables, read by other engines.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ingest::{
    headers,
    log::{self, Event, KafkaLog, KafkaSettings, Log, Positions, Record},
    worker::{self, PartitionProgress},
};
use lake::Lake;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::crew::AT_LAST;
use crate::{
    activity,
    pipeline::{LAKE, Pipeline, exactly_once},
    process::{oracle, succeed, wait_for},
};

/// Longest silence of the log while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) struct Checker {
    /// For appends and progress.
    pub(super) log: Arc<KafkaLog>,
    lake: Lake,
    /// Another member of another group: it reads everything once.
    reader: KafkaLog,
    /// What it has read, a line for each record.
    read: PathBuf,
    next: BTreeMap<i32, i64>,
}

impl Checker {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        let settings = KafkaSettings {
            bootstrap_servers: pipeline.kafka.bootstrap(),
            topic: "activity".into(),
            group: "oracle".into(),
            ..KafkaSettings::default()
        };
        Self {
            log: Arc::new(pipeline.log()),
            lake: pipeline.lake(),
            reader: KafkaLog::open(&settings).expect("the settings are sound"),
            read: pipeline.folder.path().join("records.ndjson"),
            next: BTreeMap::new(),
        }
    }

    /// `None` while table or log does not answer.
    pub(super) async fn progress(&self) -> Option<Vec<PartitionProgress>> {
        worker::progress(&self.lake, &*self.log).await.ok()
    }

    /// Waits until both answer.
    pub(super) async fn progress_at_last(&self) -> Vec<PartitionProgress> {
        let mut found = None;
        wait_for("table and log answer", AT_LAST, async || {
            found = self.progress().await;
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    /// Compares everything, while nobody writes; gives what it counted, as text. The rollup is recomputed in the last one only.
    pub(super) async fn check(&mut self, pipeline: &Pipeline, last: bool) -> String {
        self.read_log().await;
        let records: i64 = self.next.values().sum();
        block_in_place(|| {
            let _ = succeed(&["rollup", "run"], &pipeline.environment());
            let _ = exactly_once(pipeline, records);
            let ledger = ledger(pipeline, &self.read).unwrap_or_else(|faults| panic!("{faults}"));
            if last {
                compare_rollup(pipeline);
                self.sees_what_is_wrong(pipeline);
            }
            format!(
                "{records} records = {} rows + dead letters {} in {} commits",
                ledger["rows"], ledger["dead_letters"], ledger["commits"]
            )
        })
    }

    /// Reads what has come since.
    async fn read_log(&mut self) {
        let progress = self.progress_at_last().await;
        let ends: BTreeMap<i32, i64> = progress.iter().map(|at| (at.kafka_partition, at.high_watermark)).collect();
        for partition in ends.keys() {
            self.next.entry(*partition).or_default();
        }
        let file = File::options().create(true).append(true).open(&self.read).expect("the folder can be written");
        let mut out = BufWriter::new(file);
        let mut consumer = self.reader.subscribe(Arc::new(From(self.next.clone()))).await.expect("the broker serves");
        while self.next != ends {
            let event = tokio::time::timeout(SILENCE_MAX, consumer.next()).await.expect("the log is not silent");
            match event.expect("the log can be read") {
                Event::Records(records) => {
                    for record in records {
                        let next = self.next.get_mut(&record.kafka_partition).expect("a partition of the topic");
                        assert_eq!(record.offset, *next, "no offset is left out: no transaction, no compaction");
                        *next += 1;
                        writeln!(out, "{}", line(&record)).expect("the folder can be written");
                    }
                }
                Event::Gap { kafka_partition, from, to } => {
                    panic!("partition {kafka_partition} has lost records: {from} to {to}");
                }
                Event::Assigned(_) | Event::Revoked(_) => {}
            }
        }
        out.flush().expect("the folder can be written");
        consumer.close().await.expect("the broker serves");
    }

    /// An oracle that cannot fail shows nothing: a record that was never sent, one that is not there, and others under those offsets
    /// must be found.
    fn sees_what_is_wrong(&self, pipeline: &Pipeline) {
        let read = fs::read_to_string(&self.read).expect("it was written");
        let (first, rest) = read.split_once('\n').expect("a line for each record");
        let mut unsent: Value = serde_json::from_str(first).expect("JSON");
        unsent["offset"] = self.next[&0].into();
        unsent["partition"] = 0.into();
        let others = read.replace("\"id\":\"", "\"id\":\"another-");
        let wrong = self.read.with_extension("wrong");
        for lines in [format!("{read}{unsent}\n"), rest.to_owned(), others] {
            fs::write(&wrong, lines).expect("the folder can be written");
            let faults = ledger(pipeline, &wrong);
            assert!(faults.is_err(), "the oracle takes a wrong account for a right one: {faults:?}");
        }
        fs::remove_file(&wrong).expect("it was written");
    }
}

/// A record as the oracle wants it; the digest tells a retry from a conflict.
fn line(record: &Record) -> Value {
    let text = |name: &str| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let event: Value = record.value.as_ref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
    let mut digest = DefaultHasher::new();
    ["type", "time", "subject", "data"].map(|name| event[name].to_string()).hash(&mut digest);
    json!({
        "partition": record.kafka_partition, "offset": record.offset, "org": text(headers::ORG),
        "source": event["source"].as_str(), "id": event["id"].as_str(), "digest": format!("{:016x}", digest.finish()),
    })
}

fn ledger(pipeline: &Pipeline, records: &Path) -> Result<Value, String> {
    let root = pipeline.s3.local_root();
    let tables = root.join(LAKE.trim_start_matches("s3://"));
    oracle("ledger.py", &[text(&tables), text(records)], &[])
}

fn compare_rollup(pipeline: &Pipeline) {
    let zones = pipeline.folder.path().join("zones.json");
    fs::write(&zones, activity::zones().to_string()).expect("the folder can be written");
    let clients = crate::folder().join("../schemas/clients.json");
    let root = pipeline.s3.local_root();
    let arguments = [LAKE, text(&zones), text(&clients), "--local-root", text(&root)];
    let compared = oracle("rollup.py", &arguments, &pipeline.s3.environment());
    let compared = compared.unwrap_or_else(|differences| panic!("{differences}"));
    assert!(compared["rows"].as_i64().is_some_and(|rows| rows > 0), "{compared:#}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Reads on from here.
struct From(BTreeMap<i32, i64>);

#[async_trait]
impl Positions for From {
    async fn next_offsets(&self, kafka_partitions: &[i32]) -> log::Result<BTreeMap<i32, i64>> {
        Ok(kafka_partitions.iter().map(|partition| (*partition, self.0[partition])).collect())
    }
}

/// Keeps logs and tables of a campaign that fails, beside the program that ran it.
pub(super) struct Evidence {
    from: Vec<PathBuf>,
    to: PathBuf,
    needed: bool,
}

impl Evidence {
    pub(super) fn new(pipeline: &Pipeline, seed: u64) -> Self {
        let program = std::env::current_exe().expect("a running program has a path");
        let to = program.with_file_name(format!("faults-{seed}"));
        Self { from: vec![pipeline.folder.path().to_owned(), pipeline.s3.local_root()], to, needed: true }
    }

    pub(super) fn not_needed(&mut self) {
        self.needed = false;
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if !self.needed {
            return;
        }
        // What cannot be kept must not hide why it is wanted.
        drop(fs::create_dir_all(&self.to));
        for from in &self.from {
            drop(std::process::Command::new("cp").arg("-r").arg(from).arg(&self.to).status());
        }
        eprintln!("logs and tables are kept in {}", self.to.display());
    }
}
