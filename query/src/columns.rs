//! What each column means: the metric catalogue, as JSON for programs and as a table for SQL.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, StringArray},
    datatypes::{Field, Schema},
};
use schemas::{
    Column, ColumnType, TableSpec,
    rollup::{DEFINITION_VERSION, Measure, MeasureType, Op, ROLLUP_DAILY, columns, measures},
};
use serde_json::{Value, json};

fn type_name(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Text => "text",
        ColumnType::Int => "int64",
        ColumnType::Int32 => "int32",
        ColumnType::Bool => "bool",
        ColumnType::Decimal => "decimal(20,6)",
        ColumnType::Time => "timestamp",
        ColumnType::Date => "date",
        ColumnType::Binary => "binary",
    }
}

/// The unit that a comment ends with, `…[ms].`.
fn unit(column: &Column) -> Option<&'static str> {
    let (_, rest) = column.comment.rsplit_once('[')?;
    Some(rest.split_once(']')?.0)
}

/// Every column of `rollup_daily`: name, type, unit, meaning; of a measure also how it is made and from which families.
#[must_use]
pub fn catalogue() -> Value {
    let columns = columns().iter().map(|column| {
        let mut entry = json!({
            "name": column.name,
            "type": type_name(column.column_type),
            "nullable": column.nullable,
            "unit": unit(column),
            "comment": column.comment,
        });
        if let Some(measure) = measures().iter().find(|measure| measure.name == column.name) {
            let Measure { measure_type, unit, families, version, comment, op, .. } = measure;
            entry["unit"] = json!(unit);
            entry["comment"] = json!(comment);
            entry["measure"] = json!({
                "type": match measure_type { MeasureType::Int => "int", MeasureType::Decimal => "decimal" },
                "aggregation": match op { Op::Count => "count", Op::Sum => "sum", Op::Distinct => "distinct" },
                "families": families,
                "version": version,
            });
        }
        entry
    });
    json!({
        "table": ROLLUP_DAILY.name,
        "definition_version": DEFINITION_VERSION,
        "key": ["org_id", "activity_date", "user_key", "product", "client_type"],
        "null": "a measure is null where the client does not report it, and 0 where it reported none",
        "columns": columns.collect::<Vec<_>>(),
    })
}

/// `column_comments`: `table_name`, `column_name`, `data_type`, `nullable`, `comment`; one row per column, in order.
pub(crate) fn comments(specs: &[&'static TableSpec]) -> RecordBatch {
    let schemas: Vec<_> = specs.iter().map(|spec| (spec.name, spec.schema())).collect();
    let fields: Vec<(&str, &Field)> =
        schemas.iter().flat_map(|(name, schema)| schema.fields().iter().map(|field| (*name, field.as_ref()))).collect();
    let text = |of: fn(&(&str, &Field)) -> String| -> ArrayRef {
        Arc::new(fields.iter().map(|field| Some(of(field))).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(|(table, _)| (*table).to_owned()),
        text(|(_, field)| field.name().clone()),
        text(|(_, field)| field.data_type().to_string()),
        Arc::new(fields.iter().map(|(_, field)| Some(field.is_nullable())).collect::<BooleanArray>()),
        text(|(_, field)| field.metadata().get("comment").cloned().unwrap_or_default()),
    ];
    let names = ["table_name", "column_name", "data_type", "nullable", "comment"];
    let schema = names.iter().zip(&columns).map(|(name, column)| Field::new(*name, column.data_type().clone(), false));
    let schema = Arc::new(Schema::new(schema.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns).expect("five columns of one length")
}
