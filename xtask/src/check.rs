//! The quick part of the tests: what needs no test to run.
//!
//! # Clippy without a second dependency tree
//! `cargo clippy` compiles every dependency once more, as metadata only, because cargo keeps check and build artifacts
//! apart. `clippy-driver` is rustc with more lints, so it is set as the wrapper of the *workspace's* crates in a normal
//! release build: dependencies are those that the tests use, and a denied warning ends the build. Our own crates are not
//! optimised in that build, which does not reach the dependencies: a package's own profile is not inherited.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{
    parts::{install_python, venv},
    root,
    steps::{Steps, cargo, succeeds},
};

/// Tools that come from crates.io, as (crate, version); each binary has the name of its crate.
const TOOLS: [(&str, &str); 2] = [("cargo-deny", "0.20.2"), ("cargo-machete", "0.9.2")];
/// Set where cargo runs us as its rustdoc.
const RUSTDOC: &str = "XTASK_IS_RUSTDOC";

pub(crate) fn run(steps: &mut Steps) {
    // Asked for first: clippy's build puts another file in our place.
    let ourselves = env::current_exe().expect("a running program has a path");
    fmt(steps);
    for (name, version) in TOOLS {
        steps.step(&format!("install {name}"), || install(name, version));
    }
    steps.step("install typos, shellcheck", || install_python("xtask/requirements.txt"));
    steps.step("deny: who depends on whom, licences", || {
        let arguments = ["--log-level", "warn", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
        succeeds(tool("cargo-deny").args(arguments))
    });
    // With metadata it knows that the library of daybook-lake is called lake. Without folders it walks .venv and target too.
    let machete = || succeeds(tool("cargo-machete").arg("--with-metadata").args(crates()));
    steps.step("machete: unused dependencies", machete);
    steps.step("typos", || succeeds(Command::new(venv("typos")).current_dir(root())));
    steps.step("shellcheck", || {
        let folders = ["e2e/parts", "benches/peers"].map(|folder| fs::read_dir(root().join(folder)));
        let scripts = folders
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| is(path, "sh")));
        succeeds(Command::new(venv("shellcheck")).current_dir(root()).arg(".ci/run").args(scripts))
    });
    steps.step("clippy, and all dependencies", || clippy(&ourselves.with_file_name("daybook")));
    steps.step("rustdoc, and the libraries", || {
        let mut command = cargo();
        command.args(["test", "--release", "--quiet", "--no-fail-fast", "--workspace", "--doc"]);
        succeeds(command.env("RUSTDOC", &ourselves).env(RUSTDOC, "1"))
    });
}

/// The folders of the crates.
fn crates() -> Vec<PathBuf> {
    let within =
        |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = within(root()).chain(within(root().join("e2e"))).collect();
    folders.retain(|folder| folder.join("Cargo.toml").exists());
    folders.sort();
    folders
}

/// The package's name: the first in its manifest.
fn package(folder: &Path) -> Option<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let name = manifest.lines().find_map(|line| line.strip_prefix("name = "))?;
    Some(name.trim_matches('"').to_owned())
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

fn clippy(daybook: &Path) -> bool {
    let mut command = cargo();
    command
        .args(["build", "--release", "--workspace", "--all-targets", "--keep-going"])
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "-Dwarnings");
    for package in crates().iter().filter_map(|folder| package(folder)) {
        command.arg("--config").arg(format!("profile.release.package.{package}.opt-level=0"));
    }
    keeping(daybook, || succeeds(&mut command))
}

/// cargo would leave clippy's slow `daybook` where the optimised one is expected: e2e and people start it by its path.
fn keeping(binary: &Path, work: impl FnOnce() -> bool) -> bool {
    let kept = binary.with_extension("kept");
    // It may not be there yet, or a killed run may have left its copy.
    drop(fs::remove_file(&kept));
    let had = fs::hard_link(binary, &kept).is_ok();
    let succeeded = work();
    let restored = if had { fs::rename(&kept, binary) } else { fs::remove_file(binary) };
    // rename(2) leaves both names where they are one file, as they are where cargo did not get that far.
    drop(fs::remove_file(&kept));
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

/// A tool in `.parts/bin`, run in the repository.
fn tool(name: &str) -> Command {
    let mut command = Command::new(root().join(".parts/bin").join(name));
    command.current_dir(root());
    command
}

/// Builds a tool into `.parts/bin`: built quickly rather than to be quick, since it runs for a second.
fn install(name: &str, version: &str) -> bool {
    let parts = root().join(".parts");
    let binary = parts.join("bin").join(name);
    let stamp = binary.with_extension("version");
    if binary.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == version) {
        return true;
    }
    let build = parts.join("build");
    let mut install = cargo();
    install
        .args(["install", name, "--quiet", "--locked", "--force", "--no-track", "--version", version, "--root"])
        .arg(&parts)
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let installed = succeeds(&mut install);
    // Its build artifacts are not used again.
    drop(fs::remove_dir_all(&build));
    installed && fs::write(&stamp, version).is_ok()
}

pub(crate) fn fmt(steps: &mut Steps) {
    steps.step("fmt", || succeeds(cargo().args(["fmt", "--all", "--check"])));
}
