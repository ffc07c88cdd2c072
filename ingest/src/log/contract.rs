//! What every log must do, as a function: run against the embedded and the simulated log here, against librdkafka's mock cluster here, and
//! against a real broker from `e2e`.
//!
//! Needs a log that nothing else writes to or reads from meanwhile. Panics with a sentence when a promise is broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Append, Consumer, Event, Log, Positions, Record, Result};

/// No step of a working log takes this long, joining a group on a slow machine included.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Positions held in memory, as the table would hold them.
#[derive(Default)]
pub struct FixedPositions(Mutex<BTreeMap<i32, i64>>);

impl FixedPositions {
    /// Starting from these.
    pub fn new(next_offsets: BTreeMap<i32, i64>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(next_offsets)))
    }

    /// What a table commit does.
    pub fn set(&self, kafka_partition: i32, next_offset: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kafka_partition, next_offset);
    }

    /// 0 when never set.
    pub fn get(&self, kafka_partition: i32) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&kafka_partition).copied().unwrap_or(0)
    }
}

#[async_trait]
impl Positions for FixedPositions {
    async fn next_offsets(&self, kafka_partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kafka_partitions.iter().filter_map(|partition| Some((*partition, *all.get(partition)?))).collect())
    }
}

/// A consumer that checks each event against the rules of [`Consumer`] as it comes.
pub struct CheckedConsumer {
    consumer: Box<dyn Consumer>,
    positions: Arc<FixedPositions>,
    /// Next offset allowed, per partition that is ours.
    pub owned: BTreeMap<i32, i64>,
    /// Gaps reported so far.
    pub gaps: Vec<(i32, i64, i64)>,
}

impl CheckedConsumer {
    /// Joins the group.
    ///
    /// # Panics
    /// When the log cannot be reached.
    pub async fn join(log: &dyn Log, positions: &Arc<FixedPositions>) -> Self {
        let consumer = log.subscribe(positions.clone()).await.expect("subscribe");
        Self { consumer, positions: positions.clone(), owned: BTreeMap::new(), gaps: Vec::new() }
    }

    /// The next event, if one comes within the limit.
    ///
    /// # Panics
    /// When the event breaks a rule.
    pub async fn next(&mut self, limit: Duration) -> Option<Event> {
        let event = tokio::time::timeout(limit, self.consumer.next()).await.ok()?.expect("next");
        match &event {
            Event::Assigned(partitions) => {
                assert!(!partitions.is_empty(), "an assignment names partitions");
                for (partition, next) in partitions {
                    assert_eq!(
                        *next,
                        self.positions.get(*partition),
                        "partition {partition} starts where the table says"
                    );
                    assert_eq!(self.owned.insert(*partition, *next), None, "partition {partition} was ours already");
                }
            }
            Event::Revoked(partitions) => {
                for partition in partitions {
                    assert!(
                        self.owned.remove(partition).is_some(),
                        "partition {partition} revoked, but it was not ours"
                    );
                }
            }
            Event::Records(records) => {
                assert!(!records.is_empty(), "a batch has records");
                for Record { kafka_partition, offset, .. } in records {
                    let next = self.owned.get_mut(kafka_partition);
                    let next = next
                        .unwrap_or_else(|| panic!("record {kafka_partition}/{offset}, but the partition is not ours"));
                    assert!(*offset >= *next, "record {kafka_partition}/{offset} comes after {next} was due");
                    *next = offset + 1;
                }
            }
            Event::Gap { kafka_partition, from, to } => {
                let next = self.owned.get_mut(kafka_partition).expect("a gap in a partition of ours");
                assert_eq!(*from, *next, "a gap starts where reading stopped");
                *next = *to;
                self.gaps.push((*kafka_partition, *from, *to));
            }
        }
        Some(event)
    }

    /// Reads until `enough` says so of what was read since, by partition and offset. What is revoked is forgotten, as by a worker.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn read_until(
        &mut self,
        enough: impl Fn(&BTreeMap<(i32, i64), Record>) -> bool,
    ) -> BTreeMap<(i32, i64), Record> {
        let mut seen = BTreeMap::new();
        while !enough(&seen) {
            match self
                .next(STEP_LIMIT)
                .await
                .unwrap_or_else(|| panic!("no event within {STEP_LIMIT:?} after {} records", seen.len()))
            {
                Event::Records(records) => seen.extend(records.into_iter().map(|r| ((r.kafka_partition, r.offset), r))),
                Event::Revoked(partitions) => seen.retain(|(partition, _), _| !partitions.contains(partition)),
                Event::Assigned(_) | Event::Gap { .. } => {}
            }
        }
        seen
    }

    /// See [`Consumer::seek`].
    ///
    /// # Panics
    /// When the consumer has ended.
    pub async fn seek(&mut self, kafka_partition: i32, next_offset: i64) {
        self.consumer.seek(kafka_partition, next_offset).await.expect("seek");
        if let Some(next) = self.owned.get_mut(&kafka_partition) {
            *next = next_offset;
        }
    }

    /// See [`Consumer::close`].
    ///
    /// # Panics
    /// When it fails.
    pub async fn close(self) {
        self.consumer.close().await.expect("close");
    }
}

/// Different keys in the test; fewer than any append has records.
const KEYS: usize = 13;

/// A record as [`check`] appends it: text, binary, empty and large values; a repeated header.
fn sample(index: usize) -> Append {
    let value = match index % 7 {
        5 => Bytes::new(),
        6 => Bytes::from(vec![0xff; 40_000]),
        _ => Bytes::from(format!("{{\"n\":{index}}}")),
    };
    let headers = [("daybook-org", "acme".to_owned()), ("n", index.to_string()), ("n", String::new())];
    let headers = headers.into_iter().map(|(name, value)| (name.into(), Bytes::from(value))).collect();
    Append { key: Bytes::from(format!("acme/user-{}", index % KEYS)), value, headers }
}

fn number_of(record: &Record) -> usize {
    let number = record.header("n").and_then(|n| str::from_utf8(n).ok()).and_then(|n| n.parse().ok());
    number.expect("every record of this test carries its number")
}

/// Appends, retrying what a log may refuse for a moment; so a record may be there twice.
async fn append(log: &dyn Log, numbers: std::ops::Range<usize>) {
    for _ in 0..100 {
        match log.append(numbers.clone().map(sample).collect()).await {
            Ok(()) => return,
            Err(error) => assert!(error.is_retryable(), "append: {error}"),
        }
    }
    panic!("append failed a hundred times");
}

async fn marks(log: &dyn Log) -> BTreeMap<i32, (i64, i64)> {
    let mut marks = BTreeMap::new();
    for partition in log.partitions().await.expect("partitions") {
        marks.insert(partition, log.offsets(partition).await.expect("offsets"));
    }
    marks
}

fn has_all(numbers: std::ops::Range<usize>) -> impl Fn(&BTreeMap<(i32, i64), Record>) -> bool {
    move |seen| {
        let found: std::collections::BTreeSet<usize> = seen.values().map(number_of).collect();
        numbers.clone().all(|number| found.contains(&number))
    }
}

/// The contract. Appends a few hundred records and leaves them there.
///
/// # Panics
/// When the log breaks a promise.
pub async fn check(log: &dyn Log) {
    const N: usize = 200;
    let start = check_append(log, N).await;
    let positions = FixedPositions::new(start.iter().map(|(partition, (_, high))| (*partition, *high)).collect());

    // From the table's position, all of it, unchanged, and what comes while reading.
    let mut first = CheckedConsumer::join(log, &positions).await;
    let mut seen = first.read_until(has_all(0..N)).await;
    append(log, N..N + 20).await;
    seen.extend(first.read_until(has_all(N..N + 20)).await);
    check_contents(&seen, N);

    check_seek(&mut first, &start, &seen).await;
    check_cancelled(log, &mut first, N + 20).await;
    first.close().await;

    // Another consumer starts where the table is by then, not where the first one was.
    let middle: BTreeMap<i32, i64> = {
        let ends = marks(log).await;
        start.iter().map(|(partition, (_, from))| (*partition, (from + ends[partition].1) / 2)).collect()
    };
    middle.iter().for_each(|(partition, next)| positions.set(*partition, *next));
    let mut second = CheckedConsumer::join(log, &positions).await;
    append(log, N + 40..N + 60).await;
    let again = second.read_until(has_all(N + 40..N + 60)).await;
    for ((partition, offset), record) in &seen {
        assert_eq!(
            again.get(&(*partition, *offset)),
            (*offset >= middle[partition]).then_some(record),
            "{partition}/{offset}"
        );
    }
    check_two_members(log, &positions, second, N + 60).await;
    check_truncate(log, &positions).await;
}

/// Identity, partitions, offsets, append. Gives the watermarks from before.
async fn check_append(log: &dyn Log, count: usize) -> BTreeMap<i32, (i64, i64)> {
    let identity = log.identity().await.expect("identity");
    assert!(
        identity.split('/').filter(|part| !part.is_empty()).count() == 2,
        "identity is <cluster>/<topic>: {identity}"
    );
    assert_eq!(identity, log.identity().await.expect("identity"), "identity is stable");
    let partitions = log.partitions().await.expect("partitions");
    assert!(!partitions.is_empty() && partitions.is_sorted_by(|a, b| a < b), "partitions ascend: {partitions:?}");
    let before = marks(log).await;
    append(log, 0..0).await;
    append(log, 0..count).await;
    let after = marks(log).await;
    let grown: i64 = after.iter().map(|(partition, (_, high))| high - before[partition].1).sum();
    assert!(grown >= count as i64, "{count} records were appended, the high watermarks grew by {grown}");
    before
}

/// Keys, values, headers, order and placement of what was read.
fn check_contents(seen: &BTreeMap<(i32, i64), Record>, second_append: usize) {
    let mut homes = BTreeMap::new();
    let mut last = BTreeMap::new();
    for record in seen.values() {
        let number = number_of(record);
        let Append { key, value, headers } = sample(number);
        assert_eq!(
            (record.key.as_ref(), record.value.as_ref()),
            (Some(&key), Some(&value)),
            "record {number} came back as it went in"
        );
        assert_eq!(record.headers, headers, "record {number} has its headers, in order");
        assert!(record.append_time_ms > 0, "record {number} has a time");
        assert_eq!(
            *homes.entry(key.clone()).or_insert(record.kafka_partition),
            record.kafka_partition,
            "a key has one partition"
        );
        // A retried append starts over with the first record of the key; otherwise numbers ascend.
        let first_of_key = number < KEYS || (second_append..second_append + KEYS).contains(&number);
        let previous = last.insert(key, number);
        assert!(
            first_of_key || previous.is_some_and(|previous| previous < number),
            "record {number} after {previous:?}"
        );
    }
}

/// Back to the beginning (offset 0 in a fresh log, F02), partition by partition: all of it comes again.
async fn check_seek(
    consumer: &mut CheckedConsumer,
    start: &BTreeMap<i32, (i64, i64)>,
    before: &BTreeMap<(i32, i64), Record>,
) {
    for (partition, (_, from)) in start {
        let range = (*partition, *from)..=(*partition, i64::MAX);
        let Some(last) = before.range(range.clone()).next_back().map(|(at, _)| *at) else { continue };
        consumer.seek(*partition, *from).await;
        let again = consumer.read_until(|seen| seen.contains_key(&last)).await;
        let again: Vec<_> = again.range((*partition, *from)..=last).collect();
        let before: Vec<_> = before.range(range).collect();
        assert_eq!(again, before, "after the seek partition {partition} was read again from {from}");
    }
}

/// `next` may be dropped at any time without losing an event.
async fn check_cancelled(log: &dyn Log, consumer: &mut CheckedConsumer, from: usize) {
    append(log, from..from + 20).await;
    let mut seen = BTreeMap::new();
    let enough = has_all(from..from + 20);
    let started = tokio::time::Instant::now();
    while !enough(&seen) {
        assert!(started.elapsed() < STEP_LIMIT, "cancelled calls of next make progress");
        if let Some(Event::Records(records)) = consumer.next(Duration::from_millis(1)).await {
            seen.extend(records.into_iter().map(|r| ((r.kafka_partition, r.offset), r)));
        }
        tokio::task::yield_now().await;
    }
}

/// A second member takes over some partitions, and all of them when the first one leaves.
async fn check_two_members(log: &dyn Log, positions: &Arc<FixedPositions>, mut one: CheckedConsumer, from: usize) {
    let all = log.partitions().await.expect("partitions");
    let commit = |consumer: &CheckedConsumer| consumer.owned.iter().for_each(|(p, next)| positions.set(*p, *next));
    commit(&one);
    let mut two = CheckedConsumer::join(log, positions).await;
    let started = tokio::time::Instant::now();
    let settled = |one: &CheckedConsumer, two: &CheckedConsumer| {
        // One may have given up a partition and not have said so yet when two has it.
        let apart = one.owned.keys().all(|p| !two.owned.contains_key(p));
        apart && !two.owned.is_empty() && one.owned.len() + two.owned.len() == all.len()
    };
    while all.len() > 1 && !settled(&one, &two) {
        assert!(started.elapsed() < STEP_LIMIT, "a second member gets partitions: {:?} and {:?}", one.owned, two.owned);
        one.next(Duration::from_millis(20)).await;
        commit(&one);
        two.next(Duration::from_millis(20)).await;
    }
    commit(&two);
    one.close().await;
    append(log, from..from + 20).await;
    // What the first member read last may be read again; all that is new must come.
    two.read_until(has_all(from..from + 20)).await;
    while two.owned.len() < all.len() {
        two.next(STEP_LIMIT).await.expect("the member that is left gets everything");
    }
    commit(&two);
    two.close().await;
}

/// Freed records are a gap for whoever still wants them, and the rest stays.
async fn check_truncate(log: &dyn Log, positions: &Arc<FixedPositions>) {
    let ends = marks(log).await;
    for (partition, (_, high)) in &ends {
        log.truncate(*partition, high - 1).await.expect("truncate");
        log.truncate(*partition, high - 1).await.expect("truncate again");
    }
    let after = marks(log).await;
    for (partition, (low, high)) in &after {
        assert!(
            *low <= (ends[partition].1 - 1).max(ends[partition].0),
            "partition {partition}: nothing above was freed"
        );
        assert_eq!(*high, ends[partition].1, "the high watermark stays");
        positions.set(*partition, 0);
    }
    let mut late = CheckedConsumer::join(log, positions).await;
    while late.owned.len() < after.len() || after.iter().any(|(partition, (_, high))| late.owned[partition] < *high) {
        late.next(STEP_LIMIT).await.expect("the rest can be read");
    }
    for (partition, (low, _)) in &after {
        let gap = late.gaps.iter().find(|(p, ..)| p == partition).map(|(_, from, to)| (*from, *to));
        assert_eq!(gap, (*low > 0).then_some((0, *low)), "partition {partition}: what cannot be read is a gap");
    }
    late.close().await;
}
