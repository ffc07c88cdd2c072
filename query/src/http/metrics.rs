//! What the service counts. No label names an organisation or a person.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use crate::Result;

/// Metrics of the query service.
pub(super) struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    rows: IntCounterVec,
    pages: IntCounterVec,
    pub(super) in_flight: IntGauge,
    connections: IntGauge,
}

/// An open connection.
struct Connected(IntGauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("daybook_query_requests_total", "Requests answered, by route and status."),
                &["route", "status"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new("daybook_query_duration_seconds", "From request to the head of the answer.")
                    .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
                &["route"],
            )?,
            rows: IntCounterVec::new(Opts::new("daybook_query_rows_total", "Rows answered, by route."), &["route"])?,
            pages: IntCounterVec::new(
                Opts::new("daybook_query_pages_total", "Pages of rows, by where they were read: memory or engine."),
                &["source"],
            )?,
            in_flight: IntGauge::new("daybook_query_requests_in_flight", "Requests being answered.")?,
            connections: IntGauge::new("daybook_query_sql_connections", "Open connections of SQL clients.")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.rows.clone()))?;
        registry.register(Box::new(metrics.pages.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        Ok(metrics)
    }

    /// Counts an open connection until the answer is dropped.
    pub(super) fn connected(&self) -> impl Drop + Send + use<> {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    pub(super) fn answered(&self, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        self.duration.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Counts a page that was read in memory, or else by the engine.
    pub(super) fn page(&self, in_memory: bool) {
        self.pages.with_label_values(&[if in_memory { "memory" } else { "engine" }]).inc();
    }

    pub(super) fn rows(&self, route: &str, rows: usize) {
        self.rows.with_label_values(&[route]).inc_by(rows as u64);
    }
}
