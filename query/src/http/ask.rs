//! `POST /v1/sql`: one reading statement over the tables of the key's organisation, its rows as a stream.
//!
//! What a statement sees is decided by the fence below the tables, what it may do by [`crate::sql`](mod@crate::sql), what it may take by the
//! engine's pool and the request's deadline. The first rows are awaited before the answer begins, so that what is wrong with a statement mostly
//! comes as a problem; what fails later cuts the answer off, which then does not look complete.

use axum::{
    body::{Body, Bytes},
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::Response,
};
use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::{Query, auth, body, id_of, negotiate, params::Pairs, problem::Problem};
use crate::{
    formats::{self, Format},
    sql,
};

/// Answers the statement in the body.
pub(super) async fn ask(
    State(query): State<Query>,
    uri: Uri,
    headers: HeaderMap,
    statement: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + query.0.timeout;
    let answer = async {
        let access = auth::reader(&query, &headers).await?;
        let format = match Pairs::parse(uri.query(), &["format"])?.format()? {
            Some(format) => format,
            None => negotiate::format(&headers)?,
        };
        let statement = statement.map_err(|_| Problem::too_long())?;
        let statement =
            std::str::from_utf8(&statement).map_err(|_| Problem::statement("The body is no UTF-8 text."))?;
        let permit = query.admit(&access).await?;
        let watch = query.slow().of_request(id_of(&headers), statement);
        let context = query.0.catalog.session(&access).await.map_err(|error| Problem::from_sql(&error))?;
        let rows = sql(&context, statement).await.map_err(|error| Problem::from_sql(&error))?;
        let mut chunks = formats::write(watch.counting(rows), format);
        let first = chunks.next().await.transpose().map_err(|error| Problem::from_sql(&error))?;
        let chunks = stream::iter(first.map(Ok)).chain(chunks);
        Ok(response(body::until(deadline, permit, chunks), format))
    };
    timeout_at(deadline, query.pool().within(answer)).await.unwrap_or_else(|_| Err(Problem::timeout()))
}

fn response(body: Body, format: Format) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
