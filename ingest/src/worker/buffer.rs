//! Decoded events on their way to Parquet: appended column by column, sorted once, cut by day.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array},
    compute::take,
    datatypes::{Field, Schema, SchemaRef},
};
use jiff::civil::Date;
use schemas::{
    event::Event,
    tables::{EVENT_COLUMNS, event_column},
};

use super::{columns::GrowingColumn, decode::Origin};
use crate::log::Record;

/// Bytes that a row takes beside its payload: ids, offsets, times and dictionary keys.
const ROW_OVERHEAD_BYTES: usize = 160;
const DAY_US: i64 = 86_400_000_000;

/// What a row is sorted by; texts by their numbers in the columns' dictionaries, which are ranked when the buffer is taken.
struct SortKey {
    day: i32,
    org: u32,
    user: u32,
    client_type: u32,
    time_us: i64,
}

/// Events of one commit to be.
pub(crate) struct EventBuffer {
    schema: SchemaRef,
    columns: Vec<GrowingColumn>,
    fixed: Fixed,
    keys: Vec<SortKey>,
    bytes: usize,
    /// Rows that are not to come out.
    discarded: HashSet<u32>,
}

/// Positions of the columns that every row has.
struct Fixed {
    event_date: usize,
    org_id: usize,
    user_key: usize,
    client_type: usize,
    event_time: usize,
    event_id: usize,
    source: usize,
    event_type: usize,
    recorded_time: usize,
    vantage: usize,
    log_partition: usize,
    log_offset: usize,
    payload_hash: usize,
    ext: usize,
}

impl Fixed {
    fn new() -> Self {
        let at = |name| event_column(name).expect("a column of EVENT_COLUMNS");
        Self {
            event_date: at("event_date"),
            org_id: at("org_id"),
            user_key: at("user_key"),
            client_type: at("client_type"),
            event_time: at("event_time"),
            event_id: at("event_id"),
            source: at("source"),
            event_type: at("event_type"),
            recorded_time: at("recorded_time"),
            vantage: at("vantage"),
            log_partition: at("log_partition"),
            log_offset: at("log_offset"),
            payload_hash: at("payload_hash"),
            ext: at("ext"),
        }
    }
}

impl EventBuffer {
    pub(crate) fn new() -> Self {
        let columns: Vec<GrowingColumn> = EVENT_COLUMNS.iter().map(GrowingColumn::new).collect();
        let fields: Vec<Field> = EVENT_COLUMNS
            .iter()
            .zip(&columns)
            .map(|(column, growing)| Field::new(column.name, growing.data_type().clone(), column.nullable))
            .collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            columns,
            fixed: Fixed::new(),
            keys: Vec::new(),
            bytes: 0,
            discarded: HashSet::new(),
        }
    }

    /// An empty buffer, with room for as much as this one holds.
    pub(crate) fn of_this_size(&self) -> Self {
        Self {
            schema: self.schema.clone(),
            columns: self.columns.iter().map(GrowingColumn::of_this_size).collect(),
            fixed: Fixed::new(),
            keys: Vec::with_capacity(self.keys.len()),
            bytes: 0,
            discarded: HashSet::new(),
        }
    }

    /// Rows so far, discarded ones included.
    pub(crate) fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Estimate of the memory that the rows take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a row out again.
    pub(crate) fn discard(&mut self, row: usize) {
        self.discarded.insert(u32::try_from(row).expect("fewer than 2^32 rows"));
    }

    /// Appends one event; `id` as [`event_id_bytes`](schemas::event::event_id_bytes) gives it.
    pub(crate) fn push(&mut self, record: &Record, origin: &Origin<'_>, event: &Event<'_>, id: &[u8]) {
        let row = self.keys.len();
        let day = i32::try_from(event.time_us.div_euclid(DAY_US)).expect("times end in the year 9999");
        let at = &self.fixed;
        self.columns[at.event_date].set_int32(row, day);
        let org = self.columns[at.org_id].set_numbered(row, origin.org);
        let user = self.columns[at.user_key].set_numbered(row, &event.subject);
        let client_type = self.columns[at.client_type].set_numbered(row, event.client_type);
        self.columns[at.event_time].set_time(row, event.time_us);
        self.columns[at.event_id].set_bytes(row, id);
        self.columns[at.source].set_text(row, &event.source);
        self.columns[at.event_type].set_text(row, &event.event_type);
        self.columns[at.recorded_time].set_time(row, origin.recorded_us);
        self.columns[at.vantage].set_text(row, origin.vantage);
        self.columns[at.log_partition].set_int32(row, record.kafka_partition);
        self.columns[at.log_offset].set_int(row, record.offset);
        self.columns[at.payload_hash].set_int(row, event.payload_hash);
        for (column, value) in &event.values {
            self.columns[*column].set(row, value);
        }
        if let Some(ext) = &event.ext {
            self.columns[at.ext].set_text(row, ext);
        }
        self.keys.push(SortKey { day, org, user, client_type, time_us: event.time_us });
        self.bytes += record.value.as_ref().map_or(0, |value| value.len()) / 2 + ROW_OVERHEAD_BYTES;
    }

    /// All rows, sorted by (org_id, user_key, client_type, event_time), a batch for each UTC day; empties the buffer.
    /// Rows equal in these keep the order of the log within a partition.
    pub(crate) fn take(&mut self) -> Vec<(Date, RecordBatch)> {
        let rows = self.keys.len();
        let at = &self.fixed;
        let [orgs, users, client_types] =
            [at.org_id, at.user_key, at.client_type].map(|column| self.columns[column].ranks());
        let keys = std::mem::take(&mut self.keys);
        let discarded = std::mem::take(&mut self.discarded);
        let rank = |(row, key): (usize, &SortKey)| {
            let (org, user) = (orgs[key.org as usize], users[key.user as usize]);
            let row = u32::try_from(row).expect("fewer than 2^32 rows");
            // The row comes last: equal rows keep their order.
            (key.day, org, user, client_types[key.client_type as usize], key.time_us, row)
        };
        let mut order: Vec<_> = keys.iter().enumerate().map(rank).collect();
        if !discarded.is_empty() {
            order.retain(|(.., row)| !discarded.contains(row));
        }
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|(.., row)| row).collect();
        let order = UInt32Array::from(order);
        let columns: Vec<ArrayRef> = self
            .columns
            .iter_mut()
            .map(|column| {
                let array = column.finish(rows);
                if array.null_count() == rows {
                    array.slice(0, order.len())
                } else {
                    take(&array, &order, None).expect("the order holds each row once")
                }
            })
            .collect();
        self.bytes = 0;
        let all = RecordBatch::try_new(self.schema.clone(), columns).expect("the columns follow the schema");
        let mut batches = Vec::new();
        let (mut start, rows) = (0, order.len());
        while start < rows {
            let day = keys[order.value(start) as usize].day;
            let length = (start..rows).take_while(|row| keys[order.value(*row) as usize].day == day).count();
            batches.push((date(day), all.slice(start, length)));
            start += length;
        }
        batches
    }
}

/// The calendar day `days` after 1970-01-01.
pub(crate) fn date(days: i32) -> Date {
    Date::new(1970, 1, 1)
        .expect("a date")
        .checked_add(jiff::Span::new().days(days))
        .expect("event times lie between 2000 and 9999")
}
