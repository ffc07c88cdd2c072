//! Answers: a status, headers and a JSON body.

use serde_json::{Value, json};

use super::problem::Problem;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
    /// `None` = no body.
    pub(super) body: Option<Value>,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, etag: None, location: None, body: Some(body) }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self { status, etag: None, location: None, body: None }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self { status: problem.status, etag: None, location: None, body: Some(problem.to_json()) }
    }
}

/// A ListResponse (RFC 7644 §3.4.2).
pub(super) fn list(total: usize, start: usize, resources: Vec<Value>) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": resources.len(),
        "Resources": resources,
    })
}
