//! Sorted runs walked in one order, each row where it lies.
//!
//! ```text
//! file ─► batches ─► run ─┐
//! file ─► batches ─► run ─┼─► the least key ─► the rows of that run up to the next run's key ─► walk
//! file ─► batches ─► run ─┘
//! ```
//!
//! A file of `events` is in the order of (org_id, user_key, client_type, event_time); several are merged by taking, again and again, the run
//! whose next row comes first, and of it all rows that come before the next row of any other. These are a person's rows of one file, mostly, and
//! the walk reads them from the batch they were decoded into: no row is copied, where a merge into new batches copies all of its columns.
//!
//! Memory: a batch of each run.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use arrow::array::{RecordBatch, StringViewArray};
use datafusion::execution::SendableRecordBatchStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use crate::{Error, Result, columns::Columns, walk::Walk};

/// Runs whose first rows are fetched at once.
const OPENED_AT_ONCE: usize = 16;
/// Longest text that its view holds whole (bytes).
const INLINE_MAX: u32 = 12;

/// A sorted run and where it stands.
struct Run {
    rest: SendableRecordBatchStream,
    columns: Arc<Columns>,
    row: usize,
}

/// Walks the rows of `runs`, each sorted, in one order.
///
/// # Errors
/// Where a run cannot be read, or is out of order.
pub(crate) async fn merge(runs: Vec<SendableRecordBatchStream>, walk: &mut Walk<'_>) -> Result<()> {
    // Boxed as they are made: of futures in a closure, the compiler does not see that they may change threads.
    let mut firsts = Vec::with_capacity(runs.len());
    for mut rest in runs {
        firsts.push(async move { Ok::<_, Error>((next(&mut rest).await?, rest)) }.boxed());
    }
    let mut firsts = stream::iter(firsts).buffer_unordered(OPENED_AT_ONCE);
    let mut heap = BinaryHeap::new();
    while let Some((batch, rest)) = firsts.try_next().await? {
        if let Some(batch) = batch {
            heap.push(Run { rest, columns: walk.columns(&batch)?, row: 0 });
        }
    }
    while let Some(mut run) = heap.pop() {
        let end = heap.peek().map_or(run.columns.rows, |other| run.end_before(other));
        walk.push(&run.columns, run.row..end)?;
        run.row = end;
        if end == run.columns.rows {
            let Some(batch) = next(&mut run.rest).await? else { continue };
            run = Run { columns: walk.columns(&batch)?, row: 0, ..run };
            // A scan of a warm file never waits; let the other tasks of this thread have their turn.
            tokio::task::consume_budget().await;
        }
        heap.push(run);
    }
    Ok(())
}

/// The next batch that has rows.
async fn next(rest: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>> {
    loop {
        match rest.next().await.transpose().map_err(Error::Scan)? {
            Some(batch) if batch.num_rows() == 0 => {}
            batch => return Ok(batch),
        }
    }
}

impl Run {
    /// The first row of this run's batch that comes after the next row of `other`; the number of rows where none does. This run's
    /// next row does not.
    fn end_before(&self, other: &Self) -> usize {
        let is_before = |row: usize| compare((&self.columns, row), (&other.columns, other.row)) != Ordering::Greater;
        let rows = self.columns.rows;
        // Runs are short or long: steps that double find the end of either.
        let (mut before, mut step) = (self.row, 1);
        while before + step < rows && is_before(before + step) {
            before += step;
            step *= 2;
        }
        let (mut low, mut high) = (before + 1, rows.min(before + step));
        while low < high {
            let middle = low.midpoint(high);
            if is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Compares the keys of two rows.
fn compare((a, i): (&Columns, usize), (b, j): (&Columns, usize)) -> Ordering {
    text((&a.org, i), (&b.org, j))
        .then_with(|| text((&a.user, i), (&b.user, j)))
        .then_with(|| text((&a.client_type, i), (&b.client_type, j)))
        .then_with(|| a.event_time[i].cmp(&b.event_time[j]))
}

#[inline]
fn text((a, i): (&StringViewArray, usize), (b, j): (&StringViewArray, usize)) -> Ordering {
    let (view, other) = (a.views()[i], b.views()[j]);
    // The lower half begins with the length.
    if view == other && view as u32 <= INLINE_MAX { Ordering::Equal } else { a.value(i).cmp(b.value(j)) }
}

/// The heap gives its greatest first: that with the least key.
impl Ord for Run {
    fn cmp(&self, other: &Self) -> Ordering {
        compare((&other.columns, other.row), (&self.columns, self.row))
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Run {}
