//! `daybook team`: who belongs to which team, as an organisation's admin says.
//!
//! The table is replaced as far as the organisation is concerned, in one commit: the file is the membership, with its history.

mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use directory::Directory;
use schemas::OrgId;
use serde_json::{Value, json};

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
    teams::{Member, replace, table},
};

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
events have as their subject. Where an identity provider pushes groups by SCIM, teams are those groups,
and an import is refused.")]
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

pub(crate) async fn run(args: &TeamArgs, sources: &Sources) -> Result<()> {
    let config = sources.config()?;
    let lake = parts::lake(&config)?;
    let directory = parts::directory(&config).await?;
    match &args.command {
        TeamCommand::Import { file, org, dry_run, output } => {
            known(&directory, org).await?;
            by_import(&directory, org).await?;
            let members = &file::read(file, org)?;
            let directory = &directory;
            // Again: the first group may have come meanwhile.
            let read = || async move { by_import(directory, org).await.map(|()| members.clone()) };
            let done = replace(&lake, org, read, *dry_run).await?;
            let names = ["members", "added", "removed"];
            output::rows(&names, &[vec![json!(members.len()), json!(done.added), json!(done.removed)]], output.format)?;
            if *dry_run {
                output::note("a dry run: nothing was written");
            }
            Ok(())
        }
        TeamCommand::List { org, output } => {
            known(&directory, org).await?;
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
async fn known(directory: &Directory, org: &OrgId) -> Result<()> {
    let orgs = directory.orgs().await.during("cannot list the organisations")?;
    if orgs.iter().any(|known| known.id == *org) {
        return Ok(());
    }
    Err(Fault::usage(format!("there is no organisation `{org}`")).help("`daybook org list` shows the organisations"))
}

/// # Errors
/// Where the organisation's teams come by SCIM: what is imported would be replaced within seconds.
async fn by_import(directory: &Directory, org: &OrgId) -> Result<()> {
    let orgs = directory.scim_orgs().await.during("cannot list the organisations")?;
    if orgs.iter().all(|(by_scim, _)| by_scim != org) {
        return Ok(());
    }
    let fault = Fault::refused(format!("the teams of `{org}` come from its identity provider, by SCIM"));
    Err(fault.help("change the groups there; `daybook team list` shows them"))
}
