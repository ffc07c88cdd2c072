//! The quick part of the tests: what needs no test to run.
//!
//! # Clippy without a second dependency tree
//! `cargo clippy` compiles every dependency once more, as metadata only, because cargo keeps check and build artifacts
//! apart. `clippy-driver` is rustc with more lints, so it is set as the wrapper of the *workspace's* crates in a normal
//! release build: dependencies are those that the tests use, and a denied warning ends the build. The profile's own
//! opt-level is 0 in that build; it does not reach the dependencies, whose levels the root manifest sets one by one.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
};

use crate::{
    parts::{install_python, venv},
    root,
    steps::{Steps, cargo, succeeds},
};

const DENY_VERSION: &str = "0.20.2";
/// Set where cargo runs us as its rustdoc.
const RUSTDOC: &str = "XTASK_IS_RUSTDOC";

pub(crate) fn run(steps: &mut Steps) {
    steps.step("fmt", || succeeds(cargo().args(["fmt", "--all", "--check"])));
    steps.step("install cargo-deny", install_deny);
    steps.step("deny: dependencies, licences, sources", || {
        let mut deny = Command::new(root().join(".parts/bin/cargo-deny"));
        deny.current_dir(root()).args([
            "--log-level",
            "warn",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]);
        succeeds(&mut deny)
    });
    steps.step("install typos, shellcheck", || install_python("xtask/requirements.txt"));
    steps.step("typos", || succeeds(Command::new(venv("typos")).current_dir(root())));
    steps.step("shellcheck", || {
        let scripts =
            fs::read_dir(root().join("e2e/parts")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let scripts = scripts.filter(|path| path.extension().is_some_and(|extension| extension == "sh"));
        succeeds(Command::new(venv("shellcheck")).current_dir(root()).arg(".ci/run").args(scripts))
    });
    steps.step("clippy, and the dependencies", clippy);
    steps.step("rustdoc", || {
        let mut command = cargo();
        command.args(["test", "--release", "--quiet", "--workspace", "--doc"]);
        let ourselves = env::current_exe().expect("a running program has a path");
        succeeds(command.env("RUSTDOC", ourselves).env(RUSTDOC, "1"))
    });
}

fn clippy() -> bool {
    let folder = env::current_exe().expect("a running program has a path");
    let folder = folder.parent().expect("a program lies in a folder");
    let mut command = cargo();
    command
        .args(["build", "--release", "--workspace", "--all-targets", "--keep-going"])
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "-Dwarnings")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    keeping(&folder.join("daybook"), || succeeds(&mut command))
}

/// cargo would leave clippy's slow `daybook` where the optimised one is expected: e2e and people start it by its path.
fn keeping(binary: &Path, work: impl FnOnce() -> bool) -> bool {
    let kept = binary.with_extension("kept");
    // It may not be there yet, or a killed run may have left its copy.
    drop(fs::remove_file(&kept));
    let had = fs::hard_link(binary, &kept).is_ok();
    let succeeded = work();
    let restored = if had { fs::rename(&kept, binary) } else { fs::remove_file(binary) };
    succeeded && (restored.is_ok() || !had)
}

/// Whether cargo runs us as its rustdoc.
pub(crate) fn is_rustdoc() -> bool {
    env::var_os(RUSTDOC).is_some()
}

/// Turns cargo's call for doc *tests* into one that makes the documentation and denies its warnings.
///
/// `cargo doc` has, like `cargo clippy`, a dependency tree of its own. A call for doc tests names the artifacts that
/// the tests were built with; without `--test` the same call documents the crate against them.
pub(crate) fn rustdoc() -> ExitCode {
    let output = env::temp_dir().join(format!("daybook-rustdoc-{}", std::process::id()));
    let mut arguments = env::args_os().skip(1);
    let mut command = Command::new("rustdoc");
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--test") => {}
            Some("--test-run-directory" | "--test-args" | "--test-builder" | "--test-runtool") => {
                drop(arguments.next())
            }
            _ => drop(command.arg(argument)),
        }
    }
    command.env_remove(RUSTDOC).args(["-D", "warnings", "--out-dir"]).arg(&output);
    let succeeded = succeeds(&mut command);
    // A left-over in the folder for temporary files harms nobody.
    drop(fs::remove_dir_all(&output));
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// cargo-deny at its pinned version in `.parts/bin`, built quickly rather than to be quick: it runs for seconds.
fn install_deny() -> bool {
    let parts = root().join(".parts");
    let stamp = parts.join("bin/cargo-deny.version");
    if parts.join("bin/cargo-deny").exists() && fs::read_to_string(&stamp).is_ok_and(|version| version == DENY_VERSION)
    {
        return true;
    }
    let build = parts.join("build");
    let mut install = cargo();
    install
        .args([
            "install",
            "cargo-deny",
            "--quiet",
            "--locked",
            "--force",
            "--no-track",
            "--version",
            DENY_VERSION,
            "--root",
        ])
        .arg(&parts)
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let installed = succeeds(&mut install);
    // Its build artifacts are not used again.
    drop(fs::remove_dir_all(&build));
    installed && fs::write(&stamp, DENY_VERSION).is_ok()
}
