//! The programs that take one topic to a table, each as a process of its own, each run on a fresh folder.
//!
//! ```text
//! drain    the same consumer as the worker's, records counted and dropped: the floor
//! worker   daybook serve --role worker
//! spark    PySpark, Structured Streaming to Delta     ┐
//! quix     Quix Streams with a sink for Delta         ├ scripts in `peers/`, in a virtual environment of their own
//! loop     confluent-kafka, orjson, pyarrow, deltalake┘
//! ```

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use e2e::{activity, free_port, installed, parts::Kafka, process};
use lake::Lake;
use schemas::{DEAD_LETTERS, EVENTS};
use serde_json::{Value, json};

use crate::{
    median,
    peers::{self, DeltaLog},
    program::{Program, Usage},
};

/// The topic that is read, and a short one for programs that compile while they run.
pub const TOPIC: &str = "bench";
/// See [`TOPIC`].
pub const WARM_UP: &str = "warm-up";
/// Longest run of the worker.
const WORKER_WAIT: Duration = Duration::from_secs(600);
/// From one look at the worker's table to the next: a request for the one log entry that may have come.
const LOOK: Duration = Duration::from_millis(20);

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Reads the topic and nothing else.
    Drain,
    /// Ours.
    Worker,
    /// Spark Structured Streaming.
    Spark,
    /// Quix Streams.
    Quix,
    /// A loop written by hand, in Python.
    Loop,
}

impl Contender {
    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Worker => "worker",
            Self::Spark => "spark",
            Self::Quix => "quix",
            Self::Loop => "loop",
        }
    }

    /// Whether it is somebody else's.
    #[must_use]
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Spark | Self::Quix | Self::Loop)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// From the start of the process to the last record; of peers, from `ready`.
    pub seconds: f64,
    /// Processor time in the same (s).
    pub cpu_s: f64,
    /// Processor time of a peer before it was ready (s): JVM, imports, warm-up. 0 for ours, where it is part of `cpu_s`.
    pub start_up_cpu_s: f64,
    /// Most memory (MB).
    pub peak_mb: f64,
    /// Bytes and number of the files of `events`.
    pub size: (i64, i64),
    /// What the program says of itself.
    pub account: Value,
}

/// What they all work on.
pub struct Contest {
    /// The broker.
    pub kafka: Kafka,
    /// Records in the topic.
    pub records: i64,
    /// A folder for all that is written.
    pub folder: PathBuf,
}

impl Contest {
    /// Runs one of them on a folder of its own, `<name>`, which replaces the folder of its last run.
    ///
    /// # Panics
    /// Where it fails, or its tables do not have a row for each record.
    pub async fn run(&self, contender: Contender, number: usize) -> Run {
        let folder = self.folder.join(contender.name());
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let mut run = match contender {
            Contender::Drain => self.drain(&folder, number),
            Contender::Worker => self.worker(&folder, number).await,
            _ => self.peer(contender, &folder),
        };
        if contender != Contender::Drain {
            let mut events = DeltaLog::new(&Self::events(&folder));
            let mut rows = events.rows();
            if contender == Contender::Worker {
                rows += DeltaLog::new(&folder.join("lake").join(DEAD_LETTERS.name)).rows();
            }
            assert_eq!(rows, self.records, "{} wrote another number of rows than there are records", contender.name());
            run.size = events.size();
        }
        run
    }

    /// Where a program's `events` are, by its folder.
    #[must_use]
    pub fn events(folder: &Path) -> PathBuf {
        let ours = folder.join("lake").join(EVENTS.name);
        if ours.exists() { ours } else { folder.join(EVENTS.name) }
    }

    fn drain(&self, folder: &Path, number: usize) -> Run {
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        command.args(["drain", "--bootstrap", &self.kafka.bootstrap(), "--group", &format!("drain-{number}")]);
        command.args(["--records", &self.records.to_string()]);
        let started = Instant::now();
        let mut program = Program::start("drain", &mut command, &folder.join("log"));
        program.await_line("done");
        let run = Run::new(started.elapsed(), Usage::default(), program.usage(), Value::Null);
        program.end(false);
        run
    }

    async fn worker(&self, folder: &Path, number: usize) -> Run {
        let lake = Lake::open(&folder.join("lake").display().to_string(), &[]).expect("a folder is a lake");
        let started = Instant::now();
        let mut program = self.start_worker(TOPIC, &format!("worker-{number}"), folder);
        let table = lake.table(&EVENTS);
        let mut head = None;
        loop {
            match &mut head {
                None => head = table.head().await.expect("the table can be read"),
                Some(head) => drop(table.refresh(head).await.expect("the table can be read")),
            }
            if head.as_ref().is_some_and(|head| head.txns().values().sum::<i64>() >= self.records) {
                break;
            }
            program.lives();
            assert!(started.elapsed() < WORKER_WAIT, "the worker has not read the topic within {WORKER_WAIT:?}");
            tokio::time::sleep(LOOK).await;
        }
        let run = Run::new(started.elapsed(), Usage::default(), program.usage(), Value::Null);
        program.end(true);
        run
    }

    /// Starts a worker process; its lake is the folder `lake` in `folder`.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start_worker(&self, topic: &str, group: &str, folder: &Path) -> Program {
        let at = folder.display();
        let directory = format!("sqlite://{at}/directory.db");
        activity::organise(&directory);
        let mut command = Command::new(process::daybook());
        command.args(["serve", "--role", "worker", "--listen", &format!("127.0.0.1:{}", free_port())]);
        command.envs([
            process::setting("lake.url", format!("{at}/lake")),
            process::setting("log.kind", "kafka"),
            process::setting("log.kafka.topic", topic),
            process::setting("log.kafka.group", group),
            process::setting("log.kafka.bootstrap-servers", self.kafka.bootstrap()),
            process::setting("directory.url", directory),
        ]);
        Program::start("worker", &mut command, &folder.join("log"))
    }

    fn peer(&self, contender: Contender, folder: &Path) -> Run {
        let mut command = self.peer_command(contender, TOPIC, self.records, folder);
        let mut program = Program::start(contender.name(), &mut command, &folder.join("log"));
        program.await_line("ready");
        let (started, start_up) = (Instant::now(), program.usage());
        let account = program.await_line("done");
        let run = Run::new(started.elapsed(), start_up, program.usage(), account);
        program.end(false);
        run
    }

    /// How a peer is started.
    ///
    /// # Panics
    /// Where it is not installed.
    #[must_use]
    pub fn peer_command(&self, contender: Contender, topic: &str, records: i64, folder: &Path) -> Command {
        let columns = self.folder.join("columns.json");
        std::fs::write(&columns, peers::columns().to_string()).expect("the folder can be written");
        let mut command = Command::new(installed("DAYBOOK_PEERS_PYTHON"));
        // Its compiled modules would lie beside the scripts.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(peers::folder().join(contender.name()).with_extension("py"));
        command.args(["--bootstrap", &self.kafka.bootstrap(), "--topic", topic, "--records", &records.to_string()]);
        command.arg("--folder").arg(folder).arg("--columns").arg(columns);
        if contender == Contender::Spark {
            command.args(["--warm-up", WARM_UP]);
        }
        command
    }
}

impl Run {
    fn new(seconds: Duration, before: Usage, after: Usage, account: Value) -> Self {
        Self {
            seconds: seconds.as_secs_f64(),
            cpu_s: after.cpu_s - before.cpu_s,
            start_up_cpu_s: before.cpu_s,
            peak_mb: after.peak_mb,
            size: (0, 0),
            account,
        }
    }
}

/// All runs of one program.
pub struct Runs {
    /// Which one.
    pub contender: Contender,
    /// In order, the first of all left out where that only warmed the caches.
    pub runs: Vec<Run>,
}

impl Runs {
    /// Median of what `of` takes from each run.
    ///
    /// # Panics
    /// Where there are no runs.
    #[must_use]
    pub fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(&self.runs.iter().map(of).collect::<Vec<_>>())
    }

    /// What the report tells of them.
    ///
    /// # Panics
    /// Where there are no runs.
    #[must_use]
    pub fn detail(&self, records: i64) -> Value {
        let millions = records as f64 / 1e6;
        let last = self.runs.last().expect("there are runs");
        json!({
            "runs": self.runs.len(),
            "rows_per_s": (records as f64 / self.median(|run| run.seconds)).round(),
            "cpu_s_per_million": self.median(|run| run.cpu_s) / millions,
            "start_up_cpu_s": self.median(|run| run.start_up_cpu_s),
            "peak_mb": self.median(|run| run.peak_mb).round(),
            "table_bytes_per_row": last.size.0 as f64 / records as f64,
            "files": last.size.1,
            "account": last.account,
        })
    }
}
