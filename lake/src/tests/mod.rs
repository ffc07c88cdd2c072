//! The commit under faults and rivals, and what other readers see. Named after the failures of others where they are the same.

mod evolve;
mod maintain;

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::Int64Type,
};
use datafusion::prelude::{SessionContext, col, lit};
use futures::TryStreamExt;
use jiff::civil::Date;
use object_store::{ObjectStore, memory::InMemory, path::Path};
use proptest::prelude::*;
use schemas::{DEAD_LETTERS, EVENTS};

use crate::{
    Change, CommitError, Head, Lake, News, Swap, Table,
    testing::{Fault, FaultyStore},
};

fn lake(store: Arc<dyn ObjectStore>) -> Lake {
    Lake::with_store(store, url::Url::parse("memory:///some/lake").expect("a URL"))
}

fn swap(app: &str, expected: i64, next: i64) -> Swap {
    Swap { app_id: app.into(), expected, next }
}

fn change(swaps: Vec<Swap>) -> Change {
    Change { operation: "WRITE", swaps, data_change: true, ..Change::default() }
}

/// Rows of `events` for one day: (user, time of day in seconds, offset).
fn rows(day: Date, rows: &[(&str, i64, i64)]) -> RecordBatch {
    let schema = EVENTS.schema();
    let midnight = day.at(0, 0, 0, 0).in_tz("UTC").expect("a day").timestamp().as_microsecond();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let times = || {
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| midnight + row.1 * 1_000_000 + 7))
                .with_timezone("UTC")
        };
        match field.name().as_str() {
            "user_key" => Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))),
            "event_time" | "recorded_time" => Arc::new(times()),
            "log_offset" | "payload_hash" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
            "log_partition" | "event_date" => {
                arrow::compute::cast(&Int32Array::from(vec![0; rows.len()]), field.data_type()).expect("a cast")
            }
            "event_id" => {
                Arc::new(arrow::array::BinaryArray::from_iter_values(rows.iter().map(|row| row.2.to_be_bytes())))
            }
            _ if !field.is_nullable() => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "x"))),
            _ => new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("columns follow the schema")
}

async fn append(table: &Table, head: &mut Head, day: Date, batch: &[(&str, i64, i64)], swaps: Vec<Swap>) -> i64 {
    let file = table.write_file(Some(day), &[rows(day, batch)]).await.expect("the store takes it");
    table.commit(head, Change { add: vec![file], ..change(swaps) }).await.expect("nobody else writes")
}

const DAY: Date = Date::constant(2026, 3, 4);

#[tokio::test]
async fn f04_f07_a_zombie_is_fenced_on_a_stale_head_and_on_a_fresh_one() {
    let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
    let mut owner = table.create_if_missing().await.expect("created");
    let mut zombie = owner.clone();
    table.commit(&mut owner, change(vec![swap("p0", 0, 100)])).await.expect("first");
    let stale = table.commit(&mut zombie, change(vec![swap("p0", 0, 80)])).await;
    assert!(matches!(stale, Err(CommitError::Fenced { expected: 0, found: 100, .. })), "{stale:?}");
    let mut fresh = table.head().await.expect("readable").expect("there");
    let again = table.commit(&mut fresh, change(vec![swap("p0", 0, 100)])).await;
    assert!(matches!(again, Err(CommitError::Fenced { expected: 0, found: 100, .. })), "{again:?}");
    let version =
        table.commit(&mut fresh, change(vec![swap("p0", 100, 150), swap("p1", 0, 5)])).await.expect("in turn");
    assert_eq!((version, fresh.next_offset("p0"), fresh.next_offset("p1"), fresh.next_offset("p2")), (2, 150, 5, 0));
}

#[tokio::test]
async fn a_change_that_follows_one_version_follows_no_other() {
    let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    let mut other = head.clone();
    append(&table, &mut head, DAY, &[("a", 1, 0), ("b", 2, 1)], vec![swap("p0", 0, 2)]).await;
    let after = |version| Change { only_after: Some(version), ..change(vec![swap("p1", 0, 7)]) };
    let stale = table.commit(&mut other, after(0)).await;
    assert!(matches!(stale, Err(CommitError::Moved { version: 1 })), "{stale:?}");
    // What came between is what the writer has to look at; compaction and its like bring no rows.
    let news = table.news(0, 1).await.expect("readable").expect("the log holds it");
    assert!(!news.rows_removed);
    let files = news.added;
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 2);
    let mut ids = table.read(&SessionContext::new(), files, &["event_id", "log_offset"]).expect("a plan");
    let batch = ids.try_next().await.expect("readable").expect("rows");
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values().to_vec(), [0, 1]);
    let same = Change { data_change: false, ..after(1) };
    assert_eq!(table.commit(&mut other, same).await.expect("nothing came between"), 2);
    assert_eq!(
        table.news(1, 2).await.expect("readable"),
        Some(News { dates: Some(BTreeSet::new()), ..News::default() })
    );
    assert_eq!(table.news(1, 3).await.expect("readable"), None);
    let again = Change { swaps: vec![swap("p2", 0, 1)], ..after(1) };
    assert_eq!(table.commit(&mut head, again).await.expect("version 2 brought no rows"), 3);
}

#[tokio::test]
async fn f04_a_new_owner_goes_on_with_a_head_from_before_the_last_one() {
    let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
    let mut before = table.create_if_missing().await.expect("created");
    let mut after = before.clone();
    table.commit(&mut before, change(vec![swap("p0", 0, 100)])).await.expect("first");
    let version = table.commit(&mut after, change(vec![swap("p0", 100, 150)])).await.expect("it follows");
    assert_eq!((version, after.next_offset("p0")), (2, 150));
}

#[tokio::test]
async fn f02_offset_zero_is_an_offset_like_any_other() {
    let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    table.commit(&mut head, change(vec![swap("p0", 0, 1)])).await.expect("the first record alone");
    table.commit(&mut head, change(vec![swap("p0", 1, 0)])).await.expect("a log that lost its tail goes back");
    assert_eq!(head.next_offset("p0"), 0);
}

/// Rival writers, each with partitions of its own and a store that loses answers: every commit lands exactly once.
#[tokio::test(start_paused = true)]
async fn f05_f06_f08_f09_lost_answers_false_conflicts_and_rivals() {
    for seed in 0..40 {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(memory.clone(), seed);
        let shared = lake(Arc::new(faulty.clone()));
        shared.table(&EVENTS).create_if_missing().await.expect("created");
        faulty.set(30);
        let writers = (0..4).map(|writer| {
            let table = shared.table(&EVENTS);
            tokio::spawn(async move {
                let app = format!("p{writer}");
                let mut head = loop {
                    if let Ok(Some(head)) = table.head().await {
                        break head;
                    }
                };
                let mut done = 0;
                while done < 12 {
                    match table.commit(&mut head, change(vec![swap(&app, done, done + 1)])).await {
                        Ok(_) => done += 1,
                        // Unknown outcome after all tries: the table tells.
                        Err(CommitError::Fenced { found, .. }) => done = found,
                        Err(CommitError::Exhausted { .. } | CommitError::Store(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("no writer gives up");
        }
        let clean = lake(memory.clone()).table(&EVENTS).head().await.expect("readable").expect("there");
        assert_eq!(clean.txns().values().copied().collect::<Vec<_>>(), [12; 4], "seed {seed}");
        assert_eq!(clean.version(), 48, "seed {seed}: each commit is one version, none twice");
    }
}

#[tokio::test(start_paused = true)]
async fn f08_a_put_that_is_never_answered_is_given_up_and_tried_again() {
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), 1);
    let table = lake(Arc::new(faulty.clone())).table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    let for_ever = Some(Fault::Stall(u64::from(u32::MAX)));
    faulty.script([for_ever, for_ever]);
    let started = tokio::time::Instant::now();
    let version = table.commit(&mut head, change(vec![swap("p0", 0, 1)])).await.expect("the third put is answered");
    assert_eq!((version, head.next_offset("p0")), (1, 1));
    assert!(started.elapsed() < std::time::Duration::from_secs(300), "{:?}", started.elapsed());

    faulty.script(std::iter::repeat_n(for_ever, 1_000));
    let outcome = table.commit(&mut head, change(vec![swap("p0", 1, 2)])).await;
    assert!(matches!(outcome, Err(CommitError::Exhausted { .. })), "{outcome:?}");
    assert_eq!(table.head().await.expect("readable").expect("there").next_offset("p0"), 1, "nothing was half done");
}

/// Python and other engines read by the same protocol as this library.
#[tokio::test]
async fn deltalake_reads_back_what_was_written_before_and_after_a_log_checkpoint() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lake = lake(memory.clone());
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    for step in 0..12_i64 {
        let day = DAY.checked_add(jiff::Span::new().days(step % 3)).expect("a day");
        append(&table, &mut head, day, &[("u", step, step), ("v", step, step + 100)], vec![swap("p0", step, step + 1)])
            .await;
    }
    for checkpointed in [false, true] {
        let url = url::Url::parse("memory:///some/lake/events/").expect("a URL");
        let other = deltalake_core::DeltaTableBuilder::from_url(url.clone())
            .expect("a URL")
            .with_storage_backend(memory.clone(), url)
            .load()
            .await
            .expect("deltalake opens it");
        assert_eq!(other.version(), Some(12));
        let state = other.snapshot().expect("loaded");
        assert_eq!(state.snapshot().log_data().num_files(), 12);
        assert_eq!(state.snapshot().log_data().iter().filter_map(|file| file.num_records()).sum::<usize>(), 24);
        let txn = state.snapshot().transaction_version(other.log_store().as_ref(), "p0").await.expect("readable");
        assert_eq!(txn, Some(12));
        assert_eq!(state.snapshot().arrow_schema().fields().len(), EVENTS.schema().fields().len());
        let ours = table.snapshot().await.expect("readable");
        assert_eq!((ours.version, ours.files.len(), ours.txns["p0"]), (12, 12, 12));
        assert_eq!(ours.files.iter().map(|file| file.rows).sum::<u64>(), 24);
        if !checkpointed {
            table.log_checkpoint().await.expect("written");
            // The checkpoint alone must do: the entries that it covers are taken away.
            for version in 0..12 {
                let path = Path::from(format!("some/lake/events/_delta_log/{version:020}.json"));
                object_store::ObjectStoreExt::delete(memory.as_ref(), &path).await.expect("there");
            }
        }
    }
    let mut head = table.head().await.expect("readable").expect("there");
    table.commit(&mut head, change(vec![swap("p0", 12, 13)])).await.expect("and it goes on");
}

#[tokio::test]
async fn a_replaced_file_conflicts_with_whoever_replaced_it_first() {
    let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append(&table, &mut head, DAY, &[("u", 0, 0)], vec![]).await;
    let old = table.snapshot().await.expect("readable").files;
    let mut rival = head.clone();
    let replace = |swaps| Change { remove: old.clone(), ..change(swaps) };
    table.commit(&mut head, replace(vec![])).await.expect("the first");
    let second = table.commit(&mut rival, replace(vec![])).await;
    assert!(matches!(second, Err(CommitError::Conflict { version: 2, .. })), "{second:?}");
    assert!(table.snapshot().await.expect("readable").files.is_empty());
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused_before_anything_is_written() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let table = lake(memory.clone()).table(&DEAD_LETTERS);
    assert!(table.write_file(Some(DAY), &[rows(DAY, &[("u", 0, 0)])]).await.is_err());
    assert!(table.write_file(None, &[rows(DAY, &[("u", 0, 0)])]).await.is_err());
    assert!(table.write_file(Some(DAY), &[]).await.is_err());
    let left: Vec<_> = memory.list(None).try_collect().await.expect("memory lists");
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_local_lake_survives_reopening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = folder.path().join("lake").display().to_string();
    let table = Lake::open(&url, &[]).expect("a folder").table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append(&table, &mut head, DAY, &[("u", 0, 0)], vec![swap("p0", 0, 1)]).await;
    let again = Lake::open(&format!("file://{url}"), &[]).expect("the same folder").table(&EVENTS);
    let found = again.create_if_missing().await.expect("there");
    assert_eq!((found.version(), found.next_offset("p0"), found.table_id()), (1, 1, head.table_id()));
    for (bad, word) in [("ftp://x", "s3://"), ("s3://", "bucket"), ("", "empty")] {
        assert!(Lake::open(bad, &[]).expect_err("refused").to_string().contains(word), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever files there are, a sorted scan gives their rows in order, and pruning loses none that the filter holds for.
    #[test]
    fn scans_are_sorted_and_complete(
        files in prop::collection::vec((0..3_i64, prop::collection::btree_set((0..5_usize, 0..1000_i64), 1..20)), 1..80),
        user in 0..5_usize,
    ) {
        const USERS: [&str; 5] = ["a", "b", "c", "cc", "d"];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let table = lake(Arc::new(InMemory::new())).table(&EVENTS);
            let mut head = table.create_if_missing().await.expect("created");
            let mut wanted = BTreeSet::new();
            let mut number = 0;
            for (day, set) in &files {
                let day = DAY.checked_add(jiff::Span::new().days(*day)).expect("a day");
                let batch: Vec<(&str, i64, i64)> = set.iter().map(|(user, second)| { number += 1; (USERS[*user], *second, number) }).collect();
                wanted.extend(batch.iter().filter(|row| row.0 == USERS[user]).map(|row| row.2));
                append(&table, &mut head, day, &batch, vec![]).await;
            }
            let snapshot = table.snapshot().await.expect("readable");
            let context = SessionContext::new();
            let stream = snapshot.sorted_scan(&context, snapshot.files.clone(), &["log_offset"], vec![]).expect("a plan");
            let batches: Vec<RecordBatch> = stream.try_collect().await.expect("it runs");
            let mut keys = Vec::new();
            for batch in &batches {
                let users = batch.column_by_name("user_key").expect("added").as_string_view();
                let times = batch.column_by_name("event_time").expect("added").as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
                keys.extend((0..batch.num_rows()).map(|row| (users.value(row).to_owned(), times.value(row))));
            }
            assert_eq!(keys.len(), number as usize);
            assert!(keys.is_sorted());
            let frame = context.read_table(snapshot.provider()).expect("a table").filter(col("user_key").eq(lit(USERS[user]))).expect("a filter");
            let found: BTreeSet<i64> = frame.select_columns(&["log_offset"]).expect("a column").collect().await.expect("it runs").iter()
                .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
            assert_eq!(found, wanted);
        });
    }
}
