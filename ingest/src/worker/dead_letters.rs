//! Records that are no events: kept whole, with the reason.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;
use jiff::civil::Date;
use schemas::{
    DEAD_LETTERS,
    event::{Cause, Rejection},
    tables::DEAD_LETTER_COLUMNS,
};

use super::{buffer::date, columns::GrowingColumn, decode};
use crate::log::Record;

/// Longest value that is kept (bytes); the whole length is recorded beside it.
pub(crate) const MAX_KEPT_BYTES: usize = 1024 * 1024;
const DAY_US: i64 = 86_400_000_000;

/// One refused record.
pub(crate) struct DeadLetter {
    pub(crate) record: Record,
    pub(crate) rejection: Rejection,
}

/// Dead letters in the form of their table: a batch for each day on which they were recorded, sorted by partition and
/// offset.
pub(crate) fn batches(topic: &str, letters: &[&DeadLetter]) -> Vec<(Date, RecordBatch)> {
    let mut by_day: BTreeMap<i32, Vec<&DeadLetter>> = BTreeMap::new();
    for letter in letters {
        let day = decode::recorded_us(&letter.record).div_euclid(DAY_US);
        // A header may claim any time; a day outside the calendar counts as the first one.
        by_day
            .entry(i32::try_from(day).ok().filter(|day| (0..=2_932_896).contains(day)).unwrap_or(0))
            .or_default()
            .push(letter);
    }
    let days = by_day.into_iter().map(|(day, mut letters)| {
        letters.sort_by_key(|letter| (letter.record.kafka_partition, letter.record.offset));
        (date(day), batch(topic, day, &letters))
    });
    days.collect()
}

fn batch(topic: &str, day: i32, letters: &[&DeadLetter]) -> RecordBatch {
    let mut columns: Vec<GrowingColumn> = DEAD_LETTER_COLUMNS.iter().map(GrowingColumn::new).collect();
    let at = |name: &str| {
        DEAD_LETTER_COLUMNS.iter().position(|column| column.name == name).expect("a column of DEAD_LETTER_COLUMNS")
    };
    for (row, DeadLetter { record, rejection }) in letters.iter().enumerate() {
        columns[at("recorded_date")].set_int32(row, day);
        columns[at("cause")].set_text(row, rejection.cause.as_str());
        if let Some(field) = &rejection.field {
            columns[at("field")].set_text(row, field);
        }
        columns[at("detail")].set_text(row, &rejection.detail);
        // Whoever could not sign does not speak for the organisation that they name.
        if let Some(org) = decode::organisation(record).filter(|_| rejection.cause != Cause::Signature) {
            columns[at("org_id")].set_text(row, org);
        }
        columns[at("topic")].set_text(row, topic);
        columns[at("log_partition")].set_int32(row, record.kafka_partition);
        columns[at("log_offset")].set_int(row, record.offset);
        if record.append_time_ms > 0 {
            columns[at("append_time")].set_time(row, record.append_time_ms.saturating_mul(1000));
        }
        columns[at("recorded_time")].set_time(row, decode::recorded_us(record));
        if let Some(key) = &record.key {
            columns[at("record_key")].set_bytes(row, &key[..key.len().min(MAX_KEPT_BYTES)]);
        }
        if let Some(value) = &record.value {
            columns[at("record_value")].set_bytes(row, &value[..value.len().min(MAX_KEPT_BYTES)]);
        }
        let length = record.value.as_ref().map_or(0, |value| value.len());
        columns[at("value_bytes")].set_int(row, i64::try_from(length).unwrap_or(i64::MAX));
        if !record.headers.is_empty() {
            columns[at("record_headers")].set_text(row, &headers(record));
        }
    }
    let schema = DEAD_LETTERS.schema();
    let arrays = columns.iter_mut().zip(schema.fields()).map(|(column, field)| {
        let array = column.finish(letters.len());
        arrow::compute::cast(&array, field.data_type()).expect("dictionaries and days cast to their plain types")
    });
    RecordBatch::try_new(Arc::clone(&schema), arrays.collect()).expect("the columns follow the schema")
}

fn headers(record: &Record) -> String {
    let map: BTreeMap<&str, String> = record
        .headers
        .iter()
        .map(|(key, value)| (key.as_ref(), String::from_utf8_lossy(&value[..value.len().min(4096)]).into_owned()))
        .collect();
    serde_json::to_string(&map).expect("texts are always JSON")
}
