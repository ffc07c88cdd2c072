//! The pure parts of the worker; its whole is tested by the simulation in `e2e`.

use std::{collections::BTreeMap, sync::LazyLock};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type, TimestampMicrosecondType},
};
use bytes::Bytes;
use proptest::prelude::*;
use schemas::event::{Cause, event_id_bytes};

use super::{
    avro::Plans,
    buffer::EventBuffer,
    dead_letters::{self, DeadLetter, MAX_KEPT_BYTES},
    decode::decode_record,
    door::Door,
};
use crate::{headers, log::Record};

/// Of a log without Avro.
fn no_plans() -> &'static Plans {
    static NONE: LazyLock<Plans> = LazyLock::new(Plans::default);
    &NONE
}

fn record(offset: i64, org: &str, value: impl Into<Bytes>) -> Record {
    Record {
        kafka_partition: 3,
        offset,
        key: Some("key".into()),
        value: Some(value.into()),
        headers: vec![
            (headers::ORG.into(), Bytes::copy_from_slice(org.as_bytes())),
            (headers::RECORDED_TIME.into(), "2026-03-05T00:00:00Z".into()),
            (headers::VANTAGE.into(), "otlp".into()),
        ],
        append_time_ms: 1_772_668_800_000,
    }
}

fn event(id: &str, user: &str, client: &str, time: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"dev.daybook.model.completed.v1","time":"{time}","subject":"{user}","clienttype":"{client}","data":{{"status":"success","input_tokens":5,"input_includes_cached":true}}}}"#
    )
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<String> {
    let array = cast(batch.column_by_name(name).expect("there"), &DataType::Utf8).expect("text");
    array.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever goes in comes out once, cut by day, sorted by the table's columns; a buffer can be used again.
    #[test]
    fn the_buffer_sorts_and_loses_nothing(
        rows in prop::collection::vec((0..3_usize, 0..4_usize, 0..3_usize, 0..200_000_u32), 0..60),
        rounds in 1..3_usize,
    ) {
        let mut buffer = EventBuffer::new();
        for _ in 0..rounds {
            for (offset, (org, user, client, seconds)) in rows.iter().enumerate() {
                let time = jiff::Timestamp::from_second(1_772_000_000 + i64::from(*seconds)).expect("a time").to_string();
                let org = ["a", "ab", "b"][*org];
                let text = event(&format!("e{offset}"), ["u1", "u10", "u2", "ü"][*user], ["cli", "ide", "odd"][*client], &time);
                let record = record(offset as i64, org, text);
                let (origin, event) = decode_record(&record, &Door::Open, no_plans()).expect("an event");
                buffer.push(&record, &origin, &event, event.id.as_bytes());
            }
            prop_assert_eq!(buffer.rows(), rows.len());
            let batches = buffer.take();
            prop_assert_eq!((buffer.rows(), buffer.bytes()), (0, 0));
            let mut seen = Vec::new();
            for (day, batch) in &batches {
                let keys: Vec<_> = texts(batch, "org_id").into_iter().zip(texts(batch, "user_key")).zip(texts(batch, "client_type"))
                    .zip(batch.column_by_name("event_time").expect("there").as_primitive::<TimestampMicrosecondType>().values().to_vec()).collect();
                prop_assert!(keys.is_sorted());
                for (_, time) in &keys {
                    let date = jiff::Timestamp::from_microsecond(*time).expect("a time").to_zoned(jiff::tz::TimeZone::UTC).date();
                    prop_assert_eq!(date, *day);
                }
                seen.extend(batch.column_by_name("log_offset").expect("there").as_primitive::<Int64Type>().values().to_vec());
                prop_assert_eq!(batch.column_by_name("input_tokens").expect("there").null_count(), 0);
                prop_assert_eq!(batch.column_by_name("output_tokens").expect("there").null_count(), batch.num_rows());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..rows.len() as i64).collect::<Vec<_>>());
            prop_assert!(batches.is_sorted_by_key(|(day, _)| *day));
        }
    }
}

#[test]
fn a_record_without_an_organisation_is_a_dead_letter_whatever_it_holds() {
    let good = event("e", "u", "cli", "2026-03-04T00:00:00Z");
    for org in ["", "Not An Org", "../x"] {
        let record = record(0, org, good.clone());
        assert_eq!(decode_record(&record, &Door::Open, no_plans()).expect_err("refused").cause, Cause::NoOrganisation);
    }
    let mut record = record(0, "acme", good);
    record.value = None;
    assert_eq!(decode_record(&record, &Door::Open, no_plans()).expect_err("refused").cause, Cause::NotJson);
}

#[test]
fn the_server_clock_decides_what_is_the_future() {
    let late = record(0, "acme", event("e", "u", "cli", "2026-03-06T00:00:00Z"));
    assert!(decode_record(&late, &Door::Open, no_plans()).is_ok(), "a day ahead is within the tolerance");
    let later = record(0, "acme", event("e", "u", "cli", "2026-03-06T00:00:01Z"));
    assert_eq!(decode_record(&later, &Door::Open, no_plans()).expect_err("refused").cause, Cause::FutureTime);
    let mut by_log = record(0, "acme", event("e", "u", "cli", "2026-03-06T00:00:01Z"));
    by_log.headers.remove(1);
    by_log.append_time_ms += 86_400_000;
    assert!(decode_record(&by_log, &Door::Open, no_plans()).is_ok(), "without the collector's time the log's counts");
}

#[test]
fn dead_letters_keep_cause_origin_and_bytes() {
    let mut huge = record(9, "acme", vec![0xff; MAX_KEPT_BYTES + 5]);
    huge.headers[1].1 = "9999999-01-01T00:00:00Z".into();
    let records = [record(8, "acme", "{"), record(7, "acme", vec![0xff]), huge];
    let letters: Vec<DeadLetter> = records
        .into_iter()
        .map(|record| DeadLetter {
            rejection: decode_record(&record, &Door::Open, no_plans()).expect_err("refused"),
            record,
        })
        .collect();
    let batches = dead_letters::batches("topic", &letters.iter().collect::<Vec<_>>());
    let all: BTreeMap<i64, (String, i64, usize)> = batches
        .iter()
        .flat_map(|(_, batch)| {
            let offsets =
                batch.column_by_name("log_offset").expect("there").as_primitive::<Int64Type>().values().to_vec();
            let lengths =
                batch.column_by_name("value_bytes").expect("there").as_primitive::<Int64Type>().values().to_vec();
            let values = batch.column_by_name("record_value").expect("there").as_binary::<i32>().clone();
            let causes = texts(batch, "cause");
            (0..batch.num_rows())
                .map(move |row| (offsets[row], (causes[row].clone(), lengths[row], values.value(row).len())))
        })
        .collect();
    assert_eq!(all[&7], ("not_utf8".into(), 1, 1));
    assert_eq!(all[&8], ("not_json".into(), 1, 1));
    assert_eq!(all[&9], ("too_large".into(), MAX_KEPT_BYTES as i64 + 5, MAX_KEPT_BYTES));
    assert!(batches.iter().all(|(_, batch)| texts(batch, "topic").iter().all(|topic| topic == "topic")));
}

/// Not a bar: `daybook generate --events 200000 --out FILE`, then
/// `EVENTS=FILE cargo test --release -p daybook-ingest -- --ignored --nocapture measure_stages`.
#[test]
#[ignore = "a measurement"]
fn measure_stages() {
    use std::{io::Write as _, time::Instant};
    let text = std::fs::read(std::env::var_os("EVENTS").expect("EVENTS names a file")).expect("readable");
    let records: Vec<Record> = text
        .split(|byte| *byte == b'\n')
        .enumerate()
        .map(|(at, line)| record(at as i64, "acme", line.to_vec()))
        .collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lake = lake::Lake::open("memory://", &[]).expect("a lake");
    let table = lake.table(&schemas::EVENTS);
    let mut out = std::io::stderr();
    for _ in 0..3 {
        let each = |started: Instant| started.elapsed().as_nanos() / records.len() as u128;
        let started = Instant::now();
        let events = records.iter().filter(|record| decode_record(record, &Door::Open, no_plans()).is_ok()).count();
        let decode = each(started);
        let mut buffer = EventBuffer::new();
        let started = Instant::now();
        for record in &records {
            if let Ok((origin, event)) = decode_record(record, &Door::Open, no_plans()) {
                let (uuid, text) = event_id_bytes(&event.id);
                buffer.push(record, &origin, &event, text.as_deref().unwrap_or(&uuid));
            }
        }
        let push = each(started) - decode;
        let started = Instant::now();
        let days = buffer.take();
        let take = each(started);
        let started = Instant::now();
        let mut bytes = 0;
        for (day, rows) in &days {
            let rows = std::slice::from_ref(rows);
            bytes += runtime.block_on(table.write_file(Some(*day), rows)).expect("written").size_bytes;
        }
        let write = each(started);
        writeln!(
            out,
            "{events} events in {} files of {bytes} bytes; ns each: decode {decode}, push {push}, sort {take}, write {write}",
            days.len()
        )
        .unwrap();
    }
}
