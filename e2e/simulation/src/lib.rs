//! Simulation of log, workers and object store: crashes, rebalances, store faults, zombies; then the oracle.
//!
//! The schedule comes from one seed, and time is tokio's paused clock. Not all of the runtime's own choices are seeded: a
//! seed runs much the same, not exactly. Workers are the real ones, on the simulated log and on an in-memory object store
//! that fails. A crash drops a worker wherever it awaits: between any two steps of the write path. A stalled store turns a worker into a zombie: its partitions move on while it waits.
//!
//! The oracle, at the end, with faults healed: rows of `events` + rows of `dead_letters` = records of the log, each
//! exactly once; every commit's rows lie within the offsets that it covers, and those offsets join up without overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::AsArray,
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type},
};
use bytes::Bytes;
use futures::TryStreamExt;
use ingest::{
    headers,
    log::{Append, Log, Schedule, SimulatedLog},
    worker::{Settings, Worker, progress},
};
use lake::{Lake, testing::FaultyStore};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use schemas::{DEAD_LETTERS, EVENTS, TableSpec};
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
    /// Workers killed.
    pub crashes: usize,
    /// Versions of `events`.
    pub versions: usize,
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
    let mut summary = check(&clean, &memory, &log).await?;
    summary.crashes = crashes;
    Ok(summary)
}

/// Waits until every record is in a table commit.
async fn settle(lake: &Lake, log: &SimulatedLog) -> Result<(), String> {
    for _ in 0..20_000 {
        if let Ok(progress) = progress(lake, log).await
            && progress.iter().all(|partition| partition.next_offset >= reachable(log, partition.kafka_partition))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let progress = progress(lake, log).await.map_err(|error| error.to_string())?;
    Err(format!("no progress for 2,000 simulated seconds with all faults healed: {progress:?}"))
}

/// One past the last record of a partition; a hole at its end can never be covered.
fn reachable(log: &SimulatedLog, kafka_partition: i32) -> i64 {
    let records = log.records();
    let last =
        records.iter().filter(|record| record.kafka_partition == kafka_partition).map(|record| record.offset).max();
    last.map_or(0, |offset| offset + 1)
}

async fn produce(log: &SimulatedLog, rng: &mut ChaCha8Rng, number: &mut u64, partitions: i32) {
    let mut batch = Vec::new();
    for _ in 0..rng.random_range(1..80) {
        // A retry now and then: the same event, byte for byte.
        let id = if *number > 0 && rng.random_range(0..10) == 0 { rng.random_range(0..*number) } else { *number };
        *number = (*number).max(id + 1);
        let user = id % 7;
        let value = if id % 23 == 5 {
            format!("{{\"specversion\":\"1.0\",\"id\":\"{id}")
        } else {
            format!(
                "{{\"specversion\":\"1.0\",\"id\":\"019a0000-0000-7000-8000-{id:012x}\",\"source\":\"urn:daybook:kiro:ide:{user}\",\
                 \"type\":\"dev.daybook.prompt.submitted.v1\",\"time\":\"2026-01-0{}T0{}:00:00Z\",\"subject\":\"email:u{user}@example.com\",\
                 \"product\":\"kiro\",\"clienttype\":\"ide\",\"sessionid\":\"s{}\",\"data\":{{\"length_chars\":{}}}}}",
                1 + id % 3,
                id % 10,
                id % 11,
                id % 500
            )
        };
        let key = Bytes::from(format!("acme/{user}"));
        let headers = vec![
            (headers::ORG.to_owned(), Bytes::from_static(b"acme")),
            (headers::RECORDED_TIME.to_owned(), Bytes::from_static(b"2026-01-05T00:00:00Z")),
        ];
        batch.push(Append { key, value: value.into(), headers });
    }
    // The collector's client retries what failed, and ids remove the duplicates; here the records that got in are enough.
    drop(log.append(batch).await);
    if rng.random_range(0..8) == 0 {
        log.append_raw(rng.random_range(0..partitions), None, None, Vec::new());
    }
}

type Offsets = BTreeMap<(i32, i64), usize>;

/// How often each (partition, offset) is in the table.
async fn offsets(lake: &Lake, spec: &'static TableSpec, memory: &Arc<dyn ObjectStore>) -> Result<Offsets, String> {
    let snapshot =
        lake.table(spec).snapshot().await.map_err(|error| format!("{} cannot be read: {error}", spec.name))?;
    let mut found = Offsets::new();
    for file in &snapshot.files {
        let path = Path::from(format!("lake/{}/{}", spec.name, file.path));
        let bytes = memory.get(&path).await.map_err(|error| format!("a committed file is gone: {error}"))?;
        let bytes = bytes.bytes().await.map_err(|error| error.to_string())?;
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes)
            .and_then(parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::build)
            .map_err(|error| format!("a committed file is torn: {error}"))?;
        for batch in reader {
            let batch = batch.map_err(|error| error.to_string())?;
            let column = |name: &str, kind: &DataType| {
                let array = batch.column_by_name(name).ok_or_else(|| format!("{name} is missing"))?;
                cast(array, kind).map_err(|error| error.to_string())
            };
            let partitions = column("log_partition", &DataType::Int32)?;
            let offsets = column("log_offset", &DataType::Int64)?;
            let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
            for row in 0..partitions.len() {
                *found.entry((partitions.value(row), offsets.value(row))).or_default() += 1;
            }
        }
    }
    Ok(found)
}

async fn check(lake: &Lake, memory: &Arc<dyn ObjectStore>, log: &SimulatedLog) -> Result<Summary, String> {
    let events = offsets(lake, &EVENTS, memory).await?;
    let letters = offsets(lake, &DEAD_LETTERS, memory).await?;
    let mut wanted = BTreeSet::new();
    for record in log.records() {
        let at = (record.kafka_partition, record.offset);
        wanted.insert(at);
        match (events.get(&at).copied().unwrap_or(0), letters.get(&at).copied().unwrap_or(0)) {
            (1, 0) | (0, 1) => {}
            (0, 0) => return Err(format!("record {at:?} is lost")),
            (rows, dead) => {
                return Err(format!("record {at:?} stands {rows} times in events, {dead} times in dead_letters"));
            }
        }
    }
    if let Some(at) = events.keys().chain(letters.keys()).find(|at| !wanted.contains(*at)) {
        return Err(format!("{at:?} is in a table, but was never in the log"));
    }
    let versions = check_intervals(memory).await?;
    Ok(Summary { records: wanted.len(), rows: events.len(), dead_letters: letters.len(), crashes: 0, versions })
}

/// Each partition's `next_offset` goes up from commit to commit, and never twice to the same.
async fn check_intervals(memory: &Arc<dyn ObjectStore>) -> Result<usize, String> {
    let prefix = Path::from("lake/events/_delta_log");
    let entries: Vec<_> = memory.list(Some(&prefix)).try_collect().await.map_err(|error| error.to_string())?;
    let mut paths: Vec<Path> =
        entries.into_iter().map(|entry| entry.location).filter(|path| path.as_ref().ends_with(".json")).collect();
    paths.sort();
    let mut next: BTreeMap<String, i64> = BTreeMap::new();
    let mut commits = BTreeSet::new();
    for path in &paths {
        let bytes = memory
            .get(path)
            .await
            .map_err(|error| error.to_string())?
            .bytes()
            .await
            .map_err(|error| error.to_string())?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let action: serde_json::Value = serde_json::from_slice(line).map_err(|error| format!("{path}: {error}"))?;
            if let Some(txn) = action.get("txn") {
                let (app, version) = (txn["appId"].to_string(), txn["version"].as_i64().unwrap_or(-1));
                let before = next.insert(app.clone(), version).unwrap_or(0);
                if version <= before {
                    return Err(format!("{path}: {app} goes from {before} to {version}"));
                }
            }
            if let Some(add) = action.get("add")
                && !commits.insert(add["path"].to_string())
            {
                return Err(format!("{path}: the file {} was committed twice", add["path"]));
            }
        }
    }
    Ok(paths.len())
}
