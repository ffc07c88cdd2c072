//! PATCH (RFC 7644 §3.5.2), as it is written and as Okta and Entra ID send it.
//!
//! Beyond the RFC: operations in any case; an `add` or `replace` without path whose members are named by paths
//! (`name.givenName`, `urn:…:User:department`, `emails[type eq "work"].value`); truth values as texts; `remove` of members with the
//! ids in `value`.
//!
//! Members of a group are not in its document: what is to become of them is handed back, in order, and costs what is named and not
//! what the group has.

use serde_json::Value;

use super::{
    document::{self, Object},
    filter::{self, Filter, Op, matches_value},
    path::{Path, Target},
    problem::{Cause, Problem, Result, shortened},
    schema::{Attribute, Kind, Mutability, Type, member},
};

/// Most operations of a request.
const OPERATIONS_MAX: usize = 1_000;
/// Most steps of a request: values compared with values, and each character of a filter with each value. A transaction waits for them.
const STEPS_MAX: usize = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Add,
    Remove,
    Replace,
}

/// A change of a group's members, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Members {
    Add(Vec<String>),
    Remove(Vec<String>),
    /// These and no others.
    Set(Vec<String>),
}

/// Where an operation works: `emails`, `emails[type eq "work"]`, `emails[type eq "work"].value`, `name.givenName`.
struct Place {
    path: Path,
    filter: Option<Filter>,
    /// Length of its text.
    length: usize,
}

impl Place {
    fn parse(text: &str) -> Result<Self> {
        let Some((path, rest)) = text.split_once('[') else {
            return Ok(Self { path: Path::parse(text.trim())?, filter: None, length: text.len() });
        };
        let mut path = Path::parse(path.trim())?;
        let (filter, rest) = filter::parse_prefix(rest)?;
        let sub = match rest.strip_prefix('.') {
            Some(sub) => Some(Path::parse(sub.trim())?).filter(|sub| sub.sub.is_none() && sub.schema.is_none()),
            None => None,
        };
        if path.sub.is_some() || (sub.is_none() && !rest.trim().is_empty()) {
            return Err(Problem::bad(Cause::InvalidPath, format!("{} is no path.", shortened(text))));
        }
        path.sub = sub.map(|sub| sub.name);
        Ok(Self { path, filter: Some(filter), length: text.len() })
    }
}

/// Applies a PATCH's body to a resource's document: all of it, or an error. Gives what is to become of a group's members, in order.
///
/// # Errors
/// What RFC 7644 §3.5.2 says: `invalidSyntax`, `invalidPath`, `noTarget`, `invalidValue`, `mutability`, `invalidFilter`.
pub(super) fn apply(of: Type, kept: &mut Object, body: &Value) -> Result<Vec<Members>> {
    let operations = body.as_object().and_then(|body| member(body, "Operations")).and_then(Value::as_array);
    let operations = operations.ok_or_else(|| Problem::syntax("A PATCH has a list `Operations`."))?;
    if operations.is_empty() || operations.len() > OPERATIONS_MAX {
        return Err(Problem::syntax(format!("A PATCH takes 1 to {OPERATIONS_MAX} operations.")));
    }
    let mut patch = Patch { of, kept, members: Vec::new(), steps: 0 };
    for operation in operations {
        let operation = operation.as_object().ok_or_else(|| Problem::syntax("An operation is an object."))?;
        let verb = member(operation, "op").and_then(Value::as_str).unwrap_or_default();
        let verb = match verb.to_ascii_lowercase().as_str() {
            "add" => Verb::Add,
            "remove" => Verb::Remove,
            "replace" => Verb::Replace,
            _ => return Err(Problem::syntax(format!("`op` is add, remove or replace, and not {}.", shortened(verb)))),
        };
        let path = match member(operation, "path") {
            None | Some(Value::Null) => "",
            Some(Value::String(path)) => path.trim(),
            Some(_) => return Err(Problem::bad(Cause::InvalidPath, "`path` is a text.")),
        };
        let value = member(operation, "value");
        if verb != Verb::Remove && value.is_none() {
            return Err(Problem::value("An add or replace has a `value`."));
        }
        if path.is_empty() { patch.whole(verb, value)? } else { patch.at(verb, path, value)? }
    }
    let Patch { kept, members, .. } = patch;
    kept.retain(|_, value| !matches!(value, Value::Object(all) if all.is_empty()));
    document::complete(of, kept)?;
    Ok(members)
}

struct Patch<'a> {
    of: Type,
    kept: &'a mut Object,
    members: Vec<Members>,
    steps: usize,
}

impl Patch<'_> {
    /// Without path: each member of the value says where. What we do not know, or only the server sets, is passed over, as in a whole resource.
    fn whole(&mut self, verb: Verb, value: Option<&Value>) -> Result<()> {
        if verb == Verb::Remove {
            return Err(Problem::bad(Cause::NoTarget, "A remove has a `path`."));
        }
        let values = value.and_then(Value::as_object);
        let values = values.ok_or_else(|| Problem::value("Without a `path` the `value` is an object."))?;
        for (name, value) in values {
            match self.of.extension(name) {
                Some(extension) => {
                    let values = value.as_object().ok_or_else(|| Problem::value(format!("`{name}` is an object.")))?;
                    for (name, value) in values {
                        self.passing_over(verb, &format!("{}:{name}", extension.id), value)?;
                    }
                }
                None => self.passing_over(verb, name, value)?,
            }
        }
        Ok(())
    }

    fn passing_over(&mut self, verb: Verb, place: &str, value: &Value) -> Result<()> {
        let Ok(place) = Place::parse(place) else { return Ok(()) };
        match place.path.resolve(self.of) {
            Some(Target::Attribute { attribute, sub, .. }) if !fixed(attribute, sub) => {
                self.change(verb, &place, Some(value))
            }
            _ => Ok(()),
        }
    }

    fn at(&mut self, verb: Verb, path: &str, value: Option<&Value>) -> Result<()> {
        let place = Place::parse(path)?;
        match place.path.resolve(self.of) {
            None => Err(Problem::bad(Cause::InvalidPath, format!("A {} has no {}.", self.of.name(), shortened(path)))),
            Some(Target::Extension(extension)) => match verb {
                Verb::Remove => {
                    self.kept.remove(extension.id);
                    Ok(())
                }
                _ => self.whole(verb, value.map(|value| serde_json::json!({ extension.id: value })).as_ref()),
            },
            Some(Target::Attribute { attribute, sub, .. }) if fixed(attribute, sub) => {
                Err(Problem::bad(Cause::Mutability, format!("{} is for the server to set.", shortened(path))))
            }
            Some(Target::Attribute { .. }) => self.change(verb, &place, value),
        }
    }

    fn change(&mut self, verb: Verb, place: &Place, value: Option<&Value>) -> Result<()> {
        let Some(Target::Attribute { extension, attribute, sub }) = place.path.resolve(self.of) else { return Ok(()) };
        if self.of == Type::Group && attribute.name == "members" {
            let change = members(verb, place, sub, attribute, value)?;
            if matches!(change, Some(Members::Set(_))) {
                // Whoever came or went before does not matter any more.
                self.members.clear();
            }
            self.members.extend(change);
            return Ok(());
        }
        if verb == Verb::Remove && sub.is_none() && attribute.required {
            return Err(Problem::bad(Cause::Mutability, format!("`{}` cannot be removed.", attribute.name)));
        }
        let object = match extension {
            None => &mut *self.kept,
            Some(extension) => {
                let inner = self.kept.entry(extension.id).or_insert_with(|| Object::new().into());
                inner.as_object_mut().expect("an extension is kept as an object")
            }
        };
        let values = |object: &Object| object.get(attribute.name).and_then(Value::as_array).map_or(0, Vec::len);
        let named = value.and_then(Value::as_array).map_or(1, Vec::len);
        let each = if place.filter.is_some() { place.length } else { named };
        self.steps = self.steps.saturating_add(each.saturating_mul(values(object) + 1));
        if self.steps > STEPS_MAX {
            return Err(Problem::value("The operations compare too many values. Send them in several requests."));
        }
        let done = match (&place.filter, sub) {
            (None, None) => attribute_changed(object, attribute, verb, value),
            (None, Some(sub)) if !attribute.multi => {
                let inner = object.entry(attribute.name).or_insert_with(|| Object::new().into());
                let inner = inner.as_object_mut().expect("a complex attribute is kept as an object");
                attribute_changed(inner, sub, verb, value)?;
                if inner.is_empty() {
                    object.remove(attribute.name);
                }
                Ok(())
            }
            (filter, sub) => values_changed(object, attribute, filter.as_ref(), sub, verb, value),
        };
        done?;
        // Not in the end alone: what one operation makes, the next one looks through.
        document::fitting(attribute.name, values(object))
    }
}

/// Whether clients cannot change it.
fn fixed(attribute: &Attribute, sub: Option<&'static Attribute>) -> bool {
    let read_only = |attribute: &Attribute| attribute.mutability == Mutability::ReadOnly || attribute.name == "schemas";
    read_only(attribute) || sub.is_some_and(read_only)
}

/// An attribute or sub-attribute as a whole.
fn attribute_changed(object: &mut Object, attribute: &Attribute, verb: Verb, value: Option<&Value>) -> Result<()> {
    let value = value.unwrap_or(&Value::Null);
    let assigned = document::assigned(attribute, value)?;
    if attribute.mutability == Mutability::WriteOnly {
        return Ok(());
    }
    let Some(mut assigned) = assigned.filter(|_| verb != Verb::Remove) else {
        // An add of nothing adds nothing; a remove that names values takes these.
        match (verb, object.get_mut(attribute.name), document::assigned(attribute, value)?) {
            (Verb::Add, ..) => {}
            (Verb::Remove, Some(Value::Array(have)), Some(Value::Array(named))) => {
                have.retain(|value| !named.contains(value));
                if have.is_empty() {
                    object.remove(attribute.name);
                }
            }
            _ => drop(object.remove(attribute.name)),
        }
        return Ok(());
    };
    match (object.get_mut(attribute.name), &mut assigned) {
        (Some(Value::Array(have)), Value::Array(new)) if verb == Verb::Add => {
            new.retain(|value| !have.contains(value));
            if new.iter().any(document::is_primary) {
                have.iter_mut().for_each(not_primary);
            }
            have.append(new);
        }
        // Sub-attributes that are not named stay (RFC 7644 §3.5.2.1, §3.5.2.3).
        (Some(Value::Object(have)), Value::Object(new)) => have.append(new),
        _ => drop(object.insert(attribute.name.to_owned(), assigned)),
    }
    Ok(())
}

/// Those values of an attribute that `filter` chooses, or a sub-attribute of theirs.
fn values_changed(
    object: &mut Object,
    attribute: &'static Attribute,
    filter: Option<&Filter>,
    sub: Option<&'static Attribute>,
    verb: Verb,
    value: Option<&Value>,
) -> Result<()> {
    if !attribute.multi || attribute.kind != Kind::Complex {
        let detail = format!("`{}` has one value: none can be chosen.", attribute.name);
        return Err(Problem::bad(Cause::InvalidPath, detail));
    }
    let have = object.entry(attribute.name).or_insert_with(|| Vec::<Value>::new().into());
    let have = have.as_array_mut().expect("several values are kept as a list");
    let chosen = |value: &Value| filter.is_none_or(|filter| matches_value(filter, attribute, value));
    if verb == Verb::Remove && sub.is_none() {
        have.retain(|value| !chosen(value));
    } else {
        let mut at: Vec<usize> = (0..have.len()).filter(|at| chosen(&have[*at])).collect();
        if at.is_empty() {
            match (verb, filter.map_or(Some(Object::new()), described)) {
                (Verb::Remove, _) => {}
                // The value that an add speaks of is made as the filter describes it.
                (Verb::Add, Some(new)) => {
                    at.push(have.len());
                    have.push(document::one(attribute, &new.into())?.unwrap_or_else(|| Object::new().into()));
                }
                _ => {
                    let detail = format!("None of `{}` is what the path asks for.", attribute.name);
                    return Err(Problem::bad(Cause::NoTarget, detail));
                }
            }
        }
        for place in &at {
            let one = have[*place].as_object_mut().expect("values of a complex attribute are kept as objects");
            match (sub, value) {
                (Some(sub), value) => attribute_changed(one, sub, verb, value)?,
                (None, value) => {
                    let new = document::one(attribute, value.unwrap_or(&Value::Null))?;
                    if let Some(Value::Object(mut new)) = new {
                        one.append(&mut new);
                    }
                }
            }
        }
        if let Some(primary) = at.iter().copied().find(|at| document::is_primary(&have[*at])) {
            let others = have.iter_mut().enumerate().filter(|(at, _)| *at != primary);
            others.for_each(|(_, value)| not_primary(value));
        }
        have.retain(|value| value.as_object().is_some_and(|value| !value.is_empty()));
    }
    if have.is_empty() {
        object.remove(attribute.name);
    }
    Ok(())
}

fn not_primary(value: &mut Value) {
    if let Some(primary) = value.get_mut("primary") {
        *primary = false.into();
    }
}

/// What a filter of equalities describes; `None` = another filter.
fn described(filter: &Filter) -> Option<Object> {
    match filter {
        Filter::Compare { path, op: Op::Eq, value } if path.sub.is_none() && !value.is_null() => {
            Some(Object::from_iter([(path.name.clone(), value.clone())]))
        }
        Filter::And(all) => all.iter().map(described).try_fold(Object::new(), |mut whole, one| {
            whole.append(&mut one?);
            Some(whole)
        }),
        _ => None,
    }
}

/// The ids that a list of members names.
pub(super) fn ids(attribute: &Attribute, value: &Value) -> Result<Vec<String>> {
    let Some(Value::Array(all)) = document::assigned(attribute, value)? else { return Ok(Vec::new()) };
    all.iter()
        .map(|one| {
            let group = one.get("type").and_then(Value::as_str).is_some_and(|kind| !kind.eq_ignore_ascii_case("user"));
            match one.get("value").and_then(Value::as_str) {
                Some(_) if group => Err(Problem::value("Members are users: groups within groups are not taken.")),
                Some(id) => Ok(id.to_owned()),
                None => Err(Problem::value("A member has a `value`: the user's id.")),
            }
        })
        .collect()
}

fn members(
    verb: Verb,
    place: &Place,
    sub: Option<&'static Attribute>,
    attribute: &Attribute,
    value: Option<&Value>,
) -> Result<Option<Members>> {
    let named = match (&place.filter, sub, value) {
        (None, None, Some(value)) => ids(attribute, value)?,
        (None, None, None) => Vec::new(),
        (Some(filter), None, _) if verb == Verb::Remove => {
            let chosen = chosen(filter).ok_or_else(|| {
                Problem::bad(Cause::InvalidFilter, "Members are chosen by members[value eq \"id\"], joined by `or`.")
            })?;
            return Ok(Some(Members::Remove(chosen)));
        }
        _ => return Err(Problem::bad(Cause::Mutability, "A member can be added and removed, and not changed.")),
    };
    Ok(match verb {
        Verb::Add => Some(Members::Add(named)),
        Verb::Replace => Some(Members::Set(named)),
        // Entra ID, older: the ids of whom to remove. Without any: all.
        Verb::Remove if named.is_empty() && value.is_none_or(Value::is_null) => Some(Members::Set(Vec::new())),
        Verb::Remove => Some(Members::Remove(named)),
    })
}

fn chosen(filter: &Filter) -> Option<Vec<String>> {
    match filter {
        Filter::Compare { path, op: Op::Eq, value: Value::String(id) }
            if path.name.eq_ignore_ascii_case("value") && path.sub.is_none() =>
        {
            Some(vec![id.clone()])
        }
        Filter::Or(all) => all.iter().map(chosen).collect::<Option<Vec<_>>>().map(|all| all.concat()),
        _ => None,
    }
}
