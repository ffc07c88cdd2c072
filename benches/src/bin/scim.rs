//! An identity provider's first synchronisation with a running `daybook serve`, and what it asks afterwards.
//!
//! Each user is one request, as Okta and Entra ID send them; groups come with a hundred members each. The directory is SQLite on local disk, every
//! change synced. There is no peer: the figures are rates and times of this machine.
#![allow(clippy::disallowed_methods, reason = "a bench is an edge: it reads the clock")]

use std::time::Instant;

use benches::{percentile, report};
use clap::Parser;
use e2e::{
    free_port,
    process::{Server, create_org, embedded, succeed},
};
use futures::{StreamExt as _, stream};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

const MEMBERS: usize = 100;

#[derive(Parser)]
struct Options {
    /// Users.
    #[arg(long, default_value_t = 100_000)]
    users: usize,
    /// Groups.
    #[arg(long, default_value_t = 1_000)]
    groups: usize,
    /// Requests of the synchronisation at once.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Questions of each kind.
    #[arg(long, default_value_t = 400)]
    questions: usize,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let environment = embedded(folder.path());
    create_org("acme", &[], &environment);
    let key = succeed(&["key", "create", "--org", "acme", "--scope", "scim"], &environment).trim().to_owned();
    let listen = format!("127.0.0.1:{}", free_port());
    let arguments = ["serve", "--role", "query", "--role", "aggregate", "--listen", &listen];
    let mut server = Server::start(&arguments, &environment, &folder.path().join("serve.log"));
    server.ready(&format!("http://{listen}/readyz")).await;
    let provider = Provider { http: Client::new(), root: format!("http://{listen}/scim/v2"), key };

    let started = Instant::now();
    let users = stream::iter(0..options.users).map(|number| provider.made("Users", user(number)));
    let users: Vec<String> = users.buffered(options.clients).collect().await;
    let users_s = started.elapsed().as_secs_f64();
    let group = |number: usize| {
        let member = |at: usize| json!({ "value": users[(number * 97 + at) % users.len()] });
        json!({ "displayName": format!("Team {number:05}"), "members": (0..MEMBERS.min(users.len())).map(member).collect::<Vec<_>>() })
    };
    let groups = stream::iter(0..options.groups).map(|number| provider.made("Groups", group(number)));
    let groups: Vec<String> = groups.buffered(options.clients).collect().await;
    let sync_s = started.elapsed().as_secs_f64();

    // One at a time: how long each takes.
    let of = |number: usize| number * 7_919 % options.users;
    let group_of = |number: usize| number * 7_919 % options.groups;
    let mut asked = Vec::new();
    for (name, path) in questions() {
        let mut seconds = Vec::new();
        for number in 0..options.questions {
            let path = path(of(number), group_of(number), &users, &groups);
            let started = Instant::now();
            let body = provider.send(Method::GET, &path, None).await;
            seconds.push(started.elapsed().as_secs_f64());
            assert!(body["Resources"].as_array().is_some_and(|found| !found.is_empty()), "{path}: {body}");
        }
        asked.push((name, seconds));
    }
    // What no index answers reads every document; a few of them are enough.
    let started = Instant::now();
    let scan = provider.send(Method::GET, "/Users?filter=title%20co%20%22no%20such%22", None).await;
    let scan_s = started.elapsed().as_secs_f64();
    assert_eq!(scan["totalResults"], 0);

    let worst = |prefix: &str| {
        let of_kind = asked.iter().filter(|(name, _)| name.starts_with(prefix));
        of_kind.map(|(_, seconds)| 1e3 * percentile(seconds, 0.99)).fold(0.0, f64::max)
    };
    let figures = json!({
        "sync_ops_per_s": (options.users + options.groups) as f64 / sync_s,
        "list_p99_ms": worst("list"),
        "filter_p99_ms": worst("filter"),
    });
    let detail = json!({
        "users": options.users, "groups": options.groups, "members_of_a_group": MEMBERS, "clients": options.clients,
        "users_per_s": options.users as f64 / users_s,
        "groups_per_s": options.groups as f64 / (sync_s - users_s),
        "filter_without_index_s": scan_s,
        "peak_mib": server.peak_memory_bytes() >> 20,
        "p99_ms": asked.iter().map(|(name, seconds)| ((*name).to_owned(), json!(1e3 * percentile(seconds, 0.99)))).collect::<serde_json::Map<_, _>>(),
    });
    let programs: Vec<(&str, &[f64])> = asked.iter().map(|(name, seconds)| (*name, seconds.as_slice())).collect();
    report("scim", &programs, figures, detail, options.json.as_deref());
    assert_eq!(server.terminate(), 0);
}

type Question = fn(usize, usize, &[String], &[String]) -> String;

fn questions() -> [(&'static str, Question); 8] {
    [
        ("list users", |user, _, _, _| format!("/Users?count=100&startIndex={}", user + 1)),
        ("list users by name", |user, _, _, _| format!("/Users?count=100&sortBy=userName&startIndex={}", user + 1)),
        ("list groups", |_, group, _, _| {
            format!("/Groups?count=100&excludedAttributes=members&startIndex={}", group + 1)
        }),
        ("filter userName", |user, _, _, _| format!("/Users?filter=userName%20eq%20%22USER-{user}%40acme.example%22")),
        ("filter externalId", |user, _, _, _| format!("/Users?filter=externalId%20eq%20%22x-{user}%22")),
        ("filter displayName, group", |_, group, _, _| {
            format!("/Groups?filter=displayName%20eq%20%22team%20{group:05}%22")
        }),
        ("filter active", |user, _, _, _| format!("/Users?filter=active%20eq%20true&startIndex={}", user + 1)),
        ("filter id and members", |_, group, users, groups| {
            let (group_id, member) = (&groups[group], &users[group * 97 % users.len()]);
            format!("/Groups?filter=id%20eq%20%22{group_id}%22%20and%20members%20eq%20%22{member}%22&attributes=id")
        }),
    ]
}

fn user(number: usize) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User", "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],
        "userName": format!("user-{number}@acme.example"), "externalId": format!("x-{number}"), "active": true,
        "displayName": format!("User {number}"), "name": { "givenName": "User", "familyName": number.to_string() },
        "emails": [{ "value": format!("user-{number}@acme.example"), "type": "work", "primary": true }],
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": format!("Department {}", number % 50) },
    })
}

struct Provider {
    http: Client,
    root: String,
    key: String,
}

impl Provider {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.http.request(method, format!("{}{path}", self.root)).bearer_auth(&self.key);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.expect("it answers");
        let (status, body) = (answer.status(), answer.json::<Value>().await.expect("JSON"));
        assert!(matches!(status, StatusCode::OK | StatusCode::CREATED), "{path}: {status} {body}");
        body
    }

    /// Makes a resource; gives its id.
    async fn made(&self, endpoint: &str, resource: Value) -> String {
        let made = self.send(Method::POST, &format!("/{endpoint}"), Some(resource)).await;
        made["id"].as_str().expect("an id").to_owned()
    }
}
