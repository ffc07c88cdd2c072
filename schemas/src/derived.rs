//! Tables that follow from `rollup_daily` by SQL: organisations and teams by day, active users, retention, licences, ….
//!
//! A derived table is defined in `tables.json` (what it is, its columns, what it reads) and a file of SQL of the same name. `aggregate` keeps it in
//! line with what it reads.

use std::{collections::BTreeMap, sync::LazyLock};

use arrow::datatypes::SchemaRef;
use serde::Deserialize;

use crate::{
    rollup::{Measure, ROLLUP_DAILY, measure_column, measures},
    table::{Column, ColumnType, TableSpec, arrow_schema, column},
    tables::TEAM_MEMBERS,
};

/// Definition of a derived table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    /// Table.
    pub table: String,
    /// What a row is.
    pub comment: String,
    /// Version of this definition.
    pub version: i64,
    /// Who answers for it.
    pub owner: String,
    /// What a date of it stands for.
    #[serde(default)]
    pub dates: Dates,
    /// Its columns after `activity_date` and `org_id` that make the key; rows are sorted by them.
    pub key: Vec<String>,
    /// What it reads.
    pub reads: Vec<Source>,
    /// It reads its own rows of the date before, as the table `before`.
    #[serde(default)]
    pub is_chain: bool,
    /// Columns after `activity_date` and `org_id`.
    pub columns: Vec<DerivedColumn>,
    /// The sums of all measures of `rollup_daily` follow, each as a column of the measure's name.
    #[serde(default)]
    pub sums_measures: bool,
}

/// What a date of a derived table stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dates {
    /// A day.
    #[default]
    Day,
    /// Monday to Sunday, by the Monday.
    Week,
}

/// A table that a derived table reads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name.
    pub table: String,
    /// How many days before its own date a row may reach; `None` = to the first there is.
    pub days_before: Option<u16>,
}

/// A column of a derived table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedColumn {
    /// Name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Unit, where it is a quantity.
    pub unit: Option<String>,
    /// It may be null.
    #[serde(default)]
    pub nullable: bool,
    /// Meaning.
    pub comment: String,
}

/// All derived tables; each comes after those that it reads.
pub fn derived() -> &'static [Derived] {
    static DERIVED: LazyLock<Vec<Derived>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../aggregate/definitions/tables.json"))
            .expect("the embedded file is valid, a test reads it")
    });
    &DERIVED
}

/// Their specs, in the same order.
pub fn specs() -> &'static [TableSpec] {
    static SPECS: LazyLock<Vec<TableSpec>> = LazyLock::new(|| {
        let spec = |derived: &'static Derived| {
            let key = derived.key.iter().map(String::as_str);
            TableSpec::daily(&derived.table, schema, std::iter::once("org_id").chain(key))
        };
        derived().iter().map(spec).collect()
    });
    &SPECS
}

/// The spec of a table that derived tables may read.
#[must_use]
pub fn source(name: &str) -> Option<&'static TableSpec> {
    let given = [&ROLLUP_DAILY, &TEAM_MEMBERS].into_iter();
    given.chain(specs()).find(|spec| spec.name == name)
}

impl Derived {
    /// The SQL that gives its rows; see `aggregate::derive` for the tables that it may name. `{sums}` stands for the sums of all measures.
    #[must_use]
    pub fn sql(&self) -> String {
        let (_, sql) = SQL.iter().find(|(table, _)| *table == self.table).expect("each table has SQL, a test looks");
        let sums = measures().iter().map(|measure| format!("sum({0}) AS {0}", measure.name));
        sql.replace("{sums}", &sums.collect::<Vec<_>>().join(",\n    "))
    }

    fn columns(&'static self) -> Vec<Column> {
        let date = match self.dates {
            Dates::Day => "Day in the organisation's time zone; partition column.",
            Dates::Week => "Monday of the week, in the organisation's time zone; partition column.",
        };
        let mut columns = vec![
            column("activity_date", ColumnType::Date, false, date),
            column("org_id", ColumnType::Text, false, "Organisation."),
        ];
        columns.extend(self.columns.iter().map(|own| {
            let comment = match &own.unit {
                Some(unit) => format!("{} [{unit}].", own.comment.trim_end_matches('.')).leak(),
                None => own.comment.as_str(),
            };
            column(&own.name, own.column_type, own.nullable, comment)
        }));
        if self.sums_measures {
            columns.extend(measures().iter().map(|measure| {
                let Measure { comment, unit, .. } = measure;
                let comment =
                    format!("{comment} Sum over people and clients [{unit}]; null where none is instrumented.");
                Column { comment: comment.leak(), ..measure_column(measure) }
            }));
        }
        columns
    }
}

fn schema(name: &str) -> SchemaRef {
    static SCHEMAS: LazyLock<BTreeMap<&str, SchemaRef>> = LazyLock::new(|| {
        let schema = |derived: &'static Derived| (derived.table.as_str(), arrow_schema(&derived.columns()));
        derived().iter().map(schema).collect()
    });
    SchemaRef::clone(&SCHEMAS[name])
}

macro_rules! sql {
    ($($table:literal),+ $(,)?) => {
        /// SQL by table.
        static SQL: &[(&str, &str)] =
            &[$(($table, include_str!(concat!("../../aggregate/definitions/", $table, ".sql")))),+];
    };
}

sql!(
    "org_daily",
    "team_daily",
    "client_mix",
    "acceptance",
    "data_health",
    "active_users",
    "trend",
    "cohort_activity",
    "cohort_retention",
    "licence_state",
    "adoption_funnel",
);
