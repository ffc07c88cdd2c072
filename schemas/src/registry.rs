//! The event types: JSON Schemas, compiled into the tables that drive the decoder.
//!
//! Keywords used beside JSON Schema's own: `x-column` (column of `events`, default the property's name), `x-unit`,
//! `x-decimal` (number or text with up to 6 decimals), `x-ext` (nested object, kept whole in `ext`).

use std::sync::LazyLock;

use hashbrown::HashMap;
use serde::Deserialize;

use crate::{
    table::ColumnType,
    tables::{EVENT_COLUMNS, event_column},
};

macro_rules! schema_files {
    ($($name:literal),+ $(,)?) => {
        /// Name of each known event type and the text of its JSON Schema.
        pub static SCHEMA_FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../events/", $name, ".v1.json")))),+];
    };
}

schema_files![
    "session.started",
    "session.ended",
    "activity.ticked",
    "conversation.started",
    "prompt.submitted",
    "model.completed",
    "tool.decided",
    "tool.completed",
    "suggestion.shown",
    "suggestion.resolved",
    "feedback.given",
    "review.completed",
    "transform.completed",
    "code.changed",
    "vcs.commit_created",
    "vcs.pull_request_changed",
    "agent.run_started",
    "agent.run_completed",
    "usage.metered",
    "usage.corrected",
    "subscription.changed",
    "identity.changed",
    "auth.completed",
    "access.request_changed",
    "privacy.changed",
    "telemetry.status",
    "report.row_observed",
];

/// JSON Schema for the data of event types that this version does not know.
pub static UNKNOWN_SCHEMA: &str = include_str!("../events/unknown.json");

/// What a property of an event's data may hold.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldType {
    /// Text of at most this many characters.
    Text {
        /// Inclusive (characters).
        max_chars: usize,
    },
    /// One of these texts.
    Enum(Vec<String>),
    /// Integer in this inclusive range.
    Int {
        /// Inclusive.
        min: i64,
        /// Inclusive.
        max: i64,
    },
    /// Boolean.
    Bool,
    /// Decimal(20,6), negative only where `signed`.
    Decimal {
        /// May be negative.
        signed: bool,
    },
    /// Object of scalars, kept in `ext` under its own name.
    Object,
}

/// A property of an event's data.
#[derive(Clone, Debug)]
pub struct FieldSpec {
    /// Name in the payload.
    pub name: String,
    /// Position in [`EVENT_COLUMNS`]; `None` for [`FieldType::Object`].
    pub column: Option<usize>,
    /// What it may hold.
    pub field_type: FieldType,
    /// True where an event without it is refused.
    pub required: bool,
}

/// One event type and version.
#[derive(Debug)]
pub struct EventSpec {
    /// Short name, e.g. `model.completed`.
    pub name: String,
    /// Properties of its data.
    pub fields: Vec<FieldSpec>,
}

impl EventSpec {
    /// The field called `name`. Schemas have at most a dozen fields: a linear search beats a hash.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<(usize, &FieldSpec)> {
        self.field_from(0, name)
    }

    /// The field called `name`, which is likely to be `guess`.
    pub(crate) fn field_from(&self, guess: usize, name: &str) -> Option<(usize, &FieldSpec)> {
        match self.fields.get(guess) {
            Some(field) if field.name == name => Some((guess, field)),
            _ => self.fields.iter().enumerate().find(|(_, field)| field.name == name),
        }
    }
}

/// All event types by their full name, `dev.daybook.<name>.v1`.
pub struct Registry {
    by_type: HashMap<String, EventSpec>,
    unknown: EventSpec,
    denied: Vec<String>,
}

impl Registry {
    /// The event types of this version.
    pub fn get() -> &'static Self {
        static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::compile);
        &REGISTRY
    }

    /// What is known of `event_type`; for an unknown type, a spec without fields.
    #[must_use]
    pub fn spec(&self, event_type: &str) -> &EventSpec {
        self.by_type.get(event_type).unwrap_or(&self.unknown)
    }

    /// True where `event_type` is known.
    #[must_use]
    pub fn knows(&self, event_type: &str) -> bool {
        self.by_type.contains_key(event_type)
    }

    /// Full names of the known event types.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.by_type.keys().map(String::as_str)
    }

    /// True for a name under which content would travel (prompts, answers, paths): refused whatever its value.
    #[must_use]
    pub fn denies(&self, property: &str) -> bool {
        self.denied.binary_search_by(|denied| denied.as_str().cmp(property)).is_ok()
    }

    fn compile() -> Self {
        let by_type = SCHEMA_FILES
            .iter()
            .map(|(name, text)| {
                let file: SchemaFile =
                    serde_json::from_str(text).expect("embedded schemas are valid, a test reads each");
                (format!("dev.daybook.{name}.v1"), compile_spec(name, file))
            })
            .collect();
        let unknown: SchemaFile = serde_json::from_str(UNKNOWN_SCHEMA).expect("the embedded schema is valid");
        let mut denied = unknown.property_names.not.values.clone();
        denied.sort();
        Self { by_type, unknown: compile_spec("unknown", unknown), denied }
    }
}

#[derive(Deserialize)]
struct SchemaFile {
    properties: serde_json::Map<String, serde_json::Value>,
    required: Vec<String>,
    #[serde(rename = "propertyNames")]
    property_names: PropertyNames,
}

#[derive(Deserialize)]
struct PropertyNames {
    not: Denied,
}

#[derive(Deserialize)]
struct Denied {
    #[serde(rename = "enum")]
    values: Vec<String>,
}

#[derive(Deserialize)]
struct Property {
    #[serde(rename = "type")]
    json_type: serde_json::Value,
    #[serde(rename = "enum")]
    values: Option<Vec<String>>,
    #[serde(rename = "maxLength")]
    max_length: Option<usize>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    #[serde(rename = "x-column")]
    column: Option<String>,
    #[serde(rename = "x-decimal", default)]
    decimal: bool,
}

fn compile_spec(name: &str, file: SchemaFile) -> EventSpec {
    let fields = file.properties.into_iter().map(|(field, property)| {
        let property: Property = serde_json::from_value(property).expect("each property has the keywords that we use");
        let field_type = match (property.json_type.as_str(), property.values) {
            _ if property.decimal => FieldType::Decimal { signed: property.minimum.is_some_and(|min| min < 0) },
            (Some("string"), Some(values)) => FieldType::Enum(values),
            (Some("string"), None) => {
                FieldType::Text { max_chars: property.max_length.expect("every text is bounded") }
            }
            (Some("integer"), _) => FieldType::Int {
                min: property.minimum.expect("every integer is bounded"),
                max: property.maximum.expect("every integer is bounded"),
            },
            (Some("boolean"), _) => FieldType::Bool,
            (Some("object"), _) => FieldType::Object,
            other => panic!("{name}.{field}: type {other:?} is not used in our schemas"),
        };
        let column = (field_type != FieldType::Object).then(|| {
            let column = property.column.as_deref().unwrap_or(&field);
            event_column(column).unwrap_or_else(|| panic!("{name}.{field}: `events` has no column `{column}`"))
        });
        if let Some(column) = column {
            assert_eq!(
                EVENT_COLUMNS[column].column_type,
                column_type(&field_type),
                "{name}.{field}: type of its column"
            );
        }
        FieldSpec { required: file.required.contains(&field), name: field, column, field_type }
    });
    let mut fields: Vec<FieldSpec> = fields.collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    EventSpec { name: name.to_owned(), fields }
}

fn column_type(field_type: &FieldType) -> ColumnType {
    match field_type {
        FieldType::Text { .. } | FieldType::Enum(_) | FieldType::Object => ColumnType::Text,
        FieldType::Int { .. } => ColumnType::Int,
        FieldType::Bool => ColumnType::Bool,
        FieldType::Decimal { .. } => ColumnType::Decimal,
    }
}
