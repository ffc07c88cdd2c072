//! The ingest worker: from the log to the tables, exactly once.
//!
//! ```text
//!  log ──records──► decode ──events──► EventBuffer ──sort, cut by day──► Parquet files ─┐
//!                     └──dead letters──────────────────────────────────► Parquet files ─┤
//!                                                                                       ▼
//!              table commit of dead_letters, then of events: files + next_offset of each partition, compare-and-swap
//! ```
//!
//! Invariants:
//! 1. A commit to `events` carries rows *and* the `next_offset` they end at, in one Delta commit; it is refused unless
//!    the stored `next_offset` is the one that the rows begin at (F04, F07). Kafka's group offset only shows lag.
//! 2. Dead letters are committed first, with offsets of their own: after a crash in between, the records below
//!    `dead_letters`' offset are decoded again, but not written again.
//! 3. Decoding, the check of signatures included (`door`), is a pure function of the record, so that any worker that meets it decides alike. Whether another event has
//!    its id is asked of committed rows (`known`), and told by the newest owner of the partition alone (`claims`).
//! 4. A refused batch is dropped whole and the positions are read from the table again (R3). Its files stay for vacuum:
//!    files of an unknown commit are never deleted (F05, F06).
//! 5. One flush at a time; while it runs, the next buffer fills, up to its limit, and then the log is not polled: memory
//!    is bounded by two buffers and the consumer's own (F19, R15).

mod avro;
mod buffer;
mod claims;
mod columns;
mod dead_letters;
mod decode;
mod door;
mod flush;
mod intake;
mod known;
mod metrics;
mod opt_in;
mod positions;
#[cfg(test)]
mod tests;
#[allow(clippy::module_inception, reason = "the file that holds the loop is named after its room")]
mod worker;

pub(crate) use avro::{Plans, Schemas};
pub use avro::{RegistryError, SchemaRegistry};
pub(crate) use decode::decode_record;
pub(crate) use door::{Door, KeyRing};
pub use positions::{PartitionProgress, progress};
pub use worker::{Settings, Worker};

/// Why the worker stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed for good; start again once it is mended.
    #[error("the log failed")]
    Log(#[source] crate::log::Error),
    /// A table could not be opened, or refuses what we write.
    #[error("table `{table}` failed")]
    Table {
        /// Name of the table.
        table: &'static str,
        /// What happened.
        #[source]
        source: lake::Error,
    },
    /// A metric could not be registered: another worker has registered its own in the same registry.
    #[error("metrics could not be registered")]
    Metrics(#[source] prometheus::Error),
    /// A setting makes no sense.
    #[error("{setting}: {detail}")]
    Settings {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong.
        detail: String,
    },
}
