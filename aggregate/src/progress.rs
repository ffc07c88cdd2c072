//! What a run tells those who wait for it, and what it says in the end.

use std::time::Duration;

use jiff::civil::Date;
use serde::Serialize;

/// Hears how a run gets on. Called from the run's own task; must not block.
pub trait Progress: Send + Sync {
    /// The run will compute this many days.
    fn planned(&self, days: u64) {
        let _ = days;
    }

    /// A day is done; `changed` where its rows differ from the table's. A run that starts again begins with `planned`.
    fn day(&self, date: Date, changed: bool) {
        let _ = (date, changed);
    }
}

impl Progress for () {}

/// What a run did. All counts are of the attempt that committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunReport {
    /// Version of `events` that the rollup now stands for; `None` where there is no such table yet.
    pub events_version: Option<i64>,
    /// Version of `rollup_daily` that the run committed; `None` where there was nothing to do.
    pub table_version: Option<i64>,
    /// Days computed; 0 where nothing was new.
    pub days_read: u64,
    /// Days whose rows changed.
    pub days_changed: u64,
    /// Rows of the rollup.
    pub rows: u64,
    /// Rows that were not there before.
    pub rows_added: u64,
    /// Rows with another content than before.
    pub rows_changed: u64,
    /// Rows whose events are gone.
    pub rows_removed: u64,
    /// Rows that became final as they were.
    pub rows_finalised: u64,
    /// Distinct events of the days computed; 0 where nothing was new.
    pub events: u64,
    /// Further copies of the same events, on the days computed.
    pub duplicates_removed: u64,
    /// People with an event, on any day.
    pub people: u64,
    /// Values that did not fit their column and were cut to the greatest that does.
    pub saturated: u64,
    /// Dates of breakdowns whose rows changed, over all of these tables.
    pub breakdowns_changed: u64,
    /// Days of organisations whose change was told in `rollup_revisions`.
    pub revisions: u64,
    /// Dates of derived tables that were computed, over all of these tables.
    pub derived_computed: u64,
    /// Of these, dates whose rows changed.
    pub derived_changed: u64,
    /// Tries until the commit landed; more than 1 where another aggregator was faster.
    pub attempts: usize,
    /// Wall time, where the caller measured it and put it here: a run reads no clock.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Option<Duration>,
}

/// Seconds with three places.
fn seconds<S: serde::Serializer>(elapsed: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    elapsed.map(|elapsed| (elapsed.as_secs_f64() * 1000.0).round() / 1000.0).serialize(serializer)
}
