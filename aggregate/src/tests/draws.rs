//! Made-up histories of events, around odd days and crowded instants.

use proptest::prelude::*;

use super::{Ev, Val, event, naive::Zones, t, us};
use crate::calendar::{OrgCalendar, OrgDays};

/// Organisations and their zones.
pub(super) const ORGS: [(&str, &str); 6] = [
    ("acme", "UTC"),
    ("beta", "America/New_York"),
    ("kath", "Asia/Kathmandu"),
    ("lord", "Australia/Lord_Howe"),
    ("samoa", "Pacific/Apia"),
    ("sao", "America/Sao_Paulo"),
];

/// Instants around which days are odd: DST edges, a skipped date, a skipped midnight; and a plain one.
pub(super) const EDGES: [&str; 7] = [
    "2024-03-10T05:00:00Z",
    "2024-11-03T06:00:00Z",
    "2011-12-30T10:00:00Z",
    "2018-11-04T03:00:00Z",
    "2024-10-05T15:30:00Z",
    "2024-04-06T15:00:00Z",
    "2026-06-01T18:15:00Z",
];

const KINDS: [&str; 24] = [
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
    "code.changed",
    "vcs.commit_created",
    "vcs.pull_request_changed",
    "agent.run_started",
    "agent.run_completed",
    "usage.metered",
    "usage.corrected",
    "subscription.changed",
    "telemetry.status",
    "feedback.given",
    // Not known: of a known family, and of none.
    "model.dreamt",
    "frobnication.done",
    "report.row_observed",
    "identity.changed",
];

/// Texts that an event may carry; a draw beyond the list leaves the column null.
const TEXTS: [(&str, &[&str]); 24] = [
    ("client_type", &["ide", "cli", "cloud_agent"]),
    ("product", &["kiro", "claude_code", "a product with a long name"]),
    ("session_id", &["s1", "s2", "0190d2c1-7a8b-7ccc-9ddd-000000000003", "s4"]),
    ("turn_id", &["t1", "t2", "0190d2c1-7a8b-7ccc-9ddd-0000000000aa", "t4", "t5"]),
    ("install_id", &["i1", "0190d2c1-7a8b-7ccc-9ddd-0000000000ff"]),
    ("status", &["success", "error", "refused", "aborted"]),
    ("query_source", &["main", "subagent"]),
    ("tool_type", &["mcp", "builtin"]),
    ("decision", &["accept", "auto_accept", "reject", "modify", "abort"]),
    ("kind", &["subagent", "cloud", "local"]),
    ("outcome", &["accepted", "rejected", "dismissed", "modified"]),
    ("origin", &["ai", "mixed", "human"]),
    ("action", &["opened", "closed"]),
    ("meter", &["credits", "tokens"]),
    ("state", &["active", "expired"]),
    ("tier", &["pro", "team"]),
    ("reports", &["model,prompt", "tool,nonsense, vcs"]),
    ("provider", &["anthropic", "a provider with a long name"]),
    // Long ones that begin alike, as model names do; and one that says what an absent one says.
    ("response_model", &["claude-opus-4-5-20251101", "claude-opus-4-5-20250805", "unknown", "small"]),
    ("request_model", &["claude-opus-4-5-20251101", "claude-opus-4-5", "small"]),
    ("tool", &["Read", "mcp__search", "mcp__search__of_the_long_kind"]),
    ("mcp_server", &["search", ""]),
    ("feature", &["completion", "chat_in_the_side_bar"]),
    ("language", &["rust", "python", "typescript_react"]),
];

const INTS: [&str; 14] = [
    "active_user_ms",
    "active_agent_ms",
    "duration_ms",
    "ttft_ms",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_creation_tokens",
    "reasoning_tokens",
    "lines_add",
    "lines_del",
    "cost_micro_usd",
    "cost_delta_micro_usd",
    "sequence",
];

pub(super) fn zones() -> Zones {
    ORGS.iter().map(|(org, zone)| ((*org).to_owned(), (*zone).to_owned())).collect()
}

pub(super) fn calendar() -> OrgCalendar {
    ORGS.iter().fold(OrgCalendar::default(), |calendar, (org, zone)| {
        calendar.with(&org.parse().expect("an id"), OrgDays::new(zone, 48).expect("a zone"))
    })
}

/// Fills in what an event of any kind may carry, from a number.
fn details(event: &mut Ev, seed: u64) {
    let mut state = seed | 1;
    let mut draw = move |choices: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % choices
    };
    for (name, values) in TEXTS {
        if let Some(value) = values.get(draw(values.len() + 1)) {
            event.insert(name, t(value));
        }
    }
    for name in INTS {
        if draw(4) > 0 {
            event.insert(name, Val::I(draw(100) as i64));
        }
    }
    for name in ["quantity", "delta", "overage_cap"] {
        if draw(3) > 0 {
            event.insert(name, Val::D(draw(5_000_000) as i128 - 1_000_000));
        }
    }
    for name in ["included", "overage", "billable", "overage_enabled"] {
        let pick = draw(3);
        if pick < 2 {
            event.insert(name, Val::B(pick == 1));
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Draw {
    org: usize,
    user: u8,
    kind: usize,
    /// From the edge.
    minutes: i64,
    micros: i64,
    /// From event to record.
    delay_s: i64,
    details: u64,
    copies: u8,
}

pub(super) fn draws(minutes: i64, most: usize) -> impl Strategy<Value = Vec<Draw>> {
    let delay = prop::sample::select(vec![0, 1, 3_600, 86_400, 5 * 86_400]);
    let copies = prop::sample::select(vec![0_u8, 0, 0, 0, 1, 2, 3]);
    let one = (0..ORGS.len(), 0..3_u8, 0..KINDS.len(), -minutes..minutes, -1..2_i64, delay, any::<u64>(), copies);
    let one = one.prop_map(|(org, user, kind, minutes, micros, delay_s, details, copies)| Draw {
        org,
        user,
        kind,
        minutes,
        micros,
        delay_s,
        details,
        copies,
    });
    prop::collection::vec(one, 0..most)
}

pub(super) fn history(edge: &str, draws: &[Draw]) -> Vec<Ev> {
    let mut events = Vec::new();
    for (index, draw) in draws.iter().enumerate() {
        let time = us(edge) + draw.minutes * 60_000_000 + draw.micros;
        let mut event = event(ORGS[draw.org].0, &format!("u{}", draw.user), time, index as i64, KINDS[draw.kind], &[]);
        details(&mut event, draw.details);
        let recorded = time + draw.delay_s * 1_000_000;
        event.insert("recorded_time", Val::I(recorded));
        for copy in 0..i64::from(draw.copies) {
            let mut again = event.clone();
            // Copies arrive later, or in the same microsecond at another place of the log.
            again.insert("recorded_time", Val::I(recorded + copy * 40_000_000_000));
            again.insert("log_partition", Val::I(copy + 1));
            events.push(again);
        }
        events.push(event);
    }
    events
}
