//! Who asks. Denied unless a key says otherwise.

use axum::http::{HeaderMap, header};
use directory::{Directory, Scope};
use schemas::OrgId;

use super::problem::Problem;

/// The organisation whose read key the request carries. The organisation comes from nowhere else.
pub(super) async fn reader(directory: &Directory, headers: &HeaderMap) -> Result<OrgId, Problem> {
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
        return Ok(principal.org);
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
