//! How far the rollup is, from the tables alone.

use arrow::{array::AsArray, compute::cast, datatypes::DataType};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::Lake;
use schemas::{EVENTS, rollup::ROLLUP_DAILY};
use serde::Serialize;

use crate::{
    Error, Result,
    revise::{FINAL, PROVISIONAL},
    steps::events_app_id,
};

/// How far the rollup is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Newest version of `events`; `None` where there is no such table yet.
    pub events_version: Option<i64>,
    /// Version of `events` that the rollup stands for; `None` where it was never computed from this table.
    pub rolled_up_version: Option<i64>,
    /// Version of `rollup_daily`; `None` where there is no such table yet.
    pub rollup_version: Option<i64>,
    /// Rows of the rollup.
    pub rows: u64,
    /// Days with rows.
    pub days: u64,
    /// First day with rows.
    pub first_day: Option<Date>,
    /// Last day with rows.
    pub last_day: Option<Date>,
    /// Rows that may still change as a matter of course.
    pub provisional_rows: u64,
    /// Rows whose lateness has passed.
    pub final_rows: u64,
    /// Rows that changed after they were final.
    pub restated_rows: u64,
}

impl Status {
    /// The rollup stands for the newest version of `events`.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.events_version == self.rolled_up_version
    }
}

/// Reads how far the rollup is.
///
/// # Errors
/// Where a table cannot be read.
pub async fn status(lake: &Lake) -> Result<Status> {
    let mut status = Status::default();
    let events = lake.table(&EVENTS).head().await.map_err(Error::table(&EVENTS))?;
    status.events_version = events.as_ref().map(lake::Head::version);
    let table = lake.table(&ROLLUP_DAILY);
    if table.head().await.map_err(Error::table(&ROLLUP_DAILY))?.is_none() {
        return Ok(status);
    }
    let rollup = table.snapshot().await.map_err(Error::table(&ROLLUP_DAILY))?;
    let app_id = events.map(|events| events_app_id(events.table_id()));
    status.rollup_version = Some(rollup.version);
    status.rolled_up_version = app_id.and_then(|app_id| rollup.txns.get(&app_id).copied());
    let days = rollup.dates();
    status.days = days.len() as u64;
    (status.first_day, status.last_day) = (days.first().copied(), days.last().copied());
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let frame = context.read_table(rollup.provider()).and_then(|frame| frame.select_columns(&["state"]));
    let mut stream = frame.map_err(Error::Scan)?.execute_stream().await.map_err(Error::Scan)?;
    while let Some(batch) = stream.try_next().await.map_err(Error::Scan)? {
        let states = cast(batch.column(0), &DataType::Utf8).map_err(|error| Error::Scan(error.into()))?;
        for state in states.as_string::<i32>().iter().flatten() {
            match state {
                PROVISIONAL => status.provisional_rows += 1,
                FINAL => status.final_rows += 1,
                _ => status.restated_rows += 1,
            }
            status.rows += 1;
        }
    }
    Ok(status)
}
