//! What the peers need to know, and how their tables are checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use e2e::installed;
use schemas::{ColumnType, clients::CLIENT_TYPES, registry::Registry, tables::EVENT_COLUMNS};
use serde_json::{Value, json};

/// Attributes of the envelope that become columns as they are. Peers know those that need more: id, type, time and the like.
const ENVELOPE: [(&str, &str); 13] = [
    ("dataschema", "data_schema"),
    ("product", "product"),
    ("clienttype", "client_type_raw"),
    ("clientver", "client_version"),
    ("hostapp", "host_app"),
    ("installid", "install_id"),
    ("sessionid", "session_id"),
    ("conversationid", "conversation_id"),
    ("turnid", "turn_id"),
    ("traceparent", "trace_parent"),
    ("sequence", "sequence"),
    ("tzoffset", "tz_offset_minutes"),
    ("senttime", "sent_time"),
];

/// The folder of the peers' scripts.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Columns of `events` that come out of an event: each with its type and the attributes that it is made of, from the same
/// schemas that drive our own decoder.
///
/// # Panics
/// Never: the types of such columns are known.
#[must_use]
pub fn columns() -> Value {
    let mut data: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for event_type in Registry::get().types() {
        for field in &Registry::get().spec(event_type).fields {
            if let Some(column) = field.column {
                data.entry(column).or_default().insert(&field.name);
            }
        }
    }
    let columns = EVENT_COLUMNS.iter().enumerate().filter_map(|(at, column)| {
        let attribute = ENVELOPE.iter().find(|(_, name)| *name == column.name);
        let from = match (attribute, data.get(&at)) {
            (Some((attribute, _)), _) => json!([attribute]),
            (None, Some(names)) => json!(names),
            (None, None) => return None,
        };
        let kind = match column.column_type {
            ColumnType::Text => "text",
            ColumnType::Int => "int",
            ColumnType::Bool => "bool",
            ColumnType::Decimal => "decimal",
            ColumnType::Time => "time",
            other => unreachable!("no attribute is a {other:?}"),
        };
        Some(json!({ "column": column.name, "type": kind, "from": from, "in_data": attribute.is_none() }))
    });
    json!({ "client_types": CLIENT_TYPES, "columns": columns.collect::<Vec<_>>() })
}

/// What the log of a Delta table on local disk says, read entry by entry. For tables that are only appended to.
pub struct DeltaLog {
    folder: PathBuf,
    /// The next entry to read.
    version: u64,
    rows: i64,
    bytes: i64,
    files: i64,
}

impl DeltaLog {
    /// Nothing of it is read yet; the table need not be there.
    #[must_use]
    pub fn new(table: &Path) -> Self {
        Self { folder: table.join("_delta_log"), version: 0, rows: 0, bytes: 0, files: 0 }
    }

    /// Rows of all files, after what was committed since.
    ///
    /// # Panics
    /// Where an entry is no such entry, removes a file, or adds one that does not tell its rows.
    pub fn rows(&mut self) -> i64 {
        while let Ok(entry) = std::fs::read_to_string(self.folder.join(format!("{:020}.json", self.version))) {
            for line in entry.lines() {
                let action: Value = serde_json::from_str(line).expect("a log entry has a JSON object on each line");
                assert!(action.get("remove").is_none(), "nobody removes files here: {line}");
                if let Some(add) = action.get("add") {
                    let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap_or("{}")).expect("JSON");
                    self.rows += stats["numRecords"].as_i64().unwrap_or_else(|| panic!("no numRecords in {line}"));
                    self.bytes += add["size"].as_i64().expect("a size");
                    self.files += 1;
                }
            }
            self.version += 1;
        }
        self.rows
    }

    /// Bytes and number of the files that [`Self::rows`] has seen.
    #[must_use]
    pub fn size(&self) -> (i64, i64) {
        (self.bytes, self.files)
    }
}

/// Compares each column of our `events` with a peer's; gives how many rows and columns are equal.
///
/// # Panics
/// Where they are not.
#[must_use]
pub fn compare(ours: &Path, theirs: &Path) -> Value {
    let script = folder().join("compare.py");
    let output = Command::new(installed("DAYBOOK_E2E_PYTHON")).arg(script).args([ours, theirs]).output();
    let output = output.expect("python starts");
    assert!(output.status.success(), "compare.py failed: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("compare.py prints JSON");
    assert_eq!(found["different"], json!({}), "{} and {} differ", ours.display(), theirs.display());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_an_origin() {
        let columns = columns();
        let named: BTreeSet<&str> =
            columns["columns"].as_array().expect("a list").iter().filter_map(|c| c["column"].as_str()).collect();
        // Those that the server gives, and those that every peer's script makes by itself.
        let made = [
            "event_date",
            "org_id",
            "user_key",
            "client_type",
            "event_time",
            "event_id",
            "source",
            "event_type",
            "recorded_time",
            "vantage",
            "log_partition",
            "log_offset",
            "payload_hash",
            "ext",
        ];
        let without: Vec<_> =
            EVENT_COLUMNS.iter().map(|column| column.name).filter(|name| !named.contains(name)).collect();
        assert_eq!(without, made);
    }

    #[test]
    fn rows_are_summed_over_entries() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut log = DeltaLog::new(folder.path());
        assert_eq!(log.rows(), 0);
        let entry = |rows: i64| {
            let stats = json!({ "numRecords": rows }).to_string();
            format!("{}\n{}\n", json!({ "commitInfo": {} }), json!({ "add": { "size": 10, "stats": stats } }))
        };
        std::fs::create_dir(folder.path().join("_delta_log")).expect("a folder");
        for (version, rows) in [(0, 3), (1, 4)] {
            let path = folder.path().join(format!("_delta_log/{version:020}.json"));
            std::fs::write(path, entry(rows)).expect("a file");
        }
        assert_eq!(log.rows(), 7);
        assert_eq!(log.size(), (20, 2));
    }
}
