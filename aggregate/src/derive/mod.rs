//! Derived tables: each is kept in line with the tables that it reads, by the SQL of its definition.
//!
//! ```text
//! logs of the tables read, since the versions that the table stands for ──► dates that changed there ──► dates to compute
//!                                                                                                        │ some at a time
//!   dates, tables read (as far back as the definition says), before ──SQL──► rows ◄─────────────────────┘
//!                                                                             │ against the table, date by date
//!                                                          one commit: changed dates, versions that they were computed from
//! ```
//!
//! The SQL may name the tables that its definition lists, of which it sees the dates that the rows may reach back to; `dates`, with the dates to
//! compute as `activity_date`; and in a chain `before`, the table's own rows of the date before.
//!
//! Invariants:
//! 1. What a run leaves as it is, is what it would have computed. A date is computed again where a table that it reads changed on a date that it may
//!    reach back to, where it is new, and in a chain where an earlier one is; everything, where a definition is another or a log tells too little.
//! 2. One commit carries the changed dates and the versions of what was read, compare-and-swap on the versions before.
//! 3. The rows depend on the tables read alone: no clock, and one partition, so that sums of floating-point numbers have one order.

mod job;

use std::{collections::BTreeMap, pin::pin};

use futures::{StreamExt as _, TryStreamExt as _};
use lake::{Lake, Snapshot};
use schemas::{
    TableSpec,
    derived::{self, Source},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, Result};
use job::Job;

/// Tables that are computed at once.
const TABLES_AT_ONCE: usize = 4;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// What changed.
    Refresh,
    /// Everything.
    Everything,
    /// Everything, of tables that are up to date; writes nothing.
    Comparison,
}

/// What was done to derived tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Dates computed, over all tables.
    pub(crate) computed: u64,
    /// Of these, dates whose rows differed.
    pub(crate) changed: u64,
}

/// Brings all derived tables in line with what they read.
///
/// # Errors
/// Where a table cannot be read or written, or others committed first every time; [`Error::Behind`] where a comparison finds a table that is not
/// up to date.
pub(crate) async fn derive(lake: &Lake, mode: Mode) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut known = Known::new();
    let mut left: Vec<_> = derived::derived().iter().zip(derived::specs()).collect();
    while !left.is_empty() {
        // A table comes after those that it reads.
        let (now, later): (Vec<_>, Vec<_>) = left.iter().partition(|(derived, _)| {
            derived.reads.iter().all(|read| left.iter().all(|(_, other)| other.name != read.table))
        });
        let mut jobs = Vec::new();
        for (derived, spec) in now {
            let mut reads = Vec::new();
            for source in &derived.reads {
                let read = derived::source(&source.table).expect("definitions name tables, a test looks");
                let snapshot = match known.get(read.name) {
                    Some(snapshot) => snapshot.clone(),
                    None => snapshot(lake, read).await?,
                };
                known.insert(read.name, snapshot.clone());
                reads.push((source, read, snapshot));
            }
            let job = Job { lake: lake.clone(), table: lake.table(spec), derived, sql: derived.sql(), mode };
            jobs.push(async move {
                let task = AbortOnDropHandle::new(tokio::spawn(async move { job.run(reads).await }));
                task.await.map_err(|source| Error::Task { source })?
            });
        }
        let mut jobs = pin!(futures::stream::iter(jobs).buffered(TABLES_AT_ONCE));
        while let Some(done) = jobs.try_next().await? {
            tally.computed += done.tally.computed;
            tally.changed += done.tally.changed;
            known.extend(done.as_it_was.map(|(table, snapshot)| (table, Some(snapshot))));
        }
        left = later;
    }
    Ok(tally)
}

/// The newest version of a table; `None` where there is no such table yet.
async fn snapshot(lake: &Lake, spec: &'static TableSpec) -> Result<Option<Snapshot>> {
    match lake.table(spec).snapshot().await {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(lake::Error::Missing { .. }) => Ok(None),
        Err(error) => Err(Error::table(spec)(error)),
    }
}

/// What became of a table.
#[derive(Default)]
struct Done {
    tally: Tally,
    /// The version that was found to be in line with what it follows from.
    as_it_was: Option<(&'static str, Snapshot)>,
}

/// A table that is read: its definition, and the version read; `None` where there is no such table yet.
type Read = (&'static Source, &'static TableSpec, Option<Snapshot>);

/// Tables as they were read first.
type Known = BTreeMap<&'static str, Option<Snapshot>>;
