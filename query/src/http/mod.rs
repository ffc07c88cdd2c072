//! The REST API.
//!
//! ```text
//! request ─► finish: request id, span, metrics ─► auth ─► params ─► admit ─► rows ─► page ─► body
//!                                                              ▲
//!                              resources, as data ─────────────┴──► routes, OpenAPI document
//! ```

mod ask;
mod auth;
pub(crate) mod body;
mod cursor;
mod docs;
mod metrics;
mod negotiate;
mod openapi;
mod opt_in;
mod page;
mod params;
mod problem;
pub(crate) mod resources;
mod rows;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{Html, Response},
    routing::{MethodRouter, get, post},
};
use datafusion::prelude::SessionContext;
use directory::Directory;
use lake::Lake;
use prometheus::Registry;
use schemas::rollup::ROLLUP_DAILY;
use tokio::time::Instant;
use tracing::Instrument;

use self::{metrics::Metrics, problem::Problem, resources::resources};
use crate::{
    Access, Catalog, Error, Result, Settings,
    columns::catalogue_of,
    hot::Hot,
    places::{Counts, Place, Places},
    pool::Pool,
    slow::Slow,
    views::Views,
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every column of every table means.
const CATALOGUE: &str = "/v1/catalogue";
/// What is collected about the organisation's people, and what of it the credential shows.
const OPT_IN: &str = "/v1/opt-in";
/// This API, described for programs; for whoever asks.
const OPENAPI: &str = "/v1/openapi.json";
/// This API, described for people; for whoever asks.
const DOCS: &str = "/v1/docs";
/// SQL over the tables.
pub(crate) const SQL: &str = "/v1/sql";

/// Every route that asks for a credential: its path, and what answers.
fn handlers() -> Vec<(&'static str, MethodRouter<Query>)> {
    let catalogue = get(async |query, uri, headers| rows::fixed(query, uri, headers, metric_catalogue).await);
    let mut handlers = vec![(CATALOGUE, catalogue), (OPT_IN, get(opt_in::read))];
    for resource in resources() {
        let read = get(async |query, uri, headers| rows::read(resource, query, uri, headers).await);
        let schema = get(async |query, uri, headers| rows::schema(resource, query, uri, headers).await);
        handlers.extend([(resource.path, read), (resource.schema_path.as_str(), schema)]);
    }
    let read = handlers.into_iter().map(|(path, handler)| (path, handler.fallback(async || Problem::method())));
    read.chain([(SQL, post(ask::ask).fallback(async || Problem::not_posted()))]).collect()
}

/// Every route for whoever asks: nothing in the answers depends on any organisation.
fn public() -> [(&'static str, MethodRouter<Query>); 2] {
    let policy =
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    let document = get(async || Json(openapi::document()));
    let page = get(async move || ([policy], Html(docs::page())));
    [(OPENAPI, document), (DOCS, page)].map(|(path, handler)| (path, handler.fallback(async || Problem::method())))
}

/// Every route, as a path.
#[must_use]
pub fn routes() -> Vec<&'static str> {
    handlers().into_iter().chain(public()).map(|(path, _)| path).collect()
}

/// Every route for whoever asks, as a path.
#[must_use]
pub fn public_routes() -> Vec<&'static str> {
    public().into_iter().map(|(path, _)| path).collect()
}

/// What the columns of all resources mean.
fn metric_catalogue() -> serde_json::Value {
    let tables = resources().iter().map(|resource| {
        let mut table = catalogue_of(resource.spec, resource.about);
        table["path"] = resource.path.into();
        table
    });
    serde_json::json!({ "tables": tables.collect::<Vec<_>>() })
}

struct Inner {
    catalog: Catalog,
    directory: Directory,
    /// Plans and runs the requests' reads; holds no tables.
    ctx: SessionContext,
    /// Files of tables, decoded.
    hot: Hot,
    metrics: Metrics,
    places: Places,
    views: Arc<Views>,
    /// Where SQL is computed.
    pool: Pool,
    slow: Arc<Slow>,
    timeout: Duration,
    connections_max: usize,
    cursor_key: Vec<u8>,
    request_id_seed: u64,
    requests: AtomicU64,
}

/// The query service. Cheap to clone; share it.
#[derive(Clone)]
pub struct Query(Arc<Inner>);

impl Query {
    /// A service over `lake` for the key holders of `directory`, counting in `registry`. `entropy` is random: it seeds
    /// request ids, and authenticates cursors where the settings hold no key.
    ///
    /// # Errors
    /// Where a setting is out of its range, or the metrics are registered already.
    pub fn new(
        settings: &Settings,
        lake: Lake,
        directory: Directory,
        registry: &Registry,
        entropy: [u8; 32],
    ) -> Result<Self> {
        settings.check()?;
        let catalog = Catalog::new(lake, settings.limits())?;
        let derived = |label: &[u8]| cursor::hmac_sha256(&entropy, &[label]);
        let cursor_key = match &settings.cursor_key {
            Some(key) => key.as_bytes().to_vec(),
            None => derived(b"cursor").to_vec(),
        };
        let seed = derived(b"request id");
        let pool = Pool::new().map_err(Error::Threads)?;
        let ctx = catalog.empty_session();
        let hot = Hot::new(
            settings.hot_memory.as_u64(),
            settings.snapshot_age_max.unsigned_abs(),
            ctx.clone(),
            pool.handle().clone(),
        );
        Ok(Self(Arc::new(Inner {
            ctx,
            hot,
            catalog,
            views: Arc::new(Views::new(directory.clone())),
            directory,
            metrics: Metrics::register(registry)?,
            places: Places::new(
                settings.concurrent_requests,
                settings.concurrent_requests_per_organisation,
                settings.queue_wait.unsigned_abs(),
                Counts::register(registry, settings.concurrent_requests)?,
            ),
            pool,
            slow: Slow::register(registry, settings.slow_query.unsigned_abs())?,
            timeout: settings.timeout.unsigned_abs(),
            connections_max: settings.connections,
            cursor_key,
            request_id_seed: u64::from_le_bytes(seed[..8].try_into().expect("8 of 32 bytes")),
            requests: AtomicU64::new(0),
        })))
    }

    /// The tables behind the service.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    /// Whether the service can answer: it reads the head of the rollup table (one that is not there yet is fine).
    ///
    /// # Errors
    /// Where the lake cannot be read.
    pub async fn ready(&self) -> Result<()> {
        self.0.catalog.current(&ROLLUP_DAILY).await.map(|_| ())
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.0.directory
    }

    pub(crate) fn views(&self) -> &Arc<Views> {
        &self.0.views
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// The log of what takes long.
    pub(crate) fn slow(&self) -> &Arc<Slow> {
        &self.0.slow
    }

    /// Longest time of a statement.
    pub(crate) fn statement_time(&self) -> Duration {
        self.0.timeout
    }

    /// Connections of SQL clients at once.
    pub(crate) fn connections_max(&self) -> usize {
        self.0.connections_max
    }

    /// Counts an open connection of a SQL client, until the answer is dropped.
    pub(crate) fn connected(&self) -> impl Drop + Send + use<> {
        self.0.metrics.connected()
    }

    /// Places among the requests and statements answered at once.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    /// A place, held until the answer is written.
    async fn admit(&self, access: &Access) -> Result<Place, Problem> {
        self.0.places.take(access.org()).await.map_err(Problem::busy)
    }

    #[cfg(test)]
    pub(crate) fn hot(&self) -> &Hot {
        &self.0.hot
    }

    /// The client's request id if it is one (1 to 128 visible ASCII characters), else a new one.
    fn request_id(&self, request: &Request) -> HeaderValue {
        let sane = |value: &&HeaderValue| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        request.headers().get(&REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
            let number = self.0.requests.fetch_add(1, Ordering::Relaxed);
            // An odd factor makes this a permutation: no two requests of a process share an id.
            let id = self.0.request_id_seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            HeaderValue::from_str(&format!("{id:016x}")).expect("hexadecimal digits")
        })
    }
}

/// The routes; whoever serves them adds health and metrics.
pub fn router(state: Query) -> Router {
    let add = |router: Router<Query>, (path, methods): (&str, MethodRouter<Query>)| router.route(path, methods);
    let routes = handlers().into_iter().chain(public()).fold(Router::new(), add);
    routes.route_layer(middleware::from_fn_with_state(state.clone(), finish)).with_state(state)
}

/// What every request gets: an id, a span in the log, a count; and its problem, if it ended in one, written out.
async fn finish(State(query): State<Query>, route: MatchedPath, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = query.request_id(&request);
    let shown = id.to_str().expect("checked or made as ASCII").to_owned();
    let span = tracing::info_span!("request", request_id = %shown, route = route.as_str());
    // For whoever logs more of this request.
    request.headers_mut().insert(&REQUEST_ID, id.clone());
    query.0.metrics.in_flight.inc();
    let in_flight = InFlight(&query);
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(in_flight);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        span.in_scope(|| tracing::debug!(status = problem.status.as_u16(), kind = problem.kind, "refused"));
        *response.body_mut() = problem.render(&shown);
    }
    response.headers_mut().insert(&REQUEST_ID, id);
    query.0.metrics.answered(route.as_str(), response.status().as_u16(), began.elapsed());
    response
}

/// The id that [`finish`] gave a request.
fn id_of(headers: &HeaderMap) -> String {
    headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

/// Counts a request down even when its client goes away in the middle.
struct InFlight<'a>(&'a Query);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.0.metrics.in_flight.dec();
    }
}
