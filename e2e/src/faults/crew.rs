//! The processes under fault: workers that are always there, guests that come and go, and maintenance; each with a door of its
//! own to the store.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::block_in_place;

use crate::{
    free_port,
    pipeline::Pipeline,
    process::{Server, setting, wait_for},
    proxy::{Door, Faults},
};

/// Longest wait for what must happen at some time; how soon it has to is judged elsewhere.
pub(super) const AT_LAST: Duration = Duration::from_secs(240);

/// Settings that all processes of a campaign have in common.
pub(super) struct Yard {
    environment: Vec<(String, String)>,
    logs: PathBuf,
    upstream: u16,
    faults: Arc<Faults>,
    /// The most that a worker, and that maintenance took (KiB).
    peaks: [AtomicU64; 2],
}

impl Yard {
    pub(super) fn new(pipeline: &Pipeline, faults: Arc<Faults>) -> Self {
        let mut environment = pipeline.environment();
        environment.extend([
            setting("maintain.interval", "5s"),
            // The default: other tests have more commits.
            setting("worker.flush-age", "1s"),
            setting("telemetry.level", "info,lake=debug,ingest=debug"),
        ]);
        let (logs, upstream) = (pipeline.folder.path().to_owned(), pipeline.s3.port());
        Self { environment, logs, upstream, faults, peaks: Default::default() }
    }

    /// The most memory that a worker, and that maintenance had (MiB).
    pub(super) fn peaks_mib(&self) -> [u64; 2] {
        self.peaks.each_ref().map(|peak| peak.load(Ordering::Relaxed) / 1024)
    }
}

/// What a member does, and how the group knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A worker with a name (`group.instance.id`): the group gives a new one of that name its partitions at once.
    Static,
    /// A worker like any other: its group misses a dead one only after the session timeout.
    Dynamic,
    Maintenance,
}

/// A place for a process.
pub(super) struct Member {
    pub(super) name: String,
    role: Role,
    yard: Arc<Yard>,
    door: Door,
    /// `None` while it is dead.
    server: Option<Server>,
    listen: String,
    started: Instant,
}

impl Member {
    pub(super) async fn start(yard: &Arc<Yard>, name: &str, role: Role) -> Self {
        let door = Door::open(yard.upstream, yard.faults.clone()).await;
        let (name, yard) = (name.to_owned(), yard.clone());
        let mut member = Self { name, role, yard, door, server: None, listen: String::new(), started: Instant::now() };
        member.launch();
        member
    }

    /// Starts its process.
    pub(super) fn launch(&mut self) {
        self.listen = format!("127.0.0.1:{}", free_port());
        let role = if self.role == Role::Maintenance { "maintain" } else { "worker" };
        let mut environment = self.yard.environment.clone();
        environment.push(("AWS_ENDPOINT_URL".into(), self.door.url()));
        if self.role == Role::Static {
            environment.push(setting("log.kafka.properties.group-instance-id", &self.name));
        }
        let arguments = ["serve", "--role", role, "--listen", &self.listen];
        let log = self.yard.logs.join(format!("{}.log", self.name));
        self.started = Instant::now();
        self.server = Some(Server::start(&arguments, &environment, &log));
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.note_peak();
        self.server.take().expect("it runs").kill();
    }

    /// SIGTERM; it must end well.
    pub(super) fn leave(mut self) {
        self.note_peak();
        let server = self.server.take().expect("it runs");
        let code = block_in_place(|| server.terminate());
        assert_eq!(code, 0, "SIGTERM ends {} well", self.name);
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    pub(super) fn freeze(&self, frozen: bool) {
        self.server.as_ref().expect("it runs").freeze(frozen);
    }

    /// It has not ended by itself.
    pub(super) fn lives(&mut self) {
        self.note_peak();
        self.server.as_mut().expect("it runs").lives();
    }

    /// Waits until it has committed; gives the time since its process was started.
    pub(super) async fn commits(&mut self) -> Duration {
        wait_for(&format!("a commit of {}", self.name), AT_LAST, async || {
            self.lives();
            self.metric("daybook_worker_table_commits_total").await.is_some_and(|commits| commits > 0.0)
        })
        .await;
        self.started.elapsed()
    }

    /// A counter of its process; `None` where it does not answer.
    pub(super) async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(format!("http://{}/metrics", self.listen)).await.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse().ok()
    }

    /// The same, waiting until it answers.
    pub(super) async fn counter(&self, name: &str) -> f64 {
        let mut found = None;
        wait_for(&format!("{} answers", self.name), AT_LAST, async || {
            found = self.metric(name).await;
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    fn note_peak(&self) {
        let [worker, maintenance] = &self.yard.peaks;
        let peak = if self.role == Role::Maintenance { maintenance } else { worker };
        if let Some(server) = &self.server {
            peak.fetch_max(server.peak_memory_kib(), Ordering::Relaxed);
        }
    }
}
