//! What other versions and broken exporters may send.

use axum::{body::Body, http::StatusCode};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    },
    common::v1::{AnyValue, any_value},
    metrics::v1::{metric::Data, number_data_point::Value as Number},
};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    Mood, World,
    captured::{PROTOBUF, cumulative, delta, tally},
    json_of,
};
use crate::collector::{
    Settings,
    otlp::wire::{self, Encoding},
    problem::Status,
};

/// The captured logs, changed.
fn logs(change: impl FnOnce(&mut ExportLogsServiceRequest)) -> Vec<u8> {
    let mut request = ExportLogsServiceRequest::decode(delta()[0].body).expect("captured from an exporter");
    change(&mut request);
    request.encode_to_vec()
}

#[tokio::test]
async fn refusals_are_partial_and_named() {
    let world = World::new().await;
    let send = async |body: Vec<u8>| {
        let request = world.post("/v1/logs", PROTOBUF).body(Body::from(body)).expect("a request");
        let answer = world.send(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        ExportLogsServiceResponse::decode(answer.body).expect("a response").partial_success
    };
    // No user, no time, far future, a huge record: these are refused, the others taken.
    let body = logs(|request| {
        let records = &mut request.resource_logs[0].scope_logs[0].log_records;
        records[0].attributes.retain(|attribute| attribute.key != "user.id");
        (records[1].time_unix_nano, records[1].observed_time_unix_nano) = (0, 0);
        records[2].time_unix_nano = u64::MAX / 2;
        records[3].severity_text = "x".repeat(600_000);
    });
    let partial = send(body).await.expect("some were refused");
    assert_eq!(partial.rejected_log_records, 4);
    assert!(partial.error_message.contains("user.id"), "{}", partial.error_message);
    assert_eq!(tally(&world.take())["model.completed"], 1);
    // Other tools and new signals are taken quietly: exporters log partial success as their error.
    let body = logs(|request| {
        for attribute in &mut request.resource_logs[0].resource.as_mut().expect("a resource").attributes {
            if attribute.key == "service.name" {
                attribute.value = text("another-tool");
            }
        }
    });
    assert_eq!(send(body).await, None);
    assert!(world.take().is_empty());
    assert_eq!(world.counted("daybook_collector_otlp_items_total", &[("tool", "other"), ("outcome", "unknown")]), 6.0);
    // A number that is none leaves its field out and is counted.
    let body = logs(|request| {
        for record in &mut request.resource_logs[0].scope_logs[0].log_records {
            for attribute in &mut record.attributes {
                if attribute.key == "input_tokens" {
                    attribute.value = text("many");
                }
            }
        }
    });
    assert_eq!(send(body).await, None);
    assert_eq!(tally(&world.take()).get("model.completed input_tokens"), None);
    assert_eq!(world.counted("daybook_collector_otlp_attributes_unreadable_total", &[]), 2.0);
    // The same in JSON and of metrics: 2,000 sessions at once are none.
    let body = String::from_utf8(cumulative()[1].body.to_vec()).expect("JSON").replacen(
        "\"asDouble\":1}",
        "\"asInt\":\"2000\"}",
        1,
    );
    let request = world.post("/v1/metrics", "application/json").body(Body::from(body)).expect("a request");
    let answer = world.send(request).await.json();
    assert_eq!(answer["partialSuccess"]["rejectedDataPoints"], "1", "{answer}");
    let body = ExportMetricsServiceRequest::default().encode_to_vec();
    let request = world.post("/v1/metrics", PROTOBUF).body(Body::from(body)).expect("a request");
    assert_eq!(
        ExportMetricsServiceResponse::decode(world.send(request).await.body).expect("a response").partial_success,
        None
    );
}

fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) })
}

#[tokio::test]
async fn other_tools_shapes_of_claude_code() {
    let world = World::new().await;
    let record = |name: &str, more: Value| {
        let mut attributes =
            json!({"user.id": "u1", "user.email": "a@example.org", "session.id": "s1", "event.name": name});
        attributes.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let attributes: Vec<_> = attributes
            .as_object()
            .expect("an object")
            .iter()
            .map(|(key, value)| {
                let value = if let Some(number) = value.as_i64() {
                    json!({"intValue": number.to_string()})
                } else {
                    json!({"stringValue": value})
                };
                json!({"key": key, "value": value})
            })
            .collect();
        json!({"timeUnixNano": "1795398917019000000", "attributes": attributes})
    };
    // (name, attributes, field, value)
    let table = [
        (
            "tool_decision",
            json!({"tool_name": "Edit", "decision": "accept", "source": "user_temporary"}),
            "decision",
            json!("accept"),
        ),
        (
            "tool_decision",
            json!({"tool_name": "Edit", "decision": "reject", "source": "user_reject"}),
            "decision",
            json!("reject"),
        ),
        (
            "tool_decision",
            json!({"tool_name": "Edit", "decision": "reject", "source": "user_abort"}),
            "decision",
            json!("abort"),
        ),
        (
            "tool_decision",
            json!({"tool_name": "Edit", "decision": "accept", "source": "hook"}),
            "decision",
            json!("auto_accept"),
        ),
        ("tool_result", json!({"tool_name": "mcp__github__list", "success": "false"}), "mcp_server", json!("github")),
        ("tool_result", json!({"tool_name": "mcp__github__list", "success": "false"}), "tool_type", json!("mcp")),
        ("tool_result", json!({"tool_name": "mcp_tool", "success": "false"}), "status", json!("error")),
        (
            "api_error",
            json!({"model": "m", "status_code": 529, "error": "secret", "duration_ms": "20"}),
            "error_type",
            json!("529"),
        ),
        ("api_request", json!({"model": "m", "query_source": "agent:custom"}), "query_source", json!("subagent")),
        ("api_request", json!({"model": "m", "query_source": "compact"}), "query_source", json!("auxiliary")),
    ];
    for (name, attributes, field, value) in table {
        let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "claude-code"}}]});
        let body = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record(name, attributes)]}]}]});
        let request = world.post("/v1/logs", "application/json").body(Body::from(body.to_string())).expect("a request");
        assert_eq!(world.send(request).await.json(), json!({}));
        let records = world.take();
        let event = json_of(&records[0]);
        assert_eq!(
            (records.len(), &event["data"][field], &event["subject"]),
            (1, &value, &json!("email:a@example.org")),
            "{event}"
        );
        assert!(!event.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn errors_come_in_the_encoding_of_the_request() {
    let world = World::with(Settings { batch_limit: 5, ..Settings::default() }).await;
    let send = async |path: &str, content_type: &str, body: Vec<u8>| {
        world.send(world.post(path, content_type).body(Body::from(body)).expect("a request")).await
    };
    for (body, status) in [(b"\x0a\xff".to_vec(), 400), (vec![0x0b], 400), (delta()[0].body.to_vec(), 413)] {
        let answer = send("/v1/logs", PROTOBUF, body).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (status, PROTOBUF));
        assert!(!Status::decode(answer.body).expect("a google.rpc.Status").message.is_empty());
    }
    for body in
        ["", "{", "[]", "{\"resourceLogs\": 7}", "{\"resourceLogs\": [{\"resource\": 3}]}", "{\"resourceLogs\": [[]]}"]
    {
        let answer = send("/v1/logs", "application/json", body.into()).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (400, "application/json"), "{body}");
        assert_eq!((&answer.json()["cause"], &answer.json()["code"]), (&json!("malformed_otlp"), &json!(3)));
    }
    assert_eq!(send("/v1/logs", "text/plain", Vec::new()).await.status.as_u16(), 415);
    assert_eq!(send("/v1/traces", PROTOBUF, b"whatever".to_vec()).await.status, StatusCode::OK);
    assert_eq!(send("/v1/traces", "application/json", b"whatever".to_vec()).await.json(), json!({}));
    world.set_mood(Mood::Away);
    let few = logs(|request| request.resource_logs[0].scope_logs[0].log_records.truncate(5));
    let answer = send("/v1/logs", PROTOBUF, few).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "5"), "exporters try again");
    assert_eq!(
        world.counted("daybook_collector_otlp_items_total", &[("tool", "claude_code")]),
        0.0,
        "nothing was taken"
    );
}

#[tokio::test]
async fn a_small_body_cannot_become_a_large_batch() {
    let world = World::new().await;
    // Two bytes each: 100,000 records that would be 25 MB decoded.
    let records = [0x12, 0x00].repeat(100_000);
    let wrap = |tag: u8, inner: &[u8]| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        [out, inner.to_vec()].concat()
    };
    let body = wrap(0x0a, &wrap(0x12, &records));
    let request = world.post("/v1/logs", PROTOBUF).body(Body::from(body)).expect("a request");
    assert_eq!(world.send(request).await.status.as_u16(), 413);
    // 200 points of 900 sessions each.
    let mut request = ExportMetricsServiceRequest::decode(delta()[1].body).expect("captured");
    let metrics = &mut request.resource_metrics[0].scope_metrics[0].metrics;
    metrics.retain(|metric| metric.name == "claude_code.session.count");
    let Some(Data::Sum(sum)) = &mut metrics[0].data else { panic!("a sum") };
    sum.data_points[0].value = Some(Number::AsInt(900));
    sum.data_points = vec![sum.data_points[0].clone(); 200];
    let request = world.post("/v1/metrics", PROTOBUF).body(Body::from(request.encode_to_vec())).expect("a request");
    assert_eq!(world.send(request).await.status.as_u16(), 413);
    assert!(world.take().is_empty());
}

proptest! {
    /// Captured bodies with a few bytes changed: read, refused in part or refused, never a panic.
    #[test]
    fn damaged_requests_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut: prop::sample::Index) {
        for (capture, encoding) in delta().iter().zip([Encoding::Protobuf; 2]).chain(cumulative().iter().zip([Encoding::Json; 2])) {
            let mut body = capture.body.to_vec();
            for (at, byte) in &changes {
                *at.get_mut(&mut body) = *byte;
            }
            body.truncate(cut.index(body.len()) + 1);
            let _ = wire::logs(encoding, &body, 100, &mut |_, _| {});
            let _ = wire::metrics(encoding, &body, 100, &mut |_, _| {});
        }
    }
}
