//! Which fault a request meets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::Method;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

/// Requests that are only slow, beside those with an error.
const DELAYED: f64 = 0.05;
const DELAY_MAX_MS: u64 = 1_500;

/// A fault of the store or of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// 503 before anything has reached the store.
    SlowDown,
    /// 500 before anything has reached the store.
    ServerError,
    /// 409 to a conditional write of which nothing has landed (F09).
    FalseConflict,
    /// Done, but the connection is cut instead of an answer (F05, F06).
    LostAnswer,
    /// Done, but answered with 500.
    DoneButServerError,
    /// Done, but answered with 503.
    DoneButSlowDown,
    /// Half a body, then the connection is cut.
    Truncated,
    /// Done, but later.
    Delay,
    /// A connection cut while the store is away.
    Outage,
}

/// Faults of all doors to one store: one chance, one share, one count.
pub struct Faults {
    chance: Mutex<ChaCha8Rng>,
    share: Mutex<f64>,
    outage: watch::Sender<bool>,
    counts: Mutex<Counts>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    requests: u64,
    by_kind: BTreeMap<Kind, u64>,
}

impl Faults {
    /// No faults until [`Faults::set_share`].
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            share: Mutex::new(0.0),
            outage: watch::channel(false).0,
            counts: Mutex::default(),
        })
    }

    /// From now on this share of requests meets an error, 0 to 1; where it is not 0, some others are delayed.
    pub fn set_share(&self, share: f64) {
        *self.share.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }

    /// The store is away: every connection is cut, new ones too.
    pub fn set_outage(&self, away: bool) {
        self.outage.send_replace(away);
    }

    pub(super) fn outage(&self) -> watch::Receiver<bool> {
        self.outage.subscribe()
    }

    /// Requests outside outages, and how many met which fault; for an outage, connections.
    #[must_use]
    pub fn counts(&self) -> (u64, BTreeMap<Kind, u64>) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (counts.requests, counts.by_kind)
    }

    pub(super) fn count(&self, kind: Kind) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).by_kind.entry(kind).or_default() += 1;
    }

    /// How long a delayed request waits.
    pub(super) fn delay(&self) -> Duration {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(chance.random_range(20..=DELAY_MAX_MS))
    }

    /// The fate of one request. `conditional` = it writes only where nothing is there.
    pub(super) fn draw(&self, method: &Method, conditional: bool) -> Option<Kind> {
        use Kind::{DoneButServerError, DoneButSlowDown, FalseConflict, LostAnswer, ServerError, SlowDown, Truncated};
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).requests += 1;
        let share = *self.share.lock().unwrap_or_else(PoisonError::into_inner);
        if share == 0.0 {
            return None;
        }
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: &[Kind] = match *method {
            Method::GET => &[SlowDown, ServerError, LostAnswer, Truncated],
            Method::HEAD => &[SlowDown, ServerError, LostAnswer],
            _ if conditional => {
                &[SlowDown, ServerError, FalseConflict, LostAnswer, DoneButServerError, DoneButSlowDown]
            }
            _ => &[SlowDown, ServerError, LostAnswer, DoneButServerError, DoneButSlowDown],
        };
        let kind = if chance.random_bool(share) {
            kinds.choose(&mut *chance).copied()
        } else {
            chance.random_bool(DELAYED).then_some(Kind::Delay)
        };
        drop(chance);
        kind.into_iter().for_each(|kind| self.count(kind));
        kind
    }
}
