//! What `rollup_daily` said before: each change of an organisation's day, and the rows that were final and are others now.

use std::sync::LazyLock;

use arrow::datatypes::SchemaRef;

use crate::{
    rollup,
    table::{Column, ColumnType, PROPERTIES, TableSpec, arrow_schema, column},
};

/// Columns of `rollup_revisions`.
pub static REVISION_COLUMNS: &[Column] = &[
    column("committed_date", ColumnType::Date, false, "UTC day of committed_at; partition column."),
    column("org_id", ColumnType::Text, false, "Organisation."),
    column("activity_date", ColumnType::Date, false, "The day that changed, in the organisation's time zone."),
    column("rollup_version", ColumnType::Int, false, "Version of the table rollup_daily that holds the change."),
    column("events_version", ColumnType::Int, true, "Version of the table events that it stands for since."),
    column("committed_at", ColumnType::Time, false, "When the change was committed, by the writer's clock."),
    column(
        "reason",
        ColumnType::Text,
        false,
        "events, late_events (the day was final), settled (it became final as it was), calendar (the organisation has another time zone or \
         lateness), definitions (others of the measures, or of days by default), erasure (events were removed, or their log does not reach back), rebuild, first (the first rollup) or unknown (another writer).",
    ),
    column(
        "state_before",
        ColumnType::Text,
        true,
        "provisional where any row of the day was, else restated where any was, else final; null where there were no rows.",
    ),
    column("state_after", ColumnType::Text, true, "The same, afterwards."),
    column("rows_before", ColumnType::Int, true, "Rows of the day; null where they cannot be read any more [rows]."),
    column("rows_after", ColumnType::Int, true, "The same, afterwards [rows]."),
    column("events_before", ColumnType::Int, true, "Distinct events of the day, events_received [events]."),
    column("events_after", ColumnType::Int, true, "The same, afterwards [events]."),
    column("rows_added", ColumnType::Int, true, "Rows that were not there [rows]."),
    column("rows_changed", ColumnType::Int, true, "Rows with another content [rows]."),
    column("rows_removed", ColumnType::Int, true, "Rows that are not there any more [rows]."),
    column("rows_finalised", ColumnType::Int, true, "Rows that became final as they were [rows]."),
];

fn revisions_schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| arrow_schema(REVISION_COLUMNS));
    SCHEMA.clone()
}

/// One row per version of `rollup_daily`, organisation and day that it changed: the change feed.
pub static ROLLUP_REVISIONS: TableSpec = TableSpec {
    name: "rollup_revisions",
    schema_of: revisions_schema,
    partition_column: Some("committed_date"),
    sort_columns: &["org_id", "rollup_version", "activity_date"],
    bloom_columns: &[],
    properties: PROPERTIES,
};

/// Columns of `rollup_superseded` before those of `rollup_daily`.
pub static SUPERSEDED_COLUMNS: &[Column] = &[
    column("superseded_date", ColumnType::Date, false, "UTC day of superseded_at; partition column."),
    column(
        "rollup_version",
        ColumnType::Int,
        false,
        "Version of the table rollup_daily that has another row, or none, instead.",
    ),
    column("superseded_at", ColumnType::Time, false, "When that was committed, by the writer's clock."),
];

fn superseded_schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let columns: Vec<Column> = SUPERSEDED_COLUMNS.iter().chain(rollup::columns()).cloned().collect();
        arrow_schema(&columns)
    });
    SCHEMA.clone()
}

/// Rows of `rollup_daily` that were final, as they stood until they were restated or removed.
pub static ROLLUP_SUPERSEDED: TableSpec = TableSpec {
    name: "rollup_superseded",
    schema_of: superseded_schema,
    partition_column: Some("superseded_date"),
    sort_columns: &["org_id", "user_key", "product", "client_type", "activity_date", "rollup_version"],
    bloom_columns: &[],
    properties: PROPERTIES,
};
