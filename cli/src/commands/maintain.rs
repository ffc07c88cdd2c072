//! `daybook maintain`.

use clap::Args;
use schemas::tables;
use serde_json::{Value, json};

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Result},
    output, parts,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook maintain                        merge small files, write log checkpoints
  daybook maintain --vacuum --format json also delete old log entries, replaced files and files of no commit

Safe beside running services: readers find what they read for `maintain.file-retention`, and writers never wait.")]
pub(crate) struct MaintainArgs {
    /// Also clean the log and delete files that no reader and no writer can need any more
    #[arg(long)]
    pub(crate) vacuum: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

const COLUMNS: [&str; 8] = [
    "table",
    "files_merged",
    "files_written",
    "files_active",
    "conflicts",
    "checkpoint",
    "entries_deleted",
    "files_deleted",
];

pub(crate) async fn run(args: &MaintainArgs, sources: &Sources) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    let mut rows = Vec::new();
    for spec in tables::all() {
        let report = lake.maintain(spec, &config.maintain, args.vacuum).await;
        let report = json!(report.during(format!("cannot maintain table {}", spec.name))?);
        let cell = |name: &&str| if *name == "table" { Value::from(spec.name) } else { report[*name].clone() };
        rows.push(COLUMNS.iter().map(cell).collect());
    }
    output::rows(&COLUMNS, &rows, args.output.format)
}
