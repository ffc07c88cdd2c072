//! Places for requests and statements at work: so many at once, and so many of one organisation, so that one that asks a lot leaves some to the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use schemas::OrgId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// What Prometheus is told of places.
pub(crate) struct Counts {
    taken: IntGauge,
    refused: IntCounterVec,
}

impl Counts {
    /// Registers counts of `all` places.
    pub(crate) fn register(registry: &Registry, all: usize) -> prometheus::Result<Self> {
        let places = IntGauge::new("daybook_query_places", "Requests and statements that are answered at once.")?;
        let taken = IntGauge::new("daybook_query_places_taken", "Requests and statements at work.")?;
        let refused = Opts::new(
            "daybook_query_places_refused_total",
            "Requests and statements refused since no place came free, by what was full: the organisation or the service.",
        );
        let refused = IntCounterVec::new(refused, &["full"])?;
        places.set(i64::try_from(all).unwrap_or(i64::MAX));
        // There from the start: a rate over a series that appears later misses its first step.
        for full in [Full::Organisation, Full::Service] {
            refused.with_label_values(&[full.name()]);
        }
        registry.register(Box::new(places))?;
        registry.register(Box::new(taken.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { taken, refused })
    }
}

/// The places.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    /// Of each organisation that has asked.
    orgs: Mutex<HashMap<OrgId, Arc<Semaphore>>>,
    of_org: usize,
    wait: Duration,
    counts: Counts,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_org: Option<OwnedSemaphorePermit>,
    taken: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.dec();
    }
}

/// No place came free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The organisation has as many as one may.
    Organisation,
    /// All are taken.
    Service,
}

impl Full {
    fn name(self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Service => "service",
        }
    }
}

impl Places {
    /// `all` places, `of_org` of which one organisation may take; who asks waits for at most `wait`.
    pub(crate) fn new(all: usize, of_org: usize, wait: Duration, counts: Counts) -> Self {
        let all = Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS)));
        Self { all, orgs: Mutex::default(), of_org: of_org.min(Semaphore::MAX_PERMITS), wait, counts }
    }

    /// A place for `org`; `None` = whoever runs the service.
    pub(crate) async fn take(&self, org: Option<&OrgId>) -> Result<Place, Full> {
        let place = self.wait_for(org).await;
        if let Err(full) = &place {
            self.counts.refused.with_label_values(&[full.name()]).inc();
        }
        place
    }

    async fn wait_for(&self, org: Option<&OrgId>) -> Result<Place, Full> {
        let deadline = Instant::now() + self.wait;
        let taken = async |places: Arc<Semaphore>, full| match timeout_at(deadline, places.acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(full),
        };
        // Its own first: who waits among its own holds none of all.
        let of_org = match org {
            Some(org) => Some(taken(self.of(org), Full::Organisation).await?),
            None => None,
        };
        let of_all = taken(self.all.clone(), Full::Service).await?;
        self.counts.taken.inc();
        Ok(Place { _of_all: of_all, _of_org: of_org, taken: self.counts.taken.clone() })
    }

    /// Places of `org`. As many organisations as there are keys for can ask: few, and small.
    fn of(&self, org: &OrgId) -> Arc<Semaphore> {
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        orgs.entry(org.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.of_org))).clone()
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.all.available_permits()
    }

    #[cfg(test)]
    pub(crate) async fn take_all(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(self.all.available_permits()).expect("few");
        self.all.clone().acquire_many_owned(all).await.expect("open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_organisation_leaves_places_to_the_others() {
        let counts = Counts::register(&Registry::new(), 3).expect("registered once");
        let places = Places::new(3, 2, Duration::from_secs(1), counts);
        let [acme, globex] = ["acme", "globex"].map(|id| id.parse::<OrgId>().expect("an id"));
        let first = places.take(Some(&acme)).await.expect("free");
        let _second = places.take(Some(&acme)).await.expect("free");
        assert_eq!(places.take(Some(&acme)).await.err(), Some(Full::Organisation));
        let third = places.take(Some(&globex)).await.expect("one is left");
        assert_eq!(places.take(Some(&globex)).await.err(), Some(Full::Service));
        assert_eq!(places.take(None).await.err(), Some(Full::Service));
        let refused = |full: Full| places.counts.refused.with_label_values(&[full.name()]).get();
        assert_eq!((refused(Full::Organisation), refused(Full::Service)), (1, 2));
        assert_eq!(places.counts.taken.get(), 3);
        // Who was refused holds nothing.
        drop(third);
        assert_eq!(places.counts.taken.get(), 2);
        assert_eq!(places.left(), 1);
        drop(first);
        let again = places.take(Some(&acme)).await.expect("its own came free");
        let _other = places.take(Some(&globex)).await.expect("free");
        assert_eq!(places.left(), 0);
        // Who waits gets the next.
        let (waited, ()) = tokio::join!(places.take(Some(&acme)), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(again);
        });
        assert!(waited.is_ok());
    }
}
