//! Through a real worker, on a log and a store in memory.

use std::sync::Arc;

use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    log::{Schedule, SimulatedLog},
    worker::{Settings, Worker, progress},
};

fn event(id: &str) -> Bytes {
    let text = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"dev.daybook.prompt.submitted.v1","time":"2025-12-31T10:00:00Z","subject":"email:ada@example.com","data":{{"length_chars":5}}}}"#
    );
    text.into()
}

/// Runs a worker until everything in the log is in a table.
async fn work(lake: &Lake, log: &SimulatedLog) {
    let stop = CancellationToken::new();
    let shared: Arc<dyn Log> = Arc::new(log.clone());
    let registry = prometheus::Registry::new();
    let worker = Worker::new(Settings::default(), lake.clone(), shared, "simulated", &registry).await;
    let working = tokio::spawn(worker.expect("tables open").run(stop.clone()));
    while progress(lake, log).await.expect("readable").iter().any(|at| at.next_offset < at.high_watermark) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    stop.cancel();
    working.await.expect("no panic").expect("it stops cleanly");
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_an_event_now_is_replayed_once() {
    let lake = Lake::with_store(Arc::new(InMemory::new()), "memory:///lake".parse().expect("a URL"));
    let log = SimulatedLog::new(
        1,
        Schedule { kafka_partitions: 1, poll: std::time::Duration::from_millis(1), ..Schedule::default() },
    );
    let org = vec![(headers::ORG.into(), Bytes::from_static(b"acme"))];
    log.append_raw(0, None, Some(event("known")), org.clone());
    log.append_raw(0, None, Some(event("known")), Vec::new());
    log.append_raw(0, None, Some(event("lost")), Vec::new());
    log.append_raw(0, None, Some(event("lost")), Vec::new());
    log.append_raw(0, None, Some(Bytes::from_static(b"{\"specversion\":\"1.0\",\"id\":\"torn")), org.clone());
    log.append_raw(0, None, Some(Bytes::from(vec![b'x'; 2 << 20])), org);
    log.append_raw(0, None, None, Vec::new());
    work(&lake, &log).await;

    let all = Filter::default();
    let letters = list(&lake, &all, None).await.expect("readable");
    let found: Vec<(i64, &str)> = letters.iter().map(|letter| (letter.record.offset, letter.cause.as_str())).collect();
    let missing = "no_organisation";
    assert_eq!(found, [(1, missing), (2, missing), (3, missing), (4, "not_json"), (5, "too_large"), (6, missing)]);
    assert_eq!(letters[3].record, *log.records().get(4).expect("appended"), "as it came");
    let torn = Filter { cause: Some(Cause::NotJson), place: Some((0, 4)), ..Filter::default() };
    assert_eq!(list(&lake, &torn, Some(9)).await.expect("readable").len(), 1);
    let later = Filter { since: Some("2026-02-01T00:00:00Z".parse().expect("a time")), ..Filter::default() };
    assert_eq!(list(&lake, &later, Some(9)).await.expect("readable").len(), 0, "the simulated log is of January");

    // The database works on threads of its own; time stands still only while it is not asked.
    tokio::time::resume();
    let directory = Directory::open("sqlite::memory:").await.expect("a database in memory");
    tokio::time::pause();
    let producers = Producers { settings: &signature::Settings::default(), directory: &directory, schemas: None };
    let nothing = Replayed { letters: 6, refused: 5, cut: 1, ..Replayed::default() };
    assert_eq!(
        replay(&lake, &log, &producers, &all, None, false).await.expect("readable"),
        nothing,
        "nothing was mended"
    );
    let acme: OrgId = "acme".parse().expect("an id");
    let mended = Replayed { letters: 6, refused: 2, cut: 1, present: 2, replayed: 1 };
    for dry_run in [true, false] {
        assert_eq!(replay(&lake, &log, &producers, &all, Some(&acme), dry_run).await.expect("sent"), mended);
    }
    work(&lake, &log).await;
    let again = Replayed { present: 3, replayed: 0, ..mended };
    assert_eq!(replay(&lake, &log, &producers, &all, Some(&acme), false).await.expect("sent"), again);
    let events = lake.table(&EVENTS).snapshot().await.expect("readable");
    assert_eq!(events.files.iter().map(|file| file.rows).sum::<u64>(), 2, "`known` and `lost`");
    assert_eq!(list(&lake, &all, None).await.expect("readable").len(), 6, "no letter is deleted");
}
