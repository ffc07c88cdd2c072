//! `daybook query`.

use std::io::Read as _;

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use comfy_table::{Cell, CellAlignment};
use futures::{Stream, TryStreamExt as _};
use query::{Access, formats};

use crate::{
    args::{OutputFormat, QueryArgs},
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

/// Rows that are worth aligning: a reader of more wants another format.
const TABLE_ROWS: usize = 10_000;
/// With more columns than this, each row is printed as a block of lines.
const TABLE_COLUMNS: usize = 14;

pub(crate) async fn run(args: &QueryArgs, sources: &Sources) -> Result<()> {
    let mut sql = args.sql.clone();
    if sql == "-" {
        sql.clear();
        std::io::stdin().read_to_string(&mut sql).during("cannot read SQL from standard input")?;
    }
    let lake = parts::lake(&sources.config()?)?;
    let ctx = query::session(&lake, &Access::Operator).await.map_err(fault)?;
    let rows = query::sql(&ctx, &sql).await.map_err(fault)?;
    let format = match args.output.format {
        OutputFormat::Table => {
            let schema = rows.schema();
            let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            let (batches, more) = some_rows(rows.map_err(|error| fault(query::Error::Sql(Box::new(error))))).await?;
            let text = table(&columns, &batches)?;
            output::text(&text)?;
            if more {
                output::note(&format!("… more than {TABLE_ROWS} rows; all of them with --format csv, ndjson or json"));
            }
            return Ok(());
        }
        OutputFormat::Json => formats::Format::Json,
        OutputFormat::Ndjson => formats::Format::Ndjson,
        OutputFormat::Csv => formats::Format::Csv,
    };
    let mut chunks = formats::write(rows, format);
    let mut last = None;
    while let Some(chunk) = chunks.try_next().await.map_err(fault)? {
        last = chunk.last().copied().or(last);
        output::bytes(&chunk)?;
    }
    if last.is_some_and(|last| last != b'\n') { output::text("\n") } else { Ok(()) }
}

/// Takes rows until there are enough for a table. Returns whether there are more.
async fn some_rows(rows: impl Stream<Item = Result<RecordBatch>>) -> Result<(Vec<RecordBatch>, bool)> {
    let mut rows = std::pin::pin!(rows);
    let (mut batches, mut room) = (Vec::new(), TABLE_ROWS);
    while let Some(batch) = rows.try_next().await? {
        if batch.num_rows() > room {
            batches.push(batch.slice(0, room));
            return Ok((batches, true));
        }
        room -= batch.num_rows();
        batches.push(batch);
    }
    Ok((batches, false))
}

fn table(columns: &[String], batches: &[RecordBatch]) -> Result<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for batch in batches {
        let formatters = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<std::result::Result<Vec<_>, _>>()
            .during("cannot print these types; another --format can")?;
        rows.extend(
            (0..batch.num_rows()).map(|row| formatters.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    let count = format!("{} row{}\n", rows.len(), if rows.len() == 1 { "" } else { "s" });
    if columns.len() > TABLE_COLUMNS {
        let width = columns.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            text.push_str(&format!("-- row {} {}\n", number + 1, "-".repeat(width)));
            for (name, value) in columns.iter().zip(row) {
                text.push_str(&format!("{name:width$}  {value}\n"));
            }
        }
        return Ok(text + &count);
    }
    let numeric: Vec<bool> = match batches.first() {
        Some(batch) => batch.schema().fields().iter().map(|field| field.data_type().is_numeric()).collect(),
        None => vec![false; columns.len()],
    };
    let mut table = output::table(columns.iter().cloned());
    for row in rows {
        table.add_row(row.into_iter().zip(&numeric).map(|(value, numeric)| {
            let alignment = if *numeric { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(value).set_alignment(alignment)
        }));
    }
    Ok(format!("{table}\n{count}"))
}

/// A statement that is wrong is the asker's; the rest is ours.
fn fault(error: query::Error) -> Fault {
    match error {
        query::Error::Refused(_) => Fault::usage(error.to_string()),
        query::Error::Sql(source) => Fault::usage(query::sql::message(&source))
            .help("`daybook query \"SHOW TABLES\"` lists the tables, `\"DESCRIBE events\"` the columns of one"),
        query::Error::Budget(_) => {
            Fault::failed("the query takes too much memory").source(error).help("ask for fewer days or columns at once")
        }
        error => Fault::failed("the query failed").source(error),
    }
}
