//! A file's rows, packed: each column as its distinct values and, for each row, which of them.
//!
//! ```text
//!   distinct values, also as JSON             rows: the places of their values, side by side
//!   product     kiro | copilot                [0 2 1 …] [0 0 1 …] [1 0 0 …]
//!   prompts     0 | 3 | 17 | null
//!   input_tokens …
//! ```
//!
//! Most numbers of a person's day are small, and many are the same for everyone: a row takes a third of what it takes as Arrow arrays. A
//! row's places lie together because one person's rows are read across all columns: a column's own vector would be a cache miss for each.

use std::{cmp::Ordering, collections::BTreeSet, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array},
    compute::{SortOptions, cast, concat, interleave, sort_to_indices, take},
    datatypes::{
        ArrowDictionaryKeyType, ArrowNativeType, DataType, Date32Type, Int64Type, SchemaRef, UInt8Type, UInt16Type,
        UInt32Type,
    },
};

use crate::{Result, Texts};

/// A value of a column that rows are searched by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value<'a> {
    Number(i64),
    Text(&'a str),
}

/// The distinct values of a column, null among them. Texts ascend: rows are searched by the places of their texts, which lie closer together.
struct Values {
    values: ArrayRef,
    /// As JSON.
    texts: Texts,
    which: Which,
}

/// Where a row has the place of its value.
#[derive(Clone, Copy)]
enum Which {
    /// Nowhere: all have the first.
    First,
    /// Among its bytes.
    Byte(usize),
    /// Among its short integers.
    Short(usize),
    /// Among its long ones.
    Long(usize),
}

/// Places of all rows, those of a row side by side.
struct Places<T> {
    width: usize,
    places: Vec<T>,
}

impl<T: Copy + Default> Places<T> {
    /// Of columns, each with a place for each of `rows`.
    fn of(columns: &[Vec<T>], rows: usize) -> Self {
        let mut places = vec![T::default(); columns.len() * rows];
        for (at, column) in columns.iter().enumerate() {
            for (row, place) in column.iter().enumerate() {
                places[row * columns.len() + at] = *place;
            }
        }
        Self { width: columns.len(), places }
    }

    fn at(&self, row: usize, column: usize) -> T {
        self.places[row * self.width + column]
    }

    fn size(&self) -> usize {
        self.places.capacity() * size_of::<T>()
    }
}

/// Distinct values of `array`, and the place of each row's; `None` where there are more than the type of places can tell apart.
fn distinct<K: ArrowDictionaryKeyType>(array: &ArrayRef) -> Option<(ArrayRef, Vec<K::Native>)> {
    let kind = DataType::Dictionary(Box::new(K::DATA_TYPE), Box::new(array.data_type().clone()));
    let packed = cast(array, &kind).ok()?;
    let packed = packed.as_dictionary::<K>();
    let nothing = K::Native::from_usize(packed.values().len());
    let (values, mut places): (_, Vec<K::Native>) = if packed.null_count() == 0 {
        (packed.values().clone(), packed.keys().values().to_vec())
    } else {
        let values = concat(&[packed.values().as_ref(), &new_null_array(array.data_type(), 1)]).ok()?;
        let nothing = nothing?;
        (values, packed.keys().iter().map(|place| place.unwrap_or(nothing)).collect())
    };
    if values.as_string_view_opt().is_none() {
        return Some((values, places));
    }
    let nulls_last = SortOptions { descending: false, nulls_first: false };
    let order = sort_to_indices(&values, Some(nulls_last), None).ok()?;
    let mut moved = vec![K::default_value(); values.len()];
    for (new, old) in order.values().iter().enumerate() {
        moved[*old as usize] = K::Native::from_usize(new)?;
    }
    for place in &mut places {
        *place = moved[place.as_usize()];
    }
    Some((take(&values, &order, None).ok()?, places))
}

/// The same values in as much memory as they need: arrays have room to grow, and texts lie in pages of the file.
fn fitted(values: &ArrayRef) -> ArrayRef {
    if let Some(texts) = values.as_string_view_opt() {
        return Arc::new(texts.gc());
    }
    let all: Vec<_> = (0..values.len()).map(|row| (0, row)).collect();
    interleave(&[values.as_ref()], &all).unwrap_or_else(|_| values.clone())
}

/// The rows of a file.
pub struct Packed {
    columns: Vec<Values>,
    bytes: Places<u8>,
    shorts: Places<u16>,
    longs: Places<u32>,
    schema: SchemaRef,
    count: usize,
}

impl Packed {
    /// Packs `batch`, text in which is `Utf8View`.
    ///
    /// # Errors
    /// Where JSON cannot hold a value of it.
    pub fn pack(batch: &RecordBatch) -> Result<Self> {
        let (mut bytes, mut shorts, mut longs) = (Vec::new(), Vec::new(), Vec::new());
        let mut pack = |array: &ArrayRef| {
            let truths = array.as_boolean_opt().map(|truths| {
                let both: ArrayRef = Arc::new(BooleanArray::from(vec![Some(false), Some(true), None]));
                (both, truths.iter().map(|truth| truth.map_or(2, u8::from)).collect::<Vec<u8>>())
            });
            let (values, which) = if let Some((values, places)) = truths.or_else(|| distinct::<UInt8Type>(array)) {
                let is_one = values.len() == 1;
                if !is_one {
                    bytes.push(places);
                }
                (values, if is_one { Which::First } else { Which::Byte(bytes.len() - 1) })
            } else if let Some((values, places)) = distinct::<UInt16Type>(array) {
                shorts.push(places);
                (values, Which::Short(shorts.len() - 1))
            } else {
                let (values, places) = distinct::<UInt32Type>(array)
                    .unwrap_or_else(|| (array.clone(), (0..u32::try_from(array.len()).unwrap_or(u32::MAX)).collect()));
                longs.push(places);
                (values, Which::Long(longs.len() - 1))
            };
            let values = fitted(&values);
            Ok(Values { texts: Texts::of(&values)?, values, which })
        };
        let columns = batch.columns().iter().map(&mut pack).collect::<Result<_>>()?;
        let count = batch.num_rows();
        let (bytes, shorts, longs) = (Places::of(&bytes, count), Places::of(&shorts, count), Places::of(&longs, count));
        Ok(Self { columns, bytes, shorts, longs, schema: batch.schema(), count })
    }

    /// All rows.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.count
    }

    pub(crate) fn column(&self, name: &str) -> Option<Column<'_>> {
        Some(Column { rows: self, values: self.columns.get(self.schema.index_of(name).ok()?)? })
    }

    /// These columns, in order; `None` where one is not there.
    pub(crate) fn columns(&self, names: &[&str]) -> Option<Vec<Column<'_>>> {
        names.iter().map(|name| self.column(name)).collect()
    }

    fn place(&self, which: Which, row: usize) -> usize {
        match which {
            Which::First => 0,
            Which::Byte(at) => self.bytes.at(row, at).into(),
            Which::Short(at) => self.shorts.at(row, at).into(),
            Which::Long(at) => self.longs.at(row, at) as usize,
        }
    }

    /// Memory (bytes).
    #[must_use]
    pub fn size(&self) -> usize {
        let values = self.columns.iter().map(|column| column.values.get_array_memory_size() + column.texts.size());
        values.sum::<usize>() + self.bytes.size() + self.shorts.size() + self.longs.size()
    }
}

/// A column, to search by.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    rows: &'a Packed,
    values: &'a Values,
}

impl<'a> Column<'a> {
    /// Whether its values can be compared: of a type that keys have, and none missing.
    pub(crate) fn is_key(self) -> bool {
        let values = &self.values.values;
        let is_known = matches!(values.data_type(), DataType::Utf8View | DataType::Int64 | DataType::Date32);
        is_known && values.null_count() == 0
    }

    /// A row's value, of a column that [`Self::is_key`].
    pub(crate) fn value(self, row: usize) -> Value<'a> {
        let (values, place) = (&self.values.values, self.place(row));
        match values.data_type() {
            DataType::Int64 => Value::Number(values.as_primitive::<Int64Type>().value(place)),
            DataType::Date32 => Value::Number(values.as_primitive::<Date32Type>().value(place).into()),
            _ => Value::Text(values.as_string_view().value(place)),
        }
    }

    /// The place of a row's value.
    pub(crate) fn place(self, row: usize) -> usize {
        self.rows.place(self.values.which, row)
    }

    /// For each place, whether its value is one of `texts`.
    pub(crate) fn places_of(self, texts: &BTreeSet<String>) -> Vec<bool> {
        match self.values.values.as_string_view_opt() {
            Some(values) => values.iter().map(|value| value.is_some_and(|value| texts.contains(value))).collect(),
            None => vec![false; self.values.values.len()],
        }
    }

    /// The rows of `range`, over which the values ascend, that have `wanted`.
    pub(crate) fn equal(self, range: Range<usize>, wanted: Value<'_>) -> Range<usize> {
        if matches!(self.values.which, Which::First) {
            let has = !range.is_empty() && self.value(range.start) == wanted;
            return if has { range } else { range.start..range.start };
        }
        match (wanted, self.values.values.as_string_view_opt()) {
            (Value::Text(wanted), Some(texts)) => {
                let at = search(0..texts.len() - texts.null_count(), |at| texts.value(at) < wanted);
                let is_there = at < texts.len() && texts.is_valid(at) && texts.value(at) == wanted;
                if is_there { run(range, |row| self.place(row).cmp(&at)) } else { range.start..range.start }
            }
            _ => run(range, |row| self.value(row).cmp(&wanted)),
        }
    }
}

/// The rows of `range` that are equal to what is looked for, by the order in which all stand to it; they ascend.
fn run(range: Range<usize>, order: impl Fn(usize) -> Ordering) -> Range<usize> {
    let start = search(range.clone(), |row| order(row).is_lt());
    // A person has a few rows a day: their end is near.
    let (mut end, mut step) = (start, 1);
    while end + step <= range.end && order(end + step - 1).is_le() {
        end += step;
        step *= 2;
    }
    start..search(end..range.end.min(end + step), |row| order(row).is_le())
}

/// The first row of `range` for which `is_before` does not hold; it holds for a beginning of the range.
pub(crate) fn search(range: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
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
pub(crate) fn order<'a>(one: impl Iterator<Item = Value<'a>>, other: impl Iterator<Item = Value<'a>>) -> Ordering {
    one.zip(other).map(|(one, other)| one.cmp(&other)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The rows `picked` (file and row) of `files`, as one batch of the columns at `places`, whose schema is `schema`.
///
/// # Errors
/// Where the files have columns of other types.
pub fn gather(
    files: &[&Packed],
    picked: &[(usize, usize)],
    places: &[usize],
    schema: SchemaRef,
) -> Result<RecordBatch> {
    if picked.is_empty() {
        return Ok(RecordBatch::new_empty(schema));
    }
    let mut at = Vec::with_capacity(picked.len());
    let columns = places.iter().map(|column| {
        let values: Vec<&dyn Array> = files.iter().map(|file| file.columns[*column].values.as_ref()).collect();
        at.clear();
        at.extend(
            picked.iter().map(|(file, row)| (*file, files[*file].place(files[*file].columns[*column].which, *row))),
        );
        interleave(&values, &at)
    });
    let columns = columns.collect::<Result<_>>()?;
    RecordBatch::try_new(schema, columns)
}

/// The same rows as JSON objects of the columns at `places`, each named so; `between` them and `after` each stands what the format wants.
#[must_use]
pub fn json(
    files: &[&Packed],
    picked: &[(usize, usize)],
    places: &[usize],
    names: &[&str],
    (between, after): (&[u8], &[u8]),
) -> Vec<u8> {
    let begin =
        |(at, name): (usize, &&str)| format!("{}{}:", if at == 0 { '{' } else { ',' }, serde_json::Value::from(*name));
    let begins: Vec<String> = names.iter().enumerate().map(begin).collect();
    let mut out = Vec::new();
    for (number, (file, row)) in picked.iter().enumerate() {
        if number == 1 {
            // The other rows are about as long as the first.
            out.reserve(out.len() * picked.len() + out.len() * picked.len() / 8);
        }
        if number > 0 {
            out.extend_from_slice(between);
        }
        let rows = files[*file];
        for (begin, place) in begins.iter().zip(places) {
            out.extend_from_slice(begin.as_bytes());
            let values = &rows.columns[*place];
            out.extend_from_slice(values.texts.at(rows.place(values.which, *row)));
        }
        out.push(b'}');
        out.extend_from_slice(after);
    }
    out
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array},
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
            let packed: Vec<Packed> = batches.iter().map(|batch| Packed::pack(batch).expect("packed")).collect();
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
        let (packed, plain) = (Packed::pack(&rows).expect("packed").size(), rows.get_array_memory_size());
        assert!(packed * 5 < plain, "{packed} bytes packed, {plain} as they were");
    }
}
