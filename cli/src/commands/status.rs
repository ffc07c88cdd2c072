//! `daybook status`.

use std::sync::Arc;

use clap::Args;
use ingest::{log::Log, worker::progress};
use schemas::{EVENTS, rollup::ROLLUP_DAILY, tables};
use serde_json::{Value, json};

use crate::{
    args::Output,
    config::{Config, Sources},
    fault::{During as _, Result},
    output, parts,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook status
  daybook status --format json

For a table, `at` is its version; for rollup_daily, the version of events that it stands for,
and `end` the newest.
For a partition of the log, `at` is the first offset that is in no table yet, `end` the offset
that the next record will get, and `lost` how many offsets the log no longer had when a worker
came to them: to retention, or to a broker that was truncated.
While a service runs on the embedded log, the log belongs to it and is left out here;
/metrics tells of it.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) output: Output,
}

const COLUMNS: [&str; 8] = ["part", "at", "end", "behind", "files", "rows", "bytes", "lost"];

/// One line for each table and each partition of the log.
pub(crate) async fn run(args: &StatusArgs, sources: &Sources) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for spec in tables::all() {
        let table = lake.table(spec);
        let reading = || format!("cannot read table {}", spec.name);
        if table.head().await.during(reading())?.is_none() {
            rows.push(std::iter::once(json!(spec.name)).chain(COLUMNS[1..].iter().map(|_| Value::Null)).collect());
            continue;
        }
        let snapshot = table.snapshot().await.during(reading())?;
        let (mut at, mut end) = (Some(snapshot.version), Some(snapshot.version));
        if spec.name == ROLLUP_DAILY.name {
            let rollup = aggregate::status(&lake).await.during(reading())?;
            (at, end) = (rollup.rolled_up_version, rollup.events_version);
        }
        let behind = at.zip(end).map(|(at, end)| end - at);
        let sum = |of: fn(&lake::DataFile) -> u64| snapshot.files.iter().map(of).sum::<u64>();
        let (records, bytes) = (sum(|file| file.rows), sum(|file| file.size_bytes));
        rows.push(vec![
            json!(spec.name),
            json!(at),
            json!(end),
            json!(behind),
            json!(snapshot.files.len()),
            json!(records),
            json!(bytes),
            Value::Null,
        ]);
    }
    if let Some(log) = log(&config).await {
        let partitions =
            progress(&lake, log.as_ref()).await.during(format!("cannot compare {} with the log", EVENTS.name))?;
        rows.extend(partitions.iter().map(|at| {
            let behind = at.high_watermark - at.next_offset;
            let part = format!("log partition {}", at.kafka_partition);
            vec![
                json!(part),
                json!(at.next_offset),
                json!(at.high_watermark),
                json!(behind),
                Value::Null,
                Value::Null,
                Value::Null,
                json!(at.lost),
            ]
        }));
    }
    output::rows(&COLUMNS, &rows, args.output.format)
}

/// The log, where it can be looked at: the embedded one belongs to a running service alone.
async fn log(config: &Config) -> Option<Arc<dyn Log>> {
    match parts::log(config).await {
        Ok(log) => Some(log),
        Err(fault) => {
            let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}")).unwrap_or_default();
            output::note(&format!("the log is left out, {fault}{cause}"));
            None
        }
    }
}
