//! What the worker tells Prometheus. No label names a user or an organisation.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// The worker's metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) rows: IntCounter,
    pub(crate) log_bytes: IntCounter,
    pub(crate) dead_letters: IntCounterVec,
    pub(crate) table_commits: IntCounter,
    pub(crate) fenced: IntCounter,
    pub(crate) moved: IntCounter,
    pub(crate) copies: IntCounter,
    pub(crate) flush_retries: IntCounter,
    pub(crate) gap_offsets: IntCounter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) buffered_bytes: IntGauge,
    pub(crate) next_offset: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn add<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> prometheus::Result<T> {
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let counter = |name, help| add(registry, IntCounter::new(name, help)?);
        Ok(Self {
            rows: counter("daybook_worker_rows_total", "Events committed to the events table.")?,
            log_bytes: counter("daybook_worker_log_bytes_total", "Bytes of the records read from the log.")?,
            dead_letters: add(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "daybook_worker_dead_letters_total",
                        "Records committed to the dead_letters table, by cause.",
                    ),
                    &["cause"],
                )?,
            )?,
            table_commits: counter("daybook_worker_table_commits_total", "Commits to the events table.")?,
            fenced: counter(
                "daybook_worker_fenced_total",
                "Batches dropped since another worker had moved the partition on; the records are read again.",
            )?,
            moved: counter(
                "daybook_worker_moved_total",
                "Commits that another worker's came before, so that its rows were compared first.",
            )?,
            copies: counter(
                "daybook_worker_copies_total",
                "Events read whose like, with the same id and payload, was in the table or the buffer: client retries. Of events \
                 that are older than what the worker remembers, none is counted.",
            )?,
            flush_retries: counter("daybook_worker_flush_retries_total", "Flushes tried again after a storage error.")?,
            gap_offsets: counter(
                "daybook_worker_gap_offsets_total",
                "Offsets that the log no longer held when the worker came to them: lost to retention.",
            )?,
            flush_seconds: add(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new("daybook_worker_flush_seconds", "Time from a full buffer to its commit.")
                        .buckets(vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]),
                )?,
            )?,
            buffered_bytes: add(
                registry,
                IntGauge::new("daybook_worker_buffered_bytes", "Estimated bytes in the buffer that is filling.")?,
            )?,
            next_offset: add(
                registry,
                IntGaugeVec::new(
                    Opts::new("daybook_worker_next_offset", "First offset of the partition not yet in a table commit."),
                    &["kafka_partition"],
                )?,
            )?,
        })
    }
}
