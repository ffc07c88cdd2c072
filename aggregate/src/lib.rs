//! The aggregator: from `events` to `rollup_daily` and its breakdowns, and from that to the tables that people ask for.
//!
//! ```text
//! events ──sorted scan──► walk ──rows of a day──► people ──► revise ──changed days──► one table commit
//!              ▲           │ (pure)                (plan)     (states, revisions)        files + version of events
//!            plan          └── program: measures as steps per event type
//!         (days → files)       calendar: days in each organisation's zone
//! ```
//!
//! | file | what |
//! |---|---|
//! | `calendar` | days as half-open intervals of instants, exact in every zone |
//! | `program`, `columns`, `accumulator` | measures compiled; a batch downcast; a row growing |
//! | `merge` | rows of many files in one order, where they lie |
//! | `walk` | the state machine; duplicates |
//! | `cells` | the parts of a row by model, tool, feature, language: rows of breakdowns |
//! | `rows`, `values`, `people`, `revise` | rows in columns; plan and first day; what changed, states and revisions |
//! | `scope`, `plan` | which days, and whose rows of them; which files for them |
//! | `compute`, `standing`, `breakdown` | reading, walking, comparing; rows that a table has; tables of breakdowns |
//! | `run`, `attempt`, `steps` | what can be asked for; snapshots and the commits; what the tables stand for, as their transactions say |
//! | `feed`, `told` | what each version of the rollup changed: revisions, and final rows that were restated |
//! | `derive` | the tables that follow from `rollup_daily` by SQL, each kept in line with what it reads |
//! | `memory`, `definition` | what a run knows from the one before; what a table was computed by |
//! | `serve`, `metrics`, `status` | the service |
//!
//! `definitions/` holds what is computed, as data: measures, breakdowns, derived tables and their SQL.
//!
//! Invariants:
//! 1. The rollup follows from `events`, the calendar and the definitions alone; it can be dropped and rebuilt. Only `state`, `revision`,
//!    `watermark` and `computed_at` have a history.
//! 2. NULL is not 0: a measure is null unless one of its families is instrumented: declared for the client, said by its
//!    `telemetry.status`, or seen in the row.
//! 3. Memory holds one person's rows, ties of one instant, the rows of the days in work, and some 60 bytes per person. Not the events.
//! 4. A run costs what is new: it computes the days that new events touch, and what it gives is what computing all days would.

mod accumulator;
mod attempt;
mod breakdown;
mod calendar;
mod cells;
mod columns;
mod compute;
mod definition;
mod derive;
mod feed;
mod memory;
mod merge;
mod metrics;
mod people;
mod plan;
mod program;
mod progress;
mod revise;
mod rows;
mod run;
mod scope;
mod serve;
mod standing;
mod status;
mod steps;
#[cfg(test)]
mod tests;
mod told;
mod values;
mod walk;

pub use calendar::{DEFAULT_ALLOWED_LATENESS_HOURS, OrgCalendar, OrgDays};
pub use memory::Memory;
pub use metrics::Metrics;
pub use progress::{Progress, RunReport};
pub use run::{Rebuild, rebuild, refresh, roll_up, run, verify};
pub use serve::{Calendars, Lease, Service, Settings};
pub use status::{Status, status};

/// Columns of `events` that a rollup reads, in no particular order; of no other does it know the contents.
#[must_use]
pub fn columns_read() -> Vec<&'static str> {
    program::Programs::new().scan_columns()
}

/// What a rollup operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a rollup failed. The table is as it was: a run changes it in one commit or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A table could not be read or written; try again later.
    #[error("table `{table}` failed")]
    Table {
        /// Name of the table.
        table: &'static str,
        /// What happened.
        #[source]
        source: lake::Error,
    },
    /// The rollup was computed, but not committed.
    #[error("the rollup could not be committed")]
    Commit {
        /// Why.
        #[source]
        source: lake::CommitError,
    },
    /// A table stands for older versions of what it follows from, or another calendar: what a comparison would find, says nothing.
    #[error("table `{table}` is behind what it follows from: new events come in faster; try again when it is quieter")]
    Behind {
        /// Name of the table.
        table: &'static str,
    },
    /// A scan failed.
    #[error("a scan failed")]
    Scan(#[source] datafusion::error::DataFusionError),
    /// A file does not hold what the table's schema says.
    #[error("column `{name}` {detail}")]
    Column {
        /// Column.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file is not sorted as the table promises: rewrite it, the rollup would be wrong.
    #[error("a file of `events` is not in the order of the table's sort columns")]
    Unsorted,
    /// A file of `events` belongs to no day.
    #[error("file `{path}` of `events` has no event_date")]
    Partition {
        /// Path of the file below the table.
        path: String,
    },
    /// An event date is too far off to be one.
    #[error("event_date {date} of `events` is outside the years -9000 to 9000")]
    Date {
        /// The date.
        date: String,
    },
    /// There is no such time zone.
    #[error("`{name}` is no IANA time zone")]
    TimeZone {
        /// As given.
        name: String,
        /// Why.
        #[source]
        source: jiff::Error,
    },
    /// The organisations' days are not known; try again later.
    #[error("the organisations' time zones could not be read")]
    Calendar(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is not known whether this process is to work; try again later.
    #[error("the lease of the rollup could not be taken")]
    Lease(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A setting makes no sense.
    #[error("aggregate.{setting}: {detail}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong.
        detail: &'static str,
    },
    /// A pass panicked or was cancelled.
    #[error("a pass over events ended early")]
    Task {
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Scan(error.into())
    }
}

impl Error {
    fn table(spec: &'static schemas::TableSpec) -> impl Fn(lake::Error) -> Self {
        |source| Self::Table { table: spec.name, source }
    }

    /// Another aggregator committed first: what it left is the place to start again from.
    fn is_lost_race(&self) -> bool {
        matches!(self, Self::Commit { source: lake::CommitError::Fenced { .. } | lake::CommitError::Conflict { .. } })
    }
}
