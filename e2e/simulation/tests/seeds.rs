//! A cut of the simulation; `cargo xtask sim --seeds N` runs more.

#[test]
fn two_hundred_seeds_keep_every_record_exactly_once() {
    let mut crashes = 0;
    for seed in 0..200 {
        let summary = e2e::simulation::run(seed).unwrap_or_else(|fault| {
            panic!("seed {seed}: {fault}\nits schedule again: cargo xtask sim --seeds 1 --seed {seed}")
        });
        crashes += summary.crashes;
    }
    assert!(crashes > 100, "the seeds must crash workers, {crashes} is too few");
}
