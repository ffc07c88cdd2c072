//! What fills up for the next flush: records are decoded, each asked for an event that has its id already, and kept in columns.
//!
//! | the same organisation, source and id stand | with the same payload | with another payload |
//! |---|---|---|
//! | nowhere that we know of | | an event |
//! | in the table | an event too: a client's retry, which rollups count once | a dead letter |
//! | in a batch that is not committed yet | likewise | held back until that batch is: it may be dropped |
//!
//! A dead letter for a conflict is therefore only ever written for a row that stands in the table for good.

use std::collections::{BTreeMap, btree_map::Entry};

use schemas::event::{Cause, Rejection, event_id_bytes};
use tokio::time::Instant;

use super::{
    avro::Plans,
    buffer::EventBuffer,
    dead_letters::DeadLetter,
    decode::decode_record,
    door::Door,
    known::{Identities, Key, Rows, key},
};
use crate::log::Record;

/// A further thread decodes where there are as many records for each.
const RECORDS_A_THREAD: usize = 1_024;

/// What is filling up for the next flush.
pub(super) struct Filling {
    /// One for each thread that decodes; all but the first are empty while records are few.
    pub(super) events: Vec<EventBuffer>,
    pub(super) dead_letters: Vec<DeadLetter>,
    dead_letter_bytes: usize,
    /// Offsets lost to retention: (partition, from, to).
    pub(super) gaps: Vec<(i32, i64, i64)>,
    /// When the first of it came.
    pub(super) since: Option<Instant>,
    /// What its events are known by.
    pub(super) identities: Identities,
    /// [`Rows::arrivals`] when the first of them was compared.
    pub(super) arrivals: Option<u64>,
}

/// What became of records.
#[derive(Default)]
pub(super) struct Sifted {
    /// Bytes of the values that were taken.
    pub(super) bytes: usize,
    /// Retries among the events, as far as we know.
    pub(super) copies: u64,
    /// Not taken: they wait for a batch to be committed.
    pub(super) held: Vec<Record>,
}

impl Filling {
    pub(super) fn new() -> Self {
        Self {
            events: Vec::new(),
            dead_letters: Vec::new(),
            dead_letter_bytes: 0,
            gaps: Vec::new(),
            since: None,
            identities: Identities::default(),
            arrivals: None,
        }
    }

    /// Empties itself; what fills next is likely to become as large.
    pub(super) fn take_all(&mut self) -> Self {
        let events = self.events.iter().map(EventBuffer::of_this_size).collect();
        let identities = Identities::with_capacity_and_hasher(self.identities.len(), Default::default());
        std::mem::replace(self, Self { events, identities, ..Self::new() })
    }

    /// Estimate of the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(EventBuffer::bytes).sum::<usize>() + self.dead_letter_bytes
    }

    /// Takes records in, up to the first that contradicts an event which may yet be dropped: one of these, or one of `in_flight`.
    pub(super) async fn take(
        &mut self,
        records: Vec<Record>,
        threads: usize,
        known: &super::known::Known,
        in_flight: &Identities,
        door: &Door,
        plans: &Plans,
    ) -> Sifted {
        self.since.get_or_insert_with(Instant::now);
        let decoded = self.decode(records, threads, door, plans).await;
        let mut sifted = Sifted::default();
        let rows = known.lock();
        self.arrivals.get_or_insert_with(|| rows.arrivals());
        for (at, (first_row, records)) in decoded.into_iter().enumerate() {
            let mut row = first_row;
            for (record, fate) in records {
                let this_row = row;
                row += usize::from(matches!(fate, Fate::Event { .. }));
                let verdict = match (&fate, sifted.held.is_empty()) {
                    (_, false) => Verdict::Held,
                    (Fate::Letter(_), true) => Verdict::New,
                    (Fate::Event { key, payload }, true) => self.judge(*key, *payload, &rows, in_flight),
                };
                let length = record.value.as_ref().map_or(0, |value| value.len());
                sifted.bytes += if matches!(verdict, Verdict::Held) { 0 } else { length };
                match (verdict, fate) {
                    (Verdict::New, Fate::Event { .. }) => {}
                    (Verdict::Copy, _) => sifted.copies += 1,
                    (Verdict::New, Fate::Letter(rejection)) => self.refuse(DeadLetter { record, rejection }),
                    (Verdict::Conflict, _) => {
                        self.events[at].discard(this_row);
                        let detail =
                            "another event has this organisation, source and id; an event takes an id of its own";
                        let rejection = Rejection::new(Cause::Conflict, Some("id"), detail);
                        self.refuse(DeadLetter { record, rejection });
                    }
                    (Verdict::Held, fate) => {
                        if matches!(fate, Fate::Event { .. }) {
                            self.events[at].discard(this_row);
                        }
                        sifted.held.push(record);
                    }
                }
            }
        }
        sifted
    }

    fn judge(&mut self, key: Key, payload: i64, known: &Rows, in_flight: &Identities) -> Verdict {
        if let Some(there) = known.payload(key) {
            return if there == payload { Verdict::Copy } else { Verdict::Conflict };
        }
        let there = in_flight.get(&key).or_else(|| self.identities.get(&key));
        match there {
            Some(there) if *there == payload => Verdict::Copy,
            Some(_) => Verdict::Held,
            None => {
                self.identities.insert(key, payload);
                Verdict::New
            }
        }
    }

    fn refuse(&mut self, mut letter: DeadLetter) {
        // Its bytes lie in one buffer with those of thousands of records, which it must not keep.
        letter.record.detach();
        self.dead_letter_bytes += letter.record.value.as_ref().map_or(0, |value| value.len()) + 512;
        self.dead_letters.push(letter);
    }

    /// Puts the events among `records` into the buffers, on several threads where there are many. Gives for each buffer its
    /// first new row and the records in their order; buffers follow each other in the order of the records.
    async fn decode(
        &mut self,
        mut records: Vec<Record>,
        threads: usize,
        door: &Door,
        plans: &Plans,
    ) -> Vec<(usize, Vec<(Record, Fate)>)> {
        // A simulation has one thread.
        let many_threads =
            tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
        let threads = if many_threads { threads.min(records.len() / RECORDS_A_THREAD).max(1) } else { 1 };
        let share = records.len().div_ceil(threads);
        let mut buffers = std::mem::take(&mut self.events);
        buffers.resize_with(threads.max(buffers.len()), EventBuffer::new);
        let idle = buffers.split_off(threads);
        let rest = if records.len() > share { records.split_off(share) } else { Vec::new() };
        let mut rest = rest.into_iter();
        let mut elsewhere = Vec::new();
        for buffer in buffers.drain(1..) {
            let part: Vec<Record> = rest.by_ref().take(share).collect();
            let (door, plans) = (door.clone(), plans.clone());
            elsewhere.push(tokio::task::spawn_blocking(move || decode_all(part, buffer, &door, &plans)));
        }
        let here = buffers.pop().map(|buffer| decode_all(records, buffer, door, plans));
        let mut decoded: Vec<_> = here.into_iter().collect();
        for part in elsewhere {
            decoded.push(part.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic())));
        }
        let mut outcome = Vec::with_capacity(decoded.len());
        for (buffer, first_row, records) in decoded {
            self.events.push(buffer);
            outcome.push((first_row, records));
        }
        self.events.extend(idle);
        outcome
    }
}

/// What a record is by itself.
enum Fate {
    /// The buffer's next row.
    Event {
        key: Key,
        payload: i64,
    },
    Letter(Rejection),
}

/// What it is beside others.
enum Verdict {
    New,
    Copy,
    Conflict,
    Held,
}

/// Puts the records that are events into `buffer`; gives it back, with its first new row and what each record is.
fn decode_all(
    records: Vec<Record>,
    mut buffer: EventBuffer,
    door: &Door,
    plans: &Plans,
) -> (EventBuffer, usize, Vec<(Record, Fate)>) {
    let first_row = buffer.rows();
    let records = records.into_iter().map(|record| {
        let fate = match decode_record(&record, door, plans) {
            Ok((origin, event)) => {
                let (uuid, text) = event_id_bytes(&event.id);
                let id = text.as_deref().unwrap_or(&uuid);
                buffer.push(&record, &origin, &event, id);
                let key = key(origin.org, &event.source, id);
                Fate::Event { key, payload: event.payload_hash }
            }
            Err(rejection) => Fate::Letter(rejection),
        };
        (record, fate)
    });
    let records = records.collect();
    (buffer, first_row, records)
}

/// The first offset of each partition in `records`, which ascend in each.
pub(super) fn first_offsets(records: &[Record]) -> BTreeMap<i32, i64> {
    let mut first = BTreeMap::new();
    for record in records {
        if let Entry::Vacant(entry) = first.entry(record.kafka_partition) {
            entry.insert(record.offset);
        }
    }
    first
}
