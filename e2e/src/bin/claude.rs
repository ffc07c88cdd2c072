//! `cargo xtask claude`: the published Claude Code CLI, offline, reports to a running Daybook; its day's rollup must be the
//! hand count. Not among the tests for its 360 MB.
#![allow(clippy::print_stdout, reason = "a tool for the command line")]

use std::{process::Command, time::Duration};

use e2e::claude_code::{Daybook, by_hand, only};

#[tokio::main]
async fn main() {
    for protocol in ["http/protobuf", "http/json"] {
        let daybook = Daybook::start().await;
        let status = Command::new("bash")
            .arg(e2e::folder().join("parts/claude.sh"))
            .args(["run", &daybook.url, &daybook.ingest_key])
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .status()
            .expect("bash runs");
        assert!(status.success(), "Claude Code ended with {status}");
        let wanted = by_hand();
        let mut found = serde_json::Value::Null;
        for _ in 0..60 {
            found = daybook.rollup().await.first().map_or(found, |row| only(row, &wanted));
            if found == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(found, wanted, "{protocol}: not the hand count within 30 s");
        println!("{protocol}: the rollup is the hand count\n{wanted:#}");
    }
}
