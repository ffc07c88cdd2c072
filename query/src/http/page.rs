//! A page of rows: out of memory where its files are there, else by the engine, through the fence.
//!
//! Either way it is the same bytes, so that an ETag stands for one answer.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, make_array, new_null_array},
    compute::{cast, concat_batches, is_not_null, kernels::zip::zip},
    datatypes::{DataType, Date32Type, Schema, SchemaRef},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{
    common::{Column, ScalarValue},
    functions_aggregate::expr_fn::max,
    logical_expr::Expr,
    physical_plan::SendableRecordBatchStream,
};
use futures::TryStreamExt;
use jiff::{ToSpan, civil::Date};

use super::{
    cursor::Cursor,
    rows::{Days, Request},
};
use crate::{Error, Pinned, Result, formats::Format, hot::Wanted, policy::USER_COLUMN};

/// Some rows of an answer.
pub(super) struct Page {
    pub(super) content: Content,
    pub(super) rows: usize,
    /// The key after which the next page begins, if there is a next.
    pub(super) last: Option<Vec<String>>,
}

/// Rows, in the form in which they are at hand.
pub(super) enum Content {
    /// The columns asked for.
    Batch(RecordBatch),
    /// The elements of a JSON array.
    Elements(Vec<u8>),
    /// A JSON object on each line.
    Lines(Vec<u8>),
}

impl Request<'_> {
    /// One page.
    pub(super) async fn page(&self, pinned: &Arc<Pinned>, days: Days, cursor: Option<&Cursor>) -> Result<Page> {
        let page = self.page_in_memory(pinned, days, cursor).await?;
        self.query.0.metrics.page(page.is_some());
        match page {
            Some(page) => Ok(page),
            None => self.page_of_engine(pinned, days, cursor).await,
        }
    }

    async fn page_in_memory(&self, pinned: &Arc<Pinned>, days: Days, cursor: Option<&Cursor>) -> Result<Option<Page>> {
        let Some(org) = self.access.whole(self.resource.spec) else { return Ok(None) };
        if let Some(viewer) = self.access.viewer(self.resource.spec) {
            let person = self.asked.filters.parts().iter().find(|(column, _)| *column == USER_COLUMN);
            let one = person.filter(|(_, people)| people.len() == 1).and_then(|(_, people)| people.first());
            let reads = person.is_some() || self.asked.columns.iter().any(|column| column == USER_COLUMN);
            viewer.looks_at(self.resource.spec.name, one.map(String::as_str), reads).await?;
        }
        let limit = self.asked.limit;
        let wanted = Wanted {
            days: (days.from, days.to),
            conditions: self.asked.filters.parts(),
            after: cursor.map(|cursor| &cursor.after[..]),
            // One row more than asked tells whether there is a next page.
            rows_max: limit + 1,
        };
        let Some(mut found) = self.query.0.hot.find(pinned, &org, &wanted).await else { return Ok(None) };
        let more = found.rows() > limit;
        found.truncate(limit);
        let last =
            if more { Some(key(&found.last().batch(&self.resource.key).map_err(Error::Encode)?)?) } else { None };
        let columns: Vec<&str> = self.asked.columns.iter().map(String::as_str).collect();
        let content = match self.format {
            Format::Json => Content::Elements(found.json(&columns, b",", b"").map_err(Error::Encode)?),
            Format::Ndjson => Content::Lines(found.json(&columns, b"", b"\n").map_err(Error::Encode)?),
            _ => Content::Batch(found.batch(&columns).and_then(|rows| self.shape(&rows)).map_err(Error::Encode)?),
        };
        Ok(Some(Page { content, rows: found.rows(), last }))
    }

    async fn page_of_engine(&self, pinned: &Arc<Pinned>, days: Days, cursor: Option<&Cursor>) -> Result<Page> {
        let (limit, by) = (self.asked.limit, &self.resource.key);
        let others = self.asked.columns.iter().map(String::as_str).filter(|name| !by.contains(name));
        let read: Vec<&str> = by.iter().copied().chain(others).collect();
        let rows = self.rows_of_engine(pinned, days, cursor, &read, limit + 1).await?;
        let schema = rows.schema();
        let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(Error::engine)?;
        let rows = concat_batches(&schema, &batches).map_err(Error::Encode)?;
        let page = rows.slice(0, limit.min(rows.num_rows()));
        let keys: Vec<usize> = (0..by.len()).collect();
        let last = if rows.num_rows() > limit {
            Some(key(&page.slice(limit - 1, 1).project(&keys).map_err(Error::Encode)?)?)
        } else {
            None
        };
        let (rows, page) = (page.num_rows(), self.shape(&page).map_err(Error::Encode)?);
        Ok(Page { content: Content::Batch(page), rows, last })
    }

    /// The first `rows_max` rows of the columns `read`, in order, by the engine.
    async fn rows_of_engine(
        &self,
        pinned: &Arc<Pinned>,
        days: Days,
        cursor: Option<&Cursor>,
        read: &[&str],
        rows_max: usize,
    ) -> Result<SendableRecordBatchStream> {
        let by = &self.resource.key;
        let filters = std::iter::once(column(by[0]).between(day(days.from), day(days.to)))
            .chain(self.asked.filters.expressions())
            .chain(cursor.map(|cursor| self.after(&cursor.after)));
        let mut frame = self.query.0.ctx.read_table(self.table(pinned)).map_err(Error::engine)?;
        for filter in filters {
            frame = frame.filter(filter).map_err(Error::engine)?;
        }
        let order = by.iter().map(|name| column(name).sort(true, false)).collect();
        let frame = frame
            .sort(order)
            .and_then(|frame| frame.limit(0, Some(rows_max)))
            .and_then(|frame| frame.select(read.iter().copied().map(column)))
            .map_err(Error::engine)?;
        frame.execute_stream().await.map_err(Error::engine)
    }

    /// Rows after `key` in the order of the answer.
    fn after(&self, key: &[String]) -> Expr {
        let schema = &self.resource.schema;
        let parts: Vec<(&str, Expr)> = self
            .resource
            .key
            .iter()
            .zip(key)
            .map(|(name, value)| {
                let value = match schema.field_with_name(name).expect("a column of the table").data_type() {
                    DataType::Date32 => day(value.parse().unwrap_or(Date::MAX)),
                    DataType::Int64 => Expr::Literal(ScalarValue::Int64(value.parse().ok()), None),
                    _ => Expr::Literal(ScalarValue::from(value.as_str()), None),
                };
                (*name, value)
            })
            .collect();
        // (d > D) or (d = D and ((u > U) or (u = U and …))), and d >= D, by which whole files are passed over.
        let later = parts.iter().rev().fold(None, |inner: Option<Expr>, (name, value)| {
            let greater = column(name).gt(value.clone());
            Some(match inner {
                None => greater,
                Some(inner) => greater.or(column(name).eq(value.clone()).and(inner)),
            })
        });
        let (date, first) = &parts[0];
        column(date).gt_eq(first.clone()).and(later.expect("a key has columns"))
    }

    /// The latest day with rows that may be seen.
    pub(super) async fn latest_day(&self, pinned: &Arc<Pinned>) -> Result<Option<Date>> {
        // What all see is worth remembering.
        let whole = self.access.whole(self.resource.spec).is_some();
        if whole && let Some(day) = pinned.known_latest_day(self.org) {
            return Ok(day);
        }
        let in_memory = match self.access.whole(self.resource.spec) {
            Some(org) => self.query.0.hot.latest_day(pinned, &org).await,
            None => None,
        };
        let day = match in_memory {
            Some(day) => day,
            None => self.latest_day_of_engine(pinned).await?,
        };
        if whole {
            pinned.learn_latest_day(self.org, day);
        }
        Ok(day)
    }

    async fn latest_day_of_engine(&self, pinned: &Pinned) -> Result<Option<Date>> {
        let latest = max(column(self.resource.key[0]));
        let table = self.query.0.ctx.read_table(self.table(pinned)).map_err(Error::engine)?;
        let frame = table.aggregate(vec![], vec![latest]).map_err(Error::engine)?;
        let batches = frame.collect().await.map_err(Error::engine)?;
        let days = batches.first().map(|batch| batch.column(0).as_primitive::<Date32Type>().clone());
        Ok(days.filter(|days| !days.is_empty() && days.is_valid(0)).map(|days| date(days.value(0))))
    }

    /// The table as this request may see it: through the fence, always.
    fn table(&self, pinned: &Pinned) -> Arc<dyn datafusion::catalog::TableProvider> {
        pinned.provider(self.access)
    }

    /// Schema of the answer: the table's, with its comments, cut to the columns asked for.
    fn schema(&self) -> SchemaRef {
        let fields = self.resource.schema.fields();
        let field = |name: &String| fields.find(name).expect("checked when parsed").1.clone();
        Arc::new(Schema::new(self.asked.columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn shape(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema = self.schema();
        let columns = schema.fields().iter().map(|field| {
            let column = batch.column(batch.schema_ref().index_of(field.name())?);
            let column = cast(column, field.data_type())?;
            if self.format == Format::Arrow { without_traces(&column) } else { Ok(column) }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema, columns)
    }
}

/// The same column, with nothing but zeros where it has no values: Arrow's bytes show what lay there, and the same rows are to be the same bytes.
fn without_traces(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if let Some(truths) = column.as_boolean_opt() {
        // Eight share a byte, those of the rows behind too.
        return Ok(Arc::new(truths.iter().collect::<BooleanArray>()));
    }
    if column.null_count() == 0 {
        return Ok(make_array(column.to_data().into_builder().nulls(None).build()?));
    }
    zip(&is_not_null(column)?, column, &Scalar::new(new_null_array(column.data_type(), 1)))
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// Days since 1970-01-01, as Arrow counts them.
fn day(date: Date) -> Expr {
    let days = date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days());
    Expr::Literal(ScalarValue::Date32(Some(days)), None)
}

/// The inverse of [`day`], for days that the calendar has.
fn date(days: i32) -> Date {
    Date::constant(1970, 1, 1).saturating_add(days.days())
}

/// The one row of `batch`, as texts.
fn key(batch: &RecordBatch) -> Result<Vec<String>> {
    let options = FormatOptions::new();
    let text = |column: &ArrayRef| {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(Error::Encode)?;
        Ok(formatter.value(0).to_string())
    };
    batch.columns().iter().map(text).collect()
}
