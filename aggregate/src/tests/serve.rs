//! The service: it follows the table, one of several at a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use lake::Lake;
use prometheus::Registry;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::table::{ingest, lake, some_events};
use crate::{Lease, Metrics, OrgCalendar, Result, Service, Settings, status};

type Held = Arc<Mutex<Option<(u32, Instant)>>>;

/// The lease as one of the processes sees it.
struct Seat {
    held: Held,
    process: u32,
}

#[async_trait]
impl Lease for Seat {
    async fn hold(
        &self,
        _: Timestamp,
        time_to_live: SignedDuration,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let mut held = self.held.lock().expect("no panic");
        let mine = held.is_none_or(|(process, until)| process == self.process || until <= Instant::now());
        if mine {
            *held = Some((self.process, Instant::now() + time_to_live.unsigned_abs()));
        }
        Ok(mine)
    }

    async fn release(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut held = self.held.lock().expect("no panic");
        held.take_if(|(process, _)| *process == self.process);
        Ok(())
    }
}

struct Process {
    registry: Registry,
    shutdown: CancellationToken,
    service: JoinHandle<Result<()>>,
}

impl Process {
    fn start(process: u32, lake: &Lake, held: &Held) -> Self {
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let service = Service {
            lake: lake.clone(),
            calendars: Arc::new(OrgCalendar::default()),
            lease: Arc::new(Seat { held: held.clone(), process }),
            settings: Settings::default(),
            clock: || Timestamp::UNIX_EPOCH,
            metrics: Metrics::register(&registry).expect("an empty registry"),
        };
        let service = tokio::spawn(service.run(shutdown.clone()));
        Self { registry, shutdown, service }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.service.await.expect("no panic").expect("no fault in its settings");
    }

    fn count(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == format!("daybook_aggregate_{name}"));
        let metric = &family.expect("it is registered").get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

async fn rolled_up(lake: &Lake) -> Duration {
    let started = Instant::now();
    while !status(lake).await.expect("the store works").is_current() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn one_of_several_follows_the_table_until_shutdown() {
    let (lake, held) = (lake(), Held::default());
    let events = some_events();
    let mut parts = events.chunks(40);
    let mut next = async || ingest(&lake, parts.next().expect("enough events"), vec![]).await;
    next().await;
    let first = Process::start(1, &lake, &held);
    assert!(rolled_up(&lake).await < Duration::from_secs(2), "at the first look");
    let second = Process::start(2, &lake, &held);
    tokio::time::sleep(Duration::from_secs(60)).await;
    next().await;
    assert!(rolled_up(&lake).await < Duration::from_secs(2), "after quiet, as soon as there is a new version");
    next().await;
    let waited = rolled_up(&lake).await;
    assert!((Duration::from_secs(7)..Duration::from_secs(12)).contains(&waited), "not more often, {waited:?}");
    assert_eq!((first.count("works"), second.count("works"), second.count("runs_total")), (1.0, 0.0, 0.0));
    assert!(first.count("days_changed_total") > 0.0);

    // One that ends gives the work back.
    first.stop().await;
    next().await;
    assert!(rolled_up(&lake).await < Duration::from_secs(2));
    assert_eq!(second.count("works"), 1.0);

    // Nobody hears of one that is killed.
    let third = Process::start(3, &lake, &held);
    second.service.abort();
    assert!(second.service.await.expect_err("it is killed").is_cancelled());
    next().await;
    let waited = rolled_up(&lake).await;
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&waited), "once the lease expires, {waited:?}");
    assert_eq!((third.count("works"), third.count("fenced_total"), third.count("failures_total")), (1.0, 0.0, 0.0));
    third.stop().await;
    assert!(held.lock().expect("no panic").is_none());
}

#[test]
fn settings_out_of_range_are_told() {
    let zero = SignedDuration::ZERO;
    assert_eq!(Settings { interval: zero, look_interval: zero, lease: zero }.faults().len(), 2);
    let tight = Settings { lease: SignedDuration::from_secs(2), ..Settings::default() };
    assert_eq!(tight.faults().len(), 1);
    assert!(Settings::default().faults().is_empty());
}
