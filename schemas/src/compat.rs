//! The compatibility rule, as code.
//!
//! A released schema only grows. Of an event type: no property may vanish, change its type or column, become required,
//! lose an allowed value or narrow its limits; content names may be added to the refused ones only. Of a table: no column
//! may vanish, change its type or turn from nullable to not null, and a new one is nullable. What breaks this rule needs a
//! new version of the event type (`….v2`), beside the old one. `released.json` holds the last release; a test compares.

use arrow::datatypes::{DataType, SchemaRef};
use serde_json::{Map, Value, json};

use crate::{registry::SCHEMA_FILES, table::ColumnType, tables};

/// The contract in one document: every event type's schema and every table's columns.
#[must_use]
pub fn contract() -> Value {
    let events: Map<String, Value> = SCHEMA_FILES
        .iter()
        .map(|(name, text)| {
            let schema: Value = serde_json::from_str(text).expect("embedded schemas are valid");
            (format!("{name}.v1"), json!({ "properties": schema["properties"], "required": schema["required"] }))
        })
        .collect();
    let table = |schema: SchemaRef| -> Value {
        let columns = schema.fields().iter().map(|field| {
            let kind = json!({ "type": type_name(field.data_type()), "nullable": field.is_nullable() });
            (field.name().clone(), kind)
        });
        Value::Object(columns.collect())
    };
    let tables = tables::all().map(|spec| (spec.name.to_owned(), table(spec.schema())));
    json!({
        "events": events,
        "tables": tables.collect::<Map<_, _>>(),
    })
}

/// Names of types as the release has them.
fn type_name(kind: &DataType) -> String {
    let types = [
        ColumnType::Text,
        ColumnType::Int,
        ColumnType::Int32,
        ColumnType::Bool,
        ColumnType::Decimal,
        ColumnType::Time,
        ColumnType::Date,
        ColumnType::Binary,
    ];
    let found = types.into_iter().find(|known| known.arrow() == *kind);
    format!("{:?}", found.expect("columns have the types of ColumnType"))
}

/// Every way in which `new` breaks what `old` promised; empty where it only grows.
#[must_use]
pub fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, event) in object(&old["events"]) {
        match new["events"].get(name) {
            None => found.push(format!("event type {name} vanished")),
            Some(now) => event_breaks(name, event, now, &mut found),
        }
    }
    for (name, columns) in object(&old["tables"]) {
        table_breaks(name, columns, &new["tables"][name], &mut found);
    }
    found
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn event_breaks(name: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    for (property, before) in object(&old["properties"]) {
        let Some(now) = new["properties"].get(property) else {
            found.push(format!("{name}.{property} vanished"));
            continue;
        };
        let column = |value: &Value| value["x-column"].as_str().unwrap_or(property).to_owned();
        if before["type"] != now["type"] || column(before) != column(now) {
            found.push(format!("{name}.{property} changed its type or column"));
        }
        let (allowed_before, allowed_now) = (strings(&before["enum"]), strings(&now["enum"]));
        if !now["enum"].is_null()
            && (before["enum"].is_null() || allowed_before.iter().any(|value| !allowed_now.contains(value)))
        {
            found.push(format!("{name}.{property} allows fewer values"));
        }
        let number = |value: &Value, key: &str| value[key].as_f64();
        let narrower = |key: &str, worse: fn(f64, f64) -> bool| match (number(before, key), number(now, key)) {
            (Some(was), Some(is)) => worse(is, was),
            (None, Some(_)) => before["enum"].is_null(),
            _ => false,
        };
        if narrower("maxLength", |is, was| is < was)
            || narrower("maximum", |is, was| is < was)
            || narrower("minimum", |is, was| is > was)
        {
            found.push(format!("{name}.{property} narrowed its limits"));
        }
    }
    let required_before = strings(&old["required"]);
    for property in strings(&new["required"]) {
        if !required_before.contains(&property) {
            found.push(format!("{name}.{property} became required"));
        }
    }
}

fn table_breaks(table: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    for (column, before) in object(old) {
        match new.get(column) {
            None => found.push(format!("{table}.{column} vanished")),
            Some(now) if now["type"] != before["type"] => found.push(format!("{table}.{column} changed its type")),
            Some(now) if before["nullable"] == true && now["nullable"] == false => {
                found.push(format!("{table}.{column} is no longer nullable"));
            }
            Some(_) => {}
        }
    }
    for (column, now) in object(new) {
        if old.get(column).is_none() && now["nullable"] == false {
            found.push(format!("{table}.{column} is new and not nullable"));
        }
    }
}
