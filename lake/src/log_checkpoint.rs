//! Log checkpoints: what spares readers the whole log. Written by the Delta library, read by us, a few columns of it.
//!
//! A checkpoint killed half-way leaves an object that the hint does not name yet (or a torn one, which readers pass over);
//! two at a time write the same content (F10).

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch, StructArray},
    datatypes::{Int32Type, Int64Type},
};
use bytes::Bytes;
use deltalake_core::{DeltaTableBuilder, checkpoints};
use futures::{FutureExt, TryFutureExt, TryStreamExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::ArrowReaderOptions,
        async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder},
    },
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use serde_json::{Value, json};
use url::Url;

use crate::{
    Error, Result, Table,
    file::{DataFile, Types, stats_columns},
    layout,
    replay::State,
};

impl Table {
    /// Writes a log checkpoint of the newest version. Costs time and memory by the number of active files: for the
    /// `maintain` role, every few hundred commits. Needs a runtime of several threads.
    ///
    /// # Errors
    /// Where the log cannot be read or the checkpoint not be written; the table is none the worse for it.
    pub async fn log_checkpoint(&self) -> Result<()> {
        let table = self.delta_table().await?;
        checkpoints::create_checkpoint(&table, None).await.map_err(Error::Delta)?;
        let version = table.version().and_then(|version| i64::try_from(version).ok()).unwrap_or_default();
        let written: [Path; 2] = [layout::checkpoint(self.folder(), version), layout::last_checkpoint(self.folder())];
        self.place().persist(&written).await
    }

    /// Version of the newest log checkpoint, as the log's hint has it; `None` where there is none.
    ///
    /// # Errors
    /// Where the hint cannot be read.
    pub async fn last_log_checkpoint(&self) -> Result<Option<i64>> {
        hint(self).await
    }

    /// The table as the Delta library reads it.
    pub(crate) async fn delta_table(&self) -> Result<deltalake_core::DeltaTable> {
        // The scheme only picks the library's default log store; the store is ours, and the path that within it. By the host the
        // library takes it for an S3 directory bucket, the one store besides `file:` that it knows to list in no order: else it
        // would see gaps in the log of a local folder.
        let url =
            Url::parse(&format!("memory://daybook--x-s3/{}/", self.folder())).expect("a store's path makes a URL");
        let builder = DeltaTableBuilder::from_url(url.clone()).map_err(Error::Delta)?;
        let builder = builder.with_storage_backend(Arc::clone(&self.place().store), url);
        builder.load().await.map_err(Error::Delta)
    }
}

/// The state at the newest checkpoint that can be read; `None` where there is none.
pub(crate) async fn newest(table: &Table, with_files: bool) -> Result<Option<State>> {
    let hinted = hint(table).await?;
    if let Some(version) = hinted
        && let Some(state) = checkpoint(table, version, with_files).await?
    {
        return Ok(Some(state));
    }
    // Without a hint that leads somewhere only the folder tells where the log begins.
    let folder = layout::log_folder(table.folder());
    let listed = table.place().store.list(Some(&folder)).map_ok(|object| object.location);
    let listed: Vec<Path> = listed.try_collect().await.map_err(|source| Error::store(&folder, source))?;
    let mut checkpoints: Vec<i64> = listed.iter().filter_map(layout::checkpoint_version).collect();
    checkpoints.sort_unstable();
    for version in checkpoints.iter().rev().filter(|version| Some(**version) != hinted) {
        if let Some(state) = checkpoint(table, *version, with_files).await? {
            return Ok(Some(state));
        }
    }
    let first = layout::entry(table.folder(), 0);
    let begun = !checkpoints.is_empty() || listed.iter().any(|path| path.filename().is_some_and(layout::is_entry));
    if begun && !listed.contains(&first) {
        // Never "no table": a new first entry would then bury what is left of the old one (F11).
        return Err(Error::corrupt(&first, "the log has lost its beginning and no checkpoint can be read"));
    }
    Ok(None)
}

/// Version of the last checkpoint, by the log's hint.
async fn hint(table: &Table) -> Result<Option<i64>> {
    let path = layout::last_checkpoint(table.folder());
    let bytes = match table.place().store.get(&path).await {
        Ok(found) => found.bytes().await.map_err(|source| Error::store(&path, source))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(Error::store(&path, source)),
    };
    Ok(serde_json::from_slice::<Value>(&bytes).ok().and_then(|hint| hint["version"].as_i64()))
}

/// The state at a checkpoint; `None` where it is not there or is damaged.
async fn checkpoint(table: &Table, version: i64, with_files: bool) -> Result<Option<State>> {
    let path = layout::checkpoint(table.folder(), version);
    let size = match table.place().store.head(&path).await {
        Ok(object) => object.size,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(Error::store(&path, source)),
    };
    match read_checkpoint(table, &path, size, with_files).await {
        Ok(state) => Ok(Some(State { version, removed_since: version, ..state })),
        Err(error) => {
            tracing::warn!(
                table = table.name(),
                version,
                error,
                "a log checkpoint cannot be read, an older one serves"
            );
            Ok(None)
        }
    }
}

async fn read_checkpoint(table: &Table, path: &Path, size: u64, with_files: bool) -> Result<State, String> {
    let reader = Reader { store: Arc::clone(&table.place().store), path: path.clone(), size };
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| error.to_string())?;
    let mut columns = vec!["txn", "metaData", "protocol"];
    if with_files {
        columns.extend(["add.path", "add.size", "add.stats", "add.modificationTime", "add.partitionValues"]);
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let mut batches = builder.with_projection(mask).build().map_err(|error| error.to_string())?;
    let (mut state, types) = (State::empty(with_files), stats_columns(table.spec()));
    while let Some(batch) = batches.try_next().await.map_err(|error| error.to_string())? {
        apply(&mut state, table, &types, &batch)?;
    }
    if state.table_id.is_empty() {
        return Err("it holds no metadata".into());
    }
    Ok(state)
}

/// Reads the wanted columns of a checkpoint, not all of it.
struct Reader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store.get_range(&self.path, range).map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let bytes = async move { self.store.get_ranges(&self.path, &ranges).await };
        bytes.map_err(|error| ParquetError::External(Box::new(error))).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        let reader =
            ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(64 * 1024));
        async move { Ok(Arc::new(reader.load_and_finish(self, size).await?)) }.boxed()
    }
}

fn apply(state: &mut State, table: &Table, types: &Types, batch: &RecordBatch) -> Result<(), String> {
    for (txn, row) in rows(batch, "txn") {
        let (app_id, next) = (text(txn, "appId", row), long(txn, "version", row));
        let (app_id, next) = app_id.zip(next).ok_or("a txn without appId or version")?;
        state.txns.insert(app_id, next);
    }
    for (metadata, row) in rows(batch, "metaData") {
        let (id, schema) = (text(metadata, "id", row), text(metadata, "schemaString", row));
        let configuration = map(metadata, "configuration", row).unwrap_or_else(|| json!({}));
        state.metadata(id.as_deref(), schema.as_deref(), configuration);
    }
    for (protocol, row) in rows(batch, "protocol") {
        state.protocol(long(protocol, "minReaderVersion", row), long(protocol, "minWriterVersion", row));
    }
    let Some(files) = &mut state.files else { return Ok(()) };
    for (add, row) in rows(batch, "add") {
        let add = json!({
            "path": text(add, "path", row), "size": long(add, "size", row), "stats": text(add, "stats", row),
            "modificationTime": long(add, "modificationTime", row),
            "partitionValues": map(add, "partitionValues", row),
        });
        let file = DataFile::from_add(table.spec(), types, &add, 0)?;
        files.insert(file.path.clone(), file);
    }
    Ok(())
}

/// The rows of an action's column that hold one.
fn rows<'a>(batch: &'a RecordBatch, action: &str) -> impl Iterator<Item = (&'a StructArray, usize)> {
    let column = batch.column_by_name(action).and_then(|column| column.as_struct_opt());
    column
        .into_iter()
        .flat_map(|column| (0..column.len()).filter(|row| column.is_valid(*row)).map(move |row| (column, row)))
}

fn text(of: &StructArray, name: &str, row: usize) -> Option<String> {
    let column = of.column_by_name(name)?;
    let column = column.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
}

fn long(of: &StructArray, name: &str, row: usize) -> Option<i64> {
    let column = of.column_by_name(name)?;
    if let Some(column) = column.as_primitive_opt::<Int64Type>() {
        return column.is_valid(row).then(|| column.value(row));
    }
    let column = column.as_primitive_opt::<Int32Type>()?;
    column.is_valid(row).then(|| i64::from(column.value(row)))
}

fn map(of: &StructArray, name: &str, row: usize) -> Option<Value> {
    let entries = of.column_by_name(name)?.as_map_opt()?.value(row);
    let (keys, values) = (entries.column(0).as_string_opt::<i32>()?, entries.column(1).as_string_opt::<i32>()?);
    let pairs = (0..entries.len()).map(|at| {
        let value = values.is_valid(at).then(|| values.value(at));
        (keys.value(at).to_owned(), value.into())
    });
    Some(Value::Object(pairs.collect()))
}
