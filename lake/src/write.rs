//! Rows to Parquet: one sorted file, one put.

use std::sync::{Arc, LazyLock};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, SchemaRef},
};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use jiff::civil::Date;
use object_store::ObjectStoreExt;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{ParquetMetaData, SortingColumn},
        properties::WriterProperties,
        statistics::Statistics,
    },
    schema::types::ColumnPath,
};
use schemas::TableSpec;
use tokio::sync::Semaphore;

use crate::{
    Error, Result, Table,
    file::{Bound, ColumnStats, DataFile, FileStats, Types, stats_columns},
    layout,
};

/// Most rows of a row group: what a reader prunes, fetches and decodes at a time.
pub const ROW_GROUP_ROWS: usize = 128 * 1024;
/// What a column takes without compression, up to which it is left so (bytes): of ninety columns many are null or hold one value.
const WORTH_COMPRESSING: usize = 512;
/// The same, up to which Snappy compresses it, and above which Zstandard does (bytes). Each column of a file has a compressor of its own, and for each
/// reader a decompressor; a compressor of Zstandard takes close to a megabyte of memory and 20 µs to make.
const WORTH_ZSTANDARD: usize = 32 * 1024;

/// Files that are encoded at once: as many as there are cores.
static ENCODERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

impl Table {
    /// Writes one Parquet file of `batches`, all of the partition `partition_value` and sorted by the table's sort columns
    /// across all of them. Columns come in the table's order and all have one schema; text may be `Dictionary(Int32, Utf8)`;
    /// the partition column may be there and is left out of the file. Nobody sees the file until a commit adds it.
    ///
    /// Not cancel-safe in one respect: a dropped call may leave a file that no commit will ever add (vacuum's business).
    ///
    /// # Errors
    /// Where rows and table do not fit, or the store does not take the file.
    pub async fn write_file(&self, partition_value: Option<Date>, batches: &[RecordBatch]) -> Result<DataFile> {
        let batches = self.file_batches(partition_value, batches)?;
        let spec = self.spec();
        let encode = move || encode(spec, &batches);
        // Encoding takes long for a large buffer; the simulation's runtime has one thread and no need to stay responsive.
        let many_threads =
            tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
        let encoded = if many_threads {
            let _turn = ENCODERS.acquire().await.expect("it is never closed");
            let task = tokio::task::spawn_blocking(encode).await;
            task.map_err(|error| ParquetError::External(Box::new(error))).and_then(|encoded| encoded)
        } else {
            encode()
        };
        let (bytes, metadata) = encoded.map_err(|error| self.misfit(error.to_string()))?;
        self.put_file(partition_value, bytes, &metadata).await
    }

    /// Writes the rows of `stream` as one file, a batch in memory at a time, and the encoded file. The stream has the
    /// columns of the table without the partition column, and its order.
    ///
    /// # Errors
    /// Where the stream fails, rows and table do not fit, or the store does not take the file.
    pub(crate) async fn write_stream(
        &self,
        partition_value: Option<Date>,
        mut stream: SendableRecordBatchStream,
    ) -> Result<DataFile> {
        let misfit = |error: ParquetError| self.misfit(error.to_string());
        let mut writer = writer(self.spec(), &stream.schema(), |_| usize::MAX).map_err(misfit)?;
        while let Some(batch) = stream.next().await {
            writer.write(&batch.map_err(Error::Scan)?).map_err(misfit)?;
            // A scan of a warm file never waits; let the other tasks of this thread have their turn.
            tokio::task::consume_budget().await;
        }
        let metadata = writer.finish().map_err(misfit)?;
        let bytes = std::mem::take(writer.inner_mut());
        self.put_file(partition_value, bytes, &metadata).await
    }

    async fn put_file(
        &self,
        partition_value: Option<Date>,
        bytes: Vec<u8>,
        metadata: &ParquetMetaData,
    ) -> Result<DataFile> {
        let (spec, place) = (self.spec(), self.place());
        let stats = file_stats(&stats_columns(spec), metadata);
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        let path = layout::data_file(spec.partition_column.zip(partition_value), place.new_id());
        let size_bytes = bytes.len() as u64;
        let location = layout::location(self.folder(), &path);
        place.store.put(&location, bytes.into()).await.map_err(|source| Error::store(&location, source))?;
        Ok(DataFile { path, size_bytes, rows, partition_value, stats, written_ms: place.now_ms(), seen: 0 })
    }

    fn misfit(&self, detail: impl Into<String>) -> Error {
        Error::Rows { table: self.name().into(), detail: detail.into() }
    }

    /// `batches` without the partition column, once they are found to fit the table.
    fn file_batches(&self, partition_value: Option<Date>, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let spec = self.spec();
        if partition_value.is_some() != spec.partition_column.is_some() {
            return Err(self.misfit("a partition value goes with a partition column"));
        }
        let first = batches.first().ok_or_else(|| self.misfit("there are none"))?;
        let have = first.schema();
        let kept: Vec<usize> = (0..first.num_columns())
            .filter(|index| Some(have.field(*index).name().as_str()) != spec.partition_column)
            .collect();
        let schema = spec.file_schema();
        let wanted = schema.fields();
        if kept.len() != wanted.len() {
            return Err(self.misfit(format!("{} columns in place of {}", kept.len(), wanted.len())));
        }
        for (index, want) in kept.iter().zip(wanted) {
            let field = have.field(*index);
            let plain = match field.data_type() {
                DataType::Dictionary(_, value) => value.as_ref(),
                other => other,
            };
            if field.name() != want.name() || plain != want.data_type() {
                let (name, kind) = (field.name(), field.data_type());
                return Err(self.misfit(format!("{name}: {kind} in place of {}: {}", want.name(), want.data_type())));
            }
        }
        let mut projected = Vec::with_capacity(batches.len());
        for batch in batches {
            if batch.schema_ref() != &have && batch.schema_ref().fields() != have.fields() {
                return Err(self.misfit("batches of one file have one schema"));
            }
            for (index, want) in kept.iter().zip(wanted) {
                if !want.is_nullable() && batch.column(*index).logical_null_count() > 0 {
                    return Err(self.misfit(format!("{} holds nulls", want.name())));
                }
            }
            projected.push(batch.project(&kept).map_err(|error| self.misfit(error.to_string()))?);
        }
        debug_assert!(sorted(spec, &projected), "rows of {} come unsorted", spec.name);
        Ok(projected)
    }
}

fn properties(
    spec: &TableSpec,
    schema: &SchemaRef,
    bytes_of: impl Fn(usize) -> usize,
) -> Result<WriterProperties, ParquetError> {
    let sorting = spec.sort_columns.iter().filter_map(|column| {
        let column_idx = i32::try_from(schema.index_of(column).ok()?).ok()?;
        Some(SortingColumn { column_idx, descending: false, nulls_first: false })
    });
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("daybook ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting.collect()));
    for (index, field) in schema.fields().iter().enumerate() {
        let column = || ColumnPath::from(field.name().as_str());
        // Numbers, times and ids hardly repeat: a dictionary would be built and thrown away.
        if !matches!(field.data_type(), DataType::Dictionary(..) | DataType::Utf8 | DataType::Utf8View) {
            properties = properties.set_column_dictionary_enabled(column(), false);
        }
        let bytes = bytes_of(index);
        let codec = if bytes <= WORTH_COMPRESSING {
            Some(Compression::UNCOMPRESSED)
        } else {
            (bytes <= WORTH_ZSTANDARD).then_some(Compression::SNAPPY)
        };
        if let Some(codec) = codec {
            properties = properties.set_column_compression(column(), codec);
        }
        if spec.bloom_columns.contains(&field.name().as_str()) {
            properties = properties.set_column_bloom_filter_enabled(column(), true);
        }
    }
    Ok(properties.build())
}

fn writer(
    spec: &TableSpec,
    schema: &SchemaRef,
    bytes_of: impl Fn(usize) -> usize,
) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    // The Arrow schema is left out: readers of other languages see plain Parquet types, whatever was a dictionary here.
    let options =
        ArrowWriterOptions::new().with_properties(properties(spec, schema, bytes_of)?).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options)
}

/// About what a column takes as Parquet, without compression (bytes).
fn encoded_bytes(column: &ArrayRef) -> usize {
    let (rows, nulls) = (column.len(), column.null_count());
    let levels = if nulls == 0 || nulls == rows { 0 } else { rows / 8 };
    let values = rows - nulls;
    levels
        + match column.data_type() {
            _ if values == 0 => 0,
            DataType::Boolean => values / 8,
            DataType::Dictionary(..) => {
                let texts = column.as_any_dictionary().values();
                values * (usize::BITS - (texts.len() - 1).leading_zeros()) as usize / 8 + texts.get_array_memory_size()
            }
            _ => column.to_data().get_slice_memory_size().unwrap_or(usize::MAX),
        }
}

/// The file's bytes and what its footer says.
fn encode(spec: &TableSpec, batches: &[RecordBatch]) -> Result<(Vec<u8>, ParquetMetaData), ParquetError> {
    let bytes_of =
        |index: usize| batches.iter().map(|batch| encoded_bytes(batch.column(index))).fold(0, usize::saturating_add);
    let mut writer = writer(spec, batches[0].schema_ref(), bytes_of)?;
    for batch in batches {
        writer.write(batch)?;
    }
    let metadata = writer.finish()?;
    Ok((std::mem::take(writer.inner_mut()), metadata))
}

/// Statistics of the whole file, from those of its row groups.
fn file_stats(types: &Types, metadata: &ParquetMetaData) -> FileStats {
    let mut stats = FileStats::default();
    for group in metadata.row_groups() {
        for column in group.columns() {
            let Some((name, _)) = types.get_key_value(column.column_path().string().as_str()) else { continue };
            let of_group = column.statistics().map(column_stats).unwrap_or_default();
            match stats.columns.get_mut(name) {
                Some(of_file) => of_file.merge(of_group),
                None => drop(stats.columns.insert(name.clone(), of_group)),
            }
        }
    }
    stats
}

fn column_stats(statistics: &Statistics) -> ColumnStats {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(|text| Bound::Text(text.to_owned()));
    let (min, max) = match statistics {
        Statistics::Int32(of) => {
            let bound = |value: Option<&i32>| value.map(|value| Bound::Int(i64::from(*value)));
            (bound(of.min_opt()), bound(of.max_opt()))
        }
        Statistics::Int64(of) => {
            let bound = |value: Option<&i64>| value.map(|value| Bound::Int(*value));
            (bound(of.min_opt()), bound(of.max_opt()))
        }
        Statistics::ByteArray(_) => {
            (statistics.min_bytes_opt().and_then(text), statistics.max_bytes_opt().and_then(text))
        }
        _ => (None, None),
    };
    ColumnStats { min, max, nulls: statistics.null_count_opt() }
}

/// True where the rows of `batches` ascend by the sort columns.
fn sorted(spec: &TableSpec, batches: &[RecordBatch]) -> bool {
    use arrow::{array::make_comparator, compute::SortOptions, compute::concat_batches};
    let Ok(all) = concat_batches(&batches[0].schema(), batches) else { return false };
    let comparators: Vec<_> = spec
        .sort_columns
        .iter()
        .filter_map(|column| all.column_by_name(column))
        .filter_map(|column| make_comparator(column, column, SortOptions::default()).ok())
        .collect();
    (1..all.num_rows()).all(|row| {
        let orders = comparators.iter().map(|compare| compare(row - 1, row));
        orders.reduce(std::cmp::Ordering::then).is_none_or(std::cmp::Ordering::is_le)
    })
}
