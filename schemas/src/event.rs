//! One event: from JSON to typed values, or to the reason why not.
//!
//! The collector checks with this decoder before it accepts; the worker decodes with it again, straight to Arrow, since
//! others may write to the log too. It reads the text once, borrows from it, and never panics on input.
//! Source: CloudEvents 1.0.2 §3 (attributes), its JSON format §3.1.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    clients::client_type,
    registry::{EventSpec, FieldType, Registry},
    scan::{Member, ObjectError, Scalar, object},
    tables::event_column,
};

/// Longest event, as JSON text (bytes).
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// How far a client's clock may be ahead of the server's before the event is refused (µs): one day.
pub const FUTURE_TOLERANCE_US: i64 = 24 * 3600 * 1_000_000;
/// Earliest plausible event time, 2000-01-01T00:00:00Z (µs).
pub const EARLIEST_TIME_US: i64 = 946_684_800_000_000;
/// Most characters of an attribute that has no field of its own.
pub const MAX_EXT_CHARS: usize = 256;
/// Most attributes without a field of their own.
const MAX_EXT_ATTRIBUTES: usize = 64;

/// Why a record is no event. The name is what `dead_letters.cause` and the collector's problem type say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Larger than [`MAX_EVENT_BYTES`].
    TooLarge,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON, cut off, or nested too deeply.
    NotJson,
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
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 13] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
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
    ];

    /// The cause's stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
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

#[derive(Clone, Copy, PartialEq)]
enum Attribute {
    Spec,
    Id,
    Source,
    Type,
    Time,
    Subject,
    ContentType,
    ClientType,
    Text {
        column: &'static str,
        max_chars: usize,
    },
    Int {
        column: &'static str,
        min: i64,
        max: i64,
    },
    SentTime,
    Data,
    DataBase64,
    /// Asserted by the server alone: dropped from the payload.
    Server,
    Extension,
}

/// The envelope. `orgid`, `recordedtime` and `vantage` are the server's: what a client writes there counts for nothing.
fn attribute(name: &str) -> Attribute {
    let text = |column, max_chars| Attribute::Text { column, max_chars };
    match name {
        "specversion" => Attribute::Spec,
        "id" => Attribute::Id,
        "source" => Attribute::Source,
        "type" => Attribute::Type,
        "time" => Attribute::Time,
        "subject" => Attribute::Subject,
        "datacontenttype" => Attribute::ContentType,
        "dataschema" => text("data_schema", 512),
        "product" => text("product", 64),
        "clienttype" => Attribute::ClientType,
        "clientver" => text("client_version", 64),
        "hostapp" => text("host_app", 64),
        "installid" => text("install_id", 128),
        "sessionid" => text("session_id", 128),
        "conversationid" => text("conversation_id", 128),
        "turnid" => text("turn_id", 128),
        "traceparent" => text("trace_parent", 128),
        "sequence" => Attribute::Int { column: "sequence", min: 0, max: i64::MAX },
        "tzoffset" => Attribute::Int { column: "tz_offset_minutes", min: -1440, max: 1440 },
        "senttime" => Attribute::SentTime,
        "data" => Attribute::Data,
        "data_base64" => Attribute::DataBase64,
        "orgid" | "recordedtime" | "vantage" => Attribute::Server,
        _ => Attribute::Extension,
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
    let mut envelope = Envelope { values: Vec::with_capacity(24), ..Envelope::default() };
    object(text, |key| key == "data", |key, member| envelope.take(key, member, latest_us))
        .map_err(|error| whole(error, None))?;
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

#[derive(Default)]
struct Envelope<'a> {
    version: bool,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time_us: Option<i64>,
    client_type: Option<&'static str>,
    content_type: bool,
    data: Option<&'a str>,
    values: Vec<(usize, Value<'a>)>,
    seen: u128,
    ext: BTreeMap<String, serde_json::Value>,
}

impl<'a> Envelope<'a> {
    fn take(&mut self, key: Cow<'a, str>, member: Member<'a>, latest_us: i64) -> Result<(), Rejection> {
        let duplicate = || Rejection::new(Cause::DuplicateAttribute, Some(&key), format!("`{key}` stands there twice"));
        let scalar = match member {
            Member::Raw(raw) => {
                return if self.data.replace(raw.get()).is_some() { Err(duplicate()) } else { Ok(()) };
            }
            Member::Scalar(scalar) => scalar,
        };
        let once = |slot: &mut Option<Cow<'a, str>>, max_chars| {
            let text = required_text(&key, scalar.clone(), max_chars)?;
            if slot.replace(text).is_some() { Err(duplicate()) } else { Ok(()) }
        };
        match attribute(&key) {
            Attribute::Spec => match scalar {
                Scalar::Text(version) if version == "1.0" => {
                    if std::mem::replace(&mut self.version, true) {
                        Err(duplicate())
                    } else {
                        Ok(())
                    }
                }
                _ => Err(Rejection::new(Cause::SpecVersion, Some("specversion"), "`specversion` takes \"1.0\"")),
            },
            Attribute::Id => once(&mut self.id, 256),
            Attribute::Source => once(&mut self.source, 512),
            Attribute::Type => once(&mut self.event_type, 256),
            Attribute::Subject => once(&mut self.subject, 512),
            Attribute::Time => {
                let time = time(&key, &scalar)?;
                if time > latest_us {
                    let detail = "`time` is more than a day ahead of the server's clock; check the client's clock";
                    return Err(Rejection::new(Cause::FutureTime, Some("time"), detail));
                }
                if self.time_us.replace(time).is_some() { Err(duplicate()) } else { Ok(()) }
            }
            Attribute::ContentType => {
                let text = required_text(&key, scalar, 256)?;
                let media = text.split(';').next().unwrap_or_default().trim();
                if !(media.eq_ignore_ascii_case("application/json") || media.ends_with("+json")) {
                    let detail = "`datacontenttype` takes application/json";
                    return Err(Rejection::new(Cause::OutOfRange, Some("datacontenttype"), detail));
                }
                if std::mem::replace(&mut self.content_type, true) { Err(duplicate()) } else { Ok(()) }
            }
            Attribute::ClientType => {
                let Some(raw) = optional_text(&key, scalar, 64)? else { return Ok(()) };
                if self.client_type.replace(client_type(&raw)).is_some() {
                    return Err(duplicate());
                }
                self.put("client_type_raw", &key, Value::Text(raw))
            }
            Attribute::Text { column, max_chars } => match optional_text(&key, scalar, max_chars)? {
                Some(text) => self.put(column, &key, Value::Text(text)),
                None => Ok(()),
            },
            Attribute::Int { column, min, max } => match int(&key, &scalar, min, max)? {
                Some(value) => self.put(column, &key, Value::Int(value)),
                None => Ok(()),
            },
            Attribute::SentTime => {
                let time = time(&key, &scalar)?;
                self.put("sent_time", &key, Value::Time(time))
            }
            Attribute::DataBase64 => Err(Rejection::new(
                Cause::Content,
                Some("data_base64"),
                "binary data is not taken: events carry no content",
            )),
            Attribute::Server => Ok(()),
            Attribute::Extension => extension(&mut self.ext, "", &key, scalar),
            Attribute::Data => unreachable!("`data` is read raw"),
        }
    }

    fn put(&mut self, column: &'static str, key: &str, value: Value<'a>) -> Result<(), Rejection> {
        let column = event_column(column).expect("the envelope's columns are in EVENT_COLUMNS");
        self.put_at(column, key, value)
    }

    fn put_at(&mut self, column: usize, key: &str, value: Value<'a>) -> Result<(), Rejection> {
        if self.seen & (1 << column) != 0 {
            let detail = format!("`{key}` stands there twice, or twice under two names");
            return Err(Rejection::new(Cause::DuplicateAttribute, Some(key), detail));
        }
        self.seen |= 1 << column;
        self.values.push((column, value));
        Ok(())
    }

    fn finish(mut self) -> Result<Event<'a>, Rejection> {
        fn present<T>(value: Option<T>, name: &str) -> Result<T, Rejection> {
            value.ok_or_else(|| Rejection::new(Cause::Missing, Some(name), format!("`{name}` is missing")))
        }
        present(self.version.then_some(()), "specversion")?;
        let id = present(self.id.take(), "id")?;
        let source = present(self.source.take(), "source")?;
        let event_type = present(self.event_type.take(), "type")?;
        let time_us = present(self.time_us, "time")?;
        let subject = present(self.subject.take(), "subject")?;
        let data = self.data.unwrap_or("{}");
        let mut hash = Xxh3::new();
        for part in [event_type.as_bytes(), &time_us.to_be_bytes(), subject.as_bytes(), data.as_bytes()] {
            hash.update(part);
            hash.update(&[0]);
        }
        if data != "null" {
            self.take_data(Registry::get().spec(&event_type), data)?;
        } else if let Some(field) = Registry::get().spec(&event_type).fields.iter().find(|field| field.required) {
            let name = format!("data.{}", field.name);
            return Err(Rejection::new(Cause::Missing, Some(&name), format!("`{name}` is missing")));
        }
        let ext = (!self.ext.is_empty())
            .then(|| serde_json::to_string(&self.ext).expect("texts and numbers are always JSON"));
        Ok(Event {
            id,
            source,
            event_type,
            subject,
            time_us,
            client_type: self.client_type.unwrap_or("unknown"),
            payload_hash: hash.digest().cast_signed(),
            values: self.values,
            ext,
        })
    }

    fn take_data(&mut self, spec: &EventSpec, data: &'a str) -> Result<(), Rejection> {
        let nested = |key: &str| spec.field(key).is_some_and(|(_, field)| field.field_type == FieldType::Object);
        let mut met = 0_u64;
        object(data, nested, |key, member| {
            let name = || format!("data.{key}");
            let Some((index, field)) = spec.field(&key) else {
                let Member::Scalar(scalar) = member else { unreachable!("only known objects are read raw") };
                return extension(&mut self.ext, "data.", &key, scalar);
            };
            let scalar = match member {
                Member::Raw(raw) => {
                    met |= 1 << index;
                    return nested_object(&mut self.ext, &key, raw.get());
                }
                Member::Scalar(Scalar::Null) => return Ok(()),
                Member::Scalar(scalar) => scalar,
            };
            met |= 1 << index;
            let value = match &field.field_type {
                FieldType::Text { max_chars } => Value::Text(text(&name(), scalar, *max_chars)?),
                FieldType::Enum(values) => {
                    let text = text(&name(), scalar, 256)?;
                    if !values.iter().any(|value| *value == text) {
                        let detail = format!("`{}` takes one of {}", name(), values.join(", "));
                        return Err(Rejection::new(Cause::OutOfRange, Some(&name()), detail));
                    }
                    Value::Text(text)
                }
                FieldType::Int { min, max } => match int(&name(), &scalar, *min, *max)? {
                    Some(value) => Value::Int(value),
                    None => return Ok(()),
                },
                FieldType::Bool => match scalar {
                    Scalar::Bool(value) => Value::Bool(value),
                    _ => return Err(wrong_type(&name(), "true or false")),
                },
                FieldType::Decimal { signed } => Value::Decimal(decimal(&name(), &scalar, *signed)?),
                FieldType::Object => unreachable!("objects are read raw"),
            };
            self.put_at(field.column.expect("every scalar field has a column"), &name(), value)
        })
        .map_err(|error| whole(error, Some("data")))?;
        for (index, field) in spec.fields.iter().enumerate() {
            if field.required && met & (1 << index) == 0 {
                let name = format!("data.{}", field.name);
                return Err(Rejection::new(Cause::Missing, Some(&name), format!("`{name}` is missing")));
            }
        }
        Ok(())
    }
}

fn wrong_type(name: &str, takes: &str) -> Rejection {
    Rejection::new(Cause::WrongType, Some(name), format!("`{name}` takes {takes}"))
}

fn text<'a>(name: &str, scalar: Scalar<'a>, max_chars: usize) -> Result<Cow<'a, str>, Rejection> {
    match scalar {
        // Bytes bound characters from above: most texts need no count.
        Scalar::Text(text) if text.len() <= max_chars || text.chars().count() <= max_chars => Ok(text),
        Scalar::Text(_) => {
            Err(Rejection::new(Cause::TooLong, Some(name), format!("`{name}` takes at most {max_chars} characters")))
        }
        _ => Err(wrong_type(name, "text")),
    }
}

fn required_text<'a>(name: &str, scalar: Scalar<'a>, max_chars: usize) -> Result<Cow<'a, str>, Rejection> {
    match scalar {
        Scalar::Null => Err(Rejection::new(Cause::Missing, Some(name), format!("`{name}` is null"))),
        Scalar::Text(text) if text.is_empty() => {
            Err(Rejection::new(Cause::Missing, Some(name), format!("`{name}` is empty")))
        }
        scalar => text(name, scalar, max_chars),
    }
}

/// Null and the empty text are absent.
fn optional_text<'a>(name: &str, scalar: Scalar<'a>, max_chars: usize) -> Result<Option<Cow<'a, str>>, Rejection> {
    match scalar {
        Scalar::Null => Ok(None),
        Scalar::Text(text) if text.is_empty() => Ok(None),
        scalar => text(name, scalar, max_chars).map(Some),
    }
}

/// An integer; 3.0 is one (JSON Schema 2020-12 §6.1.1), and so is "3" in an envelope attribute, since CloudEvents in
/// HTTP headers are all text.
fn int(name: &str, scalar: &Scalar<'_>, min: i64, max: i64) -> Result<Option<i64>, Rejection> {
    let value = match scalar {
        Scalar::Null => return Ok(None),
        Scalar::Int(value) => Some(*value),
        // 2^53: beyond it a JSON float is no exact integer.
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => Some(*value as i64),
        Scalar::Float(value) if value.fract() == 0.0 => None,
        Scalar::Text(text) if !name.starts_with("data.") => {
            Some(text.parse().map_err(|_| wrong_type(name, "an integer"))?)
        }
        _ => return Err(wrong_type(name, "an integer")),
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(Some(value)),
        _ => {
            Err(Rejection::new(Cause::OutOfRange, Some(name), format!("`{name}` takes an integer from {min} to {max}")))
        }
    }
}

fn time(name: &str, scalar: &Scalar<'_>) -> Result<i64, Rejection> {
    let Scalar::Text(text) = scalar else { return Err(wrong_type(name, "an RFC 3339 time")) };
    let time: Timestamp = text
        .parse()
        .map_err(|_| wrong_type(name, "an RFC 3339 time with an offset, e.g. 2026-03-04T05:06:07.123456Z"))?;
    let time = time.as_microsecond();
    if time < EARLIEST_TIME_US {
        let detail = format!("`{name}` lies before 2000-01-01; check the client's clock");
        return Err(Rejection::new(Cause::OutOfRange, Some(name), detail));
    }
    Ok(time)
}

/// Decimal(20,6), unscaled, rounded half away from zero. A JSON float is taken by its shortest decimal form.
fn decimal(name: &str, scalar: &Scalar<'_>, signed: bool) -> Result<i128, Rejection> {
    let text: Cow<'_, str> = match scalar {
        Scalar::Int(value) => value.to_string().into(),
        Scalar::Float(value) => value.to_string().into(),
        Scalar::Text(text) => text.as_ref().into(),
        _ => return Err(wrong_type(name, "a decimal number")),
    };
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_ref()), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(wrong_type(name, "a decimal number, e.g. \"12.5\""));
    }
    let out_of_range = || {
        let from = if signed { "-99999999999999" } else { "0" };
        Rejection::new(Cause::OutOfRange, Some(name), format!("`{name}` takes a number from {from} to 99999999999999"))
    };
    if whole.len() > 14 {
        return Err(out_of_range());
    }
    let micros = format!("{fraction:0<7.7}");
    let whole: i128 = whole.parse().map_err(|_| out_of_range())?;
    let tenths: i128 = micros.parse().map_err(|_| out_of_range())?;
    let value = whole * 1_000_000 + (tenths + 5) / 10;
    match (negative, signed) {
        (true, false) if value != 0 => Err(out_of_range()),
        (true, _) => Ok(-value),
        (false, _) => Ok(value),
    }
}

/// Keeps a scalar without a field of its own; refuses what would carry content.
fn extension(
    ext: &mut BTreeMap<String, serde_json::Value>,
    place: &str,
    key: &str,
    scalar: Scalar<'_>,
) -> Result<(), Rejection> {
    let name = format!("{place}{key}");
    let plain = key.len() <= 64
        && key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !plain {
        let detail = "attribute names take up to 64 of a-z, 0-9 and `_`, the first a letter";
        return Err(Rejection::new(Cause::OutOfRange, Some(&name), detail));
    }
    if Registry::get().denies(key) {
        let detail = format!("`{name}` would carry content; events tell of activity, not of what was written");
        return Err(Rejection::new(Cause::Content, Some(&name), detail));
    }
    let value = match scalar {
        Scalar::Null => return Ok(()),
        Scalar::Bool(value) => value.into(),
        Scalar::Int(value) => value.into(),
        Scalar::Float(value) => value.into(),
        Scalar::Nested => {
            let detail = format!("`{name}` is nested; attributes without a field of their own are scalars");
            return Err(Rejection::new(Cause::Content, Some(&name), detail));
        }
        scalar @ Scalar::Text(_) => text(&name, scalar, MAX_EXT_CHARS)?.into_owned().into(),
    };
    if ext.insert(key.to_owned(), value).is_some() {
        return Err(Rejection::new(Cause::DuplicateAttribute, Some(&name), format!("`{name}` stands there twice")));
    }
    if ext.len() > MAX_EXT_ATTRIBUTES {
        let detail = format!("more than {MAX_EXT_ATTRIBUTES} attributes without a field of their own");
        return Err(Rejection::new(Cause::OutOfRange, Some(&name), detail));
    }
    Ok(())
}

/// Keeps an object of scalars, whole; its names are the vendor's own.
fn nested_object(ext: &mut BTreeMap<String, serde_json::Value>, key: &str, raw: &str) -> Result<(), Rejection> {
    let name = format!("data.{key}");
    let mut kept: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    object(
        raw,
        |_| false,
        |inner, member| {
            let inner_name = format!("{name}.{inner}");
            let Member::Scalar(scalar) = member else { unreachable!("nothing is read raw here") };
            let value = match scalar {
                Scalar::Null => serde_json::Value::Null,
                Scalar::Bool(value) => value.into(),
                Scalar::Int(value) => value.into(),
                Scalar::Float(value) => value.into(),
                Scalar::Nested => return Err(wrong_type(&inner_name, "a scalar")),
                scalar @ Scalar::Text(_) => text(&inner_name, scalar, MAX_EXT_CHARS)?.into_owned().into(),
            };
            if kept.insert(inner.chars().take(256).collect(), value).is_some() {
                return Err(Rejection::new(
                    Cause::DuplicateAttribute,
                    Some(&inner_name),
                    format!("`{inner_name}` stands there twice"),
                ));
            }
            Ok(())
        },
    )
    .map_err(|error| whole(error, Some(&name)))?;
    if ext.insert(key.to_owned(), serde_json::json!(kept)).is_some() {
        return Err(Rejection::new(Cause::DuplicateAttribute, Some(&name), format!("`{name}` stands there twice")));
    }
    Ok(())
}
