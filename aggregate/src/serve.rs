//! The service: a run as soon as there is a new version of what it follows from, though not more often than the interval says.
//!
//! ```text
//! look ──► has this process the lease? ──no──► stands by
//!   ▲          │ yes
//!   │          ▼
//!   │      a run ──► nothing new: it has looked at the ends of three logs
//!   │          └───► something: not again before the interval has passed
//!   └──────────┘
//! ```
//!
//! The lease spares double work: of two aggregators on one table each commit of one is refused where the other was faster, lease or not.

use std::{convert::Infallible, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lake::Lake;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{Error, Memory, Metrics, OrgCalendar, Result, RunReport, refresh};

/// How the aggregator works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// From the start of a run that found something to the start of the next, at least; one that takes longer is followed by the next at once.
    pub interval: SignedDuration,
    /// From one look for new versions to the next.
    pub look_interval: SignedDuration,
    /// So long after its holder was last heard of, another process takes the work over; longer than a few looks.
    pub lease: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: SignedDuration::from_secs(10),
            look_interval: SignedDuration::from_secs(1),
            lease: SignedDuration::from_secs(15),
        }
    }
}

impl Settings {
    /// Every setting that is out of its range.
    #[must_use]
    pub fn faults(&self) -> Vec<Error> {
        let short = |duration: SignedDuration| duration < SignedDuration::from_millis(100);
        let fault = |setting, detail| Error::Setting { setting, detail };
        let mut faults = Vec::new();
        if short(self.interval) {
            faults.push(fault("interval", "must be at least \"100ms\", such as \"10s\""));
        }
        if short(self.look_interval) {
            faults.push(fault("look-interval", "must be at least \"100ms\", such as \"1s\""));
        }
        if self.lease < self.look_interval.saturating_mul(3) {
            faults.push(fault("lease", "must be at least three times look-interval, such as \"15s\""));
        }
        faults
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

/// Knows which of some aggregators is to work.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Takes the work until `now + time_to_live`, or goes on having it; false where another process has it.
    async fn hold(
        &self,
        now: Timestamp,
        time_to_live: SignedDuration,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>>;

    /// Gives the work back.
    async fn release(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// What the service works with.
pub struct Service {
    /// The tables.
    pub lake: Lake,
    /// The organisations' days.
    pub calendars: Arc<dyn Calendars>,
    /// Shared with other aggregators of these tables.
    pub lease: Arc<dyn Lease>,
    /// How it works.
    pub settings: Settings,
    /// Tells the time.
    pub clock: fn() -> Timestamp,
    /// Counts what it does.
    pub metrics: Metrics,
}

impl Service {
    /// Keeps `rollup_daily` and what follows from it in line with `events` until `shutdown`. A failed run is logged and counted; another is made
    /// when the interval has passed. On shutdown a run under way is dropped: it changes a table in one commit or not at all.
    ///
    /// # Errors
    /// Where a setting is out of its range.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        if let Some(fault) = self.settings.faults().pop() {
            return Err(fault);
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            never = self.work() => match never {},
        }
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "the lease of the rollup was not given back; another aggregator waits until it expires");
        }
        Ok(())
    }

    async fn work(&self) -> Infallible {
        let mut looks = tokio::time::interval(self.settings.look_interval.unsigned_abs());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut memory, mut not_before) = (Memory::default(), Instant::now());
        let (mut works, mut ask_at) = (false, Instant::now());
        loop {
            looks.tick().await;
            let started = Instant::now();
            if started >= ask_at {
                match self.hold().await {
                    Ok(held) => {
                        if works != held {
                            tracing::info!(works = held, "the rollup's lease was taken, or lost");
                        }
                        works = held;
                        self.metrics.works(works);
                        // Who stands by asks at every look.
                        ask_at = if held { started + self.keep_every() } else { started };
                    }
                    Err(error) => {
                        works = false;
                        self.metrics.works(works);
                        ask_at = started + self.settings.interval.unsigned_abs();
                        self.tell(Err(error), started);
                    }
                }
            }
            if !works || started < not_before {
                continue;
            }
            let outcome = self.once(&mut memory).await;
            if self.tell(outcome, started) {
                not_before = started + self.settings.interval.unsigned_abs();
            }
        }
    }

    async fn hold(&self) -> Result<bool> {
        self.lease.hold((self.clock)(), self.settings.lease).await.map_err(Error::Lease)
    }

    /// From one word to the lease to the next.
    fn keep_every(&self) -> Duration {
        self.settings.lease.unsigned_abs() / 3
    }

    /// A run, during which the lease is kept.
    async fn once(&self, memory: &mut Memory) -> Result<RunReport> {
        let calendar = self.calendars.calendar().await.map_err(Error::Calendar)?;
        let run = refresh(&self.lake, &calendar, (self.clock)(), &(), memory);
        let keep = async {
            loop {
                tokio::time::sleep(self.keep_every()).await;
                if let Err(error) = self.hold().await {
                    tracing::debug!(%error, "the lease of the rollup could not be kept; its next look tells");
                }
            }
        };
        tokio::select! {
            outcome = run => outcome,
            () = keep => unreachable!("it goes on"),
        }
    }

    /// Says what came of a run; true where it was not a mere look.
    fn tell(&self, outcome: Result<RunReport>, started: Instant) -> bool {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                self.metrics.failed();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "a rollup failed; another follows when the interval has passed");
                return true;
            }
        };
        let elapsed = started.elapsed();
        self.metrics.done(&report, elapsed);
        if report.table_version.is_some() {
            tracing::info!(
                events_version = report.events_version,
                days_read = report.days_read,
                days_changed = report.days_changed,
                rows = report.rows,
                events = report.events,
                elapsed_ms = elapsed.as_millis() as u64,
                "rolled up"
            );
        }
        report.table_version.is_some() || report.derived_computed > 0
    }
}
