//! The collector's metrics. Their labels take a fixed set of values.

use axum::http::StatusCode;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use schemas::event::Cause;

use super::endpoint::Door;

/// Shared by all requests.
pub(super) struct Metrics {
    requests: IntCounterVec,
    /// By door: after decompression.
    pub(super) body_bytes: IntCounterVec,
    accepted: IntCounterVec,
    rejected: IntCounterVec,
    limited: IntCounterVec,
    /// Log records and metric points of OTLP, by tool and what became of them.
    pub(super) otlp_items: IntCounterVec,
    /// OTLP attributes that a mapping names but cannot convert.
    pub(super) otlp_unreadable: IntCounterVec,
    pub(super) append_seconds: Histogram,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(format!("daybook_collector_{name}_total"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let buckets =
            vec![0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let help = "Time until the log acknowledged the events of a request";
        let append_seconds =
            Histogram::with_opts(HistogramOpts::new("daybook_collector_append_seconds", help).buckets(buckets))?;
        registry.register(Box::new(append_seconds.clone()))?;
        let metrics = Self {
            requests: counter("requests", "Requests by door and class of status", &["door", "status"])?,
            body_bytes: counter("body_bytes", "Bytes of request bodies, decompressed", &["door"])?,
            accepted: counter("events_accepted", "Events that the log acknowledged", &["door"])?,
            rejected: counter("events_rejected", "Events refused, by cause", &["door", "cause"])?,
            limited: counter(
                "requests_limited",
                "Requests refused for the rate of their key or the quota of their organisation",
                &["door", "limit"],
            )?,
            otlp_items: counter(
                "otlp_items",
                "OTLP log records and metric points by tool and outcome: mapped, ignored (on purpose), unknown, rejected",
                &["tool", "outcome"],
            )?,
            otlp_unreadable: counter(
                "otlp_attributes_unreadable",
                "OTLP attributes that a mapping names but cannot convert",
                &["tool"],
            )?,
            append_seconds,
        };
        // Every series is there from the start: a rate over one that appears later misses its first step.
        for door in Door::ALL {
            for status in ["2xx", "4xx", "5xx"] {
                metrics.requests.with_label_values(&[door.as_str(), status]);
            }
            metrics.accepted.with_label_values(&[door.as_str()]);
            for limit in ["rate", "quota"] {
                metrics.limited.with_label_values(&[door.as_str(), limit]);
            }
        }
        for cause in Cause::ALL {
            metrics.rejected.with_label_values(&[Door::Events.as_str(), cause.as_str()]);
        }
        Ok(metrics)
    }

    pub(super) fn count_request(&self, door: Door, status: StatusCode) {
        let class = match status.as_u16() {
            200..300 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[door.as_str(), class]).inc();
    }

    pub(super) fn count_accepted(&self, door: Door, events: usize) {
        self.accepted.with_label_values(&[door.as_str()]).inc_by(events as u64);
    }

    /// `limit`: `rate` or `quota`.
    pub(super) fn count_limited(&self, door: Door, limit: &'static str) {
        self.limited.with_label_values(&[door.as_str(), limit]).inc();
    }

    pub(super) fn count_rejected(&self, door: Door, cause: &'static str) {
        self.rejected.with_label_values(&[door.as_str(), cause]).inc();
    }
}
