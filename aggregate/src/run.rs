//! A run: reads one version of `events`, and brings `rollup_daily` in line with it in one table commit, and before that its breakdowns.
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
//!      ├─ commit of each breakdown (see `breakdown`)
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

use std::{collections::BTreeMap, sync::Arc};

use futures::future::try_join_all;
use jiff::{Timestamp, civil::Date};
use lake::{DataFile, Lake, Snapshot, Swap, Table};
use schemas::{
    EVENTS,
    rollup::{DEFINITION_VERSION, ROLLUP_DAILY},
};
use serde_json::json;

use crate::{
    Error, Progress, Result, RunReport,
    breakdown::Held,
    calendar::OrgCalendar,
    compute::{Done, Shared, Work},
    derive::{Mode, Tally, derive},
    feed::follow,
    memory::{Given, Memory},
    people::People,
    scope::{Days, Since, Who, days_between, watermark, what_is_new},
};

/// Times that a run starts again because another aggregator was faster.
pub(crate) const ATTEMPTS_MAX: usize = 8;
/// Times that a comparison is put off because new events came in after the rollup was brought up to date.
const COMPARISONS_MAX: usize = 32;

/// Version of what this code makes of the same events and definitions; goes up with any change of its results.
const ALGORITHM_VERSION: i64 = 1;

/// Why a version was made, in its `operationMetrics`.
pub(crate) const REASON_METRIC: &str = "reason";
/// The reason of a run over what is new.
pub(crate) const NEW_EVENTS: &str = "events";
/// How what `events` is known as begins.
pub(crate) const EVENTS_APP_PREFIX: &str = "daybook/rollup/";

/// What `events` is known as in the transactions of `rollup_daily`.
pub(crate) fn events_app_id(events_table_id: &str) -> String {
    format!("{EVENTS_APP_PREFIX}{events_table_id}")
}

/// Holds the digest of calendar and definitions that the rollup was computed with.
fn calendar_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup-calendar/{events_table_id}")
}

/// Holds the newest `recorded_time` (µs) of the events that the rollup stands for.
fn watermark_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup-watermark/{events_table_id}")
}

/// As [`refresh`], with nothing remembered of a run before.
///
/// # Errors
/// As [`refresh`].
pub async fn run(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    refresh(lake, orgs, now, progress, &mut Memory::default()).await
}

/// Brings `rollup_daily` in line with the newest version of `events`, at the cost of the days that have new events, and the change feed and derived
/// tables with that. Run again over the same events it changes nothing; run by two aggregators at once, one wins and the other finds its work done.
///
/// `now` becomes the `computed_at` of rows that change; nothing else depends on it. Dropping the future is safe: each table's commit was made
/// or it was not, and the next call makes those that were not.
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
    let digest = digest(orgs);
    if let Some(report) = memory.unchanged(lake, digest).await? {
        return Ok(report);
    }
    let report = roll_up(lake, orgs, now, progress, memory).await?;
    if report.events_version.is_none() {
        return Ok(report);
    }
    let given = Given::read(lake).await?;
    if memory.follows_from(&given) {
        memory.settle(given, digest, &report);
        return Ok(report);
    }
    let report = RunReport { revisions: follow(lake).await?, ..report };
    let report = with(report, derive(lake, Mode::Refresh).await?);
    memory.settle(given, digest, &report);
    Ok(report)
}

/// Of the calendar and of what this code and its definitions make of events.
fn digest(orgs: &OrgCalendar) -> i64 {
    orgs.digest(DEFINITION_VERSION << 16 | ALGORITHM_VERSION)
}

/// `rollup_daily` and its breakdowns alone, as [`refresh`] brings them in line; what follows from them waits for a [`refresh`].
///
/// # Errors
/// As [`refresh`].
pub async fn roll_up(
    lake: &Lake,
    orgs: &OrgCalendar,
    now: Timestamp,
    progress: &dyn Progress,
    memory: &mut Memory,
) -> Result<RunReport> {
    Job { lake, orgs, now, progress, what: What::New }.run(memory).await
}

fn with(report: RunReport, tally: Tally) -> RunReport {
    RunReport { derived_computed: tally.computed, derived_changed: tally.changed, ..report }
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

/// Computes days again, those that have new events, and those after them that come out otherwise by it. What the days take from those
/// before (plans, first active days) is taken from the table, unless all days are computed; then all derived tables are, too. A dry run says
/// nothing of derived tables.
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
    let what = What::Days(rebuild);
    let report = Job { lake, orgs, now, progress, what }.run(&mut Memory::default()).await?;
    if rebuild.dry_run || report.events_version.is_none() {
        return Ok(report);
    }
    let report = RunReport { revisions: follow(lake).await?, ..report };
    let mode = if what.is_everything() { Mode::Everything } else { Mode::Refresh };
    Ok(with(report, derive(lake, mode).await?))
}

/// Brings all tables up to date, then computes all of the rollup again from the events and all derived tables from the rollup, and says in
/// `rows_added`, `rows_changed`, `rows_removed` and `derived_changed` how that differs from the tables: not at all, or something is wrong. Writes
/// nothing of the second.
///
/// # Errors
/// As [`refresh`]; [`Error::Behind`] where new events came in between every time.
pub async fn verify(lake: &Lake, orgs: &OrgCalendar, now: Timestamp, progress: &dyn Progress) -> Result<RunReport> {
    let mut memory = Memory::default();
    let mut attempt = 1;
    loop {
        refresh(lake, orgs, now, &(), &mut memory).await?;
        let job = Job { lake, orgs, now, progress, what: What::Comparison };
        let compared = match job.run(&mut Memory::default()).await {
            Ok(report) if report.events_version.is_some() => {
                derive(lake, Mode::Comparison).await.map(|tally| with(report, tally))
            }
            compared => compared,
        };
        match compared {
            Err(Error::Behind { .. }) if attempt < COMPARISONS_MAX => attempt += 1,
            compared => return compared,
        }
    }
}

/// What a run computes.
#[derive(Clone, Copy)]
enum What<'a> {
    /// What is new.
    New,
    /// These days, and what is new.
    Days(&'a Rebuild),
    /// Everything, of a rollup that stands for the newest events; writes nothing.
    Comparison,
}

impl What<'_> {
    fn is_everything(self) -> bool {
        match self {
            Self::New => false,
            Self::Days(rebuild) => rebuild.from.is_none() && rebuild.to.is_none(),
            Self::Comparison => true,
        }
    }

    fn is_dry(self) -> bool {
        match self {
            Self::New => false,
            Self::Days(rebuild) => rebuild.dry_run,
            Self::Comparison => true,
        }
    }
}

/// For each table of a run: the version of `events`, and the digest of definitions, from what it holds to what it will.
struct Steps {
    rollup: [Swap; 2],
    breakdowns: Vec<[Swap; 2]>,
}

impl Steps {
    fn all(&self) -> impl Iterator<Item = &[Swap; 2]> {
        std::iter::once(&self.rollup).chain(&self.breakdowns)
    }

    fn is_current(&self) -> bool {
        self.all().flatten().all(Swap::is_still)
    }

    fn has_same_definitions(&self) -> bool {
        self.all().all(|[_, definitions]| definitions.is_still())
    }

    /// Oldest version of `events` that a table stands for.
    fn oldest_events(&self) -> i64 {
        self.all().map(|[events, _]| events.expected).min().expect("there is the rollup")
    }
}

/// A run to be.
struct Job<'a> {
    lake: &'a Lake,
    orgs: &'a OrgCalendar,
    now: Timestamp,
    progress: &'a dyn Progress,
    what: What<'a>,
}

impl Job<'_> {
    async fn run(&self, memory: &mut Memory) -> Result<RunReport> {
        let mut attempt = 1;
        loop {
            match self.attempt(memory).await {
                Err(error) if error.is_lost_race() && attempt < ATTEMPTS_MAX => {
                    tracing::info!(attempt, "another writer was faster, the rollup starts again");
                    attempt += 1;
                }
                Ok(report) => return Ok(RunReport { attempts: attempt, ..report }),
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, memory: &mut Memory) -> Result<RunReport> {
        let (events_table, rollup) = (self.lake.table(&EVENTS), self.lake.table(&ROLLUP_DAILY));
        if events_table.head().await.map_err(Error::table(&EVENTS))?.is_none() {
            return Ok(RunReport::default());
        }
        rollup.create_if_missing().await.map_err(Error::table(&ROLLUP_DAILY))?;
        let before = rollup.snapshot().await.map_err(Error::table(&ROLLUP_DAILY))?;
        let breakdowns = Held::all(self.lake).await?;
        // Last, so that no table stands for more than this.
        let events = events_table.snapshot().await.map_err(Error::table(&EVENTS))?;
        let held = |app_id: String, next: i64| Swap::from_held(&before.txns, app_id, next);
        let digest = digest(self.orgs);
        let steps = Steps {
            rollup: [
                held(events_app_id(&events.table_id), events.version),
                held(calendar_app_id(&events.table_id), digest),
            ],
            breakdowns: breakdowns.iter().map(|held| held.swaps(&events, digest)).collect(),
        };
        let is_current = steps.is_current();
        match self.what {
            What::New if is_current => {
                let rows = rows_of(&before.files);
                return Ok(RunReport { events_version: Some(events.version), rows, ..RunReport::default() });
            }
            What::Comparison if !is_current => return Err(Error::Behind { table: ROLLUP_DAILY.name }),
            _ => {}
        }
        let shared = Arc::new(Shared::new(self.lake, events, self.orgs));
        let events = &shared.events;
        let watermark_id = watermark_app_id(&events.table_id);
        let since = before.txns.get(&watermark_id).copied();
        let since = since.map(|watermark_us| Since { events_version: steps.oldest_events(), watermark_us });
        let was_computed = since.is_some();
        let since = since.filter(|_| steps.has_same_definitions());
        let (wanted, watermark_us) = self.scope(&events_table, &before, &shared, since).await?;
        let reason = match (self.what, &wanted) {
            (What::Days(_), _) => "rebuild",
            _ if !was_computed => "first",
            _ if !steps.has_same_definitions() => "definitions",
            (_, None) => "erasure",
            (_, Some(_)) => NEW_EVENTS,
        };

        // Taken out: if the attempt ends early, what it has met must not pass for known.
        let remembered = std::mem::take(memory);
        let mut people = match (&wanted, remembered.of) {
            (None, _) => People::default(),
            (Some(_), Some((id, version))) if id == before.table_id && version == before.version => remembered.people,
            (Some(_), _) => People::read(&rollup, &before).await?,
        };
        let (now, is_dry) = (self.now, self.what.is_dry());
        tracing::debug!(reason, days = ?wanted.as_ref().map(BTreeMap::len), "computes");
        let (rollup, breakdowns) = (&rollup, &breakdowns[..]);
        let work = Work { shared: &shared, rollup, before: &before, breakdowns, watermark_us, now, is_dry };
        let Done { mut change, breakdowns: changes, report } = work.compute(wanted, &mut people, self.progress).await?;
        if report.saturated > 0 {
            tracing::warn!(values = report.saturated, "sums were cut to the greatest value that their columns hold");
        }
        let rows = rows_of(&before.files) + report.rows_added - report.rows_removed;
        let met = people.len() as u64;
        let report = RunReport { events_version: Some(events.version), rows, people: met, ..report };
        if is_dry {
            return Ok(report);
        }
        for (name, value) in [
            ("rowsAdded", report.rows_added),
            ("rowsChanged", report.rows_changed),
            ("rowsRemoved", report.rows_removed),
            ("rowsFinalised", report.rows_finalised),
            ("daysComputed", report.days_read),
            ("daysChanged", report.days_changed),
        ] {
            change.metrics.insert(name.into(), json!(value));
        }
        change.metrics.insert(REASON_METRIC.into(), json!(reason));
        change.swaps = steps.rollup.into_iter().chain([held(watermark_id, watermark_us)]).collect();
        tracing::debug!(days = report.days_read, "computed, commits");
        let commits = breakdowns.iter().zip(changes).zip(steps.breakdowns);
        try_join_all(commits.map(|((held, change), swaps)| held.commit(change, swaps))).await?;
        // The head of the version that the rows were compared with: whatever was committed since is checked against this change.
        let mut head = before.head();
        let version = rollup.commit(&mut head, change).await.map_err(|source| Error::Commit { source })?;
        people.confirm();
        *memory = Memory { people, of: Some((before.table_id, version)), settled: remembered.settled };
        Ok(RunReport { table_version: Some(version), ..report })
    }

    /// Which days are computed (`None`: all), and the newest `recorded_time` of all events (µs). `since` is what the table stands for,
    /// where what is new since is all that can make a difference.
    async fn scope(
        &self,
        table: &Table,
        before: &Snapshot,
        shared: &Shared,
        since: Option<Since>,
    ) -> Result<(Option<Days>, i64)> {
        let Shared { context, events, .. } = shared;
        let new = match since {
            Some(since) if !self.what.is_everything() => {
                what_is_new(context, table, events, before, self.orgs, &since).await?
            }
            _ => None,
        };
        let Some(mut new) = new else {
            return Ok((None, watermark(context, events).await?.unwrap_or(i64::MIN)));
        };
        if let What::Days(rebuild) = self.what {
            let days = days_between(before, events, rebuild.from, rebuild.to);
            new.days.extend(days.map(|date| (date, Who::Everyone)));
        }
        Ok((Some(new.days), new.watermark_us))
    }
}

fn rows_of(files: &[DataFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}
