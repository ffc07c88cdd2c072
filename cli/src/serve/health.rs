//! `/healthz`, `/readyz`, `/metrics`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::TextEncoder;
use schemas::EVENTS;
use serde_json::{Map, Value, json};

use super::{Parts, Roles};

/// A part that does not answer by then is not ready.
const LIMIT: Duration = Duration::from_secs(3);

/// What the health routes look at.
#[derive(Clone)]
pub(super) struct Health {
    roles: Roles,
    parts: Parts,
    stopping: Arc<AtomicBool>,
}

impl Health {
    pub(super) fn new(roles: Roles, parts: Parts) -> Self {
        Self { roles, parts, stopping: Arc::new(AtomicBool::new(false)) }
    }

    /// From now on not ready: whoever sends requests here is to send them elsewhere.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    async fn log(&self) -> Result<(), String> {
        let Some(log) = &self.parts.log else { return Ok(()) };
        log.partitions().await.map(drop).map_err(|error| error.to_string())
    }

    async fn lake(&self) -> Result<(), String> {
        self.parts.lake.table(&EVENTS).head().await.map(drop).map_err(|error| error.to_string())
    }

    async fn directory(&self) -> Result<(), String> {
        self.parts.directory.orgs().await.map(drop).map_err(|error| error.to_string())
    }
}

async fn limited(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(LIMIT, check).await.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

pub(super) fn router(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(missing)
        .with_state(health)
}

async fn missing(uri: Uri) -> Response {
    let problem = json!({
        "type": "https://daybook.dev/problems/no_such_resource",
        "title": "No such resource",
        "status": 404,
        "detail": format!(
            "There is nothing at {}. Collectors take events at /v1/events (OTLP at /v1/logs, /v1/metrics); query services answer at \
             /v1/rollups/daily and more, see /v1/docs, and take people and groups at /scim/v2; all have /healthz, /readyz and /metrics.",
            uri.path()
        ),
    });
    let json = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::NOT_FOUND, json, problem.to_string()).into_response()
}

/// 200 where everything that the roles of this process need can be reached, else 503; both say what.
async fn readyz(State(health): State<Health>) -> Response {
    let Roles { collector, worker, aggregate, query, maintain } = health.roles;
    let needed = [collector || worker, worker || aggregate || query || maintain, collector || aggregate || query];
    let (log, lake, directory) =
        tokio::join!(limited(health.log()), limited(health.lake()), limited(health.directory()));
    let stopping = health.stopping.load(Ordering::Relaxed);
    let mut checks = Map::new();
    let mut ready = !stopping;
    for ((name, outcome), needed) in [("log", log), ("lake", lake), ("directory", directory)].into_iter().zip(needed) {
        if needed {
            ready &= outcome.is_ok();
            checks.insert(name.to_owned(), Value::from(outcome.err().unwrap_or_else(|| "ok".to_owned())));
        }
    }
    if stopping {
        checks.insert("process".to_owned(), "stopping".into());
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    match TextEncoder::new().encode_to_string(&health.parts.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
