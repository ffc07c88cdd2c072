//! Real parts: a Kafka broker, an S3 server, a Python with other engines and drivers, a JDBC client, a Prometheus, the peers and the load generator of the benches, the Claude Code CLI.
//!
//! Each comes through its own package manager (Maven, Go, pip, npm, apt), at a pinned version (of apt: Debian's), into `.parts`, `.venv`, or
//! `.venv-peers` and `.venv-engines` (what peers need and what the tests need may exclude each other). An
//! installation leaves a stamp of what it was made from, so that a second one does nothing and a changed pin takes effect.
//! Tests start servers of their own on free ports; `up` and `down` are for work by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{root, steps::succeeds};

/// Something that Daybook is tested with.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    Kafka,
    S3,
    Python,
    Jdbc,
    Prometheus,
    Peers,
    Engines,
    Vegeta,
    Claude,
}

impl Part {
    /// What `cargo xtask test` needs.
    pub(crate) const FOR_TESTS: [Self; 5] = [Self::Kafka, Self::S3, Self::Python, Self::Jdbc, Self::Prometheus];
    pub(crate) const SERVERS: [Self; 2] = [Self::Kafka, Self::S3];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "kafka" => Self::Kafka,
            "s3" => Self::S3,
            "python" => Self::Python,
            "jdbc" => Self::Jdbc,
            "prometheus" => Self::Prometheus,
            "peers" => Self::Peers,
            "engines" => Self::Engines,
            "vegeta" => Self::Vegeta,
            "claude" => Self::Claude,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::S3 => "s3",
            Self::Python => "python",
            Self::Jdbc => "jdbc",
            Self::Prometheus => "prometheus",
            Self::Peers => "peers",
            Self::Engines => "engines",
            Self::Vegeta => "vegeta",
            Self::Claude => "claude",
        }
    }

    pub(crate) fn is_server(self) -> bool {
        Self::SERVERS.contains(&self)
    }

    /// Fetches it; does nothing where it is there.
    pub(crate) fn install(self) -> bool {
        match self {
            Self::Python => install_python("e2e/parts/requirements.txt"),
            Self::Engines => install_into(".venv-engines", "benches/peers/engines/requirements.txt"),
            Self::Peers => {
                succeeds(self.script().arg("install")) && install_into(".venv-peers", "benches/peers/requirements.txt")
            }
            _ => succeeds(self.script().arg("install")),
        }
    }

    /// Starts a server and prints how to reach it.
    pub(crate) fn up(self) -> bool {
        self.install() && succeeds(self.script().arg("start"))
    }

    /// Stops it; its data stays in `.parts/run`.
    pub(crate) fn down(self) -> bool {
        succeeds(self.script().arg("stop"))
    }

    /// Its script, with the folder and the port that are used by hand.
    fn script(self) -> Command {
        let mut command = Command::new("bash");
        let of_benches = matches!(self, Self::Peers | Self::Vegeta);
        let scripts = if of_benches { "benches/peers" } else { "e2e/parts" };
        command.arg(root().join(scripts).join(self.name()).with_extension("sh"));
        let folder = root().join(".parts/run").join(self.name());
        let default = |variable: &str, value: &str| std::env::var(variable).unwrap_or_else(|_| value.to_owned());
        match self {
            Self::Kafka => command.env("KAFKA_DIR", folder).env("KAFKA_PORT", default("KAFKA_PORT", "19092")),
            Self::S3 => command.env("S3_DIR", folder).env("S3_PORT", default("S3_PORT", "19000")),
            _ => &mut command,
        };
        command
    }
}

/// Where the e2e tests, the faults and the benches find the parts; those of [`Part::FOR_TESTS`] first, in order.
pub(crate) fn environment() -> [(&'static str, PathBuf); 9] {
    [
        ("DAYBOOK_E2E_KAFKA_LIBS", root().join(".parts/kafka")),
        ("DAYBOOK_E2E_VERSITYGW", root().join(".parts/bin/versitygw")),
        ("DAYBOOK_E2E_PYTHON", venv("python")),
        ("DAYBOOK_E2E_JDBC_LIBS", root().join(".parts/jdbc")),
        ("DAYBOOK_E2E_PROMETHEUS", root().join(".parts/bin/prometheus")),
        ("DAYBOOK_PEERS_PYTHON", root().join(".venv-peers/bin/python")),
        ("DAYBOOK_PEERS_SPARK_JARS", root().join(".parts/spark")),
        ("DAYBOOK_ENGINES_PYTHON", root().join(".venv-engines/bin/python")),
        ("DAYBOOK_BENCH_VEGETA", root().join(".parts/bin/vegeta")),
    ]
}

/// As lines for `eval`; with the S3 server's client settings where it runs.
pub(crate) fn print_environment() -> bool {
    for (name, path) in environment() {
        println!("export {name}='{}'", path.display());
    }
    let runs = Part::S3.script().arg("status").output().is_ok_and(|output| output.status.success());
    !runs || succeeds(Part::S3.script().arg("env"))
}

/// Prints what is there and what runs.
pub(crate) fn status() -> bool {
    for (part, (_, path)) in Part::FOR_TESTS.into_iter().zip(environment()) {
        println!("{:<11}{}", part.name(), if path.exists() { "installed" } else { "not installed" });
    }
    for part in Part::SERVERS {
        // Its exit code says whether it runs, which is not our failure.
        let _ = succeeds(part.script().arg("status"));
    }
    true
}

/// A program of the virtual environment.
pub(crate) fn venv(program: &str) -> PathBuf {
    root().join(".venv/bin").join(program)
}

/// Installs a list of pinned Python packages into `.venv`.
pub(crate) fn install_python(requirements: &str) -> bool {
    install_into(".venv", requirements)
}

fn install_into(folder: &str, requirements: &str) -> bool {
    let (list, folder) = (root().join(requirements), root().join(folder));
    let stamp = folder.join(requirements.replace('/', "-"));
    if same(&list, &stamp) {
        return true;
    }
    let python = folder.join("bin/python");
    let made = python.exists() || succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // Wheels only: nothing is compiled. PySpark has none; it is Python and jars.
    pip.args(["--only-binary", ":all:", "--no-binary", "pyspark"]);
    made && succeeds(pip.arg("--requirement").arg(&list)) && fs::copy(&list, &stamp).is_ok()
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}
