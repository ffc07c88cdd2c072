//! Golden fixtures, agreement with an independent JSON Schema validator, and the compatibility rule.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::{
    EVENTS, clients, compat, docs,
    event::{Cause, Event, FUTURE_TOLERANCE_US, MAX_EVENT_BYTES, Value, decode, event_id_bytes, event_id_text},
    registry::{Registry, SCHEMA_FILES, UNKNOWN_SCHEMA},
    rollup,
    tables::{EVENT_COLUMNS, event_column},
};

pub(crate) const LATEST: i64 = 1_800_000_000_000_000;

pub(crate) fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn minimal(data: Json) -> Json {
    json!({"specversion": "1.0", "id": "019a0000-0000-7000-8000-000000000001", "source": "urn:daybook:kiro:cli:1",
        "type": "dev.daybook.tool.completed.v1", "time": "2026-03-04T05:06:07.123456Z", "subject": "email:a@example.com", "data": data})
}

fn with(changes: &[(&str, Json)]) -> Vec<u8> {
    let mut event = minimal(json!({"tool": "Edit", "status": "success"}));
    for (key, value) in changes {
        event[key] = value.clone();
    }
    event.to_string().into_bytes()
}

fn check_rejected(record: &[u8], cause: Cause, field: Option<&str>) {
    let rejection = decode(record, LATEST).expect_err("must be refused");
    assert_eq!((rejection.cause, rejection.field.as_deref()), (cause, field), "{rejection}");
    assert!(!rejection.detail.is_empty());
}

/// The decoded event in a form that can be compared with a golden file.
pub(crate) fn describe(event: &Event<'_>) -> Json {
    let values: serde_json::Map<String, Json> = event
        .values
        .iter()
        .map(|(column, value)| {
            let value = match value {
                Value::Text(text) => json!(text),
                Value::Int(value) | Value::Time(value) => json!(value),
                Value::Bool(value) => json!(value),
                Value::Decimal(value) => json!(value.to_string()),
            };
            (EVENT_COLUMNS[*column].name.to_owned(), value)
        })
        .collect();
    json!({"id": event.id, "source": event.source, "event_type": event.event_type, "user_key": event.subject,
        "event_time": event.time_us, "client_type": event.client_type, "values": values,
        "payload_hash": event.payload_hash,
        "ext": event.ext.as_deref().map(|ext| serde_json::from_str::<Json>(ext).expect("ext is JSON"))})
}

#[test]
fn every_schema_file_is_registered_and_has_a_fixture() {
    let mut on_disk: Vec<String> = fs::read_dir(folder("events"))
        .expect("events/ is there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .filter(|name| name != "unknown.json")
        .collect();
    on_disk.sort();
    let mut registered: Vec<String> = SCHEMA_FILES.iter().map(|(name, _)| format!("{name}.v1.json")).collect();
    registered.sort();
    assert_eq!(on_disk, registered);
    for name in registered {
        assert!(folder("fixtures").join(&name).exists(), "fixtures/{name} is missing");
    }
    assert_eq!(Registry::get().types().count(), SCHEMA_FILES.len());
}

/// Old fixtures decode for ever: `<name>.json` is the input, `<name>.expected.json` what it becomes.
/// `DAYBOOK_BLESS=1` writes missing expectations, never changed ones.
#[test]
fn golden_fixtures_decode_as_recorded() {
    for entry in fs::read_dir(folder("fixtures")).expect("fixtures/ is there") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        if name.ends_with(".expected.json") {
            continue;
        }
        let record = fs::read(&path).expect("readable");
        let described = describe(&decode(&record, LATEST).unwrap_or_else(|rejection| panic!("{name}: {rejection}")));
        let expected = path.with_file_name(name.replace(".json", ".expected.json"));
        if !expected.exists() && std::env::var_os("DAYBOOK_BLESS").is_some() {
            fs::write(&expected, format!("{described:#}\n")).expect("writable");
        }
        let expected: Json = serde_json::from_slice(&fs::read(&expected).expect("expectation is there")).expect("JSON");
        assert_eq!(described, expected, "{name}");
    }
}

#[test]
fn the_contract_only_grows() {
    let file = folder("released.json");
    if std::env::var_os("DAYBOOK_BLESS").is_some() {
        let old: Json = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        assert_eq!(
            compat::breaks(&old, &compat::contract()),
            Vec::<String>::new(),
            "not written: it breaks the release"
        );
        fs::write(&file, format!("{:#}\n", compat::contract())).expect("writable");
    }
    let released: Json = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    assert_eq!(compat::breaks(&released, &compat::contract()), Vec::<String>::new());
    assert_eq!(
        released,
        compat::contract(),
        "the contract grew: write it to schemas/released.json with DAYBOOK_BLESS=1"
    );
}

#[test]
fn the_reference_is_that_of_the_definitions() {
    let file = folder("../docs/metrics.md");
    if std::env::var_os("DAYBOOK_BLESS").is_some() {
        fs::write(&file, docs::metrics()).expect("writable");
    }
    let page = fs::read_to_string(&file).expect("there");
    assert_eq!(page, docs::metrics(), "definitions changed: write docs/metrics.md with DAYBOOK_BLESS=1");
}

#[test]
fn each_kind_of_break_is_found() {
    type Edit = fn(&mut Json);
    let edits: &[(&str, Edit)] = &[
        ("vanished", |c| drop(c["events"].as_object_mut().expect("object").remove("tool.completed.v1"))),
        ("vanished", |c| {
            drop(c["events"]["tool.completed.v1"]["properties"].as_object_mut().expect("object").remove("tool"))
        }),
        ("type", |c| c["events"]["tool.completed.v1"]["properties"]["tool"]["type"] = json!("integer")),
        ("column", |c| c["events"]["tool.completed.v1"]["properties"]["tool"]["x-column"] = json!("agent")),
        ("fewer", |c| c["events"]["tool.completed.v1"]["properties"]["status"]["enum"] = json!(["success"])),
        ("fewer", |c| c["events"]["tool.completed.v1"]["properties"]["tool"]["enum"] = json!(["Edit"])),
        ("narrowed", |c| c["events"]["tool.completed.v1"]["properties"]["tool"]["maxLength"] = json!(8)),
        ("narrowed", |c| c["events"]["tool.completed.v1"]["properties"]["duration_ms"]["maximum"] = json!(8)),
        ("required", |c| c["events"]["tool.completed.v1"]["required"] = json!(["tool", "status", "duration_ms"])),
        ("vanished", |c| drop(c["tables"]["events"].as_object_mut().expect("object").remove("tool"))),
        ("type", |c| c["tables"]["events"]["tool"]["type"] = json!("Int")),
        ("nullable", |c| c["tables"]["events"]["tool"]["nullable"] = json!(false)),
        ("nullable", |c| c["tables"]["rollup_daily"]["new_one"] = json!({"type": "Int", "nullable": false})),
    ];
    for (word, edit) in edits {
        let mut new = compat::contract();
        edit(&mut new);
        let found = compat::breaks(&compat::contract(), &new);
        assert!(found.iter().any(|text| text.contains(word)), "{word}: {found:?}");
    }
    let mut grown = compat::contract();
    grown["tables"]["events"]["new_one"] = json!({"type": "Int", "nullable": true});
    grown["events"]["tool.completed.v1"]["properties"]["new_one"] = json!({"type": "string", "maxLength": 9});
    assert_eq!(compat::breaks(&compat::contract(), &grown), Vec::<String>::new());
}

#[test]
fn definitions_are_sound() {
    assert!(!clients::declared().is_empty());
    let families: Vec<&str> = SCHEMA_FILES.iter().filter_map(|(name, _)| name.split('.').next()).collect();
    for declared in clients::declared() {
        assert!(declared.families.iter().all(|family| families.contains(&family.as_str())));
    }
    for measure in rollup::measures() {
        assert!(measure.families.iter().all(|family| families.contains(&family.as_str())), "{}", measure.name);
        for feed in &measure.feeds {
            assert!(feed.types.iter().all(|name| name == "*" || Registry::get().knows(name)), "{}", measure.name);
            assert_eq!(feed.column.is_some(), measure.op != rollup::Op::Count, "{}", measure.name);
            assert!(
                feed.column.iter().chain(feed.filter.keys()).all(|column| event_column(column).is_some()),
                "{}",
                measure.name
            );
        }
    }
    let schema = EVENTS.schema();
    for column in EVENTS.sort_columns.iter().chain(&EVENTS.partition_column) {
        assert!(!schema.field_with_name(column).expect("there").is_nullable());
    }
}

#[test]
fn bad_records_name_cause_and_field() {
    let ok = with(&[]);
    assert!(decode(&ok, LATEST).is_ok());
    check_rejected(&ok[..ok.len() - 1], Cause::NotJson, None);
    check_rejected(b"", Cause::NotJson, None);
    check_rejected(b"[1]", Cause::NotAnObject, None);
    check_rejected(b"{\"a\": \"\xff\"}", Cause::NotUtf8, None);
    check_rejected(&vec![b' '; MAX_EVENT_BYTES + 1], Cause::TooLarge, None);
    check_rejected(&[b"{\"a\":".repeat(8_000), b"1".to_vec()].concat(), Cause::NotJson, None);
    check_rejected(&"[".repeat(60_000).into_bytes(), Cause::NotJson, None);
    check_rejected(&with(&[("specversion", json!("0.3"))]), Cause::SpecVersion, Some("specversion"));
    check_rejected(&with(&[("id", Json::Null)]), Cause::Missing, Some("id"));
    check_rejected(&with(&[("id", json!(""))]), Cause::Missing, Some("id"));
    check_rejected(&with(&[("id", json!(7))]), Cause::WrongType, Some("id"));
    check_rejected(&with(&[("source", json!("x".repeat(513)))]), Cause::TooLong, Some("source"));
    check_rejected(&with(&[("time", json!("yesterday"))]), Cause::WrongType, Some("time"));
    check_rejected(&with(&[("time", json!("1999-12-31T23:59:59Z"))]), Cause::OutOfRange, Some("time"));
    check_rejected(&with(&[("time", json!("2030-01-01T00:00:00Z"))]), Cause::FutureTime, Some("time"));
    check_rejected(&with(&[("datacontenttype", json!("text/plain"))]), Cause::OutOfRange, Some("datacontenttype"));
    check_rejected(&with(&[("data_base64", json!("AAAA"))]), Cause::Content, Some("data_base64"));
    check_rejected(&with(&[("data", json!("text"))]), Cause::NotAnObject, Some("data"));
    check_rejected(&with(&[("data", json!({"status": "success"}))]), Cause::Missing, Some("data.tool"));
    check_rejected(&with(&[("data", Json::Null)]), Cause::Missing, Some("data.status"));
    let data = |extra: &str, value: Json| {
        let mut data = json!({"tool": "Edit", "status": "success"});
        data[extra] = value;
        with(&[("data", data)])
    };
    check_rejected(&data("status", json!("maybe")), Cause::OutOfRange, Some("data.status"));
    check_rejected(&data("duration_ms", json!("9")), Cause::WrongType, Some("data.duration_ms"));
    check_rejected(&data("duration_ms", json!(-1)), Cause::OutOfRange, Some("data.duration_ms"));
    check_rejected(&data("duration_ms", json!(1.5)), Cause::WrongType, Some("data.duration_ms"));
    check_rejected(&data("file_path", json!("src/main.rs")), Cause::Content, Some("data.file_path"));
    check_rejected(&data("prompt", json!(null)), Cause::Content, Some("data.prompt"));
    check_rejected(&data("anything", json!({"a": 1})), Cause::Content, Some("data.anything"));
    check_rejected(&data("note", json!("x".repeat(257))), Cause::TooLong, Some("data.note"));
    check_rejected(&data("Bad Name", json!(1)), Cause::OutOfRange, Some("data.Bad Name"));
    let twice = String::from_utf8(ok).expect("UTF-8").replacen('{', "{\"id\":\"x\",", 1);
    check_rejected(twice.as_bytes(), Cause::DuplicateAttribute, Some("id"));
}

#[test]
fn unknown_types_and_clients_are_kept() {
    let record = with(&[
        ("type", json!("com.example.thing.happened.v9")),
        ("clienttype", json!("smart-fridge")),
        ("colour", json!("red")),
        ("data", json!({"temperature": 4, "door": "open"})),
        ("orgid", json!("someone-else")),
    ]);
    let event = decode(&record, LATEST).expect("kept");
    assert_eq!(event.event_type, "com.example.thing.happened.v9");
    assert_eq!(event.client_type, "unknown");
    assert!(
        event.values.contains(&(event_column("client_type_raw").expect("there"), Value::Text("smart-fridge".into())))
    );
    assert_eq!(event.ext.as_deref(), Some(r#"{"colour":"red","door":"open","temperature":4}"#));
    assert_eq!(clients::client_type("Cloud-Agent"), "cloud_agent");
}

#[test]
fn ids_keep_their_text() {
    for id in
        ["019a0000-0000-7000-8000-000000000001", "019A0000-0000-7000-8000-000000000001", "fifteen-chars-x", "x", "käse"]
    {
        let (uuid, text) = event_id_bytes(id);
        let bytes = text.unwrap_or_else(|| uuid.to_vec());
        assert_eq!(event_id_text(&bytes), id);
    }
}

#[test]
fn the_future_is_measured_from_the_server_clock() {
    let time: jiff::Timestamp = "2026-03-04T05:06:07.123456Z".parse().expect("a time");
    let record = with(&[]);
    assert!(decode(&record, time.as_microsecond()).is_ok());
    check_rejected_at(&record, time.as_microsecond() - 1);
    assert_eq!(FUTURE_TOLERANCE_US, 86_400_000_000);
}

fn check_rejected_at(record: &[u8], latest_us: i64) {
    assert_eq!(decode(record, latest_us).expect_err("refused").cause, Cause::FutureTime);
}

/// A JSON value that often is nearly right for the schemas.
fn near_values() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        (0_i64..1000).prop_map(Json::from),
        (-1e16_f64..1e16).prop_map(Json::from),
        (0_i64..100_000).prop_map(|n| json!(n as f64 / 8.0)),
        "[a-z_]{0,12}".prop_map(Json::from),
        "[0-9]{1,16}(\\.[0-9]{0,8})?".prop_map(Json::from),
        "\\PC{0,300}".prop_map(Json::from),
        prop::sample::select(vec![
            "success", "error", "accept", "accepted", "ai", "credits", "chat", "local", "main", "builtin"
        ])
        .prop_map(Json::from),
        Just(json!({"a": 1})),
        Just(json!([1])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the decoder accepts is what an independent validator accepts by the published JSON Schema.
    #[test]
    fn decoder_agrees_with_json_schema(
        index in 0..SCHEMA_FILES.len() + 1,
        picks in prop::collection::vec((any::<prop::sample::Index>(), near_values()), 0..6),
        extra in prop::collection::btree_map("[a-z_]{1,8}", near_values(), 0..2),
    ) {
        use std::sync::LazyLock;
        static VALIDATORS: LazyLock<Vec<(String, Json, jsonschema::Validator)>> = LazyLock::new(|| {
            let unknown = std::iter::once(("com.example.unknown".to_owned(), UNKNOWN_SCHEMA));
            let known = SCHEMA_FILES.iter().map(|(name, text)| (format!("dev.daybook.{name}.v1"), *text));
            known.chain(unknown).map(|(name, text)| {
                let schema: Json = serde_json::from_str(text).expect("JSON");
                let validator = jsonschema::validator_for(&schema).expect("a valid schema");
                (name, schema, validator)
            }).collect()
        });
        let (event_type, schema, validator) = &VALIDATORS[index];
        let properties: Vec<&String> = schema["properties"].as_object().expect("object").keys().collect();
        let mut data: serde_json::Map<String, Json> = extra.into_iter().collect();
        if index < SCHEMA_FILES.len() {
            let golden: Json = serde_json::from_slice(&fs::read(folder("fixtures").join(format!("{}.v1.json", SCHEMA_FILES[index].0))).expect("there")).expect("JSON");
            for (key, value) in golden["data"].as_object().expect("object") {
                data.entry(key.clone()).or_insert(value.clone());
            }
            for (pick, value) in picks {
                data.insert((*pick.get(&properties)).clone(), value);
            }
        }
        // Null is absent to the decoder (clients in many languages write it), which JSON Schema cannot say briefly.
        let present: serde_json::Map<String, Json> = data.clone().into_iter().filter(|(_, value)| !value.is_null()).collect();
        let mut event = minimal(Json::Object(data));
        event["type"] = json!(event_type);
        let record = event.to_string();
        let decoded = decode(record.as_bytes(), LATEST);
        let names_ok = event["data"].as_object().expect("object").keys().all(|key| !Registry::get().denies(key));
        let valid = validator.is_valid(&Json::Object(present)) && names_ok;
        let names_null_bad = event["data"].as_object().expect("object").iter().any(|(key, value)| value.is_null() && key.starts_with('_'));
        prop_assume!(!names_null_bad);
        prop_assert_eq!(decoded.is_ok(), valid, "{:?} {}", decoded, event);
    }

    /// No bytes make it panic.
    #[test]
    fn decoder_survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes, LATEST);
    }

    /// Nor does a valid event with some bytes overwritten.
    #[test]
    fn decoder_survives_damage(at in 0_usize..400, bytes in prop::collection::vec(any::<u8>(), 1..8)) {
        let mut record = with(&[]);
        for (offset, byte) in bytes.into_iter().enumerate() {
            let position = (at + offset) % record.len();
            record[position] = byte;
        }
        let _ = decode(&record, LATEST);
    }
}
