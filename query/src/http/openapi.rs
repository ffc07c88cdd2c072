//! The API described for programs (OpenAPI 3.1), written from the resources that the routes come from.

use std::sync::LazyLock;

use arrow::datatypes::{DataType, Field};
use directory::OptIn;
use serde_json::{Map, Value, json};

use super::{
    params::{DEFAULT_LIMIT, MAX_LIMIT, MAX_VALUES},
    resources::{Filter, Resource, resources},
};
use crate::{formats::Format, sql::MAX_SQL_BYTES};

/// Problems that any route may answer with: status, when.
const PROBLEMS: [(&str, &str); 8] = [
    ("400", "A parameter is wrong or unknown; `parameter` names it."),
    ("401", "No valid read key."),
    ("403", "The key may not read, or its role not this table."),
    ("406", "No format that the client accepts."),
    ("410", "The cursor's table version is not kept any more."),
    ("429", "More requests of the organisation at once than one may have; `Retry-After` says when to try again."),
    ("500", "The service failed."),
    ("503", "Busy, out of time or budget, or a part is away; `Retry-After` says when to try again."),
];

/// The document.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(write);
    &DOCUMENT
}

fn write() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::from_iter([("Problem".to_owned(), problem()), ("Catalogue".to_owned(), catalogue())]);
    for resource in resources() {
        schemas.insert(resource.spec.name.to_owned(), row(resource));
        paths.insert(resource.path.to_owned(), rows(resource));
        paths.insert(resource.schema_path.clone(), meaning(resource));
    }
    paths.insert(super::CATALOGUE.to_owned(), all_meanings());
    paths.insert(super::OPT_IN.to_owned(), opt_in());
    paths.insert(super::SQL.to_owned(), sql());
    paths.insert(super::OPENAPI.to_owned(), public("describe_api", "This document.", "application/json"));
    paths.insert(super::DOCS.to_owned(), public("show_api", "This document as a page.", "text/html"));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Daybook",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Who in an organisation used which AI developer tool, day by day. Each answer is of the organisation that the \
                key speaks for, and of one version of a table; pages of one walk share the version. A measure is null where the client does not \
                report it, and 0 where it reported none. Decimals are strings: many readers take JSON numbers as binary floating point.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A read key, made by `daybook key create --scope read`." },
            },
            "schemas": schemas,
        },
    })
}

/// Reading a table.
fn rows(resource: &Resource) -> Value {
    let page = json!({
        "type": "object",
        "required": ["data", "next_cursor", "table_version"],
        "additionalProperties": false,
        "properties": {
            "data": { "type": "array", "items": { "$ref": format!("#/components/schemas/{}", resource.spec.name) } },
            "next_cursor": { "type": ["string", "null"], "description": "`cursor` of the next page; null on the last." },
            "table_version": { "type": ["integer", "null"], "description": "Version of the table; null while there is none." },
        },
    });
    let text = |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    let mut responses = problems();
    responses.insert(
        "200".into(),
        json!({
            "description": resource.about,
            "headers": {
                "ETag": text("Strong; send it as `If-None-Match`."),
                "Link": text("The next page, `rel=\"next\"`; not there on the last."),
                "Daybook-Table-Version": text("Version of the table."),
            },
            "content": content(&page),
        }),
    );
    responses.insert("304".into(), json!({ "description": "As the client has it." }));
    let (date, key) = (resource.key[0], resource.key.join(", "));
    json!({
        "get": {
            "operationId": format!("read_{}", resource.spec.name),
            "summary": resource.about,
            "description": format!("Rows of `{}`, ascending by {key}.", resource.spec.name),
            "parameters": parameters(resource, date),
            "responses": responses,
        },
    })
}

/// An answer in each format, in JSON of this schema.
fn content(schema: &Value) -> Map<String, Value> {
    let in_format = |format: Format| {
        let schema = match format {
            Format::Json => schema.clone(),
            Format::Ndjson | Format::Csv => json!({ "type": "string" }),
            Format::Parquet | Format::Arrow => json!({}),
        };
        (format.media_type().to_owned(), json!({ "schema": schema }))
    };
    Format::ALL.into_iter().map(in_format).collect()
}

fn format() -> Value {
    let names = json!({ "type": "string", "enum": Format::ALL.map(Format::name) });
    json!({ "name": "format", "in": "query", "description": "Wins over `Accept`.", "schema": names })
}

fn parameters(resource: &Resource, date: &str) -> Vec<Value> {
    let one = |name: &str, description: String, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let list = |name: &str, description: String, items: Value| {
        json!({
            "name": name, "in": "query", "description": description, "style": "form", "explode": false,
            "schema": { "type": "array", "minItems": 1, "items": items },
        })
    };
    let day = || json!({ "type": "string", "format": "date" });
    let mut parameters = vec![
        one(
            "from",
            format!("First {date}, inclusive; by default the last {} days are answered.", resource.days),
            day(),
        ),
        one("to", format!("Last {date}, inclusive; by default the latest there is."), day()),
    ];
    parameters.extend(resource.filters.iter().map(|Filter { name, column, values }| {
        let items = match values {
            Some(values) => json!({ "type": "string", "enum": values }),
            None => json!({ "type": "string", "minLength": 1 }),
        };
        list(name, format!("Only rows whose {column} is one of these, at most {MAX_VALUES}; a comma within a value is written `\\,`."), items)
    }));
    let schema = &resource.schema;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let columns =
        json!({ "type": "array", "minItems": 1, "uniqueItems": true, "items": { "type": "string", "enum": names } });
    parameters.push(json!({
        "name": "columns", "in": "query", "description": "Only these columns, in this order.", "style": "form", "explode": false, "schema": columns,
    }));
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT });
    parameters.push(one("limit", "Rows of a page.".into(), limit));
    let cursor = json!({ "type": "string", "minLength": 1 });
    parameters.push(one(
        "cursor",
        "Goes on after a page: its `next_cursor`, with the same other parameters.".into(),
        cursor,
    ));
    parameters.push(format());
    parameters
}

/// What a table's columns mean.
fn meaning(resource: &Resource) -> Value {
    let name = resource.spec.name;
    described(&format!("describe_{name}"), format!("What the columns of `{name}` mean."), Some("Catalogue"))
}

fn all_meanings() -> Value {
    described("describe_tables", "The metric catalogue: what every table's columns mean.".into(), None)
}

/// What is collected, by whose decision, and what of it is shown.
fn opt_in() -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let levels: Vec<_> = OptIn::ALL.iter().map(|level| level.as_str()).collect();
    let level = json!({ "type": "string", "enum": levels });
    let list = |required: &[&str], properties: Value| {
        let item =
            json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties });
        json!({ "type": "array", "items": item })
    };
    let changes = list(
        &["at", "opt_in", "actor", "reason"],
        json!({ "at": { "type": "string", "format": "date-time" }, "opt_in": level, "actor": text("Who switched it."), "reason": text("Why.") }),
    );
    let rows = json!({ "type": "string", "enum": ["all", "pseudonymous", "part", "none"] });
    let why = json!({ "type": ["string", "null"], "description": "Why there are none." });
    let shown = list(&["table", "rows", "why"], json!({ "table": text("Name."), "rows": rows, "why": why }));
    let schema = json!({
        "type": "object",
        "required": ["organisation", "opt_in", "meaning", "changes", "shown", "collected"],
        "additionalProperties": false,
        "properties": {
            "organisation": text("Its id."),
            "opt_in": level,
            "meaning": text("What the level means to the organisation's people."),
            "changes": changes,
            "shown": shown,
            "collected": { "type": "object", "description": "Every column of an event, as in the metric catalogue." },
        },
    });
    let mut responses = problems();
    responses.remove("410");
    let content = json!({ "application/json": { "schema": schema } });
    responses.insert("200".into(), json!({ "description": "The opt-in, newest change first.", "content": content }));
    json!({ "get": {
        "operationId": "read_opt_in",
        "summary": "What is collected about the organisation's people, by whose decision, and what of it this credential shows.",
        "description": "For every member; open also where the opt-in is off.",
        "responses": responses,
    } })
}

/// A route for whoever asks.
fn public(id: &str, about: &str, media_type: &str) -> Value {
    let schema =
        if media_type == "application/json" { json!({ "type": "object" }) } else { json!({ "type": "string" }) };
    let ok = json!({ "description": about, "content": { media_type: { "schema": schema } } });
    json!({ "get": { "operationId": id, "summary": about, "security": [], "responses": { "200": ok } } })
}

/// Asking SQL.
fn sql() -> Value {
    let row = json!({ "type": "object", "description": "A row, by the names of its columns." });
    let rows = json!({ "type": "array", "items": row });
    let mut responses = problems();
    responses.remove("410");
    responses.insert("413".into(), problem_response("The statement is too long."));
    let statement = json!({ "type": "string", "minLength": 1, "maxLength": MAX_SQL_BYTES });
    responses.insert("200".into(), json!({ "description": "The rows.", "content": content(&rows) }));
    json!({
        "post": {
            "operationId": "ask_sql",
            "summary": "SQL over the organisation's rows of all tables.",
            "description": "One SELECT (with WITH, VALUES, set operations), EXPLAIN, SHOW or DESCRIBE. `SHOW TABLES` lists the tables, `column_comments` \
                says what their columns mean. Nothing can be changed, and no other organisation's rows are there.",
            "parameters": [format()],
            "requestBody": { "required": true, "content": { "application/sql": { "schema": statement }, "text/plain": { "schema": statement } } },
            "responses": responses,
        },
    })
}

/// A route without parameters that answers JSON; of the named schema, or any object.
fn described(id: &str, about: String, schema: Option<&str>) -> Value {
    let schema = match schema {
        Some(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
        None => json!({ "type": "object" }),
    };
    let mut responses = problems();
    responses
        .insert("200".into(), json!({ "description": about, "content": { "application/json": { "schema": schema } } }));
    json!({ "get": { "operationId": id, "summary": about, "responses": responses } })
}

fn problem_response(when: &str) -> Value {
    let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    json!({ "description": when, "content": content })
}

fn problems() -> Map<String, Value> {
    let problem = |(status, when): (&str, &str)| (status.to_owned(), problem_response(when));
    // The HTTP server's own, before any of our code.
    let too_long =
        ("414".to_owned(), json!({ "description": "The URL is longer than 64 KiB: ask for fewer values at once." }));
    PROBLEMS.into_iter().map(problem).chain([too_long]).collect()
}

/// A row: each column with its meaning. With `columns`, only those asked for are there.
fn row(resource: &Resource) -> Value {
    let schema = &resource.schema;
    let properties = schema.fields().iter().map(|field| (field.name().clone(), property(field)));
    json!({ "type": "object", "description": resource.about, "additionalProperties": false, "properties": properties.collect::<Map<_, _>>() })
}

fn property(field: &Field) -> Value {
    let (kind, format) = match field.data_type() {
        DataType::Int64 => ("integer", Some("int64")),
        DataType::Int32 => ("integer", Some("int32")),
        DataType::Boolean => ("boolean", None),
        DataType::Date32 => ("string", Some("date")),
        DataType::Timestamp(..) => ("string", Some("date-time")),
        DataType::Decimal128(..) => ("string", Some("decimal")),
        _ => ("string", None),
    };
    let kinds = if field.is_nullable() { json!([kind, "null"]) } else { json!(kind) };
    let mut property = json!({ "type": kinds, "description": field.metadata().get("comment") });
    if let Some(format) = format {
        property["format"] = json!(format);
    }
    property
}

/// RFC 9457.
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What is wrong, and what to do." },
            "request_id": { "type": "string" },
            "parameter": { "type": "string", "description": "Parameter at fault." },
        },
    })
}

fn catalogue() -> Value {
    json!({
        "type": "object",
        "required": ["table", "comment", "key", "columns"],
        "properties": {
            "table": { "type": "string" },
            "comment": { "type": "string" },
            "key": { "type": "array", "items": { "type": "string" }, "description": "Columns that identify a row." },
            "columns": { "type": "array", "items": {
                "type": "object",
                "required": ["name", "type", "nullable", "unit", "comment"],
                "properties": {
                    "name": { "type": "string" },
                    "type": { "type": "string" },
                    "nullable": { "type": "boolean" },
                    "unit": { "type": ["string", "null"] },
                    "comment": { "type": "string" },
                    "measure": { "type": "object", "description": "How a measure is made, and from which families of events." },
                },
            } },
        },
    })
}
