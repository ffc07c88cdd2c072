//! The walk against the plain recompute.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Ev, Val, assert_same, batch, compute,
    draws::{EDGES, calendar, draws, history, zones},
    event, naive, t, us,
};
use crate::{Error, calendar::OrgCalendar, program::Programs, scope::Who, walk::Walk};

/// Copies of a plan event aside: the plain recompute takes the last copy of all, the walk the first of each. They differ where another
/// plan event of the same microsecond was recorded between the copies, and there the walk is right: a retry is not news.
fn without_plan_ties(mut events: Vec<Ev>) -> Vec<Ev> {
    let mut seen = std::collections::BTreeMap::new();
    events.retain(|event| {
        let of = |name: &str| event.get(name).cloned().map(|value| format!("{value:?}"));
        if of("event_type") != Some(format!("{:?}", t("dev.daybook.subscription.changed.v1"))) {
            return true;
        }
        let key = ["org_id", "user_key", "event_time"].map(of);
        *seen.entry(key).or_insert_with(|| of("event_id")) == of("event_id")
    });
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn r12_rollup_equals_a_plain_recompute(edge in 0..EDGES.len(), draws in draws(4_000, 80), batch_rows in 1..40_usize) {
        let events = without_plan_ties(history(EDGES[edge], &draws));
        let found = compute(&events, &calendar(), batch_rows);
        assert_same(&found.rows, &naive::rollup(&events, &zones()));
        prop_assert_eq!(found.breakdowns, naive::breakdowns(&events, &zones()));
        prop_assert_eq!(found.saturated, 0);
    }

    #[test]
    fn crowded_instants_are_counted_right_too(draws in draws(2, 80), batch_rows in 1..9_usize) {
        let events = without_plan_ties(history(EDGES[6], &draws));
        let found = compute(&events, &calendar(), batch_rows);
        assert_same(&found.rows, &naive::rollup(&events, &zones()));
        prop_assert_eq!(found.breakdowns, naive::breakdowns(&events, &zones()));
    }

    #[test]
    fn order_of_arrival_and_size_of_batches_do_not_matter(draws in draws(90, 60), rotation in 0..60_usize, batch_rows in 1..9_usize) {
        let mut events = history(EDGES[6], &draws);
        let whole = compute(&events, &calendar(), 1_000);
        let middle = rotation.min(events.len());
        events.rotate_left(middle);
        events.reverse();
        prop_assert_eq!(compute(&events, &calendar(), batch_rows), whole);
    }
}

const NOON: &str = "2026-06-01T12:00:00Z";

fn one_row(events: &[Ev]) -> BTreeMap<String, String> {
    let rows = compute(events, &OrgCalendar::default(), 3).rows;
    assert_eq!(rows.len(), 1, "one row");
    rows.into_values().next().expect("one row")
}

#[test]
fn null_is_not_zero() {
    let none: &[(&'static str, Val)] = &[];
    let claude_cli = [("product", t("claude_code")), ("client_type", t("cli"))];
    let declared = "activity,code,feedback,model,prompt,session,tool,usage,vcs";
    // What is the case, an event of this kind with these columns, and what the row then says.
    let seen: &[_] = &[
        ("model_errors", "0"),
        ("input_tokens", "0"),
        ("tool_calls", "NULL"),
        ("messages_total", "0"),
        ("instrumented", "model"),
    ];
    check_null("seen in the row", "model.completed", none, seen);
    let said: &[_] = &[
        ("tool_calls", "0"),
        ("credits_used", "0.000000"),
        ("shown", "NULL"),
        ("instrumented", "telemetry,tool,usage"),
    ];
    check_null("said by the client", "telemetry.status", &[("reports", t("tool, usage"))], said);
    let nonsense: &[_] = &[("model_requests", "NULL"), ("instrumented", "telemetry")];
    check_null("nonsense said", "telemetry.status", &[("reports", t("everything,,model_"))], nonsense);
    let other: &[_] = &[("tool_calls", "NULL"), ("sessions", "0"), ("instrumented", "session")];
    check_null("said by another type", "session.started", &[("reports", t("tool"))], other);
    let declares: &[_] = &[("prompts", "0"), ("turns", "0"), ("shown", "NULL"), ("instrumented", declared)];
    check_null("declared for the client", "feedback.given", &claude_cli, declares);
    let not: &[_] = &[("prompts", "NULL"), ("instrumented", "feedback")];
    check_null("declared for another client type", "feedback.given", &claude_cli[..1], not);
    check_null(
        "a new type of a known family",
        "vcs.branch_named",
        none,
        &[("commits_ai", "0"), ("instrumented", "vcs")],
    );
    let unknown: &[_] = &[("instrumented", ""), ("prompts", "NULL"), ("events_received", "1")];
    check_null("a type of no known family", "cooking.begun", none, unknown);
}

fn check_null(case: &str, kind: &str, more: &[(&'static str, Val)], expected: &[(&str, &str)]) {
    let row = one_row(&[event("acme", "ada", us(NOON), 1, kind, more)]);
    for (column, value) in expected {
        assert_eq!(row[*column], *value, "{case}: {column}");
    }
}

#[test]
fn r13_copies_count_once_and_the_first_counts() {
    let time = us(NOON);
    let at = |id, recorded: i64, partition: i64, tokens: i64| {
        let more = [
            ("recorded_time", Val::I(recorded)),
            ("log_partition", Val::I(partition)),
            ("input_tokens", Val::I(tokens)),
        ];
        event("acme", "ada", time, id, "model.completed", &more)
    };
    let mut other_source = at(1, time, 0, 1_000);
    other_source.insert("source", t("urn:other"));
    let row = one_row(&[
        at(1, time + 9, 0, 70),
        at(1, time + 5, 3, 60),
        at(1, time + 5, 2, 50),
        at(2, time, 0, 4),
        other_source,
    ]);
    let found = ["events_received", "duplicates_removed", "input_tokens"].map(|column| row[column].as_str());
    assert_eq!(found, ["3", "2", "1054"]);
}

#[test]
fn texts_of_two_columns_that_lie_alike_are_two_models() {
    // Of one length, alike at the beginning, each the first of its column's buffer.
    let of =
        |id, column, model: &str| event("acme", "ada", us(NOON) + id, id, "model.completed", &[(column, t(model))]);
    let (old, new) = ("claude-opus-4-5-20250805", "claude-opus-4-5-20251101");
    let events = [of(1, "response_model", old), of(2, "request_model", new), of(3, "response_model", new)];
    let found = compute(&events, &OrgCalendar::default(), 3);
    let models: Vec<_> = found.breakdowns["model_daily"]
        .iter()
        .map(|row| ["model", "model_requests"].map(|name| row[name].as_str()))
        .collect();
    assert_eq!(models.iter().collect::<BTreeSet<_>>(), [&[old, "1"], &[new, "2"]].into());
}

#[test]
fn a_retry_of_an_older_plan_is_not_news() {
    let time = us(NOON);
    let plan = |id, recorded: i64, tier: &str| {
        let more = [("recorded_time", Val::I(time + recorded)), ("tier", t(tier))];
        event("acme", "ada", time, id, "subscription.changed", &more)
    };
    let row = one_row(&[plan(1, 10, "pro"), plan(2, 20, "team"), plan(1, 30, "pro")]);
    assert_eq!(row["subscription_tier"], "team");
}

#[test]
fn the_last_plan_wins_whole_and_is_carried_over() {
    let hour = 3_600_000_000;
    let at = |id, hours: i64, kind: &str, more: &[(&'static str, Val)]| {
        event("acme", "ada", us(NOON) + hours * hour, id, kind, more)
    };
    let events = [
        at(1, -48, "prompt.submitted", &[]),
        at(
            2,
            -24,
            "subscription.changed",
            &[("state", t("active")), ("tier", t("pro")), ("overage_cap", Val::D(5_000_000))],
        ),
        at(3, 0, "prompt.submitted", &[("client_type", t("cli"))]),
        at(4, 24, "subscription.changed", &[("state", t("expired"))]),
    ];
    let rows = compute(&events, &OrgCalendar::default(), 2).rows;
    let columns = ["subscription_state", "subscription_tier", "overage_cap", "first_active_date", "newly_activated"];
    let found: Vec<_> = rows.values().map(|row| columns.map(|column| row[column].clone())).collect();
    let expected = [
        ["NULL", "NULL", "NULL", "2026-05-30", "true"],
        ["active", "pro", "5.000000", "2026-05-30", "false"],
        ["active", "pro", "5.000000", "2026-05-30", "false"],
        ["expired", "NULL", "NULL", "2026-05-30", "false"],
    ];
    assert_eq!(found, expected.map(|row| row.map(str::to_owned)));
}

#[test]
fn sums_that_fit_no_column_are_cut_and_counted() {
    let of = |id, tokens| event("acme", "ada", us(NOON), id, "model.completed", &[("input_tokens", Val::I(tokens))]);
    let most = i64::MAX.to_string();
    // What fits in the end is exact, whatever it was on the way; what does not is cut in the row and in the model's.
    let cases =
        [(vec![of(1, i64::MAX), of(2, i64::MAX)], 2), (vec![of(1, i64::MAX), of(2, i64::MAX), of(3, -i64::MAX)], 0)];
    for (events, cut) in cases {
        let found = compute(&events, &OrgCalendar::default(), 1);
        let tokens: Vec<_> = found.rows.values().map(|row| &row["input_tokens"]).collect();
        assert_eq!((tokens, found.saturated), (vec![&most], cut));
        let of_model: Vec<_> = found.breakdowns["model_daily"].iter().map(|row| &row["input_tokens"]).collect();
        assert_eq!(of_model, [&most]);
    }
}

#[test]
fn unsorted_or_foreign_input_is_refused() {
    let (programs, calendar) = (Programs::new(), OrgCalendar::default());
    let first = "2026-06-01".parse().expect("a date");
    let at = |user: &str, minute: i64| event("acme", user, us(NOON) + minute * 60_000_000, 1, "prompt.submitted", &[]);
    let unsorted = [
        vec![at("ada", 1), at("ada", 0)],
        vec![at("bob", 0), at("ada", 0)],
        vec![at("ada", 0), at("bob", 0), at("ada", 1)],
    ];
    for events in unsorted {
        for split in [1, events.len()] {
            let mut walk = Walk::new(&programs, &calendar, &Who::Everyone, first, 1);
            let outcome = events.chunks(split).try_for_each(|part| walk.push_batch(&batch(part)));
            assert!(matches!(outcome, Err(Error::Unsorted)), "{events:?}");
        }
    }
    let lacking = batch(&[at("ada", 0)]).project(&[0, 1, 2]).expect("three columns");
    let outcome = Walk::new(&programs, &calendar, &Who::Everyone, first, 1).push_batch(&lacking);
    assert!(matches!(outcome, Err(Error::Column { .. })));
}
