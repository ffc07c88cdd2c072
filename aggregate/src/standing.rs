//! The rows that a table has for a date: what a date computed anew is compared with.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, RecordBatch, new_null_array},
    compute::concat_batches,
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::{Snapshot, Table};

use crate::{Error, Result, calendar::epoch_days, columns::take};

/// Rows of a date in a version of `table`, in the order of its sort columns, with all columns of its schema; those that a file of an older version
/// lacks are null.
///
/// # Errors
/// Where the table cannot be read.
pub(crate) async fn standing(
    table: &Table,
    version: &Snapshot,
    context: &SessionContext,
    date: Date,
) -> Result<RecordBatch> {
    let spec = table.spec();
    let schema = spec.schema();
    let is_in_file = |name: &&str| Some(*name) != spec.partition_column;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).filter(is_in_file).collect();
    let files = version.files_of(date);
    let batches: Vec<RecordBatch> = match files.len() {
        0 => Vec::new(),
        // A file is sorted by itself, and a date has mostly one: no plan is needed to read it.
        1 => table.read_newest(files, &names).try_collect().await.map_err(Error::table(spec))?,
        _ => {
            let stream = version.sorted_scan(context, files, &names, Vec::new()).map_err(Error::table(spec))?;
            stream.try_collect().await.map_err(Error::Scan)?
        }
    };
    let Some(first) = batches.first() else { return Ok(RecordBatch::new_empty(schema)) };
    let wrong = |error: arrow::error::ArrowError| Error::Scan(error.into());
    let rows = concat_batches(&first.schema(), &batches).map_err(wrong)?;
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(_) => take(&rows, field.name(), field.data_type()),
        None if Some(field.name().as_str()) == spec.partition_column => {
            Ok(Arc::new(Date32Array::from(vec![epoch_days(date); rows.num_rows()])) as ArrayRef)
        }
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(&schema), columns).map_err(wrong)
}
