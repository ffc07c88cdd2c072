//! The full daily rollup against DuckDB computing the same table from the same Parquet files, two threads each. Ours makes the
//! four breakdowns in the same pass, which the peer does not; what follows from them is timed apart.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use aggregate::Memory;
use benches::{Filling, Options, Runs, calendar, forget_rollups, median, report};
use clap::Parser;
use e2e::activity;
use lake::Lake;
use serde_json::json;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let (mut ours, mut peers, mut rows) = (Runs::default(), Vec::new(), 0);
    let calendar = calendar();
    for run in 0..=options.runs {
        forget_rollups(&folder.path().join("lake"));
        rows = runtime.block_on(ours.run(&lake, &calendar, &mut Memory::default())).rows;
        let peer = e2e::process::oracle("rollup.py", &[&url, &zones, &clients, "--time-only"], &[])
            .expect("DuckDB computes it");
        if run == 0 {
            ours.forget();
        } else {
            peers.push(peer["seconds"].as_f64().expect("a number"));
        }
    }
    let check = e2e::process::oracle("rollup.py", &[&url, &zones, &clients], &[]).expect("both compute the same");
    let ratios = json!({ "full_over_duckdb": median(&ours.rollup) / median(&peers) });
    let detail = json!({
        "events": options.events,
        "rollup_rows": rows,
        "events_per_s": options.events as f64 / median(&ours.rollup),
        "columns_equal": check["columns"],
    });
    let programs: [(&str, &[f64]); 3] =
        [("daybook", &ours.rollup), ("duckdb", &peers), ("daybook, what follows", &ours.rest)];
    report("rollup", &programs, ratios, detail, options.json.as_deref());
}
