//! Who has not opted in leaves no row and no dead letter, and holds nobody up.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use directory::{Directory, OptIn};
use jiff::{SignedDuration, Timestamp};
use lake::Lake;
use object_store::memory::InMemory;
use schemas::OrgId;
use tokio_util::sync::CancellationToken;

use super::{FRESH, OptIns};
use crate::{
    dead_letters::{self, Filter},
    headers,
    log::{Headers, Log, Record, Schedule, SimulatedLog},
    signature,
    worker::{self, Worker, progress},
};

const EVENT: &str =
    r#"{"specversion":"1.0","id":"ID","source":"s","type":"t","time":"2025-12-31T00:00:00Z","subject":"u"}"#;

fn org(id: &str) -> OrgId {
    id.parse().expect("an id")
}

fn headers_of(id: &str) -> Headers {
    vec![(headers::ORG.into(), Bytes::copy_from_slice(id.as_bytes()))]
}

async fn directory(orgs: &[&str]) -> Directory {
    let directory = Directory::open("sqlite::memory:").await.expect("a database in memory");
    for id in orgs {
        directory.create_org(&org(id), "", "UTC", Timestamp::UNIX_EPOCH).await.expect("new");
    }
    directory
}

async fn switch(directory: &Directory, id: &str, level: OptIn, at: Timestamp) {
    assert!(directory.set_opt_in(&org(id), level, "a test", at).await.expect("there"));
}

fn record(id: &str, append_time_ms: i64) -> Record {
    let headers = headers_of(id);
    Record { kafka_partition: 0, offset: 0, key: None, value: None, headers, append_time_ms }
}

#[tokio::test]
async fn who_opts_in_is_known_at_once_and_who_opts_out_soon() {
    let directory = directory(&["acme"]).await;
    let mut known = OptIns::new(directory.clone());
    let mut wanted = async |at_ms: i64| {
        let records = [record("nobody", at_ms), record("acme", at_ms), record("acme", at_ms), record("No Org", at_ms)];
        known.prepare(&records).await.expect("the directory is there");
        let wanted = records.each_ref().map(|record| known.wants(record));
        assert_eq!((wanted[0], wanted[3]), (false, true), "who names no organisation becomes a dead letter");
        assert_eq!(wanted[1], wanted[2]);
        wanted[1]
    };
    let start = Timestamp::from_millisecond(1_000_000_000_000).expect("a time");
    let after = |seconds: i64| start.as_millisecond() + seconds * 1000;
    assert!(!wanted(after(0)).await && !wanted(-1).await);
    switch(&directory, "acme", OptIn::TeamOnly, start).await;
    assert!(wanted(after(0)).await && wanted(-1).await, "asked again, since it was not wanted");
    assert!(!wanted(after(-61)).await);
    switch(&directory, "acme", OptIn::Off, start + SignedDuration::from_secs(600)).await;
    assert!(wanted(after(3600)).await, "what is known is believed for a while");
    tokio::time::pause();
    tokio::time::advance(FRESH).await;
    tokio::time::resume();
    assert!(wanted(after(664)).await, "a collector may not have known yet");
    assert!(!wanted(after(666)).await && !wanted(-1).await);
    assert!(wanted(after(0)).await, "a record keeps its fate");
}

#[tokio::test]
async fn only_what_was_opted_in_to_is_stored() {
    let schedule = Schedule { kafka_partitions: 1, poll: Duration::from_millis(1), ..Schedule::default() };
    let log = SimulatedLog::new(1, schedule);
    let append = |org: &str, id: &str| {
        let value = Bytes::from(EVENT.replace("ID", id));
        log.append_raw(0, Some(Bytes::from_static(b"k")), Some(value), headers_of(org));
    };
    append("first", "first");
    let start = Timestamp::from_millisecond(log.records()[0].append_time_ms).expect("a time");
    let ago = |seconds: i64| start - SignedDuration::from_secs(seconds);
    let orgs = ["first", "in", "off", "out", "soon", "just-out"];
    let directory = directory(&orgs).await;
    for id in ["first", "in", "out", "just-out"] {
        switch(&directory, id, OptIn::Named, ago(3600)).await;
    }
    switch(&directory, "out", OptIn::Off, ago(66)).await;
    switch(&directory, "just-out", OptIn::Off, ago(1)).await;
    switch(&directory, "soon", OptIn::Named, ago(-62)).await;
    for (number, id) in orgs.into_iter().chain(["unknown"]).enumerate() {
        append(id, &format!("{number}"));
        // No event: it would become a dead letter, with what it says.
        log.append_raw(0, None, Some(Bytes::from_static(b"secret")), headers_of(id));
    }

    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///lake".parse().expect("a URL"));
    let registry = prometheus::Registry::new();
    let settings = worker::Settings { flush_age: SignedDuration::from_millis(20), ..worker::Settings::default() };
    let shared: Arc<dyn Log> = Arc::new(log.clone());
    let worker = Worker::new(settings, lake.clone(), shared, "simulated", &registry).await.expect("tables open");
    let worker = worker.with_directory(&signature::Settings::default(), directory).expect("the settings are sound");
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.run(stop.clone()));
    // What leaves nothing is covered all the same: the last records are of such.
    while progress(&lake, &log).await.expect("readable").iter().any(|at| at.next_offset < at.high_watermark) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    working.await.expect("no panic").expect("it stops cleanly");

    let files = lake.table(&schemas::EVENTS).snapshot().await.expect("readable").files;
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 4, "first, twice; in; just-out");
    let letters = dead_letters::list(&lake, &Filter::default(), None).await.expect("readable");
    let of: Vec<_> = letters.iter().filter_map(|letter| letter.record.header(headers::ORG)).collect();
    assert_eq!(of, ["first", "in", "just-out"], "{letters:?}");
    let families = registry.gather();
    let left_out = families.iter().find(|family| family.name() == "daybook_worker_unwanted_records_total");
    let left_out = left_out.expect("it is counted").get_metric()[0].get_counter().get_value();
    assert_eq!(left_out as u64, 8, "off, out, soon and unknown, two each");
}
