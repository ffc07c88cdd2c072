//! The envelope: CloudEvents attributes and our extensions to them.

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Cause, Event, Rejection, Value,
    scalars::{Name, extension, int, optional_text, required_text, time},
};
use crate::{
    clients::client_type,
    members::{Data, Members},
    registry::Registry,
    scan::{Member, Scalar},
    tables::event_column,
};

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
        column: usize,
        max_chars: usize,
    },
    Int {
        column: usize,
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

/// Position of a column that is known to be there.
const fn column(name: &str) -> usize {
    event_column(name).expect("the envelope's columns are in EVENT_COLUMNS")
}

/// The envelope. `orgid`, `recordedtime` and `vantage` are the server's: what a client writes there counts for nothing.
fn attribute(name: &str) -> Attribute {
    macro_rules! text {
        ($column:literal, $max_chars:literal) => {
            Attribute::Text { column: const { column($column) }, max_chars: $max_chars }
        };
    }
    match name {
        "specversion" => Attribute::Spec,
        "id" => Attribute::Id,
        "source" => Attribute::Source,
        "type" => Attribute::Type,
        "time" => Attribute::Time,
        "subject" => Attribute::Subject,
        "datacontenttype" => Attribute::ContentType,
        "dataschema" => text!("data_schema", 512),
        "product" => text!("product", 64),
        "clienttype" => Attribute::ClientType,
        "clientver" => text!("client_version", 64),
        "hostapp" => text!("host_app", 64),
        "installid" => text!("install_id", 128),
        "sessionid" => text!("session_id", 128),
        "conversationid" => text!("conversation_id", 128),
        "turnid" => text!("turn_id", 128),
        "traceparent" => text!("trace_parent", 128),
        "sequence" => Attribute::Int { column: const { column("sequence") }, min: 0, max: i64::MAX },
        "tzoffset" => Attribute::Int { column: const { column("tz_offset_minutes") }, min: -1440, max: 1440 },
        "senttime" => Attribute::SentTime,
        "data" => Attribute::Data,
        "data_base64" => Attribute::DataBase64,
        "orgid" | "recordedtime" | "vantage" => Attribute::Server,
        _ => Attribute::Extension,
    }
}

/// Members by their place in the event that this thread read before: a client writes all its events in one order, so the name
/// at a place is nearly always the one of before, and need not be looked up.
#[derive(Default)]
struct Before(Vec<(String, Attribute)>);

impl Before {
    /// Places that are remembered.
    const MAX: usize = 64;

    fn attribute(&mut self, place: usize, key: &str) -> Attribute {
        match self.0.get_mut(place) {
            Some((name, attribute)) if name == key => *attribute,
            Some((name, of_name)) => {
                key.clone_into(name);
                *of_name = attribute(key);
                *of_name
            }
            None => {
                let of_name = attribute(key);
                if place == self.0.len() && place < Self::MAX {
                    self.0.push((key.to_owned(), of_name));
                }
                of_name
            }
        }
    }
}

thread_local! {
    static BEFORE: RefCell<Before> = RefCell::default();
}

/// What was read of an event so far.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    version: bool,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time_us: Option<i64>,
    client_type: Option<&'static str>,
    content_type: bool,
    /// `data` as JSON, where its members were not read yet.
    data: Option<&'a str>,
    pub(super) members: Option<Data<'a>>,
    values: Vec<(usize, Value<'a>)>,
    seen: u128,
    pub(super) ext: BTreeMap<String, serde_json::Value>,
}

impl<'a> Envelope<'a> {
    pub(super) fn new() -> Self {
        Self { values: Vec::with_capacity(24), ..Self::default() }
    }

    /// Takes a whole event.
    pub(super) fn take_all(&mut self, event: Members<'a>, latest_us: i64) -> Result<(), Rejection> {
        BEFORE.with_borrow_mut(|before| {
            for (place, (key, scalar)) in event.envelope.into_iter().enumerate() {
                let attribute = before.attribute(place, key);
                self.take_as(attribute, Cow::Borrowed(key), Member::Scalar(scalar), latest_us)?;
            }
            Ok(())
        })?;
        self.members = event.data;
        Ok(())
    }

    /// For an event of a form that implies the version of CloudEvents.
    pub(super) fn imply_version(&mut self) {
        self.version = true;
    }

    /// Takes one member of the event's object.
    pub(super) fn take(&mut self, key: Cow<'a, str>, member: Member<'a>, latest_us: i64) -> Result<(), Rejection> {
        self.take_as(attribute(&key), key, member, latest_us)
    }

    fn take_as(
        &mut self,
        attribute: Attribute,
        key: Cow<'a, str>,
        member: Member<'a>,
        latest_us: i64,
    ) -> Result<(), Rejection> {
        let name = Name::attribute(&key);
        let duplicate = || name.twice();
        let scalar = match member {
            Member::Raw(raw) => {
                return if self.data.replace(raw.get()).is_some() { Err(duplicate()) } else { Ok(()) };
            }
            Member::Scalar(scalar) => scalar,
        };
        let once = |slot: &mut Option<Cow<'a, str>>, max_chars| {
            let text = required_text(name, scalar.clone(), max_chars)?;
            if slot.replace(text).is_some() { Err(duplicate()) } else { Ok(()) }
        };
        match attribute {
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
                let time = time(name, &scalar)?;
                if time > latest_us {
                    let detail = "`time` is more than a day ahead of the server's clock; check the client's clock";
                    return Err(Rejection::new(Cause::FutureTime, Some("time"), detail));
                }
                if self.time_us.replace(time).is_some() { Err(duplicate()) } else { Ok(()) }
            }
            Attribute::ContentType => {
                let text = required_text(name, scalar, 256)?;
                let media = text.split(';').next().unwrap_or_default().trim();
                if !(media.eq_ignore_ascii_case("application/json") || media.ends_with("+json")) {
                    let detail = "`datacontenttype` takes application/json";
                    return Err(Rejection::new(Cause::OutOfRange, Some("datacontenttype"), detail));
                }
                if std::mem::replace(&mut self.content_type, true) { Err(duplicate()) } else { Ok(()) }
            }
            Attribute::ClientType => {
                let Some(raw) = optional_text(name, scalar, 64)? else { return Ok(()) };
                if self.client_type.replace(client_type(&raw)).is_some() {
                    return Err(duplicate());
                }
                self.put(const { column("client_type_raw") }, name, Value::Text(raw))
            }
            Attribute::Text { column, max_chars } => match optional_text(name, scalar, max_chars)? {
                Some(text) => self.put(column, name, Value::Text(text)),
                None => Ok(()),
            },
            Attribute::Int { column, min, max } => match int(name, &scalar, min, max)? {
                Some(value) => self.put(column, name, Value::Int(value)),
                None => Ok(()),
            },
            Attribute::SentTime => {
                let time = time(name, &scalar)?;
                self.put(const { column("sent_time") }, name, Value::Time(time))
            }
            Attribute::DataBase64 => Err(Rejection::new(
                Cause::Content,
                Some("data_base64"),
                "binary data is not taken: events carry no content",
            )),
            Attribute::Server => Ok(()),
            Attribute::Extension => extension(&mut self.ext, name, scalar),
            Attribute::Data => unreachable!("`data` is read raw"),
        }
    }

    pub(super) fn put(&mut self, column: usize, name: Name<'_>, value: Value<'a>) -> Result<(), Rejection> {
        if self.seen & (1 << column) != 0 {
            let detail = format!("`{name}` stands there twice, or twice under two names");
            return Err(name.rejected(Cause::DuplicateAttribute, detail));
        }
        self.seen |= 1 << column;
        self.values.push((column, value));
        Ok(())
    }

    /// The event, once all of it was read.
    pub(super) fn finish(mut self) -> Result<Event<'a>, Rejection> {
        fn present<T>(value: Option<T>, name: &str) -> Result<T, Rejection> {
            value.ok_or_else(|| Rejection::new(Cause::Missing, Some(name), format!("`{name}` is missing")))
        }
        present(self.version.then_some(()), "specversion")?;
        let id = present(self.id.take(), "id")?;
        let source = present(self.source.take(), "source")?;
        let event_type = present(self.event_type.take(), "type")?;
        let time_us = present(self.time_us, "time")?;
        let subject = present(self.subject.take(), "subject")?;
        let data = self.members.as_ref().and_then(|data| data.text).or(self.data).unwrap_or("{}");
        let hashed = self.members.as_ref().map_or(data.as_bytes(), |data| data.hashed);
        let parts = [event_type.as_bytes(), &time_us.to_be_bytes(), subject.as_bytes(), hashed];
        // One text: a hash of few bytes at a time costs three times as much.
        let mut hashed = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
        for part in parts {
            hashed.extend_from_slice(part);
            hashed.push(0);
        }
        let payload_hash = xxh3_64(&hashed).cast_signed();
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
            payload_hash,
            values: self.values,
            ext,
        })
    }
}
