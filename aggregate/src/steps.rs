//! What the tables of a run stand for, and what they will: their transactions on `events`.
//!
//! | transaction of `rollup_daily` and of each breakdown | holds |
//! |---|---|
//! | `daybook/rollup/<events>` | version of `events` |
//! | `daybook/rollup-calendar/<events>` | digest of calendar and definitions, so that of two aggregators with different ones the slower is fenced |
//! | `daybook/rollup-definition/<events>` | digest of the definitions and the default days: others make every day be computed |
//! | `daybook/rollup-days/<events>/<organisation>` | digest of its days, where they are or were not the default: others make its days be computed |
//! | `daybook/rollup-watermark/<events>` | newest `recorded_time` of the events (µs); of `rollup_daily` alone |
//!
//! `<events>` is the `id` of the table: what stands for a table that was deleted stands for nothing.

use std::collections::{BTreeMap, BTreeSet};

use lake::{Snapshot, Swap};

use crate::calendar::OrgCalendar;

/// How what `events` is known as begins.
pub(crate) const EVENTS_APP_PREFIX: &str = "daybook/rollup/";

/// Holds the version of `events`.
pub(crate) fn events_app_id(events_table_id: &str) -> String {
    format!("{EVENTS_APP_PREFIX}{events_table_id}")
}

/// Holds the watermark.
pub(crate) fn watermark_app_id(events_table_id: &str) -> String {
    format!("daybook/rollup-watermark/{events_table_id}")
}

/// What a table stands for, and will.
pub(crate) struct Step {
    events: Swap,
    calendar: Swap,
    definition: Swap,
    /// Of organisations that count their days otherwise than the table stands for.
    days: BTreeMap<String, Swap>,
}

impl Step {
    /// From what a table holds, as `txns` say, to a version of `events`, a calendar, and definitions of this digest.
    pub(crate) fn new(
        txns: &BTreeMap<String, i64>,
        events: &Snapshot,
        definition_digest: i64,
        calendar: &OrgCalendar,
    ) -> Self {
        let id = &events.table_id;
        let held = |app_id: String, next: i64| Swap::from_held(txns, app_id, next);
        let prefix = format!("daybook/rollup-days/{id}/");
        let default = calendar.default_days().digest();
        let known = txns.keys().filter_map(|app_id| app_id.strip_prefix(&prefix));
        let orgs: BTreeSet<&str> = known.chain(calendar.orgs()).collect();
        let days = orgs.into_iter().filter_map(|org| {
            let swap = held(format!("{prefix}{org}"), calendar.days(org).digest());
            let before = if swap.expected == 0 { default } else { swap.expected };
            (before != swap.next).then(|| (org.to_owned(), swap))
        });
        Self {
            events: held(events_app_id(id), events.version),
            calendar: held(format!("daybook/rollup-calendar/{id}"), calendar.digest(definition_digest)),
            definition: held(
                format!("daybook/rollup-definition/{id}"),
                calendar.default_days().salted_digest(definition_digest),
            ),
            days: days.collect(),
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        // The calendar's digest is of the definitions and of each organisation's days, too.
        self.events.is_still() && self.calendar.is_still()
    }

    /// What a commit takes the table through.
    pub(crate) fn swaps(self) -> Vec<Swap> {
        let definition = Some(self.definition).filter(|swap| !swap.is_still());
        [self.events, self.calendar].into_iter().chain(definition).chain(self.days.into_values()).collect()
    }
}

/// For each table of a run.
pub(crate) struct Steps {
    pub(crate) rollup: Step,
    pub(crate) breakdowns: Vec<Step>,
}

impl Steps {
    fn all(&self) -> impl Iterator<Item = &Step> {
        std::iter::once(&self.rollup).chain(&self.breakdowns)
    }

    pub(crate) fn is_current(&self) -> bool {
        self.all().all(Step::is_current)
    }

    pub(crate) fn has_same_definitions(&self) -> bool {
        self.all().all(|step| step.definition.is_still())
    }

    /// Organisations that count their days otherwise than a table stands for.
    pub(crate) fn recounted(&self) -> BTreeSet<String> {
        self.all().flat_map(|step| step.days.keys().cloned()).collect()
    }

    /// Oldest version of `events` that a table stands for.
    pub(crate) fn oldest_events(&self) -> i64 {
        self.all().map(|step| step.events.expected).min().expect("there is the rollup")
    }
}
