//! OTLP requests, item by item.
//!
//! Two bytes of protobuf can be a record of 250 bytes in memory. So a request is never decoded whole: it is walked to the
//! slices of its log records or metrics, and each is decoded by itself, up to [`ITEM_BYTES_MAX`].
//!
//! Sources: Protocol Buffers "Encoding"; OTLP 1.x § OTLP/HTTP, § JSON Protobuf Encoding.

use opentelemetry_proto::tonic::resource::v1::Resource;
pub(in crate::collector) use opentelemetry_proto::tonic::{logs::v1::LogRecord, metrics::v1::Metric};
use prost::Message;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Largest log record or metric.
pub(super) const ITEM_BYTES_MAX: usize = 512 << 10;

/// How a request is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Encoding {
    Protobuf,
    Json,
}

/// Why a request could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::collector) enum Error {
    /// What is wrong, for the client.
    Malformed(String),
    /// More items than allowed.
    TooMany,
}

/// A log record or metric.
pub(in crate::collector) enum Item<T> {
    Read(T),
    /// It alone cannot be read: why.
    Refused(String),
}

/// Hands out each log record of an `ExportLogsServiceRequest` with its resource.
pub(in crate::collector) fn logs(
    encoding: Encoding,
    body: &[u8],
    limit: usize,
    each: &mut dyn FnMut(&Resource, Item<LogRecord>),
) -> Result<(), Error> {
    walk(encoding, body, limit, each)
}

/// Hands out each metric of an `ExportMetricsServiceRequest` with its resource.
pub(in crate::collector) fn metrics(
    encoding: Encoding,
    body: &[u8],
    limit: usize,
    each: &mut dyn FnMut(&Resource, Item<Metric>),
) -> Result<(), Error> {
    walk(encoding, body, limit, each)
}

/// `resource_logs` → `scope_logs` → `log_records`, and the same with metrics: the tags are alike.
fn walk<T: Message + Default + DeserializeOwned>(
    encoding: Encoding,
    body: &[u8],
    limit: usize,
    each: &mut dyn FnMut(&Resource, Item<T>),
) -> Result<(), Error> {
    let mut left = limit;
    let mut give = |resource: &Resource, item: Item<T>| {
        left = left.checked_sub(1).ok_or(Error::TooMany)?;
        each(resource, item);
        Ok(())
    };
    match encoding {
        Encoding::Protobuf => {
            for group in messages(body, 1) {
                let group = group?;
                let mut resource = Resource::default();
                for part in messages(group, 1) {
                    let part = part?;
                    // Parts of one message add up (Encoding § Last One Wins).
                    small(part)?;
                    resource.merge(part).map_err(|error| malformed(&error))?;
                }
                for scope in messages(group, 2) {
                    for item in messages(scope?, 2) {
                        give(&resource, read(item?, |bytes| T::decode(bytes).map_err(|error| error.to_string())))?;
                    }
                }
            }
        }
        Encoding::Json => {
            let request: RequestJson<'_> = object(body)?;
            for group in request.groups {
                let group: GroupJson<'_> = object(group.get().as_bytes())?;
                let resource = match group.resource {
                    Some(resource) => {
                        small(resource.get().as_bytes())?;
                        serde_json::from_str::<Option<Resource>>(resource.get()).map_err(|error| malformed(&error))?
                    }
                    None => None,
                };
                let resource = resource.unwrap_or_default();
                for scope in group.scopes {
                    let scope: ScopeJson<'_> = object(scope.get().as_bytes())?;
                    for item in scope.items {
                        let decode = |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string());
                        give(&resource, read(item.get().as_bytes(), decode))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// An object of JSON; serde would take an array of its values too.
fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Error> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed(&"an object is needed"));
    }
    serde_json::from_slice(text).map_err(|error| malformed(&error))
}

fn malformed(error: &dyn std::fmt::Display) -> Error {
    Error::Malformed(format!("The body is no OTLP export request: {error}."))
}

fn small(resource: &[u8]) -> Result<(), Error> {
    if resource.len() > ITEM_BYTES_MAX {
        return Err(Error::Malformed(format!("A resource takes at most {ITEM_BYTES_MAX} bytes.")));
    }
    Ok(())
}

fn read<'a, T>(bytes: &'a [u8], decode: impl FnOnce(&'a [u8]) -> Result<T, String>) -> Item<T> {
    if bytes.len() > ITEM_BYTES_MAX {
        return Item::Refused(format!("an item of {} bytes is larger than the {ITEM_BYTES_MAX} allowed", bytes.len()));
    }
    match decode(bytes) {
        Ok(item) => Item::Read(item),
        Err(error) => Item::Refused(format!("an item cannot be decoded: {error}")),
    }
}

// Elements stay text until it is their turn. Names that are missing or unknown are so in protobuf too.
#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(borrow, default, rename = "resourceLogs", alias = "resourceMetrics")]
    groups: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct GroupJson<'a> {
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "scopeLogs", alias = "scopeMetrics")]
    scopes: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct ScopeJson<'a> {
    #[serde(borrow, default, rename = "logRecords", alias = "metrics")]
    items: Vec<&'a RawValue>,
}

/// The length-delimited fields with number `wanted` of a protobuf message; others are passed over.
fn messages(mut rest: &[u8], wanted: u64) -> impl Iterator<Item = Result<&[u8], Error>> {
    let broken = || malformed(&"a field is cut off or has an unknown wire type");
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let mut step = || {
                let key = varint(&mut rest)?;
                let length = match key & 7 {
                    0 => {
                        varint(&mut rest)?;
                        0
                    }
                    1 => 8,
                    2 => usize::try_from(varint(&mut rest)?).ok()?,
                    5 => 4,
                    // Groups (3, 4) were never in OTLP.
                    _ => return None,
                };
                let (field, after) = rest.split_at_checked(length)?;
                rest = after;
                Some((key & 7 == 2 && key >> 3 == wanted).then_some(field))
            };
            match step() {
                Some(Some(field)) => return Some(Ok(field)),
                Some(None) => {}
                None => {
                    rest = &[];
                    return Some(Err(broken()));
                }
            }
        }
        None
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    // Ten groups of seven bits hold 64.
    for shift in (0..70).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
