//! Tests of the aggregator: the walk against an independent recompute, days against the time zone database, and whole runs on tables
//! in memory.

mod calendar;
mod derive;
mod draws;
mod feed;
mod meaning;
mod naive;
mod refresh;
mod serve;
mod table;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch,
        StringArray, TimestampMicrosecondArray,
    },
    compute::concat_batches,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{
    execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter, prelude::SessionContext,
};
use futures::TryStreamExt as _;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use lake::Lake;
use schemas::{ColumnType, EVENTS, TableSpec, breakdown, epoch_days, rollup::ROLLUP_DAILY, tables::EVENT_COLUMNS};

use crate::{calendar::OrgCalendar, merge::merge, people::People, plan::passes, program::Programs, walk::Walk};

/// A value of a column of `events`.
#[derive(Clone, Debug, PartialEq)]
enum Val {
    T(String),
    I(i64),
    B(bool),
    /// Units of 10^-6.
    D(i128),
}

/// An event: the columns that are not null.
type Ev = BTreeMap<&'static str, Val>;

/// Rows by key (organisation, date, person, product, client type), each its other columns as text; null as `NULL`.
type Rows = BTreeMap<(String, String, String, String, String), BTreeMap<String, String>>;

/// Rows of a table, each its columns as text; null as `NULL`.
type Table = BTreeSet<BTreeMap<String, String>>;

fn us(text: &str) -> i64 {
    text.parse::<Timestamp>().expect("a time").as_microsecond()
}

fn t(text: &str) -> Val {
    Val::T(text.into())
}

/// An event of `user` of `org` at a time, recorded a second later, of a kind such as `prompt.submitted`.
fn event(org: &str, user: &str, time_us: i64, id: i64, kind: &str, more: &[(&'static str, Val)]) -> Ev {
    let mut event = Ev::from([
        ("org_id", t(org)),
        ("user_key", t(user)),
        ("client_type", t("ide")),
        ("event_time", Val::I(time_us)),
        ("recorded_time", Val::I(time_us + 1_000_000)),
        ("event_id", Val::I(id)),
        ("source", t("urn:test")),
        ("event_type", Val::T(format!("dev.daybook.{kind}.v1"))),
        ("vantage", t("client")),
        ("log_partition", Val::I(0)),
        ("log_offset", Val::I(id)),
        ("payload_hash", Val::I(0)),
    ]);
    event.extend(more.iter().cloned());
    event
}

fn int(event: &Ev, name: &str) -> Option<i64> {
    event.get(name).map(|value| if let Val::I(value) = value { *value } else { panic!("{name} is no number") })
}

fn text<'a>(event: &'a Ev, name: &str) -> Option<&'a str> {
    event.get(name).map(|value| if let Val::T(value) = value { value.as_str() } else { panic!("{name} is no text") })
}

fn utc_date(event: &Ev) -> Date {
    let time = Timestamp::from_microsecond(int(event, "event_time").expect("each event has a time")).expect("a time");
    time.to_zoned(TimeZone::UTC).date()
}

fn sort(events: &mut [Ev]) {
    events.sort_by_cached_key(|event| {
        let text = |name| text(event, name).expect("a sort column").to_owned();
        (text("org_id"), text("user_key"), text("client_type"), int(event, "event_time"))
    });
}

/// Events as a batch in the table's schema.
fn batch(events: &[Ev]) -> RecordBatch {
    fn int(value: Option<&Val>) -> Option<i64> {
        if let Some(Val::I(value)) = value { Some(*value) } else { None }
    }
    let column = |column: &schemas::Column| -> ArrayRef {
        let values = || events.iter().map(|event| event.get(column.name));
        match column.column_type {
            ColumnType::Date => {
                Arc::new(Date32Array::from_iter_values(events.iter().map(|event| epoch_days(utc_date(event)))))
            }
            ColumnType::Text => {
                let text =
                    |value: Option<&Val>| if let Some(Val::T(value)) = value { Some(value.clone()) } else { None };
                Arc::new(values().map(text).collect::<StringArray>())
            }
            ColumnType::Int => Arc::new(values().map(int).collect::<Int64Array>()),
            ColumnType::Int32 => {
                let narrow = |value| int(value).map(|value| i32::try_from(value).expect("a small number"));
                Arc::new(values().map(narrow).collect::<Int32Array>())
            }
            ColumnType::Bool => {
                let flag = |value: Option<&Val>| if let Some(Val::B(value)) = value { Some(*value) } else { None };
                Arc::new(values().map(flag).collect::<BooleanArray>())
            }
            ColumnType::Decimal => {
                let decimal = |value: Option<&Val>| if let Some(Val::D(value)) = value { Some(*value) } else { None };
                let array = values().map(decimal).collect::<Decimal128Array>();
                Arc::new(array.with_precision_and_scale(20, 6).expect("the contract's decimal"))
            }
            ColumnType::Time => Arc::new(values().map(int).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            ColumnType::Binary => {
                let bytes = |value: Option<&Val>| int(value).map(|id| id.to_be_bytes().to_vec());
                Arc::new(values().map(bytes).collect::<BinaryArray>())
            }
        }
    };
    RecordBatch::try_new(EVENTS.schema(), EVENT_COLUMNS.iter().map(column).collect()).expect("columns of the schema")
}

/// What a run computes.
#[derive(Debug, PartialEq)]
struct Computed {
    rows: Rows,
    /// Rows of each breakdown.
    breakdowns: Breakdowns,
    /// Values that were cut.
    saturated: u64,
}

/// Rows of each breakdown, by its name.
type Breakdowns = BTreeMap<&'static str, Table>;

/// Sorted runs of events, in batches of `batch_rows`; more of them where these are small.
fn sorted_runs(events: &[Ev], batch_rows: usize) -> Vec<SendableRecordBatchStream> {
    let count = 1 + 16 / batch_rows.max(1);
    let run = |run: usize| -> SendableRecordBatchStream {
        let mut own: Vec<Ev> = events.iter().skip(run).step_by(count).cloned().collect();
        sort(&mut own);
        let batches: Vec<_> = own.chunks(batch_rows).map(|part| Ok(batch(part))).collect();
        Box::pin(RecordBatchStreamAdapter::new(EVENTS.schema(), futures::stream::iter(batches)))
    };
    (0..count).map(run).collect()
}

/// A run without tables: passes, walks over runs in batches of `batch_rows`, people.
fn compute(events: &[Ev], calendar: &OrgCalendar, batch_rows: usize) -> Computed {
    let programs = Programs::new();
    let mut files = BTreeMap::new();
    for event in events {
        *files.entry(utc_date(event)).or_insert(0) += 1;
    }
    let specs = breakdown::specs();
    let breakdowns = specs.iter().map(|spec| (spec.name, Table::new())).collect();
    let (mut computed, mut people) = (Computed { rows: Rows::new(), breakdowns, saturated: 0 }, People::default());
    for pass in passes(&files, calendar, None).expect("dates of our years") {
        let read: Vec<Ev> = events.iter().filter(|event| pass.utc_dates.contains(&utc_date(event))).cloned().collect();
        let mut walk = Walk::new(&programs, calendar, &pass.who, pass.first, pass.days);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let merged = runtime.block_on(merge(sorted_runs(&read, batch_rows), &mut walk));
        merged.expect("sorted rows of the schema");
        for mut day in walk.finish() {
            computed.saturated += day.saturated;
            assert!(!people.apply(&mut day, None), "no day is left out");
            assert_sorted(&ROLLUP_DAILY, &day.batch());
            rows_of(&day.batch(), &day.date.to_string(), &mut computed.rows);
            for (spec, rows) in specs.iter().zip(&day.breakdowns) {
                assert_sorted(spec, rows);
                let dated = texts(rows).map(|mut row| {
                    row.insert("activity_date".into(), day.date.to_string());
                    row
                });
                computed.breakdowns.get_mut(spec.name).expect("each has its rows").extend(dated);
            }
        }
    }
    computed
}

fn assert_sorted(spec: &TableSpec, batch: &RecordBatch) {
    let columns: Vec<Vec<String>> = spec.sort_columns.iter().map(|name| cells(batch, name)).collect();
    let key = |row: usize| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>();
    for row in 1..batch.num_rows() {
        assert!(key(row - 1) < key(row), "rows ascend, each key once");
    }
}

/// Rows, each its columns as text.
fn texts(batch: &RecordBatch) -> impl Iterator<Item = BTreeMap<String, String>> {
    let schema = batch.schema();
    let columns: Vec<(String, Vec<String>)> =
        schema.fields().iter().map(|field| (field.name().clone(), cells(batch, field.name()))).collect();
    (0..batch.num_rows())
        .map(move |row| columns.iter().map(|(name, column)| (name.clone(), column[row].clone())).collect())
}

/// A column as text.
fn cells(batch: &RecordBatch, name: &str) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("column {name} is there"));
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).expect("a plain column");
    (0..batch.num_rows()).map(|row| formatter.value(row).to_string()).collect()
}

fn rows_of(batch: &RecordBatch, date: &str, rows: &mut Rows) {
    let schema = batch.schema();
    let columns: BTreeMap<&str, Vec<String>> =
        schema.fields().iter().map(|field| (field.name().as_str(), cells(batch, field.name()))).collect();
    for row in 0..batch.num_rows() {
        let at = |name: &str| columns[name][row].clone();
        let key = (at("org_id"), date.to_owned(), at("user_key"), at("product"), at("client_type"));
        let in_key = ["org_id", "user_key", "product", "client_type", "activity_date"];
        let others = columns.keys().filter(|name| !in_key.contains(name)).map(|name| ((*name).to_owned(), at(name)));
        let before = rows.insert(key.clone(), others.collect());
        assert!(before.is_none(), "one row per key, {key:?}");
    }
}

/// The rows of each file of a table, and its date.
async fn read_table(lake: &Lake, spec: &'static TableSpec) -> Vec<(Date, RecordBatch)> {
    let snapshot = lake.table(spec).snapshot().await.expect("the table is there");
    let schema = spec.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut all = Vec::new();
    for file in &snapshot.files {
        let stream = snapshot.sorted_scan(&SessionContext::new(), vec![file.clone()], &names, vec![]).expect("a scan");
        let schema = stream.schema();
        let batches: Vec<_> = stream.try_collect().await.expect("the store works");
        let date = file.partition_value.expect("the table is partitioned");
        all.push((date, concat_batches(&schema, &batches).expect("one schema")));
    }
    all
}

/// The rollup's rows.
async fn rows_of_table(lake: &Lake) -> Rows {
    let mut rows = Rows::new();
    for (date, batch) in read_table(lake, &ROLLUP_DAILY).await {
        rows_of(&batch, &date.to_string(), &mut rows);
    }
    rows
}

/// Compares every column of `expected`, and names the first difference.
fn assert_same(found: &Rows, expected: &Rows) {
    for (key, columns) in expected {
        let row = found.get(key).unwrap_or_else(|| panic!("row {key:?} is missing"));
        for (name, value) in columns {
            assert_eq!(row.get(name), Some(value), "column {name} of {key:?}");
        }
    }
    for key in found.keys() {
        assert!(expected.contains_key(key), "row {key:?} should not be there");
    }
}
