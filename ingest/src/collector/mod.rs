//! The collector: HTTP on one side, the log on the other.
//!
//! ```text
//!  /v1/events ──► auth ─► body ─► cloudevents: split ─► schemas::event::decode ─┐
//!  /v1/logs   ──► auth ─► body ─► otlp: wire ─► tool's mapping ─► decode ───────┼─► Log::append ─► 202 / 200
//!  /v1/metrics                                                                  │
//!  /v1/traces ──► auth ─► body ─► counted, not read ────────────────────────────┘
//! ```
//!
//! Invariants:
//! 1. An event is acknowledged only after the log has acknowledged it. What was not acknowledged may be sent again whole:
//!    ids make that harmless (F28: nothing that is refused is ever acknowledged).
//! 2. Organisation, recorded time and vantage come from the key, our clock and the door; they travel in record headers, signed where
//!    others write to the log too.
//! 3. What is appended has passed the decoder that the worker uses.
//! 4. Memory: bodies, counted after decompression, have a limit each and one together; then requests wait shortly and
//!    get 503. Nothing is buffered past the answer.
//! 5. A key has a rate, an organisation a quota a day; what is over them is refused whole, before the log sees it (`rate`, `allow`).
//! 6. Metrics carry neither organisations nor users.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    routing::post,
};
use bytes::Bytes;
use bytesize::ByteSize;
use directory::{Directory, MacKey};
use jiff::{SignedDuration, Timestamp};
use schemas::OrgId;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    headers,
    log::{Append, Headers, Log},
    signature::{self, COLLECTOR},
};

mod allow;
mod auth;
mod body;
mod cloudevents;
mod endpoint;
mod events;
mod metrics;
mod otlp;
mod problem;
mod rate;
#[cfg(test)]
mod tests;

use endpoint::Door;
use metrics::Metrics;
use problem::Problem;
use rate::{RateLimits, Rates};

/// Why a collector could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting makes no sense.
    #[error("{name} {problem}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
    /// A metric could not be registered: another collector has registered its own in the same registry.
    #[error("metrics could not be registered")]
    Metrics(#[source] prometheus::Error),
}

/// Limits of the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Largest body of a request, after decompression.
    pub body_limit: ByteSize,
    /// Most events, log records or metrics in a request.
    pub batch_limit: usize,
    /// Memory for all requests that are being worked on: about twice the bodies.
    pub in_flight_limit: ByteSize,
    /// How long a request waits for memory before it gets 503.
    pub queue_wait: SignedDuration,
    /// How long a body may take to arrive.
    pub read_timeout: SignedDuration,
    /// How long the log may take to acknowledge.
    pub append_timeout: SignedDuration,
    /// Most events a second of a key, through this collector; 0 = any number. A key may have a rate of its own.
    pub rate_limit_events: u64,
    /// Most bytes of bodies a second of a key, after decompression, through this collector; 0 = any number.
    pub rate_limit_bytes: ByteSize,
    /// So long a time's events and bytes a key may send at once.
    pub rate_limit_burst: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_limit: ByteSize::mib(4),
            batch_limit: 10_000,
            in_flight_limit: ByteSize::mib(256),
            queue_wait: SignedDuration::from_secs(2),
            read_timeout: SignedDuration::from_secs(30),
            append_timeout: SignedDuration::from_secs(30),
            rate_limit_events: 5_000,
            rate_limit_bytes: ByteSize::mib(16),
            rate_limit_burst: SignedDuration::from_secs(4),
        }
    }
}

impl Settings {
    /// Every setting that is out of its range.
    #[must_use]
    pub fn faults(&self) -> Vec<Error> {
        let mut found = Vec::new();
        let mut check = |good: bool, name, problem| {
            if !good {
                found.push(Error::Setting { name, problem });
            }
        };
        let body = self.body_limit.as_u64();
        check((64 << 10..=1 << 30).contains(&body), "body-limit", "takes \"64KiB\" to \"1GiB\"");
        check(self.batch_limit > 0, "batch-limit", "must be at least 1");
        // Permits are KiB in a u32.
        let enough = (body.saturating_mul(body::COST)..=1 << 40).contains(&self.in_flight_limit.as_u64());
        check(enough, "in-flight-limit", "takes twice the body-limit to \"1TiB\"");
        check(!self.queue_wait.is_negative(), "queue-wait", "must not be negative");
        let positive = SignedDuration::is_positive;
        check(positive(&self.read_timeout), "read-timeout", "must be a positive duration, such as \"30s\"");
        check(positive(&self.append_timeout), "append-timeout", "must be a positive duration, such as \"30s\"");
        check(positive(&self.rate_limit_burst), "rate-limit-burst", "must be a positive duration, such as \"4s\"");
        found
    }
}

/// The state that all requests share. Cheap to clone.
#[derive(Clone)]
pub struct Collector(Arc<Inner>);

struct Inner {
    settings: Settings,
    log: Arc<dyn Log>,
    directory: Directory,
    clock: fn() -> Timestamp,
    metrics: Metrics,
    /// Permits of 1 KiB.
    memory: Arc<Semaphore>,
    rates: RateLimits,
    /// How far cumulative counters have been appended.
    progress: otlp::Progress,
    /// Records are signed with it.
    signing_key: Option<MacKey>,
    /// The log is this organisation's: of others nothing may be appended to it.
    only_org: Option<OrgId>,
}

impl Collector {
    /// A collector that appends to `log`, which others may write to as `producers` says. Its metrics are registered in `registry`.
    ///
    /// # Errors
    /// Where a setting makes no sense, or `registry` has a collector already.
    pub fn new(
        settings: Settings,
        producers: &signature::Settings,
        log: Arc<dyn Log>,
        directory: Directory,
        clock: fn() -> Timestamp,
        registry: &prometheus::Registry,
    ) -> Result<Self, Error> {
        if let Some(fault) = settings.faults().into_iter().next() {
            return Err(fault);
        }
        if let Some((name, problem)) = producers.faults().into_iter().next() {
            return Err(Error::Setting { name, problem });
        }
        let metrics = Metrics::register(registry).map_err(Error::Metrics)?;
        let permits = usize::try_from(settings.in_flight_limit.as_u64() >> 10).expect("at most 2^30, checked above");
        Ok(Self(Arc::new(Inner {
            memory: Arc::new(Semaphore::new(permits)),
            rates: RateLimits::new(Rates {
                events: settings.rate_limit_events,
                bytes: settings.rate_limit_bytes.as_u64(),
                burst: settings.rate_limit_burst.unsigned_abs(),
            }),
            settings,
            log,
            directory,
            clock,
            metrics,
            progress: otlp::Progress::default(),
            signing_key: producers.collector_key(),
            only_org: producers.organisation.clone(),
        })))
    }

    /// Appends, and returns when the log has acknowledged.
    async fn append(&self, records: Vec<Append>) -> Result<(), Problem> {
        if records.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let limit = self.0.settings.append_timeout.unsigned_abs();
        let outcome = tokio::time::timeout(limit, self.0.log.append(records)).await;
        self.0.metrics.append_seconds.observe(started.elapsed().as_secs_f64());
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Problem::from_log(&error)),
            Err(_) => {
                tracing::warn!(?limit, "the log did not acknowledge in time");
                Err(Problem::log_away())
            }
        }
    }
}

/// What the server says about the events of one request.
struct Assertions {
    org: OrgId,
    /// Recorded time.
    now: Timestamp,
    headers: Headers,
    signing_key: Option<MacKey>,
}

impl Assertions {
    fn new(collector: &Collector, org: OrgId, vantage: &'static str) -> Self {
        let now = (collector.0.clock)();
        let header = |name: &'static str, value: String| (name.into(), Bytes::from(value));
        let headers = vec![
            header(headers::ORG, org.to_string()),
            header(headers::RECORDED_TIME, format!("{now:.6}")),
            header(headers::VANTAGE, vantage.to_owned()),
        ];
        Self { org, now, headers, signing_key: collector.0.signing_key.clone() }
    }

    /// Latest plausible time of an event (µs).
    fn latest_us(&self) -> i64 {
        self.now.as_microsecond().saturating_add(schemas::event::FUTURE_TOLERANCE_US)
    }

    fn record(&self, subject: &str, event: Bytes) -> Append {
        let key = Bytes::from(format!("{}/{subject}", self.org));
        let mut record = Append { key, value: event, headers: self.headers.clone() };
        if let Some(key) = &self.signing_key {
            signature::sign(&mut record, COLLECTOR, key);
        }
        record
    }
}

/// The collector's routes: `POST /v1/events`, and OTLP/HTTP at `/v1/logs`, `/v1/metrics`, `/v1/traces`.
pub fn router(state: Collector) -> Router {
    let route = |door: Door| {
        let serve = move |State(collector): State<Collector>, request: Request| collector.serve(door, request);
        let refuse = move |State(collector): State<Collector>, request: Request| collector.refuse_method(door, request);
        post(serve).fallback(refuse)
    };
    Router::new()
        .route("/v1/events", route(Door::Events))
        .route("/v1/logs", route(Door::Logs))
        .route("/v1/metrics", route(Door::Metrics))
        .route("/v1/traces", route(Door::Traces))
        .with_state(state)
}

/// Retry-After of an overloaded collector and of one without its log.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const AWAY_RETRY: Duration = Duration::from_secs(5);
