//! One flush: files, then the dead letters' commit, then the events' commit. Tried until the store takes it or another
//! worker proves to have moved the partition on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use futures::{FutureExt, StreamExt};
use jiff::civil::Date;
use lake::{Change, CommitError, DataFile, Head, Swap, Table};
use schemas::event::Cause;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    claims::claim_id,
    dead_letters::{self, DeadLetter},
    known::{Identities, Known},
    metrics::Metrics,
    positions::{app_id, lost_id},
};

/// Files that are encoded and put at once.
const FILES_AT_ONCE: usize = 4;
/// Times that other workers may commit between our look at the table and our commit, before the flush begins anew. Each
/// costs a read of their newest ids.
const MOVES_MAX: usize = 50;
/// Longest pause between two tries: an outage that has ended is noticed this soon.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(3);

/// Where a partition stood when the batch began, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// `next_offset` stored in the table.
    pub(crate) expected: i64,
    /// `next_offset` after this batch.
    pub(crate) next: i64,
}

/// What one flush writes.
pub(crate) struct Batch {
    pub(crate) events: Vec<(Date, RecordBatch)>,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) spans: BTreeMap<i32, Span>,
    /// Offsets lost to the log's retention within this batch: (partition, from, to).
    pub(crate) gaps: Vec<(i32, i64, i64)>,
    /// What the events are known by.
    pub(crate) identities: Arc<Identities>,
    /// What [`Known`] had taken in of others when the first of them was compared with it.
    pub(crate) arrivals: u64,
    /// Claims on the partitions that have dead letters: by them conflicts are committed.
    pub(crate) claims: BTreeMap<i32, i64>,
}

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Rows and offsets are in the table. It took so long from the last look at what others had committed.
    Committed { turn: Duration },
    /// Another worker has moved a partition on: the batch is dropped, positions are to be read again.
    Fenced,
    /// The worker was told to stop while the store was away; nothing was committed, all will be read again.
    Abandoned,
}

/// A table and what we know of it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) table: Table,
    pub(crate) head: Arc<Mutex<Head>>,
}

/// Everything a flush needs beside its batch.
#[derive(Clone)]
pub(crate) struct Flusher {
    pub(crate) events: Target,
    pub(crate) dead_letters: Target,
    pub(crate) known: Known,
    pub(crate) identity: String,
    pub(crate) topic: String,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
}

enum Failure {
    Fenced,
    /// Others have committed to the table since.
    Moved,
    Store(lake::Error),
}

impl Flusher {
    pub(crate) async fn flush(self, batch: Batch) -> Outcome {
        let timer = self.metrics.flush_seconds.start_timer();
        let mut pause = Duration::from_millis(100);
        let mut written = Written::default();
        loop {
            let failure = match self.attempt(&batch, &mut written).await {
                Ok(turn) => {
                    timer.observe_duration();
                    self.count(&batch);
                    return Outcome::Committed { turn };
                }
                Err(Failure::Fenced) => {
                    self.metrics.fenced.inc();
                    return Outcome::Fenced;
                }
                Err(Failure::Store(error)) => error,
                // As many as that at once are more than this table takes from this many workers; a pause helps.
                Err(Failure::Moved) => lake::Error::from(CommitError::Exhausted {
                    attempts: MOVES_MAX.try_into().unwrap_or(u32::MAX),
                    last: None,
                }),
            };
            if matches!(&failure, lake::Error::Commit(error) if matches!(**error, CommitError::TooOld { .. })) {
                // The store was away for longer than a file without a commit may count on.
                written = Written::default();
            }
            self.metrics.flush_retries.inc();
            tracing::warn!(error = &failure as &dyn std::error::Error, ?pause, "flush failed, trying again");
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return Outcome::Abandoned,
            }
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    async fn attempt(&self, batch: &Batch, written: &mut Written) -> Result<Duration, Failure> {
        // Before anything is written: a batch that others contradict is not worth its files.
        self.compare(batch).await?;
        if !batch.dead_letters.is_empty() && !written.letters_durable {
            self.commit_dead_letters(batch, written).await?;
            written.letters_durable = true;
        }
        let mut files = Vec::new();
        for (day, rows) in &batch.events[written.events.len()..] {
            files.push(self.events.table.write_file(Some(*day), std::slice::from_ref(rows)).boxed());
        }
        let mut files = futures::stream::iter(files).buffered(FILES_AT_ONCE);
        while let Some(file) = files.next().await {
            // In their order: what an earlier try has written is not written again.
            written.events.push(file.map_err(Failure::Store)?);
        }
        drop(files);
        let mut metrics = serde_json::Map::new();
        metrics.insert("rows".into(), written.events.iter().map(|file| file.rows).sum::<u64>().into());
        metrics.insert("deadLetters".into(), batch.dead_letters.len().into());
        if !batch.gaps.is_empty() {
            metrics.insert("gaps".into(), serde_json::json!(batch.gaps));
        }
        let swaps = batch.spans.iter().map(|(partition, span)| Swap {
            app_id: app_id(&self.identity, *partition),
            expected: span.expected,
            next: span.next,
        });
        let lost = self.lost(batch).await;
        let change = Change {
            operation: "STREAMING UPDATE",
            add: written.events.clone(),
            remove: Vec::new(),
            swaps: swaps.chain(lost).collect(),
            data_change: true,
            only_after: None,
            metadata: None,
            metrics,
        };
        self.commit_events(batch, change).await
    }

    /// Counts the batch's gaps. The head may be behind that of the table: then a partition has moved on too, and the commit is fenced.
    async fn lost(&self, batch: &Batch) -> Vec<Swap> {
        let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
        for (partition, from, to) in &batch.gaps {
            *offsets.entry(*partition).or_default() += to - from;
        }
        let head = self.events.head.lock().await;
        let swap = |(partition, offsets): (i32, i64)| {
            let app_id = lost_id(&self.identity, partition);
            let expected = head.next_offset(&app_id);
            Swap { app_id, expected, next: expected + offsets }
        };
        offsets.into_iter().map(swap).collect()
    }

    /// Commits on top of a version whose rows are all known, and contradict none of the batch; gives how long that took.
    async fn commit_events(&self, batch: &Batch, change: Change) -> Result<Duration, Failure> {
        if batch.identities.is_empty() {
            let started = Instant::now();
            return self.commit(&self.events, change).await.map(|_| started.elapsed());
        }
        for _ in 0..MOVES_MAX {
            let started = Instant::now();
            let only_after = Some(self.compare(batch).await?);
            match self.commit(&self.events, Change { only_after, ..change.clone() }).await {
                Err(Failure::Moved) => self.metrics.moved.inc(),
                Err(failure) => return Err(failure),
                Ok(version) => {
                    self.known.committed(&batch.identities, version);
                    return Ok(started.elapsed());
                }
            }
        }
        Err(Failure::Moved)
    }

    /// Takes in what others have committed; gives the version up to which all is known. Where an event of the batch turns out
    /// to contradict a row, all of it is read again: with the row known, the event is found to be a conflict.
    async fn compare(&self, batch: &Batch) -> Result<i64, Failure> {
        let newest = {
            let mut head = self.events.head.lock().await;
            self.events.table.refresh(&mut head).await.map_err(Failure::Store)?;
            head.version()
        };
        let version = self.known.catch_up(newest).await.map_err(Failure::Store)?;
        let known = self.known.lock();
        let contradicts = |(key, payload): (&u64, &i64)| known.payload(*key).is_some_and(|there| there != *payload);
        if known.arrivals() != batch.arrivals && batch.identities.iter().any(contradicts) {
            tracing::info!("another worker has committed another event under an id of this batch, which is read again");
            return Err(Failure::Fenced);
        }
        Ok(version)
    }

    /// Writes the letters that the table does not have yet, with the offsets that they cover.
    async fn commit_dead_letters(&self, batch: &Batch, written: &mut Written) -> Result<(), Failure> {
        let mut head = self.dead_letters.head.lock().await;
        self.dead_letters.table.refresh(&mut head).await.map_err(Failure::Store)?;
        let stored = |partition: i32| head.next_offset(&app_id(&self.identity, partition));
        let fresh: Vec<&DeadLetter> = batch
            .dead_letters
            .iter()
            .filter(|letter| is_conflict(letter) || letter.record.offset >= stored(letter.record.kafka_partition))
            .collect();
        // What lies below was written by an owner before us, as every owner decodes alike. One after us may have met a gap instead,
        // and passed a record that it never saw: retention was faster.
        let superseded = |partition: i32| {
            Some(&head.next_offset(&claim_id(&self.identity, partition))) != batch.claims.get(&partition)
        };
        let below =
            |letter: &&DeadLetter| !is_conflict(letter) && letter.record.offset < stored(letter.record.kafka_partition);
        if batch.dead_letters.iter().filter(below).any(|letter| superseded(letter.record.kafka_partition)) {
            return Err(Failure::Fenced);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let mut swaps: BTreeMap<String, Swap> = BTreeMap::new();
        for letter in &fresh {
            let partition = letter.record.kafka_partition;
            let (app_id, expected, next) = if is_conflict(letter) {
                let number = batch.claims.get(&partition).copied().unwrap_or_default();
                (claim_id(&self.identity, partition), number, number + 1)
            } else {
                (app_id(&self.identity, partition), stored(partition), batch.spans[&partition].next)
            };
            swaps.insert(app_id.clone(), Swap { app_id, expected, next });
        }
        drop(head);
        if written.letters_of != Some(fresh.len()) {
            written.dead_letters.clear();
            for (day, rows) in dead_letters::batches(&self.topic, &fresh) {
                let file = self.dead_letters.table.write_file(Some(day), &[rows]).await.map_err(Failure::Store)?;
                written.dead_letters.push(file);
            }
            written.letters_of = Some(fresh.len());
        }
        let change = Change {
            operation: "STREAMING UPDATE",
            add: written.dead_letters.clone(),
            remove: Vec::new(),
            swaps: swaps.into_values().collect(),
            data_change: true,
            only_after: None,
            metadata: None,
            metrics: serde_json::Map::new(),
        };
        self.commit(&self.dead_letters, change).await.map(drop)
    }

    /// Gives the new version.
    async fn commit(&self, target: &Target, change: Change) -> Result<i64, Failure> {
        let mut head = target.head.lock().await;
        let timer = self.metrics.commit_seconds.start_timer();
        let outcome = target.table.commit(&mut head, change).await;
        timer.observe_duration();
        match outcome {
            Ok(version) => {
                tracing::debug!(table = target.table.name(), version, "committed");
                Ok(version)
            }
            Err(CommitError::Moved { .. }) => Err(Failure::Moved),
            Err(CommitError::Fenced { app_id, expected, found }) => {
                tracing::warn!(
                    table = target.table.name(),
                    app_id,
                    expected,
                    found,
                    "fenced: another worker moved this partition on"
                );
                Err(Failure::Fenced)
            }
            Err(error) => Err(Failure::Store(error.into())),
        }
    }

    fn count(&self, batch: &Batch) {
        let rows: usize = batch.events.iter().map(|(_, rows)| rows.num_rows()).sum();
        self.metrics.rows.inc_by(rows as u64);
        self.metrics.table_commits.inc();
        for letter in &batch.dead_letters {
            self.metrics.dead_letters.with_label_values(&[letter.rejection.cause.as_str()]).inc();
        }
        for (partition, span) in &batch.spans {
            self.metrics.progress(*partition, span.next);
        }
    }
}

/// Files already put: a further try commits them, in place of writing them again.
#[derive(Default)]
struct Written {
    events: Vec<DataFile>,
    dead_letters: Vec<DataFile>,
    /// How many letters the files hold; another number means that a try in between was durable after all.
    letters_of: Option<usize>,
    /// The letters are in a commit.
    letters_durable: bool,
}

/// True for a letter that the table's rows decided on, and no decoder.
pub(crate) fn is_conflict(letter: &DeadLetter) -> bool {
    letter.rejection.cause == Cause::Conflict
}
