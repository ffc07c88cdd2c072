//! Rows of breakdowns: the parts of a row of the rollup by model, by tool, by feature, by language.
//!
//! An event of a type that feeds a breakdown names its cell by some text columns. Mostly it is the cell of the event before, which equal views
//! of the columns tell.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder};
use schemas::{TableSpec, breakdown};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    accumulator::{Accumulator, Unhashed},
    columns::{Columns, UNKNOWN},
    program::{Fed, Programs},
    values::Values,
};

/// A row of a breakdown, growing.
pub(crate) struct Cell {
    /// Index of the breakdown.
    breakdown: usize,
    key: Vec<String>,
    /// By measure of the breakdown.
    pub(crate) sums: Vec<i128>,
}

/// Batch, and for each column of the key which it is and the view of its text.
type Seen = (u64, Vec<Option<(usize, u128)>>);

/// The cells of one row of the rollup.
#[derive(Default)]
pub(crate) struct Cells {
    all: Vec<Cell>,
    by_key: HashMap<(u128, u32), usize, BuildHasherDefault<Unhashed>>,
    /// By breakdown: what its latest cell was looked up for.
    latest: Vec<(Seen, usize)>,
    key: Vec<u8>,
}

impl Cells {
    /// Empties it for the next row.
    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.by_key.clear();
        for ((batch, _), _) in &mut self.latest {
            *batch = 0;
        }
    }

    /// The cell of an event.
    pub(crate) fn of(&mut self, programs: &Programs, fed: &Fed, columns: &Columns, row: usize) -> &mut Cell {
        // Batches are numbered from 1 on: 0 is none.
        self.latest.resize_with(programs.breakdowns.len(), || ((0, Vec::new()), 0));
        let named = |texts: &Vec<usize>| texts.iter().copied().find(|text| columns.texts[*text].is_valid(row));
        let seen = |texts: &Vec<usize>| named(texts).map(|text| (text, columns.texts[text].views()[row]));
        let ((batch, views), latest) = &mut self.latest[fed.breakdown];
        let is_same = *batch == columns.batch && fed.keys.iter().map(seen).eq(views.iter().copied());
        if !is_same {
            *batch = columns.batch;
            views.clear();
            views.extend(fed.keys.iter().map(seen));
            let value = |texts: &Vec<usize>| named(texts).map_or(UNKNOWN, |text| columns.texts[text].value(row));
            self.key.clear();
            for text in fed.keys.iter().map(value) {
                // The length first, so that no text's end can pass for the next one's beginning.
                self.key.extend_from_slice(&(text.len() as u64).to_le_bytes());
                self.key.extend_from_slice(text.as_bytes());
            }
            let breakdown = u32::try_from(fed.breakdown).expect("there are few breakdowns");
            *latest = *self.by_key.entry((xxh3_128(&self.key), breakdown)).or_insert_with(|| {
                let key = fed.keys.iter().map(|texts| value(texts).to_owned()).collect();
                let sums = vec![0; programs.breakdowns[fed.breakdown].len()];
                self.all.push(Cell { breakdown: fed.breakdown, key, sums });
                self.all.len() - 1
            });
        }
        &mut self.all[*latest]
    }
}

/// Grows the rows of a breakdown of one activity date.
pub(crate) struct CellBuilder {
    spec: &'static TableSpec,
    texts: Vec<StringBuilder>,
    values: Values,
}

impl CellBuilder {
    /// One for each breakdown.
    pub(crate) fn all(programs: &Programs) -> Vec<Self> {
        let builder = |(measures, spec): (&Vec<usize>, &'static TableSpec)| Self {
            spec,
            texts: spec.sort_columns.iter().map(|_| StringBuilder::new()).collect(),
            values: Values::new(measures.iter().map(|measure| programs.outputs[*measure].measure_type)),
        };
        programs.breakdowns.iter().zip(breakdown::specs()).map(builder).collect()
    }

    /// Adds the cells of a row of the rollup, sorted, each to the builder of its breakdown. Rows come in the order of the rollup.
    pub(crate) fn push(
        builders: &mut [Self],
        programs: &Programs,
        org: &str,
        user: &str,
        families: u64,
        row: &Accumulator,
    ) {
        let mut cells: Vec<&Cell> = row.cells.all.iter().collect();
        cells.sort_unstable_by(|a, b| (a.breakdown, &a.key).cmp(&(b.breakdown, &b.key)));
        for cell in cells {
            let builder = &mut builders[cell.breakdown];
            let shared = [org, user, &row.product, &row.client_type];
            let texts = shared.into_iter().chain(cell.key.iter().map(String::as_str));
            builder.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_value(text));
            for (column, (sum, measure)) in cell.sums.iter().zip(&programs.breakdowns[cell.breakdown]).enumerate() {
                let is_known = programs.outputs[*measure].families & families != 0;
                builder.values.push(column, is_known.then_some(*sum));
            }
        }
    }

    /// The rows, in the order of the table's sort columns, with all of its columns but the partition column; and how many values were cut.
    pub(crate) fn finish(self) -> (RecordBatch, u64) {
        let saturated = self.values.saturated;
        let texts = self.texts.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
        let columns = texts.chain(self.values.finish()).collect();
        let rows = RecordBatch::try_new(self.spec.file_schema(), columns);
        (rows.expect("columns of one length, of the schema's types"), saturated)
    }
}
