//! What a row takes from the days before its own: the person's plan, and their first active day.
//!
//! Days are applied in order of date, so that what is known when a day comes is what happened before it. Memory: some 40 bytes per
//! person, the plans of those who have one on top.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, BooleanBuilder, Date32Array, Decimal128Builder, StringBuilder};
use schemas::ColumnType;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    accumulator::ById,
    calendar::epoch_days,
    rows::{Day, Plan},
};

struct Person {
    /// Days since 1970.
    first_active: i32,
    plan: Option<Box<Plan>>,
}

/// Everyone met so far. People are known by 128 bits of hash of organisation and key.
#[derive(Default)]
pub(crate) struct People {
    known: ById<Person>,
    key: Vec<u8>,
}

impl People {
    /// Adds the plan columns to the rows of a day. Every earlier day must have been applied before.
    pub(crate) fn apply(&mut self, day: &mut Day) {
        let rows = day.rows();
        let today = epoch_days(day.date);
        let (mut state, mut tier) = (StringBuilder::new(), StringBuilder::new());
        let mut enabled = BooleanBuilder::with_capacity(rows);
        let mut cap = Decimal128Builder::with_capacity(rows).with_data_type(ColumnType::Decimal.arrow());
        let mut first_active = Vec::with_capacity(rows);
        let mut plans = std::mem::take(&mut day.plans).into_iter().peekable();
        let mut row = 0;
        while row < rows {
            let (org, user) = (day.org.value(row), day.user.value(row));
            let same = |other: &usize| day.user.value(*other) == user && day.org.value(*other) == org;
            let end = (row + 1..rows).find(|other| !same(other)).unwrap_or(rows);
            let fresh = || Person { first_active: today, plan: None };
            let person = self.known.entry(person_id(&mut self.key, org, user)).or_insert_with(fresh);
            if let Some((_, plan)) = plans.next_if(|(changed, _)| *changed == row) {
                person.plan = Some(Box::new(plan));
            }
            let plan = person.plan.as_deref();
            for _ in row..end {
                state.append_option(plan.and_then(|plan| plan.state.as_deref()));
                tier.append_option(plan.and_then(|plan| plan.tier.as_deref()));
                enabled.append_option(plan.and_then(|plan| plan.overage_enabled));
                cap.append_option(plan.and_then(|plan| plan.overage_cap));
                first_active.push(person.first_active);
            }
            row = end;
        }
        let newly: BooleanArray = first_active.iter().map(|first| Some(*first == today)).collect();
        let added: [(&'static str, ArrayRef); 6] = [
            ("subscription_state", Arc::new(state.finish())),
            ("subscription_tier", Arc::new(tier.finish())),
            ("overage_enabled", Arc::new(enabled.finish())),
            ("overage_cap", Arc::new(cap.finish())),
            ("newly_activated", Arc::new(newly)),
            ("first_active_date", Arc::new(Date32Array::from(first_active))),
        ];
        day.columns.extend(added);
    }

    /// Number of people met.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

fn person_id(key: &mut Vec<u8>, org: &str, user: &str) -> u128 {
    key.clear();
    // The length first, so that no organisation's end can pass for a person's beginning.
    key.extend_from_slice(&(org.len() as u32).to_le_bytes());
    key.extend_from_slice(org.as_bytes());
    key.extend_from_slice(user.as_bytes());
    xxh3_128(key)
}
