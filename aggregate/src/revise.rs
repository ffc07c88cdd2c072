//! A day computed anew against the day as it stands in the table: which rows changed, and what they become.
//!
//! A row's *content* is all that follows from events, calendar and definitions. Its *history* is `state`, `revision`, `watermark`,
//! `computed_at`. Settled means: the watermark has passed the day's end by the allowed lateness.
//!
//! | row in the table | content | row becomes |
//! |---|---|---|
//! | none, and the organisation's day was not final | | revision 1, final if settled, else provisional |
//! | none, but the organisation's day was final | | revision 1, restated: it was missing from a final day |
//! | provisional | the same | as it is; once settled, final at the same revision, with the watermark that settled it |
//! | provisional | another | revision + 1, final if settled, else provisional |
//! | final, restated | the same | as it is: once final, never provisional again |
//! | final, restated | another | revision + 1, restated |
//! | any | gone | gone |
//!
//! Where nothing changed, nothing is written: a rollup run twice is a rollup run once. Of a day computed for some people, the rows of all
//! others stay as they are.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray, DynComparator, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
        make_comparator,
    },
    compute::{SortOptions, interleave},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use jiff::Timestamp;
use schemas::rollup::ROLLUP_DAILY;

use crate::{Error, Result, columns::take, rows::Day, scope::Who};

/// Columns that are a row's history.
pub(crate) const HISTORY: [&str; 4] = ["state", "revision", "watermark", "computed_at"];

pub(crate) const PROVISIONAL: &str = "provisional";
pub(crate) const FINAL: &str = "final";
pub(crate) const RESTATED: &str = "restated";

/// How the rows of a day changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    /// Became final without a change of content.
    pub(crate) finalised: u64,
}

impl std::ops::Add for Changes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            changed: self.changed + other.changed,
            removed: self.removed + other.removed,
            finalised: self.finalised + other.finalised,
        }
    }
}

impl Changes {
    pub(crate) fn any(self) -> bool {
        self != Self::default()
    }
}

/// A day's rows with all columns of the table, and how they differ from what is there.
pub(crate) struct Revised {
    /// In the order of the table's schema, sorted by its sort columns.
    pub(crate) batch: RecordBatch,
    pub(crate) changes: Changes,
}

/// Rows of the table, their key and history at hand.
pub(crate) struct Standing {
    pub(crate) rows: usize,
    pub(crate) key: Vec<StringArray>,
    user: StringArray,
    pub(crate) state: StringArray,
    pub(crate) revision: Int64Array,
    watermark: TimestampMicrosecondArray,
    computed_at: TimestampMicrosecondArray,
    /// `events_received`.
    pub(crate) events: Int64Array,
}

impl Standing {
    pub(crate) fn new(batch: &RecordBatch) -> Result<Self> {
        let text = |name: &str| Ok::<_, Error>(column(batch, name)?.as_string::<i32>().clone());
        let time = |name: &str| Ok::<_, Error>(column(batch, name)?.as_primitive::<TimestampMicrosecondType>().clone());
        Ok(Self {
            rows: batch.num_rows(),
            key: ROLLUP_DAILY.sort_columns.iter().map(|name| text(name)).collect::<Result<_>>()?,
            user: text("user_key")?,
            state: text("state")?,
            revision: column(batch, "revision")?.as_primitive::<Int64Type>().clone(),
            watermark: time("watermark")?,
            computed_at: time("computed_at")?,
            events: column(batch, "events_received")?.as_primitive::<Int64Type>().clone(),
        })
    }
}

/// Compares the keys of two rows, each given as the columns of keys and its place in them.
pub(crate) fn cmp_keys(left: &[StringArray], row: usize, right: &[StringArray], other: usize) -> Ordering {
    let columns = left.iter().zip(right).map(|(left, right)| left.value(row).cmp(right.value(other)));
    columns.fold(Ordering::Equal, Ordering::then)
}

/// A column in the type of the table's schema.
fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let schema = ROLLUP_DAILY.schema();
    take(batch, name, schema.field_with_name(name).expect("named by the contract").data_type())
}

/// The rows of `day` as they become, given the rows `old` that the table has for it (sorted likewise, with all columns but, maybe,
/// newer ones).
///
/// # Errors
/// Where `old` lacks a column of key or history, or is out of order.
pub(crate) fn revise(day: &Day, who: &Who, old: &RecordBatch, watermark_us: i64, now: Timestamp) -> Result<Revised> {
    let standing = Standing::new(old)?;
    let content = day.batch();
    let key: Vec<StringArray> =
        ROLLUP_DAILY.sort_columns.iter().map(|name| day.columns[name].as_string::<i32>().clone()).collect();
    let equal = Equality::new(&content, old)?;
    let final_orgs: HashSet<&str> = (0..standing.rows)
        .filter(|row| standing.state.value(*row) != PROVISIONAL)
        .map(|row| standing.key[0].value(row))
        .collect();
    let mut changes = Changes::default();
    let (mut state, mut revision) = (Vec::with_capacity(day.rows()), Vec::with_capacity(day.rows()));
    let (mut watermark, mut computed_at) = (Vec::with_capacity(day.rows()), Vec::with_capacity(day.rows()));
    let is_computed = |row: usize| who.has(standing.key[0].value(row), standing.user.value(row));
    // Where each row of the outcome comes from: (0, row of the day) or (1, row of the table).
    let mut sources = Vec::with_capacity(day.rows());
    let pass_over = |row: usize, changes: &mut Changes, sources: &mut Vec<(usize, usize)>| {
        if is_computed(row) {
            changes.removed += 1;
        } else {
            sources.push((1, row));
        }
    };
    let mut next_old = 0;
    for row in 0..day.rows() {
        let found = loop {
            if next_old == standing.rows {
                break None;
            }
            match cmp_keys(&key, row, &standing.key, next_old) {
                Ordering::Less => break None,
                Ordering::Equal => break Some(next_old),
                Ordering::Greater => {
                    pass_over(next_old, &mut changes, &mut sources);
                    next_old += 1;
                }
            }
        };
        next_old += usize::from(found.is_some());
        sources.push((0, row));
        let settled = watermark_us >= day.final_at[row];
        let fresh = if settled { FINAL } else { PROVISIONAL };
        let (next_state, next_revision, as_it_is) = match found {
            None => {
                changes.added += 1;
                (if final_orgs.contains(key[0].value(row)) { RESTATED } else { fresh }, 1, None)
            }
            Some(old) if equal.rows(row, old) => {
                let before = standing.state.value(old);
                let becomes_final = before == PROVISIONAL && settled;
                changes.finalised += u64::from(becomes_final);
                let watermark = if becomes_final { watermark_us } else { standing.watermark.value(old) };
                let history = (watermark, standing.computed_at.value(old));
                (if becomes_final { FINAL } else { state_name(before) }, standing.revision.value(old), Some(history))
            }
            Some(old) => {
                changes.changed += 1;
                let next = if standing.state.value(old) == PROVISIONAL { fresh } else { RESTATED };
                (next, standing.revision.value(old) + 1, None)
            }
        };
        let (row_watermark, row_computed_at) = as_it_is.unwrap_or((watermark_us, now.as_microsecond()));
        state.push(next_state);
        revision.push(next_revision);
        watermark.push(row_watermark);
        computed_at.push(row_computed_at);
    }
    for row in next_old..standing.rows {
        pass_over(row, &mut changes, &mut sources);
    }
    let times = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let history: [ArrayRef; 4] = [
        Arc::new(StringArray::from(state)),
        Arc::new(Int64Array::from(revision)),
        times(watermark),
        times(computed_at),
    ];
    let fresh = assemble(&content, &history);
    let batch = if sources.len() == day.rows() { fresh } else { merge(&fresh, old, &sources)? };
    Ok(Revised { batch, changes })
}

/// Rows of `fresh` (0) and of the table (1) as `sources` says, in the schema of `fresh`.
fn merge(fresh: &RecordBatch, old: &RecordBatch, sources: &[(usize, usize)]) -> Result<RecordBatch> {
    let columns = fresh.schema_ref().fields().iter().zip(fresh.columns()).map(|(field, new)| {
        let before = column(old, field.name())?;
        interleave(&[new.as_ref(), before.as_ref()], sources)
            .map_err(|error| Error::Column { name: field.name().clone(), detail: error.to_string() })
    });
    let columns = columns.collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(fresh.schema(), columns).expect("columns of one length, of the schema's types"))
}

/// All columns of the table but the partition column, which lies in the path.
fn assemble(content: &RecordBatch, history: &[ArrayRef; 4]) -> RecordBatch {
    let schema = ROLLUP_DAILY.file_schema();
    let columns = schema.fields().iter().map(|field| {
        let history = HISTORY.iter().position(|name| name == field.name()).map(|index| &history[index]);
        let found = history.or_else(|| content.column_by_name(field.name()));
        Arc::clone(found.expect("the walk, the plans and the history fill every column of the table"))
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("columns of one length, of the schema's types")
}

fn state_name(state: &str) -> &'static str {
    match state {
        FINAL => FINAL,
        RESTATED => RESTATED,
        _ => PROVISIONAL,
    }
}

/// Compares rows of new content with rows of the table.
struct Equality {
    /// `None` where the table lacks a column: then every row differs.
    columns: Option<Vec<DynComparator>>,
}

impl Equality {
    fn new(content: &RecordBatch, old: &RecordBatch) -> Result<Self> {
        let mut columns = Vec::new();
        for (field, new) in content.schema_ref().fields().iter().zip(content.columns()) {
            if old.column_by_name(field.name()).is_none() {
                return Ok(Self { columns: None });
            }
            let before = column(old, field.name())?;
            let wrong = |error: arrow::error::ArrowError| Error::Column {
                name: field.name().clone(),
                detail: error.to_string(),
            };
            columns.push(make_comparator(new, &before, SortOptions::default()).map_err(wrong)?);
        }
        Ok(Self { columns: Some(columns) })
    }

    fn rows(&self, new: usize, old: usize) -> bool {
        self.columns.as_ref().is_some_and(|columns| columns.iter().all(|compare| compare(new, old).is_eq()))
    }
}
