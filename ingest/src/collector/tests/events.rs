//! `POST /v1/events`: modes, and what becomes of good and bad events.

use axum::body::Body;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Answer, World, json_of};
use crate::collector::cloudevents::Mode;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// What it is, body, status, cause, field, id.
type Row = (&'static str, Vec<u8>, u16, &'static str, Option<&'static str>, Option<&'static str>);

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "urn:daybook:kiro:ide:i1", "type": "dev.daybook.prompt.submitted.v1",
        "time": "2026-11-23T10:00:00.5Z", "subject": "acct:u1", "clienttype": "ide", "data": {"length_chars": 7}
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut event = event("e1");
    event[name] = value;
    event
}

fn without(name: &str) -> Value {
    let mut event = event("e1");
    event.as_object_mut().expect("an object").remove(name);
    event
}

#[tokio::test]
async fn what_is_accepted_reaches_the_log_as_it_was_sent() {
    let world = World::new().await;
    // Order, spaces and escapes stay.
    let texts = [event("e1").to_string(), format!(" {} ", event("e2")), r#"{ "specversion":"1.0","id":"\u0065 3","source":"s","type":"t","time":"2026-11-23T10:00:00Z","subject":"ä/ö" }"#.to_owned()];
    let batch = format!("[{}]", texts.join(" ,\n"));
    for (content_type, body) in [
        (BATCH, batch.clone()),
        ("application/json", format!("\n {batch}")),
        ("application/cloudevents-batch+json; charset=UTF-8", batch),
    ] {
        let answer = world.events(content_type, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (202, json!({"accepted": 3, "rejected": []})),
            "{content_type}"
        );
        let records = world.take();
        assert_eq!(
            records.iter().map(|record| record.value.as_ref()).collect::<Vec<_>>(),
            texts.each_ref().map(|text| text.trim().as_bytes())
        );
        assert_eq!(
            records.iter().map(|record| record.key.as_ref()).collect::<Vec<_>>(),
            ["acme/acct:u1", "acme/acct:u1", "acme/ä/ö"].map(str::as_bytes)
        );
        for record in records {
            let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
            let expected = [
                ("daybook-org", "acme"),
                ("daybook-recorded-time", "2026-11-23T12:00:00.123456Z"),
                ("daybook-vantage", "client"),
            ];
            assert_eq!(headers, expected.map(|(name, value)| (name, value.as_bytes())));
        }
    }
    for content_type in [STRUCTURED, "Application/CloudEvents+JSON; charset=\"utf-8\"", "application/json"] {
        let answer = world.events(content_type, texts[2].clone()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (202, json!({"accepted": 1, "rejected": []})),
            "{content_type}"
        );
        assert_eq!(world.take().len(), 1);
    }
    let answer = world.events(BATCH, "[]").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (202, json!({"accepted": 0, "rejected": []})));
    assert_eq!(world.counted("daybook_collector_events_accepted_total", &[("door", "events")]), 12.0);
}

#[tokio::test]
async fn binary_mode() {
    let world = World::new().await;
    let send = async |more: &[(&str, &str)], body: &str| {
        let mut request = world.post("/v1/events", "");
        let base = [
            ("ce-specversion", "1.0"),
            ("ce-id", "b1"),
            ("ce-source", "urn:x"),
            ("ce-type", "dev.daybook.prompt.submitted.v1"),
            ("ce-time", "2026-11-23T10:00:00Z"),
        ];
        for (name, value) in base.iter().chain(more) {
            request = request.header(*name, value.as_bytes());
        }
        world.send(request.body(Body::from(body.to_owned())).expect("a request")).await
    };
    let json_type = ("content-type", "application/json");
    // (headers, body, subject, data)
    let good = [
        (vec![("ce-subject", "acct:1"), json_type], "{\"length_chars\": 1}", "acct:1", json!({"length_chars": 1})),
        (vec![("ce-subject", "email:J%C3%BCrg%20%22M%22"), json_type], "{}", "email:Jürg \"M\"", json!({})),
        (vec![("ce-subject", "\"a \\\"b\\\" \\\\c%41\""), json_type], " {} ", "a \"b\" \\cA", json!({})),
        (
            vec![("ce-subject", "Zürich"), ("content-type", "application/json; charset=utf-8")],
            "{}",
            "Zürich",
            json!({}),
        ),
        (vec![("ce-subject", "no-data")], "", "no-data", Value::Null),
        (
            vec![("CE-Subject", "x"), ("ce-sequence", "41"), ("content-type", "application/vnd.x+json")],
            "{}",
            "x",
            json!({}),
        ),
    ];
    for (headers, body, subject, data) in good {
        let answer = send(&headers, body).await;
        assert_eq!(answer.status.as_u16(), 202, "{headers:?}: {answer:?}");
        let records = world.take();
        let event = json_of(&records[0]);
        assert_eq!((&event["subject"], &event["data"], &event["id"]), (&json!(subject), &data, &json!("b1")));
        assert_eq!(records[0].key.as_ref(), format!("acme/{subject}").as_bytes());
    }
    let bad = [
        (vec![("ce-subject", "%zz"), json_type], "{}", (400, "bad_header")),
        (vec![("ce-subject", "%C3"), json_type], "{}", (400, "bad_header")),
        (vec![("ce-subject", "x"), ("ce-subject", "y"), json_type], "{}", (400, "bad_header")),
        (vec![("ce-subject", "x"), ("ce-data", "{}"), json_type], "{}", (400, "bad_header")),
        (vec![("ce-subject", "x"), json_type], "{\"length_chars\":", (400, "not_json")),
        (vec![("ce-subject", "x"), json_type], "{} {}", (400, "not_json")),
        (vec![json_type], "{}", (422, "missing_attribute")),
        (vec![("ce-subject", "x"), ("content-type", "text/plain")], "hello", (415, "media_type")),
        (vec![("ce-subject", "x"), ("content-type", "application/cloudevents+avro")], "", (415, "media_type")),
    ];
    for (headers, body, (status, cause)) in bad {
        assert_eq!(send(&headers, body).await.problem(), (status, cause.to_owned()), "{headers:?}");
    }
    assert!(world.take().is_empty());
}

#[tokio::test]
async fn bad_input_has_a_defined_outcome() {
    let world = World::new().await;
    let whole = event("e1").to_string();
    let mut bad_utf8 = whole.clone().into_bytes();
    let at = whole.find("acct").expect("there");
    bad_utf8[at] = 0xff;
    let nested = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    // (body, status, cause, field, id)
    let table: Vec<Row> = vec![
        ("truncated", whole[..whole.len() - 9].into(), 400, "not_json", None, None),
        ("empty", Vec::new(), 400, "not_json", None, None),
        ("bad UTF-8", bad_utf8.clone(), 400, "not_utf8", None, Some("e1")),
        ("no object", b"17".into(), 422, "not_an_object", None, None),
        ("nesting bomb", nested.clone().into(), 422, "too_large", None, None),
        ("id missing", without("id").to_string().into(), 422, "missing_attribute", Some("id"), None),
        ("id empty", with("id", json!("")).to_string().into(), 422, "missing_attribute", Some("id"), Some("")),
        ("id a number", with("id", json!(7)).to_string().into(), 422, "wrong_type", Some("id"), None),
        ("time no time", with("time", json!("soon")).to_string().into(), 422, "wrong_type", Some("time"), Some("e1")),
        (
            "far future",
            with("time", json!("2027-11-23T10:00:00Z")).to_string().into(),
            422,
            "future_time",
            Some("time"),
            Some("e1"),
        ),
        (
            "just too far",
            with("time", json!("2026-11-24T12:00:00.2Z")).to_string().into(),
            422,
            "future_time",
            Some("time"),
            Some("e1"),
        ),
        (
            "wrong type in data",
            with("data", json!({"length_chars": "x"})).to_string().into(),
            422,
            "wrong_type",
            Some("data.length_chars"),
            Some("e1"),
        ),
        (
            "content",
            with("data", json!({"prompt": "secret words"})).to_string().into(),
            422,
            "content",
            Some("data.prompt"),
            Some("e1"),
        ),
        (
            "other version",
            with("specversion", json!("0.3")).to_string().into(),
            422,
            "spec_version",
            Some("specversion"),
            Some("e1"),
        ),
        (
            "attribute twice",
            whole.replacen("{", "{\"id\":\"e1\",", 1).into(),
            422,
            "duplicate_attribute",
            Some("id"),
            None,
        ),
        ("too large", with("x", json!("x".repeat(70_000))).to_string().into(), 422, "too_large", None, Some("e1")),
    ];
    for (what, body, status, cause, field, id) in &table {
        let answer = world.events(STRUCTURED, body.clone()).await;
        assert_eq!(answer.problem(), (*status, (*cause).to_owned()), "{what}");
        let problem = answer.json();
        assert_eq!(
            (problem["field"].as_str(), problem["id"].as_str(), &problem["index"]),
            (*field, *id, &json!(0)),
            "{what}"
        );
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{what}: no value is sent back");
    }
    // In a batch the good ones pass, and each bad one is named. (What is no JSON has no place in a batch.)
    let in_batch: Vec<_> = table.iter().filter(|row| row.2 == 422).collect();
    let mut parts = vec![event("first").to_string()];
    parts.extend(in_batch.iter().map(|row| String::from_utf8(row.1.clone()).expect("UTF-8")));
    parts.push(event("last").to_string());
    let answer = world.events(BATCH, format!("[{}]", parts.join(","))).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["accepted"]), (202, &json!(2)));
    let rejected = answer.json()["rejected"].as_array().expect("an array").clone();
    assert_eq!(rejected.len(), in_batch.len());
    for ((index, problem), (what, _, status, cause, field, id)) in (1..).zip(&rejected).zip(in_batch) {
        let found =
            (problem["index"].as_u64(), problem["cause"].as_str(), problem["field"].as_str(), problem["id"].as_str());
        assert_eq!(found, (Some(index), Some(*cause), *field, *id), "{what}");
        assert_eq!(
            (&problem["status"], &problem["type"]),
            (&json!(status), &json!(format!("https://daybook.dev/problems/{cause}")))
        );
    }
    let ids: Vec<_> = world.take().iter().map(|record| json_of(record)["id"].clone()).collect();
    assert_eq!(ids, ["first", "last"]);
    // None good.
    let answer = world.events(BATCH, json!([without("id"), without("type")]).to_string()).await;
    assert_eq!(answer.problem(), (422, "none_accepted".to_owned()));
    assert_eq!(answer.json()["rejected"].as_array().map(Vec::len), Some(2));
    // Batches that cannot be taken apart.
    for (body, status, cause) in [
        (format!("[{whole},"), 400, "not_json"),
        (format!("[{whole}] x"), 400, "not_json"),
        (format!("[{whole},]"), 400, "not_json"),
        (whole.clone(), 400, "not_json"),
        (String::new(), 400, "not_json"),
    ] {
        assert_eq!(world.events(BATCH, body.clone()).await.problem(), (status, cause.to_owned()), "{body}");
    }
    let torn = [b"[".as_slice(), &bad_utf8, b"]"].concat();
    assert_eq!(world.events(BATCH, torn).await.problem(), (400, "not_utf8".to_owned()));
    assert!(world.take().is_empty());
    assert_eq!(world.counted("daybook_collector_events_rejected_total", &[("cause", "content")]), 2.0);
}

#[tokio::test]
async fn what_is_new_is_kept() {
    let world = World::new().await;
    for event in [
        with("type", json!("dev.daybook.something.new.v7")),
        with("clienttype", json!("hologram")),
        with("data", json!({"length_chars": 1, "mood_score": 3})),
        // Up to a day ahead, clocks may differ.
        with("time", json!("2026-11-24T12:00:00Z")),
    ] {
        let answer = world.events(STRUCTURED, event.to_string()).await;
        assert_eq!(answer.status.as_u16(), 202, "{event}: {answer:?}");
        assert_eq!(json_of(&world.take()[0]), event);
    }
    // What the server asserts is not the payload's to say.
    let answer = world.events(STRUCTURED, with("orgid", json!("beta")).to_string()).await;
    assert_eq!(answer.status.as_u16(), 202);
    assert_eq!(world.take()[0].headers[0].1.as_ref(), b"acme");
}

#[tokio::test]
async fn media_types_and_methods() {
    let world = World::new().await;
    for content_type in [
        "",
        "text/plain",
        "application/xml",
        "application/cloudevents+avro",
        "application/cloudevents+json; charset=latin1",
    ] {
        let answer: Answer = world.events(content_type, event("e1").to_string()).await;
        assert_eq!(answer.problem(), (415, "media_type".to_owned()), "{content_type}");
    }
    let mut request = world.post("/v1/events", STRUCTURED).body(Body::empty()).expect("a request");
    *request.method_mut() = axum::http::Method::GET;
    let answer = world.send(request).await;
    assert_eq!((answer.problem(), answer.header("allow")), ((405, "method_not_allowed".to_owned()), "POST"));
    // The client's request id comes back; what is none does not.
    for (given, kept) in [("abc-123", true), ("with space", false), (&*"x".repeat(200), false)] {
        let request = world.post("/v1/events", STRUCTURED).header("x-request-id", given);
        let answer = world.send(request.body(Body::from("x")).expect("a request")).await;
        assert_eq!(answer.header("x-request-id") == given, kept, "{given}");
        answer.problem();
    }
}

proptest! {
    /// Whatever comes, splitting gives events or a problem.
    #[test]
    fn splitting_never_panics(body: Vec<u8>, json in "[\\[\\]{},:\"a1 \\\\u]{0,60}", ce in "[ -~]{0,20}") {
        for mode in [Mode::Structured, Mode::Batched, Mode::Either, Mode::Binary(None)] {
            let mut headers = axum::http::HeaderMap::new();
            headers.insert("ce-subject", ce.parse().expect("visible ASCII"));
            for body in [body.clone(), json.clone().into_bytes()] {
                let _ = mode.split(&headers, body.into(), 3);
            }
        }
    }
}
