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
pub(in crate::collector) static TOOLS: &[(&str, &str)] = &[("claude_code", include_str!("tools/claude_code.json"))];

/// One tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct Tool {
    /// As metrics call it.
    pub(in crate::collector) tool: String,
    /// `service.name` of its resources.
    pub(in crate::collector) service_names: Vec<String>,
    pub(in crate::collector) envelope: Envelope,
    pub(in crate::collector) log_name: LogName,
    /// Attributes that, with organisation, subject, name and time, tell one log record from all others.
    pub(in crate::collector) identity: Vec<String>,
    /// By name: the events that a log record stands for.
    pub(in crate::collector) logs: BTreeMap<String, Vec<EventRule>>,
    /// By name: the events that a point of a counter stands for.
    pub(in crate::collector) metrics: BTreeMap<String, CounterRule>,
    /// Names of log records and metrics that are dropped on purpose, and why.
    pub(in crate::collector) ignored: BTreeMap<String, String>,
}

/// The envelope of all its events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct Envelope {
    pub(in crate::collector) product: String,
    pub(in crate::collector) client_type: String,
    /// (attribute, prefix of the subject): the first one present is the actor.
    pub(in crate::collector) subject: Vec<(String, String)>,
    /// The installation: the first one present.
    pub(in crate::collector) install: Vec<String>,
    /// Envelope attribute → attributes, the first one present.
    pub(in crate::collector) attributes: BTreeMap<String, Vec<String>>,
}

/// Where the name of a log record stands: the first attribute present, else `event_name`, else the body's text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct LogName {
    pub(in crate::collector) attributes: Vec<String>,
    /// Taken off the name where it is there.
    pub(in crate::collector) strip_prefix: String,
}

/// An event made from a log record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct EventRule {
    /// Short name, e.g. `model.completed`.
    #[serde(rename = "type")]
    pub(in crate::collector) event_type: String,
    /// Only where this attribute is present.
    pub(in crate::collector) when: Option<String>,
    pub(in crate::collector) data: BTreeMap<String, Rules>,
}

/// Events made from the points of a monotonic sum.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct CounterRule {
    pub(in crate::collector) kind: CounterKind,
    #[serde(rename = "type")]
    pub(in crate::collector) event_type: String,
    /// The field that takes an amount, by the value of an attribute.
    pub(in crate::collector) field: Option<AmountField>,
    /// The point's value times this is the field's value.
    #[serde(default = "one")]
    pub(in crate::collector) scale: f64,
    /// Smallest step of a cumulative amount, in the field's unit.
    #[serde(default = "one_grain")]
    pub(in crate::collector) grain: u64,
    #[serde(default)]
    pub(in crate::collector) data: BTreeMap<String, Rules>,
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::collector) enum CounterKind {
    /// Each unit is an event.
    Count,
    /// An increment is one event that carries it.
    Amount,
}

/// Which field takes the amount. A point with another value is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct AmountField {
    pub(in crate::collector) attribute: String,
    pub(in crate::collector) values: BTreeMap<String, String>,
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
pub(in crate::collector) enum Rules {
    One(Box<Rule>),
    Several(Vec<Rule>),
}

impl Rules {
    pub(in crate::collector) fn iter(&self) -> impl Iterator<Item = &Rule> {
        match self {
            Self::One(rule) => std::slice::from_ref(rule.as_ref()).iter(),
            Self::Several(rules) => rules.iter(),
        }
    }
}

/// How a field gets its value. It gives none where no attribute of `from` is present, or no pattern of `map` fits.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::collector) struct Rule {
    /// A constant.
    #[serde(rename = "const")]
    pub(in crate::collector) constant: Option<Value>,
    /// Attributes. Several are joined with `/`, an absent one as the empty text.
    pub(in crate::collector) from: Vec<String>,
    /// What the value becomes.
    #[serde(rename = "as")]
    pub(in crate::collector) kind: ValueKind,
    /// Factor of an integer.
    pub(in crate::collector) scale: Option<f64>,
    /// (pattern, value), the first that fits; a pattern may end with `*`.
    pub(in crate::collector) map: Option<Vec<(String, Value)>>,
    /// (separator, index): only that part of the text.
    pub(in crate::collector) part: Option<(String, usize)>,
    /// Only where the text begins with it.
    pub(in crate::collector) prefix: Option<String>,
}

/// Type of a field's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::collector) enum ValueKind {
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

pub(in crate::collector) fn read(text: &str) -> Tool {
    serde_json::from_str(text).expect("the embedded files are valid, a test reads each")
}
