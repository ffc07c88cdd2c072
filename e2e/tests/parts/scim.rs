//! SCIM against a running service: a foreign test suite, and a group that becomes a team.

use std::time::Duration;

use e2e::{
    free_port,
    process::{Server, create_org, embedded, oracle, run, setting, succeed, wait_for},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    url: String,
    server: Server,
}

impl World {
    async fn serve() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut environment = embedded(folder.path());
        environment.push(setting("aggregate.interval", "500ms"));
        create_org("acme", &["--time-zone", "Asia/Tokyo"], &environment);
        let listen = format!("127.0.0.1:{}", free_port());
        let log = folder.path().join("serve.log");
        let mut server = Server::start(&["serve", "--role", "all", "--listen", &listen], &environment, &log);
        let url = format!("http://{listen}");
        server.ready(&format!("{url}/readyz")).await;
        Self { folder, environment, url, server }
    }

    fn key(&self, scope: &str) -> String {
        succeed(&["key", "create", "--org", "acme", "--scope", scope], &self.environment).trim().to_owned()
    }

    async fn scim(&self, key: &str, method: Method, path: &str, body: &Value) -> Value {
        let request = Client::new().request(method, format!("{}/scim/v2{path}", self.url)).bearer_auth(key).json(body);
        let answer = request.send().await.expect("it answers");
        let (status, text) = (answer.status(), answer.text().await.expect("a text"));
        assert!(status.is_success(), "{path}: {status} {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
    }

    /// `daybook team list`, sorted.
    fn teams(&self) -> Vec<String> {
        let listed = succeed(&["team", "list", "--org", "acme", "--format", "csv"], &self.environment);
        let mut lines: Vec<String> = listed.lines().skip(1).map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

#[tokio::test]
async fn scim2_tester_finds_nothing() {
    let world = World::serve().await;
    let key = [("SCIM_KEY".to_owned(), world.key("scim"))];
    let found = oracle("scim_tester.py", &[&format!("{}/scim/v2", world.url)], &key).expect("it ends well");
    assert_eq!(found["bad"], json!([]), "{found:#}");
    assert!(found["counts"]["SUCCESS"].as_u64().is_some_and(|checks| checks > 100), "{found}");
    assert_eq!(world.server.terminate(), 0);
}

#[tokio::test]
async fn a_group_becomes_a_team() {
    let world = World::serve().await;
    let members = world.folder.path().join("members.csv");
    std::fs::write(&members, "team_id,user_key\nold,email:ada@acme.example\n").expect("the folder can be written");
    let import = ["team", "import", &members.display().to_string(), "--org", "acme"].map(str::to_owned);
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    let _ = succeed(&import, &world.environment);

    let key = world.key("scim");
    let mut ids = Vec::new();
    for name in ["Ada@acme.example", "bob@acme.example"] {
        let user = world.scim(&key, Method::POST, "/Users", &json!({ "userName": name, "active": true })).await;
        ids.push(user["id"].as_str().expect("an id").to_owned());
    }
    let token = ["token", "create", "--org", "acme", "--role", "member", "--user", "email:ada@acme.example"];
    let token = succeed(&token, &world.environment).trim().to_owned();
    let ask = || {
        let environment = [("DAYBOOK_KEY".to_owned(), token.clone())];
        run(&["query", "--url", &world.url, "--format", "csv", "SELECT count(*) FROM rollup_daily"], &environment)
    };
    assert_eq!(ask().0, 0);
    // Without groups, teams are what was imported.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.teams(), ["old,email:ada@acme.example,1970-01-01,"]);

    let group = json!({ "displayName": "Compilers", "members": [{ "value": ids[0] }, { "value": ids[1] }] });
    let before = jiff::Timestamp::now();
    let group = world.scim(&key, Method::POST, "/Groups", &group).await["id"].as_str().expect("an id").to_owned();
    wait_for("the group is a team", SOON, async || world.teams().len() == 2).await;
    let tokyo = jiff::tz::TimeZone::get("Asia/Tokyo").expect("a zone");
    let days = [before, jiff::Timestamp::now()].map(|time| time.to_zoned(tokyo.clone()).date());
    let expected = |day| ["ada", "bob"].map(|name| format!("Compilers,email:{name}@acme.example,{day},"));
    assert!(days.iter().any(|day| world.teams() == expected(*day)), "{:?}", world.teams());
    let (code, _, refusal) = run(&import, &world.environment);
    assert!(code == 3 && refusal.contains("by SCIM"), "{code} {refusal}");

    // In the wrong team for less than a day is in the right team all day.
    let remove = json!({ "Operations": [{ "op": "remove", "path": format!("members[value eq \"{}\"]", ids[1]) }] });
    world.scim(&key, Method::PATCH, &format!("/Groups/{group}"), &remove).await;
    let left = async || {
        let teams = world.teams();
        // At midnight in Tokyo the day before was a day in the team.
        teams.iter().filter(|line| line.ends_with(',')).count() == 1 && teams[0].contains("email:ada@")
    };
    wait_for("who left is out", SOON, left).await;

    // Deactivation ends the token, and leaves the membership.
    let off = json!({ "Operations": [{ "op": "replace", "value": { "active": false } }] });
    world.scim(&key, Method::PATCH, &format!("/Users/{}", ids[0]), &off).await;
    let (code, _, refusal) = ask();
    assert!(code == 2 && refusal.contains("unknown or revoked"), "{code} {refusal}");
    assert!(left().await);
    assert_eq!(world.server.terminate(), 0);
}
