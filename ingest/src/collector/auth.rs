//! Who sends. Denied unless a key says otherwise, and the organisation's admin has opted in.

use axum::http::{HeaderMap, header};
use directory::{OptIn, Principal, Scope};

use super::{Collector, problem::Problem};

/// Whose ingest key the request carries. The organisation comes from nowhere else.
pub(super) async fn sender(collector: &Collector, headers: &HeaderMap) -> Result<Principal, Problem> {
    let Some(key) = bearer(headers) else {
        return Err(Problem::unauthorized(headers.contains_key(header::AUTHORIZATION)));
    };
    let directory = &collector.0.directory;
    let authenticate = async |scope| directory.authenticate(key, scope).await.map_err(|e| Problem::directory_away(&e));
    if let Some(principal) = authenticate(Scope::Ingest).await? {
        if principal.opt_in == OptIn::Off {
            return Err(Problem::not_opted_in());
        }
        let elsewhere = collector.0.only_org.as_ref().is_some_and(|only| *only != principal.org);
        return if elsewhere { Err(Problem::other_organisation()) } else { Ok(principal) };
    }
    for scope in [Scope::Read, Scope::Produce, Scope::Scim] {
        if authenticate(scope).await?.is_some() {
            return Err(Problem::forbidden(scope));
        }
    }
    Err(Problem::unauthorized(true))
}

/// The key of the one `Authorization: Bearer` header (RFC 6750 §2.1; the scheme's case does not matter).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    // OTEL_EXPORTER_OTLP_HEADERS is percent-encoded, and some exporters send it as it was written.
    let (scheme, key) = value.split_once(' ').or_else(|| value.split_once("%20"))?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}
