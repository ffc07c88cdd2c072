//! Generated activity, put where a bench needs it.

use std::{path::Path, sync::Arc};

use aggregate::{OrgCalendar, OrgDays};
use bytes::Bytes;
use daybook::generate::{Config, Generator, ORGANISATIONS};
use ingest::{
    headers,
    log::{Append, EmbeddedLog, EmbeddedSettings, Log},
    worker::{Settings, Worker, progress},
};
use jiff::civil::Date;
use lake::Lake;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Last day of the activity: any will do, as long as it is the same in each run.
const END: Date = Date::constant(2026, 3, 31);
/// Records of one append.
const APPENDED: usize = 5_000;

fn config(events: u64) -> Config {
    let users = usize::try_from(events / 500).unwrap_or(usize::MAX).clamp(40, 20_000);
    Config { users, ..Config::new(7, events, END) }
}

/// Appends `events` records to `log`, as the collector would, bad ones included; gives the bytes of their values.
///
/// # Panics
/// Where the log fails.
pub async fn fill(log: &dyn Log, events: u64) -> u64 {
    let mut bytes = 0;
    let mut batch = Vec::with_capacity(APPENDED);
    for generated in Generator::new(config(events)).expect("the configuration is sound") {
        let org = ORGANISATIONS[generated.org].id;
        bytes += generated.json.len() as u64;
        // One person's events stay in order on one partition; whom a record is of stands in its source.
        let key = format!("{org}/{}", subject(&generated.json));
        batch.push(Append {
            key: Bytes::from(key),
            value: Bytes::from(generated.json),
            headers: vec![
                (headers::ORG.to_owned(), Bytes::from_static(org.as_bytes())),
                (headers::RECORDED_TIME.to_owned(), Bytes::from_static(b"2026-04-01T00:00:00.000000Z")),
                (headers::VANTAGE.to_owned(), Bytes::from_static(b"client")),
            ],
        });
        if batch.len() == APPENDED {
            log.append(std::mem::take(&mut batch)).await.expect("the log takes it");
        }
    }
    if !batch.is_empty() {
        log.append(batch).await.expect("the log takes it");
    }
    bytes
}

/// The value of `"subject"`, if one can be seen.
fn subject(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let after = text.split_once("\"subject\":\"").map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}

/// Puts `events` through an embedded log and a worker into the lake at `url`.
///
/// # Panics
/// Where anything fails.
pub async fn ingest(url: &str, folder: &Path, events: u64) {
    let settings = EmbeddedSettings { dir: folder.join("log"), ..EmbeddedSettings::default() };
    let clock: Arc<dyn Fn() -> i64 + Send + Sync> = Arc::new(|| jiff::Timestamp::now().as_millisecond());
    let log = Arc::new(EmbeddedLog::open(&settings, clock).expect("the log opens"));
    fill(log.as_ref(), events).await;
    let lake = Lake::open(url, &[]).expect("a folder is a lake");
    let registry = prometheus::Registry::new();
    let worker =
        Worker::new(Settings::default(), lake.clone(), log.clone(), "bench", &registry).await.expect("tables open");
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    loop {
        let progress = progress(&lake, log.as_ref()).await.expect("table and log can be read");
        if progress.iter().all(|partition| partition.next_offset >= partition.high_watermark) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    stop.cancel();
    running.await.expect("the worker does not panic").expect("the worker stops cleanly");
}

/// Organisations and their zones, for the oracle.
#[must_use]
pub fn zones() -> Value {
    ORGANISATIONS
        .iter()
        .map(|org| (org.id.to_owned(), Value::from(org.time_zone)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Organisations and their zones, for the aggregator.
///
/// # Panics
/// Never: the generator's organisations have known zones.
#[must_use]
pub fn calendar() -> OrgCalendar {
    let days = |zone: &str| OrgDays::new(zone, 48).expect("the zone is known");
    let mut calendar = OrgCalendar::new(days("UTC"));
    for org in ORGANISATIONS {
        calendar.set(&org.id.parse().expect("an id"), days(org.time_zone));
    }
    calendar
}
