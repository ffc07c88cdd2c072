//! The service: a run whenever the interval has passed. A run that finds nothing new looks at the ends of three logs.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lake::Lake;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{Error, Memory, Metrics, OrgCalendar, Result, refresh};

/// How the aggregator works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// From the start of one run to the start of the next; a run that takes longer is followed by the next at once.
    pub interval: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: SignedDuration::from_secs(10) }
    }
}

impl Settings {
    /// Every setting that is out of its range.
    #[must_use]
    pub fn faults(&self) -> Vec<Error> {
        let short = self.interval < SignedDuration::from_millis(100);
        let fault = Error::Setting { setting: "interval", detail: "must be at least \"100ms\", such as \"10s\"" };
        short.then_some(fault).into_iter().collect()
    }
}

/// Knows how each organisation counts its days. Asked before every run, so that a changed zone takes effect with the next.
#[async_trait]
pub trait Calendars: Send + Sync {
    /// The calendar as it stands.
    async fn calendar(&self) -> Result<OrgCalendar, Box<dyn std::error::Error + Send + Sync>>;
}

#[async_trait]
impl Calendars for OrgCalendar {
    async fn calendar(&self) -> Result<OrgCalendar, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.clone())
    }
}

/// Keeps `rollup_daily` in line with `events` until `shutdown`. A failed run is logged and counted; the next interval tries
/// again. On shutdown a run under way is dropped: it changes the table in one commit or not at all.
///
/// # Errors
/// Where a setting is out of its range.
pub async fn serve(
    lake: Lake,
    calendars: Arc<dyn Calendars>,
    settings: Settings,
    clock: fn() -> Timestamp,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<()> {
    if let Some(fault) = settings.faults().pop() {
        return Err(fault);
    }
    let mut ticks = tokio::time::interval(settings.interval.unsigned_abs());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let started = Instant::now();
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            outcome = once(&lake, calendars.as_ref(), clock(), &mut memory) => outcome,
        };
        match outcome {
            Ok(report) => {
                metrics.done(&report, started.elapsed());
                if report.table_version.is_some() {
                    tracing::info!(
                        events_version = report.events_version,
                        days_read = report.days_read,
                        days_changed = report.days_changed,
                        rows = report.rows,
                        events = report.events,
                        elapsed_ms = started.elapsed().as_millis() as u64,
                        "rolled up"
                    );
                }
            }
            Err(error) => {
                metrics.failed();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "a rollup failed; the next interval tries again");
            }
        }
    }
}

async fn once(lake: &Lake, calendars: &dyn Calendars, now: Timestamp, memory: &mut Memory) -> Result<crate::RunReport> {
    let calendar = calendars.calendar().await.map_err(Error::Calendar)?;
    refresh(lake, &calendar, now, &(), memory).await
}
