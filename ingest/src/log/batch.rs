//! Many records, one allocation: keys, values and header values of a batch are copied once into one buffer, and each record holds slices of it.
//!
//! A buffer lives as long as any of its records; a consumer that keeps single records for long (dead letters) should copy them.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::Record;
use crate::headers;

type Span = Range<u32>;

/// Collects records until [`BatchBuilder::finish`] turns them into [`Record`]s.
#[derive(Default)]
pub(super) struct BatchBuilder {
    buffer: Vec<u8>,
    rows: Vec<Row>,
    headers: Vec<(Span, Span)>,
}

struct Row {
    kafka_partition: i32,
    offset: i64,
    append_time_ms: i64,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
}

/// A buffer must be addressable by `u32`; a batch is cut far below.
const MAX_BYTES: usize = u32::MAX as usize / 2;

impl BatchBuilder {
    pub(super) fn with_capacity(bytes: usize, records: usize) -> Self {
        Self {
            buffer: Vec::with_capacity(bytes),
            rows: Vec::with_capacity(records),
            headers: Vec::with_capacity(records * 3),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of payload so far, without bookkeeping.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a record whose headers follow by [`Self::header`].
    ///
    /// # Panics
    /// When the batch has grown beyond 2 GiB; callers cut batches by size, and no log takes records that large.
    pub(super) fn push(
        &mut self,
        kafka_partition: i32,
        offset: i64,
        append_time_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let key = key.map(|key| self.copy(key));
        let value = value.map(|value| self.copy(value));
        let at = self.headers.len() as u32;
        self.rows.push(Row { kafka_partition, offset, append_time_ms, key, value, headers: at..at });
    }

    /// Adds a header to the last record.
    pub(super) fn header(&mut self, name: &str, value: &[u8]) {
        let name = self.copy(name.as_bytes());
        let value = self.copy(value);
        self.headers.push((name, value));
        self.rows.last_mut().expect("a header follows its record").headers.end += 1;
    }

    /// Forgets the headers of the last record.
    pub(super) fn clear_headers(&mut self) {
        let row = self.rows.last_mut().expect("a header follows its record");
        self.headers.truncate(row.headers.start as usize);
        row.headers.end = row.headers.start;
    }

    fn copy(&mut self, bytes: &[u8]) -> Span {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        assert!(self.buffer.len() <= MAX_BYTES, "batches are cut by size");
        start as u32..self.buffer.len() as u32
    }

    pub(super) fn finish(self) -> Vec<Record> {
        let buffer = Bytes::from(self.buffer);
        let slice = |span: &Span| buffer.slice(span.start as usize..span.end as usize);
        let name = |span: &Span| -> Cow<'static, str> {
            let bytes = &buffer[span.start as usize..span.end as usize];
            let known = headers::ALL.iter().find(|name| name.as_bytes() == bytes);
            known.map_or_else(|| str::from_utf8(bytes).expect("pushed as str").to_owned().into(), |name| (*name).into())
        };
        let spans = &self.headers;
        self.rows
            .into_iter()
            .map(|row| Record {
                kafka_partition: row.kafka_partition,
                offset: row.offset,
                key: row.key.as_ref().map(slice),
                value: row.value.as_ref().map(slice),
                headers: spans[row.headers.start as usize..row.headers.end as usize]
                    .iter()
                    .map(|(key, value)| (name(key), slice(value)))
                    .collect(),
                append_time_ms: row.append_time_ms,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut batch = BatchBuilder::with_capacity(0, 0);
        batch.push(3, 7, 11, Some(b"k"), None);
        batch.header("a", b"1");
        batch.header("a", b"");
        batch.push(4, 0, -1, None, Some(b""));
        batch.push(4, 1, -1, None, Some(b"v"));
        batch.header("gone", b"x");
        batch.clear_headers();
        assert_eq!((batch.len(), batch.bytes()), (3, 10));
        let records = batch.finish();
        assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(records[0].value, None);
        assert_eq!(records[0].headers, [("a".into(), Bytes::from("1")), ("a".into(), Bytes::new())]);
        assert_eq!((records[1].kafka_partition, records[1].offset, records[1].append_time_ms), (4, 0, -1));
        assert_eq!(records[1].value.as_deref(), Some(&b""[..]));
        assert!(records[2].headers.is_empty());
    }
    /// Not a bar: `cargo test --release -p daybook-ingest -- --ignored --nocapture measure_batch`.
    #[test]
    #[ignore = "a measurement"]
    fn measure_batch() {
        use std::io::Write as _;
        let (batches, records, value) = (100, 8192, vec![b'x'; 334]);
        let started = std::time::Instant::now();
        for _ in 0..batches {
            let mut batch = BatchBuilder::with_capacity(400 * records, records);
            for offset in 0..records {
                batch.push(0, offset as i64, 0, Some(b"acme/user-1"), Some(&value));
                batch.header("daybook-org", b"acme");
                batch.header("daybook-recorded-time", b"2026-01-01T00:00:00.000000Z");
                batch.header("daybook-vantage", b"client");
            }
            assert_eq!(std::hint::black_box(batch.finish()).len(), records);
        }
        let each = started.elapsed().as_nanos() / (batches * records) as u128;
        writeln!(std::io::stderr(), "copy into a batch, finish and drop: {each} ns a record").unwrap();
    }
}
