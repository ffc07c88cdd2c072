//! Claude Code's telemetry, as its exporters sent it, into a running Daybook; then the day's rollup.

use std::{path::Path, process::Command, time::Duration};

use e2e::process::{Server, setting, succeed, wait_for};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// A whole Daybook on a folder: organisation `acme`, a key to send and a key to read.
struct Daybook {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    url: String,
    ingest_key: String,
    read_key: String,
    _server: Server,
}

impl Daybook {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().display();
        let environment = vec![
            setting("lake.url", format!("{at}/lake")),
            setting("log.dir", format!("{at}/log")),
            setting("directory.url", format!("sqlite://{at}/directory.db")),
            setting("aggregate.interval", "500ms"),
        ];
        let _ = succeed(&["org", "create", "acme", "--time-zone", "UTC"], &environment);
        let key = |scope: &str| succeed(&["key", "create", "--org", "acme", "--scope", scope], &environment);
        let (ingest_key, read_key) = (key("ingest").trim().to_owned(), key("read").trim().to_owned());
        let listen = format!("127.0.0.1:{}", e2e::free_port());
        let mut server = Server::start(&["serve", "--listen", &listen], &environment, &folder.path().join("serve.log"));
        let url = format!("http://{listen}");
        server.ready(&format!("{url}/readyz")).await;
        Self { folder, environment, url, ingest_key, read_key, _server: server }
    }

    /// Rows of the rollup as the REST interface gives them.
    async fn rollup(&self) -> Vec<Value> {
        let request = Client::new().get(format!("{}/v1/rollups/daily", self.url)).bearer_auth(&self.read_key);
        let response = request.send().await.expect("Daybook answers");
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            // No table yet.
            return Vec::new();
        }
        assert_eq!(response.status(), StatusCode::OK);
        let answer: Value = response.json().await.expect("JSON");
        answer["data"].as_array().expect("rows").clone()
    }
}

/// Posts a captured request: its path, headers and body, compressed and in chunks as it came.
fn post(daybook: &Daybook, capture: &Path) {
    let about = std::fs::read_to_string(capture).expect("a capture");
    let about: Value = serde_json::from_str(&about).expect("JSON");
    let body = capture.with_extension("body");
    let header = |name: &str| about["headers"][name].as_str().map(|value| format!("{name}: {value}"));
    let headers: Vec<String> =
        ["Content-Type", "Content-Encoding", "Transfer-Encoding"].iter().filter_map(|name| header(name)).collect();
    // Bodies are kept without their compression.
    let body = if about["headers"]["Content-Encoding"] == "gzip" {
        let packed = daybook.folder.path().join("body.gz");
        let output = Command::new("gzip").arg("--stdout").arg(&body).output().expect("gzip runs");
        std::fs::write(&packed, output.stdout).expect("the folder can be written");
        packed
    } else {
        body
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "--header"])
        .arg(format!("Authorization: Bearer {}", daybook.ingest_key))
        .args(headers.iter().flat_map(|header| ["--header", header]))
        .arg("--data-binary")
        .arg(format!("@{}", body.display()))
        .arg(format!("{}{}", daybook.url, about["path"].as_str().expect("a path")));
    let output = curl.output().expect("curl runs");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Counted by hand in the captured bodies: one session, the prompt "ping", two requests of 120 input and 25 output tokens,
/// 900 read from the cache and 30 written, at $0.001862 each, and one Bash call that a rule allowed.
fn by_hand(active_agent_ms: i64) -> Value {
    json!({
        "product": "claude_code", "client_type": "cli",
        "sessions": 1, "prompts": 1, "model_requests": 2, "responses": 2,
        "input_tokens": 240, "output_tokens": 50, "cache_read_tokens": 1800, "cache_creation_tokens": 60,
        "cost_estimated_micro_usd": 3724,
        "tool_calls": 1, "tool_failures": 0, "tool_auto_accepts": 1, "tool_accepts": 0, "tool_rejects": 0,
        "active_agent_ms": active_agent_ms,
    })
}

/// The fields of `row` that `wanted` has.
fn only(row: &Value, wanted: &Value) -> Value {
    wanted.as_object().expect("an object").keys().map(|key| (key.clone(), row[key].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_bodies_roll_up_to_a_hand_count() {
    // Protobuf with delta metrics, JSON with cumulative ones: 0.616 s of work, and 0.484 s of which four cuts of 100 ms show.
    for (capture, active_agent_ms) in [("delta_pb", 616), ("cumulative_json", 400)] {
        let daybook = Daybook::start().await;
        let folder = e2e::folder().join("../ingest/fixtures/otlp/claude").join(capture);
        let mut captures: Vec<_> = std::fs::read_dir(&folder)
            .expect("captures")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        captures.sort();
        assert_eq!(captures.len(), 2, "logs and metrics");
        for capture in &captures {
            post(&daybook, capture);
        }
        let wanted = by_hand(active_agent_ms);
        let mut rows = Vec::new();
        wait_for(&format!("{capture}: one row with all of it"), Duration::from_secs(60), async || {
            rows = daybook.rollup().await;
            rows.first().is_some_and(|row| row["sessions"] == 1 && row["prompts"] == 1 && row["model_requests"] == 2)
        })
        .await;
        // What came in two requests may have been rolled up in two runs: the second one is final.
        tokio::time::sleep(Duration::from_secs(2)).await;
        rows = daybook.rollup().await;
        assert_eq!(rows.len(), 1, "{rows:#?}");
        assert_eq!(only(&rows[0], &wanted), wanted, "{capture}");
        // The same bodies once more: an exporter's retry.
        for capture in &captures {
            post(&daybook, capture);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        rows = daybook.rollup().await;
        assert_eq!(only(&rows[0], &wanted), wanted, "{capture}, sent twice");
        let counted = e2e::process::query("SELECT count(*) AS n FROM dead_letters", &daybook.environment);
        assert_eq!(counted[0]["n"], 0, "{}", daybook.folder.path().display());
    }
}
