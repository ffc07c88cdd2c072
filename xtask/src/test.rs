//! What decides whether a change lands: what `.ci/run` runs. The lints are in `cargo xtask check`.

use crate::{
    check,
    parts::{self, Part},
    steps::{Steps, cargo, succeeds},
};

pub(crate) fn run(steps: &mut Steps) {
    steps.step("install kafka", || Part::Kafka.install());
    check::fmt(steps);
    // The command line's own job: counts that do not reconcile end it with an error.
    let mut demo = cargo();
    demo.args(["run", "--release", "--package", "daybook", "--", "demo", "--once"]);
    steps.step("demo --once", || succeeds(&mut demo));
    let mut all = cargo();
    all.args(["test", "--release", "--no-fail-fast"]);
    for package in ["daybook-schemas", "daybook-query", "daybook-e2e"] {
        all.args(["--package", package]);
    }
    steps.tests("contract, query, simulation, real Kafka", all.envs(parts::environment()));
}
