//! The rows that a table has for a date: what a date computed anew is compared with, and what it takes the place of.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, RecordBatch, new_null_array},
    compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
    datatypes::Schema,
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::{DataFile, Snapshot, Table};
use schemas::{TableSpec, epoch_days};

use crate::{Error, Result, columns::take};

/// Rows of one file.
const FILE_ROWS_MAX: usize = 500_000;

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
    let schema = spec.file_schema();
    let names = names(&schema);
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
    filled(spec, &batches, date)
}

/// Names of a schema's columns.
pub(crate) fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// Rows as they were read from files of a date, in one batch with all columns of the table's schema; those that a file lacks are null.
///
/// # Errors
/// Where a column has another type than the schema says.
pub(crate) fn filled(spec: &TableSpec, batches: &[RecordBatch], date: Date) -> Result<RecordBatch> {
    let schema = spec.schema();
    let Some(first) = batches.first() else { return Ok(RecordBatch::new_empty(schema)) };
    let rows = concat_batches(&first.schema(), batches)?;
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(_) => take(&rows, field.name(), field.data_type()),
        None if Some(field.name().as_str()) == spec.partition_column => {
            Ok(Arc::new(Date32Array::from(vec![epoch_days(date); rows.num_rows()])) as ArrayRef)
        }
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
}

/// Rows in the order of the table's sort columns.
///
/// # Errors
/// Where a sort column is missing.
pub(crate) fn sorted(spec: &TableSpec, rows: &RecordBatch) -> Result<RecordBatch> {
    let column = |name: &&str| {
        let missing = || Error::Column { name: (*name).to_owned(), detail: "is missing".to_owned() };
        let values = Arc::clone(rows.column_by_name(name).ok_or_else(missing)?);
        Ok::<_, Error>(SortColumn { values, options: None })
    };
    let columns = spec.sort_columns.iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(take_record_batch(rows, &lexsort_to_indices(&columns, None)?)?)
}

/// The columns that lie in a file: all but the partition column, which is a table's first.
pub(crate) fn without_date(rows: &RecordBatch) -> RecordBatch {
    let kept: Vec<usize> = (1..rows.num_columns()).collect();
    rows.project(&kept).expect("its own columns")
}

/// Writes the rows of a date; gives their files.
///
/// # Errors
/// Where the table cannot be written.
pub(crate) async fn write(table: &Table, date: Date, rows: RecordBatch) -> Result<Vec<DataFile>> {
    let count = rows.num_rows();
    let mut files = Vec::new();
    for start in (0..count).step_by(FILE_ROWS_MAX) {
        let part = rows.slice(start, FILE_ROWS_MAX.min(count - start));
        files.push(table.write_file(Some(date), &[part]).await.map_err(Error::table(table.spec()))?);
    }
    Ok(files)
}
