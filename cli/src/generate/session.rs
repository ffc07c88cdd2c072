//! What happens in one session: conversations, turns, and all that follows from a prompt.

use std::collections::VecDeque;

use super::{
    json::{Json, uuid_v7},
    people::{Client, Install, Meter},
    random::Random,
};

/// One step of a session: one event.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    SessionStarted,
    SessionEnded,
    Status,
    Plan,
    Tick,
    Conversation,
    Prompt,
    Model {
        query_source: &'static str,
    },
    ToolDecided {
        tool: usize,
    },
    ToolCompleted {
        tool: usize,
    },
    SuggestionShown {
        id: u128,
        lines: i64,
    },
    SuggestionResolved {
        id: u128,
        lines: i64,
    },
    CodeChanged,
    Commit,
    PullRequest,
    AgentStarted,
    AgentCompleted,
    Metered,
    Corrected,
    Feedback,
    /// A type that Daybook does not know.
    Unknown,
}

/// (tool, is it on an MCP server, does it change files)
const TOOLS: &[(&str, Option<&str>, bool)] = &[
    ("read", None, false),
    ("edit", None, true),
    ("bash", None, false),
    ("search", None, false),
    ("write", None, true),
    ("list", None, false),
    ("create_issue", Some("tracker"), false),
    ("run_query", Some("warehouse"), false),
];
const LANGUAGES: &[&str] = &["rust", "typescript", "python", "go", "java", "sql", "yaml"];
const FEATURES: &[&str] = &["inline_completion", "inline_completion", "next_edit", "inline_chat"];
const MODES: &[&str] = &["chat", "agent", "agent", "edit", "plan", "spec"];

/// A session under way: a fixed number of events within a span of time.
pub(super) struct Session {
    id: u128,
    conversation: Option<u128>,
    turn: Option<u128>,
    pending: VecDeque<Step>,
    mode: &'static str,
    language: &'static str,
    turns: i64,
    started_us: i64,
    /// Time of the next event (µs).
    pub(super) at_us: i64,
    end_us: i64,
    /// Events still to come.
    pub(super) remaining: u64,
    /// From the previous event to this one (µs).
    gap_us: i64,
    offset_minutes: i64,
    /// Offline: all of it arrives at this instant or later (µs).
    pub(super) arrives_us: Option<i64>,
}

impl Session {
    pub(super) fn new(random: &mut Random, offset_minutes: i64, start_us: i64, end_us: i64, events: u64) -> Self {
        // Trains and planes: one session in a hundred reports hours or days later.
        let arrives_us = random
            .chance(10)
            .then(|| end_us + random.between(2, 24) * 3_600_000_000 + random.between(0, 4) * 86_400_000_000);
        Self {
            id: uuid_v7(start_us, fresh(random)),
            conversation: None,
            turn: None,
            pending: VecDeque::with_capacity(16),
            mode: random.pick(MODES),
            language: random.pick(LANGUAGES),
            turns: 0,
            started_us: start_us,
            at_us: start_us,
            end_us,
            remaining: events,
            gap_us: 0,
            offset_minutes,
            arrives_us,
        }
    }

    /// The session's first events where it is the day's first: what the client reports, and now and then a plan.
    pub(super) fn first_of_day(&mut self, plan: bool) {
        self.pending.push_back(Step::Status);
        if plan {
            self.pending.push_back(Step::Plan);
        }
    }

    fn step(&mut self, random: &mut Random, client: &Client) -> Step {
        if self.at_us == self.started_us && self.remaining > 1 {
            return Step::SessionStarted;
        }
        if self.remaining == 1 && self.at_us > self.started_us {
            return Step::SessionEnded;
        }
        if self.pending.is_empty() {
            self.plan_ahead(random, client);
        }
        self.pending.pop_front().unwrap_or(Step::Tick)
    }

    /// The next few steps: a turn, a suggestion, a commit, or just activity.
    fn plan_ahead(&mut self, random: &mut Random, client: &Client) {
        let next = &mut self.pending;
        match random.below(100) {
            0..12 => next.push_back(Step::Tick),
            12..52 if client.suggests => {
                let id = fresh(random);
                let lines = random.around(4);
                next.push_back(Step::SuggestionShown { id, lines });
                // Most that are not answered were typed over.
                if !random.chance(150) {
                    next.push_back(Step::SuggestionResolved { id, lines });
                }
            }
            52..54 => next.push_back(if random.chance(700) { Step::Feedback } else { Step::Unknown }),
            54..58 if client.tools => {
                next.push_back(Step::Commit);
                if random.chance(250) {
                    next.push_back(Step::PullRequest);
                }
            }
            _ => {
                if self.conversation.is_none() || random.chance(200) {
                    next.push_back(Step::Conversation);
                }
                next.push_back(Step::Prompt);
                if client.tools {
                    let subagent = random.chance(80);
                    let source = if subagent { "subagent" } else { "main" };
                    if subagent {
                        next.push_back(Step::AgentStarted);
                    }
                    for _ in 0..random.below(5) {
                        let tool = random.below(TOOLS.len() as u64) as usize;
                        next.push_back(Step::Model { query_source: source });
                        next.push_back(Step::ToolDecided { tool });
                        next.push_back(Step::ToolCompleted { tool });
                        if TOOLS[tool].2 {
                            next.push_back(Step::CodeChanged);
                        }
                    }
                    if subagent {
                        next.push_back(Step::AgentCompleted);
                    }
                }
                next.push_back(Step::Model { query_source: "main" });
                if random.chance(60) {
                    next.push_back(Step::Model { query_source: "auxiliary" });
                }
                next.push_back(Step::Metered);
                if client.meter == Meter::Credits && random.chance(15) {
                    next.push_back(Step::Corrected);
                }
            }
        }
    }

    /// Writes the next event and moves on. Returns (its time (µs), JSON).
    pub(super) fn next_event(&mut self, random: &mut Random, install: &mut Install) -> (i64, Vec<u8>) {
        let step = self.step(random, install.client);
        let at_us = self.at_us;
        if matches!(step, Step::Conversation) {
            self.conversation = Some(fresh(random));
        }
        if matches!(step, Step::Prompt) {
            self.turn = Some(fresh(random));
            self.turns += 1;
        }
        let mut json = Json(Vec::with_capacity(768));
        json.raw(r#"{"specversion":"1.0""#);
        json.uuid("id", uuid_v7(at_us, fresh(random)));
        json.text("source", &install.source).text("type", step.event_type()).time("time", at_us);
        json.raw(&install.attributes).uuid("sessionid", self.id);
        for (key, id) in [("conversationid", self.conversation), ("turnid", self.turn)] {
            if let Some(id) = id.filter(|_| !matches!(step, Step::Status | Step::Plan | Step::Tick)) {
                json.uuid(key, id);
            }
        }
        json.int("sequence", install.sequence);
        install.sequence += 1 + i64::from(random.below(2000) == 0);
        json.int("tzoffset", self.offset_minutes);
        json.time("senttime", self.arrives_us.unwrap_or(at_us + 1_000_000 + random.between(0, 400_000)));
        json.raw(r#","data":{"#);
        self.data(step, random, install.client, &mut json);
        json.raw("}}");

        self.remaining -= 1;
        let average = (self.end_us - at_us) / self.remaining.max(1) as i64;
        self.gap_us = (average * random.between(5, 180) / 100).min(self.end_us - at_us).max(1);
        self.at_us = at_us + self.gap_us;
        (at_us, json.0)
    }

    fn data(&self, step: Step, random: &mut Random, client: &Client, json: &mut Json) {
        let elapsed_ms = (self.gap_us / 1000).max(1);
        match step {
            Step::SessionStarted => json.text("start_type", if random.chance(850) { "new" } else { "resumed" }),
            Step::SessionEnded => json
                .int("duration_ms", (self.at_us - self.started_us) / 1000)
                .int("turns", self.turns)
                .text("reason", if random.chance(900) { "closed" } else { "idle" }),
            Step::Status => json.text("state", "on").text("reports", client.reports).int("events_dropped", 0),
            Step::Plan => {
                let (tier, overage) = random.pick(&[("free", false), ("pro", false), ("pro", true), ("power", true)]);
                json.text("state", if random.chance(950) { "active" } else { "cancelled" }).text("tier", tier);
                json.flag("overage_enabled", overage);
                json.decimal("overage_cap", if tier == "free" { 50 } else { 1000 } * 1_000_000).text("unit", "credits")
            }
            Step::Tick => {
                let user = elapsed_ms.min(random.between(5_000, 60_000));
                json.int("active_user_ms", user).int("active_agent_ms", random.below(user as u64 * 2) as i64)
            }
            Step::Conversation => json.text("mode", self.mode),
            Step::Prompt => {
                json.int("length_chars", random.around(180)).text("mode", self.mode);
                if random.chance(50) { json.text("slash_command", "review") } else { json }
            }
            Step::Model { query_source } => model(random, client, query_source, elapsed_ms, json),
            Step::ToolDecided { tool } => {
                let (decision, source) = match random.below(100) {
                    0..62 => ("auto_accept", "config"),
                    62..88 => ("accept", "user"),
                    88..95 => ("reject", "user"),
                    95..98 => ("modify", "user"),
                    _ => ("abort", "user"),
                };
                json.text("tool", TOOLS[tool].0).text("decision", decision).text("decision_source", source);
                json.text("language", self.language)
            }
            Step::ToolCompleted { tool } => {
                let (name, server, edits) = TOOLS[tool];
                let status = if random.chance(930) { "success" } else { "error" };
                json.text("tool", name).text("tool_type", if server.is_some() { "mcp" } else { "builtin" });
                if let Some(server) = server {
                    json.text("mcp_server", server);
                }
                json.text("status", status).int("duration_ms", random.around(400).min(elapsed_ms));
                if edits {
                    json.text("file_op", "edit").int("lines_added", random.around(12));
                    json.int("lines_removed", random.around(5))
                } else {
                    json
                }
            }
            Step::SuggestionShown { id, lines } => {
                suggestion(random, self.language, id, json).int("lines_add", lines).int("lines_del", lines / 3)
            }
            Step::SuggestionResolved { id, lines } => {
                let outcome = random.pick(&["accepted", "accepted", "rejected", "dismissed", "dismissed", "modified"]);
                suggestion(random, self.language, id, json).text("outcome", outcome);
                if matches!(outcome, "accepted" | "modified") {
                    json.int("accepted_lines_add", lines).int("accepted_lines_del", lines / 3);
                }
                json.int("decision_latency_ms", random.around(900).min(elapsed_ms))
            }
            Step::CodeChanged | Step::Commit | Step::PullRequest => {
                json.text("origin", random.pick(&["ai", "ai", "mixed", "human"]));
                if step == Step::CodeChanged {
                    json.text("language", self.language);
                }
                if step == Step::PullRequest {
                    json.text("action", random.pick(&["opened", "opened", "updated", "merged"]));
                }
                json.int("lines_added", random.around(25)).int("lines_removed", random.around(9));
                json.text("repo_ref", random.pick(&["r-5e1f9c", "r-a90d21", "r-03bb7e"]))
            }
            Step::AgentStarted | Step::AgentCompleted => {
                json.text("agent", "explorer").text("kind", if self.turns % 7 == 3 { "cloud" } else { "subagent" });
                if step == Step::AgentCompleted {
                    json.int("turns", random.between(1, 6)).int("duration_ms", random.around(9000));
                    json.text("status", "success");
                }
                json
            }
            Step::Metered => metered(random, client, json),
            Step::Corrected => {
                json.text("meter", "credits").text("delta", "-0.250000").text("unit", "credits");
                json.text("reason", "failed request")
            }
            Step::Feedback => json.text("kind", "thumbs_up").text("feature", "chat"),
            Step::Unknown => json.text("theme", "dark").int("windows", random.between(1, 4)),
        };
    }
}

fn fresh(random: &mut Random) -> u128 {
    (u128::from(random.bits()) << 64) | u128::from(random.bits())
}

fn suggestion<'a>(random: &mut Random, language: &str, id: u128, json: &'a mut Json) -> &'a mut Json {
    json.uuid("suggestion_id", id).text("feature", random.pick(FEATURES)).text("language", language)
}

fn model<'a>(
    random: &mut Random,
    client: &Client,
    query_source: &str,
    elapsed_ms: i64,
    json: &'a mut Json,
) -> &'a mut Json {
    let name = random.pick(client.models);
    json.text("provider", client.provider).text("request_model", name);
    let status = match random.below(1000) {
        0..18 => "error",
        18..28 => "aborted",
        28..32 => "refused",
        _ => "success",
    };
    if status != "error" {
        let (input, cached) = (random.around(900), random.around(14_000));
        json.text("response_model", name);
        json.int("input_tokens", if client.input_includes_cached { input + cached } else { input });
        json.int("output_tokens", random.around(350)).int("cache_read_tokens", cached);
        if client.input_includes_cached {
            json.int("reasoning_tokens", random.around(250));
        } else {
            json.int("cache_creation_tokens", random.around(700));
        }
    }
    json.flag("input_includes_cached", client.input_includes_cached);
    let duration = random.around(4200).min(elapsed_ms);
    json.int("duration_ms", duration);
    if status == "success" {
        json.int("ttft_ms", random.around(700).min(duration));
    } else if status == "error" {
        json.text("error_type", random.pick(&["rate_limited", "overloaded", "timeout"]));
    }
    json.text("status", status).text("query_source", query_source)
}

fn metered<'a>(random: &mut Random, client: &Client, json: &'a mut Json) -> &'a mut Json {
    match client.meter {
        Meter::Credits => {
            let overage = random.chance(40);
            json.text("meter", "credits").decimal("quantity", random.around(420_000)).text("unit", "credits");
            json.flag("included", !overage).flag("overage", overage).flag("billable", overage);
            if overage { json.int("cost_micro_usd", random.around(16_000)) } else { json }
        }
        Meter::Requests => {
            json.text("meter", "requests").decimal("quantity", 1_000_000).text("unit", "premium_requests");
            json.flag("included", true).flag("billable", false)
        }
        Meter::Tokens => {
            json.text("meter", "tokens").decimal("quantity", random.around(15_000) * 1_000_000).text("unit", "tokens")
        }
        Meter::EstimatedCost => {
            json.text("meter", "cost").int("cost_micro_usd", random.around(31_000)).flag("billable", false)
        }
        Meter::ChargedCost => {
            json.text("meter", "cost").int("cost_micro_usd", random.around(24_000)).flag("billable", true)
        }
    }
}

impl Step {
    fn event_type(self) -> &'static str {
        match self {
            Self::SessionStarted => "dev.daybook.session.started.v1",
            Self::SessionEnded => "dev.daybook.session.ended.v1",
            Self::Status => "dev.daybook.telemetry.status.v1",
            Self::Plan => "dev.daybook.subscription.changed.v1",
            Self::Tick => "dev.daybook.activity.ticked.v1",
            Self::Conversation => "dev.daybook.conversation.started.v1",
            Self::Prompt => "dev.daybook.prompt.submitted.v1",
            Self::Model { .. } => "dev.daybook.model.completed.v1",
            Self::ToolDecided { .. } => "dev.daybook.tool.decided.v1",
            Self::ToolCompleted { .. } => "dev.daybook.tool.completed.v1",
            Self::SuggestionShown { .. } => "dev.daybook.suggestion.shown.v1",
            Self::SuggestionResolved { .. } => "dev.daybook.suggestion.resolved.v1",
            Self::CodeChanged => "dev.daybook.code.changed.v1",
            Self::Commit => "dev.daybook.vcs.commit_created.v1",
            Self::PullRequest => "dev.daybook.vcs.pull_request_changed.v1",
            Self::AgentStarted => "dev.daybook.agent.run_started.v1",
            Self::AgentCompleted => "dev.daybook.agent.run_completed.v1",
            Self::Metered => "dev.daybook.usage.metered.v1",
            Self::Corrected => "dev.daybook.usage.corrected.v1",
            Self::Feedback => "dev.daybook.feedback.given.v1",
            Self::Unknown => "dev.daybook.workspace.themed.v1",
        }
    }
}
