//! The PostgreSQL protocol, asked by a driver over a socket.

use std::time::Duration;

use directory::Directory;
use jiff::{SignedDuration, Timestamp};
use schemas::EVENTS;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, error::SqlState};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    isolation::{FILE, OTHERS, PROBES, foreign},
    world::{DAYS, ORGS, USERS, World, rows, settings},
};
use crate::{PgServer, Settings};

/// A server over a world, until it is dropped.
pub(super) struct Served {
    pub(super) world: World,
    port: u16,
    closing: CancellationToken,
    serving: JoinHandle<()>,
    _closes: DropGuard,
}

impl Served {
    pub(super) async fn with(settings: Settings) -> Self {
        let world = World::filled_with(settings).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let server = PgServer::new(world.query.clone(), None).await.expect("a server");
        let closing = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, closing.clone()));
        Self { world, port, closing: closing.clone(), serving, _closes: closing.drop_guard() }
    }

    pub(super) async fn new() -> Self {
        Self::with(settings()).await
    }

    pub(super) async fn connect_with(&self, key: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user("anybody").dbname("daybook").password(key);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn connect(&self, org: &str) -> Client {
        self.connect_with(&self.world.keys[org]).await.expect("a connection")
    }

    fn directory(&self) -> &Directory {
        self.world.query.directory()
    }
}

/// What a person sees who runs `statement`: all values of all rows, or the error as it came.
pub(super) async fn shown(client: &Client, statement: &str) -> String {
    match client.simple_query(statement).await {
        Ok(messages) => messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    let values: Vec<_> = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
                    Some(values.join("|") + "\n")
                }
                _ => None,
            })
            .collect(),
        Err(error) => format!("{error:?}"),
    }
}

#[track_caller]
pub(super) fn code(error: &tokio_postgres::Error) -> &str {
    error.code().unwrap_or_else(|| panic!("no error of the server: {error:?}")).code()
}

#[tokio::test]
async fn no_sql_over_pg_shows_foreign_rows() {
    let served = Served::new().await;
    for (own, digits) in ORGS {
        let client = served.connect(own).await;
        let catalogue = ["SELECT * FROM pg_catalog.pg_class", "SELECT * FROM pg_catalog.pg_description"];
        for statement in PROBES.iter().chain(OTHERS).chain(&catalogue) {
            let mut text = shown(&client, statement).await;
            // Once more in the other protocol, as a statement that is prepared.
            text += &match client.prepare(statement).await {
                Ok(prepared) => format!("{:?}", client.query(&prepared, &[]).await.map(|_| ())),
                Err(error) => format!("{error:?}"),
            };
            let cursor = format!("DECLARE c CURSOR FOR {statement}");
            if client.simple_query(&cursor).await.is_ok() {
                text += &shown(&client, "FETCH ALL FROM c").await;
                text += &shown(&client, "CLOSE c").await;
            }
            let found = foreign(&text, statement, own);
            assert!(found.is_empty(), "as {own}, `{statement}` shows {found:?}:\n{text}");
            assert!(!text.contains(FILE), "as {own}, `{statement}` shows a file:\n{text}");
        }
        assert!(shown(&client, "SELECT max(prompts) FROM rollup_daily").await.contains(&digits.to_string()));
    }
}

#[tokio::test]
async fn only_read_keys_open_a_connection() {
    let served = Served::new().await;
    let read = &served.world.keys["acme"];
    let other = read.replace(&read[read.len() - 3..], "AAA");
    for key in [served.world.ingest_key.as_str(), "", "postgres", &other, &read[..30]] {
        let error = served.connect_with(key).await.expect_err("refused");
        if !key.is_empty() {
            assert_eq!(code(&error), "28P01", "{error:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_read_is_refused() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let statements = [
        "CREATE TABLE t (a INT)",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1 AS a INTO t",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE FUNCTION f(INT) RETURNS INT RETURN $1",
        "DROP TABLE events",
        "INSERT INTO events SELECT * FROM events",
        "WITH x AS (INSERT INTO events SELECT * FROM events) SELECT 1",
        "UPDATE events SET user_key = 'x'",
        "DELETE FROM events",
        "TRUNCATE events",
        "COPY events TO '/tmp/x'",
        "COPY events FROM '/etc/passwd'",
        "COPY events TO STDOUT",
        "COPY (SELECT 1) TO PROGRAM 'sh'",
        "SET datafusion.runtime.memory_limit = '100G'",
        "SET datafusion.execution.batch_size = 1",
        "SET \"datafusion.execution.batch_size\" = 1",
        "SET \"datafusion.runtime.memory_limit\" = '100G'",
        "SET LOCAL \"datafusion.runtime.memory_limit\" = '100G'",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "GRANT SELECT ON events TO public",
        "PREPARE x AS SELECT 1",
        "EXECUTE x",
        "EXPLAIN DELETE FROM events",
        "DECLARE c CURSOR FOR WITH x AS (DELETE FROM events) SELECT 1",
        "LISTEN x",
        "NOTIFY x",
        "VACUUM",
        "LOCK TABLE events",
        "DO 'x'",
        "CALL f()",
    ];
    for statement in statements {
        let error = client.simple_query(statement).await.expect_err(statement);
        assert!(["25006", "42601", "0A000"].contains(&code(&error)), "{statement}: {error:?}");
        if let Ok(prepared) = client.prepare(statement).await {
            client.query(&prepared, &[]).await.expect_err(statement);
        }
    }
    assert_eq!(shown(&client, "SELECT count(*) FROM events").await, format!("{}\n", DAYS as usize * USERS * 2));
    for file in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM read_csv('/etc/passwd')"] {
        client.simple_query(file).await.expect_err(file);
    }
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let long = format!("SELECT '{}'", "x".repeat(300 << 10));
    let many = format!("SELECT {}1", "1+".repeat(60_000));
    let (sum, joins) = (format!("SELECT {}1 AS n", "1+".repeat(299)), " JOIN events USING (org_id)".repeat(301));
    let joins = format!("SELECT 1 FROM events{joins}");
    let nested = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    for (statement, expected, says) in [
        ("CHOOSE 1", "42601", "CHOOSE"),
        ("SELECT no_such_column FROM events", "42703", "no_such_column"),
        ("SELECT * FROM no_such_table", "42P01", "no_such_table"),
        ("SELECT no_such_function(1)", "42883", "no_such_function"),
        ("SELECT CAST('x' AS INT)", "22000", "x"),
        (long.as_str(), "25006", "bytes"),
        (nested.as_str(), "42601", "nested too deeply"),
        (many.as_str(), "25006", "operators"),
        (joins.as_str(), "25006", "operators"),
    ] {
        let error = client.simple_query(statement).await.expect_err("wrong");
        let database = error.as_db_error().unwrap_or_else(|| panic!("{expected}: {error:?}"));
        assert_eq!(database.code().code(), expected, "{error:?}");
        assert!(database.message().contains(says), "{error:?}");
    }
    // The connection goes on.
    assert_eq!(shown(&client, &sum).await, "300\n");
    assert_eq!(shown(&client, "SELECT 1").await, "1\n");
}

#[tokio::test]
async fn a_prepared_statement_reads_what_is_there_when_it_runs() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let counted = client.prepare("SELECT count(*) FROM events WHERE client_type = $1").await.expect("prepared");
    let count = async || -> i64 { client.query_one(&counted, &[&"cli"]).await.expect("a row").get(0) };
    assert_eq!(count().await, i64::from(DAYS) * USERS as i64);
    served.world.put(&EVENTS, DAYS, &rows(DAYS, 0), vec![]).await;
    assert_eq!(count().await, i64::from(DAYS + 1) * USERS as i64);
}

#[tokio::test]
async fn a_cursor_is_read_in_parts() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let all = shown(&client, "SELECT user_key, event_date FROM events ORDER BY 1, 2").await;
    client.simple_query("BEGIN").await.expect("begun");
    client
        .simple_query("DECLARE c NO SCROLL CURSOR FOR SELECT user_key, event_date FROM events ORDER BY 1, 2")
        .await
        .expect("declared");
    let mut parts = String::new();
    loop {
        let part = shown(&client, "FETCH FORWARD 7 FROM c").await;
        if part.is_empty() {
            break;
        }
        assert!(part.lines().count() <= 7);
        parts += &part;
    }
    client.simple_query("CLOSE c").await.expect("closed");
    client.simple_query("COMMIT").await.expect("ended");
    assert_eq!(parts, all);
}

/// Peak of this process's memory since it was last set back (bytes).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") << 10
}

/// A client that does not keep rows has them pass through; so does the server.
#[tokio::test]
async fn rows_are_not_collected() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let rows = "SELECT repeat('x', 100) AS x FROM generate_series(1, 3000000)";
    // From here on the peak is this test's, and of what runs beside it.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    let before = peak_memory();
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
    let stream = client.query_raw(rows, params).await.expect("rows");
    assert_eq!(futures::StreamExt::count(stream).await, 3_000_000);
    client.simple_query("BEGIN").await.expect("begun");
    client.simple_query(&format!("DECLARE c CURSOR FOR {rows}")).await.expect("declared");
    let stream = client.query_raw("FETCH ALL FROM c", params).await.expect("rows");
    assert_eq!(futures::StreamExt::count(stream).await, 3_000_000);
    let grown = peak_memory() - before;
    assert!(grown < 200 << 20, "300 MB of rows took {} MiB of memory", grown >> 20);
    let error = client.simple_query("FETCH 2000000000 FROM c").await.expect_err("too many");
    assert_eq!(code(&error), "25006");
}

#[tokio::test]
async fn comments_say_what_columns_mean() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let select = "SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum), d.description \
                  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                  LEFT JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = a.attnum \
                  WHERE c.relname = 'rollup_daily' ORDER BY a.attnum";
    let text = shown(&client, select).await;
    let schema = schemas::rollup::ROLLUP_DAILY.schema();
    let expected: String = schema
        .fields()
        .iter()
        .map(|field| {
            let comment = &field.metadata()["comment"];
            format!("{}|{comment}|{comment}\n", field.name())
        })
        .collect();
    assert_eq!(text, expected);
}

/// Takes for ever and no memory.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 100000000000) a WHERE a.value < 0";

/// A place is free again when nothing is computed for it any more.
async fn all_places_come_free(served: &Served) {
    while served.world.query.places().left() < 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn cancel_ends_a_statement() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let stop = client.cancel_token();
    let (outcome, ()) = tokio::join!(client.simple_query(ENDLESS), async {
        // Until the statement has its place, there is nothing to be cancelled.
        while served.world.query.places().left() == 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel_query(NoTls).await.expect("sent");
    });
    assert_eq!(code(&outcome.expect_err("cancelled")), "57014");
    assert_eq!(shown(&client, "SELECT 1").await, "1\n");
    all_places_come_free(&served).await;
    // Somebody else's secret stops nothing.
    let other = served.connect("globex").await.cancel_token();
    other.cancel_query(NoTls).await.expect("sent");
    assert_eq!(shown(&client, "SELECT 1").await, "1\n");
}

#[tokio::test]
async fn a_statement_ends_with_its_time() {
    let served = Served::with(Settings { timeout: SignedDuration::from_millis(300), ..settings() }).await;
    let client = served.connect("acme").await;
    let error = client.simple_query(ENDLESS).await.expect_err("out of time");
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    let prepared = client.prepare(ENDLESS).await.expect("prepared");
    let error = client.query(&prepared, &[]).await.expect_err("out of time");
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    all_places_come_free(&served).await;
}

#[tokio::test]
async fn a_full_service_says_so_and_goes_on() {
    let served = Served::new().await;
    let client = served.connect("acme").await;
    let permits = served.world.query.places().take_all().await;
    let error = client.simple_query("SELECT 1").await.expect_err("busy");
    assert_eq!(code(&error), "53300");
    drop(permits);
    assert_eq!(shown(&client, "SELECT 1").await, "1\n");
}

#[tokio::test]
async fn what_needs_too_much_memory_ends_in_a_budget() {
    let served = Served::with(Settings { memory: bytesize::ByteSize::mib(16), ..settings() }).await;
    let client = served.connect("acme").await;
    for bomb in [
        "SELECT array_agg(a.value) FROM generate_series(1, 100000000) a",
        "SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY -a.value) AS r FROM generate_series(1, 100000000) a)",
        "SELECT max(n) FROM (SELECT a.value * 7 % 100000007 AS v, count(*) AS n FROM generate_series(1, 100000000) a GROUP BY 1)",
        "SELECT count(DISTINCT a.value * 7 % 100000007) FROM generate_series(1, 100000000) a",
        "SELECT count(*) FROM generate_series(1, 10000000) a JOIN generate_series(1, 10000000) b ON a.value = b.value",
    ] {
        let error = client.simple_query(bomb).await.expect_err(bomb);
        assert_eq!(code(&error), "53200", "{bomb}: {error:?}");
    }
    for refused in [
        "SELECT array_repeat('x', 1000000000)",
        "SELECT range(1, 1000000000)",
        "SELECT array_resize([1], 1000000000)",
        "SELECT generate_series(1, 1000000000)",
        "SELECT repeat('x', 2000000000)",
        "SELECT lpad('x', 2000000000)",
        "SELECT rpad('x', 2000000000)",
    ] {
        client.simple_query(refused).await.expect_err(refused);
    }
    assert_eq!(shown(&client, "SELECT repeat('ab', 3), lpad('7', 3, '0')").await, "ababab|007\n");
}

#[tokio::test]
async fn revoking_the_key_ends_the_connection() {
    let served = Served::new().await;
    let (client, other) = (served.connect("acme").await, served.connect("globex").await);
    let now = Timestamp::UNIX_EPOCH;
    let id = served.world.keys["acme"].split('_').nth(1).expect("dbk_<id>_<secret>").parse().expect("an id");
    let running = tokio::spawn(async move {
        let outcome = client.simple_query(ENDLESS).await.map(|_| ());
        (client, outcome)
    });
    assert!(served.directory().revoke_key(&id, now).await.expect("revoked"));
    let (client, outcome) = running.await.expect("no panic");
    outcome.expect_err("broken off");
    assert!(client.is_closed());
    assert_eq!(shown(&other, "SELECT 1").await, "1\n");
}

#[tokio::test]
async fn closing_waits_for_statements_and_not_for_connections() {
    let mut served = Served::new().await;
    let (idle, busy) = (served.connect("acme").await, served.connect("acme").await);
    assert_eq!(shown(&idle, "SELECT 1").await, "1\n");
    let slow = "SELECT count(*) FROM generate_series(1, 200000000) a WHERE a.value < 0";
    let (outcome, ()) = tokio::join!(shown(&busy, slow), async {
        while served.world.query.places().left() == 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served.closing.cancel();
    });
    assert_eq!(outcome, "0\n");
    (&mut served.serving).await.expect("no panic");
    idle.simple_query("SELECT 1").await.expect_err("closed");
}
