//! PostgreSQL as a peer: the daily rollup in a table of its own, behind the same HTTP library.
//!
//! The rows become JSON within PostgreSQL, as PostgREST does it; what stands before it is as thin as can be.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::ListenerExt,
};
use e2e::process::daybook;
use schemas::{TableSpec, rollup::ROLLUP_DAILY};
use tokio_postgres::{Client, NoTls, Statement};

/// Connections of the HTTP layer.
const CONNECTIONS: usize = 8;
/// Rows of an answer, at most, as in ours.
const LIMIT: i64 = 1000;

/// A quarter of 8 GB and more for the cache, as its manual advises; the planner is told that the disk is fast.
const OPTIONS: &str =
    "-c shared_buffers=2GB -c work_mem=64MB -c maintenance_work_mem=1GB -c random_page_cost=1.1 -c max_wal_size=8GB";

/// A running server; stopped when dropped.
pub struct Postgres(e2e::parts::Postgres);

impl Postgres {
    /// Starts one with data of its own.
    ///
    /// # Panics
    /// Where there is no PostgreSQL on this machine, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self(e2e::parts::Postgres::start(OPTIONS))
    }

    /// How clients reach it.
    #[must_use]
    pub fn url(&self) -> &str {
        self.0.url()
    }

    /// Copies the daily rollup of a lake into it, in the order of its key.
    ///
    /// # Panics
    /// Where a row cannot be read or written.
    pub fn copy(&self, environment: &[(String, String)]) {
        let columns = ROLLUP_DAILY.schema();
        let columns: Vec<String> =
            columns.fields().iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type()))).collect();
        self.psql(&format!("CREATE TABLE rollup_daily ({})", columns.join(", ")), Stdio::null());
        let order = key(&ROLLUP_DAILY).join(", ");
        let select = format!("SELECT * FROM rollup_daily ORDER BY {order}");
        let mut rows = Command::new(daybook())
            .args(["query", "--format", "csv", &select])
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .spawn()
            .expect("daybook starts");
        let csv = rows.stdout.take().expect("it was piped");
        self.psql("COPY rollup_daily FROM STDIN WITH (FORMAT csv, HEADER)", csv.into());
        assert!(rows.wait().expect("our own child can be awaited").success(), "the rollup cannot be read");
        self.psql(&format!("ALTER TABLE rollup_daily ADD PRIMARY KEY ({order})"), Stdio::null());
        self.psql("VACUUM (ANALYZE, FREEZE) rollup_daily", Stdio::null());
    }

    fn psql(&self, statement: &str, stdin: Stdio) {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url(), "-c", statement]).stdin(stdin);
        assert!(psql.status().expect("psql runs").success(), "{statement}");
    }
}

/// Columns that identify a row, the organisation and the person first: a person's rows lie together.
fn key(spec: &TableSpec) -> Vec<&'static str> {
    let (first, rest) = spec.sort_columns.split_at(2);
    first.iter().chain(&spec.partition_column).chain(rest).copied().collect()
}

fn sql_type(kind: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType;
    match kind {
        DataType::Utf8 => "text".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        DataType::Timestamp(..) => "timestamptz".to_owned(),
        other => panic!("the rollup has a column of type {other}"),
    }
}

struct Peer {
    clients: Vec<(Client, Statement)>,
    turn: AtomicUsize,
    key: String,
    org: String,
}

#[derive(serde::Deserialize)]
struct Asked {
    user: String,
    from: String,
    to: String,
}

/// Answers `/v1/rollups/daily?user=&from=&to=` out of the PostgreSQL at `url`, for whoever has `key`, until the process ends.
///
/// # Panics
/// Where PostgreSQL cannot be reached.
pub async fn serve(url: &str, listen: SocketAddr, key: String, org: String) {
    let columns: Vec<String> = ROLLUP_DAILY
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| name != "org_id")
        .collect();
    let statement = format!(
        "SELECT coalesce(json_agg(t), '[]')::text FROM (SELECT {} FROM rollup_daily WHERE org_id = $1 AND user_key = $2 \
         AND activity_date BETWEEN $3::text::date AND $4::text::date ORDER BY {} LIMIT {LIMIT}) t",
        columns.join(", "),
        self::key(&ROLLUP_DAILY).join(", "),
    );
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL is there");
        tokio::spawn(connection);
        let statement = client.prepare(&statement).await.expect("the table is there");
        clients.push((client, statement));
    }
    let peer = Arc::new(Peer { clients, turn: AtomicUsize::new(0), key: format!("Bearer {key}"), org });
    let routes = Router::new().route("/v1/rollups/daily", get(read)).with_state(peer);
    let listener = tokio::net::TcpListener::bind(listen).await.expect("a free port");
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    println!("ready");
    axum::serve(listener, routes).await.expect("it serves");
}

async fn read(State(peer): State<Arc<Peer>>, Query(asked): Query<Asked>, headers: HeaderMap) -> impl IntoResponse {
    if headers.get(header::AUTHORIZATION).is_none_or(|given| given.as_bytes() != peer.key.as_bytes()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let (client, statement) = &peer.clients[peer.turn.fetch_add(1, Ordering::Relaxed) % CONNECTIONS];
    let row = client.query_one(statement, &[&peer.org, &asked.user, &asked.from, &asked.to]).await;
    let rows: String = row.and_then(|row| row.try_get(0)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], format!("{{\"data\":{rows},\"next_cursor\":null}}")))
}
