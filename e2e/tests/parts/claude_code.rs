//! Claude Code's telemetry, as its exporters sent it, into a running Daybook; then the day's rollup.

use std::{path::Path, process::Command, time::Duration};

use e2e::{
    claude_code::{Daybook, by_hand, only},
    process::wait_for,
};
use serde_json::{Value, json};

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
        let mut wanted = by_hand();
        wanted["active_agent_ms"] = json!(active_agent_ms);
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
