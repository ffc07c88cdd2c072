//! A table made by an older version gets the columns that it lacks (R11).
//!
//! Columns are only ever added, and take null: old files stay as they are, and readers see nulls for what these do not have. A column
//! of another type is another table: that is refused, and nothing is changed.

use arrow::datatypes::Schema;
use serde_json::{Value, json};

use crate::{Change, CommitError, Error, Head, Result, Table, table::delta_schema};

/// Times that the columns are added beside others that do the same.
const ATTEMPTS_MAX: u32 = 10;

impl Table {
    /// Adds the columns of the table's `spec` that it lacks.
    ///
    /// # Errors
    /// [`Error::Columns`] where a column has another type or could not be null; others where the store does not answer.
    pub(crate) async fn grow(&self, head: &mut Head) -> Result<()> {
        for attempt in 1.. {
            let Some(schema) = self.grown(head)? else { return Ok(()) };
            let metadata = json!({
                "id": head.table_id(), "name": self.name(), "format": { "provider": "parquet", "options": {} },
                "schemaString": schema.to_string(),
                "partitionColumns": self.spec().partition_column.into_iter().collect::<Vec<_>>(),
                "configuration": head.state.configuration, "createdTime": self.place().now_ms(),
            });
            // Another's schema is not lost: where the metadata changed meanwhile, the commit is refused.
            let change = Change { operation: "ADD COLUMNS", metadata: Some(metadata), ..Change::default() };
            match self.commit(head, change).await {
                Ok(version) => tracing::info!(table = self.name(), version, "columns added"),
                Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => {
                    self.refresh(head).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The table's schema with the columns that it lacks; `None` where it lacks none.
    fn grown(&self, head: &Head) -> Result<Option<Value>> {
        let wrong = |detail: String| Error::Columns { table: self.name().to_owned(), detail };
        let wanted: Schema = self.spec().schema().as_ref().clone();
        let wanted = delta_schema(&wanted);
        let mut schema: Value = serde_json::from_str(head.schema_json()).map_err(|error| wrong(error.to_string()))?;
        let fields = schema["fields"].as_array_mut().ok_or_else(|| wrong("its schema has no fields".into()))?;
        let before = fields.len();
        for column in wanted["fields"].as_array().into_iter().flatten() {
            let name = column["name"].as_str().unwrap_or_default();
            match fields.iter().find(|field| field["name"] == column["name"]) {
                Some(field) if field["type"] == column["type"] => {}
                Some(field) => {
                    return Err(wrong(format!("column {name} is {} in place of {}", field["type"], column["type"])));
                }
                None if column["nullable"] == true => fields.push(column.clone()),
                None => return Err(wrong(format!("it lacks column {name}, which is never null"))),
            }
        }
        Ok((fields.len() > before).then_some(schema))
    }
}
