//! Reading a resource: rows of one organisation, page by page.
//!
//! Rows ascend by the resource's key, which identifies one within an organisation. A page is the first `limit` rows after the cursor's key, in the table version that the first page read; so pages neither overlap nor miss
//! a row, whatever is committed between them. A page is held in memory (at most `MAX_LIMIT` rows) and written as a
//! stream. It is one batch, wherever it comes from: the same rows are the same bytes.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use datafusion::{
    error::DataFusionError,
    physical_plan::{SendableRecordBatchStream, stream::RecordBatchStreamAdapter},
};
use futures::{Stream, StreamExt, stream};
use jiff::{ToSpan, civil::Date};
use schemas::OrgId;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use super::{
    Query, auth, body,
    cursor::Cursor,
    id_of, negotiate,
    page::Content,
    params::{Asked, Pairs},
    problem::Problem,
    resources::Resource,
};
use crate::{
    Access, Error, Pinned, Result,
    columns::catalogue_of,
    formats::{self, Format},
    places::Place,
    slow::Watch,
};

static TABLE_VERSION: HeaderName = HeaderName::from_static("daybook-table-version");

/// What the columns of a resource mean.
pub(super) async fn schema(
    resource: &'static Resource,
    State(query): State<Query>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    fixed(State(query), uri, headers, || catalogue_of(resource.spec, resource.about)).await
}

/// An answer that is the same for everyone who may read.
pub(super) async fn fixed(
    State(query): State<Query>,
    uri: Uri,
    headers: HeaderMap,
    answer: impl FnOnce() -> serde_json::Value,
) -> Result<Json<serde_json::Value>, Problem> {
    auth::reader(&query, &headers).await?;
    Pairs::parse(uri.query(), &[])?;
    Ok(Json(answer()))
}

/// Rows of a resource.
pub(super) async fn read(
    resource: &'static Resource,
    State(query): State<Query>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + query.0.timeout;
    let answer = async {
        let access = auth::reader(&query, &headers).await?;
        let asked = Asked::parse(resource, uri.query())?;
        let format = match asked.format {
            Some(format) => format,
            None => negotiate::format(&headers)?,
        };
        let permit = query.admit(&access).await?;
        let watch = query.slow().of_page(id_of(&headers), resource.path, asked.pairs.names());
        let org = access.org().ok_or_else(|| Problem::unauthorized(true))?;
        let (query, access, asked, headers, watch) = (&query, &access, &asked, &headers, &watch);
        let request = Request { resource, query, access, org, asked, format, path: uri.path(), headers, watch };
        request.answer(permit, deadline).await
    };
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Problem::timeout()))
}

/// Days asked for, both inclusive.
#[derive(Clone, Copy)]
pub(super) struct Days {
    pub(super) from: Date,
    pub(super) to: Date,
}

pub(super) struct Request<'a> {
    pub(super) resource: &'static Resource,
    pub(super) query: &'a Query,
    pub(super) access: &'a Access,
    /// The access's organisation.
    pub(super) org: &'a OrgId,
    pub(super) asked: &'a Asked,
    pub(super) format: Format,
    path: &'a str,
    headers: &'a HeaderMap,
    watch: &'a Watch,
}

impl Request<'_> {
    async fn answer(&self, permit: Place, deadline: Instant) -> Result<Response, Problem> {
        let problem = |error: Error| Problem::from_error(&error, self.asked.cursor.is_some());
        let cursor = match &self.asked.cursor {
            Some(text) => Some(Cursor::open(text, &self.query.0.cursor_key, self.org)?),
            None => None,
        };
        let catalog = &self.query.0.catalog;
        let pinned = match &cursor {
            Some(cursor) => catalog.at(self.resource.spec, &cursor.table_id, cursor.version).await,
            None => catalog.current(self.resource.spec).await.map(|newest| self.query.0.hot.shown(newest)),
        }
        .map_err(problem)?;
        let days = self.days(&pinned).await.map_err(problem)?;
        let parameters = self.digest(&pinned, days);
        if cursor.as_ref().is_some_and(|cursor| cursor.parameters != parameters) {
            return Err(Problem::cursor(
                "This cursor continues another request. Send it with the parameters of the first page; only `limit` and \
                 `format` may differ.",
            ));
        }
        let etag = self.etag(&parameters);
        let mut response = Response::new(Body::empty());
        self.describe(response.headers_mut(), &pinned, &etag);
        if negotiate::has_it(self.headers, &etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let page = self.page(&pinned, days, cursor.as_ref()).await.map_err(problem)?;
        self.query.0.metrics.rows(self.resource.path, page.rows);
        self.watch.rows(page.rows);
        let next = match (page.last, pinned.version) {
            (Some(after), Some(version)) => {
                catalog.keep(&pinned);
                let cursor = Cursor::new(&pinned.table_id, version, after, &parameters);
                Some(cursor.seal(&self.query.0.cursor_key, self.org))
            }
            _ => None,
        };
        if let Some(next) = &next {
            let link = format!("<{}?{}>; rel=\"next\"", self.path, self.asked.pairs.with_cursor(next));
            let link = HeaderValue::from_str(&link).expect("percent-encoded ASCII");
            response.headers_mut().insert(header::LINK, link);
        }
        let media_type = HeaderValue::from_static(self.format.media_type());
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        *response.body_mut() = self.write(page.content, next, pinned.version, permit, deadline);
        Ok(response)
    }

    /// The days asked for; where not given, the last ones up to the organisation's latest.
    async fn days(&self, pinned: &Arc<Pinned>) -> Result<Days> {
        let to = match self.asked.to {
            Some(to) => to,
            None => {
                let latest = self.latest_day(pinned).await?;
                latest.or(self.asked.from).unwrap_or(Date::constant(1970, 1, 1))
            }
        };
        let from = match self.asked.from {
            Some(from) => from,
            None => to.checked_sub((self.resource.days - 1).days()).unwrap_or(Date::MIN),
        };
        Ok(Days { from, to })
    }

    /// Digest of everything that selects rows and columns, the table's version included; pages of one walk share it.
    fn digest(&self, pinned: &Pinned, days: Days) -> String {
        let parts = json!([
            env!("CARGO_PKG_VERSION"),
            self.org,
            self.access.tag(),
            pinned.table_id,
            pinned.version,
            days.from,
            days.to,
            self.asked.filters.parts(),
            self.asked.columns,
        ]);
        hex::encode(&Sha256::digest(parts.to_string())[..16])
    }

    /// Strong: the same rows in the same format are the same bytes.
    fn etag(&self, parameters: &str) -> String {
        let parts = json!([parameters, self.asked.limit, self.asked.cursor, self.format.name(), self.path]);
        format!("\"{}\"", hex::encode(&Sha256::digest(parts.to_string())[..16]))
    }

    fn describe(&self, headers: &mut HeaderMap, pinned: &Pinned, etag: &str) {
        headers.insert(header::ETAG, HeaderValue::from_str(etag).expect("hexadecimal digits"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept, authorization"));
        if let Some(version) = pinned.version {
            headers.insert(TABLE_VERSION.clone(), HeaderValue::from(version));
        }
    }

    fn write(
        &self,
        content: Content,
        next: Option<String>,
        version: Option<i64>,
        permit: Place,
        deadline: Instant,
    ) -> Body {
        let end = || {
            let end = json!({ "next_cursor": next, "table_version": version }).to_string();
            format!(",{}\n", end.trim_start_matches('{'))
        };
        let batch = match content {
            Content::Batch(batch) => batch,
            Content::Lines(lines) => return body::whole(deadline, permit, lines.into()),
            Content::Elements(elements) => {
                let whole = [BEGIN, b"[", &elements, b"]", end().as_bytes()].concat();
                return body::whole(deadline, permit, whole.into());
            }
        };
        let schema = batch.schema();
        let rows = stream::iter((batch.num_rows() > 0).then_some(Ok::<_, DataFusionError>(batch)));
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let chunks = formats::write(rows, self.format);
        match self.format {
            Format::Json => body::until(deadline, permit, as_data(chunks, end())),
            _ => body::until(deadline, permit, chunks),
        }
    }
}

/// Begins an answer in JSON.
const BEGIN: &[u8] = b"{\"data\":";

/// A JSON array as the member `data` of an object that goes on with `end`.
fn as_data(
    rows: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    end: String,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
    let text = |text: Bytes| stream::iter([Ok(text)]);
    text(Bytes::from_static(BEGIN)).chain(rows).chain(text(end.into()))
}
