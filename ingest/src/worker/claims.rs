//! Who writes the conflicts of a partition: its newest owner, each of them once.
//!
//! A record whose id is taken by another event becomes a dead letter because of what the table holds, not because of what it
//! is itself: two workers, or one before and after a crash, need not agree. So an owner *claims* its partitions first: it
//! moves a transaction identifier in `dead_letters`, which each commit of conflicts moves again, as compare-and-swap.
//!
//! ```text
//! claim ──► read the conflicts that `dead_letters` has beyond the partition's next_offset ──► those records are settled
//!   └─ from here on the commit of any earlier owner's conflicts is refused: what was read is complete
//! ```
//!
//! A conflict is only ever with a committed row, and rows stay: what one owner finds to be a conflict is one for the next.

use std::collections::{BTreeMap, HashMap};

use arrow::{
    array::{Array, AsArray},
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType},
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use lake::{Change, CommitError, DataFile, Swap};
use schemas::event::Cause;

use super::flush::Flusher;

/// Delta's application id for the claim on a partition of a log.
pub(crate) fn claim_id(identity: &str, kafka_partition: i32) -> String {
    format!("daybook-claims/{identity}/{kafka_partition}")
}

/// A worker's claim on a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim {
    /// What the claim's transaction identifier stands at.
    pub(crate) number: i64,
    /// Records beyond the partition's `next_offset` that are dead letters already: offset, and append time (µs).
    settled: HashMap<i64, Option<i64>>,
}

impl Claim {
    /// True for a record that stands in `dead_letters`, of cause `conflict`. `append_time_ms` tells it from one of the same offset in
    /// a topic that was there before.
    pub(crate) fn settles(&self, offset: i64, append_time_ms: i64) -> bool {
        let append_us = (append_time_ms > 0).then(|| append_time_ms.saturating_mul(1000));
        self.settled.get(&offset) == Some(&append_us)
    }
}

impl Flusher {
    /// Claims these partitions, from their `next_offset` on.
    ///
    /// # Errors
    /// Where the table of dead letters cannot be written or read.
    pub(crate) async fn claim(&self, positions: &[(i32, i64)]) -> lake::Result<BTreeMap<i32, Claim>> {
        if positions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut head = self.dead_letters.head.lock().await;
        let table = &self.dead_letters.table;
        let mut claims = loop {
            table.refresh(&mut head).await?;
            let swaps = positions.iter().map(|(partition, _)| {
                let app_id = claim_id(&self.identity, *partition);
                let expected = head.next_offset(&app_id);
                Swap { app_id, expected, next: expected + 1 }
            });
            let swaps: Vec<Swap> = swaps.collect();
            let numbers: Vec<i64> = swaps.iter().map(|swap| swap.next).collect();
            match table.commit(&mut head, Change { operation: "CLAIM", swaps, ..Change::default() }).await {
                Ok(_) => {
                    let claim = |number| Claim { number, settled: HashMap::new() };
                    let claims =
                        positions.iter().zip(numbers).map(|((partition, _), number)| (*partition, claim(number)));
                    break claims.collect::<BTreeMap<_, _>>();
                }
                // Another owner claims just now, or our own commit landed unseen: once more, on top of it.
                Err(CommitError::Fenced { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        };
        drop(head);
        let snapshot = table.snapshot().await?;
        let beyond = |file: &DataFile| {
            let bound = |column: &str, greatest: bool| {
                let stats = file.stats.columns.get(column)?;
                if greatest { stats.max.as_ref()?.int() } else { stats.min.as_ref()?.int() }
            };
            positions.iter().any(|(partition, next_offset)| {
                let partition = i64::from(*partition);
                bound("log_partition", false).is_none_or(|least| least <= partition)
                    && bound("log_partition", true).is_none_or(|greatest| greatest >= partition)
                    && bound("log_offset", true).is_none_or(|greatest| greatest >= *next_offset)
            })
        };
        let files: Vec<DataFile> = snapshot.files.iter().filter(|file| beyond(file)).cloned().collect();
        if files.is_empty() {
            return Ok(claims);
        }
        let columns = ["cause", "log_partition", "log_offset", "append_time"];
        let mut batches = table.read(&SessionContext::new(), files, &columns)?;
        while let Some(batch) = batches.try_next().await.map_err(lake::Error::Scan)? {
            let column = |name: &str, kind: Option<&DataType>| {
                let array = batch.column_by_name(name).expect("the scan gives what it is asked for");
                let kind = kind.unwrap_or(array.data_type());
                cast(array, kind).expect("columns of `dead_letters` have the type that the schema says")
            };
            let (causes, appended) = (column("cause", Some(&DataType::Utf8)), column("append_time", None));
            let (partitions, offsets) = (column("log_partition", None), column("log_offset", None));
            let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
            let appended = appended.as_primitive::<TimestampMicrosecondType>();
            let appended = |row: usize| appended.is_valid(row).then(|| appended.value(row));
            for row in 0..batch.num_rows() {
                if causes.as_string::<i32>().value(row) != Cause::Conflict.as_str() {
                    continue;
                }
                if let Some(claim) = claims.get_mut(&partitions.value(row)) {
                    claim.settled.insert(offsets.value(row), appended(row));
                }
            }
        }
        Ok(claims)
    }
}
