//! What the worker tells Prometheus. No label names a user or an organisation.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use schemas::event::Cause;
use tokio::time::Instant;

use super::flush::Outcome;
use crate::log::Standing;

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
    pub(crate) unwanted: IntCounter,
    pub(crate) flush_retries: IntCounter,
    pub(crate) gap_offsets: IntCounter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) batch_age_seconds: Histogram,
    pub(crate) buffered_bytes: IntGauge,
    pub(crate) flushing_bytes: IntGauge,
    next_offset: IntGaugeVec,
    observed: Observed,
}

/// What the consumer knows of itself, looked at when Prometheus asks: lag has to show while nothing is committed, too.
#[derive(Clone)]
struct Observed {
    standing: Arc<Mutex<Option<Arc<Standing>>>>,
    next_offset: IntGaugeVec,
    lag: IntGaugeVec,
    fetched_bytes: IntGauge,
    restarts: IntCounter,
}

impl Observed {
    fn look(&self) {
        self.lag.reset();
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(standing) = standing else { return };
        for (partition, high_watermark) in standing.high_watermarks().iter() {
            let label = partition.to_string();
            let next_offset = self.next_offset.with_label_values(&[label.as_str()]).get();
            self.lag.with_label_values(&[label.as_str()]).set((high_watermark - next_offset).max(0));
        }
        let bytes = standing.buffered_bytes.load(Ordering::Relaxed);
        self.fetched_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.restarts.reset();
        self.restarts.inc_by(standing.restarts.load(Ordering::Relaxed));
    }
}

impl Collector for Observed {
    fn desc(&self) -> Vec<&Desc> {
        [self.lag.desc(), self.fetched_bytes.desc(), self.restarts.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        [self.lag.collect(), self.fetched_bytes.collect(), self.restarts.collect()].concat()
    }
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        fn add<T: Collector + Clone + 'static>(registry: &Registry, metric: T) -> prometheus::Result<T> {
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        }
        let counter = |name, help| add(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        let seconds = |name, help| {
            let buckets = vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
            add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
        };
        let by_partition = |name, help| IntGaugeVec::new(Opts::new(name, help), &["kafka_partition"]);
        let next_offset = add(
            registry,
            by_partition("daybook_worker_next_offset", "First offset of the partition not yet in a table commit.")?,
        )?;
        let observed = Observed {
            standing: Arc::default(),
            next_offset: next_offset.clone(),
            lag: by_partition(
                "daybook_worker_lag_records",
                "Offsets of the partition that are not yet in a table commit, up to the high watermark that the consumer last saw; \
                 markers of transactions count. Only of Kafka, and of partitions that are this worker's.",
            )?,
            fetched_bytes: IntGauge::new(
                "daybook_worker_fetched_bytes",
                "Bytes that the consumer has fetched and the worker not yet taken.",
            )?,
            restarts: IntCounter::new(
                "daybook_worker_partition_restarts_total",
                "Partitions that brought no records though the log had some, and were started anew.",
            )?,
        };
        let observed = add(registry, observed)?;
        let dead_letters =
            Opts::new("daybook_worker_dead_letters_total", "Records committed to the dead_letters table, by cause.");
        let dead_letters = add(registry, IntCounterVec::new(dead_letters, &["cause"])?)?;
        // Every series is there from the start: a rate over one that appears later misses its first step.
        for cause in Cause::ALL {
            dead_letters.with_label_values(&[cause.as_str()]);
        }
        Ok(Self {
            rows: counter("daybook_worker_rows_total", "Events committed to the events table.")?,
            log_bytes: counter("daybook_worker_log_bytes_total", "Bytes of the records read from the log.")?,
            dead_letters,
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
            unwanted: counter(
                "daybook_worker_unwanted_records_total",
                "Records left out, and not kept anywhere, since their organisation's admin had not opted in when the log took them.",
            )?,
            flush_retries: counter("daybook_worker_flush_retries_total", "Flushes tried again after a storage error.")?,
            gap_offsets: counter(
                "daybook_worker_gap_offsets_total",
                "Offsets that the log no longer held when the worker came to them: lost to retention.",
            )?,
            flush_seconds: seconds("daybook_worker_flush_seconds", "Time from a full buffer to its commit.")?,
            commit_seconds: seconds(
                "daybook_worker_commit_seconds",
                "Time of one commit to a table, without the files: with its own tries after lost races.",
            )?,
            batch_age_seconds: seconds(
                "daybook_worker_batch_age_seconds",
                "Age of the oldest record of a batch when it was committed, since it was taken from the log.",
            )?,
            buffered_bytes: gauge("daybook_worker_buffered_bytes", "Estimated bytes in the buffer that is filling.")?,
            flushing_bytes: gauge("daybook_worker_flushing_bytes", "Estimated bytes in the flush that is under way.")?,
            next_offset,
            observed,
        })
    }

    /// The consumer whose lag is shown from now on.
    pub(crate) fn observe(&self, standing: Option<Arc<Standing>>) {
        *self.observed.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// A flush has ended; the first of its records was taken from the log at `since`.
    pub(crate) fn flushed(&self, outcome: &Outcome, since: Option<Instant>) {
        self.flushing_bytes.set(0);
        if let (Outcome::Committed { .. }, Some(since)) = (outcome, since) {
            self.batch_age_seconds.observe(since.elapsed().as_secs_f64());
        }
    }

    /// How far a partition is in the table.
    pub(crate) fn progress(&self, kafka_partition: i32, next_offset: i64) {
        self.next_offset.with_label_values(&[kafka_partition.to_string().as_str()]).set(next_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The samples of a metric, as Prometheus reads them.
    fn samples(registry: &Registry, name: &str) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }

    #[test]
    fn lag_is_what_the_table_lacks_of_the_partitions_that_are_ours() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        assert_eq!(samples(&registry, "daybook_worker_lag_records"), Vec::<String>::new());
        let standing = Arc::new(Standing::default());
        metrics.observe(Some(standing.clone()));
        metrics.progress(0, 40);
        metrics.progress(1, 5);
        *standing.high_watermarks() = [(0, 100), (1, 3)].into();
        standing.buffered_bytes.store(77, Ordering::Relaxed);
        standing.restarts.store(2, Ordering::Relaxed);
        let lag = "daybook_worker_lag_records{kafka_partition=";
        assert_eq!(samples(&registry, lag), [format!("{lag}\"0\"}} 60"), format!("{lag}\"1\"}} 0")]);
        assert_eq!(samples(&registry, "daybook_worker_fetched_bytes"), ["daybook_worker_fetched_bytes 77"]);
        let restarts = "daybook_worker_partition_restarts_total";
        assert_eq!(samples(&registry, restarts), [format!("{restarts} 2")]);
        standing.high_watermarks().remove(&0);
        assert_eq!(samples(&registry, lag), [format!("{lag}\"1\"}} 0")], "somebody else's now");
        assert_eq!(samples(&registry, restarts), [format!("{restarts} 2")], "asked twice, counted once");
    }
}
