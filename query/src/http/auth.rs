//! Who asks. Denied unless a key says otherwise.

use super::{Query, problem::Problem};
use crate::{Access, policy};
use axum::http::{HeaderMap, header};
use directory::{Directory, Principal, Scope};

/// What the read key that the request carries may see. It comes from nowhere else.
pub(super) async fn reader(query: &Query, headers: &HeaderMap) -> Result<Access, Problem> {
    let principal = principal(&query.0.directory, headers).await?;
    let access = policy::access(&query.0.catalog, &query.0.directory, &principal).await;
    access.map_err(|error| Problem::from_error(&error, false))
}

async fn principal(directory: &Directory, headers: &HeaderMap) -> Result<Principal, Problem> {
    let Some(key) = bearer(headers) else {
        return Err(Problem::unauthorized(headers.contains_key(header::AUTHORIZATION)));
    };
    let authenticate = async |scope| {
        directory.authenticate(key, scope).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the directory cannot be read");
            Problem::unavailable("directory of keys")
        })
    };
    if let Some(principal) = authenticate(Scope::Read).await? {
        return Ok(principal);
    }
    match authenticate(Scope::Ingest).await? {
        Some(_) => Err(Problem::forbidden()),
        None => Err(Problem::unauthorized(true)),
    }
}

/// The key of the one `Authorization: Bearer` header (RFC 6750 §2.1; the scheme's case does not matter).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}
