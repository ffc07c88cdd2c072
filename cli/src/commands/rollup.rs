//! `daybook rollup`.

use aggregate::{OrgCalendar, Progress, Rebuild, RunReport};
use indicatif::ProgressBar;
use jiff::{Timestamp, civil::Date};
use serde_json::{Map, Value, json};

use crate::{
    args::{OutputFormat, RollupArgs, RollupCommand},
    config::{Config, Sources},
    fault::{During as _, Fault, Result},
    output, parts,
};

pub(crate) async fn run(args: &RollupArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    match &args.command {
        RollupCommand::Run(output) => {
            let calendar = calendar(&config).await?;
            let report = timed(async |bar| aggregate::run(&lake, &calendar, now, bar).await).await?;
            print(fields(&report)?, output.format)
        }
        RollupCommand::Rebuild(args) => {
            if args.from.zip(args.to).is_some_and(|(from, to)| from > to) {
                return Err(Fault::usage("--from is later than --to").help("give the earlier day first"));
            }
            let directory = parts::directory(&config).await?;
            if let Some(org) = &args.org
                && !directory.orgs().await.during("cannot list the organisations")?.iter().any(|known| known.id == *org)
            {
                let fault = Fault::usage(format!("there is no organisation `{org}`"));
                return Err(fault.help("`daybook org list` shows the organisations"));
            }
            let calendar = parts::calendar(&directory).await?;
            let rebuild = Rebuild { from: args.from, to: args.to, org: args.org.clone(), dry_run: args.dry_run };
            let report = timed(async |bar| aggregate::rebuild(&lake, &calendar, now, bar, &rebuild).await).await?;
            print(fields(&report)?, args.output.format)
        }
        RollupCommand::Verify(output) => {
            let calendar = calendar(&config).await?;
            let report = timed(async |bar| aggregate::verify(&lake, &calendar, now, bar).await).await?;
            print(fields(&report)?, output.format)?;
            let differ = report.rows_added + report.rows_changed + report.rows_removed;
            let (days, parts, derived) = (report.days_changed, report.breakdowns_changed, report.derived_changed);
            if differ + parts + derived == 0 {
                return Ok(());
            }
            let what = format!(
                "{differ} rows of {days} days, {parts} dates of breakdowns and {derived} dates of derived tables differ \
                 from what the events say"
            );
            Err(Fault::refused(what)
                .help("`daybook rollup rebuild` mends them; keep the table's log, it tells who wrote what"))
        }
        RollupCommand::Status(output) => {
            let status = aggregate::status(&lake).await.during("cannot read the tables")?;
            let mut fields = fields(&status)?;
            fields.insert("current".to_owned(), json!(status.is_current()));
            print(fields, output.format)
        }
    }
}

async fn calendar(config: &Config) -> Result<OrgCalendar> {
    parts::calendar(&parts::directory(config).await?).await
}

/// Runs with a bar and a watch.
async fn timed(work: impl AsyncFnOnce(&Bar) -> aggregate::Result<RunReport>) -> Result<RunReport> {
    let bar = Bar(output::bar(0, "days", true));
    let started = std::time::Instant::now();
    let report = work(&bar).await.during("the rollup failed")?;
    bar.0.finish_and_clear();
    Ok(RunReport { elapsed: Some(started.elapsed()), ..report })
}

fn fields(of: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(of).during("cannot print the outcome")? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// One line for each field in a table; one object in the other formats.
fn print(fields: Map<String, Value>, format: OutputFormat) -> Result<()> {
    if format == OutputFormat::Table {
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        let line = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name:width$}  {}\n", if value == "null" { "none" } else { &value })
        };
        return output::text(&fields.iter().map(line).collect::<String>());
    }
    let columns: Vec<&str> = fields.keys().map(String::as_str).collect();
    output::rows(&columns, &[fields.values().cloned().collect()], format)
}

/// The rollup's progress as a bar.
pub(crate) struct Bar(pub(crate) ProgressBar);

impl Progress for Bar {
    fn planned(&self, days: u64) {
        self.0.set_length(days);
        self.0.set_position(0);
    }

    fn day(&self, _: Date, _: bool) {
        self.0.inc(1);
    }
}
