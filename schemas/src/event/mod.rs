//! One event: from JSON to typed values, or to the reason why not.
//!
//! ```text
//! record ──► envelope (CloudEvents attributes, typed columns) ──► data (by the event type's schema) ──► Event
//!                └──────────────── the first fault of either ──────────────────────────────────────► Rejection
//! ```
//!
//! The collector checks with this decoder before it accepts; the worker decodes with it again, straight to Arrow, since
//! others may write to the log too. It reads the text once, borrows from it, and never panics on input.
//! Source: CloudEvents 1.0.2 §3 (attributes), its JSON format §3.1.

mod data;
mod envelope;
mod rejection;
mod scalars;
mod time;

use std::borrow::Cow;

use uuid::Uuid;

use self::envelope::Envelope;
pub use self::{
    rejection::{Cause, Rejection},
    time::parse_time,
};
use crate::{
    members::Members,
    plain,
    scan::{ObjectError, object},
};

/// Longest event, as JSON text (bytes).
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// How far a client's clock may be ahead of the server's before the event is refused (µs): one day.
pub const FUTURE_TOLERANCE_US: i64 = 24 * 3600 * 1_000_000;
/// Earliest plausible event time, 2000-01-01T00:00:00Z (µs).
pub const EARLIEST_TIME_US: i64 = 946_684_800_000_000;
/// Most characters of an attribute that has no field of its own.
pub const MAX_EXT_CHARS: usize = 256;

/// A value for one column of `events`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Decimal(20,6), unscaled: 1.5 is 1,500,000.
    Decimal(i128),
    /// UTC (µs).
    Time(i64),
}

/// An event as its client sent it; text borrows from the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// `id`; see [`event_id_bytes`] for its form in the table.
    pub id: Cow<'a, str>,
    /// `source`.
    pub source: Cow<'a, str>,
    /// `type`, in full.
    pub event_type: Cow<'a, str>,
    /// `subject`: the actor.
    pub subject: Cow<'a, str>,
    /// `time` [µs, UTC].
    pub time_us: i64,
    /// Known client type.
    pub client_type: &'static str,
    /// XXH3-64 of type, time, subject and data.
    pub payload_hash: i64,
    /// Every other value with its position in [`crate::tables::EVENT_COLUMNS`]; each position at most once.
    pub values: Vec<(usize, Value<'a>)>,
    /// Attributes without a column, as a JSON object.
    pub ext: Option<String>,
}

/// The id as `events.event_id` holds it: a UUID's 16 bytes, any other text as 0xff (never UTF-8) and its bytes.
#[must_use]
pub fn event_id_bytes(id: &str) -> ([u8; 16], Option<Vec<u8>>) {
    match Uuid::try_parse(id) {
        // Only the canonical form: other spellings of one UUID are other ids to CloudEvents.
        Ok(uuid) if uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id => (uuid.into_bytes(), None),
        _ => ([0; 16], Some([&[0xff], id.as_bytes()].concat())),
    }
}

/// The inverse of [`event_id_bytes`].
#[must_use]
pub fn event_id_text(bytes: &[u8]) -> String {
    match (bytes.split_first(), <[u8; 16]>::try_from(bytes)) {
        (Some((0xff, text)), id) if id.is_err() || std::str::from_utf8(text).is_ok() => {
            String::from_utf8_lossy(text).into_owned()
        }
        (_, Ok(id)) => Uuid::from_bytes(id).to_string(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Decodes one CloudEvent in structured JSON. `latest_us` is the latest plausible event time (µs): the server's clock
/// when it took the record, plus [`FUTURE_TOLERANCE_US`].
///
/// # Errors
/// The first fault that makes it no event of ours.
pub fn decode(record: &[u8], latest_us: i64) -> Result<Event<'_>, Rejection> {
    if record.len() > MAX_EVENT_BYTES {
        let detail = format!("the event has {} bytes, at most {MAX_EVENT_BYTES} are taken", record.len());
        return Err(Rejection::new(Cause::TooLarge, None, detail));
    }
    let text = std::str::from_utf8(record)
        .map_err(|error| Rejection::new(Cause::NotUtf8, None, format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    let mut envelope = Envelope::new();
    match plain::read(text) {
        Some(event) => envelope.take_all(event, latest_us)?,
        None => object(text, |key| key == "data", |key, member| envelope.take(key, member, latest_us))
            .map_err(|error| whole(error, None))?,
    }
    envelope.finish()
}

/// Checks an event whose members were read from a form that implies CloudEvents 1.0.
pub(crate) fn from_members(members: Members<'_>, latest_us: i64) -> Result<Event<'_>, Rejection> {
    let mut envelope = Envelope::new();
    envelope.take_all(members, latest_us)?;
    envelope.imply_version();
    envelope.finish()
}

fn whole(error: ObjectError<Rejection>, field: Option<&str>) -> Rejection {
    match error {
        ObjectError::Member(rejection) => rejection,
        ObjectError::NotAnObject => Rejection::new(Cause::NotAnObject, field, "takes a JSON object"),
        // serde_json's message names line, column and syntax, never a value.
        ObjectError::Json(error) => Rejection::new(Cause::NotJson, field, format!("not JSON: {error}")),
    }
}
