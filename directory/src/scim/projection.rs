//! `attributes` and `excludedAttributes` (RFC 7644 §3.4.2.5).

use serde_json::Value;

use super::{
    document::Object,
    path::{Path, Target},
    problem::{Problem, Result},
    schema::{Attribute, Type},
};

/// What of a resource is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Projection {
    /// These alone, and what is always shown. `None` = all.
    only: Option<Vec<Path>>,
    without: Vec<Path>,
}

impl Projection {
    /// # Errors
    /// `invalidPath` where a name is none; what has the form of one and is unknown chooses nothing.
    pub(super) fn new(only: &[String], without: &[String]) -> Result<Self> {
        let paths = |names: &[String]| names.iter().map(|name| Path::parse(name)).collect::<Result<Vec<_>>>();
        if !only.is_empty() && !without.is_empty() {
            return Err(Problem::value("attributes and excludedAttributes exclude each other."));
        }
        Ok(Self { only: (!only.is_empty()).then(|| paths(only)).transpose()?, without: paths(without)? })
    }

    /// Whether that attribute of the resource itself is shown.
    pub(super) fn shows(&self, of: Type, name: &str) -> bool {
        let whole = |path: &Path| Path { sub: None, ..path.clone() }.is(of, name);
        match &self.only {
            Some(only) => only.iter().any(whole),
            None => !self.without.iter().any(|path| path.is(of, name)),
        }
    }

    /// Leaves what is shown.
    pub(super) fn apply(&self, of: Type, whole: Object) -> Object {
        let Some(only) = &self.only else {
            let mut whole = whole;
            self.without.iter().filter_map(|path| path.resolve(of)).for_each(|target| hide(&mut whole, target));
            return whole;
        };
        let mut shown = Object::new();
        for (name, value) in &whole {
            if of.schema().attribute(name).is_none() && matches!(name.as_str(), "id" | "schemas") {
                shown.insert(name.clone(), value.clone());
            }
        }
        for target in only.iter().filter_map(|path| path.resolve(of)) {
            show(&whole, &mut shown, target);
        }
        shown
    }
}

/// Copies what a path leads to.
fn show(whole: &Object, shown: &mut Object, target: Target) {
    match target {
        Target::Extension(extension) => {
            if let Some(value) = whole.get(extension.id) {
                shown.insert(extension.id.to_owned(), value.clone());
            }
        }
        Target::Attribute { extension: Some(extension), attribute, sub } => {
            let Some(inner) = whole.get(extension.id).and_then(Value::as_object) else { return };
            let Some(value) = inner.get(attribute.name) else { return };
            let into = shown.entry(extension.id).or_insert_with(|| Object::new().into());
            let Some(into) = into.as_object_mut() else { return };
            merge(into, attribute, part(value, sub));
        }
        Target::Attribute { extension: None, attribute, sub } => {
            let Some(value) = whole.get(attribute.name) else { return };
            merge(shown, attribute, part(value, sub));
        }
    }
}

/// A value, or that sub-attribute of it, of each where there are several.
fn part(value: &Value, sub: Option<&Attribute>) -> Value {
    let Some(sub) = sub else { return value.clone() };
    let one =
        |value: &Value| value.get(sub.name).map(|inner| Object::from_iter([(sub.name.to_owned(), inner.clone())]));
    match value {
        Value::Array(all) => all.iter().map(|value| Value::from(one(value).unwrap_or_default())).collect(),
        value => one(value).unwrap_or_default().into(),
    }
}

/// Another part of what is shown already joins it.
fn merge(into: &mut Object, attribute: &Attribute, part: Value) {
    match (into.get_mut(attribute.name), part) {
        (Some(Value::Object(have)), Value::Object(mut part)) => have.append(&mut part),
        (Some(Value::Array(have)), Value::Array(part)) if attribute.multi => {
            for (have, part) in have.iter_mut().zip(part) {
                if let (Value::Object(have), Value::Object(mut part)) = (have, part) {
                    have.append(&mut part);
                }
            }
        }
        (_, part) => drop(into.insert(attribute.name.to_owned(), part)),
    }
}

fn hide(whole: &mut Object, target: Target) {
    let (object, attribute, sub) = match target {
        Target::Extension(extension) => {
            whole.remove(extension.id);
            return;
        }
        Target::Attribute { extension: Some(extension), attribute, sub } => {
            let Some(inner) = whole.get_mut(extension.id).and_then(Value::as_object_mut) else { return };
            (inner, attribute, sub)
        }
        Target::Attribute { extension: None, attribute, sub } => (whole, attribute, sub),
    };
    if attribute.always {
        return;
    }
    match (sub, object.get_mut(attribute.name)) {
        (None, _) => drop(object.remove(attribute.name)),
        (Some(sub), Some(Value::Array(all))) => {
            all.iter_mut().filter_map(Value::as_object_mut).for_each(|value| drop(value.remove(sub.name)));
        }
        (Some(sub), Some(Value::Object(value))) => drop(value.remove(sub.name)),
        (Some(_), _) => {}
    }
}
