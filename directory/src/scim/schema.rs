//! Which attributes a resource has (RFC 7643 §4, §7): read by everything that takes, keeps, finds or shows one, and served at `/Schemas`.

use serde_json::{Map, Value, json};

use super::tables;

/// What an attribute holds (RFC 7643 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Boolean,
    DateTime,
    /// Base64.
    Binary,
    Reference,
    Complex,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Boolean => "boolean",
            Self::DateTime => "dateTime",
            Self::Binary => "binary",
            Self::Reference => "reference",
            Self::Complex => "complex",
        }
    }
}

/// Who may write an attribute (RFC 7643 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutability {
    ReadWrite,
    ReadOnly,
    /// Set when the value is made, then fixed.
    Immutable,
    /// Taken and never shown; here: not kept either.
    WriteOnly,
}

/// An attribute or sub-attribute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) multi: bool,
    pub(super) required: bool,
    /// Texts that differ in case alone are different.
    pub(super) case_exact: bool,
    pub(super) mutability: Mutability,
    /// Shown whatever is asked for.
    pub(super) always: bool,
    /// No two resources of an organisation have the same.
    pub(super) unique: bool,
    /// Usual values; others are taken, too.
    pub(super) canonical: &'static [&'static str],
    /// What a reference leads to.
    pub(super) references: &'static [&'static str],
    /// Of a complex attribute.
    pub(super) subs: &'static [Attribute],
    about: &'static str,
}

impl Attribute {
    pub(super) const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            multi: false,
            required: false,
            case_exact: matches!(kind, Kind::Reference | Kind::Binary),
            mutability: Mutability::ReadWrite,
            always: false,
            unique: false,
            canonical: &[],
            references: &[],
            subs: &[],
            about,
        }
    }

    pub(super) const fn text(name: &'static str, about: &'static str) -> Self {
        Self::new(name, Kind::Text, about)
    }

    pub(super) const fn complex(name: &'static str, about: &'static str, subs: &'static [Self]) -> Self {
        Self { subs, ..Self::new(name, Kind::Complex, about) }
    }

    /// A complex attribute with several values.
    pub(super) const fn many(name: &'static str, about: &'static str, subs: &'static [Self]) -> Self {
        Self { multi: true, ..Self::complex(name, about, subs) }
    }

    pub(super) const fn reference(
        name: &'static str,
        about: &'static str,
        references: &'static [&'static str],
    ) -> Self {
        Self { references, ..Self::new(name, Kind::Reference, about) }
    }

    pub(super) const fn several(self) -> Self {
        Self { multi: true, ..self }
    }

    pub(super) const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(super) const fn exact(self) -> Self {
        Self { case_exact: true, ..self }
    }

    pub(super) const fn always(self) -> Self {
        Self { always: true, ..self }
    }

    pub(super) const fn unique(self) -> Self {
        Self { unique: true, ..self }
    }

    pub(super) const fn canonical(self, canonical: &'static [&'static str]) -> Self {
        Self { canonical, ..self }
    }

    pub(super) const fn as_is(self, mutability: Mutability) -> Self {
        Self { mutability, ..self }
    }

    pub(super) const fn read_only(self) -> Self {
        self.as_is(Mutability::ReadOnly)
    }

    /// The sub-attribute of that name, in any case.
    pub(super) fn sub(&self, name: &str) -> Option<&'static Self> {
        self.subs.iter().find(|sub| sub.name.eq_ignore_ascii_case(name))
    }

    /// As `/Schemas` shows it (RFC 7643 §7).
    fn to_json(self) -> Value {
        let mutability = match self.mutability {
            Mutability::ReadWrite => "readWrite",
            Mutability::ReadOnly => "readOnly",
            Mutability::Immutable => "immutable",
            Mutability::WriteOnly => "writeOnly",
        };
        let returned = match (self.mutability, self.always) {
            (Mutability::WriteOnly, _) => "never",
            (_, true) => "always",
            _ => "default",
        };
        let mut shown = json!({
            "name": self.name,
            "type": self.kind.name(),
            "multiValued": self.multi,
            "description": self.about,
            "required": self.required,
            "caseExact": self.case_exact,
            "mutability": mutability,
            "returned": returned,
            "uniqueness": if self.unique { "server" } else { "none" },
        });
        if !self.canonical.is_empty() {
            shown["canonicalValues"] = json!(self.canonical);
        }
        if self.kind == Kind::Reference {
            shown["referenceTypes"] = json!(self.references);
        }
        if !self.subs.is_empty() {
            shown["subAttributes"] = self.subs.iter().map(|sub| sub.to_json()).collect();
        }
        shown
    }
}

/// A named set of attributes.
#[derive(Debug)]
pub(super) struct Schema {
    /// A URN; its case does not matter.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) attributes: &'static [Attribute],
}

impl Schema {
    pub(super) fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name.eq_ignore_ascii_case(name))
    }

    /// As `/Schemas` shows it.
    pub(super) fn to_json(&self, base: &str) -> Value {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": self.id,
            "name": self.name,
            "description": self.about,
            "attributes": self.attributes.iter().map(|attribute| attribute.to_json()).collect::<Vec<_>>(),
            "meta": { "resourceType": "Schema", "location": format!("{base}/Schemas/{}", self.id) },
        })
    }
}

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    User,
    Group,
}

impl Type {
    pub(super) const ALL: [Self; 2] = [Self::User, Self::Group];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
        }
    }

    /// Its part of the path.
    pub(super) fn endpoint(self) -> &'static str {
        match self {
            Self::User => "Users",
            Self::Group => "Groups",
        }
    }

    pub(super) fn of_endpoint(endpoint: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.endpoint() == endpoint)
    }

    pub(super) fn schema(self) -> &'static Schema {
        match self {
            Self::User => &tables::USER,
            Self::Group => &tables::GROUP,
        }
    }

    pub(super) fn extensions(self) -> &'static [Schema] {
        match self {
            Self::User => &tables::OF_USERS,
            Self::Group => &[],
        }
    }

    pub(super) fn extension(self, id: &str) -> Option<&'static Schema> {
        self.extensions().iter().find(|schema| schema.id.eq_ignore_ascii_case(id))
    }

    /// As `/ResourceTypes` shows it (RFC 7643 §6).
    pub(super) fn to_json(self, base: &str) -> Value {
        let extensions: Vec<Value> =
            self.extensions().iter().map(|schema| json!({ "schema": schema.id, "required": false })).collect();
        let mut shown = json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
            "id": self.name(),
            "name": self.name(),
            "endpoint": format!("/{}", self.endpoint()),
            "description": self.schema().about,
            "schema": self.schema().id,
            "meta": { "resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{}", self.name()) },
        });
        if !extensions.is_empty() {
            shown["schemaExtensions"] = extensions.into();
        }
        shown
    }
}

/// The value of an object's member, whatever the case of its name (RFC 7643 §2.1).
pub(super) fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}
