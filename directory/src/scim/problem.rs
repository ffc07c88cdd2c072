//! Every error that leaves the SCIM server: RFC 7644 §3.12. Internals stay in the log.

use serde_json::{Value, json};

use crate::Error;

/// `scimType` of an answer 400 or 409 (RFC 7644, table 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    InvalidFilter,
    TooMany,
    Uniqueness,
    Mutability,
    InvalidSyntax,
    InvalidPath,
    NoTarget,
    InvalidValue,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::InvalidFilter => "invalidFilter",
            Self::TooMany => "tooMany",
            Self::Uniqueness => "uniqueness",
            Self::Mutability => "mutability",
            Self::InvalidSyntax => "invalidSyntax",
            Self::InvalidPath => "invalidPath",
            Self::NoTarget => "noTarget",
            Self::InvalidValue => "invalidValue",
        }
    }
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// HTTP status.
    pub(super) status: u16,
    pub(super) cause: Option<Cause>,
    pub(super) detail: String,
    /// The database undid the transaction because of another's: the same again may do.
    pub(super) again: bool,
}

pub(super) type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { status, cause: None, detail: detail.into(), again: false }
    }

    /// 400, or 409 of what must be unique.
    pub(super) fn bad(cause: Cause, detail: impl Into<String>) -> Self {
        let status = if cause == Cause::Uniqueness { 409 } else { 400 };
        Self { status, cause: Some(cause), detail: detail.into(), again: false }
    }

    pub(super) fn value(detail: impl Into<String>) -> Self {
        Self::bad(Cause::InvalidValue, detail)
    }

    pub(super) fn syntax(detail: impl Into<String>) -> Self {
        Self::bad(Cause::InvalidSyntax, detail)
    }

    /// No such resource of this organisation; whether another has it is not said.
    pub(super) fn missing(kind: &str, id: &str) -> Self {
        Self::new(404, format!("There is no {kind} {}.", shortened(id)))
    }

    pub(super) fn version() -> Self {
        Self::new(412, "The resource has another version by now. Read it again.")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Send a key with the scope scim: Authorization: Bearer dbk_… (daybook key create --scope scim).")
    }

    /// What was to be written with others could not be.
    pub(super) fn unknown() -> Self {
        Self::new(503, "It could not be written. Try again in a few seconds.")
    }

    pub(super) fn late() -> Self {
        Self::new(503, "It took too long. Ask for less, or try again.")
    }

    pub(super) fn busy() -> Self {
        Self::new(503, "Too many requests are being worked on. Try again in a second.")
    }

    /// As RFC 7644 §3.12 writes it.
    pub(super) fn to_json(&self) -> Value {
        let mut shown = json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
            "status": self.status.to_string(),
            "detail": self.detail,
        });
        if let Some(cause) = self.cause {
            shown["scimType"] = cause.name().into();
        }
        shown
    }
}

impl From<Error> for Problem {
    /// Of the database: nothing that the client did.
    fn from(error: Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "SCIM cannot use the directory");
        Self::new(503, "The directory is not available. Try again in a few seconds.")
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        // A deadlock, and what could not be in any order.
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| ["40P01", "40001"].contains(&&*code)) {
            return Self { again: true, ..Self::unknown() };
        }
        Error::Database(error).into()
    }
}

/// What a client sent, short enough to be said again.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}
