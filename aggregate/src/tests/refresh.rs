//! Runs that compute what is new, against runs that compute everything, against the plain recompute.

use std::collections::BTreeMap;

use jiff::{SignedDuration, civil::Date};
use lake::{Change, DataFile, Lake};
use proptest::prelude::*;
use schemas::{EVENTS, breakdown};

use super::{
    Ev, Val, assert_same, batch,
    derive::{Member, set_members},
    event,
    feed::Journal,
    meaning::{assert_meant, dump},
    naive, rows_of_table, sort, t,
    table::{HOUR, NOON, assert_broken_down, lake},
    us, utc_date,
};
use crate::{Memory, OrgCalendar, OrgDays, Rebuild, rebuild, refresh, run, verify};

const ORGS: [&str; 2] = ["acme", "beta"];
const ZONES: [&str; 4] = ["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"];
const KINDS: [&str; 9] = [
    "prompt.submitted",
    "subscription.changed",
    "model.completed",
    "subscription.changed",
    "telemetry.status",
    "tool.completed",
    "tool.decided",
    "suggestion.shown",
    "suggestion.resolved",
];

/// What happens between two runs.
#[derive(Clone, Debug)]
enum Step {
    /// Events: organisation, person, hour, kind, hours until recorded.
    Events(Vec<(usize, usize, i64, usize, i64)>),
    /// Events that another aggregator rolls up.
    Elsewhere(Vec<(usize, usize, i64, usize, i64)>),
    /// Some events that are there already, sent again.
    Copies(usize),
    /// Files of a date merged into one, and deleted.
    Compact,
    /// A file with its rows taken away.
    Erase(usize),
    /// Another zone and lateness for an organisation.
    Calendar(usize, usize, u32),
    /// One organisation's days computed again, all or from a day on.
    Rebuild(usize, Option<i8>),
    /// Teams with these members.
    Teams(Vec<Member>),
    /// A new process.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    // At any hour, or in the evening, which is another day in some of the zones.
    let hour = || prop_oneof![0..144_i64, (0..6_i64).prop_map(|day| 24 * day + 10)];
    let event = || (0..2_usize, 0..3_usize, hour(), 0..KINDS.len(), prop_oneof![Just(0_i64), 0..100_i64]);
    prop_oneof![
        8 => prop::collection::vec(event(), 1..6).prop_map(Step::Events),
        2 => prop::collection::vec(event(), 1..6).prop_map(Step::Elsewhere),
        1 => (1..4_usize).prop_map(Step::Copies),
        2 => Just(Step::Compact),
        1 => (0..8_usize).prop_map(Step::Erase),
        2 => (0..2_usize, 0..ZONES.len(), prop::sample::select(vec![0_u32, 48, 48, 200]))
            .prop_map(|(org, zone, hours)| Step::Calendar(org, zone, hours)),
        1 => (0..2_usize, prop::option::of(1..7_i8)).prop_map(|(org, from)| Step::Rebuild(org, from)),
        1 => prop::collection::vec((0..3_usize, 0..2_usize, 0..4_i64, prop::option::of(3..6_i64)), 0..4).prop_map(Step::Teams),
        2 => Just(Step::Restart),
    ]
}

/// A lake with `events`, and which events lie in which file.
pub(super) struct World {
    pub(super) lake: Lake,
    files: Vec<(DataFile, Vec<Ev>)>,
    members: Option<Vec<Member>>,
}

impl World {
    pub(super) async fn new() -> Self {
        let lake = lake();
        lake.table(&EVENTS).create_if_missing().await.expect("the store works");
        Self { lake, files: Vec::new(), members: None }
    }

    pub(super) async fn write(&self, events: &[Ev]) -> Vec<(DataFile, Vec<Ev>)> {
        let mut days: BTreeMap<Date, Vec<Ev>> = BTreeMap::new();
        for event in events {
            days.entry(utc_date(event)).or_default().push(event.clone());
        }
        let mut files = Vec::new();
        for (date, mut events) in days {
            sort(&mut events);
            let file = self.lake.table(&EVENTS).write_file(Some(date), &[batch(&events)]).await;
            files.push((file.expect("the store works"), events));
        }
        files
    }

    pub(super) async fn commit(&mut self, add: Vec<(DataFile, Vec<Ev>)>, remove: Vec<usize>, data_change: bool) {
        let table = self.lake.table(&EVENTS);
        let snapshot = table.snapshot().await.expect("the store works");
        let active = |path: &str| snapshot.files.iter().find(|file| file.path == path).expect("it is active").clone();
        let change = Change {
            operation: "WRITE",
            add: add.iter().map(|(file, _)| file.clone()).collect(),
            remove: remove.iter().map(|index| active(&self.files[*index].0.path)).collect(),
            data_change,
            ..Change::default()
        };
        table.commit(&mut snapshot.head(), change).await.expect("the store works");
        let mut index = 0;
        self.files.retain(|_| {
            index += 1;
            !remove.contains(&(index - 1))
        });
        self.files.extend(add);
    }

    fn events(&self) -> Vec<Ev> {
        self.files.iter().flat_map(|(_, events)| events.clone()).collect()
    }

    async fn step(&mut self, step: &Step, ids: &mut i64) {
        match step {
            Step::Events(events) | Step::Elsewhere(events) => {
                let fresh: Vec<Ev> = events
                    .iter()
                    .map(|(org, user, hour, kind, late)| {
                        *ids += 1;
                        let time = us(NOON) + hour * HOUR;
                        let more = [
                            ("recorded_time", Val::I(time + late * HOUR)),
                            ("product", t("kiro")),
                            ("tier", Val::T(format!("tier {}", *ids % 3))),
                            ("status", t("success")),
                            ("input_tokens", Val::I(*ids)),
                            ("reports", t("prompt,model")),
                            ("response_model", Val::T(format!("model {}", *ids % 3))),
                            ("tool", Val::T(format!("tool {}", *ids % 2))),
                            ("decision", t(["accept", "reject", "modify"][*ids as usize % 3])),
                            ("outcome", t(["accepted", "dismissed"][*ids as usize % 2])),
                            ("install_id", Val::T(format!("laptop {user}"))),
                            ("sequence", Val::I(*ids)),
                        ];
                        event(ORGS[*org], &format!("user {user}"), time, *ids, KINDS[*kind], &more)
                    })
                    .collect();
                let files = self.write(&fresh).await;
                self.commit(files, vec![], true).await;
            }
            Step::Copies(count) => {
                let copies: Vec<Ev> = self.events().into_iter().take(*count).collect();
                let files = self.write(&copies).await;
                self.commit(files, vec![], true).await;
            }
            Step::Compact => {
                let files = self.write(&self.events()).await;
                let all = (0..self.files.len()).collect();
                self.commit(files, all, false).await;
                let deleted = self.lake.table(&EVENTS).vacuum(SignedDuration::ZERO).await;
                assert!(deleted.is_ok(), "{deleted:?}");
            }
            Step::Erase(index) if *index < self.files.len() => self.commit(vec![], vec![*index], true).await,
            Step::Teams(members) => {
                set_members(&self.lake, members).await;
                self.members = Some(members.clone());
            }
            Step::Erase(_) | Step::Calendar(..) | Step::Rebuild(..) | Step::Restart => {}
        }
    }
}

/// After each step that says so, and the last, a run.
async fn plays_out(steps: &[(Step, bool)]) {
    let (mut world, mut twin) = (World::new().await, World::new().await);
    let (mut memory, mut ids, mut twin_ids) = (Memory::default(), 0, 0);
    let (mut calendar, mut zones) = (OrgCalendar::default(), naive::Zones::new());
    let mut journal = Journal::default();
    for (number, (step, runs)) in steps.iter().enumerate() {
        world.step(step, &mut ids).await;
        twin.step(step, &mut twin_ids).await;
        match step {
            Step::Calendar(org, zone, hours) => {
                let (org, zone) = (ORGS[*org], ZONES[*zone]);
                calendar.set(&org.parse().expect("an id"), OrgDays::new(zone, *hours).expect("a zone"));
                zones.insert(org.into(), zone.into());
            }
            Step::Restart => memory = Memory::default(),
            _ => {}
        }
        if !runs && number + 1 < steps.len() {
            continue;
        }
        let now = jiff::Timestamp::from_microsecond(us(NOON) + number as i64 * HOUR).expect("a time");
        let mut of_another = Memory::default();
        let memory = if matches!(step, Step::Elsewhere(_)) { &mut of_another } else { &mut memory };
        let report = match step {
            Step::Rebuild(org, from) => {
                let from = from.map(|day| jiff::civil::date(2026, 6, day));
                let rebuilt = Rebuild { from, org: Some(ORGS[*org].parse().expect("an id")), ..Rebuild::default() };
                rebuild(&world.lake, &calendar, now, &(), &rebuilt).await
            }
            _ => refresh(&world.lake, &calendar, now, &(), memory).await,
        };
        let report = report.expect("the store works");
        rebuild(&twin.lake, &calendar, now, &(), &Rebuild::default()).await.expect("the store works");
        let rows = rows_of_table(&world.lake).await;
        assert_same(&rows, &naive::rollup(&world.events(), &zones));
        assert_broken_down(&world.lake, &world.events(), &zones).await;
        assert_eq!(rows, rows_of_table(&twin.lake).await, "with its history");
        journal.compare(&world.lake, report.table_version).await;
        assert_meant(&world.lake, world.members.as_deref()).await;
        for spec in schemas::derived::specs() {
            assert_eq!(dump(&world.lake, spec).await, dump(&twin.lake, spec).await, "{}", spec.name);
        }
        let people: std::collections::BTreeSet<_> = rows.keys().map(|key| (&key.0, &key.2)).collect();
        assert_eq!(report.rows, rows.len() as u64);
        if report.table_version.is_some() {
            assert_eq!(report.people, people.len() as u64);
        }
    }
}

proptest! {
    // On demand: PROPTEST_CASES=50000.
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
    ) })]
    #[test]
    fn a_run_over_what_is_new_is_a_run_over_everything(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.7)), 1..10)
    ) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(plays_out(&steps));
    }
}

fn plan(user: &str, hours: i64, id: i64) -> Ev {
    let more = [("tier", Val::T(format!("tier {id}"))), ("product", t("kiro"))];
    event("acme", user, us(NOON) + hours * HOUR, id, "subscription.changed", &more)
}

fn prompt(user: &str, hours: i64, id: i64) -> Ev {
    event("acme", user, us(NOON) + hours * HOUR, id, "prompt.submitted", &[("product", t("kiro"))])
}

#[tokio::test]
async fn it_costs_the_days_that_are_touched() {
    let (mut world, calendar) = (World::new().await, OrgCalendar::default());
    let mut memory = Memory::default();
    let mut days_and_events_read = async |world: &mut World, events: &[Ev]| {
        let files = world.write(events).await;
        world.commit(files, vec![], true).await;
        let now = NOON.parse().expect("a time");
        let report = refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
        assert_same(&rows_of_table(&world.lake).await, &naive::rollup(&world.events(), &naive::Zones::new()));
        (report.days_read, report.events)
    };
    let first: Vec<Ev> =
        (0..10).flat_map(|day| [prompt("ada", 24 * day, day), prompt("eve", 24 * day, 50 + day)]).collect();
    let world = &mut world;
    assert_eq!(days_and_events_read(world, &first).await, (10, 20));
    assert_eq!(
        days_and_events_read(world, &[prompt("ada", 216, 20)]).await,
        (1, 2),
        "an event of today, for Ada alone"
    );
    assert_eq!(days_and_events_read(world, &[prompt("ada", 48, 21)]).await, (1, 2), "a late one");
    assert_eq!(days_and_events_read(world, &[prompt("bob", 216, 22)]).await, (1, 1), "a new person");
    assert_eq!(days_and_events_read(world, &[plan("ada", 216, 23)]).await, (1, 3), "a plan of today");
    assert_eq!(days_and_events_read(world, &[plan("ada", 168, 24)]).await.0, 3, "a late plan: the days after it too");
    assert_eq!(days_and_events_read(world, &[prompt("bob", 192, 25)]).await.0, 2, "an earlier first day");
    assert_eq!(days_and_events_read(world, &[prompt("cid", 24, 26)]).await, (1, 1), "someone without later days");
}

#[tokio::test]
async fn it_costs_the_organisation_that_is_touched() {
    let (mut world, mut calendar) = (World::new().await, OrgCalendar::default());
    let (acme, now) = ("acme".parse().expect("an id"), NOON.parse().expect("a time"));
    let of = |org: &'static str, day: i64| {
        let more = [("product", t("kiro"))];
        // In the evening, which is the next day in Tokyo.
        event(org, "ada", us(NOON) + 8 * HOUR + 24 * HOUR * day, day, "prompt.submitted", &more)
    };
    let events: Vec<Ev> = (0..10).flat_map(|day| [of("acme", day), of("beta", day), of("gamma", day)]).collect();
    let files = world.write(&events).await;
    world.commit(files, vec![], true).await;
    let mut memory = Memory::default();
    let report = refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
    assert_eq!((report.events, report.people), (30, 3));
    calendar.set(&acme, OrgDays::new("Asia/Tokyo", 48).expect("a zone"));
    let report = refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
    assert_eq!((report.events, report.people), (10, 3), "another zone");
    let zones = naive::Zones::from([("acme".into(), "Asia/Tokyo".into())]);
    assert_same(&rows_of_table(&world.lake).await, &naive::rollup(&events, &zones));
    calendar.set(&"delta".parse().expect("an id"), OrgDays::default());
    let report = refresh(&world.lake, &calendar, now, &(), &mut memory).await.expect("the store works");
    assert_eq!((report.events, report.rows), (0, 30), "a new organisation that has no events");
    let rebuilt = Rebuild { org: Some("beta".parse().expect("an id")), ..Rebuild::default() };
    let report = rebuild(&world.lake, &calendar, now, &(), &rebuilt).await.expect("the store works");
    assert_eq!((report.events, report.rows_changed, report.rows), (10, 0, 30), "a rebuild of one");
    calendar.set(&acme, OrgDays::default());
    let report = refresh(&world.lake, &calendar, now, &(), &mut Memory::default()).await.expect("the store works");
    assert_eq!((report.events, report.people), (10, 3), "back to the default");
}

#[tokio::test]
async fn a_day_computed_for_others_is_one_left_as_it_is() {
    // Both at once: a person of the second organisation gets an earlier first day, and one of the first an event on the day after.
    let known = Step::Events(vec![(1, 1, 84, 0, 0)]);
    plays_out(&[(known, true), (Step::Events(vec![(1, 1, 12, 0, 0), (0, 0, 84, 0, 0)]), true)]).await;
}

#[tokio::test]
async fn a_rebuild_mends_and_verify_tells() {
    let (mut world, calendar) = (World::new().await, OrgCalendar::default());
    let now = NOON.parse().expect("a time");
    let answer = event("acme", "ada", us(NOON), 8, "model.completed", &[("product", t("kiro"))]);
    let events: Vec<Ev> = (0..4).map(|day| prompt("ada", 24 * day, day)).chain([plan("ada", 25, 9), answer]).collect();
    let files = world.write(&events).await;
    world.commit(files, vec![], true).await;
    run(&world.lake, &calendar, now, &()).await.expect("the store works");
    let differences = async |lake: &Lake| {
        let report = verify(lake, &calendar, now, &()).await.expect("the store works");
        assert_eq!(report.table_version, None, "it writes nothing");
        (report.rows_added, report.rows_changed, report.rows_removed, report.breakdowns_changed)
    };
    assert_eq!(differences(&world.lake).await, (0, 0, 0, 0));

    // A day of the rollup is lost, and nobody knows.
    let table = world.lake.table(&schemas::rollup::ROLLUP_DAILY);
    let snapshot = table.snapshot().await.expect("the store works");
    let remove = vec![snapshot.files.iter().min_by_key(|file| file.partition_value).expect("files").clone()];
    let change = Change { operation: "DELETE", remove, data_change: true, ..Change::default() };
    table.commit(&mut snapshot.head(), change).await.expect("the store works");
    assert_eq!(differences(&world.lake).await, (1, 0, 0, 0));
    let first = Some("2026-06-01".parse().expect("a date"));
    let dry = Rebuild { from: first, to: first, dry_run: true, org: None };
    let would = rebuild(&world.lake, &calendar, now, &(), &dry).await.expect("the store works");
    assert_eq!((would.rows_added, would.table_version), (1, None));
    assert_eq!(differences(&world.lake).await, (1, 0, 0, 0), "a dry run mends nothing");
    let wet = Rebuild { dry_run: false, ..dry };
    let mended = rebuild(&world.lake, &calendar, now, &(), &wet).await.expect("the store works");
    assert_eq!((mended.rows_added, mended.rows), (1, 4));
    assert_eq!(differences(&world.lake).await, (0, 0, 0, 0));

    // And a day of a breakdown.
    let table = world.lake.table(&breakdown::specs()[0]);
    let snapshot = table.snapshot().await.expect("the store works");
    let remove = snapshot.files.clone();
    let change = Change { operation: "DELETE", remove, data_change: true, ..Change::default() };
    table.commit(&mut snapshot.head(), change).await.expect("the store works");
    assert_eq!(differences(&world.lake).await, (0, 0, 0, 1));
    let mended = rebuild(&world.lake, &calendar, now, &(), &Rebuild::default()).await.expect("the store works");
    assert_eq!((mended.breakdowns_changed, mended.rows_changed), (1, 0));
    assert_eq!(differences(&world.lake).await, (0, 0, 0, 0));
}

#[tokio::test]
async fn events_that_come_in_meanwhile_are_no_differences() {
    let (mut world, calendar) = (World::new().await, OrgCalendar::default());
    let lake = world.lake.clone();
    let events: Vec<Ev> = (0..4).map(|day| prompt("ada", 24 * day, day)).collect();
    let files = world.write(&events).await;
    world.commit(files, vec![], true).await;
    let coming = async {
        for id in 10..40 {
            let files = world.write(&[prompt("ada", id, id)]).await;
            world.commit(files, vec![], true).await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let now = NOON.parse().expect("a time");
    let (found, ()) = tokio::join!(verify(&lake, &calendar, now, &()), coming);
    let found = found.expect("the store works, and events stop coming");
    assert_eq!((found.rows_added, found.rows_changed, found.rows_removed), (0, 0, 0));
}
