//! Attribute paths: `userName`, `name.givenName`, `urn:…:User:department` (RFC 7644 §3.5.2, figure 7; §3.10).

use std::fmt;

use super::{
    problem::{Cause, Problem, Result, shortened},
    schema::{Attribute, Schema, Type},
    tables,
};

/// A path as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// URN of a schema.
    pub(super) schema: Option<String>,
    pub(super) name: String,
    pub(super) sub: Option<String>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// All of an extension.
    Extension(&'static Schema),
    Attribute {
        /// Where it lies; `None` = in the resource itself.
        extension: Option<&'static Schema>,
        attribute: &'static Attribute,
        sub: Option<&'static Attribute>,
    },
}

impl Path {
    /// # Errors
    /// `invalidPath` where it has not the form of a path.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || Problem::bad(Cause::InvalidPath, format!("{} is no path of an attribute.", shortened(text)));
        // A URN has dots and digits of its own: what comes after its last colon is the attribute.
        let (schema, rest) = match text.rsplit_once(':') {
            Some((schema, rest)) => (Some(schema), rest),
            None => (None, text),
        };
        let (name, sub) = match rest.split_once('.') {
            Some((name, sub)) => (name, Some(sub)),
            None => (rest, None),
        };
        let urn = |text: &str| {
            text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:"))
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":._-".contains(&b))
        };
        let valid = is_name(name) && sub.is_none_or(is_name) && schema.is_none_or(urn);
        let owned = |text: &str| text.to_owned();
        valid
            .then(|| Self { schema: schema.map(owned), name: name.to_owned(), sub: sub.map(owned) })
            .ok_or_else(invalid)
    }

    /// What it leads to in a resource of that type; `None` = no attribute that we know.
    pub(super) fn resolve(&self, of: Type) -> Option<Target> {
        let Some(schema) = &self.schema else {
            let attribute = of.schema().attribute(&self.name).or_else(|| common(&self.name));
            return self.with_sub(None, attribute?);
        };
        if let Some(extension) = of.extension(schema) {
            return self.with_sub(Some(extension), extension.attribute(&self.name)?);
        }
        if of.schema().id.eq_ignore_ascii_case(schema) {
            return self.with_sub(None, of.schema().attribute(&self.name).or_else(|| common(&self.name))?);
        }
        // `urn:…:2.0:User` alone, and `urn:…:2.0:User.department`, as some clients write it.
        let extension = of.extension(&format!("{schema}:{}", self.name))?;
        let Some(sub) = &self.sub else { return Some(Target::Extension(extension)) };
        Some(Target::Attribute { extension: Some(extension), attribute: extension.attribute(sub)?, sub: None })
    }

    fn with_sub(&self, extension: Option<&'static Schema>, attribute: &'static Attribute) -> Option<Target> {
        let sub = match &self.sub {
            Some(sub) => Some(attribute.sub(sub)?),
            None => None,
        };
        Some(Target::Attribute { extension, attribute, sub })
    }

    /// Whether it is that one attribute of the resource itself.
    pub(super) fn is(&self, of: Type, name: &str) -> bool {
        matches!(self.resolve(of), Some(Target::Attribute { extension: None, attribute, sub: None }) if attribute.name == name)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}:")?;
        }
        f.write_str(&self.name)?;
        self.sub.as_ref().map_or(Ok(()), |sub| write!(f, ".{sub}"))
    }
}

fn common(name: &str) -> Option<&'static Attribute> {
    tables::COMMON.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name))
}

/// `ALPHA *("-" / "_" / DIGIT / ALPHA)`, and `$ref`.
pub(super) fn is_name(text: &str) -> bool {
    let text = text.strip_prefix('$').unwrap_or(text);
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
