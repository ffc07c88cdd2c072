//! The account: what the tables hold before and after, and whether it adds up.

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use futures::TryStreamExt as _;
use ingest::log::Log;
use lake::Lake;
use query::Access;

use super::{history::Past, send::Sent};
use crate::fault::{During as _, Fault, Result};

/// What the tables and the log hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// Records ever appended to the log.
    pub(super) log_records: u64,
    /// Rows in `events`: client retries too.
    pub(super) events: u64,
    /// Distinct (organisation, source, id), counted by SQL over `events`, not by the rollup.
    pub(super) distinct: u64,
    pub(super) dead_letters: u64,
    pub(super) rollup_rows: u64,
    /// Sum of `events_received`.
    pub(super) received: u64,
    /// Sum of `duplicates_removed`.
    pub(super) duplicates_removed: u64,
    /// Every key and measure of the rollup, as text.
    measures: String,
}

impl Tables {
    pub(super) async fn read(lake: &Lake, log: &dyn Log) -> Result<Self> {
        let progress = ingest::worker::progress(lake, log).await.during("cannot read the worker's progress")?;
        let log_records = progress.iter().map(|partition| partition.high_watermark as u64).sum();
        let measures: Vec<&str> = schemas::rollup::measures().iter().map(|measure| measure.name.as_str()).collect();
        let measures = format!(
            "SELECT activity_date, org_id, user_key, product, client_type, events_received, active_minutes, {} \
             FROM rollup_daily ORDER BY 1, 2, 3, 4, 5",
            measures.join(", ")
        );
        let ctx = query::session(lake, &Access::Operator).await.during("cannot open the tables")?;
        let ask = async |sql: &str| -> Result<Vec<RecordBatch>> {
            let rows = query::sql(&ctx, sql).await.during(format!("cannot ask the tables: {sql}"))?;
            rows.try_collect().await.during(format!("cannot ask the tables: {sql}"))
        };
        let number = async |sql: &str| number(&ask(sql).await?);
        Ok(Self {
            log_records,
            events: number("SELECT count(*) FROM events").await?,
            distinct: number("SELECT count(*) FROM (SELECT DISTINCT org_id, source, event_id FROM events)").await?,
            dead_letters: number("SELECT count(*) FROM dead_letters").await?,
            rollup_rows: number("SELECT count(*) FROM rollup_daily").await?,
            received: number("SELECT sum(events_received) FROM rollup_daily").await?,
            duplicates_removed: number("SELECT sum(duplicates_removed) FROM rollup_daily").await?,
            measures: text(&ask(&measures).await?)?,
        })
    }
}

/// The one number of an answer; null is 0.
fn number(batches: &[RecordBatch]) -> Result<u64> {
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(0) };
    let column = cast(batch.column(0), &DataType::Int64).during("a count is no number")?;
    let column = column.as_primitive::<Int64Type>();
    Ok(if column.is_null(0) { 0 } else { column.value(0) as u64 })
}

fn text(batches: &[RecordBatch]) -> Result<String> {
    arrow::util::pretty::pretty_format_batches(batches)
        .map(|text| text.to_string())
        .map_err(|error| Fault::failed("cannot print the rollup").source(error))
}

/// Everything that the demo counted.
pub(super) struct Account {
    pub(super) sent: Sent,
    /// Records written to the log past the collector.
    pub(super) straight: u64,
    pub(super) before: Tables,
    pub(super) after: Tables,
    /// Whether the directory has had these events before.
    pub(super) past: Past,
}

/// One equation, with its two sides.
pub(super) struct Check {
    pub(super) claim: &'static str,
    pub(super) left: u64,
    pub(super) right: u64,
}

impl Check {
    pub(super) fn holds(&self) -> bool {
        self.left == self.right
    }
}

impl Account {
    pub(super) fn new_events(&self) -> u64 {
        self.after.events - self.before.events.min(self.after.events)
    }

    pub(super) fn new_dead_letters(&self) -> u64 {
        self.after.dead_letters - self.before.dead_letters.min(self.after.dead_letters)
    }

    /// Every equation that must hold.
    pub(super) fn checks(&self) -> Vec<Check> {
        let Self { sent, straight, before, after, .. } = self;
        let check = |claim, left, right| Check { claim, left, right };
        let mut checks = vec![
            check("sent = accepted + refused", sent.all(), sent.accepted + sent.refused),
            check("refused = the bad ones, and no others", sent.refused, sent.refused_bad),
            check("every bad one was refused", sent.refused_bad, sent.made.bad),
            check(
                "accepted + written past the collector = new records in the log",
                sent.accepted + straight,
                after.log_records - before.log_records,
            ),
            check(
                "new records in the log = new rows in events + new dead letters",
                after.log_records - before.log_records,
                self.new_events() + self.new_dead_letters(),
            ),
            check("new dead letters = written past the collector", self.new_dead_letters(), *straight),
            check(
                "distinct events = rows in events - duplicates removed by the rollup",
                after.distinct + after.duplicates_removed,
                after.events,
            ),
            check("events counted by the rollup = distinct events", after.received, after.distinct),
        ];
        let new = after.distinct - before.distinct.min(after.distinct);
        match self.past {
            // The generator knows how many of its events are new.
            Past::Never => checks.push(check("new distinct events = events made", new, sent.made.new)),
            Past::Begun => {}
            Past::Done => {
                checks.push(check("the second time adds no distinct event", new, 0));
                let same = u64::from(before.measures == after.measures);
                checks.push(check("the second time leaves every measure as it was", same, 1));
            }
        }
        checks
    }

    pub(super) fn reconciles(&self) -> bool {
        self.checks().iter().all(Check::holds)
    }
}
