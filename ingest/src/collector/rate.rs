//! Rate limits: what one key may send through this collector.
//!
//! Two token buckets a key, one of events and one of bytes. A bucket holds `burst` seconds of its rate and is filled at that rate.
//! Each collector counts for itself: a key that sends through three of them may send three times as much.
//!
//! | | asked | a request that is larger than the bucket |
//! |---|---|---|
//! | events | before they are decoded: all or nothing | can never pass: 413, which says how many can |
//! | bytes | before the body is read: whether any are left | passes once the bucket is not empty, and leaves a debt: how long a body is shows only when it was read |

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use directory::{KeyId, Principal};
use tokio::time::Instant;

/// Keys whose buckets are kept. One that is full again is like a new one, and is dropped first.
const KEYS_MAX: usize = 10_000;

/// What a key may do in a second, and how many seconds of it at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// 0 = any number.
    pub(super) events: u64,
    /// 0 = any number.
    pub(super) bytes: u64,
    pub(super) burst: Duration,
}

/// Why something is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not now, but then.
    Wait(Duration),
    /// Never: a bucket holds no more than this.
    Never(u64),
}

/// A token bucket. Time is an argument.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// May be less than nothing.
    tokens: f64,
    at: Instant,
}

/// How a bucket fills.
#[derive(Clone, Copy, Debug)]
struct Fill {
    per_second: f64,
    capacity: f64,
}

impl Fill {
    /// `None` = no limit.
    fn new(per_second: u64, burst: Duration) -> Option<Self> {
        let rate = per_second as f64;
        // At least one token, or nothing would ever pass.
        (per_second > 0).then(|| Self { per_second: rate, capacity: (rate * burst.as_secs_f64()).floor().max(1.0) })
    }

    fn tokens(self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + since * self.per_second).min(self.capacity)
    }

    /// How long until the bucket holds `wanted`.
    fn wait(self, tokens: f64, wanted: f64) -> Duration {
        // A little more than nothing is waited for at least; at most a day, so that it is a duration.
        Duration::from_secs_f64(((wanted - tokens) / self.per_second).clamp(0.001, 86_400.0))
    }
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    events: Bucket,
    bytes: Bucket,
}

/// The buckets of all keys.
pub(super) struct RateLimits {
    rates: Rates,
    keys: Mutex<HashMap<KeyId, Buckets>>,
}

impl RateLimits {
    pub(super) fn new(rates: Rates) -> Self {
        Self { rates, keys: Mutex::default() }
    }

    /// How the key's bucket of events fills: as its owner was given, or as the settings say.
    fn events(&self, key: &Principal) -> Option<Fill> {
        Fill::new(key.rate_limit.unwrap_or(self.rates.events), self.rates.burst)
    }

    fn bytes(&self) -> Option<Fill> {
        Fill::new(self.rates.bytes, self.rates.burst)
    }

    /// Whether the key may send a body now.
    pub(super) fn admits(&self, key: &Principal, now: Instant) -> Result<(), Refused> {
        let Some(fill) = self.bytes() else { return Ok(()) };
        self.with(key, now, |buckets| {
            let tokens = fill.tokens(&buckets.bytes, now);
            if tokens > 0.0 { Ok(()) } else { Err(Refused::Wait(fill.wait(tokens, 1.0))) }
        })
    }

    /// Counts the bytes of a body that was read.
    pub(super) fn count_bytes(&self, key: &Principal, bytes: usize, now: Instant) {
        let Some(fill) = self.bytes() else { return };
        self.with(key, now, |buckets| {
            buckets.bytes = Bucket { tokens: fill.tokens(&buckets.bytes, now) - bytes as f64, at: now };
        });
    }

    /// Counts events, all or none.
    pub(super) fn take_events(&self, key: &Principal, events: usize, now: Instant) -> Result<(), Refused> {
        let Some(fill) = self.events(key) else { return Ok(()) };
        let wanted = events as f64;
        if wanted > fill.capacity {
            return Err(Refused::Never(fill.capacity as u64));
        }
        self.with(key, now, |buckets| {
            let tokens = fill.tokens(&buckets.events, now);
            if tokens < wanted {
                return Err(Refused::Wait(fill.wait(tokens, wanted)));
            }
            buckets.events = Bucket { tokens: tokens - wanted, at: now };
            Ok(())
        })
    }

    fn with<T>(&self, key: &Principal, now: Instant, act: impl FnOnce(&mut Buckets) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX && !keys.contains_key(&key.key_id) {
            // After a burst without use a bucket is full, whatever its rate; a debt takes longer.
            let idle =
                |bucket: &Bucket| bucket.tokens >= 0.0 && now.saturating_duration_since(bucket.at) >= self.rates.burst;
            keys.retain(|_, buckets| !(idle(&buckets.events) && idle(&buckets.bytes)));
            if keys.len() >= KEYS_MAX {
                // So many keys at work at once: all of them get a burst. A limit on memory comes before one on rates.
                keys.clear();
            }
        }
        let new = || Buckets {
            events: Bucket { tokens: f64::INFINITY, at: now },
            bytes: Bucket { tokens: f64::INFINITY, at: now },
        };
        act(keys.entry(key.key_id.clone()).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use directory::{Role, Scope};
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize, rate_limit: Option<u64>) -> Principal {
        Principal {
            org: "acme".parse().expect("an id"),
            key_id: format!("{number:016x}").parse().expect("a key id"),
            scope: Scope::Ingest,
            rate_limit,
            daily_quota: None,
            role: Role::Service,
            opt_in: directory::OptIn::Named,
        }
    }

    fn limits(events: u64, bytes: u64, burst_s: u64) -> RateLimits {
        RateLimits::new(Rates { events, bytes, burst: Duration::from_secs(burst_s) })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// In any window no more than burst + rate × time passes; and who waits as long as told is let through.
        #[test]
        fn no_more_than_the_rate_and_the_burst(
            rate in 1..5_000_u64,
            burst_s in 1..5_u64,
            requests in prop::collection::vec((1..9_000_usize, 0..3_000_u64), 1..60),
        ) {
            let (limits, key) = (limits(rate, 0, burst_s), key(1, None));
            let start = Instant::now();
            let mut now = start;
            let mut passed: Vec<(f64, usize)> = Vec::new();
            for (events, pause_ms) in requests {
                now += Duration::from_millis(pause_ms);
                match limits.take_events(&key, events, now) {
                    Ok(()) => passed.push(((now - start).as_secs_f64(), events)),
                    Err(Refused::Never(most)) => prop_assert!(events as u64 > most && most == rate * burst_s),
                    Err(Refused::Wait(wait)) => {
                        now += wait + Duration::from_millis(1);
                        prop_assert_eq!(limits.take_events(&key, events, now), Ok(()));
                        passed.push(((now - start).as_secs_f64(), events));
                    }
                }
            }
            for from in 0..passed.len() {
                let mut sum = 0;
                for (at, events) in &passed[from..] {
                    sum += events;
                    let most = rate as f64 * (burst_s as f64 + at - passed[from].0);
                    prop_assert!(sum as f64 <= most + 1e-3, "{} in {} s", sum, at - passed[from].0);
                }
            }
        }
    }

    #[test]
    fn a_key_has_its_own_bucket_and_may_have_its_own_rate() {
        let (limits, now) = (limits(10, 0, 2), Instant::now());
        assert_eq!(limits.take_events(&key(1, None), 20, now), Ok(()));
        assert!(matches!(limits.take_events(&key(1, None), 1, now), Err(Refused::Wait(_))));
        assert_eq!(limits.take_events(&key(2, None), 20, now), Ok(()), "another key");
        assert_eq!(limits.take_events(&key(3, Some(100)), 200, now), Ok(()), "another rate");
        assert_eq!(limits.take_events(&key(4, Some(1)), 3, now), Err(Refused::Never(2)));
        assert_eq!(limits.take_events(&key(5, Some(0)), 1_000_000, now), Ok(()), "no limit");
        assert_eq!(limits.admits(&key(1, None), now), Ok(()), "bytes are not limited");
    }

    #[test]
    fn bytes_are_owed() {
        let (limits, key, now) = (limits(0, 100, 2), key(1, None), Instant::now());
        assert_eq!(limits.admits(&key, now), Ok(()));
        limits.count_bytes(&key, 1_000, now);
        let Err(Refused::Wait(wait)) = limits.admits(&key, now) else { panic!("it owes 800") };
        assert_eq!(wait.as_secs_f64().round(), 8.0);
        assert!(limits.admits(&key, now + Duration::from_secs(7)).is_err());
        assert_eq!(limits.admits(&key, now + Duration::from_secs(9)), Ok(()));
        assert_eq!(limits.take_events(&key, usize::MAX, now), Ok(()), "events are not limited");
    }

    #[test]
    fn the_table_of_keys_is_bounded() {
        let (limits, now) = (limits(10, 10, 2), Instant::now());
        limits.count_bytes(&key(0, None), 1_000, now);
        for number in 1..KEYS_MAX {
            assert_eq!(limits.take_events(&key(number, None), 20, now), Ok(()));
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(limits.take_events(&key(KEYS_MAX, None), 1, later), Ok(()));
        assert_eq!(limits.keys.lock().expect("whole").len(), 2, "those that are full again are dropped");
        assert!(limits.admits(&key(0, None), later).is_err(), "a debt is remembered");
        for number in 0..KEYS_MAX + 10 {
            let _ = limits.take_events(&key(number, None), 20, later);
            assert!(limits.keys.lock().expect("whole").len() <= KEYS_MAX);
        }
    }
}
