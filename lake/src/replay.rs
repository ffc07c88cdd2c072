//! The Delta log, read: protocol, metadata, transaction identifiers and, where wanted, the active files.
//!
//! Source: Delta protocol, "Action Reconciliation" and "Checkpoints". A head keeps no file list, so that opening and
//! committing cost nothing per file.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, AsArray, RecordBatch, StructArray},
    datatypes::{Int32Type, Int64Type},
};
use object_store::{ObjectStoreExt, path::Path};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::{Error, Result, file::DataFile, table::Table};

/// Reader and writer versions that this code knows how to follow.
pub(crate) const READER_VERSION: i64 = 1;
pub(crate) const WRITER_VERSION: i64 = 2;

/// What the log says up to a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) version: i64,
    pub(crate) table_id: String,
    pub(crate) schema_string: String,
    pub(crate) protocol: (i64, i64),
    pub(crate) txns: BTreeMap<String, i64>,
    /// Path to file; `None` where the reader did not ask for files.
    pub(crate) files: Option<BTreeMap<String, DataFile>>,
}

/// One log entry, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) actions: Vec<Value>,
}

impl Entry {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
        let actions: std::result::Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
        let actions = actions.map_err(|error| Error::corrupt(path, error))?;
        Ok(Self { actions })
    }

    /// Our own id of the commit that wrote it.
    pub(crate) fn commit_id(&self) -> Option<&str> {
        self.actions.iter().find_map(|action| action.get("commitInfo")?.get("txnId")?.as_str())
    }

    /// True where it changes metadata or protocol.
    pub(crate) fn redefines(&self) -> bool {
        self.actions.iter().any(|action| action.get("metaData").is_some() || action.get("protocol").is_some())
    }

    /// Paths that it removes, decoded.
    pub(crate) fn removed(&self) -> impl Iterator<Item = String> + '_ {
        self.actions.iter().filter_map(|action| decode_path(action.get("remove")?.get("path")?.as_str()?))
    }
}

pub(crate) fn decode_path(encoded: &str) -> Option<String> {
    Some(percent_decode(encoded))
}

/// RFC 3986 §2.1, as the Delta protocol asks of `path`.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl State {
    /// Applies one entry; `version` is its own.
    pub(crate) fn apply(&mut self, version: i64, entry: &Entry) -> Result<()> {
        for action in &entry.actions {
            if let Some(txn) = action.get("txn") {
                let (Some(app_id), Some(version)) = (txn["appId"].as_str(), txn["version"].as_i64()) else { continue };
                self.txns.insert(app_id.to_owned(), version);
            } else if let Some(metadata) = action.get("metaData") {
                self.table_id = metadata["id"].as_str().unwrap_or_default().to_owned();
                self.schema_string = metadata["schemaString"].as_str().unwrap_or_default().to_owned();
            } else if let Some(protocol) = action.get("protocol") {
                let number = |key: &str| protocol[key].as_i64().unwrap_or(i64::MAX);
                self.protocol = (number("minReaderVersion"), number("minWriterVersion"));
            } else if let Some(files) = &mut self.files {
                if let Some(add) = action.get("add") {
                    let file = DataFile::from_add(add)?;
                    files.insert(file.path.clone(), file);
                } else if let Some(path) = action.get("remove").and_then(|remove| remove["path"].as_str()) {
                    files.remove(&percent_decode(path));
                }
            }
        }
        self.version = version;
        Ok(())
    }

    pub(crate) fn check_protocol(&self, table: &str) -> Result<()> {
        if self.protocol.0 > READER_VERSION || self.protocol.1 > WRITER_VERSION {
            return Err(Error::Protocol { table: table.to_owned(), reader: self.protocol.0, writer: self.protocol.1 });
        }
        Ok(())
    }
}

/// Reads the log up to its end: the newest checkpoint, then the entries after it. `None` where there is no table.
pub(crate) async fn read(table: &Table, with_files: bool) -> Result<Option<State>> {
    let mut state = State { version: -1, files: with_files.then(BTreeMap::new), ..State::default() };
    if let Some(version) = last_checkpoint(table).await? {
        read_checkpoint(table, version, &mut state).await?;
    }
    advance(table, &mut state).await?;
    if state.version < 0 {
        return Ok(None);
    }
    state.check_protocol(table.name())?;
    Ok(Some(state))
}

/// Applies the entries after `state.version`; true where there were any.
pub(crate) async fn advance(table: &Table, state: &mut State) -> Result<bool> {
    const AHEAD: usize = 16;
    let before = state.version;
    // Sequential probes cost a round trip a version: a long tail is fetched several entries at a time.
    let mut width = 1;
    loop {
        let versions: Vec<i64> = (0..width as i64).map(|step| state.version + 1 + step).collect();
        let entries = futures::future::join_all(versions.iter().map(|version| table.entry(*version))).await;
        let mut ended = false;
        for (version, entry) in versions.into_iter().zip(entries) {
            match entry? {
                Some(entry) if !ended => state.apply(version, &entry)?,
                _ => ended = true,
            }
        }
        if ended {
            return Ok(state.version > before);
        }
        width = (width * 2).min(AHEAD);
    }
}

async fn last_checkpoint(table: &Table) -> Result<Option<i64>> {
    let path = table.log_folder().join("_last_checkpoint");
    let bytes = match table.store().get(&path).await {
        Ok(found) => found.bytes().await.map_err(|source| Error::store(&path, source))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(Error::store(&path, source)),
    };
    // A torn hint is no error (Delta protocol, "Last Checkpoint File"): the entries themselves are the truth.
    Ok(serde_json::from_slice::<Value>(&bytes).ok().and_then(|hint| hint["version"].as_i64()))
}

async fn read_checkpoint(table: &Table, version: i64, state: &mut State) -> Result<()> {
    let path = table.log_folder().join(format!("{version:020}.checkpoint.parquet"));
    let bytes = table.store().get(&path).await.map_err(|source| Error::store(&path, source))?;
    let bytes = bytes.bytes().await.map_err(|source| Error::store(&path, source))?;
    let corrupt = |error: parquet::errors::ParquetError| Error::corrupt(&path, error);
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(corrupt)?;
    let mut columns = vec!["txn", "metaData", "protocol"];
    if state.files.is_some() {
        columns.push("add");
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    for batch in builder.with_projection(mask).build().map_err(corrupt)? {
        let batch = batch.map_err(|error| Error::corrupt(&path, error))?;
        apply_checkpoint(&batch, state)?;
    }
    state.version = version;
    Ok(())
}

fn apply_checkpoint(batch: &RecordBatch, state: &mut State) -> Result<()> {
    let action = |name: &str| batch.column_by_name(name).and_then(|column| column.as_struct_opt());
    if let Some(txn) = action("txn") {
        for row in (0..txn.len()).filter(|row| txn.is_valid(*row)) {
            if let (Some(app_id), Some(version)) = (text(txn, "appId", row), long(txn, "version", row)) {
                state.txns.insert(app_id, version);
            }
        }
    }
    if let Some(metadata) = action("metaData") {
        for row in (0..metadata.len()).filter(|row| metadata.is_valid(*row)) {
            state.table_id = text(metadata, "id", row).unwrap_or_default();
            state.schema_string = text(metadata, "schemaString", row).unwrap_or_default();
        }
    }
    if let Some(protocol) = action("protocol") {
        for row in (0..protocol.len()).filter(|row| protocol.is_valid(*row)) {
            let number = |name: &str| long(protocol, name, row).unwrap_or(i64::MAX);
            state.protocol = (number("minReaderVersion"), number("minWriterVersion"));
        }
    }
    if let (Some(add), Some(files)) = (action("add"), &mut state.files) {
        for row in (0..add.len()).filter(|row| add.is_valid(*row)) {
            let mut values = serde_json::Map::new();
            if let Some(map) = add.column_by_name("partitionValues").and_then(|column| column.as_map_opt()) {
                let entries = map.value(row);
                let (keys, texts) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                for at in 0..entries.len() {
                    values.insert(keys.value(at).to_owned(), texts.value(at).into());
                }
            }
            let file = DataFile::from_add(&serde_json::json!({
                "path": text(add, "path", row), "size": long(add, "size", row), "partitionValues": values, "stats": text(add, "stats", row),
            }))?;
            files.insert(file.path.clone(), file);
        }
    }
    Ok(())
}

fn text(of: &StructArray, name: &str, row: usize) -> Option<String> {
    let column = of.column_by_name(name)?.as_string_opt::<i32>()?;
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
