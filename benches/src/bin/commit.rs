//! What a table commit costs when a table holds many files, and what opening it costs when it has many commits.
//!
//! The files are hard links to one real file: what is measured is the log. Everything is on local disk, synced as always.
#![allow(clippy::disallowed_methods, reason = "a bench is an edge: it reads the clock")]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use benches::{Filling, Options, median, percentile, report};
use clap::Parser;
use e2e::activity;
use lake::{Change, DataFile, Head, Lake, Swap, Table, maintain};
use schemas::EVENTS;
use serde_json::json;

/// Active files of the small table, and of the large one.
const FILES: [i64; 2] = [100, 100_000];
/// Commits of the table that is opened.
const COMMITS: i64 = 10_000;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = Writer::new(&folder.path().join("first")).await;
    let mut tables = Vec::new();
    for files in FILES {
        let mut writer = Writer::new(&folder.path().join(files.to_string())).await;
        for start in (0..files).step_by(1_000) {
            writer.commit(1_000.min(files - start)).await;
        }
        tables.push(writer);
    }
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..options.runs * 100 {
        for (writer, seconds) in tables.iter_mut().zip(&mut seconds) {
            seconds.push(writer.commit(1).await);
        }
    }
    drop(tables);

    let mut many = first;
    for commit in 0..COMMITS {
        many.commit(1).await;
        if commit % 100 == 99 {
            // Without compaction: its commits would be others than those that are counted.
            let settings = maintain::Settings { files_min: usize::MAX, ..maintain::Settings::default() };
            many.lake.maintain(&EVENTS, &settings, false).await.expect("it is maintained");
        }
    }
    let (mut heads, mut snapshots) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        heads.push(many.open(async |table| drop(table.head().await.expect("readable"))).await);
        snapshots.push(many.open(async |table| drop(table.snapshot().await.expect("readable"))).await);
    }
    let [small, large] = &seconds;
    let ratios = json!({
        "commit_100k_over_100": median(large) / median(small),
        "open_10k_commits_s": median(&snapshots),
    });
    let detail = json!({
        "commit_100_p50_ms": 1e3 * median(small),
        "commit_100_p99_ms": 1e3 * percentile(small, 0.99),
        "commit_100k_p50_ms": 1e3 * median(large),
        "commit_100k_p99_ms": 1e3 * percentile(large, 0.99),
        "open_for_writing_s": median(&heads),
        "open_for_reading_s": median(&snapshots),
    });
    let programs: [(&str, &[f64]); 4] = [
        ("commit, 100 files", small),
        ("commit, 100,000 files", large),
        ("open to write", &heads),
        ("open to read", &snapshots),
    ];
    report("commit", &programs, ratios, detail, options.json.as_deref());
}

/// Adds files to a table.
struct Writer {
    folder: PathBuf,
    lake: Lake,
    table: Table,
    head: Head,
    /// A real file of it.
    file: DataFile,
    /// What is linked to.
    origin: PathBuf,
    added: i64,
}

impl Writer {
    async fn new(folder: &Path) -> Self {
        let url = folder.join("lake").display().to_string();
        Filling::new(&url, folder).put(activity::generator(1_000)).await;
        let lake = Lake::open(&url, &[]).expect("a folder is a lake");
        let table = lake.table(&EVENTS);
        let file = table.snapshot().await.expect("readable").files.swap_remove(0);
        let head = table.head().await.expect("readable").expect("there");
        let folder = folder.join("lake/events");
        Self { origin: folder.join(&file.path), folder, lake, table, head, file, added: 0 }
    }

    /// Commits `count` files; gives the time of the commit alone (s).
    async fn commit(&mut self, count: i64) -> f64 {
        let mut add = Vec::new();
        for number in self.added..self.added + count {
            let mut file = self.file.clone();
            file.path = format!("{}.{number}.parquet", self.file.path);
            let to = self.folder.join(&file.path);
            // ext4 takes 65,000 links to a file.
            if number % 50_000 == 49_999 {
                std::fs::copy(&self.origin, &to).expect("the disk takes a copy");
                self.origin = to;
            } else {
                std::fs::hard_link(&self.origin, to).expect("the disk takes a link");
            }
            add.push(file);
        }
        let swap = Swap { app_id: "bench".into(), expected: self.added, next: self.added + count };
        self.added += count;
        let change =
            Change { operation: "STREAMING UPDATE", add, swaps: vec![swap], data_change: true, ..Change::default() };
        let started = Instant::now();
        self.table.commit(&mut self.head, change).await.expect("nobody else writes");
        started.elapsed().as_secs_f64()
    }

    /// Time that `read` takes on the table, opened anew (s).
    async fn open(&self, read: impl AsyncFn(Table)) -> f64 {
        let url = self.lake.url().to_string();
        let started = Instant::now();
        read(Lake::open(&url, &[]).expect("a folder is a lake").table(&EVENTS)).await;
        started.elapsed().as_secs_f64()
    }
}
