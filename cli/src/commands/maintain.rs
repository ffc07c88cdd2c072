//! `daybook maintain`.

use schemas::{DEAD_LETTERS, EVENTS, rollup::ROLLUP_DAILY};
use serde_json::{Value, json};

use crate::{
    args::MaintainArgs,
    config::Sources,
    fault::{During as _, Result},
    output, parts,
};

/// Every table of the lake.
pub(crate) static TABLES: [&schemas::TableSpec; 3] = [&EVENTS, &DEAD_LETTERS, &ROLLUP_DAILY];

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
    for spec in TABLES {
        let report = lake.maintain(spec, &config.maintain, args.vacuum).await;
        let report = json!(report.during(format!("cannot maintain table {}", spec.name))?);
        let cell = |name: &&str| if *name == "table" { Value::from(spec.name) } else { report[*name].clone() };
        rows.push(COLUMNS.iter().map(cell).collect());
    }
    output::rows(&COLUMNS, &rows, args.output.format)
}
