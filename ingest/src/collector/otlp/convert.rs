//! From one log record or one point of a counter to events, as the tool's file says. Pure.

use std::borrow::Cow;

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{AggregationTemporality, NumberDataPoint, metric::Data, number_data_point},
};
use schemas::{OrgId, event};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    mapping::{CounterKind, CounterRule, Rule, Rules, Tool, ValueKind, fits},
    series::{self, Progress, Reached},
    wire::{LogRecord, Metric},
};

/// Namespace of the ids of imported events: UUIDv5 of `daybook.dev` in the DNS namespace.
static NAMESPACE: std::sync::LazyLock<Uuid> =
    std::sync::LazyLock::new(|| Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"daybook.dev"));
/// Most events of one point of a counter: more is no count of sessions or commits.
const UNITS_MAX: u64 = 1_000;

/// Whose telemetry it is.
pub(super) struct Source<'a> {
    pub(super) org: &'a OrgId,
    pub(super) resource: &'a [KeyValue],
    /// Latest plausible time (µs).
    pub(super) latest_us: i64,
}

/// What became of a log record or a point.
#[derive(Debug)]
pub(super) enum Converted {
    Events {
        /// Subject and JSON text. May be none: a delta of zero.
        events: Vec<(String, Vec<u8>)>,
        reached: Option<Reached>,
        /// Attributes that a rule names but cannot convert; their fields are absent.
        unreadable: u64,
    },
    Ignored,
    Unknown,
    /// How many items, and why.
    Refused(u64, String),
}

/// The events of a log record.
pub(super) fn log(tool: &Tool, source: &Source<'_>, record: &LogRecord) -> Converted {
    let attributes = Attributes { own: &record.attributes, resource: source.resource };
    let body = || match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => Some(Cow::from(text.as_str())),
        _ => None,
    };
    let named = tool.log_name.attributes.iter().find_map(|name| attributes.text(name));
    let field = (!record.event_name.is_empty()).then(|| Cow::from(record.event_name.as_str()));
    let Some(name) = named.or(field).or_else(body) else { return Converted::Unknown };
    let name = name.strip_prefix(tool.log_name.strip_prefix.as_str()).unwrap_or(&name);
    let Some(rules) = tool.logs.get(name) else { return unmapped(tool, name) };

    let time_ns = if record.time_unix_nano == 0 { record.observed_time_unix_nano } else { record.time_unix_nano };
    let identity: Vec<_> = tool.identity.iter().map(|name| attributes.text(name)).collect();
    let mut events = Events::new(tool, source, &attributes, name);
    for (index, rule) in rules.iter().enumerate() {
        if rule.when.as_ref().is_some_and(|needed| attributes.get(needed).is_none()) {
            continue;
        }
        let key = |subject: &str| {
            json!([source.org.as_str(), tool.tool, "log", name, subject, time_ns.to_string(), identity, index])
        };
        let data = events.data(&rule.data);
        if let Err(detail) = events.push(&rule.event_type, time_ns, key, data) {
            return Converted::Refused(1, detail);
        }
    }
    events.finish(None)
}

fn unmapped(tool: &Tool, name: &str) -> Converted {
    if tool.ignored.contains_key(name) { Converted::Ignored } else { Converted::Unknown }
}

/// A metric that a tool's file maps.
pub(super) struct Counter<'a> {
    rule: &'a CounterRule,
    name: &'a str,
    cumulative: bool,
    pub(super) points: &'a [NumberDataPoint],
}

/// The mapped counter that a metric is, or what becomes of it otherwise.
pub(super) fn counter<'a>(tool: &'a Tool, metric: &'a Metric) -> Result<Counter<'a>, Converted> {
    let Some(rule) = tool.metrics.get(&metric.name) else { return Err(unmapped(tool, &metric.name)) };
    let refuse = |points: usize, why: &str| Err(Converted::Refused(points as u64, format!("{}: {why}", metric.name)));
    let Some(Data::Sum(sum)) = &metric.data else { return refuse(1, "takes a sum") };
    let points = &sum.data_points;
    let cumulative = match sum.aggregation_temporality() {
        _ if !sum.is_monotonic => return refuse(points.len(), "takes a monotonic sum"),
        AggregationTemporality::Delta => false,
        AggregationTemporality::Cumulative => true,
        AggregationTemporality::Unspecified => return refuse(points.len(), "has no aggregation temporality"),
    };
    Ok(Counter { rule, name: &metric.name, cumulative, points })
}

/// The events of one point.
pub(super) fn point(
    tool: &Tool,
    source: &Source<'_>,
    counter: &Counter<'_>,
    point: &NumberDataPoint,
    progress: &Progress,
) -> Converted {
    let Counter { rule, name, .. } = counter;
    let outcome = if counter.cumulative {
        cumulative_point(tool, source, rule, name, point, progress)
    } else {
        delta_point(tool, source, rule, name, point)
    };
    outcome.unwrap_or_else(|why| Converted::Refused(1, format!("{name}: {why}")))
}

/// The point's value in the unit of its field.
fn value(rule: &CounterRule, point: &NumberDataPoint) -> Result<f64, String> {
    let value = match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        // Counters beyond 2^53 lose their last digits, and are none.
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        None => return Err("a point has no value".to_owned()),
    };
    let value = value * rule.scale;
    // 2^53 bounds the fields too.
    if (0.0..=9_007_199_254_740_992.0).contains(&value) {
        Ok(value)
    } else {
        Err("a point's value is out of range".to_owned())
    }
}

fn field<'a>(rule: &'a CounterRule, attributes: &Attributes<'_>) -> Result<Option<&'a str>, String> {
    let Some(field) = &rule.field else { return Ok(None) };
    let value = attributes.text(&field.attribute).unwrap_or_default();
    match field.values.get(value.as_ref()) {
        Some(field) => Ok(Some(field)),
        None => Err(format!("`{}` takes one of {:?}", field.attribute, field.values.keys().collect::<Vec<_>>())),
    }
}

/// A delta point: what happened between its start and its time.
fn delta_point(
    tool: &Tool,
    source: &Source<'_>,
    rule: &CounterRule,
    name: &str,
    point: &NumberDataPoint,
) -> Result<Converted, String> {
    let attributes = Attributes { own: &point.attributes, resource: source.resource };
    let (value, field) = (value(rule, point)?.round() as u64, field(rule, &attributes)?);
    let series = attributes.all();
    let key = |unit: u64| {
        let (start, time) = (point.start_time_unix_nano.to_string(), point.time_unix_nano.to_string());
        json!([source.org.as_str(), tool.tool, "delta", name, series, start, time, value, unit])
    };
    let mut events = Events::new(tool, source, &attributes, name);
    match rule.kind {
        CounterKind::Count if value > UNITS_MAX => return Err(format!("a point counts more than {UNITS_MAX}")),
        CounterKind::Count => {
            for unit in 1..=value {
                let data = events.data(&rule.data);
                events.push(&rule.event_type, point.time_unix_nano, |_| key(unit), data)?;
            }
        }
        CounterKind::Amount if value == 0 => {}
        CounterKind::Amount => {
            let mut data = events.data(&rule.data);
            data.extend(field.map(|field| (field.to_owned(), value.into())));
            events.push(&rule.event_type, point.time_unix_nano, |_| key(0), data)?;
        }
    }
    Ok(events.finish(None))
}

/// A cumulative point: one event per cut that its total has passed.
fn cumulative_point(
    tool: &Tool,
    source: &Source<'_>,
    rule: &CounterRule,
    name: &str,
    point: &NumberDataPoint,
    progress: &Progress,
) -> Result<Converted, String> {
    let start = point.start_time_unix_nano;
    if start == 0 {
        return Err("a cumulative point has no start time, so two processes could not be told apart".to_owned());
    }
    let attributes = Attributes { own: &point.attributes, resource: source.resource };
    let (value, field) = (value(rule, point)?, field(rule, &attributes)?);
    let unit = rule.kind == CounterKind::Count;
    let grain = if unit { 1 } else { rule.grain };
    // The total of 0.1 + 0.2 is no reason to miss a cut.
    let total = (value + 1e-6) as u64 / grain;
    if unit && total > UNITS_MAX {
        return Err(format!("a point counts more than {UNITS_MAX}"));
    }
    let key = |cut: u64| {
        json!([source.org.as_str(), tool.tool, "cumulative", name, attributes.all(), start.to_string(), grain, cut])
    };
    let series = Uuid::new_v5(&NAMESPACE, key(0).to_string().as_bytes()).as_u128();
    let mut events = Events::new(tool, source, &attributes, name);
    let mut reached = None;
    for (number, from, to) in series::cuts(total, unit, progress.of(series)) {
        let mut data = events.data(&rule.data);
        data.extend(field.map(|field| (field.to_owned(), ((to - from) * grain).into())));
        events.push(&rule.event_type, start, |_| key(number), data)?;
        reached = Some((series, number));
    }
    Ok(events.finish(reached))
}

/// Events in the making, all of one record or point.
struct Events<'a> {
    tool: &'a Tool,
    source: &'a Source<'a>,
    attributes: &'a Attributes<'a>,
    /// Of the record or metric, for messages.
    name: &'a str,
    events: Vec<(String, Vec<u8>)>,
    unreadable: u64,
}

impl<'a> Events<'a> {
    fn new(tool: &'a Tool, source: &'a Source<'a>, attributes: &'a Attributes<'a>, name: &'a str) -> Self {
        Self { tool, source, attributes, name, events: Vec::new(), unreadable: 0 }
    }

    fn finish(self, reached: Option<Reached>) -> Converted {
        Converted::Events { events: self.events, reached, unreadable: self.unreadable }
    }

    fn data(&mut self, rules: &std::collections::BTreeMap<String, Rules>) -> Map<String, Value> {
        let mut data = Map::new();
        for (field, rules) in rules {
            let mut outcomes = rules.iter().map(|rule| given(rule, self.attributes));
            match outcomes.find(|outcome| !matches!(outcome, Given::None)) {
                Some(Given::Value(value)) => {
                    data.insert(field.clone(), value);
                }
                Some(Given::Unreadable) => self.unreadable += 1,
                Some(Given::None) | None => {}
            }
        }
        data
    }

    /// Adds an event; `key` gives its natural key from its subject.
    fn push(
        &mut self,
        event_type: &str,
        time_ns: u64,
        key: impl FnOnce(&str) -> Value,
        data: Map<String, Value>,
    ) -> Result<(), String> {
        let Envelope { subject, source, mut event } = self.envelope()?;
        let time = i64::try_from(time_ns / 1_000).ok().filter(|us| *us > 0);
        let time = time.and_then(|us| Timestamp::from_microsecond(us).ok());
        let time = time.ok_or_else(|| format!("{}: the item has no time", self.name))?;
        let id = Uuid::new_v5(&NAMESPACE, key(&subject).to_string().as_bytes());
        event.insert("id".to_owned(), id.to_string().into());
        event.insert("source".to_owned(), source.into());
        event.insert("type".to_owned(), format!("dev.daybook.{event_type}.v1").into());
        event.insert("time".to_owned(), format!("{time:.6}").into());
        event.insert("subject".to_owned(), subject.as_str().into());
        event.insert("data".to_owned(), data.into());
        let event = Value::Object(event).to_string().into_bytes();
        event::decode(&event, self.source.latest_us).map_err(|rejection| format!("{}: {rejection}", self.name))?;
        self.events.push((subject, event));
        Ok(())
    }

    fn envelope(&self) -> Result<Envelope, String> {
        let rules = &self.tool.envelope;
        let first = |names: &[String]| names.iter().find_map(|name| self.attributes.text(name));
        let subject =
            rules.subject.iter().find_map(|(name, prefix)| Some(format!("{prefix}{}", self.attributes.text(name)?)));
        let subject = subject.ok_or_else(|| {
            let names: Vec<_> = rules.subject.iter().map(|(name, _)| name.as_str()).collect();
            format!("{}: says nobody's activity; one of {} is needed", self.name, names.join(", "))
        })?;
        let mut event = Map::new();
        let install = first(&rules.install);
        let (product, client_type) = (&rules.product, &rules.client_type);
        let source = format!("urn:daybook:{product}:{client_type}:{}", install.as_deref().unwrap_or("otlp"));
        let fixed = [
            ("specversion", "1.0"),
            ("datacontenttype", "application/json"),
            ("product", product),
            ("clienttype", client_type),
        ];
        for (name, value) in fixed {
            event.insert(name.to_owned(), value.into());
        }
        event.extend(install.map(|install| ("installid".to_owned(), install.into())));
        for (name, from) in &rules.attributes {
            event.extend(first(from).map(|value| (name.clone(), value.into())));
        }
        Ok(Envelope { subject, source, event })
    }
}

struct Envelope {
    subject: String,
    source: String,
    event: Map<String, Value>,
}

/// Attributes of an item; where it lacks one, those of its resource.
struct Attributes<'a> {
    own: &'a [KeyValue],
    resource: &'a [KeyValue],
}

impl<'a> Attributes<'a> {
    fn get(&self, name: &str) -> Option<&'a any_value::Value> {
        let all = self.own.iter().chain(self.resource);
        all.filter(|attribute| attribute.key == name).find_map(|attribute| attribute.value.as_ref()?.value.as_ref())
    }

    /// A scalar as text; absent, empty and nested ones are none.
    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?).filter(|text| !text.is_empty())
    }

    /// Own and resource's attributes in the order of their names: the identity of a series.
    fn all(&self) -> [Vec<(&'a str, Cow<'a, str>)>; 2] {
        [self.own, self.resource].map(|attributes| {
            let named =
                attributes.iter().map(|attribute| (attribute.key.as_str(), text_of(attribute).unwrap_or_default()));
            let mut named: Vec<_> = named.collect();
            named.sort();
            named
        })
    }
}

/// A scalar attribute as text.
pub(super) fn text_of(attribute: &KeyValue) -> Option<Cow<'_, str>> {
    let AnyValue { value } = attribute.value.as_ref()?;
    text(value.as_ref()?)
}

fn text(value: &any_value::Value) -> Option<Cow<'_, str>> {
    match value {
        any_value::Value::StringValue(text) => Some(text.as_str().into()),
        any_value::Value::BoolValue(value) => Some(if *value { "true" } else { "false" }.into()),
        any_value::Value::IntValue(value) => Some(value.to_string().into()),
        any_value::Value::DoubleValue(value) => Some(value.to_string().into()),
        _ => None,
    }
}

enum Given {
    Value(Value),
    /// Nothing to go by: the next rule may know.
    None,
    /// There is something, but it is not what it should be.
    Unreadable,
}

fn given(rule: &Rule, attributes: &Attributes<'_>) -> Given {
    if let Some(constant) = &rule.constant {
        return Given::Value(constant.clone());
    }
    let texts: Vec<_> = rule.from.iter().map(|name| attributes.text(name)).collect();
    if texts.iter().all(Option::is_none) {
        return Given::None;
    }
    let joined = match &texts[..] {
        [Some(only)] => only.clone(),
        several => several.iter().map(|text| text.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("/").into(),
    };
    let mut text = joined.as_ref();
    if rule.prefix.as_ref().is_some_and(|prefix| !text.starts_with(prefix.as_str())) {
        return Given::None;
    }
    if let Some((separator, index)) = &rule.part {
        match text.split(separator.as_str()).nth(*index) {
            Some(part) if !part.is_empty() => text = part,
            _ => return Given::None,
        }
    }
    if let Some(map) = &rule.map {
        let found = map.iter().find(|(pattern, _)| fits(pattern, text));
        return found.map_or(Given::None, |(_, value)| Given::Value(value.clone()));
    }
    match rule.kind {
        ValueKind::Text => Given::Value(text.into()),
        ValueKind::Int => {
            let number = match (text.parse::<i64>(), rule.scale) {
                (Ok(exact), None) => Some(exact),
                _ => text.parse::<f64>().ok().map(|number| number * rule.scale.unwrap_or(1.0)).and_then(rounded),
            };
            number.map_or(Given::Unreadable, |number| Given::Value(number.into()))
        }
    }
}

/// The nearest integer, within what a JSON number holds exactly; fields bound it further.
fn rounded(number: f64) -> Option<i64> {
    (number.abs() <= 9_007_199_254_740_992.0).then(|| number.round() as i64)
}
