//! What is known so far of one row of the rollup. Nothing here allocates per event: sets and texts keep their memory when an
//! accumulator is used again for the next row.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use arrow::array::Array;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    cells::Cells,
    columns::Columns,
    program::{Action, Program, Programs},
};

/// A set larger than this gives its memory back after use.
const KEPT_SET: usize = 4096;

/// Hash of keys that are hashes.
#[derive(Default)]
pub(crate) struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        // Either half is a good hash.
        self.0 ^= value as u64;
    }

    fn write_u32(&mut self, value: u32) {
        self.0 ^= u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type ById<V> = HashMap<u128, V, BuildHasherDefault<Unhashed>>;

/// A set of texts, each kept as 128 bits: two of a million texts fall together with a chance of 1 in 10^27.
#[derive(Default)]
struct Texts {
    last: u128,
    set: HashSet<u128, BuildHasherDefault<Unhashed>>,
}

impl Texts {
    /// Ids come in runs (all events of a session): mostly this is one comparison.
    #[inline]
    fn insert(&mut self, text: &str) {
        let id = xxh3_128(text.as_bytes());
        if id != self.last || self.set.is_empty() {
            self.last = id;
            self.set.insert(id);
        }
    }

    fn clear(&mut self) {
        if self.set.capacity() > KEPT_SET {
            *self = Self::default();
        }
        self.set.clear();
    }
}

/// Sequence numbers of one installation.
#[derive(Clone, Copy)]
struct Span {
    min: i64,
    max: i64,
}

/// One row of the rollup, growing. Events come in the order of their time.
#[derive(Default)]
pub(crate) struct Accumulator {
    /// Index of the day in the pass.
    pub(crate) day: usize,
    pub(crate) product: String,
    pub(crate) client_type: String,
    pub(crate) received: i64,
    pub(crate) late: i64,
    pub(crate) duplicates: i64,
    pub(crate) first_us: i64,
    pub(crate) last_us: i64,
    pub(crate) active_minutes: i64,
    /// Events that carry installation and sequence.
    pub(crate) with_sequence: i64,
    /// Families seen in events, or that the client says it reports.
    pub(crate) families: u64,
    /// Sums and counts by measure. Wider than any column, so that no order of events and no number of them overflows.
    pub(crate) sums: Vec<i128>,
    /// Of some measures, what each model, tool, … has of them.
    pub(crate) cells: Cells,
    sets: Vec<Texts>,
    installs: ById<Span>,
}

impl Accumulator {
    /// Empties it for the next row.
    pub(crate) fn reset(&mut self, programs: &Programs, day: usize, product: &str, client_type: &str) {
        self.day = day;
        self.product.clear();
        self.product.push_str(product);
        self.client_type.clear();
        self.client_type.push_str(client_type);
        (self.received, self.late, self.duplicates, self.active_minutes, self.with_sequence) = (0, 0, 0, 0, 0);
        self.families = 0;
        self.sums.clear();
        self.sums.resize(programs.outputs.len(), 0);
        self.cells.clear();
        self.sets.resize_with(programs.sets, Texts::default);
        self.sets.iter_mut().for_each(Texts::clear);
        if self.installs.capacity() > KEPT_SET {
            self.installs = ById::default();
        }
        self.installs.clear();
    }

    /// Counts one event; `copies` more of it were removed.
    #[inline]
    pub(crate) fn event(
        &mut self,
        programs: &Programs,
        program: &Program,
        columns: &Columns,
        row: usize,
        day_end_us: i64,
        copies: i64,
    ) {
        let time = columns.event_time[row];
        if self.received == 0 {
            self.first_us = time;
            self.active_minutes = 1;
        } else if time.div_euclid(60_000_000) != self.last_us.div_euclid(60_000_000) {
            self.active_minutes += 1;
        }
        self.last_us = time;
        self.received += 1;
        self.duplicates += copies;
        self.late += i64::from(columns.recorded_time[row] >= day_end_us);
        self.families |= program.family;
        if program.is_status && columns.reports.is_valid(row) {
            self.families |= programs.family_bits(columns.reports.value(row));
        }
        if columns.sequence.is_valid(row) && columns.install_id.is_valid(row) {
            self.sequence(columns.install_id.value(row), columns.sequence.value(row));
        }
        for step in &program.steps {
            if !step.applies(columns, row) {
                continue;
            }
            let value = match step.action {
                Action::Count => 1,
                Action::Sum { number, scale } => columns.numbers[number].get(row).map_or(0, |value| value * scale),
                Action::Distinct { set, text } => {
                    let column = &columns.texts[text];
                    if column.is_valid(row) {
                        self.sets[set].insert(column.value(row));
                    }
                    continue;
                }
            };
            self.sums[step.measure] += value;
            for part in &step.parts {
                self.cells.of(programs, &program.fed[part.fed], columns, row).sums[part.measure] += value;
            }
        }
    }

    fn sequence(&mut self, install: &str, sequence: i64) {
        self.with_sequence += 1;
        let fresh = Span { min: sequence, max: sequence };
        let span = self.installs.entry(xxh3_128(install.as_bytes())).or_insert(fresh);
        span.min = span.min.min(sequence);
        span.max = span.max.max(sequence);
    }

    /// Events that the sequence numbers span; `None` where there were none.
    pub(crate) fn expected(&self) -> Option<i128> {
        let span = |span: &Span| i128::from(span.max) - i128::from(span.min) + 1;
        (self.with_sequence > 0).then(|| self.installs.values().map(span).sum())
    }

    /// Number of distinct values of a set.
    pub(crate) fn distinct(&self, set: usize) -> i128 {
        self.sets[set].set.len() as i128
    }
}
