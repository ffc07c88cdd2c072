//! Progress, as the tables hold it: one transaction identifier for each partition of the log.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lake::{Lake, Table};
use schemas::EVENTS;

use super::Error;
use crate::log::{self, Log, Positions};

/// Delta's application id for a partition of a log (Delta protocol, "Transaction Identifiers").
pub(crate) fn app_id(identity: &str, kafka_partition: i32) -> String {
    format!("daybook/{identity}/{kafka_partition}")
}

/// Delta's application id for what a partition has lost: its version is the number of offsets that the log no longer had when a worker
/// came to them. It moves in the very commit that passes them, and outlives the log entry that names them.
pub(crate) fn lost_id(identity: &str, kafka_partition: i32) -> String {
    format!("daybook-lost/{identity}/{kafka_partition}")
}

/// How far a partition is in the `events` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// Partition of the log.
    pub kafka_partition: i32,
    /// First record not yet in a table commit.
    pub next_offset: i64,
    /// Offset that the next record appended to the log will get.
    pub high_watermark: i64,
    /// Offsets before `next_offset` that the log no longer had when a worker came to them.
    pub lost: i64,
}

/// Progress of every partition of `log`.
///
/// # Errors
/// Where the table or the log cannot be read.
pub async fn progress(lake: &Lake, log: &dyn Log) -> Result<Vec<PartitionProgress>, Error> {
    let head = lake.table(&EVENTS).head().await.map_err(|source| Error::Table { table: EVENTS.name, source })?;
    let identity = log.identity().await.map_err(Error::Log)?;
    let mut progress = Vec::new();
    for kafka_partition in log.partitions().await.map_err(Error::Log)? {
        let (_, high_watermark) = log.offsets(kafka_partition).await.map_err(Error::Log)?;
        let of = |app_id: &str| head.as_ref().map_or(0, |head| head.next_offset(app_id));
        progress.push(PartitionProgress {
            kafka_partition,
            next_offset: of(&app_id(&identity, kafka_partition)),
            high_watermark,
            lost: of(&lost_id(&identity, kafka_partition)),
        });
    }
    Ok(progress)
}

/// Start positions, from the head of `events`.
pub(crate) struct TablePositions {
    pub(crate) table: Table,
    pub(crate) identity: String,
}

#[async_trait]
impl Positions for TablePositions {
    async fn next_offsets(&self, kafka_partitions: &[i32]) -> log::Result<BTreeMap<i32, i64>> {
        // A fresh head: the flusher's may be held by a commit for as long as the store is away.
        let fresh =
            self.table.head().await.map_err(|error| log::Error::unavailable("reading the events table", error))?;
        let next =
            |partition: i32| fresh.as_ref().map_or(0, |head| head.next_offset(&app_id(&self.identity, partition)));
        Ok(kafka_partitions.iter().map(|partition| (*partition, next(*partition))).collect())
    }
}
