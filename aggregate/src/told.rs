//! Rows of the change feed's tables.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Date32Array, Int64Array, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondArray},
    compute::concat_batches,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use lake::{Change, Swap, Table, Version};
use schemas::{
    epoch_days,
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
};

use crate::{
    Result,
    attempt::{NEW_EVENTS, ORG_REASONS_METRIC, REASON_METRIC},
    feed::{Day, Side},
    revise::{FINAL, RESTATED},
    standing::{sorted, write},
    steps::EVENTS_APP_PREFIX,
};

/// The reason of new events that make rows final and change none.
const SETTLED: &str = "settled";
/// The reason of new events for a day that was final.
const LATE_EVENTS: &str = "late_events";
/// The reason of a version that no run of ours made.
const UNKNOWN_REASON: &str = "unknown";

/// A row of `rollup_revisions`.
pub(crate) struct Revision {
    org: String,
    date: Date,
    version: i64,
    events_version: Option<i64>,
    committed_ms: i64,
    reason: String,
    day: Day,
    knows_before: bool,
    knows_after: bool,
}

impl Revision {
    pub(crate) fn new(
        version: &Version,
        date: Date,
        org: String,
        day: Day,
        (knows_before, knows_after): (bool, bool),
    ) -> Self {
        let of_org = version.metrics[ORG_REASONS_METRIC][&org].as_str();
        let of_run = of_org.or_else(|| version.metrics[REASON_METRIC].as_str()).unwrap_or(UNKNOWN_REASON);
        let is_settled = day.added + day.changed + day.removed == 0 && knows_before && knows_after;
        let reason = match of_run {
            NEW_EVENTS if is_settled => SETTLED,
            NEW_EVENTS if matches!(day.before.state(), Some(FINAL | RESTATED)) => LATE_EVENTS,
            other => other,
        };
        let events_version = version.txns.iter().find(|(app_id, _)| app_id.starts_with(EVENTS_APP_PREFIX));
        Self {
            org,
            date,
            version: version.number,
            events_version: events_version.map(|(_, version)| *version),
            committed_ms: version.committed_ms,
            reason: reason.to_owned(),
            day,
            knows_before,
            knows_after,
        }
    }
}

/// Revisions to tell.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) rows: Vec<Revision>,
}

impl Told {
    pub(crate) async fn change(self, table: &Table, swap: Swap) -> Result<Change> {
        let mut by_date: BTreeMap<Date, Vec<Revision>> = BTreeMap::new();
        for row in self.rows {
            by_date.entry(utc_date(row.committed_ms)).or_default().push(row);
        }
        append(table, swap, by_date.into_iter().map(|(date, rows)| (date, revisions(&rows)))).await
    }
}

fn revisions(rows: &[Revision]) -> RecordBatch {
    let int = |of: &dyn Fn(&Revision) -> Option<i64>| -> ArrayRef {
        let mut builder = Int64Builder::with_capacity(rows.len());
        rows.iter().for_each(|row| builder.append_option(of(row)));
        Arc::new(builder.finish())
    };
    let text = |of: &dyn Fn(&Revision) -> Option<String>| -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter().for_each(|row| builder.append_option(of(row)));
        Arc::new(builder.finish())
    };
    let before = |of: fn(&Side) -> i64| int(&|row| row.knows_before.then(|| of(&row.day.before)));
    let after = |of: fn(&Side) -> i64| int(&|row| row.knows_after.then(|| of(&row.day.after)));
    let both = |of: fn(&Day) -> i64| int(&|row| (row.knows_before && row.knows_after).then(|| of(&row.day)));
    let committed = rows.iter().map(|row| row.committed_ms * 1000).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(row.org.clone())),
        Arc::new(rows.iter().map(|row| Some(epoch_days(row.date))).collect::<Date32Array>()),
        int(&|row| Some(row.version)),
        int(&|row| row.events_version),
        Arc::new(TimestampMicrosecondArray::from(committed).with_timezone("UTC")),
        text(&|row| Some(row.reason.clone())),
        text(&|row| row.day.before.state().map(str::to_owned)),
        text(&|row| row.day.after.state().map(str::to_owned)),
        before(|side| side.rows),
        after(|side| side.rows),
        before(|side| side.events),
        after(|side| side.events),
        both(|day| day.added),
        both(|day| day.changed),
        both(|day| day.removed),
        both(|day| day.finalised),
    ];
    RecordBatch::try_new(ROLLUP_REVISIONS.file_schema(), columns).expect("columns of the schema")
}

/// Rows that were final, by the version that has others: version, when it was committed (ms), rows with all columns of `rollup_daily`.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) rows: Vec<(i64, i64, RecordBatch)>,
}

impl Kept {
    pub(crate) async fn change(self, table: &Table, swap: Swap) -> Result<Change> {
        let schema = ROLLUP_SUPERSEDED.file_schema();
        let mut by_date: BTreeMap<Date, Vec<RecordBatch>> = BTreeMap::new();
        for (version, committed_ms, rows) in self.rows {
            let count = rows.num_rows();
            let times = TimestampMicrosecondArray::from(vec![committed_ms * 1000; count]).with_timezone("UTC");
            let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![version; count])), Arc::new(times)];
            columns.extend_from_slice(rows.columns());
            let rows = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            by_date.entry(utc_date(committed_ms)).or_default().push(rows);
        }
        let rows = by_date.into_iter().map(|(date, batches)| Ok((date, concat_batches(&schema, &batches)?)));
        append(table, swap, rows.collect::<Result<Vec<_>>>()?.into_iter()).await
    }
}

/// A change that adds rows, by date, in any order.
async fn append(table: &Table, swap: Swap, rows: impl Iterator<Item = (Date, RecordBatch)>) -> Result<Change> {
    let mut change = Change { operation: "WRITE", data_change: true, swaps: vec![swap], ..Change::default() };
    for (date, rows) in rows {
        change.add.extend(write(table, date, sorted(table.spec(), &rows)?).await?);
    }
    Ok(change)
}

fn utc_date(ms: i64) -> Date {
    Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(TimeZone::UTC).date()
}
