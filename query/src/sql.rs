//! SQL that only reads.
//!
//! Three locks, each enough alone: an allow-list on the parsed statement, DataFusion's `SQLOptions` on the plan, and a
//! session (see [`crate::Catalog::session`]) without table factories, URL tables or foreign object stores. What a query sees is not
//! decided here but by the fence below the tables.

use std::ops::ControlFlow;

use datafusion::{
    arrow::datatypes::SchemaRef,
    error::DataFusionError,
    execution::{SendableRecordBatchStream, context::SQLOptions},
    logical_expr::LogicalPlan,
    prelude::SessionContext,
    sql::{
        parser::{DFParserBuilder, Statement as Parsed},
        sqlparser::{
            ast::{Statement, visit_statements},
            dialect::{GenericDialect, PostgreSqlDialect},
            keywords::Keyword,
            parser::ParserError,
            tokenizer::{Token, Tokenizer},
        },
    },
};

use crate::{Error, Result};

/// Longest statement (bytes).
pub const MAX_SQL_BYTES: usize = 256 * 1024;
/// Operators, joins and set operations in a row, each of which may nest the rest.
const MAX_SQL_OPERATORS: usize = 300;
/// Deepest nesting of a statement; the parser recurses.
pub(crate) const MAX_SQL_DEPTH: usize = 64;

/// Runs one reading statement: a SELECT (with WITH, VALUES, set operations), EXPLAIN of one, SHOW TABLES, COLUMNS,
/// FUNCTIONS or a setting, or DESCRIBE. Dropping the stream cancels the query.
///
/// # Errors
/// [`Error::Refused`] for any other statement or more than one, [`Error::Sql`] where it is wrong. Errors may also come in
/// the stream.
pub async fn sql(ctx: &SessionContext, text: &str) -> Result<SendableRecordBatchStream> {
    let statement = parse(text)?;
    let plan = plan(ctx, statement).await?;
    let frame = ctx.execute_logical_plan(plan).await.map_err(Error::engine)?;
    frame.execute_stream().await.map_err(Error::engine)
}

/// What the rows of [`sql`](fn@sql) will look like; runs nothing.
///
/// # Errors
/// As [`sql`](fn@sql).
pub(crate) async fn schema(ctx: &SessionContext, text: &str) -> Result<SchemaRef> {
    Ok(plan(ctx, parse(text)?).await?.schema().inner().clone())
}

/// Plans a statement that [`reads`]; as a plan it must only read, too.
pub(crate) async fn plan(ctx: &SessionContext, statement: Parsed) -> Result<LogicalPlan> {
    let plan = ctx.state().statement_to_plan(statement).await.map_err(Error::engine)?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|error| Error::Refused(error.strip_backtrace()))?;
    Ok(plan)
}

/// The one statement in `text`, if it is one that reads.
fn parse(text: &str) -> Result<Parsed> {
    check_size(text)?;
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

/// Refuses what is larger than any statement need be.
///
/// The parser bounds how deep brackets nest, but `1 + 1 + 1 …` nests too, one level an operator, and what walks or drops such a tree uses a stack frame a
/// level.
pub(crate) fn check_size(text: &str) -> Result<()> {
    if text.len() > MAX_SQL_BYTES {
        return Err(Error::Refused(format!("a statement of more than {MAX_SQL_BYTES} bytes")));
    }
    // What is no text of tokens is the parser's to refuse.
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize() else { return Ok(()) };
    if depth(&tokens) > MAX_SQL_OPERATORS {
        let detail = format!("more than {MAX_SQL_OPERATORS} operators in a row (IN takes a list of any length)");
        return Err(Error::Refused(detail));
    }
    Ok(())
}

/// How deep a statement may nest by what stands between its tokens: the operators in a row, those around the brackets included.
fn depth(tokens: &[Token]) -> usize {
    /// What has nested so far between two brackets.
    #[derive(Clone, Copy, Default)]
    struct Level {
        operators: usize,
        tables: usize,
    }
    let (mut outer, mut level, mut deepest) = (Vec::new(), Level::default(), 0);
    // Of all outer levels.
    let mut sum = 0;
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket => {
                outer.push(level);
                sum += level.operators + level.tables;
                level = Level::default();
            }
            Token::RParen | Token::RBracket => {
                // An index nests what it follows.
                let before = outer.pop().unwrap_or_default();
                sum -= before.operators + before.tables;
                level = Level { operators: before.operators + usize::from(*token == Token::RBracket), ..before };
            }
            Token::Comma | Token::SemiColon => level.operators = 0,
            Token::Word(word) => match word.keyword {
                Keyword::JOIN | Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT => level.tables += 1,
                Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::ON
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::ORDER
                | Keyword::WHEN
                | Keyword::THEN
                | Keyword::ELSE => level.operators = 0,
                Keyword::AND | Keyword::OR | Keyword::XOR | Keyword::IS | Keyword::LIKE | Keyword::ILIKE => {
                    level.operators += 1
                }
                Keyword::IN | Keyword::BETWEEN | Keyword::AT | Keyword::COLLATE | Keyword::DIV => level.operators += 1,
                _ => {}
            },
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::Period
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Placeholder(_) => {}
            _ => level.operators += 1,
        }
        deepest = deepest.max(sum + level.operators + level.tables);
    }
    deepest
}

/// Refuses what does more than read, wherever in the statement it stands.
fn reads(statement: &Parsed) -> Result<()> {
    match statement {
        Parsed::Explain(explain) => reads(&explain.statement),
        Parsed::Statement(statement) => reads_statement(statement),
        other => Err(Error::Refused(verb(&other.to_string()))),
    }
}

/// As [`reads`].
pub(crate) fn reads_statement(statement: &Statement) -> Result<()> {
    // Nested ones too: `WITH x AS (INSERT …) SELECT …`.
    let found = visit_statements(statement, |statement| match statement {
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

/// The first word of a statement, which names it.
fn verb(statement: &str) -> String {
    statement.split_whitespace().next().unwrap_or("this statement").to_uppercase()
}

/// What is wrong with a text that is no SQL.
pub(crate) fn parser_message(error: &ParserError) -> String {
    match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
    }
}

/// What is wrong with a query, for the person who wrote it: the engine's message without its internals.
#[must_use]
pub fn message(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => parser_message(error),
        root => {
            let text = root.strip_backtrace();
            let kinds = ["Error during planning: ", "Execution error: ", "Schema error: ", "Arrow error: "];
            kinds.iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(&text).to_owned()
        }
    }
}
