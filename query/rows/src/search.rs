//! Finding rows of a file by their order.

use std::{collections::BTreeSet, ops::Range};

use arrow::datatypes::{DataType, Schema};
use schemas::epoch_days;

use crate::packed::{Column, Packed, Value, order, search};

impl Packed {
    /// Whether rows ascend by `columns`, none of which is null.
    #[must_use]
    pub fn ascend(&self, columns: &[&str]) -> bool {
        let Some(columns) = self.columns(columns) else { return false };
        let values = |row: usize| columns.iter().map(move |column| column.value(row));
        columns.iter().all(|column| column.is_key())
            && self.all().skip(1).all(|row| order(values(row - 1), values(row)).is_le())
    }

    /// The rows whose first sort column is `first`, a text; `None` where there is no such column.
    #[must_use]
    pub fn own(&self, (column, first): (&str, &str)) -> Option<Range<usize>> {
        Some(self.column(column)?.equal(self.all(), Value::Text(first)))
    }

    /// The rows whose first sort column is `first`, for which the conditions hold (a column holds one of some texts), after a key (by `key`, the other sort
    /// columns). Rows must [`ascend`](Self::ascend). The first `most` of them. `None` where a column is not there.
    #[must_use]
    pub fn pick(
        &self,
        first: (&str, &str),
        conditions: &[(&'static str, BTreeSet<String>)],
        key: &[&str],
        after: Option<&After<'_>>,
        most: usize,
    ) -> Option<Vec<usize>> {
        let mut range = self.own(first)?;
        if let Some(after) = after {
            let columns = self.columns(key)?;
            let values = |row: usize| columns.iter().map(move |column| column.value(row));
            let start = search(range.clone(), |row| order(values(row), after.0.iter().copied()).is_le());
            range = start..range.end;
        }
        let mut others: Vec<(Column<'_>, Vec<bool>)> = Vec::new();
        for (name, values) in conditions {
            let column = self.column(name).filter(|column| column.is_key())?;
            match values.first() {
                // Among rows with one first sort column, the next ascends.
                Some(only) if values.len() == 1 && key.first() == Some(name) => {
                    range = column.equal(range, Value::Text(only));
                }
                _ => others.push((column, column.places_of(values))),
            }
        }
        let holds = |row: &usize| others.iter().all(|(column, wanted)| wanted[column.place(*row)]);
        Some(range.filter(holds).take(most).collect())
    }
}

/// A key after which rows begin: values of all sort columns but the first.
pub struct After<'a>(Vec<Value<'a>>);

impl<'a> After<'a> {
    /// Reads it out of `texts`; `None` where they are no values of the columns `key` of `schema`.
    #[must_use]
    pub fn new(schema: &Schema, key: &[&str], texts: &'a [String]) -> Option<Self> {
        let value = |(name, text): (&&str, &'a String)| match schema.field_with_name(name).ok()?.data_type() {
            DataType::Int64 => text.parse().ok().map(Value::Number),
            DataType::Date32 => text.parse().ok().map(|day| Value::Number(epoch_days(day).into())),
            _ => Some(Value::Text(text)),
        };
        let values: Vec<Value<'_>> = key.iter().zip(texts).map(value).collect::<Option<_>>()?;
        (values.len() == key.len() && texts.len() == key.len()).then_some(Self(values))
    }
}

/// Sorts `picked` rows (file and row) of `files` by the columns `key`; `None` where one is not there.
pub fn sort(files: &[&Packed], picked: &mut [(usize, usize)], key: &[&str]) -> Option<()> {
    let keys: Vec<_> = files.iter().map(|file| file.columns(key)).collect::<Option<_>>()?;
    let values = |(file, row): (usize, usize)| keys[file].iter().map(move |column| column.value(row));
    picked.sort_by(|one, other| order(values(*one), values(*other)));
    Some(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringViewArray},
        datatypes::Field,
    };

    use super::*;

    /// Rows of three organisations, which share people, in order.
    fn rows(people: usize) -> Vec<(String, String, i64)> {
        let person = |at: usize| format!("email:someone-with-a-long-name-{:06}@example.org", at * 7919 % 1_000_000);
        let mut rows: Vec<_> = (0..3)
            .flat_map(|org| (0..people).filter(move |at| at % (org + 2) != 0).map(move |at| (format!("org-{org}"), at)))
            .flat_map(|(org, at)| (0..=(at % 3) as i64).map(move |n| (org.clone(), person(at), n * 5)))
            .collect();
        rows.sort();
        rows
    }

    fn packed(rows: &[(String, String, i64)]) -> Packed {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(&row.0)).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|row| Some(&row.1)).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
        ];
        let field = |(name, column): (&str, &ArrayRef)| Field::new(name, column.data_type().clone(), false);
        let schema = Schema::new(["org", "person", "number"].into_iter().zip(&columns).map(field).collect::<Vec<_>>());
        Packed::pack(&RecordBatch::try_new(Arc::new(schema), columns).expect("columns")).expect("packed")
    }

    #[test]
    fn what_is_picked_is_what_a_look_at_each_row_finds() {
        for people in [0, 1, 2, 50, 300] {
            let rows = rows(people);
            let packed = packed(&rows);
            assert!(packed.ascend(&["org", "person", "number"]));
            let asked: BTreeSet<&String> = rows.iter().map(|row| &row.1).collect();
            let nobody = "email:nobody@example.org".to_owned();
            let schema = Schema::new(vec![
                Field::new("person", DataType::Utf8View, false),
                Field::new("number", DataType::Int64, false),
            ]);
            for org in ["org-0", "org-1", "org-2", "org-", "org-9"] {
                for person in asked.iter().copied().chain([&nobody]).step_by(7) {
                    let conditions = [("person", BTreeSet::from([person.clone()]))];
                    for after in [None, Some([person.clone(), "5".to_owned()]), Some([nobody.clone(), "-1".to_owned()])]
                    {
                        let key = after
                            .as_ref()
                            .map(|after| After::new(&schema, &["person", "number"], after).expect("a key"));
                        let later = |row: &(String, String, i64)| match &after {
                            Some([person, number]) => (&row.1, row.2) > (person, number.parse().expect("a number")),
                            None => true,
                        };
                        let naive = |holds: &dyn Fn(&(String, String, i64)) -> bool| -> Vec<usize> {
                            (0..rows.len())
                                .filter(|at| rows[*at].0 == org && later(&rows[*at]) && holds(&rows[*at]))
                                .collect()
                        };
                        let pick = |conditions| {
                            packed.pick(("org", org), conditions, &["person", "number"], key.as_ref(), usize::MAX)
                        };
                        assert_eq!(pick(&[]).expect("columns"), naive(&|_| true));
                        assert_eq!(pick(&conditions).expect("columns"), naive(&|row| row.1 == *person));
                        let two = [("person", BTreeSet::from([person.clone(), nobody.clone()]))];
                        assert_eq!(pick(&two).expect("columns"), naive(&|row| row.1 == *person || row.1 == nobody));
                    }
                }
            }
        }
    }
}
