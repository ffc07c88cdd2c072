//! `daybook query`: of the lake itself, or of a query service.

mod remote;

use std::io::Read as _;

use arrow::{
    array::RecordBatch,
    datatypes::Schema,
    util::display::{ArrayFormatter, FormatOptions},
};
use bytes::Bytes;
use comfy_table::{Cell, CellAlignment};
use futures::{Stream, TryStreamExt as _};
use query::{Access, formats};

use crate::{
    args::{OutputFormat, QueryArgs},
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

/// Where names are to be found.
const LISTS: &str = "`daybook query \"SHOW TABLES\"` lists the tables, `\"DESCRIBE events\"` the columns of one";
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
    let format = match args.output.format {
        OutputFormat::Table => None,
        OutputFormat::Json => Some(formats::Format::Json),
        OutputFormat::Ndjson => Some(formats::Format::Ndjson),
        OutputFormat::Csv => Some(formats::Format::Csv),
    };
    if let Some(url) = &args.url {
        let key = args.key.as_deref().ok_or_else(|| {
            Fault::usage("a query service takes a read key").help("give it with --key, or better in DAYBOOK_KEY")
        })?;
        return match format {
            Some(format) => remote::print(url, key, &sql, format).await,
            None => remote::take(url, key, &sql).await.and_then(|(schema, taken)| show(&schema, &taken)),
        };
    }
    let lake = parts::lake(&sources.config()?)?;
    let ctx = query::session(&lake, &Access::Operator).await.map_err(fault)?;
    let rows = query::sql(&ctx, &sql).await.map_err(fault)?;
    let Some(format) = format else {
        let schema = rows.schema();
        let taken = some_rows(rows.map_err(|error| fault(query::Error::Sql(Box::new(error))))).await?;
        return show(&schema, &taken);
    };
    let mut chunks = formats::write(rows, format);
    print(async || chunks.try_next().await.map_err(fault)).await
}

/// Prints what comes, chunk by chunk, and ends the last line.
async fn print(mut next: impl AsyncFnMut() -> Result<Option<Bytes>>) -> Result<()> {
    let mut last = None;
    while let Some(chunk) = next().await? {
        last = chunk.last().copied().or(last);
        output::bytes(&chunk)?;
    }
    if last.is_some_and(|last| last != b'\n') { output::text("\n") } else { Ok(()) }
}

/// Rows for a table.
#[derive(Default)]
struct Taken {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// There are more.
    more: bool,
}

impl Taken {
    /// Takes rows; false where there are enough.
    fn push(&mut self, batch: &RecordBatch) -> bool {
        let room = TABLE_ROWS - self.rows;
        self.more = batch.num_rows() > room;
        let batch = batch.slice(0, room.min(batch.num_rows()));
        self.rows += batch.num_rows();
        self.batches.push(batch);
        !self.more
    }
}

/// Takes rows until there are enough for a table.
async fn some_rows(rows: impl Stream<Item = Result<RecordBatch>>) -> Result<Taken> {
    let mut rows = std::pin::pin!(rows);
    let mut taken = Taken::default();
    while let Some(batch) = rows.try_next().await? {
        if !taken.push(&batch) {
            break;
        }
    }
    Ok(taken)
}

fn show(schema: &Schema, taken: &Taken) -> Result<()> {
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    output::text(&table(&columns, &taken.batches)?)?;
    if taken.more {
        output::note(&format!("… more than {TABLE_ROWS} rows; all of them with --format csv, ndjson or json"));
    }
    Ok(())
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
        query::Error::Sql(source) => Fault::usage(query::sql::message(&source)).help(LISTS),
        query::Error::Budget(_) => {
            Fault::failed("the query takes too much memory").source(error).help("ask for fewer days or columns at once")
        }
        error => Fault::failed("the query failed").source(error),
    }
}
