//! Load by Vegeta: requests at a rate that does not wait for the answers, or as fast as some workers get them.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use e2e::installed;
use serde_json::Value;

/// Workers of a closed loop: enough to keep two cores busy.
const WORKERS: u32 = 16;

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each worker sends the next as soon as it has its answer: what the server can do.
    Saturated,
    /// So many a second, whatever becomes of the earlier ones: what its users meet.
    PerSecond(f64),
}

/// What became of the requests.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Answers a second.
    pub per_s: f64,
    /// Latency that half of them did not exceed (s).
    pub p50_s: f64,
    /// Latency that 99 % of them did not exceed (s).
    pub p99_s: f64,
}

/// Sends the requests that the file `targets` names (a line `GET <url>` for each) for `seconds`, over and over, with `key`.
///
/// # Panics
/// Where Vegeta does not run, or a request was not answered with 200.
#[must_use]
pub fn run(targets: &Path, key: &str, pace: Pace, seconds: u32) -> Outcome {
    let vegeta = installed("DAYBOOK_BENCH_VEGETA");
    let mut attack = Command::new(&vegeta);
    attack.arg("attack").arg("-targets").arg(targets).args(["-header", &format!("Authorization: Bearer {key}")]);
    attack.arg(format!("-duration={seconds}s"));
    match pace {
        Pace::Saturated => attack.args(["-rate=0".to_owned(), format!("-max-workers={WORKERS}")]),
        // Vegeta's rates are integers over a time.
        Pace::PerSecond(rate) => attack.arg(format!("-rate={}/10s", (rate * 10.0).round().max(1.0))),
    };
    let mut attack = attack.stdout(Stdio::piped()).spawn().expect("vegeta starts");
    let answers = attack.stdout.take().expect("it was piped");
    let report = Command::new(&vegeta).args(["report", "-type=json"]).stdin(answers).output().expect("vegeta starts");
    assert!(attack.wait().expect("our own child can be awaited").success(), "vegeta attack failed");
    let report: Value = serde_json::from_slice(&report.stdout).expect("vegeta reports JSON");
    assert_eq!(report["success"], 1.0, "{}: {} {}", targets.display(), report["status_codes"], report["errors"]);
    let number = |value: &Value| value.as_f64().expect("a number");
    let latency = |name: &str| number(&report["latencies"][name]) / 1e9;
    Outcome { per_s: number(&report["throughput"]), p50_s: latency("50th"), p99_s: latency("99th") }
}
