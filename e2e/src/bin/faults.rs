//! `cargo xtask faults [--minutes N] [--seed S]`: faults on a real broker, a real store and real workers, one after the
//! other by chance; then all of it healed, and every record exactly once.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a tool for the command line: it reads the clock")]

use std::time::{Duration, Instant};

use clap::Parser;
use e2e::{
    activity,
    pipeline::{Pipeline, counts, exactly_once},
    process::{Server, succeed, wait_for},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Records appended in each round, while the fault happens.
const ROUND: usize = 20_000;
const WORKERS: usize = 2;

#[derive(Parser)]
struct Options {
    /// How long.
    #[arg(long, default_value_t = 2)]
    minutes: u64,
    /// Order and moments of the faults [default: by chance].
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pipeline = Pipeline::start();
    let (log, lake) = (pipeline.log(), pipeline.lake());
    let mut workers: Vec<Server> = (0..WORKERS).map(|_| pipeline.worker()).collect();
    let mut generator = activity::generator(10_000_000);
    let deadline = Instant::now() + Duration::from_secs(60 * options.minutes);
    let (mut faults, mut refused) = (0, 0);
    while Instant::now() < deadline {
        let (before, after) = (rng.random_range(0..2_000), rng.random_range(0..4_000));
        let fault = rng.random_range(0..4);
        let (appended, ()) = tokio::join!(activity::append(&log, generator.by_ref().take(ROUND)), async {
            tokio::time::sleep(Duration::from_millis(before)).await;
            let pause = tokio::time::sleep(Duration::from_millis(after));
            match fault {
                0 => {
                    println!("kill -9 of a worker");
                    workers.swap_remove(0).kill();
                    workers.push(pipeline.worker());
                }
                1 => {
                    println!("kill -9 of the broker, {after} ms without it");
                    pipeline.kafka.kill();
                    pause.await;
                    pipeline.kafka.restart();
                }
                2 => {
                    println!("kill -9 of the object store, {after} ms without it");
                    pipeline.s3.kill();
                    pause.await;
                    pipeline.s3.restart();
                }
                _ => {
                    println!("the object store hangs for {after} ms");
                    pipeline.s3.hang(true);
                    pause.await;
                    pipeline.s3.hang(false);
                }
            }
        });
        // An append that was not acknowledged may be in the log or not: whatever is, is counted.
        refused += usize::from(appended.is_err());
        faults += 1;
        workers.iter_mut().for_each(Server::lives);
    }
    wait_for("every record in a commit", Duration::from_secs(180), async || {
        counts(&lake, &log).await.is_some_and(|(covered, records)| covered == records)
    })
    .await;
    let (_, records) = counts(&lake, &log).await.expect("all is healed");
    for worker in workers {
        assert_eq!(worker.terminate(), 0, "SIGTERM ends a worker well");
    }
    let _ = succeed(&["rollup", "run"], &pipeline.environment());
    let tables = exactly_once(&pipeline, records);
    println!(
        "{faults} faults, {records} records, {} commits of events, {refused} appends refused: every record exactly once",
        tables["events"]["version"]
    );
}
