//! The log for simulations: in memory, deterministic, without real time.
//!
//! All chance comes from one seed: poll sizes, how partitions interleave, rebalances, offset holes, failed appends. On a single-threaded
//! runtime the same seed and the same calls give the same events. Faults by hand: [`SimulatedLog::hole`] (compaction, aborted
//! transactions), [`SimulatedLog::retain_from`] (retention), [`SimulatedLog::rebalance`], [`SimulatedLog::lose_tail`] (unclean election),
//! [`SimulatedLog::recreate`].
//!
//! Several consumers form one group. Redelivery needs no switch of its own: a rebalance or a dropped consumer makes the next owner start
//! from [`Positions`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::group::Group;
use super::local::{LocalConsumer, Source};
use super::{Append, Consumer, Error, Headers, Log, Positions, Record, Result, kafka_partition_of};

/// How unkind the simulated log is. "One in 0" means never.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Partitions `0..kafka_partitions`.
    pub kafka_partitions: i32,
    /// A poll hands out between 1 and this many records.
    pub max_poll_records: usize,
    /// One in so many calls of `next` starts with a rebalance.
    pub rebalance_one_in: u32,
    /// One in so many appended records is preceded by one to three offsets that no record will have.
    pub hole_one_in: u32,
    /// One in so many appends fails, with none, some or all of its records appended.
    pub fail_append_one_in: u32,
    /// What a poll takes. On a paused clock it must be more than nothing: else time stands still for as long as there is
    /// anything to read, and with it everything that happens by age.
    pub poll: Duration,
}

impl Default for Schedule {
    /// A log without faults: 4 partitions, polls of up to 100 records.
    fn default() -> Self {
        Self {
            kafka_partitions: 4,
            max_poll_records: 100,
            rebalance_one_in: 0,
            hole_one_in: 0,
            fail_append_one_in: 0,
            poll: Duration::ZERO,
        }
    }
}

/// A log in memory. Clones share it.
#[derive(Clone)]
pub struct SimulatedLog {
    shared: Arc<Shared>,
}

struct Shared {
    schedule: Schedule,
    group: Group,
    state: Mutex<State>,
}

struct State {
    rng: ChaCha8Rng,
    seed: u64,
    generation: u64,
    calm: bool,
    partitions: Vec<Partition>,
    /// Advances by one for each record.
    now_ms: i64,
}

#[derive(Default)]
struct Partition {
    /// Records below `low` stay here for the oracle; they are not read any more.
    records: BTreeMap<i64, Record>,
    low: i64,
    high: i64,
}

/// 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;

impl SimulatedLog {
    /// An empty log.
    pub fn new(seed: u64, schedule: Schedule) -> Self {
        let count = schedule.kafka_partitions;
        let state = State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            seed,
            generation: 0,
            calm: false,
            partitions: (0..count).map(|_| Partition::default()).collect(),
            now_ms: START_MS,
        };
        Self {
            shared: Arc::new(Shared { schedule, group: Group::new((0..count).collect()), state: Mutex::new(state) }),
        }
    }

    /// Appends one record as is, `None` values, odd headers and all, and returns its offset.
    ///
    /// # Panics
    /// When the partition does not exist.
    pub fn append_raw(
        &self,
        kafka_partition: i32,
        key: Option<bytes::Bytes>,
        value: Option<bytes::Bytes>,
        headers: Headers,
    ) -> i64 {
        let mut state = self.shared.lock();
        let offset = state.push(kafka_partition, key, value, headers);
        drop(state);
        self.shared.group.changed();
        offset
    }

    /// The next `count` offsets of the partition will never have a record.
    ///
    /// # Panics
    /// When the partition does not exist.
    pub fn hole(&self, kafka_partition: i32, count: i64) {
        self.shared.lock().partition(kafka_partition).high += count;
        self.shared.group.changed();
    }

    /// Retention: records below `offset` can no longer be read.
    ///
    /// # Panics
    /// When the partition does not exist.
    pub fn retain_from(&self, kafka_partition: i32, offset: i64) {
        let mut state = self.shared.lock();
        let partition = state.partition(kafka_partition);
        partition.low = offset.clamp(partition.low, partition.high);
        drop(state);
        self.shared.group.changed();
    }

    /// Unclean leader election: records from `offset` on are gone, and their offsets will be given again.
    ///
    /// # Panics
    /// When the partition does not exist.
    pub fn lose_tail(&self, kafka_partition: i32, offset: i64) {
        let mut state = self.shared.lock();
        let partition = state.partition(kafka_partition);
        partition.high = offset.clamp(partition.low, partition.high);
        let high = partition.high;
        partition.records.split_off(&high);
        drop(state);
        self.shared.group.changed();
    }

    /// Every consumer gives up its partitions; with `rotate` they move on to the next member.
    pub fn rebalance(&self, rotate: bool) {
        self.shared.group.rebalance(rotate);
    }

    /// The topic is deleted and created again: empty, with another identity.
    pub fn recreate(&self) {
        let mut state = self.shared.lock();
        state.generation += 1;
        for partition in &mut state.partitions {
            *partition = Partition::default();
        }
        drop(state);
        self.shared.group.rebalance(false);
    }

    /// From here on chance causes no more rebalances, holes and failed appends, so that a simulation can read to the end.
    pub fn calm(&self) {
        self.shared.lock().calm = true;
    }

    /// Every record that was appended and not lost, also those that retention took, by partition and offset. The oracle of simulations.
    pub fn records(&self) -> Vec<Record> {
        self.shared.lock().partitions.iter().flat_map(|partition| partition.records.values().cloned()).collect()
    }
}

impl State {
    fn partition(&mut self, kafka_partition: i32) -> &mut Partition {
        &mut self.partitions[kafka_partition as usize]
    }

    fn one_in(&mut self, n: u32) -> bool {
        n > 0 && !self.calm && self.rng.random_range(0..n) == 0
    }

    fn push(
        &mut self,
        kafka_partition: i32,
        key: Option<bytes::Bytes>,
        value: Option<bytes::Bytes>,
        headers: Headers,
    ) -> i64 {
        self.now_ms += 1;
        let append_time_ms = self.now_ms;
        let partition = self.partition(kafka_partition);
        let offset = partition.high;
        partition.high += 1;
        partition.records.insert(offset, Record { kafka_partition, offset, key, value, headers, append_time_ms });
        offset
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("holders panic only on a partition that does not exist, which fails the test")
    }

    fn check_partition(&self, kafka_partition: i32) -> Result<()> {
        if (0..self.schedule.kafka_partitions).contains(&kafka_partition) {
            return Ok(());
        }
        Err(Error::Fatal { what: format!("there is no partition {kafka_partition}"), source: None })
    }
}

#[async_trait]
impl Source for Shared {
    fn group(&self) -> &Group {
        &self.group
    }

    fn before_next(&self) {
        let mut state = self.lock();
        if state.one_in(self.schedule.rebalance_one_in) {
            let rotate = state.rng.random();
            drop(state);
            self.group.rebalance(rotate);
        }
    }

    fn watermarks(&self, kafka_partition: i32) -> Result<(i64, i64)> {
        self.check_partition(kafka_partition)?;
        let mut state = self.lock();
        let partition = state.partition(kafka_partition);
        Ok((partition.low, partition.high))
    }

    async fn read(&self, wanted: &BTreeMap<i32, i64>) -> Result<Vec<Record>> {
        if !self.schedule.poll.is_zero() {
            tokio::time::sleep(self.schedule.poll).await;
        }
        let mut state = self.lock();
        let State { rng, partitions, .. } = &mut *state;
        // What is left of each partition; a random one gives the next record.
        let mut rest: Vec<_> = wanted
            .iter()
            .filter_map(|(partition, from)| {
                let partition = &partitions[*partition as usize];
                let mut records =
                    partition.records.range((*from).max(partition.low)..).map(|(_, record)| record).peekable();
                records.peek().is_some().then_some(records)
            })
            .collect();
        let mut batch = Vec::new();
        if rest.is_empty() {
            return Ok(batch);
        }
        for _ in 0..rng.random_range(1..=self.schedule.max_poll_records.max(1)) {
            if rest.is_empty() {
                break;
            }
            let chosen = rng.random_range(0..rest.len());
            batch.extend(rest[chosen].next().cloned());
            if rest[chosen].peek().is_none() {
                drop(rest.remove(chosen));
            }
        }
        Ok(batch)
    }
}

#[async_trait]
impl Log for SimulatedLog {
    async fn identity(&self) -> Result<String> {
        let state = self.shared.lock();
        Ok(format!("simulated-{}/{}", state.seed, state.generation))
    }

    async fn partitions(&self) -> Result<Vec<i32>> {
        Ok((0..self.shared.schedule.kafka_partitions).collect())
    }

    async fn append(&self, records: Vec<Append>) -> Result<()> {
        let schedule = &self.shared.schedule;
        let mut state = self.shared.lock();
        let fails = state.one_in(schedule.fail_append_one_in);
        let appended = if fails { state.rng.random_range(0..=records.len()) } else { records.len() };
        for Append { key, value, headers } in records.into_iter().take(appended) {
            let kafka_partition = kafka_partition_of(&key, schedule.kafka_partitions);
            if state.one_in(schedule.hole_one_in) {
                let hole = state.rng.random_range(1..=3);
                state.partition(kafka_partition).high += hole;
            }
            state.push(kafka_partition, Some(key), Some(value), headers);
        }
        drop(state);
        self.shared.group.changed();
        if fails {
            return Err(Error::Unavailable { what: "append (simulated failure)".into(), source: None });
        }
        Ok(())
    }

    async fn offsets(&self, kafka_partition: i32) -> Result<(i64, i64)> {
        self.shared.watermarks(kafka_partition)
    }

    async fn subscribe(&self, positions: Arc<dyn Positions>) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(LocalConsumer::join(self.shared.clone(), positions)))
    }

    /// Frees the records like the embedded log does: a worker that truncates before its table commit is found out by a gap.
    async fn truncate(&self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        self.shared.check_partition(kafka_partition)?;
        self.retain_from(kafka_partition, next_offset);
        Ok(())
    }
}
