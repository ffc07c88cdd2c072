//! `daybook opt-in`.

use clap::{Args, Subcommand};
use directory::OptIn;
use jiff::Timestamp;
use schemas::OrgId;
use serde_json::json;

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook opt-in set acme pseudonymous --reason \"agreement with the works council of 2026-03-01\"
  daybook opt-in show acme

Levels:
  off            nothing is collected, and nothing of what was is shown (where every organisation begins)
  team-only      events are collected; teams and the whole are shown, people only to themselves
  pseudonymous   events are collected; people are shown under pseudonyms, by name only to themselves
  named          events are collected; people are shown by name to those whose role allows it")]
pub(crate) struct OptInArgs {
    #[command(subcommand)]
    pub(crate) command: OptInCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OptInCommand {
    /// Switch what is collected and shown about an organisation's people; on record, running services follow within seconds
    Set {
        /// The organisation
        #[arg(value_name = "ORG")]
        org: OrgId,
        /// off, team-only, pseudonymous or named
        #[arg(value_name = "LEVEL")]
        level: OptIn,
        /// Why, for the record: every member of the organisation can read it
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show every switch: when, to what, by whom and why
    Show {
        /// The organisation
        #[arg(value_name = "ORG")]
        org: OrgId,
        #[command(flatten)]
        output: Output,
    },
}

pub(crate) async fn run(args: &OptInArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        OptInCommand::Set { org, level, reason } => {
            let switched = directory.set_opt_in(org, *level, reason, now).await.map_err(|error| {
                let fault = Fault::failed(format!("cannot switch the opt-in of `{org}`")).source(error);
                fault.help("nothing was changed; `daybook org list` shows the organisations")
            })?;
            let (already, meaning) = (if switched { "" } else { " already" }, level.meaning());
            output::text(&format!("organisation {org} is{already} at {level}: {meaning}\n"))
        }
        OptInCommand::Show { org, output: show } => {
            let reading = || format!("cannot read the opt-in of `{org}`");
            let known = directory.orgs().await.during(reading())?;
            if !known.iter().any(|known| known.id == *org) {
                let fault = Fault::usage(format!("there is no organisation `{org}`"));
                return Err(fault.help("`daybook org list` shows the organisations"));
            }
            let changes = directory.opt_in_changes(org).await.during(reading())?;
            if changes.is_empty() {
                output::note(&format!("organisation {org} never opted in: {}", OptIn::Off.meaning()));
            }
            let rows: Vec<_> = changes
                .iter()
                .map(|change| {
                    let at = change.at.to_string();
                    vec![json!(at), json!(change.level.as_str()), json!(change.actor), json!(change.reason)]
                })
                .collect();
            output::rows(&["at", "level", "actor", "reason"], &rows, show.format)
        }
    }
}
