//! Tables, read by DataFusion: files pruned by the log's statistics, rows in the order in which they were written.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, ScalarValue, Statistics, stats::Precision},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result as DataFusionResult},
    execution::{SendableRecordBatchStream, object_store::ObjectStoreUrl},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        ExecutionPlan, execute_stream, execute_stream_partitioned,
        sorts::{sort::SortExec, sort_preserving_merge::SortPreservingMergeExec},
    },
    prelude::SessionContext,
};
use schemas::{TableSpec, epoch_days};

use crate::{DataFile, Error, Lake, Result, Snapshot, Table, layout, prune::prune, store::Place};

/// Most files merged at a time: each holds a batch of rows and the fetched columns of a row group in memory. The rows of
/// more files are sorted, with spilling.
pub(crate) const MERGED_FILES_MAX: usize = 64;
/// Most runs of [`Snapshot::sorted_runs`].
const RUNS_MAX: usize = 512;
/// Rows that all runs together hold in batches, about.
const RUN_ROWS: usize = 128 << 10;
/// Rows in a batch of a run.
const RUN_BATCH_ROWS: std::ops::RangeInclusive<usize> = 512..=8192;

impl Lake {
    /// Makes the lake's store known to a session. A scan does it by itself: this is for plans that come from elsewhere.
    pub fn register_object_store(&self, context: &SessionContext) {
        register(self.place(), &context.runtime_env());
    }
}

fn register(place: &Place, runtime: &datafusion::execution::runtime_env::RuntimeEnv) {
    runtime.register_object_store(store_url(place).as_ref(), Arc::clone(&place.store));
}

/// A name for the store within a session. Another lake has another.
fn store_url(place: &Place) -> ObjectStoreUrl {
    ObjectStoreUrl::parse(format!("lake-{}://store", place.id.simple()))
        .expect("letters, digits and a dash make a scheme")
}

impl Table {
    /// Rows of `files` with these columns, in no order, as batches come. Text is `Utf8View`.
    ///
    /// # Errors
    /// Where a column is unknown or the plan fails.
    pub fn read(
        &self,
        context: &SessionContext,
        files: Vec<DataFile>,
        columns: &[&str],
    ) -> Result<SendableRecordBatchStream> {
        let schema = read_schema(self.spec);
        let indices = columns.iter().map(|column| schema.index_of(column).map_err(DataFusionError::from));
        let indices = indices.collect::<DataFusionResult<Vec<usize>>>().map_err(Error::Scan)?;
        let plan = scan(self, &context.state(), vec![files], Some(&indices), &[], None, None).map_err(Error::Scan)?;
        execute_stream(plan, context.task_ctx()).map_err(Error::Scan)
    }
}

impl Snapshot {
    /// This version as a table of DataFusion, its columns in the order of the table's schema; text is `Utf8View`.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::new(Provider { snapshot: self.clone(), schema: read_schema(self.table.spec) })
    }

    /// Rows of `files` with these columns, as one stream in the order of the table's sort columns; a sort column that is not
    /// among `columns` follows behind them. Of the rows for which `filters` do not hold, some may come all the same: filters
    /// prune files, row groups and pages, and the caller knows better how to drop the rest. With the session's
    /// `execution.parquet.pushdown_filters` rows are dropped while pages are decoded, which is worth it where few are wanted.
    ///
    /// Memory: up to 64 files are merged, a batch of each at a time. Rows of more files are sorted within
    /// the session's memory pool, and spill to disk where it has a limit.
    ///
    /// # Errors
    /// Where a column is unknown or the plan fails.
    pub fn sorted_scan(
        &self,
        context: &SessionContext,
        files: Vec<DataFile>,
        columns: &[&str],
        filters: Vec<Expr>,
    ) -> Result<SendableRecordBatchStream> {
        let plan = self.sorted_plan(context, files, columns, &filters).map_err(Error::Scan)?;
        execute_stream(plan, context.task_ctx()).map_err(Error::Scan)
    }

    /// As [`Self::sorted_scan`], but each file as a stream of its own, for whoever merges them in a better way: the rows are not copied into new
    /// batches. The more files, the smaller the batches. Of more than some hundred files, all rows come sorted in one stream.
    ///
    /// # Errors
    /// Where a column is unknown or the plan fails.
    pub fn sorted_runs(
        &self,
        context: &SessionContext,
        files: Vec<DataFile>,
        columns: &[&str],
        filters: Vec<Expr>,
    ) -> Result<Vec<SendableRecordBatchStream>> {
        let runs = || {
            let (state, schema) = (context.state(), read_schema(self.table.spec));
            let files = prune(&state, self.table.spec, &schema, files, &filters)?;
            if files.len() > RUNS_MAX {
                let plan = self.sorted_plan(context, files, columns, &filters)?;
                return Ok(vec![execute_stream(plan, context.task_ctx())?]);
            }
            let indices = self.with_sort_columns(&schema, columns)?.1;
            let (least, most) = (*RUN_BATCH_ROWS.start(), *RUN_BATCH_ROWS.end());
            let rows = (RUN_ROWS / files.len().max(1)).clamp(least, most);
            let groups = files.into_iter().map(|file| vec![file]).collect();
            let plan = scan(&self.table, &state, groups, Some(&indices), &filters, None, Some(rows))?;
            execute_stream_partitioned(plan, context.task_ctx())
        };
        runs().map_err(Error::Scan)
    }

    /// Columns with the sort columns behind that are not among them: names, and places in the schema.
    fn with_sort_columns<'a>(
        &self,
        schema: &Schema,
        columns: &[&'a str],
    ) -> DataFusionResult<(Vec<&'a str>, Vec<usize>)> {
        let mut wanted: Vec<&str> = columns.to_vec();
        wanted.extend(self.table.spec.sort_columns.iter().filter(|column| !columns.contains(column)));
        let indices = wanted.iter().map(|column| schema.index_of(column).map_err(DataFusionError::from));
        let indices = indices.collect::<DataFusionResult<_>>()?;
        Ok((wanted, indices))
    }

    pub(crate) fn sorted_plan(
        &self,
        context: &SessionContext,
        files: Vec<DataFile>,
        columns: &[&str],
        filters: &[Expr],
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let spec = self.table.spec;
        let schema = read_schema(spec);
        let (wanted, indices) = self.with_sort_columns(&schema, columns)?;
        let order = spec.sort_columns.iter().map(|column| {
            let index = wanted.iter().position(|name| name == column).expect("sort columns were added");
            PhysicalSortExpr::new_default(Arc::new(Column::new(column, index))).asc()
        });
        let order = LexOrdering::new(order).expect("every table has sort columns");

        let state = context.state();
        let files = prune(&state, spec, &schema, files, filters)?;
        let merged = files.len() <= MERGED_FILES_MAX;
        let groups = if merged {
            files.into_iter().map(|file| vec![file]).collect()
        } else {
            balanced(files, state.config().target_partitions())
        };
        let width = groups.len();
        let mut plan = scan(&self.table, &state, groups, Some(&indices), filters, None, None)?;
        if !merged {
            plan = Arc::new(SortExec::new(order.clone(), plan).with_preserve_partitioning(true));
        }
        Ok(if width > 1 { Arc::new(SortPreservingMergeExec::new(order, plan)) } else { plan })
    }
}

#[derive(Debug)]
struct Provider {
    snapshot: Snapshot,
    schema: SchemaRef,
}

/// The table's schema as it is read: text as views, which share their buffer with the decoded page.
#[must_use]
pub fn read_schema(spec: &TableSpec) -> SchemaRef {
    let schema = spec.schema();
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // They prune files, row groups and pages; DataFusion still filters the rows.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Snapshot { table, files, .. } = &self.snapshot;
        let files = prune(state, table.spec, &self.schema, files.clone(), filters)?;
        let groups = balanced(files, state.config().target_partitions());
        scan(table, state, groups, projection.map(Vec::as_slice), filters, limit, None)
    }
}

/// Files in up to `width` groups of about the same size.
fn balanced(mut files: Vec<DataFile>, width: usize) -> Vec<Vec<DataFile>> {
    files.sort_by_key(|file| std::cmp::Reverse(file.size_bytes));
    let mut groups = vec![(0, Vec::new()); width.clamp(1, files.len().max(1))];
    for file in files {
        let (bytes, group) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes).expect("there is a group");
        *bytes += file.size_bytes;
        group.push(file);
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The scan of `groups`, one partition each; a partition of one file is in the table's order. `batch_rows`: `None` = as the session has it.
fn scan(
    table: &Table,
    state: &dyn Session,
    groups: Vec<Vec<DataFile>>,
    projection: Option<&[usize]>,
    filters: &[Expr],
    limit: Option<usize>,
    batch_rows: Option<usize>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    register(table.place(), state.runtime_env());
    let schema = read_schema(table.spec);
    let is_partition = |field: &Field| Some(field.name().as_str()) == table.spec.partition_column;
    let (partition, in_file): (Vec<FieldRef>, Vec<FieldRef>) =
        schema.fields().iter().cloned().partition(|field| is_partition(field));
    // DataFusion puts partition columns last; the table has them where its schema says.
    let place = |index: usize| {
        let field = schema.field(index);
        in_file.iter().position(|other| other.name() == field.name()).unwrap_or(in_file.len())
    };
    let projection: Vec<usize> = match projection {
        Some(indices) => indices.iter().map(|index| place(*index)).collect(),
        None => (0..schema.fields().len()).map(place).collect(),
    };
    let order = table.spec.sort_columns.iter().map_while(|column| {
        let index = in_file.iter().position(|field| field.name() == column)?;
        Some(PhysicalSortExpr::new_default(Arc::new(Column::new(column, index))).asc())
    });
    let order = LexOrdering::new(order).filter(|_| groups.iter().all(|group| group.len() <= 1));
    let table_schema =
        TableSchema::builder(Arc::new(Schema::new(in_file.clone()))).with_table_partition_cols(partition).build();
    let (file_schema, full) = (Arc::clone(table_schema.file_schema()), Arc::clone(table_schema.table_schema()));
    let pushdown = state.config().options().execution.parquet.pushdown_filters;
    let mut source = ParquetSource::new(table_schema).with_enable_page_index(true).with_pushdown_filters(pushdown);
    if let Some(filter) = conjunction(filters.iter().cloned()) {
        let schema = DFSchema::try_from(full.as_ref().clone())?;
        source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
    }
    let statistics = |rows: u64, schema: &Schema| Statistics {
        num_rows: Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX)),
        ..Statistics::new_unknown(schema)
    };
    let rows = groups.iter().flatten().map(|file| file.rows).sum();
    let groups = groups.into_iter().map(|group| {
        let known = |file: &DataFile| Arc::new(statistics(file.rows, &file_schema));
        FileGroup::new(group.iter().map(|file| partitioned(table, file).with_statistics(known(file))).collect())
    });
    let config = FileScanConfigBuilder::new(store_url(table.place()), Arc::new(source))
        .with_file_groups(groups.collect())
        .with_statistics(statistics(rows, &full))
        .with_projection_indices(Some(projection))?
        .with_limit(limit)
        .with_batch_size(batch_rows)
        .with_output_ordering(order.into_iter().collect())
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn partitioned(table: &Table, file: &DataFile) -> PartitionedFile {
    let mut partitioned = PartitionedFile::new(layout::location(table.folder(), &file.path), file.size_bytes);
    let day = file.partition_value.map(|day| ScalarValue::Date32(Some(epoch_days(day))));
    partitioned.partition_values = day.into_iter().collect();
    partitioned
}
