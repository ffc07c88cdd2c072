//! The reference of tables and measures, written from their definitions.

use std::fmt::Write as _;

use crate::{
    TableSpec, breakdown,
    derived::derived,
    revisions::{ROLLUP_REVISIONS, ROLLUP_SUPERSEDED},
    rollup::{self, Op, ROLLUP_DAILY},
};

/// `docs/metrics.md`.
pub(crate) fn metrics() -> String {
    let mut text = String::from(
        "# Measures and tables\n\nWritten from `aggregate/definitions/`, by `DAYBOOK_BLESS=1 cargo xtask test`; edit the definitions, not this page.\n\n\
         A measure is NULL where the client does not report its family, and 0 where it reported none.\n\n## Measures of `rollup_daily`\n\n\
         | measure | unit | meaning | made from | families | version | owner |\n|---|---|---|---|---|---|---|\n",
    );
    for measure in rollup::measures() {
        let feeds = measure.feeds.iter().map(|feed| {
            let types = feed.types.iter().map(|name| name.trim_start_matches("dev.daybook."));
            let types = types.collect::<Vec<_>>().join(", ");
            let types = if types == "*" { "all events".to_owned() } else { format!("`{types}`") };
            let filter = feed.filter.iter().map(|(column, allowed)| {
                let allowed = allowed.iter().map(|value| value.as_deref().unwrap_or("NULL"));
                format!("{column} is {}", allowed.collect::<Vec<_>>().join(" or "))
            });
            let filter = filter.collect::<Vec<_>>().join(" and ");
            let filter = if filter.is_empty() { filter } else { format!(" where {filter}") };
            match (measure.op, &feed.column) {
                (Op::Sum, Some(column)) => format!("sum of {column} of {types}{filter}"),
                (Op::Distinct, Some(column)) => format!("distinct {column} of {types}{filter}"),
                _ => format!("number of {types}{filter}"),
            }
        });
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            measure.name,
            measure.unit,
            measure.comment,
            feeds.collect::<Vec<_>>().join("; "),
            measure.families.join(", "),
            measure.version,
            measure.owner,
        )
        .expect("text");
    }
    let about = "A person's day with one client. It has all measures as columns, too.";
    table(&mut text, &ROLLUP_DAILY, about, false);
    let about = "A change of an organisation's day: the change feed. A program that has read up to a `rollup_version` goes on after it.";
    table(&mut text, &ROLLUP_REVISIONS, about, true);
    let about = "A row of `rollup_daily` that was final, as it stood until it was restated or removed. It has all columns of `rollup_daily`.";
    table(&mut text, &ROLLUP_SUPERSEDED, about, false);
    for (breakdown, spec) in breakdown::breakdowns().iter().zip(breakdown::specs()) {
        let made = breakdown.keys.iter().map(|key| {
            let columns = key.columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", else ");
            format!("`{}` is {columns} of the event", key.name)
        });
        let about = format!(
            "{} Of each measure, its rows add up to the row of `rollup_daily`. {}. Version {}, owner {}.",
            breakdown.comment,
            made.collect::<Vec<_>>().join("; "),
            breakdown.version,
            breakdown.owner
        );
        table(&mut text, spec, &about, true);
    }
    for (derived, spec) in derived().iter().zip(crate::derived::specs()) {
        let all = if derived.sums_measures { " It has the sums of all measures as columns, too." } else { "" };
        let reads = derived.reads.iter().map(|read| match read.days_before {
            Some(0) => format!("`{}` of the same dates", read.table),
            Some(days) => format!("`{}` of the date and {days} days before", read.table),
            None => format!("`{}`", read.table),
        });
        let reads = reads.collect::<Vec<_>>().join(", ");
        let before = if derived.is_chain { ", and its own rows of the day before" } else { "" };
        let about = format!(
            "{}{all} Follows from {reads}{before}: `{}.sql`, version {}, owner {}.",
            derived.comment, derived.table, derived.version, derived.owner
        );
        table(&mut text, spec, &about, !derived.sums_measures);
    }
    text
}

/// A table and its columns; those of the names of measures only with `measures`.
fn table(text: &mut String, spec: &TableSpec, about: &str, measures: bool) {
    let listed = |name: &str| measures || rollup::measures().iter().all(|measure| measure.name != name);
    let key = spec.partition_column.into_iter().chain(spec.sort_columns.iter().copied());
    let key = key.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    writeln!(text, "\n## `{}`\n\n{about} Key: {key}.\n\n| column | type | meaning |\n|---|---|---|", spec.name)
        .expect("text");
    for field in spec.schema().fields().iter().filter(|field| listed(field.name())) {
        let comment = field.metadata().get("comment").map_or("", String::as_str);
        let null = if field.is_nullable() { ", may be NULL" } else { "" };
        writeln!(text, "| `{}` | {}{null} | {comment} |", field.name(), field.data_type()).expect("text");
    }
}
