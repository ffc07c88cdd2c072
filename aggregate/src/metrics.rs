//! What the aggregator tells Prometheus. No label names a user or an organisation.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, core::Collector};

use crate::RunReport;

/// The aggregator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    runs: IntCounter,
    failures: IntCounter,
    fenced: IntCounter,
    events: IntCounter,
    days_changed: IntCounter,
    saturated: IntCounter,
    seconds: Histogram,
    rows: IntGauge,
    people: IntGauge,
    events_version: IntGauge,
    works: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn add<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> prometheus::Result<T> {
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let counter = |name, help| add(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        let seconds = HistogramOpts::new("daybook_aggregate_run_seconds", "Time of a run that had something to do.");
        Ok(Self {
            runs: counter("daybook_aggregate_runs_total", "Runs that ended well, those with nothing to do included.")?,
            failures: counter("daybook_aggregate_failures_total", "Runs that failed; the table stayed as it was.")?,
            fenced: counter(
                "daybook_aggregate_fenced_total",
                "Runs started again since another aggregator had committed first. Steady growth: two aggregators are at work.",
            )?,
            events: counter(
                "daybook_aggregate_events_total",
                "Distinct events counted, each as often as it was read.",
            )?,
            days_changed: counter("daybook_aggregate_days_changed_total", "Days whose rows were rewritten.")?,
            saturated: counter(
                "daybook_aggregate_saturated_values_total",
                "Values that did not fit their column and were cut: some client reports nonsense.",
            )?,
            seconds: add(
                registry,
                Histogram::with_opts(seconds.buckets(vec![0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]))?,
            )?,
            rows: gauge("daybook_aggregate_rollup_rows", "Rows of rollup_daily.")?,
            people: gauge("daybook_aggregate_people", "People with an event, as of the last run that read events.")?,
            events_version: gauge("daybook_aggregate_events_version", "Version of events that the rollup stands for.")?,
            works: gauge(
                "daybook_aggregate_works",
                "1 where this process has the lease of the rollup, 0 where it stands by. Nowhere 1: nobody works.",
            )?,
        })
    }

    pub(crate) fn done(&self, report: &RunReport, elapsed: Duration) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.runs.inc();
        self.fenced.inc_by(report.attempts.saturating_sub(1) as u64);
        self.rows.set(gauge(report.rows));
        self.events_version.set(report.events_version.unwrap_or(-1));
        if report.table_version.is_some() {
            self.seconds.observe(elapsed.as_secs_f64());
            self.events.inc_by(report.events);
            self.days_changed.inc_by(report.days_changed);
            self.saturated.inc_by(report.saturated);
            self.people.set(gauge(report.people));
        }
    }

    pub(crate) fn works(&self, works: bool) {
        self.works.set(i64::from(works));
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }
}
