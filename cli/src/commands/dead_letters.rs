//! `daybook dead-letters`.

use std::sync::Arc;

use clap::{Args, Subcommand};
use ingest::dead_letters::{self, Filter, Letter, Producers};
use jiff::Timestamp;
use schemas::event::Cause;
use serde_json::{Map, Value, json};

use crate::{
    args::{Output, OutputFormat},
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts, registry,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook dead-letters list --cause not_json --since 2026-03-01T00:00:00Z
  daybook dead-letters show 3/10482
  daybook dead-letters replay --cause out_of_range --dry-run
  daybook dead-letters replay --cause no_organisation --as-org acme

A replay decodes each letter again and appends those that are events now to the log, as they came. What stands in `events`
already is not sent again, so it may be repeated. Dead letters are never deleted: events + dead letters = records of the log.
With the embedded log, stop the service first: one process at a time can have it.")]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, by partition and offset
    List {
        #[command(flatten)]
        filter: DeadLetterFilter,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Show one, with headers and raw value
    Show {
        /// Partition and offset, as `list` shows them
        #[arg(value_name = "PARTITION/OFFSET")]
        letter: String,
        #[command(flatten)]
        output: Output,
    },
    /// Send those that are events now to the log again
    Replay {
        #[command(flatten)]
        filter: DeadLetterFilter,
        /// The organisation of letters whose record names none
        #[arg(long = "as-org", value_name = "ORG")]
        org: Option<schemas::OrgId>,
        /// Only count
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetterFilter {
    /// Only of this cause, e.g. not_json
    #[arg(long, value_name = "CAUSE")]
    pub(crate) cause: Option<String>,
    /// Only of this organisation
    #[arg(long, value_name = "ORG")]
    pub(crate) org: Option<schemas::OrgId>,
    /// Only those recorded at this time or later, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<jiff::Timestamp>,
    /// Only this one
    #[arg(long, value_name = "PARTITION/OFFSET")]
    pub(crate) letter: Option<String>,
}

const COLUMNS: [&str; 8] = ["letter", "recorded", "org", "cause", "field", "detail", "bytes", "topic"];

pub(crate) async fn run(args: &DeadLettersArgs, sources: &Sources) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    match &args.command {
        DeadLettersCommand::List { filter, limit, output } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            // One more than is shown tells whether there are more.
            let mut letters = dead_letters::list(&lake, &wanted(filter)?, Some(limit + 1)).await.during(READ)?;
            let more = letters.len() > limit;
            letters.truncate(limit);
            let rows: Vec<Vec<Value>> =
                letters.iter().map(|letter| COLUMNS.map(|name| cell(letter, name)).to_vec()).collect();
            output::rows(&COLUMNS, &rows, output.format)?;
            if more {
                output::note(&format!("… and more than these {limit}; --limit N shows more"));
            }
            Ok(())
        }
        DeadLettersCommand::Show { letter, output } => {
            let filter = Filter { place: Some(place(letter)?), ..Filter::default() };
            let letters = dead_letters::list(&lake, &filter, None).await.during(READ)?;
            if letters.is_empty() {
                let fault = Fault::failed(format!("there is no dead letter {letter}"));
                return Err(fault.help("`daybook dead-letters list` shows them"));
            }
            letters.iter().try_for_each(|letter| show(letter, output.format))
        }
        DeadLettersCommand::Replay { filter, org, dry_run, output } => {
            let log = parts::log(&config).await?;
            let directory = parts::directory(&config).await?;
            let schemas = registry::schemas(&config)?;
            let producers =
                Producers { settings: &config.log.producers, directory: &directory, schemas: Some(Arc::new(schemas)) };
            let filter = wanted(filter)?;
            let done = dead_letters::replay(&lake, log.as_ref(), &producers, &filter, org.as_ref(), *dry_run).await;
            let done = done.during("the replay ended early; the same command goes on where it ended")?;
            let names = ["letters", "refused", "cut", "present", "replayed"];
            let fields = json!(done);
            output::rows(&names, &[names.map(|name| fields[name].clone()).to_vec()], output.format)?;
            if *dry_run {
                output::note("a dry run: nothing was sent");
            }
            Ok(())
        }
    }
}

const READ: &str = "cannot read the dead letters";

fn wanted(filter: &DeadLetterFilter) -> Result<Filter> {
    let cause = filter.cause.as_ref().map(|name| {
        Cause::ALL.into_iter().find(|cause| cause.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
            Fault::usage(format!("`{name}` is no cause")).help(format!("--cause takes one of {}", known.join(", ")))
        })
    });
    let place = filter.letter.as_ref().map(|letter| place(letter)).transpose()?;
    Ok(Filter { cause: cause.transpose()?, org: filter.org.clone(), since: filter.since, place })
}

/// Reads `PARTITION/OFFSET`.
fn place(letter: &str) -> Result<(i32, i64)> {
    let parsed =
        letter.split_once('/').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| {
        Fault::usage(format!("`{letter}` names no dead letter")).help("it takes PARTITION/OFFSET, as `list` shows it")
    })
}

fn time(us: i64) -> Value {
    Timestamp::from_microsecond(us).map_or(Value::Null, |time| json!(time.to_string()))
}

fn cell(letter: &Letter, name: &str) -> Value {
    let Letter { record, .. } = letter;
    match name {
        "letter" => json!(format!("{}/{}", record.kafka_partition, record.offset)),
        "recorded" => time(letter.recorded_us),
        // Whoever could not sign does not speak for the organisation that they name.
        "org" if letter.cause == Cause::Signature.as_str() => Value::Null,
        "org" => json!(record.header(ingest::headers::ORG).map(|org| String::from_utf8_lossy(org))),
        "cause" => json!(letter.cause),
        "field" => json!(letter.field),
        "detail" => json!(letter.detail),
        "bytes" => json!(letter.value_bytes),
        _ => json!(letter.topic),
    }
}

/// Everything that is known of a letter. What is no text is shown in escapes; NDJSON and JSON have it so too.
fn show(letter: &Letter, format: OutputFormat) -> Result<()> {
    let shown = |bytes: &Option<bytes::Bytes>| {
        bytes.as_ref().map_or(Value::Null, |bytes| {
            json!(str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned))
        })
    };
    let headers: Map<String, Value> = letter
        .record
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value))))
        .collect();
    let mut fields: Vec<(&str, Value)> = COLUMNS.iter().map(|name| (*name, cell(letter, name))).collect();
    fields.push(("headers", Value::Object(headers)));
    fields.push(("key", shown(&letter.record.key)));
    fields.push(("value", shown(&letter.record.value)));
    if format == OutputFormat::Table {
        let line = |(name, value): &(&str, Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name:8}  {}\n", if value.is_null() { "none" } else { &text })
        };
        return output::text(&fields.iter().map(line).collect::<String>());
    }
    let (names, values): (Vec<&str>, Vec<Value>) = fields.into_iter().unzip();
    output::rows(&names, &[values], format)
}
