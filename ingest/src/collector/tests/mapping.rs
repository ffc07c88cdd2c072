//! The tools' files say nothing that the contract does not know, and read no content.

use schemas::registry::{FieldType, Registry};

use crate::collector::otlp::mapping::{Rule, Rules, TOOLS, Tool, read};

/// Attributes that carry, or may carry, what people and models wrote.
const CONTENT: &[&str] = &[
    "prompt",
    "prompt_text",
    "response",
    "tool_parameters",
    "tool_input",
    "tool_output",
    "error",
    "error.message",
    "body",
    "full_command",
    "bash_command",
    "description",
    "file_path",
    "message",
    "arguments",
    "user_prompt",
];

fn rules(tool: &Tool) -> Vec<(&str, &str, &Rules)> {
    let logs =
        tool.logs.values().flatten().flat_map(|rule| {
            rule.data.iter().map(move |(field, rules)| (rule.event_type.as_str(), field.as_str(), rules))
        });
    let metrics = tool
        .metrics
        .values()
        .flat_map(|rule| rule.data.iter().map(move |(field, rules)| (rule.event_type.as_str(), field.as_str(), rules)));
    logs.chain(metrics).collect()
}

#[test]
fn files_fit_the_contract() {
    for (name, text) in TOOLS {
        let tool = read(text);
        assert_eq!(tool.tool, *name);
        assert!(!tool.service_names.is_empty() && !tool.envelope.subject.is_empty());
        assert_eq!(schemas::clients::client_type(&tool.envelope.client_type), tool.envelope.client_type);
        for (event_type, field, rules) in rules(&tool) {
            let full = format!("dev.daybook.{event_type}.v1");
            assert!(Registry::get().knows(&full), "{name}: {event_type}");
            assert!(!Registry::get().denies(field), "{name}: {event_type}.{field}");
            if let Some((_, spec)) = Registry::get().spec(&full).field(field)
                && let FieldType::Enum(values) = &spec.field_type
            {
                let constants = rules.iter().filter_map(|rule| rule.constant.as_ref());
                let mapped = rules.iter().flat_map(|rule| rule.map.iter().flatten().map(|(_, value)| value));
                for value in constants.chain(mapped) {
                    assert!(
                        values.iter().any(|known| value == known.as_str()),
                        "{name}: {event_type}.{field} = {value}"
                    );
                }
            }
        }
        for rule in tool.metrics.values() {
            let spec = Registry::get().spec(&format!("dev.daybook.{}.v1", rule.event_type));
            let fields = rule.field.iter().flat_map(|field| field.values.values());
            assert!(fields.clone().all(|field| spec.field(field).is_some()), "{name}: {}", rule.event_type);
            assert!(rule.grain > 0 && rule.scale > 0.0);
            // An increment has to go somewhere.
            assert_eq!(fields.count() > 0, rule.kind == crate::collector::otlp::mapping::CounterKind::Amount);
        }
        let both = tool.logs.keys().chain(tool.metrics.keys()).filter(|key| tool.ignored.contains_key(*key));
        assert_eq!(both.count(), 0, "{name}: mapped and ignored");
        assert!(tool.ignored.values().all(|reason| !reason.is_empty()));
    }
}

#[test]
fn no_rule_reads_content() {
    for (name, text) in TOOLS {
        let tool = read(text);
        let mut attributes: Vec<&str> = rules(&tool)
            .iter()
            .flat_map(|(_, _, rules)| rules.iter().flat_map(|rule: &Rule| rule.from.iter().map(String::as_str)))
            .collect();
        attributes.extend(tool.envelope.attributes.values().flatten().map(String::as_str));
        attributes.extend(tool.identity.iter().map(String::as_str));
        assert!(!attributes.is_empty());
        for attribute in attributes {
            assert!(!CONTENT.contains(&attribute), "{name} reads `{attribute}`");
        }
    }
}
