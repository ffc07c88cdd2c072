//! Planted bugs: each must turn the simulation red, else the simulation proves nothing.
//!
//! The sources are copied, with a target folder of their own; one bug at a time is planted there by replacing text, and the
//! simulation runs until a seed fails. The first run compiles the dependencies too; then for each bug the crates above it.

mod bugs;

use std::{fs, path::Path, process::Stdio, time::Instant};

use self::bugs::BUGS;
use crate::{
    root,
    steps::{cargo, succeeds},
};

/// Seeds that a bug may survive: as many as the tests run.
const SEEDS: &str = "1000";

/// A mistake that someone could make.
struct Bug {
    name: &'static str,
    /// Below the repository's root.
    file: &'static str,
    /// Each text stands there exactly once, and is replaced.
    edits: &'static [(&'static str, &'static str)],
}

impl Bug {
    /// The file's text with the bug in it, or why it cannot be planted.
    fn plant(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for (from, to) in self.edits {
            let found = text.matches(from).count();
            if found != 1 {
                return Err(format!("{}: {} holds {found} times: {from}", self.name, self.file));
            }
            text = text.replace(from, to);
        }
        Ok(text)
    }
}

/// Plants each bug whose name contains `filter`; true where the simulation found all of them.
pub(crate) fn run(filter: &str) -> bool {
    let copy = root().join("target/mutants");
    if let Err(error) = copy_sources(&copy) {
        eprintln!("{} cannot be filled: {error}", copy.display());
        return false;
    }
    println!("without a bug");
    if !simulate(&copy) {
        println!("red without a planted bug: mend that first");
        return false;
    }
    let mut survived = Vec::new();
    let chosen: Vec<&Bug> = BUGS.iter().filter(|bug| bug.name.contains(filter)).collect();
    for bug in &chosen {
        let started = Instant::now();
        let file = copy.join(bug.file);
        let correct = fs::read_to_string(&file).unwrap_or_default();
        let found = match bug.plant(&correct) {
            Ok(text) => fs::write(&file, text).is_ok() && compiles(&copy) && !simulate(&copy),
            Err(why) => {
                println!("{why}");
                false
            }
        };
        if fs::write(&file, correct).is_err() {
            return false;
        }
        println!("{:<60} {} in {} s", bug.name, if found { "found" } else { "SURVIVED" }, started.elapsed().as_secs());
        if !found {
            survived.push(bug.name);
        }
    }
    println!("{} of {} planted bugs found", chosen.len() - survived.len(), chosen.len());
    survived.is_empty()
}

/// Copies what git tracks, and what it would track. Files that are the same keep their time, so that cargo builds little.
fn copy_sources(copy: &Path) -> std::io::Result<()> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root());
    let listed = git.output()?.stdout;
    for name in String::from_utf8_lossy(&listed).split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root().join(name), copy.join(name));
        let Ok(content) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        fs::write(to, content)?;
    }
    Ok(())
}

fn build(copy: &Path) -> std::process::Command {
    let mut command = cargo();
    command
        .current_dir(copy)
        // Cargo names what it builds by paths within the workspace, which are the same here: in the common target folder the
        // tests would run the planted bugs.
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .args(["build", "--release", "--quiet", "--package", "daybook-simulation", "--bin", "sim"]);
    command
}

/// Shows what the compiler says only where it fails: what a bug leaves unused is no news.
fn compiles(copy: &Path) -> bool {
    match build(copy).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            eprintln!("cargo cannot be started: {error}");
            false
        }
    }
}

/// Whether every seed passes; what it says is not shown, since red is what is wanted.
fn simulate(copy: &Path) -> bool {
    compiles(copy)
        && succeeds(
            std::process::Command::new(copy.join("target/release/sim"))
                .args(["--seeds", SEEDS])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bugs follow the code: a change that moves their ground has to move them.
    #[test]
    fn every_bug_can_be_planted() {
        let faults: Vec<String> = BUGS
            .iter()
            .filter_map(|bug| bug.plant(&fs::read_to_string(root().join(bug.file)).unwrap_or_default()).err())
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(BUGS.len() >= 15);
    }
}
