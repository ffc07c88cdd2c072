//! Reading a resource: rows of one organisation, page by page.
//!
//! Rows ascend by the resource's key, which identifies one within an organisation. A page is the first `limit` rows after the cursor's key, in the table version that the first page read; so pages neither overlap nor miss
//! a row, whatever is committed between them. A page is held in memory (at most `MAX_LIMIT` rows) and written as a
//! stream. It is one batch, wherever it comes from: the same rows are the same bytes.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, Scalar, make_array, new_null_array},
    compute::{cast, concat_batches, is_not_null, kernels::zip::zip},
    datatypes::{DataType, Date32Type, Schema, SchemaRef},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use datafusion::{
    common::{Column, ScalarValue},
    error::DataFusionError,
    functions_aggregate::expr_fn::max,
    logical_expr::Expr,
    physical_plan::{SendableRecordBatchStream, stream::RecordBatchStreamAdapter},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use jiff::{ToSpan, civil::Date};
use schemas::OrgId;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    Query, auth, body,
    cursor::Cursor,
    negotiate,
    params::{Asked, Pairs},
    problem::Problem,
    resources::Resource,
};
use crate::{
    Access, Error, Pinned, Result,
    columns::catalogue_of,
    formats::{self, Format},
    hot::Wanted,
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
        let permit = query.admit().await?;
        let org = access.org().ok_or_else(|| Problem::unauthorized(true))?;
        let (query, access, asked, headers) = (&query, &access, &asked, &headers);
        let request = Request { resource, query, access, org, asked, format, path: uri.path(), headers };
        request.answer(permit, deadline).await
    };
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Problem::timeout()))
}

/// Days asked for, both inclusive.
#[derive(Clone, Copy)]
struct Days {
    from: Date,
    to: Date,
}

struct Request<'a> {
    resource: &'static Resource,
    query: &'a Query,
    access: &'a Access,
    /// The access's organisation.
    org: &'a OrgId,
    asked: &'a Asked,
    format: Format,
    path: &'a str,
    headers: &'a HeaderMap,
}

impl Request<'_> {
    async fn answer(&self, permit: OwnedSemaphorePermit, deadline: Instant) -> Result<Response, Problem> {
        let problem = |error: Error| Problem::from_error(&error, self.asked.cursor.is_some());
        let cursor = match &self.asked.cursor {
            Some(text) => Some(Cursor::open(text, &self.query.0.cursor_key, self.org)?),
            None => None,
        };
        let catalog = &self.query.0.catalog;
        let pinned = match &cursor {
            Some(cursor) => catalog.at(self.resource.spec, &cursor.table_id, cursor.version).await,
            None => catalog.current(self.resource.spec).await,
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
        let (page, after) = self.page(&pinned, days, cursor.as_ref()).await.map_err(problem)?;
        self.query.0.metrics.rows(self.resource.path, page.num_rows());
        let next = match (after, pinned.version) {
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
        *response.body_mut() = self.write(page, next, pinned.version, permit, deadline);
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

    async fn latest_day(&self, pinned: &Arc<Pinned>) -> Result<Option<Date>> {
        // What all see is worth remembering.
        let whole = matches!(self.access, Access::Org(_));
        if whole && let Some(day) = pinned.known_latest_day(self.org) {
            return Ok(day);
        }
        if let Some(org) = self.access.whole(self.resource.spec)
            && let Some(day) = self.query.0.hot.latest_day(pinned, &org).await
        {
            return Ok(day);
        }
        let latest = max(column(self.resource.key[0]));
        let table = self.query.0.ctx.read_table(self.table(pinned)).map_err(Error::engine)?;
        let frame = table.aggregate(vec![], vec![latest]).map_err(Error::engine)?;
        let batches = frame.collect().await.map_err(Error::engine)?;
        let days = batches.first().map(|batch| batch.column(0).as_primitive::<Date32Type>().clone());
        let day = days.filter(|days| !days.is_empty() && days.is_valid(0)).map(|days| date(days.value(0)));
        if whole {
            pinned.learn_latest_day(self.org, day);
        }
        Ok(day)
    }

    /// The table as this request may see it: through the fence, always.
    fn table(&self, pinned: &Pinned) -> Arc<dyn datafusion::catalog::TableProvider> {
        pinned.provider(self.access)
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

    /// One page, and the key after which the next begins, if there is a next.
    async fn page(
        &self,
        pinned: &Arc<Pinned>,
        days: Days,
        cursor: Option<&Cursor>,
    ) -> Result<(RecordBatch, Option<Vec<String>>)> {
        let (limit, by) = (self.asked.limit, &self.resource.key);
        let others = self.asked.columns.iter().map(String::as_str).filter(|name| !by.contains(name));
        let read: Vec<&str> = by.iter().copied().chain(others).collect();
        // One row more than asked tells whether there is a next page.
        let rows = self.rows(pinned, days, cursor, &read, limit + 1).await?;
        let schema = rows.schema();
        let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(Error::engine)?;
        let rows = concat_batches(&schema, &batches).map_err(Error::Encode)?;
        let page = rows.slice(0, limit.min(rows.num_rows()));
        let last = if rows.num_rows() > limit { Some(key(&page, by.len())?) } else { None };
        Ok((self.shape(&page).map_err(Error::Encode)?, last))
    }

    /// The first `rows_max` rows of the columns `read`, in order: out of memory where they are there, else by the engine.
    async fn rows(
        &self,
        pinned: &Arc<Pinned>,
        days: Days,
        cursor: Option<&Cursor>,
        read: &[&str],
        rows_max: usize,
    ) -> Result<SendableRecordBatchStream> {
        if let Some(org) = self.access.whole(self.resource.spec) {
            let wanted = Wanted {
                days: (days.from, days.to),
                conditions: self.asked.filters.parts(),
                after: cursor.map(|cursor| &cursor.after[..]),
                columns: read,
                rows_max,
            };
            if let Some(rows) = self.query.0.hot.page(pinned, &org, &wanted).await {
                self.query.0.metrics.page(true);
                let schema = rows.schema();
                return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(rows)]))));
            }
        }
        self.query.0.metrics.page(false);
        let by = &self.resource.key;
        let filters = std::iter::once(column(by[0]).between(day(days.from), day(days.to)))
            .chain(self.asked.filters.expressions())
            .chain(cursor.map(|cursor| self.after(&cursor.after)));
        let mut frame = self.query.0.ctx.read_table(self.table(pinned)).map_err(Error::engine)?;
        for filter in filters {
            frame = frame.filter(filter).map_err(Error::engine)?;
        }
        let order = by.iter().map(|name| column(name).sort(true, false)).collect();
        let frame = frame
            .sort(order)
            .and_then(|frame| frame.limit(0, Some(rows_max)))
            .and_then(|frame| frame.select(read.iter().copied().map(column)))
            .map_err(Error::engine)?;
        frame.execute_stream().await.map_err(Error::engine)
    }

    /// Schema of the answer: the table's, with its comments, cut to the columns asked for.
    fn schema(&self) -> SchemaRef {
        let fields = self.resource.schema.fields();
        let field = |name: &String| fields.find(name).expect("checked when parsed").1.clone();
        Arc::new(Schema::new(self.asked.columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn shape(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema = self.schema();
        let columns = schema.fields().iter().map(|field| {
            let column = batch.column(batch.schema_ref().index_of(field.name())?);
            let column = cast(column, field.data_type())?;
            if self.format == Format::Arrow { without_traces(&column) } else { Ok(column) }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(schema, columns)
    }

    fn write(
        &self,
        page: RecordBatch,
        next: Option<String>,
        version: Option<i64>,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> Body {
        let schema = page.schema();
        let rows = stream::iter((page.num_rows() > 0).then_some(Ok::<_, DataFusionError>(page)));
        let rows: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let chunks = formats::write(rows, self.format);
        if self.format != Format::Json {
            return body::until(deadline, permit, chunks);
        }
        let end = json!({ "next_cursor": next, "table_version": version }).to_string();
        body::until(deadline, permit, as_data(chunks, format!(",{}\n", end.trim_start_matches('{'))))
    }

    /// Rows after `key` in the order of the answer.
    fn after(&self, key: &[String]) -> Expr {
        let schema = &self.resource.schema;
        let parts: Vec<(&str, Expr)> = self
            .resource
            .key
            .iter()
            .zip(key)
            .map(|(name, value)| {
                let value = match schema.field_with_name(name).expect("a column of the table").data_type() {
                    DataType::Date32 => day(value.parse().unwrap_or(Date::MAX)),
                    DataType::Int64 => Expr::Literal(ScalarValue::Int64(value.parse().ok()), None),
                    _ => Expr::Literal(ScalarValue::from(value.as_str()), None),
                };
                (*name, value)
            })
            .collect();
        // (d > D) or (d = D and ((u > U) or (u = U and …))), and d >= D, by which whole files are passed over.
        let later = parts.iter().rev().fold(None, |inner: Option<Expr>, (name, value)| {
            let greater = column(name).gt(value.clone());
            Some(match inner {
                None => greater,
                Some(inner) => greater.or(column(name).eq(value.clone()).and(inner)),
            })
        });
        let (date, first) = &parts[0];
        column(date).gt_eq(first.clone()).and(later.expect("a key has columns"))
    }
}

/// The same column, with nothing but zeros where it has no values: Arrow's bytes show what lay there, and the same rows are to be the same bytes.
fn without_traces(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if column.null_count() == 0 {
        return Ok(make_array(column.to_data().into_builder().nulls(None).build()?));
    }
    zip(&is_not_null(column)?, column, &Scalar::new(new_null_array(column.data_type(), 1)))
}

/// A JSON array as the member `data` of an object that goes on with `end`.
fn as_data(
    rows: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    end: String,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
    let text = |text: Bytes| stream::iter([Ok(text)]);
    text(Bytes::from_static(b"{\"data\":")).chain(rows).chain(text(end.into()))
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// Days since 1970-01-01, as Arrow counts them.
fn day(date: Date) -> Expr {
    let days = date.since(Date::constant(1970, 1, 1)).map_or(0, |span| span.get_days());
    Expr::Literal(ScalarValue::Date32(Some(days)), None)
}

/// The inverse of [`day`], for days that the calendar has.
fn date(days: i32) -> Date {
    Date::constant(1970, 1, 1).saturating_add(days.days())
}

/// The key of the last row of `batch`, which begins with the key's columns, `columns` of them.
fn key(batch: &RecordBatch, columns: usize) -> Result<Vec<String>> {
    let last = batch.num_rows() - 1;
    let options = FormatOptions::new();
    let text = |column: &ArrayRef| {
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(Error::Encode)?;
        Ok(formatter.value(last).to_string())
    };
    batch.columns()[..columns].iter().map(text).collect()
}
