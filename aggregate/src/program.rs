//! Measures, compiled: for each event type the few steps that it feeds.
//!
//! `definitions/measures.json` says which events feed which measure. Read row by row that would be some fifty questions per event; turned
//! around, per event type, it is a handful of steps, and an event that feeds nothing costs one look-up.
//!
//! ```text
//! measures.json ──► Programs ─┬─ types:  "dev.daybook.model.completed.v1" → [sum 9, count 6 where status = "success", …]
//! breakdowns.json             ├─ cells:   of which breakdowns such an event has a cell, and what of each step is added to it, too
//!                             ├─ columns: which columns of `events` the steps read
//!                             └─ families: one bit each; NULL rule as masks
//! ```

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, BooleanArray, StringViewArray};
use schemas::{
    Column, ColumnType,
    breakdown::breakdowns,
    clients,
    registry::Registry,
    rollup::{self, Measure, MeasureType, Op},
    tables::{EVENT_COLUMNS, event_column},
};

use crate::columns::{Columns, inline_view};

/// Event type by which a client says what it reports.
pub(crate) const STATUS_TYPE: &str = "dev.daybook.telemetry.status.v1";
/// Event type that changes a person's plan.
pub(crate) const PLAN_TYPE: &str = "dev.daybook.subscription.changed.v1";

/// What a step does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Adds 1 to the measure.
    Count,
    /// Adds a number column, times `scale`, to the measure.
    Sum { number: usize, scale: i128 },
    /// Adds a text column's value to the set of the measure.
    Distinct { set: usize, text: usize },
}

/// One condition on a column; a step happens where all of its conditions hold.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Text { text: usize, null: bool, literals: Vec<Literal> },
    Flag { flag: usize, null: bool, truth: bool, falsity: bool },
}

/// A text that a condition allows.
#[derive(Clone, Debug)]
pub(crate) struct Literal {
    text: String,
    /// The Arrow view that equals this text and no other: texts of up to 12 bytes lie in the view itself.
    view: Option<u128>,
}

impl Condition {
    fn holds(&self, columns: &Columns, row: usize) -> bool {
        match self {
            Self::Text { text, null, literals } => {
                let column: &StringViewArray = &columns.texts[*text];
                if column.is_null(row) {
                    return *null;
                }
                let view = column.views()[row];
                literals.iter().any(|literal| match literal.view {
                    Some(allowed) => allowed == view,
                    None => column.value(row) == literal.text,
                })
            }
            Self::Flag { flag, null, truth, falsity } => {
                let column: &BooleanArray = &columns.flags[*flag];
                if column.is_null(row) {
                    *null
                } else if column.value(row) {
                    *truth
                } else {
                    *falsity
                }
            }
        }
    }
}

/// A sum of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Index in [`Program::fed`].
    pub(crate) fed: usize,
    /// Index of the measure among those of the breakdown.
    pub(crate) measure: usize,
}

/// A breakdown in which events of a type have a cell.
#[derive(Clone, Debug)]
pub(crate) struct Fed {
    /// Index of the breakdown.
    pub(crate) breakdown: usize,
    /// For each column of the key the texts of which the first that is not null is its value.
    pub(crate) keys: Vec<Vec<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) measure: usize,
    pub(crate) action: Action,
    /// Sums of cells that get what the measure gets.
    pub(crate) parts: Vec<Part>,
    conditions: Vec<Condition>,
}

impl Step {
    #[inline]
    pub(crate) fn applies(&self, columns: &Columns, row: usize) -> bool {
        self.conditions.iter().all(|condition| condition.holds(columns, row))
    }
}

/// What the events of one type do.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) fed: Vec<Fed>,
    /// Bit of the type's family; 0 for types that belong to none.
    pub(crate) family: u64,
    pub(crate) is_status: bool,
    pub(crate) is_plan: bool,
}

/// How a measure comes out of its accumulator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) measure_type: MeasureType,
    /// The measure is null unless one of these families is instrumented.
    pub(crate) families: u64,
    /// Set whose size is the value; otherwise the sum is.
    pub(crate) set: Option<usize>,
}

/// All measures, compiled. Made once per run.
#[derive(Debug)]
pub(crate) struct Programs {
    programs: Vec<Program>,
    by_type: HashMap<String, usize>,
    /// One program per family for types that no measure names, then one for types without a family.
    others: Vec<usize>,
    family_names: Vec<String>,
    declared: HashMap<(String, String), u64>,
    pub(crate) outputs: Vec<Output>,
    /// By breakdown: the measures that it has, as indices of all measures.
    pub(crate) breakdowns: Vec<Vec<usize>>,
    /// Number of sets of an accumulator.
    pub(crate) sets: usize,
    /// Columns of `events` that steps read: texts, numbers, flags, each a name.
    pub(crate) texts: Vec<&'static str>,
    pub(crate) numbers: Vec<&'static str>,
    pub(crate) flags: Vec<&'static str>,
}

impl Programs {
    /// Compiles the measures of the contract.
    pub(crate) fn new() -> Self {
        Self::compile(rollup::measures())
    }

    /// # Panics
    /// Where a definition names a column that `events` does not have or that has the wrong type: definitions are part of the build
    /// and a test compiles them.
    fn compile(measures: &[Measure]) -> Self {
        let known: BTreeSet<&str> = Registry::get().types().collect();
        let family_names: Vec<String> = {
            let names: BTreeSet<&str> = known.iter().filter_map(|name| rollup::family(name)).collect();
            names.into_iter().map(str::to_owned).collect()
        };
        assert!(family_names.len() <= 64, "families are bits of a word");
        let mut all = Self {
            programs: Vec::new(),
            by_type: HashMap::new(),
            others: Vec::new(),
            declared: HashMap::new(),
            outputs: Vec::new(),
            breakdowns: Vec::new(),
            sets: 0,
            texts: Vec::new(),
            numbers: Vec::new(),
            flags: Vec::new(),
            family_names,
        };
        for client in clients::declared() {
            let bits = client.families.iter().map(|family| all.family_bit(family)).fold(0, |bits, bit| bits | bit);
            *all.declared.entry((client.product.clone(), client.client_type.clone())).or_default() |= bits;
        }
        for measure in measures {
            let set = (measure.op == Op::Distinct).then_some(all.sets);
            all.sets += usize::from(set.is_some());
            let families = measure.families.iter().map(|family| all.family_bit(family)).fold(0, |bits, bit| bits | bit);
            assert!(families != 0, "measure {} has a family that some event type belongs to", measure.name);
            all.outputs.push(Output { measure_type: measure.measure_type, families, set });
        }
        for breakdown in breakdowns() {
            let has = |index: &usize| measures[*index].by.contains(&breakdown.table);
            all.breakdowns.push((0..measures.len()).filter(has).collect());
        }
        let fed = measures.iter().flat_map(|measure| &measure.feeds).flat_map(|feed| &feed.types);
        let types: BTreeSet<String> =
            fed.map(String::as_str).filter(|name| *name != "*").chain(known).map(str::to_owned).collect();
        for name in types {
            let family = rollup::family(&name).map_or(0, |family| all.family_bit(family));
            let program = all.program(measures, &name, family);
            all.by_type.insert(name, all.programs.len());
            all.programs.push(program);
        }
        for bit in (0..all.family_names.len()).map(|index| 1 << index).chain([0]) {
            let program = all.program(measures, "", bit);
            all.others.push(all.programs.len());
            all.programs.push(program);
        }
        all
    }

    fn program(&mut self, measures: &[Measure], event_type: &str, family: u64) -> Program {
        let (mut steps, mut fed) = (Vec::new(), Vec::new());
        for (index, measure) in measures.iter().enumerate() {
            for feed in &measure.feeds {
                if feed.types.iter().any(|name| name == "*" || name == event_type) {
                    let conditions = feed.filter.iter().map(|(name, allowed)| self.condition(name, allowed)).collect();
                    let action = self.action(index, measure, feed.column.as_deref());
                    let parts = self.parts(index, &mut fed);
                    assert!(parts.is_empty() || measure.op != Op::Distinct, "{}: parts add up", measure.name);
                    steps.push(Step { measure: index, action, parts, conditions });
                }
            }
        }
        Program { steps, fed, family, is_status: event_type == STATUS_TYPE, is_plan: event_type == PLAN_TYPE }
    }

    /// The sums of cells that a measure has, and in `fed` the breakdowns of these cells.
    fn parts(&mut self, measure: usize, fed: &mut Vec<Fed>) -> Vec<Part> {
        let mut parts = Vec::new();
        for (index, breakdown) in breakdowns().iter().enumerate() {
            let Some(place_in) = self.breakdowns[index].iter().position(|of| *of == measure) else { continue };
            let known = fed.iter().position(|known| known.breakdown == index).unwrap_or_else(|| {
                let keys = breakdown.keys.iter().map(|key| {
                    let texts = key.columns.iter().map(|name| self.text(name));
                    texts.collect()
                });
                fed.push(Fed { breakdown: index, keys: keys.collect() });
                fed.len() - 1
            });
            parts.push(Part { fed: known, measure: place_in });
        }
        parts
    }

    fn text(&mut self, name: &str) -> usize {
        let column = column(name);
        assert_eq!(column.column_type, ColumnType::Text, "{name} is a text");
        place(&mut self.texts, column.name)
    }

    fn action(&mut self, index: usize, measure: &Measure, name: Option<&str>) -> Action {
        if measure.op == Op::Count {
            return Action::Count;
        }
        let column = column(name.expect("sums and distinct counts name a column"));
        match (measure.op, column.column_type) {
            (Op::Distinct, ColumnType::Text) => {
                let set = self.outputs[index].set.expect("distinct measures have a set");
                Action::Distinct { set, text: place(&mut self.texts, column.name) }
            }
            (Op::Sum, ColumnType::Int | ColumnType::Decimal) => {
                let scale = match (measure.measure_type, column.column_type) {
                    (MeasureType::Decimal, ColumnType::Int) => 1_000_000,
                    (MeasureType::Int, ColumnType::Decimal) => {
                        panic!("{}: a decimal does not fit an integer", measure.name)
                    }
                    _ => 1,
                };
                Action::Sum { number: place(&mut self.numbers, column.name), scale }
            }
            (op, kind) => panic!("{}: {op:?} of a column of type {kind:?}", measure.name),
        }
    }

    fn condition(&mut self, name: &str, allowed: &[Option<String>]) -> Condition {
        let column = column(name);
        let null = allowed.contains(&None);
        let texts = allowed.iter().flatten();
        match column.column_type {
            ColumnType::Text => Condition::Text {
                text: place(&mut self.texts, column.name),
                null,
                literals: texts.map(|text| Literal { text: text.clone(), view: inline_view(text) }).collect(),
            },
            ColumnType::Bool => {
                let has = |value: &str| allowed.iter().flatten().any(|text| text == value);
                assert!(texts.clone().all(|text| text == "true" || text == "false"), "{name} is true or false");
                Condition::Flag {
                    flag: place(&mut self.flags, column.name),
                    null,
                    truth: has("true"),
                    falsity: has("false"),
                }
            }
            other => panic!("{name}: conditions are on texts and booleans, not on {other:?}"),
        }
    }

    /// The program of an event type.
    pub(crate) fn of(&self, index: usize) -> &Program {
        &self.programs[index]
    }

    /// Index of the program of an event type. Types that we do not know count for their family, and for what all types feed.
    pub(crate) fn index(&self, event_type: &str) -> usize {
        if let Some(index) = self.by_type.get(event_type) {
            return *index;
        }
        let family = rollup::family(event_type).and_then(|family| self.family_index(family));
        self.others[family.unwrap_or(self.family_names.len())]
    }

    fn family_index(&self, family: &str) -> Option<usize> {
        self.family_names.binary_search_by(|name| name.as_str().cmp(family)).ok()
    }

    /// The bit of a family, 0 for a name that is none.
    pub(crate) fn family_bit(&self, family: &str) -> u64 {
        self.family_index(family).map_or(0, |index| 1 << index)
    }

    /// Bits of a comma-separated list of families, as `telemetry.status` has it.
    pub(crate) fn family_bits(&self, list: &str) -> u64 {
        list.split(',').map(|family| self.family_bit(family.trim())).fold(0, |bits, bit| bits | bit)
    }

    /// Families declared for a client.
    pub(crate) fn declared(&self, product: &str, client_type: &str) -> u64 {
        // Looked up once per row of the rollup, and there are few: no need for a map that takes borrowed pairs.
        let found = self.declared.iter().find(|((p, c), _)| p == product && c == client_type);
        found.map_or(0, |(_, bits)| *bits)
    }

    /// The families of `bits`, in alphabetical order, comma-separated.
    pub(crate) fn family_list(&self, bits: u64) -> String {
        let names = self.family_names.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
        names.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Columns of `events` that the walk reads, each once, in no particular order.
    pub(crate) fn scan_columns(&self) -> Vec<&'static str> {
        let steps = self.texts.iter().chain(&self.numbers).chain(&self.flags);
        let mut names: Vec<&'static str> = steps.chain(crate::columns::FIXED_COLUMNS).copied().collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn column(name: &str) -> &'static Column {
    let index = event_column(name).unwrap_or_else(|| panic!("`events` has no column {name}"));
    &EVENT_COLUMNS[index]
}

fn place(names: &mut Vec<&'static str>, name: &'static str) -> usize {
    names.iter().position(|have| *have == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}
