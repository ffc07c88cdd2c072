//! `POST /v1/sql`: what is answered, and what is refused how.

use axum::{body::Body, http::Request};
use jiff::SignedDuration;
use serde_json::json;

use super::world::{DAYS, USERS, World, settings};
use crate::{Settings, formats::Format, http::SQL};

#[tokio::test]
async fn a_statement_is_answered_in_every_format() {
    let world = World::filled().await;
    let statement = "SELECT client_type, count(*) AS n FROM rollup_daily GROUP BY 1 ORDER BY 1";
    let n = DAYS as usize * USERS;
    let answer = world.ask("acme", statement, Format::Json).await;
    assert_eq!(answer.json(), json!([{ "client_type": "cli", "n": n }, { "client_type": "ide", "n": n }]));
    assert_eq!(answer.header("cache-control"), "no-store");
    for format in Format::ALL {
        let answer = world.ask("acme", statement, format).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, format.media_type()));
    }
    let csv = world.ask("globex", statement, Format::Csv).await;
    assert_eq!(csv.text(), format!("client_type,n\ncli,{n}\nide,{n}\n"));
    let none = world.ask("acme", "SELECT user_key FROM events WHERE false", Format::Json).await;
    assert_eq!(none.json(), json!([]));
    let tables = world.ask("acme", "SHOW TABLES", Format::Csv).await.text();
    assert!(tables.contains("active_users") && !tables.contains("dead_letters"), "{tables}");
}

/// Statement, kind of problem, what its detail holds.
const BAD: &[(&str, &str, &str)] = &[
    ("", "refused-statement", "an empty text"),
    ("ASK 1", "invalid-statement", "ASK"),
    ("SELECT no_such_column FROM events", "invalid-statement", "no_such_column"),
    ("SELECT * FROM no_such_table", "invalid-statement", "no_such_table"),
    ("SELECT 1; SELECT 2", "refused-statement", "more than one"),
    ("DROP TABLE events", "refused-statement", "DROP"),
    ("COPY events TO '/tmp/x.csv'", "refused-statement", "COPY"),
    ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", "refused-statement", "CREATE"),
    ("SET datafusion.execution.batch_size = 1", "refused-statement", "SET"),
    // Found when the first rows are computed.
    ("SELECT 1 / (prompts - prompts) FROM rollup_daily", "invalid-statement", "ivide by zero"),
];

#[tokio::test]
async fn a_bad_statement_is_told_what_is_wrong() {
    let world = World::filled().await;
    for (statement, kind, part) in BAD {
        let problem = world.ask("acme", statement, Format::Json).await.problem(400, kind);
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains(part) && !detail.contains("Error"), "{statement}: {problem}");
    }
    let lists = world.ask("acme", "SELECT array_agg(user_key) AS all FROM events", Format::Csv).await;
    lists.problem(400, "invalid-statement");
    let own = format!("Bearer {}", world.keys["acme"]);
    let post = async |uri: String, body: Vec<u8>| {
        let request = Request::post(uri).header("authorization", &own).body(Body::from(body)).expect("a request");
        world.send(request).await
    };
    post(SQL.to_owned(), vec![0xff, 0xfe]).await.problem(400, "invalid-statement");
    let long = format!("SELECT '{}'", "x".repeat(300 << 10)).into_bytes();
    post(SQL.to_owned(), long).await.problem(400, "refused-statement");
    post(SQL.to_owned(), vec![b' '; 5 << 20]).await.problem(413, "statement-too-long");
    post(format!("{SQL}?format=xml"), b"SELECT 1".to_vec()).await.problem(400, "invalid-parameter");
    post(format!("{SQL}?limit=1"), b"SELECT 1".to_vec()).await.problem(400, "unknown-parameter");
}

#[tokio::test]
async fn a_statement_that_takes_too_much_ends_and_the_service_goes_on() {
    // Long enough for a small statement on a machine that is busy with other tests.
    let world = World::filled_with(Settings { timeout: SignedDuration::from_secs(4), ..settings() }).await;
    let bomb = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value % 7 = b.value % 11";
    world.ask("acme", bomb, Format::Json).await.problem(503, "timeout");
    let large = World::filled().await;
    let bomb = "SELECT array_agg(a.value) FROM generate_series(1, 100000000) a";
    large.ask("acme", bomb, Format::Json).await.problem(503, "budget");
    for world in [world, large] {
        assert_eq!(world.ask("acme", "SELECT 1 AS one", Format::Json).await.json(), json!([{ "one": 1 }]));
    }
}
