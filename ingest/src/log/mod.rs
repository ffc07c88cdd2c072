//! The log between collector and worker: one trait, three implementations.
//!
//! ```text
//! collector ──append──► Log ──subscribe──► Consumer ──next──► worker ──table commit──► events, dead_letters
//!                        │                     ▲                                             │
//!            kafka · embedded · simulated      └── Positions: next_offset per partition ◄────┘
//! ```
//!
//! Invariants, held by [`contract::check`] for each implementation:
//! 1. `append` returns only after every record is durable.
//! 2. At assignment a consumer asks [`Positions`] (the table) where to start *before* the first record of the partition is handed out;
//!    the log's own idea of progress is never used.
//! 3. Between `Assigned` and `Revoked` the records of a partition are exactly those from `next_offset` on, in ascending order; offsets
//!    may have holes (compaction, transaction markers). After `Revoked` there is none.
//! 4. What cannot be read any more is an [`Event::Gap`], never a silent jump.
//! 5. Every buffer has a limit in bytes and in records.
//!
//! Failures that the design rules out (numbers of our failure list):
//!
//! | | |
//! |---|---|
//! | F01, F02, F03 | partitions are assigned with explicit offsets from the table, never sought to "last + 1"; offset 0 is an offset like any other |
//! | F14 | no split partition queues: one queue, one polling thread; a watchdog starts a partition anew that stopped without a word; in-process logs wait on a version counter, which cannot miss a wake-up |
//! | F15 | the Kafka client is closed on its own thread; `close` waits for it with a limit |
//! | F16 | group offsets are committed asynchronously and never awaited |
//! | F17 | `auto.offset.reset=error`; an offset out of range is checked against the watermarks, then resumed or reported as a gap |
//! | F18, F19 | when the buffer is full the partitions are paused and polling goes on |
//! | F24 | the identity holds the topic *id*: a recreated topic starts from its own beginning |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

mod batch;
pub mod contract;
pub mod embedded;
mod group;
pub mod kafka;
mod local;
mod partitioner;
pub mod simulated;

#[cfg(test)]
mod tests;

pub use embedded::{EmbeddedLog, EmbeddedSettings};
pub use kafka::{KafkaLog, KafkaSettings, text_values};
pub use partitioner::kafka_partition_of;
pub use simulated::{Schedule, SimulatedLog};

/// What a log operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A clock in milliseconds since the Unix epoch, passed in by whoever opens a log.
pub type ClockMs = Arc<dyn Fn() -> i64 + Send + Sync>;

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a log operation failed, by what the caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Retry later, with back-off: the broker is away, a disk is full, the table could not be read.
    #[error("the log is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Option<Cause>,
    },
    /// Retrying cannot help; someone must act (permission, a corrupt file, a log that another process holds).
    #[error("the log failed for good: {what}")]
    Fatal {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Option<Cause>,
    },
    /// One record is larger than the log takes. Split or refuse it; the others may have been appended.
    #[error("a record of {bytes} bytes is larger than the log takes")]
    TooLarge {
        /// Size of the offending record, key, value and headers.
        bytes: usize,
    },
    /// The topic was deleted and created again while it was read: progress in the table belongs to the old one. Open the log anew.
    #[error("topic {topic} was recreated: its id was {expected}, now it is {found}")]
    Recreated {
        /// Topic name.
        topic: String,
        /// Topic id when the log was opened.
        expected: String,
        /// Topic id now.
        found: String,
    },
    /// A partition brings nothing although the log has records, whatever was tried. Subscribe anew.
    #[error(
        "partition {kafka_partition} of topic {topic} brings no records from {next_offset} on, though there are some"
    )]
    Stalled {
        /// Topic name.
        topic: String,
        /// Partition of the log.
        kafka_partition: i32,
        /// Where it stands.
        next_offset: i64,
    },
    /// The settings cannot work. Every fault is listed.
    #[error("invalid log settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// The log or the consumer was closed.
    #[error("the log is closed")]
    Closed,
}

impl Error {
    /// An [`Error::Unavailable`] with its cause. [`Positions`] implementations use it for a table that cannot be read now.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }

    /// An [`Error::Fatal`] with its cause.
    pub fn fatal(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Fatal { what: what.into(), source: Some(source.into()) }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Headers of a record, in the producer's order; names may repeat. The names that are ours cost no allocation.
pub type Headers = Vec<(Cow<'static, str>, Bytes)>;

/// One record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition of the log.
    pub kafka_partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// `None` = the producer set none (never one of ours).
    pub key: Option<Bytes>,
    /// `None` = a tombstone. Shares one buffer with the other records of its batch.
    pub value: Option<Bytes>,
    /// A header without a value is given as empty.
    pub headers: Headers,
    /// When it was appended (or created, where the topic says so), milliseconds since the Unix epoch. -1 = unknown.
    pub append_time_ms: i64,
}

impl Record {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value)
    }

    /// Copies what it shares with the other records of its batch: for a record that is kept longer than they are.
    pub fn detach(&mut self) {
        let values = self.headers.iter_mut().map(|(_, value)| value);
        for bytes in self.key.iter_mut().chain(&mut self.value).chain(values) {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    }
}

/// One record to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Decides the partition: equal keys keep their order.
    pub key: Bytes,
    /// The event, as the client sent it.
    pub value: Bytes,
    /// What the server asserts.
    pub headers: Headers,
}

/// What a [`Consumer`] reports, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These partitions are ours now; the first record of each will have an offset of at least `next_offset`.
    Assigned(Vec<(i32, i64)>),
    /// These partitions are to be given up. What was handed out of them may still be committed until the next call of [`Consumer::next`], which
    /// says that they are released; Kafka waits for it for some seconds, unless they are somebody else's already. After that, whatever is
    /// not in a table commit is to be dropped.
    Revoked(Vec<i32>),
    /// Records of one or more partitions, ascending in each.
    Records(Vec<Record>),
    /// Reading goes on at `to`.
    ///
    /// | | means |
    /// |---|---|
    /// | `from < to` | retention overtook us: `[from, to)` can never be read |
    /// | `from > to` | the log lost its tail (unclean leader election, a disk that lied): `[to, from)` was read and is no longer in the log; new records will take these offsets |
    ///
    /// Holes by compaction and transaction markers are not gaps.
    Gap {
        /// Partition of the log.
        kafka_partition: i32,
        /// The next offset that was wanted.
        from: i64,
        /// The next offset that will be read.
        to: i64,
    },
}

/// An append-only, partitioned log.
#[async_trait]
pub trait Log: Send + Sync {
    /// Stable identity for the table's transaction ids, `<cluster id>/<topic id>`. A recreated topic has another one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log cannot be reached.
    async fn identity(&self) -> Result<String>;

    /// All partitions, ascending.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log cannot be reached or the topic does not exist yet.
    async fn partitions(&self) -> Result<Vec<i32>>;

    /// Returns after every record is durable.
    ///
    /// # Errors
    /// Some of the records may have been appended all the same; the caller retries, and event ids remove the duplicates.
    ///
    /// Not cancel-safe in the sense that a dropped call may still append.
    async fn append(&self, records: Vec<Append>) -> Result<()>;

    /// `(first available offset, high_watermark)`; the high watermark is the next offset to be written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log cannot be reached, [`Error::Fatal`] for a partition that does not exist.
    async fn offsets(&self, kafka_partition: i32) -> Result<(i64, i64)>;

    /// Joins the consumer group.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log cannot be reached.
    async fn subscribe(&self, positions: Arc<dyn Positions>) -> Result<Box<dyn Consumer>>;

    /// Records below `next_offset` are in the table. The embedded log frees them; Kafka keeps to the topic's retention.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log cannot be written.
    async fn truncate(&self, kafka_partition: i32, next_offset: i64) -> Result<()>;
}

/// Where to start: the table's progress, read at assignment.
#[async_trait]
pub trait Positions: Send + Sync {
    /// `next_offset` per partition; one that is absent from the answer starts at 0.
    ///
    /// Called from the consumer's own thread during a rebalance: it must not wait for anything that the consumer would have to deliver.
    ///
    /// # Errors
    /// [`Error::Unavailable`] is retried, other errors end the consumer.
    async fn next_offsets(&self, kafka_partitions: &[i32]) -> Result<BTreeMap<i32, i64>>;
}

/// One member of the consumer group.
#[async_trait]
pub trait Consumer: Send {
    /// The next event. Waits while there is none. Cancel-safe.
    ///
    /// # Errors
    /// After an error that is not retryable the consumer is of no more use.
    async fn next(&mut self) -> Result<Event>;

    /// Goes on with `next_offset` of a partition, after a refused table commit. The next record of the partition that is handed out has
    /// an offset of at least `next_offset`. Nothing happens when the partition is not ours.
    ///
    /// # Errors
    /// [`Error::Closed`] when the consumer has ended.
    async fn seek(&mut self, kafka_partition: i32, next_offset: i64) -> Result<()>;

    /// Kafka's group offset, only to show lag. A failure is logged by the implementation and is no error.
    ///
    /// # Errors
    /// [`Error::Closed`] when the consumer has ended.
    async fn commit_offsets(&mut self, next_offsets: &BTreeMap<i32, i64>) -> Result<()>;

    /// Leaves the group, so that others take over at once (but for a static member of Kafka, `group.instance.id`, which is waited for).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the log did not confirm in time; the member then times out.
    async fn close(self: Box<Self>) -> Result<()>;

    /// What the consumer knows of itself, for metrics; it stays readable while the consumer is at work. `None` = nothing.
    fn standing(&self) -> Option<Arc<Standing>> {
        None
    }
}

/// What a consumer knows without asking the log.
#[derive(Debug, Default)]
pub struct Standing {
    /// Bytes fetched and not yet taken by [`Consumer::next`]; librdkafka may hold as much again.
    pub(crate) buffered_bytes: AtomicUsize,
    /// The newest known high watermark of each partition that is ours.
    pub(crate) high_watermarks: Mutex<BTreeMap<i32, i64>>,
    /// Partitions that were started anew by the watchdog.
    pub(crate) restarts: AtomicU64,
}

impl Standing {
    pub(crate) fn high_watermarks(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, i64>> {
        self.high_watermarks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
