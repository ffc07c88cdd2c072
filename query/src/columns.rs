//! What each column means: the metric catalogue, as JSON for programs and as a table for SQL.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use schemas::{
    TableSpec,
    rollup::{DEFINITION_VERSION, Measure, MeasureType, Op, measures},
};
use serde_json::{Value, json};

fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int64 => "int64",
        DataType::Int32 => "int32",
        DataType::Boolean => "bool",
        DataType::Decimal128(..) => "decimal(20,6)",
        DataType::Timestamp(..) => "timestamp",
        DataType::Date32 => "date",
        DataType::Binary => "binary",
        _ => "text",
    }
}

/// The unit in a comment, `…[ms].` or `…[rows]; null where …`.
fn unit(comment: &str) -> Option<&str> {
    let (_, rest) = comment.rsplit_once('[')?;
    Some(rest.split_once(']')?.0)
}

/// Every column of a table: name, type, unit, meaning; of a measure also how it is made and from which families.
pub(crate) fn catalogue_of(spec: &TableSpec, about: &str) -> Value {
    let schema = spec.schema();
    let columns = schema.fields().iter().map(|field| {
        let comment = field.metadata().get("comment").map(String::as_str).unwrap_or_default();
        let mut entry = json!({
            "name": field.name(),
            "type": type_name(field.data_type()),
            "nullable": field.is_nullable(),
            "unit": unit(comment),
            "comment": comment,
        });
        if let Some(measure) = measures().iter().find(|measure| measure.name == *field.name()) {
            let Measure { measure_type, unit, families, version, op, .. } = measure;
            entry["unit"] = json!(unit);
            entry["measure"] = json!({
                "type": match measure_type { MeasureType::Int => "int", MeasureType::Decimal => "decimal" },
                "aggregation": match op { Op::Count => "count", Op::Sum => "sum", Op::Distinct => "distinct" },
                "families": families,
                "version": version,
            });
        }
        entry
    });
    let key: Vec<&str> = spec.sort_columns.iter().copied().chain(spec.partition_column).collect();
    json!({
        "table": spec.name,
        "comment": about,
        "definition_version": DEFINITION_VERSION,
        "key": key,
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
