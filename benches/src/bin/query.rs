//! The query service: look-ups of one person and the numbers of an organisation's dashboard under load, against PostgreSQL with the same table behind
//! the same HTTP library; and a million rows over the SQL protocols against the same statement in this process.
//!
//! Load comes from Vegeta, on the same cores. What a server can do is what 16 workers get that ask one after the other; latencies are those
//! at half of that, requests coming at a fixed rate whatever becomes of the earlier ones.
#![allow(clippy::disallowed_methods, reason = "a bench is an edge: it reads the clock")]

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use aggregate::Memory;
use arrow_flight::sql::client::FlightSqlServiceClient;
use benches::{
    Filling, Options, Runs, calendar,
    load::{self, Outcome, Pace},
    median, merge_small_files,
    postgres::{self, Postgres},
    program::Program,
    report,
};
use clap::Parser;
use daybook::generate::{Config, Generator, ORGANISATIONS};
use e2e::{
    free_port,
    process::{self, Server, create_org, embedded, succeed},
};
use futures::TryStreamExt as _;
use jiff::{ToSpan as _, civil::Date};
use lake::Lake;
use query::{Access, Catalog, Limits};
use schemas::rollup::ROLLUP_DAILY;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Days of activity, and of a dashboard.
const DAYS: u32 = 90;
/// Days of a look-up.
const LOOKUP_DAYS: i32 = 30;
/// Last day of the activity.
const END: Date = Date::constant(2026, 3, 31);
/// People who are looked up.
const LOOKED_UP: usize = 2_000;
/// Events that are taken in before a rollup.
const INGESTED_AT_ONCE: usize = 50_000;
/// The look-ups, for Vegeta.
const OURS: &str = "ours.targets";
/// What a dashboard of an organisation shows.
const DASHBOARD: [&str; 5] = [
    "organisation/daily",
    "active-users/daily",
    "clients/daily",
    "trends/daily?metric=active_users",
    "data-health/daily",
];
/// Rows over the SQL protocols.
const ROWS: &str = "SELECT event_id, user_key, product, client_type, event_type, event_time, log_partition, log_offset \
                    FROM events LIMIT 1000000";

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// People
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Length of each load (s)
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Keeps the lake in this folder, and takes the one that is there [default: a temporary one]
    #[arg(long)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Hidden>,
}

/// What the bench starts itself as.
#[derive(Clone, Debug, clap::Subcommand)]
enum Hidden {
    /// Answers look-ups out of PostgreSQL.
    #[command(hide = true)]
    Peer { postgres: String, listen: SocketAddr, key: String, org: String },
}

fn main() {
    let Arguments { options, users, seconds, folder, command } = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    if let Some(Hidden::Peer { postgres, listen, key, org }) = command {
        return runtime.block_on(postgres::serve(&postgres, listen, key, org));
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.as_deref().unwrap_or(temporary.path());
    runtime.block_on(fill(folder, options.events, users));
    let environment = embedded(folder);
    let served = Served::start(folder, &environment);
    let lookups = Lookups::measure(&served, folder, &environment, options.runs, seconds);
    let dashboard = served.dashboard(folder, options.runs, seconds);
    let busy = Busy::measure(&served, folder, &lookups, options.runs, seconds);
    let wire = runtime.block_on(Wire::measure(&served, folder, options.runs));

    let ratios = json!({
        "rps_over_postgres": median(&lookups.ours.per_s) / median(&lookups.postgres.per_s),
        "lookup_p50_ms": median(&lookups.half.p50_s) * 1e3,
        "lookup_p99_ms": median(&lookups.half.p99_s) * 1e3,
        "org_p99_ms": median(&dashboard.p99_s) * 1e3,
        "p99_ingest_over_idle": median(&busy.lookups.p99_s) / median(&lookups.half.p99_s),
        "pgwire_over_inprocess": median(&wire.postgresql) / median(&wire.inprocess),
        "flight_over_inprocess": median(&wire.flight) / median(&wire.inprocess),
    });
    let detail = json!({
        "events": options.events,
        "users": users,
        "rollup_rows": process::query("SELECT count(*) AS n FROM rollup_daily", &environment)[0]["n"],
        "lookups_per_s": median(&lookups.ours.per_s),
        "lookups_per_s_postgres": median(&lookups.postgres.per_s),
        "ingested_events_per_s": busy.events_per_s,
        "dashboard_requests_per_s": median(&dashboard.per_s),
        "first_lookup_s": served.first_lookup_s,
        "peak_mb": served.server.peak_memory_bytes() as f64 / 1e6,
    });
    let programs: [(&str, &[f64]); 10] = [
        ("look-up, p50", &lookups.half.p50_s),
        ("look-up, p99", &lookups.half.p99_s),
        ("look-up, busy, p50", &busy.lookups.p50_s),
        ("look-up, busy, p99", &busy.lookups.p99_s),
        ("PostgreSQL, p50", &lookups.postgres_half.p50_s),
        ("PostgreSQL, p99", &lookups.postgres_half.p99_s),
        ("dashboard, p99", &dashboard.p99_s),
        ("1 M rows here", &wire.inprocess),
        ("1 M rows, PostgreSQL's", &wire.postgresql),
        ("1 M rows, Flight", &wire.flight),
    ];
    report("query", &programs, ratios, detail, options.json.as_deref());
}

/// One organisation's events in a lake, merged and rolled up; does nothing where they are there.
async fn fill(folder: &Path, events: u64, users: usize) {
    let url = folder.join("lake").display().to_string();
    let lake = Lake::open(&url, &[]).expect("a folder is a lake");
    if lake.table(&ROLLUP_DAILY).head().await.expect("the folder can be read").is_some() {
        return;
    }
    let config = Config { users, orgs: 1, days: DAYS, ..Config::new(7, events, END) };
    Filling::new(&url, folder).put(Generator::new(config).expect("the configuration is sound")).await;
    merge_small_files(&lake).await;
    let _ = Runs::default().run(&lake, &calendar(), &mut Memory::default()).await;
}

/// Latencies and rates of some rounds.
#[derive(Default)]
struct Rounds {
    per_s: Vec<f64>,
    p50_s: Vec<f64>,
    p99_s: Vec<f64>,
}

impl Rounds {
    fn push(&mut self, outcome: Outcome) {
        self.per_s.push(outcome.per_s);
        self.p50_s.push(outcome.p50_s);
        self.p99_s.push(outcome.p99_s);
    }
}

/// A running service, and a key to it.
struct Served {
    server: Server,
    url: String,
    postgresql: SocketAddr,
    flight: SocketAddr,
    key: String,
    /// Time of the very first look-up (s).
    first_lookup_s: f64,
}

impl Served {
    fn start(folder: &Path, environment: &[(String, String)]) -> Self {
        let org = ORGANISATIONS[0].id;
        if !folder.join("directory.db").exists() {
            create_org(org, &[], environment);
        }
        let key = succeed(&["token", "create", "--org", org, "--role", "service"], environment).trim().to_owned();
        let [listen, postgresql, flight] = [(); 3].map(|()| local(free_port()));
        let [at, pg_at, flight_at] = [listen, postgresql, flight].map(|address| address.to_string());
        let ports = ["--listen", &at, "--pg-listen", &pg_at, "--flight-listen", &flight_at];
        let arguments = [&["serve", "--role", "query"], &ports[..]].concat();
        let mut server = Server::start(&arguments, environment, &folder.join("serve.log"));
        let url = format!("http://{listen}");
        tokio::runtime::Runtime::new().expect("threads").block_on(server.ready(&format!("{url}/readyz")));
        let mut served = Self { server, url, postgresql, flight, key, first_lookup_s: 0.0 };
        let began = Instant::now();
        let _ = get(&served.lookup("nobody"), &served.key);
        served.first_lookup_s = began.elapsed().as_secs_f64();
        served
    }

    fn lookup(&self, user: &str) -> String {
        lookup(&self.url, user)
    }

    fn dashboard(&self, folder: &Path, rounds: usize, seconds: u32) -> Rounds {
        let from = first_day(DAYS.cast_signed());
        let urls = DASHBOARD.map(|path| {
            let and = if path.contains('?') { '&' } else { '?' };
            format!("{}/v1/{path}{and}from={from}&to={END}", self.url)
        });
        let targets = targets(&folder.join("dashboard.targets"), urls);
        let mut half = Rounds::default();
        for _ in 0..rounds {
            let most = load::run(&targets, &self.key, Pace::Saturated, seconds);
            half.push(load::run(&targets, &self.key, Pace::PerSecond(most.per_s / 2.0), seconds));
        }
        half
    }
}

/// Look-ups of people over some days, ours and PostgreSQL's in turn.
#[derive(Default)]
struct Lookups {
    /// As many as it can.
    ours: Rounds,
    postgres: Rounds,
    /// At half of its own rate.
    half: Rounds,
    postgres_half: Rounds,
}

impl Lookups {
    fn measure(served: &Served, folder: &Path, environment: &[(String, String)], rounds: usize, seconds: u32) -> Self {
        let postgres = Postgres::start();
        postgres.copy(environment);
        let listen = local(free_port());
        let mut peer = Command::new(std::env::current_exe().expect("a running program has a path"));
        peer.args(["peer", postgres.url(), &listen.to_string(), &served.key, ORGANISATIONS[0].id]);
        let mut peer = Program::start("peer", &mut peer, &folder.join("peer.log"));
        peer.await_line("ready");
        let peer_url = format!("http://{listen}");

        let sample = format!("SELECT DISTINCT user_key FROM rollup_daily ORDER BY md5(user_key) LIMIT {LOOKED_UP}");
        let people = process::query(&sample, environment);
        let people: Vec<&str> =
            people.as_array().expect("rows").iter().map(|row| row["user_key"].as_str().expect("text")).collect();
        for person in &people[..20] {
            let [ours, theirs] = [&served.url, &peer_url].map(|url| comparable(get(&lookup(url, person), &served.key)));
            let differ = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            assert!(ours == theirs, "{person}: {} rows, PostgreSQL {}: {differ:?}", ours.len(), theirs.len());
        }
        let at = |url: &str, name: &str| targets(&folder.join(name), people.iter().map(|person| lookup(url, person)));
        let (ours, theirs) = (at(&served.url, OURS), at(&peer_url, "peer.targets"));
        let mut all = Self::default();
        for round in 0..=rounds {
            let run = |targets: &Path, pace| load::run(targets, &served.key, pace, seconds);
            let most = [run(&ours, Pace::Saturated), run(&theirs, Pace::Saturated)];
            if round == 0 {
                continue;
            }
            let [our_half, their_half] = most.map(|outcome| Pace::PerSecond(outcome.per_s / 2.0));
            all.ours.push(most[0]);
            all.postgres.push(most[1]);
            all.half.push(run(&ours, our_half));
            all.postgres_half.push(run(&theirs, their_half));
        }
        peer.lives();
        all
    }
}

/// The same look-ups at the same rate, while events of the last day are taken in and rolled up as fast as that goes, on the same cores.
#[derive(Default)]
struct Busy {
    lookups: Rounds,
    events_per_s: f64,
}

impl Busy {
    fn measure(served: &Served, folder: &Path, idle: &Lookups, rounds: usize, seconds: u32) -> Self {
        let (stop, url) = (CancellationToken::new(), folder.join("lake").display().to_string());
        let more = tempfile::tempdir().expect("a temporary folder");
        let (stopped, log) = (stop.clone(), more.path().to_owned());
        let began = Instant::now();
        let ingest = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("threads");
            runtime.block_on(async {
                let (filling, lake) = (Filling::new(&url, &log), Lake::open(&url, &[]).expect("a folder is a lake"));
                let config = Config { users: 1_000, orgs: 1, days: 1, ..Config::new(11, u64::MAX >> 20, END) };
                let mut events = Generator::new(config).expect("the configuration is sound");
                let (mut count, mut memory) = (0, Memory::default());
                while !stopped.is_cancelled() {
                    filling.put(events.by_ref().take(INGESTED_AT_ONCE)).await;
                    count += INGESTED_AT_ONCE;
                    let _ = Runs::default().run(&lake, &calendar(), &mut memory).await;
                }
                count as f64
            })
        });
        let mut lookups = Rounds::default();
        let pace = Pace::PerSecond(median(&idle.ours.per_s) / 2.0);
        for _ in 0..rounds {
            lookups.push(load::run(&folder.join(OURS), &served.key, pace, seconds));
        }
        stop.cancel();
        let events = ingest.join().expect("no panic");
        Self { lookups, events_per_s: events / began.elapsed().as_secs_f64() }
    }
}

/// Times of the same million rows (s).
#[derive(Default)]
struct Wire {
    inprocess: Vec<f64>,
    postgresql: Vec<f64>,
    flight: Vec<f64>,
}

impl Wire {
    async fn measure(served: &Served, folder: &Path, rounds: usize) -> Self {
        let lake = Lake::open(&folder.join("lake").display().to_string(), &[]).expect("a folder is a lake");
        let catalog = Catalog::new(lake, Limits::default()).expect("the limits are sound");
        let access = Access::Org(ORGANISATIONS[0].id.parse().expect("an id"));
        let mut config = tokio_postgres::Config::new();
        config.host(served.postgresql.ip().to_string()).port(served.postgresql.port());
        config.user("bench").password(&served.key).dbname("daybook");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("it lets us in");
        tokio::spawn(connection);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", served.flight)).expect("a URL");
        let mut flight = FlightSqlServiceClient::new(channel.connect().await.expect("it listens"));
        flight.set_token(served.key.clone());

        let mut all = Self::default();
        for round in 0..=rounds {
            let began = Instant::now();
            let session = catalog.session(&access).await.expect("its tables can be read");
            let rows = query::sql(&session, ROWS).await.expect("it reads");
            let here = rows.try_fold(0, async |rows, batch| Ok(rows + batch.num_rows())).await.expect("rows");
            let inprocess = began.elapsed().as_secs_f64();

            let began = Instant::now();
            let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
            let rows = client.query_raw(ROWS, none).await.expect("it reads");
            let there = rows.try_fold(0, async |rows, _| Ok(rows + 1)).await.expect("rows");
            let postgresql = began.elapsed().as_secs_f64();

            let began = Instant::now();
            let info = flight.execute(ROWS.to_owned(), None).await.expect("it reads");
            let ticket = info.endpoint[0].ticket.clone().expect("an answer has a ticket");
            let rows = flight.do_get(ticket).await.expect("rows");
            let flown = rows.try_fold(0, async |rows, batch| Ok(rows + batch.num_rows())).await.expect("rows");
            let flight = began.elapsed().as_secs_f64();

            assert!(here == there && here == flown, "{here} rows here, {there} and {flown} over the wire");
            if round > 0 {
                all.inprocess.push(inprocess);
                all.postgresql.push(postgresql);
                all.flight.push(flight);
            }
        }
        all
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The first of so many days up to the last.
fn first_day(days: i32) -> Date {
    END.checked_sub((days - 1).days()).expect("in range")
}

fn lookup(url: &str, user: &str) -> String {
    let user: String = url::form_urlencoded::byte_serialize(user.as_bytes()).collect();
    format!("{url}/v1/rollups/daily?user={user}&from={}&to={END}", first_day(LOOKUP_DAYS))
}

/// Writes requests for Vegeta.
fn targets(file: &Path, urls: impl IntoIterator<Item = String>) -> PathBuf {
    let mut lines = String::new();
    for url in urls {
        writeln!(lines, "GET {url}").expect("memory");
    }
    std::fs::write(file, lines).expect("the folder can be written");
    file.to_owned()
}

/// An answer, read whole.
fn get(url: &str, key: &str) -> Value {
    let bearer = format!("Authorization: Bearer {key}");
    let answer = Command::new("curl").args(["-sSf", "-H", &bearer, url]).output().expect("curl runs");
    assert!(answer.status.success(), "{url}: {}", String::from_utf8_lossy(&answer.stderr));
    serde_json::from_slice(&answer.stdout).expect("an answer is JSON")
}

/// The rows of an answer, decimals and times spelled in one way, without nulls.
fn comparable(mut answer: Value) -> Vec<Value> {
    let mut rows = answer["data"].as_array_mut().map(std::mem::take).expect("rows");
    for row in &mut rows {
        let row = row.as_object_mut().expect("a row is an object");
        row.retain(|name, value| !value.is_null() && name != "org_id");
        for value in row.values_mut() {
            if let Some(number) = value.as_f64().or_else(|| value.as_str()?.parse().ok()) {
                *value = number.into();
            } else if let Some(text) = value.as_str() {
                // A time: the one ends in `+00:00` and has no zeros at the end of its fraction.
                let text = text.trim_end_matches("+00:00").trim_end_matches('Z');
                *value = if text.contains('.') { text.trim_end_matches('0') } else { text }.into();
            }
        }
    }
    rows
}
