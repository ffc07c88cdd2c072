//! A table: its place, its head, its snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::datatypes::{DataType, Schema};
use futures::StreamExt;
use jiff::civil::Date;
use object_store::path::Path;
use schemas::TableSpec;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    file::DataFile,
    layout,
    replay::{self, Entry, FETCHED_AHEAD_MAX, State},
    store::Place,
};

/// Times that the creation of a table is tried beside others.
const CREATE_ATTEMPTS_MAX: u32 = 10;

/// A Delta table. Cheap to clone; holds no state of the table.
#[derive(Clone, Debug)]
pub struct Table {
    pub(crate) spec: &'static TableSpec,
    pub(crate) place: Arc<Place>,
    /// In the store.
    pub(crate) folder: Path,
}

/// What a writer knows of a table: everything but the file list.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) state: State,
}

impl Head {
    /// Delta version.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.state.version
    }

    /// `id` of the table's metadata: a table made anew has another.
    #[must_use]
    pub fn table_id(&self) -> &str {
        &self.state.table_id
    }

    /// The table's schema as Delta writes it.
    #[must_use]
    pub fn schema_json(&self) -> &str {
        &self.state.schema_string
    }

    /// Transaction identifiers: version by application id.
    #[must_use]
    pub fn txns(&self) -> &BTreeMap<String, i64> {
        &self.state.txns
    }

    /// The version of a transaction identifier, 0 where there is none.
    #[must_use]
    pub fn next_offset(&self, app_id: &str) -> i64 {
        self.state.txns.get(app_id).copied().unwrap_or(0)
    }
}

/// One version of a table, with its active files.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) table: Table,
    /// Delta version.
    pub version: i64,
    /// `id` of the table's metadata.
    pub table_id: String,
    /// Active files, by path.
    pub files: Vec<DataFile>,
    /// Transaction identifiers: version by application id.
    pub txns: BTreeMap<String, i64>,
    /// All of it but the files.
    rest: State,
}

/// What some versions did to the rows of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Files that brought new rows. Some may have been merged into others since.
    pub added: Vec<DataFile>,
    /// Rows that were there are gone.
    pub rows_removed: bool,
    /// Table partitions whose rows may be others now; `None` where the log does not say.
    pub dates: Option<BTreeSet<Date>>,
}

/// What one version did to the rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its number.
    pub number: i64,
    /// When its writer says that it was committed (ms since 1970-01-01T00:00:00Z); 0 where the writer does not.
    pub committed_ms: i64,
    /// Files that became active.
    pub added: Vec<DataFile>,
    /// Files that stopped being active, without rows and statistics: the log does not repeat these. A vacuum may have deleted them.
    pub removed: Vec<DataFile>,
    /// Transaction identifiers that moved, and what they hold since.
    pub txns: BTreeMap<String, i64>,
    /// `commitInfo.operationMetrics`; null where the writer gave none.
    pub metrics: Value,
}

impl Snapshot {
    fn new(table: &Table, mut state: State) -> Self {
        let files = state.files.take().unwrap_or_default().into_values();
        let files = files.map(|file| DataFile { seen: state.version, ..file }).collect();
        let (table_id, txns) = (state.table_id.clone(), state.txns.clone());
        Self { table: table.clone(), version: state.version, table_id, files, txns, rest: state }
    }

    /// The head of this very version: a change built on what the snapshot holds commits on it.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { state: self.rest.clone() }
    }

    /// Table partitions that have files.
    #[must_use]
    pub fn dates(&self) -> BTreeSet<Date> {
        self.files.iter().filter_map(|file| file.partition_value).collect()
    }

    /// Files of a table partition.
    #[must_use]
    pub fn files_of(&self, date: Date) -> Vec<DataFile> {
        self.files.iter().filter(|file| file.partition_value == Some(date)).cloned().collect()
    }

    /// The newest version, by reading only what was committed since; `None` where nothing was.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn refreshed(&self) -> Result<Option<Self>> {
        let mut state = self.rest.clone();
        state.files = Some(self.files.iter().map(|file| (file.path.clone(), file.clone())).collect());
        if !replay::advance(&self.table, &mut state).await? {
            return Ok(None);
        }
        state.check_protocol(self.table.name())?;
        Ok(Some(Self::new(&self.table, state)))
    }
}

impl Table {
    /// Name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// What the table is.
    #[must_use]
    pub fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entry of a version; `None` where there is none.
    pub(crate) async fn entry(&self, version: i64) -> Result<Option<Entry>> {
        let path = layout::entry(&self.folder, version);
        match self.place.get(&path).await {
            Ok(bytes) => Entry::parse(&path, &bytes).map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::store(&path, source)),
        }
    }

    /// The head, or `None` where there is no table yet.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn head(&self) -> Result<Option<Head>> {
        Ok(replay::read(self, false).await?.map(|state| Head { state }))
    }

    /// Reads what was committed since; true where anything was. Costs one request where nothing was.
    ///
    /// # Errors
    /// Where the log cannot be read; `head` then stands at some version up to the newest.
    pub async fn refresh(&self, head: &mut Head) -> Result<bool> {
        let moved = replay::advance(self, &mut head.state).await?;
        head.state.check_protocol(self.name())?;
        Ok(moved)
    }

    /// What the versions from `after` (exclusive) to `up_to` (inclusive) did to the table's rows; compaction does nothing to them.
    /// `None` where the log no longer holds all of these versions: only a snapshot tells then.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn news(&self, after: i64, up_to: i64) -> Result<Option<News>> {
        let entries = (after + 1..=up_to).map(|version| async move { (version, self.entry(version).await) });
        let mut entries = futures::stream::iter(entries).buffered(FETCHED_AHEAD_MAX);
        let mut news = News { dates: Some(BTreeSet::new()), ..News::default() };
        while let Some((version, entry)) = entries.next().await {
            let Some(entry) = entry? else { return Ok(None) };
            news.added.extend(entry.added(self, version)?);
            news.rows_removed |= entry.removes_rows();
            match (&mut news.dates, entry.dates(self.spec)) {
                (Some(known), Some(more)) => known.extend(more),
                _ => news.dates = None,
            }
        }
        Ok(Some(news))
    }

    /// The versions from `after` (exclusive) to `up_to` (inclusive) that changed rows, one by one; `None` where the log no longer holds all of them.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn versions(&self, after: i64, up_to: i64) -> Result<Option<Vec<Version>>> {
        let entries = (after + 1..=up_to).map(|version| async move { (version, self.entry(version).await) });
        let mut entries = futures::stream::iter(entries).buffered(FETCHED_AHEAD_MAX);
        let mut versions = Vec::new();
        while let Some((version, entry)) = entries.next().await {
            let Some(entry) = entry? else { return Ok(None) };
            if entry.brings_rows() || entry.removes_rows() {
                versions.push(entry.version(self, version)?);
            }
        }
        Ok(Some(versions))
    }

    /// The newest version with its files.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no table; others where the log cannot be read.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let state = replay::read(self, true).await?;
        let state = state.ok_or_else(|| Error::Missing { table: self.name().to_owned() })?;
        Ok(Snapshot::new(self, state))
    }

    /// The head; creates the table as version 0 where it is not there, and adds the columns that one of an older version lacks. Safe
    /// beside others that do the same.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn create_if_missing(&self) -> Result<Head> {
        let path = layout::entry(&self.folder, 0);
        let mut attempt = 0;
        loop {
            if let Some(mut head) = self.head().await? {
                self.grow(&mut head).await?;
                // Written by a process that died before it could sync the folder, the newest entry might still be lost.
                self.place.persist(&[layout::entry(&self.folder, head.version())]).await?;
                return Ok(head);
            }
            // Whatever the answer, the log tells: another may have been faster, or the answer was lost (F05, F09).
            let outcome = self.place.put_new(&path, self.first_entry().into()).await;
            attempt += 1;
            if let Err(source) = outcome {
                if attempt == CREATE_ATTEMPTS_MAX {
                    return Err(Error::store(&path, source));
                }
                tokio::time::sleep(Duration::from_millis(10) + self.place.pause(20 << attempt)).await;
            }
        }
    }

    fn first_entry(&self) -> Vec<u8> {
        let now_ms = self.place.now_ms();
        let configuration: BTreeMap<&str, &str> = self.spec.properties.iter().copied().collect();
        lines(&[
            json!({ "commitInfo": {
                "timestamp": now_ms, "operation": "CREATE TABLE", "operationParameters": {}, "isBlindAppend": true,
                "engineInfo": ENGINE, "txnId": self.place.new_id(),
            } }),
            json!({ "protocol": { "minReaderVersion": replay::READER_VERSION, "minWriterVersion": replay::WRITER_VERSION } }),
            json!({ "metaData": {
                "id": self.place.new_id(), "name": self.spec.name, "format": { "provider": "parquet", "options": {} },
                "schemaString": delta_schema(&self.spec.schema()).to_string(),
                "partitionColumns": self.spec.partition_column.into_iter().collect::<Vec<_>>(),
                "configuration": configuration, "createdTime": now_ms,
            } }),
        ])
    }
}

/// `engineInfo` of our log entries.
pub(crate) const ENGINE: &str = concat!("daybook/", env!("CARGO_PKG_VERSION"));

/// Actions as the log holds them: one JSON object a line.
pub(crate) fn lines(actions: &[Value]) -> Vec<u8> {
    let mut text = String::new();
    for action in actions {
        text.push_str(&action.to_string());
        text.push('\n');
    }
    text.into_bytes()
}

/// Delta's JSON form of a schema (Delta protocol, "Schema Serialization Format"), comments in the fields' metadata.
pub(crate) fn delta_schema(schema: &Schema) -> Value {
    let fields = schema.fields().iter().map(|field| {
        let kind = match field.data_type() {
            DataType::Utf8 => "string".to_owned(),
            DataType::Int64 => "long".to_owned(),
            DataType::Int32 => "integer".to_owned(),
            DataType::Boolean => "boolean".to_owned(),
            DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
            DataType::Timestamp(..) => "timestamp".to_owned(),
            DataType::Date32 => "date".to_owned(),
            DataType::Binary => "binary".to_owned(),
            other => unreachable!("schemas::ColumnType has no {other}"),
        };
        json!({ "name": field.name(), "type": kind, "nullable": field.is_nullable(), "metadata": field.metadata() })
    });
    json!({ "type": "struct", "fields": fields.collect::<Vec<_>>() })
}
