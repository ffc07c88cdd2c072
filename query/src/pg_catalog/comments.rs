//! Comments of tables and columns, where PostgreSQL keeps them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type, SchemaRef},
};
use datafusion::{
    catalog::{MemTable, TableProvider},
    common::cast::as_int32_array,
    error::Result,
    logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf},
    prelude::SessionContext,
};
use schemas::TableSpec;

use super::functions::texts;
use crate::http::resources::resources;

/// All comments.
#[derive(Default)]
pub(super) struct Comments {
    /// By oid of the table and number of the column; 0 is the table itself.
    texts: BTreeMap<(i32, i32), String>,
    /// Oid of `pg_class`: what `classoid` says of tables and columns.
    pg_class: i32,
}

impl Comments {
    fn get(&self, table: i32, column: i32) -> Option<String> {
        self.texts.get(&(table, column)).cloned()
    }
}

/// The comments of `specs`, by the oids that the catalogue gave them.
pub(super) async fn of(ctx: &SessionContext, specs: &[&'static TableSpec]) -> Result<Comments> {
    let mut found = Comments::default();
    for batch in ctx.sql("SELECT oid, relname FROM pg_catalog.pg_class").await?.collect().await? {
        let oids = batch.column(0).as_primitive::<Int32Type>();
        let names = batch.column(1).as_string::<i32>();
        for (oid, name) in oids.values().iter().zip(names.iter().flatten()) {
            if name == "pg_class" {
                found.pg_class = *oid;
            }
            let Some(spec) = specs.iter().find(|spec| spec.name == name) else { continue };
            if let Some(resource) = resources().iter().find(|resource| resource.spec.name == name) {
                found.texts.insert((*oid, 0), resource.about.to_owned());
            }
            for (number, field) in (1..).zip(spec.schema().fields()) {
                if let Some(comment) = field.metadata().get("comment") {
                    found.texts.insert((*oid, number), comment.clone());
                }
            }
        }
    }
    Ok(found)
}

/// `col_description(table oid, column number)`: the column's comment, or null.
pub(super) fn col_description(comments: Arc<Comments>) -> ScalarUDF {
    let describe = move |arguments: &[ColumnarValue]| {
        let arguments = ColumnarValue::values_to_arrays(arguments)?;
        let (oids, numbers) = (as_int32_array(&arguments[0])?, as_int32_array(&arguments[1])?);
        let comment = |row: usize| {
            let known = oids.is_valid(row) && numbers.is_valid(row) && numbers.value(row) > 0;
            known.then(|| comments.get(oids.value(row), numbers.value(row))).flatten()
        };
        Ok(ColumnarValue::Array(texts(oids.len(), comment)))
    };
    let arguments = vec![DataType::Int32, DataType::Int32];
    create_udf("col_description", arguments, DataType::Utf8, Volatility::Stable, Arc::new(describe))
}

/// `obj_description(oid, catalogue)`: the table's comment, or null.
pub(super) fn obj_description(comments: Arc<Comments>) -> ScalarUDF {
    let describe = move |arguments: &[ColumnarValue]| {
        let arguments = ColumnarValue::values_to_arrays(arguments)?;
        let (oids, kinds) = (as_int32_array(&arguments[0])?, cast(&arguments[1], &DataType::Utf8)?);
        let kinds = kinds.as_string::<i32>();
        let comment = |row: usize| {
            let known = oids.is_valid(row) && kinds.is_valid(row) && kinds.value(row) == "pg_class";
            known.then(|| comments.get(oids.value(row), 0)).flatten()
        };
        Ok(ColumnarValue::Array(texts(oids.len(), comment)))
    };
    let arguments = vec![DataType::Int32, DataType::Utf8];
    create_udf("obj_description", arguments, DataType::Utf8, Volatility::Stable, Arc::new(describe))
}

/// `pg_description`: `comments` in the columns of `schema`.
pub(super) fn pg_description(schema: &SchemaRef, comments: &Comments) -> Result<Arc<dyn TableProvider>> {
    let columns = schema.fields().iter().map(|field| {
        let column: ArrayRef = match field.name().as_str() {
            "objoid" => Arc::new(comments.texts.keys().map(|(oid, _)| *oid).collect::<Int32Array>()),
            "classoid" => Arc::new(comments.texts.keys().map(|_| comments.pg_class).collect::<Int32Array>()),
            "objsubid" => Arc::new(comments.texts.keys().map(|(_, number)| *number).collect::<Int32Array>()),
            _ => Arc::new(comments.texts.values().map(|text| Some(text.as_str())).collect::<StringArray>()),
        };
        Ok(cast(&column, field.data_type())?)
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_>>()?)?;
    Ok(Arc::new(MemTable::try_new(schema.clone(), vec![vec![batch]])?))
}
