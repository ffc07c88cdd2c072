//! The producer: appends activity for as long as it is let, among it retries, conflicts and bad records.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use daybook::generate::{Config, Generated, Generator, Kind};
use ingest::{
    headers,
    log::{Append, KafkaLog, Log},
};
use jiff::{Timestamp, civil::Date};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinHandle,
};

use crate::activity;

/// Records that the generator has, enough for hours.
const EVENTS: u64 = 20_000_000;
/// Last day of the activity.
const END: Date = Date::constant(2026, 3, 31);
/// Pause between two appends, and records of each.
const EVERY: Duration = Duration::from_millis(100);
const BATCH: usize = 50;
/// One append of so many has a burst in place of a batch.
const BURST_OF: u32 = 100;
const BURST: usize = 4_000;
/// Events that a retry or a conflict may be made of.
const REMEMBERED: usize = 20_000;
/// Of a thousand records, so many are followed by a conflict, and by a retry that another partition gets.
const CONFLICTS: u32 = 2;
const STRAYS: u32 = 5;

/// Appends until it is dropped.
pub(super) struct Producer {
    /// Held during each append: whoever holds it stops the producer.
    gate: Arc<Mutex<()>>,
    counts: Arc<Counts>,
    appending: JoinHandle<()>,
}

/// What was sent; what was not acknowledged may be in the log or not.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    conflicts: AtomicU64,
    refused: AtomicU64,
}

impl Producer {
    /// Starts to append to `log`.
    ///
    /// # Panics
    /// Never: the configuration is sound.
    #[must_use]
    pub(super) fn start(log: Arc<KafkaLog>, seed: u64) -> Self {
        let (gate, counts) = (Arc::new(Mutex::new(())), Arc::new(Counts::default()));
        let config = Config { users: 5_000, duplicate_share: 0.02, bad_share: 0.005, ..Config::new(seed, EVENTS, END) };
        let source = Source {
            generator: Generator::new(config).expect("the configuration is sound"),
            chance: ChaCha8Rng::seed_from_u64(seed),
            remembered: VecDeque::new(),
        };
        let appending = tokio::spawn(append(log, source, gate.clone(), counts.clone()));
        Self { gate, counts, appending }
    }

    /// Stops it until the guard is dropped; no append is under way.
    pub(super) async fn stopped(&self) -> OwnedMutexGuard<()> {
        self.gate.clone().lock_owned().await
    }

    /// Records sent, planted conflicts among them, and appends that Kafka did not acknowledge.
    #[must_use]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let Counts { sent, conflicts, refused } = &*self.counts;
        let [sent, conflicts, refused] = [sent, conflicts, refused].map(|count| count.load(Ordering::Relaxed));
        (sent, conflicts, refused)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.appending.abort();
    }
}

async fn append(log: Arc<KafkaLog>, mut source: Source, gate: Arc<Mutex<()>>, counts: Arc<Counts>) {
    loop {
        let open = gate.lock().await;
        let size = if source.chance.random_ratio(1, BURST_OF) { BURST } else { BATCH };
        let (records, conflicts) = source.take(size);
        counts.sent.fetch_add(records.len() as u64, Ordering::Relaxed);
        counts.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        if log.append(records).await.is_err() {
            // Whatever of it is in the log is counted there.
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        drop(open);
        tokio::time::sleep(EVERY).await;
    }
}

struct Source {
    generator: Generator,
    chance: ChaCha8Rng,
    remembered: VecDeque<Generated>,
}

impl Source {
    /// About `size` records, and how many of them are conflicts.
    fn take(&mut self, size: usize) -> (Vec<Append>, u64) {
        let (mut records, mut conflicts) = (Vec::with_capacity(size + size / 20), 0);
        for generated in self.generator.by_ref().take(size) {
            if generated.kind == Kind::New {
                if self.remembered.len() == REMEMBERED {
                    self.remembered.pop_front();
                }
                self.remembered.push_back(generated.clone());
            }
            records.push(record(generated));
            let dice = self.chance.random_range(0..1_000);
            if dice < CONFLICTS + STRAYS && !self.remembered.is_empty() {
                let mut again = self.remembered[self.chance.random_range(0..self.remembered.len())].clone();
                if dice < CONFLICTS {
                    again.json = contradict(&again.json, self.chance.random());
                    conflicts += 1;
                }
                let stray = Bytes::from(self.chance.random::<u64>().to_string());
                let record = record(again);
                records.push(if dice < CONFLICTS { record } else { Append { key: stray, ..record } });
            }
        }
        (records, conflicts)
    }
}

/// As a collector would append it now: the worker knows the newest rows by when they were taken.
fn record(generated: Generated) -> Append {
    let mut record = activity::record(generated);
    for (name, value) in &mut record.headers {
        if name == headers::RECORDED_TIME {
            *value = Bytes::from(Timestamp::now().to_string());
        }
    }
    record
}

/// The same id with another payload: of another person, whose records another partition may have, or of another time, on the
/// partition of the first.
fn contradict(json: &[u8], another_person: bool) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let (from, to) = if another_person {
        ("\"subject\":\"", "\"subject\":\"rival-")
    } else {
        ("\"time\":\"2026", "\"time\":\"2025")
    };
    text.replacen(from, to, 1).into_bytes()
}
