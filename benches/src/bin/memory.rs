//! Memory of a worker that comes late: 1,000 partitions, some of them far fuller than others, and 400 days of activity to catch up.
//!
//! A real broker, a `daybook serve --role worker` process with its defaults and a lake on local disk. The kernel says what the
//! process took at most (`VmHWM`). Every partition must move, and the log must be read to its end.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use std::time::{Duration, Instant};

use benches::{Options, report};
use bytes::Bytes;
use clap::Parser;
use daybook::generate::{Config, Generator};
use e2e::{
    activity, free_port,
    parts::Kafka,
    process::{Server, setting, wait_for},
};
use ingest::{
    log::{KafkaLog, KafkaSettings, Log},
    worker::progress,
};
use jiff::civil::Date;
use lake::Lake;
use serde_json::json;

const PARTITIONS: u32 = 1_000;
const DAYS: u32 = 400;
const APPENDED: usize = 5_000;
const BOUND_MIB: f64 = 512.0;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let kafka = Kafka::start();
    kafka.create_topic("backlog", PARTITIONS);
    let settings = KafkaSettings {
        bootstrap_servers: kafka.bootstrap(),
        topic: "backlog".into(),
        // Two requests a partition, and one broker.
        delivery_timeout: jiff::SignedDuration::from_secs(300),
        ..KafkaSettings::default()
    };
    let log = KafkaLog::open(&settings).expect("the settings are sound");
    fill(&log, options.events).await;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = folder.path().join("lake").display().to_string();
    let lake = Lake::open(&url, &[]).expect("a folder is a lake");
    let environment = [
        setting("lake.url", &url),
        setting("log.kind", "kafka"),
        setting("log.kafka.topic", "backlog"),
        setting("log.kafka.bootstrap-servers", kafka.bootstrap()),
        setting("directory.url", format!("sqlite://{}/directory.db", folder.path().display())),
    ];
    activity::organise(&format!("sqlite://{}/directory.db", folder.path().display()));
    let listen = format!("127.0.0.1:{}", free_port());
    let started = Instant::now();
    let mut worker =
        Server::start(&["serve", "--role", "worker", "--listen", &listen], &environment, &folder.path().join("log"));
    let (mut moved, mut records) = (0, 0);
    wait_for("the end of the backlog", Duration::from_secs(1_200), async || {
        worker.lives();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let Ok(progress) = progress(&lake, &log).await else { return false };
        moved = progress.iter().filter(|at| at.next_offset > 0).count();
        records = progress.iter().map(|at| at.next_offset).sum::<i64>();
        progress.iter().all(|at| at.next_offset >= at.high_watermark)
    })
    .await;
    let seconds = started.elapsed().as_secs_f64();
    let peak_mib = worker.peak_memory_bytes() as f64 / f64::from(1 << 20);
    assert_eq!(worker.terminate(), 0, "SIGTERM ends a worker well");
    let snapshot = lake.table(&schemas::EVENTS).snapshot().await.expect("the table can be read");
    let ratios = json!({ "peak_rss_mib": peak_mib, "peak_rss_over_bound": peak_mib / BOUND_MIB });
    let detail = json!({
        "partitions": PARTITIONS, "partitions_moved": moved, "days": DAYS, "records": records,
        "files": snapshot.files.len(), "versions": snapshot.version,
    });
    report("memory", &[("backlog", &[seconds])], ratios, detail, options.json.as_deref());
    assert_eq!(moved, PARTITIONS as usize, "every partition moves");
    assert!(peak_mib <= BOUND_MIB, "{peak_mib:.0} MiB are more than {BOUND_MIB:.0}");
}

/// Appends the backlog: half of it for a dozen keys, one record at least for each partition.
async fn fill(log: &KafkaLog, events: u64) {
    let end = Date::constant(2026, 3, 31);
    let config = Config { users: 4_000, days: DAYS, ..Config::new(7, events, end) };
    let generator = Generator::new(config).expect("the configuration is sound");
    let mut batch = Vec::with_capacity(APPENDED);
    for (number, generated) in generator.enumerate() {
        let mut record = activity::record(generated);
        record.key = match number {
            // More keys than partitions, so that none is left out.
            0..20_000 => Bytes::from(format!("acme/{number}")),
            _ if number % 2 == 0 => Bytes::from(format!("acme/hot-{}", number % 12)),
            _ => record.key,
        };
        batch.push(record);
        if batch.len() == APPENDED {
            log.append(std::mem::take(&mut batch)).await.expect("the broker serves");
        }
    }
    if !batch.is_empty() {
        log.append(batch).await.expect("the broker serves");
    }
}
