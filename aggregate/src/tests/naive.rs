//! The rollup computed plainly: everything in memory, maps and sets, measures by hand, days by asking the zone minute by minute. Shares
//! no code with the walk.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{Breakdowns, Ev, Rows, Table, Val, int, text};

/// Zone of each organisation; others have UTC.
pub(super) type Zones = BTreeMap<String, String>;

/// Organisation, date, person, product, client type.
type Key<'a> = (&'a str, Date, &'a str, &'a str, &'a str);

const FAMILIES: [&str; 21] = [
    "access",
    "activity",
    "agent",
    "auth",
    "code",
    "conversation",
    "feedback",
    "identity",
    "model",
    "privacy",
    "prompt",
    "report",
    "review",
    "session",
    "subscription",
    "suggestion",
    "telemetry",
    "tool",
    "transform",
    "usage",
    "vcs",
];

fn local(us: i64, zone: &TimeZone) -> Date {
    zone.to_datetime(Timestamp::from_microsecond(us).expect("a time")).date()
}

/// The day around an instant: goes minute by minute until the date changes.
fn day(us: i64, zone: &TimeZone) -> (i64, i64) {
    const MINUTE: i64 = 60_000_000;
    let date = local(us, zone);
    let minute = us - us.rem_euclid(MINUTE);
    let (mut start, mut end) = (minute, minute + MINUTE);
    while local(start - 1, zone) == date {
        start -= MINUTE;
    }
    while local(end, zone) == date {
        end += MINUTE;
    }
    (start, end)
}

fn time(us: i64) -> String {
    Timestamp::from_microsecond(us).expect("a time").to_string()
}

fn decimal(units: i128) -> String {
    let sign = if units < 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", units.abs() / 1_000_000, units.abs() % 1_000_000)
}

fn kind(event: &Ev) -> &str {
    text(event, "event_type").expect("each event has a type")
}

fn is(event: &Ev, name: &str) -> bool {
    kind(event) == format!("dev.daybook.{name}.v1")
}

fn flag(event: &Ev, name: &str) -> Option<bool> {
    event.get(name).map(|value| *value == Val::B(true))
}

fn dec(event: &Ev, name: &str) -> i128 {
    if let Some(Val::D(value)) = event.get(name) { *value } else { 0 }
}

fn at(event: &Ev) -> i64 {
    int(event, "event_time").expect("each event has a time")
}

fn order(event: &Ev) -> [Option<i64>; 4] {
    ["event_time", "recorded_time", "log_partition", "log_offset"].map(|name| int(event, name))
}

/// The events of each row of the rollup, each with the number of its further copies.
type Groups<'a> = BTreeMap<Key<'a>, Vec<(&'a Ev, usize)>>;

fn zone_name<'z>(zones: &'z Zones, org: &str) -> &'z str {
    zones.get(org).map_or("UTC", String::as_str)
}

/// The first copy of each event counts.
fn groups<'a>(events: &'a [Ev], zones: &Zones) -> Groups<'a> {
    let mut copies: BTreeMap<_, Vec<&Ev>> = BTreeMap::new();
    for event in events {
        copies.entry((text(event, "org_id"), text(event, "source"), int(event, "event_id"))).or_default().push(event);
    }
    let mut groups = Groups::new();
    for ((org, ..), group) in &copies {
        let kept: &Ev = group.iter().min_by_key(|event| order(event)).expect("at least one copy");
        let org = org.expect("each event has an organisation");
        let date = local(at(kept), &TimeZone::get(zone_name(zones, org)).expect("a zone"));
        let of = |name| text(kept, name).unwrap_or("unknown");
        let key = (org, date, of("user_key"), of("product"), of("client_type"));
        groups.entry(key).or_default().push((kept, group.len() - 1));
    }
    groups
}

/// The content columns of every row of the rollup.
pub(super) fn rollup(events: &[Ev], zones: &Zones) -> Rows {
    let groups = groups(events, zones);
    let mut bounds = BTreeMap::new();
    for ((org, date, ..), members) in &groups {
        let zone = TimeZone::get(zone_name(zones, org)).expect("a zone");
        bounds.entry((*org, *date)).or_insert_with(|| day(at(members[0].0), &zone));
    }
    let mut first_days: BTreeMap<(&str, &str), Date> = BTreeMap::new();
    for (org, date, user, ..) in groups.keys() {
        let first = first_days.entry((org, user)).or_insert(*date);
        *first = (*first).min(*date);
    }
    let mut rows = Rows::new();
    for ((org, date, user, product, client_type), members) in &groups {
        let (start, end) = bounds[&(*org, *date)];
        let all: Vec<&Ev> = members.iter().map(|(event, _)| *event).collect();
        let families = families(&all, product, client_type);
        let mut row = measures(&all, &families);
        let mut put = |name: &str, value: String| assert!(row.insert(name.to_owned(), value).is_none());
        put("day_start", time(start));
        put("day_end", time(end));
        put("instrumented", families.iter().copied().collect::<Vec<_>>().join(","));
        put("time_zone", zone_name(zones, org).to_owned());
        put("definition_version", "1".into());
        put("events_received", all.len().to_string());
        put("late_events", all.iter().filter(|event| int(event, "recorded_time") >= Some(end)).count().to_string());
        put("duplicates_removed", members.iter().map(|(_, copies)| copies).sum::<usize>().to_string());
        let times: BTreeSet<i64> = all.iter().map(|event| at(event)).collect();
        put("first_event_time", time(*times.first().expect("a row has an event")));
        put("last_event_time", time(*times.last().expect("a row has an event")));
        put(
            "active_minutes",
            times.iter().map(|us| us.div_euclid(60_000_000)).collect::<BTreeSet<_>>().len().to_string(),
        );
        let mut installs: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for event in &all {
            if let (Some(install), Some(sequence)) = (text(event, "install_id"), int(event, "sequence")) {
                installs.entry(install).or_default().push(sequence);
            }
        }
        let span = |seen: &Vec<i64>| seen.iter().max().expect("not empty") - seen.iter().min().expect("not empty") + 1;
        let expected: i64 = installs.values().map(span).sum();
        let received: usize = installs.values().map(Vec::len).sum();
        let share = (received as f64 / expected as f64 * 1e6).round();
        put("events_expected", if received == 0 { "NULL".into() } else { expected.to_string() });
        put("completeness", if received == 0 { "NULL".into() } else { decimal(share as i128) });
        let theirs = |event: &&Ev| {
            text(event, "org_id") == Some(org) && text(event, "user_key") == Some(user) && at(event) < end
        };
        let plans = events.iter().filter(|event| is(event, "subscription.changed")).filter(theirs);
        let plan = plans.max_by_key(|event| order(event));
        let of_plan = |name: &str| plan.and_then(|plan| text(plan, name)).unwrap_or("NULL").to_owned();
        put("subscription_state", of_plan("state"));
        put("subscription_tier", of_plan("tier"));
        let enabled = plan.and_then(|plan| flag(plan, "overage_enabled"));
        put("overage_enabled", enabled.map_or("NULL".into(), |on| on.to_string()));
        let cap = plan.filter(|plan| plan.contains_key("overage_cap")).map(|plan| decimal(dec(plan, "overage_cap")));
        put("overage_cap", cap.unwrap_or("NULL".into()));
        let first = first_days[&(*org, *user)];
        put("first_active_date", first.to_string());
        put("newly_activated", (first == *date).to_string());
        let key = [*org, &date.to_string(), user, product, client_type].map(str::to_owned);
        let [org, date, user, product, client_type] = key;
        rows.insert((org, date, user, product, client_type), row);
    }
    rows
}

/// What a client reports, by its events, its word and our list.
fn families<'a>(all: &[&'a Ev], product: &str, client_type: &str) -> BTreeSet<&'a str> {
    let mut families: BTreeSet<&str> = BTreeSet::new();
    for event in all {
        families.extend(kind(event).strip_prefix("dev.daybook.").and_then(|rest| rest.split('.').next()));
        if is(event, "telemetry.status") {
            families.extend(text(event, "reports").unwrap_or_default().split(',').map(str::trim));
        }
    }
    if (product, client_type) == ("claude_code", "cli") {
        families.extend(["session", "activity", "prompt", "model", "tool", "code", "vcs", "usage"]);
    }
    families.retain(|family| FAMILIES.contains(family));
    families
}

/// What a breakdown is: its table, the value of each column of its key, whether an event has a row in it, and its measures.
type Breakdown = (&'static str, fn(&Ev) -> Vec<(&'static str, &str)>, fn(&Ev) -> bool, &'static [&'static str]);

const SUGGESTIONS: [&str; 8] = [
    "shown",
    "accepted",
    "rejected",
    "dismissed",
    "lines_suggested_add",
    "lines_suggested_del",
    "lines_accepted_add",
    "lines_accepted_del",
];
const DECISIONS: [&str; 4] = ["tool_accepts", "tool_auto_accepts", "tool_rejects", "tool_modifies"];

fn is_suggestion(event: &Ev) -> bool {
    is(event, "suggestion.shown")
        || is(event, "suggestion.resolved")
            && matches!(text(event, "outcome"), Some("accepted" | "rejected" | "dismissed" | "modified"))
}

fn is_decision(event: &Ev) -> bool {
    is(event, "tool.decided") && matches!(text(event, "decision"), Some("accept" | "auto_accept" | "reject" | "modify"))
}

const BREAKDOWNS: [Breakdown; 4] = [
    (
        "model_daily",
        |event| {
            let model = text(event, "response_model").or(text(event, "request_model"));
            vec![("provider", text(event, "provider").unwrap_or("unknown")), ("model", model.unwrap_or("unknown"))]
        },
        |event| is(event, "model.completed"),
        &[
            "responses",
            "model_requests",
            "model_errors",
            "model_refusals",
            "latency_ms_sum",
            "ttft_ms_sum",
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_creation_tokens",
            "reasoning_tokens",
        ],
    ),
    (
        "tool_daily",
        |event| {
            let of = |name| (name, text(event, name).unwrap_or("unknown"));
            vec![of("tool"), of("mcp_server")]
        },
        |event| is(event, "tool.completed") || is_decision(event),
        &["tool_calls", "tool_failures", DECISIONS[0], DECISIONS[1], DECISIONS[2], DECISIONS[3]],
    ),
    (
        "feature_daily",
        |event| vec![("feature", text(event, "feature").unwrap_or("unknown"))],
        is_suggestion,
        &SUGGESTIONS,
    ),
    (
        "language_daily",
        |event| vec![("language", text(event, "language").unwrap_or("unknown"))],
        |event| is_suggestion(event) || is_decision(event) || is(event, "code.changed"),
        &{
            let [a, b, c, d, e, f, g, h] = SUGGESTIONS;
            let [i, j, k, l] = DECISIONS;
            [a, b, c, d, e, f, g, h, i, j, k, l, "lines_total_add", "lines_total_del"]
        },
    ),
];

/// Every row of every breakdown.
pub(super) fn breakdowns(events: &[Ev], zones: &Zones) -> Breakdowns {
    let groups = groups(events, zones);
    let table = |(name, key, has_row, columns): Breakdown| {
        let mut table = Table::new();
        for ((org, date, user, product, client_type), members) in &groups {
            let all: Vec<&Ev> = members.iter().map(|(event, _)| *event).collect();
            let families = families(&all, product, client_type);
            let mut parts: BTreeMap<_, Vec<&Ev>> = BTreeMap::new();
            for event in all.iter().copied().filter(|event| has_row(event)) {
                parts.entry(key(event)).or_default().push(event);
            }
            for (key, part) in parts {
                let of_row = [
                    ("activity_date", date.to_string().as_str()),
                    ("org_id", org),
                    ("user_key", user),
                    ("product", product),
                    ("client_type", client_type),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
                let mut row = measures(&part, &families);
                row.retain(|name, _| columns.contains(&name.as_str()));
                row.extend(key.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
                row.extend(of_row);
                table.insert(row);
            }
        }
        (name, table)
    };
    BREAKDOWNS.map(table).into()
}

/// Every measure, written out by hand.
fn measures(all: &[&Ev], families: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut row = BTreeMap::new();
    let mut put = |name: &str, of: &[&str], value: String| {
        let known = of.iter().any(|family| families.contains(family));
        row.insert(name.to_owned(), if known { value } else { "NULL".into() });
    };
    let count = |holds: &dyn Fn(&Ev) -> bool| all.iter().filter(|event| holds(event)).count().to_string();
    let total = |column: &str, holds: &dyn Fn(&Ev) -> bool| {
        all.iter().filter(|event| holds(event)).filter_map(|event| int(event, column)).map(i128::from).sum::<i128>()
    };
    let sum = |column: &str, holds: &dyn Fn(&Ev) -> bool| total(column, holds).to_string();
    let exact = |column: &str, holds: &dyn Fn(&Ev) -> bool| {
        all.iter().filter(|event| holds(event)).map(|event| dec(event, column)).sum::<i128>()
    };
    let distinct =
        |column: &str| all.iter().filter_map(|event| text(event, column)).collect::<BTreeSet<_>>().len().to_string();
    let has = |event: &Ev, column: &str, value: &str| text(event, column) == Some(value);
    let model = |event: &Ev| is(event, "model.completed");
    let main = |event: &Ev| text(event, "query_source").unwrap_or("main") == "main";
    let response = |event: &Ev| model(event) && has(event, "status", "success") && main(event);
    let tool = |event: &Ev| is(event, "tool.completed");
    let resolved = |event: &Ev| is(event, "suggestion.resolved");
    let ai = |event: &Ev| has(event, "origin", "ai") || has(event, "origin", "mixed");

    put("sessions", &["session"], distinct("session_id"));
    put("turns", &["prompt"], distinct("turn_id"));
    for column in ["active_user_ms", "active_agent_ms"] {
        put(column, &["activity"], sum(column, &|event| is(event, "activity.ticked")));
    }
    put("conversations", &["conversation"], count(&|event| is(event, "conversation.started")));
    put("prompts", &["prompt"], count(&|event| is(event, "prompt.submitted")));
    put("responses", &["model"], count(&response));
    let message = |event: &Ev| is(event, "prompt.submitted") || tool(event) || response(event);
    put("messages_total", &["prompt", "tool", "model"], count(&message));
    put("model_requests", &["model"], count(&model));
    put("model_errors", &["model"], count(&|event| model(event) && has(event, "status", "error")));
    put("model_refusals", &["model"], count(&|event| model(event) && has(event, "status", "refused")));
    put("latency_ms_sum", &["model"], sum("duration_ms", &model));
    put("ttft_ms_sum", &["model"], sum("ttft_ms", &model));
    for column in ["input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "reasoning_tokens"] {
        put(column, &["model"], sum(column, &model));
    }
    put("tool_calls", &["tool"], count(&tool));
    put("tool_failures", &["tool"], count(&|event| tool(event) && has(event, "status", "error")));
    put("mcp_tool_calls", &["tool"], count(&|event| tool(event) && has(event, "tool_type", "mcp")));
    let decisions = [
        ("tool_accepts", "accept"),
        ("tool_auto_accepts", "auto_accept"),
        ("tool_rejects", "reject"),
        ("tool_modifies", "modify"),
    ];
    for (name, decision) in decisions {
        put(name, &["tool"], count(&|event| is(event, "tool.decided") && has(event, "decision", decision)));
    }
    let agent = |event: &Ev| is(event, "agent.run_started");
    put("agent_runs", &["agent"], count(&agent));
    put("subagent_runs", &["agent"], count(&|event| agent(event) && has(event, "kind", "subagent")));
    put("cloud_agent_runs", &["agent"], count(&|event| agent(event) && has(event, "kind", "cloud")));
    put("shown", &["suggestion"], count(&|event| is(event, "suggestion.shown")));
    for outcome in ["accepted", "rejected", "dismissed"] {
        put(outcome, &["suggestion"], count(&|event| resolved(event) && has(event, "outcome", outcome)));
    }
    let taken =
        |event: &Ev| resolved(event) && (has(event, "outcome", "accepted") || has(event, "outcome", "modified"));
    for (suffix, column) in [("add", "lines_add"), ("del", "lines_del")] {
        put(&format!("lines_suggested_{suffix}"), &["suggestion"], sum(column, &|event| is(event, "suggestion.shown")));
        put(&format!("lines_accepted_{suffix}"), &["suggestion"], sum(column, &taken));
        put(&format!("lines_total_{suffix}"), &["code"], sum(column, &|event| is(event, "code.changed")));
    }
    put("commits_ai", &["vcs"], count(&|event| is(event, "vcs.commit_created") && ai(event)));
    let opened = |event: &Ev| text(event, "action").unwrap_or("opened") == "opened";
    put("prs_ai", &["vcs"], count(&|event| is(event, "vcs.pull_request_changed") && ai(event) && opened(event)));
    let metered = |event: &Ev| is(event, "usage.metered");
    let corrected = |event: &Ev| is(event, "usage.corrected");
    let credits = |event: &Ev| has(event, "meter", "credits");
    let used = exact("quantity", &|event| metered(event) && credits(event));
    put("credits_used", &["usage"], decimal(used + exact("delta", &|event| corrected(event) && credits(event))));
    for (name, column) in [("credits_included_used", "included"), ("credits_overage_used", "overage")] {
        let holds = |event: &Ev| metered(event) && credits(event) && flag(event, column) == Some(true);
        put(name, &["usage"], decimal(exact("quantity", &holds)));
    }
    for (name, charged) in [("cost_estimated_micro_usd", false), ("cost_charged_micro_usd", true)] {
        let billed = |event: &Ev| (flag(event, "billable") == Some(true)) == charged;
        let cost = total("cost_micro_usd", &|event| metered(event) && billed(event));
        let correction = total("cost_delta_micro_usd", &|event| corrected(event) && billed(event));
        put(name, &["usage"], (cost + correction).to_string());
    }
    put("corrections", &["usage"], count(&corrected));
    row
}
