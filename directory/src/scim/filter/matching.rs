//! Whether a filter holds for a resource.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Filter, Op};
use crate::scim::{
    path::{Path, Target},
    schema::{Attribute, Kind, Type},
};

/// In what a path is looked up.
#[derive(Clone, Copy)]
enum Scope {
    Resource(Type),
    /// One value of a complex attribute.
    Value(&'static Attribute),
}

/// Whether it holds for a resource, whose attributes have the names of the schema. An attribute that nobody knows has no value.
pub(in crate::scim) fn matches(filter: &Filter, of: Type, resource: &Map<String, Value>) -> bool {
    holds(filter, Scope::Resource(of), resource)
}

/// Whether it holds for one value of a complex attribute.
pub(in crate::scim) fn matches_value(filter: &Filter, of: &'static Attribute, value: &Value) -> bool {
    value.as_object().is_some_and(|value| holds(filter, Scope::Value(of), value))
}

fn holds(filter: &Filter, scope: Scope, object: &Map<String, Value>) -> bool {
    match filter {
        Filter::And(all) => all.iter().all(|one| holds(one, scope, object)),
        Filter::Or(all) => all.iter().any(|one| holds(one, scope, object)),
        Filter::Not(one) => !holds(one, scope, object),
        Filter::Present(path) => values(path, scope, object).is_some_and(|(found, _)| found.into_iter().any(present)),
        Filter::Within { path, filter } => {
            let of_value = |attribute, value: &Value| matches_value(filter, attribute, value);
            elements(path, scope, object)
                .is_some_and(|(found, attribute)| found.into_iter().any(|value| of_value(attribute, value)))
        }
        Filter::Compare { path, op, value } => {
            let (found, attribute) = values(path, scope, object).unzip();
            let found: Vec<&Value> = found.unwrap_or_default().into_iter().filter(|value| present(value)).collect();
            match (op, value, attribute) {
                (Op::Eq, Value::Null, _) => found.is_empty(),
                (Op::Ne, Value::Null, _) => !found.is_empty(),
                (Op::Ne, ..) if found.is_empty() => true,
                (_, _, Some(attribute)) => found.into_iter().any(|found| compare(*op, found, value, attribute)),
                (_, _, None) => false,
            }
        }
    }
}

/// RFC 7643 §2.5: null and an empty list are no value.
fn present(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The values of an attribute without its sub-attribute.
fn elements<'a>(
    path: &Path,
    scope: Scope,
    object: &'a Map<String, Value>,
) -> Option<(Vec<&'a Value>, &'static Attribute)> {
    let (object, attribute) = match scope {
        Scope::Value(of) => (object, of.sub(&path.name)?),
        Scope::Resource(of) => match path.resolve(of)? {
            Target::Attribute { extension: Some(extension), attribute, .. } => {
                (object.get(extension.id)?.as_object()?, attribute)
            }
            Target::Attribute { extension: None, attribute, .. } => (object, attribute),
            Target::Extension(_) => return None,
        },
    };
    let found = match object.get(attribute.name) {
        None => Vec::new(),
        Some(Value::Array(all)) => all.iter().collect(),
        Some(one) => vec![one],
    };
    Some((found, attribute))
}

/// The values that a path leads to, and what they are values of. Of a complex attribute alone it is its `value`.
fn values<'a>(
    path: &Path,
    scope: Scope,
    object: &'a Map<String, Value>,
) -> Option<(Vec<&'a Value>, &'static Attribute)> {
    let (found, attribute) = elements(path, scope, object)?;
    if attribute.kind != Kind::Complex {
        return Some((found, attribute));
    }
    let sub = match (&path.sub, scope) {
        (Some(_), Scope::Resource(of)) => match path.resolve(of)? {
            Target::Attribute { sub, .. } => sub,
            Target::Extension(_) => None,
        },
        _ => attribute.sub("value"),
    };
    // Of one without a `value`, such as `name`, only its presence can be asked.
    let Some(sub) = sub else { return Some((found, attribute)) };
    Some((found.into_iter().filter_map(|value| value.get(sub.name)).collect(), sub))
}

/// What a resource is sorted by: the attribute's value, of several the primary or else the first (RFC 7644 §3.4.2.3).
pub(in crate::scim) fn sorted_by(path: &Path, of: Type, resource: &Map<String, Value>) -> Option<String> {
    let (all, attribute) = elements(path, Scope::Resource(of), resource)?;
    let one = all.iter().find(|value| value.get("primary") == Some(&Value::Bool(true))).or(all.first()).copied()?;
    let one = match attribute.kind {
        Kind::Complex => {
            one.get(path.sub.as_deref().and_then(|sub| attribute.sub(sub)).map_or("value", |sub| sub.name))?
        }
        _ => one,
    };
    match one {
        Value::String(text) if attribute.case_exact => Some(text.clone()),
        Value::String(text) => Some(fold(text)),
        other => Some(other.to_string()),
    }
}

fn compare(op: Op, found: &Value, wanted: &Value, attribute: &Attribute) -> bool {
    match (found, wanted) {
        (Value::String(found), Value::String(wanted)) if attribute.kind == Kind::DateTime => {
            match (found.parse::<Timestamp>(), wanted.parse::<Timestamp>()) {
                (Ok(found), Ok(wanted)) => ordered(op, found.cmp(&wanted)),
                _ => texts(op, found, wanted),
            }
        }
        (Value::String(found), Value::String(wanted)) if attribute.case_exact => texts(op, found, wanted),
        (Value::String(found), Value::String(wanted)) => texts(op, &fold(found), &fold(wanted)),
        (Value::Bool(found), Value::Bool(wanted)) => equal(op, found == wanted),
        // Some clients write active eq "true".
        (Value::Bool(found), Value::String(wanted)) => {
            wanted.to_ascii_lowercase().parse::<bool>().is_ok_and(|wanted| equal(op, *found == wanted))
        }
        _ => op == Op::Ne,
    }
}

fn equal(op: Op, same: bool) -> bool {
    match op {
        Op::Eq => same,
        Op::Ne => !same,
        _ => false,
    }
}

fn texts(op: Op, found: &str, wanted: &str) -> bool {
    match op {
        Op::Co => found.contains(wanted),
        Op::Sw => found.starts_with(wanted),
        Op::Ew => found.ends_with(wanted),
        op => ordered(op, found.cmp(wanted)),
    }
}

fn ordered(op: Op, order: Ordering) -> bool {
    match op {
        Op::Eq => order.is_eq(),
        Op::Ne => order.is_ne(),
        Op::Gt => order.is_gt(),
        Op::Ge => order.is_ge(),
        Op::Lt => order.is_lt(),
        Op::Le => order.is_le(),
        Op::Co | Op::Sw | Op::Ew => false,
    }
}

/// A text without its case, as the database keeps it beside what is looked up.
pub(in crate::scim) fn fold(text: &str) -> String {
    text.to_lowercase()
}
