//! A writer's schema, compiled: what to read in which order, and what each value is.

use std::collections::BTreeMap;

use serde_json::Value;

/// Deepest nesting of types: an event is a record with a record in it, with a map of unions in that.
const DEPTH_MAX: usize = 12;

/// Why events of a schema cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct SchemaError {
    /// Path of the field, e.g. `Event.data`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// How to read events of one writer's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(super) fields: Vec<Field>,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool,
    /// int and long have one encoding.
    Int,
    Float,
    Double,
    Text,
    Enum(Vec<String>),
    /// Microseconds in a unit of the encoding.
    Time {
        unit_us: i64,
    },
    Union(Vec<Kind>),
    Map(Box<Kind>),
    Record(Vec<Field>),
}

impl Plan {
    /// Compiles an Avro schema.
    ///
    /// # Errors
    /// Where the text is no schema, or has a type that no event has: bytes, fixed, array, or a record that holds itself.
    pub fn compile(schema: &str) -> Result<Self, SchemaError> {
        let schema: Value = serde_json::from_str(schema)
            .map_err(|error| SchemaError { field: "schema".into(), detail: format!("not JSON: {error}") })?;
        let root = schema["name"].as_str().unwrap_or("schema").to_owned();
        let mut compiler = Compiler { named: BTreeMap::new() };
        match compiler.kind(&schema, &Place { path: root.clone(), namespace: String::new(), depth: 0 })? {
            Kind::Record(fields) => Ok(Self { fields }),
            _ => Err(SchemaError { field: root, detail: "an event is a record".into() }),
        }
    }
}

struct Compiler {
    /// By full name.
    named: BTreeMap<String, Kind>,
}

struct Place {
    path: String,
    namespace: String,
    depth: usize,
}

impl Place {
    fn error(&self, detail: impl Into<String>) -> SchemaError {
        SchemaError { field: self.path.chars().take(256).collect(), detail: detail.into() }
    }

    fn inner(&self, name: &str, namespace: &str) -> Self {
        Self { path: format!("{}.{name}", self.path), namespace: namespace.to_owned(), depth: self.depth + 1 }
    }
}

impl Compiler {
    fn kind(&mut self, schema: &Value, at: &Place) -> Result<Kind, SchemaError> {
        if at.depth > DEPTH_MAX {
            return Err(at.error("nested too deeply for an event"));
        }
        match schema {
            Value::String(name) => self.by_name(name, at),
            Value::Array(branches) => {
                let inner = at.inner("union", &at.namespace);
                branches.iter().map(|branch| self.kind(branch, &inner)).collect::<Result<_, _>>().map(Kind::Union)
            }
            Value::Object(object) => {
                let Some(kind) = object.get("type") else { return Err(at.error("it has no type")) };
                match (kind.as_str(), object.get("logicalType").and_then(Value::as_str)) {
                    (Some("long"), Some("timestamp-micros")) => Ok(Kind::Time { unit_us: 1 }),
                    (Some("long"), Some("timestamp-millis")) => Ok(Kind::Time { unit_us: 1_000 }),
                    (Some("record"), _) => self.record(schema, at),
                    (Some("enum"), _) => {
                        let symbols = schema["symbols"].as_array().into_iter().flatten();
                        let symbols = symbols.map(|symbol| symbol.as_str().map(str::to_owned)).collect::<Option<_>>();
                        let symbols = symbols.ok_or_else(|| at.error("its symbols are not all texts"))?;
                        let kind = Kind::Enum(symbols);
                        self.named.insert(full_name(schema, &at.namespace), kind.clone());
                        Ok(kind)
                    }
                    (Some("map"), _) => {
                        let values = self.kind(&schema["values"], &at.inner("values", &at.namespace))?;
                        Ok(Kind::Map(Box::new(values)))
                    }
                    // {"type": "string", …} and {"type": {…}} say what their type says.
                    _ => self.kind(kind, &at.inner("type", &at.namespace)),
                }
            }
            _ => Err(at.error("no Avro type")),
        }
    }

    fn by_name(&self, name: &str, at: &Place) -> Result<Kind, SchemaError> {
        Ok(match name {
            "null" => Kind::Null,
            "boolean" => Kind::Bool,
            "int" | "long" => Kind::Int,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "string" => Kind::Text,
            "bytes" | "fixed" | "array" => {
                return Err(at.error(format!("{name} is taken nowhere: events carry no content")));
            }
            name => {
                let full = if name.contains('.') || at.namespace.is_empty() {
                    name.to_owned()
                } else {
                    format!("{}.{name}", at.namespace)
                };
                let known = self.named.get(&full).or_else(|| self.named.get(name));
                known.cloned().ok_or_else(|| at.error(format!("`{name}` is no type that was declared before")))?
            }
        })
    }

    fn record(&mut self, schema: &Value, at: &Place) -> Result<Kind, SchemaError> {
        let full = full_name(schema, &at.namespace);
        let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let fields = schema["fields"].as_array().ok_or_else(|| at.error("a record has fields"))?;
        let fields = fields.iter().map(|field| {
            let name = field["name"].as_str().ok_or_else(|| at.error("a field without a name"))?;
            // The field's own keys stand beside its type's; a logical type belongs to the type.
            let kind = self.kind(&field["type"], &at.inner(name, &namespace))?;
            Ok(Field { name: name.to_owned(), kind })
        });
        // Known only now: a record that holds itself finds no type of its name.
        let kind = Kind::Record(fields.collect::<Result<_, SchemaError>>()?);
        self.named.insert(full, kind.clone());
        Ok(kind)
    }
}

/// Name with namespace (Avro specification, "Names").
fn full_name(schema: &Value, namespace: &str) -> String {
    let name = schema["name"].as_str().unwrap_or_default();
    match schema["namespace"].as_str() {
        _ if name.contains('.') => name.to_owned(),
        Some(namespace) if !namespace.is_empty() => format!("{namespace}.{name}"),
        None if !namespace.is_empty() => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    }
}
