//! Each role sees of each table what the policy says, through every door.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{array::RecordBatch, util::pretty::pretty_format_batches};
use arrow_flight::error::FlightError;
use directory::{NewKey, OptIn, Role, Scope};
use jiff::Timestamp;
use schemas::{DEAD_LETTERS, TEAM_MEMBERS, tables};
use serde_json::Value;
use tonic::Code;

use super::{
    flight,
    isolation::{OTHERS, PROBES, foreign},
    pg::{self, Served},
    world::{DAYS, World, org},
};
use crate::{formats::Format, http::resources::resources};

/// What a table is about. A table that does not stand here fails the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Raw events of people.
    Events,
    /// People.
    People,
    /// Teams, and who is in them.
    Members,
    /// Teams.
    Teams,
    /// The whole organisation.
    All,
}

const TABLES: &[(&str, About)] = &[
    ("events", About::Events),
    ("team_members", About::Members),
    ("rollup_daily", About::People),
    ("rollup_revisions", About::All),
    ("rollup_superseded", About::People),
    ("model_daily", About::People),
    ("tool_daily", About::People),
    ("feature_daily", About::People),
    ("language_daily", About::People),
    ("org_daily", About::All),
    ("team_daily", About::Teams),
    ("active_users", About::All),
    ("trend", About::All),
    ("cohort_activity", About::All),
    ("cohort_retention", About::All),
    ("adoption_funnel", About::All),
    ("client_mix", About::All),
    ("acceptance", About::All),
    ("licence_state", About::People),
    ("data_health", About::All),
];

/// What is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Everything,
    /// Everything, nobody by name.
    Pseudonyms,
    /// Rows of this user number, which also leads the team of its number.
    Own(usize),
    /// The same, under a pseudonym.
    OwnPseudonym(usize),
}

/// The team lead's team: its only member of today is this user.
const IN_TEAM: usize = 2;
const MEMBER: usize = 1;

fn team() -> String {
    format!("canary-acme-team_id, \"{IN_TEAM}\"")
}

/// The policy, said once more: what is seen, or the problem that says why not.
fn policy(role: &Role, opt_in: OptIn, about: About) -> Result<Seen, &'static str> {
    const BY_OPT_IN: &str = "not-opted-in";
    let about_people = matches!(about, About::Events | About::People | About::Members);
    match (role, opt_in, about) {
        (_, OptIn::Off, _) => Err(BY_OPT_IN),
        (Role::Member { .. }, _, _) if about_people => Ok(Seen::Own(MEMBER)),
        (_, OptIn::TeamOnly, _) if about_people => Err(BY_OPT_IN),
        (_, OptIn::Pseudonymous, About::Events) => Err(BY_OPT_IN),
        (Role::Analyst { names: false }, _, About::Events) => Err("wrong-role"),
        (Role::Lead { .. }, OptIn::Pseudonymous, About::People | About::Members) => Ok(Seen::OwnPseudonym(IN_TEAM)),
        (Role::Lead { .. }, _, About::All) | (Role::Member { .. }, _, _) => Err("wrong-role"),
        (Role::Lead { .. }, _, _) => Ok(Seen::Own(IN_TEAM)),
        (Role::Analyst { names: false }, _, _) | (_, OptIn::Pseudonymous, _) => Ok(Seen::Pseudonyms),
        (Role::Service | Role::Admin | Role::Analyst { names: true }, _, _) => Ok(Seen::Everything),
    }
}

pub(super) fn roles() -> [Role; 6] {
    [
        Role::Service,
        Role::Admin,
        Role::Analyst { names: true },
        Role::Analyst { names: false },
        Role::Lead { team: team() },
        Role::Member { user: format!("email:canary-acme-{MEMBER}@example.org") },
    ]
}

pub(super) async fn key(world: &World, role: &Role) -> String {
    let new = NewKey { role: role.clone(), ..NewKey::of(Scope::Read, "") };
    let made = world.query.directory().create_key_as(&org("acme"), &new, Timestamp::UNIX_EPOCH).await;
    made.expect("new").1.expose().to_owned()
}

/// People of the organisation that `text` names.
pub(super) fn named(text: &str) -> BTreeSet<&str> {
    let parts = text.split("email:canary-acme-").skip(1);
    parts.filter_map(|part| part.split_once("@example.org").map(|(user, _)| user)).collect()
}

/// People whom a role that sees a part may see by name.
pub(super) fn own_people(role: &Role) -> BTreeSet<&'static str> {
    match role {
        Role::Lead { .. } => BTreeSet::from(["2"]),
        Role::Member { .. } => BTreeSet::from(["1"]),
        _ => BTreeSet::new(),
    }
}

#[track_caller]
fn check(door: &str, table: &str, seen: Seen, about: About, whole: usize, rows: usize, text: &str) {
    let context = format!("{table} by {door}: {seen:?}, {rows} of {whole} rows:\n{text}");
    let by_person = matches!(about, About::Events | About::People | About::Members);
    match seen {
        Seen::Everything => {
            assert_eq!(rows, whole, "{context}");
            assert!(!by_person || named(text).len() > 3, "{context}");
            assert!(!text.contains("pseudonym:"), "{context}");
        }
        Seen::Pseudonyms => {
            assert_eq!(rows, whole, "{context}");
            assert!(named(text).is_empty() && text.contains("pseudonym:") == by_person, "{context}");
        }
        Seen::Own(user) | Seen::OwnPseudonym(user) => {
            assert!(0 < rows && rows < whole, "{context}");
            let (people, hidden) = (named(text), matches!(seen, Seen::OwnPseudonym(_)));
            assert!(people.iter().all(|one| *one == user.to_string()), "{context}");
            assert!(people.is_empty() != (by_person && !hidden) && text.contains("pseudonym:") == hidden, "{context}");
            // All texts of a row end with its user's number.
            assert!(
                (0..5).filter(|other| *other != user).all(|other| !text.contains(&format!(", \"{other}\""))),
                "{context}"
            );
        }
    }
}

pub(super) async fn filled() -> Served {
    let served = Served::new().await;
    for offset in 0..DAYS {
        served.world.put_keyed(&TEAM_MEMBERS, offset).await;
    }
    let derived = tables::all().find(|spec| spec.name == "cohort_activity").expect("a table");
    for offset in 0..DAYS {
        served.world.put_keyed(derived, offset).await;
    }
    served
}

#[tokio::test]
async fn each_role_sees_its_part_through_every_door() {
    let known: BTreeSet<_> = TABLES.iter().map(|(table, _)| *table).collect();
    let all = tables::all().map(|spec| spec.name).filter(|name| *name != DEAD_LETTERS.name).collect();
    assert_eq!(known, all);
    let served = filled().await;
    let world = &served.world;
    let mut whole = BTreeMap::new();
    for (table, _) in TABLES {
        let all = world.ask("acme", &format!("SELECT * FROM {table}"), Format::Ndjson).await;
        whole.insert(*table, all.text().lines().count());
        assert!(whole[table] > 0, "{table}");
    }
    let flights = flight::Served::over(&world.query).await;
    for (opt_in, role) in OptIn::ALL.into_iter().flat_map(|level| roles().map(|role| (level, role))) {
        // The organisation's admin has opted in that far; no key is made anew for it.
        let _ = world.query.directory().set_opt_in(&org("acme"), opt_in, "a test", Timestamp::UNIX_EPOCH).await;
        let key = key(world, &role).await;
        let client = served.connect_with(&key).await.expect("a connection");
        let mut flight = flights.connect(&key).await;
        for (table, about) in TABLES {
            let (seen, whole) = (policy(&role, opt_in, *about), whole[table]);
            let select = format!("SELECT * FROM {table}");
            let answer = world.ask_by(&key, &select, Format::Ndjson).await;
            match seen {
                Err(problem) => drop(answer.problem(403, problem)),
                Ok(seen) => {
                    check("POST", table, seen, *about, whole, answer.text().lines().count(), &unescaped(&answer.text()))
                }
            }
            match client.simple_query(&select).await {
                Err(error) => {
                    assert!(seen.is_err() && pg::code(&error) == "42501", "{table} as {role} at {opt_in}: {error:?}");
                    let prepared = client.prepare(&select).await.expect("planned");
                    assert_eq!(pg::code(&client.query(&prepared, &[]).await.expect_err("closed")), "42501");
                }
                Ok(_) => {
                    let text = pg::shown(&client, &select).await;
                    let seen = seen.unwrap_or_else(|problem| panic!("{table} as {role} at {opt_in}: not {problem}"));
                    check("PostgreSQL", table, seen, *about, whole, text.lines().count(), &text);
                }
            }
            match flight::rows(&mut flight, &select).await {
                Err(FlightError::Tonic(status)) => {
                    assert!(seen.is_err(), "{table} as {role} at {opt_in}: {status:?}");
                    assert_eq!(status.code(), Code::PermissionDenied, "{table}: {status:?}");
                }
                Err(error) => panic!("{table}: {error:?}"),
                Ok(batches) => {
                    let rows = batches.iter().map(RecordBatch::num_rows).sum();
                    let text = pretty_format_batches(&batches).expect("printable").to_string();
                    let seen = seen.unwrap_or_else(|problem| panic!("{table} as {role} at {opt_in}: not {problem}"));
                    check("Flight", table, seen, *about, whole, rows, &text);
                }
            }
            if let Some(resource) = resources().iter().find(|resource| resource.spec.name == *table) {
                let path = format!("{}?from=2026-03-01&to=2026-03-31&limit=10000", resource.path);
                let answer = world.get_by(&key, &path, &[]).await;
                match seen {
                    Err(problem) => drop(answer.problem(403, problem)),
                    Ok(seen) => {
                        let rows = answer.json()["data"].as_array().expect("rows").len();
                        check("REST", table, seen, *about, whole, rows, &unescaped(&answer.text()));
                    }
                }
            }
        }
    }
}

/// An opt-out ends what is open.
#[tokio::test]
async fn a_connection_ends_when_the_organisation_opts_out() {
    let served = filled().await;
    let client = served.connect_with(&key(&served.world, &Role::Admin).await).await.expect("a connection");
    assert!(pg::shown(&client, "SELECT count(*) FROM events").await.starts_with(|digit: char| digit > '0'));
    let directory = served.world.query.directory();
    directory.set_opt_in(&org("acme"), OptIn::Off, "a test", Timestamp::UNIX_EPOCH).await.expect("there");
    while !client.is_closed() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn unescaped(json: &str) -> String {
    json.replace("\\\"", "\"")
}

/// No probe of isolation shows anyone whom the role may not see, nor another organisation.
#[tokio::test]
async fn no_statement_shows_whom_the_role_hides() {
    let served = filled().await;
    for role in &roles()[3..] {
        let client = served.connect_with(&key(&served.world, role).await).await.expect("a connection");
        for statement in PROBES.iter().chain(OTHERS) {
            let text = pg::shown(&client, statement).await;
            let found = foreign(&text, statement, "acme");
            assert!(found.is_empty(), "as {role}, `{statement}` shows {found:?}:\n{text}");
            let people = named(&text);
            assert!(people.is_subset(&own_people(role)), "as {role}, `{statement}` shows {people:?}:\n{text}");
        }
    }
}

#[tokio::test]
async fn pseudonyms_are_one_each_in_order_and_can_be_asked_for() {
    let served = filled().await;
    let world = &served.world;
    let role = Role::Analyst { names: false };
    let (one, other) = (key(world, &role).await, key(world, &role).await);
    let people = async |key: &str, statement: &str| -> Vec<String> {
        let text = world.ask_by(key, statement, Format::Csv).await.text();
        text.lines().skip(1).map(str::to_owned).collect()
    };
    let distinct = "SELECT DISTINCT user_key FROM rollup_daily ORDER BY user_key";
    let known = people(&one, distinct).await;
    assert_eq!(known.len(), 5);
    assert!(known.is_sorted() && known.iter().all(|person| person.len() == "pseudonym:".len() + 32), "{known:?}");
    assert_eq!(known, people(&other, distinct).await);
    assert_eq!(known, people(&one, &distinct.replace("rollup_daily", "model_daily")).await);
    // The files are in the order of names.
    for table in ["rollup_daily", "licence_state", "model_daily"] {
        let by = schemas::tables::all().find(|spec| spec.name == table).expect("a table").sort_columns[1..].join(", ");
        let day = format!("SELECT user_key FROM {table} WHERE activity_date = '2026-03-01' ORDER BY {by}");
        assert!(people(&one, &day).await.is_sorted(), "{day}");
    }
    let days = format!("SELECT count(*) FROM rollup_daily WHERE user_key = '{}'", known[0]);
    assert_eq!(people(&one, &days).await, [(DAYS * 2).to_string()]);
    let by_name = "SELECT count(*) FROM rollup_daily WHERE user_key = 'email:canary-acme-1@example.org'";
    assert_eq!(people(&one, by_name).await, ["0"]);
    // A walk by REST takes each row once, in the pseudonyms' order.
    let (mut path, mut walked) = ("/v1/rollups/daily?from=2026-03-01&to=2026-03-31&limit=7".to_owned(), Vec::new());
    loop {
        let page = world.get_by(&one, &path, &[]).await.json();
        let key = |row: &Value| ["activity_date", "user_key", "product"].map(|name| row[name].to_string()).join(" ");
        walked.extend(page["data"].as_array().expect("rows").iter().map(key));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/rollups/daily?from=2026-03-01&to=2026-03-31&limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(walked.len(), DAYS as usize * 10);
    assert!(walked.is_sorted_by(|a, b| a < b), "{walked:?}");
    // What one role has seen is not unchanged for another.
    let path = "/v1/rollups/daily?from=2026-03-01&to=2026-03-31";
    let tag = world.get("acme", path).await.header("etag").to_owned();
    assert_eq!(world.get_by(&one, path, &[("if-none-match", &tag)]).await.status, 200);
}

#[tokio::test]
async fn a_connection_ends_when_its_team_changes() {
    let served = filled().await;
    let lead = key(&served.world, &Role::Lead { team: team() }).await;
    let client = served.connect_with(&lead).await.expect("a connection");
    assert!(pg::shown(&client, "SELECT count(*) FROM events").await.starts_with(|digit: char| digit > '0'));
    // User 2 is the team's on other days, too; the day after them all it has one more member.
    let mut joined = super::world::rows(DAYS + 1, 0);
    joined.retain(|row| row.user == IN_TEAM && row.org == 0 && row.client_type == "cli");
    joined[0].user = IN_TEAM + 3;
    let batch = super::world::batch(&TEAM_MEMBERS, &joined);
    let team_of = arrow::array::StringArray::from(vec![team()]);
    let mut columns = batch.columns().to_vec();
    columns[1] = std::sync::Arc::new(team_of);
    let batch = arrow::array::RecordBatch::try_new(batch.schema(), columns).expect("the same columns");
    served.world.put_batch(&TEAM_MEMBERS, DAYS + 1, batch, vec![]).await;
    while !client.is_closed() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
