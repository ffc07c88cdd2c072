//! The query string, checked: each fault names its parameter and says what it takes.

use std::collections::BTreeSet;

use datafusion::{
    common::{Column, ScalarValue},
    logical_expr::Expr,
};
use jiff::civil::Date;

use super::{problem::Problem, resources::Resource};
use crate::formats::Format;

/// Rows of a page, unless `limit` says otherwise.
pub(super) const DEFAULT_LIMIT: usize = 1000;
/// Rows of a page, at most; bounds the memory of a request.
pub(super) const MAX_LIMIT: usize = 10_000;
/// Values of one filter, at most.
pub(super) const MAX_VALUES: usize = 1000;
/// Parameters before those by which rows are chosen.
const DAYS: [&str; 2] = ["from", "to"];
/// Parameters after them.
const FORM: [&str; 4] = ["columns", "limit", "cursor", "format"];

/// Decoded pairs of a query string.
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads `query`, which may only hold `known` parameters.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
        let pairs = Self(pairs.filter(|(name, value)| !(name.is_empty() && value.is_empty())).collect());
        match pairs.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Problem::unknown_parameter(name, known)),
            None => Ok(pairs),
        }
    }

    /// The names of the parameters, which are known ones, as a list with commas.
    pub(super) fn names(&self) -> String {
        let names: BTreeSet<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(",")
    }

    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be there once.
    fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::parameter(name, format!("`{name}` is there more than once; it takes one value.")));
        }
        if first == Some("") {
            return Err(Problem::parameter(name, format!("`{name}` is empty. Give it a value, or leave it out.")));
        }
        Ok(first)
    }

    /// The values of a parameter that may be repeated and holds comma lists; `\,` is a comma within a value.
    fn many(&self, name: &str) -> Result<BTreeSet<String>, Problem> {
        let values: Vec<String> = self.all(name).flat_map(list).collect();
        if values.iter().any(String::is_empty) {
            return Err(Problem::parameter(name, format!("`{name}` holds an empty value. Remove it or its comma.")));
        }
        if values.len() > MAX_VALUES {
            return Err(Problem::parameter(name, format!("`{name}` takes at most {MAX_VALUES} values.")));
        }
        Ok(values.into_iter().collect())
    }

    fn date(&self, name: &str) -> Result<Option<Date>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let strict = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let date = text.parse().ok().filter(|_| strict);
        date.map(Some).ok_or_else(|| {
            Problem::parameter(name, format!("`{name}` is no day. It takes YYYY-MM-DD, such as 2026-01-31."))
        })
    }

    /// The format asked for.
    pub(super) fn format(&self) -> Result<Option<Format>, Problem> {
        let Some(name) = self.one("format")? else { return Ok(None) };
        let known = || Format::ALL.map(Format::name).join(", ");
        let problem = || Problem::parameter("format", format!("`format` is one of {}.", known()));
        Format::from_name(name).map(Some).ok_or_else(problem)
    }

    /// The query string of the next page.
    pub(super) fn with_cursor(&self, cursor: &str) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.0.iter().filter(|(name, _)| name != "cursor"));
        query.append_pair("cursor", cursor).finish()
    }
}

/// The parts of a comma list.
fn list(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let part = parts.last_mut().expect("begins with one");
        match character {
            '\\' if characters.next_if_eq(&',').is_some() => part.push(','),
            ',' => parts.push(String::new()),
            other => part.push(other),
        }
    }
    parts
}

/// Conditions on rows: each column holds one of its values. Several on one column must all hold, so that a team becomes
/// the set of its members' keys beside the users that were asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters(Vec<(&'static str, BTreeSet<String>)>);

impl Filters {
    /// Requires `column` to hold one of `values`; no values, no condition.
    fn restrict(&mut self, column: &'static str, values: BTreeSet<String>) {
        if !values.is_empty() {
            self.0.push((column, values));
        }
    }

    /// The conditions as expressions, all of which must hold.
    pub(super) fn expressions(&self) -> impl Iterator<Item = Expr> {
        self.0.iter().map(|(column, values)| {
            let values = values.iter().map(|value| Expr::Literal(ScalarValue::from(value.as_str()), None));
            Expr::Column(Column::from_name(*column)).in_list(values.collect(), false)
        })
    }

    /// The conditions, for a digest.
    pub(super) fn parts(&self) -> &[(&'static str, BTreeSet<String>)] {
        &self.0
    }
}

/// What a resource was asked.
pub(super) struct Asked {
    pub(super) pairs: Pairs,
    /// First day, inclusive.
    pub(super) from: Option<Date>,
    /// Last day, inclusive.
    pub(super) to: Option<Date>,
    pub(super) filters: Filters,
    /// Columns in the order of the answer.
    pub(super) columns: Vec<String>,
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
    pub(super) format: Option<Format>,
}

impl Asked {
    pub(super) fn parse(resource: &Resource, query: Option<&str>) -> Result<Self, Problem> {
        let filters = resource.filters.iter().map(|filter| filter.name);
        let known: Vec<&str> = DAYS.into_iter().chain(filters).chain(FORM).collect();
        let pairs = Pairs::parse(query, &known)?;
        let (from, to) = (pairs.date("from")?, pairs.date("to")?);
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            return Err(Problem::parameter("from", format!("`from` ({from}) is after `to` ({to}). Swap them.")));
        }
        let mut filters = Filters::default();
        for filter in &resource.filters {
            let asked = pairs.many(filter.name)?;
            if let Some(values) = &filter.values
                && asked.iter().any(|value| !values.contains(&value.as_str()))
            {
                let detail = format!("`{}` is one of {}.", filter.name, values.join(", "));
                return Err(Problem::parameter(filter.name, detail));
            }
            filters.restrict(filter.column, asked);
        }
        let limit = match pairs.one("limit")? {
            None => DEFAULT_LIMIT,
            Some(text) => text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
                Problem::parameter("limit", format!("`limit` is a whole number from 1 to {MAX_LIMIT}."))
            })?,
        };
        let format = pairs.format()?;
        let cursor = pairs.one("cursor")?.map(str::to_owned);
        let columns = asked_columns(resource, &pairs)?;
        Ok(Self { from, to, filters, columns, limit, cursor, format, pairs })
    }
}

fn asked_columns(resource: &Resource, pairs: &Pairs) -> Result<Vec<String>, Problem> {
    let schema = &resource.schema;
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut asked: Vec<String> = Vec::new();
    for name in pairs.all("columns").flat_map(|text| text.split(',')) {
        if !known.contains(&name) {
            let shown: String = name.chars().take(64).collect();
            let detail = format!("There is no column `{shown}`. Columns: {}.", known.join(", "));
            return Err(Problem::parameter("columns", detail));
        }
        if asked.iter().any(|before| before == name) {
            return Err(Problem::parameter("columns", format!("Column `{name}` is named twice.")));
        }
        asked.push(name.to_owned());
    }
    Ok(if asked.is_empty() { known.into_iter().map(str::to_owned).collect() } else { asked })
}
