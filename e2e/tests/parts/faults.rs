//! A cut of the fault campaign (`cargo xtask faults` is the whole): each kind of fault on real parts, then every record once.

use std::time::Duration;

use e2e::faults::{Fault, RESTART_MAX, Schedule, kinds, run, tally};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 20_261_124;
const LIMIT: Duration = Duration::from_secs(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_counts_once_after_any_fault() {
    eprintln!("seed {SEED}; again by `cargo xtask faults --minutes 4 --seed {SEED}`");
    let mut chance = ChaCha8Rng::seed_from_u64(SEED);
    let schedule = Schedule::cut(&mut chance, LIMIT);
    let report = run(SEED, &schedule, chance, |line| eprintln!("{line}")).await;
    let faults = tally(&report.faults);
    assert_eq!(faults.len(), kinds(), "each kind: {faults:?}");
    assert_eq!(report.refused, faults[&Fault::Zombie], "each zombie's commit is refused");
    assert_eq!(report.too_slow(), [], "each within {RESTART_MAX:?}: {:?}", report.restarts);
    assert!(report.checks > 0);
}
