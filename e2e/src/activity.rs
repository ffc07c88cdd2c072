//! Generated activity, put where a test or a bench needs it.

use bytes::Bytes;
use daybook::generate::{Config, Generated, Generator, ORGANISATIONS};
use directory::{Directory, OptIn};
use ingest::{
    headers,
    log::{self, Append, Log},
};
use jiff::{Timestamp, civil::Date};
use serde_json::Value;

/// Last day of the activity: any will do, as long as it is the same in each run.
const END: Date = Date::constant(2026, 3, 31);
/// Records of one append.
const APPENDED: usize = 5_000;

/// `events` records, bad ones included, of one person for each 500.
///
/// # Panics
/// Never: the configuration is sound.
#[must_use]
pub fn generator(events: u64) -> Generator {
    generator_of(events, None)
}

/// The same of so many people.
///
/// # Panics
/// Where they are too few or too many.
#[must_use]
pub fn generator_of(events: u64, users: Option<usize>) -> Generator {
    let few = usize::try_from(events / 500).unwrap_or(usize::MAX).clamp(40, 20_000);
    let users = users.unwrap_or(few);
    Generator::new(Config { users, ..Config::new(7, events, END) }).expect("the configuration is sound")
}

/// A record as the collector would append it, bad ones too.
#[must_use]
pub fn record(generated: Generated) -> Append {
    let org = ORGANISATIONS[generated.org].id;
    // One person's events stay in order on one partition; whom a record is of stands in its subject.
    let key = format!("{org}/{}", subject(&generated.json));
    Append {
        key: Bytes::from(key),
        value: Bytes::from(generated.json),
        headers: vec![
            (headers::ORG.into(), Bytes::from_static(org.as_bytes())),
            (headers::RECORDED_TIME.into(), Bytes::from_static(b"2026-04-01T00:00:00.000000Z")),
            (headers::VANTAGE.into(), Bytes::from_static(b"client")),
        ],
    }
}

/// Appends records to `log`; gives the bytes of their values.
///
/// # Errors
/// Where the log fails; some of the records may be in it.
pub async fn append(log: &dyn Log, records: impl Iterator<Item = Generated>) -> log::Result<u64> {
    let mut bytes = 0;
    let mut batch = Vec::with_capacity(APPENDED);
    for generated in records {
        bytes += generated.json.len() as u64;
        batch.push(record(generated));
        if batch.len() == APPENDED {
            log.append(std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.is_empty() {
        log.append(batch).await?;
    }
    Ok(bytes)
}

/// The value of `"subject"`, if one can be seen.
fn subject(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let after = text.split_once("\"subject\":\"").map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}

/// Puts the organisations of the activity into the directory of `url`, as having opted in long before any of it.
///
/// # Panics
/// Where it cannot be written.
pub fn organise(url: &str) {
    let organise = async {
        let directory = Directory::open(url).await.expect("the directory can be opened");
        for org in &ORGANISATIONS[..3] {
            let id = org.id.parse().expect("an id");
            let made = directory.create_org(&id, org.name, org.time_zone, Timestamp::UNIX_EPOCH).await;
            assert!(matches!(made, Ok(_) | Err(directory::Error::OrgExists(_))), "{made:?}");
            let switched = directory.set_opt_in(&id, OptIn::Named, "it is made up", Timestamp::UNIX_EPOCH).await;
            switched.expect("it is there");
        }
        directory.close().await;
    };
    // The caller may be within a runtime.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::scope(|scope| scope.spawn(|| runtime().block_on(organise)).join()).expect("no panic");
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
