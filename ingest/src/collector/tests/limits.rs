//! Who may send, how much, and what happens when the log is away.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, header},
};
use bytes::Bytes;
use bytesize::ByteSize;
use futures::{StreamExt as _, stream};
use jiff::SignedDuration;
use prometheus::Registry;
use serde_json::json;

use super::{Mood, World, chunked, gzipped, now, zstd};
use crate::collector::{Collector, Error, Settings};

const BATCH: &str = "application/cloudevents-batch+json";
const ALL_PATHS: [&str; 4] = ["/v1/events", "/v1/logs", "/v1/metrics", "/v1/traces"];

fn events(count: usize) -> String {
    let event = |n: usize| json!({"specversion": "1.0", "id": format!("e{n}"), "source": "s", "type": "t", "time": "2026-11-23T10:00:00Z", "subject": "u"});
    json!((0..count).map(event).collect::<Vec<_>>()).to_string()
}

#[tokio::test]
async fn keys() {
    let world = World::new().await;
    let send = async |path: &str, authorization: Option<String>| {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        world.send(request.body(Body::from("{}")).expect("a request")).await
    };
    let unknown = format!("Bearer dbk_0123456789abcdef_{}", "A".repeat(43));
    for path in ALL_PATHS {
        for authorization in [
            None,
            Some(unknown.clone()),
            Some(format!("Basic {}", world.key)),
            Some("Bearer ".into()),
            Some("Bearer x".into()),
        ] {
            let answer = send(path, authorization.clone()).await;
            assert_eq!(answer.status.as_u16(), 401, "{path} {authorization:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "{path} {authorization:?}");
        }
        let answer = send(path, Some(format!("Bearer {}", world.read_key))).await;
        assert_eq!(answer.status.as_u16(), 403, "{path}");
        assert!(answer.header("www-authenticate").contains("insufficient_scope"));
        // As some OTLP exporters send what is percent-encoded in the environment; and schemes know no case.
        for authorization in [format!("bearer  {}", world.key), format!("Bearer%20{}", world.key)] {
            let status = send(path, Some(authorization)).await.status.as_u16();
            assert_ne!(status, 401, "{path}");
        }
    }
    assert!(world.directory.revoke_key(&world.key_id, now()).await.expect("writable"));
    assert_eq!(
        send("/v1/events", Some(format!("Bearer {}", world.key))).await.problem(),
        (401, "unauthorized".to_owned())
    );
}

#[tokio::test]
async fn sizes() {
    let world = World::new().await;
    let five_mb = format!("[{}]", " ".repeat(5_000_000));
    let small = events(50);
    let space = |count: usize| [vec![b'['], vec![b' '; count], vec![b']']].concat();
    let bomb = gzipped(space(200_000_000)).await;
    assert!(bomb.len() < 1_000_000, "the bomb is small outside");
    // (what, encoding, body, length announced, status)
    let table = [
        ("5 MB, announced", "", Body::from(five_mb.clone()), Some(five_mb.len()), 413),
        ("5 MB, chunked", "", chunked(five_mb.as_bytes()), None, 413),
        ("a lie", "", Body::from("[]"), Some(5_000_000), 413),
        ("exactly the limit", "", chunked(&space((4 << 20) - 2)), None, 202),
        ("one more", "", chunked(&space((4 << 20) - 1)), None, 413),
        ("chunked", "", chunked(small.as_bytes()), None, 202),
        ("identity", "identity", Body::from(small.clone()), None, 202),
        ("gzip", "gzip", Body::from(gzipped(small.clone().into_bytes()).await), None, 202),
        ("gzip, chunked", "gzip", chunked(&gzipped(small.clone().into_bytes()).await), None, 202),
        ("gzip bomb", "gzip", Body::from(bomb), None, 413),
        ("zstd", "zstd", Body::from(zstd(small.as_bytes(), 1)), None, 202),
        ("zstd bomb", "zstd", Body::from(zstd(b"[", 8_000)), None, 413),
        ("no gzip", "gzip", Body::from(small.clone()), None, 400),
        ("cut off gzip", "gzip", Body::from(gzipped(small.clone().into_bytes()).await[..100].to_vec()), None, 400),
        ("no zstd", "zstd", Body::from(small.clone()), None, 400),
        ("brotli", "br", Body::from(small.clone()), None, 415),
    ];
    for (what, encoding, body, length, status) in table {
        let mut request = world.post("/v1/events", BATCH);
        if !encoding.is_empty() {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        let answer = world.send(request.body(body).expect("a request")).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {answer:?}");
        if status >= 400 {
            answer.problem();
        }
    }
    assert_eq!(world.take().len(), 5 * 50, "each that was accepted, once");
    let answer = world.events(BATCH, events(10_001)).await;
    assert_eq!(answer.problem(), (413, "too_many_events".to_owned()));
    assert_eq!(world.events(BATCH, events(10_000)).await.json()["accepted"], 10_000);
}

#[tokio::test]
async fn log_away_means_503_and_nothing_is_lost_silently() {
    let settings = Settings { append_timeout: SignedDuration::from_millis(50), ..Settings::default() };
    let world = World::with(settings).await;
    for (mood, status, cause) in [
        (Mood::Away, 503, "log_unavailable"),
        (Mood::OutOfOrder, 503, "log_unavailable"),
        (Mood::Silent, 503, "log_unavailable"),
        (Mood::Full, 413, "too_large"),
    ] {
        world.set_mood(mood);
        let answer = world.events(BATCH, events(3)).await;
        assert_eq!(answer.problem(), (status, cause.to_owned()), "{mood:?}");
        assert_eq!(answer.header("retry-after"), if status == 503 { "5" } else { "" }, "{mood:?}");
        assert!(!answer.json().to_string().contains("permission"), "internals stay in the log");
    }
    assert_eq!(world.counted("daybook_collector_events_accepted_total", &[]), 0.0);
    assert_eq!(world.counted("daybook_collector_requests_total", &[("status", "5xx")]), 3.0);
    world.set_mood(Mood::Well);
    assert_eq!(world.events(BATCH, events(3)).await.json()["accepted"], 3);
}

#[tokio::test]
async fn memory_of_all_requests_is_bounded() {
    let settings = Settings {
        body_limit: ByteSize::kib(64),
        in_flight_limit: ByteSize::kib(128),
        queue_wait: SignedDuration::from_millis(50),
        ..Settings::default()
    };
    let world = World::with(settings).await;
    let (open, held) = tokio::sync::oneshot::channel::<()>();
    // A body that does not end until it is told to.
    let slow = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"[")) }).chain(stream::once(async {
        let _ = held.await;
        Ok(Bytes::from_static(b"]"))
    }));
    let slow = world.post("/v1/events", BATCH).body(Body::from_stream(slow)).expect("a request");
    let (slow, other) = tokio::join!(world.send(slow), async {
        tokio::task::yield_now().await;
        let answer = world.events(BATCH, chunked(b"[]")).await;
        open.send(()).expect("it waits");
        answer
    });
    assert_eq!((other.problem(), other.header("retry-after")), ((503, "busy".to_owned()), "1"));
    assert_eq!(slow.status.as_u16(), 202);
    assert_eq!(world.events(BATCH, chunked(b"[]")).await.status.as_u16(), 202, "what was charged is given back");
}

#[tokio::test]
async fn slow_bodies_end() {
    let settings = Settings { read_timeout: SignedDuration::from_millis(50), ..Settings::default() };
    let world = World::with(settings).await;
    let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let answer = tokio::time::timeout(Duration::from_secs(20), world.events(BATCH, never)).await.expect("it ends");
    assert_eq!(answer.problem(), (408, "slow_body".to_owned()));
}

#[tokio::test]
async fn settings_are_checked() {
    let world = World::new().await;
    let good = Settings::default();
    assert!(good.faults().is_empty());
    let bad = Settings {
        body_limit: ByteSize::kib(1),
        batch_limit: 0,
        in_flight_limit: ByteSize::b(0),
        queue_wait: SignedDuration::from_secs(-1),
        read_timeout: SignedDuration::ZERO,
        append_timeout: SignedDuration::ZERO,
        rate_limit_burst: SignedDuration::ZERO,
        ..Settings::default()
    };
    let names: Vec<_> = bad.faults().iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), 7, "every fault at once: {names:?}");
    let make = |settings, registry: &Registry| {
        Collector::new(settings, &Default::default(), world.log.clone(), world.directory.clone(), now, registry).err()
    };
    assert!(matches!(make(bad, &Registry::new()), Some(Error::Setting { name: "body-limit", .. })));
    assert!(matches!(make(good, &world.registry), Some(Error::Metrics(_))), "one collector to a registry");
}
