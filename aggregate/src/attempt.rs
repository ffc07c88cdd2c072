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
//!      └─ commit: new files, old files of the changed days removed, swaps: see `steps`
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
    sync::Arc,
};

use futures::future::try_join_all;
use jiff::Timestamp;
use lake::{DataFile, Lake, Snapshot, Swap, Table};
use schemas::{EVENTS, rollup::ROLLUP_DAILY};
use serde_json::json;

use crate::{
    Error, Progress, Result, RunReport,
    breakdown::Held,
    calendar::OrgCalendar,
    compute::{Done, Shared, Work},
    memory::Memory,
    people::People,
    run::{Rebuild, definition_digest},
    scope::{Days, Since, Who, days_between, watermark, what_is_new},
    steps::{Step, Steps, watermark_app_id},
};

/// Times that a run starts again because another aggregator was faster.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// Why a version was made, in its `operationMetrics`.
pub(crate) const REASON_METRIC: &str = "reason";
/// The same of single organisations: an object, reasons by organisation.
pub(crate) const ORG_REASONS_METRIC: &str = "orgReasons";
/// The reason of a run over what is new.
pub(crate) const NEW_EVENTS: &str = "events";
/// Days were computed again because someone asked for it.
const REBUILD: &str = "rebuild";
/// An organisation counts its days otherwise.
const CALENDAR: &str = "calendar";

/// What a run computes.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    /// What is new.
    New,
    /// These days, and what is new.
    Days(&'a Rebuild),
    /// Everything, of a rollup that stands for the newest events; writes nothing.
    Comparison,
}

impl<'a> What<'a> {
    pub(crate) fn is_everything(self) -> bool {
        match self {
            Self::New => false,
            Self::Days(rebuild) => rebuild.is_of_all_days() && rebuild.org.is_none(),
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

    fn rebuild(self) -> Option<&'a Rebuild> {
        if let Self::Days(rebuild) = self { Some(rebuild) } else { None }
    }

    /// The one organisation whose days are computed again.
    fn org(self) -> Option<String> {
        Some(self.rebuild()?.org.as_ref()?.as_str().to_owned())
    }
}

/// A run to be.
pub(crate) struct Job<'a> {
    pub(crate) lake: &'a Lake,
    pub(crate) orgs: &'a OrgCalendar,
    pub(crate) now: Timestamp,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) what: What<'a>,
}

/// What an attempt finds, and where it goes from there.
struct Ground {
    events_table: Table,
    rollup: Table,
    before: Snapshot,
    breakdowns: Vec<Held>,
    shared: Arc<Shared>,
    steps: Steps,
    /// From the watermark that the rollup stands for to that of `events`; the latter is not known yet.
    watermark: Swap,
}

impl Job<'_> {
    /// Attempts until one is not too late.
    ///
    /// # Errors
    /// Where a table cannot be read or written, or others committed first every time.
    pub(crate) async fn run(&self, memory: &mut Memory) -> Result<RunReport> {
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
        let Some(ground) = self.ground().await? else { return Ok(RunReport::default()) };
        let Ground { before, shared, .. } = &ground;
        let is_current = ground.steps.is_current();
        match self.what {
            What::New if is_current => {
                let (version, rows) = (shared.events.version, rows_of(&before.files));
                return Ok(RunReport { events_version: Some(version), rows, ..RunReport::default() });
            }
            What::Comparison if !is_current => return Err(Error::Behind { table: ROLLUP_DAILY.name }),
            _ => {}
        }
        let recounted = ground.steps.recounted();
        let (wanted, watermark_us) = self.scope(&ground, &recounted).await?;
        let reason = self.reason(&ground, wanted.as_ref());

        // Taken out: if the attempt ends early, what it has met must not pass for known.
        let remembered = std::mem::take(memory);
        let anew = self.computed_anew(&recounted);
        let mut people = match (&wanted, remembered.of) {
            (None, _) => People::default(),
            (Some(_), Some((id, version))) if anew.is_empty() && id == before.table_id && version == before.version => {
                remembered.people
            }
            (Some(_), _) => People::read(&ground.rollup, before, &anew).await?,
        };
        let (now, is_dry) = (self.now, self.what.is_dry());
        tracing::debug!(reason, days = ?wanted.as_ref().map(BTreeMap::len), "computes");
        let (rollup, breakdowns) = (&ground.rollup, &ground.breakdowns[..]);
        let work = Work { shared, rollup, before, breakdowns, watermark_us, now, is_dry };
        let mut done = work.compute(wanted, &mut people, self.progress).await?;
        let report = &mut done.report;
        if report.saturated > 0 {
            tracing::warn!(values = report.saturated, "sums were cut to the greatest value that their columns hold");
        }
        report.events_version = Some(shared.events.version);
        report.rows = rows_of(&before.files) + report.rows_added - report.rows_removed;
        report.people = people.len() as u64;
        if is_dry {
            return Ok(done.report);
        }
        done.change.metrics.insert(REASON_METRIC.into(), json!(reason));
        if reason == NEW_EVENTS {
            done.change.metrics.insert(ORG_REASONS_METRIC.into(), json!(self.reasons(&recounted)));
        }
        let table_id = before.table_id.clone();
        let (version, report) = ground.commit(done, watermark_us).await?;
        people.confirm();
        *memory = Memory { people, of: Some((table_id, version)), settled: remembered.settled };
        Ok(report)
    }

    /// `None` where there is no `events` yet. Creates the tables that are missing.
    async fn ground(&self) -> Result<Option<Ground>> {
        let (events_table, rollup) = (self.lake.table(&EVENTS), self.lake.table(&ROLLUP_DAILY));
        if events_table.head().await.map_err(Error::table(&EVENTS))?.is_none() {
            return Ok(None);
        }
        rollup.create_if_missing().await.map_err(Error::table(&ROLLUP_DAILY))?;
        let before = rollup.snapshot().await.map_err(Error::table(&ROLLUP_DAILY))?;
        let breakdowns = Held::all(self.lake).await?;
        // Last, so that no table stands for more than this.
        let events = events_table.snapshot().await.map_err(Error::table(&EVENTS))?;
        let steps = Steps {
            rollup: Step::new(&before.txns, &events, definition_digest(), self.orgs),
            breakdowns: breakdowns.iter().map(|held| held.step(&events, self.orgs)).collect(),
        };
        let watermark = Swap::from_held(&before.txns, watermark_app_id(&events.table_id), 0);
        let shared = Arc::new(Shared::new(self.lake, events, self.orgs));
        Ok(Some(Ground { events_table, rollup, before, breakdowns, shared, steps, watermark }))
    }

    /// Which days are computed (`None`: all), and the newest `recorded_time` of all events (µs). All days of organisations that were
    /// `recounted` are among them.
    async fn scope(&self, ground: &Ground, recounted: &BTreeSet<String>) -> Result<(Option<Days>, i64)> {
        let Ground { events_table, before, shared, .. } = ground;
        let Shared { context, events, .. } = &**shared;
        // What is new since is all that can make a difference.
        let since = ground.since().filter(|_| ground.steps.has_same_definitions());
        let new = match since {
            Some(since) if !self.what.is_everything() => {
                what_is_new(context, events_table, events, before, self.orgs, &since).await?
            }
            _ => None,
        };
        let Some(mut new) = new else {
            return Ok((None, watermark(context, events).await?.unwrap_or(i64::MIN)));
        };
        if let Some(rebuild) = self.what.rebuild() {
            let who = self.what.org().map_or(Who::Everyone, |org| Who::of_orgs([org].into()));
            days_between(before, events, rebuild.from, rebuild.to).for_each(|date| new.add(date, &who));
        }
        if !recounted.is_empty() {
            let who = Who::of_orgs(recounted.clone());
            days_between(before, events, None, None).for_each(|date| new.add(date, &who));
        }
        Ok((Some(new.days), new.watermark_us))
    }

    /// Organisations all of whose days are computed: what the table's rows say of their people stands for nothing.
    fn computed_anew(&self, recounted: &BTreeSet<String>) -> BTreeSet<String> {
        let rebuilt = self.what.org().filter(|_| self.what.rebuild().is_some_and(Rebuild::is_of_all_days));
        recounted.iter().cloned().chain(rebuilt).collect()
    }

    /// Why the run computes what it does, as far as it is not for single organisations.
    fn reason(&self, ground: &Ground, wanted: Option<&Days>) -> &'static str {
        match (self.what, wanted) {
            (What::Days(Rebuild { org: None, .. }), _) => REBUILD,
            _ if ground.since().is_none() => "first",
            _ if !ground.steps.has_same_definitions() => "definitions",
            (_, None) => "erasure",
            (_, Some(_)) => NEW_EVENTS,
        }
    }

    /// Why a run over what is new computes what it does of single organisations.
    fn reasons(&self, recounted: &BTreeSet<String>) -> BTreeMap<String, &'static str> {
        let rebuilt = self.what.org().map(|org| (org, REBUILD));
        recounted.iter().map(|org| (org.clone(), CALENDAR)).chain(rebuilt).collect()
    }
}

impl Ground {
    /// What the rollup stands for; `None` where it was never computed from these events.
    fn since(&self) -> Option<Since> {
        let watermark_us = self.before.txns.get(&self.watermark.app_id).copied()?;
        Some(Since { events_version: self.steps.oldest_events(), watermark_us })
    }

    /// Commits what was computed, the breakdowns first; gives the version of `rollup_daily`.
    async fn commit(self, done: Done, watermark_us: i64) -> Result<(i64, RunReport)> {
        let Done { mut change, breakdowns, report } = done;
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
        change.swaps = self.steps.rollup.swaps();
        change.swaps.push(Swap { next: watermark_us, ..self.watermark });
        tracing::debug!(days = report.days_read, "computed, commits");
        let commits = self.breakdowns.iter().zip(breakdowns).zip(self.steps.breakdowns);
        try_join_all(commits.map(|((held, change), step)| held.commit(change, step))).await?;
        // The head of the version that the rows were compared with: whatever was committed since is checked against this change.
        let version = self.rollup.commit(&mut self.before.head(), change).await;
        let version = version.map_err(|source| Error::Commit { source })?;
        Ok((version, RunReport { table_version: Some(version), ..report }))
    }
}

fn rows_of(files: &[DataFile]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}
