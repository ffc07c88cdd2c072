//! Columns of measures, growing; and sums cut to what a column holds.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Decimal128Builder, Int64Builder},
    datatypes::DataType,
};
use schemas::{ColumnType, rollup::MeasureType};

/// Greatest absolute value of a `decimal(20,6)`, in its smallest unit.
pub(crate) const DECIMAL_MAX: i128 = 10_i128.pow(20) - 1;

enum Builder {
    Int(Int64Builder),
    Decimal(Decimal128Builder),
}

/// Grows columns of measures, row by row.
pub(crate) struct Values {
    builders: Vec<Builder>,
    /// Values that did not fit their column.
    pub(crate) saturated: u64,
}

impl Values {
    /// Columns of these types.
    pub(crate) fn new(types: impl Iterator<Item = MeasureType>) -> Self {
        let builders = types.map(|measure_type| match measure_type {
            MeasureType::Int => Builder::Int(Int64Builder::new()),
            MeasureType::Decimal => Builder::Decimal(decimal_builder()),
        });
        Self { builders: builders.collect(), saturated: 0 }
    }

    /// Adds a value to a column, in units of its own scale.
    pub(crate) fn push(&mut self, column: usize, value: Option<i128>) {
        let saturated = &mut self.saturated;
        match &mut self.builders[column] {
            Builder::Int(builder) => builder.append_option(value.map(|value| int(value, saturated))),
            Builder::Decimal(builder) => builder.append_option(value.map(|value| decimal(value, saturated))),
        }
    }

    /// The columns.
    pub(crate) fn finish(self) -> impl Iterator<Item = ArrayRef> {
        self.builders.into_iter().map(|builder| match builder {
            Builder::Int(mut builder) => Arc::new(builder.finish()) as ArrayRef,
            Builder::Decimal(mut builder) => Arc::new(builder.finish()),
        })
    }
}

/// The value, or the nearest that fits; then one more in `saturated`.
pub(crate) fn int(value: i128, saturated: &mut u64) -> i64 {
    let fits = value.clamp(i64::MIN.into(), i64::MAX.into());
    *saturated += u64::from(fits != value);
    i64::try_from(fits).expect("clamped")
}

/// As [`int`], for a decimal in its smallest unit.
pub(crate) fn decimal(value: i128, saturated: &mut u64) -> i128 {
    let fits = value.clamp(-DECIMAL_MAX, DECIMAL_MAX);
    *saturated += u64::from(fits != value);
    fits
}

pub(crate) fn decimal_builder() -> Decimal128Builder {
    let kind: DataType = ColumnType::Decimal.arrow();
    Decimal128Builder::new().with_data_type(kind)
}
