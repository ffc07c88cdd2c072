//! What a row takes from the days before its own: the person's plan, and their first active day.
//!
//! ```text
//! rows of the table ──read──► what is known of each person ◄──apply── a day computed anew
//!                             first and last day, plan by day
//! ```
//!
//! Days are applied in order of date. A run that computes all days begins with nothing known; one that computes some begins with what
//! the table's rows say of all of them, and asks after each day whether days that it does not compute would come out otherwise now.
//! Memory: some 60 bytes per person, the plans of those who have one on top.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::Entry},
    pin::pin,
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, Date32Array, Decimal128Builder, RecordBatch,
        StringArray, StringBuilder,
    },
    datatypes::{DataType, Decimal128Type},
};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::civil::Date;
use lake::{DataFile, Snapshot, Table};
use schemas::{ColumnType, epoch_days, rollup::ROLLUP_DAILY};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    Error, Result,
    accumulator::ById,
    columns::take,
    rows::{Day, Plan},
};

/// What of a row tells about its person.
const COLUMNS: [&str; 6] =
    ["org_id", "user_key", "subscription_state", "subscription_tier", "overage_enabled", "overage_cap"];
/// Days that are read at once.
const READ_AT_ONCE: usize = 4;

/// All dates as days since 1970.
#[derive(Clone)]
struct Person {
    first_active: i32,
    last_active: i32,
    /// From which day on which plan, ascending. What comes before the first has none.
    plans: Vec<(i32, Plan)>,
}

impl Person {
    fn new(date: i32) -> Self {
        Self { first_active: date, last_active: date, plans: Vec::new() }
    }

    /// The plan at the end of a day. No plan and a plan that says nothing are the same to a row.
    fn plan(&self, date: i32) -> &Plan {
        static NONE: Plan = Plan { state: None, tier: None, overage_enabled: None, overage_cap: None };
        self.plans.iter().rev().find(|(from, _)| *from <= date).map_or(&NONE, |(_, plan)| plan)
    }

    fn set_plan(&mut self, date: i32, plan: Plan) {
        match self.plans.binary_search_by_key(&date, |(from, _)| *from) {
            Ok(at) => self.plans[at].1 = plan,
            Err(at) => self.plans.insert(at, (date, plan)),
        }
    }
}

/// Everyone met so far. People are known by 128 bits of hash of organisation and key.
#[derive(Default)]
pub(crate) struct People {
    known: ById<Person>,
    /// Those whom the run has met; they stand before `known`.
    changed: ById<Person>,
    key: Vec<u8>,
}

impl People {
    /// What the rows of a version of the table say, but for people of the organisations `except`: of these, all days will be applied.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub(crate) async fn read(table: &Table, snapshot: &Snapshot, except: &BTreeSet<String>) -> Result<Self> {
        let mut by_date: BTreeMap<Date, Vec<DataFile>> = BTreeMap::new();
        for file in &snapshot.files {
            by_date.entry(file.partition_value.unwrap_or_default()).or_default().push(file.clone());
        }
        let days = futures::stream::iter(by_date).map(|(date, files)| async move {
            let batches: Vec<RecordBatch> = table.read_newest(files, &COLUMNS).try_collect().await?;
            Ok::<_, lake::Error>((date, batches))
        });
        let mut days = pin!(days.buffered(READ_AT_ONCE));
        let mut people = Self::default();
        while let Some((date, batches)) = days.try_next().await.map_err(Error::table(&ROLLUP_DAILY))? {
            for batch in batches {
                people.take_in(epoch_days(date), &batch, except)?;
            }
        }
        Ok(people)
    }

    /// Rows of a day after all that were taken in before.
    fn take_in(&mut self, date: i32, batch: &RecordBatch, except: &BTreeSet<String>) -> Result<()> {
        let text = |name: &str| Ok::<_, Error>(take(batch, name, &DataType::Utf8)?.as_string::<i32>().clone());
        let (org, user) = (text("org_id")?, text("user_key")?);
        let (state, tier) = (text("subscription_state")?, text("subscription_tier")?);
        let enabled = take(batch, "overage_enabled", &DataType::Boolean)?.as_boolean().clone();
        let cap = take(batch, "overage_cap", &ColumnType::Decimal.arrow())?.as_primitive::<Decimal128Type>().clone();
        for row in (0..batch.num_rows()).filter(|row| except.is_empty() || !except.contains(org.value(*row))) {
            let id = person_id(&mut self.key, org.value(row), user.value(row));
            let person = self.known.entry(id).or_insert_with(|| Person::new(date));
            person.last_active = date;
            let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
            let plan = Plan {
                state: text(&state),
                tier: text(&tier),
                overage_enabled: enabled.is_valid(row).then(|| enabled.value(row)),
                overage_cap: cap.is_valid(row).then(|| cap.value(row)),
            };
            if plan != *person.plan(date) {
                person.set_plan(date, plan);
            }
        }
        Ok(())
    }

    /// Adds the plan columns to the rows of a day. Every earlier day that is to be computed must have been applied before.
    ///
    /// `next_left` is the first later date of which the run leaves rows as they are. True where one of them would come out otherwise: a
    /// person with rows that late has another first day now, or another plan.
    pub(crate) fn apply(&mut self, day: &mut Day, next_left: Option<Date>) -> bool {
        let rows = day.rows();
        let today = epoch_days(day.date);
        let next_left = next_left.map_or(i32::MAX, epoch_days);
        let (mut state, mut tier) = (StringBuilder::new(), StringBuilder::new());
        let mut enabled = BooleanBuilder::with_capacity(rows);
        let mut cap = Decimal128Builder::with_capacity(rows).with_data_type(ColumnType::Decimal.arrow());
        let mut first_active = Vec::with_capacity(rows);
        let mut plans = std::mem::take(&mut day.plans).into_iter().peekable();
        let (mut row, mut reaches_on) = (0, false);
        while row < rows {
            let (org, user) = (day.org.value(row), day.user.value(row));
            let same = |other: &usize| day.user.value(*other) == user && day.org.value(*other) == org;
            let end = (row + 1..rows).find(|other| !same(other)).unwrap_or(rows);
            let id = person_id(&mut self.key, org, user);
            let before = self.known.get(&id);
            let person = match self.changed.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(before.cloned().unwrap_or_else(|| Person::new(today))),
            };
            if let Some((_, plan)) = plans.next_if(|(changed, _)| *changed == row) {
                person.set_plan(today, plan);
            }
            if let Some(before) = before
                && before.last_active >= next_left
            {
                reaches_on |= today < before.first_active || person.plan(today) != before.plan(today);
            }
            person.first_active = person.first_active.min(today);
            person.last_active = person.last_active.max(today);
            let plan = person.plan(today);
            for _ in row..end {
                state.append_option(plan.state.as_deref());
                tier.append_option(plan.tier.as_deref());
                enabled.append_option(plan.overage_enabled);
                cap.append_option(plan.overage_cap);
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
        reaches_on
    }

    /// Takes what the run has met for known: its commit stands.
    pub(crate) fn confirm(&mut self) {
        if self.known.is_empty() {
            std::mem::swap(&mut self.known, &mut self.changed);
        }
        self.known.extend(self.changed.drain());
    }

    /// Forgets what the run has met.
    pub(crate) fn reset(&mut self) {
        self.changed.clear();
    }

    /// Number of people known.
    pub(crate) fn len(&self) -> usize {
        self.known.len() + self.changed.keys().filter(|id| !self.known.contains_key(id)).count()
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
