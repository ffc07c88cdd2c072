//! Growing columns. A column is padded with nulls only when it gets its next value, so that the many columns that an
//! event does not use cost nothing.

use std::{hash::BuildHasher, sync::Arc};

use arrow::{
    array::{
        Array, ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, DictionaryArray, Int32Array,
        Int32Builder, Int64Builder, StringArray, StringBuilder, TimestampMicrosecondBuilder, new_null_array,
    },
    buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Int32Type},
};
use hashbrown::{DefaultHashBuilder, HashTable};
use schemas::{Column, ColumnType, event::Value};

/// Text columns whose values seldom repeat: a dictionary would cost and save nothing.
const HIGH_CARDINALITY: &[&str] = &["suggestion_id", "usage_event_id", "trace_parent", "ext"];

enum Builder {
    Text(StringBuilder),
    Dictionary(Dictionary),
    Int(Int64Builder),
    Int32(Int32Builder),
    Bool(BooleanBuilder),
    Decimal(Decimal128Builder),
    Time(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

/// Texts under construction, each distinct one kept once. arrow's own builder hashes with a keyed hash and keeps a bit for
/// each null: this one is twice as fast where columns are many and texts short.
#[derive(Default)]
struct Dictionary {
    hasher: DefaultHashBuilder,
    /// Numbers of the texts, by their hash.
    table: HashTable<i32>,
    /// Where each text ends in `bytes`.
    ends: Vec<i32>,
    bytes: Vec<u8>,
    /// A row's text by its number; -1 is null.
    keys: Vec<i32>,
}

/// The text of this number, where each ends at its place in `ends`.
fn text_of<'a>(ends: &[i32], bytes: &'a [u8], number: usize) -> &'a [u8] {
    let start = if number == 0 { 0 } else { ends[number - 1] as usize };
    &bytes[start..ends[number] as usize]
}

impl Dictionary {
    fn of_this_size(&self) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            table: HashTable::with_capacity(self.table.len()),
            ends: Vec::with_capacity(self.ends.len()),
            bytes: Vec::with_capacity(self.bytes.len()),
            keys: Vec::with_capacity(self.keys.len()),
        }
    }

    fn append_nulls(&mut self, count: usize) {
        self.keys.resize(self.keys.len() + count, -1);
    }

    /// Gives the text's number.
    fn append_value(&mut self, text: &str) -> i32 {
        let Self { hasher, table, ends, bytes, keys } = self;
        let hash = hasher.hash_one(text.as_bytes());
        let number = match table.find(hash, |number| text_of(ends, bytes, *number as usize) == text.as_bytes()) {
            Some(number) => *number,
            None => {
                let number = i32::try_from(ends.len()).expect("a buffer holds fewer than 2^31 rows");
                bytes.extend_from_slice(text.as_bytes());
                ends.push(i32::try_from(bytes.len()).expect("a buffer is flushed far below 2 GiB"));
                table.insert_unique(hash, number, |number| hasher.hash_one(text_of(ends, bytes, *number as usize)));
                number
            }
        };
        keys.push(number);
        number
    }

    /// Rank of each number in the order of the texts.
    fn ranks(&self) -> Vec<u32> {
        let mut texts: Vec<(&[u8], usize)> =
            (0..self.ends.len()).map(|number| (text_of(&self.ends, &self.bytes, number), number)).collect();
        texts.sort_unstable();
        let mut ranks = vec![0; texts.len()];
        for (rank, (_, number)) in texts.iter().enumerate() {
            ranks[*number] = u32::try_from(rank).expect("a buffer holds fewer than 2^31 rows");
        }
        ranks
    }

    /// The array; empties itself.
    fn finish(&mut self) -> DictionaryArray<Int32Type> {
        let taken = std::mem::take(self);
        let nulls = NullBuffer::from_iter(taken.keys.iter().map(|key| *key >= 0));
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let offsets: Vec<i32> = std::iter::once(0).chain(taken.ends).collect();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let texts = StringArray::new(offsets, Buffer::from(taken.bytes), None);
        DictionaryArray::new(Int32Array::new(taken.keys.into(), nulls), Arc::new(texts))
    }
}

/// One column under construction.
pub(crate) struct GrowingColumn {
    data_type: DataType,
    rows: usize,
    builder: Builder,
}

macro_rules! pad {
    ($self:ident, $row:ident, $($variant:ident),+) => {
        match &mut $self.builder { $(Builder::$variant(builder) => builder.append_nulls($row - $self.rows)),+ }
    };
}

impl GrowingColumn {
    pub(crate) fn new(column: &Column) -> Self {
        let dictionary = column.column_type == ColumnType::Text && !HIGH_CARDINALITY.contains(&column.name);
        let builder = match column.column_type {
            ColumnType::Text if dictionary => Builder::Dictionary(Dictionary::default()),
            ColumnType::Text => Builder::Text(StringBuilder::with_capacity(0, 0)),
            ColumnType::Int => Builder::Int(Int64Builder::with_capacity(0)),
            ColumnType::Int32 | ColumnType::Date => Builder::Int32(Int32Builder::with_capacity(0)),
            ColumnType::Bool => Builder::Bool(BooleanBuilder::with_capacity(0)),
            ColumnType::Decimal => {
                Builder::Decimal(Decimal128Builder::with_capacity(0).with_data_type(ColumnType::Decimal.arrow()))
            }
            ColumnType::Time => Builder::Time(TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC")),
            ColumnType::Binary => Builder::Binary(BinaryBuilder::with_capacity(0, 0)),
        };
        let data_type = if dictionary {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        } else {
            column.column_type.arrow()
        };
        Self { data_type, rows: 0, builder }
    }

    /// An empty column, with room for as many values as this one has: the next buffer is likely to be as full, and growing would
    /// copy each value once more.
    pub(crate) fn of_this_size(&self) -> Self {
        let builder = match &self.builder {
            Builder::Text(of) => Builder::Text(StringBuilder::with_capacity(of.len(), of.values_slice().len())),
            Builder::Dictionary(of) => Builder::Dictionary(of.of_this_size()),
            Builder::Int(of) => Builder::Int(Int64Builder::with_capacity(of.len())),
            Builder::Int32(of) => Builder::Int32(Int32Builder::with_capacity(of.len())),
            Builder::Bool(of) => Builder::Bool(BooleanBuilder::with_capacity(of.len())),
            Builder::Decimal(of) => {
                Builder::Decimal(Decimal128Builder::with_capacity(of.len()).with_data_type(ColumnType::Decimal.arrow()))
            }
            Builder::Time(of) => {
                Builder::Time(TimestampMicrosecondBuilder::with_capacity(of.len()).with_timezone("UTC"))
            }
            Builder::Binary(of) => Builder::Binary(BinaryBuilder::with_capacity(of.len(), of.values_slice().len())),
        };
        Self { data_type: self.data_type.clone(), rows: 0, builder }
    }

    /// Arrow type of the finished column.
    pub(crate) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    fn pad(&mut self, row: usize) {
        if row > self.rows {
            pad!(self, row, Text, Dictionary, Int, Int32, Bool, Decimal, Time, Binary);
        }
        self.rows = row + 1;
    }

    /// Sets the value at `row`, which no earlier call has reached.
    ///
    /// # Panics
    /// Where the value's type is not the column's: `schemas` checks that when it compiles its registry.
    pub(crate) fn set(&mut self, row: usize, value: &Value<'_>) {
        self.pad(row);
        match (&mut self.builder, value) {
            (Builder::Text(builder), Value::Text(text)) => builder.append_value(text),
            (Builder::Dictionary(builder), Value::Text(text)) => drop(builder.append_value(text)),
            (Builder::Int(builder), Value::Int(value)) => builder.append_value(*value),
            (Builder::Bool(builder), Value::Bool(value)) => builder.append_value(*value),
            (Builder::Decimal(builder), Value::Decimal(value)) => builder.append_value(*value),
            (Builder::Time(builder), Value::Time(value)) => builder.append_value(*value),
            _ => unreachable!("schemas gives each value the type of its column"),
        }
    }

    pub(crate) fn set_text(&mut self, row: usize, text: &str) {
        self.set(row, &Value::Text(text.into()));
    }

    /// Sets a text of a column that has a dictionary; gives the text's number there.
    pub(crate) fn set_numbered(&mut self, row: usize, text: &str) -> u32 {
        self.pad(row);
        match &mut self.builder {
            Builder::Dictionary(builder) => builder.append_value(text).cast_unsigned(),
            _ => unreachable!("a column with a dictionary"),
        }
    }

    /// Rank of each number that [`Self::set_numbered`] has given, in the order of the texts.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        match &self.builder {
            Builder::Dictionary(builder) => builder.ranks(),
            _ => unreachable!("a column with a dictionary"),
        }
    }

    pub(crate) fn set_int(&mut self, row: usize, value: i64) {
        self.set(row, &Value::Int(value));
    }

    pub(crate) fn set_int32(&mut self, row: usize, value: i32) {
        self.pad(row);
        match &mut self.builder {
            Builder::Int32(builder) => builder.append_value(value),
            _ => unreachable!("a 32-bit column"),
        }
    }

    pub(crate) fn set_time(&mut self, row: usize, value: i64) {
        self.set(row, &Value::Time(value));
    }

    pub(crate) fn set_bytes(&mut self, row: usize, bytes: &[u8]) {
        self.pad(row);
        match &mut self.builder {
            Builder::Binary(builder) => builder.append_value(bytes),
            _ => unreachable!("a binary column"),
        }
    }

    /// The column with `rows` values; empties the builder.
    pub(crate) fn finish(&mut self, rows: usize) -> ArrayRef {
        if self.rows == 0 {
            return new_null_array(&self.data_type, rows);
        }
        if rows > self.rows {
            pad!(self, rows, Text, Dictionary, Int, Int32, Bool, Decimal, Time, Binary);
        }
        self.rows = 0;
        let array: ArrayRef = match &mut self.builder {
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Dictionary(builder) => Arc::new(builder.finish()),
            Builder::Int(builder) => Arc::new(builder.finish()),
            Builder::Int32(builder) => {
                // A day is a 32-bit integer with another name.
                arrow::compute::cast(&builder.finish(), &self.data_type).expect("32-bit integers are days")
            }
            Builder::Bool(builder) => Arc::new(builder.finish()),
            Builder::Decimal(builder) => Arc::new(builder.finish()),
            Builder::Time(builder) => Arc::new(builder.finish()),
            Builder::Binary(builder) => Arc::new(builder.finish()),
        };
        debug_assert_eq!(array.len(), rows);
        array
    }
}
