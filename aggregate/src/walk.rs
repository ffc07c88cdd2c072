//! The walk: one pass over the events of some days, in order, that comes out as rows of the rollup.
//!
//! The operator takes rows of `events` sorted by (org_id, user_key, client_type, event_time) and gives, per activity date, rows sorted
//! by (org_id, user_key, product, client_type). It is a state machine: plain arguments in, rows out; no I/O, no clock.
//!
//! ```text
//!   org_id ─┬─ user_key ─┬─ client_type ─┬─ event_time ──►  ties: same instant, resolved before they count
//!           │            │               └─ run: accumulators by (day, product)
//!           │            └─ end of a person: rows leave, sorted
//!           └─ day boundaries of the organisation's zone
//! ```
//!
//! **State.** The accumulators of one person, and the ties: rows of one person, client type and instant. Neither grows with the number of
//! people or events; the rows that come out do, by day.
//!
//! **Duplicates.** Copies of an event have its (org_id, source, event_id) and, since a copy is the same event sent again, its person,
//! client type and time; so they are among the ties and nowhere else. Of copies, the first by (recorded_time, log_partition,
//! log_offset) counts. Two events with one id and different payloads are a conflict, which is the business of ingest (dead letter
//! `conflict`): where they differ in person, client type or time, both count here; where they do not, the first does.
//!
//! **Order.** Input out of order is an error, never a wrong row: it is checked where the key or the time changes.

use std::{cmp::Ordering, collections::HashMap, hash::BuildHasherDefault, mem, ops::Range, sync::Arc};

use arrow::{array::Array, array::RecordBatch};
use jiff::civil::Date;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    Error, Result,
    accumulator::{Accumulator, Unhashed},
    calendar::{self, OrgCalendar, OrgDays},
    columns::{Columns, UNKNOWN},
    program::Programs,
    rows::{Day, DayBuilder, DayFacts, Plan},
    scope::Who,
};

/// Accumulators kept for the next person.
const SPARE_MAX: usize = 64;

/// Where a plan event stands among those of its person: event_time, recorded_time, log_partition, log_offset.
type PlanOrder = (i64, i64, i32, i64);

/// A pass over the events of consecutive activity dates.
pub(crate) struct Walk<'a> {
    programs: &'a Programs,
    calendar: &'a OrgCalendar,
    who: &'a Who,
    first: Date,
    builders: Vec<DayBuilder>,
    batches: u64,

    // Where the walk stands.
    started: bool,
    org: String,
    user: String,
    /// Not one of `who`.
    passed_over: bool,
    client_type: String,
    time: i64,
    days: &'a OrgDays,
    /// Start of each day for this organisation, and the end of the last (µs).
    bounds: Vec<i64>,
    /// Day of the latest event, as index and bounds.
    day: usize,
    day_start: i64,
    day_end: i64,

    // The person.
    live: Vec<Accumulator>,
    spare: Vec<Accumulator>,
    plans: Vec<(usize, PlanOrder, Plan)>,

    // The run: accumulators by product and day, and the one in use.
    run: HashMap<(u128, u32), usize, BuildHasherDefault<Unhashed>>,
    current: usize,
    /// Batch, view of the product (`None`: null) and day that `current` is for.
    current_for: Option<(u64, Option<u128>, usize)>,

    /// Rows of one person, client type and instant.
    ties: Vec<(Arc<Columns>, usize)>,
}

impl<'a> Walk<'a> {
    /// A pass over `days` dates from `first` on, that counts the events of `who`.
    pub(crate) fn new(
        programs: &'a Programs,
        calendar: &'a OrgCalendar,
        who: &'a Who,
        first: Date,
        days: usize,
    ) -> Self {
        let dates = std::iter::successors(Some(first), |date| Some(calendar::next(*date)));
        Self {
            programs,
            calendar,
            who,
            first,
            builders: dates.take(days).map(|date| DayBuilder::new(date, programs)).collect(),
            batches: 0,
            started: false,
            org: String::new(),
            user: String::new(),
            passed_over: false,
            client_type: String::new(),
            time: i64::MIN,
            days: calendar.days(""),
            bounds: Vec::new(),
            day: 0,
            day_start: 0,
            day_end: 0,
            live: Vec::new(),
            spare: Vec::new(),
            plans: Vec::new(),
            run: HashMap::default(),
            current: 0,
            current_for: None,
            ties: Vec::new(),
        }
    }

    /// A batch as [`Walk::push`] takes it.
    ///
    /// # Errors
    /// Where columns are missing or of another type.
    pub(crate) fn columns(&mut self, batch: &RecordBatch) -> Result<Arc<Columns>> {
        self.batches += 1;
        Ok(Arc::new(Columns::new(self.batches, batch, self.programs)?))
    }

    /// Takes the next rows, some of a batch.
    ///
    /// # Errors
    /// Where rows are out of order.
    pub(crate) fn push(&mut self, columns: &Arc<Columns>, rows: Range<usize>) -> Result<()> {
        let Range { start, end } = rows;
        for row in start..end {
            let same = if row == start { self.continues(columns, row) } else { columns.same_run(row - 1, row) };
            if !same {
                self.begin_run(columns, row)?;
            }
            let time = columns.event_time[row];
            match time.cmp(&self.time) {
                Ordering::Less => return Err(Error::Unsorted),
                Ordering::Equal => {}
                Ordering::Greater => {
                    self.settle();
                    self.time = time;
                }
            }
            if self.passed_over || time < self.bounds[0] || time >= self.bounds[self.builders.len()] {
                continue;
            }
            let alone = self.ties.is_empty() && row + 1 < end && columns.event_time[row + 1] != time;
            if alone {
                self.count(columns, row, 0);
            } else {
                self.ties.push((Arc::clone(columns), row));
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn push_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = self.columns(batch)?;
        self.push(&columns, 0..columns.rows)
    }

    /// The rows of each day, in order of date.
    pub(crate) fn finish(mut self) -> Vec<Day> {
        self.settle();
        self.end_person();
        self.builders.into_iter().map(DayBuilder::finish).collect()
    }

    fn continues(&self, columns: &Columns, row: usize) -> bool {
        self.started
            && columns.user.value(row) == self.user
            && columns.client_type.value(row) == self.client_type
            && columns.org.value(row) == self.org
    }

    fn begin_run(&mut self, columns: &Columns, row: usize) -> Result<()> {
        self.settle();
        let (org, user, client_type) =
            (columns.org.value(row), columns.user.value(row), columns.client_type.value(row));
        let key = (self.org.as_str(), self.user.as_str(), self.client_type.as_str());
        if self.started && (org, user, client_type) <= key {
            return Err(Error::Unsorted);
        }
        let (new_org, new_user) =
            (!self.started || org != self.org, !self.started || org != self.org || user != self.user);
        if new_user {
            self.end_person();
            set(&mut self.user, user);
            self.passed_over = !self.who.has(org, user);
        }
        if new_org {
            set(&mut self.org, org);
            self.days = self.calendar.days(org);
            let dates = std::iter::successors(Some(self.first), |date| Some(calendar::next(*date)));
            self.bounds.clear();
            self.bounds.extend(dates.take(self.builders.len() + 1).map(|date| self.days.start_us(date)));
            // An empty interval: the first event looks its day up.
            (self.day_start, self.day_end) = (0, 0);
        }
        set(&mut self.client_type, client_type);
        self.started = true;
        self.time = i64::MIN;
        self.run.clear();
        self.current_for = None;
        Ok(())
    }

    /// Counts the ties: one of each event, the rest as its duplicates.
    fn settle(&mut self) {
        if self.ties.is_empty() {
            return;
        }
        let mut ties = mem::take(&mut self.ties);
        if let [(columns, row)] = ties.as_slice() {
            self.count(columns, *row, 0);
        } else {
            let identity = |(a, i): &(Arc<Columns>, usize), (b, j): &(Arc<Columns>, usize)| {
                a.event_id.value(*i).cmp(b.event_id.value(*j)).then_with(|| a.source.value(*i).cmp(b.source.value(*j)))
            };
            let arrival = |(columns, row): &(Arc<Columns>, usize)| {
                (columns.recorded_time[*row], columns.log_partition[*row], columns.log_offset[*row])
            };
            ties.sort_unstable_by(|a, b| identity(a, b).then_with(|| arrival(a).cmp(&arrival(b))));
            for copies in ties.chunk_by(|a, b| identity(a, b).is_eq()) {
                let (columns, row) = &copies[0];
                self.count(columns, *row, copies.len() as i64 - 1);
            }
        }
        ties.clear();
        self.ties = ties;
    }

    /// Counts an event within the pass's days.
    fn count(&mut self, columns: &Columns, row: usize, copies: i64) {
        let time = columns.event_time[row];
        if time < self.day_start || time >= self.day_end {
            // The last day that starts by then: skipped dates are empty and are passed over.
            self.day = self.bounds.partition_point(|start| *start <= time) - 1;
            (self.day_start, self.day_end) = (self.bounds[self.day], self.bounds[self.day + 1]);
        }
        let product = columns.product.is_valid(row).then(|| columns.product.views()[row]);
        if self.current_for != Some((columns.batch, product, self.day)) {
            let name = if product.is_some() { columns.product.value(row) } else { UNKNOWN };
            self.current = self.accumulator(name);
            self.current_for = Some((columns.batch, product, self.day));
        }
        let program = self.programs.of(columns.programs[row].into());
        self.live[self.current].event(self.programs, program, columns, row, self.day_end, copies);
        if program.is_plan {
            self.plan(columns, row);
        }
    }

    fn accumulator(&mut self, product: &str) -> usize {
        let day = u32::try_from(self.day).expect("a pass has few days");
        let fresh = self.live.len();
        let index = *self.run.entry((xxh3_128(product.as_bytes()), day)).or_insert(fresh);
        if index == fresh {
            let mut accumulator = self.spare.pop().unwrap_or_default();
            accumulator.reset(self.programs, self.day, product, &self.client_type);
            self.live.push(accumulator);
        }
        index
    }

    fn plan(&mut self, columns: &Columns, row: usize) {
        let order =
            (columns.event_time[row], columns.recorded_time[row], columns.log_partition[row], columns.log_offset[row]);
        let known = self.plans.iter_mut().find(|(day, ..)| *day == self.day);
        if known.as_ref().is_some_and(|(_, known, _)| *known > order) {
            return;
        }
        let text = |column: &arrow::array::StringViewArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let plan = Plan {
            state: text(&columns.plan_state),
            tier: text(&columns.plan_tier),
            overage_enabled: columns.overage_enabled.is_valid(row).then(|| columns.overage_enabled.value(row)),
            overage_cap: columns.overage_cap.is_valid(row).then(|| columns.overage_cap.value(row)),
        };
        match known {
            Some(known) => *known = (self.day, order, plan),
            None => self.plans.push((self.day, order, plan)),
        }
    }

    /// Lets the person's rows leave.
    fn end_person(&mut self) {
        self.live
            .sort_unstable_by(|a, b| (a.day, &a.product, &a.client_type).cmp(&(b.day, &b.product, &b.client_type)));
        let mut day = usize::MAX;
        for row in &self.live {
            let builder = &mut self.builders[row.day];
            if row.day != day {
                day = row.day;
                if let Some(index) = self.plans.iter().position(|(changed, ..)| *changed == day) {
                    builder.plan(self.plans.swap_remove(index).2);
                }
            }
            let facts = DayFacts { days: self.days, start_us: self.bounds[day], end_us: self.bounds[day + 1] };
            builder.push(self.programs, &self.org, &self.user, &facts, row);
        }
        self.plans.clear();
        self.spare.append(&mut self.live);
        self.spare.truncate(SPARE_MAX);
    }
}

fn set(text: &mut String, value: &str) {
    text.clear();
    text.push_str(value);
}
