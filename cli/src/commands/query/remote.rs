//! Asking a query service.

use arrow::{array::RecordBatch, buffer::Buffer, datatypes::SchemaRef, ipc::reader::StreamDecoder};
use bytes::Bytes;
use query::formats::Format;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::Taken;
use crate::{
    fault::{During as _, Fault, Result},
    output,
};

/// RFC 9457, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    request_id: String,
}

/// The answer to `sql`, in `format`.
async fn ask(url: &Url, key: &str, sql: &str, format: Format) -> Result<Response> {
    let mut root = url.clone();
    if !root.path().ends_with('/') {
        root.set_path(&format!("{}/", url.path()));
    }
    let to = root.join("v1/sql").ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let usage = || Fault::usage(format!("`{url}` is no HTTP address")).help("such as http://127.0.0.1:8080");
    let to = to.ok_or_else(usage)?;
    let client = reqwest::Client::builder().user_agent(concat!("daybook/", env!("CARGO_PKG_VERSION")));
    let client = client.build().during("cannot set up the HTTP client")?;
    let request = client.post(to).query(&[("format", format.name())]).bearer_auth(key);
    let request = request.header("content-type", "application/sql").body(sql.to_owned());
    let response = request.send().await.map_err(|error| {
        let fault = Fault::failed(format!("the query service at {url} cannot be reached")).source(error.without_url());
        fault.help("is it running, with the role query? `daybook serve --role query`")
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let problem: Problem = response.json().await.unwrap_or_default();
    Err(fault(status, problem))
}

/// What went wrong, as the service says.
fn fault(status: StatusCode, problem: Problem) -> Fault {
    let Problem { title, detail, request_id } = problem;
    let what = [detail, title, format!("the query service answers {status}")];
    let what = what.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    match status {
        StatusCode::BAD_REQUEST => Fault::usage(what)
            .help("`daybook query \"SHOW TABLES\"` lists the tables, `\"DESCRIBE events\"` the columns of one"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Fault::usage(what).help("--key or DAYBOOK_KEY takes a key of `daybook key create --scope read`")
        }
        _ if request_id.is_empty() => Fault::failed(what),
        _ => Fault::failed(what).help(format!("the service's log tells more, under request {request_id}")),
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
    let mut last = None;
    while let Some(chunk) = chunk(&mut response).await? {
        last = chunk.last().copied().or(last);
        output::bytes(&chunk)?;
    }
    if last.is_some_and(|last| last != b'\n') { output::text("\n") } else { Ok(()) }
}

/// As many rows as are worth a table.
pub(super) async fn take(url: &Url, key: &str, sql: &str) -> Result<(SchemaRef, Taken)> {
    let mut response = ask(url, key, sql, Format::Arrow).await?;
    let (mut decoder, mut taken) = (StreamDecoder::new(), Taken::default());
    while let Some(chunk) = chunk(&mut response).await? {
        let mut buffer = Buffer::from(chunk);
        while let Some(batch) = next(&mut decoder, &mut buffer)? {
            if !taken.push(&batch) {
                return Ok((batch.schema(), taken));
            }
        }
    }
    decoder.finish().during("the answer was cut off")?;
    let schema = decoder.schema().ok_or_else(|| Fault::failed("the answer is no Arrow stream"))?;
    Ok((schema, taken))
}

fn next(decoder: &mut StreamDecoder, buffer: &mut Buffer) -> Result<Option<RecordBatch>> {
    decoder.decode(buffer).during("the answer is no Arrow stream")
}
