//! Captured telemetry of Claude Code, as captured.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{StatusCode, header},
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{metric::Data, number_data_point::Value as Number},
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{Answer, Mood, World, chunked, gzipped, json_of};
use crate::log::Append;

pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// A captured request: path, headers, body (stored without its compression).
pub(super) struct Capture {
    about: Value,
    pub(super) body: &'static [u8],
}

macro_rules! capture {
    ($name:literal) => {
        Capture {
            about: serde_json::from_str(include_str!(concat!("../../../fixtures/otlp/claude/", $name, ".json")))
                .expect("JSON"),
            body: include_bytes!(concat!("../../../fixtures/otlp/claude/", $name, ".body")),
        }
    };
}

impl Capture {
    fn header(&self, name: &str) -> &str {
        self.about["headers"][name].as_str().unwrap_or_default()
    }

    /// Sends it with its path, type, compression and chunks.
    async fn send(&self, world: &World) -> Answer {
        let mut request = world.post(self.about["path"].as_str().expect("a path"), self.header("Content-Type"));
        let mut body = self.body.to_vec();
        if self.header("Content-Encoding") == "gzip" {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            body = gzipped(body).await;
        }
        assert_eq!(self.header("Transfer-Encoding"), "chunked");
        world.send(request.body(chunked(&body)).expect("a request")).await
    }
}

pub(super) fn delta() -> [Capture; 2] {
    [capture!("delta_pb/003"), capture!("delta_pb/004")]
}

pub(super) fn cumulative() -> [Capture; 2] {
    [capture!("cumulative_json/006"), capture!("cumulative_json/007")]
}

/// Number of events by short type, and sums of the numbers in their data.
pub(super) fn tally(records: &[Append]) -> BTreeMap<String, i64> {
    let mut tally = BTreeMap::new();
    for event in records.iter().map(json_of) {
        let kind =
            event["type"].as_str().expect("text").trim_start_matches("dev.daybook.").trim_end_matches(".v1").to_owned();
        for (field, value) in event["data"].as_object().expect("an object") {
            let value = match value {
                Value::String(text)
                    if matches!(
                        field.as_str(),
                        "status" | "decision" | "tool_type" | "query_source" | "start_type"
                    ) =>
                {
                    *tally.entry(format!("{kind} {field}={text}")).or_default() += 1;
                    continue;
                }
                value => value.as_i64().unwrap_or_default(),
            };
            *tally.entry(format!("{kind} {field}")).or_default() += value;
        }
        *tally.entry(kind).or_default() += 1;
    }
    tally
}

#[tokio::test]
async fn claude_code_as_captured() {
    // Counted by hand in the captured bodies: one session, one prompt "ping", two requests of 120 + 25 tokens (900 read from the
    // cache, 30 written), $0.001862 each, one Bash call that a rule allowed. The delta metrics say 0.616 s of work; the cumulative
    // ones 0.484 s, of which the cuts of 100 ms pass four.
    for (captures, duration, tool_ms, active_ms, ticks) in
        [(delta(), None, 150, 616, 1), (cumulative(), Some(119), 130, 400, 4)]
    {
        let world = World::new().await;
        let mut records = Vec::new();
        for capture in &captures {
            let answer = capture.send(&world).await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (StatusCode::OK, capture.header("Content-Type"))
            );
            let empty: &[u8] = if capture.header("Content-Type") == PROTOBUF { b"" } else { b"{}" };
            assert_eq!(answer.body.as_ref(), empty, "nothing was refused");
            records.extend(world.take());
        }
        let tally = tally(&records);
        let expected = [
            ("session.started", 1),
            ("session.started start_type=new", 1),
            ("prompt.submitted", 1),
            ("prompt.submitted length_chars", 4),
            ("model.completed", 2),
            ("model.completed status=success", 2),
            ("model.completed query_source=main", 2),
            ("model.completed input_tokens", 240),
            ("model.completed output_tokens", 50),
            ("model.completed cache_read_tokens", 1800),
            ("model.completed cache_creation_tokens", 60),
            ("usage.metered", 2),
            ("usage.metered cost_micro_usd", 3724),
            ("tool.decided", 1),
            ("tool.decided decision=auto_accept", 1),
            ("tool.completed", 1),
            ("tool.completed status=success", 1),
            ("tool.completed tool_type=builtin", 1),
            ("tool.completed duration_ms", tool_ms),
            ("activity.ticked", ticks),
            ("activity.ticked active_agent_ms", active_ms),
        ];
        for (name, value) in expected {
            assert_eq!(tally.get(name), Some(&value), "{name} in {tally:#?}");
        }
        if let Some(duration) = duration {
            assert_eq!(tally["model.completed duration_ms"], duration);
        }
        assert_eq!(records.len() as i64, 1 + 1 + 2 + 2 + 1 + 1 + ticks, "and nothing else");
        check_envelopes(&records);
        assert_eq!(
            world.counted("daybook_collector_otlp_items_total", &[("tool", "claude_code"), ("outcome", "mapped")]),
            7.0
        );
        // assistant_response; token.usage and cost.usage.
        assert_eq!(world.counted("daybook_collector_otlp_items_total", &[("outcome", "ignored")]), 3.0);
        for outcome in ["unknown", "rejected"] {
            assert_eq!(world.counted("daybook_collector_otlp_items_total", &[("outcome", outcome)]), 0.0, "{outcome}");
        }
    }
}

fn check_envelopes(records: &[Append]) {
    let user = "anon:c7abd5fca8f662ac61334e05ec9e3c659d85fba927f6004a969788ac64db2a53";
    for record in records {
        let event = json_of(record);
        let text = event.to_string();
        for content in ["ping", "pong", "echo hi", "say hi", "REDACTED", "/home/"] {
            assert!(!text.contains(content), "{content} in {text}");
        }
        let install = user.trim_start_matches("anon:");
        let expected = json!({
            "specversion": "1.0", "subject": user, "product": "claude_code", "clienttype": "cli", "clientver": "2.1.197",
            "hostapp": "dumb", "installid": install, "source": format!("urn:daybook:claude_code:cli:{install}"),
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&event[name], value, "{name}");
        }
        assert_eq!(event["sessionid"].as_str().map(str::len), Some(36));
        let of_a_log = !text.contains("session.started") && !text.contains("activity.ticked");
        assert_eq!((event["turnid"].is_string(), event["eventsequence"].is_string()), (of_a_log, of_a_log));
        assert!(
            event.get("sequence").is_none(),
            "Claude Code's sequence is one of the session, not of the installation"
        );
        assert!(
            event["time"].as_str().is_some_and(|time| time.starts_with("2026-11-23T01:5") && time.len() == 27),
            "{event}"
        );
        assert_eq!(record.key.as_ref(), format!("acme/{user}").as_bytes());
        assert_eq!(record.headers[2].1.as_ref(), b"otlp");
    }
}

#[tokio::test]
async fn what_is_sent_again_has_the_same_ids() {
    for captures in [delta(), cumulative()] {
        let (world, other) = (World::new().await, World::new().await);
        for capture in &captures {
            capture.send(&world).await;
            let first = world.take();
            capture.send(&world).await;
            let again = world.take();
            capture.send(&other).await;
            let elsewhere = other.take();
            assert_eq!(elsewhere, first, "another collector, or this one after a restart, makes the same events");
            // Totals that are in the log already are not repeated by the same collector.
            let expected = if capture.header("Content-Encoding") == "gzip" && capture.about["path"] == "/v1/metrics" {
                &first[..0]
            } else {
                &first[..]
            };
            assert_eq!(again, expected);
            let mut ids: Vec<_> = first.iter().map(|record| json_of(record)["id"].to_string()).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), first.len(), "ids tell events apart");
        }
    }
}

/// The captured cumulative metrics with another active time (s) and number of sessions.
fn totals(active: f64, sessions: i64) -> Vec<u8> {
    let mut request: ExportMetricsServiceRequest =
        serde_json::from_slice(cumulative()[1].body).expect("captured from an exporter");
    for metric in &mut request.resource_metrics[0].scope_metrics[0].metrics {
        let Some(Data::Sum(sum)) = &mut metric.data else { panic!("all are sums") };
        match metric.name.as_str() {
            "claude_code.active_time.total" => sum.data_points[0].value = Some(Number::AsDouble(active)),
            "claude_code.session.count" => sum.data_points[0].value = Some(Number::AsInt(sessions)),
            _ => {}
        }
        sum.data_points[0].time_unix_nano += (active * 1e9) as u64;
    }
    request.encode_to_vec()
}

#[tokio::test]
async fn cumulative_counters_need_no_memory() {
    let send = async |world: &World, body: Vec<u8>| {
        let request = world.post("/v1/metrics", PROTOBUF).body(Body::from(body)).expect("a request");
        let answer = world.send(request).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0), "{answer:?}");
    };
    let distinct = |records: Vec<Append>| -> BTreeMap<String, Append> {
        records.into_iter().map(|record| (json_of(&record)["id"].to_string(), record)).collect()
    };
    let steps = [(0.05, 1), (1.0, 1), (1.0, 2), (77.7, 2), (3_600.0, 3)];
    // One collector that sees every export; three that see some, one of them restarted, in the wrong order, with repeats.
    let steady = World::new().await;
    for (active, sessions) in steps {
        send(&steady, totals(active, sessions)).await;
    }
    let once = steady.take();
    let expected = distinct(once.clone());
    assert_eq!(once.len(), expected.len(), "what is in the log is not appended again");
    let mut scattered = Vec::new();
    for seen in [&[0, 3][..], &[4, 1, 4], &[2, 3, 0]] {
        let world = World::new().await;
        for step in seen {
            let (active, sessions) = steps[*step];
            send(&world, totals(active, sessions)).await;
        }
        scattered.extend(world.take());
    }
    assert!(scattered.len() > expected.len());
    assert_eq!(distinct(scattered), expected, "same ids, same payloads: they count once");
    let tally = tally(&expected.into_values().collect::<Vec<_>>());
    assert_eq!(tally["session.started"], 3, "counts are exact");
    let active = tally["activity.ticked active_agent_ms"];
    assert!((3_600_000 * 31 / 32..=3_600_000).contains(&active), "{active}");
    assert!(tally["activity.ticked"] < 300, "an hour is {} events", tally["activity.ticked"]);
    // A restart of the client is a series of its own; and nothing counts as reached that the log did not take.
    steady.set_mood(Mood::Away);
    let request = steady.post("/v1/metrics", PROTOBUF).body(Body::from(totals(7_200.0, 4))).expect("a request");
    assert_eq!(steady.send(request).await.status.as_u16(), 503);
    steady.set_mood(Mood::Well);
    send(&steady, totals(7_200.0, 4)).await;
    assert_eq!(self::tally(&steady.take())["session.started"], 1);
}
