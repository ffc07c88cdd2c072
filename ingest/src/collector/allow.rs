//! Rates and quotas, as the doors ask for them.
//!
//! ```text
//!  auth ─► may_send ─► body ─► count_body ─► split ─► may_send_events ─► decode ─► store: spend ─► append ─► answer
//!            429                                        413, 429                     429, 503     gives back on failure
//! ```

use std::time::Duration;

use directory::{OptIn, Principal, Spent};
use tokio::time::Instant;

use super::{Collector, endpoint::Door, problem::Problem, rate::Refused};
use crate::log::Append;

impl Collector {
    /// Whether the key may send a body now; asked before it is read.
    pub(super) fn may_send(&self, door: Door, key: &Principal) -> Result<(), Problem> {
        self.0.rates.admits(key, Instant::now()).map_err(|refused| self.too_fast(door, refused, "bytes"))
    }

    /// Counts a body that was read.
    pub(super) fn count_body(&self, key: &Principal, bytes: usize) {
        self.0.rates.count_bytes(key, bytes, Instant::now());
    }

    /// Whether the key may send so many events now.
    pub(super) fn may_send_events(&self, door: Door, key: &Principal, events: usize) -> Result<(), Problem> {
        let taken = self.0.rates.take_events(key, events, Instant::now());
        taken.map_err(|refused| self.too_fast(door, refused, "events"))
    }

    fn too_fast(&self, door: Door, refused: Refused, what: &'static str) -> Problem {
        self.0.metrics.count_limited(door, "rate");
        match refused {
            Refused::Wait(wait) => Problem::rate_limited(what, whole_seconds(wait)),
            Refused::Never(most) => Problem::over_burst(most),
        }
    }

    /// Counts the records against the organisation's quota, and appends them; returns when the log has acknowledged.
    pub(super) async fn store(&self, door: Door, key: &Principal, records: Vec<Append>) -> Result<(), Problem> {
        // A body may have taken its time.
        match self.0.directory.opt_in_of(&key.key_id).await.map_err(|error| Problem::directory_away(&error))? {
            Some(OptIn::Off) => return Err(Problem::not_opted_in()),
            None => return Err(Problem::unauthorized(true)),
            Some(_) => {}
        }
        let (events, now) = (records.len() as u64, (self.0.clock)());
        let spent = self.0.directory.spend(key, events, now).await.map_err(|error| Problem::directory_away(&error))?;
        if let Spent::Exhausted { quota, seconds_left } = spent {
            self.0.metrics.count_limited(door, "quota");
            return Err(Problem::quota_exhausted(quota, Duration::from_secs(seconds_left)));
        }
        let stored = self.append(records).await;
        if stored.is_err() {
            // The client sends them again, and only then they count.
            self.0.directory.unspend(key, events, now).await;
        }
        stored
    }
}

/// `Retry-After` takes whole seconds (RFC 9110 §10.2.3).
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(Duration::from_secs(1))
}
