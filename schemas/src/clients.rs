//! Client types, and what each client can report.

use std::{collections::BTreeSet, sync::LazyLock};

use serde::Deserialize;

/// The client types that we know; any other raw value counts as `unknown` and is kept beside it.
pub static CLIENT_TYPES: &[&str] =
    &["ide", "cli", "plugin", "desktop_app", "web", "mobile", "cloud_agent", "review_bot", "sdk_api", "ci", "unknown"];

/// The known client type for a raw value: case and `-` do not matter.
#[must_use]
pub fn client_type(raw: &str) -> &'static str {
    let same = |known: &&&str| {
        known.len() == raw.len()
            && known.bytes().zip(raw.bytes()).all(|(k, r)| k == r.to_ascii_lowercase() || (k == b'_' && r == b'-'))
    };
    CLIENT_TYPES.iter().find(same).copied().unwrap_or("unknown")
}

/// What the clients of one product report, where they cannot say so themselves by `telemetry.status`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instrumentation {
    /// Product, e.g. `claude_code`.
    pub product: String,
    /// Client type, e.g. `cli`.
    pub client_type: String,
    /// Measure families, e.g. `model`, `tool` (see `measures.json`).
    pub families: BTreeSet<String>,
}

/// Declared instrumentation. A family that is neither declared here, nor by the client's `telemetry.status`, nor seen
/// in the row's own events is not instrumented: its measures are null, not 0.
pub fn declared() -> &'static [Instrumentation] {
    static DECLARED: LazyLock<Vec<Instrumentation>> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../clients.json")).expect("the embedded file is valid, a test reads it")
    });
    &DECLARED
}
