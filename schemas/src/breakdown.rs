//! Breakdowns of `rollup_daily`: the same key and one thing more, such as the model. A new model is a new row, never a new column.
//!
//! A breakdown is defined in `breakdowns.json`; its measures are those of `measures.json` that name it in `by`. Of each such measure the rows of a
//! breakdown add up to the row of `rollup_daily`. A row is there where an event feeds one of these measures, if only with nothing.

use std::{collections::BTreeMap, sync::LazyLock};

use arrow::datatypes::SchemaRef;
use serde::Deserialize;

use crate::{
    rollup::{Measure, ROLLUP_DAILY, columns, measure_column, measures},
    table::{Column, ColumnType, TableSpec, arrow_schema, column},
};

/// Definition of a breakdown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breakdown {
    /// Table.
    pub table: String,
    /// What a row is.
    pub comment: String,
    /// Version of this definition.
    pub version: i64,
    /// Who answers for it.
    pub owner: String,
    /// What its rows have in their key beside that of `rollup_daily`.
    pub keys: Vec<Key>,
}

/// A further column of the key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Column.
    pub name: String,
    /// Text columns of `events`; the first that is not null is the value, `unknown` where all are.
    pub columns: Vec<String>,
    /// Meaning.
    pub comment: String,
}

/// All breakdowns.
pub fn breakdowns() -> &'static [Breakdown] {
    static BREAKDOWNS: LazyLock<Vec<Breakdown>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../aggregate/definitions/breakdowns.json"))
            .expect("the embedded file is valid, a test reads it")
    });
    &BREAKDOWNS
}

/// Their specs, in the same order.
pub fn specs() -> &'static [TableSpec] {
    static SPECS: LazyLock<Vec<TableSpec>> = LazyLock::new(|| {
        let spec = |breakdown: &'static Breakdown| {
            let keys = breakdown.keys.iter().map(|key| key.name.as_str());
            TableSpec::daily(&breakdown.table, schema, ROLLUP_DAILY.sort_columns.iter().copied().chain(keys))
        };
        breakdowns().iter().map(spec).collect()
    });
    &SPECS
}

impl Breakdown {
    /// Its measures, in the order of their columns.
    pub fn measures(&self) -> impl Iterator<Item = &'static Measure> {
        measures().iter().filter(|measure| measure.by.contains(&self.table))
    }

    fn columns(&'static self) -> Vec<Column> {
        let shared =
            |column: &&Column| column.name == "activity_date" || ROLLUP_DAILY.sort_columns.contains(&column.name);
        let keys = self.keys.iter().map(|key| column(&key.name, ColumnType::Text, false, &key.comment));
        columns().iter().filter(shared).cloned().chain(keys).chain(self.measures().map(measure_column)).collect()
    }
}

fn schema(name: &str) -> SchemaRef {
    static SCHEMAS: LazyLock<BTreeMap<&str, SchemaRef>> = LazyLock::new(|| {
        let schema = |breakdown: &'static Breakdown| (breakdown.table.as_str(), arrow_schema(&breakdown.columns()));
        breakdowns().iter().map(schema).collect()
    });
    SchemaRef::clone(&SCHEMAS[name])
}
