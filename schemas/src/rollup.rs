//! The table that people ask for, `rollup_daily`, and the definition of each of its measures.
//!
//! A measure is defined once, in `aggregate/definitions/measures.json`; the column, its comment and the aggregation follow from it.

use std::sync::LazyLock;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;

use crate::table::{Column, ColumnType, PROPERTIES, TableSpec, arrow_schema, column};

/// Version of the whole set of definitions; goes up with any change of meaning.
pub const DEFINITION_VERSION: i64 = 1;

/// How a measure aggregates what feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Number of events.
    Count,
    /// Sum of a column.
    Sum,
    /// Number of distinct non-null values of a column.
    Distinct,
}

/// Type of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureType {
    /// 64-bit integer.
    Int,
    /// Decimal(20,6).
    Decimal,
}

impl MeasureType {
    fn column_type(self) -> ColumnType {
        match self {
            Self::Int => ColumnType::Int,
            Self::Decimal => ColumnType::Decimal,
        }
    }
}

/// Events that feed a measure.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Full event types; `*` stands for all.
    pub types: Vec<String>,
    /// Column summed or counted distinctly.
    pub column: Option<String>,
    /// Columns with their allowed values, all of which must match. `None` (JSON null) matches null; booleans are `"true"`, `"false"`.
    #[serde(default, rename = "where")]
    pub filter: std::collections::BTreeMap<String, Vec<Option<String>>>,
}

/// Definition of a measure.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Column of `rollup_daily`.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub measure_type: MeasureType,
    /// Unit.
    pub unit: String,
    /// The measure is null unless one of these families is instrumented for the row's client.
    pub families: Vec<String>,
    /// Version of this definition.
    pub version: i64,
    /// Who answers for it.
    pub owner: String,
    /// Meaning.
    pub comment: String,
    /// Breakdowns that have it too; see [`crate::breakdown`].
    #[serde(default)]
    pub by: Vec<String>,
    /// Aggregation.
    pub op: Op,
    /// What it aggregates.
    pub feeds: Vec<Feed>,
}

/// All measures, in the order of their columns.
pub fn measures() -> &'static [Measure] {
    static MEASURES: LazyLock<Vec<Measure>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../aggregate/definitions/measures.json"))
            .expect("the embedded file is valid, a test reads it")
    });
    &MEASURES
}

/// Measure family that an event type belongs to: the noun of its name (`model` for `dev.daybook.model.completed.v1`);
/// `None` for types that are not ours.
#[must_use]
pub fn family(event_type: &str) -> Option<&str> {
    event_type.strip_prefix("dev.daybook.")?.split('.').next()
}

/// Columns before the measures: key, day and quality.
pub static KEY_COLUMNS: &[Column] = &[
    column("activity_date", ColumnType::Date, false, "Day in the organisation's time zone; partition column."),
    column("org_id", ColumnType::Text, false, "Organisation."),
    column("user_key", ColumnType::Text, false, "Person."),
    column("product", ColumnType::Text, false, "Product; unknown where the client names none."),
    column("client_type", ColumnType::Text, false, "Client type."),
    column("day_start", ColumnType::Time, false, "First instant of the day, inclusive."),
    column("day_end", ColumnType::Time, false, "First instant of the next day, exclusive."),
    column("time_zone", ColumnType::Text, false, "IANA time zone of the organisation."),
    column("state", ColumnType::Text, false, "provisional, final or restated."),
    column("revision", ColumnType::Int, false, "1 for the first value of the row, one more for each change."),
    column("watermark", ColumnType::Time, false, "Latest recorded_time of the events that the rollup has read."),
    column("computed_at", ColumnType::Time, false, "When this revision was computed."),
    column("definition_version", ColumnType::Int, false, "Version of the measures' definitions."),
    column("events_received", ColumnType::Int, false, "Distinct events [events]."),
    column(
        "events_expected",
        ColumnType::Int,
        true,
        "Events that the installations' sequence numbers span; null where none sends them [events].",
    ),
    column(
        "completeness",
        ColumnType::Decimal,
        true,
        "Of the expected events, the share received: 0 to 1; null where none sends sequence numbers.",
    ),
    column("late_events", ColumnType::Int, false, "Events recorded after the end of the day [events]."),
    column(
        "duplicates_removed",
        ColumnType::Int,
        false,
        "Further copies of the same event (org_id, source, event_id) [events].",
    ),
    column("first_event_time", ColumnType::Time, false, "Earliest event."),
    column("last_event_time", ColumnType::Time, false, "Latest event."),
    column(
        "instrumented",
        ColumnType::Text,
        false,
        "Measure families that this client can report, comma-separated; measures of others are null.",
    ),
    column("active_minutes", ColumnType::Int, false, "Distinct minutes with an event [minutes]."),
];

/// Columns after the measures: the plan at the end of the day.
pub static PLAN_COLUMNS: &[Column] = &[
    column("subscription_state", ColumnType::Text, true, "State of the person's plan at the end of the day."),
    column("subscription_tier", ColumnType::Text, true, "Tier of the plan."),
    column("overage_enabled", ColumnType::Bool, true, "Overage was allowed."),
    column("overage_cap", ColumnType::Decimal, true, "Overage cap, or included credits where overage is off."),
    column("newly_activated", ColumnType::Bool, false, "This is the person's first active day."),
    column(
        "first_active_date",
        ColumnType::Date,
        false,
        "First day with an event of this person in this organisation.",
    ),
];

/// The column of a measure, where it is about one person and client.
pub(crate) fn measure_column(measure: &'static Measure) -> Column {
    let comment = format!("{} [{}]; null where not instrumented.", measure.comment, measure.unit);
    column(&measure.name, measure.measure_type.column_type(), true, comment.leak())
}

/// Every column of `rollup_daily`, in order.
pub fn columns() -> &'static [Column] {
    static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
        let measures = measures().iter().map(measure_column);
        KEY_COLUMNS.iter().cloned().chain(measures).chain(PLAN_COLUMNS.iter().cloned()).collect()
    });
    &COLUMNS
}

fn schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| arrow_schema(columns()));
    SCHEMA.clone()
}

/// One row per (organisation, day, person, product, client type).
pub static ROLLUP_DAILY: TableSpec = TableSpec {
    name: "rollup_daily",
    schema_of: schema,
    partition_column: Some("activity_date"),
    sort_columns: &["org_id", "user_key", "product", "client_type"],
    bloom_columns: &[],
    properties: PROPERTIES,
};
