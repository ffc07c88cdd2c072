//! The full daily rollup against DuckDB computing the same table from the same Parquet files, two threads each.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use std::time::Instant;

use benches::{Filling, Options, calendar, median, report};
use clap::Parser;
use e2e::activity;
use lake::Lake;
use serde_json::json;

fn main() {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("two threads");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = folder.path().join("lake").display().to_string();
    let zones = folder.path().join("zones.json");
    std::fs::write(&zones, activity::zones().to_string()).expect("the folder can be written");
    runtime.block_on(Filling::new(&url, folder.path()).put(activity::generator(options.events)));
    let lake = Lake::open(&url, &[]).expect("a folder is a lake");
    let clients = e2e::folder().join("../schemas/clients.json").display().to_string();
    let zones = zones.display().to_string();
    let (mut ours, mut peers, mut rows) = (Vec::new(), Vec::new(), 0);
    for run in 0..=options.runs {
        drop(std::fs::remove_dir_all(folder.path().join("lake/rollup_daily")));
        let started = Instant::now();
        let calendar = calendar();
        rows = runtime
            .block_on(async { aggregate::run(&lake, &calendar, jiff::Timestamp::now(), &()).await })
            .expect("it rolls up")
            .rows;
        let our_seconds = started.elapsed().as_secs_f64();
        let peer = e2e::process::oracle("rollup.py", &[&url, &zones, &clients, "--time-only"], &[])
            .expect("DuckDB computes it");
        if run > 0 {
            ours.push(our_seconds);
            peers.push(peer["seconds"].as_f64().expect("a number"));
        }
    }
    let check = e2e::process::oracle("rollup.py", &[&url, &zones, &clients], &[]).expect("both compute the same");
    let ratios = json!({ "full_over_duckdb": median(&ours) / median(&peers) });
    let detail = json!({
        "events": options.events,
        "rollup_rows": rows,
        "events_per_s": options.events as f64 / median(&ours),
        "columns_equal": check["columns"],
    });
    let programs: [(&str, &[f64]); 2] = [("daybook", &ours), ("duckdb", &peers)];
    report("rollup", &programs, ratios, detail, options.json.as_deref());
}
