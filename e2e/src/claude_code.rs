//! Claude Code reporting to a whole Daybook, and what one scripted session of it comes to.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::{
    free_port,
    process::{Server, create_org, embedded, setting, succeed},
};

/// A whole Daybook on a folder: organisation `acme`, a key to send and a key to read.
pub struct Daybook {
    /// Everything it stores.
    pub folder: tempfile::TempDir,
    /// Its settings.
    pub environment: Vec<(String, String)>,
    /// Where it serves.
    pub url: String,
    /// Sends events.
    pub ingest_key: String,
    /// Reads rollups.
    pub read_key: String,
    _server: Server,
}

impl Daybook {
    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not become so.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut environment = embedded(folder.path());
        environment.push(setting("aggregate.interval", "500ms"));
        create_org("acme", &["--time-zone", "UTC"], &environment);
        let key = |scope: &str| succeed(&["key", "create", "--org", "acme", "--scope", scope], &environment);
        let (ingest_key, read_key) = (key("ingest").trim().to_owned(), key("read").trim().to_owned());
        let listen = format!("127.0.0.1:{}", free_port());
        let mut server = Server::start(&["serve", "--listen", &listen], &environment, &folder.path().join("serve.log"));
        let url = format!("http://{listen}");
        server.ready(&format!("{url}/readyz")).await;
        Self { folder, environment, url, ingest_key, read_key, _server: server }
    }

    /// Rows of the rollup as the REST interface gives them.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn rollup(&self) -> Vec<Value> {
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

/// Counted by hand in the captured bodies of the session that `parts/claude.sh` scripts: one session, the prompt "ping",
/// two requests of 120 input and 25 output tokens, 900 read from the cache and 30 written, at $0.001862 each, and one Bash call that a rule allowed.
#[must_use]
pub fn by_hand() -> Value {
    json!({
        "product": "claude_code", "client_type": "cli",
        "sessions": 1, "prompts": 1, "model_requests": 2, "responses": 2,
        "input_tokens": 240, "output_tokens": 50, "cache_read_tokens": 1800, "cache_creation_tokens": 60,
        "cost_estimated_micro_usd": 3724,
        "tool_calls": 1, "tool_failures": 0, "tool_auto_accepts": 1, "tool_accepts": 0, "tool_rejects": 0,
    })
}

/// The fields of `row` that `wanted` has.
///
/// # Panics
/// Where `wanted` is no object.
#[must_use]
pub fn only(row: &Value, wanted: &Value) -> Value {
    wanted.as_object().expect("an object").keys().map(|key| (key.clone(), row[key].clone())).collect()
}
