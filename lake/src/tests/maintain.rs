//! Maintenance beside writers and readers: no row changes, and nothing that anyone may still need is deleted.

use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::TimestampMicrosecondType;
use jiff::{SignedDuration, Timestamp};
use object_store::ObjectStoreExt;

use super::*;
use crate::{Snapshot, maintain::Settings};

fn settings() -> Settings {
    Settings { files_min: 4, checkpoint_commits: 5, ..Settings::default() }
}

/// (user, time, offset) of every row, in the order of a sorted scan of each file by itself.
async fn rows_by_file(snapshot: &Snapshot) -> Vec<Vec<(String, i64, i64)>> {
    let context = SessionContext::new();
    let mut files = Vec::new();
    for file in &snapshot.files {
        let stream = snapshot.sorted_scan(&context, vec![file.clone()], &["log_offset"], vec![]).expect("a plan");
        let batches: Vec<RecordBatch> = stream.try_collect().await.expect("the file is there and whole");
        let mut rows = Vec::new();
        for batch in &batches {
            let users = batch.column_by_name("user_key").expect("added").as_string_view();
            let times = batch.column_by_name("event_time").expect("added").as_primitive::<TimestampMicrosecondType>();
            let offsets = batch.column_by_name("log_offset").expect("asked for").as_primitive::<Int64Type>();
            rows.extend(
                (0..batch.num_rows()).map(|row| (users.value(row).to_owned(), times.value(row), offsets.value(row))),
            );
        }
        files.push(rows);
    }
    files
}

async fn offsets(snapshot: &Snapshot) -> Vec<i64> {
    let mut offsets: Vec<i64> = rows_by_file(snapshot).await.into_iter().flatten().map(|row| row.2).collect();
    offsets.sort_unstable();
    offsets
}

async fn append_some(table: &Table, head: &mut Head, steps: std::ops::Range<i64>) {
    for step in steps {
        let day = DAY.checked_add(jiff::Span::new().days(step % 3)).expect("a day");
        let batch = [("u", step % 7, 2 * step), ("v", step % 5, 2 * step + 1)];
        append(table, head, day, &batch, vec![swap("p0", step, step + 1)]).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_compaction_beside_a_writer_a_rival_and_a_reader_changes_no_row() {
    let lake = lake(Arc::new(InMemory::new()));
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append_some(&table, &mut head, 0..60).await;
    let before = table.snapshot().await.expect("readable");
    let settings = settings();
    let rounds = async |lake: Lake| {
        let (mut merged, mut conflicts) = (0, 0);
        for _ in 0..6 {
            let report = lake.maintain(&EVENTS, &settings, false).await.expect("maintained");
            (merged, conflicts) = (merged + report.files_merged, conflicts + report.conflicts);
        }
        (merged, conflicts)
    };
    let (mine, rivals, ()) =
        tokio::join!(rounds(lake.clone()), rounds(lake.clone()), append_some(&table, &mut head, 60..120));
    assert!(mine.0 + rivals.0 >= 60, "{mine:?} {rivals:?}");
    let after = table.snapshot().await.expect("readable");
    assert_eq!(after.txns["p0"], 120, "the writer was never refused");
    assert!(after.files.len() < 30, "{} files", after.files.len());
    assert_eq!(offsets(&after).await, (0..240).collect::<Vec<_>>(), "each row once");
    for rows in rows_by_file(&after).await {
        assert!(rows.is_sorted_by_key(|(user, time, _)| (user.clone(), *time)), "{rows:?}");
    }
    assert_eq!(offsets(&before).await, (0..120).collect::<Vec<_>>(), "a reader of the old version finds its files");
    let days = |snapshot: &Snapshot| snapshot.files.iter().map(|file| file.partition_value).collect::<BTreeSet<_>>();
    assert_eq!(days(&after), days(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_is_no_new_data_to_other_readers() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let lake = lake(memory.clone());
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append_some(&table, &mut head, 0..12).await;
    let report = lake.maintain(&EVENTS, &settings(), false).await.expect("maintained");
    assert_eq!((report.files_merged, report.files_written, report.files_active, report.checkpoint), (12, 3, 3, true));
    let entry = memory.get(&Path::from("some/lake/events/_delta_log/00000000000000000013.json")).await.expect("there");
    let entry = String::from_utf8(entry.bytes().await.expect("whole").to_vec()).expect("JSON");
    assert_eq!(entry.matches("\"dataChange\":false").count(), 5, "{entry}");
    assert!(!entry.contains("\"dataChange\":true") && !entry.contains("\"txn\""), "{entry}");
    let again = lake.maintain(&EVENTS, &settings(), false).await.expect("maintained");
    assert_eq!((again.files_merged, again.checkpoint), (0, false), "nothing is left to do");
    let other = table.delta_table().await.expect("deltalake opens it");
    let rows: usize =
        other.snapshot().expect("loaded").snapshot().log_data().iter().filter_map(|f| f.num_records()).sum();
    assert_eq!(rows, 24);
}

/// A lake whose clock the test moves.
#[expect(clippy::disallowed_methods, reason = "the store in memory dates its objects by the real clock")]
fn with_clock(memory: &Arc<dyn ObjectStore>) -> (Lake, Arc<AtomicI64>) {
    let hours = Arc::new(AtomicI64::new(0));
    let (now, started) = (hours.clone(), Timestamp::now());
    let lake =
        lake(memory.clone()).simulated(move || started + SignedDuration::from_hours(now.load(Ordering::Relaxed)), 1);
    (lake, hours)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_whoever_slept_through_a_log_clean_up_reads_the_table_anew() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (lake, hours) = with_clock(&memory);
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append_some(&table, &mut head, 0..3).await;
    let (mut zombie, sleeper) = (head.clone(), table.snapshot().await.expect("readable"));
    append_some(&table, &mut head, 3..12).await;
    table.log_checkpoint().await.expect("written");
    append_some(&table, &mut head, 12..14).await;

    assert_eq!(table.clean_log(settings().log_retention).await.expect("listed"), 0, "all of it is young");
    hours.store(31 * 24, Ordering::Relaxed);
    let deleted = table.clean_log(settings().log_retention).await.expect("listed");
    assert_eq!(deleted, 12, "entries 0 to 11; the checkpoint stands for them, and what follows it stays");

    // Entry 4 is gone. Who knows version 3 must not take it for the newest, and must not write a second version 4.
    let stale = table.commit(&mut zombie, change(vec![swap("p0", 3, 4)])).await;
    assert!(matches!(stale, Err(CommitError::Fenced { expected: 3, found: 14, .. })), "{stale:?}");
    let refreshed = sleeper.refreshed().await.expect("readable").expect("newer");
    assert_eq!(offsets(&refreshed).await, (0..28).collect::<Vec<_>>());
    let fresh = lake.table(&EVENTS).snapshot().await.expect("readable");
    assert_eq!((fresh.version, fresh.txns["p0"]), (14, 14));
    append_some(&table, &mut head, 14..16).await;
    assert_eq!(offsets(&table.snapshot().await.expect("readable")).await.len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_vacuum_takes_what_is_replaced_or_was_never_added_and_nothing_else() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (lake, hours) = with_clock(&memory);
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append_some(&table, &mut head, 0..12).await;
    let orphan = table.write_file(Some(DAY), &[rows(DAY, &[("u", 0, 999)])]).await.expect("written");
    lake.maintain(&EVENTS, &settings(), false).await.expect("maintained");
    let files = async || {
        let listed: Vec<_> = memory.list(None).try_collect().await.expect("memory lists");
        listed.iter().filter(|object| object.location.as_ref().contains("event_date=")).count()
    };
    assert_eq!(files().await, 12 + 3 + 1);
    assert_eq!(table.vacuum(settings().file_retention).await.expect("listed"), 0, "all of it is young");
    assert_eq!(table.vacuum(SignedDuration::ZERO).await.expect("listed"), 13);
    assert_eq!(files().await, 3);
    assert_eq!(offsets(&table.snapshot().await.expect("readable")).await, (0..24).collect::<Vec<_>>());

    // The writer of the orphan comes back after two days: it may not add a file that is gone.
    hours.store(48, Ordering::Relaxed);
    let late = table.commit(&mut head, Change { add: vec![orphan], ..change(vec![swap("p0", 12, 13)]) }).await;
    assert!(matches!(late, Err(CommitError::TooOld { .. })), "{late:?}");
    append_some(&table, &mut head, 12..13).await;
}

/// A local folder lists its files in any order; whoever takes the list as sorted sees gaps in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_lake_of_many_commits_is_maintained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lake = Lake::open(&folder.path().display().to_string(), &[]).expect("a folder");
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("created");
    append_some(&table, &mut head, 0..200).await;
    let settings = Settings { checkpoint_commits: 50, ..settings() };
    let report = lake.maintain(&EVENTS, &settings, true).await.expect("maintained");
    assert!(report.checkpoint && report.files_active < 40, "{report:?}");
    assert_eq!(offsets(&table.snapshot().await.expect("readable")).await, (0..400).collect::<Vec<_>>());
}
