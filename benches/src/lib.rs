//! What the benches share: alternation, medians, the report.
//!
//! Machines are shared and noisy, so a figure is a ratio between two programs timed in turn in one run (A B A B …). Each bench prints a
//! table and, with `--json FILE`, writes `{"bench": NAME, "ratios": {name: number}, "detail": …}`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench is an edge: it reads the clock and prints"
)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Options that every bench takes.
#[derive(Debug, clap::Parser)]
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
