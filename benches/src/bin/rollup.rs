//! The full daily rollup against DuckDB, chDB and Polars computing its measures from the same Parquet files, two threads each; and against
//! a bare scan of the columns that it reads.
//!
//! Each run is a process of its own. Ours removes duplicates, keeps the rule of nulls, plans, first days, completeness and families, and makes
//! four breakdowns in the same pass; the peers compute the measures alone, without duplicates removed and with (`--dedupe`). What they make
//! of it is compared with ours, and ours with the whole table as DuckDB has it by other SQL.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use aggregate::{Memory, roll_up};
use benches::{
    Filling, Options, calendar, forget_rollups, median, merge_small_files, peers,
    program::{Program, Usage},
    report,
};
use clap::Parser;
use e2e::{activity, installed};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use lake::Lake;
use schemas::{EVENTS, rollup::ROLLUP_DAILY};
use serde_json::{Value, json};

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENGINES: [&str; 3] = ["duckdb", "chdb", "polars"];
const THREADS: usize = 2;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// People [default: one for each 500 events]
    #[arg(long)]
    users: Option<usize>,
    /// Keeps the lake in this folder, and takes the one that is there [default: a temporary one]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Leaves the files as the worker wrote them, where maintenance would have merged them
    #[arg(long)]
    small_files: bool,
    #[command(subcommand)]
    command: Option<Hidden>,
}

/// What the bench starts itself as.
#[derive(Clone, Debug, clap::Subcommand)]
enum Hidden {
    /// Rolls up.
    #[command(hide = true)]
    Once { lake: PathBuf },
    /// Reads the columns that a rollup reads, and drops them.
    #[command(hide = true)]
    Scan { lake: PathBuf },
}

fn main() {
    let arguments = Arguments::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(THREADS).enable_all().build().expect("two threads");
    match arguments.command {
        Some(Hidden::Once { lake }) => runtime.block_on(once(&lake)),
        Some(Hidden::Scan { lake }) => runtime.block_on(scan(&lake)),
        None => contest(&runtime, &arguments),
    }
}

/// Says `ready`, does `work`, says `done` and what came of it, and waits until its standard input ends.
async fn told(work: impl Future<Output = Value>) {
    println!("ready");
    let outcome = work.await;
    println!("done {outcome}");
    let _ = std::io::stdin().read(&mut [0]);
}

async fn once(folder: &Path) {
    let (lake, calendar) = (open(folder), calendar());
    told(async {
        let run = roll_up(&lake, &calendar, Timestamp::now(), &(), &mut Memory::default()).await.expect("it rolls up");
        json!({ "rows": run.rows, "events": run.events, "duplicates_removed": run.duplicates_removed })
    })
    .await;
}

async fn scan(folder: &Path) {
    let table = open(folder).table(&EVENTS);
    let files = table.snapshot().await.expect("it can be read").files;
    told(async {
        let columns = aggregate::columns_read();
        let reads = files.into_iter().map(|file| {
            let (table, columns) = (table.clone(), columns.clone());
            async move {
                let task = tokio::spawn(async move {
                    let batches = table.read_newest(vec![file], &columns);
                    batches.try_fold(0, async |rows, batch| Ok(rows + batch.num_rows())).await
                });
                task.await.expect("no panic").expect("it can be read")
            }
        });
        let rows = futures::stream::iter(reads).buffer_unordered(THREADS);
        json!({ "rows": rows.fold(0, async |rows, more| rows + more).await })
    })
    .await;
}

fn open(folder: &Path) -> Lake {
    Lake::open(&folder.display().to_string(), &[]).expect("a folder is a lake")
}

/// What runs of one program took.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    cpu_s: Vec<f64>,
    peak_mb: Vec<f64>,
    last: Value,
}

impl Runs {
    /// Runs it once; the first run only warms the caches.
    fn run(&mut self, name: &str, command: &mut Command, folder: &Path, counts: bool) {
        let mut program = Program::start(name, command, &folder.join("said"));
        program.await_line("ready");
        let (started, before): (Instant, Usage) = (Instant::now(), program.usage());
        self.last = program.await_line("done");
        let (seconds, after) = (started.elapsed().as_secs_f64(), program.usage());
        program.end(false);
        if counts {
            self.seconds.push(seconds);
            self.cpu_s.push(after.cpu_s - before.cpu_s);
            self.peak_mb.push(after.peak_mb);
        }
    }

    fn detail(&self) -> Value {
        json!({ "cpu_s": median(&self.cpu_s), "peak_mb": median(&self.peak_mb).round(), "account": self.last })
    }
}

fn contest(runtime: &tokio::runtime::Runtime, arguments: &Arguments) {
    let (options, temporary) = (&arguments.options, tempfile::tempdir().expect("a temporary folder"));
    let folder = arguments.folder.as_deref().unwrap_or(temporary.path());
    let lake = folder.join("lake");
    let url = lake.display().to_string();
    let zones = folder.join("zones.json");
    std::fs::write(&zones, activity::zones().to_string()).expect("the folder can be written");
    if !lake.join(EVENTS.name).exists() {
        runtime.block_on(Filling::new(&url, folder).put(activity::generator_of(options.events, arguments.users)));
        if !arguments.small_files {
            runtime.block_on(merge_small_files(&open(&lake)));
        }
    }
    let out = |engine: &str| folder.join(engine).with_extension("parquet");
    let ourselves = |word: &str| {
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        command.arg(word).arg(&lake);
        command
    };
    let peer = |engine: &str, dedupe: bool| {
        let mut command = script();
        command.arg(engine).arg(&lake).arg(&zones).arg(out(engine)).args(dedupe.then_some("--dedupe"));
        command
    };
    let mut all: BTreeMap<String, Runs> = BTreeMap::new();
    for round in 0..=options.runs {
        let mut run = |name: &str, command: &mut Command| {
            all.entry(name.to_owned()).or_default().run(name, command, folder, round > 0);
        };
        run("scan", &mut ourselves("scan"));
        forget_rollups(&lake);
        run("daybook", &mut ourselves("once"));
        for engine in ENGINES {
            run(engine, &mut peer(engine, false));
        }
        for engine in ENGINES {
            run(&format!("{engine}, dedupe"), &mut peer(engine, true));
        }
    }
    let differences = compare(&lake, &ENGINES.map(out));
    let (clients, zones) =
        (e2e::folder().join("../schemas/clients.json").display().to_string(), zones.display().to_string());
    let check = e2e::process::oracle("rollup.py", &[&url, &zones, &clients], &[]).expect("both compute the same");
    let seconds = |name: &str| median(&all[name].seconds);
    let best = |more: &str| {
        ENGINES.map(|engine| seconds(&format!("{engine}{more}"))).into_iter().fold(f64::INFINITY, f64::min)
    };
    let peak = |name: &String| median(&all[name].peak_mb);
    let leanest = all.keys().filter(|name| name.ends_with("dedupe")).map(peak).fold(f64::INFINITY, f64::min);
    let ratios = json!({
        "full_over_best_peer": seconds("daybook") / best(""),
        "dedupe_over_best_peer": seconds("daybook") / best(", dedupe"),
        "rss_over_leanest": peak(&"daybook".to_owned()) / leanest,
        "full_over_scan": seconds("daybook") / seconds("scan"),
    });
    let detail = json!({
        "events": options.events,
        "events_per_s": options.events as f64 / seconds("daybook"),
        "columns_equal": check["columns"],
        "peers_differ": differences,
        "programs": all.iter().map(|(name, runs)| (name.clone(), runs.detail())).collect::<BTreeMap<_, _>>(),
    });
    let programs: Vec<(&str, &[f64])> = all.iter().map(|(name, runs)| (name.as_str(), &runs.seconds[..])).collect();
    report("rollup", &programs, ratios, detail, options.json.as_deref());
}

/// What the peers run.
fn script() -> Command {
    let mut command = Command::new(installed("DAYBOOK_ENGINES_PYTHON"));
    // Its compiled modules would lie beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(peers::folder().join("engines/rollup.py"));
    command
}

/// Where the tables of peers differ from ours: rows by table and column.
fn compare(lake: &Path, tables: &[PathBuf]) -> Value {
    let output = script().arg("compare").arg(lake).arg(ROLLUP_DAILY.name).args(tables).output().expect("Python starts");
    let differences = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    assert!(output.status.success(), "{differences}\n{}", String::from_utf8_lossy(&output.stderr));
    differences
}
