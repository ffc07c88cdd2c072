//! `daybook rollup`.

use aggregate::Progress;
use indicatif::ProgressBar;
use jiff::{Timestamp, civil::Date};
use serde_json::{Map, Value, json};

use crate::{
    args::{OutputFormat, RollupArgs, RollupCommand},
    config::Sources,
    fault::{During as _, Result},
    output, parts,
};

pub(crate) async fn run(args: &RollupArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    match &args.command {
        RollupCommand::Run(output) => {
            let calendar = parts::calendar(&parts::directory(&config).await?).await?;
            let bar = Bar(output::bar(0, "days", true));
            let started = std::time::Instant::now();
            let mut report = aggregate::run(&lake, &calendar, now, &bar).await.during("the rollup failed")?;
            bar.0.finish_and_clear();
            report.elapsed = Some(started.elapsed());
            let mut fields = fields(&report)?;
            fields.insert("seconds".to_owned(), json!((started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0));
            print(fields, output.format)
        }
        RollupCommand::Status(output) => {
            let status = aggregate::status(&lake).await.during("cannot read the tables")?;
            let mut fields = fields(&status)?;
            fields.insert("current".to_owned(), json!(status.is_current()));
            print(fields, output.format)
        }
    }
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
