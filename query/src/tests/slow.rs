//! What is logged of what takes long, and what is not.

use std::{
    io,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use super::{
    flight,
    pg::Served,
    world::{World, settings},
};
use crate::{Settings, formats::Format};

/// All that was logged in this process.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Statements end on threads of the pool too, so the log is the process's.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
        log.with_writer(|| Writer).init();
    });
}

fn log() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

fn lines(marker: &str) -> Vec<String> {
    log()
        .lines()
        .filter(|line| line.contains("daybook::slow_query") && line.contains(marker))
        .map(str::to_owned)
        .collect()
}

/// The line about `marker`, of which there is one; it comes when the last row was handed over, which a client may see first.
async fn line(marker: &str) -> String {
    for _ in 0..500 {
        if let [line] = lines(marker).as_slice() {
            return line.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no line, or more than one, about {marker}: {:?}", lines(marker));
}

fn slower_than(slow_query: SignedDuration) -> Settings {
    Settings { slow_query, ..settings() }
}

/// Where everything is slow.
fn all() -> Settings {
    slower_than(SignedDuration::from_nanos(1))
}

#[track_caller]
fn has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(line.contains(" WARN ") && line.contains("duration_ms="), "{line}");
    let log = log();
    for secret in ["zqsecret", "7733551", "acme", "dbk_"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn statements_over_http_and_pages() {
    listen();
    let world = World::filled_with(all()).await;
    let statement =
        "SELECT user_key AS of_http FROM events WHERE user_key <> 'zqsecret' AND log_offset <> 7733551 LIMIT 3";
    let answer = world.ask("acme", statement, Format::Json).await;
    let found = line("of_http").await;
    let shape = r#"statement="SELECT user_key AS of_http FROM events WHERE user_key <> ? AND log_offset <> ? LIMIT ?""#;
    let id = format!("request_id=\"{}\"", answer.header("x-request-id"));
    has(&found, &[shape, &id, "protocol=\"http\"", "rows=3"]);

    // What cannot be parsed is told without its text.
    let answer = world.ask("acme", "SELECT 'zqsecret", Format::Json).await;
    let found = line(answer.header("x-request-id")).await;
    has(&found, &["protocol=\"http\"", "rows=0"]);
    assert!(!found.contains("statement=") && !found.contains("SELECT"), "{found}");

    let answer = world.get("acme", "/v1/rollups/daily?limit=3&product=zqsecret,kiro").await;
    let found = line(answer.header("x-request-id")).await;
    has(&found, &["protocol=\"rest\"", "route=\"/v1/rollups/daily\"", "parameters=\"limit,product\"", "rows=3"]);
}

#[tokio::test]
async fn statements_over_postgresql() {
    listen();
    let served = Served::with(all()).await;
    let client = served.connect_with(&served.world.keys["acme"]).await.expect("a connection");
    let statement = "SELECT user_key AS of_pg FROM events WHERE user_key <> 'zqsecret' LIMIT 3";
    client.simple_query(statement).await.expect("rows");
    let found = line("of_pg ").await;
    let shape = r#"statement="SELECT user_key AS of_pg FROM events WHERE user_key <> ? LIMIT ?""#;
    has(&found, &[shape, "peer=127.0.0.1:", "protocol=\"postgresql\"", "rows=3"]);

    let statement = "SELECT user_key AS of_pg_prepared FROM events WHERE user_key <> $1 AND product <> 'zqsecret'";
    let rows = client.query(statement, &[&"zqsecret"]).await.expect("rows").len();
    let found = line("of_pg_prepared").await;
    has(&found, &["WHERE user_key <> $1 AND product <> ?\"", &format!("rows={rows}")]);
}

#[tokio::test]
async fn statements_over_flight() {
    listen();
    let world = World::filled_with(all()).await;
    let served = flight::Served::over(&world.query).await;
    let mut client = served.connect(&world.keys["acme"]).await;
    let statement = "SELECT user_key AS of_flight FROM events WHERE user_key <> 'zqsecret' LIMIT 3";
    let rows = flight::shown(&mut client, statement).await;
    assert!(rows.contains("canary-acme"), "{rows}");
    let found = line("of_flight").await;
    let shape = r#"statement="SELECT user_key AS of_flight FROM events WHERE user_key <> ? LIMIT ?""#;
    has(&found, &[shape, "peer=127.0.0.1:", "protocol=\"flight\"", "rows=3"]);
}

#[tokio::test]
async fn what_is_quick_is_not_logged() {
    listen();
    for (settings, marker) in
        [(slower_than(SignedDuration::ZERO), "of_never"), (slower_than(SignedDuration::from_hours(1)), "of_hours")]
    {
        let world = World::filled_with(settings).await;
        world.ask("acme", &format!("SELECT user_key AS {marker} FROM events"), Format::Json).await;
        // The body's task ends before a later statement of the same thread does.
        let later = World::filled_with(all()).await;
        later.ask("acme", &format!("SELECT 1 AS after_{marker}"), Format::Json).await;
        line(&format!("after_{marker}")).await;
        assert_eq!(lines(&format!(" {marker}")), Vec::<String>::new());
    }
}
