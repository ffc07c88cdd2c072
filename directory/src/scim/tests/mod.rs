//! Over HTTP, by a real router on a real database.

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request},
};
use jiff::Timestamp;
use schemas::OrgId;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Scim, router};
use crate::{Directory, OptIn, Scope, tests::Database};

mod bulk;
mod dialects;
mod lists;
mod patches;
mod people;
mod races;
mod resources;

pub(super) const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";
const NOW: &str = "2026-03-04T05:06:07.123456Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

fn org(id: &str) -> OrgId {
    id.parse().expect("an id")
}

/// An answer.
#[derive(Debug)]
struct Told {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Told {
    fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("an id: {self:?}")).to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    /// Status and `scimType`.
    fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["scimType"].as_str().unwrap_or(""))
    }
}

/// An organisation's client.
struct Client {
    router: Router,
    key: String,
}

impl Client {
    async fn send(&self, method: &str, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Told {
        let mut request =
            Request::builder().method(method).uri(format!("/scim/v2{path}")).header("host", "daybook.example");
        if !self.key.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.router.clone().oneshot(request.body(body).expect("a request")).await.expect("it answers");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
        Told { status, headers, body }
    }

    async fn get(&self, path: &str) -> Told {
        self.send("GET", path, None, &[]).await
    }

    async fn post(&self, path: &str, body: &Value) -> Told {
        self.send("POST", path, Some(body), &[]).await
    }

    async fn put(&self, path: &str, body: &Value) -> Told {
        self.send("PUT", path, Some(body), &[]).await
    }

    async fn patch(&self, path: &str, operations: Value) -> Told {
        let body = json!({ "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations });
        self.send("PATCH", path, Some(&body), &[]).await
    }

    async fn delete(&self, path: &str) -> Told {
        self.send("DELETE", path, None, &[]).await
    }

    /// A user with that userName; gives the id.
    async fn user(&self, name: &str) -> String {
        let made = self.post("/Users", &json!({ "userName": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.id()
    }

    /// A group with those members; gives the id.
    async fn group(&self, name: &str, members: &[&String]) -> String {
        let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
        let made = self.post("/Groups", &json!({ "displayName": name, "members": members })).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.id()
    }

    /// The ids of a group's members.
    async fn members(&self, group: &str) -> Vec<String> {
        let group = self.get(&format!("/Groups/{group}")).await;
        let members = group.body["members"].as_array().cloned().unwrap_or_default();
        members.iter().map(|member| member["value"].as_str().expect("an id").to_owned()).collect()
    }
}

struct World {
    directory: Directory,
    acme: Client,
    globex: Client,
}

async fn world(database: &Database) -> World {
    world_at(database, now).await
}

async fn world_at(database: &Database, clock: fn() -> Timestamp) -> World {
    let directory = database.open().await;
    let router = router(Scim::new(directory.clone(), clock));
    let client = async |id: &str| {
        directory.create_org(&org(id), id, "UTC", now()).await.expect("new");
        directory.set_opt_in(&org(id), OptIn::Named, "a test", now()).await.expect("new");
        let (_, key) = directory.create_key(&org(id), Scope::Scim, "", now()).await.expect("new");
        Client { router: router.clone(), key: key.expose().to_owned() }
    };
    let (acme, globex) = (client("acme").await, client("globex").await);
    World { directory, acme, globex }
}
