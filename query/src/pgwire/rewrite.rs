//! Statements of PostgreSQL that the engine has no words for, said in its words.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, FunctionArguments, Ident, Query, Statement, visit_expressions_mut},
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use datafusion_postgres::pgwire::api::ClientInfo;

use crate::pg_catalog::SERVER_VERSION;

/// `ARRAY(SELECT …)`. Of the catalogue, clients ask so for options and privileges, in ways that cannot be planned; here nothing has any, and
/// `array_to_string` of them is null too.
pub(super) fn arrays(statement: &mut Statement) {
    let of_catalogue = statement.to_string().contains("pg_catalog.");
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expression| {
        if let Expr::Function(function) = expression {
            let name = function.name.0.last().map(ToString::to_string).unwrap_or_default().to_lowercase();
            let other = match (&function.args, name.as_str()) {
                (FunctionArguments::Subquery(query), "array") if !of_catalogue => aggregate(query),
                (_, "array" | "array_to_string") if of_catalogue => null_text(),
                _ => None,
            };
            if let Some(other) = other {
                *expression = other;
            }
        }
        ControlFlow::Continue(())
    });
}

fn expression(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

fn null_text() -> Option<Expr> {
    expression("CAST(NULL AS TEXT)")
}

/// The query's one column as an array.
fn aggregate(query: &Query) -> Option<Expr> {
    expression(&format!("(SELECT array_agg(element) FROM ({query}) AS elements(element))"))
}

/// What `SHOW` answers, for settings that clients ask for.
pub(super) fn setting(variable: &[Ident], client: &(impl ClientInfo + ?Sized)) -> Option<(String, String)> {
    let name = variable.iter().map(|part| part.value.to_lowercase()).collect::<Vec<_>>().join("_");
    let name = if name == "time_zone" { "timezone".to_owned() } else { name };
    let value = match name.as_str() {
        "server_version" => SERVER_VERSION,
        "server_version_num" => "160006",
        "timezone" => client.metadata().get("timezone").map_or("UTC", String::as_str),
        "client_encoding" | "server_encoding" => "UTF8",
        "standard_conforming_strings" | "transaction_read_only" | "default_transaction_read_only" => "on",
        "is_superuser" => "off",
        "transaction_isolation" | "transaction_isolation_level" => "read committed",
        "max_identifier_length" => "63",
        "lc_collate" | "lc_ctype" => "C.UTF-8",
        _ => return None,
    };
    Some((name, value.to_owned()))
}
