//! Functions that clients ask of PostgreSQL and that neither engine nor library has, or has for itself.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
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
const SERVER_VERSION: &str = "16.6";

pub(super) fn register(ctx: &SessionContext) {
    use DataType::{Boolean, Int32, Utf8};
    let version = format!("PostgreSQL {SERVER_VERSION} (Daybook {})", env!("CARGO_PKG_VERSION"));
    ctx.register_udf(constant("version", &version));
    ctx.register_udf(current_setting());
    ctx.register_udf(pg_size_pretty());
    ctx.register_udf(ScalarUDF::new_from_impl(JsonBuildObject::new()));
    // There is one schema.
    for name in ["pg_function_is_visible", "pg_type_is_visible", "pg_collation_is_visible"] {
        ctx.register_udf(fixed(name, vec![Int32], ScalarValue::Boolean(Some(true))));
    }
    // What a table takes is not the organisation's alone.
    ctx.register_udf(fixed("pg_table_size", vec![Int32], ScalarValue::Int64(None)));
    ctx.register_udf(fixed("pg_database_size", vec![Utf8], ScalarValue::Int64(None)));
    // Comments of what databases share, types of extensions, columns that count by themselves, indexes: there are none.
    ctx.register_udf(fixed("shobj_description", vec![Int32, Utf8], ScalarValue::Utf8(None)));
    ctx.register_udf(fixed("to_regtype", vec![Utf8], ScalarValue::Int32(None)));
    ctx.register_udf(fixed("pg_get_serial_sequence", vec![Utf8, Utf8], ScalarValue::Utf8(None)));
    ctx.register_udf(fixed("pg_get_indexdef", vec![Int32, Int32, Boolean], ScalarValue::Utf8(None)));
}

pub(super) fn texts(length: usize, of: impl Fn(usize) -> Option<String>) -> ArrayRef {
    Arc::new((0..length).map(of).collect::<StringArray>())
}

/// A function that answers the same whatever it is asked.
fn fixed(name: &str, arguments: Vec<DataType>, value: ScalarValue) -> ScalarUDF {
    let answers = value.data_type();
    let function = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone()));
    create_udf(name, arguments, answers, Volatility::Stable, Arc::new(function))
}

/// A function without arguments.
pub(super) fn constant(name: &str, value: &str) -> ScalarUDF {
    fixed(name, vec![], ScalarValue::Utf8(Some(value.to_owned())))
}

/// A setting that is the same for every connection.
pub(crate) fn setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "server_version" => SERVER_VERSION,
        "server_version_num" => "160006",
        "search_path" => "public",
        "client_encoding" | "server_encoding" => "UTF8",
        "standard_conforming_strings" | "transaction_read_only" | "default_transaction_read_only" => "on",
        "is_superuser" | "in_hot_standby" => "off",
        "transaction_isolation" | "transaction_isolation_level" => "read committed",
        "max_identifier_length" => "63",
        "lc_collate" | "lc_ctype" => "C.UTF-8",
        "default_table_access_method" => "heap",
        _ => return None,
    })
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
        let value = |row: usize| names.is_valid(row).then(|| setting(names.value(row))).flatten().map(str::to_owned);
        Ok(ColumnarValue::Array(texts(names.len(), value)))
    };
    create_udf("current_setting", vec![DataType::Utf8], DataType::Utf8, Volatility::Stable, Arc::new(function))
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
