//! A run: reads one version of `events`, and brings `rollup_daily` in line with it in one table commit.
//!
//! ```text
//! snapshot of both tables ── nothing new ──► done
//!      │
//!      ├─ watermark: newest recorded_time
//!      ├─ scope: days that what is new may touch, or all
//!      ├─ passes of some days, two at a time:  sorted scan ──► walk ──► rows of each day
//!      │                                                                 │ in order of date
//!      │                          people (plan, first day) ◄─────────────┘
//!      │                            ├──► a later day takes something else from this one now ──► again, with all days after it
//!      │                            └──► revise against the table's rows ──► file, where anything changed
//!      └─ commit: new files, old files of the changed days removed, swaps: events version, calendar, watermark
//!                   └─ fenced or in conflict: another aggregator was faster ──► again from the top
//! ```
//!
//! Invariants:
//! 1. One commit carries all changed days and the version of `events` that they were computed from, compare-and-swap on the version before:
//!    of two aggregators, one commits and the other starts again from what it finds (F04, F07).
//! 2. A run that finds the same events, calendar and definitions reads nothing and commits nothing.
//! 3. Days without events any more lose their files.
//! 4. What a run leaves as it is, is what it would have computed: see `scope`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
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
    scope::{Days, Standing, Who, days_between, watermark, what_is_new},
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

/// Holds the newest `recorded_time` (µs) of the events that the rollup stands for.
fn watermark_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup-watermark/{events_table_id}")
}

/// What a run knows from the run before: spares reading the table's rows again, and is never needed.
#[derive(Default)]
pub struct Memory {
    people: People,
    /// `id` and version of `rollup_daily` that `people` stands for.
    of: Option<(String, i64)>,
}

/// As [`refresh`], with nothing remembered of a run before.
///
/// # Errors
/// As [`refresh`].
pub async fn run(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    refresh(lake, orgs, now, progress, &mut Memory::default()).await
}

/// Days that are computed again whatever is new, from the events as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// First of them; `None` = from the first there is.
    pub from: Option<Date>,
    /// Last of them; `None` = to the last there is.
    pub to: Option<Date>,
    /// Only says what would change.
    pub dry_run: bool,
}

/// Computes days again, and those after them that come out otherwise by it. What the days take from those before (plans, first active
/// days) is taken from the table, unless all days are computed.
///
/// # Errors
/// As [`refresh`].
pub async fn rebuild(
    lake: &Lake,
    orgs: &OrgCalendar,
    now: Timestamp,
    progress: &dyn Progress,
    rebuild: &Rebuild,
) -> Result<RunReport> {
    attempts(lake, orgs, now, progress, &mut Memory::default(), Some(rebuild)).await
}

/// Brings the rollup up to date, then computes all of it again from the events, and says in `rows_added`, `rows_changed` and
/// `rows_removed` how that differs from the table: not at all, or something is wrong. Writes nothing of the second.
///
/// # Errors
/// As [`refresh`].
pub async fn verify(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    loop {
        let refreshed = run(lake, orgs, now, &()).await?;
        let all = Rebuild { dry_run: true, ..Rebuild::default() };
        let found = rebuild(lake, orgs, now, progress, &all).await?;
        // Otherwise new events came in between, and the two stand for different ones.
        if found.events_version == refreshed.events_version {
            return Ok(found);
        }
    }
}

/// Brings `rollup_daily` in line with the newest version of `events`, at the cost of the days that have new events. Run again over the
/// same events it changes nothing; run by two aggregators at once, one wins and the other finds its work done.
///
/// `now` becomes the `computed_at` of rows that change; nothing else depends on it. Dropping the future is safe: either the
/// commit was made or it was not.
///
/// # Errors
/// Where a table cannot be read or written, or others committed first every time.
pub async fn refresh(
    lake: &Lake,
    orgs: &OrgCalendar,
    now: Timestamp,
    progress: &dyn Progress,
    memory: &mut Memory,
) -> Result<RunReport> {
    attempts(lake, orgs, now, progress, memory, None).await
}

async fn attempts(
    lake: &Lake,
    orgs: &OrgCalendar,
    now: Timestamp,
    progress: &dyn Progress,
    memory: &mut Memory,
    rebuild: Option<&Rebuild>,
) -> Result<RunReport> {
    let mut attempt = 1;
    loop {
        match attempt_run(lake, orgs, now, progress, memory, rebuild).await {
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
    /// Reads the rows that filters want, and no others.
    selective: SessionContext,
    events: Snapshot,
    calendar: OrgCalendar,
    programs: Programs,
}

async fn attempt_run(
    lake: &Lake,
    orgs: &OrgCalendar,
    now: Timestamp,
    progress: &dyn Progress,
    memory: &mut Memory,
    rebuild: Option<&Rebuild>,
) -> Result<RunReport> {
    let events_table = lake.table(&EVENTS);
    if events_table.head().await.map_err(Error::table(&EVENTS))?.is_none() {
        return Ok(RunReport::default());
    }
    let rollup = lake.table(&ROLLUP_DAILY);
    rollup.create_if_missing().await.map_err(Error::table(&ROLLUP_DAILY))?;
    let before = rollup.snapshot().await.map_err(Error::table(&ROLLUP_DAILY))?;
    let events = events_table.snapshot().await.map_err(Error::table(&EVENTS))?;
    let events_version = events.version;
    let swap = |app_id: String, next: i64| {
        let expected = before.txns.get(&app_id).copied().unwrap_or(0);
        Swap { app_id, expected, next }
    };
    let digest = orgs.digest(DEFINITION_VERSION << 16 | ALGORITHM_VERSION);
    let mut swaps =
        vec![swap(events_app_id(&events.table_id), events.version), swap(calendar_app_id(&events.table_id), digest)];
    if rebuild.is_none() && swaps.iter().all(|swap| swap.expected == swap.next) {
        let rows = rows_of(&before.files);
        return Ok(RunReport { events_version: Some(events_version), rows, ..RunReport::default() });
    }
    let config = SessionConfig::new().with_target_partitions(1);
    let selective = config.clone().set_bool("datafusion.execution.parquet.pushdown_filters", true);
    let [context, selective] = [config, selective].map(SessionContext::new_with_config);
    lake.register_object_store(&context);
    lake.register_object_store(&selective);
    let stands_for = |app_id: String| before.txns.get(&app_id).copied();
    let (seen, seen_us) = (stands_for(events_app_id(&events.table_id)), stands_for(watermark_app_id(&events.table_id)));
    let new = match (seen, seen_us) {
        (Some(events_version), Some(watermark_us)) if swaps[1].expected == digest => {
            let standing = Standing { events_version, watermark_us };
            what_is_new(&context, &events_table, &events, &before, orgs, &standing).await?
        }
        _ => None,
    };
    let (mut wanted, watermark_us) = match new {
        Some(new) => (Some(new.days), new.watermark_us),
        None => (None, watermark(&context, &events).await?.unwrap_or(i64::MIN)),
    };
    if let Some(rebuild) = rebuild {
        wanted = wanted.filter(|_| (&rebuild.from, &rebuild.to) != (&None, &None)).map(|mut wanted| {
            let days = days_between(&before, &events, rebuild.from, rebuild.to);
            wanted.extend(days.map(|date| (date, Who::Everyone)));
            wanted
        });
    }
    swaps.push(swap(watermark_app_id(&events.table_id), watermark_us));

    // Taken out: if the attempt ends early, what it has met must not pass for known.
    let remembered = std::mem::take(memory);
    let mut people = match (&wanted, remembered.of) {
        (None, _) => People::default(),
        (Some(_), Some((id, version))) if id == before.table_id && version == before.version => remembered.people,
        (Some(_), _) => People::read(&rollup, &before).await?,
    };
    let shared = Arc::new(Shared { context, selective, events, calendar: orgs.clone(), programs: Programs::new() });
    let dry_run = rebuild.is_some_and(|rebuild| rebuild.dry_run);
    let work = Work { shared: &shared, rollup: &rollup, before: &before, watermark_us, now, dry_run };
    let done = loop {
        match work.compute(wanted.as_ref(), &mut people, progress).await? {
            Computed::Days(done) => break done,
            Computed::ReachesBeyond(date) => {
                tracing::debug!(%date, "days after this one take something else from it now, and are computed too");
                people.reset();
                let later = before.files.iter().filter_map(|file| file.partition_value).filter(|later| *later > date);
                wanted.get_or_insert_default().extend(later.map(|date| (date, Who::Everyone)));
            }
        }
    };
    let Done { mut change, totals, report } = *done;
    for (name, value) in [
        ("rowsAdded", totals.added),
        ("rowsChanged", totals.changed),
        ("rowsRemoved", totals.removed),
        ("rowsFinalised", totals.finalised),
        ("daysComputed", report.days_read),
        ("daysChanged", report.days_changed),
    ] {
        change.metrics.insert(name.into(), json!(value));
    }
    if report.saturated > 0 {
        tracing::warn!(values = report.saturated, "sums were cut to the greatest value that their columns hold");
    }
    let report = RunReport {
        events_version: Some(events_version),
        rows: rows_of(&before.files) + totals.added - totals.removed,
        rows_added: totals.added,
        rows_changed: totals.changed,
        rows_removed: totals.removed,
        rows_finalised: totals.finalised,
        people: people.len() as u64,
        ..report
    };
    if dry_run {
        return Ok(report);
    }
    change.swaps = swaps;
    // The head of the version that the rows were compared with: whatever was committed since is checked against this change.
    let mut head = before.head();
    let version = rollup.commit(&mut head, change).await.map_err(|source| Error::Commit { source })?;
    people.settle();
    let report = RunReport { table_version: Some(version), ..report };
    *memory = Memory { people, of: Some((before.table_id, version)) };
    Ok(report)
}

fn rows_of(files: &[DataFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
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

/// One pass: scan, walk, rows.
async fn walk(shared: &Shared, pass: Pass) -> Result<Vec<Day>> {
    let overlaps = |file: &&DataFile| {
        file.partition_value.is_some_and(|date| pass.utc_dates.contains(&date))
            && file.min_time_us("event_time").is_none_or(|min| min < pass.to_us)
            && file.max_time_us("event_time").is_none_or(|max| max >= pass.from_us)
    };
    let files = shared.events.files.iter().filter(overlaps).cloned().collect();
    let time = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
    let mut filters: Vec<Expr> =
        vec![col("event_time").gt_eq(time(pass.from_us)), col("event_time").lt(time(pass.to_us))];
    let context = match &pass.who {
        Who::Everyone => &shared.context,
        Who::These(people) => {
            filters.push(col("user_key").in_list(people.iter().map(|key| lit(key.as_str())).collect(), false));
            &shared.selective
        }
    };
    let columns = shared.programs.scan_columns();
    let mut stream = shared.events.sorted_scan(context, files, &columns, filters).map_err(Error::table(&EVENTS))?;
    let mut walk = Walk::new(&shared.programs, &shared.calendar, &pass.who, pass.first, pass.days);
    while let Some(batch) = stream.next().await {
        walk.push(&batch.map_err(Error::Scan)?)?;
        // A scan of a warm file never waits; let the other tasks of this thread have their turn.
        tokio::task::consume_budget().await;
    }
    Ok(walk.finish())
}

/// What came of computing days.
enum Computed {
    Days(Box<Done>),
    /// A day that was not to be computed takes something else from this date now.
    ReachesBeyond(Date),
}

struct Done {
    /// Files of changed days, and those that they replace.
    change: Change,
    totals: Changes,
    /// What is counted day by day.
    report: RunReport,
}

/// What an attempt works with.
struct Work<'a> {
    shared: &'a Arc<Shared>,
    rollup: &'a Table,
    before: &'a Snapshot,
    watermark_us: i64,
    now: Timestamp,
    /// Compares, and writes nothing.
    dry_run: bool,
}

impl Work<'_> {
    /// Computes the days in `wanted`, or all, in order of date, and compares them with the table.
    async fn compute(&self, wanted: Option<&Days>, people: &mut People, progress: &dyn Progress) -> Result<Computed> {
        let plan = passes(&files_by_date(&self.shared.events)?, &self.shared.calendar, wanted)?;
        progress.planned(plan.iter().map(|pass| pass.days as u64).sum());
        let standing: BTreeSet<Date> = self.before.files.iter().filter_map(|file| file.partition_value).collect();
        // Days with rows that stay as they are, for some people at least.
        let is_left =
            |date: &Date| wanted.is_some_and(|wanted| wanted.get(date).is_none_or(|who| *who != Who::Everyone));
        let left: BTreeSet<Date> = standing.into_iter().filter(is_left).collect();
        let walks = futures::stream::iter(plan)
            .map(|pass| {
                let shared = Arc::clone(self.shared);
                let who = pass.who.clone();
                let task = AbortOnDropHandle::new(tokio::spawn(async move { walk(&shared, pass).await }));
                async move { Ok((who, task.await.map_err(|source| Error::Task { source })??)) }
            })
            .buffered(PASSES_AT_ONCE);
        let mut walks = std::pin::pin!(walks);
        let mut done = Done {
            change: Change { operation: "ROLLUP", data_change: true, ..Change::default() },
            totals: Changes::default(),
            report: RunReport::default(),
        };
        let mut computed = BTreeSet::new();
        while let Some((who, walked)) = walks.try_next().await? {
            for mut day in walked {
                let date = day.date;
                computed.insert(date);
                let next_left = left.range((Bound::Excluded(date), Bound::Unbounded)).next();
                if people.apply(&mut day, next_left.copied()) {
                    return Ok(Computed::ReachesBeyond(date));
                }
                done.report.days_read += 1;
                done.report.events += day.events;
                done.report.duplicates_removed += day.duplicates;
                done.report.saturated += day.saturated;
                let changes = self.settle(&day, &who, &mut done.change).await?;
                done.report.days_changed += u64::from(changes.any());
                done.totals = done.totals + changes;
                progress.day(date, changes.any());
            }
        }
        let is_gone = |date: Date| !computed.contains(&date) && !left.contains(&date);
        let mut gone = BTreeSet::new();
        for file in self.before.files.iter().filter(|file| file.partition_value.is_none_or(is_gone)) {
            done.totals.removed += file.rows;
            done.change.remove.push(file.clone());
            gone.insert(file.partition_value);
        }
        done.report.days_changed += gone.len() as u64;
        Ok(Computed::Days(Box::new(done)))
    }

    /// Compares a day with the table and, where it changed, writes it and adds its files to `change`.
    async fn settle(&self, day: &Day, who: &Who, change: &mut Change) -> Result<Changes> {
        let old_files: Vec<DataFile> =
            self.before.files.iter().filter(|file| file.partition_value == Some(day.date)).cloned().collect();
        if day.rows() == 0 && old_files.is_empty() {
            return Ok(Changes::default());
        }
        let old = self.standing(&old_files).await?;
        let revised = revise(day, who, &old, self.watermark_us, self.now)?;
        if !revised.changes.any() || self.dry_run {
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
