//! How the embedded log keeps a record on disk. Version 1:
//!
//! | part | bytes |
//! |---|---|
//! | version | 1, always `01` |
//! | append time | 8, milliseconds since the Unix epoch, little endian, signed |
//! | key | varint length, bytes |
//! | headers | varint count; each: varint length, name (UTF-8), varint length, value |
//! | value | the rest |
//!
//! Varints are LEB128. Keys of the store: partition (4 bytes) and offset (8 bytes), big endian, so that they sort as they were written.
//! A change of this layout is a new version; old versions are read for ever.

use super::super::Append;
use super::super::batch::BatchBuilder;

const VERSION: u8 = 1;

pub(super) fn store_key(kafka_partition: i32, offset: i64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&kafka_partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in a key of the store.
pub(super) fn offset_of(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(key.get(4..12)?.try_into().ok()?))
}

/// Size of a record before encoding, for limits.
pub(super) fn size_of(record: &Append) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    record.key.len() + record.value.len() + headers + 16
}

pub(super) fn encode(record: &Append, append_time_ms: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of(record));
    out.push(VERSION);
    out.extend_from_slice(&append_time_ms.to_le_bytes());
    put(&mut out, &record.key);
    put_varint(&mut out, record.headers.len());
    for (name, value) in &record.headers {
        put(&mut out, name.as_bytes());
        put(&mut out, value);
    }
    out.extend_from_slice(&record.value);
    out
}

/// Adds the record to the batch; `None` when the bytes are not a record.
pub(super) fn decode(kafka_partition: i32, offset: i64, bytes: &[u8], batch: &mut BatchBuilder) -> Option<()> {
    let (&version, mut rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    let append_time_ms = i64::from_le_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let key = take_counted(&mut rest)?;
    let count = take_varint(&mut rest)?;
    let mut headers = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        let name = str::from_utf8(take_counted(&mut rest)?).ok()?;
        headers.push((name, take_counted(&mut rest)?));
    }
    batch.push(kafka_partition, offset, append_time_ms, Some(key), Some(rest));
    for (name, value) in headers {
        batch.header(name, value);
    }
    Some(())
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn take_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = take_varint(rest)?;
    take(rest, count)
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..usize::BITS - 7).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Version 1 as it is on disk; must never change.
    #[test]
    fn version_1_is_what_it_was() {
        let record = Append { key: "k".into(), value: "v1".into(), headers: vec![("h".into(), Bytes::from("x"))] };
        assert_eq!(hex::encode(encode(&record, 258)), "010201000000000000016b01016801787631");
    }

    #[test]
    fn keys_sort_by_partition_and_offset() {
        let keys = [(0, 0), (0, 1), (0, 255), (0, 256), (1, 0), (300, 7)].map(|(p, o)| store_key(p, o));
        assert!(keys.is_sorted());
        assert_eq!(offset_of(&keys[3]), Some(256));
    }

    proptest! {
        #[test]
        fn round_trip(key: Vec<u8>, value: Vec<u8>, headers: Vec<(String, Vec<u8>)>, time: i64, cut: prop::sample::Index) {
            let headers: Vec<_> = headers.into_iter().map(|(name, value)| (name.into(), Bytes::from(value))).collect();
            let record = Append { key: key.into(), value: value.into(), headers };
            let bytes = encode(&record, time);
            let mut batch = BatchBuilder::default();
            decode(1, 2, &bytes, &mut batch).expect("just encoded");
            let read = batch.finish().remove(0);
            prop_assert_eq!((read.key, read.value), (Some(record.key), Some(record.value)));
            prop_assert_eq!((read.headers, read.append_time_ms), (record.headers, time));
            // Damaged bytes are refused or read as something else, never a panic.
            let _ = decode(1, 2, &bytes[..cut.index(bytes.len())], &mut BatchBuilder::default());
        }
    }
}
