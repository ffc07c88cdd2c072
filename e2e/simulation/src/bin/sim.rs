//! `cargo xtask sim --seeds N [--seed S]`: runs the simulation on N seeds from S on; a failing seed prints the command that repeats it.
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
    match simulation::run_all(options.seed..options.seed + options.seeds) {
        Ok(summary) => println!("{} seeds: {summary}", options.seeds),
        Err(fault) => {
            println!("{fault}");
            std::process::exit(1);
        }
    }
}
