//! `daybook team`: who belongs to which team, as an organisation's admin says.
//!
//! The table is replaced as far as the organisation is concerned, in one commit: the file is the membership, with its history.

mod file;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, pin::pin, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, Date32Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Date32Type},
    error::ArrowError,
};
use clap::{Args, Subcommand};
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::{Change, CommitError, Lake};
use schemas::{OrgId, TEAM_MEMBERS, epoch_date, epoch_days};
use serde_json::{Value, json};

use crate::{
    args::Output,
    config::{Config, Sources},
    fault::{During as _, Fault, Result},
    output, parts,
};

/// Times that an import starts again because another one was faster.
const ATTEMPTS_MAX: usize = 8;
const COLUMNS: [&str; 4] = ["team_id", "user_key", "valid_from", "valid_to"];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook team import members.csv --org acme
  daybook team import members.csv --org acme --dry-run
  daybook team list --org acme --format csv > members.csv

The file is CSV with a header: team_id, user_key and, where you know them, valid_from (first day of
the membership) and valid_to (first day after it, empty while it lasts), as YYYY-MM-DD. It takes the
place of all that was imported for the organisation before: put in former members, too, or
team_daily forgets them. A person may be in several teams. user_key is the key that the person's
events have as their subject.")]
pub(crate) struct TeamArgs {
    #[command(subcommand)]
    pub(crate) command: TeamCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TeamCommand {
    /// Replace an organisation's members of teams by those in a file, or change nothing
    Import {
        /// CSV file; `-` reads standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: OrgId,
        /// Only check the file and count
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List an organisation's members of teams, former ones too
    List {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: OrgId,
        #[command(flatten)]
        output: Output,
    },
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    org: String,
    team: String,
    user: String,
    from: Date,
    to: Option<Date>,
}

pub(crate) async fn run(args: &TeamArgs, sources: &Sources) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    match &args.command {
        TeamCommand::Import { file, org, dry_run, output } => {
            known(&config, org).await?;
            let members = file::read(file, org)?;
            let done = replace(&lake, org, &members, *dry_run).await?;
            let names = ["members", "added", "removed"];
            output::rows(&names, &[vec![json!(members.len()), json!(done.added), json!(done.removed)]], output.format)?;
            if *dry_run {
                output::note("a dry run: nothing was written");
            }
            Ok(())
        }
        TeamCommand::List { org, output } => {
            known(&config, org).await?;
            let members = table(&lake).await?.map_or_else(Vec::new, |(_, members)| members);
            let row = |member: &Member| -> Vec<Value> {
                vec![
                    json!(member.team),
                    json!(member.user),
                    json!(member.from.to_string()),
                    json!(member.to.map(|date| date.to_string())),
                ]
            };
            let rows: Vec<_> = members.iter().filter(|member| member.org == org.as_str()).map(row).collect();
            output::rows(&COLUMNS, &rows, output.format)
        }
    }
}

/// # Errors
/// Where there is no such organisation: a typing error must not pass for one without teams.
async fn known(config: &Config, org: &OrgId) -> Result<()> {
    let orgs = parts::directory(config).await?.orgs().await.during("cannot list the organisations")?;
    if orgs.iter().any(|known| known.id == *org) {
        return Ok(());
    }
    Err(Fault::usage(format!("there is no organisation `{org}`")).help("`daybook org list` shows the organisations"))
}

/// How an import changed the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    added: usize,
    removed: usize,
}

/// Makes `members` (sorted) the membership of an organisation. Writes nothing where they are that already.
async fn replace(lake: &Lake, org: &OrgId, members: &[Member], dry_run: bool) -> Result<Done> {
    for _ in 0..ATTEMPTS_MAX {
        let (snapshot, before) = match table(lake).await? {
            Some((snapshot, before)) => (Some(snapshot), before),
            None => (None, Vec::new()),
        };
        let (own, mut all): (Vec<Member>, Vec<Member>) =
            before.into_iter().partition(|member| member.org == org.as_str());
        let missing =
            |from: &[Member], of: &[Member]| from.iter().filter(|member| of.binary_search(member).is_err()).count();
        let done = Done { added: missing(members, &own), removed: missing(&own, members) };
        if dry_run || done == Done::default() {
            return Ok(done);
        }
        all.extend_from_slice(members);
        all.sort();
        let table = lake.table(&TEAM_MEMBERS);
        let mut head = match &snapshot {
            Some(snapshot) => snapshot.head(),
            None => table.create_if_missing().await.during(WRITING)?,
        };
        // Of a table without rows nothing is removed, and so nothing else would tell that another import was faster.
        let only_after = Some(head.version());
        let mut change = Change { operation: "WRITE", data_change: true, only_after, ..Change::default() };
        change.remove = snapshot.map(|snapshot| snapshot.files).unwrap_or_default();
        if !all.is_empty() {
            change.add.push(table.write_file(None, &[batch(&all)]).await.during(WRITING)?);
        }
        match table.commit(&mut head, change).await {
            Ok(_) => return Ok(done),
            Err(CommitError::Conflict { .. } | CommitError::Moved { .. }) => {}
            Err(error) => return Err(Fault::failed(WRITING).source(error)),
        }
    }
    Err(Fault::failed("other imports were faster every time").help("nothing was written; try again when they are done"))
}

const WRITING: &str = "cannot write table team_members";

/// The newest version of the table and its rows, sorted; `None` where there is none.
async fn table(lake: &Lake) -> Result<Option<(lake::Snapshot, Vec<Member>)>> {
    const READING: &str = "cannot read table team_members";
    let table = lake.table(&TEAM_MEMBERS);
    let snapshot = match table.snapshot().await {
        Err(lake::Error::Missing { .. }) => return Ok(None),
        snapshot => snapshot.during(READING)?,
    };
    let schema = TEAM_MEMBERS.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut batches = pin!(table.read_newest(snapshot.files.clone(), &names));
    let mut members = Vec::new();
    while let Some(batch) = batches.try_next().await.during(READING)? {
        members.extend(rows(&batch).during(READING)?);
    }
    members.sort();
    Ok(Some((snapshot, members)))
}

fn rows(batch: &RecordBatch) -> Result<Vec<Member>, ArrowError> {
    let text = |name: &str| cast(&batch[name], &DataType::Utf8);
    let (org, team, user) = (text("org_id")?, text("team_id")?, text("user_key")?);
    let [org, team, user] = [&org, &team, &user].map(|column| column.as_string::<i32>());
    let [from, to] = ["valid_from", "valid_to"].map(|name| batch[name].as_primitive::<Date32Type>());
    let date = |days: i32| epoch_date(days).ok_or_else(|| ArrowError::CastError(format!("day {days} is no date")));
    let member = |row: usize| {
        Ok(Member {
            org: org.value(row).to_owned(),
            team: team.value(row).to_owned(),
            user: user.value(row).to_owned(),
            from: date(from.value(row))?,
            to: to.is_valid(row).then(|| date(to.value(row))).transpose()?,
        })
    };
    (0..batch.num_rows()).map(member).collect()
}

/// When a membership began of which nobody knows since when: before any activity.
const EPOCH: Date = jiff::civil::date(1970, 1, 1);

fn batch(members: &[Member]) -> RecordBatch {
    let text = |of: fn(&Member) -> &str| -> ArrayRef {
        Arc::new(members.iter().map(|member| Some(of(member))).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(|member| &member.org),
        text(|member| &member.team),
        text(|member| &member.user),
        Arc::new(members.iter().map(|member| Some(epoch_days(member.from))).collect::<Date32Array>()),
        Arc::new(members.iter().map(|member| member.to.map(epoch_days)).collect::<Date32Array>()),
    ];
    RecordBatch::try_new(TEAM_MEMBERS.schema(), columns).expect("columns of the schema")
}
