//! Limits, request ids, metrics; and that a cut-off body does not look complete.

use std::time::Duration;

use axum::{body::to_bytes, response::Response};
use bytes::Bytes;
use futures::stream;
use jiff::SignedDuration;
use prometheus::TextEncoder;
use schemas::rollup::ROLLUP_DAILY;
use tokio::time::Instant;

use super::world::{ORGS, World, org, settings};
use crate::{Settings, formats::Format, http::body};

#[tokio::test]
async fn a_full_service_says_so() {
    let world = World::filled_with(Settings { concurrent_requests: 1, ..settings() }).await;
    let permit = world.query.places().take_all().await;
    let answer = world.get("acme", "/v1/rollups/daily").await;
    answer.problem(503, "busy");
    assert_eq!(answer.header("retry-after"), "1");
    drop(permit);
    for _ in 0..5 {
        // Each answer gives its place back.
        assert_eq!(world.get("acme", "/v1/rollups/daily").await.status, 200);
    }
}

#[tokio::test]
async fn one_organisation_leaves_places_to_the_others() {
    let world = World::filled_with(Settings { concurrent_requests_per_organisation: 1, ..settings() }).await;
    let acme = ORGS[0].0;
    let held = world.query.places().take(Some(&org(acme))).await.expect("free");
    let answer = world.get(acme, "/v1/rollups/daily").await;
    answer.problem(429, "too-many-requests");
    assert_eq!(answer.header("retry-after"), "1");
    world.ask(acme, "SELECT 1", Format::Json).await.problem(429, "too-many-requests");
    assert_eq!(world.get(ORGS[1].0, "/v1/rollups/daily").await.status, 200);
    drop(held);
    for _ in 0..3 {
        assert_eq!(world.get(acme, "/v1/rollups/daily").await.status, 200);
    }
}

#[tokio::test]
async fn a_slow_answer_is_cut_short() {
    let timeout = SignedDuration::from_millis(20);
    let world = World::filled_with(Settings { timeout, ..settings() }).await;
    // Nobody gets to ask the table, and nothing is known of it.
    let _asking = world.query.catalog().hold_asking(&ROLLUP_DAILY).await;
    let answer = world.get("acme", "/v1/rollups/daily").await;
    answer.problem(503, "timeout");
    assert!(!answer.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_stalled_client_gives_its_place_back() {
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let permit = permits.clone().acquire_owned().await.expect("open");
    let chunks = stream::repeat_with(|| Ok(Bytes::from_static(b"row\n")));
    let body = body::until(Instant::now() + Duration::from_millis(20), permit, Box::pin(chunks));
    // Nobody reads: the place is free again once the deadline has passed.
    let _again = permits.acquire().await.expect("open");
    let read = to_bytes(Response::new(body).into_body(), usize::MAX).await;
    assert!(read.is_err(), "a body that was cut off must not end like a whole one: {read:?}");
}

#[tokio::test]
async fn a_large_body_keeps_its_place_until_it_is_read() {
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let bytes = Bytes::from((0..5_000_000_u32).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let deadline = || Instant::now() + Duration::from_secs(60);
    let permit = permits.clone().acquire_owned().await.expect("open");
    let stalled = body::whole(deadline(), permit, bytes.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(permits.available_permits(), 0, "nobody has read it");
    let read = to_bytes(Response::new(stalled).into_body(), usize::MAX).await.expect("whole");
    assert_eq!(read, bytes);
    let permit = permits.acquire_owned().await.expect("given back");
    let small = to_bytes(body::whole(deadline(), permit, bytes.slice(..1000)), usize::MAX).await.expect("whole");
    assert_eq!(small, bytes[..1000]);
}

#[tokio::test]
async fn request_ids_come_back() {
    let world = World::filled().await;
    let sent = world.get_with("acme", "/v1/rollups/daily", &[("x-request-id", "trace-7f.A")]).await;
    assert_eq!(sent.header("x-request-id"), "trace-7f.A");
    let mut made = Vec::new();
    let long = "x".repeat(200);
    for bad in ["", "two words", long.as_str()] {
        let answer = world.get_with("acme", "/v1/rollups/daily?x=1", &[("x-request-id", bad)]).await;
        answer.problem(400, "unknown-parameter");
        made.push(answer.header("x-request-id").to_owned());
    }
    made.push(world.get("acme", "/v1/rollups/daily/schema").await.header("x-request-id").to_owned());
    assert!(made.iter().all(|id| id.len() == 16), "{made:?}");
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 4);
}

#[tokio::test]
async fn metrics_count_without_names() {
    let world = World::filled().await;
    for (org, _) in ORGS {
        world.get(org, "/v1/rollups/daily?user=email:canary-acme-1@example.org").await;
        world.get(org, "/v1/rollups/daily?bad=1").await;
    }
    let text = TextEncoder::new().encode_to_string(&world.registry.gather()).expect("text");
    let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
    has("daybook_query_requests_total{route=\"/v1/rollups/daily\",status=\"200\"} 3");
    has("daybook_query_requests_total{route=\"/v1/rollups/daily\",status=\"400\"} 3");
    has("daybook_query_rows_total{route=\"/v1/rollups/daily\"} 8");
    has("daybook_query_duration_seconds_count{route=\"/v1/rollups/daily\"} 6");
    has("daybook_query_requests_in_flight 0");
    for (org, _) in ORGS {
        assert!(!text.contains(org), "{org} in\n{text}");
    }
}

#[test]
fn settings_report_every_fault() {
    let bad = Settings {
        timeout: SignedDuration::ZERO,
        concurrent_requests: 0,
        memory: bytesize::ByteSize::b(1),
        cursor_key: Some("short".to_owned()),
        ..settings()
    };
    assert_eq!(bad.faults().len(), 4);
    assert!(settings().faults().is_empty());
    assert!(!format!("{bad:?}").contains("short"), "secrets do not print");
}
