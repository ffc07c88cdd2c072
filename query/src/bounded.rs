//! Functions that could take all memory with one small call.
//!
//! The engine's pool counts what operators hold, not what a function makes of a row: `repeat('x', 2000000000)` would end the process. Functions that make
//! lists of any length out of a number are taken away; those that make texts get a limit.

use std::sync::Arc;

use arrow::{array::AsArray, compute::cast, datatypes::DataType, datatypes::Int64Type};
use datafusion::{
    common::plan_err,
    error::{DataFusionError, Result},
    execution::{FunctionRegistry, SessionState},
    logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature},
};

/// Longest text that a call may ask for (characters).
const LENGTH_MAX: i64 = 4096;
/// Functions whose second argument is a length.
const TEXTS: [&str; 3] = ["repeat", "lpad", "rpad"];
/// Functions whose argument is how many elements to make. The table functions `range` and `generate_series` stay: they make rows one batch after the other.
const LISTS: [&str; 4] = ["array_repeat", "array_resize", "range", "generate_series"];

/// Bounds what is registered in `state`.
pub(crate) fn bound(state: &mut SessionState) -> Result<()> {
    for name in LISTS {
        state.deregister_udf(name)?;
    }
    for name in TEXTS {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner })))?;
    }
    Ok(())
}

/// The same function, for lengths up to [`LENGTH_MAX`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<arrow::datatypes::FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lengths = match arguments.args.get(1) {
            Some(ColumnarValue::Scalar(length)) => length.to_array()?,
            Some(ColumnarValue::Array(lengths)) => lengths.clone(),
            None => return plan_err!("{} needs a length", self.name()),
        };
        let lengths = cast(&lengths, &DataType::Int64)?;
        let longest = arrow::compute::max(lengths.as_primitive::<Int64Type>());
        match longest {
            Some(length) if length > LENGTH_MAX => Err(DataFusionError::ResourcesExhausted(format!(
                "{}: a length of {length} is more than {LENGTH_MAX}",
                self.name()
            ))),
            _ => self.inner.invoke_with_args(arguments),
        }
    }
}
