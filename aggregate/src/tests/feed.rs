//! The change feed against what the rollup was and is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use lake::Lake;
use schemas::{
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
    rollup::ROLLUP_DAILY,
};

use super::{
    Ev, Rows, Table, event,
    meaning::dump,
    refresh::World,
    rows_of_table, t,
    table::{HOUR, NOON},
    us,
};
use crate::{Memory, OrgCalendar, OrgDays, Rebuild, rebuild, refresh, roll_up};

/// What the rollup was after each run.
#[derive(Default)]
pub(super) struct Journal {
    rows: Rows,
    revisions: Table,
    superseded: Table,
}

type Fields = BTreeMap<String, String>;

/// State, rows and events of a day's rows.
fn side<'a>(rows: impl Iterator<Item = &'a Fields>) -> (String, String, String) {
    let rows: Vec<&Fields> = rows.collect();
    let any = |state: &str| rows.iter().any(|row| row["state"] == state);
    let state = ["provisional", "restated", "final"].into_iter().find(|state| any(state)).unwrap_or("NULL");
    let events: i64 = rows.iter().map(|row| row["events_received"].parse::<i64>().expect("a number")).sum();
    (state.to_owned(), rows.len().to_string(), events.to_string())
}

/// Columns that say when, which no other knows.
fn without_times(table: Table) -> Table {
    let when = ["committed_at", "committed_date", "superseded_at", "superseded_date", "events_version", "reason"];
    let drop = |mut row: Fields| {
        when.iter().for_each(|name| drop(row.remove(*name)));
        row
    };
    table.into_iter().map(drop).collect()
}

impl Journal {
    /// Takes down what a run made of the rollup, and compares it with what the feed tells. `version` is what the run committed.
    pub(super) async fn compare(&mut self, lake: &Lake, version: Option<i64>) {
        let rows = rows_of_table(lake).await;
        let days: BTreeSet<(&String, &String)> =
            self.rows.keys().chain(rows.keys()).map(|key| (&key.0, &key.1)).collect();
        for (org, date) in days {
            let of = |rows: &'_ Rows| -> Rows {
                let own = rows.iter().filter(|(key, _)| (&key.0, &key.1) == (org, date));
                own.map(|(key, row)| (key.clone(), row.clone())).collect()
            };
            let (before, after) = (of(&self.rows), of(&rows));
            let (mut added, mut changed, mut removed, mut finalised) = (0, 0, 0, 0);
            for (key, row) in &after {
                match before.get(key) {
                    None => added += 1,
                    Some(old) if old["revision"] != row["revision"] => changed += 1,
                    Some(old) => finalised += usize::from(old["state"] != row["state"]),
                }
            }
            for (key, row) in &before {
                let is_same = after.get(key).is_some_and(|new| new["revision"] == row["revision"]);
                removed += usize::from(!after.contains_key(key));
                if !is_same && row["state"] != "provisional" {
                    let version = version.expect("without a commit nothing changes").to_string();
                    let mut row = row.clone();
                    let (org, date, user, product, client_type) = key;
                    let key = [
                        ("org_id", org),
                        ("activity_date", date),
                        ("user_key", user),
                        ("product", product),
                        ("client_type", client_type),
                    ];
                    row.extend(key.map(|(name, value)| (name.to_owned(), value.clone())));
                    row.insert("rollup_version".into(), version);
                    assert!(self.superseded.insert(row));
                }
            }
            if added + changed + removed + finalised == 0 {
                continue;
            }
            let ((state, count, events), (state_after, count_after, events_after)) =
                (side(before.values()), side(after.values()));
            let revision = [
                ("org_id", org.clone()),
                ("activity_date", date.clone()),
                ("rollup_version", version.expect("without a commit nothing changes").to_string()),
                ("state_before", state),
                ("state_after", state_after),
                ("rows_before", count),
                ("rows_after", count_after),
                ("events_before", events),
                ("events_after", events_after),
                ("rows_added", added.to_string()),
                ("rows_changed", changed.to_string()),
                ("rows_removed", removed.to_string()),
                ("rows_finalised", finalised.to_string()),
            ];
            assert!(self.revisions.insert(revision.map(|(name, value)| (name.to_owned(), value)).into()));
        }
        if version.is_some() {
            assert_eq!(without_times(dump(lake, &ROLLUP_REVISIONS).await), self.revisions);
            assert_eq!(without_times(dump(lake, &ROLLUP_SUPERSEDED).await), self.superseded);
        }
        self.rows = rows;
    }
}

fn prompt(hours: i64, recorded_hours: i64, id: i64) -> Ev {
    let recorded = us(NOON) + recorded_hours * HOUR;
    event(
        "acme",
        "ada",
        us(NOON) + hours * HOUR,
        id,
        "prompt.submitted",
        &[("recorded_time", super::Val::I(recorded)), ("product", t("kiro"))],
    )
}

/// Reason, state and events before and after, of each revision, by version and date.
async fn revisions(lake: &Lake) -> Vec<String> {
    let mut rows: Vec<Fields> = dump(lake, &ROLLUP_REVISIONS).await.into_iter().collect();
    rows.sort_by_key(|row| (row["rollup_version"].parse::<i64>().expect("a number"), row["activity_date"].clone()));
    let line = |row: &Fields| {
        let of = |name: &str| row[name].as_str();
        format!(
            "{} {} {}: {} {} -> {} {}",
            of("rollup_version"),
            &of("activity_date")[5..],
            of("reason"),
            of("state_before"),
            of("events_before"),
            of("state_after"),
            of("events_after")
        )
    };
    rows.iter().map(line).collect()
}

#[tokio::test]
async fn each_change_of_a_day_has_its_reason() {
    let mut world = World::new().await;
    let calendar = |zone: &str| {
        OrgCalendar::default().with(&"acme".parse().expect("an id"), OrgDays::new(zone, 48).expect("a zone"))
    };
    let now = NOON.parse().expect("a time");
    let mut memory = Memory::default();
    let mut step = async |world: &mut World, events: &[Ev], zone: &str| {
        let files = world.write(events).await;
        world.commit(files, vec![], true).await;
        refresh(&world.lake, &calendar(zone), now, &(), &mut memory).await.expect("the store works")
    };
    step(&mut world, &[prompt(0, 0, 1)], "Europe/London").await;
    step(&mut world, &[prompt(1, 1, 2)], "Europe/London").await;
    assert_eq!(step(&mut world, &[prompt(72, 72, 3)], "Europe/London").await.revisions, 2);
    step(&mut world, &[prompt(2, 73, 4)], "Europe/London").await;
    step(&mut world, &[prompt(3, 74, 5)], "Europe/London").await;
    step(&mut world, &[], "Asia/Kolkata").await;
    world.commit(vec![], vec![2], true).await;
    step(&mut world, &[], "Asia/Kolkata").await;
    assert_eq!(
        revisions(&world.lake).await,
        [
            "1 06-01 first: NULL 0 -> provisional 1",
            "2 06-01 events: provisional 1 -> provisional 2",
            "3 06-01 settled: provisional 2 -> final 2",
            "3 06-04 events: NULL 0 -> provisional 1",
            "4 06-01 late_events: final 2 -> restated 3",
            "5 06-01 late_events: restated 3 -> restated 4",
            "6 06-01 calendar: restated 4 -> restated 4",
            "6 06-04 calendar: provisional 1 -> provisional 1",
            "7 06-04 erasure: provisional 1 -> NULL 0",
        ]
    );
    let superseded = dump(&world.lake, &ROLLUP_SUPERSEDED).await;
    let stood: BTreeSet<_> = superseded
        .iter()
        .map(|row| [&row["rollup_version"], &row["state"], &row["prompts"]].map(String::as_str))
        .collect();
    assert_eq!(stood, [["4", "final", "2"], ["5", "restated", "3"], ["6", "restated", "4"]].into());
}

#[tokio::test]
async fn what_a_vacuum_took_is_not_guessed() {
    let mut world = World::new().await;
    let (calendar, now) = (OrgCalendar::default(), NOON.parse().expect("a time"));
    for id in 1..4 {
        let files = world.write(&[prompt(id, id, id)]).await;
        world.commit(files, vec![], true).await;
        roll_up(&world.lake, &calendar, now, &(), &mut Memory::default()).await.expect("the store works");
    }
    let vacuum = world.lake.table(&ROLLUP_DAILY).vacuum(SignedDuration::ZERO).await;
    assert!(vacuum.is_ok(), "{vacuum:?}");
    // What the rollup is now is told; what it was in between is not.
    rebuild(&world.lake, &calendar, now, &(), &Rebuild::default()).await.expect("the store works");
    assert_eq!(revisions(&world.lake).await, ["3 06-01 events: NULL NULL -> provisional 3"]);
    refresh(&world.lake, &calendar, now, &(), &mut Memory::default()).await.expect("the store works");
    assert_eq!(revisions(&world.lake).await.len(), 1, "each version is told once");
}
