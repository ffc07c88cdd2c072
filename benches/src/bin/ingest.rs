//! The worker against a consumer-only drain of the same topic, against Spark, and against other ways from Kafka to Delta.
//!
//! A real broker and one topic of generated activity; then, in turn, every program with a fresh table on local disk, from the
//! first record to the last. Each must have written a row for every record, and the peers' columns must hold what ours hold.
//! Then freshness: a producer appends at 70 % of the worker's own speed, on the same cores.
#![allow(clippy::print_stdout, reason = "a bench is an edge: it prints")]

use std::{collections::BTreeMap, io::Read};

use benches::{
    Options,
    contest::{Contender, Contest, Run, Runs, TOPIC, WARM_UP},
    freshness::{self, PARTITIONS},
    peers, percentile, report,
};
use clap::Parser;
use e2e::{activity, parts::Kafka};
use ingest::log::{Event, KafkaLog, KafkaSettings, Log, contract::FixedPositions};
use serde_json::{Value, json};

/// Events that Spark runs in on.
const WARM_UP_EVENTS: u64 = 50_000;
/// Runs of a peer, which takes long: at most so many.
const PEER_RUNS_MAX: usize = 2;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Whom to run beside worker and drain.
    #[arg(long, value_enum, default_value_t = Peers::All)]
    peers: Peers,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Peers {
    None,
    Spark,
    All,
}

#[derive(Debug, clap::Subcommand)]
enum Hidden {
    /// Reads the topic and drops the records: the bench starts itself so.
    #[command(hide = true)]
    Drain {
        #[arg(long)]
        bootstrap: String,
        #[arg(long)]
        group: String,
        #[arg(long)]
        records: usize,
    },
}

/// As in `daybook`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    if let Some(Hidden::Drain { bootstrap, group, records }) = arguments.command {
        return drain(&open(&bootstrap, TOPIC, &group), records).await;
    }
    let options = arguments.options;
    let contenders: &[Contender] = match arguments.peers {
        Peers::None => &[Contender::Drain, Contender::Worker],
        Peers::Spark => &[Contender::Drain, Contender::Worker, Contender::Spark],
        Peers::All => &[Contender::Drain, Contender::Worker, Contender::Spark, Contender::Quix, Contender::Loop],
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (contest, bytes) = prepare(&options, folder.path()).await;
    let (all, equal) = run(&contest, contenders, options.runs).await;
    let worker = all.iter().find(|runs| runs.contender == Contender::Worker).expect("it is always there");
    let rate = 0.7 * contest.records as f64 / worker.median(|run| run.seconds);
    contest.kafka.create_topic(freshness::TOPIC, PARTITIONS);
    let producer = open(&contest.kafka.bootstrap(), freshness::TOPIC, "producer");
    let fresh = freshness::of_worker(&contest, &producer, rate).await;

    let mut ratios = ratios(worker, &all);
    ratios["freshness_p99_s"] = percentile(&fresh, 0.99).into();
    let mut detail = json!({
        "records": contest.records,
        "record_bytes": bytes as f64 / contest.records as f64,
        "freshness_rows_per_s": rate,
        "freshness_p50_s": percentile(&fresh, 0.5),
        "freshness_max_s": percentile(&fresh, 1.0),
        "equal_to_worker": equal,
    });
    for runs in &all {
        detail[runs.contender.name()] = runs.detail(contest.records);
    }
    let seconds: Vec<(&str, Vec<f64>)> =
        all.iter().map(|runs| (runs.contender.name(), runs.runs.iter().map(|run| run.seconds).collect())).collect();
    let programs: Vec<(&str, &[f64])> = seconds.iter().map(|(name, seconds)| (*name, seconds.as_slice())).collect();
    report("ingest", &programs, ratios, detail, options.json.as_deref());
}

/// Runs all of them in turn; gives their runs, and what the comparison of each peer's table with ours found.
async fn run(contest: &Contest, contenders: &[Contender], turns: usize) -> (Vec<Runs>, Value) {
    let mut all: Vec<Runs> =
        contenders.iter().map(|contender| Runs { contender: *contender, runs: Vec::new() }).collect();
    let mut equal = json!({});
    for turn in 0..=turns {
        for Runs { contender, runs } in &mut all {
            // The first turn warms the page cache, without the peers, and is not counted.
            if contender.is_peer() && (turn == 0 || turn > PEER_RUNS_MAX) {
                continue;
            }
            let run = contest.run(*contender, turn).await;
            let rate = contest.records as f64 / run.seconds;
            println!("{:<8} {rate:>9.0} rows/s, {:>7.1} CPU-s, {:>6.0} MB", contender.name(), run.cpu_s, run.peak_mb);
            if turn > 0 {
                runs.push(run);
            }
            if contender.is_peer() && turn == 1 {
                let place = |of: Contender| Contest::events(&contest.folder.join(of.name()));
                equal[contender.name()] = peers::compare(&place(Contender::Worker), &place(*contender));
            }
        }
    }
    (all, equal)
}

/// `worker_over_<program>`: how many times its throughput ours is. `cpu_over_<peer>`: our processor time for an event over
/// the peer's, its start-up left out; ours holds our start-up.
fn ratios(worker: &Runs, all: &[Runs]) -> Value {
    let seconds = |run: &Run| run.seconds;
    let cpu = |run: &Run| run.cpu_s;
    let mut ratios = json!({});
    let mut best = f64::INFINITY;
    for runs in all.iter().filter(|runs| runs.contender != Contender::Worker) {
        let name = runs.contender.name();
        ratios[format!("worker_over_{name}")] = (runs.median(seconds) / worker.median(seconds)).into();
        if runs.contender.is_peer() {
            best = best.min(runs.median(cpu));
            ratios[format!("cpu_over_{name}")] = (worker.median(cpu) / runs.median(cpu)).into();
        }
    }
    if best.is_finite() {
        ratios["cpu_over_best_peer"] = (worker.median(cpu) / best).into();
    }
    ratios
}

/// A broker with both topics, and the bytes of the records.
async fn prepare(options: &Options, folder: &std::path::Path) -> (Contest, u64) {
    let kafka = Kafka::start();
    let bootstrap = kafka.bootstrap();
    let mut filled = (0, 0);
    for (topic, events) in [(WARM_UP, WARM_UP_EVENTS.min(options.events)), (TOPIC, options.events)] {
        kafka.create_topic(topic, PARTITIONS);
        let log = open(&bootstrap, topic, "fill");
        let bytes = activity::append(&log, activity::generator(events)).await.expect("the log takes it");
        let mut records = 0;
        for partition in 0..PARTITIONS as i32 {
            records += log.offsets(partition).await.expect("the broker serves").1;
        }
        filled = (records, bytes);
    }
    let (records, bytes) = filled;
    println!("{records} records, {:.0} bytes each", bytes as f64 / records as f64);
    (Contest { kafka, records, folder: folder.to_owned() }, bytes)
}

fn open(bootstrap: &str, topic: &str, group: &str) -> KafkaLog {
    let settings = KafkaSettings {
        bootstrap_servers: bootstrap.into(),
        topic: topic.into(),
        group: group.into(),
        ..KafkaSettings::default()
    };
    KafkaLog::open(&settings).expect("the settings are sound")
}

/// Reads `records` records and says so; then waits to be measured.
async fn drain(log: &KafkaLog, records: usize) {
    let mut consumer = log.subscribe(FixedPositions::new(BTreeMap::new())).await.expect("the broker serves");
    let mut seen = 0;
    while seen < records {
        if let Event::Records(batch) = consumer.next().await.expect("the broker serves") {
            seen += batch.len();
        }
    }
    println!("done");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input ends");
    consumer.close().await.expect("the broker serves");
}
