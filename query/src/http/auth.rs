//! Who asks. Denied unless a key says otherwise.

use axum::http::{HeaderMap, header};
use directory::Scope;

use super::{Query, problem::Problem};
use crate::{Access, Error, policy};

/// What the read key that the request carries may see. It comes from nowhere else.
pub(super) async fn reader(query: &Query, headers: &HeaderMap) -> Result<Access, Problem> {
    let Some(key) = bearer(headers) else {
        return Err(Problem::unauthorized(headers.contains_key(header::AUTHORIZATION)));
    };
    let directory = query.directory();
    let failed = |error| Problem::from_error(&error, false);
    if let Some((_, access)) = policy::admit(query, key).await.map_err(failed)? {
        return Ok(access);
    }
    match directory.authenticate(key, Scope::Ingest).await.map_err(|error| failed(Error::Directory(error)))? {
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
