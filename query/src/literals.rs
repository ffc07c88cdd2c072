//! Statements without their values, for the log.
//!
//! A literal is content: it may be an address, a name, or a line that somebody wrote. So a statement is told by its shape alone: parsed, its literals
//! made `?`, and written anew, which loses comments. Names stay, those in double quotes too.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Statement, Value, ValueWithSpan, VisitMut as _, VisitorMut},
    dialect::Dialect,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use crate::sql::{MAX_SQL_DEPTH, check_size};

/// Longest text that is told (characters); the rest is cut off.
const CHARS_MAX: usize = 2000;

/// `text` with `?` for every literal but NULL, and cut off where it is long. `None` where it cannot be parsed, or is of a kind whose parts
/// are not known: what cannot be understood is not told at all.
pub(crate) fn without_literals(text: &str, dialect: &dyn Dialect) -> Option<String> {
    check_size(text).ok()?;
    let parser = Parser::new(dialect).with_recursion_limit(MAX_SQL_DEPTH);
    let mut statements = parser.try_with_sql(text).ok()?.parse_statements().ok()?;
    if !statements.iter().all(is_known) {
        return None;
    }
    let ControlFlow::Continue(()) = statements.visit(&mut Values);
    let text = statements.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    // Some literals are no values to the parser: a type's length, an alias or a table's name in single quotes, a hint in a comment.
    let tokens = Tokenizer::new(dialect, &text).tokenize().ok()?;
    let words: Vec<String> = tokens.iter().map(told).collect();
    let told = words.concat().split_whitespace().collect::<Vec<_>>().join(" ");
    let end = told.char_indices().nth(CHARS_MAX).map(|(end, _)| end);
    Some(end.map_or(told.clone(), |end| format!("{}…", &told[..end])))
}

/// Statements that read, and what is around them.
fn is_known(statement: &Statement) -> bool {
    match statement {
        Statement::Explain { statement, .. } => is_known(statement),
        Statement::Query(_)
        | Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowFunctions { .. }
        | Statement::ShowVariable { .. }
        | Statement::Declare { .. }
        | Statement::Fetch { .. }
        | Statement::Close { .. } => true,
        _ => false,
    }
}

/// Makes every value a placeholder.
struct Values;

impl VisitorMut for Values {
    type Break = std::convert::Infallible;

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Self::Break> {
        let is_number =
            |name: &str| name.strip_prefix('$').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let stays = match &value.value {
            Value::Null => true,
            Value::Placeholder(name) => is_number(name),
            _ => false,
        };
        if !stays {
            value.value = Value::Placeholder("?".to_owned());
        }
        ControlFlow::Continue(())
    }
}

fn told(token: &Token) -> String {
    match token {
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::TripleSingleQuotedByteStringLiteral(_)
        | Token::TripleDoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_)
        | Token::TripleSingleQuotedRawStringLiteral(_)
        | Token::TripleDoubleQuotedRawStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::QuoteDelimitedStringLiteral(_)
        | Token::NationalQuoteDelimitedStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::HexStringLiteral(_) => "?".to_owned(),
        Token::Word(word) if word.quote_style == Some('\'') => "?".to_owned(),
        Token::Whitespace(_) => " ".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::{GenericDialect, PostgreSqlDialect};
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str) -> Option<String> {
        let [generic, postgres] =
            [&GenericDialect {} as &dyn Dialect, &PostgreSqlDialect {}].map(|dialect| without_literals(text, dialect));
        assert_eq!(generic, postgres, "{text}");
        generic
    }

    #[test]
    fn a_statement_is_told_by_its_shape() {
        for (text, expected) in [
            ("SELECT 1, -2.5e3, 'it''s', NULL, true", "SELECT ?, -?, ?, NULL, ?"),
            (
                "select user_key from events where user_key in ('a', 'b')",
                "SELECT user_key FROM events WHERE user_key IN (?, ?)",
            ),
            ("SELECT a FROM t WHERE b LIKE '%ada%' ESCAPE 'x'", "SELECT a FROM t WHERE b LIKE ? ESCAPE ?"),
            ("SELECT DATE '2026-01-02' + INTERVAL '3 days'", "SELECT DATE ? + INTERVAL ?"),
            ("SELECT $$ada$$, $x$ada$x$, $1 FROM t", "SELECT ?, ?, $1 FROM t"),
            (r#"SELECT "Own Name" AS 'ada' FROM "Two Words""#, r#"SELECT "Own Name" AS ? FROM "Two Words""#),
            ("-- ada\nSELECT /* ada */ /*+ ada */ 1", "SELECT ?"),
            (
                "SELECT CAST(a AS VARCHAR(77)) FROM t LIMIT 5 OFFSET 6",
                "SELECT CAST(a AS VARCHAR(?)) FROM t LIMIT ? OFFSET ?",
            ),
            ("EXPLAIN SELECT 'ada'", "EXPLAIN SELECT ?"),
            (
                "WITH x AS (SELECT 1) SELECT * FROM x UNION ALL VALUES ('ada')",
                "WITH x AS (SELECT ?) SELECT * FROM x UNION ALL VALUES (?)",
            ),
            ("SELECT 1; SELECT 2", "SELECT ?; SELECT ?"),
        ] {
            assert_eq!(told(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_told() {
        for text in ["", "ask ada", "SELECT 'ada", "COPY t FROM STDIN; ada", "SET x = ada", "DELETE FROM t WHERE a = 1"]
        {
            assert_eq!(told(text).unwrap_or_default(), "", "{text}");
        }
        let deep = format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200));
        assert_eq!(told(&deep), None);
    }

    #[test]
    fn a_long_statement_is_cut_off() {
        let told = told(&format!("SELECT {}1", "é, ".repeat(5000))).expect("it is one");
        assert_eq!(told.chars().count(), CHARS_MAX + 1);
        assert!(told.ends_with('…'));
    }

    /// Where literals stand; `{}` is one of any kind, `{s}` a string, `{n}` a number, `{c}` a word of a comment.
    const PLACES: &[&str] = &[
        "SELECT user_key FROM events WHERE user_key = {}",
        "SELECT user_key FROM events WHERE user_key IN ({}, {}, {})",
        "SELECT user_key FROM events WHERE user_key NOT LIKE {s} ESCAPE {s}",
        "SELECT user_key FROM events WHERE user_key ILIKE {s} OR user_key SIMILAR TO {s}",
        "SELECT user_key FROM events WHERE prompts BETWEEN {} AND {}",
        "SELECT CASE WHEN user_key = {} THEN {} ELSE {} END FROM events",
        "SELECT {} AS user_key FROM events -- {c}",
        "SELECT user_key /* {c} */ FROM events",
        "SELECT user_key FROM events WHERE time > TIMESTAMP {s} AND day < DATE {s} + INTERVAL {s} DAY",
        "SELECT CAST({} AS TEXT), {}::text, date_trunc({s}, user_key) FROM events",
        "SELECT user_key FROM events ORDER BY coalesce(user_key, {}) LIMIT {n} OFFSET {n}",
        "SELECT user_key, sum(a) FILTER (WHERE b = {}) OVER (ORDER BY c ROWS {n} PRECEDING) FROM events",
        "SELECT user_key FROM events GROUP BY 1 HAVING max(user_key) > {}",
        "WITH x AS (SELECT {} AS a) SELECT user_key FROM events, x UNION SELECT {} EXCEPT VALUES ({}, {})",
        "SELECT user_key FROM events WHERE EXISTS (SELECT {} FROM t WHERE a = ANY (ARRAY[{}, {}]))",
        "SELECT user_key, substring(a FROM {n} FOR {n}), position({s} IN a), trim(BOTH {s} FROM a) FROM events",
        "SELECT user_key, overlay(a PLACING {s} FROM {n}), extract(YEAR FROM TIMESTAMP {s}) FROM events",
        "SELECT user_key, a AT TIME ZONE {s}, f(b => {}) FROM events",
        "EXPLAIN SELECT user_key FROM events WHERE user_key = {}",
        "SELECT user_key FROM events JOIN t ON a = {} AND b <> {}",
        "SELECT user_key FROM events TABLESAMPLE SYSTEM ({n})",
    ];

    /// A literal that holds a word or a number, by its kind.
    fn literal(kind: usize, word: &str, number: u64) -> String {
        match kind {
            0 => format!("'{word}'"),
            1 => format!("'it''s {word} -- \"{word}\" /* {word}'"),
            2 => format!("$${word}$$"),
            3 => format!("$tag${word} '{word}' $tag$"),
            4 => format!("N'{word}'"),
            5 => format!("E'\\'{word}\\n'"),
            6 => format!("X'{number}'"),
            7 => format!("U&'{word}'"),
            8 => format!("{number}"),
            9 => format!("-{number}.{number}"),
            _ => format!("{number}e10"),
        }
    }

    const KINDS: usize = 11;
    /// Of these, strings of standard SQL.
    const STRINGS: usize = 2;
    const NUMBER: usize = 8;

    /// A place with its holes filled, each by the next kind.
    fn filled(place: &str, kinds: &[usize], word: &str, number: u64) -> String {
        let mut parts = place.split('{');
        let mut text = parts.next().expect("split gives one").to_owned();
        for (part, kind) in parts.zip(kinds.iter().cycle()) {
            let (hole, rest) = part.split_once('}').expect("a hole ends");
            text += &match hole {
                "s" => literal(kind % STRINGS, word, number),
                "n" => literal(NUMBER, word, number),
                "c" => word.to_owned(),
                _ => literal(*kind, word, number),
            };
            text += rest;
        }
        text
    }

    proptest! {
        #[test]
        fn no_literal_is_told(
            place in prop::sample::select(PLACES),
            word in "zq[a-z]{6}é?",
            number in 7_000_000_u64..8_000_000,
            kinds in prop::collection::vec(0..KINDS, 8),
        ) {
            let text = filled(place, &kinds, &word, number);
            for dialect in [&GenericDialect {} as &dyn Dialect, &PostgreSqlDialect {}] {
                // Some dialect may not know a kind of literal; then it tells nothing.
                let Some(told) = without_literals(&text, dialect) else { continue };
                prop_assert!(!told.contains(&word) && !told.contains(&number.to_string()), "{text} is told as {told}");
                prop_assert!(!told.contains('\''), "{text} is told as {told}");
                prop_assert!(told.contains("user_key") && told.contains("events"), "{text} is told as {told}");
            }
        }
    }

    /// The property is about something: every place is understood with literals of the plain kinds, and each kind somewhere.
    #[test]
    fn places_and_kinds_are_understood() {
        for place in PLACES {
            for kind in 0..STRINGS {
                let text = filled(place, &[kind], "zq", 7);
                assert!(without_literals(&text, &PostgreSqlDialect {}).is_some(), "{text}");
            }
        }
        for kind in 0..KINDS {
            let text = filled(PLACES[0], &[kind], "zq", 7);
            assert!(without_literals(&text, &PostgreSqlDialect {}).is_some(), "{text}");
        }
    }
}
