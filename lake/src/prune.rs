//! Which files can hold rows that a filter wants, by the log's statistics alone.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, UInt64Array},
    datatypes::{DataType, SchemaRef, TimeUnit},
};
use datafusion::{
    catalog::Session,
    common::{Column, DFSchema, ScalarValue, pruning::PruningStatistics},
    error::Result,
    logical_expr::{Expr, utils::conjunction},
    physical_optimizer::pruning::PruningPredicateBuilder,
};
use schemas::{TableSpec, epoch_days};

use crate::file::{Bound, DataFile};

/// The files of `files` in which a row may satisfy all of `filters`.
pub(crate) fn prune(
    session: &dyn Session,
    spec: &TableSpec,
    schema: &SchemaRef,
    files: Vec<DataFile>,
    filters: &[Expr],
) -> Result<Vec<DataFile>> {
    let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(files) };
    if files.is_empty() {
        return Ok(files);
    }
    let predicate = session.create_physical_expr(filter, &DFSchema::try_from(schema.as_ref().clone())?)?;
    let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).try_build(predicate)?;
    if predicate.always_true() {
        return Ok(files);
    }
    let kept = predicate.prune(&Ranges { spec, schema, files: &files })?;
    Ok(files.into_iter().zip(kept).filter_map(|(file, kept)| kept.then_some(file)).collect())
}

struct Ranges<'a> {
    spec: &'a TableSpec,
    schema: &'a SchemaRef,
    files: &'a [DataFile],
}

impl Ranges<'_> {
    fn bounds(&self, column: &str, of: impl Fn(&DataFile) -> Option<Bound>) -> Option<ArrayRef> {
        let kind = self.schema.field_with_name(column).ok()?.data_type();
        let null = ScalarValue::try_from(kind).ok()?;
        let scalar = |file| of(file).and_then(|bound| scalar(&bound, kind)).unwrap_or_else(|| null.clone());
        ScalarValue::iter_to_array(self.files.iter().map(scalar)).ok()
    }

    fn bound(&self, column: &Column, upper: bool) -> Option<ArrayRef> {
        let name = column.name.as_str();
        if self.spec.partition_column == Some(name) {
            return self.bounds(name, |file| file.partition_value.map(|day| Bound::Int(i64::from(epoch_days(day)))));
        }
        self.bounds(name, |file| {
            let known = file.stats.columns.get(name)?;
            if upper { known.max.clone() } else { known.min.clone() }
        })
    }
}

fn scalar(bound: &Bound, kind: &DataType) -> Option<ScalarValue> {
    Some(match (bound, kind) {
        (Bound::Text(text), DataType::Utf8) => ScalarValue::Utf8(Some(text.clone())),
        (Bound::Text(text), DataType::Utf8View) => ScalarValue::Utf8View(Some(text.clone())),
        (Bound::Int(value), DataType::Int64) => ScalarValue::Int64(Some(*value)),
        (Bound::Int(value), DataType::Int32) => ScalarValue::Int32(i32::try_from(*value).ok()),
        (Bound::Int(value), DataType::Date32) => ScalarValue::Date32(i32::try_from(*value).ok()),
        (Bound::Int(us), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            ScalarValue::TimestampMicrosecond(Some(*us), zone.clone())
        }
        _ => return None,
    })
}

impl PruningStatistics for Ranges<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, false)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, true)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let partition = self.spec.partition_column == Some(column.name.as_str());
        let nulls =
            self.files.iter().map(|file| if partition { Some(0) } else { file.stats.columns.get(&column.name)?.nulls });
        Some(Arc::new(nulls.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.files.iter().map(|file| Some(file.rows)).collect::<UInt64Array>()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
