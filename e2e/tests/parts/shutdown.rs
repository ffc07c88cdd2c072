//! SIGTERM under load: what was acknowledged is there, and who is in the middle of something gets an answer or a closed connection.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::process::{Server, create_org, embedded, query, setting, succeed, wait_for};
use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CLIENTS: u64 = 8;
const BATCH: u64 = 50;

struct World {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    key: String,
    listen: String,
}

impl World {
    /// All roles on an embedded log; a shutdown waits for `drain`.
    fn new(drain: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut environment = embedded(folder.path());
        environment.push(setting("http.drain", drain));
        create_org("acme", &["--daily-quota", "100000000"], &environment);
        let key = succeed(&["key", "create", "--org", "acme", "--rate-limit", "0"], &environment);
        let listen = format!("127.0.0.1:{}", e2e::free_port());
        Self { folder, environment, key: key.trim().to_owned(), listen }
    }

    async fn serve(&self) -> Server {
        let log = self.folder.path().join("serve.log");
        let mut server = Server::start(&["serve", "--listen", &self.listen], &self.environment, &log);
        server.ready(&format!("http://{}/readyz", self.listen)).await;
        server
    }
}

fn event(id: &str) -> serde_json::Value {
    json!({
        "specversion": "1.0", "id": id, "source": "urn:daybook:test", "type": "dev.daybook.prompt.submitted.v1",
        "time": jiff::Timestamp::now().to_string(), "subject": "email:a@example.org",
        "sessionid": id, "data": { "length_chars": 12 },
    })
}

/// What a client was told.
#[derive(Default)]
struct Told {
    accepted: Vec<String>,
    sent: u64,
    broken_off: u64,
}

/// Sends until the collector is gone.
async fn client(world: &World, number: u64, done: &AtomicU64) -> Told {
    let http = Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
    let url = format!("http://{}/v1/events", world.listen);
    let mut told = Told::default();
    for request in 0.. {
        let ids: Vec<String> = (0..BATCH).map(|n| format!("c{number}-{request}-{n}")).collect();
        let batch: Vec<_> = ids.iter().map(|id| event(id)).collect();
        told.sent += BATCH;
        match http.post(&url).bearer_auth(&world.key).json(&batch).send().await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                told.accepted.extend(ids);
                done.fetch_add(BATCH, Ordering::Relaxed);
            }
            Ok(answer) => {
                // The log may be gone already; then it says so.
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                told.broken_off += 1;
            }
            Err(error) if error.is_connect() => break,
            Err(error) => {
                assert!(!error.is_timeout(), "a client is left waiting: {error:?}");
                told.broken_off += 1;
            }
        }
    }
    told
}

/// A request of which all but the last byte has been sent.
async fn unfinished(world: &World, id: &str) -> TcpStream {
    let body = event(id).to_string();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: application/cloudevents+json\r\n\
         content-length: {}\r\n\r\n",
        world.key,
        body.len()
    );
    let mut stream = TcpStream::connect(&world.listen).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&body.as_bytes()[..body.len() - 1]).await.expect("sent");
    stream
}

async fn terminate(server: Server) -> (i32, Duration) {
    let started = Instant::now();
    let ended = tokio::task::spawn_blocking(move || server.terminate()).await.expect("no panic");
    (ended, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_sigterm_under_load() {
    let world = Arc::new(World::new("10s"));
    let server = world.serve().await;
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (world, done) = (world.clone(), done.clone());
            tokio::spawn(async move { client(&world, number, &done).await })
        })
        .collect();
    let mut late = unfinished(&world, "late").await;
    wait_for("some thousand events are in", Duration::from_secs(60), async || done.load(Ordering::Relaxed) > 5_000)
        .await;

    let before = done.load(Ordering::Relaxed);
    let stopping = tokio::spawn(terminate(server));
    // Whoever had begun may end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    late.write_all(b"}").await.expect("the connection stands");
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("readable");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let (code, took) = stopping.await.expect("no panic");
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(10), "it ended within http.drain: {took:?}");

    let mut accepted = HashSet::from(["late".to_owned()]);
    let (mut sent, mut broken_off) = (1, 0);
    for client in clients {
        let told = client.await.expect("no panic");
        accepted.extend(told.accepted);
        sent += told.sent;
        broken_off += told.broken_off;
    }
    assert!(accepted.len() as u64 > before, "{CLIENTS} clients were in the middle of something");

    // What the worker had not read yet is still in the log.
    let server = world.serve().await;
    let stored = || {
        let rows = query("SELECT session_id FROM events", &world.environment);
        rows.as_array().expect("rows").clone()
    };
    let mut ids = HashSet::new();
    wait_for("every acknowledged event is in the table", Duration::from_secs(30), async || {
        ids = stored().iter().map(|row| row["session_id"].as_str().expect("a text").to_owned()).collect();
        accepted.iter().all(|id| ids.contains(id))
    })
    .await;
    assert!(ids.len() as u64 <= sent);
    let (code, _) = terminate(server).await;
    assert_eq!(code, 0);
    eprintln!(
        "acknowledged {} ({before} before the signal), stored {}, broken off {broken_off} requests, ended in {took:?}",
        accepted.len(),
        ids.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_end_does_not_hold_up_the_end() {
    let world = World::new("1s");
    let server = world.serve().await;
    let mut hanging = unfinished(&world, "never").await;
    let (code, took) = terminate(server).await;
    assert_eq!(code, 0);
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&took), "the drain, and little more: {took:?}");
    let mut answer = String::new();
    drop(hanging.read_to_string(&mut answer).await);
    assert_eq!(answer, "", "no answer to half a request");
}
