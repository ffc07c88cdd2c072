//! Who looks at people by name is on record before anything is shown.

use directory::{NewKey, OptIn, Role, Scope};
use jiff::Timestamp;

use super::{
    pg::{self, Served},
    world::{World, org, settings},
};
use crate::formats::Format;

const ADA: &str = "email:canary-acme-1@example.org";
const DAYS: &str = "from=2026-03-01&to=2026-03-31";

async fn key(world: &World, role: Role) -> (String, String) {
    let new = NewKey { role, ..NewKey::of(Scope::Read, "") };
    let made = world.query.directory().create_key_as(&org("acme"), &new, Timestamp::UNIX_EPOCH).await;
    let (id, secret) = made.expect("new");
    (format!("key:{id}"), secret.expose().to_owned())
}

/// What is on record of people being looked at: actor, table, whom.
async fn viewed(world: &World) -> Vec<(String, String, String)> {
    let directory = world.query.directory();
    let entries = directory.audit_after(&org("acme"), 0).await.expect("readable");
    directory.verify_audit(&org("acme"), None).await.expect("readable").expect("the chain holds");
    let views = entries.into_iter().filter(|entry| entry.action == "people.viewed");
    let table = |detail: &str| {
        let detail: serde_json::Value = serde_json::from_str(detail).expect("JSON");
        detail["table"].as_str().expect("a table").to_owned()
    };
    views.map(|entry| (entry.actor, table(&entry.detail), entry.subject)).collect()
}

#[tokio::test]
async fn pages_out_of_memory_and_by_the_engine_are_on_record_once() {
    for hot_memory in ["64MiB", "0B"] {
        let settings = crate::Settings { hot_memory: hot_memory.parse().expect("a size"), ..settings() };
        let world = World::filled_with(settings).await;
        let (actor, key) = key(&world, Role::Admin).await;
        let get = async |path: String| {
            for _ in 0..2 {
                assert_eq!(world.get_by(&key, &path, &[]).await.status, 200, "{path}");
            }
            viewed(&world).await
        };
        let see = |table: &str, whom: &str| (actor.clone(), table.to_owned(), whom.to_owned());
        let mut expected = vec![see("rollup_daily", ADA)];
        assert_eq!(get(format!("/v1/rollups/daily?{DAYS}&user={ADA}")).await, expected, "twice is once");
        expected.push(see("rollup_daily", "*"));
        assert_eq!(get(format!("/v1/rollups/daily?{DAYS}")).await, expected);
        assert_eq!(get(format!("/v1/rollups/daily?{DAYS}&columns=prompts")).await, expected, "nobody is named");
        assert_eq!(get(format!("/v1/organisation/daily?{DAYS}")).await, expected, "nobody stands there");
    }
}

#[tokio::test]
async fn statements_are_on_record_by_whom_they_ask_for() {
    let served = Served::new().await;
    let world = &served.world;
    let (actor, key) = key(world, Role::Analyst { names: true }).await;
    let ask = async |statement: &str| {
        assert_eq!(world.ask_by(&key, statement, Format::Csv).await.status, 200, "{statement}");
        let client = served.connect_with(&key).await.expect("a connection");
        pg::shown(&client, statement).await;
        viewed(world).await
    };
    let see = |table: &str, whom: &str| (actor.clone(), table.to_owned(), whom.to_owned());
    assert_eq!(ask("SELECT count(*), sum(prompts) FROM rollup_daily").await, [], "nobody is named");
    let one = format!("SELECT sum(prompts) FROM rollup_daily WHERE '{ADA}' = user_key AND prompts > 0");
    let mut expected = vec![see("rollup_daily", ADA)];
    assert_eq!(ask(&one).await, expected);
    let all = "WITH x AS (SELECT user_key AS who FROM rollup_daily) SELECT count(who) FROM x JOIN model_daily ON who = user_key";
    let found = ask(all).await;
    expected.extend([see("rollup_daily", "*"), see("model_daily", "*")]);
    assert!(found.len() == expected.len() && expected.iter().all(|view| found.contains(view)), "{found:?}");
    assert_eq!(ask("SELECT count(*) FROM events").await.last(), Some(&see("events", "*")), "raw events name many");
}

#[tokio::test]
async fn oneself_and_pseudonyms_are_no_view_of_a_person_and_a_team_is() {
    let world = World::filled().await;
    let path = format!("/v1/rollups/daily?{DAYS}");
    for role in [Role::Member { user: ADA.to_owned() }, Role::Analyst { names: false }] {
        let (_, key) = key(&world, role).await;
        assert_eq!(world.get_by(&key, &path, &[]).await.status, 200);
        assert_eq!(viewed(&world).await, []);
    }
    let (_, admin) = key(&world, Role::Admin).await;
    let directory = world.query.directory();
    let switch = async |level| directory.set_opt_in(&org("acme"), level, "a test", Timestamp::UNIX_EPOCH).await;
    switch(OptIn::Pseudonymous).await.expect("there");
    assert_eq!(world.get_by(&admin, &path, &[]).await.status, 200);
    assert_eq!(viewed(&world).await, []);
    switch(OptIn::Named).await.expect("there");
    let (actor, lead) = key(&world, Role::Lead { team: "t".to_owned() }).await;
    assert_eq!(world.get_by(&lead, &path, &[]).await.status, 200);
    assert_eq!(viewed(&world).await, [(actor, "rollup_daily".to_owned(), "*".to_owned())]);
}

#[tokio::test]
async fn many_at_once_share_a_write_and_all_are_on_record() {
    let world = World::filled().await;
    let (_, key) = key(&world, Role::Service).await;
    let asked = (0..40).map(|number| {
        let path = format!("/v1/rollups/daily?{DAYS}&user=email:canary-acme-{}@example.org", number % 20);
        let (world, key) = (&world, &key);
        async move { world.get_by(key, &path, &[]).await.status }
    });
    let statuses = futures::future::join_all(asked).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(viewed(&world).await.len(), 20);
}

#[tokio::test]
async fn what_cannot_be_put_on_record_is_not_shown() {
    let world = World::filled().await;
    let path = format!("/v1/rollups/daily?{DAYS}&user={ADA}");
    let (_, key) = key(&world, Role::Admin).await;
    let other = format!("/v1/organisation/daily?{DAYS}");
    assert_eq!(world.get_by(&key, &other, &[]).await.status, 200);
    // The key is still known, but nothing can be written any more.
    world.query.directory().close().await;
    assert_eq!(world.get_by(&key, &other, &[]).await.status, 200);
    world.get_by(&key, &path, &[]).await.problem(503, "unavailable");
    let statement = format!("SELECT * FROM rollup_daily WHERE user_key = '{ADA}'");
    let refused = world.ask_by(&key, &statement, Format::Json).await;
    assert!(refused.status == 503 && !refused.text().contains("canary"), "{}", refused.text());
}

/// Everyone may read what is collected and who decided it, also when nothing else is open.
#[tokio::test]
async fn every_member_sees_what_is_collected() {
    let world = World::filled().await;
    let (_, member) = key(&world, Role::Member { user: ADA.to_owned() }).await;
    let directory = world.query.directory();
    let rows = |answer: &serde_json::Value, table: &str| {
        let shown = answer["shown"].as_array().expect("tables").iter().find(|shown| shown["table"] == table);
        shown.expect("each table stands there")["rows"].as_str().expect("text").to_owned()
    };
    for (level, events, teams) in [("named", "part", "none"), ("team-only", "part", "none"), ("off", "none", "none")] {
        let switched = level.parse().expect("a level");
        directory.set_opt_in(&org("acme"), switched, "agreed", Timestamp::UNIX_EPOCH).await.expect("there");
        let answer = world.get_by(&member, "/v1/opt-in", &[]).await;
        assert_eq!(answer.status, 200);
        let answer = answer.json();
        assert_eq!((answer["opt_in"].as_str(), answer["organisation"].as_str()), (Some(level), Some("acme")));
        assert_eq!(answer["changes"][0]["opt_in"], level);
        assert_eq!((rows(&answer, "events"), rows(&answer, "team_daily")), (events.to_owned(), teams.to_owned()));
        let columns = answer["collected"]["columns"].as_array().expect("columns");
        assert_eq!(columns.len(), schemas::EVENTS.schema().fields().len());
    }
    assert!(!world.get_by(&member, "/v1/opt-in", &[]).await.text().contains("globex"));
    let (_, admin) = key(&world, Role::Admin).await;
    directory.set_opt_in(&org("acme"), OptIn::Pseudonymous, "agreed", Timestamp::UNIX_EPOCH).await.expect("there");
    let answer = world.get_by(&admin, "/v1/opt-in", &[]).await.json();
    assert_eq!((rows(&answer, "rollup_daily"), rows(&answer, "events")), ("pseudonymous".into(), "none".into()));
}
