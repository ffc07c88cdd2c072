//! The Delta log, read: protocol, metadata, transaction identifiers and, where wanted, the active files.
//!
//! ```text
//! newest readable checkpoint (or none) ──► entries after it, one version after the other ──► State
//! ```
//!
//! Source: Delta protocol, "Action Reconciliation" and "Checkpoints". A head keeps no file list, and reads only the few
//! columns of a checkpoint that it needs: opening and committing cost nothing per file. A damaged checkpoint, or a hint
//! that leads nowhere, costs time and nothing else (F10): the next older one serves, or the entries from the first on.

use std::collections::{BTreeMap, HashMap};

use jiff::civil::Date;
use object_store::path::Path;
use schemas::TableSpec;
use serde_json::Value;

use crate::{
    Error, Result, Table, Version,
    file::{DataFile, stats_columns},
    layout, log_checkpoint,
};

/// Reader and writer versions that this code knows how to follow.
pub(crate) const READER_VERSION: i64 = 1;
pub(crate) const WRITER_VERSION: i64 = 2;
/// Entries fetched at a time while catching up on many.
pub(crate) const FETCHED_AHEAD_MAX: usize = 16;
/// What was read of a log longer ago than this is read anew (ms): the entries behind it may have been cleaned up, and where
/// they are missing the log would seem to end. Log entries are kept for at least twice as long.
pub(crate) const KNOWN_AGE_MAX_MS: i64 = 24 * 3600 * 1000;
/// Removed paths that a head remembers.
const REMOVED_MAX: usize = 65_536;

/// What the log says up to a version.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// -1 before the first entry.
    pub(crate) version: i64,
    /// The last version that brought new rows, or a later one where the entries up to it were not read one by one.
    pub(crate) rows_version: i64,
    pub(crate) table_id: String,
    pub(crate) schema_string: String,
    /// Table properties.
    pub(crate) configuration: Value,
    /// minReaderVersion, minWriterVersion.
    pub(crate) protocol: (i64, i64),
    pub(crate) txns: BTreeMap<String, i64>,
    /// By path; `None` where the reader did not ask for files.
    pub(crate) files: Option<BTreeMap<String, DataFile>>,
    /// Path to the version that removed it: all that the versions after `removed_since` did.
    pub(crate) removed: HashMap<String, i64>,
    pub(crate) removed_since: i64,
    /// When the log's end was last seen (ms).
    pub(crate) read_ms: i64,
}

/// One log entry, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    actions: Vec<Value>,
}

impl Entry {
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let actions: std::result::Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
        let actions = actions.map_err(|error| Error::corrupt(path, error))?;
        if actions.is_empty() {
            // Never applied as "nothing happened": whoever tore it may have removed more than we can see.
            return Err(Error::corrupt(path, "it is empty"));
        }
        Ok(Self { actions })
    }

    fn each<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.actions.iter().filter_map(move |action| action.get(kind))
    }

    /// Our own id of the commit that wrote it.
    pub(crate) fn commit_id(&self) -> Option<&str> {
        self.each("commitInfo").find_map(|info| info["txnId"].as_str())
    }

    /// Files whose rows are new to the table; `version` is the entry's.
    pub(crate) fn added(&self, table: &Table, version: i64) -> Result<Vec<DataFile>> {
        let types = stats_columns(table.spec());
        let files = self.changing("add").map(|add| DataFile::from_add(table.spec(), &types, add, version));
        files
            .collect::<std::result::Result<_, _>>()
            .map_err(|detail| Error::corrupt(&layout::entry(table.folder(), version), detail))
    }

    /// Actions of a kind on files that change rows; others move them to other files.
    fn changing<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.each(kind).filter(|action| action["dataChange"].as_bool() != Some(false))
    }

    /// All of it that concerns rows; `number` is the entry's version.
    pub(crate) fn version(&self, table: &Table, number: i64) -> Result<Version> {
        let spec = table.spec();
        let removed = self.changing("remove").map(|remove| DataFile::from_action(spec, remove, number));
        let removed = removed.collect::<Result<_, _>>();
        let info = self.each("commitInfo").next();
        let txn = |txn: &Value| Some((txn["appId"].as_str()?.to_owned(), txn["version"].as_i64()?));
        Ok(Version {
            number,
            committed_ms: info.and_then(|info| info["timestamp"].as_i64()).unwrap_or_default(),
            added: self.added(table, number)?,
            removed: removed.map_err(|detail| Error::corrupt(&layout::entry(table.folder(), number), detail))?,
            txns: self.each("txn").filter_map(txn).collect(),
            metrics: info.map(|info| info["operationMetrics"].clone()).unwrap_or_default(),
        })
    }

    /// True where it adds rows that were not there before.
    pub(crate) fn brings_rows(&self) -> bool {
        self.changing("add").next().is_some()
    }

    /// True where it takes rows away.
    pub(crate) fn removes_rows(&self) -> bool {
        self.changing("remove").next().is_some()
    }

    /// Table partitions that it brings rows to or takes rows from; `None` where it does not say.
    pub(crate) fn dates(&self, spec: &TableSpec) -> Option<Vec<Date>> {
        let column = spec.partition_column?;
        let changed = self.changing("add").chain(self.changing("remove"));
        changed.map(|file| file["partitionValues"][column].as_str()?.parse().ok()).collect()
    }

    /// True where it changes metadata or protocol.
    pub(crate) fn redefines(&self) -> bool {
        self.each("metaData").chain(self.each("protocol")).next().is_some()
    }
}

impl State {
    pub(crate) fn empty(with_files: bool) -> Self {
        Self {
            version: -1,
            rows_version: -1,
            removed_since: -1,
            files: with_files.then(BTreeMap::new),
            ..Self::default()
        }
    }

    /// Applies the entry of the version after this one.
    pub(crate) fn apply(&mut self, table: &Table, entry: &Entry) -> Result<()> {
        let version = self.version + 1;
        let corrupt = |detail: String| Error::corrupt(&layout::entry(table.folder(), version), detail);
        for txn in entry.each("txn") {
            let (Some(app_id), Some(next)) = (txn["appId"].as_str(), txn["version"].as_i64()) else {
                return Err(corrupt("a txn without appId or version".into()));
            };
            self.txns.insert(app_id.to_owned(), next);
        }
        for metadata in entry.each("metaData") {
            let configuration = metadata["configuration"].clone();
            self.metadata(metadata["id"].as_str(), metadata["schemaString"].as_str(), configuration);
        }
        for protocol in entry.each("protocol") {
            self.protocol(protocol["minReaderVersion"].as_i64(), protocol["minWriterVersion"].as_i64());
        }
        for path in entry.each("remove").filter_map(|remove| remove["path"].as_str()).map(layout::percent_decode) {
            if let Some(files) = &mut self.files {
                files.remove(&path);
            }
            self.note_removed(version, path);
        }
        if let Some(files) = &mut self.files {
            let types = stats_columns(table.spec());
            for add in entry.each("add") {
                let file = DataFile::from_add(table.spec(), &types, add, version).map_err(corrupt)?;
                files.insert(file.path.clone(), file);
            }
        }
        if entry.brings_rows() {
            self.rows_version = version;
        }
        self.version = version;
        Ok(())
    }

    pub(crate) fn note_removed(&mut self, version: i64, path: String) {
        if self.removed.len() >= REMOVED_MAX {
            // Whoever read the table before now has to read it again.
            self.removed.clear();
            self.removed_since = version;
        }
        self.removed.insert(path, version);
    }

    pub(crate) fn metadata(&mut self, id: Option<&str>, schema: Option<&str>, configuration: Value) {
        self.configuration = configuration;
        self.table_id = id.unwrap_or_default().to_owned();
        self.schema_string = schema.unwrap_or_default().to_owned();
    }

    pub(crate) fn protocol(&mut self, reader: Option<i64>, writer: Option<i64>) {
        self.protocol = (reader.unwrap_or(i64::MAX), writer.unwrap_or(i64::MAX));
    }

    pub(crate) fn check_protocol(&self, table: &str) -> Result<()> {
        let (reader, writer) = self.protocol;
        if reader > READER_VERSION || writer > WRITER_VERSION {
            return Err(Error::Protocol { table: table.to_owned(), reader, writer });
        }
        Ok(())
    }
}

/// Reads the log up to its end. `None` where there is no table.
pub(crate) async fn read(table: &Table, with_files: bool) -> Result<Option<State>> {
    let mut state = match log_checkpoint::newest(table, with_files).await? {
        Some(state) => State { rows_version: state.version, ..state },
        None => State::empty(with_files),
    };
    follow(table, &mut state).await?;
    if state.version < 0 {
        return Ok(None);
    }
    state.check_protocol(table.name())?;
    Ok(Some(state))
}

/// Applies the entries after `state.version`; true where there were any. After an error the state is that of its version.
pub(crate) async fn advance(table: &Table, state: &mut State) -> Result<bool> {
    if !outdated(table, state) {
        return follow(table, state).await;
    }
    let fresh = read(table, state.files.is_some()).await?;
    let fresh = fresh.ok_or_else(|| Error::Missing { table: table.name().to_owned() })?;
    let moved = fresh.version != state.version;
    *state = fresh;
    Ok(moved)
}

/// Whether `state` is too old to tell where the log ends.
pub(crate) fn outdated(table: &Table, state: &State) -> bool {
    (table.place().now_ms() - state.read_ms).abs() > KNOWN_AGE_MAX_MS
}

async fn follow(table: &Table, state: &mut State) -> Result<bool> {
    let before = state.version;
    // A probe at a time costs a round trip each: a long tail is fetched ever more entries at a time.
    let mut width = 1;
    loop {
        let now_ms = table.place().now_ms();
        let versions = (1..=width as i64).map(|step| state.version + step);
        let entries = futures::future::join_all(versions.map(|version| table.entry(version))).await;
        for entry in entries {
            // What lies behind the first version that is not there may have come after it was asked for.
            let Some(entry) = entry? else {
                state.read_ms = now_ms;
                return Ok(state.version > before);
            };
            state.apply(table, &entry)?;
        }
        width = (width * 2).min(FETCHED_AHEAD_MAX);
    }
}
