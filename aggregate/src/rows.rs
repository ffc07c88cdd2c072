//! Rows of the rollup as they come out of the walk, in columns: one [`Day`] per activity date.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Decimal128Builder, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    },
    datatypes::Schema,
};
use jiff::civil::Date;
use schemas::rollup::{self, DEFINITION_VERSION};

use crate::{
    accumulator::Accumulator,
    calendar::OrgDays,
    cells::CellBuilder,
    program::Programs,
    values::{Values, decimal, decimal_builder, int},
};

/// A person's plan, as the last `subscription.changed` event says. Its own values win: null is null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) state: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) overage_enabled: Option<bool>,
    /// In units of 10^-6.
    pub(crate) overage_cap: Option<i128>,
}

/// Facts of one organisation's day that each of its rows repeats.
pub(crate) struct DayFacts<'a> {
    pub(crate) days: &'a OrgDays,
    pub(crate) start_us: i64,
    pub(crate) end_us: i64,
}

/// Grows the rows of one activity date.
pub(crate) struct DayBuilder {
    date: Date,
    org: StringBuilder,
    user: StringBuilder,
    product: StringBuilder,
    client_type: StringBuilder,
    time_zone: StringBuilder,
    instrumented: StringBuilder,
    day_start: Vec<i64>,
    day_end: Vec<i64>,
    final_at: Vec<i64>,
    received: Vec<i64>,
    late: Vec<i64>,
    duplicates: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
    minutes: Vec<i64>,
    expected: Int64Builder,
    completeness: Decimal128Builder,
    measures: Values,
    breakdowns: Vec<CellBuilder>,
    plans: Vec<(usize, Plan)>,
}

/// The finished rows of one activity date, sorted by the table's sort columns. Plan columns and quality columns that depend on the past
/// are not there yet.
pub(crate) struct Day {
    pub(crate) date: Date,
    /// Content columns but those of the plan, by name, in the types of the table's schema.
    pub(crate) columns: BTreeMap<&'static str, ArrayRef>,
    pub(crate) org: StringArray,
    pub(crate) user: StringArray,
    /// Instant from which on each row is final (µs).
    pub(crate) final_at: Vec<i64>,
    /// Plans that changed on this day: the person's first row, and the plan; ascending.
    pub(crate) plans: Vec<(usize, Plan)>,
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
    /// Values that were cut to the greatest that their column can hold.
    pub(crate) saturated: u64,
    /// Rows of each breakdown, with all columns of its table but the partition column, sorted by its sort columns.
    pub(crate) breakdowns: Vec<RecordBatch>,
}

impl DayBuilder {
    pub(crate) fn new(date: Date, programs: &Programs) -> Self {
        let text = StringBuilder::new;
        Self {
            date,
            org: text(),
            user: text(),
            product: text(),
            client_type: text(),
            time_zone: text(),
            instrumented: text(),
            day_start: Vec::new(),
            day_end: Vec::new(),
            final_at: Vec::new(),
            received: Vec::new(),
            late: Vec::new(),
            duplicates: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
            minutes: Vec::new(),
            expected: Int64Builder::new(),
            completeness: decimal_builder(),
            measures: Values::new(programs.outputs.iter().map(|output| output.measure_type)),
            breakdowns: CellBuilder::all(programs),
            plans: Vec::new(),
        }
    }

    /// The plan of the person whose rows are pushed next.
    pub(crate) fn plan(&mut self, plan: Plan) {
        self.plans.push((self.received.len(), plan));
    }

    /// Adds a row. Rows come in the order of the table's sort columns.
    pub(crate) fn push(&mut self, programs: &Programs, org: &str, user: &str, facts: &DayFacts<'_>, row: &Accumulator) {
        let families = row.families | programs.declared(&row.product, &row.client_type);
        self.org.append_value(org);
        self.user.append_value(user);
        self.product.append_value(&row.product);
        self.client_type.append_value(&row.client_type);
        self.time_zone.append_value(facts.days.time_zone());
        self.instrumented.append_value(programs.family_list(families));
        self.day_start.push(facts.start_us);
        self.day_end.push(facts.end_us);
        self.final_at.push(facts.days.final_at_us(facts.end_us));
        self.received.push(row.received);
        self.late.push(row.late);
        self.duplicates.push(row.duplicates);
        self.first.push(row.first_us);
        self.last.push(row.last_us);
        self.minutes.push(row.active_minutes);
        let saturated = &mut self.measures.saturated;
        let expected = row.expected().map(|expected| int(expected, saturated));
        self.expected.append_option(expected);
        let share = expected.map(|expected| completeness(row.with_sequence, expected));
        self.completeness.append_option(share.map(|share| decimal(share, saturated)));
        for (index, output) in programs.outputs.iter().enumerate() {
            let value = output.set.map_or_else(|| row.sums[index], |set| row.distinct(set));
            self.measures.push(index, (output.families & families != 0).then_some(value));
        }
        CellBuilder::push(&mut self.breakdowns, programs, org, user, families, row);
    }

    pub(crate) fn finish(mut self) -> Day {
        let rows = self.received.len();
        let total = |values: &[i64]| values.iter().map(|value| value.unsigned_abs()).sum();
        let (events, duplicates) = (total(&self.received), total(&self.duplicates));
        let ints = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let times =
            |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
        let (org, user) = (self.org.finish(), self.user.finish());
        let mut columns: BTreeMap<&'static str, ArrayRef> = BTreeMap::from([
            ("org_id", Arc::new(org.clone()) as ArrayRef),
            ("user_key", Arc::new(user.clone())),
            ("product", Arc::new(self.product.finish())),
            ("client_type", Arc::new(self.client_type.finish())),
            ("time_zone", Arc::new(self.time_zone.finish())),
            ("instrumented", Arc::new(self.instrumented.finish())),
            ("day_start", times(self.day_start)),
            ("day_end", times(self.day_end)),
            ("definition_version", ints(vec![DEFINITION_VERSION; rows])),
            ("events_received", ints(self.received)),
            ("events_expected", Arc::new(self.expected.finish())),
            ("completeness", Arc::new(self.completeness.finish())),
            ("late_events", ints(self.late)),
            ("duplicates_removed", ints(self.duplicates)),
            ("first_event_time", times(self.first)),
            ("last_event_time", times(self.last)),
            ("active_minutes", ints(self.minutes)),
        ]);
        let mut saturated = self.measures.saturated;
        columns.extend(rollup::measures().iter().map(|measure| measure.name.as_str()).zip(self.measures.finish()));
        let breakdowns = self.breakdowns.into_iter().map(|builder| {
            let (rows, cut) = builder.finish();
            saturated += cut;
            rows
        });
        let breakdowns = breakdowns.collect();
        Day {
            date: self.date,
            columns,
            org,
            user,
            final_at: self.final_at,
            plans: self.plans,
            events,
            duplicates,
            saturated,
            breakdowns,
        }
    }
}

impl Day {
    pub(crate) fn rows(&self) -> usize {
        self.final_at.len()
    }

    /// The columns that are there, in the order of the table's schema.
    pub(crate) fn batch(&self) -> RecordBatch {
        let schema = rollup::ROLLUP_DAILY.schema();
        let present = schema
            .fields()
            .iter()
            .filter_map(|field| Some((Arc::clone(field), self.columns.get(field.name().as_str())?)));
        let (fields, columns): (Vec<_>, Vec<_>) = present.map(|(field, column)| (field, Arc::clone(column))).unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .expect("all columns have one length and the schema's types")
    }
}

/// Received of expected, in units of 10^-6, rounded half up.
fn completeness(received: i64, expected: i64) -> i128 {
    let (received, expected) = (i128::from(received), i128::from(expected));
    (received * 2_000_000 + expected) / (2 * expected)
}
