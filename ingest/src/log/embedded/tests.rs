//! The embedded log on a real disk: contract, crashes, locks, one fsync for many.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::log::Event;
use crate::log::contract::{self, FixedPositions};

fn open_in(dir: &Path, partitions: i32) -> Result<EmbeddedLog> {
    let settings = EmbeddedSettings { dir: dir.join("log"), partitions, ..EmbeddedSettings::default() };
    EmbeddedLog::open(&settings, Arc::new(|| 1_767_225_600_000))
}

fn record(number: usize) -> Append {
    let headers = vec![("n".into(), Bytes::from(number.to_string()))];
    Append { key: Bytes::from(format!("key-{number}")), value: Bytes::from(vec![b'x'; 100]), headers }
}

/// Everything from the positions to the high watermarks, and the gaps.
async fn read_all(log: &EmbeddedLog, from: BTreeMap<i32, i64>) -> (Vec<Record>, Vec<Event>) {
    let mut ends = BTreeMap::new();
    for partition in log.partitions().await.unwrap() {
        ends.insert(partition, log.offsets(partition).await.unwrap().1);
    }
    let mut next: BTreeMap<i32, i64> = ends.keys().map(|p| (*p, from.get(p).copied().unwrap_or(0))).collect();
    let mut consumer = log.subscribe(FixedPositions::new(from)).await.unwrap();
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    while next.iter().any(|(partition, next)| *next < ends[partition]) {
        match consumer.next().await.unwrap() {
            Event::Records(batch) => {
                next.extend(batch.iter().map(|record| (record.kafka_partition, record.offset + 1)));
                records.extend(batch);
            }
            Event::Gap { kafka_partition, from, to } => {
                next.insert(kafka_partition, to);
                gaps.push(Event::Gap { kafka_partition, from, to });
            }
            Event::Assigned(_) | Event::Revoked(_) => {}
        }
    }
    (records, gaps)
}

fn numbers(records: &[Record]) -> Vec<usize> {
    let number = |record: &Record| str::from_utf8(record.header("n").unwrap()).unwrap().parse().unwrap();
    let mut numbers: Vec<usize> = records.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn contract_on_disk() {
    for partitions in [1, 4] {
        let dir = TempDir::new().unwrap();
        contract::check(&open_in(dir.path(), partitions).unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_on_disk_with_threads() {
    let dir = TempDir::new().unwrap();
    contract::check(&open_in(dir.path(), 3).unwrap()).await;
}

#[tokio::test]
async fn a_log_is_found_again_as_it_was() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 2).unwrap();
    let identity = log.identity().await.unwrap();
    log.append((0..50).map(record).collect()).await.unwrap();
    let (before, _) = read_all(&log, BTreeMap::new()).await;
    let high = log.offsets(0).await.unwrap().1;
    log.truncate(0, high).await.unwrap();
    log.truncate(1, 3).await.unwrap();
    drop(log);

    let log = open_in(dir.path(), 2).unwrap();
    assert_eq!(log.identity().await.unwrap(), identity);
    assert_eq!(log.offsets(0).await.unwrap(), (high, high), "an emptied partition goes on where it was");
    assert_eq!(log.offsets(1).await.unwrap(), (3, 50 - high));
    let (after, gaps) = read_all(&log, BTreeMap::from([(0, high)])).await;
    let expected: Vec<_> = before.into_iter().filter(|r| r.kafka_partition == 1 && r.offset >= 3).collect();
    assert_eq!(after, expected);
    assert_eq!(gaps, [Event::Gap { kafka_partition: 1, from: 0, to: 3 }]);

    let other = TempDir::new().unwrap();
    assert_ne!(open_in(other.path(), 2).unwrap().identity().await.unwrap(), identity);
}

#[test]
fn faults_of_opening_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 2).unwrap();
    let Err(error) = open_in(dir.path(), 2) else { panic!("a log has one process") };
    assert!(matches!(&error, Error::Fatal { what, .. } if what.contains("another process has it open")), "{error}");
    drop(log);
    let Err(error) = open_in(dir.path(), 3) else { panic!("the number of partitions is fixed") };
    assert!(error.to_string().contains("has 2 partitions, the settings say 3"), "{error}");
    let settings =
        EmbeddedSettings { partitions: 0, append_buffer: bytesize::ByteSize(1), ..EmbeddedSettings::default() };
    assert_eq!(settings.faults().len(), 2, "every fault at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_share_one_fsync() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 4).unwrap();
    let appends = (0..400).map(|number| log.append(vec![record(number)]));
    for outcome in futures::future::join_all(appends).await {
        outcome.unwrap();
    }
    let commits = log.shared.commits.load(Ordering::Relaxed);
    assert!(commits < 200, "{commits} commits for 400 appends");
    assert_eq!(numbers(&read_all(&log, BTreeMap::new()).await.0), (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_small_buffer_takes_large_requests_one_by_one() {
    let dir = TempDir::new().unwrap();
    let settings = EmbeddedSettings {
        dir: dir.path().join("log"),
        append_buffer: bytesize::ByteSize::mib(16),
        ..EmbeddedSettings::default()
    };
    let log = EmbeddedLog::open(&settings, Arc::new(|| 1)).unwrap();
    let large = |number: usize| Append { value: Bytes::from(vec![0; 5 << 20]), ..record(number) };
    futures::future::try_join_all((0..2).map(|n| log.append((0..4).map(|m| large(4 * n + m)).collect())))
        .await
        .unwrap();
    assert_eq!(numbers(&read_all(&log, BTreeMap::new()).await.0), (0..8).collect::<Vec<_>>());
    let too_large = Append { value: Bytes::from(vec![0; MAX_RECORD_BYTES]), ..record(9) };
    assert!(matches!(log.append(vec![too_large]).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn r9_a_failed_write_is_survived_without_a_restart() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 1).unwrap();
    log.append(vec![record(0)]).await.unwrap();
    let mut consumer = log.subscribe(FixedPositions::new(BTreeMap::new())).await.unwrap();
    assert_eq!(consumer.next().await.unwrap(), Event::Assigned(vec![(0, 0)]));
    log.shared.fail_next_commit.store(true, Ordering::Relaxed);
    assert!(log.append(vec![record(1)]).await.is_err_and(|error| error.is_retryable()));
    // The failed write had reached the disk all the same; its offset is not given again.
    log.append(vec![record(1)]).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 3 {
        let Event::Records(records) = consumer.next().await.unwrap() else { panic!("records") };
        read.extend(records);
    }
    assert_eq!(numbers(&read), [0, 1, 1]);
    assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
}

/// The files as a power loss leaves them, cut anywhere in what was written last: the log opens, and holds a prefix of what was appended.
#[tokio::test]
async fn r1_a_torn_journal_loses_only_its_tail() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 3).unwrap();
    for number in 0..40 {
        log.append(vec![record(number)]).await.unwrap();
    }
    let journals = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).collect()
    };
    let [journal] = &journals(dir.path())[..] else { panic!("one journal: {:?}", journals(dir.path())) };
    let written = {
        let bytes = std::fs::read(journal).unwrap();
        bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
    };
    let mut survivors = Vec::new();
    for cut in [0, 1, 7, 30, 150, 155, 1000, 2500] {
        let copy = TempDir::new().unwrap();
        copy_dir(&dir.path().join("log"), &copy.path().join("log"));
        let [journal] = &journals(copy.path())[..] else { panic!("one journal") };
        File::options().write(true).open(journal).unwrap().set_len((written - cut) as u64).unwrap();
        let log = open_in(copy.path(), 3).unwrap();
        let found = numbers(&read_all(&log, BTreeMap::new()).await.0);
        assert_eq!(found, (0..found.len()).collect::<Vec<_>>(), "a prefix is left after cutting {cut} bytes");
        log.append(vec![record(found.len())]).await.unwrap();
        assert_eq!(read_all(&log, BTreeMap::new()).await.0.len(), found.len() + 1, "and the log goes on");
        survivors.push(found.len());
    }
    assert!(survivors.is_sorted_by(|a, b| a >= b) && survivors[0] == 40 && survivors[7] < 40, "{survivors:?}");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

const CHILD_DIR: &str = "DAYBOOK_TEST_EMBEDDED_LOG_DIR";

/// Not a test: the child of [`r1_kill_9_loses_nothing_that_was_answered`]. Appends and tells what was answered, until it is killed.
#[tokio::test]
#[ignore = "run by r1_kill_9_loses_nothing_that_was_answered"]
async fn child_that_appends() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let log = open_in(Path::new(&dir), 4).unwrap();
    let start = read_all(&log, BTreeMap::new()).await.0.len();
    for first in (start..).step_by(8) {
        futures::future::try_join_all((first..first + 8).map(|number| log.append(vec![record(number)]))).await.unwrap();
        writeln!(std::io::stdout(), "answered {}", first + 8).unwrap();
    }
}

#[tokio::test]
async fn r1_kill_9_loses_nothing_that_was_answered() {
    let dir = TempDir::new().unwrap();
    let mut before = 0;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::embedded::tests::child_that_appends", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
        let answered = lines.filter_map(|line| line.rsplit_once("answered ")?.1.parse::<usize>().ok());
        let at_least = answered.take(20 + 17 * round).last().expect("the child appends");
        child.kill().unwrap();
        child.wait().unwrap();
        let log = open_in(dir.path(), 4).unwrap();
        let found = numbers(&read_all(&log, BTreeMap::new()).await.0);
        assert!(found.len() >= at_least && at_least > before, "{} records, {at_least} were answered", found.len());
        // The child had up to eight appends open; their order among each other is not fixed, and the last of them may be missing.
        let (whole, open) = found.split_at(at_least);
        assert_eq!(whole, (0..at_least).collect::<Vec<_>>(), "all that was answered is there, once");
        assert!(open.is_sorted_by(|a, b| a < b), "{open:?}");
        before = found.len();
        // Continue without holes for the next round.
        let missing: Vec<_> = (at_least..*found.last().unwrap()).filter(|n| !open.contains(n)).map(record).collect();
        log.append(missing).await.unwrap();
    }
}

/// Space is given back after truncation, so that a small disk lasts.
#[tokio::test]
async fn freed_records_free_the_disk() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 1).unwrap();
    let mut peak = 0;
    let noise = |seed: usize| {
        let mut state = seed as u64 + 1;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
    };
    let value: Bytes = noise(1).take(64 << 10).collect();
    const ROUNDS: usize = 60;
    for _ in 0..ROUNDS {
        log.append((0..160).map(|n| Append { value: value.clone(), ..record(n) }).collect()).await.unwrap();
        log.truncate(0, log.offsets(0).await.unwrap().1).await.unwrap();
        peak = peak.max(disk_bytes(dir.path()));
    }
    // Two journals of up to 128 MiB are kept for recovery; the rest goes with compaction, however much was written.
    let written = (ROUNDS as u64 * 160) << 16;
    assert!(peak < 400 << 20 && written >= 600 << 20, "{peak} bytes on disk at most, {written} written");
}

fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Figures for the README, not a bar: `cargo test --release -p daybook-ingest -- --ignored --nocapture measure_embedded`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_embedded() {
    let dir = TempDir::new().unwrap();
    let log = open_in(dir.path(), 4).unwrap();
    let total = 400_000;
    let started = std::time::Instant::now();
    for first in (0..total).step_by(8000) {
        let calls = (first..first + 8000).step_by(500).map(|n| log.append((n..n + 500).map(record).collect()));
        futures::future::try_join_all(calls).await.unwrap();
    }
    let appended = started.elapsed();
    let started = std::time::Instant::now();
    assert_eq!(read_all(&log, BTreeMap::new()).await.0.len(), total);
    let rate = |elapsed: std::time::Duration| total as f64 / elapsed.as_secs_f64();
    let (append, read) = (rate(appended), rate(started.elapsed()));
    writeln!(std::io::stderr(), "embedded: append {append:.0} records/s, read {read:.0} records/s").unwrap();
}
