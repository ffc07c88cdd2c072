//! A run: reads one version of `events`, and brings `rollup_daily` in line with it in one table commit.
//!
//! ```text
//! snapshot of both tables ── nothing new ──► done
//!      │
//!      ├─ watermark: newest recorded_time
//!      ├─ passes of some days, two at a time:  sorted scan ──► walk ──► rows of each day
//!      │                                                                 │ in order of date
//!      │                          people (plan, first day) ◄─────────────┘
//!      │                            └──► revise against the table's rows ──► file, where anything changed
//!      └─ commit: new files, old files of the changed days removed, swaps: events version, calendar
//!                   └─ fenced or in conflict: another aggregator was faster ──► again from the top
//! ```
//!
//! Invariants:
//! 1. One commit carries all changed days and the version of `events` that they were computed from, compare-and-swap on the version before:
//!    of two aggregators, one commits and the other starts again from what it finds (F04, F07).
//! 2. A run that finds the same events, calendar and definitions reads nothing and commits nothing.
//! 3. Days without events any more lose their files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{compute::concat_batches, record_batch::RecordBatch};
use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, lit},
    prelude::{SessionConfig, SessionContext, col},
};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{Timestamp, civil::Date};
use lake::{Change, CommitError, DataFile, Lake, Snapshot, Swap, Table};
use schemas::{
    EVENTS,
    rollup::{DEFINITION_VERSION, ROLLUP_DAILY},
};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Progress, Result, RunReport,
    calendar::OrgCalendar,
    people::People,
    plan::{Pass, passes},
    program::Programs,
    revise::{Changes, revise},
    rows::Day,
    walk::Walk,
};

/// Passes that run at once.
const PASSES_AT_ONCE: usize = 2;
/// Times that a run starts again because another aggregator was faster.
const ATTEMPTS_MAX: usize = 8;
/// Rows of one file of the rollup.
const FILE_ROWS_MAX: usize = 500_000;

/// Version of what this code makes of the same events and definitions; goes up with any change of its results.
const ALGORITHM_VERSION: i64 = 1;

/// What `events` is known as in the transactions of `rollup_daily`.
pub(crate) fn events_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup/{events_table_id}")
}

/// Holds the digest of calendar and definitions that the rollup was computed with.
fn calendar_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup-calendar/{events_table_id}")
}

/// Brings `rollup_daily` in line with the newest version of `events`. Run again over the same events it changes nothing; run
/// by two aggregators at once, one wins and the other finds its work done.
///
/// `now` becomes the `computed_at` of rows that change; nothing else depends on it. Dropping the future is safe: either the
/// commit was made or it was not.
///
/// # Errors
/// Where a table cannot be read or written, or others committed first every time.
pub async fn run(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    let mut attempt = 1;
    loop {
        match attempt_run(lake, orgs, now, progress).await {
            Err(Error::Commit { source: CommitError::Fenced { .. } | CommitError::Conflict { .. } })
                if attempt < ATTEMPTS_MAX =>
            {
                tracing::info!(attempt, "another writer was faster, the rollup starts again");
                attempt += 1;
            }
            Ok(report) => return Ok(RunReport { attempts: attempt, ..report }),
            Err(error) => return Err(error),
        }
    }
}

/// What all passes share.
struct Shared {
    context: SessionContext,
    events: Snapshot,
    calendar: OrgCalendar,
    programs: Programs,
}

async fn attempt_run(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    let events_table = lake.table(&EVENTS);
    if events_table.head().await.map_err(Error::table(&EVENTS))?.is_none() {
        return Ok(RunReport::default());
    }
    let rollup = lake.table(&ROLLUP_DAILY);
    rollup.create_if_missing().await.map_err(Error::table(&ROLLUP_DAILY))?;
    let before = rollup.snapshot().await.map_err(Error::table(&ROLLUP_DAILY))?;
    let events = events_table.snapshot().await.map_err(Error::table(&EVENTS))?;
    let mut report = RunReport { events_version: Some(events.version), ..RunReport::default() };

    let swap = |app_id: String, next: i64| {
        let expected = before.txns.get(&app_id).copied().unwrap_or(0);
        Swap { app_id, expected, next }
    };
    let digest = orgs.digest(DEFINITION_VERSION << 16 | ALGORITHM_VERSION);
    let swaps =
        vec![swap(events_app_id(&events.table_id), events.version), swap(calendar_app_id(&events.table_id), digest)];
    if swaps.iter().all(|swap| swap.expected == swap.next) {
        report.rows = before.files.iter().map(|file| file.rows).sum();
        return Ok(report);
    }

    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    lake.register_object_store(&context);
    let watermark_us = watermark(&context, &events).await?.unwrap_or(i64::MIN);
    let plan = passes(&files_by_date(&events)?, orgs)?;
    let shared = Arc::new(Shared { context, events, calendar: orgs.clone(), programs: Programs::new() });
    progress.planned(plan.iter().map(|pass| pass.days as u64).sum());

    let walks = futures::stream::iter(plan)
        .map(|pass| {
            let shared = Arc::clone(&shared);
            let task = AbortOnDropHandle::new(tokio::spawn(async move { walk(&shared, pass).await }));
            async move { task.await.map_err(|source| Error::Task { source })? }
        })
        .buffered(PASSES_AT_ONCE);
    let mut walks = std::pin::pin!(walks);
    let mut days =
        Days { shared: &shared, rollup: &rollup, before: &before, watermark_us, now, people: People::default() };
    let mut change = Change { operation: "ROLLUP", data_change: true, swaps, ..Change::default() };
    let mut totals = Changes::default();
    let mut computed = BTreeSet::new();
    while let Some(walked) = walks.try_next().await? {
        for day in walked {
            computed.insert(day.date);
            report.days_read += 1;
            report.events += day.events;
            report.duplicates_removed += day.duplicates;
            report.rows += day.rows() as u64;
            report.saturated += day.saturated;
            let date = day.date;
            let changes = days.settle(day, &mut change).await?;
            report.days_changed += u64::from(changes.any());
            totals = totals + changes;
            progress.day(date, changes.any());
        }
    }
    for file in before.files.iter().filter(|file| file.partition_value.is_none_or(|date| !computed.contains(&date))) {
        totals.removed += file.rows;
        change.remove.push(file.clone());
    }
    let gone: BTreeSet<Option<Date>> = before.files.iter().map(|file| file.partition_value).collect();
    report.days_changed += gone.iter().filter(|date| date.is_none_or(|date| !computed.contains(&date))).count() as u64;
    (report.rows_added, report.rows_changed, report.rows_removed, report.rows_finalised) =
        (totals.added, totals.changed, totals.removed, totals.finalised);
    report.people = days.people.len() as u64;
    for (name, value) in [
        ("rowsAdded", totals.added),
        ("rowsChanged", totals.changed),
        ("rowsRemoved", totals.removed),
        ("rowsFinalised", totals.finalised),
        ("daysChanged", report.days_changed),
    ] {
        change.metrics.insert(name.into(), json!(value));
    }
    if report.saturated > 0 {
        tracing::warn!(values = report.saturated, "sums were cut to the greatest value that their columns hold");
    }
    // The head of the version that the rows were compared with: whatever was committed since is checked against this change.
    let mut head = before.head();
    let version = rollup.commit(&mut head, change).await.map_err(|source| Error::Commit { source })?;
    report.table_version = Some(version);
    Ok(report)
}

/// Number of files by UTC date.
fn files_by_date(events: &Snapshot) -> Result<BTreeMap<Date, usize>> {
    let mut files = BTreeMap::new();
    for file in &events.files {
        let date = file.partition_value.ok_or_else(|| Error::Partition { path: file.path.clone() })?;
        *files.entry(date).or_insert(0) += 1;
    }
    Ok(files)
}

/// Latest `recorded_time` of all events (µs); `None` where there are none.
///
/// The log's statistics are rounded up to the millisecond; the exact value is read from the files that may hold it.
async fn watermark(context: &SessionContext, events: &Snapshot) -> Result<Option<i64>> {
    let bound = |file: &DataFile| file.max_time_us("recorded_time");
    let newest = events.files.iter().filter_map(bound).max();
    let files = events.files.iter().filter(|file| bound(file).is_none() || bound(file) == newest);
    let mut newest_files = events.clone();
    newest_files.files = files.cloned().collect();
    let frame = context.read_table(newest_files.provider()).and_then(|frame| frame.select_columns(&["recorded_time"]));
    let mut stream = frame.map_err(Error::Scan)?.execute_stream().await.map_err(Error::Scan)?;
    let mut latest = None;
    while let Some(batch) = stream.try_next().await.map_err(Error::Scan)? {
        let times = crate::columns::times(&batch, "recorded_time")?;
        latest = latest.max(times.iter().copied().max());
    }
    Ok(latest)
}

/// One pass: scan, walk, rows.
async fn walk(shared: &Shared, pass: Pass) -> Result<Vec<Day>> {
    let overlaps = |file: &&DataFile| {
        file.partition_value.is_some_and(|date| pass.utc_dates.contains(&date))
            && file.min_time_us("event_time").is_none_or(|min| min < pass.to_us)
            && file.max_time_us("event_time").is_none_or(|max| max >= pass.from_us)
    };
    let files = shared.events.files.iter().filter(overlaps).cloned().collect();
    let time = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
    let filters: Vec<Expr> = vec![col("event_time").gt_eq(time(pass.from_us)), col("event_time").lt(time(pass.to_us))];
    let columns = shared.programs.scan_columns();
    let mut stream =
        shared.events.sorted_scan(&shared.context, files, &columns, filters).map_err(Error::table(&EVENTS))?;
    let mut walk = Walk::new(&shared.programs, &shared.calendar, pass.first, pass.days);
    while let Some(batch) = stream.next().await {
        walk.push(&batch.map_err(Error::Scan)?)?;
        // A scan of a warm file never waits; let the other tasks of this thread have their turn.
        tokio::task::consume_budget().await;
    }
    Ok(walk.finish())
}

/// Takes days in order of date from the walk to the table.
struct Days<'a> {
    shared: &'a Shared,
    rollup: &'a Table,
    before: &'a Snapshot,
    watermark_us: i64,
    now: Timestamp,
    people: People,
}

impl Days<'_> {
    /// Compares a day with the table and, where it changed, writes it and adds its files to `change`.
    async fn settle(&mut self, mut day: Day, change: &mut Change) -> Result<Changes> {
        self.people.apply(&mut day);
        let old_files: Vec<DataFile> =
            self.before.files.iter().filter(|file| file.partition_value == Some(day.date)).cloned().collect();
        if day.rows() == 0 && old_files.is_empty() {
            return Ok(Changes::default());
        }
        let old = self.standing(&old_files).await?;
        let revised = revise(&day, &old, self.watermark_us, self.now)?;
        if !revised.changes.any() {
            return Ok(revised.changes);
        }
        let rows = revised.batch.num_rows();
        for start in (0..rows).step_by(FILE_ROWS_MAX) {
            let part = revised.batch.slice(start, FILE_ROWS_MAX.min(rows - start));
            let file = self.rollup.write_file(Some(day.date), &[part]).await.map_err(Error::table(&ROLLUP_DAILY))?;
            change.add.push(file);
        }
        change.remove.extend(old_files);
        Ok(revised.changes)
    }

    /// The table's rows of a day, sorted.
    async fn standing(&self, files: &[DataFile]) -> Result<RecordBatch> {
        let schema = (ROLLUP_DAILY.schema)();
        if files.is_empty() {
            return Ok(RecordBatch::new_empty(schema));
        }
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let scan = self.before.sorted_scan(&self.shared.context, files.to_vec(), &names, Vec::new());
        let stream = scan.map_err(Error::table(&ROLLUP_DAILY))?;
        let schema = stream.schema();
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(Error::Scan)?;
        concat_batches(&schema, &batches).map_err(|error| Error::Scan(error.into()))
    }
}
