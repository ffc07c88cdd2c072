//! Real parts for tests: a Kafka broker, an S3 server, `daybook` processes, and other engines as oracles.
//!
//! Everything is started on free loopback ports by the test that needs it and stopped, by pid, when it is dropped.
//! Where the parts are installed is told by the environment (`cargo xtask test` sets it):
//! `DAYBOOK_E2E_KAFKA_LIBS` (folder of jars), `DAYBOOK_E2E_VERSITYGW` and `DAYBOOK_E2E_PROMETHEUS` (binaries),
//! `DAYBOOK_E2E_PYTHON` (interpreter).
#![allow(clippy::disallowed_methods, reason = "tests are an edge: they may read the clock")]

pub mod activity;
pub mod claude_code;
pub mod faults;
pub mod parts;
pub mod pipeline;
pub mod process;
pub mod prometheus;
pub mod proxy;

use std::{net::TcpListener, path::PathBuf};

/// A loopback port that was free a moment ago.
///
/// # Panics
/// Where the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// The folder of this crate: scripts and oracles lie below it.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A part's place, from the environment.
///
/// # Panics
/// Where it is not set: a missing part fails the test, it is never skipped.
#[must_use]
pub fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run the tests by `cargo xtask test`, or `eval \"$(cargo xtask parts env)\"` first"
        )
    })
}
