//! Steps of a command: run one after another, timed, counted, and shown in a table at the end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// The steps done so far. A step that fails does not end the run: one run shows all that is wrong.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
    tests: Option<Counts>,
}

struct Step {
    name: String,
    took: Duration,
    succeeded: bool,
}

/// What cargo's test runner counted.
#[derive(Default, Clone, Copy, Debug, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Steps {
    /// Does `work`, which says whether it succeeded.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> bool) {
        println!("== {name}");
        let started = Instant::now();
        let succeeded = work();
        self.done.push(Step { name: name.to_owned(), took: started.elapsed(), succeeded });
    }

    /// Runs `cargo test …` and adds up what it counts.
    pub(crate) fn tests(&mut self, name: &str, command: &mut Command) {
        let mut counts = Counts::default();
        self.step(name, || run_tests(command, &mut counts));
        let all = self.tests.get_or_insert_default();
        all.passed += counts.passed;
        all.failed += counts.failed;
        all.ignored += counts.ignored;
    }

    /// The table, and the counted tests as the last line.
    pub(crate) fn report(&self) -> ExitCode {
        println!();
        for step in &self.done {
            println!("{:<36} {:>6} {:>8}", step.name, if step.succeeded { "ok" } else { "FAILED" }, minutes(step.took));
        }
        println!("{:<36} {:>6} {:>8}", "total", "", minutes(self.done.iter().map(|step| step.took).sum()));
        if let Some(Counts { passed, failed, ignored }) = self.tests {
            let skipped = if ignored > 0 { format!(", {ignored} skipped") } else { String::new() };
            println!("\n{passed} passed, {failed} failed{skipped}");
        }
        if self.done.iter().all(|step| step.succeeded) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn minutes(took: Duration) -> String {
    let tenths = took.as_millis() / 100;
    format!("{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

/// The cargo that runs us, in the repository, as if it were called by hand.
///
/// `cargo run` tells us about our own package in `CARGO_PKG_…`. The build script of ring asks to run again when these change:
/// passed on, they would make cargo compile it, and DataFusion on top of it, at every turn from `cargo xtask` to `cargo`.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        if ours {
            command.env_remove(&name);
        }
    }
    command.current_dir(crate::root());
    command
}

/// Runs a command to its end; says why where it cannot be started.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("{} cannot be started: {error}", command.get_program().display());
            false
        }
    }
}

fn run_tests(command: &mut Command, counts: &mut Counts) -> bool {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("{} cannot be started: {error}", command.get_program().display());
            return false;
        }
    };
    // Tests print what they like: bytes, not necessarily UTF-8.
    let mut output = BufReader::new(child.stdout.take().expect("it was piped"));
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        if let Some(one) = summary(&text) {
            counts.passed += one.passed;
            counts.failed += one.failed;
            counts.ignored += one.ignored;
        }
        line.clear();
    }
    child.wait().is_ok_and(|status| status.success())
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn summary(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = numbers.split("; ").find(|part| part.trim_end().ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.31s\n";
        let failed =
            "test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(summary(ok), Some(Counts { passed: 12, failed: 0, ignored: 1 }));
        assert_eq!(summary(failed), Some(Counts { passed: 0, failed: 2, ignored: 0 }));
        assert_eq!(summary("test result: strange"), None);
        assert_eq!(summary("test f05_lost_commit_response ... ok"), None);
    }

    #[test]
    fn times_are_minutes() {
        assert_eq!(minutes(Duration::from_millis(61_250)), "1:01.2");
        assert_eq!(minutes(Duration::from_millis(90)), "0:00.0");
    }
}
