//! What the benches share: alternation, medians, the report.
//!
//! Machines are shared and noisy, so a figure is a ratio between two programs timed in turn in one run (A B A B …). Each bench prints a
//! table and, with `--json FILE`, writes `{"bench": NAME, "ratios": {name: number}, "detail": …}`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

pub mod contest;
pub mod freshness;
pub mod load;
pub mod peers;
pub mod postgres;
pub mod program;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use aggregate::{Memory, OrgCalendar, OrgDays, RunReport, refresh, roll_up};
use daybook::generate::{Generated, ORGANISATIONS};
use e2e::activity;
use ingest::{
    log::{EmbeddedLog, EmbeddedSettings},
    worker::{Settings, Worker, progress},
};
use jiff::{SignedDuration, Timestamp};
use lake::{Lake, maintain};
use schemas::EVENTS;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Options that every bench takes.
#[derive(Clone, Debug, clap::Parser)]
pub struct Options {
    /// Events to work on.
    #[arg(long, default_value_t = 1_000_000)]
    pub events: u64,
    /// Runs of each program.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Writes the ratios and what they come from to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// The middle value; the mean of the middle two of an even number.
///
/// # Panics
/// Where there are none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The value below which the share `of` of all lies, e.g. 0.99.
///
/// # Panics
/// Where there are none.
#[must_use]
pub fn percentile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * of).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// A lake that fills up through an embedded log and a worker.
pub struct Filling {
    log: Arc<EmbeddedLog>,
    lake: Lake,
}

impl Filling {
    /// The lake at `url`, with its log in `folder`.
    ///
    /// # Panics
    /// Where a part does not do its work.
    #[must_use]
    pub fn new(url: &str, folder: &Path) -> Self {
        let settings = EmbeddedSettings { dir: folder.join("log"), ..EmbeddedSettings::default() };
        let clock: Arc<dyn Fn() -> i64 + Send + Sync> = Arc::new(|| Timestamp::now().as_millisecond());
        let log = Arc::new(EmbeddedLog::open(&settings, clock).expect("the log opens"));
        Self { log, lake: Lake::open(url, &[]).expect("a folder is a lake") }
    }

    /// Puts records through, until they are in the table.
    ///
    /// # Panics
    /// Where a part does not do its work.
    pub async fn put(&self, records: impl Iterator<Item = Generated>) {
        activity::append(self.log.as_ref(), records).await.expect("the log takes it");
        let (registry, log) = (prometheus::Registry::new(), self.log.clone());
        let worker = Worker::new(Settings::default(), self.lake.clone(), log, "bench", &registry).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker.expect("tables open").run(stop.clone()));
        loop {
            let progress = progress(&self.lake, self.log.as_ref()).await.expect("table and log can be read");
            if progress.iter().all(|partition| partition.next_offset >= partition.high_watermark) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        stop.cancel();
        running.await.expect("the worker does not panic").expect("the worker stops cleanly");
    }
}

/// Generated organisations and their zones, for the aggregator.
///
/// # Panics
/// Never: the zones are known.
#[must_use]
pub fn calendar() -> OrgCalendar {
    let days = |zone: &str| OrgDays::new(zone, 48).expect("the zone is known");
    let mut calendar = OrgCalendar::new(days("UTC"));
    for org in ORGANISATIONS {
        calendar.set(&org.id.parse().expect("an id"), days(org.time_zone));
    }
    calendar
}

/// Merges small files of past days, as in service.
///
/// # Panics
/// Where they cannot be merged.
pub async fn merge_small_files(lake: &Lake) {
    let settings = maintain::Settings { quiet_after: SignedDuration::ZERO, ..maintain::Settings::default() };
    lake.maintain(&EVENTS, &settings, false).await.expect("its files can be merged");
}

/// Deletes all that follows from `events` and `dead_letters` from a lake in a folder.
///
/// # Panics
/// Where the folder cannot be read.
pub fn forget_rollups(lake: &Path) {
    for entry in std::fs::read_dir(lake).expect("the lake is a folder").flatten() {
        if !["events", "dead_letters"].iter().any(|name| entry.file_name() == *name) {
            // What is not deleted is a table that is up to date, and the figures would show it.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Seconds that a run takes for `rollup_daily` and its breakdowns, for what follows from them, and for both.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The rollup and its breakdowns.
    pub rollup: Vec<f64>,
    /// The change feed and derived tables.
    pub rest: Vec<f64>,
    /// Both.
    pub all: Vec<f64>,
}

impl Runs {
    /// Runs and takes the time; gives what the run says of the rollup.
    ///
    /// # Panics
    /// Where a table cannot be read or written.
    pub async fn run(&mut self, lake: &Lake, calendar: &OrgCalendar, memory: &mut Memory) -> RunReport {
        let started = Instant::now();
        let report = roll_up(lake, calendar, Timestamp::now(), &(), memory).await.expect("it rolls up");
        let rollup = started.elapsed().as_secs_f64();
        refresh(lake, calendar, Timestamp::now(), &(), memory).await.expect("what follows can be computed");
        let all = started.elapsed().as_secs_f64();
        self.rollup.push(rollup);
        self.rest.push(all - rollup);
        self.all.push(all);
        report
    }

    /// Forgets the latest run: the first of a program warms the caches.
    pub fn forget(&mut self) {
        for seconds in [&mut self.rollup, &mut self.rest, &mut self.all] {
            seconds.pop();
        }
    }
}

/// Prints one line per program and the ratios, and writes the file.
///
/// # Panics
/// Where the file cannot be written.
pub fn report(bench: &str, programs: &[(&str, &[f64])], ratios: Value, detail: Value, file: Option<&Path>) {
    println!("{:<24} {:>10} {:>10} {:>10}", "seconds", "min", "median", "max");
    for (name, seconds) in programs {
        let low = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = seconds.iter().copied().fold(0.0, f64::max);
        println!("{name:<24} {low:>10.3} {:>10.3} {high:>10.3}", median(seconds));
    }
    println!("{}", serde_json::to_string_pretty(&ratios).expect("numbers are JSON"));
    println!("{}", serde_json::to_string_pretty(&detail).expect("numbers are JSON"));
    if let Some(file) = file {
        let all = json!({ "bench": bench, "ratios": ratios, "detail": detail });
        std::fs::write(file, format!("{all:#}\n")).expect("the JSON file can be written");
    }
}
