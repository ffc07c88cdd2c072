//! What people meet who ask a running service: their own rows, by REST and SQL; another time zone; the next aggregator at work.

use std::time::Duration;

use e2e::{
    free_port,
    process::{Server, create_org, embedded, run, setting, succeed, wait_for},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut environment = embedded(folder.path());
        environment.push(setting("aggregate.interval", "500ms"));
        for org in ["acme", "globex"] {
            create_org(org, &[], &environment);
        }
        Self { folder, environment }
    }

    fn key(&self, org: &str, scope: &str) -> String {
        succeed(&["key", "create", "--org", org, "--scope", scope], &self.environment).trim().to_owned()
    }

    async fn serve(&self, roles: &[&str]) -> (Server, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut arguments = vec!["serve", "--listen", &listen];
        roles.iter().for_each(|role| arguments.extend(["--role", role]));
        let log = self.folder.path().join(format!("{listen}.log"));
        let mut server = Server::start(&arguments, &self.environment, &log);
        let url = format!("http://{listen}");
        server.ready(&format!("{url}/readyz")).await;
        (server, url)
    }
}

async fn get(url: &str, path: &str, key: &str) -> Value {
    let answer = Client::new().get(format!("{url}{path}")).bearer_auth(key).send().await.expect("it answers");
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.json().await.expect("JSON")
}

/// The value of a metric without labels.
async fn metric(url: &str, name: &str) -> String {
    let text = reqwest::get(format!("{url}/metrics")).await.expect("it answers").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().to_owned()
}

/// An evening of two days ago, and the day after it.
fn evening() -> (String, [String; 2]) {
    let date = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(48)).to_zoned(jiff::tz::TimeZone::UTC).date();
    let next = date.tomorrow().expect("our time").to_string();
    (format!("{date}T20:00:00Z"), [date.to_string(), next])
}

#[test]
fn an_organisation_is_made_as_asked_or_not_at_all() {
    let world = World::new();
    let (code, _, refusal) = run(&["org", "create", "late", "--allowed-lateness", "9000"], &world.environment);
    assert!(code == 1 && refusal.contains("9000 hours is too long"), "{code} {refusal}");
    let made = succeed(&["org", "create", "late", "--allowed-lateness", "12"], &world.environment);
    assert!(made.contains("late"), "{made}");
}

#[tokio::test]
async fn own_rows_another_zone_and_the_next_at_work() {
    let world = World::new();
    let (first, url) = world.serve(&["all"]).await;
    let (evening, [day, next_day]) = evening();
    let [acme, globex] = ["acme", "globex"].map(|org| world.key(org, "read"));
    for (org, people) in [("acme", 3), ("globex", 1)] {
        let events: Vec<String> = (0..people)
            .map(|number| {
                json!({
                    "specversion": "1.0", "id": format!("{org}-{number}"), "source": "urn:daybook:test",
                    "type": "dev.daybook.prompt.submitted.v1", "time": evening, "subject": format!("email:{number}@{org}.example"),
                    "product": "kiro", "clienttype": "ide", "sessionid": "one", "data": { "length_chars": 12 },
                })
                .to_string()
            })
            .collect();
        let file = world.folder.path().join(org);
        std::fs::write(&file, events.join("\n")).expect("the folder can be written");
        let (file, key) = (file.display().to_string(), world.key(org, "ingest"));
        let _ = succeed(&["emit", &file, "--url", &url, "--key", &key], &world.environment);
    }

    // Each reads its own, by REST and by SQL.
    let active = async |key: &str| {
        let answer = get(&url, "/v1/organisation/daily?columns=activity_date,active_users", key).await;
        answer["data"].clone()
    };
    let expected = |day: &str, people: i64| json!([{ "activity_date": day, "active_users": people }]);
    wait_for("acme's events are rolled up", SOON, async || active(&acme).await == expected(&day, 3)).await;
    wait_for("globex's events are rolled up", SOON, async || active(&globex).await == expected(&day, 1)).await;
    let ask = |key: &str, sql: &str| {
        let environment = [("DAYBOOK_KEY".to_owned(), key.to_owned())];
        run(&["query", "--url", &url, "--format", "json", sql], &environment)
    };
    let (code, rows, _) = ask(&acme, "SELECT org_id, count(*) AS n FROM events GROUP BY org_id");
    let rows: Value = serde_json::from_str(&rows).expect("JSON");
    assert_eq!((code, &rows), (0, &json!([{ "org_id": "acme", "n": 3 }])));
    let (code, _, refusal) = ask(&acme, "DELETE FROM events");
    assert!(code == 2 && refusal.contains("DELETE is not allowed"), "{code} {refusal}");
    let (code, _, refusal) = ask("dbk_nobody_nothing", "SELECT 1");
    assert!(code == 2 && refusal.contains("unknown or revoked"), "{code} {refusal}");

    // Another zone moves the evening of one organisation into the next day.
    let _ = succeed(&["org", "set", "acme", "--time-zone", "Asia/Tokyo"], &world.environment);
    wait_for("acme's days are counted anew", SOON, async || active(&acme).await == expected(&next_day, 3)).await;
    assert_eq!(active(&globex).await, expected(&day, 1));
    let reasons = async |key: &str| {
        let told = get(&url, "/v1/revisions?columns=reason", key).await;
        let told = told["data"].as_array().expect("rows").clone();
        told.iter().map(|row| row["reason"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    wait_for("the change is told", SOON, async || reasons(&acme).await.contains(&"calendar".to_owned())).await;
    assert!(!reasons(&globex).await.contains(&"calendar".to_owned()));

    // A second aggregator stands by until the first ends.
    let (second, standby) = world.serve(&["aggregate"]).await;
    let works = "daybook_aggregate_works";
    wait_for("it has asked", SOON, async || metric(&standby, works).await == "0").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((metric(&url, works).await, metric(&standby, works).await), ("1".into(), "0".into()));
    assert_eq!(metric(&standby, "daybook_aggregate_runs_total").await, "0");
    assert_eq!(first.terminate(), 0);
    wait_for("the second is at work", SOON, async || metric(&standby, works).await == "1").await;
    wait_for("and runs", SOON, async || metric(&standby, "daybook_aggregate_runs_total").await != "0").await;
    assert_eq!(second.terminate(), 0);
}
