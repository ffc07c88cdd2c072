//! Rows as the bytes of a format, batch by batch.
//!
//! What each format does with values that it has no type for:
//!
//! | value | JSON, NDJSON | CSV | Parquet, Arrow |
//! |---|---|---|---|
//! | null | `null` | empty field (as is an empty text) | null |
//! | decimal | string: many readers take JSON numbers as binary floating point | digits | decimal |
//! | integer | number, also beyond 2^53 | digits | integer |
//! | date, time | ISO 8601 string, times in UTC with `Z` | the same | date, timestamp |
//! | bytes | hexadecimal string | hexadecimal | bytes |

use std::{fmt, mem, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, RecordBatchOptions},
    compute::cast,
    csv,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
    json::writer::{
        Encoder as ValueEncoder, EncoderFactory, EncoderOptions, JsonArray, LineDelimited, NullableEncoder,
    },
    util::display::{ArrayFormatter, FormatOptions},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use crate::Result;

/// Rows in a Parquet row group, at most.
const PARQUET_GROUP_ROWS: usize = 64 * 1024;
/// Encoded size of a Parquet row group, at most (bytes).
const PARQUET_GROUP_BYTES: usize = 32 << 20;

/// A format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON array of objects.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// RFC 4180 with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC stream.
    Arrow,
}

impl Format {
    /// Every format, the preferred one first.
    pub const ALL: [Self; 5] = [Self::Json, Self::Ndjson, Self::Csv, Self::Parquet, Self::Arrow];

    /// Name, as in `format=` and `--format`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }

    /// Media type, without parameters.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes batches in a format.
pub struct Encoder(Kind);

enum Kind {
    Json(arrow::json::Writer<Vec<u8>, JsonArray>, SchemaRef),
    Ndjson(arrow::json::Writer<Vec<u8>, LineDelimited>, SchemaRef),
    Csv { begun: bool, out: Vec<u8>, schema: SchemaRef },
    Parquet(ArrowWriter<Vec<u8>>, SchemaRef),
    Arrow(StreamWriter<Vec<u8>>, SchemaRef),
}

impl Encoder {
    /// Begins, with the schema of the batches that will come. Columns that share a name get `_2`, `_3`, … from the second on, since no format here can hold
    /// the name twice.
    ///
    /// # Errors
    /// Where the format has no way to write the schema.
    pub fn start(format: Format, schema: &Schema) -> Result<Self> {
        Kind::start(format, schema).map(Self)
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// Where it has another schema, or a value that the format cannot hold.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        self.0.push(batch)
    }

    /// What has been encoded since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.0.take()
    }

    /// Ends; gives what has been encoded since the last [`Self::take`].
    ///
    /// # Errors
    /// Where the last rows cannot be written.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.0.finish()
    }
}

impl Kind {
    fn start(format: Format, schema: &Schema) -> Result<Self> {
        let schema = portable_schema(schema);
        let json = || {
            arrow::json::WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(QuotedDecimals))
        };
        Ok(match format {
            Format::Json => Self::Json(json().build(Vec::new()), schema),
            Format::Ndjson => Self::Ndjson(json().build(Vec::new()), schema),
            Format::Csv => Self::Csv { begun: false, out: Vec::new(), schema },
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_created_by("daybook".to_owned())
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("level 1 is one of zstd's")))
                    .set_max_row_group_row_count(Some(PARQUET_GROUP_ROWS))
                    .set_max_row_group_bytes(Some(PARQUET_GROUP_BYTES))
                    .build();
                let writer =
                    ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(from_parquet)?;
                Self::Parquet(writer, schema)
            }
            Format::Arrow => Self::Arrow(StreamWriter::try_new(Vec::new(), &schema)?, schema),
        })
    }

    fn schema(&self) -> &SchemaRef {
        match self {
            Self::Json(_, schema)
            | Self::Ndjson(_, schema)
            | Self::Csv { schema, .. }
            | Self::Parquet(_, schema)
            | Self::Arrow(_, schema) => schema,
        }
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = portable(batch, self.schema())?;
        match self {
            Self::Json(writer, _) => writer.write(&batch),
            Self::Ndjson(writer, _) => writer.write(&batch),
            Self::Csv { begun, out, .. } => {
                let mut writer = csv::WriterBuilder::new().with_header(!*begun).build(mem::take(out));
                *begun = true;
                writer.write(&batch).map(|()| *out = writer.into_inner())
            }
            Self::Parquet(writer, _) => writer.write(&batch).map_err(from_parquet),
            Self::Arrow(writer, _) => writer.write(&batch),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Json(writer, _) => mem::take(writer.get_mut()),
            Self::Ndjson(writer, _) => mem::take(writer.get_mut()),
            Self::Csv { out, .. } => mem::take(out),
            // The writer counts its offsets itself; what it has handed over may go.
            Self::Parquet(writer, _) => mem::take(writer.inner_mut()),
            Self::Arrow(writer, _) => mem::take(writer.get_mut()),
        }
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        if let Self::Csv { begun: false, schema, .. } = &self {
            // The header belongs to an empty result too.
            let none = RecordBatch::new_empty(schema.clone());
            self.push(&none)?;
        }
        match self {
            Self::Json(mut writer, _) => writer.finish().map(|()| writer.into_inner()),
            Self::Ndjson(mut writer, _) => writer.finish().map(|()| writer.into_inner()),
            Self::Csv { out, .. } => Ok(out),
            Self::Parquet(writer, _) => writer.into_inner().map_err(from_parquet),
            Self::Arrow(writer, _) => writer.into_inner(),
        }
    }
}

/// Values as JSON writes them.
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Texts {
    /// Each of `values` as it stands in a row of JSON.
    ///
    /// # Errors
    /// Where JSON cannot hold a value.
    pub fn of(values: &ArrayRef) -> Result<Self> {
        const BEGIN: usize = "{\"v\":".len();
        let schema = Arc::new(Schema::new(vec![Field::new("v", values.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![values.clone()])?;
        let mut encoder = Encoder::start(Format::Ndjson, &schema)?;
        encoder.push(&batch)?;
        let lines = encoder.finish()?;
        let mut texts = Self { bytes: Vec::with_capacity(lines.len()), ends: Vec::with_capacity(values.len()) };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            texts.bytes.extend_from_slice(&line[BEGIN..line.len() - "}\n".len()]);
            texts.ends.push(u32::try_from(texts.bytes.len()).map_err(|_| ArrowError::OffsetOverflowError(usize::MAX))?);
        }
        texts.bytes.shrink_to_fit();
        Ok(texts)
    }

    /// The text of a value.
    #[must_use]
    pub fn at(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[place] as usize]
    }

    /// Memory (bytes).
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.capacity() + 4 * self.ends.capacity()
    }
}

fn from_parquet(error: ParquetError) -> ArrowError {
    ArrowError::ParquetError(error.to_string())
}

/// The type that readers of every age know for `data_type`: view types are how we compute, not how we publish.
fn portable_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        other => other.clone(),
    }
}

/// The schema as every reader knows it: names told apart, views as plain types.
pub fn portable_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut number = 1;
        while fields.iter().any(|earlier| *earlier.name() == name) {
            number += 1;
            name = format!("{}_{number}", field.name());
        }
        fields.push(field.as_ref().clone().with_name(name).with_data_type(portable_type(field.data_type())));
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// `batch` in `schema`: same columns in the same order, views turned into plain arrays.
///
/// # Errors
/// Where the columns have other types.
pub fn portable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() { Ok(column.clone()) } else { cast(column, field.data_type()) }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// Decimals as JSON strings. RFC 8259 §6 lets readers take numbers as IEEE 754 doubles, and most do.
#[derive(Debug)]
struct QuotedDecimals;

struct Quoted<'a>(ArrayFormatter<'a>);

impl ValueEncoder for Quoted<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.0.value(index).to_string().as_bytes());
        out.push(b'"');
    }
}

impl EncoderFactory for QuotedDecimals {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>> {
        if !array.data_type().is_decimal() {
            return Ok(None);
        }
        static OPTIONS: FormatOptions<'static> = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(array, &OPTIONS)?;
        Ok(Some(NullableEncoder::new(Box::new(Quoted(formatter)), array.nulls().cloned())))
    }
}
