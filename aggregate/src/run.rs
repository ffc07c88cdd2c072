//! What can be asked of the aggregator: bring the tables in line with what is new, compute days again, compare.

use jiff::{Timestamp, civil::Date};
use lake::Lake;
use schemas::{OrgId, rollup::DEFINITION_VERSION};

use crate::{
    Error, Progress, Result, RunReport,
    attempt::{Job, What},
    calendar::OrgCalendar,
    derive::{Mode, Tally, derive},
    feed::follow,
    memory::{Given, Memory},
};

/// Times that a comparison is put off because new events came in after the rollup was brought up to date.
const COMPARISONS_MAX: usize = 32;

/// Version of what this code makes of the same events and definitions; goes up with any change of its results.
const ALGORITHM_VERSION: i64 = 1;

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
    let digest = orgs.digest(definition_digest());
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

/// Of what this code and its definitions make of events.
pub(crate) fn definition_digest() -> i64 {
    DEFINITION_VERSION << 16 | ALGORITHM_VERSION
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
    /// Of this organisation alone; `None` = of all.
    pub org: Option<OrgId>,
    /// Only says what would change.
    pub dry_run: bool,
}

impl Rebuild {
    pub(crate) fn is_of_all_days(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// Computes days again, those that have new events, and those after them that come out otherwise by it. What the days take from those
/// before (plans, first active days) is taken from the table, unless all days are computed. Where they are of all organisations, all derived
/// tables are computed, too; else those dates of them that follow from days that changed. A dry run says nothing of derived tables.
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
