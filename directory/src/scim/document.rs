//! What a client sends, made into what is kept; and what is kept, made into what is shown.
//!
//! Kept are the attributes of the schemas alone, under the schemas' own names, without null, empty lists, what only the server
//! sets, and passwords (RFC 7643 §2.1, §2.5, §7; RFC 7644 §3.3).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    problem::{Problem, Result},
    schema::{Attribute, Kind, Mutability, Type, member},
    tables,
};

/// Longest text [bytes]; of certificates and pictures it is [`BINARY_MAX`].
const TEXT_MAX: usize = 4 << 10;
const BINARY_MAX: usize = 32 << 10;
/// Longest text that has a column of its own [bytes]: an index takes no long ones.
const COLUMN_MAX: usize = 1 << 10;
const COLUMNS: [&str; 3] = ["userName", "displayName", "externalId"];
/// Most values of an attribute; of members as many as a body holds.
const VALUES_MAX: usize = 256;
/// Longest document, as JSON [bytes]. Lists hold many.
const DOCUMENT_MAX: usize = 64 << 10;

pub(super) type Object = Map<String, Value>;

/// The attributes of a whole resource, as they are kept.
///
/// # Errors
/// `invalidSyntax` where it is none of that type, `invalidValue` where an attribute has a value that it cannot have.
pub(super) fn cleaned(of: Type, sent: &Value) -> Result<Object> {
    let sent = sent.as_object().ok_or_else(|| Problem::syntax("A resource is a JSON object."))?;
    if let Some(schemas) = member(sent, "schemas") {
        let own = |value: &Value| value.as_str().is_some_and(|id| id.eq_ignore_ascii_case(of.schema().id));
        if !schemas.as_array().is_some_and(|all| all.iter().any(own)) {
            return Err(Problem::syntax(format!("`schemas` of a {} has {}.", of.name(), of.schema().id)));
        }
    }
    let mut kept = object(tables::COMMON.iter().chain(of.schema().attributes), sent)?;
    for extension in of.extensions() {
        let Some(value) = member(sent, extension.id).filter(|value| !value.is_null()) else { continue };
        let inner = value.as_object().ok_or_else(|| Problem::value(format!("`{}` is an object.", extension.id)))?;
        let inner = object(extension.attributes.iter(), inner)?;
        if !inner.is_empty() {
            kept.insert(extension.id.to_owned(), inner.into());
        }
    }
    complete(of, &kept)?;
    Ok(kept)
}

/// # Errors
/// `invalidValue` where an attribute has more values than it may.
pub(super) fn fitting(name: &str, values: usize) -> Result<()> {
    if values > VALUES_MAX && name != "members" {
        return Err(Problem::value(format!("`{name}` takes at most {VALUES_MAX} values.")));
    }
    Ok(())
}

/// # Errors
/// `invalidValue` where a required attribute is missing, an attribute has too many values, or it or all of it is too long.
pub(super) fn complete(of: Type, kept: &Object) -> Result<()> {
    for (name, value) in kept {
        fitting(name, value.as_array().map_or(0, Vec::len))?;
    }
    let long = |name: &&str| kept.get(*name).and_then(Value::as_str).is_some_and(|text| text.len() > COLUMN_MAX);
    if let Some(name) = COLUMNS.iter().find(|name| long(name)) {
        return Err(Problem::value(format!("`{name}` takes at most {COLUMN_MAX} bytes.")));
    }
    // Members are not part of the document.
    let length: usize =
        kept.iter().filter(|(name, _)| *name != "members").map(|(_, value)| value.to_string().len()).sum();
    if length > DOCUMENT_MAX {
        return Err(Problem::value(format!("A {} takes at most {DOCUMENT_MAX} bytes.", of.name())));
    }
    let missing = |attribute: &&Attribute| {
        attribute.required && kept.get(attribute.name).and_then(Value::as_str).is_none_or(|text| text.trim().is_empty())
    };
    match of.schema().attributes.iter().find(missing) {
        Some(attribute) => Err(Problem::value(format!("A {} has a `{}`.", of.name(), attribute.name))),
        None => Ok(()),
    }
}

/// Those of `attributes` that have a value in `sent` which a client may set.
fn object<'a>(attributes: impl Iterator<Item = &'a Attribute>, sent: &Object) -> Result<Object> {
    let mut kept = Object::new();
    for attribute in attributes {
        // `schemas` follows from what is kept.
        if attribute.mutability == Mutability::ReadOnly || attribute.name == "schemas" {
            continue;
        }
        if let Some(value) = member(sent, attribute.name)
            && let Some(value) = assigned(attribute, value)?
            && attribute.mutability != Mutability::WriteOnly
        {
            kept.insert(attribute.name.to_owned(), value);
        }
    }
    Ok(kept)
}

/// A value of an attribute, all of them where it has several; `None` = unassigned.
///
/// # Errors
/// `invalidValue` where it can have no such value.
pub(super) fn assigned(attribute: &Attribute, sent: &Value) -> Result<Option<Value>> {
    if !attribute.multi {
        return one(attribute, sent);
    }
    let sent = match sent {
        Value::Array(all) => all.as_slice(),
        // Some clients send the only value bare.
        one => std::slice::from_ref(one),
    };
    fitting(attribute.name, sent.len())?;
    let mut kept = Vec::new();
    for value in sent {
        kept.extend(one(attribute, value)?);
    }
    if kept.iter().filter(|value| is_primary(value)).count() > 1 {
        return Err(Problem::value(format!("One of `{}` at most is primary.", attribute.name)));
    }
    Ok((!kept.is_empty()).then_some(Value::Array(kept)))
}

/// One value of an attribute.
///
/// # Errors
/// As [`assigned`].
pub(super) fn one(attribute: &Attribute, sent: &Value) -> Result<Option<Value>> {
    let wrong = |what: &str| Problem::value(format!("`{}` takes {what}.", attribute.name));
    if sent.is_null() {
        return Ok(None);
    }
    Ok(Some(match (attribute.kind, sent) {
        (Kind::Boolean, Value::Bool(_)) => sent.clone(),
        // Entra ID writes "False".
        (Kind::Boolean, Value::String(text)) => {
            let value = text.to_ascii_lowercase().parse::<bool>();
            value.map_err(|_| wrong("true or false"))?.into()
        }
        (Kind::Boolean, _) => return Err(wrong("true or false")),
        (Kind::Complex, Value::Object(sent)) => {
            let kept = object(attribute.subs.iter(), sent)?;
            if kept.is_empty() {
                return Ok(None);
            }
            kept.into()
        }
        // `"manager": "26118915"` stands for its value, as do texts among a list's values.
        (Kind::Complex, Value::String(_)) if attribute.sub("value").is_some() => {
            let value = attribute.sub("value").map(|sub| one(sub, sent)).transpose()?.flatten();
            let Some(value) = value else { return Ok(None) };
            Object::from_iter([("value".to_owned(), value)]).into()
        }
        (Kind::Complex, _) => return Err(wrong("an object")),
        (kind, Value::String(text)) => {
            let most = if kind == Kind::Binary { BINARY_MAX } else { TEXT_MAX };
            if text.len() > most {
                return Err(wrong(&format!("at most {most} bytes")));
            }
            if text.contains('\0') {
                return Err(wrong("a text without NUL"));
            }
            match kind {
                Kind::DateTime if text.parse::<Timestamp>().is_err() => return Err(wrong("a time as in RFC 3339")),
                Kind::Binary if STANDARD.decode(text).is_err() => return Err(wrong("base64")),
                _ if text.is_empty() => return Ok(None),
                _ => sent.clone(),
            }
        }
        (_, Value::Number(number)) if attribute.kind == Kind::Text => number.to_string().into(),
        _ => return Err(wrong("a text")),
    }))
}

pub(super) fn is_primary(value: &Value) -> bool {
    value.get("primary") == Some(&Value::Bool(true))
}

/// URNs of the schemas that a resource has attributes of.
pub(super) fn schemas(of: Type, kept: &Object) -> Vec<&'static str> {
    let extensions = of.extensions().iter().map(|extension| extension.id);
    [of.schema().id].into_iter().chain(extensions.filter(|id| kept.contains_key(*id))).collect()
}
