//! Whole runs on tables in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::TryStreamExt as _;
use jiff::{Timestamp, civil::Date};
use lake::{Change, DataFile, Lake, testing::FaultyStore};
use object_store::{ObjectStore as _, ObjectStoreExt as _, memory::InMemory};
use schemas::{EVENTS, breakdown, rollup::ROLLUP_DAILY};

use super::{
    Ev, Rows, Val, assert_same, batch,
    derive::set_members,
    event,
    meaning::{assert_meant, dump},
    naive::{self, Zones},
    rows_of_table, sort, t, us, utc_date,
};
use crate::{
    Memory, OrgCalendar, OrgDays, Progress, RunReport,
    derive::{Mode, derive},
    memory::LOOKS_MAX,
    refresh, roll_up, run, status,
};

pub(super) const NOON: &str = "2026-06-01T12:00:00Z";
pub(super) const HOUR: i64 = 3_600_000_000;

pub(super) fn lake() -> Lake {
    Lake::with_store(Arc::new(InMemory::new()), "memory:///".parse().expect("a URL"))
}

/// Adds events as files, one per UTC date, and removes `remove`, in one commit.
pub(super) async fn ingest(lake: &Lake, events: &[Ev], remove: Vec<DataFile>) -> Vec<DataFile> {
    let table = lake.table(&EVENTS);
    let mut head = table.create_if_missing().await.expect("the store works");
    let mut days: BTreeMap<Date, Vec<Ev>> = BTreeMap::new();
    for event in events {
        days.entry(utc_date(event)).or_default().push(event.clone());
    }
    let mut add = Vec::new();
    for (date, mut events) in days {
        sort(&mut events);
        add.push(table.write_file(Some(date), &[batch(&events)]).await.expect("the store works"));
    }
    let change =
        Change { operation: "STREAMING UPDATE", add: add.clone(), remove, data_change: true, ..Change::default() };
    table.commit(&mut head, change).await.expect("the store works");
    add
}

/// Compares every breakdown with the plain recompute.
pub(super) async fn assert_broken_down(lake: &Lake, events: &[Ev], zones: &Zones) {
    let expected = naive::breakdowns(events, zones);
    for spec in breakdown::specs() {
        assert_eq!(dump(lake, spec).await, expected[spec.name], "{}", spec.name);
    }
}

async fn roll(lake: &Lake, calendar: &OrgCalendar, now: &str) -> RunReport {
    run(lake, calendar, now.parse().expect("a time"), &()).await.expect("the store works")
}

fn calendar(zone: &str) -> OrgCalendar {
    OrgCalendar::default().with(&"acme".parse().expect("an id"), OrgDays::new(zone, 48).expect("a zone"))
}

fn zones(zone: &str) -> Zones {
    Zones::from([("acme".into(), zone.into())])
}

/// Two people in each of two organisations over six days, some events twice.
pub(super) fn some_events() -> Vec<Ev> {
    let kinds = ["prompt.submitted", "model.completed", "subscription.changed", "usage.metered", "tool.completed"];
    let mut events = Vec::new();
    for index in 0..240_i64 {
        let more = [
            ("product", t(if index % 2 == 0 { "kiro" } else { "copilot" })),
            ("session_id", Val::T(format!("session {}", index / 8))),
            ("status", t("success")),
            ("input_tokens", Val::I(index)),
            ("quantity", Val::D(i128::from(index) * 250_000)),
            ("meter", t("credits")),
            ("tier", Val::T(format!("tier {index}"))),
            ("install_id", t("laptop")),
            ("sequence", Val::I(index * 2)),
        ];
        let org = if index % 3 == 0 { "beta" } else { "acme" };
        let kind = kinds[usize::try_from(index % 5).expect("small")];
        let event = event(org, &format!("user {}", index % 2), us(NOON) + index * 37 * 60_000_000, index, kind, &more);
        if index % 20 == 0 {
            events.push(event.clone());
        }
        events.push(event);
    }
    events
}

/// State, revision and computed_at of a person's only row, or first of rows.
fn history(rows: &Rows, user: &str) -> [String; 3] {
    let row = rows.iter().find(|((_, _, key, ..), _)| key == user).expect("the person has a row").1;
    ["state", "revision", "computed_at"].map(|name| row[name].clone())
}

#[tokio::test]
async fn rollup_equals_a_plain_recompute_and_twice_is_once() {
    let lake = lake();
    let calendar = calendar("America/New_York");
    assert_eq!(roll(&lake, &calendar, NOON).await, RunReport { attempts: 1, ..RunReport::default() }, "no events yet");
    let events = some_events();
    // In three commits, so that days have several files to merge.
    for part in events.chunks(100) {
        ingest(&lake, part, vec![]).await;
    }
    let report = roll(&lake, &calendar, NOON).await;
    let found = rows_of_table(&lake).await;
    assert_same(&found, &naive::rollup(&events, &zones("America/New_York")));
    let rows = found.len() as u64;
    assert_eq!((report.events, report.duplicates_removed, report.people), (240, 12, 4));
    assert_eq!((report.rows, report.rows_added, report.rows_changed), (rows, rows, 0));
    assert_eq!((report.events_version, report.table_version), (Some(3), Some(1)));

    let again = roll(&lake, &calendar, "2027-01-01T00:00:00Z").await;
    assert_eq!((again.table_version, again.days_read, again.rows), (None, 0, rows), "nothing new, nothing read");
    assert_eq!(rows_of_table(&lake).await, found);

    // A new version without new rows (a compaction is like this): nothing is read, and nothing changes but the version.
    ingest(&lake, &[], vec![]).await;
    let moved = roll(&lake, &calendar, "2027-01-01T00:00:00Z").await;
    assert_eq!((moved.table_version, moved.days_read, moved.rows, moved.people), (Some(2), 0, rows, 4));
    assert_eq!(rows_of_table(&lake).await, found);

    let status = status(&lake).await.expect("the store works");
    assert!(status.is_current());
    assert_eq!((status.rows, status.events_version, status.rollup_version), (rows, Some(4), Some(2)));
    assert_eq!(status.provisional_rows + status.final_rows + status.restated_rows, rows);
    assert!(status.provisional_rows > 0 && status.final_rows > 0);
}

#[tokio::test]
async fn states_and_revisions() {
    let lake = lake();
    let calendar = OrgCalendar::default();
    let at = |user: &str, id, hours: i64, recorded_after: i64| {
        let time = us(NOON) + hours * HOUR;
        event("acme", user, time, id, "prompt.submitted", &[("recorded_time", Val::I(time + recorded_after * HOUR))])
    };
    let step = async |events: &[Ev], now: &str| {
        ingest(&lake, events, vec![]).await;
        let report = roll(&lake, &calendar, now).await;
        (rows_of_table(&lake).await, report)
    };
    let (rows, _) = step(&[at("ada", 1, 0, 0), at("bob", 2, 0, 0)], "2026-06-01T13:00:00Z").await;
    assert_eq!(history(&rows, "ada"), ["provisional", "1", "2026-06-01T13:00:00Z"]);
    assert_eq!(rows.values().next().expect("rows")["watermark"], "2026-06-01T12:00:00Z");

    // Changed while provisional; bob's row stays as it is, computed_at and watermark too.
    let (rows, report) = step(&[at("ada", 3, 1, 0)], "2026-06-01T14:00:00Z").await;
    assert_eq!(history(&rows, "ada"), ["provisional", "2", "2026-06-01T14:00:00Z"]);
    assert_eq!(history(&rows, "bob"), ["provisional", "1", "2026-06-01T13:00:00Z"]);
    assert_eq!((report.days_changed, report.rows_changed, report.rows_added), (1, 1, 0));

    // 2026-06-04T00:00Z is the moment. A microsecond before it nothing of the old day changes.
    let mut late = at("cid", 4, 59, 0);
    late.insert("recorded_time", Val::I(us("2026-06-03T23:59:59.999999Z")));
    let (rows, report) = step(&[late.clone()], "2026-06-04T00:00:00Z").await;
    assert_eq!(history(&rows, "ada"), ["provisional", "2", "2026-06-01T14:00:00Z"]);
    assert_eq!((report.days_read, report.days_changed), (1, 1), "what is new touches no other day");

    // Settled: final at the same revision, with the watermark that settled it.
    late.insert("event_id", Val::I(5));
    late.insert("recorded_time", Val::I(us("2026-06-04T00:00:00Z")));
    let (rows, report) = step(&[late], "2026-06-04T00:01:00Z").await;
    assert_eq!(history(&rows, "ada"), ["final", "2", "2026-06-01T14:00:00Z"]);
    assert_eq!(rows.values().next().expect("rows")["watermark"], "2026-06-04T00:00:00Z");
    assert_eq!((report.rows_finalised, report.rows_changed), (2, 1));

    // A later event for a final day; a person who was missing from it.
    let (rows, report) = step(&[at("ada", 6, 2, 100), at("dot", 7, 2, 100)], "2026-06-06T00:00:00Z").await;
    assert_eq!(history(&rows, "ada"), ["restated", "3", "2026-06-06T00:00:00Z"]);
    assert_eq!(history(&rows, "bob"), ["final", "1", "2026-06-01T13:00:00Z"]);
    assert_eq!(history(&rows, "dot"), ["restated", "1", "2026-06-06T00:00:00Z"]);
    assert_eq!((report.rows_changed, report.rows_added), (1, 1));
    let (rows, _) = step(&[at("ada", 8, 3, 100)], "2026-06-06T01:00:00Z").await;
    assert_eq!(history(&rows, "ada"), ["restated", "4", "2026-06-06T01:00:00Z"]);

    // A day whose first event comes when it is over long since is final from the start.
    let (rows, _) = step(&[at("eve", 9, -300, 400)], "2026-06-06T02:00:00Z").await;
    assert_eq!(history(&rows, "eve"), ["final", "1", "2026-06-06T02:00:00Z"]);
}

#[tokio::test]
async fn rows_without_events_vanish() {
    let lake = lake();
    let calendar = OrgCalendar::default();
    let at = |user: &str, id, hours: i64| event("acme", user, us(NOON) + hours * HOUR, id, "prompt.submitted", &[]);
    let first = ingest(&lake, &[at("ada", 1, 0), at("ada", 2, 24)], vec![]).await;
    ingest(&lake, &[at("bob", 3, 0)], vec![]).await;
    roll(&lake, &calendar, NOON).await;
    assert_eq!(rows_of_table(&lake).await.len(), 3);
    ingest(&lake, &[], first).await;
    let report = roll(&lake, &calendar, NOON).await;
    assert_eq!(rows_of_table(&lake).await.keys().map(|key| key.2.as_str()).collect::<Vec<_>>(), ["bob"]);
    assert_eq!((report.rows_removed, report.days_changed, report.rows), (2, 2, 1));
    let files = lake.table(&ROLLUP_DAILY).snapshot().await.expect("the table is there").files;
    assert_eq!(files.len(), 1, "a day without rows has no file");
}

#[tokio::test]
async fn a_changed_zone_moves_that_organisations_rows_alone() {
    let lake = lake();
    let events = some_events();
    ingest(&lake, &events, vec![]).await;
    roll(&lake, &calendar("UTC"), "2026-07-01T00:00:00Z").await;
    let before = rows_of_table(&lake).await;
    let steps = [
        ("Asia/Kathmandu", "2026-07-02T00:00:00Z"),
        ("Pacific/Apia", "2026-07-03T00:00:00Z"),
        ("UTC", "2026-07-04T00:00:00Z"),
    ];
    for (zone, now) in steps {
        let report = roll(&lake, &calendar(zone), now).await;
        assert!(report.rows_changed + report.rows_added > 0, "{zone}");
        let rows = rows_of_table(&lake).await;
        assert_same(&rows, &naive::rollup(&events, &zones(zone)));
        for (key, row) in rows.iter().filter(|(key, _)| key.0 == "beta") {
            assert_eq!(before.get(key), Some(row), "another organisation's row");
        }
    }
}

#[tokio::test]
async fn f04_two_aggregators_are_one() {
    let lake = lake();
    let (calendar, events) = (calendar("Asia/Kathmandu"), some_events());
    let mut so_far = Vec::new();
    for part in events.chunks(60) {
        ingest(&lake, part, vec![]).await;
        so_far.extend_from_slice(part);
        let (one, other) = tokio::join!(roll(&lake, &calendar, NOON), roll(&lake, &calendar, NOON));
        let commits = [one.table_version, other.table_version].iter().flatten().count();
        assert_eq!(commits, 1, "one of them commits, the other finds it done");
        assert_same(&rows_of_table(&lake).await, &naive::rollup(&so_far, &zones("Asia/Kathmandu")));
        assert_broken_down(&lake, &so_far, &zones("Asia/Kathmandu")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r08_a_failing_store_changes_nothing_or_all() {
    let store = FaultyStore::new(Arc::new(InMemory::new()), 7);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///".parse().expect("a URL"));
    let (calendar, events) = (calendar("America/New_York"), some_events());
    let (mut so_far, mut before, mut failed) = (Vec::new(), Rows::new(), 0);
    let mut failed_to_derive = 0;
    for part in events.chunks(60) {
        ingest(&lake, part, vec![]).await;
        so_far.extend_from_slice(part);
        let expected = naive::rollup(&so_far, &zones("America/New_York"));
        loop {
            store.set(10);
            let now = NOON.parse().expect("a time");
            let outcome = roll_up(&lake, &calendar, now, &(), &mut Memory::default()).await;
            store.set(0);
            if outcome.is_ok() {
                break;
            }
            failed += 1;
            let there = lake.table(&ROLLUP_DAILY).head().await.expect("the store works again").is_some();
            let rows = if there { rows_of_table(&lake).await } else { Rows::new() };
            if rows != before {
                // The commit landed, and only its answer was lost in the end: then it is whole.
                assert_same(&rows, &expected);
            }
        }
        before = rows_of_table(&lake).await;
        assert_same(&before, &expected);
        // However many runs ended between the commits.
        assert_broken_down(&lake, &so_far, &zones("America/New_York")).await;
        // Far more requests: at 10 % none would ever get through.
        loop {
            store.set(2);
            let outcome = derive(&lake, Mode::Refresh).await;
            store.set(0);
            if outcome.is_ok() {
                break;
            }
            failed_to_derive += 1;
        }
        assert_meant(&lake, None).await;
    }
    assert!(failed_to_derive > 0, "here too");
    assert!(failed > 0, "the store failed now and then");
}

#[tokio::test]
async fn a_run_that_finds_nothing_new_looks_at_the_ends_of_logs() {
    let memory_store = Arc::new(InMemory::new());
    let store = FaultyStore::new(memory_store.clone(), 1);
    let lake = Lake::with_store(Arc::new(store.clone()), "memory:///".parse().expect("a URL"));
    let (mut memory, calendar) = (Memory::default(), OrgCalendar::default());
    let mut again = async || {
        let (before, now) = (store.operations(), NOON.parse().expect("a time"));
        let report = refresh(&lake, &calendar, now, &(), &mut memory).await.expect("the store works");
        (report, store.operations() - before)
    };
    ingest(&lake, &some_events(), vec![]).await;
    let (first, _) = again().await;
    let (second, cost) = again().await;
    assert_eq!((second.rows, second.table_version), (first.rows, None));
    assert!(cost <= 6, "{cost} requests");

    set_members(&lake, &[(0, 0, 0, None)]).await;
    assert!(again().await.0.derived_changed > 0, "a new team is noticed");
    set_members(&lake, &[(0, 0, 0, None), (1, 0, 0, None)]).await;
    assert!(again().await.0.derived_changed > 0, "and a new member");
    ingest(&lake, &[event("acme", "eve", us(NOON), 1_000, "prompt.submitted", &[])], vec![]).await;
    assert_eq!(again().await.0.rows_added, 1);
    assert_eq!(again().await.0.rows, first.rows + 1);

    // Who deletes a table to have it computed anew leaves no entry in a log.
    let mut objects = memory_store.list(Some(&"rollup_daily".into()));
    while let Some(object) = objects.try_next().await.expect("it is in memory") {
        memory_store.delete(&object.location).await.expect("it is in memory");
    }
    for _ in 0..=LOOKS_MAX {
        again().await;
    }
    assert_eq!(rows_of_table(&lake).await.len() as u64, first.rows + 1);
}

#[derive(Default)]
struct Told {
    planned: AtomicU64,
    days: AtomicU64,
}

impl Progress for Told {
    fn planned(&self, days: u64) {
        self.planned.store(days, Ordering::Relaxed);
    }

    fn day(&self, _: Date, _: bool) {
        self.days.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn progress_is_told() {
    let lake = lake();
    ingest(&lake, &some_events(), vec![]).await;
    let told = Told::default();
    let report = run(&lake, &OrgCalendar::default(), Timestamp::UNIX_EPOCH, &told).await.expect("the store works");
    assert_eq!((told.planned.into_inner(), told.days.into_inner()), (report.days_read, report.days_read));
}
