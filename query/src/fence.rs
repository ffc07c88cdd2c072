//! The fence: a table of which one organisation's rows are all there is.
//!
//! ```text
//!   SQL, REST, views, joins …          see only what comes out here
//!   ─────────────────────────────────────────────────────────────
//!   FenceExec     keeps rows with org_id = <org> (and of some people alone, or under pseudonyms), drops the rest; a leaf of the plan
//!     └─ the table's own scan          org_id = <org> pushed down, so that foreign files are not even read
//! ```
//!
//! Every statement goes through `Fence`, so none has to be checked for what it might see; REST also reads whole organisations out of memory (`hot`). Invariants:
//! 1. Rows are filtered here, on the column itself. The filter pushed down saves work; nothing depends on it.
//! 2. No expression of a query is evaluated on a foreign row: `CAST(user_key AS INT)` would name it in its error. Only
//!    comparisons of a column with a literal go below the fence (see `harmless`); the rest is evaluated above.
//! 3. What is below is hidden: the node has no children, no statistics and only its own metrics. So the optimizer can
//!    neither push anything through nor answer `count(*)` or `max(x)` from file statistics, and EXPLAIN shows no paths,
//!    row counts or minima of others.
//! 4. Errors from below stay below: they go to the log, and the query learns that the table cannot be read.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, StringArray},
    compute::{and_kleene, cast, filter_record_batch, kernels::cmp::eq},
    datatypes::{DataType, Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ScalarValue, tree_node::TreeNodeRecursion},
    config::ConfigOptions,
    error::{DataFusionError, Result},
    execution::TaskContext,
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType},
    physical_expr::{
        AcrossPartitions, ConstExpr, EquivalenceProperties, Partitioning, PhysicalExpr, expressions::Column,
        projection::ProjectionMapping,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
        execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions},
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use directory::PseudonymKey;
use futures::StreamExt;
use parquet::errors::ParquetError;

use crate::{
    policy::{Forbidden, Rows, USER_COLUMN},
    views::Viewer,
};

/// The column that says whose a row is.
pub const ORG_COLUMN: &str = "org_id";

/// A table as one organisation, or a part of it, may see it.
#[derive(Debug)]
pub(crate) struct Fence {
    table: &'static str,
    inner: Arc<dyn TableProvider>,
    rows: Rows,
    viewer: Option<Viewer>,
}

impl Fence {
    /// `rows` of `inner`; `table` names it in plans and errors. That `viewer` looks at people is put on record.
    #[must_use]
    pub(crate) fn new(table: &'static str, inner: Arc<dyn TableProvider>, rows: Rows, viewer: Option<Viewer>) -> Self {
        Self { table, inner, rows, viewer }
    }
}

/// A table that says that it may not be seen.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) schema: SchemaRef,
    pub(crate) why: Forbidden,
}

#[async_trait]
impl TableProvider for Closed {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::External(Box::new(self.why.clone())))
    }
}

/// The table could not be read. Says nothing of why: the cause may name files or rows of others, and is in the log.
#[derive(Debug, thiserror::Error)]
#[error("table `{table}` cannot be read at the moment; the cause is in the service's log")]
pub struct Unreadable {
    /// Table.
    pub table: &'static str,
    /// A file of this version is not there any more.
    pub gone: bool,
}

impl Unreadable {
    fn hide(table: &'static str, error: DataFusionError) -> DataFusionError {
        // A budget is the query's own and holds no rows.
        if let DataFusionError::ResourcesExhausted(_) = error.find_root() {
            return error;
        }
        let gone = is_gone(&error);
        tracing::error!(table, gone, error = &error as &dyn std::error::Error, "a scan failed");
        DataFusionError::External(Box::new(Self { table, gone }))
    }
}

/// Whether an error comes from a file that is not there any more: vacuum took it after this version was superseded.
pub(crate) fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(unreadable) = error.downcast_ref::<Unreadable>() {
            return unreadable.gone;
        }
        if let Some(object_store::Error::NotFound { .. }) = error.downcast_ref::<object_store::Error>() {
            return true;
        }
        // DataFusion turns the store's error into text when it fetches a file's footer.
        if let Some(ParquetError::General(text)) = error.downcast_ref::<ParquetError>()
            && text.contains("not found")
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// True for filters that cannot fail and that compare columns only with literals.
fn harmless(filter: &Expr) -> bool {
    let column = |expr: &Expr| matches!(expr, Expr::Column(_));
    let literal = |expr: &Expr| matches!(expr, Expr::Literal(..));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            harmless(left) && harmless(right)
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
            right,
        }) => (column(left) && literal(right)) || (literal(left) && column(right)),
        Expr::Between(between) => column(&between.expr) && literal(&between.low) && literal(&between.high),
        Expr::InList(list) => column(&list.expr) && list.list.iter().all(literal),
        Expr::IsNull(expr) | Expr::IsNotNull(expr) => column(expr),
        Expr::Not(expr) => harmless(expr),
        _ => false,
    }
}

/// Which filters go below the fence. All are evaluated above it too.
pub(crate) fn pushdown(filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    let support = filters.iter().map(|filter| match harmless(filter) {
        true => TableProviderFilterPushDown::Inexact,
        false => TableProviderFilterPushDown::Unsupported,
    });
    support.collect()
}

#[async_trait]
impl TableProvider for Fence {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(pushdown(filters))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.inner.schema();
        if let Some(viewer) = &self.viewer {
            let people_at = schema.index_of(USER_COLUMN)?;
            let names = |filter: &Expr| filter.column_refs().iter().any(|column| column.name == USER_COLUMN);
            let reads = projection.is_none_or(|wanted| wanted.contains(&people_at)) || filters.iter().any(names);
            let looked = viewer.looks_at(self.table, filters.iter().find_map(person), reads).await;
            // Why it could not be put on record is in the log.
            looked.map_err(|_| DataFusionError::External(Box::new(Unreadable { table: self.table, gone: false })))?;
        }
        let wanted = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut read = wanted.clone();
        // Where a column is read, which is added where it was not asked for.
        let mut at = |column: &str| -> Result<usize> {
            let index = schema.index_of(column)?;
            Ok(read.iter().position(|read| *read == index).unwrap_or_else(|| {
                read.push(index);
                read.len() - 1
            }))
        };
        let keep = Keep {
            org_at: at(ORG_COLUMN)?,
            only_at: self.rows.only.as_ref().map(|(column, _)| at(column)).transpose()?,
            rows: self.rows.clone(),
            width: wanted.len(),
        };
        let literal = |column: &str, value: &str| -> Result<Expr> {
            let value = ScalarValue::from(value).cast_to(schema.field_with_name(column)?.data_type())?;
            Ok(Expr::Literal(value, None))
        };
        let mut below = vec![Expr::Column(ORG_COLUMN.into()).eq(literal(ORG_COLUMN, self.rows.org.as_str())?)];
        if let Some((column, values)) = &self.rows.only
            && values.len() <= VALUES_BELOW_MAX
        {
            let values = values.iter().map(|value| literal(column, value)).collect::<Result<_>>()?;
            below.push(Expr::Column((*column).into()).in_list(values, false));
        }
        // A pseudonym says nothing about the value that it stands for.
        let hidden = |filter: &Expr| {
            self.rows.pseudonyms.is_some() && filter.column_refs().iter().any(|column| column.name == USER_COLUMN)
        };
        below.extend(filters.iter().filter(|filter| harmless(filter) && !hidden(filter)).cloned());
        // No limit: it would count foreign rows.
        let plan = self
            .inner
            .scan(state, Some(&read), &below, None)
            .await
            .map_err(|error| Unreadable::hide(self.table, error))?;
        Ok(Arc::new(FenceExec::new(self.table, plan, keep)?))
    }
}

/// The one person whom a filter leaves.
fn person(filter: &Expr) -> Option<&str> {
    fn text(expr: &Expr) -> Option<&str> {
        match expr {
            Expr::Literal(value, _) => value.try_as_str().flatten(),
            _ => None,
        }
    }
    let is_person = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == USER_COLUMN);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_person(left) => text(right),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) if is_person(right) => text(left),
        Expr::InList(list) if is_person(&list.expr) && !list.negated && list.list.len() == 1 => text(&list.list[0]),
        _ => None,
    }
}

/// Most values of a column that are looked for in files; more are only looked for in rows.
const VALUES_BELOW_MAX: usize = 200;

/// What of the rows below is kept.
#[derive(Clone, Debug)]
struct Keep {
    rows: Rows,
    /// Position of the organisation's column below.
    org_at: usize,
    /// Position of the column that takes certain values alone.
    only_at: Option<usize>,
    /// The first so many columns below are the output.
    width: usize,
}

impl Keep {
    /// The rows of `batch` that are kept, in the columns of `schema`; the order stays. Rows without an organisation are nobody's.
    fn of(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let column = batch.column(self.org_at);
        let own = cast(&StringArray::from(vec![self.rows.org.as_str()]), column.data_type())?;
        let mut kept: BooleanArray = eq(column, &Scalar::new(own))?;
        if let (Some(at), Some((_, values))) = (self.only_at, &self.rows.only) {
            let texts = cast(batch.column(at), &DataType::Utf8View)?;
            let allowed = texts.as_string_view().iter().map(|text| text.is_some_and(|text| values.contains(text)));
            kept = and_kleene(&kept, &allowed.map(Some).collect())?;
        }
        let columns = batch.columns()[..self.width].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
        let batch = match kept.null_count() == 0 && kept.true_count() == kept.len() {
            true => batch,
            false => filter_record_batch(&batch, &kept)?,
        };
        match (&self.rows.pseudonyms, schema.index_of(USER_COLUMN)) {
            (Some(key), Ok(at)) => under_pseudonyms(&batch, at, key),
            _ => Ok(batch),
        }
    }
}

/// `batch` with pseudonyms in its column `at`.
fn under_pseudonyms(batch: &RecordBatch, at: usize, key: &PseudonymKey) -> Result<RecordBatch> {
    let field = batch.schema().field(at).clone();
    let people = cast(batch.column(at), &DataType::Utf8View)?;
    // Rows of one person mostly follow each other.
    let (mut last, mut pseudonym) = (None, String::new());
    let pseudonyms = people.as_string_view().iter().map(|person| {
        if person.is_some() && person != last {
            pseudonym = key.pseudonym(person.unwrap_or_default());
            last = person;
        }
        person.map(|_| pseudonym.clone())
    });
    let pseudonyms: StringArray = pseudonyms.collect();
    let mut columns = batch.columns().to_vec();
    columns[at] = cast(&pseudonyms, field.data_type())?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// Scans and keeps what may be seen; drops the columns that were not asked for.
#[derive(Debug)]
struct FenceExec {
    table: &'static str,
    inner: Arc<dyn ExecutionPlan>,
    keep: Keep,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl FenceExec {
    fn new(table: &'static str, inner: Arc<dyn ExecutionPlan>, keep: Keep) -> Result<Self> {
        let below = inner.schema();
        let kept: Vec<usize> = (0..keep.width).collect();
        let schema: SchemaRef = Arc::new(below.project(&kept)?);
        let equivalences = match &keep.rows.pseudonyms {
            // Pseudonyms have another order than people.
            Some(_) => EquivalenceProperties::new(schema),
            None => {
                // Within one organisation the files' order (org_id, user_key, …) is an order by user_key.
                let mut known: EquivalenceProperties = inner.properties().equivalence_properties().clone();
                let org_column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(ORG_COLUMN, keep.org_at));
                known.add_constants([ConstExpr::new(org_column, AcrossPartitions::Uniform(None))])?;
                known.project(&ProjectionMapping::from_indices(&kept, &below)?, schema)
            }
        };
        let properties = inner.properties().as_ref().clone().with_eq_properties(equivalences).with_partitioning(
            Partitioning::UnknownPartitioning(inner.properties().output_partitioning().partition_count()),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Ok(Self { table, inner, keep, properties: Arc::new(properties), metrics })
    }
}

impl DisplayAs for FenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let schema: &Schema = self.properties.equivalence_properties().schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "FenceExec: table={}, columns=[{}]", self.table, columns.join(", "))
    }
}

impl ExecutionPlan for FenceExec {
    fn name(&self) -> &'static str {
        "FenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn repartitioned(&self, target: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(inner) = self.inner.repartitioned(target, config)? else { return Ok(None) };
        Ok(Some(Arc::new(Self::new(self.table, inner, self.keep.clone())?)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let table = self.table;
        let below = self.inner.execute(partition, context).map_err(|error| Unreadable::hide(table, error))?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let (keep, schema) = (self.keep.clone(), self.schema());
        let out_schema = schema.clone();
        let rows = below.filter_map(move |batch| {
            let batch =
                batch.map_err(|error| Unreadable::hide(table, error)).and_then(|batch| keep.of(&batch, &out_schema));
            if let Ok(batch) = &batch {
                metrics.record_output(batch.num_rows());
            }
            futures::future::ready(match batch {
                Ok(batch) if batch.num_rows() == 0 => None,
                other => Some(other),
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
