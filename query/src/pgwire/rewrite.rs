//! Statements of PostgreSQL that the engine has no words for, said in its words.

use std::{collections::BTreeMap, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{
        Expr, FunctionArguments, Ident, ObjectName, Query, SelectItem, SetExpr, Statement, Value, visit_expressions,
        visit_expressions_mut,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
/// `ARRAY(SELECT …)`. Of the catalogue, clients ask so for options, privileges, keys and sequences, in ways that cannot be planned; here nothing has any,
/// and what is made of them is null too.
pub(super) fn rewrite(statement: &mut Statement) {
    let of_catalogue = statement.to_string().contains("pg_catalog.");
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expression| {
        // The planner wants proof that a correlated subquery has one row.
        if let Expr::Subquery(query) = expression
            && of_catalogue
        {
            one_row(query);
        }
        if matches!(expression, Expr::Case { .. })
            && of_catalogue
            && let Some(null) = no_choice(expression)
        {
            *expression = null;
        }
        // `LIKE 'pg_%' ESCAPE '/'`, with nothing to be escaped.
        if let Expr::Like { escape_char, .. } = expression
            && of_catalogue
        {
            *escape_char = None;
        }
        if let Expr::Function(function) = expression {
            let name = function.name.0.last().map(ToString::to_string).unwrap_or_default().to_lowercase();
            let other = match (&function.args, name.as_str()) {
                (FunctionArguments::Subquery(query), "array") if !of_catalogue => aggregate(query),
                (_, "array" | "array_to_string") if of_catalogue => null_text(),
                _ => None,
            };
            if of_catalogue && name == "generate_subscripts" {
                // Beside `unnest` of the same list, which is empty. The arguments stay: parameters are told apart by their order.
                function.name = ObjectName::from(vec![Ident::new("array_lower")]);
            }
            if let Some(other) = other {
                *expression = other;
            }
        }
        ControlFlow::Continue(())
    });
}

fn parsed(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

fn null_text() -> Option<Expr> {
    parsed("CAST(NULL AS TEXT)")
}

/// Null, for a choice that looks up something of the catalogue, such as a default or a collation: no column has any. The parameters stay, since they are
/// told apart by their order.
fn no_choice(choice: &Expr) -> Option<Expr> {
    let placeholder = |expression: &Expr| match expression {
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => Some(value.to_string()),
        _ => None,
    };
    // With the type that the statement says they have.
    let (mut parameters, mut looks_up) = (BTreeMap::new(), false);
    let _: ControlFlow<()> = visit_expressions(choice, |expression| {
        match expression {
            Expr::Subquery(_) => looks_up = true,
            Expr::Cast { expr, .. } => {
                if let Some(parameter) = placeholder(expr) {
                    parameters.insert(parameter, expression.to_string());
                }
            }
            other => {
                if let Some(parameter) = placeholder(other) {
                    parameters.entry(parameter.clone()).or_insert(parameter);
                }
            }
        }
        ControlFlow::Continue(())
    });
    let known: Vec<_> = parameters.values().map(|parameter| format!("CAST({parameter} AS TEXT)")).collect();
    let known = known.join(", ");
    match (looks_up, known.is_empty()) {
        (false, _) => None,
        (true, true) => null_text(),
        (true, false) => parsed(&format!("CASE WHEN concat({known}) IS NULL THEN '' END")),
    }
}

/// Makes `SELECT x FROM …` of a subquery `SELECT max(x) FROM …`, which is the same where it has one row or none.
fn one_row(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
        select.projection.as_mut_slice()
    else {
        return;
    };
    let aggregates = ["max(", "min(", "count(", "sum(", "array_agg(", "string_agg("];
    let text = column.to_string();
    if aggregates.iter().any(|aggregate| text.to_lowercase().contains(aggregate)) {
        return;
    }
    if let Some(one) = parsed(&format!("max({text})")) {
        *column = one;
        query.order_by = None;
        query.limit_clause = None;
    }
}

/// The query's one column as an array.
fn aggregate(query: &Query) -> Option<Expr> {
    parsed(&format!("(SELECT array_agg(element) FROM ({query}) AS elements(element))"))
}
