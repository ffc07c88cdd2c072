//! The tables of breakdowns in a run: what the walk gives for a date against what the table has, and the commit.
//!
//! ```text
//! walk ──► rows of the rollup ─────────────────────────────► people, revise ──► 2. commit of rollup_daily
//!      └─► rows of each breakdown ──► against its table ──► 1. commit of each breakdown
//! ```
//!
//! Invariants:
//! 1. A breakdown stands for what `rollup_daily` stands for, or for more: its commit comes first. A run that ends between the commits is made again by the
//!    next from the version that `rollup_daily` stands for, and finds rows that are as they should be.
//! 2. Each commit carries the version of `events`, compare-and-swap on the version before, as that of `rollup_daily` does.
//! 3. Where a breakdown was never computed, stands for less, or has another definition than ours, what is new is counted from there: at worst, all.

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch},
};
use datafusion::prelude::SessionContext;
use futures::future::try_join_all;
use jiff::civil::Date;
use lake::{Change, Lake, Snapshot, Table};
use schemas::breakdown::{self, Breakdown};
use serde_json::json;

use crate::{
    Error, Result,
    calendar::OrgCalendar,
    definition::digest,
    run::definition_digest,
    scope::Who,
    standing::{sorted, standing, without_date, write},
    steps::Step,
};

/// A breakdown's table, as an attempt of a run finds it.
pub(crate) struct Held {
    definition: &'static Breakdown,
    table: Table,
    before: Snapshot,
}

impl Held {
    /// All breakdowns; creates the tables that are missing, and adds the columns that one of an older version lacks.
    ///
    /// # Errors
    /// Where a table cannot be read or created.
    pub(crate) async fn all(lake: &Lake) -> Result<Vec<Self>> {
        let held = breakdown::breakdowns().iter().zip(breakdown::specs()).map(async |(definition, spec)| {
            let table = lake.table(spec);
            table.create_if_missing().await.map_err(Error::table(spec))?;
            let before = table.snapshot().await.map_err(Error::table(spec))?;
            Ok(Self { definition, table, before })
        });
        try_join_all(held).await
    }

    /// What the table stands for, and will.
    pub(crate) fn step(&self, events: &Snapshot, calendar: &OrgCalendar) -> Step {
        let measures: Vec<_> = self.definition.measures().collect();
        let definition = format!("{:?}{measures:?}{}", self.definition, definition_digest());
        Step::new(&self.before.txns, events, digest(&definition), calendar)
    }

    /// Brings a date in line with `rows`, the rows of `who`: adds to `change` what that takes, where it is given. True where rows differ.
    ///
    /// # Errors
    /// Where the table cannot be read or written.
    pub(crate) async fn settle(
        &self,
        context: &SessionContext,
        date: Date,
        who: &Who,
        rows: &RecordBatch,
        change: Option<&mut Change>,
    ) -> Result<bool> {
        if rows.num_rows() == 0 && self.before.files_of(date).is_empty() {
            return Ok(false);
        }
        let old = without_date(&standing(&self.table, &self.before, context, date).await?);
        let fresh = match who {
            Who::Everyone => rows.clone(),
            Who::These(_) => self.merge(rows, &old, who)?,
        };
        if fresh == old {
            return Ok(false);
        }
        if let Some(change) = change {
            change.add.extend(write(&self.table, date, fresh).await?);
            change.remove.extend(self.before.files_of(date));
        }
        Ok(true)
    }

    /// `rows`, and of `old` those of people who are not computed.
    fn merge(&self, rows: &RecordBatch, old: &RecordBatch, who: &Who) -> Result<RecordBatch> {
        let [orgs, users] = ["org_id", "user_key"].map(|name| old[name].as_string::<i32>());
        let kept: BooleanArray =
            (0..old.num_rows()).map(|row| Some(!who.has(orgs.value(row), users.value(row)))).collect();
        let all = concat_batches(&rows.schema(), [rows, &filter_record_batch(old, &kept)?])?;
        sorted(self.table.spec(), &all)
    }

    /// Removes the rows of dates that are gone; gives how many dates.
    pub(crate) fn remove(&self, is_gone: impl Fn(Date) -> bool, change: &mut Change) -> u64 {
        let gone = self.before.files.iter().filter(|file| file.partition_value.is_none_or(&is_gone));
        change.remove.extend(gone.cloned());
        self.before.dates().into_iter().filter(|date| is_gone(*date)).count() as u64
    }

    /// Commits the change and what the table stands for then, unless both are as they were.
    ///
    /// # Errors
    /// Where the commit fails, or another aggregator was faster.
    pub(crate) async fn commit(&self, mut change: Change, step: Step) -> Result<()> {
        if step.is_current() && change.add.is_empty() && change.remove.is_empty() {
            return Ok(());
        }
        change.metrics.insert("filesWritten".into(), json!(change.add.len()));
        change.swaps = step.swaps();
        self.table.commit(&mut self.before.head(), change).await.map_err(|source| Error::Commit { source })?;
        Ok(())
    }
}
