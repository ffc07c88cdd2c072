//! Every error that leaves the service over HTTP: RFC 9457 problem details, saying what, where and what to do.
//!
//! Internals stay in the log. A problem is rendered by the outermost layer, which knows the request's id.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    Error,
    fence::is_gone,
    places::Full,
    policy::{Forbidden, Why},
    sql,
};

/// Base of the problem types' URIs.
const BASE: &str = "https://daybook.dev/problems/";

/// An error as the client sees it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Stable name, the end of `type`.
    pub(super) kind: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    /// Response header and its value.
    header: Option<(&'static str, &'static str)>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), more: Map::new(), header: None }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// A parameter that does not exist.
    pub(super) fn unknown_parameter(name: &str, known: &[&str]) -> Self {
        let detail = format!("There is no parameter `{}`. Known parameters: {}.", short(name), known.join(", "));
        Self::new(StatusCode::BAD_REQUEST, "unknown-parameter", "Unknown parameter", detail)
            .with("parameter", json!(short(name)))
            .with("known", json!(known))
    }

    /// A parameter with a value that it cannot have; `detail` says what it takes.
    pub(super) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", "Invalid parameter", detail)
            .with("parameter", json!(name))
    }

    /// A cursor that we did not hand out for this request.
    pub(super) fn cursor(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-cursor", "Invalid cursor", detail)
            .with("parameter", json!("cursor"))
    }

    /// A cursor whose table version is no more.
    pub(super) fn gone() -> Self {
        let detail = "The table version that this cursor reads is not kept any more. Start again without `cursor`.";
        Self::new(StatusCode::GONE, "cursor-expired", "Cursor expired", detail)
    }

    /// No credential, or one that we do not know.
    pub(super) fn unauthorized(presented: bool) -> Self {
        let (detail, challenge) = if presented {
            (
                "The key is unknown or revoked. Present a valid read key.",
                "Bearer realm=\"daybook\", error=\"invalid_token\"",
            )
        } else {
            ("Present a read key: `Authorization: Bearer dbk_…`.", "Bearer realm=\"daybook\"")
        };
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "No valid credential", detail)
            .header("www-authenticate", challenge)
    }

    /// A credential for something else.
    pub(super) fn forbidden() -> Self {
        let detail = "This key may send events but not read. Present a key with the scope `read`.";
        Self::new(StatusCode::FORBIDDEN, "wrong-scope", "Wrong scope", detail)
            .header("www-authenticate", "Bearer realm=\"daybook\", error=\"insufficient_scope\", scope=\"read\"")
    }

    /// A table that is closed, to the key's role or to everyone.
    fn closed(why: &Forbidden) -> Self {
        let detail = format!("{why}. {}", why.help());
        let detail = detail.replacen("table", "Table", 1);
        let problem = match &why.why {
            Why::Role(role) => {
                Self::new(StatusCode::FORBIDDEN, "wrong-role", "Not for this role", detail).with("role", json!(role))
            }
            Why::OptIn(level) => Self::new(StatusCode::FORBIDDEN, "not-opted-in", "Not opted in", detail)
                .with("opt_in", json!(level.as_str())),
        };
        problem.with("table", json!(why.table))
    }

    /// No format that the client accepts.
    pub(super) fn not_acceptable(known: &[&str]) -> Self {
        let detail = format!("None of the accepted media types is available. Available: {}.", known.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "No acceptable format", detail)
            .with("known", json!(known))
    }

    /// Another method than GET or HEAD.
    pub(super) fn method() -> Self {
        let detail = "This resource is only read: use GET or HEAD.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
            .header("allow", "GET, HEAD")
    }

    /// Another method than POST, for a question that is too long for a URL.
    pub(super) fn not_posted() -> Self {
        let detail = "Send the SQL statement as the body of a POST. It changes nothing.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
            .header("allow", "POST")
    }

    /// A body that is too long for a statement, or was cut off.
    pub(super) fn too_long() -> Self {
        let detail = format!("The body is cut off, or too long: a statement may have {} bytes.", sql::MAX_SQL_BYTES);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "statement-too-long", "Statement too long", detail)
    }

    /// A statement that cannot be answered as it is.
    pub(super) fn statement(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-statement", "Invalid statement", detail)
    }

    /// Too many requests at once.
    pub(super) fn busy(full: Full) -> Self {
        let problem = match full {
            Full::Service => {
                let detail = "The service answers as many requests as it can at once. Try again shortly.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy", detail)
            }
            Full::Organisation => {
                let detail = "The service answers as many requests of your organisation at once as one may have. Send fewer at a time.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", detail)
            }
        };
        problem.header("retry-after", "1")
    }

    /// The answer took too long.
    pub(super) fn timeout() -> Self {
        let detail = "The answer took longer than a request may. Ask for fewer days, or for a smaller `limit`.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "Time limit reached", detail).header("retry-after", "10")
    }

    /// A part of the service is away.
    pub(super) fn unavailable(what: &'static str) -> Self {
        let detail = format!("The {what} cannot be read at the moment. Try again shortly.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable", detail)
            .header("retry-after", "5")
    }

    /// Our own fault.
    fn internal() -> Self {
        let detail = "The service failed. Its log has the cause under this request id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// `error` while answering a request; logs what the client is not told.
    pub(super) fn from_error(error: &Error, with_cursor: bool) -> Self {
        let log = || tracing::error!(error = error as &dyn std::error::Error, "a request failed");
        match error {
            Error::Gone { .. } => Self::gone(),
            Error::Forbidden(why) => Self::closed(why),
            Error::Directory(_) => {
                log();
                Self::unavailable("directory of keys")
            }
            Error::Lake { .. } | Error::Scan(_) if with_cursor && is_gone(error) => Self::gone(),
            Error::Lake { .. } => {
                log();
                Self::unavailable("tables")
            }
            // Logged where it happened.
            Error::Scan(_) | Error::Unrecorded => Self::unavailable("tables"),
            Error::Budget(_) => {
                tracing::warn!(error = error as &dyn std::error::Error, "a request hit its budget");
                let detail = "The request needs more memory than is free. Ask for fewer days, or try again later.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "budget", "Budget reached", detail)
                    .header("retry-after", "5")
            }
            _ => {
                log();
                Self::internal()
            }
        }
    }

    /// `error` while answering a statement, of which its author may know what is wrong with it.
    pub(super) fn from_sql(error: &Error) -> Self {
        match error {
            Error::Refused(_) => {
                Self::new(StatusCode::BAD_REQUEST, "refused-statement", "Refused statement", format!("{error}."))
            }
            Error::Sql(source) => Self::statement(sql::message(source)),
            Error::Encode(source) => {
                Self::statement(format!("The rows have no form in this format: {source}. Take another `format`."))
            }
            error => Self::from_error(error, false),
        }
    }

    /// The response body for the request of that id.
    pub(super) fn render(self, request_id: &str) -> Body {
        let mut document = json!({
            "type": format!("{BASE}{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "request_id": request_id,
        });
        for (name, value) in self.more {
            document[name] = value;
        }
        Body::from(document.to_string())
    }
}

/// What a client sent, short enough to be sent back.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response.extensions_mut().insert(self);
        response
    }
}
