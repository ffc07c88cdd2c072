//! What a statement may do, and how it is done.
//!
//! | statement | |
//! |---|---|
//! | SELECT, EXPLAIN, SHOW, … | reads: planned here, checked as a plan too |
//! | DECLARE … CURSOR FOR SELECT | reads; FETCH and CLOSE are the library's |
//! | SET, BEGIN, COMMIT, ROLLBACK | the connection's own state; nothing of the engine's |
//! | SAVEPOINT, RELEASE, ROLLBACK TO | nothing changes that could be undone; a failed transaction goes on from there |
//! | DEALLOCATE | forgets a prepared statement |
//! | DISCARD, RESET, UNLISTEN | what pools send when they take a connection back; there is nothing to reset that would matter |
//! | all else | refused |

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use datafusion::{
    common::{DFSchema, DFSchemaRef, ParamValues},
    dataframe::DataFrame,
    logical_expr::{EmptyRelation, LogicalPlan, LogicalPlanBuilder, lit},
    prelude::SessionContext,
    sql::sqlparser::ast::{Declare, DeclareType, FetchDirection, Ident, Set, Statement},
};
use datafusion_postgres::{
    QueryHook,
    arrow_pg::datatypes::df::encode_dataframe,
    hooks::HookClient,
    pgwire::{
        api::{
            ClientInfo,
            portal::{Format, Portal, PortalExecutionState},
            results::{QueryResponse, Response, Tag},
            stmt::StoredStatement,
            store::PortalStore,
        },
        error::PgWireResult,
        messages::response::TransactionStatus,
        types::format::FormatOptions,
    },
};

use super::{connection::FETCH_ROWS_MAX, errors, rewrite};
use crate::{Error, pg_catalog, sql};

/// The first hook: whatever it has no answer for is harmless and has one in the hooks behind it.
pub(super) struct Statements;

/// What becomes of a statement.
enum Kind<'a> {
    Reads,
    /// A setting by its name.
    Shows(&'a [Ident]),
    Cursor(&'a [Declare]),
    /// Some rows of a cursor; the library has them.
    Fetch(&'a Ident),
    /// All that are left.
    FetchAll(&'a Ident),
    /// Forgets a prepared statement, or all.
    Deallocate(&'a str),
    /// Answered with its name.
    Nothing(&'static str),
    /// Back to a savepoint, from which nothing has changed: a transaction that has failed goes on.
    Resume,
    /// For the hooks behind.
    State,
}

fn kind(statement: &Statement) -> crate::Result<Kind<'_>> {
    match statement {
        Statement::Declare { stmts } => Ok(Kind::Cursor(stmts)),
        Statement::Deallocate { name, .. } => Ok(Kind::Deallocate(&name.value)),
        Statement::Discard { .. } => Ok(Kind::Nothing("DISCARD")),
        Statement::Reset(_) => Ok(Kind::Nothing("RESET")),
        Statement::UNLISTEN { .. } => Ok(Kind::Nothing("UNLISTEN")),
        Statement::Savepoint { .. } => Ok(Kind::Nothing("SAVEPOINT")),
        Statement::ReleaseSavepoint { .. } => Ok(Kind::Nothing("RELEASE")),
        Statement::Rollback { savepoint: Some(_), .. } => Ok(Kind::Resume),
        Statement::Fetch { into: None, name, direction, .. } => match direction {
            FetchDirection::All | FetchDirection::ForwardAll => Ok(Kind::FetchAll(name)),
            FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) }
                if !limit.to_string().parse().is_ok_and(|rows: i32| rows <= FETCH_ROWS_MAX) =>
            {
                Err(Error::Refused(format!("FETCH of more than {FETCH_ROWS_MAX} rows at once, unless it is of ALL,")))
            }
            _ => Ok(Kind::Fetch(name)),
        },
        Statement::Close { .. }
        | Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. } => Ok(Kind::State),
        Statement::ShowVariable { variable } => Ok(Kind::Shows(variable)),
        Statement::Set(set) if is_own(set) => Ok(Kind::State),
        other => sql::reads_statement(other).map(|()| Kind::Reads),
    }
}

/// Whether a SET changes the connection alone. The engine's settings have a dot in their names, and some of them are everyone's.
fn is_own(set: &Set) -> bool {
    match set {
        // In quotes, one part may hold a dot.
        Set::SingleAssignment { variable, .. } => variable.0.len() == 1 && !variable.to_string().contains('.'),
        Set::SetTimeZone { .. } | Set::SetNames { .. } | Set::SetTransaction { .. } => true,
        _ => false,
    }
}

async fn plan(context: &SessionContext, statement: &Statement) -> crate::Result<LogicalPlan> {
    let mut statement = statement.clone();
    rewrite::rewrite(&mut statement);
    sql::plan(context, datafusion::sql::parser::Statement::Statement(Box::new(statement))).await
}

/// What SHOW answers: what the connection has set, of what it can set, or what is the same for all. `None` = a setting that only the library may know.
fn setting(variable: &[Ident], client: &(impl ClientInfo + ?Sized)) -> Option<(String, String)> {
    let name = variable.iter().map(|part| part.value.to_lowercase()).collect::<Vec<_>>().join("_");
    let name = if name == "time_zone" { "timezone".to_owned() } else { name };
    let own = ["timezone", "search_path"].contains(&name.as_str()).then(|| client.metadata().get(&name)).flatten();
    let value = match own {
        Some(value) => value.as_str(),
        None if name == "timezone" => "UTC",
        None => pg_catalog::setting(&name)?,
    };
    let value = value.to_owned();
    Some((name, value))
}

/// A plan of one row: a setting's value under its name.
fn shown(context: &SessionContext, (name, value): (String, String)) -> PgWireResult<DataFrame> {
    let row = LogicalPlanBuilder::empty(true).project([lit(value).alias(name)]).and_then(LogicalPlanBuilder::build);
    let row = row.map_err(|error| errors::of(Error::engine(error)))?;
    Ok(DataFrame::new(context.state(), row))
}

async fn rows(context: &SessionContext, statement: &Statement, client: &dyn HookClient) -> PgWireResult<QueryResponse> {
    let plan = plan(context, statement).await.map_err(errors::of)?;
    encoded(executed(context, plan).await?, client).await
}

async fn executed(context: &SessionContext, plan: LogicalPlan) -> PgWireResult<DataFrame> {
    context.execute_logical_plan(plan).await.map_err(|error| errors::of(Error::engine(error)))
}

async fn encoded(frame: DataFrame, client: &dyn HookClient) -> PgWireResult<QueryResponse> {
    let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
    encode_dataframe(frame, &Format::UnifiedText, Some(options)).await
}

async fn declare(context: &SessionContext, cursors: &[Declare], client: &dyn HookClient) -> PgWireResult<Response> {
    for cursor in cursors {
        let refused = || errors::of(Error::Refused("DECLARE of anything but a cursor for a query".to_owned()));
        let (Some(DeclareType::Cursor), Some(name), Some(query)) =
            (&cursor.declare_type, cursor.names.first(), &cursor.for_query)
        else {
            return Err(refused());
        };
        let query = Statement::Query(query.clone());
        sql::reads_statement(&query).map_err(errors::of)?;
        let plan = plan(context, &query).await.map_err(errors::of)?;
        client.session_extensions().get_or_insert_with(Cursors::default).declared(&name.value, plan.schema());
        let answer = encoded(executed(context, plan.clone()).await?, client).await?;
        // With its plan: drivers ask for a description of the cursor before they fetch.
        let prepared = (query.to_string(), Some((query, plan)));
        let prepared = Arc::new(StoredStatement::new(name.value.clone(), prepared, vec![]));
        let portal = Portal::new_cursor(name.value.clone(), prepared);
        portal.start(answer).await;
        client.portal_store().put_portal(Arc::new(portal));
    }
    Ok(Response::Execution(Tag::new("DECLARE CURSOR")))
}

/// All rows that are left, as they come: the library would collect them first. `None` = there is no such cursor, or it is at its end.
async fn fetch_all(name: &Ident, client: &dyn HookClient) -> Option<Response> {
    let portal = client.portal_store().get_portal(&name.value)?.value()?.clone();
    let state = portal.state();
    let mut state = state.lock().await;
    match mem::replace(&mut *state, PortalExecutionState::Finished) {
        PortalExecutionState::Suspended(answer) => Some(Response::Query(answer)),
        other => {
            *state = other;
            None
        }
    }
}

fn deallocate(name: &str, client: &dyn HookClient) -> Response {
    client.portal_store().rm_statement(name);
    Response::Execution(Tag::new("DEALLOCATE"))
}

/// A plan for a statement that is not planned, whose rows look like `schema`.
fn no_plan(schema: Option<DFSchemaRef>) -> LogicalPlan {
    let schema = schema.unwrap_or_else(|| Arc::new(DFSchema::empty()));
    LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema })
}

/// What the rows of a connection's cursors look like. FETCH is described before it runs.
#[derive(Default)]
struct Cursors(Mutex<HashMap<String, DFSchemaRef>>);

impl Cursors {
    fn declared(&self, name: &str, schema: &DFSchemaRef) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), schema.clone());
    }

    fn schema(&self, name: &str) -> Option<DFSchemaRef> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

#[async_trait]
impl QueryHook for Statements {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match kind(statement).map_err(errors::of) {
            Err(error) => Some(Err(error)),
            Ok(Kind::State | Kind::Fetch(_)) => None,
            Ok(Kind::Resume) => Some(Ok(Response::TransactionStart(Tag::new("ROLLBACK")))),
            Ok(Kind::Nothing(name)) => Some(Ok(Response::Execution(Tag::new(name)))),
            // A transaction that has failed answers nothing else; its hook says so.
            Ok(_) if client.transaction_status() == TransactionStatus::Error => None,
            Ok(Kind::Reads) => Some(rows(context, statement, client).await.map(Response::Query)),
            Ok(Kind::Shows(variable)) => {
                let setting = setting(variable, client)?;
                let answer = async { encoded(shown(context, setting)?, client).await };
                Some(answer.await.map(Response::Query))
            }
            Ok(Kind::FetchAll(cursor)) => fetch_all(cursor, client).await.map(Ok),
            Ok(Kind::Cursor(cursors)) => Some(declare(context, cursors, client).await),
            Ok(Kind::Deallocate(name)) => Some(Ok(deallocate(name, client))),
        }
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        match kind(statement).map_err(errors::of) {
            Err(error) => Some(Err(error)),
            Ok(Kind::State) => None,
            Ok(Kind::Reads) => Some(plan(context, statement).await.map_err(errors::of)),
            Ok(Kind::Shows(variable)) => {
                let setting = setting(variable, client)?;
                Some(shown(context, setting).map(|frame| frame.logical_plan().clone()))
            }
            Ok(Kind::Fetch(cursor) | Kind::FetchAll(cursor)) => {
                let cursors = client.session_extensions().get::<Cursors>();
                Some(Ok(no_plan(cursors.and_then(|cursors| cursors.schema(&cursor.value)))))
            }
            Ok(_) => Some(Ok(no_plan(None))),
        }
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match kind(statement).map_err(errors::of) {
            Err(error) => Some(Err(error)),
            // Run by the library, with its parameters, from the plan that was checked.
            Ok(Kind::State | Kind::Fetch(_) | Kind::Reads) => None,
            Ok(_) => self.handle_simple_query(statement, context, client).await,
        }
    }
}
