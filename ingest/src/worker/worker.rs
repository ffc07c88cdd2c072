//! The loop: takes records from the log, fills a buffer, flushes it when it is full or old.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use directory::Directory;
use jiff::SignedDuration;
use lake::Lake;
use schemas::{DEAD_LETTERS, EVENTS, TableSpec};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    avro::{SchemaRegistry, Schemas},
    buffer::EventBuffer,
    claims::Claim,
    door::KeyRing,
    flush::{BACK_OFF_MAX, Batch, Flusher, Outcome, Span, Target, is_conflict},
    intake::{Filling, first_offsets},
    known::{Identities, Known},
    metrics::Metrics,
    opt_in::OptIns,
    positions::TablePositions,
};
use crate::{
    log::{self, Consumer, Event, Log, Positions, Record},
    signature,
};

/// After a commit a worker leaves the table to others for as many times as long as it took …
const TURNS_OF_OTHERS: u32 = 3;
/// … up to this.
const OTHERS_TURN_MAX: Duration = Duration::from_secs(5);

/// Tries to open a table, over about 6 s.
const OPEN_TRIES: u32 = 7;

/// How the worker cuts its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// A buffer of this size is flushed, however young. Estimated size in memory; the file is about a third of it.
    pub flush_bytes: ByteSize,
    /// A buffer is flushed this long after its first record, however small. Bounds freshness; more commits cost more files.
    pub flush_age: SignedDuration,
    /// Memory for the ids of the newest rows: as far back as they reach, an event whose id is taken by another is found. 64 MiB
    /// are the last 0.9 to 1.8 million rows.
    pub known_bytes: ByteSize,
    /// Threads that decode. More than one only while records come by the thousand; each of them makes files of its own.
    pub decode_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_bytes: ByteSize::mib(32),
            flush_age: SignedDuration::from_secs(1),
            known_bytes: ByteSize::mib(64),
            decode_threads: 2,
        }
    }
}

/// What a partition has come to, in this worker.
struct Position {
    /// `next_offset` in the table, or in the flush that is under way.
    covered: i64,
    /// `next_offset` of the buffer that is filling.
    next: i64,
    claim: Claim,
}

/// An ingest worker. Any number of them may work on one log and one table.
pub struct Worker {
    settings: Settings,
    log: Arc<dyn Log>,
    flusher: Flusher,
    positions: Arc<dyn Positions>,
    partitions: BTreeMap<i32, Position>,
    filling: Filling,
    flushing: Option<JoinHandle<Outcome>>,
    /// When the last one ended.
    flushed: Option<Instant>,
    /// How long it took from its last look at what others had committed to its own commit.
    turn: Duration,
    /// How many partitions the log has.
    partitions_of_log: usize,
    /// What the events of the flush under way are known by.
    in_flight: Arc<Identities>,
    /// Records behind one that contradicts an event in a batch: they wait until that batch is committed.
    held: Vec<Record>,
    /// Who may sign records.
    keys: KeyRing,
    /// Whose records are wanted.
    opt_ins: OptIns,
    /// What records in Avro are read by.
    schemas: Schemas,
}

impl Worker {
    /// Opens the tables, creating them where they are not there.
    ///
    /// # Errors
    /// Where a setting makes no sense, or the log or a table cannot be opened.
    pub async fn new(
        settings: Settings,
        lake: Lake,
        log: Arc<dyn Log>,
        topic: &str,
        registry: &prometheus::Registry,
    ) -> Result<Self, Error> {
        if settings.decode_threads == 0 {
            return Err(Error::Settings { setting: "worker.decode-threads", detail: "takes at least 1".into() });
        }
        if settings.flush_bytes.as_u64() == 0 || settings.flush_age <= SignedDuration::ZERO {
            let setting = if settings.flush_bytes.as_u64() == 0 { "worker.flush-bytes" } else { "worker.flush-age" };
            return Err(Error::Settings { setting, detail: "takes more than nothing".into() });
        }
        let identity = log.identity().await.map_err(Error::Log)?;
        let events = patiently(&EVENTS, || open(&lake, &EVENTS)).await?;
        let dead_letters = patiently(&DEAD_LETTERS, || open(&lake, &DEAD_LETTERS)).await?;
        let metrics = Metrics::register(registry).map_err(Error::Metrics)?;
        let known = patiently(&EVENTS, || Known::open(events.table.clone(), settings.known_bytes)).await?;
        let positions = TablePositions { table: events.table.clone(), identity: identity.clone() };
        let shutdown = CancellationToken::new();
        Ok(Self {
            settings,
            log,
            flusher: Flusher { events, dead_letters, known, identity, topic: topic.to_owned(), metrics, shutdown },
            positions: Arc::new(positions),
            partitions: BTreeMap::new(),
            filling: Filling::new(),
            flushing: None,
            flushed: None,
            turn: Duration::ZERO,
            partitions_of_log: usize::MAX,
            in_flight: Arc::default(),
            held: Vec::new(),
            keys: KeyRing::default(),
            opt_ins: OptIns::default(),
            schemas: Schemas::default(),
        })
    }

    /// With a directory that knows who may write to the log, and whose records are wanted. Without one, all are.
    ///
    /// # Errors
    /// Where a setting makes no sense.
    pub fn with_directory(mut self, producers: &signature::Settings, directory: Directory) -> Result<Self, Error> {
        if let Some((setting, problem)) = producers.faults().into_iter().next() {
            return Err(Error::Settings { setting, detail: problem.into() });
        }
        self.opt_ins = OptIns::new(directory.clone());
        self.keys = KeyRing::new(producers, directory);
        Ok(self)
    }

    /// For a log that has records in Avro: where their schemas stand.
    #[must_use]
    pub fn with_schemas(mut self, registry: Arc<dyn SchemaRegistry>) -> Self {
        self.schemas = Schemas::new(registry);
        self
    }

    /// Works until `shutdown`, then flushes what it holds and returns.
    ///
    /// # Errors
    /// Where the log fails for good. Nothing is lost by that: what is not in a table commit is read again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        loop {
            let mut consumer = self.log.subscribe(self.positions.clone()).await.map_err(Error::Log)?;
            self.flusher.metrics.observe(consumer.standing());
            let outcome = self.work(consumer.as_mut(), &shutdown).await;
            self.flusher.metrics.observe(None);
            if let Err(error) = consumer.close().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the consumer did not close cleanly");
            }
            match outcome {
                Err(Error::Log(error @ log::Error::Stalled { .. })) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "subscribing anew");
                    self.forget(&shutdown).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Drops what is held of a subscription that has ended, after the flush under way.
    async fn forget(&mut self, shutdown: &CancellationToken) {
        if self.flushing.is_some() {
            tokio::select! {
                biased;
                _ = wait(&mut self.flushing) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.partitions.clear();
        self.filling = Filling::new();
        self.held.clear();
        self.in_flight = Arc::default();
    }

    async fn work(&mut self, consumer: &mut dyn Consumer, shutdown: &CancellationToken) -> Result<(), Error> {
        let flush_age = Duration::try_from(self.settings.flush_age).unwrap_or(Duration::MAX);
        let mut pause = Duration::from_millis(100);
        while !shutdown.is_cancelled() {
            let full = self.filling.bytes() >= self.flush_bytes();
            let age = if full { Duration::ZERO } else { flush_age };
            let due = self
                .filling
                .since
                .map(|since| since + age)
                .map(|due| self.flushed.map_or(due, |flushed| due.max(flushed + self.others_turn(age / 2))));
            let due_now = !self.held.is_empty() || due.is_some_and(|due| due <= Instant::now());
            if self.flushing.is_none() && due_now && self.start_flush() {
                continue;
            }
            if self.flushing.is_none() && !self.held.is_empty() {
                // What they waited for is in the table.
                let records = std::mem::take(&mut self.held);
                self.take_records(records, shutdown).await;
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                outcome = wait(&mut self.flushing), if self.flushing.is_some() => self.end_flush(outcome, consumer).await?,
                () = sleep_until(due), if due.is_some() && self.flushing.is_none() => {}
                // A full buffer is not added to: the consumer holds what the log sends meanwhile, up to its own limit.
                event = consumer.next(), if !full && self.held.is_empty() => match event {
                    Ok(event) => {
                        pause = Duration::from_millis(100);
                        self.take(event, consumer, shutdown).await?;
                    }
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "the log is away, trying again");
                        tokio::select! {
                            biased;
                            () = tokio::time::sleep(pause) => {}
                            () = shutdown.cancelled() => break,
                        }
                        pause = (pause * 2).min(BACK_OFF_MAX);
                    }
                    Err(error) => return Err(Error::Log(error)),
                },
            }
        }
        // What is under way and what is filling still goes in; a store that is away does not hold us up for long.
        let shutdown = self.flusher.shutdown.clone();
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            shutdown.cancel();
        });
        let finished = self.settle(consumer).await;
        deadline.abort();
        finished
    }

    /// Flushes until nothing is held.
    async fn settle(&mut self, consumer: &mut dyn Consumer) -> Result<(), Error> {
        if self.flushing.is_some() {
            let outcome = wait(&mut self.flushing).await;
            self.end_flush(outcome, consumer).await?;
        }
        self.start_flush();
        if self.flushing.is_some() {
            let outcome = wait(&mut self.flushing).await;
            self.end_flush(outcome, consumer).await?;
        }
        Ok(())
    }

    /// How long others have the table to themselves after a commit of ours. A commit counts only on top of all that others have
    /// committed before: who comes anew, or sees a slow store, would never come to it while we commit without a pause.
    fn others_turn(&self, least: Duration) -> Duration {
        if self.partitions.len() >= self.partitions_of_log {
            return Duration::ZERO;
        }
        (self.turn * TURNS_OF_OTHERS).min(OTHERS_TURN_MAX).max(least)
    }

    fn flush_bytes(&self) -> usize {
        usize::try_from(self.settings.flush_bytes.as_u64()).unwrap_or(usize::MAX)
    }

    async fn take(
        &mut self,
        event: Event,
        consumer: &mut dyn Consumer,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        match event {
            Event::Assigned(positions) => {
                // Where it does not answer, what was known of it stands: only the pace of the flushes hangs on it.
                if let Ok(partitions) = self.log.partitions().await {
                    self.partitions_of_log = partitions.len();
                }
                self.begin(positions, shutdown).await;
            }
            Event::Revoked(partitions) => {
                // Rows of several partitions share the buffer: all of it goes in now. If a new owner was faster, the
                // commit is fenced and each side reads its position again.
                self.settle(consumer).await?;
                for partition in partitions {
                    self.partitions.remove(&partition);
                }
                self.held.retain(|record| self.partitions.contains_key(&record.kafka_partition));
            }
            Event::Gap { kafka_partition, from, to } => {
                tracing::error!(kafka_partition, from, to, "the log no longer holds these offsets");
                self.flusher.metrics.gap_offsets.inc_by(u64::try_from(to - from).unwrap_or(0));
                if let Some(position) = self.partitions.get_mut(&kafka_partition) {
                    position.next = to;
                    self.filling.gaps.push((kafka_partition, from, to));
                    self.filling.since.get_or_insert_with(Instant::now);
                }
            }
            Event::Records(records) => {
                self.take_records(records, shutdown).await;
                let bytes = i64::try_from(self.filling.bytes()).unwrap_or(i64::MAX);
                self.flusher.metrics.buffered_bytes.set(bytes);
            }
        }
        Ok(())
    }

    /// Decodes records into the buffer. Where the worker is told to stop before their keys are known, it takes none.
    async fn take_records(&mut self, mut records: Vec<Record>, stop: &CancellationToken) {
        let Some(door) = self.keys.wait(&mut records, stop).await else { return };
        let Some(plans) = self.schemas.wait(&records, stop).await else { return };
        if !self.opt_ins.wait(&records, stop).await {
            return;
        }
        let (mut settled, mut unwanted) = (false, 0);
        records.retain(|record| {
            let Some(position) = self.partitions.get_mut(&record.kafka_partition) else { return false };
            if record.offset < position.next {
                // The log hands out nothing twice; a record that it does is already in the buffer or the table.
                return false;
            }
            position.next = record.offset + 1;
            let is_unwanted = !self.opt_ins.wants(record);
            unwanted += u64::from(is_unwanted);
            let is_settled = is_unwanted || position.claim.settles(record.offset, record.append_time_ms);
            settled |= is_settled;
            !is_settled
        });
        self.flusher.metrics.unwanted.inc_by(unwanted);
        if settled {
            // No row comes of it, but the offset is to be covered.
            self.filling.since.get_or_insert_with(Instant::now);
        }
        if records.is_empty() {
            return;
        }
        let (known, threads) = (&self.flusher.known, self.settings.decode_threads);
        let sifted = self.filling.take(records, threads, known, &self.in_flight, &door, &plans).await;
        self.flusher.metrics.log_bytes.inc_by(sifted.bytes as u64);
        self.flusher.metrics.copies.inc_by(sifted.copies);
        for (partition, offset) in first_offsets(&sifted.held) {
            if let Some(position) = self.partitions.get_mut(&partition) {
                position.next = offset;
            }
        }
        self.held = sifted.held;
    }

    /// Hands what is filling to a flush; false where nothing is.
    fn start_flush(&mut self) -> bool {
        let mut filling = self.filling.take_all();
        let mut spans = BTreeMap::new();
        for (partition, position) in &mut self.partitions {
            if position.next != position.covered {
                spans.insert(*partition, Span { expected: position.covered, next: position.next });
                position.covered = position.next;
            }
        }
        if spans.is_empty() {
            return false;
        }
        let mut claims = BTreeMap::new();
        for letter in &filling.dead_letters {
            if let Some(position) = self.partitions.get(&letter.record.kafka_partition) {
                claims.insert(letter.record.kafka_partition, position.claim.number);
            }
        }
        let conflicts = filling.dead_letters.iter().filter(|letter| is_conflict(letter));
        for partition in conflicts.map(|letter| letter.record.kafka_partition).collect::<BTreeSet<_>>() {
            // The commit of the conflicts moves the claim; where it fails for good, all is claimed anew.
            self.partitions.entry(partition).and_modify(|position| position.claim.number += 1);
        }
        let (flusher, identities) = (self.flusher.clone(), Arc::new(std::mem::take(&mut filling.identities)));
        self.in_flight = identities.clone();
        let (metrics, since) = (self.flusher.metrics.clone(), filling.since);
        metrics.flushing_bytes.set(i64::try_from(filling.bytes()).unwrap_or(i64::MAX));
        self.flushing = Some(tokio::spawn(async move {
            let events = filling.events.iter_mut().flat_map(EventBuffer::take).collect();
            let Filling { dead_letters, gaps, arrivals, .. } = filling;
            let arrivals = arrivals.unwrap_or_default();
            let outcome =
                flusher.flush(Batch { events, dead_letters, spans, gaps, identities, arrivals, claims }).await;
            metrics.flushed(&outcome, since);
            outcome
        }));
        true
    }

    async fn end_flush(&mut self, outcome: Outcome, consumer: &mut dyn Consumer) -> Result<(), Error> {
        self.in_flight = Arc::default();
        self.flushed = Some(Instant::now());
        match outcome {
            Outcome::Committed { turn } => {
                self.turn = turn;
                let covered: BTreeMap<i32, i64> = self.partitions.iter().map(|(p, at)| (*p, at.covered)).collect();
                if let Err(error) = consumer.commit_offsets(&covered).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the group's offsets were not written");
                }
                for (partition, next_offset) in covered {
                    if let Err(error) = self.log.truncate(partition, next_offset).await {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            partition,
                            "the log was not truncated"
                        );
                    }
                }
                Ok(())
            }
            Outcome::Fenced => self.start_again(consumer).await,
            Outcome::Abandoned => {
                self.filling = Filling::new();
                self.held.clear();
                for position in self.partitions.values_mut() {
                    position.next = position.covered;
                }
                Ok(())
            }
        }
    }

    /// Drops all that is held and goes on from the table's positions.
    async fn start_again(&mut self, consumer: &mut dyn Consumer) -> Result<(), Error> {
        self.filling = Filling::new();
        self.held.clear();
        let partitions: Vec<i32> = self.partitions.keys().copied().collect();
        let mut pause = Duration::from_millis(100);
        let positions = loop {
            match self.positions.next_offsets(&partitions).await {
                Ok(positions) => break positions,
                Err(error) if error.is_retryable() && !self.flusher.shutdown.is_cancelled() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        ?pause,
                        "positions not read, trying again"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF_MAX);
                }
                Err(error) => return Err(Error::Log(error)),
            }
        };
        for (partition, next_offset) in &positions {
            consumer.seek(*partition, *next_offset).await.map_err(Error::Log)?;
        }
        self.begin(positions.into_iter().collect(), &self.flusher.shutdown.clone()).await;
        Ok(())
    }

    /// Claims partitions, and takes their records from now on. Where the worker is told to stop first, it takes none.
    async fn begin(&mut self, positions: Vec<(i32, i64)>, stop: &CancellationToken) {
        for (partition, _) in &positions {
            self.partitions.remove(partition);
        }
        let mut pause = Duration::from_millis(100);
        let mut claims = loop {
            match self.flusher.claim(&positions).await {
                Ok(claims) => break claims,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "not claimed, trying again");
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(BACK_OFF_MAX);
        };
        for (partition, next_offset) in positions {
            let claim = claims.remove(&partition).unwrap_or_default();
            self.flusher.metrics.progress(partition, next_offset);
            self.partitions.insert(partition, Position { covered: next_offset, next: next_offset, claim });
        }
    }
}

async fn open(lake: &Lake, spec: &'static TableSpec) -> lake::Result<Target> {
    let table = lake.table(spec);
    let head = table.create_if_missing().await?;
    Ok(Target { table, head: Arc::new(Mutex::new(head)) })
}

/// Tries again for a while where the store does not answer: one that stumbles must not keep a worker from starting, and one that is
/// not there is to be told soon.
async fn patiently<T, F: Future<Output = lake::Result<T>>>(
    spec: &'static TableSpec,
    attempt: impl Fn() -> F,
) -> Result<T, Error> {
    let mut pause = Duration::from_millis(100);
    for _ in 1..OPEN_TRIES {
        match attempt().await {
            Err(error @ (lake::Error::Store { .. } | lake::Error::Scan(_))) => {
                tracing::warn!(
                    table = spec.name,
                    error = &error as &dyn std::error::Error,
                    ?pause,
                    "not opened, trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF_MAX);
            }
            outcome => return outcome.map_err(|source| Error::Table { table: spec.name, source }),
        }
    }
    attempt().await.map_err(|source| Error::Table { table: spec.name, source })
}

/// The flush's outcome; the handle stays until it has ended, so that a dropped future loses nothing.
async fn wait(flushing: &mut Option<JoinHandle<Outcome>>) -> Outcome {
    let Some(handle) = flushing else { return std::future::pending().await };
    let outcome = handle.await;
    *flushing = None;
    match outcome {
        Ok(outcome) => outcome,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
