//! A SCIM 2.0 server (RFC 7643, RFC 7644): an organisation's identity provider pushes people and groups.
//!
//! ```text
//!  /scim/v2/… ─► key ─► body ─┬─ discovery: schemas and configuration, as data (tables)
//!                             └─ handle, bulk ─► document, patch, filter: pure ─► store ─► SQL: people, scim_groups, memberships
//!                                                                                  └─► tokens of who is not active end
//! ```
//!
//! Invariants:
//! 1. The organisation comes from the key, and every statement names it: ids of others are unknown ids.
//! 2. A password is neither kept nor shown.
//! 3. What is written follows from one version of the resource: of two changes at once, the second is made on what the first left. What is
//!    answered is on disk.
//! 4. A membership is never deleted: it ends.
//! 5. Before the organisation's admin opted in nobody is taken, and nobody shown.
//! 6. Bodies, requests under way, pages, operations and filters have limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, Method as HttpMethod, Response, StatusCode, header},
    routing::any,
};
use jiff::Timestamp;
use schemas::OrgId;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Directory, OptIn, Principal, Scope};

mod answer;
mod bulk;
mod discovery;
mod document;
mod filter;
mod handle;
mod patch;
mod path;
mod problem;
mod projection;
mod schema;
mod store;
mod tables;
#[cfg(test)]
mod tests;

use answer::Answer;
use handle::{Call, Method, Question};
use problem::{Problem, Result};
pub(crate) use store::Lane;

/// Largest body [bytes].
const BODY_MAX: usize = 4 << 20;
/// Requests that are worked on at once.
const REQUESTS_MAX: usize = 16;
/// Of one organisation, those whose bodies arrive included: whoever sends slowly is in nobody else's way.
const OF_AN_ORGANISATION_MAX: usize = 4;
/// How long a request waits for its turn.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How long an answer may take. Of a write that takes longer nobody is told whether it was made.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a body may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MEDIA_TYPE: &str = "application/scim+json";
const ROOT: &str = "/scim/v2";

/// The server. Clones share everything.
#[derive(Clone, Debug)]
pub struct Scim {
    directory: Directory,
    clock: fn() -> Timestamp,
    turns: Arc<Semaphore>,
    /// Of organisations that have requests under way.
    own_turns: Arc<Mutex<HashMap<OrgId, Arc<Semaphore>>>>,
}

impl Scim {
    /// A server of the directory's people.
    #[must_use]
    pub fn new(directory: Directory, clock: fn() -> Timestamp) -> Self {
        let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self { directory, clock, turns, own_turns: Arc::default() }
    }

    async fn answer(&self, request: Request) -> Result<Answer> {
        let (head, content) = request.into_parts();
        let principal = self.client(&head.headers).await?;
        let _own = turn(self.turns_of(&principal.org)).await?;
        let method = method(&head.method)?;
        let base = base(&head.headers);
        let question = Query::<HashMap<String, String>>::try_from_uri(&head.uri);
        let question = question.map_err(|_| Problem::syntax("The address cannot be read."))?.0;
        let question = Question::new(|name| {
            // Parameters have one spelling, and clients several.
            question.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone().into())
        })?;
        let path = head.uri.path().strip_prefix(ROOT).unwrap_or_default().to_owned();
        // The one thing in a path that clients escape is the colon of a schema's URN.
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let header = |name: HeaderName| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let (if_match, if_none_match) = (header(header::IF_MATCH), header(header::IF_NONE_MATCH));
        if let ["ServiceProviderConfig" | "Schemas" | "ResourceTypes", ..] = path.as_slice() {
            return match method {
                Method::Get => discovery::get(&path, question.filter.is_some(), &base),
                _ => Err(Problem::new(405, "This can only be read.")),
            };
        }
        let body = match method {
            Method::Get | Method::Delete => None,
            Method::Post | Method::Put | Method::Patch => Some(body(content).await?),
        };
        let _turn = turn(Arc::clone(&self.turns)).await?;
        // The audit log names the key.
        let directory = self.directory.acting_as(&format!("key:{}", principal.key_id));
        let scim = Self { directory, ..self.clone() };
        let org = &principal.org;
        let call = Call { org, method, path: &path, question, if_match, if_none_match, body, base: &base };
        let answer = async {
            match (method, path.as_slice()) {
                (Method::Post, ["Bulk"]) => scim.bulk(&call).await,
                // A key speaks for an organisation and is nobody (RFC 7644 §3.11).
                (_, ["Me", ..]) => Err(Problem::new(501, "There is no /Me: a key is no person.")),
                _ => scim.handle(&call).await,
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(Problem::late()))
    }

    fn turns_of(&self, org: &OrgId) -> Arc<Semaphore> {
        let mut all = self.own_turns.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(all.entry(org.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_AN_ORGANISATION_MAX))))
    }

    /// Whose key the request carries.
    async fn client(&self, headers: &HeaderMap) -> Result<Principal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().and_then(|value| value.to_str().ok()).filter(|_| values.next().is_none());
        let key =
            value.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let key = key.map(|(_, key)| key.trim()).ok_or_else(Problem::unauthorized)?;
        if let Some(principal) = self.directory.authenticate(key, Scope::Scim).await? {
            if principal.opt_in == OptIn::Off {
                return Err(Problem::new(403, "The organisation's admin has not opted in: daybook opt-in set."));
            }
            return Ok(principal);
        }
        for scope in [Scope::Ingest, Scope::Read, Scope::Produce] {
            if self.directory.authenticate(key, scope).await?.is_some() {
                return Err(Problem::new(
                    403,
                    format!("The key has the scope {scope}; SCIM takes one with the scope scim."),
                ));
            }
        }
        Err(Problem::unauthorized())
    }
}

/// The routes below `/scim/v2`.
pub fn router(scim: Scim) -> Router {
    Router::new().route(ROOT, any(serve)).route("/scim/v2/{*path}", any(serve)).with_state(scim)
}

async fn serve(State(scim): State<Scim>, request: Request) -> Response<Body> {
    let Answer { status, etag, location, body } = scim.answer(request).await.unwrap_or_else(Answer::from);
    let mut response =
        Response::builder().status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    let headers = [(header::ETAG, etag), (header::LOCATION, location)];
    for (name, value) in headers {
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    response = match status {
        401 => response.header(header::WWW_AUTHENTICATE, "Bearer"),
        503 => response.header(header::RETRY_AFTER, "1"),
        _ => response,
    };
    let content = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let response =
        if status == 204 || status == 304 { response } else { response.header(header::CONTENT_TYPE, MEDIA_TYPE) };
    response.body(content).unwrap_or_else(|_| {
        // A name from the client in `Location` that is no header.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
}

async fn turn(turns: Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let turn = tokio::time::timeout(QUEUE_WAIT, turns.acquire_owned()).await;
    turn.map_err(|_| Problem::busy())?.map_err(|_| Problem::busy())
}

fn method(method: &HttpMethod) -> Result<Method> {
    match *method {
        HttpMethod::GET => Ok(Method::Get),
        HttpMethod::POST => Ok(Method::Post),
        HttpMethod::PUT => Ok(Method::Put),
        HttpMethod::PATCH => Ok(Method::Patch),
        HttpMethod::DELETE => Ok(Method::Delete),
        _ => Err(Problem::new(405, "SCIM takes GET, POST, PUT, PATCH and DELETE.")),
    }
}

/// The address of `/scim/v2` as the client wrote it. Nobody but the client is shown it.
fn base(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").filter(|host| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b)));
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    host.map_or_else(|| ROOT.to_owned(), |host| format!("{scheme}://{host}{ROOT}"))
}

async fn body(body: Body) -> Result<Value> {
    let read = tokio::time::timeout(READ_TIMEOUT, axum::body::to_bytes(body, BODY_MAX)).await;
    let read = read.map_err(|_| Problem::new(408, "The body did not arrive in time."))?;
    let bytes = read.map_err(|_| Problem::new(413, format!("A body takes at most {BODY_MAX} bytes.")))?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::syntax(format!("The body is no JSON: {error}.")))
}
