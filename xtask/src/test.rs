//! Everything that decides whether a change is good: what `.ci/run` runs.

use crate::{
    check,
    parts::{self, Part},
    postgres::Postgres,
    steps::{Steps, cargo, succeeds},
};

pub(crate) fn run(steps: &mut Steps) {
    for part in Part::FOR_TESTS {
        steps.step(&format!("install {}", part.name()), || part.install());
    }
    check::run(steps);
    let test = |rest: &[&str]| {
        let mut command = cargo();
        command.args(["test", "--release", "--no-fail-fast"]).args(rest).envs(parts::environment());
        command
    };
    let mut postgres = None;
    steps.step("start postgres", || {
        postgres = Postgres::start();
        postgres.is_some()
    });
    let mut unit = test(&["--workspace", "--exclude", "daybook-e2e"]);
    unit.envs(postgres.as_ref().map(|server| ("DAYBOOK_TEST_POSTGRES", server.url())));
    steps.tests("unit, property and contract tests", &mut unit);
    drop(postgres);
    // e2e starts the binary by its path; cargo would build it only for tests of its own package.
    steps.step("build daybook", || succeeds(cargo().args(["build", "--release", "--package", "daybook"])));
    // One after the other: each starts servers of its own, and a broker is enough for two cores.
    let e2e = ["--package", "daybook-e2e", "--", "--test-threads=1"];
    steps.tests("e2e: real Kafka, S3, other engines", &mut test(&e2e));
}
