//! Functions that clients ask of PostgreSQL and that neither engine nor library has, or has for itself.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::{DataType, Int64Type},
};
use bytesize::ByteSize;
use datafusion::{
    common::ScalarValue,
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
    prelude::SessionContext,
};

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
