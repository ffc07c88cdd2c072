//! What is written in Avro is read as the same event in JSON. The bytes of the fixtures come from another implementation
//! (`fastavro`, by `e2e/oracle/avro.py`); the writer in here gives the same.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    event::{Cause, decode as decode_json, parse_time},
    registry::Registry,
    tests::{LATEST, describe, folder},
};

fn plan() -> Plan {
    Plan::compile(&event_schema().to_string()).expect("our own schema")
}

/// Writes a value of this type; of a union's branches the first that takes it.
fn put(kind: &Json, json: &Json, out: &mut Vec<u8>) -> bool {
    if let Some(branches) = kind.as_array() {
        return branches.iter().zip(0..).any(|(kind, at)| {
            let mut value = Vec::new();
            let taken = put(kind, json, &mut value);
            if taken {
                put_long(at, out);
                out.extend(value);
            }
            taken
        });
    }
    let name = kind.as_str().unwrap_or_else(|| kind["type"].as_str().expect("a type"));
    match (name, json) {
        ("null", Json::Null) => {}
        ("boolean", Json::Bool(value)) => out.push(u8::from(*value)),
        ("long", Json::String(text)) if kind["logicalType"].is_string() => {
            put_long(parse_time(text).expect("a time"), out);
        }
        ("long" | "int", Json::Number(number)) if number.is_i64() => {
            put_long(number.as_i64().expect("an integer"), out)
        }
        ("double", Json::Number(number)) => out.extend(number.as_f64().expect("a number").to_le_bytes()),
        ("string", Json::String(text)) => put_text(text, out),
        // Decimals.
        ("string", Json::Number(number)) => put_text(&number.to_string(), out),
        ("enum", Json::String(text)) => {
            let symbols = kind["symbols"].as_array().expect("symbols");
            put_long(symbols.iter().position(|symbol| symbol == text).expect("a symbol") as i64, out);
        }
        ("map", Json::Object(object)) => {
            if !object.is_empty() {
                put_long(object.len() as i64, out);
            }
            for (key, inner) in object {
                put_text(key, out);
                if !put(&kind["values"], inner, out) {
                    return false;
                }
            }
            put_long(0, out);
        }
        ("record", Json::Object(_)) => put_record(kind, json, out),
        _ => return false,
    }
    true
}

fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_long(text.len() as i64, out);
    out.extend(text.as_bytes());
}

fn put_record(schema: &Json, json: &Json, out: &mut Vec<u8>) {
    for field in schema["fields"].as_array().expect("a record") {
        let name = field["name"].as_str().expect("a name");
        assert!(put(&field["type"], &json[name], out), "{name}: {} is no {}", json[name], field["type"]);
    }
}

/// An event in the wire format, by our schema; attributes that it has no field for go to `ext`.
fn encode(event: &Json) -> Vec<u8> {
    let mut schema = event_schema();
    let mut envelope = event.clone();
    let fields = schema["fields"].as_array().expect("fields").iter().filter_map(|field| field["name"].as_str());
    let fields: Vec<&str> = fields.chain(["specversion", "datacontenttype"]).collect();
    let rest = event.as_object().expect("an event").iter().filter(|(name, _)| !fields.contains(&name.as_str()));
    envelope["ext"] = rest.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into();
    // Which record of the union is told by the type.
    let mut types: Vec<&str> = Registry::get().types().collect();
    types.sort_unstable();
    let data = schema["fields"].as_array_mut().and_then(Vec::pop).expect("data is the last field");
    let branches = data["type"].as_array().expect("a union");
    let branch =
        types.iter().position(|name| Some(*name) == event["type"].as_str()).map_or(branches.len() - 1, |at| at + 1);
    let mut bytes = vec![0, 0, 0, 0, 7];
    put_record(&schema, &envelope, &mut bytes);
    put_long(branch as i64, &mut bytes);
    assert!(put(&branches[branch], &event["data"], &mut bytes), "{event:#}");
    bytes
}

fn fixtures() -> Vec<Json> {
    let files = fs::read_dir(folder("fixtures")).expect("fixtures").map(|entry| entry.expect("readable").path());
    let inputs = files.filter(|path| !path.to_string_lossy().ends_with(".expected.json"));
    inputs
        .map(|path| {
            let mut event: Json = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
            // A record has no place for what its type does not name.
            let spec = Registry::get().spec(event["type"].as_str().expect("a type"));
            event["data"].as_object_mut().expect("an object").retain(|name, _| spec.field(name).is_some());
            event
        })
        .collect()
}

#[test]
fn the_published_schema_is_the_one_in_the_repository() {
    let path = folder("avro/event.v1.avsc");
    let schema = format!("{:#}\n", event_schema());
    if std::env::var_os("DAYBOOK_BLESS").is_some() {
        fs::write(&path, &schema).expect("writable");
    }
    assert_eq!(fs::read_to_string(path).unwrap_or_default(), schema, "DAYBOOK_BLESS=1 writes it");
    plan();
}

/// `avro/fixtures.json`: a fixture's type to its bytes in hexadecimal digits, without the header.
#[test]
fn another_implementation_writes_the_same_bytes() {
    let theirs: Json = serde_json::from_slice(&fs::read(folder("avro/fixtures.json")).expect("there")).expect("JSON");
    for event in fixtures() {
        let ours: String = encode(&event)[HEADER_BYTES..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(theirs[event["id"].as_str().expect("an id")], ours, "{event:#}");
    }
}

#[test]
fn an_event_is_the_same_in_avro_and_in_json() {
    let plan = plan();
    for event in fixtures() {
        let text = event.to_string();
        let mut wanted = describe(&decode_json(text.as_bytes(), LATEST).expect("a fixture"));
        let bytes = encode(&event);
        assert_eq!(schema_id(&bytes), Some(7));
        let mut found = describe(&decode(&bytes, &plan, LATEST).unwrap_or_else(|fault| panic!("{fault}: {event:#}")));
        // Each form hashes its own bytes.
        (wanted["payload_hash"], found["payload_hash"]) = (Json::Null, Json::Null);
        assert_eq!(found, wanted, "{event:#}");
        let again = encode(&event);
        assert_eq!(
            decode(&again, &plan, LATEST).expect("again").payload_hash,
            decode(&bytes, &plan, LATEST).expect("once").payload_hash
        );
    }
}

#[test]
fn the_checks_are_those_of_json() {
    let plan = plan();
    let good =
        fixtures().into_iter().find(|event| event["type"] == "dev.daybook.model.completed.v1").expect("a fixture");
    let check = |changes: &[(&str, Json)], cause: Cause, field: &str| {
        let mut event = good.clone();
        for (pointer, value) in changes {
            match pointer.strip_prefix("data.") {
                Some(name) => event["data"][name] = value.clone(),
                None => event[*pointer] = value.clone(),
            }
        }
        let rejection = decode(&encode(&event), &plan, LATEST).expect_err("must be refused");
        assert_eq!((rejection.cause, rejection.field.as_deref()), (cause, Some(field)), "{rejection}");
    };
    check(&[("time", json!("2096-01-01T00:00:00Z"))], Cause::FutureTime, "time");
    check(&[("time", json!("1996-01-01T00:00:00Z"))], Cause::OutOfRange, "time");
    check(&[("id", json!(""))], Cause::Missing, "id");
    check(&[("data.status", json!("odd"))], Cause::OutOfRange, "data.status");
    check(&[("data.input_tokens", json!(-1))], Cause::OutOfRange, "data.input_tokens");
    check(&[("prompt", json!("what people write"))], Cause::Content, "prompt");
    check(&[("source", json!("x".repeat(600)))], Cause::TooLong, "source");
}

#[test]
fn a_schema_of_ones_own_is_read_by_its_names() {
    let schema = json!({ "type": "record", "name": "x.Mine", "fields": [
        { "name": "type", "type": "string" },
        { "name": "clienttype", "type": { "type": "enum", "name": "Client", "symbols": ["cli", "ide"] } },
        { "name": "id", "type": "string" },
        { "name": "time", "type": { "type": "long", "logicalType": "timestamp-millis" } },
        { "name": "source", "type": ["null", "string"] },
        { "name": "subject", "type": "string" },
        { "name": "other", "type": "Client" },
        { "name": "data", "type": { "type": "record", "name": "Data", "fields": [
            { "name": "status", "type": "string" }, { "name": "cost", "type": "double" },
        ] } },
    ] });
    let event = json!({
        "type": "dev.example.done.v1", "clienttype": "ide", "id": "a", "time": null, "source": "s", "subject": "u",
        "other": "cli", "data": { "status": "ok", "cost": 0.5 },
    });
    // By hand: milliseconds, and an enum by its name.
    let (mut written, mut record) = (schema.clone(), vec![0, 0, 0, 1, 0]);
    written["fields"][3]["type"] = json!("null");
    written["fields"][6]["type"] = written["fields"][1]["type"].clone();
    let mut before = written.clone();
    before["fields"].as_array_mut().expect("fields").truncate(3);
    put_record(&before, &event, &mut record);
    put_long(1_772_600_000_123, &mut record);
    written["fields"].as_array_mut().expect("fields").drain(..4);
    put_record(&written, &event, &mut record);
    let plan = Plan::compile(&schema.to_string()).expect("an event's schema");
    let event = decode(&record, &plan, LATEST).expect("an event");
    assert_eq!((event.time_us, event.client_type, schema_id(&record)), (1_772_600_000_123_000, "ide", Some(256)));
    assert_eq!(event.ext.as_deref(), Some(r#"{"cost":0.5,"other":"cli","status":"ok"}"#));
}

#[test]
fn schemas_that_are_none_of_events_are_named() {
    let of = |kind: Json| json!({ "type": "record", "name": "E", "fields": [{ "name": "a", "type": kind }] });
    let endless = json!({ "type": "record", "name": "E", "fields": [{ "name": "next", "type": ["null", "E"] }] });
    for (schema, field, detail) in [
        (json!("string"), "schema", "an event is a record"),
        (of(json!("bytes")), "E.a", "bytes is taken nowhere"),
        (of(json!({ "type": "array", "items": "string" })), "E.a.type", "array is taken nowhere"),
        (of(json!("Elsewhere")), "E.a", "`Elsewhere` is no type"),
        (endless, "E.next.union", "`E` is no type"),
        (of(json!(5)), "E.a", "no Avro type"),
    ] {
        let error = Plan::compile(&schema.to_string()).expect_err("refused");
        assert!(error.field == field && error.detail.starts_with(detail), "{error}");
    }
    assert!(Plan::compile("{").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// R10: whatever comes, it is an event or it is refused.
    #[test]
    fn torn_and_changed_bytes_are_refused_or_read(
        which in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (plan, fixtures) = (plan(), fixtures());
        let mut bytes = encode(which.get(&fixtures));
        let whole = bytes.clone();
        for (at, byte) in edits {
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = byte;
        }
        let _ = decode(&bytes, &plan, LATEST);
        let torn = &whole[..HEADER_BYTES + cut.index(whole.len() - HEADER_BYTES)];
        prop_assert_eq!(decode(torn, &plan, LATEST).map_err(|fault| fault.cause).err(), Some(Cause::NotAvro));
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&[&[0, 0, 0, 0, 7][..], &bytes].concat(), &plan(), LATEST);
    }
}
