//! What a tool's telemetry means: data, one file per tool under `tools/`. The types here are the files' format.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use serde::Deserialize;
use serde_json::Value;

use super::convert::text_of;

/// The files. To add a tool: write its file, add it here, post captured bodies in a test.
pub(super) static TOOLS: &[(&str, &str)] = &[("claude_code", include_str!("tools/claude_code.json"))];

/// One tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Tool {
    /// As metrics call it.
    pub(super) tool: String,
    /// `service.name` of its resources.
    pub(super) service_names: Vec<String>,
    pub(super) envelope: Envelope,
    pub(super) log_name: LogName,
    /// Attributes that, with organisation, subject, name and time, tell one log record from all others.
    pub(super) identity: Vec<String>,
    /// By name: the events that a log record stands for.
    pub(super) logs: BTreeMap<String, Vec<EventRule>>,
    /// By name: the events that a point of a counter stands for.
    pub(super) metrics: BTreeMap<String, CounterRule>,
    /// Names of log records and metrics that are dropped on purpose, and why.
    pub(super) ignored: BTreeMap<String, String>,
}

/// The envelope of all its events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Envelope {
    pub(super) product: String,
    pub(super) client_type: String,
    /// (attribute, prefix of the subject): the first one present is the actor.
    pub(super) subject: Vec<(String, String)>,
    /// The installation: the first one present.
    pub(super) install: Vec<String>,
    /// Envelope attribute → attributes, the first one present.
    pub(super) attributes: BTreeMap<String, Vec<String>>,
}

/// Where the name of a log record stands: the first attribute present, else `event_name`, else the body's text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct LogName {
    pub(super) attributes: Vec<String>,
    /// Taken off the name where it is there.
    pub(super) strip_prefix: String,
}

/// An event made from a log record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct EventRule {
    /// Short name, e.g. `model.completed`.
    #[serde(rename = "type")]
    pub(super) event_type: String,
    /// Only where this attribute is present.
    pub(super) when: Option<String>,
    pub(super) data: BTreeMap<String, Rules>,
}

/// Events made from the points of a monotonic sum.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CounterRule {
    pub(super) kind: CounterKind,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    /// The field that takes an amount, by the value of an attribute.
    pub(super) field: Option<AmountField>,
    /// The point's value times this is the field's value.
    #[serde(default = "one")]
    pub(super) scale: f64,
    /// Smallest step of a cumulative amount, in the field's unit.
    #[serde(default = "one_grain")]
    pub(super) grain: u64,
    #[serde(default)]
    pub(super) data: BTreeMap<String, Rules>,
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CounterKind {
    /// Each unit is an event.
    Count,
    /// An increment is one event that carries it.
    Amount,
}

/// Which field takes the amount. A point with another value is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct AmountField {
    pub(super) attribute: String,
    pub(super) values: BTreeMap<String, String>,
}

fn one() -> f64 {
    1.0
}

fn one_grain() -> u64 {
    1
}

/// One rule, or several: the first that gives a value.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Rules {
    One(Box<Rule>),
    Several(Vec<Rule>),
}

impl Rules {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        match self {
            Self::One(rule) => std::slice::from_ref(rule.as_ref()).iter(),
            Self::Several(rules) => rules.iter(),
        }
    }
}

/// How a field gets its value. It gives none where no attribute of `from` is present, or no pattern of `map` fits.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Rule {
    /// A constant.
    #[serde(rename = "const")]
    pub(super) constant: Option<Value>,
    /// Attributes. Several are joined with `/`, an absent one as the empty text.
    pub(super) from: Vec<String>,
    /// What the value becomes.
    #[serde(rename = "as")]
    pub(super) kind: ValueKind,
    /// Factor of an integer.
    pub(super) scale: Option<f64>,
    /// (pattern, value), the first that fits; a pattern may end with `*`.
    pub(super) map: Option<Vec<(String, Value)>>,
    /// (separator, index): only that part of the text.
    pub(super) part: Option<(String, usize)>,
    /// Only where the text begins with it.
    pub(super) prefix: Option<String>,
}

/// Type of a field's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ValueKind {
    #[default]
    Text,
    /// Rounded, from a number or the text of one.
    Int,
}

/// True where `pattern`, which may end with `*`, fits.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

/// The tool whose resource this is, by `service.name`.
pub(super) fn tool_of(resource: &Resource) -> Option<&'static Tool> {
    static BY_SERVICE: LazyLock<HashMap<String, Tool>> = LazyLock::new(|| {
        let tools = TOOLS.iter().flat_map(|(_, text)| {
            let names = read(text).service_names;
            names.into_iter().map(move |name| (name, read(text)))
        });
        tools.collect()
    });
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name")?;
    BY_SERVICE.get(text_of(name)?.as_ref())
}

pub(super) fn read(text: &str) -> Tool {
    serde_json::from_str(text).expect("the embedded files are valid, a test reads each")
}
