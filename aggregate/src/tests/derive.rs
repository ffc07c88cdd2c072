//! Derived tables: windows, chains and teams over many days, against their meaning and against a computation from nothing.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, Date32Array, RecordBatch, StringArray},
    datatypes::{Schema, SchemaRef},
};
use jiff::{ToSpan as _, civil::Date};
use lake::{Change, Lake};
use proptest::prelude::*;
use schemas::{
    EVENTS, TEAM_MEMBERS, TableSpec,
    derived::{derived, source, specs},
    epoch_days,
};

use super::{
    Ev, Val, batch, event,
    meaning::assert_meant,
    refresh::World,
    sort, t,
    table::{HOUR, NOON, lake},
    us, utc_date,
};
use crate::{Memory, OrgCalendar, refresh, verify};

/// A team's member: person, team, first day, day after the last; days since the first event's.
pub(super) type Member = (usize, usize, i64, Option<i64>);

/// A day so many days after the first event's.
pub(super) fn day(number: i64) -> Date {
    utc_date(&event("", "", us(NOON), 0, "", &[])).saturating_add(number.days())
}

/// Writes `team_members` anew.
pub(super) async fn set_members(lake: &Lake, members: &[Member]) {
    let table = lake.table(&TEAM_MEMBERS);
    table.create_if_missing().await.expect("the store works");
    let snapshot = table.snapshot().await.expect("the store works");
    let mut members = members.to_vec();
    members.sort_by_key(|(user, team, from, _)| (*team, *user, *from));
    let text = |of: &dyn Fn(&Member) -> String| -> ArrayRef {
        Arc::new(members.iter().map(|member| Some(of(member))).collect::<StringArray>())
    };
    let date = |of: &dyn Fn(&Member) -> Option<i64>| -> ArrayRef {
        let days = members.iter().map(|member| of(member).map(|number| epoch_days(day(number))));
        Arc::new(days.collect::<Date32Array>())
    };
    let columns = vec![
        text(&|_| "acme".into()),
        text(&|member| format!("team {}", member.1)),
        text(&|member| format!("user {}", member.0)),
        date(&|member| Some(member.2)),
        date(&|member| member.3),
    ];
    let rows = RecordBatch::try_new(TEAM_MEMBERS.schema(), columns).expect("columns of the schema");
    let add = vec![table.write_file(None, &[rows]).await.expect("the store works")];
    let change =
        Change { operation: "WRITE", add, remove: snapshot.files.clone(), data_change: true, ..Change::default() };
    table.commit(&mut snapshot.head(), change).await.expect("the store works");
}

#[test]
fn definitions_are_sound() {
    let mut known = vec!["rollup_daily", "team_members"];
    for (derived, spec) in derived().iter().zip(specs()) {
        assert!(!derived.sql().is_empty());
        assert!(
            derived.reads.iter().all(|read| known.contains(&read.table.as_str())),
            "{}: a table comes after those it reads",
            spec.name
        );
        assert!(
            derived.key.iter().all(|key| derived.columns.iter().any(|column| column.name == *key && !column.nullable))
        );
        assert!(!derived.comment.is_empty() && derived.version > 0 && !derived.owner.is_empty());
        known.push(spec.name);
    }
}

#[tokio::test]
async fn a_table_of_an_older_version_gets_the_columns_that_it_lacks() {
    fn older(name: &'static str) -> SchemaRef {
        let schema = source(name).expect("a derived table").schema();
        Arc::new(Schema::new(schema.fields()[..schema.fields().len() - 1].to_vec()))
    }
    let mut world = World::new().await;
    let prompt = |hours: i64, id: i64| event("acme", "ada", us(NOON) + hours * HOUR, id, "prompt.submitted", &[]);
    let files = world.write(&[prompt(0, 0), prompt(24, 1)]).await;
    world.commit(files, vec![], true).await;
    let spec = specs().iter().find(|spec| spec.name == "client_mix").expect("a derived table");
    let older: &'static TableSpec = Box::leak(Box::new(TableSpec { schema_of: older, ..*spec }));
    let table = world.lake.table(older);
    table.create_if_missing().await.expect("the store works");
    // A row of the older version, on a day that is computed again.
    let columns = older
        .schema()
        .fields()
        .iter()
        .skip(1)
        .map(|field| arrow::array::new_null_array(field.data_type(), 0))
        .collect();
    let schema = Arc::new(Schema::new(older.schema().fields()[1..].to_vec()));
    let rows = RecordBatch::try_new(schema, columns).expect("columns of the schema");
    let add = vec![table.write_file(Some(day(0)), &[rows]).await.expect("the store works")];
    let mut head = table.head().await.expect("the store works").expect("it is there");
    let change = Change { operation: "WRITE", add, data_change: true, ..Change::default() };
    table.commit(&mut head, change).await.expect("the store works");
    let now = NOON.parse().expect("a time");
    refresh(&world.lake, &OrgCalendar::default(), now, &(), &mut Memory::default()).await.expect("the store works");
    assert_meant(&world.lake, None).await;
    let head = world.lake.table(spec).head().await.expect("the store works").expect("it is there");
    let last = spec.schema().fields().last().expect("columns").name().clone();
    assert!(head.schema_json().contains(&format!("\"{last}\"")), "{}", head.schema_json());
}

/// Events of some people over many days: person, day, client, and whether it is use.
type Act = (usize, i64, usize, bool);

async fn many_days(first: &[Act], then: &[Act], members: &[Member]) {
    let lake = lake();
    let (calendar, mut memory, mut id) = (OrgCalendar::default(), Memory::default(), 0);
    lake.table(&EVENTS).create_if_missing().await.expect("the store works");
    set_members(&lake, members).await;
    for acts in [first, then] {
        let mut events: BTreeMap<Date, Vec<Ev>> = BTreeMap::new();
        for (user, number, client, use_it) in acts {
            id += 1;
            let kind = if *use_it { "prompt.submitted" } else { "subscription.changed" };
            let more = [
                ("product", t(["kiro", "cursor"][client % 2])),
                ("state", t(["active", "expired"][client / 2])),
                ("sequence", Val::I(id)),
            ];
            let made = event("acme", &format!("user {user}"), us(NOON) + number * 24 * HOUR, id, kind, &more);
            events.entry(utc_date(&made)).or_default().push(made);
        }
        let mut add = Vec::new();
        for (date, mut events) in events {
            sort(&mut events);
            add.push(lake.table(&EVENTS).write_file(Some(date), &[batch(&events)]).await.expect("the store works"));
        }
        let mut head = lake.table(&EVENTS).head().await.expect("the store works").expect("it is there");
        let change = Change { operation: "WRITE", add, data_change: true, ..Change::default() };
        lake.table(&EVENTS).commit(&mut head, change).await.expect("the store works");
        let now = NOON.parse().expect("a time");
        refresh(&lake, &calendar, now, &(), &mut memory).await.expect("the store works");
        assert_meant(&lake, Some(members)).await;
    }
    let found = verify(&lake, &calendar, NOON.parse().expect("a time"), &()).await.expect("the store works");
    assert_eq!(
        (found.derived_changed, found.derived_computed > 0),
        (0, true),
        "what is left is what all of it would be"
    );
}

#[tokio::test]
async fn what_was_known_of_erased_days_is_forgotten() {
    let mut world = World::new().await;
    let (calendar, mut memory, now) = (OrgCalendar::default(), Memory::default(), NOON.parse().expect("a time"));
    let prompt =
        |user: &str, hours: i64, id: i64| event("acme", user, us(NOON) + hours * HOUR, id, "prompt.submitted", &[]);
    let files = world.write(&[prompt("ada", 0, 0), prompt("eve", 24 * 70, 1), prompt("ada", 24 * 71, 2)]).await;
    world.commit(files, vec![], true).await;
    refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
    assert_meant(&world.lake, None).await;
    world.commit(vec![], vec![0], true).await;
    refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
    assert_meant(&world.lake, None).await;
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6)
    ) })]
    #[test]
    fn windows_of_weeks_and_months_are_exact(
        first in prop::collection::vec((0..4_usize, 0..90_i64, 0..4_usize, prop::bool::weighted(0.8)), 1..40),
        then in prop::collection::vec((0..4_usize, 0..95_i64, 0..4_usize, prop::bool::weighted(0.8)), 1..4),
        members in prop::collection::vec((0..4_usize, 0..2_usize, 0..60_i64, prop::option::of(60..90_i64)), 1..6),
    ) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(many_days(&first, &then, &members));
    }
}
