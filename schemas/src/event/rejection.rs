//! Why a record is no event.

use std::fmt;

#[cfg(doc)]
use super::MAX_EVENT_BYTES;

/// Why a record is no event. The name is what `dead_letters.cause` and the collector's problem type say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Larger than [`MAX_EVENT_BYTES`].
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON, cut off, or nested too deeply.
    NotJson,
    /// In the wire format of Avro, but not of its schema.
    NotAvro,
    /// In the wire format of Avro, of a schema that is not known here or is none of events.
    UnknownSchema,
    /// JSON, but not an object.
    NotAnObject,
    /// A CloudEvents version other than 1.0.
    SpecVersion,
    /// A required attribute is missing or empty.
    Missing,
    /// An attribute has the wrong type.
    WrongType,
    /// A number or time is out of its range, or a text is none of the allowed ones.
    OutOfRange,
    /// A text is too long.
    TooLong,
    /// The same attribute twice.
    DuplicateAttribute,
    /// An attribute that would carry content, or a nested one that might.
    Content,
    /// The event lies further in the future than clocks may differ.
    FutureTime,
    /// The record names no organisation.
    NoOrganisation,
    /// Another event has the same organisation, source and id. No decoder finds that: the worker does.
    Conflict,
    /// The record does not carry the signature of whom it says it is from. No decoder finds that: the worker does.
    Signature,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 17] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotAvro,
        Self::UnknownSchema,
        Self::NotAnObject,
        Self::SpecVersion,
        Self::Missing,
        Self::WrongType,
        Self::OutOfRange,
        Self::TooLong,
        Self::DuplicateAttribute,
        Self::Content,
        Self::FutureTime,
        Self::NoOrganisation,
        Self::Conflict,
        Self::Signature,
    ];

    /// The cause's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAvro => "not_avro",
            Self::UnknownSchema => "unknown_schema",
            Self::NotAnObject => "not_an_object",
            Self::SpecVersion => "spec_version",
            Self::Missing => "missing_attribute",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::TooLong => "too_long",
            Self::DuplicateAttribute => "duplicate_attribute",
            Self::Content => "content",
            Self::FutureTime => "future_time",
            Self::NoOrganisation => "no_organisation",
            Self::Conflict => "conflict",
            Self::Signature => "signature",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that is no event, and why. Holds names and limits, never values: values may be content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// Kind of fault.
    pub cause: Cause,
    /// Attribute at fault: `id`, or `data.status`.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl Rejection {
    /// A rejection for `field`.
    #[must_use]
    pub fn new(cause: Cause, field: Option<&str>, detail: impl Into<String>) -> Self {
        Self { cause, field: field.map(|name| name.chars().take(128).collect()), detail: detail.into() }
    }
}
