//! One flush: files, then the dead letters' commit, then the events' commit. Tried until the store takes it or another
//! worker proves to have moved the partition on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use futures::{FutureExt, StreamExt};
use jiff::civil::Date;
use lake::{Change, CommitError, DataFile, Head, Swap, Table};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    dead_letters::{self, DeadLetter},
    metrics::Metrics,
    positions::app_id,
};

/// Files that are encoded and put at once.
const FILES_AT_ONCE: usize = 4;
/// Longest pause between two tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

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
}

/// How a flush ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Rows and offsets are in the table.
    Committed,
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
    pub(crate) identity: String,
    pub(crate) topic: String,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
}

enum Failure {
    Fenced,
    Store(lake::Error),
}

impl Flusher {
    pub(crate) async fn flush(self, batch: Batch) -> Outcome {
        let timer = self.metrics.flush_seconds.start_timer();
        let mut pause = Duration::from_millis(100);
        let mut written = Written::default();
        loop {
            let failure = match self.attempt(&batch, &mut written).await {
                Ok(()) => {
                    timer.observe_duration();
                    self.count(&batch);
                    return Outcome::Committed;
                }
                Err(Failure::Fenced) => {
                    self.metrics.fenced.inc();
                    return Outcome::Fenced;
                }
                Err(Failure::Store(error)) => error,
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

    async fn attempt(&self, batch: &Batch, written: &mut Written) -> Result<(), Failure> {
        if !batch.dead_letters.is_empty() {
            self.commit_dead_letters(batch, written).await?;
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
        let change = Change {
            operation: "STREAMING UPDATE",
            add: written.events.clone(),
            remove: Vec::new(),
            swaps: swaps.collect(),
            data_change: true,
            metrics,
        };
        commit(&self.events, change).await
    }

    /// Writes the letters that the table does not have yet, with the offsets that they cover.
    async fn commit_dead_letters(&self, batch: &Batch, written: &mut Written) -> Result<(), Failure> {
        let mut head = self.dead_letters.head.lock().await;
        self.dead_letters.table.refresh(&mut head).await.map_err(Failure::Store)?;
        let stored = |partition: i32| head.next_offset(&app_id(&self.identity, partition));
        let fresh: Vec<&DeadLetter> = batch
            .dead_letters
            .iter()
            .filter(|letter| letter.record.offset >= stored(letter.record.kafka_partition))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let mut swaps: BTreeMap<i32, Swap> = BTreeMap::new();
        for letter in &fresh {
            let partition = letter.record.kafka_partition;
            let expected = stored(partition);
            let next = batch.spans[&partition].next;
            swaps.insert(partition, Swap { app_id: app_id(&self.identity, partition), expected, next });
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
            metrics: serde_json::Map::new(),
        };
        commit(&self.dead_letters, change).await
    }

    fn count(&self, batch: &Batch) {
        let rows: usize = batch.events.iter().map(|(_, rows)| rows.num_rows()).sum();
        self.metrics.rows.inc_by(rows as u64);
        self.metrics.table_commits.inc();
        for letter in &batch.dead_letters {
            self.metrics.dead_letters.with_label_values(&[letter.rejection.cause.as_str()]).inc();
        }
        for (partition, span) in &batch.spans {
            self.metrics.next_offset.with_label_values(&[partition.to_string().as_str()]).set(span.next);
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
}

async fn commit(target: &Target, change: Change) -> Result<(), Failure> {
    let mut head = target.head.lock().await;
    match target.table.commit(&mut head, change).await {
        Ok(version) => {
            tracing::debug!(table = target.table.name(), version, "committed");
            Ok(())
        }
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
