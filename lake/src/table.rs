//! A table: its place, its head, its snapshot.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Schema};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};
use schemas::TableSpec;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Error, Result,
    file::DataFile,
    replay::{self, Entry, State},
    store::Durability,
};

/// A Delta table. Cheap to clone; holds no state of the table.
#[derive(Clone, Debug)]
pub struct Table {
    pub(crate) spec: &'static TableSpec,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) folder: Path,
    pub(crate) durability: Durability,
    /// Names the store within a DataFusion session.
    pub(crate) store_id: String,
    pub(crate) url: url::Url,
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

    /// `id` of the table's metadata.
    #[must_use]
    pub fn table_id(&self) -> &str {
        &self.state.table_id
    }

    /// Transaction identifiers.
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
    /// Transaction identifiers.
    pub txns: BTreeMap<String, i64>,
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

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(crate) fn log_folder(&self) -> Path {
        self.folder.clone().join("_delta_log")
    }

    pub(crate) fn entry_path(&self, version: i64) -> Path {
        self.log_folder().join(format!("{version:020}.json"))
    }

    /// The entry of a version; `None` where there is none.
    pub(crate) async fn entry(&self, version: i64) -> Result<Option<Entry>> {
        let path = self.entry_path(version);
        match self.store.get(&path).await {
            Ok(found) => {
                let bytes = found.bytes().await.map_err(|source| Error::store(&path, source))?;
                Entry::parse(&path, &bytes).map(Some)
            }
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

    /// Reads what was committed since; true where anything was.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub async fn refresh(&self, head: &mut Head) -> Result<bool> {
        let moved = replay::advance(self, &mut head.state).await?;
        head.state.check_protocol(self.name())?;
        Ok(moved)
    }

    /// The newest version with its files.
    ///
    /// # Errors
    /// Where there is no table, or the log cannot be read.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let state = replay::read(self, true).await?;
        let missing = || object_store::Error::NotFound { path: self.log_folder().to_string(), source: "there is no table".into() };
        let state = state.ok_or_else(|| Error::store(&self.log_folder(), missing()))?;
        Ok(Snapshot {
            table: self.clone(),
            version: state.version,
            table_id: state.table_id,
            files: state.files.unwrap_or_default().into_values().collect(),
            txns: state.txns,
        })
    }

    /// The head; creates the table as version 0 where it is not there. Safe beside others that do the same.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn create_if_missing(&self) -> Result<Head> {
        loop {
            if let Some(head) = self.head().await? {
                return Ok(head);
            }
            let path = self.entry_path(0);
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let outcome = self.store.put_opts(&path, self.first_entry().into(), options).await;
            match outcome {
                Ok(_) => self.durability.persist(&[path]).await?,
                // Another was faster, or the answer was lost: the log tells.
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(source) => return Err(Error::store(&path, source)),
            }
        }
    }

    fn first_entry(&self) -> Vec<u8> {
        let schema = (self.spec.schema)();
        let configuration: BTreeMap<&str, &str> = self.spec.properties.iter().copied().collect();
        let metadata = json!({
            "id": Uuid::new_v4(), "format": { "provider": "parquet", "options": {} }, "schemaString": delta_schema(&schema).to_string(),
            "partitionColumns": self.spec.partition_column.into_iter().collect::<Vec<_>>(), "configuration": configuration, "createdTime": 0,
        });
        let actions = [
            json!({ "commitInfo": { "operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": "daybook", "isBlindAppend": true } }),
            json!({ "protocol": { "minReaderVersion": replay::READER_VERSION, "minWriterVersion": replay::WRITER_VERSION } }),
            json!({ "metaData": metadata }),
        ];
        lines(&actions)
    }
}

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
fn delta_schema(schema: &Schema) -> Value {
    let fields: Vec<Value> = schema
        .fields()
        .iter()
        .map(|field| {
            let kind = match field.data_type() {
                DataType::Utf8 => "string".to_owned(),
                DataType::Int64 => "long".to_owned(),
                DataType::Int32 => "integer".to_owned(),
                DataType::Boolean => "boolean".to_owned(),
                DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
                DataType::Timestamp(..) => "timestamp".to_owned(),
                DataType::Date32 => "date".to_owned(),
                DataType::Binary => "binary".to_owned(),
                other => unreachable!("schemas has no column of type {other}"),
            };
            json!({ "name": field.name(), "type": kind, "nullable": field.is_nullable(), "metadata": field.metadata() })
        })
        .collect();
    json!({ "type": "struct", "fields": fields })
}

impl Table {
    /// Writes a log checkpoint of the newest version, so that opening the table reads one file in place of every entry.
    ///
    /// # Errors
    /// Where the store or the Delta library fails. Readers are safe either way: entries stay.
    pub async fn log_checkpoint(&self) -> Result<()> {
        let folder = url::Url::parse(&format!("{}://store/{}/", self.scheme(), self.folder)).expect("a folder's URL");
        let table = deltalake_core::DeltaTableBuilder::from_url(folder.clone())
            .map_err(Error::Delta)?
            .with_storage_backend(Arc::clone(&self.store), folder)
            .load()
            .await
            .map_err(Error::Delta)?;
        deltalake_core::protocol::checkpoints::create_checkpoint(&table, None).await.map_err(Error::Delta)?;
        Ok(())
    }

    fn scheme(&self) -> &'static str {
        "memory"
    }
}
