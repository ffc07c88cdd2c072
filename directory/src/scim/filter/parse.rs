//! Text to filter, by descent: or ‹ and ‹ not ‹ comparison (RFC 7644, figure 1).

use serde_json::Value;

use super::{Filter, Op};
use crate::scim::{
    path::Path,
    problem::{Cause, Problem, Result, shortened},
};

/// Longest filter [bytes].
const TEXT_MAX: usize = 8 << 10;
/// Brackets within brackets.
const DEPTH_MAX: usize = 32;

/// # Errors
/// `invalidFilter`, with the place.
pub(in crate::scim) fn parse(text: &str) -> Result<Filter> {
    let (filter, rest) = filter(text, 0, false)?;
    if rest.trim().is_empty() {
        return Ok(filter);
    }
    Err(invalid(format!("Nothing can follow before {}.", shortened(rest.trim()))))
}

/// A filter up to its closing `]`, and what comes after that.
///
/// # Errors
/// `invalidFilter`, with the place.
pub(in crate::scim) fn parse_prefix(text: &str) -> Result<(Filter, &str)> {
    let (filter, rest) = filter(text, 1, true)?;
    Ok((filter, expect(rest, ']')?))
}

fn filter(text: &str, depth: usize, within: bool) -> Result<(Filter, &str)> {
    if text.len() > TEXT_MAX {
        return Err(invalid(format!("A filter takes at most {TEXT_MAX} bytes.")));
    }
    Parser { text, depth, within }.or()
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::bad(Cause::InvalidFilter, detail)
}

fn expect(text: &str, wanted: char) -> Result<&str> {
    let found = text.trim_start();
    found.strip_prefix(wanted).ok_or_else(|| match found {
        "" => invalid(format!("The filter ends where `{wanted}` is missing.")),
        found => invalid(format!("`{wanted}` is missing before {}.", shortened(found))),
    })
}

/// The word that the text begins with, and the rest.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(|c: char| c.is_whitespace() || "()[]\"".contains(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// What is left to read. Each step gives a filter and the text after it.
#[derive(Clone, Copy)]
struct Parser<'a> {
    text: &'a str,
    depth: usize,
    /// Inside `[…]`, where there are no further such brackets.
    within: bool,
}

impl<'a> Parser<'a> {
    fn at(self, text: &'a str) -> Self {
        Self { text, ..self }
    }

    fn deeper(self, text: &'a str) -> Result<Self> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            return Err(invalid(format!("A filter takes at most {DEPTH_MAX} brackets within brackets.")));
        }
        Ok(Self { text, depth, ..self })
    }

    fn or(self) -> Result<(Filter, &'a str)> {
        self.joined("or", Self::and, Filter::Or)
    }

    fn and(self) -> Result<(Filter, &'a str)> {
        self.joined("and", Self::term, Filter::And)
    }

    fn joined(
        self,
        by: &str,
        part: fn(Self) -> Result<(Filter, &'a str)>,
        join: fn(Vec<Filter>) -> Filter,
    ) -> Result<(Filter, &'a str)> {
        let (first, mut rest) = part(self)?;
        let mut all = vec![first];
        loop {
            let (found, after) = word(rest);
            if !found.eq_ignore_ascii_case(by) {
                break;
            }
            let (next, after) = part(self.at(after))?;
            all.push(next);
            rest = after;
        }
        let filter = if all.len() > 1 { join(all) } else { all.remove(0) };
        Ok((filter, rest))
    }

    fn term(self) -> Result<(Filter, &'a str)> {
        if let Some(inner) = self.text.trim_start().strip_prefix('(') {
            let (filter, rest) = self.deeper(inner)?.or()?;
            return Ok((filter, expect(rest, ')')?));
        }
        let (name, rest) = word(self.text);
        if name.eq_ignore_ascii_case("not")
            && let Some(inner) = rest.trim_start().strip_prefix('(')
        {
            let (filter, rest) = self.deeper(inner)?.or()?;
            return Ok((Filter::Not(Box::new(filter)), expect(rest, ')')?));
        }
        if name.is_empty() {
            let place = self.text.trim();
            return Err(invalid(format!("An attribute is missing before {}.", shortened(place))));
        }
        let path = Path::parse(name).map_err(|problem| invalid(problem.detail))?;
        match rest.strip_prefix('[') {
            Some(inner) if !self.within && path.sub.is_none() => self.value_path(path, inner),
            Some(_) => Err(invalid(format!("`[` cannot stand after `{path}`."))),
            None => comparison(path, rest),
        }
    }

    /// `emails[type eq "work"]`, and `emails[type eq "work"].value eq "x"`, which is in no grammar and what Entra ID sends: one value
    /// for which both hold.
    fn value_path(self, path: Path, inner: &'a str) -> Result<(Filter, &'a str)> {
        let inner = Self { within: true, ..self.deeper(inner)? };
        let (filter, rest) = inner.or()?;
        let rest = expect(rest, ']')?;
        let Some(after) = rest.strip_prefix('.') else {
            return Ok((Filter::Within { path, filter: Box::new(filter) }, rest));
        };
        let (name, after) = word(after);
        let sub = Path::parse(name).ok().filter(|sub| sub.sub.is_none() && sub.schema.is_none());
        let sub = sub.ok_or_else(|| invalid(format!("{} is no sub-attribute.", shortened(name))))?;
        let (compared, rest) = comparison(sub, after)?;
        let both = match filter {
            Filter::And(mut all) => {
                all.push(compared);
                all
            }
            one => vec![one, compared],
        };
        Ok((Filter::Within { path, filter: Box::new(Filter::And(both)) }, rest))
    }
}

/// What follows the attribute: `pr`, or an operator and a value.
fn comparison(path: Path, rest: &str) -> Result<(Filter, &str)> {
    let (name, rest) = word(rest);
    if name.eq_ignore_ascii_case("pr") {
        return Ok((Filter::Present(path), rest));
    }
    let op = Op::named(name).ok_or_else(|| invalid(format!("{} after `{path}` is no operator.", shortened(name))))?;
    let (value, rest) = value(rest)?;
    let fits = match op {
        Op::Eq | Op::Ne => true,
        Op::Co | Op::Sw | Op::Ew => value.is_string(),
        Op::Gt | Op::Ge | Op::Lt | Op::Le => value.is_string() || value.is_number(),
    };
    if fits {
        Ok((Filter::Compare { path, op, value }, rest))
    } else {
        Err(invalid(format!("`{name}` takes no {value}.")))
    }
}

/// A JSON text, number, truth value or null (RFC 7644, figure 1: compValue).
fn value(text: &str) -> Result<(Value, &str)> {
    let text = text.trim_start();
    let end = if text.starts_with('"') {
        let mut escaped = false;
        let closing = text.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        closing.map(|(at, _)| at + 1).ok_or_else(|| invalid("A text has no closing quotation mark."))?
    } else {
        text.len() - word(text).1.len()
    };
    let (literal, rest) = text.split_at(end);
    let lower = literal.to_ascii_lowercase();
    // Entra ID writes True.
    let literal = if ["true", "false", "null"].contains(&lower.as_str()) { &lower } else { literal };
    if literal.contains("\\u0000") && serde_json::from_str::<String>(literal).is_ok_and(|text| text.contains('\0')) {
        return Err(invalid("A text has no NUL."));
    }
    let value = serde_json::from_str::<Value>(literal).ok().filter(|value| !value.is_array() && !value.is_object());
    value
        .map(|value| (value, rest))
        .ok_or_else(|| invalid(format!("{} is no value; texts stand in \"…\".", shortened(literal))))
}
