//! One derived table: which of its dates to compute, their rows, and the commit.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Date32Array, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Date32Type, Decimal128Type, Field, Schema},
};
use datafusion::{
    datasource::MemTable,
    logical_expr::{cast, ident},
    prelude::{SessionConfig, SessionContext},
};
use futures::future::try_join_all;
use jiff::{ToSpan as _, civil::Date};
use lake::{Change, DataFile, Lake, Snapshot, Swap, Table};
use schemas::{
    ColumnType,
    derived::{Dates, Derived, Source},
    epoch_days,
};
use serde_json::json;

use super::{Done, Mode, Read, Tally, snapshot};
use crate::{
    Error, Result,
    attempt::ATTEMPTS_MAX,
    calendar::next,
    definition::{DEFINITION_APP_ID, digest},
    standing::{standing, write},
    values::DECIMAL_MAX,
};

/// Dates that are computed by one query, and written at once.
const DATES_AT_ONCE: usize = 28;
/// Version of what this code makes of the same tables and definitions.
const ALGORITHM_VERSION: u32 = 1;
/// A derived table to bring in line.
pub(super) struct Job {
    pub(super) lake: Lake,
    pub(super) table: Table,
    pub(super) derived: &'static Derived,
    pub(super) sql: String,
    pub(super) mode: Mode,
}

impl Job {
    /// `reads` as they were read first: each table is read once, whoever follows from it.
    pub(super) async fn run(&self, reads: Vec<Read>) -> Result<Done> {
        let table = self.table.name();
        let mut attempt = 1;
        loop {
            match self.attempt(reads.clone()).await {
                Err(error) if error.is_lost_race() && attempt < ATTEMPTS_MAX => {
                    tracing::info!(table, attempt, "another writer was faster, the table starts again");
                    attempt += 1;
                }
                Ok(done) => {
                    tracing::debug!(table, computed = done.tally.computed, changed = done.tally.changed, "derived");
                    return Ok(done);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(&self, mut reads: Vec<Read>) -> Result<Done> {
        let spec = self.table.spec();
        // Adds the columns that a table of an older version lacks.
        self.table.create_if_missing().await.map_err(Error::table(spec))?;
        let before = self.table.snapshot().await.map_err(Error::table(spec))?;
        let is_older = |(_, _, read): &Read| {
            read.as_ref().is_some_and(|read| before.txns.get(&app_id(read)).is_some_and(|seen| *seen > read.version))
        };
        if reads.iter().any(is_older) {
            // Another aggregator has seen more: what is read now is at least as new as what it saw.
            for (_, spec, read) in &mut reads {
                *read = snapshot(&self.lake, spec).await?;
            }
        }
        let digest = digest(&format!("{:?}{}{ALGORITHM_VERSION}", self.derived, self.sql));
        let versions = reads.iter().filter_map(|(_, _, read)| read.as_ref()).map(|read| (app_id(read), read.version));
        let versions = std::iter::once((DEFINITION_APP_ID.to_owned(), digest)).chain(versions);
        let swaps: Vec<Swap> = versions.map(|(app_id, next)| Swap::from_held(&before.txns, app_id, next)).collect();
        // A version 0 that another engine wrote may have rows: to stand for it is more than to hold nothing.
        let is_current = swaps.iter().all(|swap| before.txns.get(&swap.app_id) == Some(&swap.next));
        match self.mode {
            Mode::Refresh if is_current => {
                return Ok(Done { as_it_was: Some((spec.name, before)), ..Done::default() });
            }
            Mode::Comparison if !is_current => return Err(Error::Behind { table: spec.name }),
            _ => {}
        }
        let candidates = self.candidates(&reads);
        let same_definition = swaps[0].is_still();
        let changed =
            if self.mode == Mode::Refresh && same_definition { self.changed(&before, &reads).await? } else { None };
        let standing = before.dates();
        let wanted = match changed {
            Some(changed) => self.wanted(&candidates, &standing, &changed),
            None => candidates.clone(),
        };
        let mut change = Change { operation: "ROLLUP", data_change: true, ..Change::default() };
        let mut tally = Tally { computed: wanted.len() as u64, changed: 0 };
        let gone = |file: &&DataFile| file.partition_value.is_none_or(|date| !candidates.contains(&date));
        change.remove.extend(before.files.iter().filter(gone).cloned());
        tally.changed += standing.difference(&candidates).count() as u64;
        self.compute(&before, &reads, &candidates, &wanted, &mut change, &mut tally).await?;
        if self.mode == Mode::Comparison {
            return Ok(Done { tally, as_it_was: Some((spec.name, before)) });
        }
        change.metrics.insert("datesComputed".into(), json!(tally.computed));
        change.metrics.insert("datesChanged".into(), json!(tally.changed));
        change.swaps = swaps;
        let mut head = before.head();
        self.table.commit(&mut head, change).await.map_err(|source| Error::Commit { source })?;
        Ok(Done { tally, as_it_was: None })
    }

    /// Every date from the first to the last of the first table that is read; none where a table is not there: without members there are no
    /// teams.
    fn candidates(&self, reads: &[Read]) -> BTreeSet<Date> {
        if reads.iter().any(|(_, _, read)| read.is_none()) {
            return BTreeSet::new();
        }
        let dates = reads[0].2.as_ref().map(Snapshot::dates).unwrap_or_default();
        let Some((first, last)) = dates.first().zip(dates.last()) else { return BTreeSet::new() };
        let days = std::iter::successors(Some(*first), |date| Some(next(*date))).take_while(|date| date <= last);
        days.map(|date| self.date_of(date)).collect()
    }

    /// The table's date that a day belongs to.
    fn date_of(&self, day: Date) -> Date {
        match self.derived.dates {
            Dates::Day => day,
            Dates::Week => day.saturating_sub(i32::from(day.weekday().to_monday_zero_offset()).days()),
        }
    }

    /// The last day of a date of the table.
    fn last_day(&self, date: Date) -> Date {
        match self.derived.dates {
            Dates::Day => date,
            Dates::Week => date.saturating_add(6.days()),
        }
    }

    /// By table read, the dates on which it changed since the version that `before` stands for; `None`: everything may have.
    async fn changed<'r>(
        &self,
        before: &Snapshot,
        reads: &'r [Read],
    ) -> Result<Option<Vec<(&'r Source, BTreeSet<Date>)>>> {
        let mut all = Vec::new();
        for (source, spec, read) in reads {
            let Some(read) = read else { continue };
            let Some(since) = before.txns.get(&app_id(read)).copied() else { return Ok(None) };
            if since == read.version {
                continue;
            }
            let news = self.lake.table(spec).news(since, read.version).await.map_err(Error::table(spec))?;
            let Some(dates) = news.and_then(|news| news.dates) else { return Ok(None) };
            all.push((*source, dates));
        }
        Ok(Some(all))
    }

    fn wanted(
        &self,
        candidates: &BTreeSet<Date>,
        standing: &BTreeSet<Date>,
        changed: &[(&Source, BTreeSet<Date>)],
    ) -> BTreeSet<Date> {
        let mut wanted = BTreeSet::new();
        for (source, dates) in changed {
            for date in dates {
                // In a chain all that comes after follows from it, also where the date itself is gone.
                let last = match source.days_before.filter(|_| !self.derived.is_chain) {
                    Some(days) => date.saturating_add(i32::from(days).days()),
                    None => Date::MAX,
                };
                wanted.extend(candidates.range(self.date_of(*date)..=last));
            }
        }
        // New at either end: the tables read need not have changed there, where nobody was active.
        let is_known = |date: &&Date| standing.first() <= Some(date) && Some(*date) <= standing.last();
        wanted.extend(candidates.iter().filter(|date| !is_known(date)));
        if self.derived.is_chain
            && let Some(first) = wanted.first().copied()
        {
            wanted.extend(candidates.range(first..));
        }
        wanted
    }

    /// Computes `wanted`, and adds the dates that differ to `change`.
    async fn compute(
        &self,
        before: &Snapshot,
        reads: &[Read],
        candidates: &BTreeSet<Date>,
        wanted: &BTreeSet<Date>,
        change: &mut Change,
        tally: &mut Tally,
    ) -> Result<()> {
        let wanted: Vec<Date> = wanted.iter().copied().collect();
        let at_once = if self.derived.is_chain { 1 } else { DATES_AT_ONCE };
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let mut previous: Option<(Date, RecordBatch)> = None;
        let mut differing = Vec::new();
        for dates in wanted.chunks(at_once) {
            if self.derived.is_chain {
                let day_before = dates[0].yesterday().unwrap_or(Date::MIN);
                let rows = match previous.take().filter(|(date, _)| *date == day_before) {
                    Some((_, rows)) => rows,
                    // Rows of before the first date are about to go.
                    None if !candidates.contains(&day_before) => RecordBatch::new_empty(self.table.spec().schema()),
                    None => standing(&self.table, before, &context, day_before).await?,
                };
                register(&context, "before", rows)?;
            }
            let rows = self.rows(&context, reads, dates).await?;
            let of = rows.column(0).as_primitive::<Date32Type>().values();
            let standing = dates.iter().map(|date| standing(&self.table, before, &context, *date));
            for (date, standing) in dates.iter().zip(try_join_all(standing).await?) {
                let start = of.partition_point(|day| *day < epoch_days(*date));
                let end = of.partition_point(|day| *day <= epoch_days(*date));
                let fresh = rows.slice(start, end - start);
                if fresh != standing {
                    tally.changed += 1;
                    differing.push((*date, fresh.clone()));
                }
                if self.derived.is_chain {
                    previous = Some((*date, fresh));
                }
            }
            if differing.len() >= DATES_AT_ONCE {
                self.replace(before, std::mem::take(&mut differing), change).await?;
            }
        }
        self.replace(before, differing, change).await
    }

    /// Adds to `change` what puts these rows in the place of those of their dates.
    async fn replace(&self, before: &Snapshot, dates: Vec<(Date, RecordBatch)>, change: &mut Change) -> Result<()> {
        if self.mode == Mode::Comparison {
            return Ok(());
        }
        for (date, _) in &dates {
            change.remove.extend(before.files_of(*date));
        }
        let writes = dates.into_iter().map(|(date, rows)| write(&self.table, date, rows));
        change.add.extend(try_join_all(writes).await?.into_iter().flatten());
        Ok(())
    }

    /// The rows of `dates`, sorted by date and key, in the table's schema.
    async fn rows(&self, context: &SessionContext, reads: &[Read], dates: &[Date]) -> Result<RecordBatch> {
        let days: Date32Array = dates.iter().map(|date| epoch_days(*date)).collect::<Vec<_>>().into();
        let schema = Schema::new(vec![Field::new("activity_date", DataType::Date32, false)]);
        let days = RecordBatch::try_new(schema.into(), vec![Arc::new(days)]).expect("one column");
        register(context, "dates", days)?;
        let last = self.last_day(dates[dates.len() - 1]);
        for (source, spec, read) in reads {
            let mut read = read.clone().expect("without it there are no dates");
            let first = source.days_before.map_or(Date::MIN, |days| dates[0].saturating_sub(i32::from(days).days()));
            read.files.retain(|file| file.partition_value.is_none_or(|date| first <= date && date <= last));
            context.deregister_table(spec.name).map_err(Error::Scan)?;
            context.register_table(spec.name, read.provider()).map_err(Error::Scan)?;
        }
        let spec = self.table.spec();
        let schema = spec.schema();
        let wide = |kind: &DataType| match kind {
            DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
            other => other.clone(),
        };
        let columns =
            schema.fields().iter().map(|field| cast(ident(field.name()), wide(field.data_type())).alias(field.name()));
        let order = std::iter::once("activity_date").chain(spec.sort_columns.iter().copied());
        let order = order.map(|column| ident(column).sort(true, false)).collect();
        let frame =
            context.sql(&self.sql).await.and_then(|frame| frame.select(columns.collect::<Vec<_>>())?.sort(order));
        let frame = frame.map_err(Error::Scan)?;
        let batches = frame.collect().await.map_err(Error::Scan)?;
        let Some(first) = batches.first() else { return Ok(RecordBatch::new_empty(schema)) };
        let all = concat_batches(&first.schema(), &batches)?;
        let columns =
            all.columns().iter().zip(schema.fields()).map(|(column, field)| narrow(column, field.data_type()));
        Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
    }
}

/// What a table that is read is known as in the transactions of those that read it.
fn app_id(read: &Snapshot) -> String {
    format!("daybook/derived/{}", read.table_id)
}

fn register(context: &SessionContext, name: &str, rows: RecordBatch) -> Result<()> {
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(Error::Scan)?;
    context.deregister_table(name).map_err(Error::Scan)?;
    context.register_table(name, Arc::new(table)).map_err(Error::Scan)?;
    Ok(())
}

/// A column in the table's type; decimals that it cannot hold become the greatest that it can.
fn narrow(column: &ArrayRef, wanted: &DataType) -> ArrayRef {
    if !matches!(wanted, DataType::Decimal128(..)) {
        return ArrayRef::clone(column);
    }
    let values = column.as_primitive::<Decimal128Type>();
    let values = values.unary::<_, Decimal128Type>(|value| value.clamp(-DECIMAL_MAX, DECIMAL_MAX));
    Arc::new(values.with_data_type(ColumnType::Decimal.arrow()))
}
