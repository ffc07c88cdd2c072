//! Functions that clients ask of PostgreSQL and that neither engine nor library has, or has for itself.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::{DataType, Int64Type},
    util::display::{ArrayFormatter, FormatOptions},
};
use bytesize::ByteSize;
use datafusion::{
    common::{ScalarValue, plan_err},
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, create_udf},
    prelude::SessionContext,
};
use serde_json::Value;

/// The PostgreSQL that clients are told to speak to; what they may expect of its catalogue and syntax follows from it.
pub(crate) const SERVER_VERSION: &str = "16.6";

pub(super) fn register(ctx: &SessionContext) {
    ctx.register_udf(constant(
        "version",
        &format!("PostgreSQL {SERVER_VERSION} (Daybook {})", env!("CARGO_PKG_VERSION")),
    ));
    ctx.register_udf(no_size("pg_table_size", DataType::Int32));
    ctx.register_udf(no_size("pg_database_size", DataType::Utf8));
    ctx.register_udf(visible("pg_function_is_visible"));
    ctx.register_udf(no_description());
    ctx.register_udf(no_type());
    ctx.register_udf(no_sequence());
    ctx.register_udf(no_index());
    ctx.register_udf(current_setting());
    ctx.register_udf(visible("pg_collation_is_visible"));
    ctx.register_udf(ScalarUDF::new_from_impl(JsonBuildObject::new()));
    ctx.register_udf(visible("pg_type_is_visible"));
    ctx.register_udf(pg_size_pretty());
}

pub(super) fn texts(length: usize, of: impl Fn(usize) -> Option<String>) -> ArrayRef {
    Arc::new((0..length).map(of).collect::<StringArray>())
}

/// A function without arguments.
pub(super) fn constant(name: &str, value: &str) -> ScalarUDF {
    let value = ScalarValue::Utf8(Some(value.to_owned()));
    let function = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone()));
    create_udf(name, vec![], DataType::Utf8, Volatility::Stable, Arc::new(function))
}

/// A size: null, since what a table takes is not the organisation's alone.
fn no_size(name: &str, of: DataType) -> ScalarUDF {
    let function = |arguments: &[ColumnarValue]| {
        let rows = ColumnarValue::values_to_arrays(arguments)?[0].len();
        Ok(ColumnarValue::Array(Arc::new(Int64Array::new_null(rows))))
    };
    create_udf(name, vec![of], DataType::Int64, Volatility::Stable, Arc::new(function))
}

/// `shobj_description(oid, catalogue)`: null; nothing that databases share has a comment.
fn no_description() -> ScalarUDF {
    let function = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
    let arguments = vec![DataType::Int32, DataType::Utf8];
    create_udf("shobj_description", arguments, DataType::Utf8, Volatility::Stable, Arc::new(function))
}

/// `to_regtype(name)`: null; drivers look for types of extensions.
fn no_type() -> ScalarUDF {
    let function = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Int32(None)));
    create_udf("to_regtype", vec![DataType::Utf8], DataType::Int32, Volatility::Stable, Arc::new(function))
}

/// `pg_get_serial_sequence(table, column)`: null; no column counts by itself.
fn no_sequence() -> ScalarUDF {
    let function = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
    let arguments = vec![DataType::Utf8, DataType::Utf8];
    create_udf("pg_get_serial_sequence", arguments, DataType::Utf8, Volatility::Stable, Arc::new(function))
}

/// `pg_get_indexdef(index, column, pretty)`: null; there are no indexes.
fn no_index() -> ScalarUDF {
    let function = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None)));
    let arguments = vec![DataType::Int32, DataType::Int32, DataType::Boolean];
    create_udf("pg_get_indexdef", arguments, DataType::Utf8, Volatility::Stable, Arc::new(function))
}

/// `json_build_object(name, value, …)`: a JSON object as text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonBuildObject {
    signature: Signature,
}

impl JsonBuildObject {
    fn new() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for JsonBuildObject {
    fn name(&self) -> &'static str {
        "json_build_object"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.len().is_multiple_of(2) {
            true => Ok(DataType::Utf8),
            false => plan_err!("json_build_object takes names and values in turn"),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&arguments.args)?;
        let options = FormatOptions::new();
        let formatters: Vec<_> = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<std::result::Result<_, _>>()?;
        let value = |column: usize, row: usize| {
            let text = formatters[column].value(row).to_string();
            match columns[column].data_type() {
                DataType::Null => Value::Null,
                _ if columns[column].is_null(row) => Value::Null,
                kind if kind.is_numeric() || *kind == DataType::Boolean => {
                    serde_json::from_str(&text).unwrap_or(Value::String(text))
                }
                _ => Value::String(text),
            }
        };
        let object = |row: usize| {
            let pairs = (0..columns.len()).step_by(2);
            let pairs = pairs.map(|name| (formatters[name].value(row).to_string(), value(name + 1, row)));
            Some(Value::Object(pairs.collect()).to_string())
        };
        let rows = columns.first().map_or(1, |column| column.len());
        Ok(ColumnarValue::Array(texts(rows, object)))
    }
}

/// `current_setting(name)`, for settings that clients ask for in the middle of a statement.
fn current_setting() -> ScalarUDF {
    let function = |arguments: &[ColumnarValue]| {
        let names = ColumnarValue::values_to_arrays(arguments)?;
        let names = names[0].as_string::<i32>();
        let setting = |row: usize| {
            let value = match names.is_valid(row).then(|| names.value(row))? {
                "search_path" => "public",
                "default_table_access_method" => "heap",
                "server_version" => SERVER_VERSION,
                "server_version_num" => "160006",
                "standard_conforming_strings" | "transaction_read_only" => "on",
                _ => return None,
            };
            Some(value.to_owned())
        };
        Ok(ColumnarValue::Array(texts(names.len(), setting)))
    };
    create_udf("current_setting", vec![DataType::Utf8], DataType::Utf8, Volatility::Stable, Arc::new(function))
}

/// `pg_…_is_visible(oid)`: true, there is one schema.
fn visible(name: &str) -> ScalarUDF {
    let function = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))));
    create_udf(name, vec![DataType::Int32], DataType::Boolean, Volatility::Stable, Arc::new(function))
}

/// `pg_size_pretty(bytes)`.
fn pg_size_pretty() -> ScalarUDF {
    let function = |arguments: &[ColumnarValue]| {
        let arguments = ColumnarValue::values_to_arrays(arguments)?;
        let sizes = arguments[0].as_primitive::<Int64Type>();
        let pretty = |row: usize| {
            let size = sizes.is_valid(row).then(|| u64::try_from(sizes.value(row)).ok()).flatten()?;
            Some(ByteSize(size).to_string())
        };
        Ok(ColumnarValue::Array(texts(sizes.len(), pretty)))
    };
    create_udf("pg_size_pretty", vec![DataType::Int64], DataType::Utf8, Volatility::Immutable, Arc::new(function))
}
