//! Events in Avro: the fast lane for producers that can.
//!
//! ```text
//! writer's schema (JSON) ──► Plan ─┐
//! 0x00 · schema id · Avro binary ──┴─► members of the envelope and of `data` ──► the checks that JSON events pass
//! ```
//!
//! An event is a record whose fields are CloudEvents attributes, named as in JSON; `data` is a record, a map, or a union of
//! these. The entries of any other map are attributes too. [`event_schema`] is the schema that we publish; whoever has one with
//! fewer or more fields is understood as well, since names decide.
//!
//! A retry has to come on the lane of its first try: the payload's hash is one of the bytes of `data`, which differ between JSON and
//! Avro.
//!
//! Sources: Avro specification 1.12 ("Binary Encoding", "Schema Declaration", "Logical Types"); wire format of the Confluent
//! Schema Registry.

mod plan;
mod publish;
mod read;
#[cfg(test)]
mod tests;

pub use plan::{Plan, SchemaError};
pub use publish::event_schema;

use crate::event::{Cause, Event, MAX_EVENT_BYTES, Rejection, from_members};

/// Bytes before the Avro binary: a zero and the schema's id, big-endian.
const HEADER_BYTES: usize = 5;

/// The schema id of a record in the Confluent wire format; `None` for one that is something else. No JSON begins with a zero.
#[must_use]
pub fn schema_id(record: &[u8]) -> Option<u32> {
    match record {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// Decodes one event in the Confluent wire format by the plan of its writer's schema. `latest_us` as for
/// [`crate::event::decode`].
///
/// # Errors
/// The first fault that makes it no event of ours.
pub fn decode<'a>(record: &'a [u8], plan: &'a Plan, latest_us: i64) -> Result<Event<'a>, Rejection> {
    if record.len() > MAX_EVENT_BYTES {
        let detail = format!("the event has {} bytes, at most {MAX_EVENT_BYTES} are taken", record.len());
        return Err(Rejection::new(Cause::TooLarge, None, detail));
    }
    let body = record.get(HEADER_BYTES..).unwrap_or_default();
    let members = read::event(plan, body).map_err(|fault| {
        let detail = format!("not Avro of its schema, at byte {}: {}", HEADER_BYTES + fault.at, fault.what);
        Rejection::new(Cause::NotAvro, fault.field.as_deref(), detail)
    })?;
    from_members(members, latest_us)
}
