//! `cargo xtask sim --seeds N [--seed S]`: runs the simulation on N seeds from S on; a failing seed prints the command for its schedule.
#![allow(clippy::print_stdout, reason = "a tool for the command line")]

use clap::Parser;

#[derive(Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Shows what the workers say, on stderr; for one seed.
    #[arg(long)]
    trace: bool,
}

fn main() {
    let options = Options::parse();
    if options.trace {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(std::io::stderr)
            .without_time()
            .init();
    }
    let (mut records, mut crashes, mut versions) = (0, 0, 0);
    for seed in options.seed..options.seed + options.seeds {
        match std::panic::catch_unwind(|| e2e::simulation::run(seed)) {
            Ok(Ok(summary)) => {
                records += summary.records;
                crashes += summary.crashes;
                versions += summary.versions;
            }
            Ok(Err(fault)) => fail(seed, &fault),
            Err(_) => fail(seed, "panicked"),
        }
    }
    println!(
        "{} seeds: {records} records, {crashes} crashes, {versions} table versions, every record exactly once",
        options.seeds
    );
}

fn fail(seed: u64, fault: &str) -> ! {
    println!("seed {seed}: {fault}\nits schedule again: cargo xtask sim --seeds 1 --seed {seed}");
    std::process::exit(1);
}
