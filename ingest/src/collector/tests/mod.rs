//! Through the router, as clients meet it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use directory::{Directory, KeyId, OptIn, Scope};
use futures::stream;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use prometheus::Registry;
use serde_json::Value;
use tower::ServiceExt as _;
use tower_http::compression::{CompressionLayer, predicate::SizeAbove};

use super::{Collector, Settings, router};
use crate::{
    log::{Append, Consumer, Error, Log, Positions, Result},
    signature,
};

mod allowed;
mod captured;
mod compressed;
mod events;
mod limits;
mod mapping;
mod opt_in;
mod otlp;
mod producers;

/// The server's clock in all tests; the captured telemetry is of that day.
fn now() -> Timestamp {
    "2026-11-23T12:00:00.123456789Z".parse().expect("a time")
}

/// What the test log does with the next appends.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Well,
    Away,
    OutOfOrder,
    Full,
    Silent,
}

/// A log that keeps what it is given, or fails as told.
struct TestLog {
    mood: Mutex<Mood>,
    records: Mutex<Vec<Append>>,
}

#[async_trait]
impl Log for TestLog {
    async fn append(&self, records: Vec<Append>) -> Result<()> {
        let mood = *self.mood.lock().expect("whole");
        match mood {
            Mood::Well => {
                self.records.lock().expect("whole").extend(records);
                Ok(())
            }
            Mood::Away => Err(Error::unavailable("append", "the broker is away")),
            Mood::OutOfOrder => Err(Error::fatal("append", "no permission")),
            Mood::Full => Err(Error::TooLarge { bytes: 70_000 }),
            Mood::Silent => std::future::pending().await,
        }
    }

    async fn identity(&self) -> Result<String> {
        Ok("test/test".to_owned())
    }

    async fn partitions(&self) -> Result<Vec<i32>> {
        Ok(vec![0])
    }

    async fn offsets(&self, _: i32) -> Result<(i64, i64)> {
        Err(Error::Closed)
    }

    async fn subscribe(&self, _: Arc<dyn Positions>) -> Result<Box<dyn Consumer>> {
        Err(Error::Closed)
    }

    async fn truncate(&self, _: i32, _: i64) -> Result<()> {
        Err(Error::Closed)
    }
}

/// A collector, its log, and a directory with the organisations acme and beta.
struct World {
    app: Router,
    log: Arc<TestLog>,
    directory: Directory,
    registry: Registry,
    key: String,
    key_id: KeyId,
    read_key: String,
}

impl World {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        Self::beside(settings, &signature::Settings::default()).await
    }

    /// On a log that others may write to.
    async fn beside(settings: Settings, producers: &signature::Settings) -> Self {
        let directory = Directory::open("sqlite::memory:").await.expect("a database in memory");
        let org = "acme".parse().expect("an id");
        directory.create_org(&org, "Acme", "UTC", now()).await.expect("new");
        directory.set_opt_in(&org, OptIn::Named, "a test", now()).await.expect("there");
        let (key_id, key) = directory.create_key(&org, Scope::Ingest, "", now()).await.expect("new");
        let (_, read_key) = directory.create_key(&org, Scope::Read, "", now()).await.expect("new");
        let log = Arc::new(TestLog { mood: Mutex::new(Mood::Well), records: Mutex::default() });
        let registry = Registry::new();
        let collector = Collector::new(settings, producers, log.clone(), directory.clone(), now, &registry);
        let app = router(collector.expect("the settings are good"));
        let (key, read_key) = (key.expose().to_owned(), read_key.expose().to_owned());
        Self { app, log, directory, registry, key, key_id, read_key }
    }

    /// A request with the ingest key.
    fn post(&self, path: &str, content_type: &str) -> axum::http::request::Builder {
        let builder = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        if content_type.is_empty() { builder } else { builder.header(header::CONTENT_TYPE, content_type) }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.expect("the router never fails");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the body is in memory").to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn events(&self, content_type: &str, body: impl Into<Body>) -> Answer {
        self.send(self.post("/v1/events", content_type).body(body.into()).expect("a request")).await
    }

    /// What the log was given since the last call.
    fn take(&self) -> Vec<Append> {
        std::mem::take(&mut self.log.records.lock().expect("whole"))
    }

    fn set_mood(&self, mood: Mood) {
        *self.log.mood.lock().expect("whole") = mood;
    }

    /// A counter's value, summed over the series that have these labels.
    fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        let fits = |metric: &&prometheus::proto::Metric| {
            let has = |(name, value): &(&str, &str)| {
                metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
            };
            labels.iter().all(has)
        };
        family.get_metric().iter().filter(fits).map(|metric| metric.get_counter().get_value()).sum()
    }
}

/// A response, read.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Status and cause of a problem, whose other members are as they must be.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        let cause = problem["cause"].as_str().expect("a cause").to_owned();
        assert_eq!(problem["type"], format!("https://daybook.dev/problems/{cause}"));
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(["title", "detail"].iter().all(|name| problem[name].as_str().is_some_and(|text| !text.is_empty())));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        (self.status.as_u16(), cause)
    }
}

fn json_of(record: &Append) -> Value {
    serde_json::from_slice(&record.value).expect("what is in the log is JSON")
}

/// gzip, by the library that servers use.
async fn gzipped(plain: Vec<u8>) -> Vec<u8> {
    let serve = tower::service_fn(move |_: Request<Body>| {
        let plain = plain.clone();
        async move { Ok::<_, std::convert::Infallible>(Response::new(Body::from(plain))) }
    });
    let service = tower::Layer::layer(&CompressionLayer::new().compress_when(SizeAbove::new(0)), serve);
    let request = Request::get("/").header(header::ACCEPT_ENCODING, "gzip").body(Body::empty()).expect("a request");
    let response = service.oneshot(request).await.expect("infallible");
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    response.into_body().collect().await.expect("in memory").to_bytes().to_vec()
}

/// A Zstandard frame (RFC 8878 §3.1.1) of raw blocks, then `repeat` blocks of 128 KiB spaces each.
fn zstd(plain: &[u8], repeat: usize) -> Vec<u8> {
    // Magic; no flags; window of 1 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    let mut block = |last: bool, kind: u32, size: usize, content: &[u8]| {
        let header = u32::from(last) | kind << 1 | (size as u32) << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(content);
    };
    let (raw, run) = (0, 1);
    for part in plain.chunks(100_000) {
        block(false, raw, part.len(), part);
    }
    for _ in 0..repeat {
        block(false, run, 128 << 10, b" ");
    }
    block(true, raw, 0, b"");
    frame
}

/// A body without a length that comes in pieces.
fn chunked(bytes: &[u8]) -> Body {
    let parts: Vec<_> = bytes.chunks(1_000).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part))).collect();
    Body::from_stream(stream::iter(parts))
}
