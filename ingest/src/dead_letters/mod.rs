//! Dead letters, read and replayed.
//!
//! ```text
//! dead_letters ──► decode again ─┬─ still no event ──────────► stays
//!                                ├─ its id is in `events` ───► done before
//!                                └─ an event now ────────────► appended to the log, as it came
//! ```
//!
//! A replay goes the way of every event: through the log, with the headers that the record had. Where records are signed, a
//! letter is judged again as of when it was appended, and appended as one of a collector: by then its key may be revoked. It is idempotent: what
//! stands in `events` under its (organisation, source, id) is not sent again, and should two replays meet, the copies
//! count once, like those of any client. A dead letter is never deleted: the account of the log stays whole.

#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use datafusion::{
    common::ScalarValue,
    logical_expr::{Expr, lit},
    prelude::{SessionContext, col},
};
use directory::Directory;
use futures::TryStreamExt;
use jiff::Timestamp;
use lake::Lake;
use schemas::{
    DEAD_LETTERS, EVENTS, OrgId,
    event::{Cause, event_id_bytes},
};

use crate::{
    headers,
    log::{self, Append, Log, Record},
    signature::{self, COLLECTOR},
    worker::{Door, KeyRing, Plans, RegistryError, SchemaRegistry, Schemas, decode_record},
};

/// Letters that are looked up and appended at a time.
const AT_ONCE: usize = 1_000;
const DAY_US: i64 = 86_400_000_000;

/// Why dead letters could not be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table could not be opened.
    #[error("table `{table}`")]
    Table {
        /// Its name.
        table: &'static str,
        /// What happened.
        #[source]
        source: lake::Error,
    },
    /// A table could not be read.
    #[error("table `{table}` could not be read")]
    Scan {
        /// Its name.
        table: &'static str,
        /// What happened.
        #[source]
        source: datafusion::error::DataFusionError,
    },
    /// The directory could not be read.
    #[error("the keys that letters are signed with could not be looked up")]
    Keys(#[source] directory::Error),
    /// The registry gave no answer.
    #[error("the schemas of letters in Avro could not be looked up")]
    Schemas(#[source] RegistryError),
    /// The log took nothing more; what was replayed until then stays, and the same replay goes on where it ended.
    #[error("the log did not take the letters")]
    Log(#[source] log::Error),
}

/// Which letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this cause.
    pub cause: Option<Cause>,
    /// Of this organisation.
    pub org: Option<OrgId>,
    /// Recorded at this time or later.
    pub since: Option<Timestamp>,
    /// This one: partition and offset of the log.
    pub place: Option<(i32, i64)>,
}

/// A record that was no event when it was met.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Why, by its stable name.
    pub cause: String,
    /// Attribute at fault.
    pub field: Option<String>,
    /// What was wrong.
    pub detail: String,
    /// Log it came from.
    pub topic: String,
    /// When the server took it (µs, UTC).
    pub recorded_us: i64,
    /// Length of the whole value (bytes); what is kept of it may be less.
    pub value_bytes: i64,
    /// The record, as far as it was kept.
    pub record: Record,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replayed {
    /// Letters that were looked at.
    pub letters: u64,
    /// That are no events still.
    pub refused: u64,
    /// Of which only a part was kept.
    pub cut: u64,
    /// Whose event stands in `events` already.
    pub present: u64,
    /// That went to the log; in a dry run, that would go.
    pub replayed: u64,
}

/// Letters in the order of partition and offset; with a `limit`, the first of them.
///
/// # Errors
/// Where the table cannot be read. A table that is not there yet has no letters.
pub async fn list(lake: &Lake, filter: &Filter, limit: Option<usize>) -> Result<Vec<Letter>, Error> {
    let mut letters = Vec::new();
    for batch in scan(lake, filter, limit).await? {
        letters.extend(letters_of(&batch));
    }
    Ok(letters)
}

/// Who may write to the log, to judge letters again.
#[derive(Clone)]
pub struct Producers<'a> {
    /// Without fault.
    pub settings: &'a signature::Settings,
    /// Where keys are known.
    pub directory: &'a Directory,
    /// Where the schemas of letters in Avro stand; `None` where there are none.
    pub schemas: Option<Arc<dyn SchemaRegistry>>,
}

/// Sends the letters that are events now to `log` again. `org` stands in where a record names no organisation: whoever replays
/// vouches for it. In a dry run nothing is sent.
///
/// # Errors
/// Where a table or the directory cannot be read, or the log does not take a record.
pub async fn replay(
    lake: &Lake,
    log: &dyn Log,
    producers: &Producers<'_>,
    filter: &Filter,
    org: Option<&OrgId>,
    dry_run: bool,
) -> Result<Replayed, Error> {
    let mut keys = KeyRing::new(producers.settings, producers.directory.clone());
    let mut schemas = producers.schemas.clone().map(Schemas::new).unwrap_or_default();
    let sign_with = producers.settings.collector_key();
    let mut done = Replayed::default();
    // What this very replay has sent: the table does not have it yet.
    let mut sent = HashSet::new();
    for batch in scan(lake, filter, None).await? {
        let letters: Vec<Letter> = letters_of(&batch).collect();
        for letters in letters.chunks(AT_ONCE) {
            let mut records: Vec<Record> = letters.iter().map(|letter| letter.record.clone()).collect();
            let door = keys.prepare(&mut records).await.map_err(Error::Keys)?;
            let plans = schemas.prepare(&records).await.map_err(Error::Schemas)?;
            let sound = sound(letters, records, &door, &plans, org, &mut done);
            let present = present(lake, &sound).await?;
            let mut records = Vec::new();
            for event in sound {
                if present.contains(&event.identity) || !sent.insert(event.identity) {
                    done.present += 1;
                    continue;
                }
                done.replayed += 1;
                let mut record = event.append;
                if let Some(key) = &sign_with {
                    signature::sign(&mut record, COLLECTOR, key);
                }
                records.push(record);
            }
            if !dry_run && !records.is_empty() {
                log.append(records).await.map_err(Error::Log)?;
            }
        }
    }
    Ok(done)
}

/// (organisation, source, id).
type Identity = (String, String, Vec<u8>);

/// A letter that is an event now.
struct Sound {
    identity: Identity,
    user_key: String,
    day: i32,
    append: Append,
}

/// `records`: those of the letters, made ready for `door`.
fn sound(
    letters: &[Letter],
    records: Vec<Record>,
    door: &Door,
    plans: &Plans,
    org: Option<&OrgId>,
    done: &mut Replayed,
) -> Vec<Sound> {
    let mut sound = Vec::new();
    for (letter, mut record) in letters.iter().zip(records) {
        done.letters += 1;
        // Its id is still taken: rows stay. Or nobody looks at signatures now, and so nobody can say that this one is good.
        let unsigned = letter.cause == Cause::Signature.as_str() && !door.checks();
        if letter.cause == Cause::Conflict.as_str() || unsigned {
            done.refused += 1;
            continue;
        }
        let kept = record.value.as_ref().map_or(0, Bytes::len);
        if i64::try_from(kept).unwrap_or(i64::MAX) < letter.value_bytes {
            done.cut += 1;
            continue;
        }
        let mut door = door;
        if let (Some(org), None) = (org, record.header(headers::ORG)) {
            door = &Door::Open;
            record.headers.push((headers::ORG.into(), Bytes::copy_from_slice(org.as_str().as_bytes())));
        }
        let Ok((origin, event)) = decode_record(&record, door, plans) else {
            done.refused += 1;
            continue;
        };
        let (uuid, text) = event_id_bytes(&event.id);
        let id = text.unwrap_or_else(|| uuid.to_vec());
        let key = Bytes::from(format!("{}/{}", origin.org, event.subject));
        sound.push(Sound {
            identity: (origin.org.to_owned(), event.source.into_owned(), id),
            user_key: event.subject.into_owned(),
            day: i32::try_from(event.time_us.div_euclid(DAY_US)).expect("times end in the year 9999"),
            append: Append { key, value: record.value.clone().unwrap_or_default(), headers: record.headers.clone() },
        });
    }
    sound
}

/// Which of `events` stand in the table. Day and person prune all but a few row groups.
async fn present(lake: &Lake, sound: &[Sound]) -> Result<HashSet<Identity>, Error> {
    let unread = |source| Error::Scan { table: EVENTS.name, source };
    let table = lake.table(&EVENTS);
    let opened = async { Ok(if table.head().await?.is_some() { Some(table.snapshot().await?) } else { None }) };
    let snapshot = opened.await.map_err(|source| Error::Table { table: EVENTS.name, source })?;
    let Some(snapshot) = snapshot.filter(|_| !sound.is_empty()) else { return Ok(HashSet::new()) };
    let days = sound.iter().map(|event| event.day).collect::<HashSet<_>>();
    let users = sound.iter().map(|event| event.user_key.as_str()).collect::<HashSet<_>>();
    let filter = col("event_date")
        .in_list(days.into_iter().map(|day| lit(ScalarValue::Date32(Some(day)))).collect(), false)
        .and(col("user_key").in_list(users.into_iter().map(lit).collect(), false));
    let frame = SessionContext::new().read_table(snapshot.provider()).and_then(|frame| frame.filter(filter));
    let frame = frame.and_then(|frame| frame.select_columns(&["org_id", "source", "event_id"])).map_err(unread)?;
    let mut rows = frame.execute_stream().await.map_err(unread)?;
    let wanted: HashSet<&Identity> = sound.iter().map(|event| &event.identity).collect();
    let mut present = HashSet::new();
    while let Some(batch) = rows.try_next().await.map_err(unread)? {
        let (orgs, sources) = (text(&batch, "org_id"), text(&batch, "source"));
        let ids = column(&batch, "event_id", &DataType::Binary);
        for row in 0..batch.num_rows() {
            let found = (
                orgs.as_string::<i32>().value(row).to_owned(),
                sources.as_string::<i32>().value(row).to_owned(),
                ids.as_binary::<i32>().value(row).to_vec(),
            );
            if wanted.contains(&found) {
                present.insert(found);
            }
        }
    }
    Ok(present)
}

async fn scan(lake: &Lake, filter: &Filter, limit: Option<usize>) -> Result<Vec<RecordBatch>, Error> {
    let table = lake.table(&DEAD_LETTERS);
    let failed = |source| Error::Table { table: DEAD_LETTERS.name, source };
    if table.head().await.map_err(failed)?.is_none() {
        return Ok(Vec::new());
    }
    let snapshot = table.snapshot().await.map_err(failed)?;
    let mut conditions: Vec<Expr> = Vec::new();
    if let Some(cause) = filter.cause {
        conditions.push(col("cause").eq(lit(cause.as_str())));
    }
    if let Some(org) = &filter.org {
        conditions.push(col("org_id").eq(lit(org.as_str())));
    }
    if let Some(since) = filter.since {
        let us = since.as_microsecond();
        let day = i32::try_from(us.div_euclid(DAY_US)).unwrap_or(i32::MAX);
        let time = ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()));
        conditions.push(col("recorded_date").gt_eq(lit(ScalarValue::Date32(Some(day)))));
        conditions.push(col("recorded_time").gt_eq(lit(time)));
    }
    if let Some((partition, offset)) = filter.place {
        conditions.push(col("log_partition").eq(lit(partition)).and(col("log_offset").eq(lit(offset))));
    }
    let scanned = async {
        let mut frame = SessionContext::new().read_table(snapshot.provider())?;
        if let Some(condition) = conditions.into_iter().reduce(Expr::and) {
            frame = frame.filter(condition)?;
        }
        let order = ["log_partition", "log_offset"].map(|name| col(name).sort(true, false));
        frame.sort(order.to_vec())?.limit(0, limit)?.collect().await
    };
    scanned.await.map_err(|source| Error::Scan { table: DEAD_LETTERS.name, source })
}

fn column(batch: &RecordBatch, name: &str, kind: &DataType) -> Arc<dyn Array> {
    let column = batch.column_by_name(name).expect("a column of the table");
    cast(column, kind).expect("each column casts to its own type")
}

fn text(batch: &RecordBatch, name: &str) -> Arc<dyn Array> {
    column(batch, name, &DataType::Utf8)
}

fn letters_of(batch: &RecordBatch) -> impl Iterator<Item = Letter> {
    let texts = ["cause", "field", "detail", "topic", "record_headers"].map(|name| text(batch, name));
    let binary = ["record_key", "record_value"].map(|name| column(batch, name, &DataType::Binary));
    let times =
        ["recorded_time", "append_time"].map(|name| batch.column_by_name(name).expect("a column of the table").clone());
    let partitions = column(batch, "log_partition", &DataType::Int32);
    let numbers = ["log_offset", "value_bytes"].map(|name| column(batch, name, &DataType::Int64));
    (0..batch.num_rows()).map(move |row| {
        let text = |at: usize| {
            let column = texts[at].as_string::<i32>();
            (!column.is_null(row)).then(|| column.value(row).to_owned())
        };
        let bytes = |at: usize| {
            let column = binary[at].as_binary::<i32>();
            (!column.is_null(row)).then(|| Bytes::copy_from_slice(column.value(row)))
        };
        let time = |at: usize| {
            let column = times[at].as_primitive::<TimestampMicrosecondType>();
            (!column.is_null(row)).then(|| column.value(row))
        };
        let number = |at: usize| numbers[at].as_primitive::<Int64Type>().value(row);
        let headers: std::collections::BTreeMap<String, String> =
            text(4).and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        Letter {
            cause: text(0).unwrap_or_default(),
            field: text(1),
            detail: text(2).unwrap_or_default(),
            topic: text(3).unwrap_or_default(),
            recorded_us: time(0).unwrap_or_default(),
            value_bytes: number(1),
            record: Record {
                kafka_partition: partitions.as_primitive::<Int32Type>().value(row),
                offset: number(0),
                key: bytes(0),
                value: bytes(1),
                headers: headers.into_iter().map(|(name, value)| (name.into(), Bytes::from(value))).collect(),
                append_time_ms: time(1).map_or(-1, |us| us / 1000),
            },
        }
    })
}
