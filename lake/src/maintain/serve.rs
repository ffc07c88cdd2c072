//! The `maintain` role: a round over every table, again and again.

use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use schemas::TableSpec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Report, Settings};
use crate::Lake;

/// What maintenance tells Prometheus, by table.
#[derive(Clone, Debug)]
pub struct Metrics {
    merged: IntCounterVec,
    conflicts: IntCounterVec,
    deleted: IntCounterVec,
    failures: IntCounterVec,
    active: IntGaugeVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounterVec> {
            let metric = IntCounterVec::new(Opts::new(name, help), &["table"])?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let active = Opts::new("daybook_maintain_active_files", "Active files after the last round.");
        let active = IntGaugeVec::new(active, &["table"])?;
        registry.register(Box::new(active.clone()))?;
        Ok(Self {
            merged: counter("daybook_maintain_merged_files_total", "Small files that were merged into larger ones.")?,
            conflicts: counter("daybook_maintain_conflicts_total", "Merges dropped since another writer was faster.")?,
            deleted: counter("daybook_maintain_deleted_files_total", "Data files and log entries that were deleted.")?,
            failures: counter("daybook_maintain_failures_total", "Rounds that failed; the next one tries again.")?,
            active,
        })
    }

    fn count(&self, table: &str, report: &Report) {
        let add = |metric: &IntCounterVec, number: usize| metric.with_label_values(&[table]).inc_by(number as u64);
        add(&self.merged, report.files_merged);
        add(&self.conflicts, report.conflicts);
        add(&self.deleted, report.files_deleted + report.entries_deleted);
        self.active.with_label_values(&[table]).set(i64::try_from(report.files_active).unwrap_or(i64::MAX));
    }
}

/// Maintains `tables` until `shutdown`. A round that fails is logged and tried again after the interval.
pub async fn serve(
    lake: Lake,
    tables: Vec<&'static TableSpec>,
    settings: Settings,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let interval = Duration::try_from(settings.interval).unwrap_or(Duration::from_secs(60));
    let vacuum_interval = Duration::try_from(settings.vacuum_interval).unwrap_or(Duration::MAX);
    let mut vacuumed = Instant::now();
    // There from the start: a rate over a series that appears later misses its first step.
    for spec in &tables {
        metrics.failures.with_label_values(&[spec.name]);
    }
    loop {
        let vacuum = vacuumed.elapsed() >= vacuum_interval;
        if vacuum {
            vacuumed = Instant::now();
        }
        let round = async {
            for spec in &tables {
                match lake.maintain(spec, &settings, vacuum).await {
                    Ok(report) => {
                        metrics.count(spec.name, &report);
                        if report.files_merged > 0 || report.checkpoint || vacuum {
                            tracing::info!(
                                table = spec.name,
                                files_merged = report.files_merged,
                                files_active = report.files_active,
                                checkpoint = report.checkpoint,
                                files_deleted = report.files_deleted,
                                "maintained"
                            );
                        }
                    }
                    Err(error) => {
                        metrics.failures.with_label_values(&[spec.name]).inc();
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(table = spec.name, error, "maintenance failed, the next round tries again");
                    }
                }
            }
            tokio::time::sleep(interval).await;
        };
        tokio::select! {
            biased;
            // A merge that is broken off leaves at most a file that vacuum finds.
            () = shutdown.cancelled() => return,
            () = round => {}
        }
    }
}
