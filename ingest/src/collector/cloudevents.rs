//! From an HTTP request to the texts of its events: CloudEvents 1.0.2, HTTP binding §3, in structured, batched and binary mode.
//!
//! | `content-type` | `ce-*` headers | mode |
//! |---|---|---|
//! | application/cloudevents+json | any | structured: one object |
//! | application/cloudevents-batch+json | any | batched: an array |
//! | application/json, another `+json`, none | with `ce-specversion` | binary: headers are attributes, the body is the data |
//! | application/json | without | an object or an array, for those who set no better type |
//! | others | any | 415 |
//!
//! Events are cut out of a batch as text; no tree is built.

use std::{borrow::Cow, fmt};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use serde::{
    Deserializer as _,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::problem::Problem;

const TAKES: &str = "application/cloudevents+json, application/cloudevents-batch+json or application/json, in UTF-8; \
                     or an event in binary mode (ce-* headers) with JSON data";

/// How a request carries its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Structured,
    Batched,
    /// An object or an array.
    Either,
    /// Attributes from the headers; `None` = no `content-type`.
    Binary(Option<String>),
}

/// The events of a request, as JSON text each; not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split {
    One(Bytes),
    Batch(Vec<Bytes>),
}

impl Mode {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
            let binary = headers.contains_key("ce-specversion");
            return if binary { Ok(Self::Binary(None)) } else { Err(Problem::media_type(TAKES)) };
        };
        let content_type = content_type.to_str().map_err(|_| Problem::media_type(TAKES))?;
        let (media, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let media = media.trim().to_ascii_lowercase();
        let utf8 = parameters.split(';').all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                let value = value.trim().trim_matches('"');
                value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii")
            }
            _ => true,
        });
        if !utf8 {
            return Err(Problem::media_type(TAKES));
        }
        match media.as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batched),
            // Other event formats: Avro, Protobuf, XML.
            other if other.starts_with("application/cloudevents") => Err(Problem::media_type(TAKES)),
            json if json == "application/json" || json.ends_with("+json") => {
                if headers.contains_key("ce-specversion") {
                    Ok(Self::Binary(Some(media)))
                } else if json == "application/json" {
                    Ok(Self::Either)
                } else {
                    Err(Problem::media_type(TAKES))
                }
            }
            _ => Err(Problem::media_type(TAKES)),
        }
    }

    /// The events of `body`, at most `limit`.
    pub(super) fn split(&self, headers: &HeaderMap, body: Bytes, limit: usize) -> Result<Split, Problem> {
        let first = body.iter().find(|b| !b.is_ascii_whitespace());
        match self {
            Self::Structured => Ok(Split::One(body)),
            Self::Either if first != Some(&b'[') => Ok(Split::One(body)),
            Self::Batched | Self::Either => batch(&body, limit).map(Split::Batch),
            Self::Binary(content_type) => binary(headers, content_type.as_deref(), &body).map(Split::One),
        }
    }
}

/// Cuts an array into the texts of its elements; they share the body's memory.
fn batch(body: &Bytes, limit: usize) -> Result<Vec<Bytes>, Problem> {
    let text = utf8(body)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let elements = json.deserialize_seq(Elements { limit }).and_then(|elements| json.end().map(|()| elements));
    let elements = elements.map_err(|error| {
        let what = if error.is_data() { "A batch takes a JSON array of events" } else { "The body is not JSON" };
        Problem::malformed("not_json", format!("{what}: {error}."))
    })?;
    if elements.len() > limit {
        return Err(Problem::too_many(limit));
    }
    Ok(elements.into_iter().map(|element| body.slice_ref(element.get().as_bytes())).collect())
}

fn utf8(body: &[u8]) -> Result<&str, Problem> {
    str::from_utf8(body).map_err(|error| {
        Problem::malformed("not_utf8", format!("The body is not UTF-8 at byte {}.", error.valid_up_to()))
    })
}

/// The elements of an array; of one with more than `limit`, the first `limit` + 1.
struct Elements {
    limit: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() <= self.limit {
            match sequence.next_element()? {
                Some(element) => elements.push(element),
                None => return Ok(elements),
            }
        }
        // Read on without keeping: a malformed body is told before a long one.
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(elements)
    }
}

/// Binary mode (HTTP binding §3.1) as structured text.
fn binary(headers: &HeaderMap, content_type: Option<&str>, body: &[u8]) -> Result<Bytes, Problem> {
    let mut attributes: Map<String, Value> = Map::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
        // These come from the body and `content-type`; a header must not pretend to be them (§3.1.3).
        let plain = !attribute.is_empty() && attribute.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !plain || matches!(attribute, "data" | "datacontenttype") {
            return Err(Problem::bad_header(name.as_str(), "No attribute of that name can be in a header."));
        }
        if attributes.insert(attribute.to_owned(), decoded(name, value)?.into()).is_some() {
            return Err(Problem::bad_header(name.as_str(), "The header stands there twice."));
        }
    }
    if let Some(content_type) = content_type {
        attributes.insert("datacontenttype".to_owned(), content_type.into());
    }
    let mut event = serde_json::to_string(&attributes).expect("a map of texts is always JSON");
    let text = utf8(body)?;
    if !text.trim_ascii().is_empty() {
        let data: &RawValue = serde_json::from_str(text).map_err(|error| {
            Problem::malformed("not_json", format!("The body, the event's data, is not JSON: {error}."))
        })?;
        event.pop();
        event.push_str(if attributes.is_empty() { "\"data\":" } else { ",\"data\":" });
        event.push_str(data.get());
        event.push('}');
    }
    Ok(event.into())
}

/// The value of a `ce-*` header: quoted or not, percent-encoded UTF-8 (§3.1.3.2).
fn decoded(name: &HeaderName, value: &HeaderValue) -> Result<String, Problem> {
    let bad = || Problem::bad_header(name.as_str(), "The value is no percent-encoded UTF-8 (HTTP binding §3.1.3.2).");
    // Receivers take what senders should have encoded: UTF-8 bytes.
    let text = str::from_utf8(value.as_bytes()).map_err(|_| bad())?;
    let unquoted: Cow<'_, str> = match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => {
            let mut plain = String::with_capacity(quoted.len());
            let mut characters = quoted.chars();
            while let Some(character) = characters.next() {
                plain.push(if character == '\\' { characters.next().ok_or_else(bad)? } else { character });
            }
            plain.into()
        }
        None => text.into(),
    };
    if !unquoted.contains('%') {
        return Ok(unquoted.into_owned());
    }
    let mut bytes = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
        let mut encoded = [0];
        hex::decode_to_slice(digits, &mut encoded).map_err(|_| bad())?;
        bytes.push(encoded[0]);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The id of an event that was refused, where it can be read.
pub(super) fn readable_id(event: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Option<Cow<'a, str>>,
    }
    let Id { id } = serde_json::from_slice(event).ok()?;
    id.filter(|id| id.chars().count() <= 256).map(Cow::into_owned)
}
