//! The dashboard and the alerts under deploy/, executed by a real Prometheus over a Daybook at work: each panel shows something, each alert can be
//! evaluated, and none of them names a metric that there is not.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use e2e::{
    folder, free_port,
    parts::Kafka,
    process::{Server, create_org, embedded, setting, succeed, wait_for},
    prometheus::{Prometheus, promtool},
};
use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(40);

fn deploy(name: &str) -> PathBuf {
    folder().join("../deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// Panels with their expressions, as Grafana asks for them when everything is chosen.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/daybook.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let shown = panels.filter(|panel| panel["type"] != "row").flat_map(|panel| {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title} asks for nothing"));
        assert!(!targets.is_empty(), "{title} asks for nothing");
        targets.iter().map(move |target| {
            let expression = target["expr"].as_str().expect("an expression");
            let asked = expression.replace("$__rate_interval", "10s").replace("$job", "daybook.*");
            assert!(!asked.contains('$'), "{title}: a variable that is not known here in {expression}");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            (format!("{title}: {expression}"), asked)
        })
    });
    shown.collect()
}

/// The metrics of Daybook that an expression names.
fn named(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("daybook_")).collect()
}

/// A Daybook with all roles on a real broker, and who asks it.
struct World {
    _server: Server,
    address: String,
    ingest: String,
    read: String,
    _kafka: Kafka,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let (kafka, folder) = (Kafka::start(), tempfile::tempdir().expect("a temporary folder"));
        kafka.create_topic("activity", 2);
        let mut environment = embedded(folder.path());
        environment.extend([
            setting("log.kind", "kafka"),
            setting("log.kafka.topic", "activity"),
            setting("log.kafka.bootstrap-servers", kafka.bootstrap()),
            setting("worker.flush-age", "200ms"),
            setting("aggregate.interval", "500ms"),
            setting("maintain.interval", "1s"),
        ]);
        create_org("acme", &[], &environment);
        let [ingest, read] = ["ingest", "read"].map(|scope| {
            succeed(&["key", "create", "--org", "acme", "--scope", scope], &environment).trim().to_owned()
        });
        let address = format!("127.0.0.1:{}", free_port());
        let arguments = ["serve", "--role", "all", "--listen", &address];
        let mut server = Server::start(&arguments, &environment, &folder.path().join("log.txt"));
        server.ready(&format!("http://{address}/readyz")).await;
        Self { _server: server, address, ingest, read, _kafka: kafka, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn metrics(&self) -> String {
        let answer = reqwest::get(self.url("/metrics")).await.expect("it answers");
        answer.text().await.expect("text")
    }

    /// A bit of everything: events, one that is none, OpenTelemetry with a number that is none, pages, SQL.
    async fn act(&self, round: u32) {
        let now = Timestamp::now();
        let event = |number: u32| {
            json!({
                "specversion": "1.0", "id": format!("{round}-{number}"), "source": "urn:daybook:test",
                "type": "dev.daybook.prompt.submitted.v1", "time": now.to_string(), "subject": format!("email:{number}@acme.example"),
                "product": "kiro", "clienttype": "ide", "sessionid": "one", "data": { "length_chars": 12 },
            })
        };
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let record = json!({ "timeUnixNano": now.as_nanosecond().to_string(), "attributes": [
            text("user.id", "u1"), text("session.id", "s1"), text("event.name", "api_request"), text("model", "m"),
            text("input_tokens", "many"),
        ]});
        let logs = json!({ "resourceLogs": [{
            "resource": { "attributes": [text("service.name", "claude-code")] }, "scopeLogs": [{ "logRecords": [record] }],
        }]});
        let events: Vec<Value> = (0..5).map(event).collect();
        let post = |path: &str, key: &str| Client::new().post(self.url(path)).bearer_auth(key);
        let get = |path: &str| Client::new().get(self.url(path)).bearer_auth(&self.read);
        self.sends(
            post("/v1/events", &self.ingest)
                .header("content-type", "application/cloudevents-batch+json")
                .body(json!(events).to_string()),
            202,
        )
        .await;
        self.sends(
            post("/v1/events", &self.ingest).header("content-type", "application/cloudevents+json").body("{}"),
            422,
        )
        .await;
        self.sends(
            post("/v1/logs", &self.ingest).header("content-type", "application/json").body(logs.to_string()),
            200,
        )
        .await;
        self.sends(get("/v1/rollups/daily"), 200).await;
        self.sends(get("/v1/rollups/daily?limit=0"), 400).await;
        self.sends(post("/v1/sql", &self.read).body("SELECT count(*) AS n FROM rollup_daily"), 200).await;
    }

    async fn sends(&self, request: RequestBuilder, status: u16) {
        let answer = request.send().await.expect("it answers");
        let (code, url) = (answer.status().as_u16(), answer.url().path().to_owned());
        assert_eq!(code, status, "{url}: {}", answer.text().await.unwrap_or_default());
    }
}

#[tokio::test]
async fn every_panel_and_every_alert_means_something() {
    let world = World::start().await;
    let prometheus =
        Prometheus::start(&world.address, &deploy("prometheus/alerts.yml").canonicalize().expect("it is there"));
    wait_for("prometheus is ready", SOON, async || prometheus.is_ready().await).await;
    // A rate needs two scrapes with something between them.
    let scraped = async || prometheus.values("count_over_time(up[1m]) > 1").await.expect("an expression").len() == 1;
    wait_for("it has scraped", SOON, scraped).await;

    let panels = panels();
    assert!(panels.len() > 50, "{}", panels.len());
    let (mut round, mut empty) = (0, Vec::new());
    let deadline = tokio::time::Instant::now() + SOON;
    while round == 0 || !empty.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "after {round} rounds these show nothing: {empty:#?}");
        world.act(round).await;
        round += 1;
        empty.clear();
        for (panel, expression) in &panels {
            match prometheus.values(expression).await {
                Ok(values) if values.is_empty() => empty.push(panel),
                Ok(_) => {}
                Err(error) => panic!("{panel}: {error}"),
            }
        }
    }

    let metrics = world.metrics().await;
    let exported: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().expect("split gives one"))
        .collect();
    let rules = prometheus.rules().await;
    assert!(rules.len() >= 30, "{}", rules.len());
    for rule in &rules {
        let (name, expression) =
            (rule["name"].as_str().expect("a name"), rule["query"].as_str().expect("an expression"));
        prometheus.values(expression).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(rule["health"], "err", "{rule}");
        assert!(
            !named(expression).is_empty() || expression.contains("up{"),
            "{name} is about nothing of ours: {expression}"
        );
    }
    let expressions = rules.iter().map(|rule| rule["query"].as_str().expect("an expression"));
    for expression in panels.iter().map(|(_, expression)| expression.as_str()).chain(expressions) {
        let unknown: Vec<_> = named(expression).into_iter().filter(|name| !exported.contains(name)).collect();
        assert!(unknown.is_empty(), "there is no {unknown:?}, which this asks for: {expression}");
    }
    let firing: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").map(|rule| &rule["name"]).collect();
    assert!(firing.is_empty(), "all is well, and yet: {firing:?}");

    // Days are what it counts, not the unit in which it tells a time.
    let known = "daybook_aggregate_days_changed_total use base unit \"seconds\" instead of \"days\"";
    let (_, said) = promtool(&["check", "metrics"], &metrics);
    assert_eq!(said.lines().filter(|line| *line != known).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn each_alert_fires_and_is_silent_and_says_what_to_do() {
    let path = |name: &str| deploy(name).display().to_string();
    let (sound, said) = promtool(&["check", "rules", &path("prometheus/alerts.yml")], "");
    assert!(sound, "{said}");
    let tests = ["prometheus/alerts.test.yml", "prometheus/alerts.week.test.yml"];
    let (passed, said) = promtool(&["test", "rules", &path(tests[0]), &path(tests[1])], "");
    assert!(passed, "{said}");

    let (alerts, tests, runbooks) = (read("prometheus/alerts.yml"), tests.map(read).concat(), read("README.md"));
    let alerts: Vec<&str> = alerts.split("      - alert: ").skip(1).collect();
    assert!(alerts.len() >= 30);
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        let severities = ["critical", "warning"].map(|severity| alert.contains(&format!("severity: {severity} }}")));
        assert_ne!(severities[0], severities[1], "{name} is either critical or a warning");
        for part in
            ["summary: ", "description: ", "action: ", &format!("runbook: deploy/README.md#{}\n", name.to_lowercase())]
        {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        assert!(runbooks.contains(&format!("\n## {name}\n")), "{name} has no runbook");
        let asked = format!("alertname=\"{name}\"");
        let outcomes: BTreeSet<&str> = tests
            .lines()
            .filter(|line| line.contains(&asked))
            .map(|line| line.split("value: ").nth(1).expect("what is expected").trim_end_matches([' ', '}', ']']))
            .collect();
        assert_eq!(outcomes, BTreeSet::from(["0", "1"]), "{name} is not tested both firing and silent");
    }
}
