//! The opt-in from the command line, on a running service, and the audit log that it leaves.

use std::time::Duration;

use e2e::{
    free_port,
    process::{Server, embedded, oracle, query, run, succeed, wait_for},
};
use serde_json::{Value, json};

const EVENT: &str = r#"{"specversion":"1.0","id":"e1","source":"urn:x:cli:i1","type":"dev.daybook.prompt.submitted.v1","subject":"email:ada@acme.example","time":"2026-03-01T10:00:00Z","data":{"length_chars":7}}"#;

/// A message without the line breaks of a narrow terminal.
fn flat(message: &str) -> String {
    message.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn nothing_is_collected_before_and_nothing_is_shown_after() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let environment = embedded(folder.path());
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let (found, _, refusal) = run(arguments, &environment);
        let refusal = flat(&refusal);
        assert!(found == code && refusal.contains(says), "{arguments:?}: {found} {refusal}");
    };
    let _ = succeed(&["org", "create", "acme"], &environment);
    let made = |arguments: &[&str]| succeed(arguments, &environment).trim().to_owned();
    let key = made(&["key", "create", "--org", "acme"]);
    let admin = made(&["token", "create", "--org", "acme", "--role", "admin"]);
    let listen = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{listen}");
    let serve = ["serve", "--role", "all", "--listen", &listen];
    let mut server = Server::start(&serve, &environment, &folder.path().join("serve.log"));
    server.ready(&format!("{url}/readyz")).await;

    let client = reqwest::Client::new();
    let emit = async || {
        let request = client.post(format!("{url}/v1/events")).bearer_auth(&key);
        let answer = request.header("content-type", "application/cloudevents+json").body(EVENT).send().await;
        let answer = answer.expect("it answers");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or(Value::Null)["type"].as_str().unwrap_or_default().to_owned())
    };
    let not_opted_in = (403, "https://daybook.dev/problems/not_opted_in".to_owned());
    assert_eq!(emit().await, not_opted_in);
    let ask = |statement: &str| {
        let key = [("DAYBOOK_KEY".to_owned(), admin.clone())];
        let (code, answer, refusal) = run(&["query", "--url", &url, "--format", "json", statement], &key);
        if code == 0 { Ok(serde_json::from_str::<Value>(&answer).expect("JSON")) } else { Err(flat(&refusal)) }
    };
    let people = "SELECT user_key, client_type FROM events";
    let refusal = ask(people).expect_err("closed");
    assert!(refusal.contains("Table `events` is closed: the organisation's opt-in is `off`"), "{refusal}");
    refused(&["opt-in", "set", "acme", "named", "--reason", " "], 1, "for a reason");
    refused(&["opt-in", "set", "acme", "everything", "--reason", "x"], 2, "`team-only`");
    refused(&["opt-in", "set", "globex", "named", "--reason", "x"], 1, "no organisation `globex`");
    refused(&["opt-in", "show", "globex"], 2, "no organisation `globex`");

    let set = |level: &str| succeed(&["opt-in", "set", "acme", level, "--reason", "agreed"], &environment);
    assert!(set("named").contains("people are shown by name"));
    wait_for("the collector knows", Duration::from_secs(20), async || emit().await.0 == 202).await;
    wait_for("the event is there", Duration::from_secs(60), async || ask(people).is_ok_and(|rows| rows != json!([])))
        .await;
    assert_eq!(ask(people).expect("open")[0]["user_key"], "email:ada@acme.example");

    let _ = set("pseudonymous");
    wait_for("names are gone", Duration::from_secs(20), async || ask("SELECT * FROM events").is_err()).await;
    let _ = set("off");
    wait_for("the collector refuses", Duration::from_secs(20), async || emit().await == not_opted_in).await;
    wait_for("all is closed", Duration::from_secs(20), async || ask("SELECT * FROM org_daily").is_err()).await;
    assert_eq!(query("SELECT count(DISTINCT event_id) AS n FROM events", &environment), json!([{ "n": 1 }]));
    assert_eq!(server.terminate(), 0);

    let shown = succeed(&["opt-in", "show", "acme", "--format", "json"], &environment);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let levels: Vec<_> = shown.as_array().expect("rows").iter().map(|change| change["level"].clone()).collect();
    assert_eq!(levels, ["named", "pseudonymous", "off"]);

    // Who did what, and who looked at whom, is there; and shows when it is tampered with.
    let export = succeed(&["audit", "export", "--org", "acme"], &environment);
    let actions: Vec<String> = export
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["action"].as_str().expect("text").to_owned())
        .collect();
    let expected = [
        "org.created",
        "key.created",
        "key.created",
        "opt_in.changed",
        "people.viewed",
        "opt_in.changed",
        "opt_in.changed",
    ];
    assert_eq!(actions, expected, "{export}");
    let file = folder.path().join("export.ndjson");
    std::fs::write(&file, &export).expect("writable");
    let file = file.display().to_string();
    let verified = succeed(&["audit", "verify", "--org", "acme"], &environment);
    assert_eq!(verified, succeed(&["audit", "verify", "--file", &file], &[]), "the export is the same chain");
    let anchor = verified.trim().rsplit(' ').next().expect("a hash at the end").to_owned();
    let _ = succeed(&["audit", "verify", "--org", "acme", "--expect", &anchor], &environment);
    refused(&["audit", "verify", "--org", "globex"], 1, "no organisation `globex`");
    let longer = anchor.replacen("7:", "8:", 1);
    refused(&["audit", "verify", "--org", "acme", "--expect", &longer], 3, "ends with entry 7, but 8 were written");
    std::fs::write(&file, export.replacen("agreed", "forced", 1)).expect("writable");
    refused(&["audit", "verify", "--file", &file], 3, "entry 4 is not as it was written");
    let database = folder.path().join("directory.db").display().to_string();
    let _ = oracle("tamper.py", &[&database, "acme", "6"], &[]).expect("it changes one");
    refused(&["audit", "verify", "--org", "acme"], 3, "entry 6 is not as it was written");
}
