//! The worker against a consumer-only drain of the same topic: what does making tables cost over reading the log?
//!
//! A real broker, one topic of generated activity; then, in turn, a drain (the same consumer, records counted and dropped)
//! and a worker with a fresh lake on local disk, each from offset 0 to the end.
//!
//! Then freshness: a producer appends at 70 % of the worker's own speed, on the same cores; how long after the broker has
//! acknowledged a record does the table have it?
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use benches::{Options, median, percentile, report};
use clap::Parser;
use e2e::{activity, parts::Kafka};
use ingest::{
    log::{Event, KafkaLog, KafkaSettings, Log, contract::FixedPositions, kafka_partition_of},
    worker::{Settings, Worker, progress},
};
use lake::Lake;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 6;

/// As in `daybook`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let kafka = Kafka::start();
    kafka.create_topic("bench", PARTITIONS as u32);
    let open_topic = |topic: &str, group: &str| {
        let settings = KafkaSettings {
            bootstrap_servers: kafka.bootstrap(),
            topic: topic.into(),
            group: group.into(),
            ..KafkaSettings::default()
        };
        Arc::new(KafkaLog::open(&settings).expect("the settings are sound"))
    };
    let open = |group: &str| open_topic("bench", group);
    let bytes =
        activity::append(open("fill").as_ref(), activity::generator(options.events)).await.expect("the log takes it");
    let log = open("fill");
    let mut records = 0;
    for partition in 0..PARTITIONS {
        records += log.offsets(partition).await.expect("the broker serves").1;
    }
    println!("{records} records, {:.0} bytes each", bytes as f64 / records as f64);
    let (mut drains, mut workers, mut table_bytes) = (Vec::new(), Vec::new(), 0);
    // The first pair warms the page cache and is not counted.
    for run in 0..=options.runs {
        let drain = drain(open(&format!("drain-{run}")).as_ref(), records).await;
        let (worker, size) = work(open(&format!("worker-{run}")), records).await;
        if run > 0 {
            drains.push(drain);
            workers.push(worker);
            table_bytes = size;
        }
    }
    let rate = 0.7 * records as f64 / median(&workers);
    kafka.create_topic("fresh", PARTITIONS as u32);
    let fresh = freshness(&open_topic("fresh", "producer"), open_topic("fresh", "fresh"), rate).await;
    let ratios = json!({
        "worker_over_drain": median(&drains) / median(&workers),
        "freshness_p99_s": percentile(&fresh, 0.99),
    });
    let detail = json!({
        "records": records,
        "record_bytes": bytes as f64 / records as f64,
        "drain_rows_per_s": records as f64 / median(&drains),
        "worker_rows_per_s": records as f64 / median(&workers),
        "table_bytes_per_row": table_bytes as f64 / records as f64,
        "freshness_rows_per_s": rate,
        "freshness_p50_s": percentile(&fresh, 0.5),
        "freshness_max_s": percentile(&fresh, 1.0),
    });
    let programs: [(&str, &[f64]); 2] = [("drain", &drains), ("worker", &workers)];
    report("ingest", &programs, ratios, detail, options.json.as_deref());
}

/// Seconds from subscribing to the last record, records dropped.
async fn drain(log: &KafkaLog, records: i64) -> f64 {
    let started = Instant::now();
    let mut consumer = log.subscribe(FixedPositions::new(BTreeMap::new())).await.expect("the broker serves");
    let mut seen = 0;
    while seen < records {
        if let Event::Records(batch) = consumer.next().await.expect("the broker serves") {
            seen += i64::try_from(batch.len()).expect("a batch is small");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    consumer.close().await.expect("the broker serves");
    seconds
}

/// Seconds from subscribing to the commit of the last record, and the size of the files.
async fn work(log: Arc<KafkaLog>, records: i64) -> (f64, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lake = Lake::open(&folder.path().display().to_string(), &[]).expect("a folder is a lake");
    let registry = prometheus::Registry::new();
    let settings = Settings::default();
    let worker = Worker::new(settings, lake.clone(), log.clone(), "bench", &registry).await.expect("tables open");
    let stop = CancellationToken::new();
    let started = Instant::now();
    let running = tokio::spawn(worker.run(stop.clone()));
    loop {
        let progress = progress(&lake, log.as_ref()).await.expect("table and log can be read");
        if progress.iter().map(|partition| partition.next_offset).sum::<i64>() >= records {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    stop.cancel();
    running.await.expect("the worker does not panic").expect("the worker stops cleanly");
    let snapshot = lake.table(&schemas::EVENTS).snapshot().await.expect("the table can be read");
    (seconds, snapshot.files.iter().map(|file| file.size_bytes).sum())
}

/// Length of the freshness run, and from one append to the next.
const FRESH: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);

/// Seconds from each acknowledged append to the table commit that has all of its records, at `rate` records a second.
async fn freshness(producer: &KafkaLog, log: Arc<KafkaLog>, rate: f64) -> Vec<f64> {
    let (ticks, size) = (FRESH.as_millis() / TICK.as_millis(), (rate * TICK.as_secs_f64()) as usize);
    let mut records = activity::generator(ticks as u64 * size as u64).map(activity::record);
    let batches: Vec<Vec<_>> = (0..ticks).map(|_| records.by_ref().take(size).collect()).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lake = Lake::open(&folder.path().display().to_string(), &[]).expect("a folder is a lake");
    let registry = prometheus::Registry::new();
    let worker =
        Worker::new(Settings::default(), lake.clone(), log.clone(), "fresh", &registry).await.expect("tables open");
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    // The group has to form first; that is no matter of freshness.
    tokio::time::sleep(Duration::from_secs(5)).await;

    // Where each partition ends with an append, and when that was acknowledged.
    let mut ends = [0_i64; PARTITIONS as usize];
    let mut waiting: VecDeque<([i64; PARTITIONS as usize], Instant)> = VecDeque::new();
    let mut seconds = Vec::new();
    let mut timer = tokio::time::interval(TICK);
    let mut batches = batches.into_iter();
    loop {
        timer.tick().await;
        let next = batches.next();
        if let Some(batch) = next {
            for record in &batch {
                ends[kafka_partition_of(&record.key, PARTITIONS) as usize] += 1;
            }
            producer.append(batch).await.expect("the broker serves");
            waiting.push_back((ends, Instant::now()));
        } else if waiting.is_empty() {
            break;
        }
        let progress = progress(&lake, log.as_ref()).await.expect("table and log can be read");
        let there = |ends: &[i64]| progress.iter().all(|at| at.next_offset >= ends[at.kafka_partition as usize]);
        while waiting.front().is_some_and(|(ends, _)| there(ends)) {
            let (_, since) = waiting.pop_front().expect("it was looked at");
            seconds.push(since.elapsed().as_secs_f64());
        }
    }
    stop.cancel();
    running.await.expect("the worker does not panic").expect("the worker stops cleanly");
    seconds
}
