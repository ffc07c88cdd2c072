//! Simulation of log, workers and object store: crashes, rebalances, retention, store faults, zombies; then the oracle.
//!
//! ```text
//! seed ──► schedule ──► producers ─► SimulatedLog ─► workers (the real ones) ─► FaultyStore ─► store in memory
//!              └─ crash, hire, rebalance, retention, store faults ─┘                                │
//!                                                     oracle: every record accounted for once ◄─────┘
//! ```
//!
//! All chance comes from the seed, and time is tokio's paused clock: a seed repeats its run. A crash drops a worker
//! wherever it awaits: between any two steps of the write path. A stalled store turns a worker into a zombie: its
//! partitions move on while it waits.

mod oracle;

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ingest::{
    headers,
    log::{Append, Log, Schedule, SimulatedLog},
    worker::{PartitionProgress, Settings, Worker, progress},
};
use lake::{Lake, maintain, testing::FaultyStore};
use object_store::{ObjectStore, memory::InMemory};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use schemas::{DEAD_LETTERS, EVENTS};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a run did, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records in the log.
    pub records: usize,
    /// Rows of `events`.
    pub rows: usize,
    /// Rows of `dead_letters`.
    pub dead_letters: usize,
    /// Those of them whose id another event has.
    pub conflicts: usize,
    /// Offsets that retention took before they were read, and that a commit names as lost.
    pub gap_offsets: usize,
    /// Workers killed.
    pub crashes: usize,
    /// Versions of `events`.
    pub versions: usize,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.rows += other.rows;
        self.dead_letters += other.dead_letters;
        self.conflicts += other.conflicts;
        self.gap_offsets += other.gap_offsets;
        self.crashes += other.crashes;
        self.versions += other.versions;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, rows, dead_letters, conflicts, gap_offsets, crashes, versions } = self;
        write!(
            f,
            "{records} records = {rows} events, {dead_letters} dead letters ({conflicts} conflicts) and {gap_offsets} that retention took first \
             (dead letters among them count twice); {crashes} crashes, {versions} table versions"
        )
    }
}

/// Runs one seed.
///
/// # Errors
/// Says which promise was broken.
///
/// # Panics
/// Where the simulation itself cannot run.
pub fn run(seed: u64) -> Result<Summary, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime for one thread").block_on(simulate(seed))
}

/// Runs many seeds, as many at once as there are cores, and adds up what they did.
///
/// # Errors
/// The first fault that is met: which promise was broken, and the command that repeats it.
pub fn run_all(seeds: Range<u64>) -> Result<Summary, String> {
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new(Ok(Summary::default())));
    let settled = || total.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while settled().is_ok() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| Err("panicked".to_owned()));
            let mut total = settled();
            match (outcome, total.as_mut()) {
                (Ok(summary), Ok(total)) => total.add(&summary),
                (Err(fault), _) => {
                    *total =
                        Err(format!("seed {seed}: {fault}\nto repeat it: cargo xtask sim --seeds 1 --seed {seed}"));
                }
                (_, Err(_)) => {}
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// 2026-01-01T00:00:00Z.
const START_SECONDS: i64 = 1_767_225_600;

struct Crew {
    lake: Lake,
    log: SimulatedLog,
    settings: Settings,
    members: Vec<(JoinHandle<()>, CancellationToken)>,
}

impl Crew {
    fn hire(&mut self) {
        let stop = CancellationToken::new();
        let (lake, log, settings, token) = (self.lake.clone(), self.log.clone(), self.settings.clone(), stop.clone());
        let member = tokio::spawn(async move {
            // A worker whose tables cannot be opened now is started again, as a supervisor would.
            while !token.is_cancelled() {
                let registry = prometheus::Registry::new();
                let log: Arc<dyn Log> = Arc::new(log.clone());
                if let Ok(worker) = Worker::new(settings.clone(), lake.clone(), log, "simulated", &registry).await
                    && worker.run(token.clone()).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        self.members.push((member, stop));
    }

    /// A round of maintenance, beside everything else. It may fail, and it may be in the way of no one.
    fn compact(&self) {
        // Log checkpoints are the Delta library's, which needs threads.
        let settings =
            maintain::Settings { files_min: 3, checkpoint_commits: i64::MAX, ..maintain::Settings::default() };
        let lake = self.lake.clone();
        tokio::spawn(async move {
            for spec in [&EVENTS, &DEAD_LETTERS] {
                if let Err(error) = lake.maintain(spec, &settings, false).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "maintenance failed");
                }
            }
        });
    }

    async fn crash(&mut self, index: usize) {
        let (member, _) = self.members.swap_remove(index);
        member.abort();
        // Aborted or already ended: both are fine.
        drop(member.await);
    }
}

async fn simulate(seed: u64) -> Result<Summary, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let schedule = Schedule {
        kafka_partitions: rng.random_range(1..=5),
        max_poll_records: *[1, 7, 40, 200].choose(&mut rng).expect("not empty"),
        rebalance_one_in: *[0, 0, 20, 200].choose(&mut rng).expect("not empty"),
        hole_one_in: *[0, 10].choose(&mut rng).expect("not empty"),
        fail_append_one_in: *[0, 8].choose(&mut rng).expect("not empty"),
        poll: Duration::from_millis(1),
    };
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let faults = FaultyStore::new(memory.clone(), seed);
    let url = url::Url::parse("memory:///lake").expect("a URL");
    let log = SimulatedLog::new(seed, schedule.clone());
    let settings = Settings {
        flush_bytes: bytesize::ByteSize(rng.random_range(1_000..60_000)),
        flush_age: jiff::SignedDuration::from_millis(rng.random_range(5..400)),
        ..Settings::default()
    };
    let started = tokio::time::Instant::now();
    let clock = move || {
        let passed = started.elapsed();
        jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(START_SECONDS) + passed
    };
    let lake = Lake::with_store(Arc::new(faults.clone()), url.clone()).simulated(clock, seed);
    let mut crew = Crew { lake, log: log.clone(), settings, members: Vec::new() };
    faults.set(rng.random_range(0..=20));
    let size = rng.random_range(1..=3);
    for _ in 0..size {
        crew.hire();
    }
    let overtakes = rng.random_range(0..4) == 0;
    let compacts = rng.random_range(0..4) == 0;
    let mut crashes = 0;
    let mut number = 0_u64;
    for _ in 0..rng.random_range(10..60) {
        match rng.random_range(0..10) {
            0..=4 => produce(&log, &mut rng, &mut number, schedule.kafka_partitions).await,
            5 if !crew.members.is_empty() => {
                let index = rng.random_range(0..crew.members.len());
                crew.crash(index).await;
                crashes += 1;
            }
            6 if crew.members.len() < 4 => crew.hire(),
            7 => log.rebalance(rng.random()),
            8 => faults.set(*[0, 5, 20, 60].choose(&mut rng).expect("not empty")),
            9 if compacts => crew.compact(),
            _ if overtakes => overtake(&log, &mut rng, schedule.kafka_partitions).await,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
    }
    faults.set(0);
    log.calm();
    if crew.members.is_empty() {
        crew.hire();
    }
    let clean = Lake::with_store(memory.clone(), url);
    settle(&clean, &log).await?;
    for (_, stop) in &crew.members {
        stop.cancel();
    }
    for (member, _) in crew.members {
        tokio::time::timeout(Duration::from_secs(600), member)
            .await
            .map_err(|_| "a worker did not stop within 600 simulated seconds".to_owned())?
            .map_err(|error| format!("a worker panicked: {error}"))?;
    }
    let mut summary = oracle::check(&clean, &memory, &log, overtakes).await?;
    summary.crashes = crashes;
    Ok(summary)
}

/// Waits until every record is in a table commit.
async fn settle(lake: &Lake, log: &SimulatedLog) -> Result<(), String> {
    let mut reachable: BTreeMap<i32, i64> = BTreeMap::new();
    for record in log.records() {
        // One past the last record; a hole at the end of a partition can never be covered.
        let end = reachable.entry(record.kafka_partition).or_default();
        *end = (*end).max(record.offset + 1);
    }
    let done = |at: &PartitionProgress| at.next_offset >= reachable.get(&at.kafka_partition).copied().unwrap_or(0);
    for _ in 0..3_000 {
        if let Ok(progress) = progress(lake, log).await
            && progress.iter().all(done)
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let progress = progress(lake, log).await.map_err(|error| error.to_string())?;
    Err(format!("no progress for 300 simulated seconds with all faults healed: {progress:?}"))
}

/// Retention takes some of what a partition holds, read or not.
async fn overtake(log: &SimulatedLog, rng: &mut ChaCha8Rng, partitions: i32) {
    let partition = rng.random_range(0..partitions);
    if let Ok((low, high)) = log.offsets(partition).await {
        log.retain_from(partition, rng.random_range(low..=high));
    }
}

async fn produce(log: &SimulatedLog, rng: &mut ChaCha8Rng, number: &mut u64, partitions: i32) {
    let mut batch = Vec::new();
    for _ in 0..rng.random_range(1..80) {
        // A retry now and then: the same event, byte for byte.
        let id = if *number > 0 && rng.random_range(0..10) == 0 { rng.random_range(0..*number) } else { *number };
        *number = (*number).max(id + 1);
        // And now and then another event under the id: of the same person, or of another, in another partition.
        let other = if rng.random_range(0..12) == 0 { rng.random_range(1..4) } else { 0 };
        let user = if other == 3 { (id + 1) % 7 } else { id % 7 };
        let value = if id % 23 == 5 {
            format!("{{\"specversion\":\"1.0\",\"id\":\"{id}")
        } else {
            format!(
                "{{\"specversion\":\"1.0\",\"id\":\"019a0000-0000-7000-8000-{id:012x}\",\"source\":\"urn:daybook:kiro:ide:{}\",\
                 \"type\":\"dev.daybook.prompt.submitted.v1\",\"time\":\"2026-01-0{}T0{}:00:00Z\",\"subject\":\"email:u{user}@example.com\",\
                 \"product\":\"kiro\",\"clienttype\":\"ide\",\"sessionid\":\"s{}\",\"data\":{{\"length_chars\":{}}}}}",
                id % 7,
                1 + id % 3,
                id % 10,
                id % 11,
                id % 500 + 1_000 * other
            )
        };
        let key = Bytes::from(format!("acme/{user}"));
        let headers = vec![
            (headers::ORG.into(), Bytes::from_static(b"acme")),
            (headers::RECORDED_TIME.into(), Bytes::from_static(b"2026-01-05T00:00:00Z")),
        ];
        batch.push(Append { key, value: value.into(), headers });
    }
    // The collector's client retries what failed, and ids remove the duplicates; here the records that got in are enough.
    drop(log.append(batch).await);
    if rng.random_range(0..8) == 0 {
        log.append_raw(rng.random_range(0..partitions), None, None, Vec::new());
    }
}
