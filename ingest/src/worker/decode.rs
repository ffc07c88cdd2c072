//! From a log record to an event or a dead letter. Pure: same record, same outcome, whoever decodes it and whenever,
//! so that a record met twice (crash, zombie) can never end once as an event and once as a dead letter.

use schemas::{
    OrgId,
    avro::schema_id,
    event::{Event, FUTURE_TOLERANCE_US, Rejection, decode, parse_time},
};

use super::{avro::Plans, door::Door};
use crate::{headers, log::Record};

/// What the server asserts about a record, from its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// Organisation, from the credential.
    pub(crate) org: &'a str,
    /// When the collector took it; the log's own append time where no collector did (µs).
    pub(crate) recorded_us: i64,
    /// Who saw it.
    pub(crate) vantage: &'static str,
}

/// The record's event, or why it is none; `door` knows who may have written it, `plans` how to read Avro.
pub(crate) fn decode_record<'a>(
    record: &'a Record,
    door: &Door,
    plans: &'a Plans,
) -> Result<(Origin<'a>, Event<'a>), Rejection> {
    let recorded_us = recorded_us(record);
    let org = door.organisation(record)?;
    let value = record.value.as_deref().unwrap_or_default();
    let latest_us = recorded_us.saturating_add(FUTURE_TOLERANCE_US);
    let event = match schema_id(value) {
        Some(id) => plans.decode(id, value, latest_us)?,
        None => decode(value, latest_us)?,
    };
    let vantage = match header(record, headers::VANTAGE) {
        Some("service") => "service",
        Some("report") => "report",
        Some("otlp") => "otlp",
        _ => "client",
    };
    Ok((Origin { org, recorded_us, vantage }, event))
}

/// When the server took the record (µs).
pub(crate) fn recorded_us(record: &Record) -> i64 {
    header(record, headers::RECORDED_TIME)
        .and_then(parse_time)
        .unwrap_or_else(|| record.append_time_ms.max(0).saturating_mul(1000))
}

/// The organisation header, if it is one.
pub(crate) fn organisation(record: &Record) -> Option<&str> {
    header(record, headers::ORG).filter(|org| OrgId::is_valid(org))
}

/// The first header of that name, if it is text.
pub(super) fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
}
