//! The loop: takes records from the log, fills a buffer, flushes it when it is full or old.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytesize::ByteSize;
use jiff::SignedDuration;
use lake::Lake;
use schemas::{DEAD_LETTERS, EVENTS, TableSpec};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    buffer::EventBuffer,
    dead_letters::DeadLetter,
    decode::decode_record,
    flush::{Batch, Flusher, Outcome, Span, Target},
    metrics::Metrics,
    positions::TablePositions,
};
use crate::log::{Consumer, Event, Log, Positions, Record};

/// How the worker cuts its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// A buffer of this size is flushed, however young. Estimated size in memory; the file is about a third of it.
    pub flush_bytes: ByteSize,
    /// A buffer is flushed this long after its first record, however small. Bounds freshness; more commits cost more files.
    pub flush_age: SignedDuration,
    /// Threads that decode. More than one only while records come by the thousand; each of them makes files of its own.
    pub decode_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { flush_bytes: ByteSize::mib(128), flush_age: SignedDuration::from_secs(1), decode_threads: 2 }
    }
}

/// A further thread decodes where there are as many records for each.
const RECORDS_A_THREAD: usize = 1_024;

/// What a partition has come to, in this worker.
struct Position {
    /// `next_offset` in the table, or in the flush that is under way.
    covered: i64,
    /// `next_offset` of the buffer that is filling.
    next: i64,
}

/// What is filling up for the next flush.
struct Filling {
    /// One for each thread that decodes; all but the first are empty while records are few.
    events: Vec<EventBuffer>,
    dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    gaps: Vec<(i32, i64, i64)>,
    since: Option<Instant>,
}

impl Filling {
    fn new() -> Self {
        Self { events: Vec::new(), dead_letters: Vec::new(), dead_letter_bytes: 0, gaps: Vec::new(), since: None }
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(EventBuffer::bytes).sum::<usize>() + self.dead_letter_bytes
    }
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
            return Err(Error::Settings { setting: "decode-threads", detail: "takes at least 1".into() });
        }
        if settings.flush_bytes.as_u64() == 0 || settings.flush_age <= SignedDuration::ZERO {
            let setting = if settings.flush_bytes.as_u64() == 0 { "flush-bytes" } else { "flush-age" };
            return Err(Error::Settings { setting, detail: "takes more than nothing".into() });
        }
        let identity = log.identity().await.map_err(Error::Log)?;
        let events = open(&lake, &EVENTS).await?;
        let dead_letters = open(&lake, &DEAD_LETTERS).await?;
        let metrics = Metrics::register(registry).map_err(Error::Metrics)?;
        let positions = TablePositions { table: events.table.clone(), identity: identity.clone() };
        let shutdown = CancellationToken::new();
        Ok(Self {
            settings,
            log,
            flusher: Flusher { events, dead_letters, identity, topic: topic.to_owned(), metrics, shutdown },
            positions: Arc::new(positions),
            partitions: BTreeMap::new(),
            filling: Filling::new(),
            flushing: None,
        })
    }

    /// Works until `shutdown`, then flushes what it holds and returns.
    ///
    /// # Errors
    /// Where the log fails for good. Nothing is lost by that: what is not in a table commit is read again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut consumer = self.log.subscribe(self.positions.clone()).await.map_err(Error::Log)?;
        let outcome = self.work(consumer.as_mut(), &shutdown).await;
        if let Err(error) = consumer.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the consumer did not close cleanly");
        }
        outcome
    }

    async fn work(&mut self, consumer: &mut dyn Consumer, shutdown: &CancellationToken) -> Result<(), Error> {
        let flush_age = Duration::try_from(self.settings.flush_age).unwrap_or(Duration::MAX);
        let mut pause = Duration::from_millis(100);
        while !shutdown.is_cancelled() {
            let full = self.filling.bytes() >= self.flush_bytes();
            let due = self.filling.since.map(|since| since + flush_age);
            if self.flushing.is_none() && (full || due.is_some_and(|due| due <= Instant::now())) {
                self.start_flush();
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                outcome = wait(&mut self.flushing), if self.flushing.is_some() => self.end_flush(outcome, consumer).await?,
                () = sleep_until(due), if due.is_some() && self.flushing.is_none() => {}
                // A full buffer is not added to: the consumer holds what the log sends meanwhile, up to its own limit.
                event = consumer.next(), if !full => match event {
                    Ok(event) => {
                        pause = Duration::from_millis(100);
                        self.take(event, consumer).await?;
                    }
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(error = &error as &dyn std::error::Error, ?pause, "the log is away, trying again");
                        tokio::select! {
                            biased;
                            () = tokio::time::sleep(pause) => {}
                            () = shutdown.cancelled() => break,
                        }
                        pause = (pause * 2).min(Duration::from_secs(10));
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

    fn flush_bytes(&self) -> usize {
        usize::try_from(self.settings.flush_bytes.as_u64()).unwrap_or(usize::MAX)
    }

    async fn take(&mut self, event: Event, consumer: &mut dyn Consumer) -> Result<(), Error> {
        match event {
            Event::Assigned(positions) => {
                for (partition, next_offset) in positions {
                    self.partitions.insert(partition, Position { covered: next_offset, next: next_offset });
                }
            }
            Event::Revoked(partitions) => {
                // Rows of several partitions share the buffer: all of it goes in now. If a new owner was faster, the
                // commit is fenced and each side reads its position again.
                self.settle(consumer).await?;
                for partition in partitions {
                    self.partitions.remove(&partition);
                }
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
                self.take_records(records).await;
                let bytes = i64::try_from(self.filling.bytes()).unwrap_or(i64::MAX);
                self.flusher.metrics.buffered_bytes.set(bytes);
            }
        }
        Ok(())
    }

    /// Decodes records into the buffer, on several threads where there are many.
    async fn take_records(&mut self, mut records: Vec<Record>) {
        let mut bytes = 0;
        records.retain(|record| {
            let Some(position) = self.partitions.get_mut(&record.kafka_partition) else { return false };
            if record.offset < position.next {
                // The log hands out nothing twice; a record that it does is already in the buffer or the table.
                return false;
            }
            position.next = record.offset + 1;
            bytes += record.value.as_ref().map_or(0, |value| value.len());
            true
        });
        if records.is_empty() {
            return;
        }
        self.flusher.metrics.log_bytes.inc_by(bytes as u64);
        self.filling.since.get_or_insert_with(Instant::now);
        // A simulation has one thread.
        let many_threads =
            tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
        let threads = if many_threads { self.settings.decode_threads } else { 1 };
        let threads = threads.min(records.len() / RECORDS_A_THREAD).max(1);
        let share = records.len().div_ceil(threads);
        let mut buffers = std::mem::take(&mut self.filling.events);
        buffers.resize_with(threads.max(buffers.len()), EventBuffer::new);
        let idle = buffers.split_off(threads);
        let mut elsewhere = Vec::new();
        for buffer in buffers.drain(1..) {
            let part = records.split_off(records.len().saturating_sub(share));
            elsewhere.push(tokio::task::spawn_blocking(move || decode_all(part, buffer)));
        }
        let here = buffers.into_iter().map(|buffer| decode_all(std::mem::take(&mut records), buffer));
        let mut decoded: Vec<_> = here.collect();
        for part in elsewhere {
            decoded.push(part.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())));
        }
        for (buffer, letters) in decoded {
            self.filling.events.push(buffer);
            for letter in letters {
                let length = letter.record.value.as_ref().map_or(0, |value| value.len());
                self.filling.dead_letter_bytes += length + 512;
                self.filling.dead_letters.push(letter);
            }
        }
        self.filling.events.extend(idle);
    }

    /// Hands what is filling to a flush; nothing happens where nothing is.
    fn start_flush(&mut self) {
        let mut filling = std::mem::replace(&mut self.filling, Filling::new());
        let mut spans = BTreeMap::new();
        for (partition, position) in &mut self.partitions {
            if position.next != position.covered {
                spans.insert(*partition, Span { expected: position.covered, next: position.next });
                position.covered = position.next;
            }
        }
        if spans.is_empty() {
            return;
        }
        let flusher = self.flusher.clone();
        self.flushing = Some(tokio::spawn(async move {
            let events = filling.events.iter_mut().flat_map(EventBuffer::take).collect();
            let batch = Batch { events, dead_letters: filling.dead_letters, spans, gaps: filling.gaps };
            flusher.flush(batch).await
        }));
    }

    async fn end_flush(&mut self, outcome: Outcome, consumer: &mut dyn Consumer) -> Result<(), Error> {
        match outcome {
            Outcome::Committed => {
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
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                Err(error) => return Err(Error::Log(error)),
            }
        };
        for (partition, next_offset) in positions {
            consumer.seek(partition, next_offset).await.map_err(Error::Log)?;
            self.partitions.insert(partition, Position { covered: next_offset, next: next_offset });
        }
        Ok(())
    }
}

/// Puts the records that are events into `buffer`; gives it back, with the others.
fn decode_all(records: Vec<Record>, mut buffer: EventBuffer) -> (EventBuffer, Vec<DeadLetter>) {
    let mut letters = Vec::new();
    for record in records {
        let rejection = match decode_record(&record) {
            Ok((origin, event)) => {
                buffer.push(&record, &origin, &event);
                continue;
            }
            Err(rejection) => rejection,
        };
        letters.push(DeadLetter { record, rejection });
    }
    (buffer, letters)
}

async fn open(lake: &Lake, spec: &'static TableSpec) -> Result<Target, Error> {
    let table = lake.table(spec);
    let head = table.create_if_missing().await.map_err(|source| Error::Table { table: spec.name, source })?;
    Ok(Target { table, head: Arc::new(Mutex::new(head)) })
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
