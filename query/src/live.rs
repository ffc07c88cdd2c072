//! The tables of a connection that stays open.
//!
//! A statement may be prepared once and run for hours. So its plan holds no version of a table: which one is read is decided when the scan is planned,
//! and that happens anew whenever the statement runs. What one statement reads of one table is one version, however often it names it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{SchemaProvider, Session, TableProvider},
    error::{DataFusionError, Result},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use schemas::TableSpec;

use crate::{
    Access, Catalog, Pinned,
    fence::{Unreadable, pushdown},
};

/// The versions that the statement at hand reads.
#[derive(Clone, Default)]
pub(crate) struct Versions(Arc<Mutex<HashMap<&'static str, Arc<Pinned>>>>);

impl Versions {
    /// Another statement: it reads the newest ones.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn of(&self, catalog: &Catalog, spec: &'static TableSpec) -> crate::Result<Arc<Pinned>> {
        let known = |versions: &Self| versions.0.lock().unwrap_or_else(PoisonError::into_inner).get(spec.name).cloned();
        if let Some(pinned) = known(self) {
            return Ok(pinned);
        }
        let newest = catalog.current(spec).await?;
        let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(versions.entry(spec.name).or_insert(newest).clone())
    }
}

/// A table at whatever version is the newest when it is scanned, as `access` may see it.
struct Live {
    spec: &'static TableSpec,
    schema: SchemaRef,
    catalog: Catalog,
    access: Access,
    versions: Versions,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("table", &self.spec.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for Live {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
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
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let pinned = self.versions.of(&self.catalog, self.spec).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a table cannot be read");
            DataFusionError::External(Box::new(Unreadable { table: self.spec.name, gone: false }))
        })?;
        pinned.provider(&self.access).scan(state, projection, filters, limit).await
    }
}

/// The tables by name. Nothing can be added or taken away.
#[derive(Debug)]
pub(crate) struct Tables(Vec<(&'static str, Arc<dyn TableProvider>)>);

impl Tables {
    /// `specs` as `access` may see them, and the tables `fixed`, which are the same for everyone.
    pub(crate) fn new(
        catalog: &Catalog,
        access: &Access,
        versions: &Versions,
        specs: &[&'static TableSpec],
        fixed: &[(&'static str, Arc<dyn TableProvider>)],
    ) -> Self {
        let live = specs.iter().map(|spec| {
            let live = Live {
                spec,
                schema: lake::read_schema(spec),
                catalog: catalog.clone(),
                access: access.clone(),
                versions: versions.clone(),
            };
            (spec.name, Arc::new(live) as Arc<dyn TableProvider>)
        });
        Self(live.chain(fixed.iter().cloned()).collect())
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.iter().find(|(known, _)| *known == name).map(|(_, table)| table.clone()))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }
}
