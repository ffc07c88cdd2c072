//! What a command prints: results to standard output, progress and remarks to standard error.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use crate::{
    args::OutputFormat,
    fault::{Fault, Result},
};

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::failed("cannot write to standard output").source(error))
        }
        _ => Ok(()),
    }
}

/// Writes text to standard output.
pub(crate) fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// A remark to standard error. Nobody may be reading there; that is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A progress bar on standard error; invisible where that is no terminal, or where it is not `wanted`.
pub(crate) fn bar(length: u64, what: &'static str, wanted: bool) -> ProgressBar {
    progress(Some(length), what, wanted, "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta}")
}

/// The same, in bytes.
pub(crate) fn bytes_bar(length: Option<u64>, what: &'static str) -> ProgressBar {
    let style = match length {
        Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    progress(length, what, true, style)
}

fn progress(length: Option<u64>, what: &'static str, wanted: bool, style: &str) -> ProgressBar {
    let seen = wanted && std::io::stderr().is_terminal();
    let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(style).expect("the templates are ours and valid");
    ProgressBar::with_draw_target(length, target).with_style(style).with_message(what)
}

/// An empty table in our style.
pub(crate) fn table(columns: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.into_iter().collect::<Vec<_>>());
    table
}

/// Prints a short list. Each row has a value for each column.
pub(crate) fn rows(columns: &[&str], rows: &[Vec<Value>], format: OutputFormat) -> Result<()> {
    let plain = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let object = |row: &Vec<Value>| -> Value {
        columns.iter().map(|name| (*name).to_owned()).zip(row.iter().cloned()).collect::<Map<_, _>>().into()
    };
    let line = |cells: Vec<String>| cells.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(",") + "\r\n";
    text(&match format {
        OutputFormat::Table => {
            let mut table = table(columns.iter().map(|name| (*name).to_owned()));
            table.add_rows(rows.iter().map(|row| row.iter().map(plain).collect::<Vec<_>>()));
            format!("{table}\n")
        }
        OutputFormat::Json => format!("{:#}\n", Value::from(rows.iter().map(object).collect::<Vec<_>>())),
        OutputFormat::Ndjson => rows.iter().map(|row| format!("{}\n", object(row))).collect(),
        OutputFormat::Csv => {
            let header = line(columns.iter().map(|name| (*name).to_owned()).collect());
            rows.iter().fold(header, |text, row| text + &line(row.iter().map(plain).collect()))
        }
    })
}

/// RFC 4180.
fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}
