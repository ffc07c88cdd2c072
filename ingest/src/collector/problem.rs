//! Every error that leaves the collector over HTTP: what, where and what to do. Internals stay in the log.
//!
//! `/v1/events` answers RFC 9457 problem details; the OTLP doors answer `google.rpc.Status` in the encoding of the request, as the
//! OTLP specification (§ Failures) wants it, with the problem's members beside it in JSON.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use directory::Scope;
use prost::Message as _;
use schemas::event::{Cause, Rejection};
use serde_json::{Map, Value, json};

use super::{AWAY_RETRY, BUSY_RETRY};
use crate::log;

/// Base of the problem types' URIs.
const BASE: &str = "https://daybook.dev/problems/";

/// How an error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/problem+json`.
    Problem,
    /// OTLP's JSON.
    Json,
    /// OTLP's protobuf.
    Protobuf,
}

/// `google.rpc.Status`, without `details`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    /// `google.rpc.Code`.
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    /// For developers.
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// An error as the client sees it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    /// Stable name, the end of `type`.
    cause: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, cause: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, cause, title, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn retry_after(self, after: Duration) -> Self {
        self.header(header::RETRY_AFTER, after.as_secs())
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// An event that is none, at `index` in its request.
    pub(super) fn rejection(rejection: Rejection, index: usize, id: Option<String>) -> Self {
        let Rejection { cause, field, detail } = rejection;
        // What is no JSON at all is a bad request; what is JSON, but no event of ours, cannot be processed.
        let status = match cause {
            Cause::NotJson | Cause::NotUtf8 => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let mut problem = Self::new(status, cause.as_str(), title(cause), detail).with("index", index);
        if let Some(field) = field {
            problem = problem.with("field", field);
        }
        if let Some(id) = id {
            problem = problem.with("id", id);
        }
        problem
    }

    /// A batch of which nothing was accepted.
    pub(super) fn none_accepted(rejected: Vec<Value>) -> Self {
        let detail = format!("None of the {} events was accepted; `rejected` says why, by index.", rejected.len());
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "none_accepted", "No event accepted", detail)
            .with("accepted", 0)
            .with("rejected", rejected)
    }

    /// A body that cannot be taken apart into events; `detail` says what it takes.
    pub(super) fn malformed(cause: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, cause, "Malformed body", detail)
    }

    /// A header of binary mode that is at fault.
    pub(super) fn bad_header(name: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_header", "Malformed header", detail).with("field", name)
    }

    /// More events than a request may have.
    pub(super) fn too_many(limit: usize) -> Self {
        let detail = format!("A request takes at most {limit} events. Send them in several requests.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_events", "Too many events", detail).with("limit", limit)
    }

    /// A body over the limit.
    pub(super) fn body_too_large(limit: u64) -> Self {
        let detail = format!("A body takes at most {limit} bytes, decompressed. Send the events in several requests.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large", detail).with("limit_bytes", limit)
    }

    /// More events than the key may ever send at once.
    pub(super) fn over_burst(most: u64) -> Self {
        let detail = format!(
            "This key takes at most {most} events at once, however long it waits. Send them in several requests, or have \
             its rate limit raised."
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "over_burst", "More than the key may send at once", detail)
            .with("limit", most)
    }

    /// The key sends faster than it may (RFC 6585 §4). `what`: events or bytes.
    pub(super) fn rate_limited(what: &'static str, wait: Duration) -> Self {
        let detail = format!(
            "This key sends more {what} a second than it may. Nothing of the request was taken: send it again in {} s.",
            wait.as_secs()
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too fast", detail)
            .with("limited", what)
            .retry_after(wait)
    }

    /// The organisation has used up its day.
    pub(super) fn quota_exhausted(quota: u64, wait: Duration) -> Self {
        let detail = format!(
            "The organisation's quota of {quota} events a day has less left than the request needs. Nothing of it was \
             taken: send it again after midnight UTC, in {} s, or have the quota raised.",
            wait.as_secs()
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "quota_exhausted", "Daily quota exhausted", detail)
            .with("daily_quota", quota)
            .retry_after(wait)
    }

    /// A body that broke off, or is not compressed as announced.
    pub(super) fn unreadable_body() -> Self {
        let detail = "The body broke off, or is not compressed as `content-encoding` says.";
        Self::new(StatusCode::BAD_REQUEST, "unreadable_body", "Unreadable body", detail)
    }

    /// A body that took too long.
    pub(super) fn slow_body() -> Self {
        let detail = "The body did not arrive in time. Send it again.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "Body took too long", detail)
    }

    /// A media type that the door does not take.
    pub(super) fn media_type(takes: &str) -> Self {
        let detail = format!("This resource takes {takes}.");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", "Unsupported media type", detail)
    }

    /// A compression that we do not know.
    pub(super) fn content_encoding() -> Self {
        let detail = "`content-encoding` takes gzip, zstd or identity.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", "Unsupported content encoding", detail)
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"))
    }

    /// Another method than POST.
    pub(super) fn method() -> Self {
        let detail = "This resource takes events: use POST.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
            .header(header::ALLOW, HeaderValue::from_static("POST"))
    }

    /// No credential, or one that we do not know.
    pub(super) fn unauthorized(presented: bool) -> Self {
        let (detail, challenge) = if presented {
            (
                "The key is unknown or revoked. Present a valid ingest key.",
                "Bearer realm=\"daybook\", error=\"invalid_token\"",
            )
        } else {
            ("Present an ingest key: `Authorization: Bearer dbk_…`.", "Bearer realm=\"daybook\"")
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid credential", detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// A credential for something else.
    pub(super) fn forbidden(scope: Scope) -> Self {
        let challenge = "Bearer realm=\"daybook\", error=\"insufficient_scope\", scope=\"ingest\"";
        let detail = format!("This key has the scope `{scope}`. Present one with the scope `ingest`.");
        Self::new(StatusCode::FORBIDDEN, "wrong_scope", "Wrong scope", detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    /// A key of an organisation about whose people nothing is collected.
    pub(super) fn not_opted_in() -> Self {
        let detail = "The admin of your organisation has not opted in to the collection of activity, or has opted out. Nothing was stored; \
                      do not send it again. `daybook opt-in set` switches it.";
        Self::new(StatusCode::FORBIDDEN, "not_opted_in", "Not opted in", detail)
    }

    /// A key of another organisation than the one whose log this is.
    pub(super) fn other_organisation() -> Self {
        let detail = "This collector takes events of one organisation, and the key is of another.";
        Self::new(StatusCode::FORBIDDEN, "other_organisation", "Another organisation's collector", detail)
    }

    /// Too much is being worked on.
    pub(super) fn busy() -> Self {
        let detail = "The collector works on as much as its memory takes. Send the request again shortly.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy", detail).retry_after(BUSY_RETRY)
    }

    /// The log did not take the events, or we do not know.
    pub(super) fn log_away() -> Self {
        let detail = "The events could not be stored at the moment; some may have been. Send all of them again later: \
                      ids make that harmless.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable", "Temporarily unavailable", detail)
            .retry_after(AWAY_RETRY)
    }

    /// `error` of an append.
    pub(super) fn from_log(error: &log::Error) -> Self {
        let cause = error as &dyn std::error::Error;
        match error {
            log::Error::TooLarge { .. } => {
                tracing::warn!(error = cause, "the log takes smaller records than the collector");
                let detail = "An event is larger than the log takes. Send the events singly to find it.";
                return Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Event too large", detail);
            }
            _ if error.is_retryable() => tracing::warn!(error = cause, "events could not be appended"),
            _ => tracing::error!(error = cause, "the log is out of order"),
        }
        Self::log_away()
    }

    /// Keys cannot be checked now.
    pub(super) fn directory_away(error: &directory::Error) -> Self {
        tracing::error!(error = error as &dyn std::error::Error, "the directory cannot be read");
        let detail = "Keys cannot be checked at the moment. Send the request again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "directory_unavailable", "Temporarily unavailable", detail)
            .retry_after(AWAY_RETRY)
    }

    /// The problem's members, `request_id` apart.
    pub(super) fn document(self) -> Value {
        let mut document = json!({
            "type": format!("{BASE}{}", self.cause),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "cause": self.cause,
        });
        for (name, value) in self.more {
            document[name] = value;
        }
        document
    }

    /// The response to the request of that id.
    pub(super) fn render(mut self, form: Form, request_id: &str) -> Response {
        let headers = std::mem::take(&mut self.headers);
        let (status, rpc) = (self.status, Status { code: rpc_code(self.status), message: self.detail.clone() });
        let (content_type, body) = match form {
            Form::Protobuf => ("application/x-protobuf", rpc.encode_to_vec()),
            Form::Problem | Form::Json => {
                let mut document = self.document();
                document["request_id"] = request_id.into();
                document["instance"] = format!("urn:daybook:request:{request_id}").into();
                let content_type = if form == Form::Json {
                    document["code"] = rpc.code.into();
                    document["message"] = rpc.message.into();
                    "application/json"
                } else {
                    "application/problem+json"
                };
                (content_type, document.to_string().into_bytes())
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response.headers_mut().extend(headers);
        response
    }
}

/// `google.rpc.Code` for a status (google/rpc/code.proto).
fn rpc_code(status: StatusCode) -> i32 {
    match status.as_u16() {
        401 => 16,
        403 => 7,
        408 => 4,
        413 | 429 => 8,
        503 => 14,
        405 => 12,
        500.. => 13,
        _ => 3,
    }
}

fn title(cause: Cause) -> &'static str {
    match cause {
        Cause::TooLarge => "Event too large",
        Cause::NotUtf8 => "Not UTF-8",
        Cause::NotJson => "Not JSON",
        Cause::NotAvro => "Not Avro of its schema",
        Cause::UnknownSchema => "Unknown schema",
        Cause::NotAnObject => "Not a JSON object",
        Cause::SpecVersion => "Unsupported CloudEvents version",
        Cause::Missing => "Required attribute missing",
        Cause::WrongType => "Attribute of the wrong type",
        Cause::OutOfRange => "Attribute out of range",
        Cause::TooLong => "Text too long",
        Cause::DuplicateAttribute => "Attribute given twice",
        Cause::Content => "Content is not taken",
        Cause::FutureTime => "Time in the future",
        Cause::NoOrganisation => "No organisation",
        Cause::Conflict => "The id is taken",
        Cause::Signature => "Not signed as it must be",
    }
}
