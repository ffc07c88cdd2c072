//! Days computed and compared with the table: what an attempt of a run does between its snapshots and its commit.
//!
//! Passes read and walk two at a time; what comes out of them is taken in order of date, since a day takes plans and first days from those before.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, lit},
    prelude::{SessionConfig, SessionContext, col},
};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all};
use jiff::{Timestamp, civil::Date};
use lake::{Change, DataFile, Lake, Snapshot, Table};
use schemas::EVENTS;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Progress, Result, RunReport,
    breakdown::Held,
    calendar::OrgCalendar,
    merge::merge,
    people::People,
    plan::{Pass, passes, rows_held},
    program::Programs,
    revise::{Changes, revise},
    rows::Day,
    scope::{Days, Who},
    standing::{standing, write},
    walk::Walk,
};

/// Passes that run at once.
const PASSES_AT_ONCE: usize = 2;

/// What all passes share.
pub(crate) struct Shared {
    pub(crate) context: SessionContext,
    /// Drops the rows that filters do not want while it decodes them.
    selective: SessionContext,
    pub(crate) events: Snapshot,
    calendar: OrgCalendar,
    programs: Programs,
}

impl Shared {
    pub(crate) fn new(lake: &Lake, events: Snapshot, calendar: &OrgCalendar) -> Self {
        let config = SessionConfig::new().with_target_partitions(1);
        let selective = config.clone().set_bool("datafusion.execution.parquet.pushdown_filters", true);
        let [context, selective] = [config, selective].map(SessionContext::new_with_config);
        lake.register_object_store(&context);
        lake.register_object_store(&selective);
        Self { context, selective, events, calendar: calendar.clone(), programs: Programs::new() }
    }
}

/// What files of each UTC date hold in memory.
fn rows_held_by_date(events: &Snapshot) -> Result<BTreeMap<Date, u64>> {
    let mut files = BTreeMap::new();
    for file in &events.files {
        let date = file.partition_value.ok_or_else(|| Error::Partition { path: file.path.clone() })?;
        *files.entry(date).or_insert(0) += rows_held(file);
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
        Who::These(these) => {
            let is_in = |name: &str, keys: &BTreeSet<String>| {
                (!keys.is_empty()).then(|| col(name).in_list(keys.iter().map(|key| lit(key.as_str())).collect(), false))
            };
            let wanted = [is_in("user_key", &these.people), is_in("org_id", &these.orgs)];
            filters.extend(wanted.into_iter().flatten().reduce(Expr::or));
            &shared.selective
        }
    };
    let columns = shared.programs.scan_columns();
    let runs = shared.events.sorted_runs(context, files, &columns, filters).map_err(Error::table(&EVENTS))?;
    let mut walk = Walk::new(&shared.programs, &shared.calendar, &pass.who, pass.first, pass.days);
    merge(runs, &mut walk).await?;
    Ok(walk.finish())
}

/// What came of computing days.
pub(crate) struct Done {
    /// Files of changed days, and those that they replace.
    pub(crate) change: Change,
    /// The same of each breakdown.
    pub(crate) breakdowns: Vec<Change>,
    /// What is counted day by day.
    pub(crate) report: RunReport,
}

/// What an attempt works with.
pub(crate) struct Work<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) rollup: &'a Table,
    pub(crate) before: &'a Snapshot,
    pub(crate) breakdowns: &'a [Held],
    pub(crate) watermark_us: i64,
    pub(crate) now: Timestamp,
    /// Compares, and writes nothing.
    pub(crate) is_dry: bool,
}

impl Work<'_> {
    /// Computes the days in `wanted`, or all, and those after them that come out otherwise by it, and compares them with the table.
    ///
    /// # Errors
    /// Where a table cannot be read or written.
    pub(crate) async fn compute(
        &self,
        mut wanted: Option<Days>,
        people: &mut People,
        progress: &dyn Progress,
    ) -> Result<Done> {
        loop {
            match self.compute_these(wanted.as_ref(), people, progress).await? {
                ControlFlow::Break(done) => return Ok(done),
                ControlFlow::Continue(date) => {
                    tracing::debug!(%date, "days after this one take something else from it now, and are computed too");
                    people.reset();
                    let later = self
                        .before
                        .dates()
                        .into_iter()
                        .filter(|later| *later > date)
                        .map(|later| (later, Who::Everyone));
                    wanted.get_or_insert_default().extend(later);
                }
            }
        }
    }

    /// Computes the days in `wanted`, or all, in order of date. Goes no further than a date from which a day that is not computed takes
    /// something else now.
    async fn compute_these(
        &self,
        wanted: Option<&Days>,
        people: &mut People,
        progress: &dyn Progress,
    ) -> Result<ControlFlow<Done, Date>> {
        let plan = passes(&rows_held_by_date(&self.shared.events)?, &self.shared.calendar, wanted)?;
        progress.planned(plan.iter().map(|pass| pass.days as u64).sum());
        // Days with rows that stay as they are, for some people at least. A day without a pass has no events of anyone.
        let planned: BTreeSet<Date> = plan.iter().flat_map(Pass::dates).collect();
        let is_left = |date: &Date| {
            let of_some = |who: &Who| *who != Who::Everyone && planned.contains(date);
            wanted.is_some_and(|wanted| wanted.get(date).is_none_or(of_some))
        };
        let left: BTreeSet<Date> = self.before.dates().into_iter().filter(is_left).collect();
        let walks = futures::stream::iter(plan)
            .map(|pass| {
                let shared = Arc::clone(self.shared);
                let who = pass.who.clone();
                let task = AbortOnDropHandle::new(tokio::spawn(async move { walk(&shared, pass).await }));
                async move { Ok::<_, Error>((who, task.await.map_err(|source| Error::Task { source })??)) }
            })
            .buffered(PASSES_AT_ONCE);
        let mut walks = std::pin::pin!(walks);
        let change = || Change { operation: "ROLLUP", data_change: true, ..Change::default() };
        let breakdowns = self.breakdowns.iter().map(|_| change()).collect();
        let mut done = Done { change: change(), breakdowns, report: RunReport::default() };
        let mut totals = Changes::default();
        let mut computed = BTreeSet::new();
        while let Some((who, walked)) = walks.try_next().await? {
            for mut day in walked {
                let date = day.date;
                computed.insert(date);
                let next_left = left.range((Bound::Excluded(date), Bound::Unbounded)).next();
                if people.apply(&mut day, next_left.copied()) {
                    return Ok(ControlFlow::Continue(date));
                }
                done.report.days_read += 1;
                done.report.events += day.events;
                done.report.duplicates_removed += day.duplicates;
                done.report.saturated += day.saturated;
                let changes = self.settle(&day, &who, &mut done.change).await?;
                done.report.days_changed += u64::from(changes.any());
                totals = totals + changes;
                done.report.breakdowns_changed += self.settle_breakdowns(&day, &who, &mut done.breakdowns).await?;
                progress.day(date, changes.any());
            }
        }
        let is_gone = |date: Date| !computed.contains(&date) && !left.contains(&date);
        let mut gone = BTreeSet::new();
        for file in self.before.files.iter().filter(|file| file.partition_value.is_none_or(is_gone)) {
            totals.removed += file.rows;
            done.change.remove.push(file.clone());
            gone.insert(file.partition_value);
        }
        done.report.days_changed += gone.len() as u64;
        for (held, change) in self.breakdowns.iter().zip(&mut done.breakdowns) {
            done.report.breakdowns_changed += held.remove(is_gone, change);
        }
        done.report = RunReport {
            rows_added: totals.added,
            rows_changed: totals.changed,
            rows_removed: totals.removed,
            rows_finalised: totals.finalised,
            ..done.report
        };
        Ok(ControlFlow::Break(done))
    }

    /// Compares a day with the table and, where it changed, writes it and adds its files to `change`.
    async fn settle(&self, day: &Day, who: &Who, change: &mut Change) -> Result<Changes> {
        if day.rows() == 0 && self.before.files_of(day.date).is_empty() {
            return Ok(Changes::default());
        }
        let old = standing(self.rollup, self.before, &self.shared.context, day.date).await?;
        let revised = revise(day, who, &old, self.watermark_us, self.now)?;
        if !revised.changes.any() || self.is_dry {
            return Ok(revised.changes);
        }
        change.add.extend(write(self.rollup, day.date, revised.batch).await?);
        change.remove.extend(self.before.files_of(day.date));
        Ok(revised.changes)
    }

    /// As `settle`, of each breakdown; gives how many of them changed.
    async fn settle_breakdowns(&self, day: &Day, who: &Who, changes: &mut [Change]) -> Result<u64> {
        let settles = self.breakdowns.iter().zip(&day.breakdowns).zip(changes).map(|((held, rows), change)| {
            let change = (!self.is_dry).then_some(change);
            held.settle(&self.shared.context, day.date, who, rows, change)
        });
        let changed = try_join_all(settles).await?.into_iter().map(u64::from).sum();
        Ok(changed)
    }
}
