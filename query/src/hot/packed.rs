//! A file's rows, packed: each column as its distinct values and, for each row, which of them.
//!
//! Most numbers of a person's day are small, and many are the same for everyone: a row of some 80 columns takes a tenth of what it takes as Arrow arrays.

use std::{cmp::Ordering, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array},
    buffer::NullBuffer,
    compute::{cast, interleave},
    datatypes::{DataType, Date32Type, Int64Type, SchemaRef, UInt8Type, UInt16Type},
    error::ArrowError,
};

/// A value of a column that rows are searched by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value<'a> {
    Number(i64),
    Text(&'a str),
}

/// A column.
pub(super) struct Column {
    which: Which,
    /// Rows that have a value; `None` = all.
    valid: Option<NullBuffer>,
    values: ArrayRef,
}

/// The place of each row's value.
enum Which {
    /// Each row has its own.
    Own,
    /// All rows have the first.
    First,
    Byte(Vec<u8>),
    Short(Vec<u16>),
}

impl Column {
    fn pack(array: &ArrayRef) -> Self {
        let packed = |key: DataType| {
            let kind = DataType::Dictionary(Box::new(key), Box::new(array.data_type().clone()));
            cast(array, &kind).ok()
        };
        let valid = array.nulls().cloned();
        if let Some(packed) = packed(DataType::UInt8) {
            let packed = packed.as_dictionary::<UInt8Type>();
            let keys = packed.keys().values().to_vec();
            let which = if packed.values().len() == 1 { Which::First } else { Which::Byte(keys) };
            return Self { which, valid, values: fitted(packed.values()) };
        }
        if let Some(packed) = packed(DataType::UInt16) {
            let packed = packed.as_dictionary::<UInt16Type>();
            let which = Which::Short(packed.keys().values().to_vec());
            return Self { which, valid, values: fitted(packed.values()) };
        }
        Self { which: Which::Own, valid: None, values: fitted(array) }
    }

    fn place(&self, row: usize) -> usize {
        match &self.which {
            Which::Own => row,
            Which::First => 0,
            Which::Byte(places) => places[row].into(),
            Which::Short(places) => places[row].into(),
        }
    }

    /// Whether its values can be compared: of a type that keys have, and none missing.
    pub(super) fn is_key(&self) -> bool {
        let is_known = matches!(self.values.data_type(), DataType::Utf8View | DataType::Int64 | DataType::Date32);
        is_known && self.values.null_count() == 0 && self.valid.as_ref().is_none_or(|valid| valid.null_count() == 0)
    }

    /// A row's value, of a column that [`Self::is_key`].
    pub(super) fn value(&self, row: usize) -> Value<'_> {
        let place = self.place(row);
        match self.values.data_type() {
            DataType::Int64 => Value::Number(self.values.as_primitive::<Int64Type>().value(place)),
            DataType::Date32 => Value::Number(self.values.as_primitive::<Date32Type>().value(place).into()),
            _ => Value::Text(self.values.as_string_view().value(place)),
        }
    }

    /// The rows of `range`, over which the values ascend, that have `wanted`.
    pub(super) fn equal(&self, range: Range<usize>, wanted: Value<'_>) -> Range<usize> {
        let start = search(range.clone(), |row| self.value(row) < wanted);
        start..search(start..range.end, |row| self.value(row) <= wanted)
    }

    fn bytes(&self) -> usize {
        let which = match &self.which {
            Which::Own | Which::First => 0,
            Which::Byte(places) => places.len(),
            Which::Short(places) => 2 * places.len(),
        };
        which + self.valid.as_ref().map_or(0, |valid| valid.len() / 8) + self.values.get_array_memory_size()
    }
}

/// The same values in as much memory as they need: arrays have room to grow, and texts lie in pages of the file.
fn fitted(values: &ArrayRef) -> ArrayRef {
    if let Some(texts) = values.as_string_view_opt() {
        return Arc::new(texts.gc());
    }
    let all: Vec<_> = (0..values.len()).map(|row| (0, row)).collect();
    interleave(&[values.as_ref()], &all).unwrap_or_else(|_| values.clone())
}

/// The first row of `range` for which `is_before` does not hold; it holds for a beginning of the range.
pub(super) fn search(range: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The order of two keys.
pub(super) fn order<'a>(one: impl Iterator<Item = Value<'a>>, other: impl Iterator<Item = Value<'a>>) -> Ordering {
    one.zip(other).map(|(one, other)| one.cmp(&other)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The rows of a file.
pub(crate) struct Rows {
    columns: Vec<Column>,
    schema: SchemaRef,
    count: usize,
}

impl Rows {
    pub(super) fn pack(batch: &RecordBatch) -> Self {
        let columns = batch.columns().iter().map(Column::pack).collect();
        Self { columns, schema: batch.schema(), count: batch.num_rows() }
    }

    pub(super) fn all(&self) -> Range<usize> {
        0..self.count
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(self.schema.index_of(name).ok()?)
    }

    /// These columns, in order; `None` where one is not there.
    pub(super) fn columns(&self, names: &[&str]) -> Option<Vec<&Column>> {
        names.iter().map(|name| self.column(name)).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }
}

/// The rows `picked` (file and row) of `files`, as one batch of the columns at `places`, whose schema is `schema`.
pub(super) fn gather(
    files: &[&Rows],
    picked: &[(usize, usize)],
    places: &[usize],
    schema: SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    if picked.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let nothing = (files.len(), 0);
    let mut at = Vec::with_capacity(picked.len());
    let columns = places.iter().zip(schema.fields()).map(|(place, field)| {
        let columns: Vec<&Column> = files.iter().map(|file| &file.columns[*place]).collect();
        let is_missing = columns.iter().any(|column| column.valid.is_some());
        let null = is_missing.then(|| new_null_array(field.data_type(), 1));
        let values = columns.iter().map(|column| &column.values).chain(&null);
        let values: Vec<&dyn Array> = values.map(|values| values.as_ref()).collect();
        at.clear();
        at.extend(picked.iter().map(|(file, row)| match &columns[*file].valid {
            Some(valid) if valid.is_null(*row) => nothing,
            _ => (*file, columns[*file].place(*row)),
        }));
        interleave(&values, &at)
    });
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{BooleanArray, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array},
        compute::take_record_batch,
        datatypes::{Field, Schema},
    };

    use super::*;

    /// `rows` rows with so many different values in each column, and with nulls in all but the last.
    fn batch(rows: i64, different: i64, salt: i64) -> RecordBatch {
        let number = |row: i64| (row * 7 + salt) % different;
        let known = |row: i64| ((row + salt) % 5 != 0).then(|| number(row));
        let texts: StringArray =
            (0..rows).map(|row| known(row).map(|n| format!("a text of some length {n}"))).collect();
        let decimals: Decimal128Array = (0..rows).map(|row| known(row).map(i128::from)).collect();
        let times: TimestampMicrosecondArray = (0..rows).map(known).collect();
        let columns: Vec<ArrayRef> = vec![
            cast(&texts, &DataType::Utf8View).expect("text"),
            Arc::new((0..rows).map(known).collect::<Int64Array>()),
            Arc::new(decimals.with_precision_and_scale(20, 6).expect("fits")),
            Arc::new(times.with_timezone("UTC")),
            Arc::new((0..rows).map(|row| known(row).map(|n| n % 2 == 0)).collect::<BooleanArray>()),
            Arc::new((0..rows).map(number).collect::<Int64Array>()),
        ];
        let field = |(at, column): (usize, &ArrayRef)| Field::new(at.to_string(), column.data_type().clone(), true);
        let schema = Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length")
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        for different in [1, 2, 256, 257, 65_536, 65_537, 100_000] {
            let batches = [batch(1000, different, 1), batch(150_000, different, 2), batch(1, different, 0)];
            let packed: Vec<Rows> = batches.iter().map(Rows::pack).collect();
            let picked: Vec<(usize, usize)> = (0..3000)
                .map(|at| (at % 2, at * 37 % if at % 2 == 0 { 1000 } else { 150_000 }))
                .chain([(2, 0)])
                .collect();
            let places = [4, 0, 1, 2, 3, 5];
            let schema = Arc::new(batches[0].schema().project(&places).expect("its columns"));
            let got = gather(&packed.iter().collect::<Vec<_>>(), &picked, &places, schema).expect("gathered");
            for (at, (file, row)) in picked.iter().enumerate() {
                let row = UInt32Array::from(vec![u32::try_from(*row).expect("small")]);
                let row = take_record_batch(&batches[*file], &row).and_then(|row| row.project(&places)).expect("a row");
                assert_eq!(got.slice(at, 1), row, "row {at} of {different} different values");
            }
        }
    }

    #[test]
    fn few_values_take_few_bytes() {
        let rows = batch(100_000, 200, 1);
        let (packed, plain) = (Rows::pack(&rows).bytes(), rows.get_array_memory_size());
        assert!(packed * 5 < plain, "{packed} bytes packed, {plain} as they were");
    }
}
