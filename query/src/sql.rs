//! SQL that only reads.
//!
//! Three locks, each enough alone: an allow-list on the parsed statement, DataFusion's `SQLOptions` on the plan, and a
//! session (see [`crate::Catalog::session`]) without table factories, URL tables or foreign object stores. What a query sees is not
//! decided here but by the fence below the tables.

use std::ops::ControlFlow;

use datafusion::{
    error::DataFusionError,
    execution::{SendableRecordBatchStream, context::SQLOptions},
    prelude::SessionContext,
    sql::{
        parser::{DFParserBuilder, Statement as Parsed},
        sqlparser::{
            ast::{Statement, visit_statements},
            dialect::GenericDialect,
            parser::ParserError,
        },
    },
};

use crate::{Error, Result};

/// Longest statement (bytes).
pub const MAX_SQL_BYTES: usize = 256 * 1024;
/// Deepest nesting of a statement; the parser recurses.
const MAX_SQL_DEPTH: usize = 64;

/// Runs one reading statement: a SELECT (with WITH, VALUES, set operations), EXPLAIN of one, SHOW TABLES, COLUMNS,
/// FUNCTIONS or a setting, or DESCRIBE. Dropping the stream cancels the query.
///
/// # Errors
/// [`Error::Refused`] for any other statement or more than one, [`Error::Sql`] where it is wrong. Errors may also come in
/// the stream.
pub async fn sql(ctx: &SessionContext, text: &str) -> Result<SendableRecordBatchStream> {
    let statement = parse(text)?;
    let plan = ctx.state().statement_to_plan(statement).await.map_err(Error::engine)?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|error| Error::Refused(error.strip_backtrace()))?;
    let frame = ctx.execute_logical_plan(plan).await.map_err(Error::engine)?;
    frame.execute_stream().await.map_err(Error::engine)
}

/// The one statement in `text`, if it is one that reads.
fn parse(text: &str) -> Result<Parsed> {
    if text.len() > MAX_SQL_BYTES {
        return Err(Error::Refused(format!("a statement of more than {MAX_SQL_BYTES} bytes")));
    }
    let mut statements = DFParserBuilder::new(text)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(MAX_SQL_DEPTH)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| Error::Sql(Box::new(error)))?;
    let Some(statement) = statements.pop_front() else {
        return Err(Error::Refused("an empty text".to_owned()));
    };
    if !statements.is_empty() {
        return Err(Error::Refused("more than one statement".to_owned()));
    }
    reads(&statement)?;
    Ok(statement)
}

/// Refuses what does more than read, wherever in the statement it stands.
fn reads(statement: &Parsed) -> Result<()> {
    match statement {
        Parsed::Explain(explain) => reads(&explain.statement),
        Parsed::Statement(statement) => {
            // Nested ones too: `WITH x AS (INSERT …) SELECT …`.
            let found = visit_statements(statement.as_ref(), |statement| match statement {
                Statement::Query(_)
                | Statement::Explain { .. }
                | Statement::ExplainTable { .. }
                | Statement::ShowTables { .. }
                | Statement::ShowColumns { .. }
                | Statement::ShowFunctions { .. }
                | Statement::ShowVariable { .. } => ControlFlow::Continue(()),
                other => ControlFlow::Break(verb(&other.to_string())),
            });
            match found {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(verb) => Err(Error::Refused(verb)),
            }
        }
        other => Err(Error::Refused(verb(&other.to_string()))),
    }
}

/// The first word of a statement, which names it.
fn verb(statement: &str) -> String {
    statement.split_whitespace().next().unwrap_or("this statement").to_uppercase()
}

/// What is wrong with a query, for the person who wrote it: the engine's message without its internals.
#[must_use]
pub fn message(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        },
        root => {
            let text = root.strip_backtrace();
            let kinds = ["Error during planning: ", "Execution error: ", "Schema error: ", "Arrow error: "];
            kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(&text).to_owned()
        }
    }
}
