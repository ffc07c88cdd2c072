//! The Avro schema that we publish: the envelope, and a record of its own for the data of each event type.

use serde_json::{Value, json};

use crate::registry::{EventSpec, FieldType, Registry};

/// Attributes that an event need not have, and their Avro types.
const OPTIONAL: [(&str, &str); 13] = [
    ("dataschema", "string"),
    ("product", "string"),
    ("clienttype", "string"),
    ("clientver", "string"),
    ("hostapp", "string"),
    ("installid", "string"),
    ("sessionid", "string"),
    ("conversationid", "string"),
    ("turnid", "string"),
    ("sequence", "long"),
    ("tzoffset", "int"),
    ("senttime", "timestamp-micros"),
    ("traceparent", "string"),
];

/// The schema of events of this version, as Avro's JSON. `ext` holds attributes without a field of their own; `data` of a type
/// that this version does not know is a map.
#[must_use]
pub fn event_schema() -> Value {
    let scalars = json!(["null", "boolean", "long", "double", "string"]);
    let registry = Registry::get();
    let mut types: Vec<&str> = registry.types().collect();
    types.sort_unstable();
    let records = types.iter().map(|name| record(registry.spec(name), &scalars));
    let data: Vec<Value> =
        std::iter::once(json!("null")).chain(records).chain([json!({ "type": "map", "values": scalars })]).collect();
    let required = ["id", "source", "type"].map(|name| json!({ "name": name, "type": "string" }));
    let time = json!({ "name": "time", "type": avro_type("timestamp-micros") });
    let subject = json!({ "name": "subject", "type": "string" });
    let optional = OPTIONAL.map(|(name, kind)| optional(name, avro_type(kind)));
    let ext = json!({ "name": "ext", "type": { "type": "map", "values": scalars }, "default": {} });
    let data = json!({ "name": "data", "type": data, "default": null });
    let fields: Vec<Value> = required.into_iter().chain([time, subject]).chain(optional).chain([ext, data]).collect();
    json!({
        "type": "record", "name": "Event", "namespace": "dev.daybook",
        "doc": "An activity event: CloudEvents 1.0 attributes, and the data of its type.",
        "fields": fields,
    })
}

/// `model.completed` is `ModelCompletedV1`.
fn record(spec: &EventSpec, scalars: &Value) -> Value {
    let words = spec.name.split(['.', '_']).map(|word| word[..1].to_uppercase() + &word[1..]);
    let fields = spec.fields.iter().map(|field| {
        let kind = match &field.field_type {
            // Exact, and of any length: as in JSON a decimal may be a text.
            FieldType::Text { .. } | FieldType::Enum(_) | FieldType::Decimal { .. } => json!("string"),
            FieldType::Int { .. } => json!("long"),
            FieldType::Bool => json!("boolean"),
            FieldType::Object => json!({ "type": "map", "values": scalars }),
        };
        if field.required { json!({ "name": field.name, "type": kind }) } else { optional(&field.name, kind) }
    });
    json!({
        "type": "record", "name": words.collect::<String>() + "V1", "fields": fields.collect::<Vec<_>>(),
    })
}

fn optional(name: &str, kind: Value) -> Value {
    json!({ "name": name, "type": ["null", kind], "default": null })
}

fn avro_type(name: &str) -> Value {
    match name {
        "timestamp-micros" => json!({ "type": "long", "logicalType": name }),
        name => json!(name),
    }
}
