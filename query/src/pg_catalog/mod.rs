//! The session of an analyst's tool: the tables, and PostgreSQL's catalogue about them.
//!
//! ```text
//!   template, made once                          a connection
//!   ───────────────────                          ────────────
//!   functions, pg_catalog over empty tables ───► the same functions and pg_catalog, and the tables
//!   column comments by table oid                 as the connection's credential may see them
//! ```
//!
//! `pg_catalog` speaks of tables and columns, never of rows, so one serves all connections, and a table has one oid for all of them. Comments stand where
//! PostgreSQL keeps them: in `pg_description`, `col_description(oid, n)` and `obj_description(oid)`, which is what `\d+` and other tools ask.

mod comments;
mod functions;

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemTable, MemoryCatalogProvider, MemoryCatalogProviderList,
        SchemaProvider, TableProvider,
    },
    common::ScalarValue,
    datasource::empty::EmptyTable,
    error::{DataFusionError, Result},
    execution::{SessionState, session_state::SessionStateBuilder},
    logical_expr::lit,
    prelude::SessionContext,
};
use datafusion_postgres::datafusion_pg_catalog::{pg_catalog::context::EmptyContextProvider, setup_pg_catalog};
use schemas::{DEAD_LETTERS, TableSpec, tables};

pub(crate) use self::functions::setting;
use crate::{
    Access, Catalog, columns,
    live::{Tables, Versions},
};

/// Name of the database, as clients see it.
pub(crate) const DATABASE: &str = "daybook";
const SCHEMA: &str = "public";
const PG_CATALOG: &str = "pg_catalog";

/// What all connections share.
pub(crate) struct PgCatalog {
    catalog: Catalog,
    template: SessionState,
    pg_catalog: Arc<dyn SchemaProvider>,
    specs: Vec<&'static TableSpec>,
    /// Tables that are the same for everyone.
    fixed: Vec<(&'static str, Arc<dyn TableProvider>)>,
}

impl PgCatalog {
    /// # Errors
    /// Where the engine refuses its own tables.
    pub(crate) async fn new(catalog: &Catalog) -> Result<Self> {
        let specs: Vec<_> = tables::all().filter(|spec| spec.name != DEAD_LETTERS.name).collect();
        let comments_batch = columns::comments(&specs);
        let fixed: Arc<dyn TableProvider> =
            Arc::new(MemTable::try_new(comments_batch.schema(), vec![vec![comments_batch]])?);
        let fixed = vec![("column_comments", fixed)];
        let empty = |spec: &&'static TableSpec| -> (&'static str, Arc<dyn TableProvider>) {
            (spec.name, Arc::new(EmptyTable::new(lake::read_schema(spec))))
        };
        let shown: Vec<_> = specs.iter().map(empty).chain(fixed.clone()).collect();
        let nobody = Tables::new(catalog, &Access::Operator, &Versions::default(), &[], &shown);

        let ctx = SessionContext::new_with_state(
            SessionStateBuilder::new_from_existing(catalog.empty_session().state())
                .with_catalog_list(catalogs(Arc::new(nobody), None)?)
                .build(),
        );
        setup_pg_catalog(&ctx, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
        let pg_catalog = ctx.catalog(DATABASE).and_then(|database| database.schema(PG_CATALOG));
        let pg_catalog = pg_catalog.expect("it was set up just now");
        let comments = Arc::new(comments::of(&ctx, &specs).await?);
        ctx.register_udf(comments::col_description(comments.clone()));
        ctx.register_udf(comments::obj_description(comments.clone()));
        functions::register(&ctx);
        let missing = |name| DataFusionError::Internal(format!("the catalogue has no {name}"));
        let table = async |name| pg_catalog.table(name).await?.ok_or_else(|| missing(name));
        let pg_description = comments::pg_description(&table("pg_description").await?.schema(), &comments)?;
        let pg_class = with_nulls(&ctx, table("pg_class").await?, &["relacl", "reloptions"])?;
        let keys = &["conkey", "confkey", "conpfeqop", "conppeqop", "conffeqop", "conexclop"];
        let pg_constraint = with_lists(&table("pg_constraint").await?.schema(), keys);
        let pg_index =
            with_lists(&table("pg_index").await?.schema(), &["indkey", "indcollation", "indclass", "indoption"]);
        let other = HashMap::from([
            ("pg_description", pg_description),
            ("pg_class", pg_class),
            ("pg_constraint", pg_constraint),
            ("pg_index", pg_index),
        ]);
        let pg_catalog = Arc::new(Completed { inner: pg_catalog, other });
        Ok(Self { catalog: catalog.clone(), template: ctx.state(), pg_catalog, specs, fixed })
    }

    /// A session for `access`, and the versions that its statements read. `user` is what it is told to be called.
    pub(crate) fn session(&self, access: &Access, user: &str) -> Result<(SessionContext, Versions)> {
        let versions = Versions::default();
        let tables = Tables::new(&self.catalog, access, &versions, &self.specs, &self.fixed);
        let catalogs = catalogs(Arc::new(tables), Some(self.pg_catalog.clone()))?;
        let state = SessionStateBuilder::new_from_existing(self.template.clone()).with_catalog_list(catalogs).build();
        let context = SessionContext::new_with_state(state);
        context.register_udf(functions::constant("session_user", user));
        Ok((context, versions))
    }
}

fn catalogs(
    tables: Arc<dyn SchemaProvider>,
    pg_catalog: Option<Arc<dyn SchemaProvider>>,
) -> Result<Arc<dyn CatalogProviderList>> {
    let database = MemoryCatalogProvider::new();
    database.register_schema(SCHEMA, tables)?;
    if let Some(pg_catalog) = pg_catalog {
        database.register_schema(PG_CATALOG, pg_catalog)?;
    }
    let list = MemoryCatalogProviderList::new();
    list.register_catalog(DATABASE.to_owned(), Arc::new(database));
    Ok(Arc::new(list))
}

/// `table` with further columns of text, null everywhere, that clients ask for.
fn with_nulls(ctx: &SessionContext, table: Arc<dyn TableProvider>, names: &[&str]) -> Result<Arc<dyn TableProvider>> {
    let mut frame = ctx.read_table(table)?;
    for name in names {
        frame = frame.with_column(name, lit(ScalarValue::Utf8(None)))?;
    }
    Ok(frame.into_view())
}

/// A table without rows (we have neither keys nor indexes) whose columns `names` are lists, which clients unnest.
fn with_lists(schema: &SchemaRef, names: &[&str]) -> Arc<dyn TableProvider> {
    let fields = schema.fields().iter().map(|field| match names.contains(&field.name().as_str()) {
        true => Arc::new(Field::new_list(field.name(), Field::new_list_field(DataType::Int16, true), true)),
        false => field.clone(),
    });
    Arc::new(EmptyTable::new(Arc::new(Schema::new(fields.collect::<Fields>()))))
}

/// `pg_catalog` with some of its tables replaced.
#[derive(Debug)]
struct Completed {
    inner: Arc<dyn SchemaProvider>,
    other: HashMap<&'static str, Arc<dyn TableProvider>>,
}

#[async_trait]
impl SchemaProvider for Completed {
    fn table_names(&self) -> Vec<String> {
        self.inner.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.other.get(name.to_lowercase().as_str()) {
            Some(table) => Ok(Some(table.clone())),
            None => self.inner.table(name).await,
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.inner.table_exist(name)
    }
}
