//! The tables that are written from outside: `events` and `dead_letters` by ingest, `team_members` by an admin.

use std::sync::LazyLock;

use arrow::datatypes::SchemaRef;

use crate::{
    breakdown, derived,
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
    rollup::ROLLUP_DAILY,
    table::{Column, ColumnType, PROPERTIES, TableSpec, arrow_schema, column},
};

/// Columns of `events`: one row per record of the log that decodes, client retries included.
///
/// One column serves every event type whose attribute means the same, so that a new event type seldom needs a new
/// column and most columns of a row are null, which costs next to nothing in Parquet.
pub static EVENT_COLUMNS: &[Column] = &[
    column("event_date", ColumnType::Date, false, "UTC day of event_time; partition column."),
    column("org_id", ColumnType::Text, false, "Organisation, from the credential."),
    column("user_key", ColumnType::Text, false, "The actor: the event's subject."),
    column(
        "client_type",
        ColumnType::Text,
        false,
        "ide, cli, plugin, desktop_app, web, mobile, cloud_agent, review_bot, sdk_api, ci or unknown.",
    ),
    column("event_time", ColumnType::Time, false, "When it happened, by the client's clock."),
    column(
        "event_id",
        ColumnType::Binary,
        false,
        "Event id: a UUID as its 16 bytes, any other id as 0xff and its UTF-8 bytes.",
    ),
    column("source", ColumnType::Text, false, "Who emitted it. (org_id, source, event_id) identifies an event."),
    column("event_type", ColumnType::Text, false, "Event type, e.g. dev.daybook.prompt.submitted.v1."),
    column("recorded_time", ColumnType::Time, false, "When the server took it."),
    column("vantage", ColumnType::Text, false, "Who saw it: client, service, report, otlp."),
    column("log_partition", ColumnType::Int32, false, "Partition of the log it came from."),
    column("log_offset", ColumnType::Int, false, "Offset in that partition."),
    column(
        "payload_hash",
        ColumnType::Int,
        false,
        "XXH3-64 of type, time, subject and data: tells a retry from a conflicting event with the same id.",
    ),
    column("product", ColumnType::Text, true, "Product, e.g. kiro, copilot, claude_code."),
    column("client_type_raw", ColumnType::Text, true, "Client type as sent."),
    column("client_version", ColumnType::Text, true, "Version of the client."),
    column("host_app", ColumnType::Text, true, "Application that hosts the client, e.g. vscode."),
    column("install_id", ColumnType::Text, true, "Installation."),
    column("session_id", ColumnType::Text, true, "Session."),
    column("conversation_id", ColumnType::Text, true, "Conversation."),
    column("turn_id", ColumnType::Text, true, "Turn: a prompt and all that follows from it."),
    column("sequence", ColumnType::Int, true, "Number of the event within its installation; gaps show loss."),
    column("tz_offset_minutes", ColumnType::Int, true, "Client's offset from UTC [minutes]."),
    column("sent_time", ColumnType::Time, true, "When the client sent it, by the client's clock."),
    column("trace_parent", ColumnType::Text, true, "W3C trace context."),
    column("data_schema", ColumnType::Text, true, "URI of the data's schema, as sent."),
    column("start_type", ColumnType::Text, true, "How a session began."),
    column("reason", ColumnType::Text, true, "Why."),
    column("mode", ColumnType::Text, true, "Kind of conversation."),
    column("slash_command", ColumnType::Text, true, "Name of the slash command."),
    column("provider", ColumnType::Text, true, "Who serves the model."),
    column("request_model", ColumnType::Text, true, "Model asked for."),
    column("response_model", ColumnType::Text, true, "Model that answered."),
    column("status", ColumnType::Text, true, "success, error, aborted or refused."),
    column("error_type", ColumnType::Text, true, "Class of the error."),
    column("query_source", ColumnType::Text, true, "main, subagent or auxiliary."),
    column("tool", ColumnType::Text, true, "Tool."),
    column("tool_type", ColumnType::Text, true, "builtin or mcp."),
    column("mcp_server", ColumnType::Text, true, "MCP server."),
    column("decision", ColumnType::Text, true, "accept, auto_accept, reject, modify or abort."),
    column("decision_source", ColumnType::Text, true, "Who decided."),
    column("language", ColumnType::Text, true, "Programming language."),
    column("file_op", ColumnType::Text, true, "create, edit, delete or read."),
    column("suggestion_id", ColumnType::Text, true, "Joins shown and resolved."),
    column("feature", ColumnType::Text, true, "Feature."),
    column("outcome", ColumnType::Text, true, "accepted, rejected, dismissed or modified."),
    column("kind", ColumnType::Text, true, "Kind, by event type."),
    column("origin", ColumnType::Text, true, "ai, human or mixed."),
    column("repo_ref", ColumnType::Text, true, "Keyed hash of the repository."),
    column("action", ColumnType::Text, true, "What happened to the pull request."),
    column("agent", ColumnType::Text, true, "Agent."),
    column("meter", ColumnType::Text, true, "credits, requests, tokens or cost."),
    column("unit", ColumnType::Text, true, "Unit of quantity, delta, allotment and overage_cap."),
    column("tier", ColumnType::Text, true, "Plan tier."),
    column("usage_event_id", ColumnType::Text, true, "Identity in the vendor's meter."),
    column("state", ColumnType::Text, true, "New state, by event type."),
    column("reports", ColumnType::Text, true, "Measure families that the client can report."),
    column("vendor", ColumnType::Text, true, "Vendor of the report."),
    column("report", ColumnType::Text, true, "Name of the report."),
    column("duration_ms", ColumnType::Int, true, "Duration [ms]."),
    column("turns", ColumnType::Int, true, "Turns."),
    column("active_user_ms", ColumnType::Int, true, "Time in which the user acted [ms]."),
    column("active_agent_ms", ColumnType::Int, true, "Time in which an agent worked [ms]."),
    column("length_chars", ColumnType::Int, true, "Length of the prompt [characters]."),
    column("input_tokens", ColumnType::Int, true, "Input tokens."),
    column("output_tokens", ColumnType::Int, true, "Output tokens."),
    column("cache_read_tokens", ColumnType::Int, true, "Input tokens read from cache."),
    column("cache_creation_tokens", ColumnType::Int, true, "Input tokens written to cache."),
    column("reasoning_tokens", ColumnType::Int, true, "Output tokens spent on reasoning."),
    column("ttft_ms", ColumnType::Int, true, "Time to first token [ms]."),
    column("lines_add", ColumnType::Int, true, "Lines added, accepted or suggested, by event type."),
    column("lines_del", ColumnType::Int, true, "Lines deleted, by event type."),
    column("decision_latency_ms", ColumnType::Int, true, "From shown to resolved [ms]."),
    column("findings", ColumnType::Int, true, "Findings of a review."),
    column("lines_in", ColumnType::Int, true, "Lines read."),
    column("lines_out", ColumnType::Int, true, "Lines written."),
    column("cost_micro_usd", ColumnType::Int, true, "Cost [micro USD]."),
    column("cost_delta_micro_usd", ColumnType::Int, true, "Correction of cost [micro USD]."),
    column("revision", ColumnType::Int, true, "Revision of a report's row."),
    column("events_dropped", ColumnType::Int, true, "Events that the client dropped."),
    column("input_includes_cached", ColumnType::Bool, true, "input_tokens includes cached ones."),
    column("included", ColumnType::Bool, true, "Covered by the plan."),
    column("overage", ColumnType::Bool, true, "Beyond the plan."),
    column("byok", ColumnType::Bool, true, "Paid with the user's own key."),
    column("billable", ColumnType::Bool, true, "Charged by the vendor."),
    column("overage_enabled", ColumnType::Bool, true, "Overage is allowed."),
    column("quantity", ColumnType::Decimal, true, "How much, in unit."),
    column("allotment", ColumnType::Decimal, true, "Allotment of the period, in unit."),
    column("delta", ColumnType::Decimal, true, "Correction of quantity, in unit."),
    column("overage_cap", ColumnType::Decimal, true, "Overage cap, in unit."),
    column("ext", ColumnType::Text, true, "Attributes without a column of their own, as a JSON object."),
];

/// Columns of `dead_letters`: one row per record of the log that does not decode.
pub static DEAD_LETTER_COLUMNS: &[Column] = &[
    column("recorded_date", ColumnType::Date, false, "UTC day of recorded_time; partition column."),
    column("cause", ColumnType::Text, false, "Why it was refused, one of the fixed causes, e.g. not_json."),
    column("field", ColumnType::Text, true, "Attribute at fault, where one is."),
    column("detail", ColumnType::Text, false, "What was wrong, in a sentence; holds no value of the record."),
    column("org_id", ColumnType::Text, true, "Organisation, from the credential; null where the record names none."),
    column("topic", ColumnType::Text, false, "Log it came from."),
    column("log_partition", ColumnType::Int32, false, "Partition of the log."),
    column("log_offset", ColumnType::Int, false, "Offset in that partition."),
    column("append_time", ColumnType::Time, true, "When the log took it."),
    column(
        "recorded_time",
        ColumnType::Time,
        false,
        "When the worker met it, or the collector's time where it is known.",
    ),
    column("record_key", ColumnType::Binary, true, "Key of the record, raw."),
    column("record_value", ColumnType::Binary, true, "Value of the record, raw; cut at 1 MiB."),
    column("value_bytes", ColumnType::Int, false, "Length of the whole value [bytes]."),
    column("record_headers", ColumnType::Text, true, "Headers as a JSON object."),
];

fn events_schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| arrow_schema(EVENT_COLUMNS));
    SCHEMA.clone()
}

fn dead_letters_schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| arrow_schema(DEAD_LETTER_COLUMNS));
    SCHEMA.clone()
}

/// Every accepted event, as it was sent.
pub static EVENTS: TableSpec = TableSpec {
    name: "events",
    schema_of: events_schema,
    partition_column: Some("event_date"),
    sort_columns: &["org_id", "user_key", "client_type", "event_time"],
    bloom_columns: &[],
    properties: PROPERTIES,
};

/// Every record that could not become an event.
pub static DEAD_LETTERS: TableSpec = TableSpec {
    name: "dead_letters",
    schema_of: dead_letters_schema,
    partition_column: Some("recorded_date"),
    sort_columns: &["log_partition", "log_offset"],
    bloom_columns: &[],
    properties: PROPERTIES,
};

/// Columns of `team_members`: who belongs to which team, from when to when.
pub static TEAM_MEMBER_COLUMNS: &[Column] = &[
    column("org_id", ColumnType::Text, false, "Organisation."),
    column("team_id", ColumnType::Text, false, "Team."),
    column("user_key", ColumnType::Text, false, "Person."),
    column("valid_from", ColumnType::Date, false, "First day of the membership."),
    column("valid_to", ColumnType::Date, true, "First day after the membership; null while it lasts."),
];

fn team_members_schema(_: &str) -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| arrow_schema(TEAM_MEMBER_COLUMNS));
    SCHEMA.clone()
}

/// Membership of teams, with its history.
pub static TEAM_MEMBERS: TableSpec = TableSpec {
    name: "team_members",
    schema_of: team_members_schema,
    partition_column: None,
    sort_columns: &["org_id", "team_id", "user_key", "valid_from"],
    bloom_columns: &[],
    properties: PROPERTIES,
};

/// Every table there is.
pub fn all() -> impl Iterator<Item = &'static TableSpec> {
    let given =
        [&EVENTS, &DEAD_LETTERS, &TEAM_MEMBERS, &ROLLUP_DAILY, &ROLLUP_REVISIONS, &ROLLUP_SUPERSEDED].into_iter();
    given.chain(breakdown::specs()).chain(derived::specs())
}

/// Position of a column of `events`. Callers on the hot path ask at compile time.
#[must_use]
pub const fn event_column(name: &str) -> Option<usize> {
    let mut position = 0;
    while position < EVENT_COLUMNS.len() {
        if same(EVENT_COLUMNS[position].name.as_bytes(), name.as_bytes()) {
            return Some(position);
        }
        position += 1;
    }
    None
}

/// `==` on slices is not yet a constant function.
const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
