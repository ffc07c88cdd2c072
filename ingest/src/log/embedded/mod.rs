//! The log on the local disk, for laptop, demo and small teams. One process at a time.
//!
//! ```text
//! append ─► encode ─► queue (limited in bytes) ─► writer thread: one batch, one fsync for all that wait ─► answers
//! next   ─► range scan from the wanted offset, in a blocking task
//! ```
//!
//! Under it lies fjall (LSM tree with a checksummed journal). A batch is in the journal whole or not at all, and an append is answered
//! only after the journal was synced; so after kill -9 or power loss every answered record is there, and at most unanswered ones more.
//! It relies on a disk that keeps what fsync promised.
//!
//! On disk: keyspace `records` (see `codec.rs`) and `meta` (`identity`, `partitions`, `low/<partition>`). The high watermark is the last key
//! plus one, or the low watermark where nothing is left; it is never stored.
//!
//! When a write fails (disk full), the store is dropped and opened again before the next write: what of the failed batch reached the
//! journal then decides the high watermark, so no offset is given twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::store::{Marks, Store};
use super::batch::BatchBuilder;
use super::group::Group;
use super::local::{LocalConsumer, Source};
use super::{Append, ClockMs, Consumer, Error, Log, Positions, Record, Result, kafka_partition_of};

mod codec;
mod store;
#[cfg(test)]
mod tests;

/// Where and how the embedded log is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct EmbeddedSettings {
    /// Directory of the log; created if missing.
    pub dir: PathBuf,
    /// Number of partitions, fixed when the log is created.
    pub partitions: i32,
    /// Records waiting for the disk, in bytes; more appends wait.
    pub append_buffer: bytesize::ByteSize,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { dir: PathBuf::from("log"), partitions: 4, append_buffer: bytesize::ByteSize::mib(64) }
    }
}

impl EmbeddedSettings {
    /// Every fault of the settings.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=1024).contains(&self.partitions) {
            faults.push(format!("partitions is {}, it must be 1 to 1024", self.partitions));
        }
        if self.append_buffer.as_u64() < MAX_RECORD_BYTES as u64 {
            faults.push("append-buffer must be at least 16MiB, the largest record".into());
        }
        faults
    }
}

/// The largest record taken, key, value and headers.
const MAX_RECORD_BYTES: usize = 16 << 20;
/// One fsync covers at most about this many bytes.
const GROUP_COMMIT_BYTES: usize = 8 << 20;
/// One `next` hands out at most this many records, or about this many bytes.
const READ_RECORDS: usize = 8192;
const READ_BYTES: usize = 8 << 20;

/// A log on the local disk. Dropping it waits for the running fsync; the directory is free when its consumers are gone too.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    requests: Option<mpsc::UnboundedSender<Request>>,
    writer: Option<JoinHandle<()>>,
    queue: Arc<Semaphore>,
    clock: ClockMs,
}

struct Request {
    /// Partition and encoded record.
    records: Vec<(i32, Vec<u8>)>,
    bytes: usize,
    done: oneshot::Sender<Result<()>>,
    /// Held until the records are on disk.
    _room: OwnedSemaphorePermit,
}

struct Shared {
    settings: EmbeddedSettings,
    identity: String,
    group: Group,
    /// `None` after a failed write, until it was opened again.
    store: RwLock<Option<Store>>,
    marks: Mutex<Vec<Marks>>,
    #[cfg(test)]
    fail_next_commit: std::sync::atomic::AtomicBool,
    #[cfg(test)]
    commits: std::sync::atomic::AtomicUsize,
}

impl EmbeddedLog {
    /// Opens the log, creating it if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Settings`] for settings that cannot work or do not fit the log on disk, [`Error::Fatal`] when another process has the log
    /// open or its files are damaged.
    pub fn open(settings: &EmbeddedSettings, clock: ClockMs) -> Result<Self> {
        let faults = settings.faults();
        if !faults.is_empty() {
            return Err(Error::Settings(faults));
        }
        let store = Store::open(settings)?;
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            identity: store.identity()?,
            group: Group::new((0..settings.partitions).collect()),
            marks: Mutex::new(store.recover_marks(settings.partitions)?),
            store: RwLock::new(Some(store)),
            #[cfg(test)]
            fail_next_commit: false.into(),
            #[cfg(test)]
            commits: 0.into(),
        });
        let (requests, queue) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new()
            .name("embedded-log".into())
            .spawn({
                let shared = shared.clone();
                move || write_loop(&shared, queue)
            })
            .map_err(|e| Error::fatal("start the log's writer thread", e))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            writer: Some(writer),
            queue: Arc::new(Semaphore::new(settings.append_buffer.as_u64().min(u32::MAX.into()) as usize)),
            clock,
        })
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Group commit: whatever waits when the disk is free goes into one batch. The queue is unbounded in requests, the semaphore bounds its bytes.
fn write_loop(shared: &Shared, mut queue: mpsc::UnboundedReceiver<Request>) {
    while let Some(first) = queue.blocking_recv() {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while bytes < GROUP_COMMIT_BYTES {
            let Ok(request) = queue.try_recv() else { break };
            bytes += request.bytes;
            group.push(request);
        }
        let outcome = shared.commit(&mut group);
        if let Err(error) = &outcome {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                requests = group.len(),
                "append to the embedded log failed"
            );
        }
        for request in group {
            let answer = match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::unavailable("append to the embedded log", error.to_string())),
            };
            // The caller may have given up; the records are appended all the same.
            let _ = request.done.send(answer);
        }
    }
}

impl Shared {
    fn marks(&self) -> MutexGuard<'_, Vec<Marks>> {
        // Marks are plain numbers, written one at a time: valid even if a holder panicked.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on the open store, opening it again first where a write failed before.
    fn with_store<T>(&self, run: impl FnOnce(&Store) -> Result<T>) -> Result<T> {
        loop {
            let guard = self.store.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(store) = guard.as_ref() {
                return run(store);
            }
            drop(guard);
            let mut guard = self.store.write().unwrap_or_else(PoisonError::into_inner);
            if guard.is_none() {
                let store = Store::open(&self.settings)?;
                *self.marks() = store.recover_marks(self.settings.partitions)?;
                *guard = Some(store);
                tracing::info!(dir = %self.settings.dir.display(), "embedded log opened again");
            }
        }
    }

    /// After a failed write nothing in memory can be trusted.
    fn drop_store(&self) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn commit(&self, group: &mut [Request]) -> Result<()> {
        let result = self.with_store(|store| {
            let mut high: Vec<i64> = self.marks().iter().map(|marks| marks.high).collect();
            let mut batch = store.batch();
            for (kafka_partition, record) in group.iter_mut().flat_map(|request| request.records.drain(..)) {
                let next = &mut high[kafka_partition as usize];
                batch.insert(&store.records, codec::store_key(kafka_partition, *next), record);
                *next += 1;
            }
            batch.commit().map_err(|e| Error::unavailable("write to the log's directory", e))?;
            #[cfg(test)]
            self.after_commit()?;
            for (marks, high) in self.marks().iter_mut().zip(high) {
                marks.high = high;
            }
            Ok(())
        });
        match &result {
            Ok(()) => self.group.changed(),
            Err(_) => self.drop_store(),
        }
        result
    }

    #[cfg(test)]
    /// A write whose outcome is unknown: it reached the disk and reports a failure.
    fn after_commit(&self) -> Result<()> {
        use std::sync::atomic::Ordering;
        self.commits.fetch_add(1, Ordering::Relaxed);
        if self.fail_next_commit.swap(false, Ordering::Relaxed) {
            return Err(Error::unavailable("write to the log's directory", "disk full (test)"));
        }
        Ok(())
    }

    fn read_blocking(&self, wanted: &BTreeMap<i32, i64>) -> Result<Vec<Record>> {
        self.with_store(|store| {
            let mut batch = BatchBuilder::with_capacity(64 << 10, 256);
            // An equal share for each partition, so that a full one does not starve the others.
            let share = (READ_RECORDS / wanted.len().max(1)).max(1);
            let share_bytes = READ_BYTES / wanted.len().max(1);
            for (kafka_partition, from) in wanted {
                let Marks { low, high } = self.marks()[*kafka_partition as usize];
                let (start, mut expected) = (batch.bytes(), (*from).max(low));
                for item in store.range(*kafka_partition, expected, high.min(expected.saturating_add(share as i64))) {
                    let (offset, bytes) = item?;
                    if offset != expected && expected >= self.marks()[*kafka_partition as usize].low {
                        let what = format!(
                            "offsets {expected} to {offset} of partition {kafka_partition} are missing on disk"
                        );
                        return Err(Error::Fatal { what, source: None });
                    }
                    codec::decode(*kafka_partition, offset, &bytes, &mut batch).ok_or_else(|| Error::Fatal {
                        what: format!(
                            "read offset {offset} of partition {kafka_partition}: unknown record version or damaged"
                        ),
                        source: None,
                    })?;
                    expected = offset + 1;
                    if batch.bytes() - start > share_bytes {
                        break;
                    }
                }
            }
            Ok(batch.finish())
        })
    }

    fn truncate_blocking(&self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        let result = self.with_store(|store| {
            let Marks { low, high } = self.marks()[kafka_partition as usize];
            let to = next_offset.min(high);
            if to <= low {
                return Ok(());
            }
            // Readers see the new low watermark before the records go.
            self.marks()[kafka_partition as usize].low = to;
            store.free(kafka_partition, low, to)
        });
        match &result {
            Ok(()) => self.group.changed(),
            Err(_) => self.drop_store(),
        }
        result
    }

    fn check_partition(&self, kafka_partition: i32) -> Result<()> {
        if (0..self.settings.partitions).contains(&kafka_partition) {
            return Ok(());
        }
        Err(Error::Fatal { what: format!("there is no partition {kafka_partition}"), source: None })
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(|e| Error::fatal("run a task of the log", e))?
}

/// The consumer's door to the shared log; an `Arc` inside, so that reads can move to a blocking task.
struct Reader(Arc<Shared>);

#[async_trait]
impl Source for Reader {
    fn group(&self) -> &Group {
        &self.0.group
    }

    fn watermarks(&self, kafka_partition: i32) -> Result<(i64, i64)> {
        let Marks { low, high } = self.0.marks()[kafka_partition as usize];
        Ok((low, high))
    }

    async fn read(&self, wanted: &BTreeMap<i32, i64>) -> Result<Vec<Record>> {
        let behind: BTreeMap<i32, i64> = {
            let marks = self.0.marks();
            wanted.iter().filter(|(p, from)| **from < marks[**p as usize].high).map(|(p, from)| (*p, *from)).collect()
        };
        if behind.is_empty() {
            return Ok(Vec::new());
        }
        let shared = self.0.clone();
        blocking(move || shared.read_blocking(&behind)).await
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn identity(&self) -> Result<String> {
        Ok(self.shared.identity.clone())
    }

    async fn partitions(&self) -> Result<Vec<i32>> {
        Ok((0..self.shared.settings.partitions).collect())
    }

    async fn append(&self, records: Vec<Append>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = records.iter().map(codec::size_of).find(|bytes| *bytes > MAX_RECORD_BYTES) {
            return Err(Error::TooLarge { bytes });
        }
        let now_ms = (self.clock)();
        let partitions = self.shared.settings.partitions;
        let records: Vec<(i32, Vec<u8>)> = records
            .iter()
            .map(|record| (kafka_partition_of(&record.key, partitions), codec::encode(record, now_ms)))
            .collect();
        let bytes: usize = records.iter().map(|(_, record)| record.len()).sum();
        // A request larger than the whole queue waits until the queue is empty, then has it for itself.
        let room = bytes.min(self.shared.settings.append_buffer.as_u64() as usize).min(u32::MAX as usize) as u32;
        let _room = self.queue.clone().acquire_many_owned(room).await.map_err(|_| Error::Closed)?;
        let (done, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(Error::Closed)?;
        requests.send(Request { records, bytes, done, _room }).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn offsets(&self, kafka_partition: i32) -> Result<(i64, i64)> {
        self.shared.check_partition(kafka_partition)?;
        let Marks { low, high } = self.shared.marks()[kafka_partition as usize];
        Ok((low, high))
    }

    async fn subscribe(&self, positions: Arc<dyn Positions>) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(LocalConsumer::join(Arc::new(Reader(self.shared.clone())), positions)))
    }

    async fn truncate(&self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        self.shared.check_partition(kafka_partition)?;
        let shared = self.shared.clone();
        blocking(move || shared.truncate_blocking(kafka_partition, next_offset)).await
    }
}

/// Makes a new directory entry survive power loss.
fn sync_dir(dir: &std::path::Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
