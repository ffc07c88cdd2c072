//! Tables, read by DataFusion: files pruned by the log's statistics, rows in the order in which they were written.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ScalarValue, Statistics, stats::Precision},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result as DataFusionResult},
    execution::{SendableRecordBatchStream, object_store::ObjectStoreUrl},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{ExecutionPlan, coalesce_partitions::CoalescePartitionsExec, execute_stream, sorts::{sort::SortExec, sort_preserving_merge::SortPreservingMergeExec}},
    prelude::SessionContext,
};
use jiff::civil::Date;
use object_store::ObjectMeta;

use crate::{
    DataFile, Error, Result, Snapshot,
    store::Lake,
    table::Table,
};

/// Most files merged at a time: each holds a batch of rows and its decoders in memory. More are sorted, with spilling.
pub const MERGED_FILES_MAX: usize = 64;

impl Lake {
    /// Makes the lake's store known to a session. [`Snapshot::provider`] does it by itself when it is scanned.
    pub fn register_object_store(&self, context: &SessionContext) {
        let table = self.table(&schemas::EVENTS);
        context.runtime_env().register_object_store(table.store_url().as_ref(), table.store.clone());
    }
}

impl Table {
    /// A name for the store within a session. A lake at another place has another.
    fn store_url(&self) -> ObjectStoreUrl {
        ObjectStoreUrl::parse(format!("lake-{}://store", self.store_id)).expect("scheme and authority are plain letters")
    }
}

impl Snapshot {
    /// This version as a table of DataFusion, its columns in the order of the table's schema; text is `Utf8View`.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::new(Provider { snapshot: self.clone(), schema: read_schema(self.table.spec.schema) })
    }

    /// The rows of `files` with these columns, for which `filters` may hold (a row for which they do not may still come:
    /// they prune), as one stream in the order of the table's sort columns. Sort columns that are not among `columns` are added
    /// behind them.
    ///
    /// Memory: up to [`MERGED_FILES_MAX`] files are merged, a batch of each; more are sorted and may spill to disk.
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
        let schema = read_schema(self.table.spec.schema);
        let mut wanted: Vec<&str> = columns.to_vec();
        wanted.extend(self.table.spec.sort_columns.iter().filter(|column| !columns.contains(column)));
        let indices = wanted.iter().map(|column| schema.index_of(column).map_err(DataFusionError::from));
        let indices: Vec<usize> = indices.collect::<DataFusionResult<_>>().map_err(Error::Scan)?;
        let state = context.state();
        let plan = (|| {
            let groups = files.iter().map(|file| vec![file.clone()]).collect();
            let scan = scan(&self.table, &state, groups, Some(&indices), &filters, None)?;
            let order = self.table.spec.sort_columns.iter().map(|column| {
                let index = wanted.iter().position(|name| name == column).expect("sort columns were added");
                PhysicalSortExpr::new_default(Arc::new(Column::new(column, index)))
            });
            let order = LexOrdering::new(order).expect("every table has sort columns");
            Ok(match files.len() {
                0 | 1 => scan,
                2..=MERGED_FILES_MAX => Arc::new(SortPreservingMergeExec::new(order, scan)) as Arc<dyn ExecutionPlan>,
                _ => Arc::new(SortExec::new(order, Arc::new(CoalescePartitionsExec::new(scan)))),
            })
        })();
        let plan: Arc<dyn ExecutionPlan> = plan.map_err(Error::Scan)?;
        execute_stream(plan, context.task_ctx()).map_err(Error::Scan)
    }
}

#[derive(Debug)]
struct Provider {
    snapshot: Snapshot,
    schema: SchemaRef,
}

/// The table's schema as it is read: text as views, which share their buffer with the decoded page.
fn read_schema(schema: fn() -> SchemaRef) -> SchemaRef {
    let schema = schema();
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
        let files: Vec<DataFile> =
            self.snapshot.files.iter().filter(|file| filters.iter().all(|filter| may_hold(filter, file))).cloned().collect();
        let width = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut groups = vec![Vec::new(); width];
        for (index, file) in files.into_iter().enumerate() {
            groups[index % width].push(file);
        }
        scan(&self.snapshot.table, state, groups, projection.map(Vec::as_slice), filters, limit)
    }
}

fn scan(
    table: &Table,
    state: &dyn Session,
    groups: Vec<Vec<DataFile>>,
    projection: Option<&[usize]>,
    filters: &[Expr],
    limit: Option<usize>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    state.runtime_env().register_object_store(table.store_url().as_ref(), table.store.clone());
    let schema = read_schema(table.spec.schema);
    let is_partition = |field: &Field| Some(field.name().as_str()) == table.spec.partition_column;
    let (partition, file): (Vec<FieldRef>, Vec<FieldRef>) = schema.fields().iter().cloned().partition(|field| is_partition(field));
    // DataFusion puts partition columns last; the table has them where its schema says.
    let place = |index: usize| {
        let field = schema.field(index);
        if is_partition(field) { file.len() } else { file.iter().position(|other| other.name() == field.name()).expect("a file column") }
    };
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let projection: Vec<usize> = projection.unwrap_or(&all).iter().map(|index| place(*index)).collect();
    let table_schema = TableSchema::builder(Arc::new(Schema::new(file.clone()))).with_table_partition_cols(partition).build();
    let mut source = ParquetSource::new(table_schema.clone()).with_enable_page_index(true);
    if let Some(filter) = conjunction(filters.iter().cloned()) {
        let schema = datafusion::common::DFSchema::try_from(table_schema.table_schema().as_ref().clone())?;
        source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
    }
    let order = table.spec.sort_columns.iter().filter_map(|column| {
        let index = file.iter().position(|field| field.name() == column)?;
        Some(PhysicalSortExpr::new_default(Arc::new(Column::new(column, index))))
    });
    let sorted = groups.iter().all(|group| group.len() <= 1);
    let groups = groups.into_iter().map(|group| group.iter().map(|file| partitioned(table, file)).collect::<Vec<_>>());
    let config = FileScanConfigBuilder::new(table.store_url(), Arc::new(source))
        .with_file_groups(groups.map(FileGroup::new).collect())
        .with_projection_indices(Some(projection))?
        .with_limit(limit)
        .with_output_ordering(LexOrdering::new(order).filter(|_| sorted).into_iter().collect())
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn partitioned(table: &Table, file: &DataFile) -> PartitionedFile {
    let meta = ObjectMeta {
        location: table.location(&file.path),
        last_modified: Default::default(),
        size: file.size_bytes,
        e_tag: None,
        version: None,
    };
    let mut partitioned = PartitionedFile::from(meta);
    partitioned.partition_values = file.partition_value.map(|day| ScalarValue::Date32(Some(days(day)))).into_iter().collect();
    let columns = (table.spec.schema)().fields().len();
    let statistics = Statistics {
        num_rows: Precision::Exact(usize::try_from(file.rows).unwrap_or(usize::MAX)),
        ..Statistics::new_unknown(&Schema::new(vec![Field::new("x", DataType::Int32, true); columns]))
    };
    partitioned.statistics = Some(Arc::new(statistics));
    partitioned
}

fn days(day: Date) -> i32 {
    let epoch = Date::new(1970, 1, 1).expect("a date");
    (day - epoch).get_days()
}

/// False only where the log's statistics rule out every row of the file.
fn may_hold(filter: &Expr, file: &DataFile) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return true };
    if *op == Operator::And {
        return may_hold(left, file) && may_hold(right, file);
    }
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => match op.swap() {
            Some(op) => (column, op, value),
            None => return true,
        },
        _ => return true,
    };
    let outside = |less_than_min: bool, equals_min: bool, greater_than_max: bool, equals_max: bool| match op {
        Operator::Eq => less_than_min || greater_than_max,
        Operator::Lt => less_than_min || equals_min,
        Operator::LtEq => less_than_min,
        Operator::Gt => greater_than_max || equals_max,
        Operator::GtEq => greater_than_max,
        _ => false,
    };
    if let (Some(day), true, ScalarValue::Date32(Some(value))) = (file.partition_value, file.partition_column.as_deref() == Some(column.name.as_str()), value) {
        let day = days(day);
        return !outside(*value < day, *value == day, *value > day, *value == day);
    }
    let Some(range) = file.ranges.get(&column.name) else { return true };
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            let (Some(min), Some(max)) = (range.min.as_str(), range.max.as_str()) else { return true };
            !outside(text.as_str() < min, text == min, text.as_str() > max, text == max)
        }
        ScalarValue::TimestampMicrosecond(Some(us), _) => {
            let (Some(min), Some(max)) = (file.min_time_us(&column.name), file.max_time_us(&column.name)) else { return true };
            // Statistics have milliseconds, the greatest rounded up: never "equal".
            !outside(*us < min, false, *us > max, false)
        }
        _ => true,
    }
}
