//! JSON scalars to values, each with its limits.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use super::{Cause, EARLIEST_TIME_US, MAX_EXT_CHARS, Rejection, parse_time};
use crate::{registry::Registry, scan::Scalar};

/// Latest time that RFC 3339 can write, 9999-12-31T23:59:59.999999Z (µs).
const LATEST_TIME_US: i64 = 253_402_300_799_999_999;
/// Most attributes without a field of their own.
const MAX_EXT_ATTRIBUTES: usize = 64;

/// What a message calls an attribute. Put together only where something is wrong: most events are right.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    place: &'static str,
    key: &'a str,
}

impl<'a> Name<'a> {
    /// An attribute of the envelope.
    pub(super) fn attribute(key: &'a str) -> Self {
        Self { place: "", key }
    }

    /// A property of the data.
    pub(super) fn data(key: &'a str) -> Self {
        Self { place: "data.", key }
    }

    /// A rejection of it.
    pub(super) fn rejected(self, cause: Cause, detail: impl Into<String>) -> Rejection {
        Rejection::new(cause, Some(&self.to_string()), detail)
    }

    /// The rejection of what stands there twice.
    pub(super) fn twice(self) -> Rejection {
        self.rejected(Cause::DuplicateAttribute, format!("`{self}` stands there twice"))
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place)?;
        f.write_str(self.key)
    }
}

pub(super) fn wrong_type(name: Name<'_>, takes: &str) -> Rejection {
    name.rejected(Cause::WrongType, format!("`{name}` takes {takes}"))
}

pub(super) fn text<'a>(name: Name<'_>, scalar: Scalar<'a>, max_chars: usize) -> Result<Cow<'a, str>, Rejection> {
    match scalar {
        // Bytes bound characters from above: most texts need no count.
        Scalar::Text(text) if text.len() <= max_chars || text.chars().count() <= max_chars => Ok(text),
        Scalar::Text(_) => Err(name.rejected(Cause::TooLong, format!("`{name}` takes at most {max_chars} characters"))),
        _ => Err(wrong_type(name, "text")),
    }
}

pub(super) fn required_text<'a>(
    name: Name<'_>,
    scalar: Scalar<'a>,
    max_chars: usize,
) -> Result<Cow<'a, str>, Rejection> {
    match scalar {
        Scalar::Null => Err(name.rejected(Cause::Missing, format!("`{name}` is null"))),
        Scalar::Text(text) if text.is_empty() => Err(name.rejected(Cause::Missing, format!("`{name}` is empty"))),
        scalar => text(name, scalar, max_chars),
    }
}

/// Null and the empty text are absent.
pub(super) fn optional_text<'a>(
    name: Name<'_>,
    scalar: Scalar<'a>,
    max_chars: usize,
) -> Result<Option<Cow<'a, str>>, Rejection> {
    match scalar {
        Scalar::Null => Ok(None),
        Scalar::Text(text) if text.is_empty() => Ok(None),
        scalar => text(name, scalar, max_chars).map(Some),
    }
}

/// An integer; 3.0 is one (JSON Schema 2020-12 §6.1.1), and so is "3" in an envelope attribute, since CloudEvents in
/// HTTP headers are all text.
pub(super) fn int(name: Name<'_>, scalar: &Scalar<'_>, min: i64, max: i64) -> Result<Option<i64>, Rejection> {
    let value = match scalar {
        Scalar::Null => return Ok(None),
        Scalar::Int(value) => Some(*value),
        // 2^53: beyond it a JSON float is no exact integer.
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => Some(*value as i64),
        Scalar::Float(value) if value.fract() == 0.0 => None,
        Scalar::Text(text) if name.place.is_empty() => Some(text.parse().map_err(|_| wrong_type(name, "an integer"))?),
        _ => return Err(wrong_type(name, "an integer")),
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(Some(value)),
        _ => Err(name.rejected(Cause::OutOfRange, format!("`{name}` takes an integer from {min} to {max}"))),
    }
}

pub(super) fn time(name: Name<'_>, scalar: &Scalar<'_>) -> Result<i64, Rejection> {
    let form = "an RFC 3339 time with an offset, e.g. 2026-03-04T05:06:07.123456Z";
    let time = match scalar {
        Scalar::Text(text) => parse_time(text).ok_or_else(|| wrong_type(name, form))?,
        Scalar::Time(time) if *time <= LATEST_TIME_US => *time,
        Scalar::Time(_) => return Err(name.rejected(Cause::OutOfRange, format!("`{name}` lies after the year 9999"))),
        _ => return Err(wrong_type(name, "an RFC 3339 time")),
    };
    if time < EARLIEST_TIME_US {
        let detail = format!("`{name}` lies before 2000-01-01; check the client's clock");
        return Err(name.rejected(Cause::OutOfRange, detail));
    }
    Ok(time)
}

/// Decimal(20,6), unscaled, rounded half away from zero. A JSON float is taken by its shortest decimal form.
pub(super) fn decimal(name: Name<'_>, scalar: &Scalar<'_>, signed: bool) -> Result<i128, Rejection> {
    let out_of_range = || {
        let from = if signed { "-99999999999999" } else { "0" };
        name.rejected(Cause::OutOfRange, format!("`{name}` takes a number from {from} to 99999999999999"))
    };
    let text: Cow<'_, str> = match scalar {
        Scalar::Int(value) if value.unsigned_abs() > 99_999_999_999_999 || (*value < 0 && !signed) => {
            return Err(out_of_range());
        }
        Scalar::Int(value) => return Ok(i128::from(*value) * 1_000_000),
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
    if whole.len() > 14 {
        return Err(out_of_range());
    }
    let whole = whole.bytes().fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    let digit = |at| fraction.as_bytes().get(at).map_or(0, |digit| i128::from(digit - b'0'));
    let micros = (0..6).fold(0, |sum, at| sum * 10 + digit(at)) + i128::from(digit(6) >= 5);
    let value = whole * 1_000_000 + micros;
    match (negative, signed) {
        (true, false) if value != 0 => Err(out_of_range()),
        (true, _) => Ok(-value),
        (false, _) => Ok(value),
    }
}

/// Keeps a scalar without a field of its own; refuses what would carry content.
pub(super) fn extension(
    ext: &mut BTreeMap<String, serde_json::Value>,
    name: Name<'_>,
    scalar: Scalar<'_>,
) -> Result<(), Rejection> {
    let key = name.key;
    let plain = key.len() <= 64
        && key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !plain {
        let detail = "attribute names take up to 64 of a-z, 0-9 and `_`, the first a letter";
        return Err(name.rejected(Cause::OutOfRange, detail));
    }
    if Registry::get().denies(key) {
        let detail = format!("`{name}` would carry content; events tell of activity, not of what was written");
        return Err(name.rejected(Cause::Content, detail));
    }
    let value = match scalar {
        Scalar::Null => return Ok(()),
        Scalar::Nested => {
            let detail = format!("`{name}` is nested; attributes without a field of their own are scalars");
            return Err(name.rejected(Cause::Content, detail));
        }
        scalar => kept(name, scalar)?,
    };
    if ext.insert(key.to_owned(), value).is_some() {
        return Err(name.twice());
    }
    if ext.len() > MAX_EXT_ATTRIBUTES {
        let detail = format!("more than {MAX_EXT_ATTRIBUTES} attributes without a field of their own");
        return Err(name.rejected(Cause::OutOfRange, detail));
    }
    Ok(())
}

/// A scalar as `ext` keeps it.
pub(super) fn kept(name: Name<'_>, scalar: Scalar<'_>) -> Result<serde_json::Value, Rejection> {
    Ok(match scalar {
        Scalar::Null => serde_json::Value::Null,
        Scalar::Bool(value) => value.into(),
        Scalar::Int(value) => value.into(),
        Scalar::Float(value) => value.into(),
        Scalar::Time(us) => {
            let time = jiff::Timestamp::from_microsecond(us);
            let detail = || name.rejected(Cause::OutOfRange, format!("`{name}` lies after the year 9999"));
            time.map_err(|_| detail())?.to_string().into()
        }
        Scalar::Nested => return Err(wrong_type(name, "a scalar")),
        scalar @ Scalar::Text(_) => text(name, scalar, MAX_EXT_CHARS)?.into_owned().into(),
    })
}
