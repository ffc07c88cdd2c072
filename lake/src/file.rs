//! Data files as the log knows them: path, size, rows, and the ranges of their columns.

use std::{cmp::Ordering, collections::BTreeMap};

use arrow::datatypes::DataType;
use jiff::{Timestamp, civil::Date};
use schemas::{TableSpec, epoch_date, epoch_days};
use serde_json::{Map, Value, json};

use crate::layout::{percent_decode, percent_encode};

/// One Parquet file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Path below the table's folder.
    pub path: String,
    /// Length (bytes).
    pub size_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Day of the partition column; `None` where the table has none.
    pub partition_value: Option<Date>,
    /// What is known of its columns.
    pub stats: FileStats,
    /// When it was written (ms since 1970-01-01T00:00:00Z).
    pub(crate) written_ms: i64,
    /// Version of the snapshot that it was read in; 0 where it was not.
    pub(crate) seen: i64,
}

/// Ranges of a file's columns, by name: the sort columns, and the times and integers that are never null. Other writers
/// may leave out some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileStats {
    /// Column to what is known of it.
    pub columns: BTreeMap<String, ColumnStats>,
}

/// What is known of a column in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnStats {
    /// No value is less. A text may be cut short.
    pub min: Option<Bound>,
    /// No value is greater. A text may be cut short, and its last character raised for it.
    pub max: Option<Bound>,
    /// Nulls; `None` where they were not counted.
    pub nulls: Option<u64>,
}

/// A value that bounds a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Text, in the order of its UTF-8 bytes.
    Text(String),
    /// An integer; or of a date the days, of a time the µs, since 1970-01-01 (UTC).
    Int(i64),
}

impl Bound {
    /// The integer.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Text(_) => None,
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Text(_), Self::Int(_)) | (Self::Int(_), Self::Text(_)) => Ordering::Equal,
        }
    }

    /// From the log's JSON (Delta protocol, "Per-file Statistics"). `upper` matters for times, which some writers cut to
    /// milliseconds: the greatest then lies anywhere within its millisecond.
    fn from_json(value: &Value, column: &DataType, upper: bool) -> Option<Self> {
        match column {
            DataType::Utf8 => Some(Self::Text(value.as_str()?.to_owned())),
            DataType::Int32 | DataType::Int64 => value.as_i64().map(Self::Int),
            DataType::Date32 => value.as_str()?.parse().ok().map(|day| Self::Int(i64::from(epoch_days(day)))),
            DataType::Timestamp(..) => {
                let text = value.as_str()?;
                let us = text.parse::<Timestamp>().ok()?.as_microsecond();
                let digits =
                    text.split_once('.').map_or(0, |(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
                Some(Self::Int(if upper && digits <= 3 { us.saturating_add(999) } else { us }))
            }
            _ => None,
        }
    }

    fn to_json(&self, column: &DataType) -> Option<Value> {
        Some(match (self, column) {
            (Self::Text(text), _) => text.as_str().into(),
            (Self::Int(us), DataType::Timestamp(..)) => format!("{:.6}", Timestamp::from_microsecond(*us).ok()?).into(),
            (Self::Int(since), DataType::Date32) => epoch_date(i32::try_from(*since).ok()?)?.to_string().into(),
            (Self::Int(value), _) => (*value).into(),
        })
    }
}

impl ColumnStats {
    /// Widens the ranges to cover `other` too; what one of both does not know is not known.
    pub(crate) fn merge(&mut self, other: Self) {
        let pick = |a: Option<Bound>, b: Option<Bound>, keep: Ordering| {
            a.zip(b).map(|(a, b)| if a.cmp(&b) == keep { a } else { b })
        };
        self.min = pick(self.min.take(), other.min, Ordering::Less);
        self.max = pick(self.max.take(), other.max, Ordering::Greater);
        self.nulls = self.nulls.zip(other.nulls).map(|(a, b)| a + b);
    }
}

impl DataFile {
    /// Greatest value of a time column can be no greater (µs).
    #[must_use]
    pub fn max_time_us(&self, column: &str) -> Option<i64> {
        self.stats.columns.get(column)?.max.as_ref()?.int()
    }

    /// The smallest value of a time column can be no less (µs).
    #[must_use]
    pub fn min_time_us(&self, column: &str) -> Option<i64> {
        self.stats.columns.get(column)?.min.as_ref()?.int()
    }

    /// From an `add` action.
    pub(crate) fn from_add(spec: &TableSpec, types: &Types, add: &Value, seen: i64) -> Result<Self, String> {
        let file = Self::from_action(spec, add, seen)?;
        let path = &file.path;
        let stats = add["stats"].as_str().map(serde_json::from_str::<Value>).transpose();
        let stats = stats.map_err(|error| format!("statistics of {path}: {error}"))?.unwrap_or_default();
        let rows = stats["numRecords"].as_u64().ok_or_else(|| format!("the rows of {path} are not counted"))?;
        let columns = types.iter().filter_map(|(name, kind)| {
            let column = ColumnStats {
                min: Bound::from_json(&stats["minValues"][name], kind, false),
                max: Bound::from_json(&stats["maxValues"][name], kind, true),
                nulls: stats["nullCount"][name].as_u64(),
            };
            (column != ColumnStats::default()).then(|| (name.clone(), column))
        });
        let stats = FileStats { columns: columns.collect() };
        let written_ms = add["modificationTime"].as_i64().unwrap_or_default();
        Ok(Self { rows, stats, written_ms, ..file })
    }

    /// What both an `add` and a `remove` action say of a file.
    pub(crate) fn from_action(spec: &TableSpec, action: &Value, seen: i64) -> Result<Self, String> {
        let encoded = action["path"].as_str().ok_or("a file has no path")?;
        let path = percent_decode(encoded);
        let size_bytes = action["size"].as_u64().ok_or_else(|| format!("{path} has no size"))?;
        let partition_value = match spec.partition_column {
            Some(column) => {
                let day = action["partitionValues"][column].as_str().and_then(|text| text.parse().ok());
                Some(day.ok_or_else(|| format!("{path} has no date for {column}"))?)
            }
            None => None,
        };
        Ok(Self { path, size_bytes, rows: 0, partition_value, stats: FileStats::default(), written_ms: 0, seen })
    }

    /// The `add` action.
    pub(crate) fn to_add(&self, spec: &TableSpec, types: &Types, data_change: bool) -> Value {
        let side = |pick: fn(&ColumnStats) -> Option<&Bound>| -> Map<String, Value> {
            let known = self.stats.columns.iter();
            known.filter_map(|(name, column)| Some((name.clone(), pick(column)?.to_json(types.get(name)?)?))).collect()
        };
        let nulls = self.stats.columns.iter().filter_map(|(name, column)| Some((name.clone(), column.nulls?.into())));
        let stats = json!({
            "numRecords": self.rows,
            "minValues": side(|column| column.min.as_ref()),
            "maxValues": side(|column| column.max.as_ref()),
            "nullCount": nulls.collect::<Map<String, Value>>(),
        });
        json!({ "add": {
            "path": percent_encode(&self.path), "partitionValues": self.partition_values(spec), "size": self.size_bytes,
            "modificationTime": self.written_ms, "dataChange": data_change, "stats": stats.to_string(),
        } })
    }

    /// The `remove` action. Its time starts the retention after which a vacuum deletes the file (R14).
    pub(crate) fn to_remove(&self, spec: &TableSpec, data_change: bool, now_ms: i64) -> Value {
        json!({ "remove": {
            "path": percent_encode(&self.path), "deletionTimestamp": now_ms, "dataChange": data_change,
            "extendedFileMetadata": true, "partitionValues": self.partition_values(spec), "size": self.size_bytes,
        } })
    }

    fn partition_values(&self, spec: &TableSpec) -> Map<String, Value> {
        let pair = spec.partition_column.zip(self.partition_value);
        pair.into_iter().map(|(column, day)| (column.to_owned(), day.to_string().into())).collect()
    }
}

/// Columns with statistics, and their types.
pub(crate) type Types = BTreeMap<String, DataType>;

/// The columns of a table whose ranges the log holds: those that rows are sorted, found or accounted for by. Few, since
/// every reader of the table reads them for every file.
pub(crate) fn stats_columns(spec: &TableSpec) -> Types {
    let schema = spec.schema();
    let fields = schema.fields().iter().filter(|field| {
        let number = matches!(field.data_type(), DataType::Timestamp(..) | DataType::Int64 | DataType::Int32);
        Some(field.name().as_str()) != spec.partition_column
            && (spec.sort_columns.contains(&field.name().as_str()) || (number && !field.is_nullable()))
    });
    fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
}
