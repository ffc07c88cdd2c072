//! Data files: sorted Parquet, with the statistics that the log keeps about them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use jiff::{Timestamp, civil::Date};
use object_store::{ObjectStoreExt, path::Path};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    file::{metadata::SortingColumn, properties::WriterProperties},
    schema::types::ColumnPath,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{Error, Result, table::Table};

/// Rows of a row group: what a reader prunes and decodes at a time.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Smallest and greatest value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// As the log writes it: texts as they are, times as RFC 3339, numbers as JSON.
    pub min: Value,
    /// The same.
    pub max: Value,
}

/// One Parquet file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path below the table's folder.
    pub path: String,
    /// Length.
    pub size_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Day of the partition column.
    pub partition_value: Option<Date>,
    /// Ranges of the sort columns and of times, by column.
    pub ranges: BTreeMap<String, Range>,
    pub(crate) partition_column: Option<String>,
}

impl DataFile {
    /// Greatest value of a time column [µs]; rounded up to the millisecond, as the Delta protocol has it.
    #[must_use]
    pub fn max_time_us(&self, column: &str) -> Option<i64> {
        self.ranges.get(column)?.max.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
    }

    /// Smallest value of a time column [µs].
    #[must_use]
    pub fn min_time_us(&self, column: &str) -> Option<i64> {
        self.ranges.get(column)?.min.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
    }

    pub(crate) fn from_add(add: &Value) -> Result<Self> {
        let encoded = add["path"].as_str().unwrap_or_default();
        let path = crate::replay::percent_decode(encoded);
        let corrupt = |what: &str| Error::corrupt(&Path::from(path.clone()), what.to_owned());
        let size_bytes = add["size"].as_u64().ok_or_else(|| corrupt("its log entry has no size"))?;
        let (partition_column, partition_value) = match add["partitionValues"].as_object().and_then(|values| values.iter().next()) {
            Some((column, value)) => {
                let day = value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| corrupt("its partition is no date"))?;
                (Some(column.clone()), Some(day))
            }
            None => (None, None),
        };
        let stats: Value = add["stats"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let rows = stats["numRecords"].as_u64().ok_or_else(|| corrupt("its log entry does not count its rows"))?;
        let bound = |side: &str| stats[side].as_object().cloned().unwrap_or_default();
        let maxima = bound("maxValues");
        let ranges = bound("minValues").into_iter().filter_map(|(column, min)| {
            let max = maxima.get(&column)?.clone();
            Some((column, Range { min, max }))
        });
        Ok(Self { path, size_bytes, rows, partition_value, ranges: ranges.collect(), partition_column })
    }

    fn partition_values(&self) -> Map<String, Value> {
        let pair = self.partition_column.clone().zip(self.partition_value);
        pair.into_iter().map(|(column, day)| (column, day.to_string().into())).collect()
    }

    pub(crate) fn to_add(&self, data_change: bool) -> Value {
        let side = |pick: fn(&Range) -> &Value| -> Map<String, Value> {
            self.ranges.iter().map(|(column, range)| (column.clone(), pick(range).clone())).collect()
        };
        let stats = json!({
            "numRecords": self.rows, "minValues": side(|range| &range.min), "maxValues": side(|range| &range.max),
            "nullCount": self.ranges.keys().map(|column| (column.clone(), 0.into())).collect::<Map<String, Value>>(),
        });
        json!({ "path": self.path, "partitionValues": self.partition_values(), "size": self.size_bytes, "modificationTime": 0,
            "dataChange": data_change, "stats": stats.to_string() })
    }

    pub(crate) fn to_remove(&self, data_change: bool) -> Value {
        json!({ "path": self.path, "partitionValues": self.partition_values(), "size": self.size_bytes, "deletionTimestamp": 0,
            "extendedFileMetadata": true, "dataChange": data_change })
    }
}

impl Table {
    /// Writes one Parquet file of `batches`, all of the partition `partition_value` and sorted by the table's sort columns
    /// across all of them. Text columns may be dictionaries. The partition column may be there; it is left out of the file.
    /// Nobody sees the file until a commit adds it.
    ///
    /// # Errors
    /// Where rows and table do not fit, or the store does not take the file.
    pub async fn write_file(&self, partition_value: Option<Date>, batches: &[RecordBatch]) -> Result<DataFile> {
        let wrong = |detail: String| Error::Rows { table: self.name().into(), detail };
        let Some(first) = batches.first() else { return Err(wrong("there are none".into())) };
        if partition_value.is_some() != self.spec.partition_column.is_some() {
            return Err(wrong("a partition value goes with a partition column".into()));
        }
        let kept: Vec<usize> = (0..first.num_columns())
            .filter(|index| Some(first.schema_ref().field(*index).name().as_str()) != self.spec.partition_column)
            .collect();
        let batches: Vec<RecordBatch> = batches
            .iter()
            .map(|batch| batch.project(&kept).map_err(|error| wrong(error.to_string())))
            .collect::<Result<_>>()?;
        self.check_schema(&batches[0])?;
        let table = self.clone();
        let encode = move || encode(&table, &batches).map(|(bytes, ranges)| (bytes, ranges, batches.iter().map(RecordBatch::num_rows).sum::<usize>()));
        // Encoding takes seconds for a large buffer; the simulation's runtime has one thread and takes it inline.
        let multi = tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
        let (bytes, ranges, rows) = if multi {
            tokio::task::spawn_blocking(encode).await.expect("encoding does not panic")
        } else {
            encode()
        }
        .map_err(|error| wrong(error.to_string()))?;
        let name = format!("part-{}.zstd.parquet", Uuid::new_v4());
        let path = match (self.spec.partition_column, partition_value) {
            (Some(column), Some(day)) => format!("{column}={day}/{name}"),
            _ => name,
        };
        let size_bytes = bytes.len() as u64;
        let location = self.location(&path);
        self.store.put(&location, bytes.into()).await.map_err(|source| Error::store(&location, source))?;
        let partition_column = self.spec.partition_column.map(str::to_owned);
        Ok(DataFile { path, size_bytes, rows: rows as u64, partition_value, ranges, partition_column })
    }

    /// Where a file of the table lies in the store.
    pub(crate) fn location(&self, path: &str) -> Path {
        Path::from_iter(self.folder.parts().map(|part| part.as_ref().to_owned()).chain(path.split('/').map(str::to_owned)))
    }

    fn check_schema(&self, batch: &RecordBatch) -> Result<()> {
        let schema = (self.spec.schema)();
        let expected = schema.fields().iter().filter(|field| Some(field.name().as_str()) != self.spec.partition_column);
        let plain = |kind: &DataType| match kind {
            DataType::Dictionary(_, value) => (**value).clone(),
            other => other.clone(),
        };
        let found = batch.schema();
        let fits = found.fields().len() == expected.clone().count()
            && found.fields().iter().zip(expected).all(|(have, want)| have.name() == want.name() && plain(have.data_type()) == *want.data_type());
        if fits { Ok(()) } else { Err(Error::Rows { table: self.name().into(), detail: "columns differ from the table's".into() }) }
    }
}

type Encoded = (Vec<u8>, BTreeMap<String, Range>);

fn encode(table: &Table, batches: &[RecordBatch]) -> parquet::errors::Result<Encoded> {
    let schema = batches[0].schema();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("daybook ", env!("CARGO_PKG_VERSION")).to_owned());
    let sorting = table.spec.sort_columns.iter().filter_map(|column| {
        let index = i32::try_from(schema.index_of(column).ok()?).ok()?;
        Some(SortingColumn { column_idx: index, descending: false, nulls_first: false })
    });
    properties = properties.set_sorting_columns(Some(sorting.collect()));
    for field in schema.fields() {
        // Numbers and ids hardly repeat: a dictionary would be built and thrown away.
        if !matches!(field.data_type(), DataType::Dictionary(..) | DataType::Utf8 | DataType::Boolean) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false);
        }
        if table.spec.bloom_columns.contains(&field.name().as_str()) {
            properties = properties.set_column_bloom_filter_enabled(ColumnPath::from(field.name().as_str()), true);
        }
    }
    // The Arrow schema is left out: readers of other languages see plain Parquet types, whatever was a dictionary here.
    let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&schema), options)?;
    let mut ranges = BTreeMap::new();
    for batch in batches {
        writer.write(batch)?;
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            let wanted = table.spec.sort_columns.contains(&field.name().as_str()) || matches!(field.data_type(), DataType::Timestamp(..));
            if !wanted || column.null_count() > 0 || column.is_empty() {
                continue;
            }
            if let Some(range) = range(column) {
                merge(&mut ranges, field.name(), range);
            }
        }
    }
    Ok((writer.into_inner()?, ranges))
}

fn merge(ranges: &mut BTreeMap<String, Range>, column: &str, range: Range) {
    let less = |a: &Value, b: &Value| match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_str() < b.as_str(),
    };
    match ranges.get_mut(column) {
        None => {
            ranges.insert(column.to_owned(), range);
        }
        Some(have) => {
            if less(&range.min, &have.min) {
                have.min = range.min;
            }
            if less(&have.max, &range.max) {
                have.max = range.max;
            }
        }
    }
}

/// Smallest and greatest value, in the form of the log (Delta protocol, "Per-file Statistics"): timestamps have milliseconds,
/// the greatest rounded up.
fn range(column: &ArrayRef) -> Option<Range> {
    use arrow::compute::kernels::aggregate::{max, max_string, min, min_string};
    let time = |us: i64, up: bool| -> Option<Value> {
        let ms = if up { us.div_euclid(1000) + i64::from(us.rem_euclid(1000) > 0) } else { us.div_euclid(1000) };
        Some(format!("{:.3}", Timestamp::from_millisecond(ms).ok()?).into())
    };
    match column.data_type() {
        DataType::Dictionary(..) | DataType::Utf8 => {
            let texts = match column.as_any_dictionary_opt() {
                // Few values: the range of those in use.
                Some(_) => cast(column, &DataType::Utf8).ok()?,
                None => Arc::clone(column),
            };
            let texts = texts.as_string::<i32>();
            Some(Range { min: min_string(texts)?.into(), max: max_string(texts)?.into() })
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>();
            Some(Range { min: min(values)?.into(), max: max(values)?.into() })
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>();
            Some(Range { min: min(values)?.into(), max: max(values)?.into() })
        }
        DataType::Date32 => {
            let values = column.as_primitive::<Date32Type>();
            Some(Range { min: min(values)?.into(), max: max(values)?.into() })
        }
        DataType::Timestamp(..) => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            Some(Range { min: time(min(values)?, false)?, max: time(max(values)?, true)? })
        }
        _ => None,
    }
}
