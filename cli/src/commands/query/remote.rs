//! Asking a query service.

use arrow::{buffer::Buffer, datatypes::SchemaRef, ipc::reader::StreamDecoder};
use bytes::Bytes;
use query::formats::Format;
use reqwest::{Response, StatusCode, Url};

use super::Taken;
use crate::{
    fault::{During as _, Fault, Result},
    http::{self, Problem},
};

const NO_STREAM: &str = "the answer is no Arrow stream";

/// The answer to `sql`, in `format`.
async fn ask(url: &Url, key: &str, sql: &str, format: Format) -> Result<Response> {
    let to = http::endpoint(url, "v1/sql")?;
    let client = http::client().build().during("cannot set up the HTTP client")?;
    let request = client.post(to).query(&[("format", format.name())]).bearer_auth(key);
    let request = request.header("content-type", "application/sql").body(sql.to_owned());
    let response = request.send().await.map_err(|error| {
        let fault = Fault::failed(format!("the query service at {url} cannot be reached")).source(error.without_url());
        fault.help("is it running, with the role query? `daybook serve --role query`")
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(fault(status, &response.json().await.unwrap_or_default()))
}

/// What went wrong, as the service says.
fn fault(status: StatusCode, problem: &Problem) -> Fault {
    let what = problem.text().map_or_else(|| format!("the query service answers {status}"), str::to_owned);
    match (status, &problem.request_id) {
        (StatusCode::BAD_REQUEST, _) => Fault::usage(what).help(super::LISTS),
        // It says who can switch it.
        (StatusCode::FORBIDDEN, _) if problem.is("not-opted-in") => Fault::usage(what),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Fault::usage(what).help("--key or DAYBOOK_KEY takes a key of `daybook key create --scope read`")
        }
        (_, Some(id)) => Fault::failed(what).help(format!("the service's log tells more, under request {id}")),
        (_, None) => Fault::failed(what),
    }
}

async fn chunk(response: &mut Response) -> Result<Option<Bytes>> {
    let failed = |error: reqwest::Error| {
        let fault = Fault::failed("the answer was cut off").source(error.without_url());
        fault.help("it failed on the way, or took longer than the service allows: ask for less at once")
    };
    response.chunk().await.map_err(failed)
}

/// Prints the answer as it comes.
pub(super) async fn print(url: &Url, key: &str, sql: &str, format: Format) -> Result<()> {
    let mut response = ask(url, key, sql, format).await?;
    super::print(async || chunk(&mut response).await).await
}

/// As many rows as are worth a table.
pub(super) async fn take(url: &Url, key: &str, sql: &str) -> Result<(SchemaRef, Taken)> {
    let mut response = ask(url, key, sql, Format::Arrow).await?;
    let (mut decoder, mut taken) = (StreamDecoder::new(), Taken::default());
    while let Some(chunk) = chunk(&mut response).await? {
        let mut buffer = Buffer::from(chunk);
        while let Some(batch) = decoder.decode(&mut buffer).during(NO_STREAM)? {
            if !taken.push(&batch) {
                return Ok((batch.schema(), taken));
            }
        }
    }
    decoder.finish().during("the answer was cut off")?;
    let schema = decoder.schema().ok_or_else(|| Fault::failed(NO_STREAM))?;
    Ok((schema, taken))
}
