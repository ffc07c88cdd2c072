//! Rates of keys and quotas of organisations, as clients meet them.

use axum::{body::Body, http::header};
use bytesize::ByteSize;
use directory::{NewKey, OrgChange, Scope};
use jiff::SignedDuration;
use prost::Message as _;
use serde_json::json;

use super::{Mood, World, now};
use crate::collector::{Settings, problem::Status};

const BATCH: &str = "application/cloudevents-batch+json";

fn events(first: usize, count: usize) -> String {
    let event = |n: usize| json!({"specversion": "1.0", "id": format!("e{n}"), "source": "s", "type": "t", "time": "2026-11-23T10:00:00Z", "subject": "u"});
    json!((first..first + count).map(event).collect::<Vec<_>>()).to_string()
}

async fn limited(rate_limit_events: u64) -> World {
    World::with(Settings { rate_limit_events, rate_limit_burst: SignedDuration::from_secs(2), ..Settings::default() })
        .await
}

/// Whole seconds to wait, at least one.
fn retry_after(answer: &super::Answer) -> u64 {
    let seconds = answer.header("retry-after").parse().expect("whole seconds");
    assert!(seconds >= 1);
    seconds
}

#[tokio::test]
async fn a_key_that_is_too_fast_waits_and_nothing_of_its_request_is_taken() {
    let world = limited(10).await;
    assert_eq!(world.events(BATCH, events(0, 15)).await.status.as_u16(), 202);
    let answer = world.events(BATCH, events(15, 15)).await;
    assert_eq!(answer.problem(), (429, "rate_limited".to_owned()));
    assert_eq!((retry_after(&answer), &answer.json()["limited"]), (1, &json!("events")));
    assert_eq!(world.take().len(), 15);
    assert_eq!(world.events(BATCH, events(15, 4)).await.status.as_u16(), 202, "fewer pass");

    // No waiting helps: the client is told to send fewer, and not to try again.
    let answer = world.events(BATCH, events(0, 21)).await;
    assert_eq!(answer.problem(), (413, "over_burst".to_owned()));
    assert_eq!((answer.header("retry-after"), &answer.json()["limit"]), ("", &json!(20)));
    assert_eq!(world.counted("daybook_collector_requests_limited_total", &[("limit", "rate")]), 2.0);

    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(world.events(BATCH, events(15, 15)).await.status.as_u16(), 202, "who waited may send");
}

#[tokio::test]
async fn a_key_may_have_a_rate_of_its_own() {
    let world = limited(10).await;
    let org = "acme".parse().expect("an id");
    for (rate, events_sent, status) in
        [(Some(1_000), 2_000, 202), (Some(0), 9_000, 202), (Some(1), 3, 413), (None, 20, 202)]
    {
        let key = world
            .directory
            .create_key_as(&org, &NewKey { rate_limit: rate, ..NewKey::of(Scope::Ingest, "") }, now())
            .await
            .expect("new");
        let request = axum::http::Request::post("/v1/events")
            .header(header::AUTHORIZATION, format!("Bearer {}", key.1.expose()))
            .header(header::CONTENT_TYPE, BATCH)
            .body(Body::from(events(0, events_sent)));
        assert_eq!(world.send(request.expect("a request")).await.status.as_u16(), status, "{rate:?}");
    }
}

#[tokio::test]
async fn otlp_is_told_in_its_own_encoding() {
    let settings = Settings { rate_limit_bytes: ByteSize::b(10), ..Settings::default() };
    let world = World::with(settings).await;
    for path in ["/v1/logs", "/v1/metrics", "/v1/traces"] {
        // The first body passes and leaves a debt.
        world
            .send(world.post(path, "application/json").body(Body::from(" ".repeat(100) + "{}")).expect("a request"))
            .await;
        let send =
            async |kind: &str| world.send(world.post(path, kind).body(Body::from("{}")).expect("a request")).await;
        let answer = send("application/json").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (429, "application/json"), "{path}");
        assert_eq!((&answer.json()["code"], &answer.json()["limited"]), (&json!(8), &json!("bytes")));
        assert!(retry_after(&answer) >= 6, "it owes 62 bytes at 10 a second");
        let answer = send("application/x-protobuf").await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (429, "application/x-protobuf"));
        assert_eq!(Status::decode(&answer.body[..]).expect("a status").code, 8, "RESOURCE_EXHAUSTED");
        retry_after(&answer);
    }
    assert_eq!(world.events(BATCH, "[]").await.problem(), (429, "rate_limited".to_owned()), "one key, one bucket");
}

#[tokio::test]
async fn a_day_has_its_quota() {
    let world = World::new().await;
    let org = "acme".parse().expect("an id");
    let change = OrgChange { daily_quota: Some(Some(50)), ..OrgChange::default() };
    world.directory.change_org(&org, &change, now()).await.expect("there");
    assert_eq!(world.events(BATCH, events(0, 30)).await.status.as_u16(), 202);
    let answer = world.events(BATCH, events(30, 30)).await;
    assert_eq!(answer.problem(), (429, "quota_exhausted".to_owned()));
    // The tests' clock says noon.
    assert_eq!((answer.header("retry-after"), &answer.json()["daily_quota"]), ("43200", &json!(50)));
    assert_eq!(world.counted("daybook_collector_requests_limited_total", &[("limit", "quota")]), 1.0);
    assert_eq!(world.events(BATCH, "[{}]").await.status.as_u16(), 422, "what is no event counts for nothing");

    // What the log did not take does not count either: the client sends it again.
    world.set_mood(Mood::Away);
    for _ in 0..5 {
        assert_eq!(world.events(BATCH, events(30, 20)).await.status.as_u16(), 503);
    }
    world.set_mood(Mood::Well);
    assert_eq!(world.events(BATCH, events(30, 20)).await.status.as_u16(), 202);
    assert_eq!(world.take().len(), 50);
    let single = events(50, 1);
    let answer = world.events("application/cloudevents+json", single[1..single.len() - 1].to_owned()).await;
    assert_eq!(answer.problem(), (429, "quota_exhausted".to_owned()));
}
