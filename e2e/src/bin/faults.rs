//! `cargo xtask faults [--minutes N] [--seed S]`: the whole fault campaign on a real broker, a real store and real workers, or a cut
//! of it.
#![allow(clippy::print_stdout, reason = "a tool for the command line")]

use std::time::Duration;

use clap::Parser;
use e2e::faults::{RESTART_MAX, Schedule, run, tally};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[derive(Parser)]
struct Options {
    /// For about so long, at least one fault of each kind [default: all faults, half an hour].
    #[arg(long)]
    minutes: Option<u64>,
    /// Order and moments of the faults [default: by chance].
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let schedule = match options.minutes {
        Some(minutes) => Schedule::cut(&mut chance, Duration::from_secs(60 * minutes)),
        None => Schedule::whole(&mut chance),
    };
    println!("seed {seed}");
    if options.minutes.is_none() {
        println!("{:?}", tally(&schedule.faults));
    }
    // It does not come back where a record is lost or counted twice.
    let report = run(seed, &schedule, chance, |line| println!("{line}")).await;
    let slow = report.too_slow();
    if !slow.is_empty() {
        println!("restarts longer than {RESTART_MAX:?}, with a healthy store: {slow:?}");
        std::process::exit(1);
    }
}
