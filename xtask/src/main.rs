//! `cargo xtask`: every command of a developer, so that anyone can repeat any claim.
//!
//! Standard library only: it is compiled before anything else, on a fresh clone too. It runs cargo, the scripts under
//! `e2e/parts` and the programs that those install; what it starts, it awaits. Everything it installs lies in the
//! git-ignored folders `.parts` and `.venv`.
//!
//! ```text
//! test = parts install ─► check ─► unit, property, contract and doc tests ─► e2e
//! check = fmt ─► cargo-deny ─► unused dependencies ─► spelling ─► shell scripts ─► clippy ─► rustdoc
//! sim, faults, bench = a binary of e2e or benches, in the release profile
//! ```
#![allow(clippy::print_stdout, reason = "a tool for the command line")]

mod check;
mod mutants;
mod parts;
mod postgres;
mod steps;
mod test;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use crate::{parts::Part, steps::Steps};

const USAGE: &str = "\
Every command of a developer.

usage: cargo xtask COMMAND

  test                        install what tests need, then all checks and all tests; ends with `N passed, N failed`
  check                       the quick part: fmt, cargo-deny, spelling, shell scripts, clippy, rustdoc links
  parts install [PART...]     fetch real parts into .parts and .venv: kafka s3 python jdbc prometheus (all by default), peers, engines, vegeta, claude
  parts up|down [PART...]     start or stop them for work by hand: kafka s3 (both by default)
  parts status                what is installed and what runs
  parts env                   print `export` lines, for `cargo test -p daybook-e2e` by hand
  sim [--seeds N] [--seed S]  the simulation
  mutants [WORD]              plants bugs, each of which must turn the simulation red; only those whose name has WORD
  isolation [--statements N] [--seed S]
                              generated SQL through the fence: no statement shows what is not one's own (default: 100000)
  faults [--minutes N] [--seed S]
                              fault injection on real parts: the whole campaign takes half an hour, --minutes cuts it
  claude                      the published Claude Code CLI (360 MB from npm) reports to a running Daybook
  bench NAME [--json FILE] [--events N]
                              ours and peers, alternated; NAME is a file of benches/src/bin; `ingest` takes
                              --peers none|spark|all (default: all; 1 GB of Spark and others into .venv-peers)

examples:
  cargo xtask check
  cargo xtask sim --seeds 1 --seed 4711
  cargo xtask bench ingest --json ingest.json
  cargo xtask parts up kafka && eval \"$(cargo xtask parts env)\"

exit code: 0 = all well, 1 = something failed, 2 = wrong usage";

fn main() -> ExitCode {
    if check::is_rustdoc() {
        return check::rustdoc();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut steps = Steps::default();
    match words.as_slice() {
        ["test"] => test::run(&mut steps),
        ["check"] => check::run(&mut steps),
        ["parts", rest @ ..] => match parts_command(rest) {
            Some(code) => return code,
            None => return usage(),
        },
        ["sim", rest @ ..] => return end(run_binary("daybook-simulation", "sim", rest)),
        ["mutants"] => return end(mutants::run("")),
        ["mutants", word] => return end(mutants::run(word)),
        ["isolation", rest @ ..] => match isolation(rest) {
            Some(code) => return code,
            None => return usage(),
        },
        ["faults", rest @ ..] => return end(with_parts(|| run_binary("daybook-e2e", "faults", rest))),
        ["claude"] => return end(Part::Claude.install() && with_parts(|| run_binary("daybook-e2e", "claude", &[]))),
        ["bench", name, rest @ ..] if benches().iter().any(|bench| bench == name) => {
            // Peers that the tests do without: 1 GB from PyPI and Maven Central, or from PyPI alone.
            let peers = match *name {
                "ingest" if !rest.windows(2).any(|pair| pair == ["--peers", "none"]) => Some(Part::Peers),
                "rollup" => Some(Part::Engines),
                "query" => Some(Part::Vegeta),
                _ => None,
            };
            return end(peers.is_none_or(Part::install) && with_parts(|| run_binary("daybook-benches", name, rest)));
        }
        ["bench", ..] => {
            eprintln!(
                "usage: cargo xtask bench NAME [--json FILE] [--events N], where NAME is one of: {}",
                benches().join(", ")
            );
            return ExitCode::from(2);
        }
        ["-h" | "--help" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => return usage(),
    }
    steps.report()
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn end(succeeded: bool) -> ExitCode {
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The repository: this crate's parent.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate's folder has a parent").to_owned()
}

/// `None` = wrong usage.
fn parts_command(words: &[&str]) -> Option<ExitCode> {
    let (verb, names) = words.split_first()?;
    let named: Vec<Part> = names.iter().map(|name| Part::named(name)).collect::<Option<_>>()?;
    let or = |default: &[Part]| if named.is_empty() { default.to_vec() } else { named.clone() };
    let servers_only = named.iter().all(|part| part.is_server());
    Some(end(match *verb {
        "install" => or(&Part::FOR_TESTS).into_iter().all(|part| part.install()),
        "up" if servers_only => or(&Part::SERVERS).into_iter().all(|part| part.up()),
        // `&`, not `all`: a failure must not leave the others running.
        "down" if servers_only => or(&Part::SERVERS).into_iter().fold(true, |stopped, part| stopped & part.down()),
        "status" if named.is_empty() => parts::status(),
        "env" if named.is_empty() => parts::print_environment(),
        _ => return None,
    }))
}

/// Installs the parts and builds `daybook`, both of which faults and benches start.
fn with_parts(run: impl FnOnce() -> bool) -> bool {
    Part::FOR_TESTS.into_iter().all(|part| part.install())
        && steps::succeeds(steps::cargo().args(["build", "--release", "--quiet", "--package", "daybook"]))
        && run()
}

/// Runs a binary of `package` with the rest of the command line.
fn run_binary(package: &str, binary: &str, arguments: &[&str]) -> bool {
    let mut build = steps::cargo();
    // `daybook` is named so that dependencies have the features they have everywhere else: one tree, compiled once.
    build.args(["build", "--release", "--quiet", "--package", "daybook", "--package", package, "--bin", binary]);
    let mut program = Command::new(target().join("release").join(binary));
    steps::succeeds(&mut build)
        && steps::succeeds(program.args(arguments).current_dir(root()).envs(parts::environment()))
}

/// Runs the test of generated statements with as many as are asked for. `None` = wrong usage.
fn isolation(words: &[&str]) -> Option<ExitCode> {
    let mut test = steps::cargo();
    // `daybook` as in `run_binary`.
    test.args([
        "test",
        "--release",
        "--package",
        "daybook",
        "--package",
        "daybook-query",
        "--lib",
        "--",
        "--nocapture",
    ]);
    test.arg("no_generated_statement").env("DAYBOOK_ISOLATION_STATEMENTS", "100000");
    for pair in words.chunks(2) {
        let [name, value] = pair else { return None };
        let variable = match *name {
            "--statements" => "DAYBOOK_ISOLATION_STATEMENTS",
            "--seed" => "DAYBOOK_ISOLATION_SEED",
            _ => return None,
        };
        test.env(variable, value);
    }
    Some(end(steps::succeeds(&mut test)))
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What `bench` can run.
fn benches() -> Vec<String> {
    let folder = root().join("benches/src/bin");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}
