//! Growing columns. A column is padded with nulls only when it gets its next value, so that the many columns that an
//! event does not use cost nothing.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, Int32Builder, Int64Builder, StringBuilder,
        StringDictionaryBuilder, TimestampMicrosecondBuilder, new_null_array,
    },
    datatypes::{DataType, Int32Type},
};
use schemas::{Column, ColumnType, event::Value};

/// Text columns whose values seldom repeat: a dictionary would cost and save nothing.
const HIGH_CARDINALITY: &[&str] = &["suggestion_id", "usage_event_id", "trace_parent", "ext"];

enum Builder {
    Text(StringBuilder),
    Dictionary(StringDictionaryBuilder<Int32Type>),
    Int(Int64Builder),
    Int32(Int32Builder),
    Bool(BooleanBuilder),
    Decimal(Decimal128Builder),
    Time(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
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
            ColumnType::Text if dictionary => Builder::Dictionary(StringDictionaryBuilder::new()),
            ColumnType::Text => Builder::Text(StringBuilder::new()),
            ColumnType::Int => Builder::Int(Int64Builder::new()),
            ColumnType::Int32 | ColumnType::Date => Builder::Int32(Int32Builder::new()),
            ColumnType::Bool => Builder::Bool(BooleanBuilder::new()),
            ColumnType::Decimal => {
                Builder::Decimal(Decimal128Builder::new().with_data_type(ColumnType::Decimal.arrow()))
            }
            ColumnType::Time => Builder::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnType::Binary => Builder::Binary(BinaryBuilder::new()),
        };
        let data_type = if dictionary {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        } else {
            column.column_type.arrow()
        };
        Self { data_type, rows: 0, builder }
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
            (Builder::Dictionary(builder), Value::Text(text)) => builder.append_value(text),
            (Builder::Int(builder), Value::Int(value)) => builder.append_value(*value),
            (Builder::Bool(builder), Value::Bool(value)) => builder.append_value(*value),
            (Builder::Decimal(builder), Value::Decimal(value)) => builder.append_value(*value),
            (Builder::Time(builder), Value::Time(value)) => builder.append_value(*value),
            _ => unreachable!("schemas gives each value the type of its column"),
        }
    }

    pub(crate) fn set_text(&mut self, row: usize, text: &str) {
        self.pad(row);
        match &mut self.builder {
            Builder::Text(builder) => builder.append_value(text),
            Builder::Dictionary(builder) => builder.append_value(text),
            _ => unreachable!("a text column"),
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
