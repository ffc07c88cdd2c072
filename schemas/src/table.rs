//! Tables as data: columns, types, partitioning and order, from which Arrow and Delta schemas follow.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use jiff::{Span, civil::Date};
use serde::Deserialize;

/// Type of a column. Each has one Arrow and one Delta form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// UTF-8 text (Delta `string`).
    Text,
    /// 64-bit signed integer (Delta `long`).
    Int,
    /// 32-bit signed integer (Delta `integer`).
    Int32,
    /// Delta `boolean`.
    Bool,
    /// `decimal(20,6)`.
    Decimal,
    /// Microseconds since 1970-01-01T00:00:00Z (Delta `timestamp`).
    Time,
    /// Calendar day (Delta `date`).
    Date,
    /// Bytes (Delta `binary`).
    Binary,
}

impl ColumnType {
    /// The Arrow type.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Int32 => DataType::Int32,
            Self::Bool => DataType::Boolean,
            Self::Decimal => DataType::Decimal128(20, 6),
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Binary => DataType::Binary,
        }
    }
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Name, snake_case.
    pub name: &'static str,
    /// Type.
    pub column_type: ColumnType,
    /// False only for columns that were there in the first release: a later column is always nullable.
    pub nullable: bool,
    /// Meaning and unit; becomes the column's comment in every catalogue.
    pub comment: &'static str,
}

/// A column, in tables written as code.
pub(crate) const fn column(
    name: &'static str,
    column_type: ColumnType,
    nullable: bool,
    comment: &'static str,
) -> Column {
    Column { name, column_type, nullable, comment }
}

/// What a table is. The rows are written and read by `lake`.
#[derive(Clone, Copy, Debug)]
pub struct TableSpec {
    /// Name of the table and of its folder.
    pub name: &'static str,
    /// Gives the full Arrow schema, the partition column included, for the table's name; see [`TableSpec::schema`].
    pub schema_of: fn(&'static str) -> SchemaRef,
    /// Partition column (a date), or none.
    pub partition_column: Option<&'static str>,
    /// Rows within each file ascend by these columns, none of which is ever null.
    pub sort_columns: &'static [&'static str],
    /// Columns that get a Parquet bloom filter.
    pub bloom_columns: &'static [&'static str],
    /// Delta table properties.
    pub properties: &'static [(&'static str, &'static str)],
}

impl TableSpec {
    /// A table by `activity_date`.
    pub(crate) fn daily(
        name: &'static str,
        schema_of: fn(&'static str) -> SchemaRef,
        sort_columns: impl Iterator<Item = &'static str>,
    ) -> Self {
        Self {
            name,
            schema_of,
            partition_column: Some("activity_date"),
            sort_columns: sort_columns.collect::<Vec<_>>().leak(),
            bloom_columns: &[],
            properties: PROPERTIES,
        }
    }

    /// Full Arrow schema, the partition column included.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        (self.schema_of)(self.name)
    }

    /// The schema of its files: all columns but the partition column, which lies in the path.
    #[must_use]
    pub fn file_schema(&self) -> SchemaRef {
        let schema = self.schema();
        let fields = schema.fields().iter().filter(|field| Some(field.name().as_str()) != self.partition_column);
        Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
    }
}

/// Properties of our tables (Delta protocol, "Table Properties"), for other engines that work on them: they keep replaced files and
/// log entries for as long as our own maintenance does, and leave the clean-up of the log to it (F11). What must not be set is
/// `delta.setTransactionRetentionDuration`: offsets would expire.
pub const PROPERTIES: &[(&str, &str)] = &[
    ("delta.checkpointInterval", "100"),
    ("delta.deletedFileRetentionDuration", "interval 168 hours"),
    ("delta.enableExpiredLogCleanup", "false"),
    ("delta.logRetentionDuration", "interval 720 hours"),
];

/// Arrow schema of `columns`, each with its comment in the metadata key `comment`.
#[must_use]
pub fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| {
        Field::new(column.name, column.column_type.arrow(), column.nullable)
            .with_metadata(HashMap::from([("comment".to_owned(), column.comment.to_owned())]))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

const EPOCH: Date = Date::constant(1970, 1, 1);

/// Days since 1970-01-01: Arrow's `Date32`, Delta's `date`.
#[must_use]
pub fn epoch_days(date: Date) -> i32 {
    (date - EPOCH).get_days()
}

/// The date so many days after 1970-01-01; `None` outside the years -9999 to 9999.
#[must_use]
pub fn epoch_date(days: i32) -> Option<Date> {
    EPOCH.checked_add(Span::new().try_days(days).ok()?).ok()
}
