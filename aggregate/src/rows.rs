//! Rows of the rollup as they come out of the walk, in columns: one [`Day`] per activity date.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Decimal128Builder, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Schema},
};
use jiff::civil::Date;
use schemas::{
    ColumnType,
    rollup::{self, DEFINITION_VERSION, MeasureType},
};

use crate::{accumulator::Accumulator, calendar::OrgDays, program::Programs};

/// Greatest absolute value of a `decimal(20,6)`, in its smallest unit.
pub(crate) const DECIMAL_MAX: i128 = 10_i128.pow(20) - 1;

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

enum MeasureBuilder {
    Int(Int64Builder),
    Decimal(Decimal128Builder),
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
    measures: Vec<MeasureBuilder>,
    plans: Vec<(usize, Plan)>,
    saturated: u64,
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
}

impl DayBuilder {
    pub(crate) fn new(date: Date, programs: &Programs) -> Self {
        let text = StringBuilder::new;
        let measures = programs.outputs.iter().map(|output| match output.measure_type {
            MeasureType::Int => MeasureBuilder::Int(Int64Builder::new()),
            MeasureType::Decimal => MeasureBuilder::Decimal(decimal_builder()),
        });
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
            measures: measures.collect(),
            plans: Vec::new(),
            saturated: 0,
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
        let expected = row.expected().map(|expected| self.int(expected));
        self.expected.append_option(expected);
        let share = expected.map(|expected| completeness(row.with_sequence, expected));
        let share = share.map(|share| self.decimal(share));
        self.completeness.append_option(share);
        for (index, output) in programs.outputs.iter().enumerate() {
            let value = output.set.map_or_else(|| row.sums[index], |set| row.distinct(set));
            let value = (output.families & families != 0).then(|| match output.measure_type {
                MeasureType::Int => i128::from(self.int(value)),
                MeasureType::Decimal => self.decimal(value),
            });
            match &mut self.measures[index] {
                MeasureBuilder::Int(builder) => {
                    builder.append_option(value.map(|value| i64::try_from(value).expect("cut to 64 bits above")));
                }
                MeasureBuilder::Decimal(builder) => builder.append_option(value),
            }
        }
    }

    fn int(&mut self, value: i128) -> i64 {
        let fits = value.clamp(i64::MIN.into(), i64::MAX.into());
        self.saturated += u64::from(fits != value);
        i64::try_from(fits).expect("clamped")
    }

    fn decimal(&mut self, value: i128) -> i128 {
        let fits = value.clamp(-DECIMAL_MAX, DECIMAL_MAX);
        self.saturated += u64::from(fits != value);
        fits
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
        for (measure, builder) in rollup::measures().iter().zip(self.measures) {
            let array: ArrayRef = match builder {
                MeasureBuilder::Int(mut builder) => Arc::new(builder.finish()),
                MeasureBuilder::Decimal(mut builder) => Arc::new(builder.finish()),
            };
            columns.insert(measure.name.as_str(), array);
        }
        Day {
            date: self.date,
            columns,
            org,
            user,
            final_at: self.final_at,
            plans: self.plans,
            events,
            duplicates,
            saturated: self.saturated,
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

fn decimal_builder() -> Decimal128Builder {
    let kind: DataType = ColumnType::Decimal.arrow();
    Decimal128Builder::new().with_data_type(kind)
}

/// Received of expected, in units of 10^-6, rounded half up.
fn completeness(received: i64, expected: i64) -> i128 {
    let (received, expected) = (i128::from(received), i128::from(expected));
    (received * 2_000_000 + expected) / (2 * expected)
}
